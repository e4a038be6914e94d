//! Programs with a seccomp filter of their own, which ends them where they do what they have no need of
//! (tests/probes/filtered.c): the library does nothing there but what the program's sockets need.

use std::fs;
use std::io::{Read, pipe};
use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use crate::faults::{Build, built};
use crate::support::{plain, probe, scratch, test, text};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for build in [Build::Debug, Build::Release] {
        let mut add = |name: &str, run: fn(Build)| {
            trials.push(test(format!("filters::{name}, {build:?}"), move || run(build)));
        };
        add("no_option_of_tcp_on_what_is_not_tcp", only_on_tcp);
        add("kind_may_not_be_asked", kind_is_refused);
        add("a_connect_that_has_begun_before", begun_before);
        add("prctl_answers_as_without", prctl);
        add("log_lines", log_lines);
        add("log_lines_into_a_full_pipe", full_pipe);
    }
    trials
}

/// Something for TCP, and something for UDP too.
const RULES: &str = "[defaults]\ndead_peer_timeout = \"15s\"\npriority = 3\n";

/// The probe; one that hangs is ended.
fn command(build: Build, level: &str, how: &str, rules: &str, steps: &[&str]) -> Command {
    let mut command = plain("timeout");
    command.args(["-s", "KILL", "60", "env"]).arg(format!("LD_PRELOAD={}", built(build).display()));
    command.arg(probe("filtered")).args([how, rules]).args(steps);
    command.env("SOCKOPT_CONFIG_TOML", RULES).env("SOCKOPT_LOG", level);
    command
}

fn run(command: &mut Command) -> (String, String) {
    let output = command.output().expect("timeout runs");
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{}\n{stdout}{stderr}", output.status);
    (stdout, stderr)
}

/// A program whose filter ends it at any option of TCP has no TCP (chronyd), and its UDP sockets get none. Seen to fail where the
/// first option of TCP was set to find out whether a socket is TCP: SIGSYS, with each step.
fn only_on_tcp(build: Build) {
    let rules = format!("{}:{}:k", libc::SYS_setsockopt, libc::SOL_TCP);
    for how in ["prctl", "seccomp"] {
        for (steps, wanted) in [
            (&["udp"][..], "udp 3\n"),
            (&["udp6"], "udp6 3\n"),
            (&["send"], "send 3\n"),
            (&["none"], "none -1 1\n"),
            (&["child", "udp"], "udp 3\n"),
            (&["thread", "udp", "udp"], "udp 3\nudp 3\n"),
        ] {
            let (stdout, stderr) = run(&mut command(build, "warn", how, &rules, steps));
            assert_eq!((stdout.as_str(), stderr.as_str()), (wanted, ""), "{how} {steps:?}");
        }
    }
    // The test of the test: such a filter ends what sets one.
    let output = command(build, "warn", "prctl", &rules, &["tcp"]).output().expect("timeout runs");
    assert!(!output.status.success() && text(&output).0.is_empty(), "{output:?}");
}

/// Where a filter refuses to tell the kind, and not to set options, TCP gets its own as before. Seen to fail where nothing was
/// set on a socket that is not known to be TCP: "tcp 0 7200".
fn kind_is_refused(build: Build) {
    let rules = format!("{}:{}:{}:e", libc::SYS_getsockopt, libc::SOL_SOCKET, libc::SO_PROTOCOL);
    let (stdout, stderr) = run(&mut command(build, "warn", "prctl", &rules, &["tcp"]));
    assert_eq!((stdout.as_str(), stderr.as_str()), ("tcp 3 5\n", ""));
}

/// The filter comes while a socket connects, and ends who asks for an option or sets one: poll and select go on without. Seen to fail: SIGSYS.
fn begun_before(build: Build) {
    let rules = [libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_rt_sigprocmask]
        .map(|call| format!("{call}:k"))
        .join(",");
    for how in ["prctl", "seccomp"] {
        let mut command = command(build, "warn", how, &rules, &["begun"]);
        let (stdout, stderr) = run(command.env("SOCKOPT_CONNECT_TIMEOUT", "9s"));
        assert_eq!((stdout.as_str(), stderr.as_str()), ("poll 1\nselect 1\n", ""), "{how}");
    }
}

/// All arguments are handed on as they are, and so are the answer and errno. Seen to fail with a hook that leaves errno 0.
fn prctl(build: Build) {
    let rules = format!("{}:k", libc::SYS_pwritev2);
    let mut with = command(build, "warn", "prctl", &rules, &["prctl"]);
    let mut bare = plain(probe("filtered"));
    let (stdout, stderr) = run(bare.args(["prctl", &rules, "prctl"]));
    assert!(stdout.lines().count() == 14 && stdout.contains("a name\n"), "{stdout}");
    assert_eq!(run(&mut with), (stdout, stderr));
}

/// What few programs make and few filters know: it ends this one.
fn strict() -> String {
    let calls = [libc::SYS_pwritev2, libc::SYS_openat, libc::SYS_rt_sigpending, libc::SYS_rt_sigtimedwait];
    calls.map(|call| format!("{call}:k")).join(",")
}

/// A log line is written by poll and write alone, be standard error a pipe, a file or a terminal. Seen to fail with pwritev2 for a
/// pipe (apt's filter), with openat for a terminal, and with rt_sigpending for each of the three: SIGSYS.
fn log_lines(build: Build) {
    let said = |text: &str| text.lines().filter(|line| line.contains("debug: connect fd")).count();
    let is_whole = |text: &str| assert!(said(text) == 2, "{text}");
    let steps = ["tcp", "udp"];
    let (stdout, stderr) = run(&mut command(build, "debug", "prctl", &strict(), &steps));
    assert_eq!(stdout, "tcp 3 5\nudp 3\n");
    is_whole(&stderr);
    let file = scratch(&format!("filters-log-{build:?}")).join("stderr");
    let to_file = fs::File::create(&file).expect("a file");
    let status = command(build, "debug", "seccomp", &strict(), &steps).stderr(to_file).stdout(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()));
    is_whole(&fs::read_to_string(&file).expect("its lines"));
    let (stdout, _) = run(&mut command(build, "debug", "terminal", &strict(), &steps));
    assert!(stdout.ends_with("ended: 0\n"), "{stdout}");
    is_whole(&stdout);
}

/// A line that finds no room is lost there too, and no connect waits. Seen to fail without poll: the program hung.
fn full_pipe(build: Build) {
    let (mut reader, writer) = pipe().expect("a pipe");
    let mut command = command(build, "debug", "prctl", &strict(), &["fill", "tcp", "tcp"]);
    let output = command.stderr(writer).output().expect("timeout runs");
    // This process's own writing end.
    drop(command);
    assert_eq!(text(&output).0, "tcp 3 5\ntcp 3 5\n", "{}", output.status);
    let mut said = String::new();
    reader.read_to_string(&mut said).expect("what was written");
    // What set-up said, and what filled it up.
    assert!(said.ends_with('x') && !said.contains("debug: connect fd"));
}
