//! What the processes of a supervisor tell one another while it starts, over a socket between them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use socket::Errno;

use crate::{Refusal, Step};

/// How long the other side may take for an answer; it takes a fraction of a millisecond.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What the processes tell one another while the supervisor starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) step: u8,
    pub(crate) number: i32,
}

pub(crate) const TRIAL: u8 = b't';
pub(crate) const REAL: u8 = b'r';
pub(crate) const DONE: u8 = b'd';
pub(crate) const FAILED: u8 = b'f';

impl Message {
    pub(crate) fn new(kind: u8) -> Self {
        Self { kind, step: 0, number: 0 }
    }

    pub(crate) fn failed(step: Step, errno: Errno) -> Self {
        Self { kind: FAILED, step: step as u8, number: errno.0 }
    }

    pub(crate) fn result(self) -> Result<(), Refusal> {
        if self.kind == FAILED { Err(Refusal::new(Step::of(self.step), Errno(self.number))) } else { Ok(()) }
    }
}

pub(crate) fn errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

pub(crate) fn send(socket: BorrowedFd<'_>, message: Message, descriptor: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let [a, b, c, d] = message.number.to_ne_bytes();
    let bytes = [message.kind, message.step, a, b, c, d];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let list = descriptor.map(|descriptor| [descriptor]);
    if let Some(list) = &list {
        control.push(SendAncillaryMessage::ScmRights(list));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).map(drop).map_err(errno)
}

/// The next message; none where the other side has gone.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Option<(Message, Option<OwnedFd>)>, Errno> {
    if !is_ready(socket, PollFlags::IN, Some(PATIENCE)) {
        return Err(Errno(libc::ETIMEDOUT));
    }
    let mut bytes = [0; 6];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
    let length = received.map_err(errno)?.bytes;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut list) => list.next(),
        _ => None,
    });
    let descriptor = descriptors.next();
    let [kind, step, number @ ..] = bytes;
    let message = Message { kind, step, number: i32::from_ne_bytes(number) };
    Ok((length == bytes.len()).then_some((message, descriptor)))
}

/// Waits for a descriptor, at most so long.
pub(crate) fn is_ready(descriptor: BorrowedFd<'_>, events: PollFlags, at_most: Option<Duration>) -> bool {
    let time = at_most.and_then(|time| Timespec::try_from(time).ok());
    let mut one = [PollFd::from_borrowed_fd(descriptor, events)];
    loop {
        match poll(&mut one, time.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            found => return found == Ok(1),
        }
    }
}
