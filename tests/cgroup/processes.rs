//! Rules with `process`, by the name of the executable that each program in the group has.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;

use super::{Group, answers, in_kernel};
use crate::support::lab::{Lab, Place, Running};
use crate::support::{scratch, sockopt, static_probe, text};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        in_kernel(&["namespaces"], "cgroup::processes::each_executable_has_its_rule", each_executable_has_its_rule),
        in_kernel(&["namespaces"], "cgroup::processes::accepted_sockets_go_by_the_listener", by_the_listener),
        in_kernel(&["setpriv"], "cgroup::processes::who_may_not_read_is_told", who_may_not_read_is_told),
        in_kernel(&[], "cgroup::processes::too_many_wildcards_are_refused", too_many_wildcards_are_refused),
    ]
}

const POLICY: &str = "[defaults]\nuser_timeout = \"5s\"\n\
    [[rule]]\nname = \"jvm\"\nprocess = [\"java\", \"?vm\"]\nuser_timeout = \"6s\"\n\
    [[rule]]\nname = \"first of two\"\nprocess = [\"worker-*\"]\nto = [\"127.0.0.1:7001\"]\nuser_timeout = \"7s\"\n\
    [[rule]]\nname = \"all\"\nto = [\"127.0.0.1:7001\"]\nuser_timeout = \"8s\"\n";

/// The probe that makes calls, under another name.
fn executable(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    crate::command::copy(static_probe("calls"), &path);
    path
}

/// By the file's name, whatever the program is called in its arguments; a file that was removed meanwhile keeps its name.
///
/// Seen to fail: with one class for all processes that some rule asks for.
fn each_executable_has_its_rule() {
    let lab = Lab::new();
    let group = Group::with(POLICY);
    let folder = scratch("cgroup-processes");
    let long = "worker-with-a-name-that-is-far-longer-than-what-the-kernel-shows-of-a-command";
    for (name, expected) in [
        ("java", ["6000", "6000", "6000"]),
        ("\u{e9}vm", ["6000", "6000", "6000"]),
        ("javac", ["5000", "8000", "8000"]),
        ("worker-", ["5000", "7000", "7000"]),
        (long, ["5000", "7000", "7000"]),
    ] {
        let program = executable(&folder, name);
        let calls = [
            "socket s inet stream",
            "connect s 127.0.0.1:7000",
            "get s 6/18",
            "socket t inet stream",
            "connect t 127.0.0.1:7001",
            "get t 6/18",
            "socket u inet6 stream",
            "connect u [::ffff:127.0.0.1]:7001",
            "get u 6/18",
        ];
        let output = group.command(&lab, Place::Here, &program).args(calls).output().expect("nsenter");
        let (stdout, stderr) = text(&output);
        let found = ["get s", "get t", "get u"].map(|begin| answers(&stdout, begin).join(" "));
        assert_eq!(found, expected, "{name}: {stdout}{stderr}");
    }
    // A link's name is not the file's; and a file without a name is still known by it.
    let link = folder.join("java-link");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(folder.join("java"), &link).expect("a link");
    let calls = ["socket w inet stream", "bind w 127.0.0.1:0", "listen w 1", "poll w 600", "socket s inet stream"];
    let mut command = group.command(&lab, Place::Here, &link);
    command.args(calls).args(["connect s 127.0.0.1:7000", "get s 6/18"]);
    let running = Running::start(command);
    std::thread::sleep(std::time::Duration::from_millis(300));
    fs::remove_file(folder.join("java")).expect("it was there");
    let (stdout, stderr) = text(&running.finish());
    assert_eq!(answers(&stdout, "get s"), ["6000"], "{stdout}{stderr}");
}

/// A client that another rule is for connects to a listener: what is accepted has what is the listener's.
///
/// Seen to fail: with the process that runs when the packet comes, which is the client.
fn by_the_listener() {
    let lab = Lab::new();
    let group = Group::with(
        "[[rule]]\nprocess = [\"server\"]\nlisten = [\":7003\"]\nfrom = [\"127.0.0.1\"]\nuser_timeout = \"6s\"\n\
         [[rule]]\nprocess = [\"other\"]\nlisten = [\":7003\"]\nfrom = [\"127.0.0.1\"]\nuser_timeout = \"7s\"\n\
         [[rule]]\nprocess = [\"server\"]\nlisten = [\":7004\"]\nuser_timeout = \"8s\"\n",
    );
    let folder = scratch("cgroup-listener-processes");
    let [server, other] = ["server", "other"].map(|name| executable(&folder, name));
    let mut command = group.command(&lab, Place::Here, &server);
    command.args(["socket l inet stream", "bind l 127.0.0.1:7003", "listen l 5", "socket m inet stream"]);
    command.args(["bind m 127.0.0.1:7004", "listen m 5", "accept a l", "get a 6/18", "accept b m", "get b 6/18"]);
    let running = Running::start(command);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let calls =
        ["socket s inet stream", "connect s 127.0.0.1:7003", "socket t inet stream", "connect t 127.0.0.1:7004"];
    let output = group.command(&lab, Place::Here, &other).args(calls).args(["get t 6/18"]).output().expect("nsenter");
    let (stdout, stderr) = text(&running.finish());
    assert_eq!(answers(&stdout, "get a"), ["6000"], "{stdout}{stderr}{}", text(&output).0);
    assert_eq!(answers(&stdout, "get b"), ["8000"], "{stdout}{stderr}{}", text(&output).0);
    assert_eq!(answers(&text(&output).0, "get t"), ["0"]);
}

/// Without CAP_PERFMON, before anything is attached.
///
/// Seen to fail: without the trial, by the kernel's verifier alone and without the rule's name.
fn who_may_not_read_is_told() {
    let group = Group::new();
    let file = scratch("cgroup-may-not-read").join("sockopt.toml");
    fs::write(&file, POLICY).expect("a file");
    let output = {
        let mut command = crate::support::plain("setpriv");
        command.args(["--bounding-set", "-perfmon,-sys_admin", "--inh-caps", "-perfmon,-sys_admin"]).arg(sockopt());
        command.args(["attach", "--config"]).arg(&file).arg(&group.0);
        command.output().expect("setpriv")
    };
    let (stdout, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(78), "{stdout}{stderr}");
    assert!(stderr.contains("rule \"jvm\": process: this kernel lets programs read no memory"), "{stderr}");
}

fn too_many_wildcards_are_refused() {
    let group = Group::new();
    let rule = |letter: char| format!("[[rule]]\nprocess = [\"*{letter}{letter}*\"]\npriority = 1\n");
    let output = group.try_attach(&('a'..='m').map(rule).collect::<String>(), &[]);
    let (stdout, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(78), "{stdout}{stderr}");
    assert!(stderr.contains("more than 4096 states for the names in process"), "{stderr}");
}
