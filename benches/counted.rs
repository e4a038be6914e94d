//! What can be counted instead of timed: memory, system calls, instructions. These drift only if the code does.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Bench;
use crate::lab::{self, Failure};
use crate::report::{self, Goal, Section, whole};
use crate::rules::{CONNECTIONS, SIZES};
use crate::stats::Summary;
use crate::timed;
use crate::variants::Variant;

pub(crate) fn memory(bench: &Bench) -> Result<Section, Failure> {
    let rounds = bench.scaled(41, 11);
    let of = |mode: &str, variant: &Variant| -> Result<[f64; 3], Failure> {
        let mut runs: [Vec<f64>; 3] = Default::default();
        for _ in 0..rounds {
            let mut command = lab::plain(bench.workload("memory"));
            let printed = lab::run(variant.apply(command.arg(mode)))?;
            for (values, number) in runs.iter_mut().zip(printed.split_whitespace()) {
                values.push(number.parse()?);
            }
        }
        Ok(runs.map(|values| Summary::of(values).median))
    };
    let variants = &bench.variants;
    let mut rows = Vec::new();
    let kib = |limit: f64| Goal::AtMost(limit, format!("< {limit} KiB"));
    let mut plan = vec![("idle", variants.empty.clone(), Goal::None)];
    plan.extend(variants.unconfigured().into_iter().map(|ours| ("idle", ours, kib(200.0))));
    plan.extend(variants.by_variable().into_iter().map(|ours| ("idle", ours, kib(200.0))));
    plan.extend(variants.unmatched(100)?.into_iter().map(|ours| ("idle", ours, Goal::None)));
    plan.extend(variants.unmatched(100)?.into_iter().map(|ours| ("connect", ours, kib(600.0))));
    plan.extend(variants.unmatched(10_000)?.into_iter().map(|ours| ("connect", ours, Goal::None)));
    plan.extend(variants.neighbours().into_iter().map(|neighbour| ("idle", neighbour, Goal::None)));
    let bare = [("idle", of("idle", &Variant::none())?), ("connect", of("connect", &Variant::none())?)];
    for (mode, variant, goal) in plan {
        let without = if mode == "idle" { bare[0].1 } else { bare[1].1 };
        let with = of(mode, &variant)?;
        let [rss, pss, dirty] = [0, 1, 2].map(|index| with[index] - without[index]);
        let situation = if mode == "idle" { "without a socket" } else { "after a connection" };
        let mut cells = vec![situation.to_owned(), variant.label];
        cells.extend([rss, pss, dirty].map(|added| format!("{} KiB", report::added(added))));
        cells.extend(goal.cells(&Summary::exact(rss), None));
        rows.push(cells);
    }
    Ok(Section {
        name: "memory",
        title: "Memory added to a process",
        method: "/proc/self/smaps_rollup, less that of the same process without a preload. Rss counts pages of the library's \
                 file that all processes share; what a process has for itself is in the last of the three."
            .to_owned(),
        columns: vec!["process", "variant", "Rss", "Pss", "private, written", "goal (Rss)", "outcome"],
        rows,
        notes: variants.missing().into_iter().collect(),
    })
}

type Counts = BTreeMap<String, f64>;

/// What one operation more costs: a long run less a short one.
fn difference(short: &Counts, long: &Counts, operations: f64) -> Counts {
    let names = long.keys().chain(short.keys());
    let of = |counts: &Counts, name: &str| counts.get(name).copied().unwrap_or(0.0);
    names.map(|name| (name.clone(), (of(long, name) - of(short, name)) / operations)).collect()
}

/// Less what it is without.
fn beyond(with: &Counts, without: &Counts) -> Counts {
    let mut beyond = difference(without, with, 1.0);
    beyond.retain(|_, count| count.abs() > 0.001);
    beyond
}

/// A workload, and its arguments; `#` stands for the number of options that it sets itself.
struct Work {
    said: &'static str,
    /// Operations of a batch.
    batch: f64,
    program: &'static str,
    arguments: &'static [&'static str],
}

impl Work {
    fn arguments(&self, variant: &Variant) -> Vec<String> {
        let argument =
            |argument: &&str| if *argument == "#" { variant.options.to_string() } else { (*argument).to_owned() };
        self.arguments.iter().map(argument).collect()
    }

    fn system_calls(&self, bench: &Bench, variant: &Variant) -> Result<Counts, Failure> {
        let log = bench.scratch.join("strace");
        let of = |batches| {
            let mut command = strace(variant, &log, batches);
            command.arg(bench.workload(self.program)).args(self.arguments(variant));
            counted_calls(&mut command, &log)
        };
        Ok(difference(&of(4)?, &of(8)?, 4.0 * self.batch))
    }

    /// User space alone, callgrind's Ir.
    fn instructions(&self, bench: &Bench, variant: &Variant) -> Result<f64, Failure> {
        let of = |batches| {
            let mut command = callgrind(variant, batches);
            instructions(command.arg(bench.workload(self.program)).args(self.arguments(variant)))
        };
        Ok((of(8)? - of(4)?) / (4.0 * self.batch))
    }
}

/// strace, which leaves a summary; the library is in what it traces alone.
fn strace(variant: &Variant, log: &Path, batches: usize) -> Command {
    let mut command = lab::plain("strace");
    command.env("BATCHES", batches.to_string()).args(["-f", "-qq", "-c", "-U", "calls,name", "-o"]).arg(log);
    for (name, value) in &variant.environment {
        command.arg("-E").arg(format!("{name}={value}"));
    }
    command
}

fn callgrind(variant: &Variant, batches: usize) -> Command {
    let mut command = lab::plain("valgrind");
    command.env("BATCHES", batches.to_string()).args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    variant.apply(&mut command);
    command
}

/// Runs strace and reads its summary: calls and names.
fn counted_calls(command: &mut Command, log: &Path) -> Result<Counts, Failure> {
    lab::run(command)?;
    let mut counts = Counts::new();
    for line in fs::read_to_string(log)?.lines() {
        if let [calls, name] = *line.split_whitespace().collect::<Vec<_>>()
            && let Ok(calls) = calls.parse()
            && name != "total"
        {
            counts.insert(name.to_owned(), calls);
        }
    }
    Ok(counts)
}

/// All instructions of a command under callgrind, from its last word: `Collected : 123456`.
fn instructions(command: &mut Command) -> Result<f64, Failure> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().rev().find_map(|line| line.split_once("Collected : "));
    match collected {
        Some((_, count)) if output.status.success() => Ok(count.trim().parse()?),
        _ => Err(format!("{command:?}: {said}").into()),
    }
}

/// The loader's own statistics: symbols looked up, and relocations that are an addition.
fn relocations(variant: &Variant) -> Result<(f64, f64), Failure> {
    let mut command = lab::plain("/bin/true");
    let output = variant.apply(&mut command).env("LD_DEBUG", "statistics").output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let number = |name: &str| -> f64 {
        let line = said.lines().find_map(|line| line.split_once(name)).map(|(_, number)| number.trim());
        line.and_then(|number| number.parse().ok()).unwrap_or(0.0)
    };
    Ok((number(" number of relocations: "), number("number of relative relocations: ")))
}

const fn tcp(said: &'static str, arguments: &'static [&'static str]) -> Work {
    Work { said, batch: 32.0, program: "tcp", arguments }
}

const fn call(said: &'static str, arguments: &'static [&'static str]) -> Work {
    Work { said, batch: 256.0, program: "calls", arguments }
}

const CONNECT: Work = tcp("socket, connect, close", &["connect", "#"]);
const CONNECT_HEAP: Work = tcp("the same, the address on the heap", &["heap", "#"]);
const ACCEPT: Work = tcp("accept, close", &["accept", "#"]);
const UNTOLD: Work = tcp("accept without the peer's address, close", &["untold", "#"]);
const CLOSE: Work = call("close of no socket", &["close"]);
const UNIX: Work = call("socket(AF_UNIX)", &["socket-unix"]);
const UDP: Work = call("socket(SOCK_DGRAM)", &["socket-udp"]);
const CONNECT_UNIX: Work = call("connect of a UNIX socket", &["connect-unix"]);

/// The work, who does it, and how many options that has to set where more would be a fault.
type Task = (&'static Work, Variant, Option<usize>);

/// What is counted per operation.
fn plan(bench: &Bench) -> Result<Vec<Task>, Failure> {
    let variants = &bench.variants;
    let mut plan = Vec::new();
    for options in [4, 5, 6] {
        plan.extend(variants.connecting(options)?.into_iter().map(|ours| (&CONNECT, ours, Some(options))));
    }
    for count in [1, 100, 10_000] {
        plan.extend(variants.unmatched(count)?.into_iter().map(|ours| (&CONNECT, ours, Some(0))));
    }
    plan.extend(variants.unmatched(1)?.into_iter().map(|ours| (&CONNECT_HEAP, ours, None)));
    plan.extend(variants.last_of(100)?.into_iter().map(|ours| (&CONNECT, ours, Some(5))));
    plan.extend(variants.neighbours().into_iter().map(|neighbour| (&CONNECT, neighbour, None)));
    plan.extend(variants.listening()?.into_iter().map(|ours| (&ACCEPT, ours, Some(0))));
    for work in [&ACCEPT, &UNTOLD] {
        plan.extend(variants.accepting()?.into_iter().map(|ours| (work, ours, None)));
    }
    plan.extend(variants.keepalives().into_iter().map(|neighbour| (&ACCEPT, neighbour, None)));
    for work in [&CLOSE, &UNIX, &UDP, &CONNECT_UNIX] {
        plan.extend(variants.connecting(5)?.into_iter().map(|ours| (work, ours, Some(0))));
    }
    Ok(plan)
}

pub(crate) fn system_calls(bench: &Bench) -> Result<Section, Failure> {
    let mut section = Section {
        name: "syscalls",
        title: "System calls",
        method:
            "strace counts those of a long run and of a short one; the difference, by operation, less the same without \
                 a preload. The options themselves are a `setsockopt` each."
                .to_owned(),
        columns: vec!["work", "variant", "calls added", "beyond the options", "which", "goal (beyond)", "outcome"],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    if !lab::is_installed("strace") {
        section.notes.push("Not counted: strace is not installed.".to_owned());
        return Ok(section);
    }
    let plan = plan(bench)?;
    bench.progress.set_position(0);
    bench.progress.set_length(plan.len() as u64);
    let mut bare: BTreeMap<&str, Counts> = BTreeMap::new();
    for (work, variant, options) in plan {
        if !bare.contains_key(work.said) {
            bare.insert(work.said, work.system_calls(bench, &Variant::none())?);
        }
        let added = beyond(&work.system_calls(bench, &variant)?, &bare[work.said]);
        let all: f64 = added.values().sum();
        let which: Vec<String> = added.iter().map(|(name, count)| format!("{} {name}", whole(*count))).collect();
        let mut cells = vec![work.said.to_owned(), variant.label, whole(all)];
        // Those of the neighbours are not ours to judge, and a rule with `from` has to look at who connects.
        let rest = options.map(|options| all - options as f64);
        cells.push(rest.map_or(String::new(), whole));
        cells.push(which.join(", "));
        let goal = if rest.is_some() { Goal::none_added() } else { Goal::None };
        cells.extend(goal.cells(&Summary::exact(rest.unwrap_or(0.0)), None));
        section.rows.push(cells);
        bench.progress.inc(1);
    }
    Ok(section)
}

pub(crate) fn start(bench: &Bench) -> Result<Section, Failure> {
    let mut section = Section {
        name: "start",
        title: "What starting a program is made of",
        method: "More than without a preload, for /bin/true from exec to exit: instructions in user space (callgrind), system \
                 calls (strace), pages faulted in (the child's own count), symbols that the loader looks up and words to which \
                 it adds an address (its own count)."
            .to_owned(),
        columns: vec!["variant", "instructions", "system calls", "page faults", "symbols", "relative relocations"],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    if let Some(note) = missing_tools() {
        section.notes.push(note);
        return Ok(section);
    }
    let variants = &bench.variants;
    let mut all = vec![variants.empty.clone()];
    all.extend(variants.unconfigured());
    all.extend(variants.by_variable());
    all.extend(variants.unmatched(100)?);
    all.extend(variants.neighbours());
    let log = bench.scratch.join("strace");
    let measure = |variant: &Variant| -> Result<[f64; 5], Failure> {
        let ir = instructions(callgrind(variant, 0).arg("/bin/true"))?;
        let calls = counted_calls(strace(variant, &log, 0).arg("/bin/true"), &log)?;
        let mut faults = Vec::new();
        for _ in 0..15 {
            let printed = lab::run(timed::spawn(bench, variant).env("BATCHES", "1"))?;
            faults.push(printed.trim().parse()?);
        }
        let faults = Summary::of(faults).median;
        let (symbols, relative) = relocations(variant)?;
        Ok([ir, calls.values().sum(), faults, symbols, relative])
    };
    let bare = measure(&Variant::none())?;
    for variant in all {
        let with = measure(&variant)?;
        let mut cells = vec![variant.label];
        cells.extend(with.iter().zip(bare).map(|(with, bare)| report::added(with - bare)));
        section.rows.push(cells);
    }
    section.notes.extend(variants.missing());
    Ok(section)
}

fn missing_tools() -> Option<String> {
    let missing: Vec<&str> = ["strace", "valgrind"].into_iter().filter(|tool| !lab::is_installed(tool)).collect();
    (!missing.is_empty()).then(|| format!("Not counted: {} is not installed.", missing.join(", ")))
}

pub(crate) fn by_operation(bench: &Bench) -> Result<Section, Failure> {
    let mut section = Section {
        name: "instructions",
        title: "Instructions",
        method: "In user space, counted by callgrind: those of a long run less those of a short one, by operation, less the \
                 same without a preload. They are the same on every machine with this libc, and change only if the code does."
            .to_owned(),
        columns: vec!["work", "variant", "instructions added"],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    if let Some(note) = missing_tools() {
        section.notes.push(note);
        return Ok(section);
    }
    let plan = plan(bench)?;
    bench.progress.set_position(0);
    bench.progress.set_length(plan.len() as u64);
    let mut bare: BTreeMap<&str, f64> = BTreeMap::new();
    for (work, variant, _) in plan {
        if !bare.contains_key(work.said) {
            bare.insert(work.said, work.instructions(bench, &Variant::none())?);
        }
        let added = work.instructions(bench, &variant)? - bare[work.said];
        section.rows.push(vec![work.said.to_owned(), variant.label, report::added(added)]);
        bench.progress.inc(1);
    }
    let own = std::env::current_exe()?;
    let of = |numbers: [usize; 3]| {
        let mut command = callgrind(&Variant::none(), 0);
        instructions(command.arg(&own).arg("--repeat").args(numbers.map(|number| number.to_string())))
    };
    let mut add = |work: &str, size: usize, count: f64| {
        section.rows.push(vec![work.to_owned(), format!("{size} rules"), whole(count)]);
    };
    for size in SIZES.into_iter().filter(|size| *size <= 10_000) {
        add("a decision", size, (of([size, 1, CONNECTIONS])? - of([size, 1, 0])?) / CONNECTIONS as f64);
    }
    for size in [100, 10_000] {
        add("`compile`", size, of([size, 2, 0])? - of([size, 1, 0])?);
    }
    Ok(section)
}
