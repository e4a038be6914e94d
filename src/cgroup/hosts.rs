//! Host names in rules: all of them as one machine that reads a name as DNS has it in a message. Pure.
//!
//! The machine is that of names of executables. Each label of a name has a dot before it, the first as well, so that no step is
//! another one; what a rule has is read as if it began with a dot.

use std::borrow::Cow;
use std::collections::BTreeSet;

use policy::matcher::Pattern;
use policy::{Glob, Rules};

use crate::names::{Passed, State, machine};
use crate::tables::{Class, TooLarge};

/// Bytes that a name may have, in ASCII. None is 0: there is what follows the end of a name, its class.
pub(crate) const SYMBOLS: usize = 128;
/// States that there may be: a kilobyte each. A name without wildcards needs one for each of its characters, at most.
const MOST_STATES: usize = 16_384;

/// All host names in `to`.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    /// The first is the one in which it starts. None if rules name no host, or are not to be asked for names.
    pub(crate) states: Vec<State>,
    /// By which of the names a host is known. The first is by none.
    pub(crate) classes: Vec<Passed>,
    /// As rules have them: in lower case, without a trailing dot.
    names: Vec<Box<str>>,
}

impl Hosts {
    /// Those of a policy's rules.
    ///
    /// # Errors
    /// [`TooLarge`]
    pub(crate) fn of(rules: &Rules) -> Result<Self, TooLarge> {
        let names: BTreeSet<&str> = rules.rules().flat_map(|rule| rule.hosts()).filter_map(Pattern::host).collect();
        let names: Vec<Box<str>> = names.into_iter().map(Into::into).collect();
        if names.is_empty() {
            return Ok(Self::none());
        }
        let lists: Vec<Box<[Glob]>> = names.iter().map(|name| [Glob::new(&format!(".{name}"))].into()).collect();
        let what = "states for the host names (fewer names and wildcards need fewer)";
        let (mut states, classes) = machine(&lists, TooLarge { what, limit: MOST_STATES })?;
        for state in &mut states {
            let (lower, upper) = (usize::from(b'a'), usize::from(b'A'));
            state.next.copy_within(lower..=usize::from(b'z'), upper);
        }
        Ok(Self { states, classes, names })
    }

    /// Nothing is known of hosts.
    pub(crate) fn none() -> Self {
        Self { classes: vec![Passed::new()], ..Self::default() }
    }

    /// Whether rules ask for names at all.
    pub(crate) fn are_asked_for(&self) -> bool {
        !self.states.is_empty()
    }

    /// What follows each byte in each state, by the number of both; each class adds so many to a class of networks.
    pub(crate) fn steps(&self, of_class: Class) -> impl Iterator<Item = [u8; 4]> {
        let of_state = move |state: &State| {
            let next = state.next.iter().take(SYMBOLS).skip(1).copied();
            std::iter::once(of_class * state.class).chain(next).map(u32::to_ne_bytes).collect::<Vec<_>>()
        };
        self.states.iter().flat_map(of_state)
    }

    /// A pattern as it is for the addresses of hosts of this class: one that names them is for any address, one that names others
    /// is none.
    pub(crate) fn seen_by<'a>(&self, class: &Passed, pattern: &'a Pattern) -> Option<Cow<'a, Pattern>> {
        let Some(host) = pattern.host() else { return Some(Cow::Borrowed(pattern)) };
        let place = self.names.binary_search_by(|name| (**name).cmp(host)).ok()?;
        class.contains(&place).then(|| Cow::Owned(pattern.anywhere()))
    }
}

/// Bytes of the longest label (RFC 1035, section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// The name at the beginning of these bytes, as DNS has it in a message: labels with their lengths. None if it is none that rules
/// can mean: one that is not complete, or whose labels have other bytes than ASCII, or a dot or zero.
pub(crate) fn text(bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut text, mut rest) = (Vec::new(), bytes);
    while let Some((&length, behind)) = rest.split_first().filter(|(length, _)| **length > 0) {
        let (label, behind) =
            behind.split_at_checked(length.into()).filter(|_| usize::from(length) <= LONGEST_LABEL)?;
        if label.iter().any(|byte| matches!(byte, 0 | b'.' | 0x80..)) {
            return None;
        }
        text.extend_from_slice(if text.is_empty() { b"" } else { b"." });
        text.extend_from_slice(label);
        rest = behind;
    }
    (!rest.is_empty()).then_some(text)
}
