//! Carries a plan out on one socket: each setting by itself, so that one that fails does not keep the next from being made.

use std::{fmt, ptr};

use policy::plan::Plan;
use policy::{Bypass, Decision, Endpoint, Enforce, Phase, Phases, Setting};

use crate::describe::{Kind, kind};
use crate::errno::Errno;
use crate::ffi;
use crate::fill::{self, AsNew, Left};
use crate::filter;
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
/// already to find out what kind that is. `kind_of` is asked where that does not tell; `rule_for` is the decision about another
/// peer.
///
/// # Errors
/// Why nothing is set.
#[inline]
pub fn before_connect<'a>(
    fd: i32,
    plan: Plan<'a>,
    kind_of: impl FnOnce(i32) -> Option<Kind>,
    rule_for: impl FnOnce(Endpoint) -> Decision<'a>,
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
    // A connect that is repeated, or cannot succeed: the program has had the last word since. Only a socket of UDP goes elsewhere so,
    // and may meet another rule there.
    if plan.enforce() != Enforce::Always
        && let Ok(peer) = ffi::peer_address(fd)
    {
        let is_same_rule = |peer| ptr::eq(rule_for(peer).profile(), plan.decision().profile());
        if plan.phases() == as_tcp.phases() || peer.endpoint().is_ok_and(is_same_rule) {
            return Err(Bypass::NothingToSet);
        }
    }
    plan.bypass().map_or(Ok((plan, None)), Err)
}

/// Makes the setting that tells whether a socket is TCP; None if it is not, or if there is none that does.
pub fn probed(fd: i32, probe: Option<&Setting>) -> Option<&Setting> {
    if filter::is_expected() && is_known_not_to_be_tcp(fd) {
        return None;
    }
    probe.filter(|setting| setting::set(fd, setting) == Outcome::Done)
}

/// The filter of a program without TCP may end it at an option of TCP (chronyd's does). Where it refuses to tell, it is no such
/// filter.
#[cold]
#[inline(never)]
fn is_known_not_to_be_tcp(fd: i32) -> bool {
    matches!(kind(fd), Ok(Kind::Udp | Kind::Other) | Err(Errno(libc::EBADF | libc::ENOTSOCK)))
}

/// What keeps a setting from being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// Only what the program has left alone is set, and whether it has cannot be read.
    Unknown(Errno),
    /// The kernel refuses it.
    Failed(Errno),
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(errno) => {
                write!(f, "is left out: whether the program has set it is not known: {errno}")
            }
            Self::Failed(errno) => write!(f, "failed: {errno}"),
        }
    }
}

/// Which settings of a plan were made, which were left to the program and which the socket does not have, by their places in
/// the plan: nothing may be allocated here, and mostly nobody asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Enacted {
    is_first_made: bool,
    made: Places,
    chosen: Places,
    absent: Places,
}

impl Enacted {
    /// Makes settings, but for the `first`, which was made already, and for what the program has chosen where only the rest is
    /// filled in. `hindered` is told of each that was not made for another reason.
    #[inline]
    pub fn make<'a>(
        fd: i32,
        enforce: Enforce,
        first: Option<&'a Setting>,
        settings: impl Iterator<Item = &'a Setting> + Clone,
        new: &AsNew,
        mut hindered: impl FnMut(&'a Setting, Hindrance),
    ) -> Self {
        let unknown = |setting, errno| hindered(setting, Hindrance::Unknown(errno));
        let enactment = Enactment::begin(fd, enforce, settings.clone(), new, unknown);
        let mut enacted = Self { is_first_made: first.is_some(), ..Self::default() };
        for (place, setting) in others(first, settings).enumerate() {
            match enactment.make(setting) {
                Outcome::LeftToProgram => enacted.chosen.note(place),
                Outcome::Done => enacted.made.note(place),
                Outcome::Absent => enacted.absent.note(place),
                // Another thread has closed it.
                Outcome::Failed(Errno(libc::EBADF | libc::ENOTSOCK)) => {}
                Outcome::Failed(errno) => hindered(setting, Hindrance::Failed(errno)),
            }
        }
        enacted
    }

    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.is_first_made && [self.made, self.chosen, self.absent] == [Places::default(); 3]
    }

    /// For a line of the log, with the same settings: ` TCP_NODELAY=1; left to the program: linger`.
    pub fn of<'a>(
        self,
        first: Option<&'a Setting>,
        settings: impl Iterator<Item = &'a Setting> + Clone,
    ) -> impl fmt::Display {
        Told { enacted: self, first, settings }
    }
}

/// What was made, and what was not.
struct Told<'a, I> {
    enacted: Enacted,
    first: Option<&'a Setting>,
    settings: I,
}

impl<'a, I: Iterator<Item = &'a Setting> + Clone> Told<'a, I> {
    fn at(&self, places: Places) -> impl Iterator<Item = &'a Setting> {
        let is_there = move |(place, setting)| places.has(place).then_some(setting);
        others(self.first, self.settings.clone()).enumerate().filter_map(is_there)
    }
}

impl<'a, I: Iterator<Item = &'a Setting> + Clone> fmt::Display for Told<'a, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// So many are written out.
        const MOST: usize = 16;
        let Enacted { is_first_made, made, chosen, absent } = self.enacted;
        let mut written = self.first.into_iter().chain(self.at(made)).take(MOST);
        written.try_for_each(|setting| write!(f, " {setting}"))?;
        let count = usize::from(is_first_made) + made.count();
        match count.checked_sub(MOST) {
            Some(more) if more > 0 => write!(f, " and {more} more")?,
            _ => {}
        }
        let mut is_first = count == 0;
        for (title, places) in [("left to the program", chosen), ("not available with MPTCP", absent)] {
            if places.count() == 0 {
                continue;
            }
            write!(f, "{} {title}:", if std::mem::take(&mut is_first) { "" } else { ";" })?;
            let mut last = None;
            let mut keys = self.at(places).map(|setting| setting.key).filter(|key| last.replace(*key) != Some(*key));
            keys.try_for_each(|key| write!(f, " {}", key.name()))?;
        }
        Ok(())
    }
}

/// All but the first.
fn others<'a>(
    first: Option<&'a Setting>,
    settings: impl Iterator<Item = &'a Setting> + Clone,
) -> impl Iterator<Item = &'a Setting> + Clone {
    settings.filter(move |setting| first.is_none_or(|first| !std::ptr::eq(first, *setting)))
}

/// Places in a plan: of the first 64 which, of what is behind them how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Places {
    first: u64,
    more: usize,
}

impl Places {
    fn note(&mut self, place: usize) {
        match 1_u64.checked_shl(place as u32) {
            Some(bit) => self.first |= bit,
            None => self.more += 1,
        }
    }

    fn has(self, place: usize) -> bool {
        1_u64.checked_shl(place as u32).is_some_and(|bit| self.first & bit != 0)
    }

    fn count(self) -> usize {
        self.first.count_ones() as usize + self.more
    }
}
