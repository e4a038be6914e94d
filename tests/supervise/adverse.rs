//! What a program, or who starts it, could do to the supervisor; and what the supervisor could do to it.

use std::net::TcpListener;
use std::process::Command;
use std::thread;

use libtest_mimic::Trial;

use crate::command::{outcome, run};
use crate::support::lab::{Lab, Place, SERVER, needs};
use crate::support::{is_root, plain, probe, sockopt, static_probe, test, test_with};

pub(crate) fn trials() -> Vec<Trial> {
    let lab = needs([]);
    vec![
        test("supervise::adverse::no_signal_of_children", no_signal_of_children),
        test("supervise::adverse::closed_descriptors", closed_descriptors),
        test("supervise::adverse::own_port", own_port),
        test_with(&lab, "supervise::adverse::many_that_connect", many_that_connect),
        test_with(&lab, "supervise::adverse::given_up", given_up),
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
