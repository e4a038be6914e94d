//! The `SOCKOPT_…` environment variables: what configures the library itself, and the shortcuts for options.

use crate::catalog::{EXCLUSIVE, Key};
use crate::conditions::Conditions;
use crate::document::{self, Layer, has_variable};
use crate::error::{Problems, Source, nearest};
use crate::exclusion::List;
use crate::fault::Fault;
use crate::form::Form;
use crate::glob::Glob;
use crate::matcher::Pattern;
use crate::reader::Reader;
use crate::values::Choice;

/// The prefix of every variable.
pub const PREFIX: &str = "SOCKOPT_";

/// Names, without the prefix, that are not options.
pub const CONTROL: [&str; 10] =
    ["CONFIG", "CONFIG_TOML", "LOG", "LOG_FILE", "STRICT", "DISABLE", "TO", "PROCESS", "LIBRARY", "CHECKED"];

/// How much is logged, `SOCKOPT_LOG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Level {
    /// Nothing.
    Off,
    /// A configuration that was not taken; our own faults.
    Error,
    /// Options that the kernel refused; probable slips.
    #[default]
    Warn,
    /// What was loaded, and what was kept from the program.
    Info,
    /// Every decision.
    Debug,
}

impl Level {
    /// Every level with its name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("off", Self::Off),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
    ];

    /// The level written so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| name.trim().eq_ignore_ascii_case(known)).map(|&(_, level)| level)
    }

    /// As written in SOCKOPT_LOG.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, level)| *level == self).map_or("", |(name, _)| name)
    }
}

/// `1`, `true`, `on` or `yes`: how the switches SOCKOPT_STRICT and SOCKOPT_DISABLE are turned on.
#[must_use]
pub fn is_on(value: &str) -> bool {
    // Asked before there is memory to allocate from.
    ["1", "true", "on", "yes"].iter().any(|on| value.trim().eq_ignore_ascii_case(on))
}

/// The environment's shortcuts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shortcuts {
    pub(crate) layer: Layer,
    /// SOCKOPT_TO, which leaves sockets that connect alone, and SOCKOPT_PROCESS.
    pub(crate) conditions: Conditions,
}

/// Reads the shortcuts among `variables`, which are sources from the number `first` on.
pub(crate) fn read(variables: &[Source], first: usize, problems: &mut Problems) -> Shortcuts {
    let mut shortcuts = Shortcuts::default();
    let known: Vec<String> = known_names().collect();
    for (index, variable) in (first..).zip(variables) {
        let value = variable.text.as_str();
        let whole = 0..value.len();
        let Some(name) = variable.name.strip_prefix(PREFIX) else { continue };
        // `SOCKOPT_LINGER=` in a manifest means "not set".
        if value.trim().is_empty() {
            continue;
        }
        let mut reader = Reader::new(index, problems);
        match name {
            "TO" => shortcuts.conditions.to = Some(patterns(&mut reader, value)),
            "PROCESS" => shortcuts.conditions.processes_mut().process = Some(globs(&mut reader, value)),
            "LOG" if Level::from_name(value).is_none() => {
                let known = Level::ALL.map(|(name, _)| name);
                reader.fault(whole, &Fault::UnknownLevel { value, known: &known });
            }
            "STRICT" | "DISABLE"
                if !is_on(value)
                    && !matches!(value.trim().to_ascii_lowercase().as_str(), "0" | "false" | "off" | "no") =>
            {
                reader.fault(whole, &Fault::NoSwitch { variable: &variable.name, value });
            }
            _ if CONTROL.contains(&name) => {}
            _ => match option_of(name) {
                Some(key) => {
                    let choice = reader.choice(key.entry(), whole.clone(), Form::Variable(value));
                    shortcuts.layer.add(key, index, whole, choice.unwrap_or(Choice::Refused));
                }
                None => {
                    let without_prefix = || known.iter().filter_map(|known| known.strip_prefix(PREFIX));
                    let near = || nearest(name, without_prefix()).map(|near| format!("{PREFIX}{near}"));
                    reader.fault(whole, &Fault::UnknownVariable { name: &variable.name, near: &near });
                }
            },
        }
    }
    for name in ["SOCKOPT_TO", "SOCKOPT_PROCESS"] {
        let given = |(_, variable): &(usize, &Source)| variable.name == name && !variable.text.trim().is_empty();
        let alone = (first..).zip(variables).find(given).filter(|_| shortcuts.layer.0.is_empty());
        if let Some((index, variable)) = alone {
            problems.add(index, 0..variable.text.len(), &Fault::VariableAlone(name));
        }
    }
    // The same exclusion as within one table of the file.
    let given = |key: Key| {
        (first..).zip(variables).find(move |(_, variable)| {
            let name = variable.name.strip_prefix(PREFIX);
            name.and_then(option_of) == Some(key) && !variable.text.trim().is_empty()
        })
    };
    for (key, others, why) in EXCLUSIVE {
        let Some((_, one)) = given(*key) else { continue };
        for (index, other) in others.iter().filter_map(|other| given(*other)) {
            let fault = Fault::Conflict { one: &other.name, with: &one.name, why };
            problems.add(index, 0..other.text.len(), &fault);
        }
    }
    shortcuts
}

/// The option that a variable sets: `KEEPALIVE` is `keepalive`.
fn option_of(name: &str) -> Option<Key> {
    Key::ALL
        .iter()
        .copied()
        .find(|&key| has_variable(key) && key.name().eq_ignore_ascii_case(name) && name.to_ascii_uppercase() == name)
}

/// Every variable that is understood.
pub fn known_names() -> impl Iterator<Item = String> {
    let options = Key::ALL.iter().filter(|key| has_variable(**key)).map(|key| key.name().to_ascii_uppercase());
    CONTROL.iter().map(|name| (*name).to_owned()).chain(options).map(|name| format!("{PREFIX}{name}"))
}

fn globs(reader: &mut Reader<'_>, value: &str) -> Box<[Glob]> {
    let mut found = Vec::new();
    let mut start = 0;
    for item in value.split(',') {
        found.extend(document::glob(reader, "process", start..start + item.len(), item.trim()));
        start += item.len() + 1;
    }
    found.into_boxed_slice()
}

/// Whether a variable alone is a configuration: an option that sets something, rather than a control.
#[must_use]
pub fn is_option(name: &str) -> bool {
    name.strip_prefix(PREFIX).and_then(option_of).is_some_and(|key| key != Key::Enforce)
}

/// Destinations.
fn patterns(reader: &mut Reader<'_>, value: &str) -> Box<[Pattern]> {
    let mut list = List::default();
    let mut start = 0;
    for item in value.split(',') {
        if let Err(refused) = list.add(item, true) {
            reader.fault(start..start + item.len(), &Fault::Address(refused));
        }
        start += item.len() + 1;
    }
    list.into_patterns(&mut reader.room).unwrap_or_else(|refused| {
        reader.fault(0..value.len(), &Fault::Address(refused));
        Box::default()
    })
}
