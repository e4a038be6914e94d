//! What the programs remember of sockets, written from outside: of sockets that were there before the programs were attached. The
//! kernel lets the owner of the table do that for a socket of which it has a descriptor, since Linux 5.2.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use policy::constants::SOL_TCP;
use policy::{Endpoint, Name, Setting};
use socket::{Errno, ffi};

use crate::compile::Tables;
use crate::fill::COMPUTED_BIT;
use crate::layout::NUMBER_BIT;
use crate::learned::Addresses;
use crate::settable::bit;
use crate::sys::{self, borrowed};
use crate::tables::LOCAL;

/// The tables of an attachment that are about sockets.
#[derive(Debug)]
pub struct Remembered {
    /// Of each socket, which options are enforced on it.
    pub(crate) sockets: OwnedFd,
    /// Of each listener, the class of its clients.
    pub(crate) listeners: OwnedFd,
    /// Of addresses, by which name they were looked up, if rules name hosts.
    pub(crate) addresses: Option<Addresses>,
}

/// Where the number of what a socket is counted by is.
const COUNTED: u64 = u64::MAX << NUMBER_BIT;

fn key(socket: BorrowedFd<'_>) -> [u8; 4] {
    socket.as_raw_fd().to_ne_bytes()
}

/// The bit of a user timeout that was computed from the rule's keepalive and filled in, if it was so before or is among these
/// settings: it is taken back when the program chooses a keepalive beside which it must not stand.
pub fn computed<'a>(before: u64, mut made: impl Iterator<Item = &'a Setting>) -> u64 {
    const BIT: u64 = 1 << COMPUTED_BIT;
    if made.any(|setting| setting.computed_from.is_some()) { BIT } else { before & BIT }
}

/// The bits of settings that a program is kept from changing.
pub fn bits<'a>(settings: impl Iterator<Item = &'a Setting>) -> u64 {
    settings.filter_map(|setting| bit(setting.level, setting.name)).fold(0, |bits, bit| bits | 1 << bit)
}

impl Remembered {
    fn value(&self, socket: BorrowedFd<'_>) -> Option<u64> {
        let value = sys::lookup(borrowed(&self.sockets), &key(socket), 8).ok()?;
        value.try_into().ok().map(u64::from_ne_bytes)
    }

    /// Which options are enforced on a socket, by their [`bits`]; none if it is not known to the programs.
    #[must_use]
    pub fn enforced(&self, socket: BorrowedFd<'_>) -> Option<u64> {
        self.value(socket).map(|value| value & !COUNTED)
    }

    /// Has these enforced, and no others. What the socket is counted by stays.
    ///
    /// # Errors
    /// Those of bpf(2): ENOMEM where the kernel's memory for options of this socket is used up (net.core.optmem_max).
    pub fn enforce(&self, socket: BorrowedFd<'_>, bits: u64) -> Result<(), Errno> {
        let value = bits | self.value(socket).unwrap_or_default() & COUNTED;
        sys::update(borrowed(&self.sockets), &key(socket), &value.to_ne_bytes())
    }

    /// The name by which an address was looked up last, if rules name it.
    #[must_use]
    pub fn name_of(&self, ip: IpAddr) -> Option<Name> {
        self.addresses.as_ref()?.name_of(ip)
    }

    /// Gives a listener the class of its clients, as the programs do when it begins to listen: by the name of the executable of the
    /// process that listens, and by its address.
    ///
    /// # Errors
    /// As for [`Self::enforce`].
    pub fn listens(&self, socket: BorrowedFd<'_>, tables: &Tables, by: (&str, Endpoint)) -> Result<(), Errno> {
        let (executable, local) = by;
        let class = u64::from(tables.networks.find(tables.names.class_of(executable.as_bytes()) + LOCAL, local));
        sys::update(borrowed(&self.listeners), &key(socket), &class.to_ne_bytes())
    }

    /// Whether the programs are asked about what is set on a socket: not if it was made in another control group, whoever has it
    /// now. Nothing is changed by asking.
    #[must_use]
    pub fn is_reached(&self, socket: BorrowedFd<'_>) -> bool {
        // A value that the kernel refuses, of an option that is enforced for a moment: it succeeds if it never got there.
        let Some(bit) = bit(SOL_TCP, libc::TCP_SYNCNT) else { return false };
        let before = self.enforced(socket).unwrap_or_default();
        let is_asked = self.enforce(socket, 1 << bit).is_ok()
            && ffi::set(socket.as_raw_fd(), SOL_TCP, libc::TCP_SYNCNT, &0_i32).is_ok();
        self.enforce(socket, before).is_ok() && is_asked
    }
}
