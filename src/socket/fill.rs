//! What a program has left at the system's default on a socket (`enforce = "fill"`): asked of the kernel, one getsockopt for
//! each option, and one for the keepalive as a whole.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI32, AtomicU64};

use policy::catalog::{Key, SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_USER_TIMEOUT};
use policy::constants::SOL_IPV6;
use policy::enforce::{Probing, SO_BUF_LOCK, Untouched, is_of_keepalive};
use policy::plan::Plan;
use policy::{Enforce, Rules, Setting, Value};

use crate::describe::{Kind, kind};
use crate::errno::Errno;
use crate::ffi;
use crate::setting::{Outcome, set};

/// What getsockopt answers of an option; of those that can be set, none is longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    bytes: [u8; 32],
    length: usize,
}

impl Answer {
    fn ask(fd: i32, (level, name): (i32, i32)) -> Result<Self, Errno> {
        let mut bytes = [0; 32];
        let length = ffi::get_bytes(fd, level, name, &mut bytes)?;
        Ok(Self { bytes, length })
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// What a new socket has of those options whose default is a sysctl's to say, sorted by level and name.
#[derive(Debug, Default)]
pub struct AsNew {
    known: Box<[Known]>,
    /// Whether none is made any more where none could be made.
    is_final: bool,
}

/// What is known of an option. Who finds it out stores what everybody else finds: the bytes, and then the length, or what the
/// kernel answered instead, below zero.
#[derive(Debug)]
struct Known {
    option: (i32, i32),
    words: [AtomicU64; 4],
    length: AtomicI32,
}

impl Known {
    fn store(&self, answer: Result<Answer, Errno>) {
        let length = match answer {
            Ok(answer) => {
                let words = answer.bytes.as_chunks::<8>().0;
                self.words.iter().zip(words).for_each(|(to, word)| to.store(u64::from_ne_bytes(*word), Relaxed));
                answer.length as i32
            }
            Err(Errno(errno)) => -errno,
        };
        self.length.store(length, Release);
    }

    fn load(&self) -> Result<Answer, Errno> {
        let length = self.length.load(Acquire);
        let length = usize::try_from(length).map_err(|_| Errno(-length))?;
        let mut bytes = [0; 32];
        let words = bytes.as_chunks_mut::<8>().0;
        words.iter_mut().zip(&self.words).for_each(|(to, word)| *to = word.load(Relaxed).to_ne_bytes());
        Ok(Answer { bytes, length })
    }

    /// The IP version of a socket that has the option.
    fn family(&self) -> i32 {
        if self.option.0 == SOL_IPV6 { libc::AF_INET6 } else { libc::AF_INET }
    }

    /// Whether no socket could be made for want of something that there may be later.
    fn is_passing(&self) -> bool {
        matches!(-self.length.load(Relaxed), libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    }
}

impl AsNew {
    /// Makes a socket of each IP version that is needed, in this thread's network namespace, asks for some options, sorted by
    /// level and name, and closes it. Where none can be made for want of descriptors or memory, another is tried when the answer
    /// is needed. Allocates.
    #[must_use]
    pub fn ask(options: &[(i32, i32)]) -> Self {
        let new = Self { is_final: false, ..Self::unknown(options, Errno(libc::EAFNOSUPPORT)) };
        [libc::AF_INET, libc::AF_INET6].into_iter().for_each(|family| new.ask_one(family));
        new
    }

    /// Nothing but why nothing is known.
    #[must_use]
    pub fn unknown(options: &[(i32, i32)], Errno(errno): Errno) -> Self {
        let known = |option: &(i32, i32)| Known { option: *option, words: Default::default(), length: (-errno).into() };
        Self { known: options.iter().map(known).collect(), is_final: true }
    }

    /// The same, and no more is asked: this thread is about to be in another network namespace.
    #[must_use]
    pub(crate) fn settled(self) -> Self {
        Self { is_final: true, ..self }
    }

    fn ask_one(&self, family: i32) {
        let meant = || self.known.iter().filter(|known| known.family() == family);
        if meant().next().is_none() {
            return;
        }
        let ask = |fd| meant().for_each(|known| known.store(Answer::ask(fd, known.option)));
        if let Err(errno) = ffi::with_new_tcp_socket(family, ask) {
            meant().for_each(|known| known.store(Err(errno)));
        }
    }

    fn of(&self, option: (i32, i32)) -> Result<Answer, Errno> {
        let at = self.known.binary_search_by_key(&option, |known| known.option).ok();
        let known = at.and_then(|at| self.known.get(at)).ok_or(Errno(libc::ENODATA))?;
        if known.is_passing() && !self.is_final {
            self.ask_one(known.family());
        }
        known.load()
    }
}

/// Which settings of a rule are to be made, since the program has left their options at the default. Those that were not looked
/// at are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// The number of the first that was looked at: a rule's settings are numbered in their order.
    first: u32,
    bits: u128,
}

impl Left {
    /// Whether a setting is among them.
    #[must_use]
    pub fn has(self, setting: &Setting) -> bool {
        setting.id.checked_sub(self.first).is_some_and(|at| at < u128::BITS && self.bits >> at & 1 != 0)
    }
}

/// Looks at a socket before anything is set on it. What the program has is not touched, and that includes what cannot be
/// read: `unknown` is told of that.
pub fn left<'a>(
    fd: i32,
    settings: impl Iterator<Item = &'a Setting>,
    new: &AsNew,
    mut unknown: impl FnMut(&'a Setting, Errno),
) -> Left {
    let mut settings = settings.peekable();
    let mut left = Left { first: settings.peek().map_or(0, |setting| setting.id), bits: 0 };
    let mut keepalive = None;
    for setting in settings {
        let mut is_kept_alive = || *keepalive.get_or_insert_with(|| is_kept_alive(fd));
        let at = setting.id.wrapping_sub(left.first);
        let is_chosen = if at >= u128::BITS {
            // A table has some thirty, unless `raw` is very long.
            Err(Errno(libc::E2BIG))
        } else if setting.key == Key::ConnectTimeout {
            // It is the user timeout for a while, and whoever sets it has looked.
            Ok(false)
        } else if is_of_keepalive(setting.level, setting.name) {
            is_kept_alive()
        } else {
            is_touched(fd, setting, new).and_then(|touched| {
                let comes_with_keepalive = !touched && setting.computed_from.is_some();
                Ok(touched || comes_with_keepalive && is_kept_alive()? && !fits_keepalive(fd, setting)?)
            })
        };
        match is_chosen {
            Ok(false) => left.bits |= 1 << at,
            Ok(true) => {}
            // It is known that such a socket has no such option.
            Err(Errno(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) if kind(fd) == Ok(Kind::Mptcp) => {}
            Err(errno) => unknown(setting, errno),
        }
    }
    left
}

/// Makes a setting. IP_TOS brings a priority along (ip(7)): one that the program has set is put back.
#[must_use]
pub fn fill_in(fd: i32, setting: &Setting) -> Outcome {
    if (setting.level, setting.name) != (libc::SOL_IP, libc::IP_TOS) {
        return set(fd, setting);
    }
    let priority = ffi::get_int(fd, libc::SOL_SOCKET, libc::SO_PRIORITY);
    let outcome = set(fd, setting);
    if let Ok(priority @ 1..) = priority {
        let _ = ffi::set(fd, libc::SOL_SOCKET, libc::SO_PRIORITY, &priority);
    }
    outcome
}

fn is_touched(fd: i32, setting: &Setting, new: &AsNew) -> Result<bool, Errno> {
    let option = (setting.level, setting.name);
    let untouched = Untouched::of(setting.level, setting.name);
    Ok(match untouched {
        Untouched::AsNew => Answer::ask(fd, option)? != new.of(option)?,
        Untouched::Unlocked { .. } => !untouched.is_value(Answer::ask(fd, SO_BUF_LOCK)?.bytes()),
        _ => !untouched.is_value(Answer::ask(fd, option)?.bytes()),
    })
}

fn is_kept_alive(fd: i32) -> Result<bool, Errno> {
    ffi::get_int(fd, SO_KEEPALIVE.level, SO_KEEPALIVE.name).map(|on| on != 0)
}

/// Whether a user timeout that was computed from the rule's keepalive may stand beside what the socket has.
fn fits_keepalive(fd: i32, setting: &Setting) -> Result<bool, Errno> {
    let time = ffi::get_int(fd, TCP_KEEPIDLE.level, TCP_KEEPIDLE.name)?;
    let interval = ffi::get_int(fd, TCP_KEEPINTVL.level, TCP_KEEPINTVL.name)?;
    Ok(setting.fits(Probing { time, interval }))
}

/// Takes a user timeout back that was computed from a rule's keepalive, where the program has chosen another keepalive, beside
/// which it would end a living connection: which it was.
pub fn take_back<'a>(fd: i32, rules: &Rules, plan: impl FnOnce() -> Option<Plan<'a>>) -> Option<&'a Setting> {
    let current = ffi::get_int(fd, TCP_USER_TIMEOUT.level, TCP_USER_TIMEOUT.name).ok()?;
    if !rules.is_computed_timeout(current) {
        return None;
    }
    let plan = plan().filter(|plan| plan.enforce() == Enforce::Fill)?;
    let is_it = |setting: &&Setting| setting.computed_from.is_some() && setting.value == Value::Int(current);
    let setting = plan.settings().find(is_it)?;
    (is_out_of_place(fd, setting) && ffi::set(fd, setting.level, setting.name, &0).is_ok()).then_some(setting)
}

/// Whether it must not stand (any more).
fn is_out_of_place(fd: i32, setting: &Setting) -> bool {
    setting.computed_from.is_some()
        && is_kept_alive(fd) == Ok(true)
        && fits_keepalive(fd, setting).is_ok_and(|fits| !fits)
}
