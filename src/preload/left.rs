//! On which sockets this process has left a time for connecting (`connect_timeout`), so that nothing is asked of any socket where
//! there is none.
//!
//! A hint that counts too many costs work: those that were closed so, that another process has taken the time from, and those
//! for which there was no room. It never counts too few: only a socket that was counted is counted off, and never one that another
//! process has connected.

use std::ffi::c_int;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

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

/// A time for connecting was left on a socket.
pub(crate) fn remember(fd: c_int) {
    LEFT.fetch_add(1, Relaxed);
    // Without a cookie or room it is counted for good.
    if let Ok(cookie) = ffi::cookie(fd) {
        replace(cookie, 0, cookie);
    }
}

/// It was taken back.
pub(crate) fn forget(fd: c_int) {
    if is_any()
        && let Ok(cookie) = ffi::cookie(fd)
        && replace(cookie, cookie, 0)
    {
        LEFT.fetch_sub(1, Relaxed);
    }
}

/// Whether there was this value in the place of a socket.
fn replace(cookie: u64, from: u64, to: u64) -> bool {
    let places = (0..PLACES).filter_map(|place| COOKIES.get((cookie as usize).wrapping_add(place) % ROWS));
    places.map(|place| place.compare_exchange(from, to, Relaxed, Relaxed)).any(|replaced| replaced.is_ok())
}
