//! Whose sockets are covered where processes and sockets change their place: the kernel goes by the control group in which a socket
//! was made, and an accepted one has that of its listener.

use std::fs;

use libtest_mimic::Trial;

use super::{Group, in_kernel};
use crate::support::lab::{Lab, Place};
use crate::support::text;

pub(super) fn trials() -> Vec<Trial> {
    let needs = &["namespaces", "python3"];
    vec![
        in_kernel(needs, "cgroup::whose::sockets_that_are_passed_on", passed_on),
        in_kernel(needs, "cgroup::whose::sockets_that_are_accepted_elsewhere", accepted_elsewhere),
        in_kernel(needs, "cgroup::whose::a_thread_of_a_process", a_thread),
        in_kernel(needs, "cgroup::whose::a_process_that_is_born_there", born_there),
        in_kernel(needs, "cgroup::whose::listeners_that_share_a_port", shared_port),
        in_kernel(needs, "cgroup::whose::multipath", multipath),
    ]
}

/// Options of the connections to port 7000, and of what the listeners on the ports from 7001 accept.
const RULES: &str = "[[rule]]\nto = [\"127.0.0.0/8:7000-7009\"]\nkeepalive = { time = \"77s\", interval = \"20s\", probes = 4 }\n\
    [[rule]]\nlisten = [\":7001-7009\"]\nfrom = [\"127.0.0.0/8\"]\nkeepalive = { time = \"33s\" }\n";

/// What each script begins with: it is outside of the control group, `inside(function)` runs one in a process there.
const BEGIN: &str = r#"
import ctypes, os, select, socket, sys, threading
GROUP = sys.argv[1]
server = socket.create_server(("127.0.0.1", 7000), backlog=50)
def enter(group): open(group + "/cgroup.procs", "w").write("0")
def outside():
    parent = os.path.dirname(GROUP); enter(parent)
def connect(port=7000):
    s = socket.socket(); s.connect(("127.0.0.1", port)); return s
# Its idle time, and that after the program has set another one.
def show(what, s):
    before = s.getsockopt(6, 4); s.setsockopt(6, 4, 5); print(what, before, s.getsockopt(6, 4), flush=True)
def inside(function):
    pid = os.fork()
    if pid == 0:
        enter(GROUP); function(); os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"#;

/// What it prints, with a configuration attached to the group.
fn printed(script: &str) -> String {
    let lab = Lab::new();
    let group = Group::with(RULES);
    let within = group.0.join("within");
    fs::create_dir(&within).expect("a control group");
    let mut command = lab.command(Place::Here, &[], "python3");
    command.args(["-c", &format!("{BEGIN}{script}")]).arg(&group.0).arg(&within);
    let output = command.output().expect("python3");
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{stdout}{stderr}");
    let _ = fs::remove_dir(&within);
    stdout
}

/// By SCM_RIGHTS, into the group and out of it.
fn passed_on() {
    let script = "a, b = socket.socketpair()\n\
        def get(s): return socket.socket(fileno=socket.recv_fds(s, 9, 1)[1][0])\n\
        one = socket.socket(); socket.send_fds(a, [b'x'], [one.fileno()])\n\
        def other():\n\
        \x20   s = get(b); s.connect(('127.0.0.1', 7000)); show('in', s)\n\
        \x20   one = socket.socket(); socket.send_fds(b, [b'x'], [one.fileno()])\n\
        inside(other)\n\
        s = get(a); s.connect(('127.0.0.1', 7000)); show('out', s)\n";
    assert_eq!(printed(script), "in 7200 5\nout 77 77\n");
}

/// A listener of the group, whose process has left it; and one of a process that has come.
fn accepted_elsewhere() {
    let script = "def other():\n\
        \x20   l = socket.create_server(('127.0.0.1', 7001)); s = connect(7001); outside(); show('left', l.accept()[0])\n\
        inside(other)\n\
        l = socket.create_server(('127.0.0.1', 7002)); s = connect(7002)\n\
        enter(GROUP); show('came', l.accept()[0])\n";
    assert_eq!(printed(script), "left 33 33\ncame 7200 5\n");
}

/// A single thread is in a threaded group within.
fn a_thread() {
    let script = "within = sys.argv[2]; enter(GROUP)\n\
        open(within + '/cgroup.type', 'w').write('threaded')\n\
        def thread():\n\
        \x20   open(within + '/cgroup.threads', 'w').write(str(threading.get_native_id())); show('thread', connect())\n\
        x = threading.Thread(target=thread); x.start(); x.join(); show('main', connect())\n";
    assert_eq!(printed(script), "thread 77 77\nmain 77 77\n");
}

/// By clone3 with CLONE_INTO_CGROUP: it was never anywhere else.
fn born_there() {
    let script = "libc = ctypes.CDLL(None, use_errno=True)\n\
        place = os.open(GROUP, os.O_RDONLY)\n\
        arguments = (ctypes.c_uint64 * 11)(0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, place)\n\
        pid = libc.syscall(435, arguments, 88)\n\
        if pid == 0:\n\
        \x20   show('born', connect()); os._exit(0)\n\
        assert pid > 0 and os.waitpid(pid, 0)[1] == 0\n";
    assert_eq!(printed(script), "born 77 77\n");
}

/// SO_REUSEPORT: what each of them accepts.
fn shared_port() {
    let script = "def other():\n\
        \x20   all = [socket.create_server(('127.0.0.1', 7003), reuse_port=True) for _ in range(2)]\n\
        \x20   seen = set()\n\
        \x20   for _ in range(60):\n\
        \x20       s = connect(7003); l = select.select(all, [], [])[0][0]; a = l.accept()[0]; seen.add(all.index(l))\n\
        \x20       assert (s.getsockopt(6, 4), a.getsockopt(6, 4)) == (77, 33)\n\
        \x20   print(sorted(seen))\n\
        inside(other)\n";
    assert_eq!(printed(script), "[0, 1]\n");
}

/// Multipath TCP: its first connection gets the options where it falls back to TCP; nothing is enforced on the socket.
fn multipath() {
    let script = "def other():\n\
        \x20   try: s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
        \x20   except OSError: return print('multipath 77 5')\n\
        \x20   s.connect(('127.0.0.1', 7000)); show('multipath', s)\n\
        inside(other)\n";
    assert_eq!(printed(script), "multipath 77 5\n");
}
