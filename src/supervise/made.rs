//! Sockets that the supervisor makes, where the kernel lets it have no copies of the program's descriptors (pidfd_getfd(2)), as in a
//! container under Docker's seccomp profile.
//!
//! The program's `socket` is answered with a socket of the supervisor's, of which the supervisor keeps a copy until the program
//! connects or listens. By then it is known what is to be set, and it is set on the copy. Which socket a call is about is told by its
//! inode, which proc(5) shows.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use policy::{Connection, Phases};
use rustix::fs::readlink;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use socket::line::Identity;
use socket::standing::local_endpoint;
use socket::{Errno, ffi};

use crate::held::most_held;
use crate::notification::Notification;
use crate::recent::Recent;
use crate::sys;

/// How long it may take at first until a copy is given back of a socket that the program has closed.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// How long it may take later.
const SELDOM: Duration = Duration::from_millis(250);
/// So long a socket may be neither connected nor listened on; one that is later gets no options.
const LONGEST: Duration = Duration::from_secs(60);
/// So many of those that are due are looked at between two calls: each is asked about by system calls, and there may be thousands.
const MOST_LOOKS: usize = 4;

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
    /// The port that it is bound to, which stays the same; 0 where it is to none, or to one that is not asked for yet.
    port: u16,
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
    /// When each of these is to be looked at, and the ports that some are bound to.
    looks: BTreeSet<(Instant, u64)>,
    ports: BTreeSet<(u16, u64)>,
    /// Those that may be bound to a port that is not known yet: streams by a bind, datagrams by what they send first.
    of_any_port: HashSet<u64>,
    /// So many with a port are many, where the kernel chooses ports.
    many_ports: Option<usize>,
    settled: Recent<Settled>,
}

/// What became of a `socket`.
pub(crate) enum Making {
    /// The program has it under this number, and waits yet to be told.
    Placed(i32),
    /// It is to be made by the kernel as if nobody had looked.
    LeftAlone,
    /// The same, since so many are undecided.
    NoRoom(usize),
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
        let most = room();
        self.free_some();
        for _ in 0..MOST_LOOKS {
            match self.looks.first() {
                Some((_, inode)) if self.undecided.len() >= most => self.look_at(*inode),
                _ => break,
            }
        }
        if self.undecided.len() >= most {
            return Making::NoRoom(most);
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
        let tasks = [call.thread, process];
        self.undecided.insert(inode, Undecided { copy, tasks, fd, is_stream, since, next_look, port: 0 });
        self.looks.insert((next_look, inode));
        if !is_stream {
            self.of_any_port.insert(inode);
        }
        Making::Placed(fd)
    }

    /// The copy of a socket, which is given away: it is decided now.
    pub(crate) fn take(&mut self, inode: u64) -> Option<OwnedFd> {
        let undecided = self.undecided.remove(&inode)?;
        self.looks.remove(&(undecided.next_look, inode));
        self.ports.remove(&(undecided.port, inode));
        self.of_any_port.remove(&inode);
        Some(undecided.copy)
    }

    /// The same, where it is not decided yet.
    pub(crate) fn borrow(&self, inode: u64) -> Option<OwnedFd> {
        self.undecided.get(&inode)?.copy.try_clone().ok()
    }

    /// The same of a socket that is being bound: nothing that is bound for datagrams listens.
    pub(crate) fn borrow_bound(&mut self, inode: u64) -> Option<OwnedFd> {
        let undecided = self.undecided.get(&inode)?;
        if !undecided.is_stream {
            return self.take(inode);
        }
        if undecided.port == 0 {
            self.of_any_port.insert(inode);
        }
        self.borrow(inode)
    }

    /// Gives the copies back that keep a port in use, of sockets that the program has closed.
    pub(crate) fn free(&mut self, port: u16) {
        // Only the kernel knows: it may choose the port, and may refuse a bind.
        self.of_any_port.retain(|inode| {
            let Some(undecided) = self.undecided.get_mut(inode) else { return false };
            undecided.port = local_endpoint(undecided.copy.as_raw_fd()).map_or(0, |own| own.port());
            if undecided.port != 0 {
                self.ports.insert((undecided.port, *inode));
            }
            undecided.port == 0
        });
        let on_it = self.ports.range((port, 0)..=(port, u64::MAX)).map(|(_, inode)| *inode);
        on_it.collect::<Vec<u64>>().into_iter().for_each(|inode| self.look_at(inode));
    }

    /// The same for a socket that is to have a port of the kernel's choice, where there are few to choose from.
    fn free_some(&mut self) {
        let with_port = self.of_any_port.len() + self.ports.len();
        if with_port == 0 || with_port < *self.many_ports.get_or_insert_with(|| local_ports() / 4) {
            return;
        }
        let has_port = |inode: &u64| {
            self.of_any_port.contains(inode) || self.undecided.get(inode).is_some_and(|undecided| undecided.port != 0)
        };
        let soonest = self.looks.iter().map(|(_, inode)| *inode).filter(has_port).take(MOST_LOOKS);
        soonest.collect::<Vec<u64>>().into_iter().for_each(|inode| self.look_at(inode));
    }

    /// Remembers what a socket is.
    pub(crate) fn settle(&mut self, socket: BorrowedFd<'_>, settled: Settled) {
        let Some(identity) = Identity::of(socket.as_raw_fd()) else { return };
        self.settled.insert(identity.inode, settled);
    }

    /// What a socket is, if options were set on it.
    pub(crate) fn settled(&self, inode: u64) -> Option<Settled> {
        self.settled.get(inode)
    }

    /// Gives some of the copies back that the program has closed, of those whose time it is; how long until the next time.
    pub(crate) fn look(&mut self) -> Option<Duration> {
        let now = Instant::now();
        for _ in 0..MOST_LOOKS {
            match self.looks.first() {
                Some((at, inode)) if *at <= now => self.look_at(*inode),
                _ => break,
            }
        }
        self.looks.first().map(|(at, _)| at.saturating_duration_since(now))
    }

    /// Gives a copy back if the program has closed the socket.
    fn look_at(&mut self, inode: u64) {
        let Some(undecided) = self.undecided.get_mut(&inode) else { return };
        if !undecided.is_there(inode) {
            self.take(inode);
            return;
        }
        self.looks.remove(&(undecided.next_look, inode));
        undecided.next_look = Instant::now() + (undecided.since.elapsed() / 4).clamp(FIRST_LOOK, SELDOM);
        self.looks.insert((undecided.next_look, inode));
    }

    /// Gives all copies back.
    pub(crate) fn forget(&mut self) {
        *self = Self { settled: std::mem::take(&mut self.settled), ..Self::default() };
    }
}

/// How many may be undecided at a time.
pub(crate) fn room() -> usize {
    most_held() / 2
}

/// How many ports the kernel chooses from (ip(7), ip_local_port_range).
fn local_ports() -> usize {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range.split_whitespace().filter_map(|end| end.parse::<usize>().ok());
    match (ends.next(), ends.next()) {
        (Some(first), Some(last)) => last.saturating_sub(first) + 1,
        _ => usize::from(u16::MAX),
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
