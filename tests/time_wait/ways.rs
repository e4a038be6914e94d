//! The ways in which a connection ends or changes hands while its data is still under way: all of it arrives, and the end
//! without an error.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use super::{RESET, WITHOUT, time_waits};
use crate::support::lab::{Lab, PATIENCE, Place, Place::Here, Running, SERVER, State, needs};
use crate::support::{MULTIPATH, probe, root, scratch, test_with, text};

/// What is to be seen besides the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// No TIME_WAIT, and with `linger = "reset"` something is lost.
    Nothing,
    /// As without the library.
    AsWithout,
}

/// How the peers read, and how often each way is gone.
const WAYS: [(&str, &str, usize, Seen); 15] = [
    ("close", "end", 20, Seen::Nothing),
    ("spawn", "end", 5, Seen::Nothing),
    ("fork", "end", 50, Seen::Nothing),
    ("pass", "end", 5, Seen::Nothing),
    ("refused", "end", 10, Seen::Nothing),
    ("cancelled", "end", 10, Seen::Nothing),
    ("send", "end", 50, Seen::Nothing),
    ("sendfile", "end", 50, Seen::Nothing),
    ("splice", "end", 50, Seen::Nothing),
    ("unwaited", "end", 5, Seen::Nothing),
    ("exit", "end", 20, Seen::Nothing),
    ("kill", "end", 20, Seen::Nothing),
    ("exec", "end", 20, Seen::Nothing),
    ("half-close", "answer", 10, Seen::AsWithout),
    ("peer resets", "reset", 10, Seen::AsWithout),
];

const PYTHON: &str = "
import os, socket, subprocess, sys
host, port, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(rounds):
    s = socket.create_connection((host, port))
    command = ['sh', '-c', 'sleep 0.1; exec head -c 300000 /dev/zero >&%d' % s.fileno()]
    options = {'env': {'PATH': os.environ['PATH']}}
    if number % 2:
        options['pass_fds'] = [s.fileno()]
    else:
        s.set_inheritable(True)
        options['close_fds'] = False
    child = subprocess.Popen(command, **options)
    s.close()
    child.wait()
print('sent', 300000 * rounds)";

pub(super) fn trials() -> Vec<Trial> {
    let needs_all = needs(["ss", "nft"]);
    let mut trials: Vec<Trial> = WAYS
        .into_iter()
        .map(|(way, peer, rounds, seen)| {
            let run = move || {
                let words = [way, "127.0.0.1:8001", &rounds.to_string()].map(str::to_owned);
                goes(&probe("ends").display().to_string(), &words, peer, rounds, seen);
            };
            test_with(&needs_all, format!("time_wait::ways::{}", way.replace(' ', "_")), run)
        })
        .collect();
    trials.push(test_with(&needs_all, "time_wait::ways::python_children", || {
        let words = ["-c", PYTHON, "127.0.0.1", "8001", "6"].map(str::to_owned);
        goes("python3", &words, "end", 6, Seen::Nothing);
    }));
    trials.push(test_with(&needs(["ss", "rustc"]), "time_wait::ways::rust_child", || {
        goes(&rust_child(), &["127.0.0.1:8001", "5"].map(str::to_owned), "end", 5, Seen::Nothing);
    }));
    trials.push(test_with(&needs(["python3"]), "time_wait::ways::peer_that_polls", peer_that_polls));
    trials.push(test_with(&needs_all, "time_wait::ways::server_closes_first", server_closes_first));
    trials.push(test_with(&needs(["python3"]), "time_wait::ways::peer_that_accepts_late", peer_that_accepts_late));
    trials.push(test_with(&needs_all, "time_wait::ways::reset_is_lost", reset_is_lost));
    trials.push(test_with(&needs_all, "time_wait::ways::every_reset_is_lost", every_reset_is_lost));
    trials.push(test_with(&needs_all, "time_wait::ways::fin_is_lost", fin_is_lost));
    trials.push(test_with(&needs_all, "time_wait::ways::both_close_at_once", both_close_at_once));
    trials.push(test_with(&needs(["ss", MULTIPATH]), "time_wait::ways::multipath_peer", multipath_peer));
    trials
}

/// Polls, asks for the error and reads when the connection has ended.
const POLLS: &str = "
import select, socket, sys, time
listener = socket.socket()
listener.bind((sys.argv[1], 8001))
listener.listen()
print('ready', flush=True)
peer, _ = listener.accept()
time.sleep(0.5)
poll = select.poll()
poll.register(peer, select.POLLIN)
[(_, seen)] = poll.poll(5000)
error = peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
print(seen & select.POLLERR != 0, seen & select.POLLHUP != 0, error, peer.recv(99), peer.recv(99))";

const SENDS: &str = "
import socket, sys
socket.create_connection((sys.argv[1], 8001)).sendall(b'all of it')";

/// What a peer is told that polls: an error and the end, beside what is left to read. That is a limit, which docs/limits.md names.
/// Seen to fail: with 0 in place of -1, where both cases are the same.
fn peer_that_polls() {
    let lab = Lab::with_link();
    for (environment, told) in [(&[WITHOUT][..], "True True 32"), (&[], "False False 0")] {
        let mut peer = lab.command(Place::Server, &[], "python3");
        let mut peer = peer.args(["-c", POLLS, SERVER]).stdout(Stdio::piped()).spawn().expect("nsenter");
        let mut said = BufReader::new(peer.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        assert_eq!(said.next().as_deref(), Some("ready"));
        let output = lab.covered(Place::Client, environment, "python3").args(["-c", SENDS, SERVER]).output();
        assert_eq!(text(&output.expect("nsenter")), (String::new(), String::new()));
        let seen = said.next();
        let _ = peer.wait();
        assert_eq!(seen, Some(format!("{told} b'all of it' b''")), "{environment:?}");
    }
}

/// Accepts when the client is gone, and asks the connection what servers ask.
const LATE: &str = "
import errno, socket, sys, time
def answer(of):
    try:
        of()
        return 'yes'
    except OSError as error:
        return errno.errorcode[error.errno]
listener = socket.socket()
listener.bind((sys.argv[1], 8001))
listener.listen()
print('ready', flush=True)
sys.stdin.read()
peer, address = listener.accept()
asked = [peer.getpeername, lambda: peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
print(address != None, *map(answer, asked), peer.recv(99), peer.recv(99), answer(lambda: peer.shutdown(socket.SHUT_RDWR)))";

/// A server that accepts after the RST gets all of it, and the client's address with it; but there is no peer any more. Whoever
/// gives up then loses what was sent. That is a limit, which docs/limits.md names with those that do. Seen to fail: with 0 in
/// place of -1, where both cases are the same.
fn peer_that_accepts_late() {
    let lab = Lab::with_link();
    for (environment, told) in [(&[WITHOUT][..], "ENOTCONN"), (&[], "yes")] {
        let mut peer = lab.command(Place::Server, &[], "python3");
        let peer = peer.args(["-c", LATE, SERVER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut peer = peer.spawn().expect("nsenter");
        let mut said = BufReader::new(peer.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        assert_eq!(said.next().as_deref(), Some("ready"));
        let output = lab.covered(Place::Client, environment, "python3").args(["-c", SENDS, SERVER]).output();
        assert_eq!(text(&output.expect("nsenter")), (String::new(), String::new()));
        // The acknowledgement and the RST have crossed two links by then.
        thread::sleep(Duration::from_millis(500));
        drop(peer.stdin.take());
        let seen = said.next();
        let _ = peer.wait();
        assert_eq!(seen, Some(format!("True {told} yes b'all of it' b'' {told}")), "{environment:?}");
    }
}

fn rust_child() -> String {
    let path = scratch("rust child").join("child").display().to_string();
    let source = root().join("tests/probes/child.rs");
    let output = Command::new("rustc").args(["--edition=2024", "-o", &path]).arg(source).output().expect("rustc");
    assert!(output.status.success(), "{}", text(&output).1);
    path
}

/// What one side or the other says: bytes, and how each connection ended.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    bytes: u64,
    ends: Vec<String>,
}

impl Said {
    /// Of the lines that begin with this word.
    fn of(text: &str, word: &str) -> Said {
        let lines = text.lines().filter_map(|line| line.strip_prefix(word)?.trim().split_once(' '));
        let (mut bytes, mut ends) = (0, Vec::new());
        for (number, end) in lines {
            bytes += number.parse::<u64>().expect("a number");
            ends.push(end.to_owned());
        }
        Said { bytes, ends }
    }

    fn is_clean(&self, count: usize) -> bool {
        self.ends.len() == count && self.ends.iter().all(|end| end == "end")
    }
}

/// A probe of the other side, which is without the library; it has ended with the last connection.
fn other(lab: &Lab, place: Place, words: &[&str]) -> Running {
    let mut command = lab.command(place, &[], probe("ends"));
    command.args(words);
    let running = Running::start(command);
    if words[0] != "fetch" {
        lab.wait_for(1, |socket| socket.program == "ends" && socket.state == State::Listening);
    }
    running
}

fn output(running: Running) -> String {
    let (stdout, stderr) = text(&running.finish());
    assert_eq!(stderr, "", "{stdout}");
    stdout
}

/// One way, in a lab of its own: what was sent, the peers' and the program's own words, and how many TIME_WAIT are left.
fn gone(
    environment: &[&str],
    program: &str,
    words: &[String],
    peer: &str,
    rounds: usize,
) -> (u64, Said, String, usize) {
    let lab = Lab::new();
    let reader = other(&lab, Here, &["read", "8001", &rounds.to_string(), peer]);
    let mut command = lab.covered(Here, environment, program);
    let (said, errors) = text(&command.args(words).stdin(Stdio::null()).output().expect("nsenter"));
    // With `linger = "reset"` the peers may find that their answer has no taker.
    let (read, _) = text(&reader.finish());
    assert!(errors.is_empty() || environment == [RESET], "{errors}");
    let sent = said.lines().find_map(|line| line.strip_prefix("sent ")?.parse().ok()).expect("it says so");
    (sent, Said::of(&read, "read"), said, time_waits(&lab, Here))
}

/// Seen to fail: with `SOCKOPT_LINGER=reset` in place of `SOCKOPT_TIME_WAIT=false`, which each run does again.
fn goes(program: &str, words: &[String], peer: &str, rounds: usize, seen: Seen) {
    let (sent, plain, plain_words, plain_left) = gone(&[], program, words, peer, rounds);
    assert!(plain.ends.len() == rounds && (peer == "reset" || plain.bytes == sent), "{sent} {plain:?}");
    let (sent, read, own, left) = gone(&[WITHOUT], program, words, peer, rounds);
    if seen == Seen::AsWithout {
        assert_eq!((&read, left), (&plain, plain_left));
        assert_eq!(own, plain_words);
        return;
    }
    assert!(read.bytes == sent && read.is_clean(rounds), "{sent} sent, {read:?}");
    assert_eq!((left, plain_left), (0, rounds));
    let (sent, read, ..) = gone(&[RESET], program, words, peer, rounds);
    let resets = read.ends.iter().filter(|end| *end == "ECONNRESET").count();
    eprintln!("{} with a reset: {} of {sent} bytes arrive, {resets} of {rounds} peers see it", words[0], read.bytes);
    assert!(resets > 0 && read.bytes < sent, "{sent} {read:?}");
}

/// The option is the listener's. Seen to fail: with `SOCKOPT_LINGER=reset`, which it does again by a rule of its own.
fn server_closes_first() {
    const COUNT: usize = 300;
    let serve = |environment: &[&str]| {
        let lab = Lab::with_link();
        let mut command = lab.covered(Place::Server, environment, probe("ends"));
        command.args(["serve", "8001", &COUNT.to_string()]);
        let server = Running::start(command);
        lab.wait_for(1, |socket| socket.program == "ends" && socket.state == State::Listening);
        let fetched = output(other(&lab, Place::Client, &["fetch", &format!("{SERVER}:8001"), &COUNT.to_string()]));
        output(server);
        (Said::of(&fetched, "read"), time_waits(&lab, Place::Server))
    };
    let (read, left) = serve(&[]);
    assert!(read.bytes == 300_000 * COUNT as u64 && read.is_clean(COUNT), "{read:?}");
    assert_eq!(left, COUNT);
    let (read, left) = serve(&["SOCKOPT_CONFIG_TOML=[[rule]]\nlisten = [\":8001\"]\ntime_wait = false"]);
    assert!(read.bytes == 300_000 * COUNT as u64 && read.is_clean(COUNT), "{read:?}");
    assert_eq!(left, 0);
    let (read, _) = serve(&["SOCKOPT_CONFIG_TOML=[[rule]]\nlisten = [\":8001\"]\nlinger = \"reset\""]);
    assert!(read.bytes < 300_000 * COUNT as u64 && !read.is_clean(COUNT), "{read:?}");
}

/// An empty chain in the way of what a namespace sends.
const DROP: &str = "nft add table ip lossy
    nft 'add chain ip lossy out { type filter hook output priority 0; }'";

/// Five uploads from the client to readers in a lab whose client drops what these rules match.
struct Upload {
    lab: Lab,
    reader: Running,
}

impl Upload {
    fn start(environment: &[&str], rules: &[&str], peer: &str) -> Upload {
        let lab = Lab::with_link();
        let reader = other(&lab, Place::Server, &["read", "8001", "5", peer]);
        lab.shell(Place::Client, DROP);
        for rule in rules {
            lab.shell(Place::Client, &format!("nft add rule ip lossy out {rule}"));
        }
        let mut command = lab.covered(Place::Client, environment, probe("ends"));
        command.args(["close", &format!("{SERVER}:8001"), "5"]);
        output(Running::start(command));
        Upload { lab, reader }
    }

    fn pass(&self) {
        self.lab.shell(Place::Client, "nft delete table ip lossy");
    }

    /// The states of the client's connections, then the server's.
    fn states(&self) -> String {
        let of = |place| {
            let all = self.lab.shell(place, "ss -Htan");
            let states = all.lines().filter_map(|line| line.split_whitespace().next());
            states.filter(|state| *state != "LISTEN").collect::<Vec<_>>().join(" ")
        };
        format!("{} | {}", of(Place::Client), of(Place::Server))
    }

    fn wait_for(&self, states: &str) {
        let until = Instant::now() + PATIENCE;
        while self.states() != states {
            assert!(Instant::now() < until, "{} in place of {states}", self.states());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the peers have read.
    fn read(self) -> (Lab, Said) {
        (self.lab, Said::of(&output(self.reader), "read"))
    }
}

fn is_whole(read: &Said) -> bool {
    read.bytes == 5 * 300_000 && read.is_clean(5)
}

fn five(state: &str) -> String {
    [state; 5].join(" ")
}

/// The peer is where it would be after a plain close: it has read everything and the end, and its own close ends its
/// side. Seen to fail: with `SOCKOPT_LINGER=reset`, which leaves the peer half-open.
fn reset_is_lost() {
    const RULES: &[&str] = &["tcp flags rst drop"];
    let upload = Upload::start(&[WITHOUT], RULES, "hold");
    upload.wait_for(&format!(" | {}", five("CLOSE-WAIT")));
    upload.pass();
    // That of the program's close is answered.
    upload.wait_for(" | ");
    assert!(is_whole(&upload.read().1));
    let upload = Upload::start(&[], RULES, "hold");
    upload.wait_for(&format!("{} | ", five("TIME-WAIT")));
    assert!(is_whole(&upload.read().1));
    let upload = Upload::start(&[RESET], RULES, "hold");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(upload.states(), format!(" | {}", five("ESTAB")));
}

/// A network that drops every RST: the peer's kernel sends its FIN again and again, for which a TIME_WAIT would be. Its
/// program has long read everything and gone.
fn every_reset_is_lost() {
    const RULES: &[&str] = &["tcp flags rst drop"];
    let upload = Upload::start(&[WITHOUT], RULES, "end");
    upload.wait_for(&format!(" | {}", five("LAST-ACK")));
    // It is answered with the next.
    upload.pass();
    upload.wait_for(" | ");
    assert!(is_whole(&upload.read().1));
}

/// No FIN arrives for 2 s, nor the data in its segment. Seen to fail: with `SOCKOPT_LINGER=reset`.
fn fin_is_lost() {
    const RULES: &[&str] = &["tcp flags fin drop"];
    let upload = |environment: &[&str]| {
        let upload = Upload::start(environment, RULES, "end");
        let before = upload.states();
        thread::sleep(Duration::from_secs(2));
        upload.pass();
        let (lab, read) = upload.read();
        (before, read, time_waits(&lab, Place::Client))
    };
    let (before, read, left) = upload(&[WITHOUT]);
    assert!(before.starts_with(&five("FIN-WAIT-1")), "{before}");
    assert!(is_whole(&read), "{read:?}");
    assert_eq!(left, 0);
    let (_, read, left) = upload(&[]);
    assert!(is_whole(&read), "{read:?}");
    assert_eq!(left, 5);
    let (_, read, _) = upload(&[RESET]);
    assert!(!is_whole(&read), "{read:?}");
}

/// Their FINs cross: TIME_WAIT is left on both sides, with the option as without (CLOSING, not FIN_WAIT2).
fn both_close_at_once() {
    const BOTH: &str = "
import socket
l = socket.create_server(('127.0.0.1', 8001))
c = socket.create_connection(('127.0.0.1', 8001))
a = l.accept()[0]
c.sendall(b'x')
a.recv(1)
c.close()
a.close()";
    for environment in [&[WITHOUT][..], &[]] {
        let lab = Lab::new();
        lab.shell(Here, &format!("{DROP}; nft add rule ip lossy out tcp flags fin drop"));
        let mut command = lab.covered(Here, environment, "python3");
        output(Running::start({
            command.args(["-c", BOTH]);
            command
        }));
        let states = lab.shell(Here, "ss -Htan | cut -d' ' -f1");
        assert_eq!(states, "FIN-WAIT-1\nFIN-WAIT-1\n");
        lab.shell(Here, "nft delete table ip lossy");
        assert_eq!(time_waits(&lab, Here), 2, "{environment:?}");
    }
}

/// A client with Multipath TCP of a server without it reads everything, and then the end or an error, as it happens.
fn multipath_peer() {
    const COUNT: usize = 20;
    let fetch = |environment: &[&str]| {
        let lab = Lab::new();
        let mut command = lab.covered(Here, environment, probe("ends"));
        command.args(["serve", "8001", &COUNT.to_string()]);
        let server = Running::start(command);
        lab.wait_for(1, |socket| socket.program == "ends" && socket.state == State::Listening);
        let words = ["fetch", "127.0.0.1:8001", &COUNT.to_string(), "multipath"];
        let fetched = output(other(&lab, Here, &words));
        output(server);
        Said::of(&fetched, "read")
    };
    let read = fetch(&[]);
    assert!(read.bytes == 300_000 * COUNT as u64 && read.is_clean(COUNT), "{read:?}");
    let read = fetch(&[WITHOUT]);
    let errors = read.ends.iter().filter(|end| *end == "EPIPE").count();
    eprintln!("Multipath TCP at the peer: EPIPE in place of the end on {errors} of {COUNT}");
    assert_eq!(read.bytes, 300_000 * COUNT as u64);
    assert!(errors > 0 && read.ends.iter().all(|end| end == "end" || end == "EPIPE"), "{read:?}");
}
