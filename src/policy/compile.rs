//! Makes [`Rules`] of a document and the environment's shortcuts, collecting every error.

use crate::catalog::{
    EXCLUSIVE, KernelOption, Key, SO_KEEPALIVE, TCP_FASTOPEN, TCP_FASTOPEN_CONNECT, TCP_KEEPCNT, TCP_KEEPIDLE,
    TCP_KEEPINTVL, TCP_USER_TIMEOUT,
};
use crate::conditions::{Conditions, Direction, Protocol};
use crate::constants;
use crate::document::{Document, Given, Layer, LineCounter, RuleForm};
use crate::enforce::{Enforce, Probing};
use crate::error::{Listed, Problems, Source};
use crate::fault::{Fault, Never};
use crate::options::{Family, Phase, Phases, Setting, Value};
use crate::process::Process;
use crate::raw::RawOption;
use crate::rules::{Profile, Profiles, Rule, Rules};
use crate::values::{Choice, Keepalive};
use crate::variables::{PREFIX, Shortcuts};

/// Everything that configures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The file, or the inline TOML.
    pub document: Option<Source>,
    /// The `SOCKOPT_…` variables, as sources: name and value.
    pub variables: Vec<Source>,
}

impl Configuration {
    /// A copy of all that problems refer to, in the order of their numbers.
    #[must_use]
    pub fn sources(&self) -> Vec<Source> {
        self.document.iter().chain(&self.variables).cloned().collect()
    }

    /// The texts of the same, as they are.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> + Clone {
        self.document.iter().chain(&self.variables).map(|source| source.text.as_str())
    }
}

/// The outcome of [`compile`](fn@crate::compile).
#[derive(Debug)]
pub struct Compiled {
    /// The rules, unless there was an error: a configuration is taken whole or not at all.
    pub rules: Result<Rules, Listed>,
    /// What is probably not meant.
    pub warnings: Listed,
    /// The sources that problems refer to.
    pub sources: Vec<Source>,
}

/// The layers, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `[defaults]`.
    Defaults,
    /// The rule's own options.
    Rule,
    /// The environment's shortcuts.
    Environment,
}

/// The options in force, key by key in the order of the keys.
pub(crate) struct Effective<'a>(Vec<(Key, (Origin, &'a Given))>);

impl<'a> Effective<'a> {
    pub(crate) fn get(&self, key: &Key) -> Option<&(Origin, &'a Given)> {
        self.iter().find(|(known, _)| known == key).map(|(_, given)| given)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Key, (Origin, &'a Given))> {
        self.0.iter()
    }
}

/// Each layer over those below it. What accepted sockets are not to get is left out.
pub(crate) fn overlay<'a>(
    document: &'a Document,
    form: Option<&'a RuleForm>,
    shortcuts: Option<&'a Layer>,
) -> Effective<'a> {
    let accepts = form.is_some_and(|form| form.conditions.is_for_accepted());
    let layers = [
        (Origin::Defaults, Some(&document.defaults)),
        (Origin::Rule, form.map(|form| &form.layer)),
        (Origin::Environment, shortcuts),
    ];
    let most = layers.iter().filter_map(|(_, layer)| *layer).map(|layer| layer.0.len()).sum();
    let mut effective: Vec<(Key, (Origin, &Given))> = Vec::with_capacity(most);
    for (origin, layer) in layers {
        for given in layer.into_iter().flat_map(|layer| &layer.0) {
            // A reset on everything that a server accepts is to be asked for by the rule itself.
            if !(accepts && given.key == Key::Linger && origin != Origin::Rule) {
                if given.choice != Choice::System {
                    effective.retain(|(key, _)| !are_exclusive(*key, given.key));
                }
                match effective.binary_search_by_key(&given.key, |(key, _)| *key) {
                    Ok(at) => effective[at].1 = (origin, given),
                    Err(at) => effective.insert(at, (given.key, (origin, given))),
                }
            }
        }
    }
    Effective(effective)
}

/// Whether two keys say the same in two ways, and are not layered as dead_peer_timeout is.
fn are_exclusive(one: Key, other: Key) -> bool {
    let excludes = |key, other| EXCLUSIVE.iter().any(|(first, others, _)| *first == key && others.contains(&other));
    excludes(one, other) || excludes(other, one)
}

pub(crate) struct Compiler<'a> {
    pub(crate) document: &'a Document,
    pub(crate) shortcuts: &'a Shortcuts,
    pub(crate) problems: &'a mut Problems,
    pub(crate) next_id: u32,
}

impl Compiler<'_> {
    pub(crate) fn rules(&mut self, forms: Vec<RuleForm>, process: Option<&Process>, source: Option<&Source>) -> Rules {
        let text = source.map_or("", |source| source.text.as_str());
        let mut lines = LineCounter::new(text);
        let mut rules = Vec::with_capacity(forms.len());
        for form in forms {
            let line = lines.line_of(form.span.start);
            let profiles = self.profiles(Some(&form));
            let mut conditions = form.conditions;
            let applies = process.is_none_or(|process| conditions.mismatch_by_process(process).is_none());
            if process.is_some() {
                // Decided for good, and not to be carried along in somebody else's program.
                conditions.processes = None;
            }
            let name = form.name.unwrap_or_else(|| format!("rule {}", form.number)).into();
            rules.push(Rule { name, line, applies, conditions, profiles });
        }
        let base = self.profiles(None);
        let has_shortcuts = !self.shortcuts.layer.0.is_empty();
        Rules::new(rules, base, self.shortcuts.conditions.clone(), self.next_id, has_shortcuts)
    }

    fn profiles(&mut self, form: Option<&RuleForm>) -> Profiles {
        // Both profiles may have the same errors.
        let others = std::mem::take(self.problems);
        let profiles = self.both_profiles(form);
        let own = std::mem::replace(self.problems, others);
        self.problems.append(own);
        profiles
    }

    fn both_profiles(&mut self, form: Option<&RuleForm>) -> Profiles {
        // SOCKOPT_TO limits the shortcuts to some destinations; without it they are for every socket of the process.
        let Shortcuts { layer, conditions } = self.shortcuts;
        let outbound = form.is_none_or(|form| form.conditions.is_for_connecting());
        if layer.0.is_empty() || conditions.to().is_some() && !outbound {
            Profiles { plain: self.profile(form, false), shortcuts: None }
        } else if *conditions == Conditions::default() {
            Profiles { plain: self.profile(form, true), shortcuts: None }
        } else {
            let plain = self.profile(form, false);
            Profiles { plain, shortcuts: Some(self.profile(form, true).into()) }
        }
    }

    /// Overlays the layers key by key and makes settings of the outcome.
    pub(crate) fn profile(&mut self, form: Option<&RuleForm>, with_shortcuts: bool) -> Profile {
        let direction = form.map_or(Direction::Both, |form| form.conditions.direction());
        if let Some(form) = form {
            self.refuse_what_is_never_set(form, direction);
        }
        let document = self.document;
        let shortcuts = with_shortcuts.then_some(&self.shortcuts.layer);
        let effective = overlay(document, form, shortcuts);
        let keepalive = match effective.get(&Key::Keepalive).map(|(_, given)| &given.choice) {
            Some(Choice::Keepalive(keepalive)) => Some(*keepalive),
            _ => None,
        };
        let keepalive_refused =
            effective.get(&Key::Keepalive).is_some_and(|(_, given)| given.choice == Choice::Refused);
        let mut enforce = Enforce::default();
        let is_for_tcp = form.is_some_and(|form| form.conditions.protocol() == Some(Protocol::Tcp));
        let allowed = if is_for_tcp { allowed(direction).without(Phase::BindDatagram) } else { allowed(direction) };
        let mut settings = Settings { list: Vec::new(), allowed, next_id: &mut self.next_id };
        let connect_timeout = match effective.get(&Key::ConnectTimeout).map(|(_, given)| &given.choice) {
            // A millisecond less says that it is ours (Rules::is_time_for_connecting).
            Some(Choice::Value(Value::Int(milliseconds))) => Some(Value::Int(milliseconds - 1)),
            _ => None,
        };
        for &(key, (origin, given)) in effective.iter() {
            let mut phases = phases_of(key, direction);
            if key == Key::UserTimeout && connect_timeout.is_some() {
                // The same kernel option: this value's time comes when the connection stands.
                phases = phases.without(Phase::Connect) | Phases::of(&[Phase::Connected]);
            }
            match &given.choice {
                Choice::System | Choice::Detect(_) | Choice::Refused => {}
                Choice::Value(_) if key == Key::ConnectTimeout => {
                    if let Some(time) = connect_timeout.clone() {
                        settings.add(key, TCP_USER_TIMEOUT, time, Phases::of(&[Phase::Connect]), Family::Any);
                    }
                }
                Choice::AutoUserTimeout if keepalive_refused => {}
                Choice::Enforce(who) => enforce = *who,
                Choice::Keepalive(keepalive) => settings.keepalive(*keepalive, phases),
                Choice::AutoUserTimeout => match auto_user_timeout(keepalive, given) {
                    Ok(milliseconds) => {
                        settings.add(key, key.entry().kernel[0], Value::Int(milliseconds), phases, Family::Any);
                        let probing = Probing::of(settings.list.iter().filter(|setting| setting.key == Key::Keepalive));
                        let own = settings.list.iter_mut().filter(|setting| setting.key == key);
                        own.for_each(|setting| setting.computed_from = Some(probing));
                    }
                    Err(sum) => {
                        let rule = form.filter(|_| origin != Origin::Rule).map(RuleForm::title);
                        // The keepalive of a variable is not to be seen where this stands.
                        let variable = effective
                            .get(&Key::Keepalive)
                            .filter(|(of, _)| *of == Origin::Environment && origin != Origin::Environment)
                            .map(|(_, given)| format!("{PREFIX}{}", given.written.name().to_ascii_uppercase()));
                        let fault = Fault::NoAuto { rule, sum, variable: variable.as_deref() };
                        self.problems.add(given.source, given.span.clone(), &fault);
                    }
                },
                Choice::FastopenConnect(on) => {
                    settings.add(
                        key,
                        TCP_FASTOPEN_CONNECT,
                        Value::Int(i32::from(*on)),
                        Phases::of(&[Phase::Connect]),
                        Family::Any,
                    );
                }
                Choice::FastopenQueue(queue) => {
                    settings.add(key, TCP_FASTOPEN, Value::Int(*queue), Phases::of(&[Phase::Listen]), Family::Any);
                }
                Choice::Raw(options) => {
                    for option in options {
                        let kernel = KernelOption { level: option.level, name: option.name };
                        let family = match option.level {
                            constants::SOL_IP => Family::V4,
                            constants::SOL_IPV6 => Family::V6,
                            _ => Family::Any,
                        };
                        settings.add(key, kernel, option.value.clone(), raw_phases(option, direction), family);
                    }
                }
                Choice::Value(value) => match &*key.entry().kernel {
                    [v4, v6] => {
                        settings.add(key, *v4, value.clone(), phases, Family::V4);
                        settings.add(key, *v6, value.clone(), phases, Family::V6);
                    }
                    [one, ..] => settings.add(key, *one, value.clone(), phases, Family::Any),
                    [] => {}
                },
            }
        }
        let is_user_timeout = |setting: &Setting| setting.key == Key::UserTimeout;
        if connect_timeout.is_some() && !settings.list.iter().any(is_user_timeout) {
            let none = Value::Int(0);
            settings.add(Key::ConnectTimeout, TCP_USER_TIMEOUT, none, Phases::of(&[Phase::Connected]), Family::Any);
        }
        let list = settings.list;
        let phases = list.iter().fold(Phases::NONE, |phases, setting| phases | setting.phases);
        let origin = match (document.defaults.0.is_empty(), shortcuts.is_none_or(|layer| layer.0.is_empty())) {
            (_, true) => "defaults",
            (true, false) => "environment",
            (false, false) => "defaults and environment",
        };
        Profile { settings: list.into_boxed_slice(), phases, enforce, origin }
    }

    /// An option that its own rule can never set is a slip.
    fn refuse_what_is_never_set(&mut self, form: &RuleForm, direction: Direction) {
        if direction == Direction::Both {
            return;
        }
        for given in &form.layer.0 {
            let phases = |direction| match given.choice {
                Choice::FastopenConnect(_) => Phases::of(&[Phase::Connect]),
                Choice::FastopenQueue(_) => Phases::of(&[Phase::Listen]),
                _ => entry_phases(given.key, direction),
            };
            match given.choice {
                Choice::Enforce(_) | Choice::System | Choice::Refused => continue,
                // Each by itself is to be set at some time.
                Choice::Raw(ref options) => {
                    let is_never_set =
                        |option: &&RawOption| !raw_phases(option, direction).intersects(allowed(direction));
                    for never in options.iter().filter(is_never_set) {
                        let option = Never::Raw(never.level, never.name);
                        let in_to = raw_phases(never, Direction::Outbound).intersects(allowed(Direction::Outbound))
                            && !constants::ONLY_IN_BIND.contains(&(never.level, never.name));
                        self.problems.add(
                            given.source,
                            given.span.clone(),
                            &Fault::NeverSet { option, direction, in_to },
                        );
                    }
                    continue;
                }
                _ => {}
            }
            if !phases(direction).intersects(allowed(direction)) {
                let option = match given.choice {
                    Choice::FastopenConnect(on) => Never::FastopenConnect(on),
                    Choice::FastopenQueue(length) => Never::FastopenQueue(length),
                    _ => Never::Key(given.key),
                };
                let in_to = phases(Direction::Outbound).intersects(allowed(Direction::Outbound));
                self.problems.add(given.source, given.span.clone(), &Fault::NeverSet { option, direction, in_to });
            }
        }
    }
}

/// The phases at which a rule of this direction knows that it is meant.
fn allowed(direction: Direction) -> Phases {
    use Phase::{Accept, AcceptAlways, Bind, BindDatagram, Connect, Connected, Datagram, Listen};
    match direction {
        Direction::Outbound => Phases::of(&[Connect, Connected, Datagram]),
        Direction::Listeners => Phases::of(&[Bind, BindDatagram, Listen, Accept, AcceptAlways]),
        Direction::UdpServers => Phases::of(&[BindDatagram]),
        Direction::Accepted => Phases::of(&[Accept, AcceptAlways]),
        Direction::Both => Phases::of(&[Connect, Connected, Datagram, Bind, Listen, Accept, AcceptAlways]),
    }
}

/// The phases at which a rule of this direction sets what a key stands for. Accepted sockets have a linger only from rules that
/// are for them alone.
fn phases_of(key: Key, direction: Direction) -> Phases {
    let phases = entry_phases(key, direction).and(allowed(direction));
    let is_for_accepted = matches!(direction, Direction::Listeners | Direction::Accepted);
    if key == Key::Linger && !is_for_accepted { phases.and(Phases::of(&[Phase::Connect])) } else { phases }
}

/// When a key can be set. What lets several sockets share a port is nothing that a rule for TCP's port says of UDP's by the way.
fn entry_phases(key: Key, direction: Direction) -> Phases {
    match (key, direction) {
        (Key::ReuseAddress | Key::ReusePort, Direction::UdpServers) => Phases::of(&[Phase::BindDatagram]),
        _ => key.entry().phases,
    }
}

/// When an entry of `raw` is set. UDP sockets get one from a rule that is for them alone, before bind.
fn raw_phases(option: &RawOption, direction: Direction) -> Phases {
    let is_at_any_call = option.phases.contains(Phase::Connect) && option.phases.contains(Phase::Listen);
    let is_before_bind = is_at_any_call || option.phases.contains(Phase::Bind);
    match direction {
        Direction::UdpServers if is_before_bind && option.level != constants::SOL_TCP => {
            Phases::of(&[Phase::BindDatagram])
        }
        Direction::UdpServers => Phases::NONE,
        _ => option.phases,
    }
}

/// When a key's options are set, in words for people: by every rule, and by rules for accepted sockets alone.
#[must_use]
pub fn set_at(key: Key) -> String {
    let always = phases_of(key, Direction::Both);
    let mut words = always.in_words();
    if !always.intersects(Phases::of(&[Phase::Listen, Phase::Accept]))
        && phases_of(key, Direction::Listeners).intersects(Phases::of(&[Phase::Accept]))
    {
        words += "; on accepted sockets only by a rule with listen or from";
    }
    words
}

/// time + interval x probes, milliseconds; else the seconds that are too many, or that there are none.
fn auto_user_timeout(keepalive: Option<Keepalive>, given: &Given) -> Result<i32, Option<u64>> {
    let whole = match keepalive {
        Some(Keepalive { on: true, time: Some(time), interval: Some(interval), probes: Some(probes) }) => {
            Some((u64::from(time) + u64::from(interval) * u64::from(probes)) * 1_000)
        }
        _ => given.promised_ms,
    };
    let milliseconds = whole.ok_or(None)?;
    i32::try_from(milliseconds).map_err(|_| Some(milliseconds / 1_000))
}

struct Settings<'a> {
    list: Vec<Setting>,
    allowed: Phases,
    next_id: &'a mut u32,
}

impl Settings<'_> {
    fn add(&mut self, key: Key, option: KernelOption, value: Value, phases: Phases, family: Family) {
        let phases = phases.and(self.allowed);
        if phases != Phases::NONE {
            self.list.push(Setting {
                key,
                level: option.level,
                name: option.name,
                value,
                phases,
                family,
                computed_from: None,
                id: *self.next_id,
            });
            *self.next_id += 1;
        }
    }

    fn keepalive(&mut self, keepalive: Keepalive, phases: Phases) {
        // SO_KEEPALIVE first: on a connection that stands, idle time already passed then counts.
        self.add(Key::Keepalive, SO_KEEPALIVE, Value::Int(i32::from(keepalive.on)), phases, Family::Any);
        let parts =
            [(TCP_KEEPIDLE, keepalive.time), (TCP_KEEPINTVL, keepalive.interval), (TCP_KEEPCNT, keepalive.probes)];
        for (option, part) in parts {
            if let Some(value) = part {
                self.add(
                    Key::Keepalive,
                    option,
                    Value::Int(i32::try_from(value).unwrap_or(i32::MAX)),
                    phases,
                    Family::Any,
                );
            }
        }
    }
}
