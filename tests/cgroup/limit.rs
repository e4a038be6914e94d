//! `connect_timeout` in the kernel: how long a connect takes that nobody answers, and what the connection has afterwards.

use libtest_mimic::Trial;

use super::{Group, answers, fill, in_kernel};
use crate::support::lab::{Lab, Place, SERVER};
use crate::support::{static_probe, text};

pub(super) fn trials() -> Vec<Trial> {
    [
        in_kernel(&["namespaces"], "cgroup::limit::connects_that_nobody_answers", connects_that_nobody_answers),
        in_kernel(&["namespaces", "ip"], "cgroup::limit::a_real_cut", a_real_cut),
        in_kernel(&["namespaces"], "cgroup::limit::what_a_connection_has_then", what_a_connection_has_then),
        in_kernel(&["namespaces"], "cgroup::limit::to_itself_or_a_listener_at_last", to_itself_or_listening),
    ]
    .into_iter()
    .map(|trial| if fill::tells() { trial } else { trial.with_ignored_flag(true).with_kind("needs Linux 6.1") })
    .collect()
}

const TWO_SECONDS: &str = "[[rule]]\nto = [\"*:7000\"]\nconnect_timeout = \"2s\"\n";

/// How long each connect took, milliseconds: between two and the next two of the clock's answers.
fn took(printed: &str) -> Vec<u64> {
    let times: Vec<u64> = answers(printed, "clock").iter().filter_map(|time| time.parse().ok()).collect();
    times.chunks_exact(2).map(|pair| pair[1] - pair[0]).collect()
}

/// A listener whose queue is full swallows SYNs: a connect that is waited for, and one that is polled, by a static program.
///
/// Seen to fail: with no time set for connecting: the first is not over after 30 s.
fn connects_that_nobody_answers() {
    let lab = Lab::new();
    let group = Group::with(TWO_SECONDS);
    let printed = group.calls(
        &lab,
        &[
            "socket l inet stream",
            "bind l 127.0.0.1:7000",
            "listen l 0",
            "socket a inet stream",
            "connect a 127.0.0.1:7000",
            "socket s inet stream",
            "clock",
            "connect s 127.0.0.1:7000",
            "clock",
            "socket t inet stream+nonblock",
            "clock",
            "connect t 127.0.0.1:7000",
            "poll t 9000",
            "clock",
            "get t 1/4",
        ],
    );
    assert!(printed.contains("connect s 127.0.0.1:7000 = -1 ETIMEDOUT"), "{printed}");
    assert_eq!(answers(&printed, "get t 1/4"), [libc::ETIMEDOUT.to_string()], "{printed}");
    let took = took(&printed);
    assert!(took.len() == 2 && took.iter().all(|took| (1_980..3_500).contains(took)), "{took:?} {printed}");
}

/// The server is cut off before the connect.
fn a_real_cut() {
    let lab = Lab::with_link();
    let group = Group::with(TWO_SECONDS);
    lab.cut();
    let connect = format!("connect s {SERVER}:7000");
    let mut command = group.command(&lab, Place::Client, static_probe("calls"));
    let output = command.args(["socket s inet stream", "clock", &connect, "clock"]).output().expect("nsenter");
    let (stdout, stderr) = text(&output);
    assert!(stdout.contains("= -1 ETIMEDOUT"), "{stdout}{stderr}");
    let took = took(&stdout);
    assert!(took.iter().all(|took| (1_980..3_500).contains(took)), "{took:?}");
}

/// None, or the rule's user timeout, or the one that the program has set itself: also where a connect is polled, on IPv6, and after
/// one that was refused. The configuration is replaced in between.
///
/// Seen to fail: with nothing done when a connection stands.
fn what_a_connection_has_then() {
    let lab = Lab::new();
    let group = Group::with(TWO_SECONDS);
    let calls = [
        "socket l inet6 stream",
        "set l 1/2 1",
        "bind l [::]:7000",
        "listen l 9",
        "socket s inet stream",
        "connect s 127.0.0.1:7000",
        "get s 6/18",
        "socket t inet stream+nonblock",
        "set t 6/18 60000",
        "connect t 127.0.0.1:7000",
        "poll t 2000",
        "get t 6/18",
        "socket u inet6 stream",
        "set u 6/18 1000",
        "connect u [::1]:7000",
        "get u 6/18",
        "socket v inet6 stream",
        "connect v [::ffff:127.0.0.1]:7000",
        "get v 6/18",
        "accept a l",
        "get a 6/18",
    ];
    let printed = group.calls(&lab, &calls);
    let found = ["get s", "get t", "get u", "get v", "get a"].map(|begin| answers(&printed, begin).join(" "));
    assert_eq!(found, ["0", "60000", "1000", "0", "0"], "{printed}");
    group.attach(&format!("{TWO_SECONDS}user_timeout = \"9s\"\n"));
    let printed = group.calls(&lab, &calls);
    let found = ["get s", "get t", "get u", "get v", "get a"].map(|begin| answers(&printed, begin).join(" "));
    assert_eq!(found, ["9000", "9000", "9000", "9000", "0"], "{printed}");
    group.attach("[[rule]]\nto = [\"*:7000-7001\"]\nconnect_timeout = \"2s\"\n");
    let calls = [
        "socket s inet stream",
        "connect s 127.0.0.1:7001",
        "get s 6/18",
        "socket l inet stream",
        "set l 1/2 1",
        "bind l 127.0.0.1:7000",
        "listen l 9",
        "connect s 127.0.0.1:7000",
        "get s 6/18",
    ];
    let printed = group.calls(&lab, &calls);
    assert_eq!(answers(&printed, "get s"), ["1999", "0"], "{printed}");
}

/// A socket that connects to itself has connected too, though the kernel tells of it as of one that was accepted: it gets nothing of
/// rules for those. One whose connect has failed may listen, and what it accepts has no time for connecting.
///
/// Seen to fail: with the time taken back at the event for connected sockets alone (1999); with a socket that connects to itself taken
/// for an accepted one (33).
fn to_itself_or_listening() {
    let lab = Lab::new();
    let with_accepted = format!("{TWO_SECONDS}[[rule]]\nfrom = [\"127.0.0.0/8\"]\nkeepalive = {{ time = \"33s\" }}\n");
    let group = Group::new();
    for rules in [TWO_SECONDS, &with_accepted] {
        group.attach(rules);
        // Without what is left of the connections before.
        let lab = Lab::new();
        for (family, address) in [("inet", "127.0.0.1:7000"), ("inet6", "[::1]:7000")] {
            let (socket, bind, connect) =
                (format!("socket s {family} stream"), format!("bind s {address}"), format!("connect s {address}"));
            let printed = group.calls(&lab, &[&socket, &bind, &connect, "get s 6/18", "get s 6/4"]);
            assert!(printed.contains(&format!("{connect} = 0")), "{printed}");
            assert_eq!(answers(&printed, "get s"), ["0", "7200"], "{rules} {printed}");
        }
    }
    let printed = group.calls(
        &lab,
        &[
            "socket l inet stream",
            "bind l 127.0.0.1:7001",
            "connect l 127.0.0.1:7000",
            "get l 6/18",
            "listen l 5",
            "get l 6/18",
            "socket t inet stream",
            "connect t 127.0.0.1:7001",
            "accept a l",
            "get a 6/18",
            "get a 6/4",
        ],
    );
    assert!(printed.contains("connect l 127.0.0.1:7000 = -1 ECONNREFUSED"), "{printed}");
    assert_eq!(answers(&printed, "get l"), ["1999", "0"], "{printed}");
    assert_eq!(answers(&printed, "get a"), ["0", "33"], "{printed}");
}
