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

/// What was made and what was left to the program, for a line of the log: ` TCP_NODELAY=1; left to the program: linger`.
#[derive(Debug, Default)]
pub struct Enacted<'a> {
    made: FirstSettings<'a>,
    chosen: FirstSettings<'a>,
}

impl<'a> Enacted<'a> {
    /// Makes settings, but for the `first`, which was made already, and for what the program has chosen where only the rest is
    /// filled in. `hindered` is told of each that was not made for another reason.
    #[inline]
    pub fn make(
        &mut self,
        fd: i32,
        enforce: Enforce,
        first: Option<&'a Setting>,
        settings: impl Iterator<Item = &'a Setting> + Clone,
        new: &AsNew,
        mut hindered: impl FnMut(&'a Setting, Hindrance),
    ) {
        let unknown = |setting, errno| hindered(setting, Hindrance::Unknown(errno));
        let enactment = Enactment::begin(fd, enforce, settings.clone(), new, unknown);
        first.into_iter().for_each(|setting| self.made.note(setting));
        for setting in settings.filter(|setting| first.is_none_or(|first| !std::ptr::eq(first, *setting))) {
            match enactment.make(setting) {
                Outcome::LeftToProgram => self.chosen.note(setting),
                Outcome::Done => self.made.note(setting),
                Outcome::Absent => {}
                // Another thread has closed it.
                Outcome::Failed(Errno(libc::EBADF | libc::ENOTSOCK)) => {}
                Outcome::Failed(errno) => hindered(setting, Hindrance::Failed(errno)),
            }
        }
    }

    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.made.count == 0 && self.chosen.count == 0
    }
}

impl fmt::Display for Enacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { made, chosen } = self;
        made.all().try_for_each(|setting| write!(f, " {setting}"))?;
        match made.count.checked_sub(made.settings.len()) {
            Some(more) if more > 0 => write!(f, " and {more} more")?,
            _ => {}
        }
        if chosen.count == 0 {
            return Ok(());
        }
        f.write_str(if made.count > 0 { "; left to the program:" } else { " left to the program:" })?;
        let mut last = None;
        let mut keys = chosen.all().map(|setting| setting.key).filter(|key| last.replace(*key) != Some(*key));
        keys.try_for_each(|key| write!(f, " {}", key.name()))
    }
}

/// The first sixteen settings, and how many there are: nothing may be allocated here.
#[derive(Debug, Default)]
struct FirstSettings<'a> {
    settings: [Option<&'a Setting>; 16],
    count: usize,
}

impl<'a> FirstSettings<'a> {
    fn note(&mut self, setting: &'a Setting) {
        if let Some(slot) = self.settings.get_mut(self.count) {
            *slot = Some(setting);
        }
        self.count += 1;
    }

    fn all(&self) -> impl Iterator<Item = &'a Setting> {
        self.settings.iter().flatten().copied()
    }
}
