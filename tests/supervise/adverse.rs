//! What a program, or who starts it, could do to the supervisor; and what the supervisor could do to it.

use libtest_mimic::Trial;

use crate::command::outcome;
use crate::support::{plain, probe, sockopt, static_probe, test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![test("supervise::adverse::closed_descriptors", closed_descriptors)]
}

fn program() -> std::path::PathBuf {
    static_probe("supervised")
}

/// The program finds closed what was closed: by the supervisor and by the library. Seen to fail: with /dev/null in their place,
/// which Rust's runtime opens.
fn closed_descriptors() {
    for (by, program) in [("supervisor", program()), ("library", probe("supervised"))] {
        for (closes, found) in
            [("<&-", "open 011\n"), (">&-", "open 101\n"), ("2>&-", "open 110\n"), ("<&- 2>&-", "open 010\n")]
        {
            let line = format!("\"$0\" run --user-timeout=9s --by={by} \"$1\" standard {closes}");
            let mut command = plain("sh");
            command.args(["-c", &line]).arg(sockopt()).arg(&program);
            command.env("SOCKOPT_LIBRARY", crate::support::library());
            let (code, printed, stderr) = outcome(&mut command);
            assert_eq!((code, printed + &stderr), (Some(0), found.to_owned()), "{by} {closes}");
        }
    }
}
