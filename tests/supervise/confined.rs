//! Where no descriptor of the program's can be copied, the supervisor makes the sockets: as in a container under Docker's seccomp
//! profile.

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::processes::{kill, marker, named, port, workers};
use crate::command::outcome;
use crate::support::lab::{Lab, Place};
use crate::support::{
    MULTIPATH, find, go_program, is_root, plain, probe, scratch, sockopt, static_probe, test, test_with, text,
};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        test("supervise::confined::refused", refused),
        test("supervise::confined::unreadable", unreadable),
        test("supervise::confined::said_at_the_start", said_at_the_start),
        test("supervise::confined::another_network", another_network),
        test("supervise::confined::there_and_back", there_and_back).with_ignored_flag(!is_root()),
        test("supervise::confined::handed_on", handed_on),
        test("supervise::confined::own_table", own_table),
        test("supervise::confined::descriptors", descriptors),
        test("supervise::confined::closed_unused", closed_unused),
        test("supervise::confined::closed_after_sending", closed_after_sending),
        test("supervise::confined::closed_together", closed_together),
        test("supervise::confined::few_ports", few_ports),
        test("supervise::confined::no_room", no_room),
        test_with(&["strace"], "supervise::confined::many_at_first", many_at_first),
        test_with(&[MULTIPATH], "supervise::confined::multipath", multipath),
        test("supervise::confined::ends", ends),
        test("supervise::confined::worker_killed", worker_killed),
        test_with(&["go"], "supervise::confined::go", go),
    ];
    for profile in ["docker", "podman"] {
        for how in [How::Plain, How::ReadOnly, How::Nobody] {
            let name = format!("supervise::confined::container {profile} {how:?}");
            let trial = test_with(&["runc", "busybox"], name, move || container(profile, how));
            let is_there = profile_file(profile).is_file() || std::env::var_os("CI").is_some();
            trials.push(trial.with_ignored_flag(!is_root() || !is_there || find("runc").is_none()));
        }
    }
    trials
}

const RULE: &str = "--dead-peer-timeout=15s";
const KEPT: &str = "keepalive 1 5 user_timeout 14000";

/// What Docker's profile refuses without CAP_SYS_PTRACE.
pub(super) fn docker() -> String {
    [libc::SYS_pidfd_getfd, libc::SYS_kcmp, libc::SYS_process_vm_readv].map(|number| number.to_string()).join(",")
}

/// `sockopt run` in a sandbox that refuses some system calls.
fn without(calls: &str) -> Command {
    let mut command = plain(probe("refuse"));
    command.args([calls, "1"]).arg(sockopt()).arg("run");
    command
}

pub(super) fn confined() -> Command {
    without(&docker())
}

fn program() -> PathBuf {
    static_probe("supervised")
}

/// Each call that a sandbox refuses has its substitute, or there is a clear line. Seen to fail: "pidfd_getfd is not permitted".
fn refused() {
    let port = port();
    let memory = libc::SYS_process_vm_readv.to_string();
    let descriptors = libc::SYS_pidfd_getfd.to_string();
    for calls in [&memory, &descriptors, &docker()] {
        let found = outcome(without(calls).arg(RULE).arg(program()).args(["dial", &port]));
        assert_eq!(found, (Some(0), format!("{KEPT}\nown 0 0\n{KEPT}\n"), String::new()), "{calls}");
    }
    // Which socket a call is about is not told either.
    let links = format!("{descriptors},{}", libc::SYS_readlinkat);
    let (code, printed, stderr) = outcome(without(&links).arg(RULE).arg(program()).args(["dial", &port]));
    assert_eq!((code, printed.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("pidfd_getfd is not permitted (EPERM)"), "{stderr}");
}

/// What the program may not read itself is not read for it either: its call gives EFAULT, as without. Seen to fail: where
/// process_vm_readv is refused too, with all of /proc/TID/mem taken (setsockopt gave 0).
fn unreadable() {
    let memory = libc::SYS_process_vm_readv.to_string();
    for calls in [&memory, &docker()] {
        let found = outcome(without(calls).arg(RULE).arg(program()).args(["unreadable", &port()]));
        let fault = libc::EFAULT;
        let wanted = format!("set {fault} {fault} 0\n{KEPT}\n");
        assert_eq!(found, (Some(0), wanted, String::new()), "{calls}");
    }
}

/// What is lost, rule by rule; and --dry-run says by which way.
fn said_at_the_start() {
    let start = |toml: &str| outcome(confined().env("SOCKOPT_CONFIG_TOML", toml).arg(program()).arg("self")).2;
    assert_eq!(start("[[rule]]\nto = [\"10.0.0.0/8\"]\nuser_timeout = \"9s\"\n"), "");
    assert_eq!(start("[defaults]\ndead_peer_timeout = \"15s\"\n"), "");
    let why = "warning: the supervisor gets no copies of this program's sockets (pidfd_getfd is refused): ";
    assert_eq!(
        start(
            "[[rule]]\nname = \"a\"\nfrom = [\"10.0.0.0/8\"]\nuser_timeout = \"9s\"\n[[rule]]\nname = \"b\"\nto = [\":80\"]\nuser_timeout = \"9s\"\n"
        ),
        format!("{why}rules with from never match: rule \"a\"\n")
    );
    assert_eq!(
        start("[[rule]]\nlisten = [\":80\"]\nuser_timeout = \"9s\"\npriority = 3\n"),
        format!(
            "{why}accepted sockets get only what they inherit, not priority, receive_timeout, send_timeout and quickack\n\
             {why}what the program sets on accepted sockets is not overruled\n"
        )
    );
    assert_eq!(
        start("[defaults]\nenforce = \"fill\"\ndead_peer_timeout = \"15s\"\n"),
        format!("{why}with enforce = \"fill\" the user timeout that goes with a keepalive is not set\n")
    );
    let (code, _, said) = outcome(confined().args([RULE, "--dry-run"]).arg(program()));
    assert_eq!(code, Some(0));
    assert!(said.contains("the supervisor creates the program's sockets itself"), "{said}");
}

/// A program that goes into a network namespace of its own has its sockets there. Seen to fail: `own namespace 0 connect connected`,
/// with the comparison left out.
fn another_network() {
    let arguments = ["leave".to_owned(), port()];
    let alone = outcome(plain(program()).args(&arguments));
    assert!(alone.1.starts_with("own namespace 1 "), "{alone:?}");
    assert_eq!(outcome(confined().arg(RULE).arg(program()).args(&arguments)), alone);
}

/// Each socket is in the network namespace of the thread that makes it, wherever that goes (unshare, setns); in the first one it has options.
/// Seen to fail: with the comparison left out ("there 0", "of a thread 0").
fn there_and_back() {
    let there = format!("there 1\nback 1\n{KEPT}\nof a thread 1\nbeside it 1\n{KEPT}\n");
    assert_eq!(outcome(confined().arg(RULE).arg(program()).args(["back", &port()])), (Some(0), there, String::new()));
}

/// A thread that makes a socket may end before another one connects it. Seen to fail: `user_timeout 0`, with a copy that was given back when
/// the thread had ended.
fn handed_on() {
    let found = outcome(confined().arg(RULE).arg(program()).args(["handed", &port()]));
    assert_eq!(found, (Some(0), format!("{KEPT}\n"), String::new()));
}

/// Only the table of descriptors of the thread that made it has it. Seen to fail: `user_timeout 0`, with the process's table alone looked at.
fn own_table() {
    let found = outcome(confined().arg(RULE).arg(program()).args(["apart", &port()]));
    assert_eq!(found, (Some(0), format!("{KEPT}\n"), String::new()));
}

/// EMFILE, FD_CLOEXEC and O_NONBLOCK are as without.
fn descriptors() {
    let (code, printed, stderr) = outcome(confined().arg(RULE).arg(program()).args(["full", &port()]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(printed, format!("last 7 Too many open files\nflags 1 1 connect begun\n{KEPT}\n"));
}

fn free_port() -> String {
    let own = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    own.port().to_string()
}

/// A socket that was neither connected nor listened on is gone when the program has closed it. Seen to fail: `in use 198`, where
/// bind does not look for what was closed; `in use 100`, where the port of a bind that fails is taken for the socket's.
fn closed_unused() {
    let found = outcome(confined().arg(RULE).arg(program()).args(["unused", &free_port()]));
    assert_eq!(found, (Some(0), "in use 0 events 0\n".to_owned(), String::new()));
}

/// The same of a datagram socket that was never bound: the kernel chose its port. Seen to fail: `in use 20`, with only those ports looked
/// for that the program names.
fn closed_after_sending() {
    let mut command = confined();
    let command =
        command.env("SOCKOPT_CONFIG_TOML", "[defaults]\ndscp = \"af21\"\n").arg(program()).args(["sent", "0"]);
    assert_eq!(outcome(command), (Some(0), "in use 0\n".to_owned(), String::new()));
}

/// The same of many that share a port. Seen to fail: "then Address already in use", with 64 looked at.
fn closed_together() {
    let found = outcome(confined().arg(RULE).arg(program()).args(["shared", &free_port(), "200"]));
    assert_eq!(found, (Some(0), "then bound\n".to_owned(), String::new()));
}

/// What the program has closed keeps no port from the next, where there are ten. Seen to fail: `failed 128`.
fn few_ports() {
    let lab = Lab::with_link();
    let mut command = lab.command(Place::Client, &["SOCKOPT_DSCP=af21"], "sh");
    let script = "ip link set lo up; echo 40000 40009 >/proc/sys/net/ipv4/ip_local_port_range; exec \"$@\"";
    command.args(["-c", script, "-"]).arg(probe("refuse")).args([&docker(), "1"]).arg(sockopt()).args(["run", RULE]);
    assert_eq!(outcome(command.arg(program()).arg("few-ports")).1, "failed 0\n");
}

/// So many sockets are neither connected nor listened on at a time as half of what descriptors the supervisor may have; that others get no
/// options is said once. Seen to fail: nothing was said.
fn no_room() {
    let with = |limit: &str, what: &[&str]| {
        let mut command = plain("sh");
        command
            .args(["-c", &format!("ulimit -n {limit}; exec \"$@\""), "-"])
            .arg(probe("refuse"))
            .args([&docker(), "1"]);
        outcome(command.arg(sockopt()).arg("run").arg(RULE).arg(program()).args(what))
    };
    let (code, printed, stderr) = with("120", &["first", &port(), "30"]);
    assert_eq!((code, printed.as_str()), (Some(0), "without 40\n"), "{stderr}");
    assert!(stderr.contains("warning: 20 sockets of the supervised programs are neither connected nor"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    // Room for none. Seen to fail: it started, and no socket had options.
    let said = "the supervisor cannot work here: the program's descriptors cannot be copied: EMFILE\n\
        help: raise the limit of descriptors (ulimit -n)";
    for limit in ["12", "20", "81"] {
        let (code, printed, stderr) = with(limit, &["self"]);
        // Where the library is beside the command, its reason and its help are there too.
        assert!(code == Some(1) && printed.is_empty() && stderr.contains(said), "{limit}: {stderr}");
    }
    assert_eq!(with("82", &["shared", &free_port(), "1"]), (Some(0), "then bound\n".to_owned(), String::new()));
}

/// Nothing is looked for among all of them at each call. Seen to fail: 70,000 calls of readlink and more, with all looked at at each bind.
fn many_at_first() {
    let log = scratch("supervise-first").join("strace");
    let mut command = plain("strace");
    command.args(["-f", "-qq", "-e", "trace=readlink,readlinkat", "-o"]).arg(&log).arg(probe("refuse"));
    command.args([&docker(), "1"]).arg(sockopt()).arg("run").arg(RULE).arg(program()).args(["first", &port(), "220"]);
    assert_eq!(outcome(&mut command), (Some(0), "without 0\n".to_owned(), String::new()));
    let looks = fs::read_to_string(log).expect("what strace wrote").lines().count();
    assert!(looks < 40_000, "{looks}");
}

/// A listener of Multipath TCP has no user timeout, and answers so. Seen to fail: `user timeout: set`. That what it accepts gets none is said.
fn multipath() {
    let (code, printed, stderr) = outcome(confined().arg(RULE).arg(program()).args(["multipath", "0"]));
    assert_eq!((code, printed.as_str()), (Some(0), "user timeout: Protocol not available\nkeepalive: 0\n"), "{stderr}");
    assert!(stderr.contains("what is accepted gets no option that Multipath TCP lacks"), "{stderr}");
}

/// The peer reads the end at once, and a port that was listened on is closed.
fn ends() {
    let found = outcome(confined().arg(RULE).arg(program()).args(["ends", "0"]));
    assert_eq!(found, (Some(0), "read 0 then Connection refused\n".to_owned(), String::new()));
}

/// Connections go on, at most without options: of those sockets that were made and not connected yet. Seen to fail: "Socket operation
/// on non-socket", 4 of 10,000, with SECCOMP_ADDFD_FLAG_SEND: the program's `socket` gave 0.
fn worker_killed() {
    let marker = marker("confined");
    let (name, value) = marker.split_once('=').expect("NAME=VALUE");
    let mut command = confined();
    command.env(name, value).arg(RULE).arg(program()).args(["many", &port(), "10000"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let (mut kills, mut last) = (0, 0);
    while kills < 15 && matches!(child.try_wait(), Ok(None)) {
        if let Some(&worker) = named(&marker, "sockopt-work").first()
            && worker != last
        {
            kill(worker, "KILL");
            (kills, last) = (kills + 1, worker);
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    let (printed, _) = text(&child.wait_with_output().expect("it ends"));
    assert!(kills >= 5, "{kills} kills: {printed}");
    let without: Option<u32> = printed.trim().strip_prefix("errors 0 without ").and_then(|number| number.parse().ok());
    assert!(without.is_some_and(|without| without <= kills), "{kills} kills: {printed}");
    let is_gone = || workers(&marker).is_empty();
    assert!(super::processes::within(std::time::Duration::from_secs(5), is_gone), "{:?}", workers(&marker));
}

/// Go's own keepalive, which it sets on each connection, is answered and not carried out.
fn go() {
    let mut command = confined();
    let command = command.args([RULE, "--log=info"]).arg(go_program("client")).args(["dial", "127.0.0.1", &port()]);
    let (code, printed, said) = outcome(command);
    let wanted = "keepalive 1 5 3 3 user_timeout 14000 linger2 60\n";
    assert_eq!((code, printed.as_str()), (Some(0), wanted), "{said}");
    assert!(said.contains("SO_KEEPALIVE: not carried out") && said.contains("TCP_KEEPIDLE: not carried out"), "{said}");
}

/// How a container is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Plain,
    ReadOnly,
    Nobody,
}

fn profile_file(profile: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("profiles/{profile}.json"))
}

/// Capabilities that Docker gives a container.
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A profile in the form of runc: the rules whose conditions hold for these capabilities here.
fn seccomp(profile: &str) -> Value {
    let text = fs::read_to_string(profile_file(profile)).expect("tests/supervise/profiles.sh fetches it");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let has_capability = |name: &Value| {
        CAPABILITIES.iter().any(|own| name.as_str().and_then(|name| name.strip_prefix("CAP_")) == Some(own))
    };
    let machine = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let is_here = |name: &Value| name.as_str() == Some(machine);
    let counts = |rule: &&Value| {
        let (with, but) = (&rule["includes"], &rule["excludes"]);
        list(&with["caps"]).iter().all(has_capability)
            && (with["arches"].is_null() || list(&with["arches"]).iter().any(is_here))
            && !list(&but["caps"]).iter().any(has_capability)
            && !list(&but["arches"]).iter().any(is_here)
    };
    let rules: Vec<Value> = list(&all["syscalls"])
        .iter()
        .filter(counts)
        .map(|rule| {
            let mut own = json!({"names": rule["names"], "action": rule["action"]});
            for (key, value) in [("args", &rule["args"]), ("errnoRet", &rule["errnoRet"])] {
                if !value.is_null() && value != &json!([]) {
                    own[key] = value.clone();
                }
            }
            own
        })
        .collect();
    let mut own = json!({"defaultAction": all["defaultAction"], "syscalls": rules});
    if !all["defaultErrnoRet"].is_null() {
        own["defaultErrnoRet"] = all["defaultErrnoRet"].clone();
    }
    own["architectures"] = if cfg!(target_arch = "x86_64") {
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    } else {
        json!(["SCMP_ARCH_AARCH64"])
    };
    own
}

/// A root that has the command, the program and a shell.
fn root_file_system(folder: &Path) {
    let root = folder.join("rootfs");
    for name in ["bin", "proc", "dev", "tmp", "lib", "etc"] {
        fs::create_dir_all(root.join(name)).expect("a folder");
    }
    for (from, name) in
        [(sockopt().to_owned(), "sockopt"), (program(), "program"), (find("busybox").expect("busybox"), "busybox")]
    {
        crate::command::copy(from, root.join("bin").join(name));
    }
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).expect("a link");
    // The command is linked with this system's libc.
    let (libraries, _) = text(&plain("ldd").arg(sockopt()).output().expect("ldd"));
    for file in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        crate::command::copy(file, to);
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// Runs a command line as the first process of a container, in this machine's network.
fn in_container(folder: &Path, profile: &str, how: How, arguments: &[&str]) -> (Option<i32>, String, String) {
    let capabilities: Vec<String> =
        if how == How::Nobody { Vec::new() } else { CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect() };
    let user = if how == How::Nobody { 65_534 } else { 0 };
    let named: HashMap<&str, &Vec<String>> =
        ["bounding", "effective", "permitted"].into_iter().map(|name| (name, &capabilities)).collect();
    let id = format!("sockopt-{profile}-{how:?}-{}", std::process::id()).to_lowercase();
    let configuration = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user, "gid": user}, "cwd": "/", "args": arguments, "noNewPrivileges": how == How::Nobody,
            "env": ["PATH=/bin"], "capabilities": named,
        },
        "root": {"path": "rootfs", "readonly": how == How::ReadOnly},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
            "cgroupsPath": format!("/{id}"),
            "seccomp": seccomp(profile),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    fs::write(folder.join("config.json"), configuration.to_string()).expect("a file");
    let mut command = plain("timeout");
    command.args(["60", "runc", "--root"]).arg(folder.join("state")).args(["run", "--bundle"]).arg(folder).arg(&id);
    outcome(command.env("PATH", crate::support::search_path()))
}

/// Under both profiles: as root, with a root that nothing can be written to, and as nobody; the program is the first process. Seen to
/// fail, under Docker's: "pidfd_getfd is not permitted", and with it alone "the program's memory cannot be read: EPERM".
fn container(profile: &str, how: How) {
    let folder = scratch(&format!("container-{profile}-{how:?}"));
    root_file_system(&folder);
    let port = port();
    let run = |arguments: &[&str]| {
        let all: Vec<&str> = ["/bin/sockopt", "run", RULE].iter().chain(arguments).copied().collect();
        in_container(&folder, profile, how, &all)
    };
    let found = run(&["/bin/program", "dial", &port]);
    assert_eq!(found, (Some(0), format!("{KEPT}\nown 0 0\n{KEPT}\n"), String::new()));
    let (code, _, said) = run(&["--dry-run", "/bin/program"]);
    assert_eq!((code, said.contains("creates the program's sockets itself")), (Some(0), profile == "docker"), "{said}");
    let (code, printed, stderr) = run(&["/bin/program", "self"]);
    assert_eq!((code, stderr.as_str()), (Some(7), ""));
    assert!(printed.starts_with("pid 1 parent 0 ") && printed.contains(" wait -1 No child processes\n"), "{printed}");
    // The log, and a shell with several children.
    let line = format!("/bin/program dial {port}; /bin/program dial {port}");
    let (code, printed, said) = run(&["--log=debug", "/bin/sh", "-c", &line]);
    assert_eq!((code, printed), (Some(0), format!("{KEPT}\nown 0 0\n{KEPT}\n").repeat(2)), "{said}");
    assert_eq!(said.matches("TCP_USER_TIMEOUT=14000").count(), 2, "{said}");
}
