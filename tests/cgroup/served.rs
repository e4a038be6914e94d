//! `sockopt agent --metrics`: what is served, and that nobody who asks can hurt it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use super::agent::{Agent, status, wait_until};
use super::{Group, in_kernel};
use crate::support::lab::Lab;
use crate::support::{plain, scratch, search_path, sockopt, text};

pub(super) fn trials() -> Vec<Trial> {
    let parser = "python3 module prometheus_client";
    vec![
        in_kernel(&["namespaces", parser], "cgroup::served::others_read_it", others_read_it),
        in_kernel(&[], "cgroup::served::bad_requests_get_an_answer", bad_requests),
        in_kernel(&[], "cgroup::served::slow_readers_are_turned_away", slow_readers),
        in_kernel(&[], "cgroup::served::a_port_in_use", a_port_in_use),
        in_kernel(&[], "cgroup::served::known_addresses", known_addresses),
    ]
}

/// An address that nobody listens on at this moment.
fn free(ip: &str) -> SocketAddr {
    let any: SocketAddr = format!("{ip}:0").parse().expect("an address");
    TcpListener::bind(any).and_then(|listener| listener.local_addr()).expect("a port")
}

/// An agent that serves, attached.
fn agent(group: &Group, address: SocketAddr, more: &[&str]) -> Agent {
    let log = scratch(&format!("served-{}", address.port())).join("log");
    let path = group.0.to_str().expect("text");
    let address = address.to_string();
    let arguments = [&[path, "--metrics", &address], more].concat();
    let agent = Agent::new(&arguments, &log);
    wait_until("attached", || status(&group.0).is_some());
    agent
}

/// What is answered to these bytes.
fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
    // It may have been answered before all of it was sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(address: SocketAddr, path: &str) -> (String, String) {
    let answer = ask(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.to_owned(), body.to_owned())
}

/// Prints what a reader of somebody else's makes of standard input.
const READ: &str = r#"
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families
for family in families(sys.stdin.read()):
    for s in family.samples:
        print(family.type, s.name, sorted(s.labels.items()), float(s.value))
"#;

/// Counters, with names of rules that have any characters, as the reader of Prometheus' own client has them; on IPv6. A reload
/// that fails is seen, and what is not attached is not ready.
///
/// Seen to fail: without the end of the text; with a reload that fails taken for one that is in force.
fn others_read_it() {
    let lab = Lab::new();
    let group = Group::new();
    let address = free("[::1]");
    let file = scratch("served-file").join("sockopt.toml");
    let rule = "[[rule]]\nname = 'a \"name\" \\ ü'\nto = [\"127.0.0.1:7000\"]\nkeepalive = \"on\"\n";
    fs::write(&file, rule).expect("a file");
    let _agent = agent(&group, address, &["--config", file.to_str().expect("text")]);
    group.calls(&lab, &["socket s inet stream", "connect s 127.0.0.1:7000"]);
    let read = |body: &str| {
        let mut command = Command::new("python3");
        command.env("PATH", search_path()).args(["-c", READ]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().expect("python3");
        child.stdin.take().expect("a pipe").write_all(body.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("python3");
        let (stdout, stderr) = text(&output);
        assert!(output.status.success(), "{body}\n{stderr}");
        stdout
    };
    let now = || {
        let (head, body) = get(address, "/metrics?x=y");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
        read(&body)
    };
    let labels = "('direction', 'connect')";
    let rest = "('rule', 'a \"name\" \\\\ ü'), ('to', '127.0.0.1:7000')]";
    for line in [
        "gauge sockopt_attached [] 1.0".to_owned(),
        "gauge sockopt_configuration_current [] 1.0".to_owned(),
        "gauge sockopt_configuration_generation [] 1.0".to_owned(),
        "counter sockopt_adopted_sockets_total [] 0.0".to_owned(),
        format!("counter sockopt_sockets_total [{labels}, {rest} 1.0"),
        format!("gauge sockopt_open_connections [{labels}, {rest} 0.0"),
        format!("counter sockopt_ended_connections_total [{labels}, ('reason', 'refused'), {rest} 1.0"),
        format!("counter sockopt_ended_connections_total [{labels}, ('reason', 'keepalive'), {rest} 0.0"),
    ] {
        wait_until(&line, || now().lines().any(|found| found == line));
    }
    assert!(get(address, "/ready").0.starts_with("HTTP/1.1 200 OK\r\n"));
    fs::write(&file, format!("{rule}no_such_key = 1\n")).expect("a file");
    wait_until("it is seen", || now().contains("gauge sockopt_configuration_current [] 0.0"));
    assert!(now().contains("gauge sockopt_attached [] 1.0"));
    fs::write(&file, format!("{rule}nodelay = true\n")).expect("a file");
    wait_until("it is seen", || now().contains("gauge sockopt_configuration_generation [] 2.0"));
    assert!(now().contains("gauge sockopt_configuration_current [] 1.0"));
    // The counters go on.
    assert!(now().contains(&format!("counter sockopt_sockets_total [{labels}, {rest} 1.0")));
    fs::remove_dir(&group.0).expect("nobody is in it");
    wait_until("it is seen", || get(address, "/ready").0.starts_with("HTTP/1.1 503 "));
    assert!(now().contains("gauge sockopt_attached [] 0.0"));
}

/// Seen to fail: with a request of any length read; with no answer to what is none.
fn bad_requests() {
    let group = Group::new();
    let address = free("127.0.0.1");
    let _agent = agent(&group, address, &["--priority", "1"]);
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
    for (request, status) in [
        (&b"GET / HTTP/1.0\r\n\r\n"[..], "200"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", "200"),
        (b"GET /nothing HTTP/1.1\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "405"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"),
        (b"GET\r\n\r\n", "400"),
        (long.as_bytes(), "431"),
        (many.as_bytes(), "431"),
    ] {
        let answer = ask(address, request);
        let begin = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&begin), "{:?}: {answer:?}", String::from_utf8_lossy(request));
        assert_eq!(answer.ends_with("\r\n\r\n"), request.starts_with(b"HEAD"), "{answer:?}");
    }
    // Nobody hears the answer to nothing.
    assert_eq!(ask_and_end(address, b"GET / HT"), "");
    assert!(get(address, "/metrics").0.contains(" 200 "));
}

/// The same, and no more is to come.
fn ask_and_end(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(request).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("ended");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// A hundred that say nothing, or read nothing: the agent follows its configuration, has few threads and descriptors, and serves
/// others when their time is over.
///
/// Seen to fail: without a limit of connections; without one of time.
fn slow_readers() {
    let group = Group::new();
    let address = free("127.0.0.1");
    let file = scratch("served-slow").join("sockopt.toml");
    fs::write(&file, "[defaults]\npriority = 1\n").expect("a file");
    let agent = agent(&group, address, &["--config", file.to_str().expect("text")]);
    let count = |what: &str| fs::read_dir(format!("/proc/{}/{what}", agent.id())).map_or(0, Iterator::count);
    let begin = Instant::now();
    let mut slow: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    for stream in slow.iter_mut().step_by(2) {
        let _ = stream.write_all(b"GET /metrics HT");
    }
    fs::write(&file, "[defaults]\npriority = 2\n").expect("a file");
    let generation = || status(&group.0).and_then(|status| status.get("generation")?.as_u64());
    wait_until("the agent goes on", || generation() == Some(2));
    assert!(count("task") < 40, "{} threads", count("task"));
    assert!(count("fd") < 60, "{} descriptors", count("fd"));
    wait_until("they are turned away", || {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a time");
        let _ = stream.write_all(b"GET /ready HTTP/1.1\r\n\r\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.contains(" 200 OK")
    });
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
    drop(slow);
    wait_until("all threads have ended", || count("task") == 2);
}

/// Nothing is attached if nobody could read what is counted.
///
/// Seen to fail: with the listener made after it.
fn a_port_in_use() {
    let group = Group::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let try_it = |address: &str| {
        let mut command = plain(sockopt());
        command.arg("agent").arg(&group.0).args(["--priority", "1", "--metrics", address]).output().expect("sockopt")
    };
    let output = try_it(&address);
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("--metrics: cannot listen on {address}: Address")), "{stderr}");
    let output = try_it("192.0.2.1:9464");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output).1);
    assert!(status(&group.0).is_none());
    for wrong in ["9464", "localhost:9464", "127.0.0.1", "127.0.0.1:99999"] {
        assert_eq!(try_it(wrong).status.code(), Some(2), "{wrong}");
    }
}

/// Of host names, where rules have some and `--dns` is given.
///
/// Seen to fail: with one more than there are.
fn known_addresses() {
    let group = Group::new();
    let file = scratch("served-names").join("sockopt.toml");
    fs::write(&file, "[[rule]]\nto = [\"*.example\", \"10.0.0.0/8\"]\npriority = 1\n").expect("a file");
    let address = free("127.0.0.1");
    let arguments = ["--config", file.to_str().expect("text")];
    let agent_with_names = agent(&group, address, &[&arguments[..], &["--dns"]].concat());
    wait_until("served", || get(address, "/metrics").1.contains("\nsockopt_known_addresses 0\n"));
    drop(agent_with_names);
    group.detach();
    let address = free("127.0.0.1");
    let _agent = agent(&group, address, &[&arguments[..], &["--partial"]].concat());
    wait_until("served", || get(address, "/ready").0.contains(" 200 "));
    assert!(!get(address, "/metrics").1.contains("known_addresses"));
}
