//! Sockets that have a time for connecting: a copy of each is held until the connection stands, since nobody tells when it does.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use policy::Endpoint;
use rustix::process::{Resource, getrlimit};
use socket::standing::is_listening;
use socket::{Errno, ffi};

use crate::runtime::Runtime;
use crate::sys;
use crate::tasks;

/// When a socket that connects is looked at for the first time.
pub(crate) const FIRST_LOOK: Duration = Duration::from_millis(1);
/// How long it may take until one is looked at again.
pub(crate) const SELDOM: Duration = Duration::from_millis(50);

/// A copy of a socket that is being connected: nobody tells when that is done.
pub(crate) struct Held {
    pub(crate) copy: OwnedFd,
    /// Which socket it is.
    pub(crate) inode: Option<u64>,
    pub(crate) since: Instant,
    pub(crate) runtime: Rc<Runtime>,
    pub(crate) peer: Endpoint,
    /// As in [`Connecting`](socket::connecting::Connecting).
    pub(crate) limit: i32,
    pub(crate) own: i32,
    /// The thread that connects, which may have a table of descriptors of its own, and may end before its process does.
    pub(crate) thread: i32,
    pub(crate) process: i32,
    /// The descriptor.
    pub(crate) fd: i32,
}

/// So many of those that are due are looked at between two calls of the program.
pub(crate) const MOST_LOOKS: usize = 32;

/// So many sockets are held at most; others have their number of SYNs limited, which is not as exact.
const MOST_HELD: usize = 4_096;

/// So many descriptors are left for the rest of the work.
const OTHER_DESCRIPTORS: usize = 48 + tasks::MOST;

/// The same, as far as this process may have descriptors.
pub(crate) fn most_held() -> usize {
    let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    limit.map_or(MOST_HELD, |limit| MOST_HELD.min(limit.saturating_sub(OTHER_DESCRIPTORS)))
}

/// What has become of a socket that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Connecting,
    /// The connection stands, or there will be none.
    Over,
    /// The program has closed the descriptor, or its process has ended. There may be another one of the same socket.
    Closed,
}

impl Held {
    /// Looks.
    pub(crate) fn state(&mut self) -> State {
        if self.is_over() {
            return State::Over;
        }
        match self.is_under(self.thread, self.fd) {
            Ok(false) | Err(Errno(libc::EBADF | libc::ESRCH)) if !self.is_moved() => State::Closed,
            // kcmp(2) is refused where pidfd_getfd(2) is.
            Err(Errno(libc::EPERM | libc::ENOSYS)) if self.is_elsewhere() => State::Closed,
            // The same, or it is not told.
            Ok(_) | Err(_) => State::Connecting,
        }
    }

    fn is_under(&self, task: i32, fd: i32) -> Result<bool, Errno> {
        ffi::is_same_file(self.copy.as_fd(), task, fd)
    }

    /// Whether the process has the socket, under the same number or another low one: its thread has ended, or it has moved the descriptor.
    fn is_moved(&mut self) -> bool {
        /// Each takes a system call.
        const MOST_TRIED: i32 = 64;
        let all = std::iter::once(self.fd).chain(0..MOST_TRIED);
        let found = all
            .map(|fd| (fd, self.is_under(self.process, fd)))
            .take_while(|(_, is_it)| *is_it != Err(Errno(libc::ESRCH)));
        let found = found.into_iter().find(|(_, is_it)| *is_it == Ok(true));
        if let Some((fd, _)) = found {
            (self.thread, self.fd) = (self.process, fd);
        }
        found.is_some()
    }

    /// Whether the program has something else under the same number, as far as proc(5) tells.
    fn is_elsewhere(&self) -> bool {
        let is_gone = |task| sys::socket_of(task, self.fd).is_ok_and(|theirs| theirs != self.inode);
        is_gone(self.thread) && is_gone(self.process)
    }

    /// Whether the connection stands, or there will be none.
    fn is_over(&self) -> bool {
        /// By then the program has gone on with its call.
        const BEGINS_WITHIN: Duration = Duration::from_millis(200);
        /// After its time the kernel has given it up.
        const LATE: Duration = Duration::from_secs(60);
        let (fd, age) = (self.copy.as_raw_fd(), self.since.elapsed());
        ffi::connected_peer(fd).is_ok()
            || age > BEGINS_WITHIN && (ffi::is_closed(fd) || is_listening(fd))
            || age > Duration::from_millis(self.limit.unsigned_abs().into()) + LATE
    }
}
