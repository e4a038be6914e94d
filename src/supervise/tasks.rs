//! The threads that make calls, and copies of their descriptors.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket::ffi::{self, Task};
use socket::{Errno, ffi::pidfd_getfd};

use crate::notification::Notification;
use crate::{log, sys};

/// So many threads at most are known at a time, each by a descriptor (pidfd_open(2)).
pub(crate) const MOST: usize = 32;

/// Threads that have made a call, each with a pidfd of its own.
///
/// As long as a pidfd answers, its thread has not ended, and no other thread can have its number. So what is known of a thread
/// since an earlier call is known of the one that waits now, and the kernel need not be asked whether it still waits.
#[derive(Default)]
pub(crate) struct Tasks(RefCell<[Option<Known>; MOST]>);

/// One of them.
struct Known {
    thread: i32,
    task: OwnedFd,
    /// Its process, once that is asked for.
    process: Option<i32>,
}

impl Tasks {
    /// A copy of a descriptor of the thread that waits; none if it waits no more.
    ///
    /// # Errors
    /// Those of pidfd_open(2) and pidfd_getfd(2).
    pub(crate) fn copy(
        &self,
        listener: BorrowedFd<'_>,
        call: &Notification,
        fd: i32,
    ) -> Result<Option<OwnedFd>, Errno> {
        if let Some(copy) = self.copy_of_known(call.thread, fd) {
            return Ok(Some(copy));
        }
        match self.copy_of_new(listener, call, fd) {
            Err(Errno(libc::EMFILE)) => {
                self.forget();
                self.copy_of_new(listener, call, fd)
            }
            result => result,
        }
    }

    fn copy_of_known(&self, thread: i32, fd: i32) -> Option<OwnedFd> {
        let known = self.0.borrow();
        let known = known.get(place(thread))?.as_ref()?;
        // Whatever is wrong is found out anew: mostly the thread has ended.
        (known.thread == thread).then(|| pidfd_getfd(known.task.as_fd(), fd).ok()).flatten()
    }

    fn copy_of_new(&self, listener: BorrowedFd<'_>, call: &Notification, fd: i32) -> Result<Option<OwnedFd>, Errno> {
        let thread = call.thread;
        let (task, is_thread) = match ffi::pidfd_open(thread, Task::Thread) {
            // Before Linux 6.9: threads have the same descriptors, almost always.
            Err(Errno(libc::EINVAL)) => (ffi::pidfd_open(log::process_of(thread), Task::Process)?, false),
            task => (task?, true),
        };
        let copy = pidfd_getfd(task.as_fd(), fd)?;
        // Else it may be another thread's by now.
        if !sys::is_waiting(listener, call.id) {
            return Ok(None);
        }
        // A process would answer for a thread that has ended.
        if is_thread && let Some(known) = self.0.borrow_mut().get_mut(place(thread)) {
            *known = Some(Known { thread, task, process: None });
        }
        Ok(Some(copy))
    }

    /// The process of a thread whose call waits, and of which a descriptor was copied for that.
    pub(crate) fn process_of(&self, thread: i32) -> i32 {
        let mut known = self.0.borrow_mut();
        match known.get_mut(place(thread)).and_then(Option::as_mut).filter(|known| known.thread == thread) {
            Some(known) => *known.process.get_or_insert_with(|| log::process_of(thread)),
            None => log::process_of(thread),
        }
    }

    /// Gives all of it back.
    pub(crate) fn forget(&self) {
        *self.0.borrow_mut() = Default::default();
    }
}

fn place(thread: i32) -> usize {
    thread.unsigned_abs() as usize % MOST
}
