//! Makes settings, each by itself: one that fails does not keep the next from being made.

use policy::{Setting, Value};

use crate::describe::{Kind, kind};
use crate::errno::Errno;
use crate::ffi;

/// What became of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force.
    Done,
    /// This kind of socket does not have it, as is known of the kind (MPTCP has no user timeout).
    Absent,
    /// The kernel refused it.
    Failed(Errno),
}

/// Makes one setting.
#[must_use]
pub fn apply(fd: i32, setting: &Setting) -> Outcome {
    let result = match &setting.value {
        Value::Int(value) => ffi::set(fd, setting.level, setting.name, value),
        Value::Timeval { seconds, microseconds } => {
            // The kernel's struct timeval: two longs, whatever the C library's time_t is.
            let time = [*seconds as libc::c_long, *microseconds as libc::c_long];
            ffi::set(fd, setting.level, setting.name, &time)
        }
        Value::Linger { on, seconds } => {
            let linger = libc::linger { l_onoff: i32::from(*on), l_linger: *seconds };
            ffi::set(fd, setting.level, setting.name, &linger)
        }
        Value::Text(text) => ffi::set_bytes(fd, setting.level, setting.name, text.as_bytes()),
    };
    match result {
        Ok(()) => Outcome::Done,
        Err(Errno(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) if kind(fd) == Ok(Kind::Mptcp) => Outcome::Absent,
        Err(errno) => Outcome::Failed(errno),
    }
}
