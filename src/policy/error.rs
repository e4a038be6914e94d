//! What is wrong with a configuration: where, why, and what would be right.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Deref, Range};

use crate::code::{Code, Severity};
use crate::key::Key;
use crate::plain::Plain;

/// Where a text came from: a file, or an environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file's path or the variable's name.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// Line and column (in characters), both from 1, of a byte offset.
    #[must_use]
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// One thing wrong, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind of problem it is.
    pub code: Code,
    /// Index of the source among those of the [`Configuration`](crate::Configuration).
    pub source: usize,
    /// The bytes of the source that are meant.
    pub span: Range<usize>,
    /// The line on which they begin, from 1.
    pub line: usize,
    /// Their column on it, in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right: the range, the nearest name.
    pub help: Option<String>,
    /// What to write so that it is gone, where that is one value of one key.
    pub remedy: Option<Remedy>,
}

/// A value to be written into the table that a problem stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// The key.
    pub key: Key,
    /// Its value, in TOML.
    pub toml: String,
}

impl Problem {
    /// Error, warning or advice.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// `file:line:column: error: message; help`, on one line.
    #[must_use]
    pub fn one_line<'a>(&'a self, sources: &'a [Source]) -> OneLine<'a> {
        OneLine { problem: self, sources }
    }
}

/// A [`Problem`] on a single line, whatever a file says.
#[derive(Debug)]
pub struct OneLine<'a> {
    problem: &'a Problem,
    sources: &'a [Source],
}

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { code, line, column, message, help, .. } = self.problem;
        if let Some(source) = self.sources.get(self.problem.source) {
            write!(f, "{}:{line}:{column}: ", Plain(&source.name))?;
        }
        write!(f, "{}: {}", code.severity(), Plain(message))?;
        if let Some(help) = help {
            write!(f, "; {}", Plain(help))?;
        }
        Ok(())
    }
}

/// A number for a set of problems, by which the library knows the warnings that the command has shown already
/// (`SOCKOPT_CHECKED`): of their lines in any order, by FNV-1a.
#[must_use]
pub fn digest(problems: &[Problem], sources: &[Source]) -> u64 {
    struct Fnv(u64);
    impl fmt::Write for Fnv {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = text.bytes().fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            Ok(())
        }
    }
    let of_line = |problem: &Problem| {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        let _ = fmt::write(&mut hash, format_args!("{}", problem.one_line(sources)));
        hash.0
    };
    problems.iter().map(of_line).fold(0, u64::wrapping_add)
}

/// The first problems of a configuration, in the order of the text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// At most [`MOST`].
    pub problems: Vec<Problem>,
    /// How many there are beyond these.
    pub more: usize,
}

impl Listed {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.problems.len() + self.more
    }
}

impl Deref for Listed {
    type Target = [Problem];
    fn deref(&self) -> &[Problem] {
        &self.problems
    }
}

impl<'a> IntoIterator for &'a Listed {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;
    fn into_iter(self) -> Self::IntoIter {
        self.problems.iter()
    }
}

/// So many errors are kept, and so many other problems: a file that is no configuration may have one for each character,
/// and is read in somebody else's program.
pub const MOST: usize = 100;
/// Bytes of a message or a help. A text of any length may be quoted in them; what is too much is cut out of the middle.
const LONGEST: usize = 1_000;

/// What a problem says: the message by Display, and what would be right.
pub(crate) trait Words: fmt::Display {
    /// What kind of problem it is.
    fn code(&self) -> Code;
    /// What would be right.
    fn help(&self) -> Option<String>;
    /// The one value of one key that would be right, where it is one.
    fn remedy(&self) -> Option<Remedy> {
        None
    }
}

/// Collects problems while a configuration is read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Problems {
    errors: First,
    others: First,
}

impl Problems {
    /// Adds one. Of a file that is wrong throughout, most are only counted, and not worded.
    pub(crate) fn add(&mut self, source: usize, span: Range<usize>, words: &impl Words) {
        let code = words.code();
        let of = self.of(code.severity());
        let (message, help, remedy) = match of.keeps((source, span.start)) {
            true => (shortened(words.to_string()), words.help().map(shortened), words.remedy()),
            false => Default::default(),
        };
        of.push(ByPlace(Problem { code, source, span, line: 0, column: 0, message, help, remedy }));
    }

    fn of(&mut self, severity: Severity) -> &mut First {
        if severity == Severity::Error { &mut self.errors } else { &mut self.others }
    }

    /// Whether there is no error.
    pub(crate) fn has_no_errors(&self) -> bool {
        self.errors.kept.is_empty()
    }

    /// Those of another collection too.
    pub(crate) fn append(&mut self, other: Self) {
        for (own, other) in [(&mut self.errors, other.errors), (&mut self.others, other.others)] {
            other.kept.into_iter().for_each(|problem| own.push(problem));
            own.more += other.more;
        }
    }

    /// All of them, in the order of the text, errors and the rest apart. `texts` are those of the sources.
    pub(crate) fn into_sorted<'a>(self, texts: impl Iterator<Item = &'a str> + Clone) -> (Listed, Listed) {
        (self.errors.into_listed(texts.clone()), self.others.into_listed(texts))
    }
}

/// The first problems by their place.
#[derive(Debug, Clone, Default)]
struct First {
    kept: BTreeSet<ByPlace>,
    more: usize,
}

impl First {
    fn keeps(&self, place: (usize, usize)) -> bool {
        self.kept.len() < MOST || self.kept.last().is_some_and(|ByPlace(last)| place <= (last.source, last.span.start))
    }

    fn push(&mut self, problem: ByPlace) {
        if self.kept.len() == MOST && self.kept.last().is_some_and(|last| *last < problem) {
            self.more += 1;
        } else if self.kept.insert(problem) && self.kept.len() > MOST {
            // A fault in [defaults] shows in every rule that overlays it; once is enough.
            self.kept.pop_last();
            self.more += 1;
        }
    }

    /// With their lines and columns, for which each text is gone through once.
    fn into_listed<'a>(self, mut texts: impl Iterator<Item = &'a str>) -> Listed {
        let (mut text, mut next_text) = ("", 0);
        let (mut offset, mut line, mut column) = (0, 1, 1);
        let place = |ByPlace(mut problem): ByPlace| {
            while next_text <= problem.source {
                text = texts.next().unwrap_or_default();
                (next_text, offset, line, column) = (next_text + 1, 0, 1, 1);
            }
            let passed = text.get(offset..problem.span.start).unwrap_or_default();
            offset += passed.len();
            line += passed.bytes().filter(|byte| *byte == b'\n').count();
            let on_this_line = passed.rsplit('\n').next().unwrap_or_default();
            column = on_this_line.chars().count() + if on_this_line.len() == passed.len() { column } else { 1 };
            (problem.line, problem.column) = (line, column);
            problem
        };
        Listed { problems: self.kept.into_iter().map(place).collect(), more: self.more }
    }
}

/// A problem, compared by where it is, then by what it says.
#[derive(Debug, Clone)]
struct ByPlace(Problem);

impl Ord for ByPlace {
    fn cmp(&self, other: &Self) -> Ordering {
        let key =
            |ByPlace(problem): &'_ Self| (problem.source, problem.span.start, problem.span.end, problem.severity());
        let text = |one: &Self, other: &Self| (&one.0.message, &one.0.help).cmp(&(&other.0.message, &other.0.help));
        key(self).cmp(&key(other)).then_with(|| text(self, other))
    }
}
impl PartialOrd for ByPlace {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for ByPlace {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for ByPlace {}

/// A text of bounded length: its end mostly says what is wrong with what is quoted before.
fn shortened(text: String) -> String {
    if text.len() <= LONGEST {
        return text;
    }
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let head = (0..=LONGEST * 2 / 3).rev().find(boundary).and_then(|end| text.get(..end));
    let tail = (text.len() - LONGEST / 4..text.len()).find(boundary).and_then(|start| text.get(start..));
    format!("{} […] {}", head.unwrap_or_default(), tail.unwrap_or_default())
}

/// A rule by its name, or by its number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Title<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) number: usize,
}

impl fmt::Display for Title<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "rule \"{name}\""),
            None => write!(f, "rule {}", self.number),
        }
    }
}

/// The known name that `given` was probably meant to be.
pub(crate) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase();
    let length = given.chars().count();
    known
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let most = (name.len() / 3).max(1);
            // A name with something after it, or cut short, is near however long the rest.
            let begins = given.len() > 3 && (given.starts_with(&lower) && lower.len() > 3 || lower.starts_with(&given));
            // Every character more is a step: no table is made for a text that is too long anyway.
            let distance = match begins {
                true => 1,
                false if length.abs_diff(lower.len()) > most => return None,
                false => strsim::damerau_levenshtein(&given, &lower),
            };
            (distance <= most).then_some((distance, name))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
