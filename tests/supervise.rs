//! Programs that no library can be loaded into, under the supervisor.

#[path = "supervise/filter.rs"]
mod filter;

use libtest_mimic::Trial;

use crate::hooks;
use crate::script::NEEDS;
use crate::support::test_with;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = filter::trials();
    trials.extend(hooks::scripts().into_iter().map(|(name, script)| {
        test_with(NEEDS, format!("supervise::scripts::{name}"), move || drop(script.check_supervised()))
    }));
    trials
}
