//! Sockets that the supervisor makes, where the kernel lets it have no copies of the program's descriptors (pidfd_getfd(2)), as in a
//! container under Docker's seccomp profile.
//!
//! The program's `socket` is answered with a socket of the supervisor's, of which the supervisor keeps a copy until the program
//! connects or listens. By then it is known what is to be set, and it is set on the copy. Which socket a call is about is told by its
//! inode, which proc(5) shows.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use policy::{Connection, Phases};
use rustix::fs::readlink;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use socket::line::Identity;
use socket::{Errno, ffi};

use crate::held::most_held;
use crate::notification::Notification;
use crate::sys;

/// How long it may take at first until a copy is given back of a socket that the program has closed.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// How long it may take later.
const SELDOM: Duration = Duration::from_millis(250);
/// So long a socket may be neither connected nor listened on; one that is later gets no options.
const LONGEST: Duration = Duration::from_secs(60);
/// So many sockets are known at a time by what was set on them, and as many that were known before.
const MOST_SETTLED: usize = 8_192;

/// What a type of socket may come with, socket(2).
const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// A socket that was neither connected nor listened on yet.
struct Undecided {
    copy: OwnedFd,
    /// Who made it: the thread, which may have a table of descriptors of its own, and may end before another one connects the
    /// socket; and its process.
    tasks: [i32; 2],
    fd: i32,
    is_stream: bool,
    since: Instant,
    next_look: Instant,
}

impl Undecided {
    /// Whether the program can still do something with it that tells of it.
    fn is_there(&self, inode: u64) -> bool {
        self.since.elapsed() < LONGEST
            && self.tasks.iter().any(|task| sys::socket_of(*task, self.fd) == Ok(Some(inode)))
            // Connected by a way that nobody has told of.
            && (ffi::is_closed(self.copy.as_raw_fd()) || !self.is_stream)
    }
}

/// What a socket is, on which the options were set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settled {
    pub(crate) connection: Connection,
    pub(crate) phases: Phases,
}

/// The sockets that were made, by inode.
#[derive(Default)]
pub(crate) struct Made {
    undecided: HashMap<u64, Undecided>,
    next_look: Option<Instant>,
    settled: HashMap<u64, Settled>,
    settled_before: HashMap<u64, Settled>,
}

/// What became of a `socket`.
pub(crate) enum Making {
    /// The program has it under this number, and waits yet to be told.
    Placed(i32),
    /// It is to be made by the kernel as if nobody had looked.
    LeftAlone,
    /// The same, since the kernel tells nothing of this process.
    Closed,
}

impl Made {
    /// Makes the socket that the program asks for, and gives it to the program.
    pub(crate) fn make(&mut self, listener: BorrowedFd<'_>, call: &Notification) -> Making {
        let process = match process_of_this_place(call.thread) {
            Ok(Some(process)) => process,
            Ok(None) => return Making::LeftAlone,
            Err(_) => return Making::Closed,
        };
        if self.undecided.len() >= most_held() / 2 {
            self.look(true);
            if self.undecided.len() >= most_held() / 2 {
                return Making::LeftAlone;
            }
        }
        // What the kernel refuses here, it refuses the program.
        let Some(copy) = new_socket(call) else { return Making::LeftAlone };
        let Some(inode) = Identity::of(copy.as_raw_fd()).map(|identity| identity.inode) else {
            return Making::LeftAlone;
        };
        let is_closed_on_exec = call.int(1) & libc::SOCK_CLOEXEC != 0;
        let fd = match sys::give(listener, call.id, copy.as_fd(), is_closed_on_exec) {
            Ok(fd) => fd,
            // The program has all the descriptors that it may have, or it waits no more.
            Err(_) => return Making::LeftAlone,
        };
        let since = Instant::now();
        let next_look = since + FIRST_LOOK;
        let is_stream = call.int(1) & !FLAGS == libc::SOCK_STREAM;
        self.undecided
            .insert(inode, Undecided { copy, tasks: [call.thread, process], fd, is_stream, since, next_look });
        self.next_look = Some(self.next_look.map_or(next_look, |next| next.min(next_look)));
        Making::Placed(fd)
    }

    /// The copy of a socket, which is given away: it is decided now.
    pub(crate) fn take(&mut self, inode: u64) -> Option<OwnedFd> {
        self.undecided.remove(&inode).map(|undecided| undecided.copy)
    }

    /// The same, where it is not decided yet.
    pub(crate) fn borrow(&self, inode: u64) -> Option<OwnedFd> {
        self.undecided.get(&inode)?.copy.try_clone().ok()
    }

    /// The same of a socket that is bound: nothing that is bound for datagrams listens.
    pub(crate) fn borrow_bound(&mut self, inode: u64) -> Option<OwnedFd> {
        if self.undecided.get(&inode)?.is_stream { self.borrow(inode) } else { self.take(inode) }
    }

    /// Remembers what a socket is.
    pub(crate) fn settle(&mut self, socket: BorrowedFd<'_>, settled: Settled) {
        let Some(identity) = Identity::of(socket.as_raw_fd()) else { return };
        if self.settled.len() >= MOST_SETTLED {
            self.settled_before = std::mem::take(&mut self.settled);
        }
        self.settled.insert(identity.inode, settled);
    }

    /// What a socket is, if options were set on it.
    pub(crate) fn settled(&self, inode: u64) -> Option<Settled> {
        self.settled.get(&inode).or_else(|| self.settled_before.get(&inode)).copied()
    }

    /// Gives copies back that the program has closed: those whose time it is, or all; how long until the next time.
    pub(crate) fn look(&mut self, at_all: bool) -> Option<Duration> {
        let now = Instant::now();
        if self.undecided.is_empty() {
            self.next_look = None;
        }
        let next = self.next_look?;
        if at_all || next <= now {
            self.undecided.retain(|inode, undecided| {
                if undecided.next_look > now && !at_all {
                    return true;
                }
                undecided.next_look = now + ((now - undecided.since) / 4).clamp(FIRST_LOOK, SELDOM);
                undecided.is_there(*inode)
            });
            self.next_look = self.undecided.values().map(|undecided| undecided.next_look).min();
        }
        self.next_look.map(|next| next.saturating_duration_since(now))
    }

    /// Gives all copies back.
    pub(crate) fn forget(&mut self) {
        self.undecided.clear();
    }
}

/// The process of a thread, if a socket that is made here is as one that the thread makes: it has the same network namespace and the same
/// user.
///
/// # Errors
/// Where the kernel does not tell.
fn process_of_this_place(thread: i32) -> Result<Option<i32>, Errno> {
    let errno = |error: std::io::Error| Errno(error.raw_os_error().unwrap_or(libc::EIO));
    let of = |path: &str| readlink(path, Vec::new()).map_err(|error| Errno(error.raw_os_error()));
    if of(&format!("/proc/{thread}/ns/net"))? != of("/proc/self/ns/net")? {
        return Ok(None);
    }
    // proc(5): of four ids the last is that of new files, and of sockets.
    let ids = |status: &str| {
        let field =
            |name| status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().last()?.parse().ok();
        Some((field("Tgid:")?, field("Uid:")?, field("Gid:")?))
    };
    let read = |path: &str| fs::read_to_string(path).map_err(errno).map(|status| ids(&status));
    let (theirs, own) = (read(&format!("/proc/{thread}/status"))?, read("/proc/self/status")?);
    let (Some((process, user, group)), Some((_, own_user, own_group))) = (theirs, own) else {
        return Err(Errno(libc::EIO));
    };
    Ok((user == own_user && group == own_group).then_some(process))
}

/// The socket that a program asks for.
fn new_socket(call: &Notification) -> Option<OwnedFd> {
    let (domain, kind, protocol) = (call.int(0), call.int(1), call.int(2));
    let own = u16::try_from(domain).ok().map(AddressFamily::from_raw)?;
    let protocol = u32::try_from(protocol).ok()?.try_into().ok().map(Protocol::from_raw);
    let mut asked = SocketFlags::CLOEXEC;
    asked.set(SocketFlags::NONBLOCK, kind & libc::SOCK_NONBLOCK != 0);
    socket_with(own, SocketType::from_raw((kind & !FLAGS).unsigned_abs()), asked, protocol).ok()
}

/// Has a call of a process that is tried out answered with a socket, and looks whether its number is told.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn try_out(listener: BorrowedFd<'_>, call: &Notification) -> Result<(u64, i32), Errno> {
    if process_of_this_place(call.thread)?.is_none() {
        return Err(Errno(libc::EXDEV));
    }
    let copy = new_socket(call).ok_or(Errno(libc::EPROTONOSUPPORT))?;
    let inode = Identity::of(copy.as_raw_fd()).map(|identity| identity.inode).ok_or(Errno(libc::EIO))?;
    Ok((inode, sys::give(listener, call.id, copy.as_fd(), true)?))
}
