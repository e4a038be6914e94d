//! `enforce = "fill"`: only what the program has left at the system's default is set. Values are read back from the kernel by
//! another process; `tests/script.rs` says how.
//!
//! Seen to fail: with `left` that takes all for left (89 tests, among them every "set before"), without the group of the keepalive,
//! without SO_BUF_LOCK (datagram), with every option taken for a new socket's, with a priority that is not put back (dscp), with a
//! user timeout beside any keepalive and beside the rule's alone, with none that is taken back after setsockopt, with a connect that
//! is repeated and fills again, with `connect_timeout` over the program's own, with the first option set to ask whether it is TCP
//! (from), with options enforced that another rule enforces (layers).

use std::collections::BTreeSet;

use libtest_mimic::Trial;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::properties::for_all;
use crate::script::{NEEDS, Script};
use crate::support::test_with;

const STRACE: &[&str] = &["namespaces", "strace"];

/// An option: what the rule says; what is found where the program has left it; what the program sets; what is found then.
struct Row {
    toml: &'static str,
    filled: &'static str,
    own: &'static str,
    kept: &'static str,
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Sockets that connect, listen and are accepted.
    Both,
    Connect,
    Listen,
    Datagram,
    Bind,
}

const fn row(toml: &'static str, filled: &'static str, own: &'static str, kept: &'static str, at: At) -> Row {
    Row { toml, filled, own, kept, at }
}

#[rustfmt::skip] // a table reads by its columns
const ROWS: &[Row] = &[
    row("keepalive = { time = \"60s\", interval = \"20s\", probes = 4 }", "SO_KEEPALIVE=1 TCP_KEEPIDLE=60 TCP_KEEPINTVL=20 TCP_KEEPCNT=4", "SO_KEEPALIVE 1", "SO_KEEPALIVE=1 TCP_KEEPIDLE=7200 TCP_KEEPINTVL=75 TCP_KEEPCNT=9", At::Both),
    row("user_timeout = \"7s\"", "TCP_USER_TIMEOUT=7000", "TCP_USER_TIMEOUT 9000", "TCP_USER_TIMEOUT=9000", At::Both),
    row("linger = \"reset\"", "SO_LINGER=1,0", "SO_LINGER 1,7", "SO_LINGER=1,7", At::Both),
    row("nodelay = true", "TCP_NODELAY=1", "", "", At::Both),
    row("syn_retries = 3", "TCP_SYNCNT=3", "TCP_SYNCNT 2", "TCP_SYNCNT=2", At::Connect),
    row("receive_timeout = \"1500ms\"", "SO_RCVTIMEO=1500ms", "SO_RCVTIMEO 2500ms", "SO_RCVTIMEO=2500ms", At::Connect),
    row("send_timeout = \"2s\"", "SO_SNDTIMEO=2000ms", "SO_SNDTIMEO 2500ms", "SO_SNDTIMEO=2500ms", At::Connect),
    row("receive_buffer = \"48KiB\"", "SO_RCVBUF=98304", "SO_RCVBUF 50000", "SO_RCVBUF=100000", At::Both),
    row("send_buffer = \"64KiB\"", "SO_SNDBUF=131072", "SO_SNDBUF 50000", "SO_SNDBUF=100000", At::Both),
    row("receive_buffer = \"48KiB\"", "SO_RCVBUF=98304", "SO_RCVBUF 50000", "SO_RCVBUF=100000", At::Datagram),
    row("max_segment = 600", "TCP_MAXSEG=588", "TCP_MAXSEG 700", "TCP_MAXSEG=688", At::Connect),
    row("congestion = \"reno\"", "TCP_CONGESTION=reno", "TCP_CONGESTION cubic", "TCP_CONGESTION=cubic", At::Both),
    row("notsent_lowat = \"16KiB\"", "TCP_NOTSENT_LOWAT=16384", "TCP_NOTSENT_LOWAT 9999", "TCP_NOTSENT_LOWAT=9999", At::Both),
    row("fin_timeout = \"7s\"", "TCP_LINGER2=7", "TCP_LINGER2 9", "TCP_LINGER2=9", At::Both),
    row("time_wait = false", "TCP_LINGER2=-1", "TCP_LINGER2 9", "TCP_LINGER2=9", At::Both),
    row("max_pacing_rate = \"10MiB\"", "SO_MAX_PACING_RATE=10485760", "SO_MAX_PACING_RATE 1000000", "SO_MAX_PACING_RATE=1000000", At::Both),
    row("ttl = 33", "IP_TTL=33|IPV6_UNICAST_HOPS=33", "IP_TTL 44|IPV6_UNICAST_HOPS 44", "IP_TTL=44|IPV6_UNICAST_HOPS=44", At::Both),
    row("ttl = 33", "IP_TTL=33|IPV6_UNICAST_HOPS=33", "IP_TTL 44|IPV6_UNICAST_HOPS 44", "IP_TTL=44|IPV6_UNICAST_HOPS=44", At::Datagram),
    row("dscp = \"ef\"", "IP_TOS=184|IPV6_TCLASS=184", "IP_TOS 16|IPV6_TCLASS 16", "IP_TOS=16|IPV6_TCLASS=16", At::Both),
    row("priority = 5", "SO_PRIORITY=5", "SO_PRIORITY 3", "SO_PRIORITY=3", At::Connect),
    row("dscp = \"ef\"\npriority = 5", "IP_TOS=184 SO_PRIORITY=5|IPV6_TCLASS=184 SO_PRIORITY=5", "SO_PRIORITY 3", "SO_PRIORITY=3", At::Connect),
    row("dscp = \"ef\"", "IP_TOS=184|IPV6_TCLASS=184", "SO_PRIORITY 3", "SO_PRIORITY=3", At::Connect),
    row("mark = 7", "SO_MARK=7", "SO_MARK 9", "SO_MARK=9", At::Both),
    row("interface = \"lo\"", "SO_BINDTODEVICE=lo", "", "", At::Both),
    row("fastopen = true", "TCP_FASTOPEN_CONNECT=1", "", "", At::Connect),
    row("fastopen = 16", "TCP_FASTOPEN=16", "TCP_FASTOPEN 5", "TCP_FASTOPEN=5", At::Listen),
    row("defer_accept = \"7s\"", "TCP_DEFER_ACCEPT=7", "TCP_DEFER_ACCEPT 15", "TCP_DEFER_ACCEPT=15", At::Listen),
    row("raw = [{ level = 1, name = 18, value = 4 }]", "1/18=4", "1/18 9", "1/18=9", At::Both),
    row("local_ports_late = true", "IP_BIND_ADDRESS_NO_PORT=1", "", "", At::Bind),
    row("reuse_address = true", "SO_REUSEADDR=1", "", "", At::Bind),
    row("freebind = true", "IP_FREEBIND=1", "", "", At::Bind),
    row("transparent = true", "IP_TRANSPARENT=1", "", "", At::Bind),
];

/// Each IP version: family, the address, and which of `v4|v6` is meant.
const VERSIONS: [(&str, &str, usize); 2] = [("inet", "127.0.0.1", 0), ("inet6", "[::1]", 1)];

fn version(text: &str, index: usize) -> &str {
    text.split('|').nth(index).unwrap_or(text)
}

const FILL: &str = "[defaults]\nenforce = \"fill\"\n";

/// The calls of a row, with what the program sets first.
fn calls(at: At, family: &str, ip: &str, own: &str, look: &str) -> String {
    let set = |fd: char| if own.is_empty() { String::new() } else { format!("set {fd} {own}\n") };
    match at {
        At::Both | At::Connect => {
            format!("socket s {family} stream\n{}connect s {ip}:4000\n@look s {look}", set('s'))
        }
        At::Datagram => format!("socket s {family} dgram\n{}connect s {ip}:4000\n@look s {look}", set('s')),
        At::Listen => {
            format!("socket l {family} stream\n{}bind l {ip}:4000\nlisten l 8\n@look l {look}", set('l'))
        }
        At::Bind => format!("socket s {family} stream\n{}bind s {ip}:0\n@look s {look}", set('s')),
    }
}

fn accepting(family: &str, ip: &str, own: &str, look: &str) -> String {
    let set = if own.is_empty() { String::new() } else { format!("set l {own}\n") };
    format!(
        "socket l {family} stream\n{set}bind l {ip}:4000\nlisten l 8\n@look l {look}\n@dial {ip}:4000\naccept c l\n@look c {look}"
    )
}

pub(crate) fn trials() -> Vec<Trial> {
    let check =
        |(name, script): (String, Script)| test_with(NEEDS, format!("fill::{name}"), move || drop(script.check()));
    let mut trials: Vec<Trial> = scripts().into_iter().map(check).collect();
    trials.push(test_with(NEEDS, "fill::whatever the program sets, and when", whatever_the_program_sets));
    trials.push(test_with(NEEDS, "fill::library and supervisor agree", library_and_supervisor_agree));
    trials.push(test_with(STRACE, "fill::a new socket is asked for again where none could be made", no_descriptor));
    for (name, run) in costs() {
        trials.push(test_with(STRACE, format!("fill::strace: {name}"), run));
    }
    trials
}

/// Every script that is compared, by the name of its test.
pub(crate) fn scripts() -> Vec<(String, Script)> {
    let mut all = Vec::new();
    let mut add = |name: String, script: Script| all.push((name, script));
    for (family, ip, index) in VERSIONS {
        for Row { toml, filled, own, kept, at } in ROWS {
            let name = format!("{family} {}", toml.replace('\n', ", "));
            let configuration = format!("{FILL}{toml}");
            let served = |calls: String, own_listener: bool| {
                let script = Script::new(&calls).toml(&configuration);
                if own_listener { script } else { script.before(&format!("@listen {ip}:4000")) }
            };
            let (filled, own, kept) = (version(filled, index), version(own, index), version(kept, index));
            let kind = match at {
                At::Both | At::Connect => "connect",
                At::Listen => "listen",
                At::Datagram => "datagram",
                At::Bind => "bind",
            };
            let own_listener = matches!(at, At::Listen | At::Bind | At::Datagram);
            add(format!("left: {kind} {name}"), served(calls(*at, family, ip, "", filled), own_listener));
            if !own.is_empty() {
                let script = served(calls(*at, family, ip, own, kept), own_listener).same_looks();
                add(format!("set before: {kind} {name}"), script);
            }
            // What the defaults say of linger is not for servers.
            if *at == At::Both && !toml.starts_with("linger") {
                add(format!("left: accept {name}"), served(accepting(family, ip, "", filled), true));
                if !own.is_empty() {
                    add(
                        format!("set before: accept {name}"),
                        served(accepting(family, ip, own, kept), true).same_looks(),
                    );
                }
            }
        }
    }
    for (name, script) in groups().into_iter().chain(afterwards()).chain(connecting()).chain(accepted()).chain(layers())
    {
        add(name.to_owned(), script);
    }
    all
}

const PROMISE: &str = "[defaults]\ndead_peer_timeout = \"15s\"\nenforce = \"fill\"\n";
const KEPT: &str = "SO_KEEPALIVE=1 TCP_KEEPIDLE=5 TCP_KEEPINTVL=3 TCP_KEEPCNT=3 TCP_USER_TIMEOUT=14000";
const OWN: &str = "set s SO_KEEPALIVE 1\nset s TCP_KEEPIDLE 60\nset s TCP_KEEPINTVL 60\n";
const OWN_KEPT: &str = "SO_KEEPALIVE=1 TCP_KEEPIDLE=60 TCP_KEEPINTVL=60 TCP_KEEPCNT=9";

type Named = Vec<(&'static str, Script)>;

fn client(before: &str, after: &str, toml: &str) -> Script {
    Script::new(&format!("socket s inet stream\n{before}\nconnect s 127.0.0.1:4000\n{after}"))
        .before("@listen 127.0.0.1:4000")
        .toml(toml)
}

/// The keepalive, and the user timeout that goes with it.
fn groups() -> Named {
    let short = "set s SO_KEEPALIVE 1\nset s TCP_KEEPIDLE 4\nset s TCP_KEEPINTVL 2\n";
    vec![
        ("nothing set", client("", &format!("@look s {KEPT}"), PROMISE)),
        ("a keepalive of its own is left, and no user timeout beside it", {
            client(OWN, &format!("@look s {OWN_KEPT} TCP_USER_TIMEOUT=0"), PROMISE).same_looks()
        }),
        ("beside a keepalive of its own that outlasts a lost probe there is one", {
            client(short, "@look s TCP_KEEPIDLE=4 TCP_KEEPINTVL=2 TCP_KEEPCNT=9 TCP_USER_TIMEOUT=14000", PROMISE)
        }),
        ("a duration of its own goes by itself", {
            let toml =
                format!("{FILL}keepalive = {{ time = \"5s\", interval = \"3s\", probes = 3 }}\nuser_timeout = \"14s\"");
            client(OWN, &format!("@look s {OWN_KEPT} TCP_USER_TIMEOUT=14000"), &toml)
        }),
        ("a user timeout of its own is left, the keepalive is filled in", {
            client(
                "set s TCP_USER_TIMEOUT 96",
                "@look s SO_KEEPALIVE=1 TCP_KEEPIDLE=5 TCP_KEEPINTVL=3 TCP_KEEPCNT=3 TCP_USER_TIMEOUT=96",
                PROMISE,
            )
        }),
        ("times without SO_KEEPALIVE are no choice", {
            client("set s TCP_KEEPIDLE 99", &format!("@look s {KEPT}"), PROMISE)
        }),
        ("MPTCP has no user timeout and says nothing of it", {
            Script::new("socket s inet stream 262\nconnect s 127.0.0.1:4000\n@look s SO_KEEPALIVE=1 TCP_KEEPIDLE=5 TCP_KEEPINTVL=3 TCP_KEEPCNT=3")
                .before("@listen 127.0.0.1:4000")
                .toml(PROMISE)
        }),
        ("a UDP server: left", {
            Script::new("socket s inet dgram\nbind s 127.0.0.1:4000\n@look s SO_RCVBUF=98304 IP_TTL=33")
                .toml("[[rule]]\nlisten = [\":4000\"]\nenforce = \"fill\"\nreceive_buffer = \"48KiB\"\nttl = 33")
        }),
        ("a UDP server: set before", {
            Script::new("socket s inet dgram\nset s SO_RCVBUF 50000\nbind s 127.0.0.1:4000\n@look s SO_RCVBUF=100000")
                .toml("[[rule]]\nlisten = [\":4000\"]\nenforce = \"fill\"\nreceive_buffer = \"48KiB\"")
                .same_looks()
        }),
        ("an option that cannot be read is left out, and that is said", {
            client(
                "",
                "@look s TCP_NODELAY=1",
                &format!("{FILL}nodelay = true\nraw = [{{ level = 6, name = 9999, value = 1 }}]"),
            )
            .says("level 6 option 9999=1 is left out|ENOPROTOOPT")
        }),
    ]
}

/// What the program sets later.
fn afterwards() -> Named {
    let nonblocking = |between: &str, look: &str| {
        let calls = format!(
            "socket s inet stream+nonblock\nconnect s 127.0.0.1:4000\npoll s 1000\n{between}connect s 127.0.0.1:4000\n{look}"
        );
        Script::new(&calls).before("@listen 127.0.0.1:4000").toml(PROMISE)
    };
    vec![
        ("set after: the program has the last word, and the user timeout goes", {
            client("", &format!("{OWN}set s TCP_KEEPCNT 9\n@look s {OWN_KEPT} TCP_USER_TIMEOUT=0"), PROMISE)
                .same_looks()
        }),
        ("set after: switching on what is on changes nothing", {
            client("", &format!("set s SO_KEEPALIVE 1\n@look s {KEPT}"), PROMISE)
        }),
        ("set after: one of its times counts, the others are the rule's", {
            client(
                "",
                "set s TCP_KEEPIDLE 4\n@look s TCP_KEEPIDLE=4 TCP_KEEPINTVL=3 TCP_KEEPCNT=3 TCP_USER_TIMEOUT=14000",
                PROMISE,
            )
        }),
        ("set after: a user timeout is the program's", {
            client(
                "",
                &format!("set s TCP_USER_TIMEOUT 96\n{OWN}@look s TCP_KEEPIDLE=60 TCP_KEEPCNT=3 TCP_USER_TIMEOUT=96"),
                PROMISE,
            )
        }),
        ("set after: off stays off", {
            client(
                "",
                "set s SO_KEEPALIVE 0\nset s TCP_NODELAY 0\n@look s SO_KEEPALIVE=0 TCP_NODELAY=0",
                &format!("{PROMISE}nodelay = true"),
            )
            .same_looks()
        }),
        ("a connect that is repeated does not fill again", {
            nonblocking("set s SO_KEEPALIVE 0\n", "@look s SO_KEEPALIVE=0 TCP_USER_TIMEOUT=14000")
        }),
        ("a connect that is repeated leaves what was filled", nonblocking("", &format!("@look s {KEPT}"))),
        ("set after, on an accepted socket", {
            let calls = format!(
                "socket l inet stream\nbind l 127.0.0.1:4000\nlisten l 8\n@dial 127.0.0.1:4000\naccept s l\n{OWN}set s TCP_KEEPCNT 9\n@look s {OWN_KEPT} TCP_USER_TIMEOUT=0"
            );
            Script::new(&calls).toml(PROMISE).same_looks()
        }),
    ]
}

/// `connect_timeout` is a user timeout for a while.
fn connecting() -> Named {
    let toml = |more: &str| format!("{FILL}connect_timeout = \"5s\"\n{more}");
    let full = |before: &str, look: &str, toml: &str| {
        Script::new(&format!("socket s inet stream+nonblock\n{before}connect s 127.0.0.1:4000\n@look s {look}"))
            .before("@full 127.0.0.1:4000")
            .toml(toml)
    };
    vec![
        ("connect_timeout: while it connects", full("", "TCP_USER_TIMEOUT=4999", &toml(""))),
        ("connect_timeout: a user timeout of the program's, while it connects", {
            full("set s TCP_USER_TIMEOUT 9000\n", "TCP_USER_TIMEOUT=9000", &toml("")).same_looks()
        }),
        ("connect_timeout: a user timeout of the program's, once connected", {
            client("set s TCP_USER_TIMEOUT 9000", "@look s TCP_USER_TIMEOUT=9000", &toml("user_timeout = \"7s\""))
                .same_looks()
        }),
        ("connect_timeout: taken back", {
            client("", "@look s TCP_USER_TIMEOUT=0 TCP_NODELAY=1", &toml("nodelay = true"))
        }),
        (
            "connect_timeout: then the rule's",
            client("", &format!("@look s {KEPT}"), &toml("dead_peer_timeout = \"15s\"")),
        ),
        ("connect_timeout: then none beside a keepalive of the program's", {
            client(OWN, &format!("@look s {OWN_KEPT} TCP_USER_TIMEOUT=0"), &toml("dead_peer_timeout = \"15s\""))
                .same_looks()
        }),
        ("connect_timeout: one probe as the rule has it", {
            client(
                "",
                "@look s TCP_KEEPIDLE=5 TCP_KEEPINTVL=3 TCP_KEEPCNT=1 TCP_USER_TIMEOUT=8000",
                &toml("keepalive = { time = \"5s\", interval = \"3s\", probes = 1 }\nuser_timeout = \"auto\""),
            )
        }),
    ]
}

/// Where options are set on the accepted sockets.
fn accepted() -> Named {
    const FROM: &str = "[[rule]]\nfrom = [\"127.0.0.0/8\"]\nenforce = \"fill\"\ndead_peer_timeout = \"15s\"\nreceive_timeout = \"1500ms\"\n";
    let server = |own: &str, look: &str, toml: &str| {
        Script::new(&format!(
            "socket l inet stream\n{own}bind l 127.0.0.1:4000\nlisten l 8\n@dial 127.0.0.1:4000\naccept c l\n@look c {look}"
        ))
        .toml(toml)
    };
    let own_listener = OWN.replace("set s", "set l");
    vec![
        ("from: left", server("", &format!("{KEPT} SO_RCVTIMEO=1500ms"), FROM)),
        ("from: set on the listener", {
            server(
                &format!("{own_listener}set l SO_RCVTIMEO 2500ms\n"),
                &format!("{OWN_KEPT} TCP_USER_TIMEOUT=0 SO_RCVTIMEO=2500ms"),
                FROM,
            )
            .same_looks()
        }),
        ("accepted: what is not inherited", {
            server("", "SO_PRIORITY=5 SO_RCVTIMEO=1500ms", &format!("{FILL}priority = 5\nreceive_timeout = \"1500ms\""))
        }),
        ("accepted: a timeout that the listener has", {
            server("set l SO_RCVTIMEO 2500ms\n", "SO_RCVTIMEO=2500ms", &format!("{FILL}receive_timeout = \"1500ms\""))
                .same_looks()
        }),
        ("an inherited listener, and who waited", {
            Script::new(&format!(
                "use l 10\naccept c l\n@look c {KEPT}\n@look l {KEPT}\n@dial 127.0.0.1:4000\naccept d l\n@look d {KEPT}"
            ))
            .before("@listen 127.0.0.1:4000 10\n@dial 127.0.0.1:4000")
            .toml(PROMISE)
        }),
        ("the program's later word on its listener is for those who wait there too", {
            let calls = "use l 10\naccept c l\n@look c TCP_USER_TIMEOUT=14000\nset l SO_KEEPALIVE 0\naccept d l\n@look d SO_KEEPALIVE=0 TCP_USER_TIMEOUT=14000";
            Script::new(calls)
                .before("@listen 127.0.0.1:4000 10\n@dial 127.0.0.1:4000\n@dial 127.0.0.1:4000")
                .toml(PROMISE)
        }),
        ("a plain client of an MPTCP listener", {
            Script::new(&format!("socket l inet stream 262\nbind l 127.0.0.1:4000\nlisten l 8\n@dial 127.0.0.1:4000\naccept c l\nset c SO_KEEPALIVE 1\n@look c {KEPT}"))
                .toml(PROMISE)
        }),
    ]
}

/// The key is layered as any other.
fn layers() -> Named {
    let own = "set s TCP_USER_TIMEOUT 96";
    vec![
        ("layers: a rule that enforces over defaults that fill", {
            client(
                own,
                "set s TCP_USER_TIMEOUT 97\n@look s TCP_USER_TIMEOUT=14000",
                &format!("{PROMISE}[[rule]]\nto = [\":4000\"]\nenforce = true\n"),
            )
        }),
        // Seen to fail under the supervisor: one rule that fills let the program's keepalive through in all others.
        ("layers: a keepalive of a rule that enforces beside one that fills", {
            let toml = format!("{PROMISE}[[rule]]\nto = [\":4000\"]\nenforce = true\n");
            client("", &format!("{OWN}set s SO_KEEPALIVE 0\nset s TCP_KEEPCNT 7\n@look s {KEPT}"), &toml)
        }),
        ("layers: an accepted keepalive of a rule that enforces beside one that fills", {
            let later = OWN.replace("set s", "set c") + "set c SO_KEEPALIVE 0";
            Script::new(&format!("{}\n{later}\n@look c {KEPT}", accepting("inet", "127.0.0.1", "", KEPT)))
                .toml(&format!("{PROMISE}[[rule]]\nlisten = [\":4000\"]\nenforce = true\n"))
        }),
        // Seen to fail under the supervisor: the second TCP_NODELAY brought the rule's back.
        ("layers: an accepted keepalive of a rule that has the first word", {
            let later = "set c TCP_NODELAY 1\nset c TCP_KEEPIDLE 60\nset c TCP_USER_TIMEOUT 96\nset c TCP_NODELAY 0\nset c SO_KEEPALIVE 1";
            Script::new(&format!("socket l inet stream\nbind l 127.0.0.1:4000\nlisten l 8\n@dial 127.0.0.1:4000\naccept c l\n{later}\n@look c SO_KEEPALIVE=1 TCP_KEEPIDLE=60 TCP_KEEPCNT=3 TCP_USER_TIMEOUT=96"))
                .toml("[[rule]]\nfrom = [\"127.0.0.0/8\"]\nenforce = false\ndead_peer_timeout = \"15s\"\n")
        }),
        ("layers: a keepalive of a rule that leaves it beside one that fills", {
            let toml = format!("{PROMISE}[[rule]]\nto = [\":4000\"]\nenforce = false\n");
            client("", &format!("{OWN}@look s TCP_KEEPIDLE=60 TCP_KEEPINTVL=60 TCP_USER_TIMEOUT=14000"), &toml)
        }),
        ("layers: a rule that fills over defaults that enforce", {
            client(
                own,
                "@look s TCP_USER_TIMEOUT=96 SO_KEEPALIVE=1",
                "[defaults]\ndead_peer_timeout = \"15s\"\n[[rule]]\nto = [\":4000\"]\nenforce = \"fill\"\n",
            )
        }),
        ("layers: what another rule enforces is not enforced here", {
            let toml = format!("{PROMISE}[[rule]]\nto = [\":4001\"]\nenforce = true\n");
            client("", "set s TCP_USER_TIMEOUT 96\n@look s TCP_USER_TIMEOUT=96 TCP_KEEPCNT=3", &toml)
        }),
        ("layers: SOCKOPT_ENFORCE=fill", {
            client(
                own,
                "@look s TCP_USER_TIMEOUT=96 SO_KEEPALIVE=1",
                "[defaults]\ndead_peer_timeout = \"15s\"\nenforce = true\n",
            )
            .variable("SOCKOPT_ENFORCE", "fill")
        }),
    ]
}

/// Name of the call, and of the option if it has one.
fn names(lines: &[String]) -> Vec<String> {
    let name = |line: &String| {
        let call = line.split('(').next().unwrap_or_default().to_owned();
        match line.split(", ").nth(2) {
            Some(option) if call.ends_with("sockopt") => format!("{call} {option}"),
            _ => call,
        }
    };
    lines.iter().map(name).collect()
}

/// At the first socket the process has no descriptor left, and the system's defaults cannot be asked: that is said, and made good
/// at the next one, once. Seen to fail with what a new socket has asked for once: all kept TCP_SYNCNT=6.
fn no_descriptor() {
    let one = |fd: char| {
        format!("socket {fd} inet stream\nconnect {fd} 127.0.0.1:4000\n@look {fd} TCP_SYNCNT=3 TCP_LINGER2=7\n")
    };
    let calls = format!(
        "socket s inet stream\ndescriptors 4\nconnect s 127.0.0.1:4000\ndescriptors 64\nget s TCP_SYNCNT\n{}{}",
        one('t'),
        one('u')
    );
    let script = Script::new(&calls)
        .before("@listen 127.0.0.1:4000")
        .toml(&format!("{FILL}syn_retries = 3\nfin_timeout = \"7s\""))
        .says("TCP_SYNCNT=3 is left out|EMFILE")
        .says("TCP_LINGER2=7 is left out|EMFILE");
    script.check();
    let calls = script.traced("fill-files", true, "network");
    let made = |call: &Vec<String>| call.iter().filter(|line| line.starts_with("socket(")).count();
    // The first time and, for two options, once more; then with success, and never again.
    let made: Vec<usize> = calls.iter().map(made).filter(|made| *made > 0).collect();
    assert_eq!(made, [1, 3, 1, 1, 1], "{calls:?}");
}

type Run = fn();

/// System calls of a connect. Those of `true` and `false` are what they were before there was a third.
fn costs() -> Vec<(&'static str, Run)> {
    fn connect(toml: &str, own: &str, name: &str) -> Vec<String> {
        let found = client(own, "", toml).traced(name, true, "all");
        names(found.last().expect("a call"))
    }
    const SETS: [&str; 5] = [
        "setsockopt SO_KEEPALIVE",
        "setsockopt TCP_KEEPIDLE",
        "setsockopt TCP_KEEPINTVL",
        "setsockopt TCP_KEEPCNT",
        "setsockopt TCP_USER_TIMEOUT",
    ];
    vec![
        ("enforce = true", || {
            let calls = connect("[defaults]\ndead_peer_timeout = \"15s\"", "set s SO_REUSEADDR 1", "fill-true");
            let mut expected = SETS.to_vec();
            // The first of TCP's own asks whether it is TCP.
            expected.swap(0, 1);
            expected.push("connect");
            assert_eq!(calls, expected);
        }),
        ("enforce = false", || {
            let calls = connect(
                "[defaults]\ndead_peer_timeout = \"15s\"\nenforce = false",
                "set s SO_REUSEADDR 1",
                "fill-false",
            );
            let asked = ["getsockopt SO_PROTOCOL", "getsockopt SO_TYPE", "getsockopt SO_PEERNAME"];
            assert_eq!(calls, [&asked[..], &SETS, &["connect"]].concat());
        }),
        ("fill asks once for the keepalive and once for the user timeout", || {
            let calls = connect(PROMISE, "set s SO_REUSEADDR 1", "fill-fill");
            let asked = ["getsockopt SO_PROTOCOL", "getsockopt SO_TYPE", "getsockopt SO_PEERNAME"];
            let looked = ["getsockopt SO_KEEPALIVE", "getsockopt TCP_USER_TIMEOUT"];
            assert_eq!(calls, [&asked[..], &looked, &SETS, &["connect"]].concat());
        }),
        ("only options that a sysctl decides need a new socket, once", || {
            let sockets = |toml: &str, name: &str| {
                let calls =
                    "socket s inet stream\nconnect s 127.0.0.1:4000\nsocket t inet stream\nconnect t 127.0.0.1:4000";
                let script = Script::new(calls).before("@listen 127.0.0.1:4000").toml(toml);
                let lines: Vec<String> = script.traced(name, true, "network").concat();
                lines.iter().filter(|line| line.starts_with("socket(")).count()
            };
            assert_eq!(sockets(PROMISE, "fill-none"), 2);
            assert_eq!(sockets(&format!("{PROMISE}syn_retries = 3"), "fill-one"), 3);
            assert_eq!(sockets("[defaults]\nsyn_retries = 3", "fill-not"), 2);
        }),
    ]
}

/// A rule for every option below.
const EVERYTHING: &str = "[defaults]
keepalive = { time = \"11s\", interval = \"4s\", probes = 6 }
user_timeout = \"14s\"
linger = \"5s\"
nodelay = true
syn_retries = 3
receive_timeout = \"1500ms\"
receive_buffer = \"48KiB\"
send_buffer = \"64KiB\"
congestion = \"reno\"
notsent_lowat = \"16KiB\"
fin_timeout = \"7s\"
max_pacing_rate = \"10MiB\"
ttl = 33
dscp = \"ef\"
raw = [{ level = 1, name = 18, value = 4 }]
";

/// Options with a value that is neither the rule's nor the default. The keepalive's come first.
const VALUES: &[(&str, &str)] = &[
    ("SO_KEEPALIVE", "1"),
    ("TCP_KEEPIDLE", "60"),
    ("TCP_KEEPINTVL", "61"),
    ("TCP_KEEPCNT", "5"),
    ("TCP_USER_TIMEOUT", "9000"),
    ("SO_LINGER", "1,9"),
    ("TCP_NODELAY", "1"),
    ("TCP_SYNCNT", "4"),
    ("SO_RCVTIMEO", "2500ms"),
    ("SO_RCVBUF", "50000"),
    ("SO_SNDBUF", "50000"),
    ("TCP_CONGESTION", "cubic"),
    ("TCP_NOTSENT_LOWAT", "9999"),
    ("TCP_LINGER2", "9"),
    ("SO_MAX_PACING_RATE", "1000000"),
    ("IP_TTL", "44"),
    ("IP_TOS", "16"),
    ("1/18", "9"),
];
const KEEPALIVE: std::ops::Range<usize> = 0..4;

/// The library and the supervisor decide alike, whatever the rules are, how they enforce and what the program sets. The program sets
/// TCP_NODELAY first on what it accepts, as Go does. Seen to fail with a rule that fills letting the keepalive of all others through.
fn library_and_supervisor_agree() {
    const BOTH: &str = "dead_peer_timeout = \"15s\"";
    let names: Vec<&str> = VALUES.iter().map(|(name, _)| *name).collect();
    // What stands for the keepalive and the user timeout is as likely as both of them.
    let options: Vec<&str> = EVERYTHING.lines().skip(1).chain([BOTH; 3]).collect();
    let set = |socket: &str, which: &[usize]| {
        let one = |at: &usize| format!("set {socket} {} {}\n", VALUES[*at].0, VALUES[*at].1);
        which.iter().map(one).collect::<String>()
    };
    let layer = |head: &str, (which, enforce): &(Vec<usize>, Option<&str>)| {
        let all = BTreeSet::from_iter(which.iter().map(|&at| options[at]));
        let is_possible = |line: &&str| match line.split(' ').next() {
            Some("syn_retries") => !head.contains("listen") && !head.contains("from"),
            Some("keepalive" | "user_timeout") => !all.contains(BOTH),
            _ => true,
        };
        let lines = all.iter().copied().filter(is_possible).map(|line| format!("{line}\n")).collect::<String>();
        let enforce = enforce.map(|value| format!("enforce = {value}\n")).unwrap_or_default();
        format!("{head}\n{lines}{enforce}")
    };
    let body = || (vec(0..options.len(), 0..6), proptest::option::of(select(vec!["true", "false", "\"fill\""])));
    let heads = vec!["to = [\":4000\"]", "to = [\":4001\"]", "listen = [\":4002\"]", "from = [\"127.0.0.0/8\"]"];
    let rules = vec((select(heads), body()), 0..4);
    let which = || vec(0..VALUES.len(), 0..5);
    for_all(150, (body(), rules, [which(), which(), which(), which(), which()]), |(defaults, rules, which)| {
        let rules = rules.iter().map(|(head, body)| layer(&format!("[[rule]]\n{head}"), body)).collect::<String>();
        let toml = format!("{}{rules}", layer("[defaults]", &defaults));
        let [before, after, on_listener, mut later, accepted] = which;
        // Where a rule has `from`, the listener itself has under the supervisor what its clients share, and what a program sets there
        // later meets it.
        let differs_on_listener = toml.contains("from = ");
        if differs_on_listener {
            later.clear();
        }
        let calls = format!(
            "socket s inet stream\n{}connect s 127.0.0.1:4000\n{}socket l inet stream\n{}bind l 127.0.0.1:4002\nlisten l 8\n{}\
             @dial 127.0.0.1:4002\naccept c l\nset c TCP_NODELAY 0\n{}@look s {names}\n@look l {names}\n@look c {names}",
            set("s", &before),
            set("s", &after),
            set("l", &on_listener),
            set("l", &later),
            set("c", &accepted),
            names = names.join(" "),
        );
        let script = Script::new(&calls).before("@listen 127.0.0.1:4000").toml(&toml);
        let (mut library, mut supervised) = (script.looks(true), script.looks_supervised());
        prop_assert_eq!(library.len(), 3 * names.len());
        if differs_on_listener {
            for found in [&mut library, &mut supervised] {
                found.drain(names.len()..2 * names.len());
                // A congestion control from the beginning on makes for another buffer.
                if toml.contains("congestion") {
                    found.retain(|one| !one.starts_with("SO_SNDBUF"));
                }
            }
        }
        prop_assert_eq!(library, supervised, "{}\n{}", toml, calls);
        Ok(())
    });
}

/// What the program sets, before its connect or after, in any order, reads back as without the library; everything else as the
/// rule has it. The keepalive is one: who has switched it on before has chosen all four.
/// Seen to fail: with the exceptions of the keepalive taken out of this model, and as the other tests here.
fn whatever_the_program_sets() {
    let names: Vec<&str> = VALUES.iter().map(|(name, _)| *name).collect();
    let run = |before: &[usize], after: &[usize], toml: &str, preload: bool| {
        let set = |which: &[usize]| {
            which.iter().map(|&at| format!("set s {} {}\n", VALUES[at].0, VALUES[at].1)).collect::<String>()
        };
        let look = format!("{}@look s {}", set(after), names.join(" "));
        client(&set(before), &look, toml).looks(preload)
    };
    let rules = run(&[], &[], EVERYTHING, true);
    assert_eq!(rules.len(), VALUES.len());
    let which = || vec(0..VALUES.len(), 0..8);
    for_all(60, (which(), which()), |(before, after)| {
        let plain = run(&before, &after, EVERYTHING, false);
        let fill = run(&before, &after, &format!("{EVERYTHING}enforce = \"fill\""), true);
        let has_chosen = before.contains(&0);
        let expected: Vec<String> = (0..VALUES.len())
            .map(|at| {
                let is_set = match KEEPALIVE.contains(&at) {
                    true => has_chosen || after.contains(&at),
                    false => before.contains(&at) || after.contains(&at),
                };
                if is_set { plain[at].clone() } else { rules[at].clone() }
            })
            .collect();
        prop_assert_eq!(fill, expected);
        Ok(())
    });
}
