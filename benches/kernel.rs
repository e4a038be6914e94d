//! What programs in the kernel cost, beside nothing, the program itself and the library.
//!
//! `sockopt attach` needs root outside of the harness's namespaces. So control groups are made and attached to before those are
//! entered, and the workloads enter a group each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Bench;
use crate::lab::{self, Failure};
use crate::report::{Goal, Section};
use crate::timed::{self, BATCHES, Clock, Row};
use crate::variants::{Variant, connecting_rules};

/// What its name begins with; the number of the process follows.
const PREFIX: &str = "sockopt-bench-";
const FIVE: &str = "dead_peer_timeout = \"15s\"\n";
const TO: &str = "[[rule]]\nto = [\"127.0.0.0/8\"]\n";

/// A group for each configuration.
fn configurations() -> [(&'static str, String); 7] {
    [
        ("five", format!("{TO}{FIVE}")),
        ("unenforced", format!("{TO}{FIVE}enforce = false\n")),
        ("defaults", format!("[defaults]\n{FIVE}")),
        ("last", format!("{}{TO}{FIVE}", connecting_rules(9_999))),
        ("unmatched", connecting_rules(10_000)),
        ("listen", format!("[[rule]]\nlisten = [\"127.0.0.0/8\"]\n{FIVE}")),
        ("from", "[[rule]]\nfrom = [\"127.0.0.0/8\"]\nkeepalive = \"on\"\n".to_owned()),
    ]
}

/// Control groups with programs, which are taken away again.
pub(crate) struct Groups {
    top: PathBuf,
    command: PathBuf,
}

impl Groups {
    /// # Errors
    /// Why there are none.
    pub(crate) fn attach(command: &Path) -> Result<Groups, Failure> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
        let mount = Path::new(mount.ok_or("there are no control groups of version 2")?);
        clear_away(mount, command);
        let top = mount.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&top).map_err(|why| format!("{}: {why}", top.display()))?;
        let groups = Groups { top, command: command.to_owned() };
        let file = std::env::temp_dir().join(format!("{PREFIX}{}.toml", std::process::id()));
        for (name, configuration) in configurations() {
            let group = groups.top.join(name);
            fs::create_dir(&group)?;
            fs::write(&file, configuration)?;
            let attached =
                lab::run(lab::plain(command).args(["attach", "--no-adopt", "--config"]).arg(&file).arg(&group));
            let _ = fs::remove_file(&file);
            attached?;
        }
        Ok(groups)
    }

    pub(crate) fn top(&self) -> &Path {
        &self.top
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        remove(&self.top, &self.command);
    }
}

/// Those of harnesses that were ended.
fn clear_away(mount: &Path, command: &Path) {
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            remove(&entry.path(), command);
        }
    }
}

fn remove(top: &Path, command: &Path) {
    for (name, _) in configurations() {
        let group = top.join(name);
        let _ = lab::plain(command).arg("detach").arg(&group).stdout(Stdio::null()).stderr(Stdio::null()).status();
        // What was in it is ending.
        let until = Instant::now() + Duration::from_secs(5);
        while group.exists() && fs::remove_dir(&group).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let _ = fs::remove_dir(top);
}

/// A variant by the kernel.
fn by_kernel(top: &Path, group: &str, said: &str, is_matched: bool) -> Variant {
    let expected = if is_matched { vec![("EXPECT", "14000".to_owned())] } else { Vec::new() };
    Variant {
        label: format!("kernel: {said}"),
        environment: expected,
        group: Some(top.join(group)),
        ..Variant::default()
    }
}

/// What is compared, with which workload.
struct Part {
    work: &'static str,
    rows: Vec<Row>,
    command: fn(&Bench, &Variant) -> Command,
}

fn parts(bench: &Bench, top: &Path) -> Result<Vec<Part>, Failure> {
    let kernel = |group: &str, said: &str| by_kernel(top, group, said, true);
    let free = |with: Variant| Row { with, against: Variant::none(), goal: Goal::None };
    let noise = || free(Variant { label: "noise: nothing against itself".to_owned(), ..Variant::none() });
    let below = |with: Variant, options| Row {
        with,
        against: Variant::floor(options),
        goal: Goal::AtMost(1.0, "≤ the program itself".to_owned()),
    };
    let one = |library: Vec<Variant>| library.into_iter().map(free);
    let mut connect = vec![noise(), free(Variant::floor(5))];
    connect.extend(one(bench.variants.connecting(5)?));
    connect.push(free(kernel("five", "5 options")));
    connect.push(below(kernel("five", "5 options"), 5));
    connect.push(below(kernel("unenforced", "5 options, enforce = false"), 5));
    connect.push(below(kernel("defaults", "5 options by [defaults], for listeners too"), 5));
    connect.push(below(kernel("last", "5 options, 10,000 rules with to, the last matches"), 5));
    connect.push(free(by_kernel(top, "unmatched", "10,000 rules with to, none matches", false)));
    let mut accept = vec![noise(), free(Variant::floor(5))];
    accept.extend(one(bench.variants.listening()?));
    accept.push(free(kernel("listen", "a rule with listen, 5 options")));
    accept.push(free(Variant::floor(1)));
    accept.extend(one(bench.variants.accepting()?));
    accept.push(below(by_kernel(top, "from", "a rule with from, 1 option", false), 1));
    let mut set = vec![noise()];
    set.extend(one(bench.variants.connecting(5)?));
    set.push(free(kernel("five", "5 options, another one is set")));
    let mut exec = vec![noise()];
    exec.extend(one(bench.variants.by_variable()));
    exec.push(Row { goal: Goal::Noise, ..free(by_kernel(top, "five", "5 options", false)) });
    Ok(vec![
        Part {
            work: "socket, connect, close",
            rows: connect,
            command: |bench, variant| timed::tcp(bench, "connect", variant),
        },
        Part { work: "accept, close", rows: accept, command: |bench, variant| timed::tcp(bench, "accept", variant) },
        Part {
            work: "setsockopt(TCP_NODELAY)",
            rows: set,
            command: |bench, variant| timed::workload(bench, "calls", &["setsockopt"], variant),
        },
        Part { work: "start of /bin/true", rows: exec, command: timed::spawn },
    ])
}

pub(crate) fn kernel(bench: &Bench) -> Result<Section, Failure> {
    let mut section = Section {
        name: "kernel",
        title: "Programs in the kernel",
        method: "Workloads in control groups to which `sockopt attach` has attached, against the same elsewhere: two processes in \
                 turn; by processor time, but the start of /bin/true by the wall clock. Nanoseconds are those for one operation. In \
                 connect, the other end is accepted outside of what is timed, but its share of the handshake counts, as without."
            .to_owned(),
        columns: vec!["work", "variant", "against", "ns added", "ratio", "middle half", "goal", "outcome"],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let Some(top) = &bench.groups else {
        section.notes.push(
            "Not measured: it takes root, control groups of version 2, and a kernel that lets programs be attached."
                .to_owned(),
        );
        return Ok(section);
    };
    for part in parts(bench, top)? {
        let clock = if part.work.starts_with("start") { Clock::Wall } else { Clock::Processor };
        let compared =
            timed::compare(bench, bench.rounds, BATCHES, &part.rows, |variant| (part.command)(bench, variant))?;
        let noise = compared.first().map(|first| first.by(clock).0);
        for (row, compared) in part.rows.iter().zip(&compared) {
            let (ratio, added) = compared.by(clock);
            let mut cells = vec![part.work.to_owned(), row.with.label.clone(), row.against.label.clone()];
            cells.push(format!("{:+.0}", added.median));
            cells.extend(crate::report::ratio(&ratio));
            cells.extend(row.goal.cells(&ratio, noise.as_ref()));
            section.rows.push(cells);
        }
    }
    Ok(section)
}
