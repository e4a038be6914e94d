//! Programs in the kernel, on control groups that each test makes for itself: what `sockopt attach`, `status` and `detach` do.
//!
//! Needs root, control groups of version 2 and eBPF; where one of them is missing the tests are seen to be skipped.

mod adopted;
mod agent;
mod asked;
mod deployed;
mod dns;
mod fill;
mod limit;
mod metrics;
mod processes;
mod refusals;
mod served;
mod shown;
mod targets;
mod whose;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::support::lab::{Lab, Place, Running, SERVER};
use crate::support::{go_program, is_root, plain, scratch, sockopt, static_probe, test, test_with, text};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        in_kernel(&["namespaces"], "cgroup::every_program_is_reached", every_program_is_reached),
        in_kernel(
            &["namespaces", "go"],
            "cgroup::go_is_kept_from_its_own_keepalive",
            go_is_kept_from_its_own_keepalive,
        ),
        in_kernel(&["namespaces", "setpriv"], "cgroup::setuid_programs_are_reached", setuid_programs_are_reached),
        in_kernel(&["namespaces"], "cgroup::calls_answer_as_without", calls_answer_as_without),
        in_kernel(&["namespaces"], "cgroup::listeners_and_what_they_accept", listeners_and_what_they_accept),
        in_kernel(&["namespaces"], "cgroup::calls_that_are_repeated", calls_that_are_repeated),
        in_kernel(&["namespaces"], "cgroup::no_value_is_a_value", no_value_is_a_value),
        in_kernel(&["namespaces"], "cgroup::what_is_excluded_and_udps_ports", what_is_excluded_and_udps_ports),
        in_kernel(&["namespaces", "python3"], "cgroup::a_reload_leaves_no_gap", a_reload_leaves_no_gap),
        in_kernel(&["namespaces"], "cgroup::what_was_set_before_a_reload_stays_enforced", stays_enforced),
        in_kernel(&["namespaces", "go", "ip"], "cgroup::a_real_cut", a_real_cut),
        in_kernel(&["namespaces"], "cgroup::groups_within_and_made_later", groups_within_and_made_later),
        in_kernel(&["namespaces"], "cgroup::a_group_within_with_its_own", a_group_within_with_its_own),
    ];
    trials.extend(adopted::trials());
    trials.extend(agent::trials());
    trials.extend(asked::trials());
    trials.extend(fill::trials());
    trials.extend(limit::trials());
    trials.extend(processes::trials());
    trials.extend(metrics::trials());
    trials.extend(deployed::trials());
    trials.extend(dns::trials());
    trials.extend(refusals::trials());
    trials.extend(served::trials());
    trials.extend(shown::trials());
    trials.extend(targets::trials());
    trials.extend(whose::trials());
    trials
}

/// Where control groups of version 2 are, if this machine has them and lets programs be attached.
fn mount() -> Option<&'static Path> {
    static MOUNT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let line = text.lines().find(|line| line.contains(" - cgroup2 "))?;
        let mount = PathBuf::from(line.split(' ').nth(4)?);
        let trial = mount.join(format!("sockopt-trial-{}", std::process::id()));
        fs::create_dir(&trial).ok()?;
        let attached = run(&["attach", "--priority", "0"], &trial).status.success();
        let _ = run(&["detach"], &trial);
        let _ = fs::remove_dir(&trial);
        attached.then_some(mount)
    };
    MOUNT.get_or_init(|| if is_root() { find() } else { None }).as_deref()
}

/// A test that needs programs, and a kernel that lets root attach its own.
fn in_kernel(needs: &[&str], name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
    match mount() {
        Some(_) => test_with(needs, name, run),
        None => test(name, run).with_kind("needs root, cgroup2, eBPF").with_ignored_flag(true),
    }
}

/// A control group of a test's own.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sockopt-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = mount().expect("control groups").join(name);
        fs::create_dir(&path).expect("a control group");
        Self(path)
    }

    /// With a configuration attached.
    fn with(configuration: &str) -> Self {
        let group = Self::new();
        group.attach(configuration);
        group
    }

    /// Attaches a configuration, which must succeed.
    fn attach(&self, configuration: &str) {
        let (stdout, stderr) = text(&self.try_attach(configuration, &[]));
        assert!(stdout.contains("attached to") || stdout.contains("replaced at"), "{stdout}{stderr}");
    }

    fn try_attach(&self, configuration: &str, more: &[&str]) -> Output {
        let file = scratch(self.0.file_name().expect("a name").to_str().expect("text")).join("sockopt.toml");
        fs::write(&file, configuration).expect("a file");
        let arguments = ["attach", "--config", file.to_str().expect("text")];
        run(&arguments.iter().chain(more).copied().collect::<Vec<_>>(), &self.0)
    }

    fn detach(&self) {
        let output = run(&["detach"], &self.0);
        assert!(output.status.success(), "{}", text(&output).1);
    }

    /// The process that runs in it, once it is one of these programs.
    fn member(&self, program: &Path) -> String {
        let is_it = |pid: &&str| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let all = fs::read_to_string(self.0.join("cgroup.procs")).expect("its processes");
            if let Some(pid) = all.lines().find(is_it) {
                return pid.to_owned();
            }
            assert!(Instant::now() < until, "{} does not run", program.display());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A command of a lab, in this group.
    fn command(&self, lab: &Lab, place: Place, program: impl AsRef<Path>) -> Command {
        self.entered(lab.command(place, &[], "sh"), program)
    }

    fn entered(&self, mut shell: Command, program: impl AsRef<Path>) -> Command {
        let script = "echo 0 >\"$1\"/cgroup.procs && shift && exec \"$@\"";
        shell.args(["-c", script, "sh"]).arg(&self.0).arg(program.as_ref());
        shell
    }

    /// What a probe that makes calls prints.
    fn calls(&self, lab: &Lab, calls: &[&str]) -> String {
        let output = self.command(lab, Place::Here, static_probe("calls")).args(calls).output().expect("nsenter");
        let (stdout, stderr) = text(&output);
        assert!(output.status.success(), "{stdout}{stderr}");
        stdout
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = run(&["detach"], &self.0);
        // Whoever was in it is ending.
        let until = Instant::now() + Duration::from_secs(5);
        while self.0.exists() && fs::remove_dir(&self.0).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `sockopt` with these arguments, about this control group.
fn run(arguments: &[&str], group: &Path) -> Output {
    plain(sockopt()).args(arguments).arg(group).output().expect("sockopt")
}

/// The numbers that a probe was answered, of the lines that begin so.
fn answers(printed: &str, begin: &str) -> Vec<String> {
    let lines = printed.lines().filter(|line| line.starts_with(begin));
    lines.filter_map(|line| line.split(" = ").nth(1)).map(str::to_owned).collect()
}

/// With `enforce = false` a second listen or connect sets nothing over what the program has set since the first. That of a UDP
/// socket does, as docs/design-kernel.md says.
///
/// Seen to fail: with `enforce = true`.
fn calls_that_are_repeated() {
    let lab = Lab::new();
    let group = Group::with(
        "[defaults]\nenforce = false\n[[rule]]\nlisten = [\":7001\"]\nkeepalive = { time = \"33s\" }\n\
         [[rule]]\nto = [\":7001-7002\"]\nkeepalive = { time = \"77s\" }\nsend_buffer = \"64KiB\"\n",
    );
    let printed = group.calls(
        &lab,
        &[
            "socket l inet stream",
            "bind l 127.0.0.1:7001",
            "listen l 5",
            "get l 6/4",
            "set l 6/4 9",
            "listen l 6",
            "get l 6/4",
            "socket s inet stream",
            "connect s 127.0.0.1:7001",
            "get s 6/4",
            "set s 6/4 9",
            "connect s 127.0.0.1:7001",
            "connect s 127.0.0.1:7002",
            "get s 6/4",
            "socket d inet dgram",
            "connect d 127.0.0.1:7001",
            "get d 1/7",
            "set d 1/7 50000",
            "connect d 127.0.0.1:7001",
            "get d 1/7",
        ],
    );
    assert_eq!(answers(&printed, "get l 6/4"), ["33", "9"], "{printed}");
    assert_eq!(answers(&printed, "get s 6/4"), ["77", "9"], "{printed}");
    assert_eq!(answers(&printed, "get d 1/7"), ["131072", "131072"], "{printed}");
}

/// The kernel takes no byte at all for IP_TOS=0, which the rule enforces otherwise.
///
/// Seen to fail: with a byte that is the least (0).
fn no_value_is_a_value() {
    let lab = Lab::new();
    let group = Group::with("[[rule]]\nto = [\":7001\"]\ndscp = \"ef\"\n");
    let calls = [
        "socket l inet stream",
        "bind l 127.0.0.1:7001",
        "listen l 5",
        "socket s inet stream",
        "connect s 127.0.0.1:7001",
        "set s 0/1 16 0 null",
        "get s 0/1",
        "set s 0/1 16 0 good",
        "get s 0/1",
    ];
    let printed = group.calls(&lab, &calls);
    assert_eq!(answers(&printed, "set s 0/1"), ["0", "0"], "{printed}");
    assert_eq!(answers(&printed, "get s 0/1"), ["184", "184"], "{printed}");
}

const KEEPALIVE: &str = "[[rule]]\nto = [\"127.0.0.0/8:7000-7009\", \"[::1]:7000-7009\"]\n\
                         keepalive = { time = \"77s\", interval = \"20s\", probes = 4 }\nuser_timeout = \"14s\"\n";

/// IPv4, IPv6, and IPv4 written as IPv6; a rule's ports; in a static program.
///
/// The end shows what it is without: 7200 after detach.
fn every_program_is_reached() {
    let lab = Lab::new();
    let group = Group::with(KEEPALIVE);
    let mut calls = Vec::new();
    for (family, address) in [
        ("inet", "127.0.0.1:7000"),
        ("inet", "0.0.0.0:7000"),
        ("inet6", "[::1]:7009"),
        ("inet6", "[::ffff:127.0.0.1]:7000"),
        ("inet", "127.0.0.1:6999"),
        ("inet", "127.0.0.1:7010"),
    ] {
        calls.extend([format!("socket s {family} stream"), format!("connect s {address}")]);
        calls.extend(["get s 1/9", "get s 6/4", "get s 6/5", "get s 6/6", "get s 6/18"].map(str::to_owned));
    }
    let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
    let printed = group.calls(&lab, &calls);
    // In a program that is linked dynamically as well.
    let output = group.command(&lab, Place::Here, crate::support::probe("calls")).args(&calls).output();
    assert_eq!(text(&output.expect("nsenter")).0, printed);
    let keepalive = answers(&printed, "get s 1/9");
    assert_eq!(keepalive, ["1", "1", "1", "1", "0", "0"], "{printed}");
    assert_eq!(answers(&printed, "get s 6/4"), ["77", "77", "77", "77", "7200", "7200"], "{printed}");
    assert_eq!(answers(&printed, "get s 6/5"), ["20", "20", "20", "20", "75", "75"], "{printed}");
    assert_eq!(answers(&printed, "get s 6/6"), ["4", "4", "4", "4", "9", "9"], "{printed}");
    assert_eq!(answers(&printed, "get s 6/18"), ["14000", "14000", "14000", "14000", "0", "0"], "{printed}");
    group.detach();
    let printed = group.calls(&lab, &calls);
    assert_eq!(answers(&printed, "get s 6/4"), ["7200"; 6], "{printed}");
}

/// Go sets its own keepalive of 15 s after each connect.
///
/// Seen to fail: with `enforce = false`.
fn go_is_kept_from_its_own_keepalive() {
    let lab = Lab::new();
    let mut server = lab.serve(Place::Here, &[7000]);
    server.release();
    let group = Group::with(KEEPALIVE);
    let output = group.command(&lab, Place::Here, go_program("client")).args(["dial", "127.0.0.1", "7000"]).output();
    let (stdout, stderr) = text(&output.expect("nsenter"));
    assert!(stdout.contains("keepalive 1 77 20 4 user_timeout 14000"), "{stdout}{stderr}");
}

/// A setuid program, started by another user, into which no library would be loaded.
fn setuid_programs_are_reached() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::with_users();
    let group = Group::with(KEEPALIVE);
    let program = Path::new("/tmp").join(format!("sockopt-setuid-{}", std::process::id()));
    crate::command::copy(static_probe("calls"), &program);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("its mode");
    let calls = ["socket s inet stream", "connect s 127.0.0.1:7000", "get s 6/4"];
    let mut command = group.command(&lab, Place::Here, "setpriv");
    command.args(["--reuid=65534", "--clear-groups"]).arg(&program).args(calls);
    let (stdout, stderr) = text(&command.output().expect("nsenter"));
    let _ = fs::remove_file(&program);
    assert_eq!(answers(&stdout, "get s 6/4"), ["77"], "{stdout}{stderr}");
}

/// What a program is answered is the same as without, but for the values; the kernel's own errors too.
///
/// Seen to fail: without the limit of an option's length.
fn calls_answer_as_without() {
    let lab = Lab::new();
    let group = Group::new();
    let calls = [
        "socket l inet stream",
        "bind l 127.0.0.1:7000",
        "listen l 5",
        "socket s inet stream",
        "connect s 127.0.0.1:7000",
        "connect s 127.0.0.1:7000",
        "set s 6/4 5",
        "set s 6/4 5 3",
        "set s 6/4 5 0",
        "set s 6/4 5 4 null",
        "set s 6/4 5 9000",
        "set s 6/99 5",
        "set s 6/1 1",
        "get s 6/1",
        "set l 1/2 1",
        "set l 1/2 1 9000",
        "socket u inet dgram",
        "connect u 127.0.0.1:7000",
        "set u 0/41 5 9000",
        "socket x unix stream",
        "connect x 127.0.0.1:7000",
        "set x 1/9 1",
        "connect s 127.0.0.1:1",
        "socket t inet stream",
        "connect t 127.0.0.1:1",
        "connect 99 127.0.0.1:1",
        "set 99 6/4 5",
    ];
    let plain = group.calls(&lab, &calls);
    group.attach(KEEPALIVE);
    let attached = group.calls(&lab, &calls);
    assert_eq!(attached, plain);
}

/// What a list excludes is for the next rule, in `to`, `listen` and `from`; a rule for UDP's port is none for TCP's.
///
/// Seen to fail: with exclusions that are read and left out; with rules of UDP among those for listeners.
fn what_is_excluded_and_udps_ports() {
    let lab = Lab::new();
    let group = Group::new();
    let keepalive = |seconds: u32| format!("keepalive = {{ time = \"{seconds}s\", interval = \"3s\", probes = 3 }}\n");
    let configuration = [
        "[[rule]]\nto = [\"127.0.0.0/8:7000\", \"!127.0.0.2\", \"!127.0.0.3:7000\"]\n".to_owned() + &keepalive(77),
        "[[rule]]\nto = [\"127.0.0.2\"]\n".to_owned() + &keepalive(22),
        "[[rule]]\nlisten = [\":7001\"]\nprotocol = \"udp\"\npriority = 3\n".to_owned(),
        "[[rule]]\nlisten = [\":7001\", \"!127.0.0.4\"]\nfrom = [\"127.0.0.0/8\", \"!127.0.0.5\"]\n".to_owned()
            + &keepalive(9),
        "[[rule]]\nlisten = [\"!:7002\"]\nprotocol = \"tcp\"\n".to_owned() + &keepalive(33),
    ];
    let output = group.try_attach(&configuration.concat(), &["--partial"]);
    let (stdout, stderr) = text(&output);
    assert!(stdout.contains("attached to") && stderr.contains("left out: rule \"rule 3\""), "{stdout}{stderr}");
    let mut calls: Vec<String> = Vec::new();
    let connected = [
        ("inet", "127.0.0.1:7000"),
        ("inet", "127.0.0.2:7000"),
        ("inet", "127.0.0.3:7000"),
        ("inet6", "[::ffff:127.0.0.1]:7000"),
        ("inet6", "[::ffff:127.0.0.2]:7000"),
    ];
    for (family, address) in connected {
        calls.extend([format!("socket s {family} stream"), format!("connect s {address}"), "get s 6/4".to_owned()]);
    }
    for (listener, address) in [("l", "127.0.0.1:7001"), ("m", "127.0.0.4:7001"), ("n", "127.0.0.1:7002")] {
        calls.extend([format!("socket {listener} inet stream"), format!("bind {listener} {address}")]);
        calls.push(format!("listen {listener} 5"));
        for client in ["127.0.0.1", "127.0.0.5"] {
            calls.extend(["socket c inet stream".to_owned(), format!("bind c {client}:0")]);
            calls.extend([format!("connect c {address}"), format!("accept a {listener}"), "get a 6/4".to_owned()]);
        }
    }
    let printed = group.calls(&lab, &calls.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(answers(&printed, "get s 6/4"), ["77", "22", "7200", "77", "22"], "{printed}");
    assert_eq!(answers(&printed, "get a 6/4"), ["9", "33", "33", "33", "7200", "7200"], "{printed}");
}

/// A rule with `listen`, and one for some clients: what is inherited, and what is set on each.
///
/// Seen to fail: without the program for events.
fn listeners_and_what_they_accept() {
    let lab = Lab::new();
    let group = Group::with(
        "[[rule]]\nlisten = [\":7001\"]\nfrom = [\"127.0.0.2\"]\nkeepalive = { time = \"9s\", interval = \"3s\", probes = 3 }\npriority = 5\n\
         [[rule]]\nlisten = [\":7001\", \"127.0.0.1:7002\"]\nkeepalive = { time = \"33s\", interval = \"3s\", probes = 3 }\n",
    );
    let printed = group.calls(
        &lab,
        &[
            "socket l inet stream",
            "bind l 0.0.0.0:7001",
            "listen l 5",
            "get l 6/4",
            "socket s inet stream",
            "bind s 127.0.0.2:0",
            "connect s 127.0.0.1:7001",
            "accept a l",
            "get a 6/4",
            "get a 1/12",
            "set a 6/4 5",
            "get a 6/4",
            "socket t inet stream",
            "connect t 127.0.0.1:7001",
            "accept b l",
            "get b 6/4",
            "get b 1/12",
            "set b 6/4 6",
            "get b 6/4",
            "socket m inet stream",
            "bind m 127.0.0.1:7002",
            "listen m 5",
            "get m 6/4",
            "socket u inet stream",
            "connect u 127.0.0.1:7002",
            "accept c m",
            "get c 6/4",
        ],
    );
    // Nothing is set on the first listener that some of its clients are not to inherit.
    assert_eq!(answers(&printed, "get l 6/4"), ["7200"], "{printed}");
    assert_eq!(answers(&printed, "get a 6/4"), ["9", "9"], "{printed}");
    assert_eq!(answers(&printed, "get a 1/12"), ["5"], "{printed}");
    assert_eq!(answers(&printed, "get b 6/4"), ["33", "33"], "{printed}");
    assert_eq!(answers(&printed, "get b 1/12"), ["0"], "{printed}");
    assert_eq!(answers(&printed, "get m 6/4"), ["33"], "{printed}");
    assert_eq!(answers(&printed, "get c 6/4"), ["33"], "{printed}");
}

/// Connects while the configuration is replaced again and again: none is without options.
///
/// Seen to fail: with a detach before each attach.
fn a_reload_leaves_no_gap() {
    let group = Group::new();
    reloads(&group, &group, |configuration| group.attach(configuration));
}

/// A program in one group connects while `attach` replaces what is attached to it, or to one around it.
fn reloads(attached: &Group, connecting: &Group, attach: impl Fn(&str)) {
    const CONNECTS: &str = "import socket, sys, time\n\
        l = socket.create_server(('127.0.0.1', 7000), backlog=100)\n\
        print('ready', flush=True)\n\
        import os, select\n\
        count = wrong = 0\n\
        while not select.select([0], [], [], 0)[0]:\n\
        \x20   s = socket.create_connection(('127.0.0.1', 7000)); a = l.accept()[0]\n\
        \x20   count += 1; wrong += s.getsockopt(6, 4) not in (77, 78)\n\
        \x20   s.close(); a.close()\n\
        print(count, wrong)\n";
    let lab = Lab::new();
    attach(KEEPALIVE);
    let mut command = connecting.command(&lab, Place::Here, "python3");
    command.args(["-c", CONNECTS]);
    let (stop, running) = Running::start_with_input(command);
    std::thread::sleep(Duration::from_millis(300));
    let rounds = if std::env::var_os("CI").is_some() { 150 } else { 60 };
    for round in 0..rounds {
        attach(&KEEPALIVE.replace("77s", if round % 2 == 0 { "78s" } else { "77s" }));
    }
    assert_eq!(agent::generation(&attached.0), Some(rounds + 1));
    drop(stop);
    let (stdout, stderr) = text(&running.finish());
    let figures: Vec<u32> = stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(figures.len() == 2 && figures[0] > 100 && figures[1] == 0, "{stdout}{stderr}");
}

fn run_status() -> Output {
    plain(sockopt()).arg("status").output().expect("sockopt")
}

/// What is enforced on a connection stays so when the configuration is replaced, though it was for another rule.
///
/// Seen to fail: with what is remembered of sockets made anew each time.
fn stays_enforced() {
    let lab = Lab::new();
    let _server = lab.serve(Place::Here, &[7000]);
    let group = Group::with(KEEPALIVE);
    let mut command = group.command(&lab, Place::Here, static_probe("calls"));
    command.args(["socket s inet stream", "connect s 127.0.0.1:7000"]);
    command.args([
        "socket w inet stream",
        "bind w 127.0.0.1:0",
        "listen w 1",
        "poll w 1500",
        "set s 6/4 5",
        "get s 6/4",
    ]);
    let running = Running::start(command);
    std::thread::sleep(Duration::from_millis(500));
    group.attach(
        "[[rule]]\nto = [\"10.0.0.0/8\"]\nnodelay = true\n\n[[rule]]\nto = [\"10.1.0.0/16\"]\nkeepalive = \"on\"\n",
    );
    let (stdout, stderr) = text(&running.finish());
    assert!(stdout.contains("get s 6/4 = 77"), "{stdout}{stderr}");
}

/// A Go client waits for an answer when the network is cut, and another one sends.
///
fn a_real_cut() {
    let lab = Lab::with_link();
    let server = lab.serve(Place::Server, &[7000, 7001]);
    let group = Group::with("[defaults]\ndead_peer_timeout = \"8s\"\n");
    let go = go_program("client");
    let start = |what: &str, port: &str| {
        let mut command = group.command(&lab, Place::Client, &go);
        command.args([what, SERVER, port]);
        Running::start(command)
    };
    let (wait, upload) = (start("wait", "7000"), start("upload", "7001"));
    server.wait_for(&[7000, 7001]);
    let cut = lab.cut();
    for running in [wait, upload] {
        let (stdout, stderr) = text(&running.finish_within(Duration::from_secs(40)));
        let took = cut.elapsed();
        assert!(took < Duration::from_secs(12), "{took:?} {stdout}{stderr}");
        assert!(format!("{stdout}{stderr}").contains("timed out"), "{stdout}{stderr}");
    }
}

/// Two groups, one within the other: both configurations are carried out, the outer one's last, and each keeps what it enforces. Whoever
/// attaches is told.
///
/// Seen to fail: with the inner one's answer to setsockopt taken by the outer one for a long value (44000); without the note.
fn a_group_within_with_its_own() {
    let lab = Lab::new();
    let to = "[[rule]]\nto = [\"127.0.0.1\"]\n";
    let outer = Group::with(&format!("{to}priority = 3\n"));
    let within = Group(outer.0.join("within"));
    fs::create_dir(&within.0).expect("a control group");
    let (stdout, stderr) = text(&within.try_attach(&format!("{to}user_timeout = \"9s\"\npriority = 5\n"), &[]));
    assert!(stdout.contains("attached to"), "{stdout}{stderr}");
    let note = format!("sockets of {} get the options of {} as well", within.0.display(), outer.0.display());
    assert!(stderr.replace("\n      ", " ").contains(&note), "{stderr}");
    let calls = [
        "socket s inet stream",
        "connect s 127.0.0.1:7000",
        "set s 6/18 44000",
        "get s 6/18",
        "set s 1/12 6",
        "get s 1/12",
    ];
    let printed = within.calls(&lab, &calls);
    assert_eq!(answers(&printed, "get s 6/18"), ["9000"], "{printed}");
    assert_eq!(answers(&printed, "get s 1/12"), ["3"], "{printed}");
    let again = text(&outer.try_attach(&format!("{to}priority = 3\n"), &[])).1;
    assert!(again.replace("\n      ", " ").contains(&note), "{again}");
}

/// What is attached counts for groups within, also for those that are made afterwards.
fn groups_within_and_made_later() {
    let lab = Lab::new();
    let group = Group::with(KEEPALIVE);
    let within = Group(group.0.join("within"));
    fs::create_dir(&within.0).expect("a control group");
    let printed = within.calls(&lab, &["socket s inet stream", "connect s 127.0.0.1:7000", "get s 6/4"]);
    assert_eq!(answers(&printed, "get s 6/4"), ["77"], "{printed}");
}
