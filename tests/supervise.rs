//! Programs that no library can be loaded into, under the supervisor.

mod filter;
mod processes;
mod programs;

use libtest_mimic::Trial;

use crate::hooks;
use crate::script::NEEDS;
use crate::support::test_with;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = filter::trials();
    trials.extend(processes::trials());
    trials.extend(programs::trials());
    let scripts = hooks::scripts();
    for name in AFTER_ACCEPT.iter().chain(ANSWERS) {
        assert!(scripts.iter().any(|(known, _)| known == name), "no script {name}");
    }
    trials.extend(scripts.into_iter().map(|(name, script)| {
        let test = format!("supervise::scripts::{name}");
        let (is_late, is_other) = (AFTER_ACCEPT.contains(&&*name), ANSWERS.contains(&&*name));
        test_with(NEEDS, test, move || match (is_late, is_other) {
            (_, true) => script.check_answers_supervised(),
            (true, _) => drop(script.sets_after_accept().check_supervised()),
            _ => drop(script.check_supervised()),
        })
    }));
    trials
}

/// Scripts in which something is set on each accepted socket: the supervisor does that when the program first sets an option.
const AFTER_ACCEPT: &[&str] = &[
    "enforce: on an accepted socket of a rule with from",
    "listen: inherited over exec, and only accepted from",
    "listen: inherited over exec, and listened on once more",
    "listen: inherited as descriptor 0, IPv6",
    "listen: inherited over exec, listened on once more, some options to each",
    "listen: a rule for each peer, and one behind",
    "listen: a rule for some peers alone",
    "listen: a rule for each peer, on a thread",
    "listen: a rule for each peer, who is asked for in other ways",
    "listen: peers of an inherited listener",
    "listen: options that are not inherited, to each",
    "listen: a rule for IPv4 peers of ::",
    "listen: quickack, to each",
    "listen: quickack, to each, and the program has the last word",
    "listen: quickack, to each, filled in",
    "listen: timeouts are for what is accepted, and accept waits",
];

/// Scripts of which only the answers are compared: listeners that the program gets from others after it has begun, which the
/// supervisor does not see; and what `sockopt run` says that it does nothing.
const ANSWERS: &[&str] = &[
    "untouched: SOCKOPT_DISABLE",
    "listen: received by SCM_RIGHTS",
    "listen: received where another was closed by close_range",
    "listen: received where another was closed",
    "listen: dup2 over another",
    "listen: dup3 over another",
];
