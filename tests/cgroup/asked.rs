//! What is said beforehand of what the kernel does: `check`, `explain` and `attach --dry-run`; and of what it does: `show`.

use std::fs;

use libtest_mimic::Trial;

use super::{Group, KEEPALIVE, in_kernel, run};
use crate::command::outcome;
use crate::support::lab::{Lab, Place, Running};
use crate::support::{find, is_root, plain, sockopt, test_with, text};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        in_kernel(&[], "cgroup::asked::as_root_the_options_are_tried", as_root_the_options_are_tried),
        test_with(&["setpriv"], "cgroup::asked::without_root_they_are_not", without_root_they_are_not),
        in_kernel(&[], "cgroup::asked::a_dry_run_attaches_nothing", a_dry_run_attaches_nothing),
        in_kernel(&["namespaces"], "cgroup::asked::show_says_kernel", show_says_kernel),
    ]
}

const ASKED: &str = "[defaults]\npriority = 1\n\
    [[rule]]\nname = \"out\"\nto = [\"10.0.0.0/8\"]\nuser_timeout = \"7s\"\nnodelay = true\nlinger = \"reset\"\n\
    [[rule]]\nname = \"in\"\nlisten = [\":80\"]\nfrom = [\"10.0.0.0/8\"]\nuser_timeout = \"9s\"\nenforce = false\n";

/// `sockopt` with these words about the configuration, as JSON.
fn asked(words: &[&str]) -> serde_json::Value {
    let (code, printed, said) = outcome(plain(sockopt()).env("SOCKOPT_CONFIG_TOML", ASKED).args(words).arg("--json"));
    assert_eq!(code, Some(0), "{said}");
    serde_json::from_str(&printed).unwrap_or_else(|why| panic!("{why}: {printed}"))
}

/// Key, what sets it, whether it is enforced, why it is not set: of a rule.
fn of_rule(report: &serde_json::Value, rule: &str) -> Vec<String> {
    let all = report["kernel"]["settings"].as_array().expect("a list");
    let of_rule = all.iter().filter(|one| one["rule"] == rule);
    of_rule
        .map(|one| {
            format!("{} {} {} {}", one["setting"], one["set_by"], one["enforced"], one["why_not"]).replace('"', "")
        })
        .collect()
}

/// What each rule's options are set by, for all rules and for one connection.
///
/// Seen to fail: with nothing tried, `tried` is false.
fn as_root_the_options_are_tried() {
    let report = asked(&["check", "--for", "kernel"]);
    assert_eq!(report["kernel"]["tried"], true, "{report}");
    assert_eq!(
        of_rule(&report, "rule \"out\""),
        [
            "TCP_USER_TIMEOUT=7000 [connect4,connect6] true null",
            "SO_LINGER={1,0} [] false eBPF programs cannot set SO_LINGER",
            "TCP_NODELAY=1 [connect4,connect6] true null",
            "SO_PRIORITY=1 [connect4,connect6] true null",
        ]
    );
    assert_eq!(
        of_rule(&report, "rule \"in\""),
        ["TCP_USER_TIMEOUT=9000 [sock_ops at accept] false null", "SO_PRIORITY=1 [sock_ops at accept] false null"]
    );
    assert_eq!(
        of_rule(&report, "defaults"),
        ["SO_PRIORITY=1 [connect4,connect6,sock_ops at listen,sock_ops at accept] true null"]
    );
    assert_eq!(report["cannot"], serde_json::json!(["rule \"out\": linger: eBPF programs cannot set SO_LINGER"]));
    let report = asked(&["explain", "--for", "kernel", "10.1.1.1:80"]);
    let calls = report["connections"][0]["steps"][0]["calls"].as_array().expect("calls");
    let of = |name: &str| calls.iter().find(|call| call["name"] == name).expect("a call")["kernel"].clone();
    assert_eq!(of("TCP_USER_TIMEOUT")["set_by"], serde_json::json!(["connect4", "connect6"]));
    assert_eq!(of("SO_LINGER")["why_not"], "eBPF programs cannot set SO_LINGER");
    let notes = report["notes"].to_string();
    assert!(notes.contains("tried on this kernel") && notes.contains("--partial it leaves this out): rule"), "{notes}");
    let report = asked(&["explain", "--for", "kernel", "--listen", ":80", "--from", "10.1.1.1"]);
    let steps = report["connections"][0]["steps"].to_string();
    assert!(steps.contains("sock_ops at accept") && !steps.contains("connect4"), "{steps}");
    // Not asked for.
    assert!(!asked(&["explain", "10.1.1.1:80"]).to_string().contains("connect4"));
}

/// Seen to fail: with what is not root's tried all the same, it says why the kernel refused instead.
fn without_root_they_are_not() {
    let copy = std::env::temp_dir().join(format!("sockopt-asked-{}", std::process::id()));
    crate::command::copy(sockopt(), &copy);
    let mut command = if is_root() {
        let mut command = plain("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
        command
    } else {
        plain(&copy)
    };
    let (code, printed, said) = outcome(command.env("SOCKOPT_CONFIG_TOML", ASKED).args(["check", "--for=kernel"]));
    let _ = fs::remove_file(&copy);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the options were not tried on this kernel (that takes root)"), "{said}");
    assert!(said.contains("warning: rule \"out\": linger: eBPF programs cannot set SO_LINGER"), "{said}");
    let printed = printed.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(printed.contains("connect4, connect6; enforced by setsockopt"), "{printed}");
}

/// Seen to fail: with the option ignored.
fn a_dry_run_attaches_nothing() {
    let group = Group::new();
    let (stdout, stderr) = text(&group.try_attach(KEEPALIVE, &["--dry-run"]));
    assert!(stdout.contains("TCP_USER_TIMEOUT=14000") && stdout.contains("connect4, connect6"), "{stdout}");
    assert!(stderr.contains("nothing was attached to"), "{stderr}");
    assert_eq!(run(&["detach"], &group.0).status.code(), Some(1), "something was attached");
    let output = group.try_attach(ASKED, &["--dry-run"]);
    let (stdout, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    assert!(stdout.contains("no: eBPF programs cannot set"), "{stdout}");
}

/// Of a process in a group within the one that is attached to.
///
/// Seen to fail: with the process's own group alone.
fn show_says_kernel() {
    let lab = Lab::new();
    let group = Group::new();
    let within = Group(group.0.join("within"));
    fs::create_dir(&within.0).expect("a control group");
    let (input, running) = Running::start_with_input(within.command(&lab, Place::Here, "cat"));
    let pid = within.member(&fs::canonicalize(find("cat").expect("coreutils")).expect("a path"));
    let shown = |words: &[&str]| text(&plain(sockopt()).arg("show").args(words).arg(&pid).output().expect("sockopt")).0;
    assert!(!shown(&[]).contains("by the kernel"));
    assert!(shown(&["--json"]).contains("\"in_kernel\": false"));
    group.attach(KEEPALIVE);
    assert!(shown(&[]).contains("by the kernel"), "{}", shown(&[]));
    assert!(shown(&["--json"]).contains("\"in_kernel\": true"));
    group.detach();
    assert!(!shown(&[]).contains("by the kernel"));
    drop(input);
    running.finish();
}
