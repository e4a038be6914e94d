//! `check --fix`: writes the remedies of advice into the text, one after the other, each only if the configuration is then still without
//! errors and has less advice. Comments and order are kept.

use std::ops::Range;

use policy::{Configuration, Problem, Process, Remedy, Source};
use similar::TextDiff;
use toml_edit::{Document, DocumentMut, Item, Table, Value};

use crate::{output, sysctl};

/// The text with every remedy that helps; None if there is none.
pub(crate) fn fix(source: &Source, allowed: &[&String]) -> Option<String> {
    let mut text = source.text.clone();
    let mut left = advice(&text, allowed)?;
    // Each round writes one; what cannot be written is passed over.
    let mut passed_over = 0;
    while let Some(problem) = left.iter().filter(|problem| problem.remedy.is_some()).nth(passed_over) {
        let written = problem.remedy.as_ref().and_then(|remedy| with(&text, &problem.span, remedy));
        let after = written.and_then(|text| Some((advice(&text, allowed)?, text)));
        match after {
            Some((less, written)) if less.len() < left.len() => (left, text) = (less, written),
            _ => passed_over += 1,
        }
    }
    (text != source.text).then_some(text)
}

/// All advice on a text; None if it has errors.
fn advice(text: &str, allowed: &[&String]) -> Option<Vec<Problem>> {
    let document = Some(Source { name: String::new(), text: text.to_owned() });
    let configuration = Configuration { document, variables: Vec::new() };
    let parsed = configuration.parse();
    parsed.compile(&Process::default()).rules.ok()?;
    let listed = parsed.advise(&sysctl::read().0);
    let is_said = |problem: &Problem| !allowed.iter().any(|code| *code == problem.code.name());
    Some(listed.problems.into_iter().filter(is_said).collect())
}

/// Where a table is: `[defaults]`, or so many rules before it.
enum Place {
    Defaults,
    Rule(usize),
}

/// The text with a remedy in the table in which a place is.
fn with(text: &str, span: &Range<usize>, remedy: &Remedy) -> Option<String> {
    let document = Document::parse(text).ok()?;
    let has = |table: &Table| {
        table.iter().any(|(_, item)| item.span().is_some_and(|own| own.start <= span.start && span.end <= own.end))
    };
    let rules = document.get("rule").and_then(Item::as_array_of_tables);
    let place = match document.get("defaults").and_then(Item::as_table) {
        Some(table) if has(table) => Place::Defaults,
        _ => Place::Rule(rules?.iter().position(has)?),
    };
    let mut document: DocumentMut = document.into_mut();
    let table = match place {
        Place::Defaults => document.get_mut("defaults")?.as_table_mut()?,
        Place::Rule(at) => document.get_mut("rule")?.as_array_of_tables_mut()?.get_mut(at)?,
    };
    let mut value: Value = remedy.toml.parse().ok()?;
    match table.get_mut(remedy.key.name()).and_then(Item::as_value_mut) {
        // A comment behind the value stays.
        Some(own) => {
            *value.decor_mut() = own.decor().clone();
            *own = value;
        }
        None => {
            table.insert(remedy.key.name(), Item::Value(value));
        }
    }
    Some(document.to_string())
}

/// The difference, as diff -u has it.
pub(crate) fn difference(source: &Source, text: &str) -> String {
    let name = output::plain(&source.name);
    TextDiff::from_lines(source.text.as_str(), text).unified_diff().header(&name, &name).to_string()
}
