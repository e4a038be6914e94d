//! What keeps a configuration attached on a machine or a node: the unit of examples/systemd under systemd itself, and an agent
//! with what examples/kubernetes/daemonset.yaml lets it have, and no more.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use libtest_mimic::Trial;

use super::agent::{Agent, ConfigMap, generation, status, wait_until};
use super::{Group, KEEPALIVE, answers, in_kernel, reloads};
use crate::support::lab::Lab;
use crate::support::{plain, root, scratch, search_path, sockopt, static_probe, test_with, text};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        in_kernel(&["namespaces", "systemd"], "cgroup::deployed::the_unit_under_systemd", the_unit),
        test_with(&["systemd-analyze"], "cgroup::deployed::the_unit_is_as_hardened_as_is_said", how_hardened),
        in_kernel(
            &["namespaces", "setpriv"],
            "cgroup::deployed::an_agent_with_the_daemon_sets_privileges",
            with_least_privileges,
        ),
        in_kernel(
            &["namespaces", "setpriv", "python3"],
            "cgroup::deployed::a_reload_without_cap_sys_admin_leaves_no_gap",
            reload_with_least_privileges,
        ),
        in_kernel(&[], "cgroup::deployed::status_tells_whether_it_is_attached", readiness),
    ]
}

const UNIT: &str = "examples/systemd/sockopt-agent.service";

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|why| panic!("{file}: {why}"))
}

/// systemd as the first process of namespaces, in a control group of the test's own, with units from one folder.
struct Systemd(Child);

impl Systemd {
    /// Starts `trial.target`. `prepare` are shell commands, with a /run that is empty.
    fn start(group: &Path, units: &Path, prepare: &str, log: &Path) -> Self {
        let script = format!(
            "mount --make-rprivate / && mount -t tmpfs tmpfs /run && umount -R /sys/fs/cgroup\n\
             mount -t cgroup2 cgroup2 /sys/fs/cgroup && ip link set lo up\n{prepare}\n\
             exec env -i PATH=\"$PATH\" container=other SYSTEMD_UNIT_PATH={} \"$(command -v systemd)\" --system \
             --unit=trial.target --show-status=0",
            units.display()
        );
        let enter = "echo 0 >\"$1\"/cgroup.procs && exec unshare --pid --fork --kill-child --mount --mount-proc --cgroup \
                     --net --uts --ipc sh -ec \"$2\"";
        let mut command = plain("sh");
        command.env("PATH", search_path()).args(["-c", enter, "sh"]).arg(group).arg(script);
        command.stdout(Stdio::null()).stderr(fs::File::create(log).expect("a file"));
        Self(command.spawn().expect("sh"))
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Removes the groups below one, which systemd has made.
struct Emptied<'a>(&'a Group);

impl Drop for Emptied<'_> {
    fn drop(&mut self) {
        fn below(folder: &Path) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    below(&entry.path());
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
        let _ = plain(sockopt()).arg("detach").arg(self.0.0.join("system.slice")).output();
        let gone = |_: &()| {
            below(&self.0.0);
            fs::read_dir(&self.0.0).is_ok_and(|mut all| !all.any(|one| one.is_ok_and(|one| one.path().is_dir())))
        };
        for _ in 0..100 {
            if gone(&()) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// The unit as it is shipped, but for paths and what it depends on: it is started only when it has attached, so that a service
/// that is ordered after it has options on its first connection. Another service attaches to itself at each start, as the
/// documents say, and its options count there.
///
/// Seen to fail: with ProtectControlGroups=yes, and with a system call filter without bpf; the other one without the `+`.
fn the_unit() {
    let group = Group::new();
    let emptied = Emptied(&group);
    let folder = scratch("agent-under-systemd");
    let (units, answer, log) = (folder.join("units"), folder.join("answer"), folder.join("log"));
    let itself_answer = folder.join("itself");
    fs::create_dir(&units).expect("a folder");
    let shipped = "ExecStart=sockopt agent --no-adopt --config /etc/sockopt/sockopt.toml /system.slice";
    let unit = read(UNIT);
    assert!(unit.contains(shipped), "{UNIT}");
    let unit = unit
        .replace(
            shipped,
            "ExecStart=/run/trial/sockopt agent --no-adopt --config /run/trial/sockopt.toml /system.slice",
        )
        .replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n");
    fs::write(units.join("sockopt-agent.service"), unit).expect("a file");
    let client = format!(
        "[Unit]\nDefaultDependencies=no\nRequires=sockopt-agent.service\nAfter=sockopt-agent.service\n\
         [Service]\nType=oneshot\nStandardOutput=file:{}\n\
         ExecStart=/run/trial/calls 'socket s inet stream' 'connect s 127.0.0.1:7000' 'get s 6/4' 'get s 1/12'\n",
        answer.display()
    );
    fs::write(units.join("client.service"), &client).expect("a file");
    let itself = client.replace(&*answer.to_string_lossy(), &itself_answer.to_string_lossy()).replace(
        "[Service]\n",
        "[Service]\nUser=nobody\nExecStartPre=+/run/trial/sockopt attach --unit %n --user-timeout 9s --priority 3\n",
    );
    fs::write(units.join("itself.service"), itself).expect("a file");
    let target = "[Unit]\nDefaultDependencies=no\nRequires=client.service itself.service\n";
    fs::write(units.join("trial.target"), target).expect("a file");
    // What needs each of the programs, and so of the capabilities.
    let configuration = format!("{KEEPALIVE}[[rule]]\nlisten = [\":7001\"]\nfrom = [\"127.0.0.2\"]\npriority = 5\n");
    fs::write(folder.join("sockopt.toml"), configuration).expect("a file");
    let prepare = format!(
        "mkdir /run/trial && cp '{}' /run/trial/sockopt && cp '{}' /run/trial/calls && cp '{}' /run/trial/",
        sockopt().display(),
        static_probe("calls").display(),
        folder.join("sockopt.toml").display()
    );
    let running = Systemd::start(&group.0, &units, &prepare, &log);
    let answered = || fs::read_to_string(&answer).unwrap_or_default();
    wait_until("the client's answer", || answered().contains("get s 1/12"));
    assert_eq!(answers(&answered(), "get s 6/4"), ["77"], "{}", answered());
    let itself = || fs::read_to_string(&itself_answer).unwrap_or_default();
    wait_until("the other's answer", || itself().contains("get s 1/12"));
    assert_eq!(answers(&itself(), "get s 1/12"), ["3"], "{}", itself());
    // Whose paths begin at the test's group.
    let id = fs::metadata(group.0.join("system.slice")).expect("a control group").ino();
    let pins = Path::new("/sys/fs/bpf/sockopt").join(id.to_string());
    assert!(pins.join("connect4").exists() && pins.join("sock_ops").exists());
    drop(running);
    assert!(pins.join("connect4").exists(), "in force when the service has ended");
    drop(emptied);
}

/// The figure in the README is systemd's own, of the version that is named there.
///
/// Seen to fail: with NoNewPrivileges= left out.
fn how_hardened() {
    let version = text(&plain("systemd-analyze").arg("--version").output().expect("systemd-analyze")).0;
    let version = version.split_whitespace().nth(1).expect("a version").to_owned();
    let asked = plain("systemd-analyze")
        .env("LC_ALL", "C.UTF-8")
        .args(["security", "--offline=yes", "--no-pager", "--threshold=100"])
        .arg(root().join(UNIT))
        .output()
        .expect("systemd-analyze");
    let (stdout, stderr) = text(&asked);
    let figure = stdout.lines().find_map(|line| line.split_once("sockopt-agent.service: "));
    let figure = figure.unwrap_or_else(|| panic!("{stdout}{stderr}")).1.split(' ').next().expect("a figure").to_owned();
    let readme = read("examples/systemd/README.md");
    let (before, said) = readme.split_once(" rates its exposure at ").expect("a figure");
    let of_version = before.rsplit_once("of systemd ").expect("a version").1;
    if of_version == version {
        assert!(said.starts_with(&format!("{figure} ")), "{figure}: {stdout}");
    }
    assert!(figure.parse::<f64>().expect("a number") < 2.5, "{stdout}");
}

/// The capabilities that the manifest adds, as setpriv(1) has them.
fn capabilities() -> String {
    let manifest = read("examples/kubernetes/daemonset.yaml");
    let list = manifest.split_once("add: [").and_then(|(_, rest)| rest.split_once(']')).expect("capabilities").0;
    let all: Vec<String> = list.split(',').map(|name| format!("+{}", name.trim().to_ascii_lowercase())).collect();
    assert!(!all.is_empty() && !list.contains("SYS_ADMIN"), "{list}");
    format!("-all,{}", all.join(","))
}

/// `sockopt` as in the manifest's container: in a control group of its own below the pods', in namespaces of its own (of
/// control groups too, as the runtimes do), on a root that is read only, with the capabilities that are listed.
fn confined(group: &Path) -> Command {
    const CONTAINER: &str = "mount --make-rprivate / && mount -o remount,bind,ro / && ! touch /usr/written 2>/dev/null && \
                             exec setpriv --no-new-privs --bounding-set \"$0\" --inh-caps -all -- \"$@\"";
    const ENTER: &str = "echo 0 >\"$1\"/cgroup.procs && shift && exec unshare --mount --pid --fork --kill-child --mount-proc \
                         --cgroup --net --uts --ipc sh -ec \"$@\"";
    let mut command = plain("sh");
    command.env("PATH", search_path()).args(["-c", ENTER, "sh"]).arg(group);
    command.arg(CONTAINER).arg(capabilities()).arg(sockopt());
    command
}

/// The pods of a node: one has the agent, in another a program connects.
struct Node {
    pods: Group,
    agent: Group,
    pod: Group,
}

impl Node {
    fn new() -> Self {
        let pods = Group::new();
        let below = |name: &str| {
            let group = Group(pods.0.join(name));
            fs::create_dir(&group.0).expect("a control group");
            group
        };
        Self { agent: below("agent"), pod: below("pod"), pods }
    }
}

/// Attached, the rules of a ConfigMap replaced, ended, and taken over by the next one.
///
/// Seen to fail: with options tried in a group at the top (EACCES without CAP_DAC_OVERRIDE), and without CAP_PERFMON in the list.
fn with_least_privileges() {
    let lab = Lab::new();
    let node = Node::new();
    let map = ConfigMap::new("daemon-set");
    let listening = "[[rule]]\nlisten = [\":7001\"]\nfrom = [\"127.0.0.2\"]\npriority = 5\n";
    map.put("one", &format!("{KEEPALIVE}{listening}"));
    let file: PathBuf = map.file();
    let log = map.0.join("log");
    let start = || {
        let mut command = confined(&node.agent.0);
        command.args(["agent", "--no-adopt", "--metrics", "0.0.0.0:9464"]).arg(&node.pods.0).arg("--config").arg(&file);
        Agent::start(command, &log)
    };
    let keepalive = || {
        let printed = node.pod.calls(&lab, &["socket s inet stream", "connect s 127.0.0.1:7000", "get s 6/4"]);
        answers(&printed, "get s 6/4").concat()
    };
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let first = start();
    wait_until("attached", || {
        assert!(!said().contains("error"), "{}", said());
        generation(&node.pods.0) == Some(1)
    });
    assert_eq!(keepalive(), "77");
    let asked = confined(&node.agent.0).arg("status").arg(&node.pods.0).output().expect("sh");
    assert!(asked.status.success(), "the readiness probe: {}", text(&asked).1);
    map.put("two", &format!("{}{listening}", KEEPALIVE.replace("77s", "78s")));
    wait_until("replaced", || generation(&node.pods.0) == Some(2));
    assert_eq!(keepalive(), "78");
    drop(first);
    assert_eq!(keepalive(), "78", "in force without an agent");
    let _second = start();
    wait_until("taken over", || generation(&node.pods.0) == Some(3));
    assert_eq!(keepalive(), "78");
    assert!(!said().contains("error") && !said().contains("warning"), "{}", said());
}

/// The kernel gives a program by its number to CAP_SYS_ADMIN alone; a link must not be made anew for want of it.
///
/// Seen to fail: with the program that is replaced asked for by its number only.
fn reload_with_least_privileges() {
    let node = Node::new();
    let file = scratch("daemon-set-reloads").join("sockopt.toml");
    reloads(&node.pods, &node.pod, |configuration| {
        fs::write(&file, configuration).expect("a file");
        let output = confined(&node.agent.0)
            .args(["attach", "--no-adopt"])
            .arg(&node.pods.0)
            .arg("--config")
            .arg(&file)
            .output();
        let (stdout, stderr) = text(&output.expect("sh"));
        assert!(stdout.contains("attached to") || stdout.contains("replaced at"), "{stdout}{stderr}");
    });
}

/// What a readiness probe asks: the exit status tells it.
///
/// Seen to fail: with what is attached to other groups taken for it.
fn readiness() {
    let (group, other) = (Group::new(), Group::with(KEEPALIVE));
    let ask = |group: &Group, more: &[&str]| {
        let output = plain(sockopt()).arg("status").arg(&group.0).args(more).output().expect("sockopt");
        (output.status.code(), text(&output).0, text(&output).1)
    };
    let (code, _, stderr) = ask(&group, &[]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("nothing is attached to"), "{stderr}");
    let (code, stdout, _) = ask(&other, &[]);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(stdout.contains("generation 1"), "{stdout}");
    group.attach(KEEPALIVE);
    let (code, stdout, _) = ask(&group, &["--json"]);
    assert_eq!(code, Some(0), "{stdout}");
    let report: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(report.get("attachments").and_then(|all| all.as_array()).map(Vec::len), Some(1), "{stdout}");
    assert!(status(&group.0).is_some());
    let none = plain(sockopt()).args(["status", "--unit", "no-such-unit"]).output().expect("sockopt");
    assert_eq!(none.status.code(), Some(1));
}
