//! EaseProbe 1.6.0 under the supervisor, and the same without.

use std::process::Command;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use super::programs::left_in_time_wait;

use crate::dead_peers::{Case, Ends, LATE, Party, SLACK, Waiting, watch};
use crate::support::lab::{Lab, Place, Running, SERVER, needs};
use crate::support::{EASEPROBE, easeprobe, probe, sockopt, test_with, text};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test_with(&needs([EASEPROBE]), "supervise::easeprobe::a_peer_that_vanishes", a_peer_that_vanishes),
        test_with(&needs([EASEPROBE, "ss"]), "supervise::easeprobe::time_wait", time_wait),
    ]
}

/// `sh -c`: EaseProbe with this configuration, under the supervisor if there is an environment for it. It says what comes of its
/// probes after the port.
fn command(lab: &Lab, environment: &[&str], configuration: &str, port: &str) -> Command {
    lab.shell(Place::Here, &format!("cat >/run/{port}.yaml <<'end'\n{configuration}\nend"));
    let mut command = lab.command(Place::Client, environment, "sh");
    let supervised = if environment.is_empty() { "" } else { "\"$0\" run -- " };
    let line = format!(
        "cd /run && {supervised}\"$1\" -f {port}.yaml 2>&1 | sed -un 's/.*error making get request: /{port}\\t/p'"
    );
    command.args(["-c", &line]).arg(sockopt()).arg(easeprobe());
    command
}

/// Settings under which it waits for each answer as long as it takes.
fn settings(port: &str, interval: &str) -> String {
    format!(
        "notify: {{ log: [ {{ name: log, file: /dev/null }} ] }}
settings: {{ pid: /run/{port}.pid, http: {{ ip: 127.0.0.1, port: 1{port} }}, sla: {{ data: '-' }}, probe: {{ timeout: 10m, interval: {interval} }} }}"
    )
}

/// A probe whose peer is cut off ends within the time; without the supervisor it goes on waiting. Seen to fail: with SOCKOPT_ENFORCE=0
/// (Go's own keepalive: "does not end").
fn a_peer_that_vanishes() {
    let lab = Lab::with_link();
    let ends = Ends { least: 14.0 - LATE, within: 15.0 + SLACK };
    let mut parties = Vec::new();
    for (environment, port) in [(&[][..], 8001), (&["SOCKOPT_DEAD_PEER_TIMEOUT=15s"], 8002)] {
        let name = port.to_string();
        let configuration =
            format!("http: [ {{ name: one, url: 'http://{SERVER}:{port}/' }} ]\n{}", settings(&name, "1h"));
        let command = command(&lab, environment, &configuration, &name);
        let what = format!("EaseProbe {environment:?}");
        let expected = (!environment.is_empty()).then_some(ends);
        parties.push(Party { command, cases: vec![Case { port, situation: Waiting, what, expected }] });
    }
    watch(&lab, parties, Duration::from_secs(18), |_| ());
}

/// Probes that it closes first: none is left in TIME_WAIT, and the server reads the end of each.
/// Seen to fail: with `linger = "reset"` ("0 ends, 3037 errors").
fn time_wait() {
    let lab = Lab::with_link();
    let targets: String = (0..40).map(|n| format!("  - {{ name: n{n}, url: 'http://{SERVER}:8001/' }}\n")).collect();
    for (environment, port) in [(&["SOCKOPT_TIME_WAIT=false"][..], "8002"), (&[], "8003")] {
        let mut server = lab.command(Place::Server, &[], probe("time_wait"));
        server.args(["answer", "8001"]);
        let server = Running::start(server);
        let listener = lab.wait_for(1, |socket| socket.listens_on(8001));
        let configuration = format!("http:\n{targets}{}", settings(port, "50ms"));
        let running = Running::start(command(&lab, environment, &configuration, port));
        thread::sleep(Duration::from_secs(4));
        lab.shell(Place::Here, &format!("kill -TERM $(cat /run/{port}.pid)"));
        let (failed, _) = text(&running.finish());
        let found = left_in_time_wait(&lab);
        lab.shell(Place::Server, &format!("kill -TERM {}", listener[0].pid));
        let (said, _) = text(&server.finish());
        println!("{environment:?}: {found} in TIME_WAIT, {said}{failed}");
        let ends = said.strip_prefix("ready\n").and_then(|said| said.strip_suffix(" ends, 0 errors\n"));
        let ends: usize = ends.and_then(|ends| ends.parse().ok()).unwrap_or_else(|| panic!("{environment:?}: {said}"));
        assert!(ends >= 400, "{environment:?}: {said}");
        let left = if environment.is_empty() { ends * 9 / 10..=ends } else { 0..=0 };
        assert!(left.contains(&found), "{environment:?}: {found} in TIME_WAIT of {ends}");
        assert_eq!(failed, "", "{environment:?}");
    }
}
