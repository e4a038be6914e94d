//! The compiled configuration, and the decision it gives for a connection.

use std::collections::BTreeSet;
use std::fmt;

use crate::catalog::{Key, TCP_USER_TIMEOUT};
use crate::conditions::{Conditions, Direction};
use crate::connection::{Connection, Endpoint};
use crate::enforce::{Enforce, KEEPALIVE, Untouched, is_of_keepalive};
use crate::hosts::{HostSet, Hosts, Name};
use crate::index::{Index, PairIndex};
use crate::matcher::Pattern;
use crate::options::{Phase, Phases, Setting, Value};

/// What is set on the sockets of one rule, or of none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    pub(crate) settings: Box<[Setting]>,
    pub(crate) phases: Phases,
    pub(crate) enforce: Enforce,
    /// What it is called where no rule matched.
    pub(crate) origin: &'static str,
}

impl Profile {
    /// Every setting, in the order in which they are made.
    #[must_use]
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Who has the last word.
    #[must_use]
    pub fn enforce(&self) -> Enforce {
        self.enforce
    }

    /// Those among which the settings for some phases are. Where there is none, the list is in no cache, and stays so.
    pub(crate) fn at(&self, phases: Phases) -> &[Setting] {
        if self.phases.intersects(phases) { &self.settings } else { &[] }
    }
}

/// A profile for sockets that the environment's shortcuts are not for, and one for those that they are for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Profiles {
    pub(crate) plain: Profile,
    /// None where there are no shortcuts, or where they are for every socket and already in `plain`.
    pub(crate) shortcuts: Option<Box<Profile>>,
}

impl Profiles {
    fn of(&self, with_shortcuts: bool) -> &Profile {
        // Whoever is in no scope has not looked at the rule yet: among many it is in no cache.
        let shortcuts = if with_shortcuts { self.shortcuts.as_deref() } else { None };
        shortcuts.unwrap_or(&self.plain)
    }
}

/// A rule, ready to be matched.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(crate) name: Box<str>,
    pub(crate) line: usize,
    /// Whether `process` and `command` let this process through.
    pub(crate) applies: bool,
    pub(crate) conditions: Conditions,
    pub(crate) profiles: Profiles,
}

impl Rule {
    /// Its name, or `rule N`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line on which it begins, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// What it asks of a socket and its process.
    #[must_use]
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// What is decided for a socket for which this rule is the first that matches; the environment's options are over the rule's
    /// `with_shortcuts` ([`Rules::shortcuts`]). [`Plan::of`](crate::plan::Plan::of) has the settings.
    #[must_use]
    pub fn decision(&self, with_shortcuts: bool) -> Decision<'_> {
        Decision { rule: Some(self), profile: self.profiles.of(with_shortcuts) }
    }

    /// The entries of `to` that name a host.
    pub fn hosts(&self) -> impl Iterator<Item = &Pattern> {
        self.conditions.to().into_iter().flatten().filter(|pattern| pattern.host().is_some())
    }

    /// Whether the rule is for a connection by its addresses, whatever comes before it. [`Rules::decide`] finds the
    /// first that is without asking each; [`Rules::decide_named`] knows of host names too.
    #[must_use]
    pub fn matches(&self, connection: &Connection) -> bool {
        self.applies && self.conditions.mismatch_by_address(connection, Pattern::matches).is_none()
    }
}

/// Why a socket is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bypass {
    /// The address is of another family than AF_INET and AF_INET6 (UNIX, netlink, AF_UNSPEC, ...).
    NotInternet,
    /// The address cannot be read, or is too short for its family: the kernel answers that.
    BadAddress,
    /// Neither TCP, MPTCP nor UDP.
    NotTcp,
    /// No rule matched and there are no defaults.
    NoRuleMatched,
    /// A rule matched, or the defaults, but set nothing on this kind of socket.
    NothingToSet,
}

impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotInternet => "not an internet address",
            Self::BadAddress => "no readable address",
            Self::NotTcp => "neither TCP nor UDP",
            Self::NoRuleMatched => "no rule matched",
            Self::NothingToSet => "nothing to set on this kind of socket",
        })
    }
}

/// The rule for a connection and what it sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    rule: Option<&'a Rule>,
    profile: &'a Profile,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
impl Eq for Rule {}

impl<'a> Decision<'a> {
    /// The rule that matched; none means that the defaults and the shortcuts stand alone.
    #[must_use]
    pub fn rule(&self) -> Option<&'a Rule> {
        self.rule
    }

    /// What it sets.
    #[must_use]
    pub fn profile(&self) -> &'a Profile {
        self.profile
    }

    /// Why nothing is set at any of `phases`, if so.
    #[must_use]
    pub fn bypass(&self, phases: Phases) -> Option<Bypass> {
        match self.rule {
            _ if self.profile.phases.intersects(phases) => None,
            None if self.profile.settings.is_empty() => Some(Bypass::NoRuleMatched),
            _ => Some(Bypass::NothingToSet),
        }
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            Some(rule) => write!(f, "rule \"{}\"", rule.name),
            None => f.write_str(self.profile.origin),
        }
    }
}

/// What the sockets that a listener accepts have from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inheritance {
    /// Everything.
    Full,
    /// Everything but what is set on each of them ([`Phase::AcceptAlways`]).
    Partial,
    /// Nothing: a rule with `from` may match, so it is decided for each, and nothing that they would inherit is set on the
    /// listener.
    None,
}

/// What is not listed is not asked about.
fn or_any(patterns: Option<&[Pattern]>) -> &[Pattern] {
    const ANY: &[Pattern] = &[Pattern::ANY];
    patterns.unwrap_or(ANY)
}

/// Whether a setting is the user timeout while connecting.
fn is_time(setting: &&Setting) -> bool {
    setting.key == Key::ConnectTimeout && setting.phases.contains(Phase::Connect)
}

/// A user timeout that is a rule's time for connecting is one that no rule has otherwise: then another millisecond less.
fn tell_times_apart(rules: &mut [Rule], base: &mut Profiles) {
    let mut profiles: Vec<&mut Profile> = Vec::with_capacity(2 * (rules.len() + 1));
    for of_one in rules.iter_mut().map(|rule| &mut rule.profiles).chain([base]) {
        profiles.push(&mut of_one.plain);
        profiles.extend(of_one.shortcuts.as_deref_mut());
    }
    let all = || profiles.iter().flat_map(|profile| &profile.settings);
    if !all().any(|setting| is_time(&setting)) {
        return;
    }
    let is_other = |setting: &&Setting| {
        (setting.level, setting.name) == (TCP_USER_TIMEOUT.level, TCP_USER_TIMEOUT.name) && !is_time(setting)
    };
    let mut others: Vec<i32> = all()
        .filter(is_other)
        .filter_map(|setting| match setting.value {
            Value::Int(time) => Some(time),
            _ => None,
        })
        .collect();
    others.sort_unstable();
    others.dedup();
    // For each of them the next lower time that is none: they may be a million, one after the other.
    let mut free: Vec<i32> = Vec::with_capacity(others.len());
    for (at, time) in others.iter().enumerate() {
        let before = at.checked_sub(1).filter(|before| others.get(*before) == Some(&(time - 1)));
        free.push(before.and_then(|before| free.get(before).copied()).unwrap_or(time - 1));
    }
    for setting in profiles.into_iter().flat_map(|profile| &mut profile.settings).filter(|setting| is_time(&&**setting))
    {
        if let Value::Int(time) = &mut setting.value
            && let Ok(at) = others.binary_search(time)
            && let Some(free) = free.get(at)
        {
            *time = *free;
        }
    }
}

/// A rule with more pairs of `listen` and `from` than this is asked by itself: their product is not to be held.
const MOST_PAIRS: usize = 64;

/// A compiled configuration.
///
/// [`Rules::plan`] decides for a connection. What compiles the rules for another engine, such as the kernel, reads them instead:
/// [`Rules::rules`] are all rules in order, of which the first counts whose [`conditions`](Rule::conditions) match, and
/// [`Rule::decision`] is what follows. Where none matches, [`Rules::otherwise`] counts. [`Rules::shortcuts`] says for which
/// sockets the environment's options are over them. [`Parsed::into_rules`](crate::Parsed::into_rules) without a process makes
/// rules that have their conditions by process too.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    /// `to` of the rules for sockets that connect.
    outbound: Index,
    /// `listen` of the rules for listeners.
    listeners: Index,
    /// The same for UDP sockets that are bound; none where that is no other, as no rule has `protocol`.
    udp_servers: Option<Box<Index>>,
    /// `listen` and `from` of the rules for accepted sockets, but for those with too many of both.
    accepted: PairIndex,
    /// The numbers of these.
    walked: Box<[u32]>,
    /// `listen` of those.
    per_peer: Index,
    asks_for_listener: bool,
    /// `to` by name, that of SOCKOPT_TO too.
    hosts: Hosts,
    base: Profiles,
    shortcuts: Conditions,
    /// SOCKOPT_TO by address.
    scope: Option<Index>,
    phases: Phases,
    /// (level, name) of every setting that some profile enforces, sorted.
    enforced: Box<[(i32, i32)]>,
    /// The user timeouts, milliseconds, that are times for connecting, sorted.
    times_for_connecting: Box<[i32]>,
    /// Those that were computed from a keepalive and are filled in, sorted.
    computed_timeouts: Box<[i32]>,
    /// (level, name) of what is filled in where the socket has what a new one has, sorted.
    compared_with_new: Box<[(i32, i32)]>,
    setting_count: u32,
    has_shortcuts: bool,
}

impl Rules {
    /// Of rules in the order in which they are asked.
    pub(crate) fn new(
        mut rules: Vec<Rule>,
        mut base: Profiles,
        shortcuts: Conditions,
        setting_count: u32,
        has_shortcuts: bool,
    ) -> Self {
        tell_times_apart(&mut rules, &mut base);
        let live = || (0..).zip(&rules).filter(|(_, rule)| rule.applies);
        let conditions = || live().map(|(number, rule)| (number, &rule.conditions));
        let index = |directions: [Direction; 2], patterns: fn(&Conditions) -> Option<&[Pattern]>| {
            let rules = conditions().filter(|(_, rule)| directions.contains(&rule.direction()));
            Index::new(rules.flat_map(|(number, rule)| or_any(patterns(rule)).iter().map(move |one| (number, one))))
        };
        let outbound = index([Direction::Outbound, Direction::Both], Conditions::to);
        let listeners = index([Direction::Listeners, Direction::Both], Conditions::listen);
        let udp_servers = conditions().any(|(_, rule)| rule.protocol().is_some()).then(|| {
            let rules = conditions().filter(|(_, rule)| rule.is_for_udp_servers());
            let patterns = rules.flat_map(|(number, rule)| or_any(rule.listen()).iter().map(move |one| (number, one)));
            Box::new(Index::new(patterns))
        });
        let per_peer = index([Direction::Accepted; 2], Conditions::listen);
        let accepted = || conditions().filter(|(_, rule)| rule.direction() == Direction::Accepted);
        let is_walked = |rule: &Conditions| or_any(rule.listen()).len() * or_any(rule.from()).len() > MOST_PAIRS;
        let walked = accepted().filter(|(_, rule)| is_walked(rule)).map(|(number, _)| number).collect();
        let pairs = accepted().filter(|(_, rule)| !is_walked(rule)).flat_map(|(number, rule)| {
            let from = or_any(rule.from());
            or_any(rule.listen()).iter().flat_map(move |listen| from.iter().map(move |from| (number, listen, from)))
        });
        let accepted = PairIndex::new(pairs);
        let asks_for_listener = conditions().any(|(_, rule)| rule.listen().is_some());
        let to = conditions()
            .flat_map(|(number, rule)| rule.to().into_iter().flatten().map(move |pattern| (Some(number), pattern)));
        let scope = shortcuts.to().into_iter().flatten().map(|pattern| (None, pattern));
        let hosts = Hosts::new(to.chain(scope));
        let mut phases = Phases::NONE;
        let mut enforced: BTreeSet<(i32, i32)> = BTreeSet::new();
        let (mut times, mut computed): (BTreeSet<i32>, BTreeSet<i32>) = Default::default();
        let mut compared: BTreeSet<(i32, i32)> = BTreeSet::new();
        let profiles = live().map(|(_, rule)| &rule.profiles).chain([&base]);
        for profile in profiles.flat_map(|profiles| [Some(&profiles.plain), profiles.shortcuts.as_deref()]).flatten() {
            phases = phases | profile.phases;
            if let Some(Value::Int(time)) = profile.settings.iter().find(is_time).map(|setting| &setting.value) {
                times.insert(*time);
            }
            // connect_timeout is no user timeout of the rule's.
            let settings = profile.settings.iter().filter(|setting| setting.key != Key::ConnectTimeout);
            for setting in settings {
                let (level, name) = (setting.level, setting.name);
                let is_new = || Untouched::of(level, name) == Untouched::AsNew && !is_of_keepalive(level, name);
                match (profile.enforce, &setting.value) {
                    (Enforce::Always, _) => enforced.extend([(level, name)]),
                    (Enforce::Fill, Value::Int(time)) if setting.computed_from.is_some() => computed.extend([*time]),
                    (Enforce::Fill, _) if is_new() => compared.extend([(level, name)]),
                    (Enforce::Fill | Enforce::Never, _) => {}
                }
            }
        }
        let scope = shortcuts.to().map(|to| Index::new(to.iter().map(|pattern| (0, pattern))));
        Self {
            outbound,
            listeners,
            udp_servers,
            accepted,
            walked,
            per_peer,
            asks_for_listener,
            hosts,
            rules,
            base,
            shortcuts,
            scope,
            phases,
            enforced: enforced.into_iter().collect(),
            times_for_connecting: times.into_iter().collect(),
            computed_timeouts: computed.into_iter().collect(),
            compared_with_new: compared.into_iter().collect(),
            setting_count,
            has_shortcuts,
        }
    }

    /// The same rules without those with these numbers, from 0: as if they never matched.
    #[must_use]
    pub fn without(self, left_out: &[usize]) -> Self {
        let Self { mut rules, base, shortcuts, setting_count, has_shortcuts, .. } = self;
        for number in left_out {
            if let Some(rule) = rules.get_mut(*number) {
                rule.applies = false;
            }
        }
        Self::new(rules, base, shortcuts, setting_count, has_shortcuts)
    }

    /// The rule for a connection: the first that matches, or none. Nothing is known of names here.
    #[must_use]
    pub fn decide(&self, connection: &Connection) -> Decision<'_> {
        self.decide_named(connection, &HostSet::NONE)
    }

    /// The same for a connection to an address that is known by these host names.
    #[must_use]
    pub fn decide_named(&self, connection: &Connection, hosts: &HostSet) -> Decision<'_> {
        let number = match *connection {
            Connection::Outbound { peer } => match (self.outbound.first(peer), self.hosts.first(hosts, peer.port())) {
                (Some(by_address), Some(by_name)) => Some(by_address.min(by_name)),
                (by_address, by_name) => by_address.or(by_name),
            },
            Connection::Binding { local } | Connection::BindingUdp { local } | Connection::Listening { local } => {
                self.bound(connection).first(local)
            }
            Connection::Inbound { local, peer } => {
                let is_it =
                    |number: &u32| self.rules.get(*number as usize).is_some_and(|rule| rule.matches(connection));
                let walked = self.walked.iter().copied().find(is_it);
                [self.accepted.first(local, peer), walked, self.listeners.first(local)].into_iter().flatten().min()
            }
        };
        let rule = number.and_then(|number| self.rules.get(number as usize));
        let profiles = rule.map_or(&self.base, |rule| &rule.profiles);
        let in_scope = match (connection, &self.scope) {
            (Connection::Outbound { peer }, Some(to)) => {
                to.first(*peer).is_some() || self.hosts.is_in_scope(hosts, peer.port())
            }
            _ => false,
        };
        Decision { rule, profile: profiles.of(in_scope) }
    }

    /// `listen` of the rules that may be for a socket with this local address.
    #[cold]
    fn bound(&self, connection: &Connection) -> &Index {
        let of_udp = self.udp_servers.as_deref().filter(|_| matches!(connection, Connection::BindingUdp { .. }));
        of_udp.unwrap_or(&self.listeners)
    }

    /// What is inherited from a listener bound to `local`, for which this was decided.
    pub(crate) fn inheritance(&self, local: Endpoint, decision: &Decision<'_>) -> Inheritance {
        let settled_at = self.listeners.first(local).unwrap_or(u32::MAX);
        if self.per_peer.first(local).is_some_and(|first| first < settled_at) {
            Inheritance::None
        } else if decision.profile.phases.contains(Phase::AcceptAlways) {
            Inheritance::Partial
        } else {
            Inheritance::Full
        }
    }

    /// Whether every client of a listener bound to `local` gets the same of a setting of the listener's rule: those rules with `from`
    /// that may be for one of them have it too. A keepalive with its user timeout, which decides which probe is the last, is one thing.
    pub(crate) fn is_for_every_client(&self, local: Endpoint, listener: &Profile, setting: &Setting) -> bool {
        // What counts of several (`raw`) is the last.
        fn last(profile: &Profile, level: i32, name: i32) -> Option<&Setting> {
            let is_it =
                |one: &&Setting| (one.level, one.name) == (level, name) && one.phases.intersects(Phases::ACCEPTED);
            profile.settings().iter().rfind(is_it)
        }
        let is_same = |profile: &Profile, level: i32, name: i32| {
            let value = |profile| last(profile, level, name).map(|setting| (setting.family, &setting.value));
            value(profile) == value(listener)
        };
        let is_user_timeout = |level, name| (level, name) == (TCP_USER_TIMEOUT.level, TCP_USER_TIMEOUT.name);
        let goes_with_keepalive =
            is_of_keepalive(setting.level, setting.name) || is_user_timeout(setting.level, setting.name);
        let has_same_keepalive = |profile: &Profile| {
            KEEPALIVE.iter().chain([&TCP_USER_TIMEOUT]).all(|one| is_same(profile, one.level, one.name))
        };
        let settled_at = self.listeners.first(local).unwrap_or(u32::MAX);
        let before = self.rules.iter().take(settled_at as usize);
        let of_some = before.filter(|rule| {
            let conditions = &rule.conditions;
            let is_meant = || or_any(conditions.listen()).iter().any(|pattern| pattern.matches(local));
            rule.applies && conditions.direction() == Direction::Accepted && is_meant()
        });
        let is_last = last(listener, setting.level, setting.name).is_none_or(|last| std::ptr::eq(last, setting));
        is_last
            && of_some.map(|rule| rule.profiles.of(false)).all(|profile| {
                profile.enforce() == listener.enforce()
                    && is_same(profile, setting.level, setting.name)
                    && (!goes_with_keepalive || has_same_keepalive(profile))
            })
    }

    /// Whether a rule for this process, or SOCKOPT_TO, names a host: else no name matters.
    #[must_use]
    pub fn names_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// Whether SOCKOPT_TO names a host.
    #[must_use]
    pub fn scope_names_hosts(&self) -> bool {
        self.shortcuts.to().into_iter().flatten().any(|pattern| pattern.host().is_some())
    }

    /// Adds what names a host so: by the name that the program gave, or one that it was told for the same host.
    pub fn add_hosts(&self, set: &mut HostSet, name: &Name) {
        self.hosts.add(set, name);
    }

    /// Adds what names a host if the name that the program gave was completed by this search domain, which is likely
    /// only. An entry with wildcards counts if the name is a single label, or has a part of what follows the wildcards.
    pub fn add_completed_hosts(&self, set: &mut HostSet, name: &Name, domain: &str) {
        self.hosts.add_completed(set, name, domain);
    }

    /// Whether some rule is for the sockets that a listener accepts from some peers, and not for the listener.
    #[must_use]
    pub fn decides_for_each_peer(&self) -> bool {
        self.rules().any(|rule| rule.conditions.direction() == Direction::Accepted)
    }

    /// Whether something is set on accepted sockets that they do not inherit from their listener.
    #[must_use]
    pub fn sets_on_accepted(&self) -> bool {
        self.decides_for_each_peer() || self.phases().contains(Phase::AcceptAlways)
    }

    /// Whether the address of the listener matters to an accepted socket.
    #[must_use]
    pub fn asks_for_listener(&self) -> bool {
        self.asks_for_listener
    }

    /// Every phase in which some profile sets something: what the other phases' hooks need not look at.
    #[must_use]
    pub fn phases(&self) -> Phases {
        self.phases
    }

    /// Whether some profile enforces this option.
    #[must_use]
    pub fn enforces(&self, level: i32, name: i32) -> bool {
        self.enforced.binary_search(&(level, name)).is_ok()
    }

    /// Level and name of every option that some profile enforces, sorted.
    #[must_use]
    pub fn enforced(&self) -> &[(i32, i32)] {
        &self.enforced
    }

    /// Whether a user timeout of so many milliseconds is some rule's `connect_timeout`: it is a millisecond less than what was
    /// asked for, which no program sets by itself, so that the socket's own user timeout says whose it is.
    #[must_use]
    pub fn is_time_for_connecting(&self, milliseconds: i32) -> bool {
        self.times_for_connecting.binary_search(&milliseconds).is_ok()
    }

    /// Whether a user timeout of so many milliseconds is one that some rule computes from its keepalive and fills in: where the
    /// program then chooses another keepalive, it is to be taken back.
    #[must_use]
    pub fn is_computed_timeout(&self, milliseconds: i32) -> bool {
        self.computed_timeouts.binary_search(&milliseconds).is_ok()
    }

    /// Whether there is such a rule at all.
    #[must_use]
    pub fn fills_computed_timeouts(&self) -> bool {
        !self.computed_timeouts.is_empty()
    }

    /// Level and name of each option that is filled in where a socket has what a new one has ([`Untouched::AsNew`]).
    #[must_use]
    pub fn compared_with_new(&self) -> &[(i32, i32)] {
        &self.compared_with_new
    }

    /// The rules that can match in this process, in order; all of them if the configuration was compiled for every process.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.applies)
    }

    /// Whether the environment's shortcuts are for this process.
    #[must_use]
    pub fn has_shortcuts(&self) -> bool {
        self.has_shortcuts
    }

    /// How many rules the configuration has, those for other processes too.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// One more than the largest [`Setting::id`].
    #[must_use]
    pub fn setting_count(&self) -> u32 {
        self.setting_count
    }

    /// What is decided for a socket that no rule matches.
    #[must_use]
    pub fn otherwise(&self, with_shortcuts: bool) -> Decision<'_> {
        Decision { rule: None, profile: self.base.of(with_shortcuts) }
    }

    /// The sockets for which the environment's options are over the rule's and the defaults (SOCKOPT_TO, SOCKOPT_PROCESS). None if
    /// there are no such options, or if they are for every socket, and so in every decision.
    #[must_use]
    pub fn shortcuts(&self) -> Option<&Conditions> {
        let is_limited = self.has_shortcuts && self.shortcuts != Conditions::default();
        is_limited.then_some(&self.shortcuts)
    }

    /// What is set on a socket that no rule matches.
    #[must_use]
    pub fn defaults(&self) -> &Profile {
        self.base.of(true)
    }
}
