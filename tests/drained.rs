//! `linger = "reset-when-drained"`: short connections leave no TIME_WAIT here, and not one byte is lost. Client and
//! server are in namespaces of their own, between them a link with a queue.
//!
//! Each test runs without the library as well, where the same connections must leave what they leave.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::script::{NEEDS, Script, finish};
use crate::support::lab::{Lab, PATIENCE, Place, Running, SERVER, java_arguments, needs};
use crate::support::{library, plain, probe, test_with, text};

const DRAINED: &str = "SOCKOPT_LINGER=reset-when-drained";
const RESET: &str = "SOCKOPT_LINGER=reset";

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        test_with(&needs(["ss"]), "drained::one_after_the_other", || no_time_wait(20_000, "close")),
        test_with(&needs(["ss"]), "drained::all_at_once", || no_time_wait(2_000, "together")),
        test_with(&needs(["ss"]), "drained::ports_do_not_run_out", ports_do_not_run_out),
        test_with(&needs(["ss"]), "drained::shut_down_before_close", shut_down_before_close),
        test_with(&needs(["tc"]), "drained::uploads_arrive_complete", uploads_arrive_complete),
    ];
    for (program, arguments) in clients() {
        let needs = needs([program, "ss", if program == "java" { "javac" } else { program }]);
        trials.push(test_with(&needs, format!("drained::{program}"), move || client(program, &arguments)));
    }
    trials.push(test_with(NEEDS, "drained::linger_reads_as_under_a_reset", linger_reads_as_under_a_reset));
    for (name, script) in scripts() {
        trials.push(test_with(NEEDS, format!("drained::{name}"), move || drop(script.check())));
    }
    for (name, calls, wanted) in COSTS {
        trials.push(test_with(&[NEEDS[0], "strace"], format!("drained::strace: {name}"), move || {
            costs(name, calls, wanted);
        }));
    }
    trials
}

/// The probe's server.
fn server(lab: &Lab, words: &[&str]) -> Running {
    let mut command = lab.command(Place::Server, &[], probe("drained"));
    command.args(words);
    let running = Running::start(command);
    lab.wait_for(1, |socket| socket.program == "drained");
    running
}

/// What the probe prints in the client's place.
fn run(lab: &Lab, environment: &[&str], words: &[&str]) -> String {
    let mut command = lab.covered(Place::Client, environment, probe("drained"));
    let output = command.args(words).stdin(Stdio::null()).output().expect("nsenter");
    let (stdout, stderr) = text(&output);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    stdout
}

/// How many of the client's connections are in TIME_WAIT, once each has ended on both sides.
fn time_waits(lab: &Lab) -> usize {
    let until = Instant::now() + PATIENCE;
    loop {
        let all = lab.shell(Place::Client, "ss -Htan");
        let left = all.lines().filter(|line| line.starts_with("TIME-WAIT")).count();
        if left == all.lines().count() {
            return left;
        }
        assert!(Instant::now() < until, "{all}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Seen to fail: with a `closing::reset` that does nothing.
fn no_time_wait(count: usize, how: &str) {
    let lab = Lab::with_link();
    let _server = server(&lab, &["answer", "8001"]);
    // They last for 60 s, and a busy machine may need as long for all of them.
    for (environment, count, left) in [(&[DRAINED][..], count, 0), (&[], count.min(5_000), count.min(5_000))] {
        let answered = run(&lab, environment, &["probe", &format!("{SERVER}:8001"), &count.to_string(), how]);
        assert_eq!(answered, format!("{count} answered, 0 failed -\n"));
        assert_eq!(time_waits(&lab), left, "{environment:?}");
    }
}

/// Four times as many connections as there are ports. Seen to fail: with a `closing::reset` that does nothing.
fn ports_do_not_run_out() {
    let lab = Lab::with_link();
    lab.shell(Place::Client, "echo 40000 40499 >/proc/sys/net/ipv4/ip_local_port_range");
    let _server = server(&lab, &["answer", "8001"]);
    let words = ["probe", &format!("{SERVER}:8001"), "2000", "close"];
    assert_eq!(run(&lab, &[DRAINED], &words), "2000 answered, 0 failed -\n");
    assert_eq!(run(&lab, &[], &words), "500 answered, 1500 failed EADDRNOTAVAIL\n");
}

/// HttpClient4's way to close. The FIN is out before close, so the connection can only be reset if the server has not
/// answered with its own by then; here that takes a way over two links. Seen to fail: without FIN_WAIT1 in `is_drained`.
fn shut_down_before_close() {
    const COUNT: usize = 2_000;
    let lab = Lab::with_link();
    let _server = server(&lab, &["answer", "8001"]);
    let words = ["probe", &format!("{SERVER}:8001"), &COUNT.to_string(), "shutdown"];
    let answered = format!("{COUNT} answered, 0 failed -\n");
    assert_eq!(run(&lab, &[DRAINED], &words), answered);
    let with = time_waits(&lab);
    assert_eq!(run(&lab, &[], &words), answered);
    let without = time_waits(&lab) - with;
    eprintln!("shut down before close: {with} of {COUNT} TIME_WAIT with, {without} without");
    assert_eq!(without, COUNT);
    assert!(with < COUNT * 3 / 4, "{with} of {COUNT} are left");
}

/// 10,000 uploads of 1 B to 10 MB, each closed at once or about when the last acknowledgement comes, to readers that
/// are slow now and then and have a small buffer, over a link with a queue. Seen to fail: with an `is_drained` that is
/// always true (bytes are lost), and with one that is never (nothing is reset). `linger = "reset"` shows that the test
/// sees what is lost.
fn uploads_arrive_complete() {
    let lab = Lab::with_link();
    lab.shell(Place::Client, "tc qdisc add dev eth0 root tbf rate 1gbit burst 256kb latency 100ms");
    let upload = |environment: &[&str], port: u16, count: usize| {
        let reader = server(&lab, &["read", &port.to_string(), &count.to_string()]);
        let sent = run(&lab, environment, &["upload", &format!("{SERVER}:{port}"), &count.to_string()]);
        let (read, _) = text(&reader.finish());
        let numbers: Vec<usize> = read.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [complete, lost, wrong, reset] = numbers[..] else { panic!("{read}") };
        assert_eq!(complete + lost + wrong, count, "{read}");
        (sent, complete, lost, wrong, reset)
    };
    let all_sent = |count: usize| format!("{count} uploads, 0 failed\n");
    let (sent, complete, lost, wrong, reset) = upload(&[DRAINED], 8001, 10_000);
    eprintln!("uploads: {complete} complete, {lost} lost, {wrong} wrong; {reset} ended by a reset");
    assert_eq!((sent, complete, lost, wrong), (all_sent(10_000), 10_000, 0, 0));
    assert!(reset > 100, "{reset} of 10,000 were reset");
    let (sent, complete, _, _, reset) = upload(&[], 8002, 300);
    assert_eq!((sent, complete, reset), (all_sent(300), 300, 0));
    let (_, _, lost, wrong, _) = upload(&[RESET], 8003, 300);
    assert!(lost > 30 && wrong == 0, "with linger = \"reset\" {lost} of 300 are lost");
}

const PYTHON: &str = "
import http.client, sys
for _ in range(300):
    c = http.client.HTTPConnection(sys.argv[1], 8001)
    c.request('GET', '/')
    assert c.getresponse().read() == b'hello\\n'
    c.close()
print('done')";
const CURL: &str = "i=0; while [ $i -lt 60 ]; do curl -qsS --noproxy '*' \"http://$1:8001/\" || exit; i=$((i+1)); done";

/// Real clients, how many connections each makes, and how many of them may be left: Java calls shutdown before close,
/// and its peer's answer may be faster.
fn clients() -> [(&'static str, Vec<String>); 3] {
    let python = ["-c", PYTHON, SERVER].map(str::to_owned).into();
    let curl = ["-c", CURL, "sh", SERVER].map(str::to_owned).into();
    let java: Vec<String> =
        vec!["probe".into(), SERVER.into(), "8001".into(), "torn".into(), SERVER.into(), "8001".into()];
    [("python3", python), ("curl", curl), ("java", java)]
}

/// Seen to fail: with a `closing::reset` that does nothing; Java with a dup2 that is not looked at.
fn client(program: &str, arguments: &[String]) {
    let (count, most_left) = match program {
        "python3" => (300, 0),
        "curl" => (60, 0),
        // Of 300 that it closes itself, and 100 that it tears from a reader.
        _ => (400, 20),
    };
    let lab = Lab::with_link();
    let _server = server(&lab, &["answer", "8001"]);
    let run = |environment: &[&str]| {
        let mut command = lab.covered(Place::Client, environment, if program == "curl" { "sh" } else { program });
        if program == "java" {
            command.args(java_arguments());
        }
        let (said, errors) = text(
            &Running::start({
                command.args(arguments);
                command
            })
            .finish_within(Duration::from_secs(60)),
        );
        assert_eq!(errors, "");
        let is_done = if program == "curl" {
            said == "hello\n".repeat(count)
        } else {
            said.contains("done") && !said.contains("xception")
        };
        assert!(is_done, "{said}");
    };
    run(&[DRAINED]);
    let with = time_waits(&lab);
    run(&[]);
    let without = time_waits(&lab) - with;
    eprintln!("{program}: {with} of {count} TIME_WAIT with, {without} without");
    assert!(with <= most_left, "{with} of {count} are left");
    // Now and then the server is the first.
    assert!(without >= count - count / 40, "{without} of {count} without the library");
}

const RULE: &str = "[[rule]]\nto = [\":4000\"]\nlinger = \"reset-when-drained\"\n";

/// What a script's connection is at its end: gone under the library, still there for one side without it.
fn script(calls: &str) -> Script {
    Script::new(&format!("socket s inet stream+cloexec\nconnect s 127.0.0.1:4000\nsend s hello\n{calls}"))
        .before("@listen 127.0.0.1:4000\n@listen [::1]:4000\n@listen 127.0.0.1:4001")
        .toml(RULE)
}

/// Which ends reset. `same_looks`: none, and what has the socket as well goes on with it.
/// Seen to fail, in this order: without what is done in each of the four calls; without the strike in each of dup, fcntl,
/// fork and sendmsg; with a `may_be_inherited` that is always false, always true; with an `is_drained` that is always true.
fn scripts() -> Vec<(&'static str, Script)> {
    let copied = |calls: &str| {
        script(&format!("{calls}\nclose s\nsend d more\n@ended 4000=0\nclose d\n@ended 4000=2")).same_looks()
    };
    vec![
        ("close", script("close s\n@ended 4000=0")),
        ("close_range", script("close_range s\n@ended 4000=0")),
        ("dup2 over it", script("socket t unix stream\ndup2 t s\n@ended 4000=0")),
        ("dup3 over it", script("socket t unix stream\ndup3 t s\n@ended 4000=0")),
        ("close in another thread", script("thread close s\n@ended 4000=0")),
        ("close in a signal handler", script("signal close s\n@ended 4000=0")),
        // Seen to fail: without the cancellation point in `closing::closes` the socket is left with 1,0.
        ("close in a thread that is cancelled there", {
            script("cancelled close s\n@look s SO_LINGER=0,0\nsend s more").same_looks()
        }),
        ("IPv6", script("socket t inet6 stream\nconnect t [::1]:4000\nclose t\nclose s\n@ended 4000=0")),
        (
            "a mapped address",
            script("close s\nsocket t inet6 stream\nconnect t [::ffff:127.0.0.1]:4000\nclose t\n@ended 4000=0"),
        ),
        ("not waited for", {
            script(
                "close s\nsocket t inet stream+nonblock\nconnect t 127.0.0.1:4000\npoll t 1000\nsend t hello\nclose t\n@ended 4000=0",
            )
        }),
        (
            "by MSG_FASTOPEN",
            script("close s\nsocket t inet stream\nsendto t fastopen 127.0.0.1:4000\nclose t\n@ended 4000=0"),
        ),
        ("shut down before", script("shutdown s\nclose s\n@ended 4000=0")),
        ("connected anew", script("connect s unspec\nconnect s 127.0.0.1:4000\nclose s\n@ended 4000=0")),
        // Seen to fail: without asking for SO_LINGER in `closing::reset`.
        ("a linger time of the program's own, which has the last word", {
            script("set s SO_LINGER 1,9\nclose s\n@ended 4000=2").toml(&format!("{RULE}enforce = false")).same_looks()
        }),
        ("no linger time, enforce = false", script("close s\n@ended 4000=0").toml(&format!("{RULE}enforce = false"))),
        ("a linger time of the program's own", script("set s SO_LINGER 1,9\nclose s\n@ended 4000=0")),
        ("a listener's clients", {
            let calls = "socket l inet stream\nbind l 127.0.0.1:4000\nlisten l 8\n@dial 127.0.0.1:4000\naccept c l\nrecv c\nclose c\n@ended 4000=0\n\
                         @dial 127.0.0.1:4000\naccept4 c l\nrecv c\nclose c\n@ended 4000=0";
            Script::new(calls).toml("[[rule]]\nlisten = [\":4000\"]\nlinger = \"reset-when-drained\"")
        }),
        ("nothing of it left when a descriptor is used again", {
            script("close s\nsocket t inet stream\nconnect t 127.0.0.1:4001\nsend t hello\nclose t\n@ended 4001=2")
                .same_looks()
        }),
        ("elsewhere", {
            script("close s\n@ended 4001=0\nsocket t inet stream\nconnect t 127.0.0.1:4001\nclose t\n@ended 4001=2")
                .same_looks()
        }),
        ("copied by dup", copied("dup s d")),
        ("copied by fcntl", copied("copy s d")),
        (
            "copied by dup2",
            script("socket d unix stream\ndup2 s d\nclose s\nsend d more\n@ended 4000=0\nclose d\n@ended 4000=2")
                .same_looks(),
        ),
        ("a child has it", script("child close s\nsend s more\n@ended 4000=0\nclose s\n@ended 4000=2").same_looks()),
        ("given away", script("give s d\nclose s\n@look d SO_LINGER=0,0\nclose d\n@ended 4000=2").same_looks()),
        ("a program that was started may have it", {
            let calls =
                "socket s inet stream\nconnect s 127.0.0.1:4000\nstart\nclose s\ntake d s\n@look d SO_LINGER=0,0";
            Script::new(calls).before("@listen 127.0.0.1:4000").toml(RULE).same_looks()
        }),
        ("a program that was started cannot have it", script("start\nclose s\n@ended 4000=0")),
        ("the peer closed first", {
            Script::new("socket s inet stream+cloexec\nconnect s 127.0.0.1:4000\nsend s hello\nrecv s\nrecv s\nclose s")
                .before("@http 127.0.0.1:4000")
                .toml(RULE)
                .variable("SOCKOPT_LOG", "debug")
                .says("info: configuration")
                .says("connect fd|SO_LINGER at close")
                .says("close fd|not reset: not everything is acknowledged, or the peer closed first")
        }),
    ]
}

/// The program is told what it would be told under a reset, unless it has the last word; the kernel knows nothing of it.
/// Seen to fail: with a hook of getsockopt that changes nothing, or that does not ask whether the rule is enforced.
fn linger_reads_as_under_a_reset() {
    for (environment, told, ended) in [(&[][..], 0, 2), (&[DRAINED], 1, 0), (&[DRAINED, "SOCKOPT_ENFORCE=0"], 0, 0)] {
        let mut command = plain("unshare");
        command.arg("-Urn").arg(probe("readback")).arg("@listen 127.0.0.1:4000").arg("env").args(environment);
        if !environment.is_empty() {
            command.arg(format!("LD_PRELOAD={}", library().display()));
        }
        command.arg(probe("calls")).args(["socket s inet stream", "connect s 127.0.0.1:4000", "get s SO_LINGER"]);
        let (said, _) = finish(command.args(["@look s SO_LINGER", "close s", "@ended 4000"]));
        let found: Vec<&str> = said.lines().skip(2).collect();
        let wanted = [
            &format!("get s SO_LINGER = {told}"),
            "@look s SO_LINGER=0,0",
            "close s = 0",
            &format!("@ended 4000={ended}"),
        ];
        assert_eq!(found, wanted, "{environment:?}");
    }
}

/// Calls whose last one ends something else: not one system call more than that, once all is set up.
const COSTS: [(&str, &str, &str); 5] = [
    ("a UNIX socket", "socket t unix stream\nclose t", "close("),
    ("a socket that is not connected", "socket t inet stream\nclose t", "close("),
    ("a connection elsewhere", "socket t inet stream\nconnect t 127.0.0.1:4001\nclose t", "close("),
    ("a descriptor that is not open", "close 77", "close(77)"),
    ("dup2 over a UNIX socket", "socket t unix stream\nsocket u unix stream\ndup2 t u", "dup2("),
];

/// Seen to fail: with a `closing::ends` that always asks.
fn costs(name: &str, calls: &str, wanted: &str) {
    let calls = script(calls).traced(&format!("drained-{name}"), true, "all");
    let last = calls.last().expect("there was a call");
    assert!(last.len() == 1 && last[0].starts_with(wanted), "{last:#?}");
}
