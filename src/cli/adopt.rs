//! Sockets that were there before programs were attached to their control group: they get the options of their rule, and the
//! programs keep them in force.
//!
//! Not by an iterator in the kernel, which would have to run in every network namespace, and before Linux 6.1 could set nothing. A
//! copy of a socket's descriptor (pidfd_getfd) is the same socket in whatever namespace, and lets us write what the programs
//! remember of it. So the very rules and calls of `sockopt apply` serve here, on every kernel that programs are attached to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cgroup::{Group, Refused, Remembered, Tables, account};
use policy::enforce::{Untouched, is_of_keepalive};
use policy::units::Count;
use policy::{Configuration, Enforce, Process, Rules};
use socket::namespace;

use crate::keeper::Keeper;
use crate::output;
use crate::processes::Found;
use crate::retrofit::{Means, subjects};

/// As many lines about options that could not be set as anybody reads.
const MOST_LINES: usize = 5;

/// What is in force for the group.
pub(crate) struct Policy<'a> {
    pub(crate) configuration: &'a Configuration,
    /// Whether the rules are other ones in other processes.
    pub(crate) asks_for_process: bool,
    pub(crate) tables: &'a Tables,
    pub(crate) refused: &'a Refused,
}

/// Adopts the sockets of every process in a group, and says how many there were.
pub(crate) fn adopt(group: &Group, policy: &Policy<'_>, remembered: &Remembered) {
    let keeper = Keeper { remembered, tables: policy.tables, refused: policy.refused };
    let (tasks, has_others) = group.processes();
    let found = Found::of_tasks(&tasks);
    let mut configuration = policy.configuration.clone();
    let every = configuration.parse().into_rules(None).0.unwrap_or_default();
    let left_out = account::left_out(&every, policy.refused);
    if !account::with_shortcuts(&every) {
        configuration.variables.clear();
    }
    let parsed = configuration.parse();
    let for_executable = |names: &[String]| -> Option<Rules> {
        let rules = parsed.compile(&Process { names: names.to_vec(), command: String::new() }).rules.ok()?;
        Some(if left_out.is_empty() { rules } else { rules.without(&left_out) })
    };
    // The kernel knows a process by its executable alone.
    let mut known: HashMap<&[String], Option<Rules>> = HashMap::new();
    let (mut sockets, mut processes, mut out_of_reach, mut without_room, mut waiting) = (0, 0, 0, 0, 0);
    let mut not_set: BTreeMap<String, usize> = BTreeMap::new();
    let mut seen = HashSet::new();
    for looked in &found.processes {
        let executable = looked.process.names.get(..1).filter(|_| policy.asks_for_process).unwrap_or_default();
        let rules = known.entry(executable).or_insert_with(|| for_executable(executable));
        let Some(rules) = rules else { continue };
        let new = namespace::as_new(looked.pid, &compared_with_new(rules));
        let means = Means { rules, new: &new, is_dry: false, keeper: Some(&keeper) };
        let mut adopted = 0;
        // What several processes have goes by the first, which mostly made it.
        let subjects = subjects(looked, rules).into_iter().filter(|subject| seen.insert(subject.descriptor.inode));
        for applied in subjects.filter_map(|subject| subject.retrofit(looked, &means)) {
            let is_new =
                !applied.is_refused() && (applied.kept.is_some_and(|kept| kept.is_new) || !applied.changes.is_empty());
            adopted += usize::from(is_new);
            out_of_reach += usize::from(is_new && applied.kept.is_some_and(|kept| kept.is_out_of_reach));
            without_room += usize::from(is_new && applied.kept.is_some_and(|kept| kept.is_without_room));
            waiting += if is_new { applied.waiting as usize } else { 0 };
            for failure in applied.failures {
                *not_set.entry(format!("{}: {}", failure.setting, failure.errno)).or_default() += 1;
            }
        }
        sockets += adopted;
        processes += usize::from(adopted > 0);
    }
    for failure in &found.failures {
        output::warning(&format!("not adopted: {}", failure.message), None);
    }
    if has_others {
        output::warning(
            "not adopted: sockets of processes that this PID namespace does not show",
            Some("run it in the host's (hostPID: true in Kubernetes)"),
        );
    }
    let more = not_set.len().saturating_sub(MOST_LINES);
    for (what, count) in not_set.iter().take(MOST_LINES) {
        output::warning(&format!("not set on {}: {what}", Count(*count, "socket")), None);
    }
    if more > 0 {
        output::warning(&format!("{} more could not be set", Count(more, "option")), None);
    }
    if sockets == 0 {
        return;
    }
    output::print(&format!(
        "adopted {} of {} that {} there before\n",
        Count(sockets, "socket"),
        if processes == 1 { "1 process".to_owned() } else { format!("{processes} processes") },
        if sockets == 1 { "was" } else { "were" }
    ));
    if out_of_reach > 0 {
        output::note(&format!(
            "{out_of_reach} of them {} made in another control group: the programs can change these options",
            if out_of_reach == 1 { "was" } else { "were" }
        ));
    }
    if without_room > 0 {
        output::warning(
            &format!(
                "{} of them: the kernel has no memory left for what is to be remembered, so the programs can change these options",
                without_room
            ),
            Some("raise net.core.optmem_max, and attach again"),
        );
    }
    if waiting > 0 {
        output::note(&format!(
            "{} that listeners have not handed out yet {} no options",
            Count(waiting, "connection"),
            if waiting == 1 { "gets" } else { "get" }
        ));
    }
    if let Err(refusal) = cgroup::note_adopted(group, sockets) {
        output::warning(&refusal.to_string(), None);
    }
}

/// Level and name of each option that may be the program's choice, and of which only a new socket tells.
fn compared_with_new(rules: &Rules) -> Vec<(i32, i32)> {
    let profiles = rules.rules().map(|rule| rule.decision(true)).chain([rules.otherwise(true)]);
    let all = profiles.map(|decision| decision.profile()).filter(|profile| profile.enforce() != Enforce::Always);
    let options = all.flat_map(|profile| profile.settings()).map(|setting| (setting.level, setting.name));
    let is_compared = |(level, name): &(i32, i32)| {
        Untouched::of(*level, *name) == Untouched::AsNew && !is_of_keepalive(*level, *name)
    };
    options.filter(is_compared).collect::<BTreeSet<_>>().into_iter().collect()
}
