//! The configuration file as written: its form and places, nothing resolved.
//!
//! The TOML is walked by hand rather than deserialised, because all errors are to be reported at once, each with
//! its place, and a deserialiser stops at the first.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::catalog::{Accepts, EXCLUSIVE, Key};
use crate::conditions::{Conditions, OF_RULES, Protocol};
use crate::error::Title;
use crate::exclusion::List;
use crate::fault::Fault;
use crate::form::Form;
use crate::glob::Glob;
use crate::matcher::Pattern;
use crate::reader::Reader;
use crate::values::{Choice, Keepalive};

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

    /// What it is called.
    pub(crate) fn title(&self) -> Title<'_> {
        Title { name: self.name.as_deref(), number: self.number }
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
                            other => reader.fault(item.span(), &Fault::NoRule(Form::Toml(other))),
                        }
                    }
                }
                ("rule", DeValue::Table(_)) => reader.fault(name.span(), &Fault::SingleRule),
                (name @ ("defaults" | "rule"), other) => {
                    reader.fault(value.span(), &Fault::NoTable { name, form: Form::Toml(other) });
                }
                (other, _) => reader.fault(name.span(), &Fault::UnknownTable(other)),
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

fn defaults(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in table {
        let text = name.get_ref().as_ref();
        if OF_RULES.contains(&text) {
            reader.fault(name.span(), &Fault::MisplacedCondition(text));
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
            "name" => match value.get_ref() {
                DeValue::String(text) if !text.trim().is_empty() => form.name = Some(text.to_string()),
                other => reader.fault(value.span(), &Fault::NoName(Form::Toml(other))),
            },
            key @ "to" => form.conditions.to = Some(patterns(reader, key, value)),
            key @ "listen" => form.conditions.listen = Some(patterns(reader, key, value)),
            key @ "from" => form.conditions.from = Some(patterns(reader, key, value)),
            "protocol" => match value.get_ref() {
                DeValue::String(text) if let Some(protocol) = Protocol::from_name(text) => {
                    form.conditions.protocol = Some(protocol);
                }
                other => reader.fault(value.span(), &Fault::NoProtocol(Form::Toml(other))),
            },
            key @ "process" => form.conditions.processes_mut().process = Some(globs(reader, key, value)),
            key @ "command" => form.conditions.processes_mut().command = Some(globs(reader, key, value)),
            key => option(reader, &mut form.layer, name.span(), key, value),
        }
    }
    if let (Some(to), Some(other)) =
        (key_span(table, "to"), key_span(table, "listen").or_else(|| key_span(table, "from")))
    {
        let later = if to.start > other.start { to } else { other };
        reader.fault(later, &Fault::BothDirections);
    }
    if let Some(span) = key_span(table, "protocol") {
        match form.conditions {
            Conditions { listen: None, .. } => reader.fault(span, &Fault::ProtocolAlone),
            Conditions { from: Some(_), protocol: Some(Protocol::Udp), .. } => reader.fault(span, &Fault::NoUdpClients),
            _ => {}
        }
    }
    exclude_duplicates(reader, table);
    form.layer.0.shrink_to_fit();
    form
}

fn option(reader: &mut Reader<'_>, layer: &mut Layer, span: Range<usize>, name: &str, value: &Spanned<DeValue<'_>>) {
    let Some(key) = Key::from_name(name) else {
        return reader.fault(span, &Fault::UnknownKey(name));
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
                reader.fault(span, &Fault::Conflict { one: other.name(), with: first.name(), why });
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
        other => reader.fault(item.span(), &Fault::NoText { key, form: Form::Toml(other) }),
    };
    match value.get_ref() {
        DeValue::Array(list) if list.is_empty() => {
            reader.fault(value.span(), &Fault::EmptyList(key));
        }
        DeValue::Array(list) => list.iter().for_each(|item| take(reader, item)),
        _ => take(reader, value),
    }
    found
}

fn patterns(reader: &mut Reader<'_>, key: &str, value: &Spanned<DeValue<'_>>) -> Box<[Pattern]> {
    let is_destination = key == "to";
    let mut list = List::default();
    for (span, text) in items(reader, key, value) {
        if let Err(refused) = list.add(text, is_destination) {
            reader.fault(span, &Fault::Address(refused));
        } else if !is_destination && list.take_back_host() {
            reader.fault(span, &Fault::HostName { key, text });
        }
    }
    list.into_patterns(&mut reader.room).unwrap_or_else(|refused| {
        reader.fault(value.span(), &Fault::Address(refused));
        Box::default()
    })
}

fn globs(reader: &mut Reader<'_>, key: &str, value: &Spanned<DeValue<'_>>) -> Box<[Glob]> {
    items(reader, key, value).into_iter().filter_map(|(span, text)| glob(reader, key, span, text)).collect()
}

/// A glob; one that can never match is reported.
pub(crate) fn glob(reader: &mut Reader<'_>, key: &str, span: Range<usize>, text: &str) -> Option<Glob> {
    // The longest name of a file; of a command line, the longest part that anybody writes.
    let longest = if key == "process" { 255 } else { 4_096 };
    if text.is_empty() {
        reader.fault(span, &Fault::EmptyGlob(key));
    } else if key == "process" && text.contains('/') {
        reader.fault(span, &Fault::Path(text));
    } else if text.len() > longest {
        reader.fault(span, &Fault::LongGlob { key, bytes: text.len(), longest });
    } else {
        return Some(Glob::new(text));
    }
    None
}

/// Whether a key is an option that an environment variable can hold.
pub(crate) fn has_variable(key: Key) -> bool {
    key.entry().accepts != Accepts::Raw
}
