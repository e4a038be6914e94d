//! Carries a plan out on one socket: each setting by itself, so that one that fails does not keep the next from being made.

use std::fmt;

use policy::plan::Plan;
use policy::{Bypass, Enforce, Phase, Phases, Setting};

use crate::describe::Kind;
use crate::errno::Errno;
use crate::ffi;
use crate::fill::{self, AsNew, Left};
use crate::setting::{self, Outcome};

/// The settings of one plan on one socket.
#[derive(Debug, Clone, Copy)]
pub struct Enactment {
    fd: i32,
    /// What the program has left at the system's default, where only that is set.
    left: Option<Left>,
}

impl Enactment {
    /// Before the first setting. Where only what the program has left alone is filled in, the socket is looked at, and
    /// `unknown` is told of each option that could not be read; it is taken for the program's.
    pub fn begin<'a>(
        fd: i32,
        enforce: Enforce,
        settings: impl Iterator<Item = &'a Setting>,
        new: &AsNew,
        unknown: impl FnMut(&'a Setting, Errno),
    ) -> Self {
        let left = (enforce == Enforce::Fill).then(|| fill::left(fd, settings, new, unknown));
        Self { fd, left }
    }

    /// Whether a setting is made; else the program has chosen.
    #[must_use]
    pub fn makes(&self, setting: &Setting) -> bool {
        self.left.is_none_or(|left| left.has(setting))
    }

    /// Makes one.
    #[must_use]
    #[inline]
    pub fn make(&self, setting: &Setting) -> Outcome {
        match self.left {
            None => setting::set(self.fd, setting),
            Some(left) if left.has(setting) => fill::fill_in(self.fd, setting),
            Some(_) => Outcome::LeftToProgram,
        }
    }
}

/// What is to be set on a socket of this kind before it connects, by a plan for whatever connects; and which of it was set
/// already to find out what kind that is. `kind_of` is asked where that does not tell.
///
/// # Errors
/// Why nothing is set.
#[inline]
pub fn before_connect<'a>(
    fd: i32,
    plan: Plan<'a>,
    kind_of: impl FnOnce(i32) -> Option<Kind>,
) -> Result<(Plan<'a>, Option<&'a Setting>), Bypass> {
    if let Some(reason) = plan.bypass() {
        return Err(reason);
    }
    let as_tcp = plan.at(Phases::of(&[Phase::Connect]));
    if let Some(first) = probed(fd, as_tcp.probe()) {
        return Ok((as_tcp, Some(first)));
    }
    let plan = match kind_of(fd).ok_or(Bypass::NotTcp)? {
        Kind::Tcp | Kind::Mptcp => as_tcp,
        Kind::Udp => plan.at(Phases::of(&[Phase::Datagram])),
        Kind::Other => return Err(Bypass::NotTcp),
    };
    // A connect that is repeated, to see whether it is done: the program has had the last word since.
    if plan.enforce() != Enforce::Always && plan.phases() == as_tcp.phases() && ffi::peer_address(fd).is_ok() {
        return Err(Bypass::NothingToSet);
    }
    plan.bypass().map_or(Ok((plan, None)), Err)
}

/// Makes the setting that tells whether a socket is TCP; None if it is not, or if there is none that does.
pub fn probed(fd: i32, probe: Option<&Setting>) -> Option<&Setting> {
    probe.filter(|setting| setting::set(fd, setting) == Outcome::Done)
}

/// The settings that were made, or were not, for the line at debug.
#[derive(Debug, Default)]
pub struct Made<'a> {
    settings: [Option<&'a Setting>; 16],
    /// How many.
    pub count: usize,
}

impl<'a> Made<'a> {
    /// Adds one.
    pub fn note(&mut self, setting: &'a Setting) {
        if let Some(slot) = self.settings.get_mut(self.count) {
            *slot = Some(setting);
        }
        self.count += 1;
    }

    /// Their keys, each once.
    #[must_use]
    pub fn keys(&self) -> Keys<'_, 'a> {
        Keys(self)
    }
}

/// Keys, as they are shown.
#[derive(Debug)]
pub struct Keys<'m, 'a>(&'m Made<'a>);

impl fmt::Display for Keys<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.0.settings.iter().flatten().map(|setting| setting.key);
        let mut last = None;
        keys.filter(|key| last.replace(*key) != Some(*key)).try_for_each(|key| write!(f, " {}", key.name()))
    }
}

impl fmt::Display for Made<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.iter().flatten().try_for_each(|setting| write!(f, " {setting}"))?;
        match self.count.checked_sub(self.settings.len()) {
            Some(more) if more > 0 => write!(f, " and {more} more"),
            _ => Ok(()),
        }
    }
}
