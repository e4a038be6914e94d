//! What is wrong with a configuration: where, why, and what would be right.

use std::fmt;
use std::ops::Range;

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

/// Whether a problem refuses the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is not taken.
    Error,
    /// It is taken, but probably not what was meant.
    Warning,
    /// It is taken, and does less or more than one might think.
    Advice,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Advice => "advice",
        })
    }
}

/// One thing wrong, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Error, warning or advice.
    pub severity: Severity,
    /// Index of the source among those of the [`Configuration`](crate::Configuration).
    pub source: usize,
    /// The bytes of the source that are meant.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What would be right: the range, the nearest name.
    pub help: Option<String>,
}

impl Problem {
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
        let Problem { severity, message, help, .. } = self.problem;
        if let Some(source) = self.sources.get(self.problem.source) {
            let (line, column) = source.position(self.problem.span.start);
            write!(f, "{}:{line}:{column}: ", Plain(&source.name))?;
        }
        write!(f, "{severity}: {}", Plain(message))?;
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

/// Collects problems while a configuration is read.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn error(
        &mut self,
        source: usize,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<Help>,
    ) {
        self.push(Severity::Error, source, span, message.into(), help.into().0);
    }

    pub(crate) fn warning(
        &mut self,
        source: usize,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<Help>,
    ) {
        self.push(Severity::Warning, source, span, message.into(), help.into().0);
    }

    pub(crate) fn advice(
        &mut self,
        source: usize,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<Help>,
    ) {
        self.push(Severity::Advice, source, span, message.into(), help.into().0);
    }

    fn push(&mut self, severity: Severity, source: usize, span: Range<usize>, message: String, help: Option<String>) {
        self.0.push(Problem { severity, source, span, message, help });
    }

    /// Those of another collection too.
    pub(crate) fn append(&mut self, mut other: Self) {
        if self.0.is_empty() {
            *self = other;
        } else {
            self.0.append(&mut other.0);
        }
    }

    /// All of them, in the order of the text, errors and the rest apart.
    pub(crate) fn into_sorted(mut self) -> (Vec<Problem>, Vec<Problem>) {
        let place = |problem: &Problem| (problem.source, problem.span.start, problem.span.end);
        self.0.sort_by(|left, right| place(left).cmp(&place(right)).then_with(|| left.message.cmp(&right.message)));
        // A fault in [defaults] shows in every rule that overlays it; once is enough.
        self.0.dedup();
        self.0.into_iter().partition(|problem| problem.severity == Severity::Error)
    }
}

/// An optional help line.
pub(crate) struct Help(Option<String>);

impl From<&str> for Help {
    fn from(text: &str) -> Self {
        Self(Some(text.to_owned()))
    }
}
impl From<String> for Help {
    fn from(text: String) -> Self {
        Self(Some(text))
    }
}
impl From<Option<String>> for Help {
    fn from(text: Option<String>) -> Self {
        Self(text)
    }
}

/// The known name that `given` was probably meant to be.
pub(crate) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase();
    known
        .map(|name| {
            let lower = name.to_lowercase();
            // A name with something after it, or cut short, is near however long the rest.
            let begins = given.len() > 3 && (given.starts_with(&lower) && lower.len() > 3 || lower.starts_with(&given));
            (if begins { 1 } else { strsim::damerau_levenshtein(&given, &lower) }, name)
        })
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
