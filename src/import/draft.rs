//! Rules in the making: options with their places, and which sockets they are for.

use std::collections::BTreeMap;

use policy::{Key, Phase};

use crate::note::{Kind, Notes, Place};
use crate::oracle::{self, Given, Side};

/// A number with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) value: u64,
    pub(crate) place: Place,
}

/// Keepalive field by field, as it comes from different layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// SO_KEEPALIVE.
    pub(crate) on: Option<(bool, Place)>,
    /// Whole seconds.
    pub(crate) time: Option<Part>,
    /// Whole seconds.
    pub(crate) interval: Option<Part>,
    pub(crate) probes: Option<Part>,
}

impl Keepalive {
    fn parts(&self) -> [(&'static str, &'static str, Option<&Part>); 3] {
        [
            ("time", "s", self.time.as_ref()),
            ("interval", "s", self.interval.as_ref()),
            ("probes", "", self.probes.as_ref()),
        ]
    }

    /// Nothing is said of it.
    pub(crate) fn is_empty(&self) -> bool {
        self.on.is_none() && self.parts().iter().all(|(.., part)| part.is_none())
    }

    fn under(&mut self, base: &Self) {
        for (own, base) in
            [(&mut self.time, &base.time), (&mut self.interval, &base.interval), (&mut self.probes, &base.probes)]
        {
            if own.is_none() {
                own.clone_from(base);
            }
        }
        if self.on.is_none() {
            self.on.clone_from(&base.on);
        }
    }
}

/// Options of one rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) keepalive: Keepalive,
    keys: BTreeMap<Key, Given>,
    /// By level and name.
    raw: BTreeMap<(i64, i64), Given>,
}

impl Options {
    pub(crate) fn is_empty(&self) -> bool {
        self.keepalive.is_empty() && self.keys.is_empty() && self.raw.is_empty()
    }

    /// Sets a key; the last of two counts.
    pub(crate) fn set(&mut self, key: Key, toml: impl Into<String>, place: &Place) {
        self.keys.insert(key, Given { toml: toml.into(), place: place.clone() });
    }

    pub(crate) fn has(&self, key: Key) -> bool {
        if key == Key::Keepalive { !self.keepalive.is_empty() } else { self.keys.contains_key(&key) }
    }

    /// Every key that is set.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        let keepalive = (!self.keepalive.is_empty()).then_some(Key::Keepalive);
        keepalive.into_iter().chain(self.keys.keys().copied())
    }

    /// Whether some of it would be set on a UDP socket of the same port as well.
    pub(crate) fn has_datagram(&self) -> bool {
        self.keys.keys().any(|key| key.entry().phases.contains(Phase::BindDatagram))
    }

    /// Sets an option by level and name: the kernel's names where it has some.
    pub(crate) fn set_raw(&mut self, level: i64, name: i64, value: &str, place: &Place) {
        let known = |number: i64| i32::try_from(number).ok();
        let level_text = known(level).and_then(policy::constants::level_name);
        let name_text =
            known(level).zip(known(name)).and_then(|(level, name)| policy::constants::option_name(level, name));
        let shown = |text: Option<&str>, number: i64| text.map_or(number.to_string(), |text| format!("\"{text}\""));
        let toml =
            format!("{{ level = {}, name = {}, value = {value} }}", shown(level_text, level), shown(name_text, name));
        self.raw.insert((level, name), Given { toml, place: place.clone() });
    }

    /// Takes from a lower layer what this one is silent about.
    pub(crate) fn under(&mut self, base: &Self) {
        self.keepalive.under(&base.keepalive);
        for (key, given) in &base.keys {
            self.keys.entry(*key).or_insert_with(|| given.clone());
        }
        for (option, given) in &base.raw {
            self.raw.entry(*option).or_insert_with(|| given.clone());
        }
    }

    /// The lines of a table: what `sockopt check` would refuse is left out and said.
    pub(crate) fn lines(&self, side: Side, notes: &mut Notes) -> Vec<String> {
        let mut lines = Vec::new();
        // Only one of the two that are one kernel option, the one that was asked for last by its place.
        let (fin, wait) = (self.keys.get(&Key::FinTimeout), self.keys.get(&Key::TimeWait));
        let loser = match (fin, wait) {
            (Some(fin), Some(wait)) => {
                let order = |given: &Given| (given.place.source, given.place.span.start);
                Some(if order(fin) > order(wait) { Key::TimeWait } else { Key::FinTimeout })
            }
            _ => None,
        };
        lines.extend(self.keepalive_line(side, notes));
        for (key, given) in self.keys.iter().filter(|(key, _)| Some(**key) != loser) {
            if oracle::accepts(side, *key, given, notes) {
                lines.push(format!("{} = {}", key.name(), given.toml));
            }
        }
        let raw: Vec<&str> = self
            .raw
            .values()
            .filter(|given| {
                let alone = Given { toml: format!("[{}]", given.toml), place: given.place.clone() };
                oracle::accepts(side, Key::Raw, &alone, notes)
            })
            .map(|given| given.toml.as_str())
            .collect();
        // The most that a rule may have.
        let (raw, over) = raw.split_at(raw.len().min(64));
        if let Some(given) = self.raw.values().last().filter(|_| !over.is_empty()) {
            notes.add(
                Kind::OutOfRange,
                &given.place,
                format!("more than 64 options by number: {} are left out", over.len()),
                "",
            );
        }
        match raw {
            [] => {}
            [one] => lines.push(format!("raw = [{one}]")),
            several => lines.push(format!("raw = [\n  {},\n]", several.join(",\n  "))),
        }
        lines
    }

    fn keepalive_line(&self, side: Side, notes: &mut Notes) -> Option<String> {
        let keepalive = &self.keepalive;
        if let Some((false, place)) = &keepalive.on {
            let given = Given { toml: "\"off\"".into(), place: place.clone() };
            return oracle::accepts(side, Key::Keepalive, &given, notes).then(|| "keepalive = \"off\"".into());
        }
        let given: Vec<(&str, &str, &Part)> = keepalive
            .parts()
            .into_iter()
            .filter_map(|(name, unit, part)| part.map(|part| (name, unit, part)))
            .collect();
        let (place, is_on) = match (&keepalive.on, given.first()) {
            (Some((_, place)), _) => (place, true),
            (None, Some((.., part))) => (&part.place, false),
            (None, None) => return None,
        };
        if !is_on {
            let message = "these times have no effect: nothing switches keepalive on";
            notes.add(Kind::WithoutEffect, place, message, "SO_KEEPALIVE is level 1, name 9, value 1");
            return None;
        }
        let mut parts = Vec::new();
        for (name, unit, part) in given {
            let value = if unit.is_empty() { part.value.to_string() } else { format!("\"{}{unit}\"", part.value) };
            let written = format!("{name} = {value}");
            let alone = Given { toml: format!("{{ {written} }}"), place: part.place.clone() };
            // Once is enough to say that UDP has none.
            if side == Side::Udp || oracle::accepts(side, Key::Keepalive, &alone, notes) {
                parts.push(written);
            }
        }
        let toml = if parts.is_empty() { "\"on\"".to_owned() } else { format!("{{ {} }}", parts.join(", ")) };
        let whole = Given { toml, place: place.clone() };
        oracle::accepts(side, Key::Keepalive, &whole, notes).then(|| format!("keepalive = {}", whole.toml))
    }
}

/// A rule in the making.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    /// Where it comes from.
    pub(crate) place: Place,
    /// What that is: `DestinationRule prod/redis`.
    pub(crate) title: String,
    /// The rule's name.
    pub(crate) name: String,
    pub(crate) side: Side,
    /// Patterns of `to` or `listen`.
    pub(crate) targets: Vec<String>,
    pub(crate) options: Options,
    /// Whether it changes what another rule says of the same sockets, and keeps the rest.
    pub(crate) is_patch: bool,
    /// Why it is printed as a comment: no condition can be written.
    pub(crate) parked: Option<String>,
}

impl Draft {
    pub(crate) fn new(place: Place, title: String, name: &str, side: Side) -> Self {
        Self {
            place,
            title,
            name: name.to_owned(),
            side,
            targets: Vec::new(),
            options: Options::default(),
            is_patch: false,
            parked: None,
        }
    }

    /// Adds a target, if it is one.
    pub(crate) fn target(&mut self, text: &str, place: &Place, notes: &mut Notes) {
        match oracle::target(self.side, text) {
            Ok(pattern) => {
                if !self.targets.contains(&pattern) {
                    self.targets.push(pattern);
                }
            }
            Err((message, help)) => notes.add(Kind::NoMatch, place, message, help),
        }
    }
}

/// A text in TOML's quotes.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if policy::plain::is_unseen(c) => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
