//! The user timeout that belongs to connecting alone (`connect_timeout`).
//!
//! Nothing need be remembered of a connection that is being made: while the socket's user timeout is a rule's time for
//! connecting, which no program sets by itself nor any rule otherwise (`policy::rules`, a millisecond less), it is to be taken back.

use policy::plan::Plan;
use policy::timers::syn_retries_for;
use policy::{Endpoint, Enforce, Key, Phase, Phases, Rules, Setting, Value};

use crate::describe::{Kind, kind};
use crate::{Errno, ffi};

/// A socket that has a time for connecting.
#[derive(Debug, Clone, Copy)]
pub struct Connecting<'a> {
    /// Where it connects to.
    pub peer: Endpoint,
    /// By which plan.
    pub plan: Plan<'a>,
    /// The time, milliseconds.
    pub limit: i32,
    /// What the socket is to have when it has connected.
    pub afterwards: &'a Setting,
    /// The user timeout that the program has set itself and that comes back, milliseconds; 0 where there is none.
    pub own: i32,
    /// Whether the time was left on it by a connect before this one.
    pub is_running: bool,
}

/// What the time for connecting is on a socket, before anything is set on it.
#[derive(Debug, Clone, Copy)]
pub enum Limit<'a> {
    /// None, by the rule or by the kind of socket.
    None,
    /// The program's own user timeout, which is no longer.
    Own,
    /// The rule's.
    Rule(Connecting<'a>),
    /// The same, and it runs already.
    Running(Connecting<'a>),
    /// The rule's, but it could not be taken back: a filter does not let the program read options.
    Unreadable,
}

impl<'a> Limit<'a> {
    /// That of a socket which is about to connect, by a plan for whatever connects.
    #[must_use]
    pub fn of(fd: i32, rules: &Rules, peer: Endpoint, plan: Plan<'a>) -> Self {
        if !rules.phases().contains(Phase::Connected) {
            return Self::None;
        }
        let (Some(limit), Some(afterwards)) = (limit_of(plan), afterwards(plan)) else { return Self::None };
        let current = match ffi::get_int(fd, afterwards.level, afterwards.name) {
            Ok(current) => current,
            // Multipath TCP has no user timeout; neither has what is not TCP. A filter may say the same of TCP.
            Err(_) => {
                return match kind(fd) {
                    Ok(Kind::Mptcp | Kind::Udp | Kind::Other) | Err(Errno(libc::EBADF | libc::ENOTSOCK)) => Self::None,
                    _ => Self::Unreadable,
                };
            }
        };
        let is_running = current == limit;
        let connecting = |own| Connecting { peer, plan, limit, afterwards, own, is_running };
        if is_running {
            return Self::Running(connecting(0));
        }
        // Only what the program has left is filled in.
        let is_own = current != 0 && !rules.is_time_for_connecting(current);
        if plan.enforce() == Enforce::Fill && is_own {
            return Self::Own;
        }
        // The rule has a user timeout of its own, or the program has none: another rule's time is left over from another connect.
        if afterwards.key != Key::ConnectTimeout || !is_own {
            return Self::Rule(connecting(0));
        }
        if current <= limit { Self::Own } else { Self::Rule(connecting(current)) }
    }

    /// The connection, where the rule's time counts.
    #[must_use]
    pub fn connecting(self) -> Option<Connecting<'a>> {
        match self {
            Self::Rule(connecting) | Self::Running(connecting) => Some(connecting),
            Self::None | Self::Own | Self::Unreadable => None,
        }
    }

    /// Whether the program's own time counts, or nothing could be taken back.
    #[must_use]
    pub fn is_left_out(self) -> bool {
        matches!(self, Self::Own | Self::Unreadable)
    }

    /// Whether the rule's time runs already.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running(_))
    }
}

/// The user timeout while connecting, milliseconds.
fn limit_of(plan: Plan<'_>) -> Option<i32> {
    let connect = Phases::of(&[Phase::Connect]);
    let time = plan.at(connect).settings().find(|setting| setting.key == Key::ConnectTimeout)?;
    match time.value {
        Value::Int(milliseconds) => Some(milliseconds),
        _ => None,
    }
}

/// What a plan sets when the connection stands.
#[must_use]
pub fn afterwards(plan: Plan<'_>) -> Option<&Setting> {
    plan.at(Phases::of(&[Phase::Connected])).settings().next()
}

/// Bounds the time for connecting by the number of SYNs (TCP_SYNCNT).
pub fn limit_syns(fd: i32, limit: i32) {
    let retries = syn_retries_for(limit.unsigned_abs().into()) as i32;
    let current = ffi::get_int(fd, libc::SOL_TCP, libc::TCP_SYNCNT);
    if current.is_ok_and(|current| retries < current) {
        let _ = ffi::set(fd, libc::SOL_TCP, libc::TCP_SYNCNT, &retries);
    }
}

/// A socket's user timeout, if it is some rule's time for connecting.
#[must_use]
pub fn running_limit(fd: i32, rules: &Rules) -> Option<i32> {
    let current = ffi::get_int(fd, libc::SOL_TCP, libc::TCP_USER_TIMEOUT).ok()?;
    rules.is_time_for_connecting(current).then_some(current)
}

/// Whether a socket's user timeout is that for connecting, and it has not connected yet.
#[must_use]
pub fn is_connecting(fd: i32, rules: &Rules) -> bool {
    running_limit(fd, rules).is_some() && ffi::connected_peer(fd).is_err()
}

/// What is left to be done when a connection stands.
#[derive(Debug, Clone, Copy)]
pub enum Finish<'a> {
    /// Nothing: the program has set another user timeout meanwhile.
    Changed,
    /// Nothing: the program's own is back.
    Back,
    /// This setting is to be made.
    Make(&'a Setting),
}

impl<'a> Connecting<'a> {
    /// Takes the time for connecting back, unless the program has set another user timeout meanwhile.
    #[must_use]
    pub fn finish(&self, fd: i32) -> Finish<'a> {
        let Self { limit, afterwards, own, .. } = *self;
        match ffi::get_int(fd, afterwards.level, afterwards.name) {
            Ok(current) if current == limit => {}
            // Another thread has learned that it has connected, and taken the time back: it knows of no other.
            Ok(0) if own > 0 => {}
            _ => return Finish::Changed,
        }
        if own > 0 {
            let _ = ffi::set(fd, afterwards.level, afterwards.name, &own);
            return Finish::Back;
        }
        if self.plan.enforce() == Enforce::Fill {
            // It is filled in if it fits the keepalive that the socket has by now.
            let _ = ffi::set(fd, afterwards.level, afterwards.name, &0);
        }
        Finish::Make(afterwards)
    }
}
