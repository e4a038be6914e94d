//! A line of test per option: what the configuration says, and what the kernel then has on the socket, read back from
//! another process.

use libtest_mimic::Trial;

use crate::script::{NEEDS, Script};
use crate::support::lab::{Lab, Place::Here, needs};
use crate::support::{test_with, text};

/// An option on sockets that connect.
struct Outbound {
    /// Key and value in TOML.
    toml: &'static str,
    /// What the program sets before it connects, where the value would be the system's anyway.
    own: &'static str,
    v4: &'static str,
    /// Where IPv6 has another option.
    v6: &'static str,
}

const fn out(toml: &'static str, v4: &'static str) -> Outbound {
    Outbound { toml, own: "", v4, v6: v4 }
}

const fn over(toml: &'static str, own: &'static str, v4: &'static str) -> Outbound {
    Outbound { toml, own, v4, v6: v4 }
}

const fn both(toml: &'static str, v4: &'static str, v6: &'static str) -> Outbound {
    Outbound { toml, own: "", v4, v6 }
}

const PROMISE: &str = "SO_KEEPALIVE=1 TCP_KEEPIDLE=5 TCP_KEEPINTVL=3 TCP_KEEPCNT=3 TCP_USER_TIMEOUT=14000";

#[rustfmt::skip] // a table reads by its columns
const OUTBOUND: &[Outbound] = &[
    out("dead_peer_timeout = \"15s\"", PROMISE),
    out("keepalive = { time = \"60s\", interval = \"20s\", probes = 4 }", "SO_KEEPALIVE=1 TCP_KEEPIDLE=60 TCP_KEEPINTVL=20 TCP_KEEPCNT=4"),
    out("keepalive = { time = \"32767s\", interval = \"32767s\", probes = 127 }", "SO_KEEPALIVE=1 TCP_KEEPIDLE=32767 TCP_KEEPINTVL=32767 TCP_KEEPCNT=127"),
    out("keepalive = { time = \"11s\" }", "SO_KEEPALIVE=1 TCP_KEEPIDLE=11 TCP_KEEPINTVL=75 TCP_KEEPCNT=9"),
    out("keepalive = { interval = \"11s\" }", "SO_KEEPALIVE=1 TCP_KEEPIDLE=7200 TCP_KEEPINTVL=11 TCP_KEEPCNT=9"),
    out("keepalive = { probes = 2 }", "SO_KEEPALIVE=1 TCP_KEEPIDLE=7200 TCP_KEEPINTVL=75 TCP_KEEPCNT=2"),
    out("keepalive = \"on\"", "SO_KEEPALIVE=1 TCP_KEEPIDLE=7200 TCP_KEEPINTVL=75 TCP_KEEPCNT=9"),
    over("keepalive = \"off\"", "SO_KEEPALIVE 1", "SO_KEEPALIVE=0"),
    out("user_timeout = \"7s\"", "TCP_USER_TIMEOUT=7000"),
    out("user_timeout = \"1ms\"", "TCP_USER_TIMEOUT=1"),
    out("user_timeout = \"2147483647ms\"", "TCP_USER_TIMEOUT=2147483647"),
    out("user_timeout = \"auto\"\nkeepalive = { time = \"60s\", interval = \"20s\", probes = 4 }", "TCP_USER_TIMEOUT=140000"),
    over("user_timeout = \"off\"", "TCP_USER_TIMEOUT 9000", "TCP_USER_TIMEOUT=0"),
    out("linger = \"reset\"", "SO_LINGER=1,0"),
    out("linger = \"5s\"", "SO_LINGER=1,5"),
    over("linger = \"off\"", "SO_LINGER 1,7", "SO_LINGER=0,7"),
    out("nodelay = true", "TCP_NODELAY=1"),
    over("nodelay = false", "TCP_NODELAY 1", "TCP_NODELAY=0"),
    out("syn_retries = 3", "TCP_SYNCNT=3"),
    out("syn_retries = 127", "TCP_SYNCNT=127"),
    out("receive_timeout = \"1500ms\"", "SO_RCVTIMEO=1500ms"),
    over("receive_timeout = \"off\"", "SO_RCVTIMEO 2500ms", "SO_RCVTIMEO=0ms"),
    out("send_timeout = \"2s\"", "SO_SNDTIMEO=2000ms"),
    over("send_timeout = \"off\"", "SO_SNDTIMEO 2500ms", "SO_SNDTIMEO=0ms"),
    out("receive_buffer = \"48KiB\"", "SO_RCVBUF=98304"),
    out("send_buffer = \"64KiB\"", "SO_SNDBUF=131072"),
    out("max_segment = 600", "TCP_MAXSEG=588"), // 12 bytes of timestamps
    over("congestion = \"reno\"", "TCP_CONGESTION cubic", "TCP_CONGESTION=reno"),
    out("notsent_lowat = \"16KiB\"", "TCP_NOTSENT_LOWAT=16384"),
    out("fin_timeout = \"7s\"", "TCP_LINGER2=7"),
    out("max_pacing_rate = \"10MiB\"", "SO_MAX_PACING_RATE=10485760"),
    over("max_pacing_rate = \"unlimited\"", "SO_MAX_PACING_RATE 1000000", "SO_MAX_PACING_RATE=-1"),
    out("fastopen = true", "TCP_FASTOPEN_CONNECT=1"),
    over("fastopen = false", "TCP_FASTOPEN_CONNECT 1", "TCP_FASTOPEN_CONNECT=0"),
    both("ttl = 33", "IP_TTL=33", "IPV6_UNICAST_HOPS=33"),
    both("dscp = \"ef\"", "IP_TOS=184", "IPV6_TCLASS=184"),
    both("dscp = 1", "IP_TOS=4", "IPV6_TCLASS=4"),
    out("priority = 5", "SO_PRIORITY=5"),
    out("priority = 7", "SO_PRIORITY=7"),
    out("mark = 7", "SO_MARK=7"),
    out("mark = 4294967295", "SO_MARK=-1"),
    out("interface = \"lo\"", "SO_BINDTODEVICE=lo"),
    out("raw = [{ level = \"SOL_SOCKET\", name = \"SO_RCVLOWAT\", value = 3 }]", "SO_RCVLOWAT=3"),
    out("raw = [{ level = \"IPPROTO_TCP\", name = \"TCP_NODELAY\", value = true }]", "TCP_NODELAY=1"),
    over("raw = [{ level = \"SOL_TCP\", name = \"TCP_CONGESTION\", value = \"reno\" }]", "TCP_CONGESTION cubic", "TCP_CONGESTION=reno"),
    out("raw = [{ level = 6, name = 18, value = 4321 }, { level = 1, name = 18, value = 4 }]", "6/18=4321 1/18=4"),
];

/// The same through the environment's shortcuts.
const VARIABLES: &[(&str, &str, &str)] = &[
    ("DEAD_PEER_TIMEOUT", "15s", PROMISE),
    ("KEEPALIVE", "60s,20s,4", "SO_KEEPALIVE=1 TCP_KEEPIDLE=60 TCP_KEEPINTVL=20 TCP_KEEPCNT=4"),
    ("KEEPALIVE", "on", "SO_KEEPALIVE=1"),
    ("USER_TIMEOUT", "7s", "TCP_USER_TIMEOUT=7000"),
    ("LINGER", "reset", "SO_LINGER=1,0"),
    ("NODELAY", "1", "TCP_NODELAY=1"),
    ("SYN_RETRIES", "3", "TCP_SYNCNT=3"),
    ("RECEIVE_TIMEOUT", "1500ms", "SO_RCVTIMEO=1500ms"),
    ("SEND_TIMEOUT", "2s", "SO_SNDTIMEO=2000ms"),
    ("RECEIVE_BUFFER", "48KiB", "SO_RCVBUF=98304"),
    ("SEND_BUFFER", "64KiB", "SO_SNDBUF=131072"),
    ("MAX_SEGMENT", "600", "TCP_MAXSEG=588"),
    ("NOTSENT_LOWAT", "16KiB", "TCP_NOTSENT_LOWAT=16384"),
    ("FIN_TIMEOUT", "7s", "TCP_LINGER2=7"),
    ("MAX_PACING_RATE", "10MiB", "SO_MAX_PACING_RATE=10485760"),
    ("FASTOPEN", "on", "TCP_FASTOPEN_CONNECT=1"),
    ("TTL", "33", "IP_TTL=33"),
    ("DSCP", "ef", "IP_TOS=184"),
    ("PRIORITY", "5", "SO_PRIORITY=5"),
    ("MARK", "7", "SO_MARK=7"),
    ("INTERFACE", "lo", "SO_BINDTODEVICE=lo"),
];

/// An option of a rule with `listen`: on the listener, then on what it accepts.
#[rustfmt::skip] // a table reads by its columns
const LISTENERS: &[(&str, &str, &str)] = &[
    ("dead_peer_timeout = \"15s\"", PROMISE, PROMISE),
    ("keepalive = { time = \"7s\", interval = \"5s\", probes = 2 }", "SO_KEEPALIVE=1 TCP_KEEPIDLE=7", "SO_KEEPALIVE=1 TCP_KEEPIDLE=7 TCP_KEEPINTVL=5 TCP_KEEPCNT=2"),
    ("user_timeout = \"7s\"", "TCP_USER_TIMEOUT=7000", "TCP_USER_TIMEOUT=7000"),
    ("linger = \"reset\"", "SO_LINGER=1,0", "SO_LINGER=1,0"),
    ("linger = \"5s\"", "SO_LINGER=1,5", "SO_LINGER=1,5"),
    ("nodelay = true", "TCP_NODELAY=1", "TCP_NODELAY=1"),
    ("receive_timeout = \"1500ms\"", "", "SO_RCVTIMEO=1500ms"),
    ("send_timeout = \"2s\"", "", "SO_SNDTIMEO=2000ms"),
    ("receive_buffer = \"48KiB\"", "SO_RCVBUF=98304", "SO_RCVBUF=98304"),
    ("send_buffer = \"64KiB\"", "SO_SNDBUF=131072", "SO_SNDBUF=131072"),
    ("max_segment = 600", "TCP_MAXSEG=600", "TCP_MAXSEG=588"),
    ("congestion = \"reno\"", "TCP_CONGESTION=reno", "TCP_CONGESTION=reno"),
    ("notsent_lowat = \"16KiB\"", "TCP_NOTSENT_LOWAT=16384", "TCP_NOTSENT_LOWAT=16384"),
    ("fin_timeout = \"7s\"", "TCP_LINGER2=7", "TCP_LINGER2=7"),
    ("max_pacing_rate = \"10MiB\"", "SO_MAX_PACING_RATE=10485760", "SO_MAX_PACING_RATE=10485760"),
    ("fastopen = 16", "TCP_FASTOPEN=16", ""),
    ("defer_accept = \"7s\"", "TCP_DEFER_ACCEPT=7", ""),
    ("ttl = 33", "IP_TTL=33|IPV6_UNICAST_HOPS=33", "IP_TTL=33|IPV6_UNICAST_HOPS=33"),
    ("dscp = \"ef\"", "IP_TOS=184|IPV6_TCLASS=184", "IP_TOS=184|IPV6_TCLASS=184"),
    ("priority = 5", "SO_PRIORITY=5", "SO_PRIORITY=5"),
    ("mark = 7", "SO_MARK=7", "SO_MARK=7"),
    ("interface = \"lo\"", "SO_BINDTODEVICE=lo", "SO_BINDTODEVICE=lo"),
    ("raw = [{ level = 1, name = 18, value = 4 }]", "1/18=4", "1/18=4"),
    ("reuse_address = true", "SO_REUSEADDR=1", ""),
    ("reuse_port = true", "SO_REUSEPORT=1", "SO_REUSEPORT=1"),
];

/// On UDP sockets that connect.
const DATAGRAM: &[(&str, &str)] = &[
    ("receive_buffer = \"48KiB\"", "SO_RCVBUF=98304"),
    ("send_buffer = \"64KiB\"", "SO_SNDBUF=131072"),
    ("ttl = 33", "IP_TTL=33|IPV6_UNICAST_HOPS=33"),
    ("dscp = \"ef\"", "IP_TOS=184|IPV6_TCLASS=184"),
    ("priority = 5", "SO_PRIORITY=5"),
    ("mark = 7", "SO_MARK=7"),
    ("interface = \"lo\"", "SO_BINDTODEVICE=lo"),
];

/// Options that bind alone looks at.
const BINDING: &[(&str, &str)] = &[
    ("local_ports_late = true", "IP_BIND_ADDRESS_NO_PORT=1"),
    ("reuse_address = true", "SO_REUSEADDR=1"),
    ("reuse_port = true", "SO_REUSEPORT=1"),
    ("freebind = true", "IP_FREEBIND=1"),
    ("transparent = true", "IP_TRANSPARENT=1"),
];

/// Each IP version: family, the address, and which of `v4|v6` is meant.
const VERSIONS: [(&str, &str, usize); 2] = [("inet", "127.0.0.1", 0), ("inet6", "[::1]", 1)];

fn version(text: &str, index: usize) -> &str {
    text.split('|').nth(index).unwrap_or(text)
}

fn outbound(family: &str, ip: &str, own: &str, look: &str) -> Script {
    let own = if own.is_empty() { String::new() } else { format!("set s {own}") };
    Script::new(&format!("socket s {family} stream\n{own}\nconnect s {ip}:4000\n@look s {look}"))
        .before(&format!("@listen {ip}:4000"))
}

fn look(variable: char, wanted: &str) -> String {
    if wanted.is_empty() { String::new() } else { format!("@look {variable} {wanted}") }
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![test_with(&needs([]), "options::bind_to_a_foreign_address", bind_to_a_foreign_address)];
    let check =
        |(name, script): (String, Script)| test_with(NEEDS, format!("options::{name}"), move || drop(script.check()));
    trials.extend(scripts().into_iter().map(check));
    trials
}

/// Every script that is compared, by the name of its test.
pub(crate) fn scripts() -> Vec<(String, Script)> {
    let mut all = Vec::new();
    let mut add = |name: String, script: Script| all.push((name, script));
    for (family, ip, index) in VERSIONS {
        for option in OUTBOUND {
            let wanted = [option.v4, option.v6][index];
            let toml = format!("[[rule]]\nto = [\"{ip}:4000\"]\n{}", option.toml);
            add(format!("connect {family} {}", option.toml.replace('\n', ", ")), {
                outbound(family, ip, option.own, wanted).toml(&toml)
            });
        }
        for (toml, listener, accepted) in LISTENERS {
            let calls = format!(
                "socket l {family} stream\nbind l {ip}:4000\nlisten l 8\n{}\n@dial {ip}:4000\naccept c l\n{}",
                look('l', version(listener, index)),
                look('c', version(accepted, index))
            );
            let script = Script::new(&calls).toml(&format!("[[rule]]\nlisten = [\"{ip}:4000\"]\n{toml}"));
            add(format!("listen {family} {toml}"), script);
        }
        for (toml, wanted) in DATAGRAM {
            let calls = format!("socket s {family} dgram\nconnect s {ip}:4000\n@look s {}", version(wanted, index));
            add(format!("datagram {family} {toml}"), Script::new(&calls).toml(&format!("[defaults]\n{toml}")));
        }
        for (toml, wanted) in BINDING {
            let calls = format!("socket s {family} stream\nbind s {ip}:0\n@look s {wanted}");
            add(format!("bind {family} {toml}"), Script::new(&calls).toml(&format!("[defaults]\n{toml}")));
        }
    }
    for (name, value, wanted) in VARIABLES {
        let script = outbound("inet", "127.0.0.1", "", wanted).variable(&format!("SOCKOPT_{name}"), value);
        add(format!("variable SOCKOPT_{name}={value}"), script);
    }
    for (name, script) in exceptions() {
        add(name.to_owned(), script);
    }
    all
}

const RULE: &str = "[[rule]]\nname = \"R\"\nto = [\"127.0.0.1\"]\n";
const TWO: &str = "socket s inet stream\nconnect s 127.0.0.1:4000\nsocket t inet stream\nconnect t 127.0.0.1:4000\n";

/// A connect that stays in progress.
fn connecting(own: &str, toml: &str, look: &str) -> Script {
    Script::new(&format!("socket s inet stream+nonblock\n{own}\nconnect s 127.0.0.1:4000\n@look s {look}"))
        .toml(&format!("{RULE}{toml}"))
        .before("@full 127.0.0.1:4000")
}

/// What the tables have no column for.
fn exceptions() -> Vec<(&'static str, Script)> {
    let two = |looks: &str, toml: &str| {
        Script::new(&format!("{TWO}{looks}")).toml(&format!("{RULE}{toml}")).before("@listen 127.0.0.1:4000")
    };
    vec![
        ("a missing algorithm is a warning", {
            two("@look t TCP_NODELAY=1", "nodelay = true\ncongestion = \"no-such\"")
                .says("warning|rule \"R\"|TCP_CONGESTION|ENOENT")
        }),
        ("a missing interface is a warning", {
            two("@look t TCP_NODELAY=1", "nodelay = true\ninterface = \"none0\"").says("SO_BINDTODEVICE|ENODEV")
        }),
        ("an unknown raw option is a warning", {
            two(
                "@look s TCP_NODELAY=1",
                "raw = [{ level = 6, name = 9999, value = 1 }, { level = 6, name = 1, value = 1 }]",
            )
            .says("level 6 option 9999=1|ENOPROTOOPT")
        }),
        ("a warning is one for each rule", {
            Script::new("socket s inet stream\nconnect s 127.0.0.1:4000\nsocket t inet6 stream\nconnect t [::1]:4000")
                .before("@listen 127.0.0.1:4000\n@listen [::1]:4000")
                .toml("[[rule]]\nto = [\"127.0.0.1\"]\nname = \"A\"\ncongestion = \"no-such\"\n[[rule]]\nname = \"B\"\ncongestion = \"no-such\"")
                .says("rule \"A\"|TCP_CONGESTION")
                .says("rule \"B\"|TCP_CONGESTION")
        }),
        // The kernel leaves the mode when the handshake is done, so it is looked at before.
        ("connect inet quickack = false", connecting("", "quickack = false", "TCP_QUICKACK=0")),
        ("connect inet quickack = true", connecting("set s TCP_QUICKACK 0", "quickack = true", "TCP_QUICKACK=1")),
        ("system leaves a default out", {
            two(
                "@look s SO_KEEPALIVE=0 TCP_USER_TIMEOUT=0 TCP_NODELAY=1",
                "keepalive = \"system\"\nuser_timeout = \"system\"\n[defaults]\ndead_peer_timeout = \"15s\"\nnodelay = true",
            )
        }),
        ("a rule overlays the defaults by key, the environment both", {
            two(
                "@look s TCP_SYNCNT=4 TCP_USER_TIMEOUT=9000 TCP_NODELAY=1",
                "syn_retries = 4\nuser_timeout = \"8s\"\n[defaults]\nsyn_retries = 2\nnodelay = true",
            )
            .variable("SOCKOPT_USER_TIMEOUT", "9s")
        }),
        ("SOCKOPT_TO limits the shortcuts", {
            let calls = "socket s inet stream\nconnect s 127.0.0.1:4000\n@look s TCP_NODELAY=1 TCP_SYNCNT=6\nsocket t inet stream\nconnect t 127.0.0.1:4001\n@look t TCP_NODELAY=1 TCP_SYNCNT=3";
            Script::new(calls)
                .before("@listen 127.0.0.1:4000\n@listen 127.0.0.1:4001")
                .toml("[defaults]\nnodelay = true")
                .variable("SOCKOPT_SYN_RETRIES", "3")
                .variable("SOCKOPT_TO", "10.0.0.0/8,:4001")
        }),
        ("a listener does not take the linger of the defaults", {
            let calls = "socket l inet stream\nbind l 127.0.0.1:4000\nlisten l 8\n@look l SO_LINGER=0,0 TCP_NODELAY=1\n@dial 127.0.0.1:4000\naccept c l\n@look c SO_LINGER=0,0 TCP_NODELAY=1";
            Script::new(calls).toml("[defaults]\nlinger = \"reset\"\nnodelay = true")
        }),
        ("a timeout is not for the listener itself", {
            let calls = "socket l inet stream\nbind l 127.0.0.1:4000\nlisten l 8\n@look l SO_RCVTIMEO=0ms SO_SNDTIMEO=0ms TCP_NODELAY=1";
            Script::new(calls)
                .toml("[[rule]]\nlisten = [\":4000\"]\nreceive_timeout = \"1s\"\nsend_timeout = \"1s\"\nnodelay = true")
        }),
        ("bound and connected at once: the port is chosen late", {
            let calls = "socket s inet stream\nbind s 127.0.0.1:0\nconnect s 127.0.0.1:4000\n@look s IP_BIND_ADDRESS_NO_PORT=1 TCP_NODELAY=1";
            Script::new(calls)
                .before("@listen 127.0.0.1:4000")
                .toml("[defaults]\nlocal_ports_late = true\nnodelay = true")
        }),
        ("bind-time options go by the rule for the address", {
            let calls = "socket s inet stream\nbind s 127.0.0.1:4001\n@look s SO_REUSEADDR=1\nsocket t inet stream\nbind t 127.0.0.1:4003\nlisten t 1\n@look t SO_REUSEADDR=0 TCP_NODELAY=1";
            Script::new(calls).toml(
                "[[rule]]\nlisten = [\"127.0.0.0/8:4001-4002\"]\nreuse_address = true\n[defaults]\nnodelay = true",
            )
        }),
        // Seen to fail: with an entry of raw that is set at listen.
        ("raw options that count in bind alone are set there", {
            let calls = "socket s inet stream\nbind s 127.0.0.1:4001\n@look s IP_FREEBIND=1 TCP_NODELAY=1";
            Script::new(calls).toml(
                "[[rule]]\nlisten = [\":4001\"]\nraw = [{ level = \"SOL_IP\", name = \"IP_FREEBIND\", value = 1 }, \
                 { level = \"SOL_TCP\", name = \"TCP_NODELAY\", value = 1, at = \"bind\" }]",
            )
        }),
        // Seen to fail: with exclusions that are read and left out.
        ("what a list excludes is for the next rule", {
            let calls = "socket s inet stream\nconnect s 127.0.0.1:4000\nsocket t inet stream\nconnect t 127.0.0.2:4000\n\
                         socket l inet stream\nbind l 127.0.0.1:4001\nlisten l 8\nsocket m inet stream\nbind m 127.0.0.2:4001\nlisten m 8\n\
                         @look s SO_KEEPALIVE=1\n@look t SO_KEEPALIVE=0 TCP_NODELAY=1\n@look l SO_KEEPALIVE=0 TCP_NODELAY=1\n@look m SO_KEEPALIVE=1";
            Script::new(calls).before("@listen 127.0.0.1:4000\n@listen 127.0.0.2:4000").toml(
                "[[rule]]\nto = [\"127.0.0.0/8\", \"!127.0.0.2\"]\nkeepalive = \"on\"\n\
                 [[rule]]\nlisten = [\"!127.0.0.1:4001\", \"!127.0.0.3\"]\nkeepalive = \"on\"\n[[rule]]\nnodelay = true",
            )
        }),
        // Seen to fail: without `Phase::BindDatagram`.
        ("a UDP server has the options of a rule with listen", {
            let calls = "socket u inet dgram\nbind u 127.0.0.1:4001\n@look u SO_RCVBUF=131072 IP_TTL=9\n\
                         socket v inet6 dgram\nbind v [::1]:4001\n@look v SO_RCVBUF=131072 IPV6_UNICAST_HOPS=9";
            Script::new(calls).toml("[[rule]]\nlisten = [\":4001\"]\nreceive_buffer = \"64KiB\"\nttl = 9")
        }),
        // Seen to fail: with freebind at bind of TCP sockets alone.
        ("a UDP server may bind to an address that this machine does not have", {
            let calls = "socket u inet dgram\nbind u 127.0.0.1:4001\n@look u IP_FREEBIND=1 IP_TRANSPARENT=1\n\
                         socket v inet6 dgram\nbind v [::1]:4001\n@look v IP_FREEBIND=1 IP_TRANSPARENT=1";
            Script::new(calls).toml("[[rule]]\nlisten = [\":4001\"]\nfreebind = true\ntransparent = true")
        }),
        // Seen to fail: with one table of rules for TCP and UDP; with reuse_port and raw at bind of TCP sockets alone; with a
        // connection_of that asks for TCP's rule.
        ("a rule for UDP and one for TCP on the same port", {
            let calls = "socket u inet dgram\nbind u 127.0.0.1:4001\n@look u SO_RCVBUF=131072 IP_TTL=9 SO_REUSEPORT=1 SO_BROADCAST=1\n\
                         set u IP_TTL 8\n@look u IP_TTL=9\n\
                         socket l inet stream\nbind l 127.0.0.1:4001\nlisten l 8\n@look l IP_TTL=7 SO_REUSEPORT=0 SO_BROADCAST=0\n\
                         socket v inet6 dgram\nbind v [::1]:4002\n@look v IPV6_UNICAST_HOPS=6\n\
                         socket w inet dgram\nbind w 127.0.0.1:4003\n@look w IP_TTL=6\n\
                         socket m inet stream\nbind m 127.0.0.1:4003\nlisten m 8\n@look m IP_TTL=6";
            Script::new(calls).toml(
                "[[rule]]\nlisten = [\":4001\"]\nprotocol = \"udp\"\nreceive_buffer = \"64KiB\"\nttl = 9\nreuse_port = true\n\
                 raw = [{ level = \"SOL_SOCKET\", name = \"SO_BROADCAST\", value = 1 }]\n\
                 [[rule]]\nlisten = [\":4001-4002\"]\nprotocol = \"tcp\"\nttl = 7\n[[rule]]\nlisten = \":4002-4003\"\nttl = 6",
            )
        }),
        // Seen to fail: with a connection_of that knows UDP sockets by their peer alone.
        ("a UDP server's options are enforced", {
            let calls = "socket u inet dgram\nset u IP_TTL 7\nbind u 127.0.0.1:4001\nset u IP_TTL 8\n@look u IP_TTL=9";
            Script::new(calls).toml("[[rule]]\nlisten = [\":4001\"]\nttl = 9")
        }),
        ("TCP's options are not for UDP", {
            let calls = "socket s inet dgram\nconnect s 127.0.0.1:4000\n@look s SO_KEEPALIVE=0 SO_LINGER=0,0 SO_RCVTIMEO=0ms SO_SNDTIMEO=0ms SO_MARK=7";
            Script::new(calls).toml("[defaults]\ndead_peer_timeout = \"15s\"\nlinger = \"reset\"\nreceive_timeout = \"1s\"\nsend_timeout = \"1s\"\nmark = 7")
        }),
    ]
}

/// `freebind` lets a program bind to an address that this machine has not; so do `transparent`, and IP_FREEBIND as an entry of raw that
/// says nothing of when. IPV6_V6ONLY leaves the port to IPv4. Seen to fail: with these set at listen.
fn bind_to_a_foreign_address() {
    const BINDS: &str = "
import socket
for family, address in (
    (socket.AF_INET, '192.0.2.1'), (socket.AF_INET, '198.51.100.1'), (socket.AF_INET, '203.0.113.1'), (socket.AF_INET6, '2001:db8::1'),
):
    foreign = socket.socket(family)
    try:
        foreign.bind((address, 0))
        print('bound', foreign.getsockname()[0])
    except OSError as error:
        print(error.strerror)
both = socket.socket(socket.AF_INET6)
both.bind(('::', 0))
print(both.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
";
    let rules = "[[rule]]\nlisten = \"192.0.2.0/24\"\nraw = [{ level = \"SOL_IP\", name = \"IP_FREEBIND\", value = 1 }]\n\
                 [[rule]]\nlisten = [\"198.51.100.0/24\", \"2001:db8::/32\"]\nfreebind = true\n\
                 [[rule]]\nlisten = \"203.0.113.0/24\"\ntransparent = true\n\
                 [[rule]]\nlisten = \"::\"\nraw = [{ level = \"SOL_IPV6\", name = \"IPV6_V6ONLY\", value = 1 }]\n";
    // In a namespace of its own, where it may set IP_TRANSPARENT.
    let lab = Lab::new();
    let rules = format!("SOCKOPT_CONFIG_TOML={rules}");
    let said = |environment: &[&str]| {
        text(&lab.covered(Here, environment, "python3").args(["-c", BINDS]).output().expect("python3 runs"))
    };
    let bound = "bound 192.0.2.1\nbound 198.51.100.1\nbound 203.0.113.1\nbound 2001:db8::1\n1\n";
    assert_eq!(said(&[&rules]), (bound.to_owned(), String::new()));
    assert_eq!(said(&[]).0, "Cannot assign requested address\n".repeat(4) + "0\n");
}
