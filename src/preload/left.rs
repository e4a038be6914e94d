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

/// The process that has left one last: in a child of vfork this memory is its parent's, and so are the sockets.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// A time for connecting was left on a socket.
pub(crate) fn remember(fd: c_int) {
    LEFT.fetch_add(1, Relaxed);
    PROCESS.store(ffi::process_id(), Relaxed);
    // Without a cookie or room it is counted for good.
    if let Ok(cookie) = ffi::cookie(fd) {
        replace(cookie, 0, cookie);
    }
}

/// Whether this process has left one on this socket.
pub(crate) fn is_ours(fd: c_int) -> bool {
    ffi::cookie(fd).is_ok_and(|cookie| places(cookie).any(|place| place.load(Relaxed) == cookie))
        && PROCESS.load(Relaxed) == ffi::process_id()
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
    places(cookie).map(|place| place.compare_exchange(from, to, Relaxed, Relaxed)).any(|replaced| replaced.is_ok())
}

fn places(cookie: u64) -> impl Iterator<Item = &'static AtomicU64> {
    (0..PLACES).filter_map(move |place| COOKIES.get((cookie as usize).wrapping_add(place) % ROWS))
}
