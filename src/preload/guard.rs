//! Keeps what we do from showing: errno, and our own panics.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use socket::ffi;

use crate::{log, state};

/// Runs our part of a hook. Afterwards errno is as the program left it, and nothing of ours is alive: the real
/// function is called outside, so that cancellation of the thread can unwind through the hook.
///
/// A panic is a fault of ours and ends the library's work, not the program's: every hook passes through from then
/// on, and one line says so.
///
/// Asynchronous cancellation waits meanwhile: what is begun is finished. This function and the hooks have no landing pads,
/// so that it may strike in them; what has one is out of line. `Copy` says that there is nothing to drop, to builds
/// without optimisation as well. What ends a thread from a signal handler does not wait (unwinding.rs).
pub(crate) fn contained<R: Copy + Default>(work: impl Fn() -> R + Copy) -> R {
    let cancellation = ffi::defer_cancellation();
    let result = caught(&work);
    ffi::restore_cancellation(cancellation);
    result
}

#[inline(never)]
fn caught<R: Copy + Default>(work: &impl Fn() -> R) -> R {
    let errno = ffi::errno();
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        if state::give_up() {
            log::error(format_args!("internal error; the library is off in this process from here on"));
        }
        R::default()
    });
    ffi::set_errno(errno);
    result
}

thread_local! {
    // No destructor, so nothing is registered and nothing can be gone in a late call.
    static SETTING_UP: Cell<bool> = const { Cell::new(false) };
}

/// Runs the set-up, unless it is running in this thread already: it allocates and reads files, and another preload
/// library's malloc may open a socket for that.
pub(crate) fn not_reentered<R>(work: impl FnOnce() -> Option<R>) -> Option<R> {
    if SETTING_UP.replace(true) {
        return None;
    }
    let result = catch_unwind(AssertUnwindSafe(work));
    SETTING_UP.set(false);
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
