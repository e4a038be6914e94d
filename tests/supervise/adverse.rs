//! What a program, or who starts it, could do to the supervisor; and what the supervisor could do to it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use super::processes::{RULE, both, dial, kill, marker, port, within, workers};
use crate::command::{outcome, run};
use crate::support::lab::{Lab, Place, SERVER, needs};
use crate::support::{is_root, plain, probe, scratch, sockopt, static_probe, test, test_with};

pub(crate) fn trials() -> Vec<Trial> {
    let lab = needs([]);
    vec![
        test("supervise::adverse::no_signal_of_children", no_signal_of_children),
        test("supervise::adverse::closed_descriptors", closed_descriptors),
        test("supervise::adverse::own_port", own_port),
        test_with(&lab, "supervise::adverse::many_that_connect", many_that_connect),
        test_with(&lab, "supervise::adverse::given_up", given_up),
        test_with(&lab, "supervise::adverse::begun_elsewhere", begun_elsewhere),
        test("supervise::adverse::many_children", many_children),
        test("supervise::adverse::strict_mode", strict_mode),
        test("supervise::adverse::another_root", another_root).with_ignored_flag(!is_root()),
        test_with(&["strace"], "supervise::adverse::traced", traced),
        test_with(&["gdb"], "supervise::adverse::debugged", debugged),
        all_killed_trial(),
        test_with(&["namespaces", "unshare"], "supervise::adverse::kills_all_it_may", kills_all_it_may),
        test("supervise::adverse::programs_of_32_bits", programs_of_32_bits)
            .with_ignored_flag(!cfg!(target_arch = "x86_64")),
        // userfaultfd(2) stops the kernel's own reading for root alone.
        test("supervise::adverse::kept_by_a_call", kept_by_a_call).with_ignored_flag(!is_root()),
    ]
}

fn program() -> std::path::PathBuf {
    static_probe("supervised")
}

/// A signal that is blocked waits over exec, even SIGCHLD that nobody handles. Seen to fail: `SIGCHLD 1`, of the child that tries out.
fn no_signal_of_children() {
    let mut command = plain(program());
    command.arg("block").arg(sockopt()).args(["run", "--user-timeout=9s"]).arg(program()).arg("pending");
    assert_eq!(outcome(&mut command), (Some(0), "SIGCHLD 0\n".to_owned(), String::new()));
}

/// The program finds closed what was closed: by the supervisor and by the library. Seen to fail: with /dev/null in their place,
/// which Rust's runtime opens.
fn closed_descriptors() {
    for (by, program) in [("supervisor", program()), ("library", probe("supervised"))] {
        for (closes, found) in
            [("<&-", "open 011\n"), (">&-", "open 101\n"), ("2>&-", "open 110\n"), ("<&- 2>&-", "open 010\n")]
        {
            let line = format!("\"$0\" run --user-timeout=9s --by={by} \"$1\" standard {closes}");
            let mut command = plain("sh");
            command.args(["-c", &line]).arg(sockopt()).arg(&program);
            command.env("SOCKOPT_LIBRARY", crate::support::library());
            let (code, printed, stderr) = outcome(&mut command);
            assert_eq!((code, printed + &stderr), (Some(0), found.to_owned()), "{by} {closes}");
        }
    }
}

/// A port of the program's own is free when the program has closed its socket. Seen to fail: `in use 9`, by the copy that was held.
fn own_port() {
    let port = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let (own, nobodys) = (port().to_string(), "1");
    let mut command = run();
    command.arg("--connect-timeout=3s").arg(program()).args(["own-port", &own, nobodys]);
    assert_eq!(outcome(&mut command), (Some(0), "in use 0\n".to_owned(), String::new()));
}

/// In the lab, where nobody answers any more.
fn without_answer(lab: &Lab, limits: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command: Command = lab.command(Place::Client, &["SOCKOPT_CONNECT_TIMEOUT=3s"], "sh");
    command.args(["-c", &format!("{limits} \"$0\" run -- \"$@\"")]).arg(sockopt()).arg(program()).args(arguments);
    outcome(&mut command)
}

/// More connections at once than the supervisor was given descriptors: each has its time. Seen to fail: 206 of 400 had no option,
/// since their descriptors could not be copied (EMFILE).
fn many_that_connect() {
    let lab = Lab::with_link();
    lab.cut();
    let found = without_answer(&lab, "ulimit -Sn 200;", &["begin", SERVER, "400"]);
    assert_eq!(found, (Some(0), "without 0\n".to_owned(), String::new()));
    // Where it may not have more, those that are held last have their SYNs limited, and no option is lost.
    let environment = ["SOCKOPT_CONNECT_TIMEOUT=3s", "SOCKOPT_USER_TIMEOUT=9s"];
    let mut command = lab.command(Place::Client, &environment, "sh");
    command.args(["-c", "ulimit -n 100; \"$0\" run -- \"$@\""]).arg(sockopt()).arg(program());
    assert_eq!(outcome(command.args(["begin", SERVER, "90"])), (Some(0), "without 0\n".to_owned(), String::new()));
}

/// A socket that the program closes while it connects is gone: epoll reports it no more. Seen to fail: `events 1` after the time for
/// connecting, of the copy that was held.
fn given_up() {
    let lab = Lab::with_link();
    lab.cut();
    let found = without_answer(&lab, "SOCKOPT_CONNECT_TIMEOUT=1s", &["give-up", SERVER]);
    assert_eq!(found, (Some(0), "events 0\n".to_owned(), String::new()));
}

/// A socket that connects has its time as long as its process has it: when the thread has ended that began, and under another number. Seen
/// to fail: `user_timeout 0` for both.
fn begun_elsewhere() {
    let lab = Lab::with_link();
    lab.cut();
    for what in ["thread", "moved"] {
        let found = without_answer(&lab, "", &["elsewhere", SERVER, what]);
        assert_eq!(found, (Some(0), "user_timeout 2999\n".to_owned(), String::new()), "{what}");
    }
}

/// A call whose memory is not there yet, or whose socket is locked by one that waits so, keeps nobody else waiting. Seen to fail:
/// every other connect waited as well, until the program's alarm.
fn kept_by_a_call() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    thread::spawn(move || {
        let _all: Vec<_> = listener.incoming().collect();
    });
    for by in ["address", "socket"] {
        let mut command = run();
        command.arg("--dead-peer-timeout=15s").arg(program()).args(["kept", &port, by]);
        let (code, printed, stderr) = outcome(&mut command);
        assert_eq!((code, printed), (Some(0), "keepalive 1 5 user_timeout 14000\n".repeat(3)), "{by}: {stderr}");
        assert!(stderr.contains("warning: the supervisor could not get on with a call of this process"), "{stderr}");
    }
}

/// By copies and by sockets that are made.
pub(super) fn both_ways() -> [Command; 2] {
    let mut confined = plain(probe("refuse"));
    confined.args([&libc::SYS_pidfd_getfd.to_string(), "1"]).arg(sockopt()).arg("run");
    let mut all = [run(), confined];
    for command in &mut all {
        command.arg("--dead-peer-timeout=15s");
    }
    all
}

const KEPT: &str = "keepalive 1 5 user_timeout 14000\n";

/// 500 at once.
fn many_children() {
    for mut command in both_ways() {
        let found = outcome(command.arg(program()).args(["forks", &port(), "500"]));
        assert_eq!(found, (Some(0), "failed 0\n".to_owned(), String::new()), "{command:?}");
    }
}

/// As the documents say.
fn strict_mode() {
    for mut command in both_ways() {
        let found = outcome(command.arg(program()).args(["strict", &port()]));
        assert_eq!(found, (Some(0), format!("strict -1 Invalid argument\n{KEPT}"), String::new()), "{command:?}");
    }
}

/// The program's root has no /proc; the supervisor's has.
fn another_root() {
    let root = scratch("supervise-chroot");
    for mut command in both_ways() {
        let found = outcome(command.arg(program()).args(["chroot", &port()]).arg(&root));
        assert_eq!(found, (Some(0), KEPT.to_owned(), String::new()), "{command:?}");
    }
    // One that is started there, where no library is. Seen to fail: refused.
    crate::command::copy(program(), root.join("program"));
    let mut command = run();
    command.arg(RULE).arg("chroot").arg(&root).args(["/program", "dial", &port()]);
    let (code, printed, stderr) = outcome(&mut command);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(printed.starts_with(KEPT), "{printed}");
}

/// strace attaches while the program runs, sees its calls, and leaves.
fn traced() {
    for mut command in both_ways() {
        let port = port();
        let child = command.arg(program()).args(["stages", &port]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        assert_eq!(dial(&mut child, &mut output) + "\n", KEPT);
        let mut strace = plain("strace");
        strace.args(["-f", "-e", "trace=connect", "-p", &child.id().to_string()]);
        let strace = strace.stderr(Stdio::piped()).spawn().expect("strace");
        let is_traced = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            status.contains(&format!("TracerPid:\t{}\n", strace.id()))
        };
        assert!(within(Duration::from_secs(10), is_traced));
        assert_eq!(dial(&mut child, &mut output) + "\n", KEPT);
        kill(strace.id() as i32, "INT");
        let seen = strace.wait_with_output().expect("it ends");
        let seen = String::from_utf8_lossy(&seen.stderr).into_owned();
        assert!(seen.contains(&format!("htons({port})")) && seen.contains("= 0"), "{seen}");
        assert_eq!(dial(&mut child, &mut output) + "\n", KEPT);
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success());
    }
}

/// A debugger attaches while the program runs, stops it in the middle of a connect, and leaves. And one that is under the supervisor starts it.
/// Seen to fail: with SOCKOPT_DISABLE=1.
fn debugged() {
    for mut command in both_ways() {
        let port = port();
        let child = command.arg(program()).args(["stages", &port]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        assert_eq!(dial(&mut child, &mut output) + "\n", KEPT);
        let mut gdb = plain("gdb");
        gdb.args([
            "-q",
            "-nx",
            "-batch",
            "-p",
            &child.id().to_string(),
            "-ex",
            "catch syscall connect",
            "-ex",
            "echo ready\\n",
        ]);
        gdb.args(["-ex", "continue", "-ex", "print 42", "-ex", "continue", "-ex", "detach"]);
        let mut gdb = gdb.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("gdb");
        let mut said = BufReader::new(gdb.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        assert!(said.any(|line| line == "ready"));
        assert_eq!(dial(&mut child, &mut output) + "\n", KEPT);
        let said: Vec<String> = said.collect();
        assert!(gdb.wait().expect("it ends").success(), "{said:?}");
        for wanted in ["(call to syscall connect)", "$1 = 42", "(returned from syscall connect)"] {
            assert!(said.iter().any(|line| line.contains(wanted)), "{wanted}: {said:?}");
        }
        assert_eq!(dial(&mut child, &mut output) + "\n", KEPT);
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success());
    }
    for mut command in both_ways() {
        command.args(["--by=supervisor", "gdb", "-q", "-nx", "-batch", "-ex", "run", "--args"]).arg(program());
        let (_, printed, stderr) = outcome(command.args(["dial", &port()]));
        assert!(printed.contains(KEPT) && printed.contains("exited normally"), "{printed}{stderr}");
    }
}

/// Where this machine has control groups of version 2 whose processes can be killed together, and this user may make one.
fn control_groups() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.contains(" - cgroup2 "))?;
    let group = Path::new(line.split(' ').nth(4)?).join(format!("sockopt-killed-{}", std::process::id()));
    std::fs::create_dir(&group).ok()?;
    let is_there = group.join("cgroup.kill").exists();
    std::fs::remove_dir(&group).ok()?;
    is_there.then_some(group)
}

fn all_killed_trial() -> Trial {
    let name = "supervise::adverse::all_killed";
    match control_groups() {
        Some(group) => test(name, move || all_killed(&group)),
        None => test(name, || ()).with_kind("needs cgroup.kill").with_ignored_flag(true),
    }
}

/// A container runtime ends everything in the program's control group: nothing of the supervisor is outside, and nothing is left.
/// Seen to fail: with a guardian that goes to the root group (the program alone was in it).
fn all_killed(group: &Path) {
    for (mut command, count) in both_ways().into_iter().zip(1..) {
        let group = group.with_file_name(format!("sockopt-killed-{count}-{}", std::process::id()));
        std::fs::create_dir(&group).expect("a control group");
        let marker = marker(&format!("killed-{count}"));
        let (name, value) = marker.split_once('=').expect("NAME=VALUE");
        let mut shell = plain("sh");
        shell.args(["-c", "echo 0 >\"$0\"/cgroup.procs && exec \"$@\""]).arg(&group).env(name, value);
        shell.arg(command.get_program()).args(command.get_args()).arg(program()).arg("sleep");
        command = shell;
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let _ = BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line);
        assert_eq!(line, "ready\n");
        let (own, members) = (both(&marker), std::fs::read_to_string(group.join("cgroup.procs")));
        std::fs::write(group.join("cgroup.kill"), "1").expect("it may be killed");
        let members = members.expect("its processes");
        assert_eq!((own.len(), members.lines().count()), (2, 3), "{own:?} {members}");
        assert_eq!(child.wait().expect("it ends").signal(), Some(9));
        assert!(within(Duration::from_secs(5), || workers(&marker).is_empty()), "{:?}", workers(&marker));
        assert!(within(Duration::from_secs(5), || std::fs::remove_dir(&group).is_ok()));
    }
}

/// A program that ends every process of its user ends the supervisor too, as the documents say: its calls fail from then on. A program that has
/// become another user cannot end root's. In a namespace of processes of its own, whose first one is the shell. Seen to fail: with a program that
/// ends nobody ("keepalive 1 5" twice).
fn kills_all_it_may() {
    let start = |namespaces: &[&str], user: &[&str]| {
        let line = format!("\"$0\" run {RULE} \"$@\"; echo $?");
        let mut command = plain("timeout");
        command.args(["30", "unshare"]).args(namespaces).args(["--kill-child", "--mount-proc", "sh", "-c", &line]);
        outcome(command.arg(sockopt()).arg(program()).args(["kill-all", &port()]).args(user))
    };
    let found = start(&["-Urpf"], &[]);
    assert_eq!(found, (Some(0), format!("{KEPT}Function not implemented\n0\n"), String::new()));
    if is_root() {
        assert_eq!(start(&["-pf"], &["65534"]), (Some(0), format!("{KEPT}{KEPT}0\n"), String::new()));
    }
}

/// Their calls go on as without, and have no options.
fn programs_of_32_bits() {
    let port = port();
    let file = scratch("supervise-narrow").join("narrow");
    let source = crate::support::root().join("tests/probes/narrow.c");
    let mut compiler = plain("cc");
    compiler.args(["-m32", "-O1", "-Wall", "-Werror", "-fno-pic", "-fno-stack-protector", "-nostdlib", "-static"]);
    let (code, _, said) = outcome(compiler.arg(format!("-DPORT={port}")).arg("-o").arg(&file).arg(source));
    assert_eq!(code, Some(0), "{said}");
    for mut command in both_ways() {
        // By itself it is refused.
        command.args(["--by=supervisor", "sh", "-c", &format!("{}; exit $?", file.display())]);
        let found = outcome(&mut command);
        assert_eq!(found.0, Some(7), "{command:?} {found:?}");
        // Seen to fail: nothing was said.
        let said = "names a program that the supervisor would not reach: ";
        assert!(found.2.contains(said) && found.2.contains(" is for 32-bit x86: "), "{command:?} {found:?}");
    }
}
