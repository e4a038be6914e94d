//! What is said about a source: what it asks for and sockopt.toml cannot say, with its place.

use std::ops::Range;

/// A place in one of the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index of the source.
    pub source: usize,
    /// The bytes that are meant.
    pub span: Range<usize>,
}

/// A stable name for each kind of note, shown in brackets before it.
macro_rules! kinds {
    ($($name:ident $code:literal $is_lost:literal $meaning:literal)*) => {
        /// What kind of note it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = $meaning] $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name: lower case and hyphens.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What it means, in a line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// Whether something that the file asks for is not in the outcome: a fault with `--strict`.
            #[must_use]
            pub const fn is_lost(self) -> bool {
                match self { $(Self::$name => $is_lost,)* }
            }
        }
    };
}

kinds! {
    Unreadable "unreadable" true "a part of the file is malformed"
    Template "template" true "a Helm template, which has no values yet"
    OutOfRange "out-of-range" true "the kernel does not take this value"
    NoMatch "no-match" true "no rule can say which sockets these are"
    NotASocket "not-a-socket" true "there is no socket with this port"
    NotHere "not-here" true "an option that a rule of this kind cannot set"
    NotAnOption "not-an-option" true "no socket option does this"
    WithoutEffect "without-effect" true "the file asks for something that has no effect by itself"
    NoInteger "no-integer" true "a buffer that is no integer"
    Elsewhere "elsewhere" true "the object that this one refers to is not in the files"
    OwnTimer "own-timer" true "a timer or limit of the proxy's own"
    Fraction "fraction" true "a fraction of a second, which is cut off"
    Changed "changed" false "a value that means something else than it looks"
    Hint "hint" false "what else is to be known of the outcome"
}

/// A note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What kind of note it is.
    pub kind: Kind,
    /// Where it belongs; None for the sources as a whole.
    pub place: Option<Place>,
    /// What is the matter.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// The most that is said: of a file that is wrong throughout the rest is only counted.
pub(crate) const MOST: usize = 200;

/// Collects them.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) list: Vec<Note>,
    pub(crate) more: usize,
    /// Whether one is about something lost, shown or not.
    pub(crate) has_lost: bool,
}

impl Notes {
    pub(crate) fn add(&mut self, kind: Kind, place: &Place, message: impl Into<String>, help: impl Into<Help>) {
        self.has_lost |= kind.is_lost();
        if self.list.len() == MOST {
            self.more += 1;
            return;
        }
        let note = Note { kind, place: Some(place.clone()), message: message.into(), help: help.into().0 };
        if !self.list.contains(&note) {
            self.list.push(note);
        }
    }
}

/// An optional help line.
pub(crate) struct Help(pub(crate) Option<String>);

impl From<&str> for Help {
    fn from(text: &str) -> Self {
        Self((!text.is_empty()).then(|| text.to_owned()))
    }
}
impl From<String> for Help {
    fn from(text: String) -> Self {
        Self((!text.is_empty()).then_some(text))
    }
}
impl From<Option<String>> for Help {
    fn from(text: Option<String>) -> Self {
        Self(text)
    }
}
