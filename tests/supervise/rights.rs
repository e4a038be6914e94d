//! Who may look at whom: users, set-id bits, capabilities, limits.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;

use super::confined::{confined, docker};
use super::processes::{KEPT, RULE, port, program};
use crate::command::{outcome, run};
use crate::support::{is_root, plain, probe, sockopt, test_with};

pub(crate) fn trials() -> Vec<Trial> {
    let of_root = |name: &str, run: fn()| test_with(&["setpriv"], name, run).with_ignored_flag(!is_root());
    vec![
        test_with(&["setpriv"], "supervise::rights::without_privilege", without_privilege),
        test_with(&["setpriv"], "supervise::rights::hidden_where_sockets_are_made", hidden_where_sockets_are_made),
        of_root("supervise::rights::setuid_children", setuid_children),
        of_root("supervise::rights::another_user", another_user),
        test_with(&["namespaces", "unshare", "setpriv"], "supervise::rights::what_it_starts", what_it_starts),
        test_with(&["setpriv", "prlimit"], "supervise::rights::limits", limits).with_ignored_flag(!is_root()),
    ]
}

/// What a socket has on which nothing was set.
const NOTHING: &str = "keepalive 0 7200 user_timeout 0";

/// The command and the program where everybody may run them.
struct Copies {
    folder: PathBuf,
    sockopt: PathBuf,
    program: PathBuf,
}

impl Copies {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sockopt-supervise-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let copy = |from: &Path, name: &str| {
            let to = folder.join(name);
            crate::command::copy(from, &to);
            to
        };
        Self { sockopt: copy(sockopt(), "sockopt"), program: copy(&program(), "program"), folder }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

const NOBODY: u32 = 65_534;

/// `setpriv`, by root.
fn as_user(user: u32) -> Command {
    let mut command = plain("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]).current_dir("/");
    command
}

/// The same as root, who may not look into programs of other users.
fn blind() -> Command {
    let mut command = plain("setpriv");
    command.arg("--bounding-set=-sys_ptrace");
    command
}

/// As somebody who is not root: no_new_privs, and a program that hides itself is left alone.
fn without_privilege() {
    let copies = Copies::new("nobody");
    let port = port();
    let start = |option: &str, arguments: &[&str]| {
        let mut command = if is_root() { as_user(NOBODY) } else { plain("env") };
        outcome(command.arg(&copies.sockopt).args(["run", RULE, option]).arg(&copies.program).args(arguments))
    };
    let (code, printed, stderr) = start("--log=warn", &["self"]);
    assert_eq!((code, stderr.as_str()), (Some(7), ""));
    assert!(printed.ends_with("no_new_privs 1\n"), "{printed}");
    let (code, printed, stderr) = start("--log=warn", &["dial", &port]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(printed.starts_with(KEPT), "{printed}");
    // Its standard error is hidden as well.
    let log = copies.folder.join("log");
    fs::write(&log, "").expect("a file");
    fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).expect("it is ours");
    let option = format!("--log-file={}", log.display());
    let (code, printed, stderr) = start(&option, &["hidden", &port]);
    assert_eq!((code, printed, stderr.as_str()), (Some(0), format!("{NOTHING}\n"), ""));
    let said = fs::read_to_string(&log).expect("a log");
    assert!(said.contains("warning: the kernel does not let the supervisor look into this process"), "{said}");
}

/// Where the supervisor makes the sockets, a program that nobody may look into is left alone: the kernel makes its sockets. Seen to fail:
/// with an error for an answer to its `socket`.
fn hidden_where_sockets_are_made() {
    let copies = Copies::new("hidden");
    let refuse = copies.folder.join("refuse");
    crate::command::copy(probe("refuse"), &refuse);
    let mut command = if is_root() { as_user(NOBODY) } else { plain("env") };
    command.arg(refuse).args([&docker(), "1"]).arg(&copies.sockopt).args(["run", RULE]).arg(&copies.program);
    let found = outcome(command.args(["hidden", &port()]));
    assert_eq!(found, (Some(0), format!("{NOTHING}\n"), String::new()));
}

/// A shell under the supervisor starts a program that belongs to another user and is setuid. With CAP_SYS_ADMIN it gets that user, and
/// its options, unless the supervisor may not look into it. Without CAP_SYS_ADMIN it stays with the user that it has, as is said.
/// Seen to fail: with no_new_privs always set ("effective 0").
fn setuid_children() {
    let copies = Copies::new("setuid");
    chown(&copies.program, Some(65_533), None).expect("root may");
    fs::set_permissions(&copies.program, fs::Permissions::from_mode(0o4755)).expect("root may");
    let line = format!("{} who {}; exit $?", copies.program.display(), port());
    let start = |mut command: Command, is_under: bool| {
        if is_under {
            command.arg(&copies.sockopt).args(["run", RULE, "--log=warn", "--by=supervisor"]);
        }
        outcome(command.args(["sh", "-c", &line]))
    };
    let root = || plain("env");
    let note = "note: without CAP_SYS_ADMIN, programs under the supervisor gain no privileges from setuid bits or file capabilities: sudo, su and \
        the like fail\n";
    let closed = "the kernel does not let the supervisor look into this process";
    for (command, is_under, user, options, said) in [
        (root(), false, "user 0 effective 65533", NOTHING, ""),
        (root(), true, "user 0 effective 65533", KEPT, ""),
        (blind(), true, "user 0 effective 65533", NOTHING, closed),
        (as_user(NOBODY), false, "user 65534 effective 65533", NOTHING, ""),
        (as_user(NOBODY), true, "user 65534 effective 65534", KEPT, note),
    ] {
        let what = format!("{command:?} {is_under}");
        let (code, printed, stderr) = start(command, is_under);
        assert_eq!((code, printed), (Some(0), format!("{user}\n{options}\n")), "{what}: {stderr}");
        assert!(if said == closed { stderr.contains(said) } else { stderr == said }, "{what}: {stderr}");
    }
}

/// A program that becomes another user: a supervisor of root sets its options all the same. Where it makes the sockets, or may not look into
/// other users' programs, they have none, and connect as ever. Seen to fail: with the comparison of users left out where sockets are made.
fn another_user() {
    let arguments = ["becomes".to_owned(), port(), "65534".to_owned()];
    let mut blind = blind();
    blind.arg(sockopt()).arg("run");
    for (mut command, options) in [(run(), KEPT), (confined(), NOTHING), (blind, NOTHING)] {
        // What the supervisor could say, it may not write to the program's standard error.
        let found = outcome(command.arg(RULE).arg(program()).args(&arguments));
        assert_eq!(found, (Some(0), format!("{options}\n"), String::new()), "{command:?}");
    }
}

/// Where the kernel lets nobody look into what a program starts (Yama), a shell is told so. A kernel without Yama is given its file. Seen
/// to fail: nothing was said.
fn what_it_starts() {
    let start = |scope: &str, drops: &str| {
        let script = format!(
            "mount -t tmpfs none /proc/sys/kernel && mkdir /proc/sys/kernel/yama && echo {scope} >/proc/sys/kernel/yama/ptrace_scope && \
             exec setpriv {drops} \"$0\" run {RULE} --by=supervisor sh -c :"
        );
        let mut command = plain("unshare");
        outcome(command.args(["-Urmpf", "--mount-proc", "sh", "-c", &script]).arg(sockopt()))
    };
    let said = "warning: kernel.yama.ptrace_scope is set here: the supervisor sets options in this program, but not in programs that it \
        starts\nhelp: run sockopt with CAP_SYS_PTRACE, or put `sockopt run` directly before the program that connects\n";
    let none = "--bounding-set=-sys_ptrace";
    for (scope, drops, said) in [("1", none, said), ("0", none, ""), ("1", "--inh-caps=-all", "")] {
        assert_eq!(start(scope, drops), (Some(0), String::new(), said.to_owned()), "{scope} {drops}");
    }
}

/// A start for which there are too few descriptors or processes says so, and starts nothing. Seen to fail: with an empty line of help, and
/// with "errno 32" where the second fork fails; with 7 descriptors it started, and set no option.
fn limits() {
    let copies = Copies::new("limits");
    let start = |limit: &str| {
        // Nobody else has processes of this user.
        let mut command = as_user(64_321);
        command.args(["prlimit", limit]).arg(&copies.sockopt).args(["run", RULE]).arg(&copies.program);
        outcome(command.args(["dial", &port()]))
    };
    let descriptors = "error: the supervisor cannot work here: the program's descriptors cannot be copied: EMFILE\n\
        help: raise the limit of descriptors (ulimit -n)\n";
    let processes = "error: the supervisor cannot work here: its processes cannot be started: EAGAIN\n\
        help: raise the limit of processes (ulimit -u, or pids.max of the control group)\n";
    let few = ["--nofile=6", "--nofile=7", "--nofile=8", "--nofile=9"].map(|limit| (limit, descriptors));
    for (limit, said) in few.into_iter().chain([("--nproc=1", processes), ("--nproc=2", processes)]) {
        assert_eq!(start(limit), (Some(1), String::new(), said.to_owned()), "{limit}");
    }
    let (code, printed, stderr) = start("--nofile=10");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(printed.starts_with(KEPT), "{printed}");
}
