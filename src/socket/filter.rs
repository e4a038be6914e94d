//! Whether a seccomp filter of the program may judge our system calls, seccomp(2). It may end the process where it is asked for
//! what the program itself has no need of: then we do with what nearly every filter allows.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static IS_EXPECTED: AtomicBool = AtomicBool::new(false);

/// The process has asked for one, or is about to.
pub fn expect() {
    IS_EXPECTED.store(true, Relaxed);
}

/// Whether it has; a child has by its parent.
#[must_use]
#[inline]
pub fn is_expected() -> bool {
    IS_EXPECTED.load(Relaxed)
}
