//! The calling thread's signal mask, and what waits behind it.
//!
//! A seccomp filter may refuse any of this. A mask that could not be changed is not put back.
#![expect(unsafe_code, reason = "system calls about signals; every block says what makes it sound")]

use std::ffi::c_int;
use std::time::Duration;

use crate::errno::Errno;
use crate::ffi::checked;

/// A set of signals in the kernel's form, bit n - 1 for signal n.
type Set = u64;

const fn set_of(list: &[c_int]) -> Set {
    let mut set = 0;
    let mut index = 0;
    while index < list.len() {
        set |= 1 << (list[index] - 1);
        index += 1;
    }
    set
}

/// Changes the mask, rt_sigprocmask(2); the one before.
fn change(how: c_int, set: Set) -> Result<Set, Errno> {
    let mut old: Set = 0;
    // SAFETY: reads one set and writes the other, both of the size that is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const set, &raw mut old, size_of::<Set>()) };
    checked(result).map(|_| old)
}

/// All but SIGSYS: a filter may answer a system call of ours by it (SECCOMP_RET_TRAP, seccomp(2)), and the kernel ends the
/// process if it finds it blocked. Nobody else sends it.
const ALL: Set = !set_of(&[libc::SIGSYS]);

/// Runs `work` with every signal blocked, so that no handler runs in the middle of it and jumps away, if it can be done
/// at all; it is told whether.
pub fn without_signals<R>(work: impl FnOnce(bool) -> R) -> R {
    // A filter may look at `how`: tor's takes SIG_SETMASK and not SIG_BLOCK.
    let old = change(libc::SIG_SETMASK, ALL).or_else(|_| change(libc::SIG_BLOCK, ALL));
    let before = Before(old.ok());
    work(before.0.is_some())
}

/// The mask to be put back, unless it could not be changed.
struct Before(Option<Set>);

impl Drop for Before {
    fn drop(&mut self) {
        if let Some(old) = self.0
            && change(libc::SIG_SETMASK, old).is_err()
        {
            let _ = change(libc::SIG_UNBLOCK, !old);
        }
    }
}

/// Blocks these signals in the calling thread: they are left for [`wait_for`].
pub fn block(list: &[c_int]) {
    let _ = change(libc::SIG_BLOCK, set_of(list));
}

/// Waits for one of these signals, which must be blocked, or until the time is over: none then. sigtimedwait(2).
#[must_use]
pub fn wait_for(list: &[c_int], at_most: Duration) -> Option<c_int> {
    let set = set_of(list);
    let time =
        libc::timespec { tv_sec: at_most.as_secs().min(i32::MAX as u64) as _, tv_nsec: at_most.subsec_nanos() as _ };
    // SAFETY: rt_sigtimedwait(2) reads a set of the size that is passed, and a time.
    let signal =
        unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &raw const set, 0, &raw const time, size_of::<Set>()) };
    checked(signal).ok().map(|signal| signal as c_int)
}

/// The blocked signals that wait for the calling thread or its process, sigpending(2); none, where a filter refuses to
/// tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pending(Set);

impl Pending {
    /// Those that wait now.
    #[must_use]
    pub fn now() -> Self {
        let mut set: Set = 0;
        // SAFETY: rt_sigpending(2) writes one set of the size that is passed.
        let result = unsafe { libc::syscall(libc::SYS_rt_sigpending, &raw mut set, size_of::<Set>()) };
        Self(if result == 0 { set } else { 0 })
    }

    /// Whether a signal waited.
    #[must_use]
    pub fn has(self, signal: c_int) -> bool {
        self.0 & set_of(&[signal]) != 0
    }

    /// Takes away a signal that a call of ours has raised in this thread since; not one that waited before, which is
    /// the program's.
    pub fn take_new(self, signal: c_int) {
        if !self.has(signal) {
            let _ = wait_for(&[signal], Duration::ZERO);
        }
    }
}
