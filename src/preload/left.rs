//! On which sockets this process has left a time for connecting (`connect_timeout`), so that nothing is asked of any socket where
//! there is none.
//!
//! A hint that counts too many costs work: those that were closed in ways that are not seen, that another process has taken the time
//! from, and those for which there was no room. It never counts too few: only a socket that was counted is counted off, and never one that another
//! process has connected.

use std::ffi::c_int;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize};

use socket::ffi;

const ROWS: usize = 1_024;
/// So many rows may be those of one socket.
const PLACES: usize = 8;

/// How many were left and not taken back.
static LEFT: AtomicUsize = AtomicUsize::new(0);
/// Which they are, by what the kernel gives each socket and no other (SO_COOKIE).
static COOKIES: [AtomicU64; ROWS] = [const { AtomicU64::new(0) }; ROWS];

/// Whether there may be one.
#[inline]
pub(crate) fn is_any() -> bool {
    LEFT.load(Relaxed) > 0
}

/// The process that has left each: in a child of vfork this memory is its parent's, and in one of fork a copy; the sockets are not theirs.
static PROCESSES: [AtomicI32; ROWS] = [const { AtomicI32::new(0) }; ROWS];

/// A time for connecting was left on a socket.
pub(crate) fn remember(fd: c_int) {
    LEFT.fetch_add(1, Relaxed);
    // Without a cookie or room it is counted for good.
    if let Ok(cookie) = ffi::cookie(fd)
        && let Some(row) = replace(cookie, 0, cookie)
        && let Some(process) = PROCESSES.get(row)
    {
        process.store(ffi::process_id(), Relaxed);
    }
}

/// Whether this process has left one on this socket.
pub(crate) fn is_ours(fd: c_int) -> bool {
    let is_it = |cookie: u64, row: &usize| COOKIES.get(*row).is_some_and(|place| place.load(Relaxed) == cookie);
    let row = ffi::cookie(fd).ok().and_then(|cookie| rows(cookie).find(|row| is_it(cookie, row)));
    row.and_then(|row| PROCESSES.get(row)).is_some_and(|process| process.load(Relaxed) == ffi::process_id())
}

/// It was taken back.
pub(crate) fn forget(fd: c_int) {
    if is_any()
        && let Ok(cookie) = ffi::cookie(fd)
        && replace(cookie, cookie, 0).is_some()
    {
        LEFT.fetch_sub(1, Relaxed);
    }
}

/// The row of a socket in which there was this value.
fn replace(cookie: u64, from: u64, to: u64) -> Option<usize> {
    let is_replaced = |place: &AtomicU64| place.compare_exchange(from, to, Relaxed, Relaxed).is_ok();
    rows(cookie).find(|row| COOKIES.get(*row).is_some_and(is_replaced))
}

fn rows(cookie: u64) -> impl Iterator<Item = usize> {
    (0..PLACES).map(move |place| (cookie as usize).wrapping_add(place) % ROWS)
}
