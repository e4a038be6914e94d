//! A policy as tables for the programs: which rule, and what it sets when. Pure; the decisions are [`Rules`]'.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use policy::conditions::Direction;
use policy::constants::SOL_IP;
use policy::matcher::Pattern;
use policy::options::Family;
use policy::plan::Plan;
use policy::rules::{Inheritance, Rule};
use policy::{Decision, Enforce, Key, Phase, Phases, Rules, Setting};

use crate::account;
use crate::counted::{Counted, DEFAULTS, MOST_COUNTED, MOST_DESTINATIONS, Side};
use crate::fill::Fill;
use crate::hosts::Hosts;
use crate::names::{Names, Passed};
use crate::settable::{HostNames, OptionRow, Refused, bit};
use crate::tables::{Class, LISTEN, LOCAL, Networks, OF_PROCESS, TO, TooLarge};

/// Options that one profile may set: the programs' loop has an end.
pub(crate) const MOST_OPTIONS: usize = 64;
/// Rules, and profiles: each has 16 bits of an answer.
const MOST_RULES: usize = 65_534;

/// What a profile sets on one kind of socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Slot {
    /// Where its options begin.
    pub start: u32,
    /// How many they are.
    pub count: u32,
    /// Which of them the program is not to change, by their bits.
    pub enforced: u64,
}

/// Which slot of a profile a socket has: those of sockets that connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TCP that sends IPv4.
    Tcp4,
    /// TCP that sends IPv6.
    Tcp6,
    /// UDP that sends IPv4.
    Udp4,
    /// UDP that sends IPv6.
    Udp6,
}

/// Slots of a profile. A profile for listeners has those of IPv4, IPv6 and both; one for accepted sockets IPv4 and IPv6.
pub(crate) const SLOTS: usize = 4;
/// A profile in the kernel.
pub(crate) type Profile = [Slot; SLOTS];

/// Something that the kernel cannot do for a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The rule, or "defaults".
    pub rule: String,
    /// What, and why.
    pub what: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// A policy, ready for the kernel.
#[derive(Debug, Default)]
pub struct Tables {
    /// Networks and ports.
    pub networks: Networks,
    /// What is set.
    pub profiles: Vec<Profile>,
    /// With which values.
    pub options: Vec<OptionRow>,
    /// Beside each of them, whether it is to be filled in.
    pub(crate) fills: Vec<Fill>,
    /// Whether some are, or something else is asked of sockets.
    pub(crate) fills_in: bool,
    /// Which rules are for which process.
    pub(crate) names: Names,
    /// Which are for hosts with which names.
    pub(crate) hosts: Hosts,
    /// Whether there is anything that programs cannot change.
    pub enforces: bool,
    /// Whether anything is set on sockets that connect.
    pub connects: bool,
    /// Whether anything is set on listeners, or on sockets that are accepted.
    pub listens: bool,
    /// Whether sockets are counted.
    pub counts: bool,
    /// What is counted: the upper half of an answer is a place in this list, from 1.
    pub counted: Vec<Counted>,
    /// What had to be left out.
    pub lost: Vec<Lost>,
    known_counted: HashMap<Counted, u32>,
    refused: Refused,
    known_profiles: HashMap<Profile, u32>,
    known_options: HashMap<Vec<(OptionRow, Fill)>, u32>,
}

/// The slots that a profile has, and which settings are in each.
#[derive(Debug, Clone, Copy)]
enum For {
    Connecting,
    Listening(Inheritance),
    Accepted(Phases),
}

impl For {
    /// When something is set that the program is then not to change.
    fn enforced(self, set: Phases) -> Phases {
        match self {
            // The user timeout comes when the connection stands, where there is a time for connecting.
            Self::Connecting if set.contains(Phase::Connect) => set | Phases::OUTBOUND,
            Self::Connecting => set,
            // Accepted sockets inherit what is remembered of it.
            Self::Listening(_) => Phases::INBOUND,
            Self::Accepted(_) => Phases::ACCEPTED,
        }
    }

    fn plans<'a>(self, decision: Decision<'a>) -> Vec<Plan<'a>> {
        let plan = |phases, family| Plan::of(decision, phases, family);
        let (connect, datagram) = (Phases::of(&[Phase::Connect]), Phases::of(&[Phase::Datagram]));
        let listen = Phases::of(&[Phase::Listen]);
        match self {
            Self::Connecting => vec![
                plan(connect, Family::V4),
                plan(connect, Family::V6),
                plan(datagram, Family::V4),
                plan(datagram, Family::V6),
            ],
            Self::Listening(inheritance) => [Family::V4, Family::V6, Family::Any]
                .map(|family| plan(listen, family).with_inheritance(inheritance))
                .to_vec(),
            Self::Accepted(phases) => [Family::V4, Family::V6].map(|family| plan(phases, family)).to_vec(),
        }
    }
}

impl Tables {
    /// Compiles a policy that was compiled for every process. What the kernel cannot do is left out, and in `lost`.
    ///
    /// # Errors
    /// What does not fit.
    pub fn of(rules: &Rules) -> Result<Self, TooLarge> {
        Self::without(rules, &Refused::default(), false)
    }

    /// The same for a kernel that cannot do all of it, and whether sockets are to be counted.
    ///
    /// # Errors
    /// What does not fit.
    pub fn without(rules: &Rules, refused: &Refused, counts: bool) -> Result<Self, TooLarge> {
        let names = if refused.process.is_none() { Names::of(rules)? } else { Names::none() };
        let hosts = if refused.host_names == HostNames::Learned { Hosts::of(rules)? } else { Hosts::none() };
        let mut tables =
            Self { names, hosts, lost: lost(rules, refused), refused: refused.clone(), counts, ..Self::default() };
        // The defaults' profile comes first.
        tables.profile(rules.otherwise(account::with_shortcuts(rules)), For::Connecting)?;
        // Behind those of all processes are the same again for each set of names that a host may be known by.
        let mut next_class = tables.classes_of_processes() * tables.hosts.classes.len() as Class;
        let mut accepting = Vec::new();
        let processes = tables.names.classes.clone();
        for (process, first) in processes.iter().zip((0..).step_by(OF_PROCESS as usize)) {
            let live = tables.names.rules_for(process, rules);
            if live.last().is_some_and(|(number, _)| *number as usize > MOST_RULES) {
                return Err(TooLarge { what: "rules", limit: MOST_RULES });
            }
            tables.add_connecting(rules, first, &live)?;
            accepting.push((first, live.clone(), tables.accepting(rules, &live, &mut next_class)?));
        }
        // If something is to be found for one process, then that there is nothing for the others.
        if tables.listens {
            for (first, live, accepting) in &accepting {
                tables.add_accepting(*first, live, accepting)?;
            }
        }
        Ok(tables)
    }

    /// How many classes of networks all processes have.
    pub(crate) fn classes_of_processes(&self) -> Class {
        OF_PROCESS * self.names.classes.len() as Class
    }

    /// Whether programs are to know hosts by their names.
    pub(crate) fn asks_for_hosts(&self) -> bool {
        self.hosts.are_asked_for() && self.connects
    }

    /// Whether they were compiled for programs that know hosts by their names.
    pub(crate) fn host_names(&self) -> HostNames {
        self.refused.host_names.clone()
    }

    /// Whether something is to be done when a connection stands.
    pub(crate) fn limits(&self) -> bool {
        self.fills.iter().any(Fill::is_limit)
    }

    /// Whether a user timeout may have to be taken back.
    pub(crate) fn takes_back(&self) -> bool {
        self.fills.iter().any(Fill::is_computed)
    }

    fn add_connecting(&mut self, rules: &Rules, first: Class, live: &[Numbered<'_>]) -> Result<(), TooLarge> {
        let with_shortcuts = account::with_shortcuts(rules);
        // Each pattern has a place: the first place that matches is that of the first rule that does, and says which pattern.
        let mut answers = vec![self.answer(None, Side::Connect, String::new(), 0)?];
        let mut patterns = Vec::new();
        for (_, rule) in live.iter().filter(|(_, rule)| rule.conditions().is_for_connecting()) {
            let profile = self.profile(rule.decision(with_shortcuts), For::Connecting)?;
            let to = patterns_or_any(rule.conditions().to());
            let is_by_pattern = rule.conditions().to().is_some() && to.len() <= MOST_DESTINATIONS;
            for pattern in to {
                patterns.push((answers.len() as u32, pattern));
                let shown = if is_by_pattern && self.counts { pattern.to_string() } else { String::new() };
                answers.push(self.answer(Some(rule), Side::Connect, shown, profile)?);
            }
        }
        let is_set = |profile: &Profile| profile.iter().any(|slot| slot.count > 0);
        self.connects = self.profiles.iter().any(is_set);
        let known_by: Vec<Passed> = self.hosts.classes.clone();
        for (names, block) in known_by.iter().zip(0..) {
            let seen: Vec<(u32, Cow<'_, Pattern>)> = patterns
                .iter()
                .filter_map(|(place, pattern)| Some((*place, self.hosts.seen_by(names, pattern)?)))
                .collect();
            let seen = seen.iter().map(|(place, pattern)| (*place, &**pattern));
            let class = first + TO + block * self.classes_of_processes();
            self.networks.add(class, seen, true, |places| {
                answers.get(*places.first().unwrap_or(&0) as usize).copied().unwrap_or_default()
            })?;
        }
        Ok(())
    }

    /// The answer of a table: the number of the profile, and in the upper half what is counted.
    fn answer(&mut self, rule: Option<&Rule>, side: Side, to: String, profile: u32) -> Result<u32, TooLarge> {
        let is_anything = |profile: &Profile| profile.iter().any(|slot| slot.count > 0 || slot.enforced != 0);
        if !self.counts || !self.profiles.get(profile as usize).is_some_and(is_anything) {
            return Ok(profile);
        }
        let counted = Counted::new(rule.map_or(DEFAULTS, Rule::name), side, &to);
        let next = self.counted.len() as u32 + 1;
        let place = *self.known_counted.entry(counted.clone()).or_insert(next);
        if place == next {
            self.counted.push(counted);
        }
        if self.counted.len() > MOST_COUNTED {
            return Err(TooLarge { what: "counters", limit: MOST_COUNTED });
        }
        Ok(place << 16 | profile)
    }

    /// What is found for listeners, and what they accept, by the rules that match them; the classes of clients are added.
    fn accepting(
        &mut self,
        rules: &Rules,
        live: &[Numbered<'_>],
        next_class: &mut Class,
    ) -> Result<Accepting, TooLarge> {
        let by_number: BTreeMap<u32, &Rule> = live.iter().copied().collect();
        let with = account::with_shortcuts(rules);
        let decision =
            |number: u32| by_number.get(&number).map_or_else(|| rules.otherwise(with), |rule| rule.decision(with));
        let is_for_some = |number: &u32| {
            by_number.get(number).is_some_and(|rule| rule.conditions().direction() == Direction::Accepted)
        };
        // Which rules match a listener: for each such set, what it has itself and what its clients' class is.
        let mut sets: BTreeMap<BTreeSet<u32>, u32> = BTreeMap::new();
        let mut all = Networks::default();
        all.add(LISTEN, listening(live), false, |numbers| {
            let next = sets.len() as u32;
            *sets.entry(relevant(live, numbers)).or_insert(next)
        })?;
        let mut of_listener = BTreeMap::new();
        let mut of_clients = BTreeMap::new();
        for (set, number) in &sets {
            let some: Vec<u32> = set.iter().copied().filter(is_for_some).collect();
            let settled = set.iter().copied().find(|number| !is_for_some(number)).unwrap_or(0);
            let settled_decision = decision(settled);
            let always = Phases::of(&[Phase::AcceptAlways]);
            let inheritance = if some.is_empty() { Inheritance::Full } else { Inheritance::None };
            let profile = self.profile(settled_decision, For::Listening(inheritance))?;
            let rule = |number: u32| by_number.get(&number).copied();
            of_listener.insert(*number, self.answer(rule(settled), Side::Accept, String::new(), profile)?);
            let phases = if some.is_empty() { always } else { Phases::ACCEPTED };
            let mut answers = BTreeMap::new();
            for number in some.iter().copied().chain([settled]) {
                let profile = self.profile(decision(number), For::Accepted(phases))?;
                answers.insert(number, self.answer(rule(number), Side::Accept, String::new(), profile)?);
            }
            let is_set = |answer: &u32| {
                let profile = self.profiles.get((*answer & 0xffff) as usize);
                profile.is_some_and(|profile| profile.iter().any(|slot| slot.count > 0))
            };
            if !answers.values().any(is_set) {
                of_clients.insert(*number, 0);
                continue;
            }
            of_clients.insert(*number, *next_class);
            const ANY: &[Pattern] = &[Pattern::ANY];
            let from =
                some.iter().filter_map(|number| Some((*number, by_number.get(number)?))).flat_map(|(number, rule)| {
                    rule.conditions().from().unwrap_or_default().iter().map(move |pattern| (number, pattern))
                });
            // The one that is settled comes last, whatever its number.
            let from = from.chain(ANY.iter().map(|pattern| (u32::MAX, pattern)));
            self.networks.add(*next_class, from, true, |numbers| {
                let number = numbers.first().copied().filter(|number| *number != u32::MAX).unwrap_or(settled);
                answers.get(&number).copied().unwrap_or_default()
            })?;
            *next_class += 1;
        }
        let has_slots = |answer: &u32| {
            let profile = self.profiles.get((*answer & 0xffff) as usize);
            profile.is_some_and(|profile| profile.iter().any(|slot| slot.count > 0 || slot.enforced != 0))
        };
        self.listens |= of_listener.values().any(has_slots) || of_clients.values().any(|class| *class != 0);
        Ok(Accepting { sets, of_listener, of_clients })
    }

    /// Listeners, and what they accept.
    fn add_accepting(&mut self, first: Class, live: &[Numbered<'_>], found: &Accepting) -> Result<(), TooLarge> {
        for (class, of_set) in [(LISTEN, &found.of_listener), (LOCAL, &found.of_clients)] {
            self.networks.add(first + class, listening(live), false, |numbers| {
                let set = found.sets.get(&relevant(live, numbers));
                set.and_then(|set| of_set.get(set)).copied().unwrap_or_default()
            })?;
        }
        Ok(())
    }

    /// The number of a profile.
    fn profile(&mut self, decision: Decision<'_>, kind: For) -> Result<u32, TooLarge> {
        let mut profile = Profile::default();
        for (slot, plan) in profile.iter_mut().zip(kind.plans(decision)) {
            *slot = self.slot(&plan, &plan.at(kind.enforced(plan.phases())))?;
        }
        if let Some(known) = self.known_profiles.get(&profile) {
            return Ok(*known);
        }
        let number = self.profiles.len();
        if number >= MOST_RULES {
            return Err(TooLarge { what: "profiles", limit: MOST_RULES });
        }
        self.profiles.push(profile);
        self.known_profiles.insert(profile, number as u32);
        Ok(number as u32)
    }

    fn slot(&mut self, plan: &Plan<'_>, kept: &Plan<'_>) -> Result<Slot, TooLarge> {
        let is_filled = plan.enforce() == Enforce::Fill;
        let is_udp = plan.phases().contains(Phase::Datagram);
        let is_made = |setting: &&Setting| account::is_made(setting, plan.enforce(), &self.refused);
        let afterwards = || plan.at(Phases::of(&[Phase::Connected])).settings().next();
        let fill = |setting: &Setting| {
            if setting.key == Key::ConnectTimeout {
                Fill::limit(setting, afterwards())
            } else if is_filled {
                Fill::of(setting, is_udp, &self.refused)
            } else {
                Fill::default()
            }
        };
        let settings = plan.settings().filter(is_made);
        let mut rows: Vec<(OptionRow, Fill)> =
            settings.filter_map(|setting| Some((OptionRow::of(setting)?, fill(setting)))).collect();
        if is_filled {
            // It changes the priority, which is to be looked at before.
            rows.sort_by_key(|(row, _)| (row.level, row.name) == (SOL_IP, libc::IP_TOS));
        }
        let is_asked = |(_, fill): &(OptionRow, Fill)| *fill != Fill::default();
        self.fills_in |= rows.iter().any(is_asked);
        if rows.len() > MOST_OPTIONS {
            return Err(TooLarge { what: "options in one rule", limit: MOST_OPTIONS });
        }
        let mut enforced = 0;
        let is_kept = |setting: &&Setting| is_made(setting) && setting.key != Key::ConnectTimeout;
        for setting in kept.settings().filter(is_kept) {
            let row = OptionRow::of(setting).filter(|_| plan.enforce() == Enforce::Always);
            let Some(bit) = row.and_then(|row| bit(row.level, row.name)).map(|bit| 1 << bit) else { continue };
            enforced |= bit;
        }
        self.enforces |= enforced != 0;
        let count = rows.len() as u32;
        let start = match self.known_options.get(&rows) {
            Some(start) => *start,
            None => {
                let start = self.options.len() as u32;
                self.options.extend(rows.iter().map(|(row, _)| row));
                self.fills.extend(rows.iter().map(|(_, fill)| fill));
                self.known_options.insert(rows, start);
                start
            }
        };
        Ok(Slot { start, count, enforced })
    }
}

/// A rule with its number, from 1.
pub(crate) type Numbered<'a> = (u32, &'a Rule);

/// For sets of rules that match listeners.
struct Accepting {
    /// The number of each.
    sets: BTreeMap<BTreeSet<u32>, u32>,
    /// By that: the answer for the listener, and the class of its clients.
    of_listener: BTreeMap<u32, u32>,
    of_clients: BTreeMap<u32, Class>,
}

/// The listeners that rules are for.
fn listening<'a>(live: &[Numbered<'a>]) -> impl Iterator<Item = (u32, &'a Pattern)> {
    let is_for_tcp =
        |rule: &Rule| !matches!(rule.conditions().direction(), Direction::Outbound | Direction::UdpServers);
    let inbound = live.iter().filter(move |(_, rule)| is_for_tcp(rule));
    inbound.flat_map(|&(number, rule)| {
        patterns_or_any(rule.conditions().listen()).iter().map(move |pattern| (number, pattern))
    })
}

/// What comes behind the first rule that is for the listener whoever connects is of no consequence.
fn relevant(live: &[Numbered<'_>], numbers: &BTreeSet<u32>) -> BTreeSet<u32> {
    let is_for_some = |number: &u32| {
        let at = live.binary_search_by_key(number, |(number, _)| *number);
        let rule = at.ok().and_then(|at| live.get(at));
        rule.is_some_and(|(_, rule)| rule.conditions().direction() == Direction::Accepted)
    };
    let settled = numbers.iter().find(|number| !is_for_some(number)).copied();
    let is_before = |number: &u32| settled.is_none_or(|settled| *number <= settled);
    let mut relevant: BTreeSet<u32> = numbers.iter().copied().filter(is_before).collect();
    if settled.is_none() {
        relevant.insert(0);
    }
    relevant
}

/// What is not listed is not asked about.
fn patterns_or_any(patterns: Option<&[Pattern]>) -> &[Pattern] {
    const ANY: &[Pattern] = &[Pattern::ANY];
    patterns.unwrap_or(ANY)
}

/// What the kernel cannot do, each once.
fn lost(rules: &Rules, refused: &Refused) -> Vec<Lost> {
    let mut lost = Vec::new();
    account::lost(rules, refused, |rule, what| {
        let one = Lost { rule: rule.to_owned(), what };
        if !lost.contains(&one) {
            lost.push(one);
        }
    });
    lost
}

#[cfg(test)]
mod tests {
    use policy::{Configuration, Source};

    use super::*;

    fn rules(text: String) -> Rules {
        let document = Some(Source { name: "test".into(), text });
        let configuration = Configuration { document, ..Configuration::default() };
        configuration.parse().into_rules(None).0.expect("it is right")
    }

    fn of_many(count: u32) -> Result<Tables, TooLarge> {
        let rule = |n: u32| format!("[[rule]]\nto = [\"10.{}.{}.{}\"]\npriority = 1\n", n >> 16, n >> 8 & 255, n & 255);
        Tables::of(&rules((0..count).map(rule).collect()))
    }

    /// Seen to fail: with one rule more or less taken.
    #[test]
    fn as_many_rules_as_there_may_be() {
        assert_eq!(of_many(65_534).map(|tables| tables.networks.rows.len()), Ok(65_536));
        let refused = of_many(65_535).expect_err("one too many");
        assert_eq!(refused.to_string(), "the rules need more than 65534 rules");
    }

    /// Seen to fail: with one profile more taken than is said; with as many things counted as there may be rules.
    #[test]
    fn as_many_profiles_and_counters_as_there_may_be() {
        let rules = rules("[[rule]]\nto = [\"10.0.0.1\", \"10.0.0.2\"]\npriority = 1\n".to_owned());
        let decision = rules.rules().next().expect("a rule").decision(true);
        let profiles = |count| Tables { profiles: vec![Profile::default(); count], ..Tables::default() };
        assert_eq!(profiles(65_533).profile(decision, For::Connecting), Ok(65_533));
        let refused = profiles(65_534).profile(decision, For::Connecting).expect_err("one too many");
        assert_eq!(refused.to_string(), "the rules need more than 65534 profiles");
        let answer = |count, to: &str| {
            let counted = vec![Counted::new("", Side::Connect, ""); count];
            let mut tables = Tables { counted, counts: true, ..profiles(1) };
            let profile = tables.profile(decision, For::Connecting).expect("it fits");
            tables.answer(rules.rules().next(), Side::Connect, to.to_owned(), profile)
        };
        assert_eq!(answer(65_434, "one"), Ok(65_435 << 16 | 1));
        let refused = answer(65_435, "one").expect_err("one too many");
        assert_eq!(refused.to_string(), "the rules need more than 65435 counters");
    }

    /// Seen to fail: with one option more taken than the programs' loop has turns.
    #[test]
    fn as_many_options_as_a_rule_may_have() {
        let with = |count: usize| {
            let one = "{ level = \"SOL_SOCKET\", name = \"SO_PRIORITY\", value = 1 }";
            // One of its own beside those of raw, which may be 64.
            let raw = vec![one; count - 1].join(", ");
            let text = format!("[[rule]]\nto = [\"10.0.0.1\"]\nnodelay = true\nraw = [{raw}]\n");
            Tables::of(&rules(text)).map(|tables| tables.options.len())
        };
        assert_eq!(with(64), Ok(64));
        assert_eq!(with(65).expect_err("one too many").to_string(), "the rules need more than 64 options in one rule");
    }
}
