//! The trial before the start: a short-lived child makes calls, and everything is tried on them that the worker will need.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;

use rustix::event::PollFlags;
use socket::ffi::{self, Task};
use socket::{Address, Errno, Kind, describe};

use crate::Step;
use crate::handover::{PATIENCE, is_ready};
use crate::made;
use crate::notification::{Call, Notification, WORDS};
use crate::sys::{self, Answer};

/// discard; nobody need listen there.
pub(crate) const TRIAL_PORT: u16 = 9;

/// How the supervisor has the program's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Means {
    /// It copies the program's descriptors.
    Copies,
    /// It makes them.
    Making,
}

/// The memory that a call is taken into.
pub(crate) type Memory = [std::sync::atomic::AtomicU64; WORDS];

/// Takes the next call of who is tried out.
fn next_call(listener: BorrowedFd<'_>, memory: &Memory) -> Result<Notification, Errno> {
    if !is_ready(listener, PollFlags::IN, Some(PATIENCE)) {
        return Err(Errno(libc::ETIMEDOUT));
    }
    sys::receive(listener, memory)?;
    let call = taken(memory);
    clear(memory);
    Ok(call)
}

/// Takes a call, looks into who makes it by every means that the worker has, and lets it go on. Where descriptors cannot be copied, the
/// next two are tried in another way.
pub(crate) fn look_once(listener: BorrowedFd<'_>, memory: &Memory) -> Result<Means, (Step, Errno)> {
    let at = |step: Step| move |errno: Errno| (step, errno);
    let call = next_call(listener, memory).map_err(at(Step::Receive))?;
    let looked = || {
        let mut bytes = [0; 16];
        sys::read_memory(call.thread, call.place(1), &mut bytes, sys::Extent::All).map_err(at(Step::Memory))?;
        let is_it = Address::new(&bytes).endpoint().is_ok_and(|peer| peer.port() == TRIAL_PORT);
        if call.call() != Some(Call::Connect) || !is_it {
            return Err((Step::Memory, Errno(libc::EPROTO)));
        }
        let process = ffi::pidfd_open(call.thread, Task::Process).map_err(at(Step::Descriptor))?;
        // The copy, and what the guardian and a worker's log have besides. Else all calls would go on without options.
        let spare = [(); 3].map(|()| sys::copy_own(process.as_raw_fd()));
        spare.into_iter().collect::<Result<Vec<_>, _>>().map_err(at(Step::Descriptor))?;
        let copy = match ffi::pidfd_getfd(process.as_fd(), call.int(0)) {
            Ok(copy) => copy,
            Err(errno) => return Ok(Err(errno)),
        };
        match describe::kind(copy.as_raw_fd()) {
            Ok(Kind::Udp) => Ok(Ok(())),
            found => Err((Step::Descriptor, found.err().unwrap_or(Errno(libc::EPROTO)))),
        }
    };
    let looked = looked().and_then(|copied| {
        if sys::is_waiting(listener, call.id) { Ok(copied) } else { Err((Step::Receive, Errno(libc::ENOENT))) }
    });
    let answered = sys::send(listener, call.id, Answer::Continue).map_err(at(Step::Answer));
    match (looked?, answered?) {
        (Ok(()), ()) => Ok(Means::Copies),
        (Err(_), ()) if made::room() == 0 => Err((Step::Descriptor, Errno(libc::EMFILE))),
        (Err(refused), ()) => {
            // What is said is why it cannot be copied.
            make_once(listener, memory).map(|()| Means::Making).map_err(|_| (Step::Descriptor, refused))
        }
    }
}

/// Makes the socket that is asked for next, and knows it again when it is connected.
fn make_once(listener: BorrowedFd<'_>, memory: &Memory) -> Result<(), Errno> {
    let call = next_call(listener, memory)?;
    let made =
        if call.call() == Some(Call::Socket) { made::try_out(listener, &call) } else { Err(Errno(libc::EPROTO)) };
    let (inode, answer) = match made {
        Ok((inode, fd)) => (Ok(inode), Answer::Result(fd.into())),
        Err(errno) => (Err(errno), Answer::Continue),
    };
    sys::send(listener, call.id, answer)?;
    let inode = inode?;
    let call = next_call(listener, memory)?;
    let found = sys::socket_of(call.thread, call.int(0));
    sys::send(listener, call.id, Answer::Continue)?;
    if found? == Some(inode) { Ok(()) } else { Err(Errno(libc::EPROTO)) }
}

pub(crate) fn taken(memory: &Memory) -> Notification {
    Notification::of(std::array::from_fn(|index| memory.get(index).map_or(0, |word| word.load(Relaxed))))
}

pub(crate) fn clear(memory: &Memory) {
    // The number last: as long as it is there, somebody may have to answer.
    memory.iter().rev().for_each(|word| word.store(0, Relaxed));
}
