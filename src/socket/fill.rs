//! What a program has left at the system's default on a socket (`enforce = "fill"`): asked of the kernel, one getsockopt for
//! each option, and one for the keepalive as a whole.

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

/// What a new socket has of those options whose default is a sysctl's to say.
#[derive(Debug, Clone, Default)]
pub struct AsNew(Box<[Known]>);

/// Level and name of an option, with the answer.
type Known = ((i32, i32), Result<Answer, Errno>);

impl AsNew {
    /// Makes a socket of each IP version that is needed, in this thread's network namespace, asks for some options, sorted by
    /// level and name, and closes it. Allocates.
    #[must_use]
    pub fn ask(options: &[(i32, i32)]) -> Self {
        let mut answers: Vec<_> = options.iter().map(|option| (*option, Err(Errno(libc::EAFNOSUPPORT)))).collect();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let is_meant = |level: i32| (level == SOL_IPV6) == (family == libc::AF_INET6);
            if !answers.iter().any(|((level, _), _)| is_meant(*level)) {
                continue;
            }
            let made = ffi::with_new_tcp_socket(family, |fd| {
                let meant = answers.iter_mut().filter(|((level, _), _)| is_meant(*level));
                meant.for_each(|(option, answer)| *answer = Answer::ask(fd, *option));
            });
            if let Err(errno) = made {
                let meant = answers.iter_mut().filter(|((level, _), _)| is_meant(*level));
                meant.for_each(|(_, answer)| *answer = Err(errno));
            }
        }
        Self(answers.into_boxed_slice())
    }

    /// Nothing but why nothing is known.
    #[must_use]
    pub fn unknown(options: &[(i32, i32)], errno: Errno) -> Self {
        Self(options.iter().map(|option| (*option, Err(errno))).collect())
    }

    fn of(&self, option: (i32, i32)) -> Result<Answer, Errno> {
        let unasked = Err(Errno(libc::ENODATA));
        let at = self.0.binary_search_by_key(&option, |(known, _)| *known).ok();
        at.and_then(|at| self.0.get(at)).map_or(unasked, |(_, answer)| *answer)
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
