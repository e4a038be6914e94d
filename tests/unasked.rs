//! Programs that connect without waiting and never ask how it ended: what `connect_timeout` leaves on their connections.

use libtest_mimic::Trial;

use crate::support::lab::{Lab, Place::Here, Running, State, needs};
use crate::support::{haproxy_configuration, plain, scratch, test_with};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test_with(&needs(["haproxy", "curl"]), "unasked::haproxy", haproxy),
        test_with(&needs(["wrk"]), "unasked::wrk", wrk),
        test_with(&needs(["tcpclient"]), "unasked::tcpclient", tcpclient),
        test_with(&needs(["rustc"]), "unasked::rust", rust),
        test_with(&["strace", "python3"], "unasked::given_up", given_up),
        test_with(&["python3"], "unasked::a_child_gives_nothing_up", a_child_gives_nothing_up),
    ]
}

const RULES: &str =
    "SOCKOPT_CONFIG_TOML=rule = [{ to = [\"127.0.0.1:8001\"], connect_timeout = \"5s\", dead_peer_timeout = \"15s\" }]";
/// What the connections are to have.
const AFTERWARDS: i64 = 14_000;

/// Waits for that many connections to the server which have the user timeout that they are to have.
fn wait_for(lab: &Lab, program: &str, count: usize) {
    let is_one = |socket: &crate::support::lab::Socket| {
        socket.program == program && socket.state == State::Established && socket.is_to("127.0.0.1", 8001)
    };
    lab.wait_for(count, |socket| is_one(socket) && socket.options[4] == AFTERWARDS);
}

/// By its next epoll_ctl. Seen to fail without the hook of it: the time for connecting stayed.
fn haproxy() {
    let lab = Lab::new();
    let mut server = lab.serve(Here, &[8001]);
    let file = scratch("unasked-haproxy").join("haproxy.cfg");
    std::fs::write(&file, haproxy_configuration("http")).expect("a file");
    let mut haproxy = lab.covered(Here, &[RULES], "haproxy");
    haproxy.arg("-db").arg("-f").arg(&file);
    let _haproxy = Running::start(haproxy);
    lab.wait_for(1, |socket| socket.program == "haproxy" && socket.state == State::Listening);
    let mut curl = lab.command(Here, &[], "curl");
    curl.args(["-q", "-sS", "--noproxy", "*", "http://127.0.0.1:9000/through"]);
    let curl = Running::start(curl);
    server.wait_for(&[8001]);
    wait_for(&lab, "haproxy", 1);
    server.release();
    let output = curl.finish();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello from /through\n");
}

/// Seen to fail likewise.
fn wrk() {
    let lab = Lab::new();
    let mut server = lab.serve(Here, &[8001]);
    let mut wrk = lab.covered(Here, &[RULES], "wrk");
    wrk.args(["-t", "2", "-c", "6", "-d", "3s", "http://127.0.0.1:8001/load"]);
    let wrk = Running::start(wrk);
    server.wait_for(&[8001]);
    wait_for(&lab, "wrk", 6);
    server.release();
    let output = wrk.finish();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !said.contains("Socket errors: connect"), "{said}");
}

/// It asks who the peer is. Seen to fail without the hook of getpeername: the time for connecting stayed.
fn tcpclient() {
    let lab = Lab::new();
    let mut server = lab.serve(Here, &[8001]);
    let mut tcpclient = lab.covered(Here, &[RULES], "tcpclient");
    // No names are looked up; the program that it becomes has the connection as 6 and 7.
    tcpclient.args(["-R", "-H", "-l0", "127.0.0.1", "8001", "sh", "-c"]);
    tcpclient.arg("printf 'GET /unasked HTTP/1.0\\r\\n\\r\\n' >&7; exec cat <&6");
    let tcpclient = Running::start(tcpclient);
    server.wait_for(&[8001]);
    wait_for(&lab, "cat", 1);
    server.release();
    assert!(String::from_utf8_lossy(&tcpclient.finish().stdout).ends_with("hello from /unasked\n"));
}

/// Rust's standard library waits by poll, and asks only where that says that it failed. Seen to fail without the hook of poll: the time for
/// connecting stayed, and a peer that paused for longer ended the connection.
fn rust() {
    const SOURCE: &str = r#"
        use std::{io::{Read, Write}, net::{Ipv4Addr, TcpStream}, time::Duration};
        fn main() {
            let to = (Ipv4Addr::LOCALHOST, 8001).into();
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(9)).expect("it listens");
            stream.write_all(b"GET /unasked HTTP/1.0\r\n\r\n").expect("it is there");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("it answers");
            print!("{text}");
        }
    "#;
    let folder = scratch("unasked-rust");
    let (file, program) = (folder.join("rusty.rs"), folder.join("rusty"));
    std::fs::write(&file, SOURCE).expect("a file");
    let compiled = plain("rustc").args(["--edition=2021", "-o"]).arg(&program).arg(&file).output().expect("rustc");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let lab = Lab::new();
    let mut server = lab.serve(Here, &[8001]);
    let rusty = Running::start(lab.covered(Here, &[RULES], &program));
    server.wait_for(&[8001]);
    wait_for(&lab, "rusty", 1);
    server.release();
    assert!(String::from_utf8_lossy(&rusty.finish().stdout).ends_with("hello from /unasked\n"));
}

/// What is closed while it connects is not counted on: poll asks nothing of any socket afterwards. Seen to fail without the hook of close:
/// a getsockopt for each socket in each poll, for good.
fn given_up() {
    // The listener's queue is full, so that connects go on.
    const SCRIPT: &str = r#"
import ctypes, os, select, socket
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen(0)
to = listener.getsockname()
filling = [socket.socket() for _ in range(4)]
for one in filling: one.setblocking(False); one.connect_ex(to)
a, b = socket.socketpair()
ends = {"close": lambda s: s.close(), "dup2": lambda s: os.dup2(a.fileno(), s.fileno())}
poll = select.poll(); poll.register(b, select.POLLOUT)
for name, end in ends.items():
    for one in filling: end(one)
    os.getpgid(0)
    poll.poll(); select.select([], [b], [], 0)
    os.getpgid(0)
    filling = [socket.socket()]
    filling[0].setblocking(False); filling[0].connect_ex(to)
    os.getpgid(0)
    poll.poll()
    os.getpgid(0)
"#;
    let mut command = plain("strace");
    command.args(["-f", "-e", "trace=getsockopt,getpgid", "-E"]);
    command.arg(format!("LD_PRELOAD={}", crate::support::library().display()));
    command.args(["-E", "SOCKOPT_CONNECT_TIMEOUT=20s", "python3", "-c", SCRIPT]);
    let output = command.output().expect("strace runs");
    let trace = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{trace}");
    let parts: Vec<usize> =
        trace.split("getpgid(").map(|part| part.lines().filter(|line| line.contains("getsockopt(")).count()).collect();
    // Between two marks: nothing left; then one that connects, which is asked.
    let [_, given_up, _, connecting, _, again, _, once_more, _] = parts[..] else { panic!("{trace}") };
    assert_eq!((given_up, again), (0, 0), "{trace}");
    assert!(connecting > 0 && once_more > 0, "the test of the test: {trace}");
}

/// A child that connects itself, and closes what it has of its parent, takes nothing from what its parent connects. Seen to fail with one
/// process noted for all sockets: 0.
fn a_child_gives_nothing_up() {
    const SCRIPT: &str = r#"
import os, socket
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen(0)
def connecting():
    one = socket.socket(); one.setblocking(False); one.connect_ex(listener.getsockname()); return one
of_parent = [connecting() for _ in range(4)]
if not (child := os.fork()):
    of_child = connecting()
    for one in of_parent: one.close()
    os._exit(0)
os.waitpid(child, 0)
print(of_parent[-1].getsockopt(6, 18))
"#;
    let mut command = plain("python3");
    command.env("LD_PRELOAD", crate::support::library()).env("SOCKOPT_CONNECT_TIMEOUT", "20s").args(["-c", SCRIPT]);
    let output = command.output().expect("python3 runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "19999\n", "{}", String::from_utf8_lossy(&output.stderr));
}
