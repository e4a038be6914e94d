//! What the supervisor costs a program in Go: connections, memory, start.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use crate::Bench;
use crate::lab::{self, Failure, Server};
use crate::report::{self, Goal, Section, ratio};
use crate::stats::Summary;
use crate::timed::{self, Row};
use crate::variants::Variant;

/// How many goroutines, and whether Go sets its own keepalive.
type Load = (usize, &'static str);
const LOADS: [Load; 4] = [(1, "none"), (1, "own"), (8, "own"), (64, "own")];

/// The variable by which the workload knows that it has a supervisor.
const SUPERVISED: &str = "SUPERVISED";

fn supervised() -> Variant {
    let environment = [("SOCKOPT_DEAD_PEER_TIMEOUT", "15s"), ("EXPECT", "14000"), (SUPERVISED, "1")];
    let environment = environment.map(|(name, value)| (name, value.to_owned())).to_vec();
    Variant { label: "sockopt run --by supervisor".to_owned(), environment, ..Variant::default() }
}

fn bare() -> Variant {
    Variant { label: "no supervisor".to_owned(), ..Variant::none() }
}

/// A command, under the supervisor or not.
fn command(bench: &Bench, variant: &Variant, program: &Path, arguments: &[&str]) -> Command {
    let mut command = if variant.environment.is_empty() {
        lab::plain(program)
    } else {
        let mut command = lab::plain(&bench.command);
        command.args(["run", "--by", "supervisor", "--"]).arg(program);
        command
    };
    variant.apply(command.args(arguments));
    command
}

/// Where somebody accepts, and closes at once. The queue is longer than a batch: a SYN that finds it full is sent anew a second later.
fn port() -> Result<String, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    rustix::net::listen(&listener, 4096)?;
    let port = listener.local_addr()?.port().to_string();
    thread::spawn(move || listener.incoming().for_each(drop));
    Ok(port)
}

pub(crate) fn supervisor(bench: &Bench) -> Result<Section, Failure> {
    let mut section = Section {
        name: "supervisor",
        title: "Under the supervisor",
        method: "net.Dial and Close in Go, five options each, against the same without: two processes in turn; processor time is \
                 that of program and worker. Memory is that of guardian and worker together, after some connections. Start is \
                 from the start of `sockopt run` to the end of /bin/true, against /bin/true alone."
            .to_owned(),
        columns: vec!["work", "added", "ratio", "middle half", "processor time", "goal", "outcome"],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    if !lab::is_installed("go") {
        section.notes.push("Not measured: go is not installed.".to_owned());
        return Ok(section);
    }
    let dial = bench.workload("dial");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/workloads/dial.go");
    let mut build = lab::plain("go");
    build.env("CGO_ENABLED", "0").env("GOCACHE", bench.workload("gocache")).env("GO111MODULE", "off");
    lab::run(build.args(["build", "-o"]).arg(&dial).arg(source))?;
    let port = port()?;
    for (goroutines, keepalive) in LOADS {
        let count = goroutines.to_string();
        let arguments = [port.as_str(), &count, keepalive];
        let noise = || Row { with: bare(), against: bare(), goal: Goal::None };
        let ours = || Row { with: supervised(), against: bare(), goal: Goal::None };
        let rows = if goroutines == 1 { vec![noise(), ours()] } else { vec![ours()] };
        let compared = timed::compare(bench, bench.rounds.div_ceil(3), 10, &rows, |variant| {
            command(bench, variant, &dial, &arguments)
        })?;
        let keeps =
            if keepalive == "own" { "Go's own keepalive, which the rule overrides" } else { "no keepalive of Go's" };
        for (row, compared) in rows.iter().zip(&compared) {
            let is_noise = row.with.environment.is_empty();
            let goal = match (is_noise, goroutines, keepalive) {
                (false, 1, "none") => Goal::AtMost(15_000.0, "≤ +15 us".to_owned()),
                _ => Goal::None,
            };
            let s = if goroutines == 1 { "" } else { "s" };
            let said = if is_noise { ", nothing against itself" } else { "" };
            let mut cells = vec![format!("dial, {goroutines} goroutine{s}, {keeps}{said}")];
            cells.push(format!("{:+.1} us", compared.added_wall.median / 1e3));
            cells.extend(ratio(&compared.wall));
            cells.push(format!("{:.3}", compared.cpu.median));
            cells.extend(goal.cells(&compared.added_wall, None));
            section.rows.push(cells);
        }
    }
    section.rows.extend(memory(bench, &dial, &port)?);
    section.rows.push(start(bench)?);
    Ok(section)
}

/// Pss and written private pages of guardian and worker together.
fn memory(bench: &Bench, dial: &Path, port: &str) -> Result<Vec<Vec<String>>, Failure> {
    let mut runs: [Vec<f64>; 2] = Default::default();
    for _ in 0..bench.scaled(11, 5) {
        let mut command = command(bench, &supervised(), dial, &[port, "1", "own"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (asks, answers) = (child.stdin.take(), child.stdout.take());
        let mut server = Server(child);
        let (mut asks, answers) = (asks.ok_or("no standard input")?, answers.ok_or("no standard output")?);
        asks.write_all(b".")?;
        let mut answer = String::new();
        BufReader::new(answers).read_line(&mut answer)?;
        for (sums, name) in runs.iter_mut().zip(["Pss:", "Private_Dirty:"]) {
            sums.push(of_supervisors(name)?);
        }
        drop(asks);
        server.0.wait()?;
        while of_supervisors("Pss:")? > 0.0 {
            thread::yield_now();
        }
    }
    let rows = runs.into_iter().zip(["memory, Pss", "memory, private and written"]).map(|(sums, said)| {
        let summary = Summary::of(sums);
        let goal = if said.ends_with("Pss") { Goal::AtMost(500.0, "< 500 KiB".to_owned()) } else { Goal::None };
        let empty = String::new;
        let mut cells =
            vec![said.to_owned(), format!("{} KiB", report::added(summary.median)), empty(), empty(), empty()];
        cells.extend(goal.cells(&summary, None));
        cells
    });
    Ok(rows.collect())
}

/// The sum of a line of smaps_rollup (proc(5)), KiB, of the supervisor's processes in this namespace.
fn of_supervisors(name: &str) -> Result<f64, Failure> {
    let mut sum = 0.0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if matches!(comm.trim_end(), "sockopt-guard" | "sockopt-work") {
            let text = fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
            let value =
                text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok());
            sum += value.unwrap_or(0.0);
        }
    }
    Ok(sum)
}

fn start(bench: &Bench) -> Result<Vec<String>, Failure> {
    let one = |variant: &Variant| -> Result<f64, Failure> {
        let mut command = command(bench, variant, Path::new("/bin/true"), &[]);
        let begun = Instant::now();
        let status = command.status()?;
        let took = begun.elapsed().as_nanos() as f64;
        if status.success() { Ok(took) } else { Err(format!("{command:?}: {status}").into()) }
    };
    let (mut added, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..bench.scaled(300, 60) {
        let (with, without) = (one(&supervised())?, one(&bare())?);
        added.push(with - without);
        ratios.push(with / without);
    }
    let added = Summary::of(added);
    let mut cells = vec!["start".to_owned(), format!("{:+.2} ms", added.median / 1e6)];
    cells.extend(ratio(&Summary::of(ratios)));
    cells.push(String::new());
    cells.extend(Goal::AtMost(1e6, "≤ +1 ms".to_owned()).cells(&added, None));
    Ok(cells)
}
