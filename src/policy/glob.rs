//! Entries of `process` and `command`: texts with wildcards.

use std::fmt;

use wildmatch::WildMatch;

/// A text in which `*` stands for any characters, none too, and `?` for one. Nothing else in it is special, and the whole
/// of a name has to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Box<str>);

impl Glob {
    /// Of a text as it is written.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it means a text.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        WildMatch::new(&self.0).matches(text)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a glob matches nothing that another does not. Where wildcards make that hard to tell, no.
pub(crate) fn is_within(inner: &str, outer: &str) -> bool {
    // Taken as a text, its wildcards are met by wildcards only; `?` stands for less than `*`.
    inner == outer || (!inner.contains('*') || !outer.contains('?')) && WildMatch::new(outer).matches(inner)
}

/// Whether whatever some of `inner` matches is matched by some of `outer`; none is everything.
pub(crate) fn includes(outer: Option<&[Glob]>, inner: Option<&[Glob]>) -> bool {
    let Some(outer) = outer else { return true };
    let everything = [Glob::new("*")];
    inner.unwrap_or(&everything).iter().all(|inner| outer.iter().any(|outer| is_within(inner.as_str(), outer.as_str())))
}
