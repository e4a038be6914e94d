//! Reads `raw`: options by level and name, each with its value.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::constants;
use crate::fault::{Accepted, Fault, Parts, RAW};
use crate::form::Form;
use crate::options::{Phase, Phases, Value};
use crate::reader::Reader;

/// An entry of `raw`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawOption {
    /// setsockopt level.
    pub(crate) level: i32,
    /// Option number.
    pub(crate) name: i32,
    /// Its value.
    pub(crate) value: Value,
    /// When it is set.
    pub(crate) phases: Phases,
}

/// Entries of `raw` in one table: those of `[defaults]` are copied into each rule.
const MOST_RAW: usize = 64;

/// All entries; None once a problem was reported.
pub(crate) fn read(reader: &mut Reader<'_>, span: Range<usize>, form: Form<'_>) -> Option<Vec<RawOption>> {
    let Form::Toml(DeValue::Array(items)) = form else {
        let accepted = Accepted::As(RAW);
        reader.fault(span, &Fault::WrongType { key: "raw", takes: "a list", form, accepted });
        return None;
    };
    if items.len() > MOST_RAW {
        reader.fault(span, &Fault::ManyRaw { entries: items.len(), most: MOST_RAW });
        return None;
    }
    let mut options = Vec::with_capacity(items.len());
    for item in items.iter() {
        match item.get_ref() {
            DeValue::Table(table) => options.extend(entry(reader, item.span(), table)),
            other => reader.fault(item.span(), &Fault::NoRawEntry(Form::Toml(other))),
        }
    }
    (options.len() == items.len()).then_some(options)
}

fn entry(reader: &mut Reader<'_>, span: Range<usize>, table: &DeTable<'_>) -> Option<RawOption> {
    let parts = Parts::Raw.names();
    for name in table.keys().filter(|name| !parts.contains(&name.get_ref().as_ref())) {
        reader.fault(name.span(), &Fault::UnknownPart { of: Parts::Raw, name: name.get_ref() });
    }
    let part = |name: &str| table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value);
    let [Some(level), Some(name), Some(value), at] = ["level", "name", "value", "at"].map(part) else {
        reader.fault(span, &Fault::IncompleteRaw);
        return None;
    };
    let level = constant(reader, "level", level, None, constants::level_number);
    // Without a level nothing can be said of the name.
    let number = |text: &str| level.map_or(Some(0), |level| constants::option_number(level, text));
    let name = constant(reader, "name", name, level, number);
    let form = Form::Toml(value.get_ref());
    if let (Some(level), Some(name)) = (level, name)
        && let Some(fault) = wrong_shape(level, name, form)
    {
        reader.fault(value.span(), &fault);
        return None;
    }
    let value = match (form.boolean(), form.text()) {
        (Some(on), _) => Value::Int(i32::from(on)),
        (None, Some(text)) if text.len() <= 255 && !text.contains('\0') => Value::Text(text.into()),
        _ => {
            let range = (i64::from(i32::MIN), i64::from(u32::MAX));
            Value::Int(reader.integer("value", value.span(), form, range, "a string, or ")? as u32 as i32)
        }
    };
    let (level, name) = (level?, name?);
    let phases = match at {
        Some(at) => phase(reader, at)?,
        None if constants::BEFORE_BIND.contains(&(level, name)) => Phases::of(&[Phase::Bind, Phase::Connect]),
        None => Phases::of(&[Phase::Connect, Phase::Listen, Phase::Accept]),
    };
    Some(RawOption { level, name, value, phases })
}

/// When an entry is set, where it says so.
fn phase(reader: &mut Reader<'_>, at: &Spanned<DeValue<'_>>) -> Option<Phases> {
    let form = Form::Toml(at.get_ref());
    Some(Phases::of(match form.text() {
        Some("bind") => &[Phase::Bind],
        Some("connect") => &[Phase::Connect],
        Some("listen") => &[Phase::Listen, Phase::Accept],
        Some("accept") => &[Phase::Accept, Phase::AcceptAlways],
        _ => {
            reader.fault(at.span(), &Fault::NoCall(form));
            return None;
        }
    }))
}

/// A number, or the kernel's name of one.
fn constant(
    reader: &mut Reader<'_>,
    part: &str,
    value: &Spanned<DeValue<'_>>,
    level: Option<i32>,
    number: impl Fn(&str) -> Option<i32>,
) -> Option<i32> {
    let form = Form::Toml(value.get_ref());
    let Some(text) = form.text() else {
        let number = reader.integer(part, value.span(), form, (0, i64::from(i32::MAX)), "a kernel name, or ");
        return number.map(|number| number as i32);
    };
    let found = number(text);
    if found.is_none() {
        reader.fault(value.span(), &Fault::UnknownConstant { part, text, level });
    }
    found
}

/// What is wrong with a value that the kernel would take for something else than it says, or refuse.
fn wrong_shape(level: i32, number: i32, form: Form<'_>) -> Option<Fault<'_>> {
    let shape = constants::shape(level, number)?;
    let option = constants::option_name(level, number)?;
    match (shape, form.text()) {
        (constants::Shape::Structure(key), _) => Some(Fault::Structure { option, key }),
        (constants::Shape::Number, Some(text)) => Some(Fault::TextForNumber { option, text }),
        (constants::Shape::Text, None) => Some(Fault::NumberForText { option, form }),
        _ => None,
    }
}
