//! A peer vanishes without a word: programs under the library notice in time, the same programs without it do not.
//!
//! Each test has a client, a router and a server of its own and cuts the link once. All of its clients, covered and
//! not, watch the same cut. The windows are wide: what is asked is whether, not how well.

use std::cmp::Reverse;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::support::lab::{
    CLIENT_ALIVE, Lab, Place, Running, SERVER, SERVER_ALIVE, SERVER_V6, State, java_arguments, needs, send_lines,
};
use crate::support::test_with;

pub(crate) fn trials() -> Vec<Trial> {
    let needs_all = needs(["curl", "java", "javac", "ss"]);
    let mut trials = vec![
        test_with(&needs_all, "dead_peers::within_15s", || promise(15, 14.0)),
        test_with(&needs_all, "dead_peers::within_5s", || promise(5, 4.0)),
        test_with(&needs(["curl"]), "dead_peers::one_option_alone_is_half", one_alone),
        test_with(&needs([]), "dead_peers::listener", listener),
    ];
    let own = [("python3", OWN_PYTHON), ("node", OWN_NODE)];
    trials.extend(own.map(|(program, script)| {
        let name = format!("dead_peers::own_keepalive_of_{program}");
        test_with(&needs([program]), name, move || own_keepalive(program, script))
    }));
    trials
}

/// What a client does when its peer vanishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Situation {
    /// It has sent its request and waits for the answer.
    Waiting,
    /// It is sending.
    InFlight,
    /// It starts to connect right after the cut.
    Connecting,
}
pub(crate) use Situation::{Connecting, InFlight, Waiting};

/// A client's end. None: it has none in the window.
pub(crate) type Expected = Option<Ends>;

#[derive(Clone, Copy)]
pub(crate) struct Ends {
    /// Seconds that it takes at least: an idle client's clock starts at the last packet, the others' at the cut.
    pub(crate) least: f64,
    /// Seconds after the cut.
    pub(crate) within: f64,
}

pub(crate) struct Case {
    /// The port tells the clients apart.
    pub(crate) port: u16,
    pub(crate) situation: Situation,
    pub(crate) what: String,
    pub(crate) expected: Expected,
}

/// A process, and the clients in it. It says `PORT<TAB>what came of it` when one ends.
pub(crate) struct Party {
    pub(crate) command: Command,
    pub(crate) cases: Vec<Case>,
}

/// How long a busy machine may take to start a client, to end it, and to say so.
pub(crate) const SLACK: f64 = 1.0;
/// How late a busy machine may say that a request has arrived, or cut.
pub(crate) const LATE: f64 = 0.5;

/// What four seconds of either option come to.
const AFTER_4S: Ends = Ends { least: 4.0 - LATE, within: 5.0 + SLACK };

/// The clients' ports, counted up.
pub(crate) struct Ports(pub(crate) std::ops::RangeFrom<u16>);

impl Ports {
    pub(crate) fn next(&mut self) -> u16 {
        self.0.next().expect("ports enough")
    }
}

/// The one knob: in every state within the promise, by the user timeout that it stands for.
fn promise(seconds: u16, user_timeout: f64) {
    let lab = Lab::with_link();
    let variable = format!("SOCKOPT_DEAD_PEER_TIMEOUT={seconds}s");
    let ends = Ends { least: user_timeout - LATE, within: f64::from(seconds) + SLACK };
    let mut ports = Ports(8001..);
    let mut parties = Vec::new();
    for environment in [&[][..], &[&*variable]] {
        let covered = !environment.is_empty();
        let name = if covered { "with" } else { "without" };
        let mut java = Party { command: lab.covered(Place::Client, environment, "java"), cases: Vec::new() };
        java.command.args(java_arguments());
        for host in [SERVER, SERVER_V6] {
            for situation in [Waiting, InFlight, Connecting] {
                let expected = covered.then_some(ends);
                let case = |port, program| Case {
                    port,
                    situation,
                    what: format!("{program} {name} to {host} {situation:?}"),
                    expected,
                };
                let case_of_curl = case(ports.next(), "curl");
                parties.push(curl(&lab, environment, host, case_of_curl));
                let case_of_java = case(ports.next(), "java");
                let mode = match situation {
                    // HttpURLConnection and a plain socket.
                    Waiting => "post",
                    InFlight => "upload",
                    Connecting => "connect",
                };
                java.command.args([mode, host, &case_of_java.port.to_string()]);
                java.cases.push(case_of_java);
            }
        }
        parties.push(java);
    }
    // Who can still be reached is left alone, however long the answer takes.
    let alive = Case { port: ports.next(), situation: Waiting, what: "curl to a living peer".into(), expected: None };
    let mut party = curl(&lab, &[&variable], SERVER_ALIVE, alive);
    party.command.args(["--interface", CLIENT_ALIVE]);
    parties.push(party);

    watch(&lab, parties, Duration::from_secs_f64(ends.within + 3.0), |cases| {
        let sockets = lab.shell(Place::Client, "ss -Htno");
        for case in cases.iter().filter(|case| case.situation == Waiting && case.what.starts_with("java")) {
            let line = socket_to(&sockets, case.port).unwrap_or_else(|| panic!("{} is gone:\n{sockets}", case.what));
            // Java has no keepalive of its own; curl has.
            let has_timer = line.contains("timer:(keepalive,");
            assert_eq!(has_timer, case.expected.is_some(), "{}: {line}", case.what);
        }
    });
}

/// Keepalive does nothing for data in flight, the user timeout nothing for an idle connection.
fn one_alone() {
    let lab = Lab::with_link();
    let mut ports = Ports(8001..);
    let mut parties = Vec::new();
    let keepalive: &[&str] = &["SOCKOPT_KEEPALIVE=1s,1s,3"];
    let user_timeout: &[&str] = &["SOCKOPT_USER_TIMEOUT=4s"];
    let both: &[&str] = &[keepalive[0], user_timeout[0]];
    for (environment, situation, ends) in [
        (keepalive, Waiting, true),
        (keepalive, InFlight, false),
        (user_timeout, Waiting, false),
        (user_timeout, InFlight, true),
        (both, Waiting, true),
        (both, InFlight, true),
    ] {
        let what = format!("{environment:?} {situation:?}");
        let case = Case { port: ports.next(), situation, what, expected: ends.then_some(AFTER_4S) };
        let mut party = curl(&lab, environment, SERVER, case);
        party.command.arg("--no-keepalive"); // its own would be switched on otherwise
        parties.push(party);
    }
    watch(&lab, parties, Duration::from_secs(10), |_| ());
}

/// Sets a keepalive of its own while the connect is in progress, or after it, and waits for the answer.
const OWN_PYTHON: &str = r#"
import select, socket, sys
host, port, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
s = socket.socket()
s.setblocking(False)
def own():
    for level, option, value in ((1, 9, 1), (6, 4, 60), (6, 5, 60), (6, 6, 9), (6, 18, 600000)):
        s.setsockopt(level, option, value)
s.connect_ex((host, port))
if when == "connecting":
    own()
select.select([], [s], [])
if when == "connected":
    own()
s.send(b"GET / HTTP/1.1\r\n\r\n")
select.select([s], [], [])
try:
    print(port, "answered: %r" % s.recv(99), sep="\t")
except OSError as error:
    print(port, error, sep="\t")
"#;

const OWN_NODE: &str = r#"
const [host, port, when] = process.argv.slice(1);
const own = () => socket.setKeepAlive(true, 60000);
const socket = require("net").connect(port, host, () => {
    if (when === "connected") own();
    socket.write("GET / HTTP/1.1\r\n\r\n");
});
if (when === "connecting") own();
socket.on("data", data => console.log(port + "\tanswered: " + data));
socket.on("error", error => console.log(port + "\t" + error.message));
"#;

/// Programs that have their own idea of keepalive: the rule's holds, unless it is not enforced.
fn own_keepalive(program: &str, script: &str) {
    let lab = Lab::with_link();
    let mut ports = Ports(8001..);
    let mut parties = Vec::new();
    let rule = "SOCKOPT_DEAD_PEER_TIMEOUT=5s";
    for (environment, ends) in [(&[][..], false), (&[rule], true), (&[rule, "SOCKOPT_ENFORCE=0"], false)] {
        for when in ["connecting", "connected"] {
            let port = ports.next();
            let mut command = lab.covered(Place::Client, environment, program);
            command.arg(if program == "node" { "-e" } else { "-c" });
            command.args([script, SERVER, &port.to_string(), when]);
            let what = format!("{environment:?}, own keepalive when {when}");
            let expected = ends.then_some(AFTER_4S);
            parties.push(Party { command, cases: vec![Case { port, situation: Waiting, what, expected }] });
        }
    }
    watch(&lab, parties, Duration::from_secs(9), |_| ());
}

/// A server drops its dead clients, by what its accepted sockets inherit.
fn listener() {
    const COVERED: u16 = 8001;
    const PLAIN: u16 = 8002;
    const RULE: &str = r#"SOCKOPT_CONFIG_TOML=rule = [{ listen = [":8001"],
        keepalive = { time = "2s", interval = "1s", probes = 2 }, user_timeout = "auto" }]"#;
    // Half a request, twice to each port; then nothing.
    const CLIENTS: &str = "import socket, time\n\
        s = [socket.create_connection(('198.19.0.2', p)) for p in (8001, 8002) * 2]\n\
        for c in s: c.send(b'GET / HT')\n\
        time.sleep(99)";
    let lab = Lab::with_link();
    for (port, environment) in [(COVERED, &[RULE][..]), (PLAIN, &[])] {
        let mut server = lab.covered(Place::Server, environment, "python3");
        server.args(["-m", "http.server", "--directory", "/run", "--bind", SERVER, &port.to_string()]);
        Running::start(server);
    }
    lab.wait_for(2, |socket| socket.state == State::Listening);
    let mut clients = lab.command(Place::Client, &[], "python3");
    clients.args(["-c", CLIENTS]);
    Running::start(clients);
    lab.wait_for(4, |socket| socket.is_accepted_on(COVERED) || socket.is_accepted_on(PLAIN));
    let cut = lab.cut();
    loop {
        // All of the namespace's sockets, also those that no process has any more.
        let sockets = lab.shell(Place::Server, "ss -Htn");
        let left = |port| sockets.matches(&format!("{SERVER}:{port} ")).count();
        let (covered, plain, after) = (left(COVERED), left(PLAIN), cut.elapsed().as_secs_f64());
        assert_eq!(plain, 2, "without the library they stay: {sockets}");
        if after < 2.5 {
            assert_eq!(covered, 2, "too early, {after} s: {sockets}");
        } else if covered == 0 {
            break;
        }
        assert!(after < 5.0 + SLACK, "still there after {after} s: {sockets}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn curl(lab: &Lab, environment: &[&str], host: &str, case: Case) -> Party {
    let port = case.port;
    let url = if host.contains(':') { format!("http://[{host}]:{port}/") } else { format!("http://{host}:{port}/") };
    let mut command = lab.covered(Place::Client, environment, "curl");
    command.args(["-q", "-s", "-g", "--noproxy", "*", "-o", "/dev/null", "-w"]);
    command.args([&format!("{port}\\t%{{exitcode}} %{{errormsg}}\n"), &url]);
    if case.situation == InFlight {
        // The pauses between the pieces are short: at the cut there is data under way.
        command.args(["-T", "/run/upload", "-H", "Expect:", "--limit-rate", "1M"]);
    }
    Party { command, cases: vec![case] }
}

/// Starts the server and the parties, cuts the link once all are connected, looks at them three seconds later, and
/// compares what became of them by the end of the window.
pub(crate) fn watch(lab: &Lab, parties: Vec<Party>, window: Duration, look: impl FnOnce(&[Case])) {
    let of_all = || parties.iter().flat_map(|party| &party.cases);
    let ports: Vec<u16> = of_all().map(|case| case.port).collect();
    let early: Vec<u16> = of_all().filter(|case| case.situation != Connecting).map(|case| case.port).collect();
    let server = lab.serve(Place::Server, &ports);
    let (sender, lines) = mpsc::channel();
    let start = |command: &mut Command| {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("nsenter");
        send_lines(child.stdout.take().expect("a pipe"), sender.clone());
        let input = child.stdin.take();
        thread::spawn(move || child.wait());
        input
    };
    let (mut first, mut late): (Vec<Party>, Vec<Party>) =
        parties.into_iter().partition(|party| party.cases.iter().any(|case| case.situation != Connecting));
    // Java, which has the most cases, takes longest to start. What it is to connect after the cut, it connects when
    // its standard input ends.
    first.sort_by_key(|party| Reverse(party.cases.len()));
    let inputs: Vec<_> = first.iter_mut().map(|party| start(&mut party.command)).collect();
    let arrived = server.wait_for(&early);
    // Long enough for every acknowledgement: those who wait have nothing in flight.
    thread::sleep(Duration::from_millis(300));
    let cut = lab.cut();
    drop(inputs);
    let late_inputs: Vec<_> = late.iter_mut().map(|party| start(&mut party.command)).collect();
    let cases: Vec<Case> = first.into_iter().chain(late).flat_map(|party| party.cases).collect();

    thread::sleep(Duration::from_secs(3).saturating_sub(cut.elapsed()));
    look(&cases);
    let mut ended: Vec<(u16, Instant, String)> = Vec::new();
    while let Ok((at, line)) = lines.recv_timeout((cut + window).saturating_duration_since(Instant::now())) {
        let (port, said) = line.split_once('\t').unwrap_or_else(|| panic!("{line:?}"));
        ended.push((port.parse().expect("a port"), at, said.to_owned()));
    }
    let sockets = lab.shell(Place::Client, "ss -Htan");
    drop(late_inputs);

    let mut report = String::new();
    let mut wrong = 0;
    for case in &cases {
        let end = ended.iter().find(|(port, ..)| *port == case.port);
        let as_expected = match (case.expected, end) {
            // Not because it is not there any more, or never was.
            (None, None) => socket_to(&sockets, case.port).is_some(),
            (Some(ends), Some((port, at, said))) => {
                let clock = if case.situation == Waiting { arrived.get(port).unwrap_or(&cut) } else { &cut };
                timed_out(said) && since(*clock, *at) >= ends.least && since(cut, *at) <= ends.within
            }
            _ => false,
        };
        wrong += usize::from(!as_expected);
        let mark = if as_expected { ' ' } else { '!' };
        report += &match end {
            Some((_, at, said)) => format!("{mark} {}: after {:.2} s: {said}\n", case.what, since(cut, *at)),
            None => format!("{mark} {}: does not end\n", case.what),
        };
    }
    assert_eq!(wrong, 0, "not as expected, marked with !:\n{report}\nsockets at the end:\n{sockets}");
}

/// The line of `ss` about the connection to that port.
fn socket_to(sockets: &str, port: u16) -> Option<&str> {
    let end = format!(":{port}");
    sockets.lines().find(|line| line.split_whitespace().any(|word| word.ends_with(&end)))
}

/// How programs call ETIMEDOUT. Status 28 is what curl says of a connect that timed out; Docker's client has a sentence of its own.
fn timed_out(said: &str) -> bool {
    ["timed out", "ETIMEDOUT", "Cannot connect to the Docker daemon"].iter().any(|words| said.contains(words))
        || said.starts_with("28 ")
}

fn since(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}
