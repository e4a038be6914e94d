//! What programs in the kernel do about each setting of a policy: by which of them it is set, or why by none.

use policy::conditions::Direction;
use policy::constants::option_name;
use policy::matcher::Pattern;
use policy::options::Family;
use policy::rules::Rule;
use policy::{Decision, Enforce, InKernel, Key, Phase, Phases, Rules, Setting};

use crate::settable::{HostNames, OptionRow, Refused, is_settable};

/// What sets an option, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// An IPv4 socket connects.
    Connect4,
    /// An IPv6 socket connects.
    Connect6,
    /// A socket has connected.
    Connected,
    /// A socket listens.
    Listen,
    /// A socket is accepted.
    Accept,
}

impl Hook {
    /// As `sockopt status` and bpftool call it, and when.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Connected => "sock_ops when connected",
            Self::Listen => "sock_ops at listen",
            Self::Accept => "sock_ops at accept",
        }
    }
}

/// A setting of a rule, and what comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// `rule "db"`, or `defaults`.
    pub rule: String,
    /// The key that it is written by.
    pub key: &'static str,
    /// `TCP_USER_TIMEOUT=14000`
    pub setting: String,
    /// What sets it; nothing if `why_not` says why.
    pub set_by: Vec<Hook>,
    /// Whether a program in the group is kept from changing it (`cgroup/setsockopt`).
    pub is_enforced: bool,
    /// Why it is not set.
    pub why_not: Option<String>,
}

/// What the kernel is not able to do about a rule as a whole, and so nothing of it.
#[must_use]
pub fn why_not_rule(rule: &Rule, refused: &Refused) -> Option<String> {
    let conditions = rule.conditions();
    if conditions.command().is_some() {
        return Some("the kernel does not know command lines (command)".to_owned());
    }
    if conditions.direction() == Direction::UdpServers {
        return Some("programs in the kernel do not see UDP sockets that are bound (protocol = \"udp\")".to_owned());
    }
    let why = refused.process.as_ref().filter(|_| conditions.process().is_some())?;
    Some(format!("process: {why}"))
}

/// The same of a decision.
#[must_use]
pub fn why_not_decision(decision: Decision<'_>, refused: &Refused) -> Option<String> {
    decision.rule().and_then(|rule| why_not_rule(rule, refused).or_else(|| why_no_destination(rule, refused)))
}

/// Why a rule matches no destination: it has names alone, and they are not known.
fn why_no_destination(rule: &Rule, refused: &Refused) -> Option<String> {
    let has_names_alone = rule.conditions().to().is_some_and(|to| to.iter().all(|pattern| pattern.host().is_some()));
    match &refused.host_names {
        _ if !has_names_alone => None,
        HostNames::Learned => None,
        HostNames::Refused(why) => Some(why.clone()),
        HostNames::Unasked => Some("the kernel does not know host names (attach --dns)".to_owned()),
    }
}

/// Whether the environment's options are set: not if they are for some sockets alone.
#[must_use]
pub fn with_shortcuts(rules: &Rules) -> bool {
    rules.shortcuts().is_none()
}

/// The numbers of the rules that are left out, of rules that were compiled for every process.
#[must_use]
pub fn left_out(every: &Rules, refused: &Refused) -> Vec<usize> {
    every.rules().zip(0..).filter(|(rule, _)| why_not_rule(rule, refused).is_some()).map(|(_, number)| number).collect()
}

/// Why a setting is not made; `refused` is what this kernel refused when it was tried.
#[must_use]
pub fn why_not(setting: &Setting, enforce: Enforce, refused: &Refused) -> Option<String> {
    let name = option_name(setting.level, setting.name).unwrap_or(setting.key.name());
    // Of raw's, the option decides, and when it is set.
    let column = match setting.key.entry().about().in_kernel {
        InKernel::ByOption if !is_settable(setting.level, setting.name) => InKernel::NoOption,
        InKernel::ByOption if is_set_at_bind_alone(setting) => InKernel::AtBind,
        column => column,
    };
    // Not a number: struct linger, say.
    let column =
        if OptionRow::of(setting).is_none() && column.why_not("").is_none() { InKernel::NoOption } else { column };
    column.why_not(name).or_else(|| {
        if let Some(errno) = refused.of(setting) {
            return Some(format!("this kernel lets no program set {name} ({errno})"));
        }
        let what = match (setting.key, enforce) {
            (Key::ConnectTimeout, Enforce::Fill) => {
                return Some("it is not supported in the kernel together with enforce = \"fill\"".to_owned());
            }
            (Key::ConnectTimeout, _) => "it",
            (_, Enforce::Fill) => "enforce = \"fill\"",
            _ => return None,
        };
        let errno = refused.of_reading(setting)?;
        Some(format!("{what} needs Linux 6.1: this kernel tells no program what a socket has of {name} ({errno})"))
    })
}

fn is_set_at_bind_alone(setting: &Setting) -> bool {
    let before_bind = Phases::of(&[Phase::Bind, Phase::BindDatagram]);
    setting.phases.intersects(before_bind) && !setting.phases.intersects(Phases::OUTBOUND)
}

/// What sets a setting on sockets of these directions. Where some rule is for some clients alone, the others' sockets have from
/// their listener nothing that those are not to have, and it is set on each.
#[must_use]
pub fn hooks(setting: &Setting, direction: Direction, is_for_each_peer: bool) -> Vec<Hook> {
    let (connects, inbound) = match direction {
        Direction::Outbound => (true, false),
        Direction::Listeners | Direction::Accepted => (false, true),
        Direction::UdpServers => (false, false),
        Direction::Both => (true, true),
    };
    let outgoing = Phases::of(&[Phase::Connect, Phase::Datagram]);
    let is_at = |phases: Phases| setting.phases.intersects(phases);
    let always = Phases::of(&[Phase::AcceptAlways]);
    let (listen, accept) = match direction {
        Direction::Accepted => (Phases::NONE, Phases::ACCEPTED),
        _ if is_for_each_peer => (Phases::of(&[Phase::Listen]), Phases::ACCEPTED),
        _ => (Phases::of(&[Phase::Listen]), always),
    };
    [
        // An IPv6 socket may connect to an address of IPv4.
        (Hook::Connect4, connects && is_at(outgoing) && setting.family.overlaps(Family::V4)),
        (Hook::Connect6, connects && is_at(outgoing)),
        (Hook::Connected, connects && is_at(Phases::of(&[Phase::Connected]))),
        (Hook::Listen, inbound && is_at(listen)),
        (Hook::Accept, inbound && is_at(accept)),
    ]
    .into_iter()
    .filter_map(|(hook, is_it)| is_it.then_some(hook))
    .collect()
}

/// What comes of every setting of every rule, in order; of the defaults last.
#[must_use]
pub fn of_rules(rules: &Rules, refused: &Refused) -> Vec<Account> {
    let mut all = Vec::new();
    let is_for_each_peer = rules.decides_for_each_peer();
    let with = with_shortcuts(rules);
    let mut add = |rule: &str, decision: Decision<'_>, direction: Direction| {
        let profile = decision.profile();
        for setting in profile.settings() {
            let whole = why_not_decision(decision, refused);
            let why_not = whole.or_else(|| why_not(setting, profile.enforce(), refused));
            let set_by = if why_not.is_none() { hooks(setting, direction, is_for_each_peer) } else { Vec::new() };
            // At no moment of these sockets' lives, by no way.
            if set_by.is_empty() && why_not.is_none() {
                continue;
            }
            all.push(Account {
                rule: rule.to_owned(),
                key: setting.key.name(),
                setting: setting.to_string(),
                is_enforced: !set_by.is_empty() && profile.enforce() == Enforce::Always,
                set_by,
                why_not,
            });
        }
    };
    for rule in rules.rules() {
        let name = format!("rule \"{}\"", rule.name());
        add(&name, rule.decision(with), rule.conditions().direction());
    }
    add("defaults", rules.otherwise(with), Direction::Both);
    all
}

/// Something that the kernel cannot do for a policy, in order: what is refused, unless it is to be left out.
pub(crate) fn lost(rules: &Rules, refused: &Refused, mut add: impl FnMut(&str, String)) {
    let with = with_shortcuts(rules);
    if !with {
        add("environment", "SOCKOPT_TO and SOCKOPT_PROCESS are not supported in the kernel: write a rule".to_owned());
    }
    for rule in rules.rules() {
        let name = format!("rule \"{}\"", rule.name());
        if let Some(why) = why_not_rule(rule, refused) {
            add(&name, why);
            continue;
        }
        for host in rule.hosts().filter_map(Pattern::host) {
            match &refused.host_names {
                HostNames::Learned => {}
                HostNames::Unasked => {
                    add(&name, format!("the kernel does not know host names ({host}): use addresses, or attach --dns"));
                }
                HostNames::Refused(why) => add(&name, format!("host names ({host}): {why}")),
            }
        }
        lost_of_decision(rule.decision(with), refused, |what| add(&name, what));
    }
    lost_of_decision(rules.otherwise(with), refused, |what| add("defaults", what));
}

fn lost_of_decision(decision: Decision<'_>, refused: &Refused, mut add: impl FnMut(String)) {
    let profile = decision.profile();
    for setting in profile.settings() {
        if let Some(why) = why_not(setting, profile.enforce(), refused) {
            add(format!("{}: {why}", setting.key.name()));
        }
    }
}

/// Whether programs set a setting, on a kernel that refused these.
pub(crate) fn is_made(setting: &Setting, enforce: Enforce, refused: &Refused) -> bool {
    let is_limit = setting.key == Key::ConnectTimeout;
    let is_unread = (is_limit || enforce == Enforce::Fill) && refused.of_reading(setting).is_some();
    refused.of(setting).is_none() && !is_unread && !(is_limit && enforce == Enforce::Fill)
}
