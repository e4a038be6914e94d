//! Real programs under the library: what the kernel then holds for their sockets, read from outside, and that the
//! programs themselves behave as ever.

mod scenes;
mod supervised;
mod table;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::support::lab::{Lab, Options, PATIENCE, Place::Here, Running, Socket, java_arguments, needs};
use crate::support::{MORE_USERS, library, scratch, sockopt, test, test_with, text};

/// A program in the table of docs/programs.md.
struct Entry {
    /// Of its test.
    name: &'static str,
    /// In the table.
    program: &'static str,
    /// A command of the shell that says it.
    version: &'static str,
    needs: Vec<&'static str>,
    /// What it does as it does without sockopt.
    does: &'static str,
    way: Way,
    scene: Scene,
}

/// What sets the options in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Library,
    /// By `sockopt run`, which chooses it where no library gets in.
    Supervisor,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Library => "library",
            Way::Supervisor => "supervisor",
        }
    }
}

/// Runs a program and looks at its sockets: once without the library and once with it.
type Scene = Box<dyn Fn(&Stage) -> Played + Send>;

/// Where a scene runs.
struct Stage<'a> {
    lab: Lab,
    /// The same for both runs.
    folder: PathBuf,
    /// The rules; empty without sockopt.
    environment: &'a [&'a str],
    way: Way,
}

/// What came of a scene; the two runs must agree in what was said.
struct Played {
    looks: Vec<Look>,
    said: Outcome,
}

/// A socket's options, and what a rule makes of them.
struct Look {
    role: Role,
    options: Options,
    rule: Option<Options>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Listener,
    Accepted,
    /// The client side of a proxy.
    Upstream,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Listener => "listener",
            Role::Accepted => "accepted",
            Role::Upstream => "upstream",
        }
    }
}

impl Look {
    fn new(role: Role, options: Options, rule: Options) -> Look {
        Look { role, options, rule: Some(rule) }
    }
}

impl Stage<'_> {
    /// A command under the library or the supervisor, in the run that has it.
    fn under(&self, program: impl AsRef<OsStr>) -> Command {
        if self.way == Way::Library || self.environment.is_empty() {
            return self.lab.covered(Here, self.environment, program);
        }
        let mut command = self.lab.command(Here, self.environment, sockopt());
        command.args(["run", "--"]).arg(program);
        command
    }

    /// One without it in any case.
    fn plain(&self, program: impl AsRef<OsStr>) -> Command {
        self.lab.command(Here, &[], program)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    let entries = entries();
    let programs: Vec<&str> = entries.iter().map(|entry| entry.program).collect();
    let mut trials: Vec<Trial> = entries.into_iter().map(Entry::trial).collect();
    trials.push(test("programs::table", move || table::check(&programs)));
    trials.extend(besides());
    trials.extend(under_run());
    trials.extend(filled());
    trials.extend([
        test_with(&needs(["java", "javac"]), "programs::java_with_many_threads", many_threads),
        test_with(&needs(["nginx", "curl", "strace"]), "programs::nginx_accepts_at_no_cost", nginx_accepts_at_no_cost),
    ]);
    trials
}

/// Writes what was found, if that is wanted, after the last test.
pub(crate) fn write_table() {
    table::write(&entries().iter().map(|entry| entry.program).collect::<Vec<_>>());
}

impl Entry {
    fn trial(self) -> Trial {
        let mut needs: Vec<&str> = needs([]).into_iter().chain(self.needs).collect();
        let users = needs.contains(&MORE_USERS);
        needs.sort_unstable();
        let name = format!("programs::{}", self.name);
        let Entry { name: folder, program, version, does, way, scene, .. } = self;
        test_with(
            &needs,
            name,
            Box::new(move || {
                let without = twice(folder, users, way, &scene);
                table::found(program, version, way, does, &without);
            }),
        )
    }
}

/// Runs a scene plain and covered. Its sockets have what the rules say, and plain they have not; what is said and
/// returned is the same. Gives the looks without the library.
///
/// Seen to fail with `enforce = false` where a program sets options after its connect or accept (Node, Redis, PostgreSQL,
/// HAProxy), and everywhere with SOCKOPT_DISABLE=1.
fn twice(name: &str, users: bool, way: Way, scene: &Scene) -> Vec<Look> {
    let (folder, rules) = (scratch(&format!("programs-{name}")), rules());
    let play = |environment: &[&str]| {
        let lab = if users { Lab::with_users() } else { Lab::new() };
        scene(&Stage { lab, folder: folder.clone(), environment, way })
    };
    let (without, with) = (play(&[]), play(&[&rules]));
    assert_eq!(with.looks.len(), without.looks.len());
    for (with, without) in with.looks.iter().zip(&without.looks) {
        let role = with.role.name();
        match with.rule {
            Some(rule) => {
                assert_ne!(without.options, rule, "{role}: without the library");
                assert_eq!(with.options, rule, "{role}: with the library; without {:?}", without.options);
            }
            None => assert_eq!(with.options, without.options, "{role}: no rule matches"),
        }
    }
    assert_eq!(with.said, without.said, "with the library, and without");
    without.looks
}

/// Two rules for destinations, one for a listener; 127.0.0.3 has none.
const RULES: &str = r#"
rule = [
    { to = ["127.0.0.1:8001-8019", "[::1]:8001-8019", "127.0.0.1:9000"],
      keepalive = { time = "11s", interval = "4s", probes = 6 }, user_timeout = "auto" },
    { to = ["127.0.0.2:8001-8019"],
      keepalive = { time = "21s", interval = "7s", probes = 3 }, user_timeout = "30s" },
    { listen = [":9000"],
      keepalive = { time = "31s", interval = "9s", probes = 2 }, user_timeout = "auto" },
]"#;
const FIRST: Options = [1, 11, 4, 6, 35_000];
const SECOND: Options = [1, 21, 7, 3, 30_000];
const LISTENER: Options = [1, 31, 9, 2, 49_000];

fn rules() -> String {
    format!("SOCKOPT_CONFIG_TOML={RULES}")
}

/// A connection that a client makes, and the options of its rule.
type Connection = (&'static str, u16, Option<Options>);

const TO_FIRST: Connection = ("127.0.0.1", 8001, Some(FIRST));
const TO_FIRST_V6: Connection = ("::1", 8001, Some(FIRST));
const THREE: &[Connection] = &[TO_FIRST, ("127.0.0.2", 8002, Some(SECOND)), ("127.0.0.3", 8003, None)];

/// Two HTTP clients of the standard library at a time.
const PYTHON: &str = r#"
import asyncio, threading, urllib.request
said = []
def blocking():
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    said.append(opener.open("http://127.0.0.1:8001/urllib").read().decode().strip())
async def streams():
    reader, writer = await asyncio.open_connection("::1", 8002)
    writer.write(b"GET /asyncio HTTP/1.1\r\n\r\n")
    said.append((await reader.read()).decode().splitlines()[-1])
thread = threading.Thread(target=blocking)
thread.start()
asyncio.run(streams())
thread.join()
print(*said, sep="\n")
"#;

/// One process, three destinations.
const PYTHON_TO_THREE: &str = r#"
import socket
sockets = [socket.create_connection((f"127.0.0.{i}", 8000 + i)) for i in (1, 2, 3)]
for s in sockets:
    s.send(b"GET /%d HTTP/1.1\r\n\r\n" % s.fileno())
for s in sockets:
    print(s.makefile().read())
raise SystemExit(3)
"#;

/// Keepalive of its own: 300 s on the agent's socket, 60 s on the other.
const NODE: &str = r#"
const agent = new (require("http").Agent)({ keepAlive: true, keepAliveMsecs: 300000 });
require("http").get({ host: "127.0.0.1", port: 8001, path: "/node", agent }, answer => answer.pipe(process.stdout))
    .on("socket", socket => socket.on("connect", () => socket.setKeepAlive(true, 300000)));
const socket = require("net").connect(8002, "::1", () => socket.write("GET /net HTTP/1.1\r\n\r\n"));
socket.setKeepAlive(true, 60000);
socket.on("data", data => console.log(data.toString().trim().split("\n").pop()));
"#;

/// Its own module, and no proxy from the environment.
const REQUESTS: &str = r#"
import requests
session = requests.Session()
session.trust_env = False
print(session.get("http://127.0.0.1:8001/requests").text, end="")
"#;

const PHP: &str = r#"
$stream = stream_socket_client("tcp://[::1]:8002");
fwrite($stream, "GET /stream HTTP/1.1\r\n\r\n");
echo file_get_contents("http://127.0.0.1:8001/get");
echo substr(stream_get_contents($stream), -19);
"#;

/// By extensions, which PHP loads with RTLD_DEEPBIND; curl with a keepalive of its own.
const PHP_CURL: &str = r#"
$socket = socket_create(AF_INET6, SOCK_STREAM, SOL_TCP);
socket_connect($socket, "::1", 8002);
socket_write($socket, "GET /sockets HTTP/1.1\r\n\r\n");
$curl = curl_init("http://127.0.0.1:8001/curl");
curl_setopt_array($curl, [CURLOPT_PROXY => "", CURLOPT_TCP_KEEPALIVE => 1, CURLOPT_TCP_KEEPIDLE => 300]);
curl_exec($curl);
$answer = "";
while ($part = socket_read($socket, 9999)) $answer .= $part;
echo substr($answer, -20);
"#;

const PERL: &str = r#"
use IO::Socket::IP; use HTTP::Tiny;
my $socket = IO::Socket::IP->new(PeerHost => "::1", PeerPort => 8002) or die;
$socket->syswrite("GET /socket HTTP/1.1\r\n\r\n");
print HTTP::Tiny->new(proxy => undef)->get("http://127.0.0.1:8001/get")->{content};
print((<$socket>)[-1]);
"#;

const RUBY: &str = r#"
require "net/http"
socket = TCPSocket.new("::1", 8002)
socket.write("GET /socket HTTP/1.1\r\n\r\n")
print Net::HTTP.new("127.0.0.1", 8001, nil).get("/get").body
print socket.read.lines.last
"#;

const NODE_SERVER: &str = r#"
require("http").createServer((request, answer) => answer.end("here")).listen(9000, "127.0.0.1")
    .on("connection", socket => socket.setKeepAlive(true, 300000));
"#;

const CURL: &str = "curl -q -sS -g --noproxy *";
const TWO: &[Connection] = &[TO_FIRST, ("::1", 8002, Some(FIRST))];

/// The programs of the table.
fn entries() -> Vec<Entry> {
    let mut entries = preloaded();
    entries.extend(supervised::entries());
    entries
}

/// Those that the library reaches.
fn preloaded() -> Vec<Entry> {
    const JAVA: &str = "url 127.0.0.1 8001 socket 127.0.0.1 8002 channel 127.0.0.1 8003 http 127.0.0.1 8004 \
        url ::1 8005 channel ::1 8006 socket 127.0.0.2 8007 channel 127.0.0.2 8008 socket 127.0.0.3 8009";
    const JAVA_CONNECTIONS: &[Connection] = &[
        TO_FIRST,
        ("127.0.0.1", 8002, Some(FIRST)),
        ("127.0.0.1", 8003, Some(FIRST)),
        ("127.0.0.1", 8004, Some(FIRST)),
        ("::1", 8005, Some(FIRST)),
        ("::1", 8006, Some(FIRST)),
        ("127.0.0.2", 8007, Some(SECOND)),
        ("127.0.0.2", 8008, Some(SECOND)),
        ("127.0.0.3", 8009, None),
    ];
    let entry = |name, program, version, needs: &[&'static str], does, scene| Entry {
        name,
        program,
        version,
        needs: needs.to_vec(),
        does,
        way: Way::Library,
        scene,
    };
    let curl = format!("{CURL} http://127.0.0.1:8001/curl");
    let http = ["GET /kernel/ostype HTTP/1.0\r\n", "\r\n"];
    let listening = |command: &'static [&'static str]| -> Scene {
        Box::new(move |stage| scenes::server(stage, command, http, false, "200 OK"))
    };
    vec![
        entry("curl", "curl", "curl --version", &["curl"], "GET", visit(&curl, "", &[TO_FIRST])),
        entry(
            "wget",
            "wget",
            "wget --version",
            &["wget"],
            "GET",
            visit("wget --no-config -qO- http://127.0.0.1:8001/wget", "", &[TO_FIRST]),
        ),
        entry(
            "java",
            "Java",
            "java -version",
            &["java", "javac"],
            "GET by HttpURLConnection, java.net.http, Socket, NIO channel; IPv6; three destinations",
            visit(&format!("java {JAVA}"), "", JAVA_CONNECTIONS),
        ),
        entry(
            "jmeter",
            "JMeter",
            "dpkg-query -W jmeter",
            &["java", "javac", "jmeter"],
            "samples by HttpClient4",
            Box::new(scenes::jmeter),
        ),
        entry(
            "python",
            "Python",
            "python3 --version",
            &[],
            "GET by urllib on a thread, by asyncio over IPv6",
            visit("python3 -c", PYTHON, TWO),
        ),
        entry(
            "python_requests",
            "Python requests",
            "python3 -c 'import requests; print(requests.__version__)'",
            &["python3 module requests"],
            "GET",
            visit("python3 -c", REQUESTS, &[TO_FIRST]),
        ),
        entry(
            "python_server",
            "Python http.server",
            "python3 --version",
            &[],
            "answers a GET",
            listening(&["python3", "-m", "http.server", "--directory", "/proc/sys", "--bind", "127.0.0.1", "9000"]),
        ),
        entry(
            "grpc",
            "Python grpcio",
            "python3 -c 'import grpc; print(grpc.__version__)'",
            &["python3 module grpc"],
            "calls, server and client",
            Box::new(scenes::grpc),
        ),
        entry(
            "node",
            "Node",
            "node --version",
            &["node"],
            "GET by an http agent, by net over IPv6",
            visit("node -e", NODE, TWO),
        ),
        entry(
            "node_server",
            "Node http server",
            "node --version",
            &["node"],
            "answers a GET",
            listening(&["node", "-e", NODE_SERVER]),
        ),
        entry(
            "php",
            "PHP",
            "php --version",
            &["php"],
            "GET by file_get_contents, by a stream over IPv6",
            visit("php -n -r", PHP, TWO),
        ),
        entry(
            "php_server",
            "PHP server",
            "php --version",
            &["php"],
            "answers a GET",
            listening(&["php", "-n", "-S", "127.0.0.1:9000", "-t", "/proc/sys"]),
        ),
        entry(
            "php_curl",
            "PHP curl, sockets",
            "php --version",
            &["php", "php extension curl sockets"],
            "GET by curl, by a socket over IPv6",
            visit("php -n -d extension=curl -d extension=sockets -r", PHP_CURL, TWO),
        ),
        entry(
            "php_pgsql",
            "PHP pgsql",
            "php --version",
            &["php", "php extension pgsql", "postgres", "psql"],
            "queries, with keepalive and user timeout of its own",
            Box::new(scenes::php_pgsql),
        ),
        entry(
            "php_redis",
            "PHP redis",
            "php -n -d extension=igbinary -d extension=redis -r 'echo phpversion(\"redis\");'",
            &["php", "php extension igbinary redis", "redis-server", "redis-cli"],
            "waits in BLPOP, its keepalive switched off",
            Box::new(scenes::php_redis),
        ),
        entry(
            "perl",
            "Perl",
            "perl --version",
            &["perl"],
            "GET by HTTP::Tiny, by IO::Socket::IP over IPv6",
            visit("perl -e", PERL, TWO),
        ),
        entry(
            "ruby",
            "Ruby",
            "ruby --version",
            &["ruby"],
            "GET by Net::HTTP, by TCPSocket over IPv6",
            visit("ruby -e", RUBY, TWO),
        ),
        entry(
            "redis_server",
            "redis-server",
            "redis-server --version",
            &["redis-server"],
            "answers PING, ECHO",
            // It sets a keepalive of its own on what it accepts.
            Box::new(|stage| {
                let command = "redis-server --port 9000 --bind 127.0.0.1 --dir / --tcp-keepalive 300 --save";
                let command: Vec<&str> = command.split(' ').chain([""]).collect();
                scenes::server(stage, &command, ["PING\r\n", "ECHO end\r\n"], true, "end")
            }),
        ),
        entry(
            "redis_cli",
            "redis-cli",
            "redis-cli --version",
            &["redis-server", "redis-cli"],
            "waits in BLPOP",
            Box::new(scenes::redis_cli),
        ),
        entry(
            "postgresql",
            "PostgreSQL, psql",
            "psql --version",
            &["postgres", "psql"],
            "a session; keepalive and user timeout in the settings of both",
            Box::new(scenes::postgresql),
        ),
        entry(
            "nginx_both_ways",
            "nginx",
            "nginx -v",
            &["nginx", "curl", MORE_USERS],
            "passes a request on; two workers that became another user",
            Box::new(scenes::nginx_both_ways),
        ),
        entry(
            "haproxy_both_ways",
            "HAProxy",
            "haproxy -v",
            &["haproxy", "curl", MORE_USERS],
            "passes a request on; a worker that became another user, in a chroot",
            Box::new(scenes::haproxy_both_ways),
        ),
        entry(
            "ssh",
            "sshd, ssh",
            "ssh -V",
            &["sshd", "ssh", "ssh-keygen", MORE_USERS],
            "a command as another user, its input, output and status",
            Box::new(scenes::ssh),
        ),
        entry("ab", "ab", "ab -V", &["ab"], "4 requests", Box::new(scenes::ab)),
        entry("wrk", "wrk", "wrk -v", &["wrk"], "load over 4 connections", Box::new(scenes::wrk)),
    ]
}

/// Clients of the same programs to which other rules apply, or none.
fn besides() -> Vec<Trial> {
    let rows: Vec<(&str, &str, String, &str, &[Connection])> = vec![
        ("curl_v6", "curl", format!("{CURL} -i http://[::1]:8001/curl"), "", &[TO_FIRST_V6]),
        ("curl_unmatched", "curl", format!("{CURL} http://127.0.0.3:8001/"), "", &[("127.0.0.3", 8001, None)]),
        (
            "curl_refused",
            "curl",
            format!("{CURL} -o - -w %{{exitcode}} --no-show-error http://127.0.0.1:8019/"),
            "",
            &[],
        ),
        ("python_to_three", "python3", "python3 -c".into(), PYTHON_TO_THREE, THREE),
    ];
    let trial = |(name, program, command, script, connections): (&'static str, _, String, _, _)| {
        let scene = visit(&command, script, connections);
        test_with(&needs([program]), format!("programs::{name}"), move || {
            twice(name, false, Way::Library, &scene);
        })
    };
    rows.into_iter().map(trial).collect()
}

/// Every socket, but only what the program has left.
const FILL: &str = r#"
[defaults]
enforce = "fill"
keepalive = { time = "11s", interval = "4s", probes = 6 }
user_timeout = "auto""#;

/// A keepalive of its own, before it connects, and none.
const PYTHON_BOTH: &str = r#"
import socket
one, other = socket.socket(), socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 60)
for s, port in (one, 8001), (other, 8002):
    s.connect(("127.0.0.1", port))
    s.send(b"GET /%d HTTP/1.1\r\n\r\n" % port)
for s in one, other:
    print(s.makefile().read())
"#;

/// What programs set themselves, before their connect or after, is as without the library; what they leave is filled in.
/// Seen to fail: with `enforce = false` (curl, python, psql) and `enforce = true` (all that set something), and with a user
/// timeout that is not taken back (node).
fn filled() -> Vec<Trial> {
    const OWN: Option<Options> = None;
    const LEFT: Option<Options> = Some(FIRST);
    const NODE_BOTH: &[Connection] = &[("127.0.0.1", 8001, OWN), ("::1", 8002, OWN)];
    const JAVA: &[Connection] = &[("127.0.0.1", 8001, LEFT), ("::1", 8002, LEFT)];
    let keeps = format!("{CURL} http://127.0.0.1:8001/curl");
    let keeps_not = format!("{CURL} --no-keepalive http://127.0.0.1:8001/curl");
    let rows: Vec<(&str, Vec<&str>, Scene)> = vec![
        ("curl", vec!["curl"], visit(&keeps, "", &[("127.0.0.1", 8001, OWN)])),
        ("curl_without_keepalive", vec!["curl"], visit(&keeps_not, "", &[("127.0.0.1", 8001, LEFT)])),
        ("python", vec![], visit("python3 -c", PYTHON_BOTH, &[("127.0.0.1", 8001, OWN), ("127.0.0.1", 8002, LEFT)])),
        ("node", vec!["node"], visit("node -e", NODE, NODE_BOTH)),
        ("java", vec!["java", "javac"], visit("java url 127.0.0.1 8001 channel ::1 8002", "", JAVA)),
        (
            "psql",
            vec!["postgres", "psql"],
            Box::new(|stage| {
                let mut played = scenes::postgresql(stage);
                // It sets its own on what it accepts, and nothing on the listener.
                for look in &mut played.looks {
                    look.rule = if look.role == Role::Listener { LEFT } else { OWN };
                }
                played
            }),
        ),
    ];
    let trial = |(name, programs, scene): (&'static str, Vec<&str>, Scene)| {
        let needs: Vec<&str> = needs([]).into_iter().chain(programs).collect();
        test_with(&needs, format!("programs::fill_{name}"), move || {
            let folder = scratch(&format!("programs-fill-{name}"));
            let configuration = format!("SOCKOPT_CONFIG_TOML={FILL}");
            let play = |environment: &[&str]| {
                scene(&Stage { lab: Lab::new(), folder: folder.clone(), environment, way: Way::Library })
            };
            let (without, with) = (play(&[]), play(&[&configuration]));
            assert_eq!(with.looks.len(), without.looks.len());
            for (with, without) in with.looks.iter().zip(&without.looks) {
                let role = with.role.name();
                // A program that is said to set something of its own does so.
                assert_eq!(without.options[0] == 1, with.rule.is_none(), "{role} {:?}", without.options);
                assert_eq!(with.options, with.rule.unwrap_or(without.options), "{role}");
            }
            assert_eq!(with.said, without.said, "with the library, and without");
        })
    };
    rows.into_iter().map(trial).collect()
}

/// A client that makes its connections, waits for the answers and ends.
fn visit(command: &str, script: &'static str, connections: &'static [Connection]) -> Scene {
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    Box::new(move |stage| {
        let mut client = stage.under(&command[0]);
        if command[0] == "java" {
            client.args(java_arguments());
        }
        client.args(&command[1..]);
        if !script.is_empty() {
            client.arg(script);
        }
        visited(stage, connections, client)
    })
}

/// The command in front: programs, and scripts that name their interpreter.
fn under_run() -> Vec<Trial> {
    let options = ["--keepalive", "11s,4s,6", "--user-timeout", "auto", "--to", "127.0.0.1:8001", "--"];
    let shell = "#!/bin/sh\nexec curl -q -sS --noproxy '*' http://127.0.0.1:8001/script\n";
    let python = format!("#!/usr/bin/env python3\n{PYTHON_TO_THREE}").leak();
    const ONLY_FIRST: &[Connection] = &[TO_FIRST, ("127.0.0.2", 8002, None), ("127.0.0.3", 8003, None)];
    let curl = "curl -q -sS --noproxy * http://127.0.0.1:8001/run".split(' ').map(str::to_owned).collect();
    let fetch = "$c = curl_init('http://127.0.0.1:8001/run'); curl_setopt($c, CURLOPT_PROXY, ''); curl_exec($c);";
    let php = ["php", "-n", "-d", "extension=curl", "-r", fetch].map(str::to_owned).to_vec();
    let rows: Vec<(&str, Vec<String>, &str, &'static [Connection])> = vec![
        ("curl", curl, "", &[TO_FIRST]),
        ("python", vec!["python3".into(), "-c".into(), PYTHON_TO_THREE.into()], "", ONLY_FIRST),
        ("php", php, "", &[TO_FIRST]),
        ("script_of_shell", vec![], shell, &[TO_FIRST]),
        ("script_of_python", vec![], python, ONLY_FIRST),
    ];
    let mut trials: Vec<Trial> = rows
        .into_iter()
        .map(|(name, mut command, script, connections)| {
            let needed = if name == "php" { needs(["php", "php extension curl"]) } else { needs(["curl"]) };
            test_with(&needed, format!("programs::run_{name}"), move || {
                let name = format!("run-{name}");
                if !script.is_empty() {
                    let path = crate::command::script(&scratch(&format!("programs-script-{name}")), "script", script);
                    command.push(path.display().to_string());
                }
                let library = format!("SOCKOPT_LIBRARY={}", library().display());
                let scene: Scene = Box::new(move |stage| {
                    let program = if stage.environment.is_empty() {
                        let mut plain = stage.plain(&command[0]);
                        plain.args(&command[1..]);
                        plain
                    } else {
                        let mut run = stage.lab.command(Here, &[&library], sockopt());
                        run.arg("run").args(options).args(&command);
                        run
                    };
                    visited(stage, connections, program)
                });
                twice(&name, false, Way::Library, &scene);
            })
        })
        .collect();
    trials.push(test_with(&needs(["curl"]), "programs::run_without_configuration", || {
        let library = format!("SOCKOPT_LIBRARY={}", library().display());
        let stage = Stage { lab: Lab::new(), folder: PathBuf::new(), environment: &[], way: Way::Library };
        let mut run = stage.lab.command(Here, &[&library], sockopt());
        run.args(["run", "--", "curl", "-q", "-sS", "--noproxy", "*", "http://127.0.0.1:8001/"]);
        let played = visited(&stage, &[TO_FIRST], run);
        let options = played.looks[0].options;
        let [on, time, interval, probes, user_timeout] = options;
        assert_eq!((on, (time + interval * probes) * 1_000), (1, user_timeout), "{options:?}");
        assert!((50_000..=60_000).contains(&user_timeout), "not what 60 s are: {options:?}");
        assert_eq!(played.said.0, Some(0));
    }));
    trials
}

/// Starts a client, and looks at its sockets while it waits for the answers.
fn visited(stage: &Stage, connections: &[Connection], client: Command) -> Played {
    let ports: Vec<u16> = connections.iter().map(|(_, port, _)| *port).collect();
    let mut server = stage.lab.serve(Here, &ports);
    let client = Running::start(client);
    server.wait_for(&ports);
    let sockets = stage.lab.sockets();
    let look = |(ip, port, rule): &Connection| {
        let options = one(&sockets, |socket| socket.is_to(ip, *port));
        Look { role: Role::Client, options, rule: *rule }
    };
    let looks = connections.iter().map(look).collect();
    server.release();
    let output = client.finish();
    assert_eq!(text(&output).0.matches("hello from /").count(), connections.len(), "{output:?}");
    // The only one that connects to nothing is curl, which is refused.
    assert_eq!(connections.is_empty(), output.status.code() == Some(7), "{output:?}");
    Played { looks, said: outcome(&output) }
}

/// The options of those sockets, which must be there and all have the same.
fn one(sockets: &[Socket], of_interest: impl Fn(&Socket) -> bool) -> Options {
    let mut found: Vec<&Socket> = sockets.iter().filter(|socket| of_interest(socket)).collect();
    let first = found.pop().unwrap_or_else(|| panic!("no such socket: {sockets:#?}"));
    assert!(found.iter().all(|socket| socket.options == first.options), "not all have the same: {sockets:#?}");
    first.options
}

type Outcome = (Option<i32>, Vec<String>, String);

/// Exit status and output; what is said by several threads at a time comes in any order.
fn outcome(output: &Output) -> Outcome {
    let (stdout, stderr) = text(output);
    let mut lines: Vec<String> = stdout.lines().map(str::to_owned).collect();
    lines.sort();
    (output.status.code(), lines, stderr)
}

fn many_threads() {
    let lab = Lab::new();
    let mut server = lab.serve(Here, &[8001]);
    let mut java = lab.covered(Here, &[&rules()], "java");
    java.args(java_arguments()).args(["many", "127.0.0.1", "8001"]);
    let java = Running::start(java);
    server.wait_for(&[8001]);
    let found = lab.wait_for(64 * 20, |socket| socket.is_to("127.0.0.1", 8001));
    assert_eq!(found.len(), 64 * 20);
    assert_eq!(one(&found, |_| true), FIRST);
    server.release();
    assert_eq!(text(&java.finish()).0, "8001\t1280 connections\n");
}

/// The worker makes the same system calls on sockets with the library and without.
fn nginx_accepts_at_no_cost() {
    const REQUESTS: usize = 20;
    let calls = "trace=accept,accept4,setsockopt,getsockopt,getsockname,getpeername,ioctl,fcntl";
    let run = |environment: &[&str], name: &str| {
        let stage = Stage { lab: Lab::new(), folder: scratch(name), environment, way: Way::Library };
        let Stage { lab, folder, .. } = &stage;
        let trace = folder.join("trace").display().to_string();
        let tracer = ["strace", "-qq", "-ff", "-o", &trace, "-e", calls];
        let _nginx = scenes::nginx(&stage, "worker_processes 1;", Some(&tracer));
        let curl = "curl -q -sS --noproxy '*' -H 'Connection: close' http://127.0.0.1:9000/";
        let said = lab.shell(Here, &format!("for i in $(seq {REQUESTS}); do {curl}; done"));
        assert_eq!(said, "here".repeat(REQUESTS));
        let until = Instant::now() + PATIENCE;
        loop {
            // Each process has its file; the worker's is the one with the accepts.
            let files = fs::read_dir(folder).expect("the folder").flatten();
            let traces = files.filter(|file| file.file_name().as_encoded_bytes().starts_with(b"trace."));
            let worker = traces.filter_map(|file| fs::read_to_string(file.path()).ok()).find(|t| t.contains("accept"));
            let worker = worker.unwrap_or_default();
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            // accept is called once more, in vain, where several connections could be waiting.
            for line in worker.lines().filter(|line| !line.contains(" EAGAIN ")) {
                *counts.entry(line.split('(').next().unwrap_or_default()).or_default() += 1;
            }
            if counts.get("accept4") == Some(&REQUESTS) {
                let sockets = lab.sockets();
                let listener = one(&sockets, |socket| socket.listens_on(9000));
                return (listener, counts.into_iter().map(|(name, n)| (name.to_owned(), n)).collect::<Vec<_>>());
            }
            assert!(Instant::now() < until, "not {REQUESTS} accepts: {counts:?}");
            thread::sleep(Duration::from_millis(50));
        }
    };
    let rules = rules();
    let (_, without) = run(&[], "programs-strace-without");
    let (listener, with) = run(&[&rules], "programs-strace-with");
    assert_eq!(listener, LISTENER);
    assert_eq!(with, without, "calls of the worker, with the library and without");
}
