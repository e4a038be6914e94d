//! One setting on one socket: makes it, and tells whether it is in force.

use policy::{Setting, Value};

use crate::describe::{Kind, kind};
use crate::errno::Errno;
use crate::ffi;

/// What became of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force.
    Done,
    /// It was not made: the program has chosen, and only what it has left alone is filled in.
    LeftToProgram,
    /// This kind of socket does not have it, as is known of the kind (MPTCP has no user timeout).
    Absent,
    /// The kernel refused it.
    Failed(Errno),
}

/// Makes one setting.
#[must_use]
pub fn set(fd: i32, setting: &Setting) -> Outcome {
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

/// Whether making a setting changes nothing: the option has the value that it gives, be it less than it asks for. How much of a buffer's size
/// the kernel allows is not told, so a buffer's setting is made to find out.
pub fn changes_nothing(fd: i32, setting: &Setting) -> bool {
    let name = match (setting.level, setting.name) {
        (libc::SOL_SOCKET, libc::SO_SNDBUF | libc::SO_SNDBUFFORCE) => libc::SO_SNDBUF,
        (libc::SOL_SOCKET, libc::SO_RCVBUF | libc::SO_RCVBUFFORCE) => libc::SO_RCVBUF,
        _ => return is_in_force(fd, setting) == Ok(true),
    };
    let size = || ffi::get_int(fd, libc::SOL_SOCKET, name);
    let before = size();
    set(fd, setting) == Outcome::Done && size() == before
}

/// Whether an option has the value that a setting gives it.
///
/// # Errors
/// Those of getsockopt(2).
pub fn is_in_force(fd: i32, setting: &Setting) -> Result<bool, Errno> {
    const ROOM: usize = 64;
    let mut bytes = [0; ROOM];
    let mut get = |length: usize| {
        let bytes = bytes.get_mut(..length).unwrap_or_default();
        ffi::get_bytes(fd, setting.level, setting.name, bytes)
    };
    Ok(match &setting.value {
        Value::Int(value) => {
            let found = ffi::get_int(fd, setting.level, setting.name)?;
            let is_buffer =
                setting.level == libc::SOL_SOCKET && matches!(setting.name, libc::SO_RCVBUF | libc::SO_SNDBUF);
            // The kernel doubles them, socket(7).
            found == if is_buffer { value.saturating_mul(2) } else { *value }
        }
        Value::Timeval { seconds, microseconds } => {
            let mut wanted = [0; 2 * size_of::<libc::c_long>()];
            let words = [*seconds as libc::c_long, *microseconds as libc::c_long].map(libc::c_long::to_ne_bytes);
            wanted.iter_mut().zip(words.as_flattened()).for_each(|(to, from)| *to = *from);
            get(wanted.len())? == wanted.len() && bytes.starts_with(&wanted)
        }
        Value::Linger { on, seconds } => {
            let wanted = [i32::from(*on), *seconds].map(i32::to_ne_bytes);
            get(8)? == 8 && bytes.starts_with(wanted.as_flattened())
        }
        Value::Text(text) => {
            let length = get(ROOM)?;
            bytes.get(..length).is_some_and(|found| found.split(|byte| *byte == 0).next() == Some(text.as_bytes()))
        }
    })
}
