//! How far the set-up is.

use std::sync::atomic::{AtomicU8, Ordering};

/// Nothing was read yet: another library's constructor came before ours.
pub(crate) const UNREAD: u8 = 0;
/// Nothing to do: no configuration, a broken one, or one that is not for this process.
pub(crate) const OFF: u8 = 1;
/// Read, not compiled.
pub(crate) const READ: u8 = 2;
/// Compiled.
pub(crate) const ON: u8 = 3;
/// Variables alone, kept as they were at load time, and not read.
pub(crate) const NOTED: u8 = 4;

pub(crate) static STATE: AtomicU8 = AtomicU8::new(UNREAD);

/// Switches to passing through; true for the one caller who did it.
pub(crate) fn give_up() -> bool {
    STATE.swap(OFF, Ordering::AcqRel) != OFF
}
