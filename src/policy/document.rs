//! The configuration file as written: its form and places, nothing resolved.
//!
//! The TOML is walked by hand rather than deserialised, because all errors are to be reported at once, each with
//! its place, and a deserialiser stops at the first.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::catalog::{Accepts, CATALOG, EXCLUSIVE, Key};
use crate::code::Code;
use crate::conditions::Conditions;
use crate::constants;
use crate::glob::Glob;
use crate::matcher::Pattern;
use crate::values::{Choice, Form, Keepalive, Reader, did_you_mean, option_keys};

/// One key with its value and place.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) key: Key,
    /// The key that stands there: dead_peer_timeout for the two that it stands for.
    pub(crate) written: Key,
    pub(crate) source: usize,
    pub(crate) span: Range<usize>,
    pub(crate) choice: Choice,
    /// For the user timeout that comes from dead_peer_timeout: its milliseconds, should keepalive be taken away.
    pub(crate) promised_ms: Option<u64>,
}

/// The options of one table, or of the environment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer(pub(crate) Vec<Given>);

impl Layer {
    /// Adds an option; `dead_peer_timeout` becomes the two that it stands for.
    pub(crate) fn add(&mut self, key: Key, source: usize, span: Range<usize>, choice: Choice) {
        let written = key;
        let mut push = |key, choice, promised_ms| {
            self.0.push(Given { key, written, source, span: span.clone(), choice, promised_ms });
        };
        match (key, choice) {
            (Key::DeadPeerTimeout, Choice::Detect(detection)) => {
                let (time, interval, probes) = (Some(detection.time), Some(detection.interval), Some(detection.probes));
                push(Key::Keepalive, Choice::Keepalive(Keepalive { on: true, time, interval, probes }), None);
                push(Key::UserTimeout, Choice::AutoUserTimeout, Some(detection.user_timeout_ms()));
            }
            (Key::DeadPeerTimeout, choice) => {
                push(Key::Keepalive, choice.clone(), None);
                push(Key::UserTimeout, choice, None);
            }
            (key, choice) => push(key, choice, None),
        }
    }
}

/// A `[[rule]]`.
#[derive(Debug, Clone)]
pub(crate) struct RuleForm {
    /// Its number in the file, from 1.
    pub(crate) number: usize,
    /// Where the table stands.
    pub(crate) span: Range<usize>,
    pub(crate) name: Option<String>,
    pub(crate) conditions: Conditions,
    pub(crate) layer: Layer,
}

impl RuleForm {
    /// A rule without conditions or options.
    pub(crate) fn empty(number: usize, span: Range<usize>) -> Self {
        Self { number, span, name: None, conditions: Conditions::default(), layer: Layer::default() }
    }
}

/// The whole file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Document {
    /// Whether some of it could not be read as TOML: what depends on several keys cannot be judged then.
    pub(crate) is_torn: bool,
    pub(crate) defaults: Layer,
    pub(crate) rules: Vec<RuleForm>,
}

/// Whether a key is one of a rule alone.
fn is_of_rules(key: &str) -> bool {
    key == NAME || Conditions::KEYS.contains(&key)
}

const NAME: &str = "name";

impl Document {
    /// The line on which each rule begins, from 1. Rules are in the order of the text, so each line break is counted once.
    pub(crate) fn lines<'a>(&'a self, text: &'a str) -> impl Iterator<Item = usize> + use<'a> {
        let mut counter = LineCounter::new(text);
        self.rules.iter().map(move |rule| counter.line_of(rule.span.start))
    }

    /// Adds what a piece has.
    pub(crate) fn take(&mut self, root: &Spanned<DeTable<'_>>, reader: &mut Reader<'_>) {
        for (name, value) in root.get_ref() {
            match (name.get_ref().as_ref(), value.get_ref()) {
                ("defaults", DeValue::Table(table)) => self.defaults = defaults(reader, table),
                ("rule", DeValue::Array(rules)) => {
                    self.rules.reserve(rules.len());
                    for item in rules.iter() {
                        match item.get_ref() {
                            DeValue::Table(table) => {
                                let number = self.rules.len() + 1;
                                self.rules.push(rule(reader, number, item.span(), table));
                            }
                            other => reader.error(
                                Code::WrongType,
                                item.span(),
                                format!("a rule is a table, not {}", Form::Toml(other)),
                                "write [[rule]]",
                            ),
                        }
                    }
                }
                ("rule", DeValue::Table(_)) => {
                    reader.error(
                        Code::WrongType,
                        name.span(),
                        "[rule] is a single table; rules are a list",
                        "write [[rule]], with two brackets",
                    );
                }
                (known @ ("defaults" | "rule"), other) => {
                    reader.error(
                        Code::WrongType,
                        value.span(),
                        format!("{known} is a table, not {}", Form::Toml(other)),
                        "write [defaults] or [[rule]]",
                    );
                }
                (other, _) => {
                    reader.error_with(Code::UnknownKey, name.span(), || {
                        (format!("unknown key \"{other}\""), misplaced(other))
                    });
                }
            }
        }
        // The map is in the order of the alphabet, `[[rule]]` of the file.
    }
}

/// Tells the lines of places that follow each other.
pub(crate) struct LineCounter<'a> {
    text: &'a str,
    counted: usize,
    line: usize,
}

impl<'a> LineCounter<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, counted: 0, line: 1 }
    }

    /// The line, from 1, of a place behind those that were asked for before.
    pub(crate) fn line_of(&mut self, place: usize) -> usize {
        let skipped = self.text.get(self.counted..place).unwrap_or_default();
        self.line += skipped.bytes().filter(|byte| *byte == b'\n').count();
        self.counted = place;
        self.line
    }
}

/// A key at the top that belongs in a table, or is misspelt.
fn misplaced(name: &str) -> String {
    if option_keys().any(|key| key == name) || is_of_rules(name) {
        return format!("{name} belongs in [defaults] or a [[rule]]");
    }
    match name {
        "rules" | "Rule" => "write [[rule]] for each rule".to_owned(),
        _ => did_you_mean(name, ["defaults", "rule"].into_iter(), "the file has [defaults] and [[rule]]"),
    }
}

fn defaults(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in table {
        let text = name.get_ref().as_ref();
        if is_of_rules(text) {
            reader.error(
                Code::MisplacedCondition,
                name.span(),
                format!("\"{text}\" is not allowed in [defaults], which applies to every TCP socket"),
                "move it to a [[rule]]",
            );
            continue;
        }
        option(reader, &mut layer, name.span(), text, value);
    }
    exclude_duplicates(reader, table);
    layer
}

fn rule(reader: &mut Reader<'_>, number: usize, span: Range<usize>, table: &DeTable<'_>) -> RuleForm {
    let mut form = RuleForm::empty(number, reader.place(&span));
    for (name, value) in table {
        match name.get_ref().as_ref() {
            NAME => match value.get_ref() {
                DeValue::String(text) if !text.trim().is_empty() => form.name = Some(text.to_string()),
                other => reader.error(
                    Code::WrongType,
                    value.span(),
                    format!("name takes a text, not {}", Form::Toml(other)),
                    "for example name = \"gateway\"",
                ),
            },
            key @ "to" => form.conditions.to = Some(patterns(reader, key, value)),
            key @ "listen" => form.conditions.listen = Some(patterns(reader, key, value)),
            key @ "from" => form.conditions.from = Some(patterns(reader, key, value)),
            key @ "process" => form.conditions.processes_mut().process = Some(globs(reader, key, value)),
            key @ "command" => form.conditions.processes_mut().command = Some(globs(reader, key, value)),
            key => option(reader, &mut form.layer, name.span(), key, value),
        }
    }
    if let (Some(to), Some(other)) =
        (key_span(table, "to"), key_span(table, "listen").or_else(|| key_span(table, "from")))
    {
        let later = if to.start > other.start { to } else { other };
        reader.error(
            Code::BothDirections,
            later,
            "a rule has \"to\", for sockets that connect, or \"listen\" and \"from\", for those that accept, not both",
            "make two rules",
        );
    }
    exclude_duplicates(reader, table);
    form.layer.0.shrink_to_fit();
    form
}

/// What an unknown option was probably meant to be.
fn meant(name: &str) -> String {
    // TCP_USER_TIMEOUT or so_linger: the kernel's name of what has another one here.
    let kernel = CATALOG.iter().find(|entry| {
        entry.kernel.iter().any(|option| {
            constants::option_name(option.level, option.name).is_some_and(|known| known.eq_ignore_ascii_case(name))
        })
    });
    match kernel {
        Some(entry) => format!("did you mean \"{}\"?", entry.key.name()),
        None => {
            did_you_mean(name, option_keys().chain(Conditions::KEYS).chain([NAME]), "`man sockopt.toml` has every key")
        }
    }
}

fn option(reader: &mut Reader<'_>, layer: &mut Layer, span: Range<usize>, name: &str, value: &Spanned<DeValue<'_>>) {
    let Some(key) = Key::from_name(name) else {
        return reader.error_with(Code::UnknownKey, span, || (format!("unknown key \"{name}\""), meant(name)));
    };
    let choice = reader.choice(key.entry(), value.span(), Form::Toml(value.get_ref()));
    layer.add(key, reader.source, reader.place(&value.span()), choice.unwrap_or(Choice::Refused));
}

/// Keys that say the same in two ways.
fn exclude_duplicates(reader: &mut Reader<'_>, table: &DeTable<'_>) {
    for (first, others, why) in EXCLUSIVE {
        if key_span(table, first.name()).is_none() {
            continue;
        }
        for other in *others {
            if let Some(span) = key_span(table, other.name()) {
                let message = format!("{} conflicts with {}, {why}", other.name(), first.name());
                reader.error(Code::ConflictingKeys, span, message, "remove one of them");
            }
        }
    }
}

fn key_span(table: &DeTable<'_>, name: &str) -> Option<Range<usize>> {
    table.keys().find(|key| key.get_ref() == name).map(Spanned::span)
}

/// The entries of a list of texts; a single text is a list of one.
fn items<'t>(reader: &mut Reader<'_>, key: &str, value: &'t Spanned<DeValue<'t>>) -> Vec<(Range<usize>, &'t str)> {
    let mut found = Vec::new();
    let mut take = |reader: &mut Reader<'_>, item: &'t Spanned<DeValue<'t>>| match item.get_ref() {
        DeValue::String(text) => found.push((item.span(), text.as_ref())),
        other => reader.error(
            Code::WrongType,
            item.span(),
            format!("{key} takes a list of texts, not {}", Form::Toml(other)),
            "texts stand in quotes",
        ),
    };
    match value.get_ref() {
        DeValue::Array(list) if list.is_empty() => {
            reader.error(
                Code::EmptyCondition,
                value.span(),
                format!("an empty {key} matches nothing"),
                format!("leave {key} out to match everything"),
            );
        }
        DeValue::Array(list) => list.iter().for_each(|item| take(reader, item)),
        _ => take(reader, value),
    }
    found
}

fn patterns(reader: &mut Reader<'_>, key: &str, value: &Spanned<DeValue<'_>>) -> Box<[Pattern]> {
    let items = items(reader, key, value);
    let mut found = Vec::with_capacity(items.len());
    for (span, text) in items {
        match Pattern::parse(text) {
            Ok(pattern) if key != "to" && pattern.host().is_some() => {
                let help = "\"to\" takes names that the program itself looks up; nothing is looked up for this";
                reader.error(
                    Code::BadAddress,
                    span,
                    format!("{key} takes addresses, not a host name (\"{text}\")"),
                    help,
                );
            }
            Ok(pattern) if key == "to" => found.push(pattern.as_destination()),
            Ok(pattern) => found.push(pattern),
            Err(refused) => reader.error(Code::BadAddress, span, refused.message, refused.help),
        }
    }
    found.into_boxed_slice()
}

fn globs(reader: &mut Reader<'_>, key: &str, value: &Spanned<DeValue<'_>>) -> Box<[Glob]> {
    items(reader, key, value).into_iter().filter_map(|(span, text)| glob(reader, key, span, text)).collect()
}

/// A glob; one that can never match is reported.
pub(crate) fn glob(reader: &mut Reader<'_>, key: &str, span: Range<usize>, text: &str) -> Option<Glob> {
    // The longest name of a file; of a command line, the longest part that anybody writes.
    let longest = if key == "process" { 255 } else { 4_096 };
    if text.is_empty() {
        reader.error(
            Code::EmptyCondition,
            span,
            format!("an empty {key} matches nothing"),
            "accepted: a name with * and ? as wildcards",
        );
    } else if key == "process" && text.contains('/') {
        let help = "process is the base name of the executable or script; command sees the whole command line";
        reader.error(Code::BadPattern, span, format!("process \"{text}\" is a path"), help);
    } else if text.len() > longest {
        let help = format!("accepted: at most {longest} bytes, with * and ? as wildcards");
        reader.error(Code::BadPattern, span, format!("{key} has {} bytes", text.len()), help);
    } else {
        return Some(Glob::new(text));
    }
    None
}

/// Whether a key is an option that an environment variable can hold.
pub(crate) fn has_variable(key: Key) -> bool {
    key.entry().accepts != Accepts::Raw
}
