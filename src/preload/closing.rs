//! `linger = "reset-when-drained"`: what happens before a descriptor ends.
//!
//! That a descriptor may be such a socket is a hint (listeners.rs); the rule, the state of the connection and who else
//! may have it are asked of the kernel when it ends. Whatever is not certain is closed as the program meant.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};

use libc::c_uint;
use policy::options::Family;
use policy::{Connection, Decision, Endpoint, Moment, Moments};
use socket::apply::{Outcome, apply};
use socket::ffi;

use crate::intercept::local_endpoint;
use crate::listeners::{self, Note, Notes};
use crate::setup::{Active, active};
use crate::{fault, guard, log};

const CONNECTED: Moments = Moments::of(&[Moment::Close]);
const ACCEPTED: Moments = Moments::of(&[Moment::CloseAccepted]);

/// The process that the hints are of: a child of vfork looks at its parent's.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// Whether there is any hint, so that fork and the like have something to forget.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// Notes what a socket is about to be connected for; whether its end is of interest.
pub(crate) fn connecting(active: &Active, fd: c_int, decision: &Decision<'_>) -> bool {
    let is_meant = decision.bypass(CONNECTED).is_none();
    if is_meant {
        active.in_use.store(true, Relaxed);
    }
    if active.rules.moments().intersects(CONNECTED) {
        note(fd, is_meant, Note::ResetConnected);
    }
    is_meant
}

/// Notes an accepted socket; which rule it has is asked when it ends.
pub(crate) fn accepted(active: &Active, fd: c_int) {
    if active.rules.moments().intersects(ACCEPTED) {
        active.in_use.store(true, Relaxed);
        note(fd, true, Note::ResetAccepted);
    }
}

fn note(fd: c_int, is_meant: bool, note: Note) {
    listeners::strike_end(fd);
    if !is_meant {
        return;
    }
    let own = ffi::process_id();
    if OWNER.swap(own, Relaxed) != own {
        // After a fork that was not seen: what came with it is shared.
        listeners::strike_all_ends();
    }
    IN_USE.store(true, Relaxed);
    listeners::note(fd, note);
}

/// Before a descriptor ends: one load and one branch for those that nothing is known of.
#[inline]
pub(crate) fn ends(fd: c_int) {
    let notes = listeners::forget(fd);
    if notes.is_about_end() {
        guard::contained(|| reset(fd, notes));
    }
}

/// Before a descriptor is replaced by a copy of another.
#[inline]
pub(crate) fn is_replaced(from: c_int, to: c_int) {
    is_copied(from);
    // With a `from` that is not open nothing is closed.
    let notes = listeners::forget(to);
    if notes.is_about_end() {
        guard::contained(|| {
            if ffi::is_open(from) {
                reset(to, notes)
            }
        });
    }
}

/// Before a range of descriptors ends, close_range(2).
pub(crate) fn range_ends(first: c_uint, last: c_uint, flags: c_int) {
    if flags as c_uint & libc::CLOSE_RANGE_CLOEXEC == 0 {
        listeners::each_in_range(first, last, ends);
    }
}

/// A descriptor that is copied no longer ends the connection with its own end.
#[inline]
pub(crate) fn is_copied(fd: c_int) {
    if IN_USE.load(Relaxed) {
        listeners::strike_end(fd);
    }
}

/// Before a fork, and after a message with descriptors: somebody else has what is open now.
pub(crate) fn all_are_shared() {
    if IN_USE.load(Relaxed) {
        listeners::strike_all_ends();
    }
}

/// Whether [`all_are_shared`] has anything to do.
#[inline]
pub(crate) fn is_in_use() -> bool {
    IN_USE.load(Relaxed)
}

/// Makes the close that follows a reset, if that is asked for and loses nothing.
#[cold]
fn reset(fd: c_int, notes: Notes) {
    fault::point("close");
    let Some(active) = active() else { return };
    let Some(peer) = ffi::connected_peer(fd).ok().and_then(|address| address.endpoint().ok()) else { return };
    let Some((connection, moments)) = asked(active, fd, peer, notes) else { return };
    let decision = active.decide(&connection);
    let Some(setting) = decision.settings(moments, Family::Any).next() else { return };
    let kept = if !ffi::is_drained(fd) {
        "not everything is acknowledged, or the peer closed first"
    } else if OWNER.load(Relaxed) != ffi::process_id() || ffi::may_be_inherited(fd) {
        "another process may have it"
    } else if apply(fd, setting) == Outcome::Done {
        return log::debug(format_args!("close fd {fd} {peer}: {decision}: reset"));
    } else {
        "the kernel refused"
    };
    log::debug(format_args!("close fd {fd} {peer}: {decision}: not reset: {kept}"));
}

fn asked(active: &Active, fd: c_int, peer: Endpoint, notes: Notes) -> Option<(Connection, Moments)> {
    if notes.has(Note::ResetConnected) {
        return Some((Connection::Outbound { peer }, CONNECTED));
    }
    let local =
        if active.rules.asks_for_listener() { listeners::listener_of(local_endpoint(fd)?)? } else { Endpoint::ANY };
    Some((Connection::Inbound { local, peer }, ACCEPTED))
}
