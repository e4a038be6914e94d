//! Each interposed call under the library and without it: the same answers, and only the options differ.

use std::fs;
use std::process::Command;

use libtest_mimic::Trial;

use crate::script::{NEEDS, Script, finish};
use crate::support::{self, test_with};

const STRACE: &[&str] = &["namespaces", "strace"];
/// What connect to 127.0.0.1 and ::1 gets.
const PROMISE: &str = "[[rule]]\nname = \"local\"\nto = [\"127.0.0.1\", \"::1\"]\ndead_peer_timeout = \"15s\"\n";
const EVERYWHERE: &str = "[defaults]\ndead_peer_timeout = \"15s\"\nlinger = \"reset\"\nnodelay = true\n";
const ELSEWHERE: &str = "[[rule]]\nto = [\"10.9.9.9\"]\ndead_peer_timeout = \"15s\"\n";
const SERVER: &str = "[[rule]]\nname = \"server\"\nlisten = [\":4000\"]\ndead_peer_timeout = \"15s\"\n";
const PEERS: &str = "[[rule]]\nlisten = [\":4000\"]\nfrom = [\"127.0.0.2\"]\nuser_timeout = \"2s\"\n\
                     [[rule]]\nfrom = [\"127.0.0.3\", \"::1\"]\nuser_timeout = \"3s\"\n\
                     [[rule]]\nlisten = [\":4000\"]\nuser_timeout = \"9s\"\nfastopen = 5\n";

/// Scripts with the names of their tests.
type Named = Vec<(&'static str, Script)>;

pub(crate) fn trials() -> Vec<Trial> {
    let check = |(name, script): (String, Script)| test_with(NEEDS, name, move || drop(script.check()));
    let mut trials: Vec<Trial> =
        scripts().into_iter().map(|(name, script)| check((format!("hooks::{name}"), script))).collect();
    for (name, run) in traced() {
        trials.push(test_with(STRACE, format!("hooks::strace: {name}"), run));
    }
    // No error and no option: so one masks a file. Seen to fail where it is no regular file.
    let masked = client("", "@look s SO_KEEPALIVE=0 TCP_USER_TIMEOUT=0").variable("SOCKOPT_CONFIG", "/dev/null");
    trials.push(check(("hooks::untouched: the null device for a configuration".to_owned(), masked.same_looks())));
    for first in ["early", "ours"] {
        let name = format!("hooks::constructor: it connects, {first} listed last");
        trials.push(test_with(NEEDS, name, move || constructor(first == "early")));
    }
    trials.push(test_with(&["namespaces", "strace", "curl"], "hooks::strace: curl, nothing configured", curl));
    trials
}

/// Every script that is compared, by the name of its test.
pub(crate) fn scripts() -> Vec<(String, Script)> {
    let mut all = Vec::new();
    let mut add = |group: &str, name: &str, script: Script| all.push((format!("{group}: {name}"), script));
    for (group, scripts) in [
        ("connect", connect()),
        ("unspecified", unspecified()),
        ("untouched", untouched()),
        ("enforce", enforce()),
        ("received", received()),
        ("listen", listen()),
        ("fastopen", fastopen()),
        ("hard", hard()),
    ] {
        scripts.into_iter().for_each(|(name, script)| add(group, name, script));
    }
    for (group, scripts) in [("pointers", pointers()), ("arguments", arguments())] {
        scripts.into_iter().for_each(|(name, script)| add(group, &name, script));
    }
    all
}

/// A client of 127.0.0.1:4000, with calls before and after its connect.
fn client(before: &str, after: &str) -> Script {
    Script::new(&format!("socket s inet stream\n{before}\nconnect s 127.0.0.1:4000\n{after}"))
        .before("@listen 127.0.0.1:4000\n@listen 127.0.0.1:4001\n@listen [::1]:4000")
}

/// The same where connecting does not come to an end.
fn waiting(after: &str) -> Script {
    Script::new(&format!("socket s inet stream+nonblock\nconnect s 127.0.0.1:4000\n{after}"))
        .before("@full 127.0.0.1:4000")
}

/// A server of port 4000, with the calls that follow its listen.
fn server(after: &str) -> Script {
    Script::new(&format!("socket l inet stream\nbind l 127.0.0.1:4000\nlisten l 8\n{after}"))
}

const KEPT: &str = "SO_KEEPALIVE=1 TCP_KEEPIDLE=5 TCP_KEEPINTVL=3 TCP_KEEPCNT=3 TCP_USER_TIMEOUT=14000";

fn connect() -> Named {
    let kept = |text: &str| text.replace("KEPT", KEPT);
    let local =
        |text: &str| Script::new(&kept(text)).toml(PROMISE).before("@listen 127.0.0.1:4000\n@listen [::1]:4000");
    vec![
        ("plain", local("socket s inet stream\nconnect s 127.0.0.1:4000\n@look s KEPT")),
        ("close-on-exec", local("socket s inet stream+cloexec\nconnect s 127.0.0.1:4000\n@look s KEPT")),
        ("both type flags", {
            local("socket s inet stream+cloexec+nonblock\nconnect s 127.0.0.1:4000\npoll s 1000\n@look s KEPT")
        }),
        ("explicit protocol", local("socket s inet stream 6\nconnect s 127.0.0.1:4000\n@look s KEPT")),
        ("IPv6", local("socket s inet6 stream\nconnect s [::1]:4000\n@look s KEPT")),
        ("mapped address, rule for IPv4", {
            local("socket s inet6 stream\nconnect s [::ffff:127.0.0.1]:4000\n@look s KEPT")
        }),
        ("descriptor 0", local("close 0\nsocket s inet stream\nconnect s 127.0.0.1:4000\n@look s KEPT")),
        ("in another thread", local("socket s inet stream\nthread connect s 127.0.0.1:4000\n@look s KEPT")),
        ("in a child", local("socket s inet stream\nchild connect s 127.0.0.1:4000\n@look s KEPT")),
        ("in a signal handler", local("socket s inet stream\nsignal connect s 127.0.0.1:4000\n@look s KEPT")),
        ("first in a thread, then in a child of it", {
            local(
                "socket s inet stream\nthread connect s 127.0.0.1:4000\nsocket t inet stream\nchild connect t 127.0.0.1:4000\n@look t KEPT",
            )
        }),
        ("through a copy of the descriptor", {
            local("socket s inet stream\ndup s d\nclose s\nconnect d 127.0.0.1:4000\n@look d KEPT")
        }),
        ("over what the program set before", {
            local(
                "socket s inet stream\nset s SO_KEEPALIVE 1\nset s TCP_KEEPIDLE 99\nset s TCP_USER_TIMEOUT 77\nconnect s 127.0.0.1:4000\n@look s KEPT",
            )
        }),
        ("MPTCP has no user timeout and says nothing of it", {
            local(
                "socket s inet stream 262\nconnect s 127.0.0.1:4000\n@look s SO_KEEPALIVE=1 TCP_KEEPIDLE=5 TCP_KEEPINTVL=3 TCP_KEEPCNT=3",
            )
        }),
        ("two destinations, each with its rule, and one without", {
            let calls = "socket s inet stream\nconnect s 127.0.0.1:4000\n@look s TCP_USER_TIMEOUT=1000 TCP_SYNCNT=6\n\
                         socket t inet stream\nconnect t 127.0.0.1:4001\n@look t TCP_USER_TIMEOUT=2000 TCP_SYNCNT=2\n\
                         socket s inet stream\nconnect s 127.0.0.1:4000\n@look s TCP_USER_TIMEOUT=1000 TCP_SYNCNT=6\n";
            Script::new(calls).before("@listen 127.0.0.1:4000\n@listen 127.0.0.1:4001").toml(
                "[[rule]]\nto = [\":4000\"]\nuser_timeout = \"1s\"\n[[rule]]\nto = [\"127.0.0.0/8\"]\nuser_timeout = \"2s\"\nsyn_retries = 2\n",
            )
        }),
        ("the first matching rule alone counts", {
            client("", "@look s TCP_USER_TIMEOUT=1000 TCP_SYNCNT=6").toml(
                "[[rule]]\nto = [\":4000\"]\nuser_timeout = \"1s\"\n[[rule]]\nto = [\":4000\"]\nsyn_retries = 2\n",
            )
        }),
        ("while it is in progress", waiting(&kept("@look s KEPT")).toml(PROMISE)),
        ("connected anew after AF_UNSPEC, elsewhere", {
            client("", "connect s unspec\nconnect s 127.0.0.1:4001\n@look s TCP_USER_TIMEOUT=2000").toml(
                "[[rule]]\nto = [\":4000\"]\nuser_timeout = \"1s\"\n[[rule]]\nto = [\":4001\"]\nuser_timeout = \"2s\"\n",
            )
        }),
        ("errno of each failure, with a rule for every destination", {
            let calls = "socket s inet stream\nconnect s 127.0.0.1:4009\nclose s\n\
                         socket s inet stream\nconnect s 10.1.2.3:80\nclose s\n\
                         socket s inet stream+nonblock\nconnect s 127.0.0.1:4008\nconnect s 127.0.0.1:4008\nclose s\n\
                         socket s inet stream\nconnect s 127.0.0.1:4000\nconnect s 127.0.0.1:4000\nclose s\n\
                         connect s 127.0.0.1:4000\nconnect -1 127.0.0.1:4000\nconnect -2147483648 127.0.0.1:4000\n\
                         connect 9999 127.0.0.1:4000\nconnect 2147483647 127.0.0.1:4000\nconnect 1 127.0.0.1:4000\n\
                         socket s inet stream\nconnect s [::1]:4000\nclose s\n\
                         socket s inet6 stream\nconnect s 127.0.0.1:4000\nclose s\n\
                         socket s inet stream\nconnect s 127.0.0.1:0\nclose s\n\
                         socket s inet stream\nconnect s 255.255.255.255:4000\n";
            Script::new(calls).before("@listen 127.0.0.1:4000\n@full 127.0.0.1:4008").toml(EVERYWHERE)
        }),
        ("a closed standard output and error", {
            client("", "@look s TCP_NODELAY=1\nclose 2\nsocket t inet stream\nconnect t 127.0.0.1:4000\nclose 1")
                .toml("[defaults]\nnodelay = true\nreceive_buffer = \"4KiB\"")
        }),
    ]
}

/// Destinations that name no address: the kernel takes them for this machine, and SO_PEERNAME says which address it took.
/// Seen to fail without as_destination in connect_to, the bound ones with as_destination_of_any in its place, and those with
/// the address itself without it in the patterns.
fn unspecified() -> Named {
    const TWO: &str = "[[rule]]\nto = [\"127.0.0.1\", \"::1\"]\nuser_timeout = \"1s\"\n\
                       [[rule]]\nto = [\"127.0.0.5\"]\nuser_timeout = \"5s\"\n";
    let listen = "@listen 0.0.0.0:4000\n@listen [::1]:4000";
    let one = |family: &str, bound: &str, to: &str, wanted: &str| {
        let bind = if bound.is_empty() { String::new() } else { format!("bind s {bound}\n") };
        // What the program sets afterwards is enforced or not by the same rule.
        let calls = format!(
            "socket s {family} stream\n{bind}connect s {to}\n@look s TCP_USER_TIMEOUT={wanted}\nset s TCP_USER_TIMEOUT 96\n\
             @look s TCP_USER_TIMEOUT={wanted}"
        );
        Script::new(&calls).before(listen).toml(TWO)
    };
    let by_variable = |to: &str| {
        let calls = "socket s inet stream\nconnect s 0.0.0.0:4000\n@look s TCP_USER_TIMEOUT=1000\n";
        let calls =
            if to.contains(':') { calls.replace("inet", "inet6").replace("0.0.0.0", "[::]") } else { calls.to_owned() };
        Script::new(&calls).before(listen).variable("SOCKOPT_TO", to).variable("SOCKOPT_USER_TIMEOUT", "1s")
    };
    vec![
        ("IPv4", one("inet", "", "0.0.0.0:4000", "1000")),
        ("IPv4, bound", one("inet", "127.0.0.5:0", "0.0.0.0:4000", "5000")),
        ("IPv4, bound to any address", one("inet", "0.0.0.0:0", "0.0.0.0:4000", "1000")),
        ("IPv6", one("inet6", "", "[::]:4000", "1000")),
        ("IPv6, bound", one("inet6", "[::1]:0", "[::]:4000", "1000")),
        ("IPv6, bound to a mapped address", one("inet6", "[::ffff:127.0.0.5]:0", "[::]:4000", "1000")),
        ("mapped", one("inet6", "", "[::ffff:0.0.0.0]:4000", "1000")),
        ("mapped, bound", one("inet6", "[::ffff:127.0.0.5]:0", "[::ffff:0.0.0.0]:4000", "5000")),
        ("mapped, IPv6 only", {
            Script::new("socket s inet6 stream\nset s 41/26 1\nconnect s [::ffff:0.0.0.0]:4000")
                .before(listen)
                .toml(TWO)
        }),
        ("a send that connects", {
            Script::new("socket s inet stream\nsendto s fastopen 0.0.0.0:4000\n@look s TCP_USER_TIMEOUT=1000")
                .before(listen)
                .toml(TWO)
        }),
        ("UDP", {
            Script::new(
                "socket s inet dgram\nconnect s 0.0.0.0:4000\n@look s SO_RCVBUF=98304\nset s SO_RCVBUF 50000\n\
                 @look s SO_RCVBUF=98304\nsocket t inet6 dgram\nconnect t [::]:4000\n@look t SO_RCVBUF=98304",
            )
            .toml("[[rule]]\nto = [\"127.0.0.1\", \"::1\"]\nreceive_buffer = \"48KiB\"")
        }),
        ("SOCKOPT_TO with a network", by_variable("127.0.0.0/8")),
        ("SOCKOPT_TO with IPv6", by_variable("[::1]")),
        // Who writes what the program connects to means where it comes to.
        ("SOCKOPT_TO with the address itself", by_variable("0.0.0.0")),
        ("SOCKOPT_TO with the IPv6 address itself", by_variable("[::]:4000")),
        ("a rule with the address itself", {
            Script::new("socket s inet stream\nconnect s 0.0.0.0:4000\n@look s TCP_USER_TIMEOUT=1000")
                .before(listen)
                .toml("[[rule]]\nto = [\"0.0.0.0:4000\"]\nuser_timeout = \"1s\"")
        }),
        ("another destination", {
            Script::new("socket s inet stream\nconnect s 0.0.0.0:4000\n@look s TCP_USER_TIMEOUT=0")
                .before(listen)
                .toml("[[rule]]\nto = [\"127.0.0.2\"]\nuser_timeout = \"1s\"")
                .same_looks()
        }),
    ]
}

/// Addresses that cannot be read, and lengths that no address has. In a page of the main thread's stack seen to fail
/// where all of that stack counted as readable: SIGSEGV.
fn pointers() -> Vec<(String, Script)> {
    let mut scripts = Vec::new();
    for (family, ip) in [("inet", "127.0.0.1"), ("inet6", "[::1]")] {
        for place in ["null", "one", "last", "kernel", "unmapped", "stack", "heap", "edge", "inside", "good"] {
            let lengths = "0 1 2 8 15 16 23 24 27 28 128 129 0x7fffffff 0x80000000 0xffffffff".split(' ');
            let blocks: String = lengths
                .map(|length| {
                    format!(
                        "socket s {family} stream\nconnect s {ip}:4000 {length} {place}\nconnect s {ip}:4000\nclose s\n"
                    )
                })
                .collect();
            let calls = format!("{blocks}socket s {family} stream\nconnect s {ip}:4000\n@look s SO_KEEPALIVE=1");
            let script = Script::new(&calls).toml(PROMISE).before(&format!("@listen {ip}:4000"));
            scripts.push((format!("connect {family} {place}"), script));
        }
    }
    for place in ["null", "one", "kernel", "unmapped", "stack", "heap", "edge", "inside", "good"] {
        let blocks = ["0", "1", "15", "16", "28", "129", "0x7fffffff"]
            .map(|length| format!("socket s inet stream\nbind s 127.0.0.1:4001 {length} {place}\nclose s\n"));
        let calls = format!("{}socket s inet stream\nbind s 127.0.0.1:4001\n@look s SO_REUSEPORT=1", blocks.concat());
        scripts.push((format!("bind {place}"), Script::new(&calls).toml("[defaults]\nreuse_port = true")));
    }
    for call in ["sendmsg", "sendmmsg"] {
        let mut blocks = String::new();
        for place in ["null", "one", "last", "kernel", "unmapped", "stack", "heap", "edge"] {
            for message in [format!("at:{place}"), place.to_owned()] {
                blocks += &format!("socket s inet stream\n{call} s fastopen+nosignal {message}\nclose s\n");
            }
        }
        let calls = format!("{blocks}socket s inet stream\n{call} s fastopen 127.0.0.1:4000\n@look s SO_KEEPALIVE=1");
        scripts.push((call.to_owned(), Script::new(&calls).toml(PROMISE).before("@listen 127.0.0.1:4000")));
    }
    let sendto = ["null", "one", "last", "kernel", "unmapped", "stack", "heap", "inside"]
        .map(|place| format!("socket s inet stream\nsendto s fastopen+nosignal {place}\nclose s\n"));
    let calls =
        format!("{}socket s inet stream\nsendto s fastopen 127.0.0.1:4000\n@look s SO_KEEPALIVE=1", sendto.concat());
    scripts.push(("sendto".to_owned(), Script::new(&calls).toml(PROMISE).before("@listen 127.0.0.1:4000")));
    scripts
}

/// setsockopt of an option that is enforced, with arguments that the kernel refuses.
fn arguments() -> Vec<(String, Script)> {
    let mut scripts = Vec::new();
    for option in ["SO_KEEPALIVE", "TCP_KEEPIDLE", "TCP_USER_TIMEOUT", "SO_LINGER"] {
        let mut calls = String::new();
        for place in ["null", "one", "last", "kernel", "unmapped", "stack", "heap", "edge", "inside", "good"] {
            for length in ["0", "1", "3", "4", "8", "4096", "0x7fffffff", "0x80000000", "0xffffffff"] {
                calls += &format!("set s {option} 9,9 {length} {place}\n");
            }
        }
        // What the kernel takes is not carried out, however it was put.
        calls += &format!("@look s {KEPT} SO_LINGER=1,0\nclose s\n");
        calls += &["s", "-1", "1", "9999"].map(|fd| format!("set {fd} {option} 9,9\n")).concat();
        let script = client("", &calls).toml(&format!("{PROMISE}linger = \"reset\""));
        scripts.push((format!("setsockopt {option}"), script));
    }
    // Seen to fail where a name that cannot be read was taken for one that is not carried out: 0 in place of EFAULT.
    let mut calls = String::new();
    for place in ["null", "one", "kernel", "unmapped", "stack", "heap", "edge", "inside", "good"] {
        for length in ["0", "2", "3", "15", "16", "4096", "0x7fffffff", "0x80000000"] {
            calls += &format!("set s SO_BINDTODEVICE lo {length} {place}\n");
        }
    }
    let script = client("", &format!("{calls}set s SO_BINDTODEVICE lo 0\n@look s SO_BINDTODEVICE=lo\n"));
    let script = script.toml("[[rule]]\nto = [\":4000\"]\ninterface = \"lo\"");
    scripts.push(("setsockopt SO_BINDTODEVICE".to_owned(), script));
    scripts
}

/// Sockets that no rule can be about.
fn untouched() -> Named {
    const AS_IT_WAS: &str = "SO_KEEPALIVE=0 SO_LINGER=0,0";
    let left = |calls: &str| {
        Script::new(&calls.replace("AS_IT_WAS", AS_IT_WAS))
            .before("@listen unix:there\n@listen 127.0.0.1:4000")
            .toml(EVERYWHERE)
            .same_looks()
    };
    vec![
        ("UNIX stream", left("socket s unix stream\nconnect s unix:there\n@look s AS_IT_WAS")),
        ("UNIX, refused", left("socket s unix stream\nconnect s unix:nobody\n@look s AS_IT_WAS")),
        ("UNIX socket, internet address", left("socket s unix stream\nconnect s 127.0.0.1:4000\n@look s AS_IT_WAS")),
        ("UNIX listener", {
            left(
                "socket l unix stream\nbind l unix:mine\nlisten l 4\n@dial unix:mine\naccept c l\n@look l AS_IT_WAS\n@look c AS_IT_WAS\nset c SO_KEEPALIVE 1\n@look c SO_KEEPALIVE=1",
            )
        }),
        // libkeepalive and libdontdie take it for a stream: both tell one by a bit of the type.
        ("UNIX SEQPACKET", {
            left(
                "socket l unix seqpacket\nbind l unix:packets\nlisten l 4\nsocket s unix seqpacket\nconnect s unix:packets\naccept c l\n@look s AS_IT_WAS\n@look c AS_IT_WAS\n@look l AS_IT_WAS",
            )
        }),
        ("netlink", left("socket s netlink raw\nconnect s 127.0.0.1:4000\n@look s AS_IT_WAS")),
        ("raw", left("socket s inet raw 6\nconnect s 127.0.0.1:4000\n@look s AS_IT_WAS")),
        ("raw IPv6", left("socket s inet6 raw 17\nconnect s [::1]:4000\n@look s AS_IT_WAS")),
        ("UDP", left("socket s inet dgram\nconnect s 127.0.0.1:4000\n@look s AS_IT_WAS\nsendto s - 127.0.0.1:4000")),
        (
            "UDP that only sends",
            left("socket s inet dgram\nsendto s - 127.0.0.1:4000\nsendmsg s - 127.0.0.1:4000\n@look s AS_IT_WAS"),
        ),
        ("AF_UNSPEC", left("socket s inet stream\nconnect s unspec\n@look s AS_IT_WAS TCP_USER_TIMEOUT=0")),
        (
            "a socket that nobody connects",
            left("socket s inet stream\nset s TCP_NODELAY 0\n@look s AS_IT_WAS TCP_NODELAY=0"),
        ),
        ("a connection elsewhere", {
            client("", "@look s AS_IT_WAS TCP_USER_TIMEOUT=0".replace("AS_IT_WAS", AS_IT_WAS).as_str())
                .toml(ELSEWHERE)
                .same_looks()
        }),
        ("the port next door", {
            client("", "@look s TCP_USER_TIMEOUT=0")
                .toml("[[rule]]\nto = [\"127.0.0.1:4001-4099\"]\nuser_timeout = \"1s\"")
                .same_looks()
        }),
        ("another process", {
            client("", "@look s TCP_USER_TIMEOUT=0")
                .toml("[[rule]]\nprocess = [\"cal\"]\nuser_timeout = \"1s\"")
                .same_looks()
        }),
        ("SOCKOPT_DISABLE", {
            client("", "@look s TCP_USER_TIMEOUT=0").toml(EVERYWHERE).variable("SOCKOPT_DISABLE", "1").same_looks()
        }),
    ]
}

fn enforce() -> Named {
    const NARROW: &str = "socket l inet stream\nbind l 127.0.0.1:4000\nlisten l 8\n";
    const WIDE: &str = "socket w inet stream\nbind w 0.0.0.0:4000\nlisten w 8\n";
    const ACCEPTED: &str = "@dial 127.0.0.1:4000\naccept s l\nset s TCP_USER_TIMEOUT 96\n";
    let with = |option: &str, listener: &str| {
        let set = if listener.starts_with("socket w") { "set w" } else { "set l" };
        listener.replacen("\nbind", &format!("\n{set} {option} 1\nbind"), 1)
    };
    let shared = |listener: &str| with("SO_REUSEPORT", listener);
    // While a connection is open, its port is bound again only so.
    let again = |listener: &str| with("SO_REUSEADDR", listener);
    const OF_FAMILIES: &str = "[[rule]]\nlisten = [\"0.0.0.0:4000\"]\nuser_timeout = \"1s\"\n\
        [[rule]]\nlisten = [\"[::]:4000\"]\nuser_timeout = \"2s\"\n";
    const OF_NARROW: &str = "[[rule]]\nlisten = [\"127.0.0.1:4000\"]\nuser_timeout = \"1s\"\nkeepalive = \"on\"\n";
    const OF_WIDE: &str = "[[rule]]\nlisten = [\"0.0.0.0:4000\", \"[::]:4000\"]\nuser_timeout = \"2s\"\n";
    const OWN: &str = "set s SO_KEEPALIVE 0\nset s TCP_KEEPIDLE 99\nset s TCP_KEEPINTVL 98\nset s TCP_KEEPCNT 97\nset s TCP_USER_TIMEOUT 96\n";
    let after = |text: &str| text.replace("OWN\n", OWN).replace("KEPT", KEPT);
    let own_word = |toml: &str| {
        client("", &after("OWN\n@look s SO_KEEPALIVE=0 TCP_KEEPIDLE=99 TCP_USER_TIMEOUT=96")).toml(toml).same_looks()
    };
    let accepted =
        |between: &str| server(&after(&format!("@dial 127.0.0.1:4000\naccept s l\n{between}OWN\n@look s KEPT")));
    vec![
        ("after connect", client("", &after("OWN\n@look s KEPT")).toml(PROMISE)),
        ("while connecting", waiting(&after("OWN\n@look s KEPT")).toml(PROMISE)),
        ("while connecting, IPv6", {
            let calls = after("socket s inet6 stream+nonblock\nconnect s [::1]:4000\nOWN\n@look s KEPT");
            Script::new(&calls).before("@full [::1]:4000").toml(PROMISE)
        }),
        ("after a connect that was not waited for", {
            Script::new(&after(
                "socket s inet stream+nonblock\nconnect s 127.0.0.1:4000\nOWN\npoll s 1000\nOWN\n@look s KEPT",
            ))
            .before("@listen 127.0.0.1:4000")
            .toml(PROMISE)
        }),
        ("through a copy", {
            let own = OWN.replace("set s", "set d");
            client("", &after(&format!("dup s d\nclose s\n{own}@look d KEPT"))).toml(PROMISE)
        }),
        (
            "in a child",
            client("", &after(&format!("child {}\n@look s KEPT", OWN.trim().replace('\n', "\nchild ")))).toml(PROMISE),
        ),
        ("in a thread", client("", &after("thread set s TCP_USER_TIMEOUT 96\n@look s KEPT")).toml(PROMISE)),
        ("in a signal handler", client("", &after("signal set s TCP_USER_TIMEOUT 96\n@look s KEPT")).toml(PROMISE)),
        ("mapped address", {
            Script::new(&after("socket s inet6 stream\nconnect s [::ffff:127.0.0.1]:4000\nOWN\n@look s KEPT"))
                .before("@listen 127.0.0.1:4000")
                .toml(PROMISE)
        }),
        ("on a listener", server(&after(&format!("{}@look l KEPT", OWN.replace("set s", "set l")))).toml(SERVER)),
        ("on an accepted socket", accepted("").toml(SERVER)),
        ("on an accepted socket, its listener closed", accepted("close l\n").toml(SERVER)),
        ("on an accepted socket of a rule with from", {
            let calls = "@dial 127.0.0.1:4000 127.0.0.2:0\naccept s l\nset s TCP_USER_TIMEOUT 96\n@look s TCP_USER_TIMEOUT=2000";
            server(calls).toml(PEERS)
        }),
        // Seen to fail: with the wide listener's rule taken wherever there had been one.
        ("a narrow listener after a wide one", {
            let calls = format!("{WIDE}close w\n{NARROW}{ACCEPTED}@look s TCP_USER_TIMEOUT=1000 SO_KEEPALIVE=1");
            Script::new(&calls).toml(&format!("{OF_NARROW}{OF_WIDE}"))
        }),
        ("a wide listener after a narrow one", {
            let calls = format!("{NARROW}close l\n{}{ACCEPTED}@look s TCP_USER_TIMEOUT=2000", WIDE.replace(" w", " l"));
            Script::new(&calls).toml(&format!("{OF_NARROW}{OF_WIDE}"))
        }),
        ("a narrow listener beside one of IPv6", {
            let calls = format!(
                "socket v inet6 stream\nset v IPV6_V6ONLY 1\nbind v [::]:4000\nlisten v 8\n{NARROW}{ACCEPTED}@look s TCP_USER_TIMEOUT=1000"
            );
            Script::new(&calls).toml(&format!("{OF_NARROW}{OF_WIDE}"))
        }),
        ("a narrow listener alone has a rule", {
            let calls = format!("{WIDE}close w\n{NARROW}{ACCEPTED}@look s TCP_USER_TIMEOUT=1000");
            Script::new(&calls).toml(OF_NARROW)
        }),
        ("a wide listener alone has a rule", {
            let calls = format!("{NARROW}close l\n{}{ACCEPTED}@look s TCP_USER_TIMEOUT=2000", WIDE.replace(" w", " l"));
            Script::new(&calls).toml(OF_WIDE)
        }),
        // Seen to fail: with SO_REUSEPORT not asked for, so that the narrow one was forgotten.
        ("a narrow listener beside a wide one that has a rule", {
            let calls = format!(
                "{}{}@dial 127.0.0.1:4000\naccept s l\nset s TCP_NODELAY 1\nset s TCP_NODELAY 0\n@look s TCP_NODELAY=0",
                shared(NARROW),
                shared(WIDE)
            );
            Script::new(&calls).toml(&OF_WIDE.replace("user_timeout = \"2s\"", "nodelay = true")).same_looks()
        }),
        ("a wide listener beside one of another address", {
            let other = NARROW.replace("127.0.0.1", "127.0.0.2");
            let calls = format!("{}{}{}", shared(&other), shared(WIDE), ACCEPTED.replace("accept s l", "accept s w"));
            let toml = format!("{OF_NARROW}{OF_WIDE}").replace("user_timeout", "from = [\"127.0.0.1\"]\nuser_timeout");
            Script::new(&format!("{calls}@look s TCP_USER_TIMEOUT=2000")).toml(&toml)
        }),
        // Seen to fail under the supervisor: 96, since the options of a rule with from are in force nowhere before.
        ("a wide listener of a rule with from after a narrow one", {
            let calls = format!("{NARROW}close l\n{WIDE}{}", ACCEPTED.replace("accept s l", "accept s w"));
            let toml = format!("{OF_NARROW}{OF_WIDE}").replace("user_timeout", "from = [\"127.0.0.1\"]\nuser_timeout");
            Script::new(&format!("{calls}@look s TCP_USER_TIMEOUT=2000")).toml(&toml)
        }),
        // Seen to fail: with V6ONLY not asked for, so that 0.0.0.0 was forgotten.
        ("a wide listener beside one of IPv6 alone", {
            let v6 = "socket v inet6 stream\nset v IPV6_V6ONLY 1\nbind v [::]:4000\nlisten v 8\n";
            let accepted = ACCEPTED.replace("accept s l", "accept s w");
            Script::new(&format!("{WIDE}{v6}{accepted}@look s TCP_USER_TIMEOUT=1000")).toml(OF_FAMILIES)
        }),
        // Seen to fail: with the family of the accepted socket not asked for.
        ("a wide listener of both families after one of IPv4", {
            let v6 = "socket w inet6 stream\nbind w [::]:4000\nlisten w 8\n";
            let accepted = ACCEPTED.replace("accept s l", "accept s w");
            let calls = format!("{}close w\n{}{accepted}@look s TCP_USER_TIMEOUT=2000", shared(WIDE), shared(v6));
            Script::new(&calls).toml(OF_FAMILIES)
        }),
        // Seen to fail: with the later listener's rule enforced; under the supervisor, with its options set at SO_KEEPALIVE.
        ("a connection of a listener that another has replaced", {
            let accepted = "@dial 127.0.0.1:4000\naccept s w\nclose w\n";
            let (former, later) = (again(WIDE), again(NARROW));
            let calls = format!(
                "{former}{accepted}{later}set s TCP_USER_TIMEOUT 96\nset s SO_KEEPALIVE 1\n@look s TCP_USER_TIMEOUT=96"
            );
            Script::new(&calls).toml(&format!("{OF_NARROW}{OF_WIDE}")).same_looks()
        }),
        ("a connection of a narrow listener that a wide one has replaced", {
            let accepted = "@dial 127.0.0.1:4000\naccept s l\nclose l\n";
            let (former, later) = (again(NARROW), again(WIDE));
            let calls = format!("{former}{accepted}{later}set s TCP_USER_TIMEOUT 96\n@look s TCP_USER_TIMEOUT=96");
            Script::new(&calls).toml(OF_WIDE).same_looks()
        }),
        ("a connection of a listener of both families that one of IPv4 has replaced", {
            let v6 = "socket w inet6 stream\nbind w [::]:4000\nlisten w 8\n";
            let accepted = "@dial 127.0.0.1:4000\naccept s w\nclose w\n";
            let (former, later) = (again(v6), again(NARROW));
            let calls = format!("{former}{accepted}{later}set s TCP_USER_TIMEOUT 96\n@look s TCP_USER_TIMEOUT=96");
            Script::new(&calls).toml(OF_NARROW).same_looks()
        }),
        // Seen to fail: with the rule of [::] enforced.
        ("a mapped listener beside one of IPv6 alone", {
            let v6 = "socket v inet6 stream\nset v IPV6_V6ONLY 1\nbind v [::]:4000\nlisten v 8\n";
            let mapped = "socket w inet6 stream\nset w IPV6_V6ONLY 0\nbind w [::ffff:0.0.0.0]:4000\nlisten w 8\n";
            let accepted = ACCEPTED.replace("accept s l", "accept s w");
            let toml = &OF_FAMILIES[OF_FAMILIES.rfind("[[rule]]").unwrap_or_default()..];
            Script::new(&format!("{v6}{mapped}{accepted}@look s TCP_USER_TIMEOUT=96")).toml(toml).same_looks()
        }),
        ("another listener alone has a rule", {
            let calls = format!("{WIDE}close w\n{NARROW}{ACCEPTED}@look s TCP_USER_TIMEOUT=96");
            Script::new(&calls).toml(OF_WIDE).same_looks()
        }),
        ("on an IPv4 client of a listener on ::", {
            let calls = "socket l inet6 stream\nbind l [::]:4000\nlisten l 8\n@dial 127.0.0.1:4000\naccept s l\nOWN\n@look s KEPT";
            Script::new(&after(calls)).toml(SERVER)
        }),
        ("by defaults", client("", &after("OWN\n@look s KEPT")).toml("[defaults]\ndead_peer_timeout = \"15s\"")),
        ("by a variable", client("", &after("OWN\n@look s KEPT")).variable("SOCKOPT_DEAD_PEER_TIMEOUT", "15s")),
        ("only what the rule sets", {
            let calls = "set s SO_KEEPALIVE 1\nset s TCP_KEEPIDLE 99\nset s TCP_USER_TIMEOUT 96\n@look s SO_KEEPALIVE=1 TCP_KEEPIDLE=99 TCP_USER_TIMEOUT=1000";
            client("", calls).toml("[[rule]]\nto = [\":4000\"]\nuser_timeout = \"1s\"")
        }),
        ("only where the rule is meant", {
            let calls = "socket t inet stream\nconnect t 127.0.0.1:4001\nset t TCP_USER_TIMEOUT 96\nset s TCP_USER_TIMEOUT 96\n@look s TCP_USER_TIMEOUT=1000\nget t TCP_USER_TIMEOUT";
            client("", calls).toml("[[rule]]\nto = [\":4000\"]\nuser_timeout = \"1s\"")
        }),
        (
            "not before connect",
            client("set s TCP_USER_TIMEOUT 96\nget s TCP_USER_TIMEOUT", &after("@look s KEPT")).toml(PROMISE),
        ),
        ("options without a rule go through", {
            let calls = "set s SO_REUSEADDR 1\nset s SO_RCVBUF 50000\nset s TCP_NODELAY 1\nset s SO_LINGER 1,3\nset s TCP_USER_TIMEOUT 96\n\
                         @look s SO_REUSEADDR=1 SO_RCVBUF=100000 TCP_NODELAY=1 SO_LINGER=1,3 TCP_USER_TIMEOUT=14000";
            client("", calls).toml(PROMISE)
        }),
        ("every kind of value", {
            let calls = "set s SO_LINGER 1,9\nset s SO_RCVTIMEO 9000ms\nset s TCP_CONGESTION cubic\nset s SO_RCVBUF 50000\n\
                         @look s SO_LINGER=1,0 SO_RCVTIMEO=1500ms TCP_CONGESTION=reno SO_RCVBUF=98304";
            client("", calls).toml("[[rule]]\nto = [\":4000\"]\nlinger = \"reset\"\nreceive_timeout = \"1500ms\"\ncongestion = \"reno\"\nreceive_buffer = \"48KiB\"")
        }),
        ("an interface is not taken back, by length 0 either", {
            client("", "set s SO_BINDTODEVICE lo\nset s SO_BINDTODEVICE lo 0\n@look s SO_BINDTODEVICE=lo")
                .toml("[[rule]]\nto = [\":4000\"]\ninterface = \"lo\"")
        }),
        // The kernel takes no value for 0 of some of IP's options, and a null pointer of IPv6's. Seen to fail where what it takes so
        // was the program's: IP_TOS=0 and IPV6_TCLASS=0.
        ("by no value", {
            let calls = "set s IP_TOS 16 0 null\n@look s IP_TOS=184\nset s IP_TOS 16 0 good\n@look s IP_TOS=184\n\
                         set s 0/10 0 0 null\n@look s 0/10=3 IP_TTL=33\nset s IP_TTL 9 0 null\nset s IP_TTL 9 0 good\n\
                         set s IP_TOS 16 4 unmapped\nset s IP_TOS 16 4 null\n@look s IP_TOS=184 0/10=3 IP_TTL=33";
            client("", calls).toml("[defaults]\ndscp = \"ef\"\nttl = 33\nraw = [{ level = 0, name = 10, value = 3 }]")
        }),
        ("by no value, IPv6", {
            let calls = "set s IPV6_TCLASS 16 4 null\n@look s IPV6_TCLASS=184\nset s IPV6_UNICAST_HOPS 9 4096 null\n\
                         set s 41/62 0 0 null\nset s 41/62 0 2 good\nset s 41/62 0 4 good\n@look s 41/62=1\n\
                         set s IPV6_TCLASS 16 4 unmapped\nset s IPV6_TCLASS 16 0 null\nset s IPV6_TCLASS 16 3 good\n\
                         @look s IPV6_TCLASS=184 IPV6_UNICAST_HOPS=33 41/62=1";
            Script::new(&format!("socket s inet6 stream\nconnect s [::1]:4000\n{calls}"))
                .before("@listen [::1]:4000")
                .toml("[defaults]\ndscp = \"ef\"\nttl = 33\nraw = [{ level = 41, name = 62, value = 1 }]")
        }),
        // Seen to fail where one byte of IP's options, and four of a rate, were enough to be looked at: 0 in place of EFAULT.
        ("by a value that can be read in part", {
            let calls = "set s IP_TOS 16 4 edge\nset s IP_TTL 9 4 edge\nset s 0/10 2 4 edge\nset s 1/47 1000 8 edge\n\
                         set s IP_TOS 16 1 good\nset s IP_TTL 9 3 good\n@look s IP_TOS=184 0/10=3 IP_TTL=33 1/47=1048576";
            let toml = "[defaults]\ndscp = \"ef\"\nttl = 33\nmax_pacing_rate = \"1MiB\"\nraw = [{ level = 0, name = 10, value = 3 }]";
            client("", calls).toml(toml)
        }),
        // Seen to fail where the rule's value counts as its own only while it is there.
        ("by no value, UDP", {
            Script::new("socket s inet dgram\nbind s 127.0.0.1:4000\nset s IP_TOS 16 0 null\n@look s IP_TOS=184")
                .toml("[[rule]]\nlisten = [\":4000\"]\ndscp = \"ef\"")
        }),
        ("a raw option", {
            client("", "set s TCP_NODELAY 0\n@look s TCP_NODELAY=1")
                .toml("[[rule]]\nto = [\":4000\"]\nraw = [{ level = 6, name = 1, value = 1 }]")
        }),
        ("an option of the datagram's rule", {
            let calls = "socket s inet dgram\nconnect s 127.0.0.1:4000\nset s SO_RCVBUF 50000\nset s SO_KEEPALIVE 1\n@look s SO_RCVBUF=98304 SO_KEEPALIVE=1";
            Script::new(calls).toml("[defaults]\nreceive_buffer = \"48KiB\"\nkeepalive = \"off\"")
        }),
        // The kernel has given it a port, and no rule an option. Seen to fail where each that has a port counts as bound.
        ("a datagram socket that the program has not bound", {
            let calls = "socket u inet dgram\nbind u 127.0.0.1:4000\nsocket s inet dgram\nsendto s - 127.0.0.1:4009\nset s SO_RCVBUF 50000\nset s IP_TTL 9\n\
                         @look s SO_RCVBUF=100000 IP_TTL=9\nsocket t inet dgram\nset t SO_RCVBUF 60000\nsendto t - 127.0.0.1:4009\n\
                         set t SO_RCVBUF 50000\nset t IP_TTL 300\n@look t SO_RCVBUF=100000 IP_TTL=64";
            Script::new(calls)
                .toml("[[rule]]\nlisten = [\":1024-65535\"]\nreceive_buffer = \"48KiB\"\nttl = 33")
                .same_looks()
        }),
        // Seen to fail where what is in force was compared with what the rule says.
        ("a datagram socket with as large a buffer as may be", {
            let most = fs::read_to_string("/proc/sys/net/core/rmem_max").expect("a sysctl").trim().parse::<u32>();
            let calls = format!(
                "socket s inet dgram\nbind s 127.0.0.1:4000\nset s SO_RCVBUF 50000\nset s IP_TTL 9\n@look s SO_RCVBUF={} IP_TTL=33",
                most.expect("a number") * 2
            );
            Script::new(&calls).toml("[[rule]]\nlisten = [\":4000\"]\nreceive_buffer = \"900MiB\"\nttl = 33")
        }),
        ("enforce = false in the rule", own_word(&format!("{PROMISE}enforce = false"))),
        ("enforce = false in the defaults", own_word(&format!("[defaults]\nenforce = false\n{PROMISE}"))),
        ("SOCKOPT_ENFORCE=0", own_word(PROMISE).variable("SOCKOPT_ENFORCE", "0")),
        ("enforce = false, and the rule's values before", {
            client("", &after("@look s KEPT")).toml(&format!("{PROMISE}enforce = false"))
        }),
        // nginx listens twice, Node's cluster does. Seen to fail with a listen that takes each for the first.
        ("enforce = false, listened on once more", {
            let calls = "set l TCP_KEEPIDLE 99\nlisten l 9\n@look l SO_KEEPALIVE=1 TCP_KEEPIDLE=99\n\
                         @dial 127.0.0.1:4000\naccept c l\n@look c SO_KEEPALIVE=1 TCP_KEEPIDLE=99";
            server(calls).toml(&format!("{SERVER}enforce = false"))
        }),
        // Seen to fail with a bind that takes each for the first.
        ("enforce = false, bound once more", {
            let calls = "set s SO_REUSEADDR 0\nbind s 127.0.0.1:4001\n@look s SO_REUSEADDR=0 IP_FREEBIND=1\n";
            let calls = format!(
                "socket s inet stream\nbind s 127.0.0.1:0\n{calls}close s\n\
                 socket s inet stream\nset s IP_BIND_ADDRESS_NO_PORT 1\nbind s 127.0.0.1:0\n{calls}close s\n\
                 socket s inet dgram\nbind s 127.0.0.1:0\nset s SO_RCVBUF 50000\nbind s 127.0.0.1:4001\n\
                 @look s SO_RCVBUF=100000 SO_SNDBUF=131072",
            );
            Script::new(&calls).toml(
                "[defaults]\nreuse_address = true\nfreebind = true\nenforce = false\n\
                 [[rule]]\nlisten = [\"127.0.0.1\"]\nreceive_buffer = \"48KiB\"\nsend_buffer = \"64KiB\"",
            )
        }),
        // The second connect fails: the socket is connected, or connects. Seen to fail without the question for a peer.
        ("enforce = false, connected once more", {
            let calls = "set s TCP_KEEPIDLE 99\nconnect s 127.0.0.1:4000\nconnect s 127.0.0.1:4001\n\
                         @look s SO_KEEPALIVE=1 TCP_KEEPIDLE=99 TCP_USER_TIMEOUT=14000";
            client("", calls).toml(&format!(
                "[[rule]]\nto = [\":4001\"]\nuser_timeout = \"2s\"\nenforce = false\n{PROMISE}enforce = false"
            ))
        }),
        ("enforce = false, connected once more meanwhile", {
            waiting("set s TCP_KEEPIDLE 99\nconnect s 127.0.0.1:4000\n@look s SO_KEEPALIVE=1 TCP_KEEPIDLE=99")
                .toml(&format!("{PROMISE}enforce = false"))
        }),
        // Seen to fail with a connect that asks only a TCP socket for its peer.
        ("enforce = false, a datagram socket connected once more", {
            Script::new("socket s inet dgram\nconnect s 127.0.0.1:4000\nset s SO_RCVBUF 50000\nconnect s 127.0.0.1:4001\n@look s SO_RCVBUF=100000 IP_TTL=33")
                .toml("[defaults]\nenforce = false\nreceive_buffer = \"48KiB\"\nttl = 33")
        }),
        // Another rule has not been heard yet. Seen to fail with a connect that sets nothing where there is a peer.
        ("enforce = false, a datagram socket connected elsewhere", {
            Script::new("socket s inet dgram\nconnect s 127.0.0.1:4000\nset s SO_RCVBUF 50000\nconnect s 127.0.0.2:4001\n@look s SO_RCVBUF=100000 IP_TTL=33")
                .toml("[defaults]\nenforce = false\n[[rule]]\nto = [\"127.0.0.1\"]\nreceive_buffer = \"48KiB\"\n[[rule]]\nto = [\"127.0.0.2\"]\nttl = 33")
        }),
        ("said at info", {
            client("", &after("set s TCP_USER_TIMEOUT 96\n@look s KEPT"))
                .toml(PROMISE)
                .variable("SOCKOPT_LOG", "info")
                .says("info: configuration|1 rule")
                .says("info|TCP_USER_TIMEOUT|rule \"local\"")
        }),
    ]
}

/// Connections that came from another process, on which nobody has set a rule's options; the rule with `to` is about the
/// address of who connected. Seen to fail where the library took each connection for one that the process had made: with 9000,
/// and with 3000 on the connection from a port that it has listened on.
fn received() -> Named {
    const CLIENTS: &str = "[[rule]]\nto = [\"127.0.0.2\", \"127.0.0.9\", \"::1\"]\nuser_timeout = \"9s\"\n";
    const BOTH: &str = "[defaults]\nuser_timeout = \"9s\"\n";
    let kept = |calls: &str, after: &str, wanted: &str, toml: &str| {
        // Nothing is enforced in a process before it has had an option of its own set.
        let calls = format!(
            "socket t inet stream\nconnect t 127.0.0.9:4009\n{calls}\n{after}set s TCP_USER_TIMEOUT 96\n@look s TCP_USER_TIMEOUT={wanted}"
        );
        Script::new(&calls).before("@listen 127.0.0.9:4009").toml(toml)
    };
    let left = |calls: &str, toml: &str| kept(calls, "", "96", toml).same_looks();
    let v4 = "receive s accepted 127.0.0.1:4000 127.0.0.2:0";
    let down = "@down\nsend s hello\n";
    vec![
        ("by SCM_RIGHTS", left(v4, CLIENTS)),
        ("by SCM_RIGHTS, IPv6", left("receive s accepted [::1]:4000 [::1]:0", CLIENTS)),
        ("over exec", left("use s 20", CLIENTS).before("@accepted 127.0.0.1:4000 127.0.0.2:0 20")),
        ("more is sent on it", left(&format!("{v4}\nrecv s\nsend s hello"), CLIENTS)),
        ("a copy of it", left(&format!("{v4}\ndup s d\nclose s\nuse s 5"), CLIENTS)),
        ("while it sends", left(&format!("{v4}\n{}", down.trim()), CLIENTS)),
        ("by defaults", left(v4, BOTH)),
        ("by defaults that have been set on it", kept(v4, "set s TCP_USER_TIMEOUT 9000\n", "9000", BOTH)),
        ("by a rule with listen that has been set on it", {
            let toml = format!("{CLIENTS}[[rule]]\nlisten = [\":4000\"]\nuser_timeout = \"3s\"\n");
            kept(v4, "set s TCP_USER_TIMEOUT 3000\n", "3000", &toml)
        }),
        ("an option of the same rule that was changed, and one that was not", {
            let calls = "set s SO_KEEPALIVE 1\nset s TCP_KEEPIDLE 99\nset s TCP_USER_TIMEOUT 14000\nset s SO_KEEPALIVE 0\n\
                         @look s SO_KEEPALIVE=1 TCP_KEEPIDLE=99\nset s TCP_KEEPIDLE 98\n@look s TCP_KEEPIDLE=98 SO_KEEPALIVE=1\n";
            kept(v4, calls, "14000", "[defaults]\ndead_peer_timeout = \"15s\"")
        }),
        // No rule is about what listens here, so nothing is known of the listener.
        ("accepted by the program itself", {
            let accepts =
                "socket l inet stream\nbind l 127.0.0.1:4000\nlisten l 8\n@dial 127.0.0.1:4000 127.0.0.2:0\naccept s l";
            left(accepts, CLIENTS)
        }),
        // What another process has connected is a connection that the rule is about.
        ("connected elsewhere", kept("receive s connected 127.0.0.9:4009", "", "9000", CLIENTS)),
        ("of its own, while it sends", kept("socket s inet stream\nconnect s 127.0.0.9:4009", down, "9000", CLIENTS)),
        // Seen to fail: 96, where the user timeout that stands until somebody asks how the connect ended counted as the program's.
        ("of its own, while it sends, after a connect_timeout", {
            let calls = "socket s inet stream+nonblock\nconnect s 127.0.0.9:4009\npoll s 1000";
            kept(calls, down, "9000", &CLIENTS.replace("user_", "connect_timeout = \"5s\"\nuser_"))
        }),
        ("of its own, from a port that it has listened on", {
            let calls = "socket l inet stream\nset l SO_REUSEPORT 1\nbind l 127.0.0.1:4000\nlisten l 8\n\
                         socket s inet stream\nset s SO_REUSEPORT 1\nbind s 127.0.0.1:4000\nconnect s 127.0.0.9:4009";
            let toml = format!("{CLIENTS}[[rule]]\nlisten = [\":4000\"]\nuser_timeout = \"3s\"\n");
            kept(calls, "", "9000", &toml)
        }),
    ]
}

fn listen() -> Named {
    let kept = |text: &str| text.replace("KEPT", KEPT);
    let serve = |after: &str| server(&kept(after)).toml(SERVER);
    let one = "@dial 127.0.0.1:4000\naccept c l\n@look c KEPT\n";
    let arrives = "pass l 127.0.0.1:4000\n@dial 127.0.0.1:4000\naccept c l\n@look c KEPT\n@look l KEPT\n\
                   @dial 127.0.0.1:4000\naccept d l\n@look d KEPT";
    let settled =
        "socket l inet stream\nbind l 127.0.0.1:4001\nlisten l 8\n@dial 127.0.0.1:4001\naccept c l\nclose c\n";
    let reused = |ending: &str| {
        let calls = kept(&format!("{settled}{ending}\n@dial 127.0.0.1:4000\naccept c 3\n@look c KEPT"));
        Script::new(&calls).toml("[[rule]]\nlisten = [\":4000-4001\"]\ndead_peer_timeout = \"15s\"")
    };
    vec![
        ("listener and accepted sockets", serve(&format!("@look l KEPT\n{one}{one}"))),
        ("accept4", serve("@dial 127.0.0.1:4000\naccept4 c l\n@look c KEPT")),
        ("IPv6", {
            Script::new(&kept("socket l inet6 stream\nbind l [::1]:4000\nlisten l 8\n@look l KEPT\n@dial [::1]:4000\naccept c l\n@look c KEPT"))
                .toml(SERVER)
        }),
        ("both versions on ::", {
            let calls = format!(
                "socket l inet6 stream\nbind l [::]:4000\nlisten l 8\n{one}@dial [::1]:4000\naccept c l\n@look c KEPT"
            );
            Script::new(&kept(&calls)).toml(SERVER)
        }),
        // The kernel takes that for 0.0.0.0. Seen to fail with the address that connect would take.
        ("bound with AF_UNSPEC", {
            let calls = "socket l inet stream\nbind l unspec:4000\n@look l IP_FREEBIND=1\nlisten l 8\n@look l KEPT\n\
                         socket m inet stream\nbind m unspec:4001\nget m IP_FREEBIND\n\
                         socket d inet dgram\nbind d unspec:4000\n@look d SO_RCVBUF=98304\n\
                         socket e inet6 stream\nbind e unspec:4000\nsocket f inet stream\nbind f unspec:4000 15";
            Script::new(&kept(calls)).toml(&format!("{SERVER}freebind = true\nreceive_buffer = \"48KiB\""))
        }),
        ("accept answers without an address", serve("@dial 127.0.0.1:4000\naccept c l null\n@look c KEPT")),
        ("accept answers in too few bytes", serve("@dial 127.0.0.1:4000\naccept c l short\n@look c KEPT")),
        ("MPTCP", {
            let calls = "socket l inet stream 262\nbind l 127.0.0.1:4000\nlisten l 8\n@dial 127.0.0.1:4000\naccept c l\n@look c SO_KEEPALIVE=1 TCP_KEEPIDLE=5";
            Script::new(calls).toml(SERVER)
        }),
        // Under the supervisor, seen to fail: `TCP_USER_TIMEOUT=0`, with nothing set on what a listener of Multipath TCP accepts.
        ("MPTCP, a client without", {
            let calls = "socket l inet stream 262\nbind l 127.0.0.1:4000\nlisten l 8\n@dial 127.0.0.1:4000\naccept c l\nset c SO_KEEPALIVE 1\n@look c TCP_USER_TIMEOUT=14000 TCP_LINGER2=-1";
            Script::new(calls).toml("[[rule]]\nlisten = [\":4000\"]\nuser_timeout = \"14s\"\ntime_wait = false\n")
        }),
        ("MPTCP, a client without, and the program has the last word", {
            let calls = "socket l inet stream 262\nbind l 127.0.0.1:4000\nlisten l 8\n@dial 127.0.0.1:4000\naccept c l\nset c SO_KEEPALIVE 1\n@look c KEPT\n\
                         @dial 127.0.0.1:4000\naccept d l\nset d TCP_USER_TIMEOUT 96\nset d SO_KEEPALIVE 1\n@look d TCP_USER_TIMEOUT=96 TCP_KEEPCNT=3";
            Script::new(&kept(calls)).toml(&format!("{SERVER}enforce = false\n"))
        }),
        ("MPTCP, a client without, and options to each", {
            let calls = "socket l inet stream 262\nbind l 127.0.0.1:4000\nlisten l 8\n@dial 127.0.0.1:4000\naccept c l\nset c SO_KEEPALIVE 1\n@look c SO_PRIORITY=5 TCP_USER_TIMEOUT=14000";
            Script::new(calls).toml(&format!("{SERVER}priority = 5\n"))
        }),
        ("a port of the kernel's choice", {
            let calls = "socket l inet stream\nbind l 127.0.0.1:0\nlisten l 8\n@look l KEPT\nsocket m inet stream\nlisten m 8\n@look m KEPT";
            Script::new(&kept(calls)).toml("[[rule]]\nlisten = [\"0.0.0.0/0:1024-65535\"]\ndead_peer_timeout = \"15s\"")
        }),
        ("a port of the kernel's choice, no rule for port 0", {
            Script::new("socket m inet stream\nlisten m 8\n@look m SO_KEEPALIVE=0")
                .toml("[[rule]]\nlisten = [\":1-1023\"]\ndead_peer_timeout = \"15s\"")
                .same_looks()
        }),
        ("another port", {
            let calls = "socket l inet stream\nbind l 127.0.0.1:4001\nlisten l 8\n@dial 127.0.0.1:4001\naccept c l\n@look l SO_KEEPALIVE=0\n@look c SO_KEEPALIVE=0";
            Script::new(calls).toml(SERVER).same_looks()
        }),
        ("listen twice", serve(&format!("{one}listen l 16\n{one}"))),
        ("listen that fails", {
            Script::new(&kept("listen 1 8\nlisten -1 8\nsocket l inet dgram\nlisten l 8\nclose l\nsocket l inet stream\nlisten l 8\nlisten l 8\nsocket m inet stream\nbind m 127.0.0.1:4000\nlisten m 8\n@look m KEPT"))
                .toml(SERVER)
        }),
        ("accept that fails", {
            serve(
                "unblock l\naccept c l\naccept c -1\naccept c 1\naccept c 9999\nsocket s inet stream\naccept c s\nsocket d inet dgram\naccept c d\n@look l KEPT",
            )
        }),
        ("in a child", serve("@dial 127.0.0.1:4000\nchild accept c l\n@look l KEPT")),
        ("inherited over exec, and only accepted from", {
            // Two have been waiting since before the program started.
            let calls = "use l 10\naccept c l\n@look c KEPT\naccept d l\n@look d KEPT\n@look l KEPT\n\
                         @dial 127.0.0.1:4000\naccept e l\n@look e KEPT\n@dial 127.0.0.1:4000\naccept f l\n@look f KEPT";
            Script::new(&kept(calls))
                .before("@listen 127.0.0.1:4000 10\n@dial 127.0.0.1:4000\n@dial 127.0.0.1:4000")
                .toml(SERVER)
        }),
        // As those do who are started for a connection (sd_listen_fds(3)): the one that they were started for has been waiting.
        // Seen to fail with a listen that takes every listener for one without a queue.
        ("inherited over exec, and listened on once more", {
            let calls = "use l 10\nlisten l 16\naccept c l\n@look c KEPT\naccept d l\n@look d KEPT\n@look l KEPT\n\
                         @dial 127.0.0.1:4000\naccept e l\n@look e KEPT";
            Script::new(&kept(calls))
                .before("@listen 127.0.0.1:4000 10\n@dial 127.0.0.1:4000\n@dial 127.0.0.1:4000")
                .toml(SERVER)
        }),
        ("inherited over exec, listened on once more, some options to each", {
            let one = |fd: &str| format!("accept {fd} l\n@look {fd} SO_PRIORITY=5 TCP_NODELAY=1\n");
            let calls = format!("use l 10\nlisten l 16\n{}{}@dial 127.0.0.1:4000\n{}", one("c"), one("d"), one("e"));
            Script::new(&calls)
                .before("@listen 127.0.0.1:4000 10\n@dial 127.0.0.1:4000\n@dial 127.0.0.1:4000")
                .toml("[[rule]]\nlisten = [\":4000\"]\npriority = 5\nnodelay = true")
        }),
        ("inherited as descriptor 0, IPv6", {
            Script::new(&kept("use l 0\naccept c l\n@look c KEPT"))
                .before("@listen [::1]:4000 0\n@dial [::1]:4000")
                .toml(SERVER)
        }),
        ("received by SCM_RIGHTS", Script::new(&kept(arrives)).toml(SERVER)),
        ("received where another was closed", reused("close l\npass m 127.0.0.1:4000")),
        ("received where another was closed by close_range", reused("close_range l\npass m 127.0.0.1:4000")),
        ("dup2 over another", reused("pass m 127.0.0.1:4000\ndup2 m l\nclose m")),
        ("dup3 over another", reused("pass m 127.0.0.1:4000\ndup3 m l\nclose m")),
        ("a copy of a listener", serve("dup l m\nclose l\n@dial 127.0.0.1:4000\naccept c m\n@look c KEPT")),
        ("a rule for each peer, and one behind", {
            let peer =
                |from: &str, wanted: &str| format!("@dial 127.0.0.1:4000 {from}:0\naccept c l\n@look c {wanted}\n");
            let calls = [
                peer("127.0.0.2", "TCP_USER_TIMEOUT=2000"),
                peer("127.0.0.3", "TCP_USER_TIMEOUT=3000"),
                peer("127.0.0.1", "TCP_USER_TIMEOUT=9000"),
                peer("127.0.0.2", "TCP_USER_TIMEOUT=2000"),
            ];
            server(&format!("@look l TCP_USER_TIMEOUT=0 TCP_FASTOPEN=5\n{}", calls.concat())).toml(PEERS)
        }),
        ("a rule for some peers alone", {
            let calls = "@dial 127.0.0.1:4000 127.0.0.2:0\naccept4 c l\n@look c TCP_USER_TIMEOUT=2000\n@dial 127.0.0.1:4000 127.0.0.4:0\naccept4 d l\nget d TCP_USER_TIMEOUT\nget l TCP_USER_TIMEOUT";
            server(calls).toml("[[rule]]\nfrom = [\"127.0.0.2\"]\nuser_timeout = \"2s\"")
        }),
        // Who the peer is the library has from the program's own accept, if that has room for it; seen to fail with a
        // `told_peer` that takes the four bytes of the short one for an address.
        ("a rule for each peer, who is asked for in other ways", {
            let calls = ["", " null", " short"].map(|how| {
                let peer = |from: &str, wanted: &str| {
                    format!("@dial 127.0.0.1:4000 {from}:0\naccept c l{how}\n@look c TCP_USER_TIMEOUT={wanted}\n")
                };
                [peer("127.0.0.2", "2000"), peer("127.0.0.3", "3000"), peer("127.0.0.1", "9000")].concat()
            });
            server(&calls.concat()).toml(PEERS)
        }),
        ("a rule for each peer, on a thread", {
            let peer = |from: &str, wanted: &str| {
                format!("@dial 127.0.0.1:4000 {from}:0\nthread accept c l\n@look c TCP_USER_TIMEOUT={wanted}\n")
            };
            server(&[peer("127.0.0.2", "2000"), peer("127.0.0.3", "3000")].concat()).toml(PEERS)
        }),
        ("a rule for IPv4 peers of ::", {
            let calls = "socket l inet6 stream\nbind l [::]:4000\nlisten l 8\n@dial 127.0.0.1:4000 127.0.0.2:0\naccept c l\n@look c TCP_USER_TIMEOUT=2000\n@dial [::1]:4000\naccept c l\n@look c TCP_USER_TIMEOUT=3000";
            Script::new(calls).toml(PEERS)
        }),
        ("peers of an inherited listener", {
            let calls = "use l 10\naccept c l\n@look c TCP_USER_TIMEOUT=2000\naccept d l\n@look d TCP_USER_TIMEOUT=9000\n@dial 127.0.0.1:4000 127.0.0.3:0\naccept e l\n@look e TCP_USER_TIMEOUT=3000";
            Script::new(calls)
                .before("@listen 127.0.0.1:4000 10\n@dial 127.0.0.1:4000 127.0.0.2:0\n@dial 127.0.0.1:4000 127.0.0.4:0")
                .toml(PEERS)
        }),
        ("timeouts are for what is accepted, and accept waits", {
            // 600 ms with nobody there: an accept that had the listener's timeout would give up.
            let calls = "set l SO_RCVTIMEO 600ms\naccept c l\n@look l SO_RCVTIMEO=600ms SO_SNDTIMEO=0ms TCP_NODELAY=1\n@dial 127.0.0.1:4000\naccept c l\n@look c SO_RCVTIMEO=200ms SO_SNDTIMEO=300ms\nrecv c\nrecv c";
            server(calls).toml("[[rule]]\nlisten = [\":4000\"]\nreceive_timeout = \"200ms\"\nsend_timeout = \"300ms\"\nnodelay = true\nenforce = false\n")
        }),
        ("options that are not inherited, to each", {
            let calls = "@dial 127.0.0.1:4000\naccept c l\n@look c SO_PRIORITY=5 SO_RCVTIMEO=1500ms TCP_NODELAY=1\n@dial 127.0.0.1:4000\naccept d l\n@look d SO_PRIORITY=5 SO_RCVTIMEO=1500ms TCP_NODELAY=1";
            server(calls)
                .toml("[[rule]]\nlisten = [\":4000\"]\npriority = 5\nreceive_timeout = \"1500ms\"\nnodelay = true")
        }),
        ("quickack, to each", {
            server("@dial 127.0.0.1:4000\naccept c l\n@look c TCP_QUICKACK=0")
                .toml("[[rule]]\nlisten = [\":4000\"]\nquickack = false")
        }),
        // listen has undone it on the listener, which says nothing of the program then. Seen to fail where it did (1).
        ("quickack, to each, and the program has the last word", {
            server("@dial 127.0.0.1:4000\naccept c l\n@look c TCP_QUICKACK=0")
                .toml("[[rule]]\nlisten = [\":4000\"]\nquickack = false\nenforce = false")
        }),
        ("quickack, to each, filled in", {
            server("@dial 127.0.0.1:4000\naccept c l\n@look c TCP_QUICKACK=0")
                .toml("[[rule]]\nlisten = [\":4000\"]\nquickack = false\nenforce = \"fill\"")
        }),
        ("no warning twice", {
            server("@dial 127.0.0.1:4000\naccept c l\n@dial 127.0.0.1:4000\naccept d l\n@look d TCP_NODELAY=1")
                .variable("SOCKOPT_NODELAY", "1")
                .variable("SOCKOPT_CONGESTION", "no-such")
                .says("TCP_CONGESTION|ENOENT")
        }),
    ]
}

/// Sends that connect.
fn fastopen() -> Named {
    let send = |call: &str, look: &str| {
        Script::new(&format!("socket s inet stream\n{call}\n@look s {look}"))
            .before("@listen 127.0.0.1:4000\n@listen [::1]:4000")
            .toml(PROMISE)
    };
    vec![
        ("sendto", send("sendto s fastopen 127.0.0.1:4000", KEPT)),
        ("sendmsg", send("sendmsg s fastopen 127.0.0.1:4000", KEPT)),
        ("sendmmsg", send("sendmmsg s fastopen 127.0.0.1:4000 1", KEPT)),
        ("sendto IPv6", send("close s\nsocket s inet6 stream\nsendto s fastopen [::1]:4000", KEPT)),
        (
            "the program's own word comes too late",
            send("sendto s fastopen 127.0.0.1:4000\nset s TCP_USER_TIMEOUT 96", KEPT),
        ),
        ("no message", send("sendmmsg s fastopen+nosignal 127.0.0.1:4000 0", "SO_KEEPALIVE=0").same_looks()),
        ("without the flag", {
            let calls = "sendto s nosignal 127.0.0.1:4000\nsendmsg s nosignal 127.0.0.1:4000\nsendmmsg s nosignal 127.0.0.1:4000 1";
            send(calls, "SO_KEEPALIVE=0").same_looks()
        }),
        ("closed and negative descriptors", {
            send("sendto -1 fastopen 127.0.0.1:4000\nsendmsg 99 fastopen 127.0.0.1:4000\nsendmmsg -1 fastopen 127.0.0.1:4000\nsendto 1 fastopen 127.0.0.1:4000", "SO_KEEPALIVE=0").same_looks()
        }),
    ]
}

/// Other probes than the script's own: what they find is in their last line.
fn hard() -> Named {
    let mut scripts = Vec::new();
    for mode in ["fork", "vfork", "spawn", "signal", "many", "threads"] {
        let script = Script::program("storm", &[mode, "127.0.0.1:4000", &format!("@look {mode} TCP_KEEPIDLE=5")]);
        scripts.push((mode, script.before("@listen 127.0.0.1:4000").toml(PROMISE)));
    }
    for (name, call, silent) in [
        ("cancelled in accept", "accept", "127.0.0.1:4001"),
        ("cancelled in accept4", "accept4", "127.0.0.1:4001"),
        ("cancelled in connect", "connect", "127.0.0.1:4002"),
    ] {
        let script = Script::program("cancel", &[call, silent, "127.0.0.1:4000", &format!("@look s {KEPT}")]);
        scripts.push((name, script.before("@listen 127.0.0.1:4000\n@full 127.0.0.1:4002").toml(EVERYWHERE)));
    }
    scripts
}

/// How a socket comes to be another's as well, or a descriptor to have the number of one that was another's.
/// The system calls of the last of some calls, checked by their beginnings.
fn expect(name: &str, script: &Script, trace: &str, wanted: &[&str]) {
    let calls = script.traced(name, true, trace);
    let found = calls.last().expect("there was a call");
    let equal =
        found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| found.starts_with(wanted));
    assert!(equal, "found {found:#?}, wanted {wanted:#?}");
}

/// The same system calls with the library and without.
fn equal(name: &str, script: &Script, trace: &str) {
    let (preloaded, plain) = (script.traced(name, true, trace), script.traced(name, false, trace));
    assert!(
        plain.iter().any(|calls| calls.iter().any(|line| line.starts_with("connect(") || line.starts_with("accept")))
    );
    // Memory for the configuration, mapped once.
    let kept = |calls: Vec<String>| calls.into_iter().filter(|line| !line.starts_with("mmap(")).collect::<Vec<_>>();
    assert_eq!(preloaded.into_iter().map(kept).collect::<Vec<_>>(), plain);
}

const KIND: [&str; 2] = ["getsockopt(3, SOL_SOCKET, SO_PROTOCOL, [6]", "getsockopt(3, SOL_SOCKET, SO_TYPE, [1]"];
const KEEPS: [&str; 5] = [
    "setsockopt(3, SOL_SOCKET, SO_KEEPALIVE, [1], 4) = 0",
    "setsockopt(3, SOL_TCP, TCP_KEEPIDLE, [5], 4) = 0",
    "setsockopt(3, SOL_TCP, TCP_KEEPINTVL, [3], 4) = 0",
    "setsockopt(3, SOL_TCP, TCP_KEEPCNT, [3], 4) = 0",
    "setsockopt(3, SOL_TCP, TCP_USER_TIMEOUT, [14000], 4) = 0",
];

fn traced() -> Vec<(&'static str, fn())> {
    vec![
        ("connect sets the options, and nothing else", || {
            let first = client("", "").toml(PROMISE);
            let call = ["connect(3, {sa_family=AF_INET, sin_port=htons(4000)"];
            // One that only TCP has comes first: it is the question as well.
            let [on, time, rest @ ..] = KEEPS;
            let wanted = [&[time, on], &rest[..], &call].concat();
            expect("connect-first", &first, "network", &wanted);
            // Once it is set up, not one call more of any kind.
            let second = client("", "close s\nsocket s inet stream\nconnect s 127.0.0.1:4000").toml(PROMISE);
            expect("connect", &second, "all", &wanted);
        }),
        // Not the stack of the main thread, nor the heap: any page of these may be protected.
        ("an address far from the hook costs one look at it", || {
            for (family, ip, length) in [("inet", "127.0.0.1", 16), ("inet6", "[::1]", 28)] {
                let calls = format!(
                    "socket s {family} stream\nconnect s {ip}:4000\nclose s\n\
                     socket s {family} stream\nconnect s {ip}:4000 {length} good"
                );
                let script = Script::new(&calls).toml(ELSEWHERE);
                // What stands before it makes the place.
                let call = script.traced("far", true, "all").pop().expect("a call");
                let behind: Vec<&String> = call.iter().skip_while(|line| !line.starts_with("munmap")).collect();
                let [_, look, connect] = behind[..] else { panic!("{call:#?}") };
                assert!(look.starts_with("rt_sigprocmask(0xffffffff"), "{call:#?}");
                assert!(connect.starts_with("connect(3"), "{call:#?}");
            }
        }),
        ("nothing configured", || equal("nothing", &conversation(), "all")),
        ("disabled", || equal("disabled", &conversation().toml(EVERYWHERE).variable("SOCKOPT_DISABLE", "1"), "all")),
        ("a configuration that matches nothing", || {
            equal("elsewhere", &conversation().toml(ELSEWHERE), "network,desc")
        }),
        ("a configuration for another process", || {
            let toml = "[[rule]]\nprocess = [\"other\"]\ndead_peer_timeout = \"15s\"";
            equal("other-process", &conversation().toml(toml), "network,desc");
        }),
        ("a configuration that cannot be read", || {
            equal(
                "broken",
                &conversation().toml("[defaults]\nnodelay = 3").variable("SOCKOPT_LOG", "off"),
                "network,desc",
            );
        }),
        ("accept costs nothing", || {
            let calls = "@dial 127.0.0.1:4000\naccept c l\n@dial 127.0.0.1:4000\naccept4 d l";
            let calls = server(calls).toml(SERVER).traced("accept", true, "all");
            for call in calls.iter().rev().take(2) {
                assert_eq!(call.len(), 1, "{call:#?}");
                assert!(call[0].starts_with("accept"), "{call:#?}");
            }
        }),
        // Seen to fail: SO_PROTOCOL was asked for, which the listener tells.
        ("accept by a rule with from sets the option, and asks for nothing but the peer", || {
            let calls = "@dial 127.0.0.1:4000\naccept c l\n@dial 127.0.0.1:4000\naccept4 d l";
            let toml = "[[rule]]\nfrom = [\"127.0.0.0/8\"]\nkeepalive = \"on\"\n";
            let calls = server(calls).toml(toml).traced("accept-from", true, "all");
            let call = calls.last().expect("a call");
            let names: Vec<&str> = call.iter().filter_map(|line| Some(line.split_once('(')?.0)).collect();
            assert!(
                matches!(names[..], ["accept4", "setsockopt"] | ["accept4", "getpeername", "setsockopt"]),
                "{call:#?}"
            );
        }),
        ("listen sets the options on the listener", || {
            let calls = server("").toml(SERVER);
            let name = ["getsockname(3"];
            // And whether it has a queue already.
            let queue = ["getsockopt(3, SOL_TCP, TCP_INFO"];
            expect("listen", &calls, "network", &[&KIND[..], &name, &KEEPS, &queue, &["listen(3, 8)"]].concat());
        }),
        ("an inherited listener costs nothing later", || {
            // Some more are looked at than have been waiting.
            let more = "@dial 127.0.0.1:4000\naccept e l\n".repeat(10);
            let script = Script::new(&format!("use l 10\naccept c l\naccept d l\n{more}"))
                .before("@listen 127.0.0.1:4000 10\n@dial 127.0.0.1:4000\n@dial 127.0.0.1:4000")
                .toml(SERVER);
            expect("inherited", &script, "all", &["accept(10"]);
        }),
        ("a UNIX listener is asked about once", || {
            let calls = "socket l unix stream\nbind l unix:mine\nlisten l 4\n@dial unix:mine\naccept c l\n@dial unix:mine\naccept d l";
            expect("unix", &Script::new(calls).toml(EVERYWHERE), "all", &["accept(3"]);
        }),
        ("other options of the program cost nothing", || {
            let script = client("", "set s SO_REUSEADDR 1").toml(PROMISE);
            expect("setsockopt", &script, "all", &["setsockopt(3, SOL_SOCKET, SO_REUSEADDR"]);
        }),
        ("an enforced option is not carried out", || {
            let calls = client("", "set s TCP_USER_TIMEOUT 96").toml(PROMISE).traced("enforced", true, "network");
            let last = calls.last().expect("a call");
            // The rule's value, which is there already.
            let made: Vec<&String> = last.iter().filter(|line| line.starts_with("setsockopt")).collect();
            assert_eq!(made, ["setsockopt(3, SOL_TCP, TCP_USER_TIMEOUT, [14000], 4) = 0"], "{last:#?}");
        }),
        ("close costs nothing", || expect("close", &client("", "close s").toml(PROMISE), "all", &["close(3)"])),
        // Where no connect has left its time on a socket.
        ("epoll_ctl costs nothing", || {
            let script = client("", "change s").toml("[defaults]\nconnect_timeout = \"5s\"");
            let wanted = ["epoll_create1", "epoll_ctl(4, EPOLL_CTL_ADD", "epoll_ctl(4, EPOLL_CTL_MOD"];
            expect("epoll", &script, "all", &wanted);
            // Nor is anything asked of it again once it was taken back.
            let calls = "socket s inet stream+nonblock\nconnect s 127.0.0.1:4000\npoll s 1000\nget s 1/4\nchange s";
            let script = Script::new(calls).before("@listen 127.0.0.1:4000");
            expect("epoll-back", &script.toml("[defaults]\nconnect_timeout = \"5s\""), "all", &wanted);
        }),
        ("poll and select cost nothing", || {
            let script = client("", "await s poll 0\nawait s select 0").toml("[defaults]\nconnect_timeout = \"5s\"");
            expect("poll", &script, "all", &["pselect6("]);
        }),
        ("getpeername costs nothing", || {
            let script = client("", "peername s").toml("[defaults]\nconnect_timeout = \"5s\"");
            expect("peername", &script, "all", &["getpeername(3"]);
        }),
        ("sendto without the flag costs nothing", || {
            expect("sendto", &client("", "sendto s - 127.0.0.1:4000").toml(PROMISE), "all", &["sendto(3"]);
        }),
        ("UNIX, netlink and raw sockets refuse an option, at most", || {
            for calls in [
                "socket s unix stream\nconnect s unix:nobody",
                "socket s netlink raw\nconnect s 127.0.0.1:4000",
                "socket s inet raw 6\nconnect s 127.0.0.1:4000",
                "socket s inet stream\nconnect s unspec",
            ] {
                let found = Script::new(calls).toml(EVERYWHERE).traced("untouched", true, "network");
                let last = found.last().expect("a call");
                let mut made = last.iter().filter(|line| line.starts_with("setsockopt"));
                let is_refused = |line: &String| {
                    line.contains("SOL_TCP") && (line.contains("ENOPROTOOPT") || line.contains("EOPNOTSUPP"))
                };
                assert!(made.all(is_refused), "{calls}: {last:#?}");
            }
        }),
    ]
}

/// A client that talks, and a server, as programs do.
fn conversation() -> Script {
    let calls = "socket s inet stream\nset s SO_KEEPALIVE 1\nset s TCP_KEEPIDLE 99\nconnect s 127.0.0.1:4000\nset s TCP_USER_TIMEOUT 96\n\
                 send s hello\nrecv s\nshutdown s\nclose s\nsocket l inet6 stream\nset l SO_REUSEADDR 1\nbind l [::]:4001\nlisten l 8\n\
                 @dial 127.0.0.1:4001 127.0.0.2:4002\naccept c l\nset c TCP_NODELAY 1\nrecv c\ndup c d\ndup2 d c\nclose c\nclose d\nclose l\n\
                 socket u inet dgram\nsendto u - 127.0.0.1:4003\nconnect u 127.0.0.1:4003\nclose u";
    Script::new(calls).before("@http 127.0.0.1:4000")
}

fn curl() {
    let program = ["curl", "-sS", "--keepalive-time", "60", "http://127.0.0.1:4000/"].map(str::to_owned);
    let script = Script::new("").before("@http 127.0.0.1:4000");
    let calls = |script: &Script, preload| {
        let trace =
            script.trace("curl", preload, "socket,setsockopt,getsockopt,connect,bind,sendto,shutdown,close", &program);
        // Before the first internet socket the loader is at work; what is read when is the network's choice.
        trace.into_iter().skip_while(|line| !line.starts_with("socket(AF_INET")).collect::<Vec<_>>()
    };
    let plain = calls(&script, false);
    assert!(plain.iter().any(|line| line.contains("TCP_KEEPIDLE")), "{plain:#?}");
    assert_eq!(calls(&script, true), plain);
    assert_eq!(calls(&script.toml(ELSEWHERE), true), plain);
}

/// Another library whose constructor connects, before ours was run and after.
fn constructor(ours_last: bool) {
    let early = support::scratch(&format!("early-{ours_last}")).join("early.so");
    let source = support::root().join("tests/probes/early.c");
    finish(Command::new("cc").args(["-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(&early).arg(source));
    let ours = support::library().display().to_string();
    let early = early.display().to_string();
    let list = if ours_last { format!("{ours}:{early}") } else { format!("{early}:{ours}") };
    let run = |debug: &str| {
        let mut command = support::plain("unshare");
        command.arg("-Urn").arg(support::probe("readback")).arg("@listen 127.0.0.1:4000").arg("env");
        command.args([format!("LD_PRELOAD={list}"), format!("LD_DEBUG={debug}")]).arg("EARLY_ADDRESS=127.0.0.1:4000");
        command.env("SOCKOPT_CONFIG_TOML", PROMISE).arg(support::probe("calls"));
        finish(command.args(["socket s inet stream", "connect s 127.0.0.1:4000", "@look s SO_KEEPALIVE"]))
    };
    let wanted = "early connect = 0, TCP_KEEPIDLE=5\nsocket s inet stream = 3\nconnect s 127.0.0.1:4000 = 0\n@look s SO_KEEPALIVE=1\n";
    assert_eq!(run(""), (wanted.to_owned(), String::new()));
    // The loader's own account of the order: the one listed last is initialised first.
    let (_, order) = run("files");
    let place = |name: &str| order.find(&format!("calling init: {name}"));
    assert_eq!(place(&early) < place(&ours), ours_last, "{order}");
}
