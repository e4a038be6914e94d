//! Programs that no library can be loaded into, under the supervisor.

mod adverse;
mod confined;
mod cost;
mod easeprobe;
mod filter;
mod load;
mod messages;
mod processes;
mod programs;
mod rights;

use libtest_mimic::Trial;

use crate::script::{NEEDS, Script};
use crate::support::test_with;
use crate::{connecting, fill, hooks, options, time_wait};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = filter::trials();
    trials.extend(adverse::trials());
    trials.extend(confined::trials());
    trials.extend(cost::trials());
    trials.extend(easeprobe::trials());
    trials.extend(load::trials());
    trials.extend(messages::trials());
    trials.extend(processes::trials());
    trials.extend(programs::trials());
    trials.extend(rights::trials());
    let of_area = |area: &'static str, scripts: Vec<(String, Script)>| {
        scripts.into_iter().map(move |(name, script)| (format!("{area}::{name}"), script))
    };
    let named = |scripts: Vec<(&'static str, Script)>| {
        scripts.into_iter().map(|(name, script)| (name.to_owned(), script)).collect()
    };
    let scripts: Vec<(String, Script)> = of_area("hooks", hooks::scripts())
        .chain(of_area("options", options::scripts()))
        .chain(of_area("fill", fill::scripts()))
        .chain(of_area("connecting", named(connecting::scripts())))
        .chain(of_area("time_wait", named(time_wait::scripts())))
        .collect();
    for name in AFTER_ACCEPT.iter().chain(ANSWERS) {
        assert!(scripts.iter().any(|(known, _)| known == name), "no script {name}");
    }
    for name in UNKNOWN_WHEN_MADE {
        assert!(scripts.iter().any(|(known, _)| known.starts_with(name)), "no script {name}");
    }
    trials.extend(scripts.iter().map(|(name, script)| {
        let (is_other, script) =
            (UNKNOWN_WHEN_MADE.iter().any(|known| name.starts_with(known)), script.clone().confined());
        let is_other = is_other || AFTER_ACCEPT.contains(&&**name) || ANSWERS.contains(&&**name);
        let is_in_time = name.starts_with("connecting::") || name.contains("connect_timeout");
        test_with(NEEDS, format!("supervise::made::{name}"), move || match (is_other, is_in_time) {
            (true, true) => script.pauses_before_looks().check_answers_supervised(),
            (true, _) => script.check_answers_supervised(),
            (_, true) => drop(script.pauses_before_looks().check_supervised()),
            _ => drop(script.check_supervised()),
        })
    }));
    trials.extend(scripts.into_iter().map(|(name, script)| {
        let test = format!("supervise::scripts::{name}");
        let (is_late, is_other) = (AFTER_ACCEPT.contains(&&*name), ANSWERS.contains(&&*name));
        // A time for connecting is taken back within a millisecond or so after a connection stands, and within a quarter of a
        // second after one has failed.
        let is_in_time = name.starts_with("connecting::") || name.contains("connect_timeout");
        test_with(NEEDS, test, move || match (is_late, is_other) {
            _ if is_in_time => drop(script.pauses_before_looks().check_supervised()),
            (_, true) => script.check_answers_supervised(),
            (true, _) => drop(script.sets_after_accept().check_supervised()),
            _ => drop(script.check_supervised()),
        })
    }));
    trials
}

/// Scripts of which only the answers are compared where the supervisor makes the sockets.
const UNKNOWN_WHEN_MADE: &[&str] = &[
    // A socket that is connected a second time.
    "hooks::connect: connected anew after AF_UNSPEC, elsewhere",
    // What the kernel takes for 0 can be set again only where there is a copy.
    "hooks::enforce: by no value",
    "hooks::enforce: enforce = false, a datagram socket connected elsewhere",
    "connecting::used_for_",
    "connecting::refused_then_",
    // What listeners of Multipath TCP lack.
    "hooks::listen: MPTCP, a client without",
    "fill::a plain client of an MPTCP listener",
    // The program has the last word on accepted sockets.
    "hooks::enforce: on an accepted socket",
    "hooks::enforce: a narrow listener",
    "hooks::enforce: a wide listener",
    "hooks::enforce: a connection of",
    "hooks::enforce: a mapped listener",
    "hooks::enforce: on an IPv4 client of a listener on ::",
    "fill::layers: an accepted keepalive of a rule that",
    // And on those that another process has made.
    "hooks::received: by defaults that have been set on it",
    "hooks::received: by a rule with listen that has been set on it",
    "hooks::received: an option of the same rule that was changed, and one that was not",
    "hooks::received: connected elsewhere",
    // The user timeout that goes with a keepalive is left out.
    "fill::nothing set",
    "fill::times without SO_KEEPALIVE are no choice",
    "fill::beside a keepalive of its own that outlasts a lost probe there is one",
    "fill::a connect that is repeated ",
    "fill::set after: switching on what is on changes nothing",
    "fill::set after: one of its times counts, the others are the rule's",
    "fill::connect_timeout: ",
];

/// Scripts in which something is set on each accepted socket: the supervisor does that when the program first sets an option.
const AFTER_ACCEPT: &[&str] = &[
    "hooks::enforce: on an accepted socket of a rule with from",
    "hooks::listen: inherited over exec, and only accepted from",
    "hooks::listen: inherited over exec, and listened on once more",
    "hooks::listen: inherited as descriptor 0, IPv6",
    "hooks::listen: inherited over exec, listened on once more, some options to each",
    "hooks::listen: a rule for each peer, and one behind",
    "hooks::listen: a rule for some peers alone",
    "hooks::listen: a rule for each peer, on a thread",
    "hooks::listen: a rule for each peer, who is asked for in other ways",
    "hooks::listen: peers of an inherited listener",
    "hooks::listen: options that are not inherited, to each",
    "hooks::listen: a rule for IPv4 peers of ::",
    "hooks::listen: quickack, to each",
    "hooks::listen: quickack, to each, and the program has the last word",
    "hooks::listen: quickack, to each, filled in",
    "hooks::listen: timeouts are for what is accepted, and accept waits",
    "options::listen inet priority = 5",
    "options::listen inet6 priority = 5",
    "options::listen inet send_timeout = \"2s\"",
    "options::listen inet6 send_timeout = \"2s\"",
    "options::listen inet receive_timeout = \"1500ms\"",
    "options::listen inet6 receive_timeout = \"1500ms\"",
    "fill::from: left",
    "fill::accepted: what is not inherited",
];

/// Scripts of which only the answers are compared: listeners that the program gets from others after it has begun, which the
/// supervisor does not see; what waited before the listener had its options, where only the rest is filled in; and what `sockopt
/// run` says that it does nothing.
const ANSWERS: &[&str] = &[
    "hooks::untouched: SOCKOPT_DISABLE",
    "hooks::listen: received by SCM_RIGHTS",
    "hooks::listen: received where another was closed by close_range",
    "hooks::listen: received where another was closed",
    "hooks::listen: dup2 over another",
    "hooks::listen: dup3 over another",
    "fill::the program's later word on its listener is for those who wait there too",
    "fill::an inherited listener, and who waited",
];
