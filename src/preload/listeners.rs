//! What is known of the listeners behind descriptors, so that accept need not ask the kernel.
//!
//! Hints, indexed by descriptor and by port, without locks: they are set by listen and accept, and taken back by
//! close, close_range, dup2 and dup3. A hint that is missing costs work: the kernel is asked again, and the listener is
//! given its options once more. So it does no harm that a child of vfork, which closes the descriptors that its program is
//! not to have, takes back its parent's. Descriptors beyond the table have no hints.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicUsize, Ordering::Relaxed};

use once_cell::race::OnceRef;
use policy::Endpoint;

const DESCRIPTORS: usize = 65_536;

/// What an accept on a descriptor has to do for the new socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Not seen yet: it came by exec, fork and exec, or SCM_RIGHTS.
    Nothing,
    /// Nothing: the listener has the options, and the sockets inherit them.
    Settled,
    /// Make those settings that are not inherited.
    SomeOptions,
    /// Decide for each peer.
    PerPeer,
    /// Make all settings: connections that were waiting before the listener was given the options.
    Waiting(u16),
}

const NOTHING: u16 = 0;
const SETTLED: u16 = 1;
const SOME_OPTIONS: u16 = 2;
const PER_PEER: u16 = 3;
/// From here on, this much less is the number of connections that still wait.
const WAITING: u16 = 3;
/// What is known; nothing, where all is zero.
pub(crate) struct Tables {
    by_descriptor: [AtomicU16; DESCRIPTORS],
    /// How this process listened on each port: tells accepted from outbound sockets, which the kernel does not. Never
    /// taken back: an outbound socket that later gets the same local port by chance is judged by the rules for inbound
    /// ones when the program sets an option on it.
    by_port: [AtomicU8; 65_536],
}

#[cfg(test)]
impl Tables {
    pub(crate) const fn zeroes() -> Self {
        Self {
            by_descriptor: [const { AtomicU16::new(0) }; DESCRIPTORS],
            by_port: [const { AtomicU8::new(0) }; 65_536],
        }
    }
}

/// None in a process that has nothing configured.
static TABLES: OnceRef<'static, Tables> = OnceRef::new();

/// Begins to know things, by tables of zeroes; the first are kept.
pub(crate) fn begin(tables: &'static Tables) {
    let _ = TABLES.set(tables);
}

fn slot(fd: i32) -> Option<&'static AtomicU16> {
    let tables = TABLES.get()?;
    usize::try_from(fd).ok().and_then(|index| tables.by_descriptor.get(index))
}

fn port(local: Endpoint) -> Option<&'static AtomicU8> {
    TABLES.get().and_then(|tables| tables.by_port.get(usize::from(local.port())))
}

/// One more than the largest descriptor that something is known of.
static END: AtomicUsize = AtomicUsize::new(0);

/// Called for a range of descriptors that end, the last included.
pub(crate) fn forget_range(first: u32, last: u32) {
    let end = (last as usize).saturating_add(1).min(END.load(Relaxed));
    (first as usize..end).filter_map(|fd| i32::try_from(fd).ok()).for_each(forget);
}

/// What is known of a listener; a waiting connection is counted off.
pub(crate) fn on_accept(fd: i32) -> Known {
    let Some(slot) = slot(fd) else { return Known::Nothing };
    match slot.load(Relaxed) {
        NOTHING => Known::Nothing,
        SETTLED => Known::Settled,
        SOME_OPTIONS => Known::SomeOptions,
        PER_PEER => Known::PerPeer,
        more => {
            let next = if more - 1 == WAITING { SETTLED } else { more - 1 };
            // Lost to another thread: one connection more is looked at than need be.
            let _ = slot.compare_exchange(more, next, Relaxed, Relaxed);
            Known::Waiting(more - WAITING)
        }
    }
}

/// Remembers a listener.
pub(crate) fn remember(fd: i32, known: Known) {
    let Some(slot) = slot(fd) else { return };
    END.fetch_max(fd as usize + 1, Relaxed);
    slot.store(
        match known {
            Known::Nothing => NOTHING,
            Known::Settled | Known::Waiting(0) => SETTLED,
            Known::SomeOptions => SOME_OPTIONS,
            Known::PerPeer => PER_PEER,
            Known::Waiting(more) => WAITING.saturating_add(more),
        },
        Relaxed,
    );
}

/// Called for every descriptor that ends: one load and one branch for those that nothing is known of.
#[inline]
pub(crate) fn forget(fd: i32) {
    let Some(slot) = slot(fd) else { return };
    if slot.load(Relaxed) != NOTHING {
        slot.store(NOTHING, Relaxed);
    }
}

const ANY_V4: u8 = 1;
const ANY_V6: u8 = 2;
const ONE_ADDRESS: u8 = 4;

/// Remembers the address of a listener.
pub(crate) fn remember_port(local: Endpoint) {
    let how = match local.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => ANY_V4,
        IpAddr::V6(ip) if ip.is_unspecified() => ANY_V6,
        _ => ONE_ADDRESS,
    };
    if let Some(port) = port(local) {
        port.fetch_or(how, Relaxed);
    }
}

/// Whether this process has listened on the port.
pub(crate) fn is_port_known(local: Endpoint) -> bool {
    port(local).is_some_and(|port| port.load(Relaxed) != 0)
}

/// The address that the listener behind an accepted socket is bound to, which is what `listen` is matched against;
/// None for a socket that was not accepted.
pub(crate) fn listener_of(local: Endpoint) -> Option<Endpoint> {
    let how = port(local).map_or(0, |port| port.load(Relaxed));
    let ip = match local.ip() {
        _ if how == 0 => return None,
        IpAddr::V4(_) if how & ANY_V4 != 0 => Ipv4Addr::UNSPECIFIED.into(),
        // An IPv4 client of a listener on `::`, or an IPv6 one.
        _ if how & ANY_V6 != 0 => Ipv6Addr::UNSPECIFIED.into(),
        one => one,
    };
    Some(Endpoint::new(ip, local.port()))
}
