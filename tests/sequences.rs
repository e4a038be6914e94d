//! Calls at random: the same answers as without the library, and every socket has what the rules say, by a second account of
//! them; one after the other (tests/probes/sequence.c), and by threads that take each other's listeners away
//! (tests/probes/contest.c).

use libtest_mimic::Trial;

use crate::script::{NEEDS, finish};
use crate::support::{self, test_with};

pub(crate) fn trials() -> Vec<Trial> {
    let sequences = |enforce| test_with(NEEDS, format!("sequences::enforce_{enforce}"), move || sequences(enforce));
    vec![sequences(true), sequences(false), test_with(NEEDS, "sequences::contest", contest)]
}

const SEEDS: u32 = 12;
const CALLS: &str = "2500";

const RULES: &str = r#"
[[rule]]
to = ["127.0.0.1:4000-4001", "127.0.0.1:4009", "10.1.2.3"]
connect_timeout = "20s"
keepalive = { time = "7s" }
[[rule]]
to = ["127.0.0.1:4002-4003"]
connect_timeout = "30s"
user_timeout = "9s"
keepalive = { time = "8s" }
[[rule]]
listen = [":4010-4019"]
keepalive = { time = "11s" }
[[rule]]
listen = [":4020-4029"]
from = ["127.0.0.2"]
keepalive = { time = "12s" }
[[rule]]
listen = [":4020-4029"]
keepalive = { time = "13s" }
priority = 5
"#;

/// Seen to fail with an end_of_limit that does nothing, with another rule's time taken for the program's, with a listen that
/// takes every listener for one without a queue, without is_changed, with a connect that is repeated and taken for the first where
/// the program has the last word, and with an epoll_ctl that takes nothing back.
fn sequences(enforce: bool) {
    let toml = format!("[defaults]\nenforce = {enforce}\n{RULES}");
    for seed in 1..=SEEDS {
        let run = |how: &str| {
            let mut command = support::plain("unshare");
            command.arg("-Urn").arg(support::probe("readback"));
            command.args(["4000", "4002", "4004"].map(|port| format!("@listen 127.0.0.1:{port}")));
            command.args(["4001", "4003"].map(|port| format!("@full 127.0.0.1:{port}"))).arg("env");
            if how == "set" {
                command.arg(format!("LD_PRELOAD={}", support::library().display()));
                command.arg(format!("SOCKOPT_CONFIG_TOML={toml}"));
            }
            command.arg(support::probe("sequence")).args([
                how,
                &seed.to_string(),
                CALLS,
                &u8::from(enforce).to_string(),
            ]);
            finish(&mut command)
        };
        let ((plain, nothing), (set, said)) = (run("plain"), run("set"));
        let wrong = |text: &str| text.lines().filter(|line| line.starts_with("WRONG")).collect::<Vec<_>>().join("\n");
        let before = |line: usize| {
            let lines: Vec<&str> = set.lines().take(line + 1).collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        };
        assert_eq!((nothing.as_str(), said.as_str()), ("", ""), "seed {seed}");
        assert_eq!(wrong(&plain), "", "seed {seed}, without the library: the model is wrong");
        if let Some(at) = set.lines().position(|line| line.starts_with("WRONG")) {
            panic!("seed {seed}: {}\n{}", wrong(&set), before(at));
        }
        let differs = plain.lines().zip(set.lines()).position(|(plain, set)| plain != set);
        assert_eq!(
            differs.map(before),
            None,
            "seed {seed}: {:?} without the library",
            differs.map(|at| plain.lines().nth(at))
        );
        assert_eq!(plain.lines().count(), set.lines().count(), "seed {seed}");
    }
}

/// Seen to fail with an accept that does not look at what is known before the call, and where handshakes that are being
/// finished are not counted among those that wait (one connection in some ten thousand).
fn contest() {
    let run = |environment: &[String], how: &str| {
        let mut command = support::plain("unshare");
        command.args(["-Urn", "sh", "-ec", "ip link set lo up; exec env \"$@\"", "sh"]).args(environment);
        finish(command.arg(support::probe("contest")).args(["4000", how]))
    };
    let preload = format!("LD_PRELOAD={}", support::library().display());
    let fine = ("looked at enough, wrong 0\n".to_owned(), String::new());
    assert_eq!(run(&[], "plain"), fine);
    assert_eq!(run(&[preload, format!("SOCKOPT_CONFIG_TOML={RULES}")], "set"), fine);
}
