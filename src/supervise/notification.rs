//! What the kernel tells of a call that waits (`struct seccomp_notif`, linux/seccomp.h), and which call it is.

/// `MSG_FASTOPEN`: a send that connects.
pub(crate) const MSG_FASTOPEN: u32 = libc::MSG_FASTOPEN as u32;

/// Calls that the supervisor may be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// connect(2).
    Connect,
    /// bind(2).
    Bind,
    /// listen(2).
    Listen,
    /// setsockopt(2).
    SetSockOpt,
    /// sendto(2).
    SendTo,
    /// sendmsg(2).
    SendMsg,
    /// sendmmsg(2).
    SendMmsg,
    /// socket(2).
    Socket,
}

impl Call {
    pub(crate) const ALL: [Self; 8] = [
        Self::Connect,
        Self::Bind,
        Self::Listen,
        Self::SetSockOpt,
        Self::SendTo,
        Self::SendMsg,
        Self::SendMmsg,
        Self::Socket,
    ];

    /// Its number on this machine.
    pub(crate) const fn number(self) -> u32 {
        (match self {
            Self::Connect => libc::SYS_connect,
            Self::Bind => libc::SYS_bind,
            Self::Listen => libc::SYS_listen,
            Self::SetSockOpt => libc::SYS_setsockopt,
            Self::SendTo => libc::SYS_sendto,
            Self::SendMsg => libc::SYS_sendmsg,
            Self::SendMmsg => libc::SYS_sendmmsg,
            Self::Socket => libc::SYS_socket,
        }) as u32
    }
}

/// A call that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// The kernel's number for it.
    pub id: u64,
    /// The thread that makes it, as this process sees it; 0 where it does not.
    pub thread: i32,
    number: u32,
    /// The arguments.
    pub arguments: [u64; 6],
}

/// The size of `struct seccomp_notif`, in words of 64 bits.
pub(crate) const WORDS: usize = 10;

impl Notification {
    /// Of the kernel's structure.
    #[must_use]
    pub fn of(words: [u64; WORDS]) -> Self {
        let halves = |word: u64| {
            let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
            [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
        };
        let [id, task, call, _, arguments @ ..] = words;
        let ([thread, _], [number, _]) = (halves(task), halves(call));
        Self { id, thread: thread.cast_signed(), number, arguments }
    }

    /// Which call it is.
    #[must_use]
    pub fn call(&self) -> Option<Call> {
        Call::ALL.into_iter().find(|call| call.number() == self.number)
    }

    /// An argument that is an `int`.
    #[must_use]
    pub fn int(&self, index: usize) -> i32 {
        self.arguments.get(index).map_or(0, |word| *word as u32).cast_signed()
    }

    /// An argument that is a place in the program's memory.
    #[must_use]
    pub fn place(&self, index: usize) -> u64 {
        self.arguments.get(index).copied().unwrap_or(0)
    }
}
