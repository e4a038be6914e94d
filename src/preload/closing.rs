//! `linger = "reset-when-drained"`: what happens before a descriptor ends.
//!
//! That a descriptor may be such a socket is a hint (listeners.rs): it was seen to be made in this process, by socket or
//! accept, and nobody was seen to get it as well since. The rule, the state of the connection and the children that may
//! have it are asked of the kernel when it ends. Whatever is not certain is closed as the program meant.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicIsize, Ordering::Relaxed};

use libc::{c_uint, pid_t};
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

/// Whether the rules may ask for it; before they are compiled, by the look of their text.
static WANTED: AtomicBool = AtomicBool::new(false);
/// The process that the hints are of: a child of vfork looks at its parent's. 0 before there are any.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// Whether there is any hint, so that fork and the like have something to forget.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// What the children that have ended had cost when they were looked at last (`ffi::ended_children`).
static ENDED: AtomicIsize = AtomicIsize::new(0);

/// Says whether the end of any socket is of interest.
pub(crate) fn want(yes: bool) {
    if yes && !WANTED.swap(true, Relaxed) {
        ENDED.store(ffi::ended_children() as isize, Relaxed);
    } else if !yes {
        WANTED.store(false, Relaxed);
    }
}

/// Notes a new socket, which nobody else has yet: one load where no end is of interest.
#[inline]
pub(crate) fn is_made(fd: c_int) {
    if WANTED.load(Relaxed) {
        note_own(fd);
    }
}

#[inline(never)]
fn note_own(fd: c_int) {
    listeners::forget(fd);
    if OWNER.load(Relaxed) == 0 {
        OWNER.store(ffi::process_id(), Relaxed);
    }
    IN_USE.store(true, Relaxed);
    listeners::note(fd, Note::Own);
}

/// Notes what a socket is about to be connected for; whether its end is of interest.
pub(crate) fn connecting(active: &Active, fd: c_int, decision: &Decision<'_>) -> bool {
    let is_meant = decision.bypass(CONNECTED).is_none();
    if is_meant {
        active.in_use.store(true, Relaxed);
    }
    if active.rules.moments().intersects(CONNECTED) {
        listeners::strike_note(fd, Note::ResetConnected);
        if is_meant {
            take_over();
            // Not one that came from somewhere else, and none that was copied before, or since it was connected first.
            if listeners::notes(fd).has(Note::Own) {
                listeners::note(fd, Note::ResetConnected);
            }
        }
    }
    is_meant
}

/// Notes an accepted socket; which rule it has is asked when it ends.
pub(crate) fn accepted(active: &Active, fd: c_int) {
    if active.rules.moments().intersects(ACCEPTED) {
        active.in_use.store(true, Relaxed);
        take_over();
        IN_USE.store(true, Relaxed);
        listeners::note(fd, Note::ResetAccepted);
    }
}

/// The hints are this process's from here on.
fn take_over() {
    let own = ffi::process_id();
    if ![0, own].contains(&OWNER.swap(own, Relaxed)) {
        // After a fork that was not seen: what came with it is shared.
        listeners::strike_all_ends();
    }
}

/// Before a descriptor ends: one load and one branch for those that nothing is known of.
#[inline]
pub(crate) fn ends(fd: c_int) {
    let notes = listeners::forget(fd);
    if notes.is_about_end() {
        guard::contained(|| reset(fd, notes));
    }
}

/// The same before close(2), which is a cancellation point: a thread that is to end there has closed nothing, and what
/// becomes of the connection is not this close's to say.
#[inline]
pub(crate) fn closes(fd: c_int) {
    if listeners::is_known(fd) {
        known_closes(fd);
    }
}

#[inline(never)]
fn known_closes(fd: c_int) {
    if listeners::notes(fd).is_about_end() {
        ffi::cancellation_point();
    }
    ends(fd);
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

/// Whether the program is to be told that SO_LINGER is {1, 0}: the rule decides about the socket's end, and that is what it
/// has under `linger = "reset"`. Java asks in its close and, told otherwise, sends a FIN before it: the peer's may then be
/// faster than the close, which comes too late for a reset. In the kernel nothing is set before the end, so no exit loses
/// a byte.
#[inline]
pub(crate) fn says_reset(fd: c_int) -> bool {
    let notes = listeners::notes(fd);
    notes.is_about_end() && guard::contained(|| is_enforced(fd, notes))
}

#[cold]
fn is_enforced(fd: c_int, notes: Notes) -> bool {
    fault::point("getsockopt");
    let Some(active) = active() else { return false };
    let Some((_, decision, moments)) = decided(active, fd, notes) else { return false };
    decision.profile().enforce() && decision.bypass(moments).is_none()
}

/// Before a range of descriptors ends, close_range(2).
pub(crate) fn range_ends(first: c_uint, last: c_uint, flags: c_int) {
    const KNOWN: c_uint = libc::CLOSE_RANGE_CLOEXEC | libc::CLOSE_RANGE_UNSHARE;
    let flags = flags as c_uint;
    if flags & !KNOWN != 0 {
        return; // nothing is closed
    }
    if flags & libc::CLOSE_RANGE_UNSHARE != 0 {
        // The other threads keep what this one closes.
        all_are_shared();
    }
    if flags & libc::CLOSE_RANGE_CLOEXEC == 0 {
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

/// After a fork, in both processes.
pub(crate) fn has_forked(child: pid_t) {
    if child == 0 {
        // Nothing is left of the parent's hints, and the child has no children yet.
        OWNER.store(0, Relaxed);
        ENDED.store(0, Relaxed);
    } else {
        // What another thread has made while this one was at it.
        all_are_shared();
    }
}

/// Before and after a fork, and after a message with descriptors: somebody else has what is open now.
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
    let Some((peer, decision, moments)) = decided(active, fd, notes) else { return };
    let Some(setting) = decision.settings(moments, Family::Any).next() else { return };
    let kept = if !ffi::is_drained(fd) {
        "not everything is acknowledged, or the peer closed first"
    } else if OWNER.load(Relaxed) != ffi::process_id() || may_be_inherited(fd) {
        "another process may have it"
    } else if !decision.profile().enforce() && ffi::get_int(fd, setting.level, setting.name) != Ok(0) {
        // struct linger begins with l_onoff.
        "the program has an SO_LINGER of its own"
    } else if apply(fd, setting) == Outcome::Done {
        return log::debug(format_args!("close fd {fd} {peer}: {decision}: reset"));
    } else {
        "the kernel refused"
    };
    log::debug(format_args!("close fd {fd} {peer}: {decision}: not reset: {kept}"));
}

/// Whether a program that was started from here may have it, or one that such a program has left behind.
fn may_be_inherited(fd: c_int) -> bool {
    if ffi::is_closed_by_exec(fd) {
        return false;
    }
    if ffi::has_children() {
        return true;
    }
    let ended = ffi::ended_children() as isize;
    let has_one_ended = ENDED.swap(ended, Relaxed) != ended;
    if has_one_ended {
        all_are_shared();
    }
    has_one_ended || ffi::forgets_children()
}

/// The peer, and what is decided about a socket with these notes.
fn decided(active: &Active, fd: c_int, notes: Notes) -> Option<(Endpoint, Decision<'_>, Moments)> {
    let peer = ffi::connected_peer(fd).ok()?.endpoint().ok()?;
    if notes.has(Note::ResetConnected) {
        return Some((peer, active.decide(&Connection::Outbound { peer }), CONNECTED));
    }
    let local =
        if active.rules.asks_for_listener() { listeners::listener_of(local_endpoint(fd)?)? } else { Endpoint::ANY };
    Some((peer, active.decide(&Connection::Inbound { local, peer }), ACCEPTED))
}
