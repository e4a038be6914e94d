//! What programs in the kernel do about a configuration: for `check --for kernel`, `explain --for kernel` and
//! `attach --dry-run`.

use std::fmt::Write as _;

use cgroup::account::{self, Account, Hook};
use cgroup::{Group, HostNames, Refused, Tables};
use policy::Rules;
use rustix::process::geteuid;
use serde::Serialize;

use crate::output;
use crate::table::wrapping;

/// As many rows as anybody reads.
const MOST_ROWS: usize = 200;

/// What was found out.
pub(crate) struct Looked {
    /// What is refused, or left out with --partial.
    pub(crate) lost: Vec<String>,
    pub(crate) accounts: Vec<Account>,
    /// What this kernel refused when it was tried.
    pub(crate) refused: Refused,
    /// Why the options were not tried on this kernel.
    pub(crate) untried: Option<String>,
}

impl Looked {
    /// Looks, and tries the options on this kernel if that can be done: in the group's place, if one is meant.
    pub(crate) fn at(rules: &Rules, group: Option<&Group>, host_names: HostNames) -> Self {
        let too_large = |what: cgroup::tables::TooLarge| Self {
            lost: vec![what.to_string()],
            accounts: Vec::new(),
            refused: Refused::default(),
            untried: Some("the rules do not fit".to_owned()),
        };
        let asked = Refused { host_names, ..Refused::default() };
        let tables = match Tables::without(rules, &asked, false) {
            Ok(tables) => tables,
            Err(what) => return too_large(what),
        };
        let tried = match group {
            _ if !geteuid().is_root() => Err("that takes root".to_owned()),
            Some(group) => cgroup::probe(group, &tables).map_err(|refusal| refusal.to_string()),
            None => cgroup::probe_anywhere(&tables).map_err(|refusal| refusal.to_string()),
        };
        let (refused, untried) = match tried {
            Ok(refused) => (refused, None),
            Err(why) => (asked, Some(why)),
        };
        let tables = match Tables::without(rules, &refused, false) {
            Ok(tables) => tables,
            Err(what) => return too_large(what),
        };
        let lost = tables.lost.iter().map(ToString::to_string).collect();
        Self { lost, accounts: account::of_rules(rules, &refused), refused, untried }
    }

    /// Each option with what sets it.
    pub(crate) fn table(&self) -> String {
        let is_same = |one: &Account, next: &Account| {
            (&one.rule, &one.set_by, one.is_enforced, &one.why_not)
                == (&next.rule, &next.set_by, next.is_enforced, &next.why_not)
        };
        let mut rows = Vec::new();
        let mut left = 0;
        let mut last = "";
        for same in self.accounts.chunk_by(is_same) {
            let Some(first) = same.first() else { continue };
            if rows.len() == MOST_ROWS {
                left += 1;
                continue;
            }
            let rule = if std::mem::replace(&mut last, &first.rule) == first.rule { "" } else { &first.rule };
            let settings: Vec<&str> = same.iter().map(|one| one.setting.as_str()).collect();
            rows.push([
                rule.to_owned(),
                settings.join(" "),
                in_words(&first.set_by, first.is_enforced, first.why_not.as_deref()),
            ]);
        }
        let mut text =
            if rows.is_empty() { String::new() } else { wrapping(["rule", "option", "in the kernel"], rows) };
        if left > 0 {
            let _ = writeln!(text, "{left} more are not shown");
        }
        text
    }

    /// Whether this kernel was asked.
    pub(crate) fn note(&self) -> String {
        match &self.untried {
            None => "the options were tried on this kernel".to_owned(),
            Some(why) => format!(
                "the options were not tried on this kernel ({}): what is said is known of Linux {} to 6.18",
                output::plain(why),
                policy::in_kernel::OLDEST
            ),
        }
    }

    pub(crate) fn report(&self) -> Report<'_> {
        Report {
            tried: self.untried.is_none(),
            settings: self
                .accounts
                .iter()
                .map(|one| Setting { rule: &one.rule, key: one.key, setting: &one.setting, by: ByKernel::new(one) })
                .collect(),
        }
    }
}

/// `connect4, connect6; enforced by setsockopt`, or why not.
pub(crate) fn in_words(set_by: &[Hook], is_enforced: bool, why_not: Option<&str>) -> String {
    match why_not {
        Some(why) => format!("no: {why}"),
        None => {
            let hooks: Vec<&str> = set_by.iter().map(|hook| hook.name()).collect();
            format!("{}{}", hooks.join(", "), if is_enforced { "; enforced by setsockopt" } else { "" })
        }
    }
}

/// What `--json` has of it.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    /// On this kernel.
    tried: bool,
    settings: Vec<Setting<'a>>,
}

#[derive(Serialize)]
struct Setting<'a> {
    rule: &'a str,
    key: &'static str,
    setting: &'a str,
    #[serde(flatten)]
    by: ByKernel,
}

/// What sets an option.
#[derive(Serialize, PartialEq, Clone)]
pub(crate) struct ByKernel {
    set_by: Vec<&'static str>,
    enforced: bool,
    why_not: Option<String>,
    #[serde(skip)]
    pub(crate) text: String,
}

impl ByKernel {
    fn new(account: &Account) -> Self {
        Self::of(&account.set_by, account.is_enforced, account.why_not.clone())
    }

    pub(crate) fn of(set_by: &[Hook], is_enforced: bool, why_not: Option<String>) -> Self {
        let text = in_words(set_by, is_enforced, why_not.as_deref());
        Self { set_by: set_by.iter().map(|hook| hook.name()).collect(), enforced: is_enforced, why_not, text }
    }
}
