//! What is known of the sockets behind descriptors: of listeners, so that accept need not ask the kernel, and of
//! connections that may be reset when they are closed.
//!
//! Hints, indexed by descriptor and by port, without locks: they are set by listen and accept, and taken back by
//! close, close_range, dup2 and dup3, and by what gives a descriptor anew: dup, fcntl, accept. A hint that is missing
//! costs work: the kernel is asked again. Descriptors beyond the table have none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU16, AtomicUsize, Ordering::Relaxed};

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
/// Above what may wait: no listener, but notes about a connection.
const NOTES: u16 = 0xfff0;

/// A note about the connection behind a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Note {
    /// It connected, and may be reset when it is closed.
    ResetConnected = 1,
    /// It was accepted, and may be reset when it is closed.
    ResetAccepted = 2,
    /// It was connecting when connect returned.
    Connecting = 4,
    /// It was made here by socket, and nobody else has had it since.
    Own = 8,
}

/// Notes that it may be reset when it is closed.
const RESETS: u16 = Note::ResetConnected as u16 | Note::ResetAccepted as u16;
/// What is struck out when somebody else has it.
const ENDS: u16 = RESETS | Note::Own as u16;

/// The notes about one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Notes(u16);

impl Notes {
    fn of(known: u16) -> Self {
        Self(known.saturating_sub(NOTES))
    }
    pub(crate) fn has(self, note: Note) -> bool {
        self.0 & note as u16 != 0
    }
    /// Whether its end is of interest.
    pub(crate) fn is_about_end(self) -> bool {
        self.0 & RESETS != 0
    }
    fn known(self) -> u16 {
        if self.0 == 0 { NOTHING } else { NOTES | self.0 }
    }
}

/// What is known; nothing, where all is zero.
pub(crate) struct Tables {
    by_descriptor: [AtomicU16; DESCRIPTORS],
    /// Of a connection that [`Note::Connecting`] is about: the user timeout that the program itself had set before. Its
    /// pages are not touched where no rule has a connect_timeout.
    user_timeouts: [AtomicI32; DESCRIPTORS],
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
            user_timeouts: [const { AtomicI32::new(0) }; DESCRIPTORS],
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

fn user_timeout(fd: i32) -> Option<&'static AtomicI32> {
    let tables = TABLES.get()?;
    usize::try_from(fd).ok().and_then(|index| tables.user_timeouts.get(index))
}

fn port(local: Endpoint) -> Option<&'static AtomicU8> {
    TABLES.get().and_then(|tables| tables.by_port.get(usize::from(local.port())))
}

/// One more than the largest descriptor that something is known of.
static END: AtomicUsize = AtomicUsize::new(0);

/// Calls for each descriptor of a range, the last included, that anything may be known of.
pub(crate) fn each_in_range(first: u32, last: u32, call: impl Fn(i32)) {
    let end = (last as usize).saturating_add(1).min(END.load(Relaxed));
    (first as usize..end).filter_map(|fd| i32::try_from(fd).ok()).for_each(call);
}

/// Whether anything is known of a descriptor.
#[inline]
pub(crate) fn is_known(fd: i32) -> bool {
    slot(fd).is_some_and(|slot| slot.load(Relaxed) != NOTHING)
}

/// The notes about a descriptor.
#[inline]
pub(crate) fn notes(fd: i32) -> Notes {
    slot(fd).map_or(Notes::default(), |slot| Notes::of(slot.load(Relaxed)))
}

/// Makes a note.
pub(crate) fn note(fd: i32, note: Note) {
    let Some(slot) = slot(fd) else { return };
    END.fetch_max(fd as usize + 1, Relaxed);
    // In one step: another thread's fork may strike in this moment.
    let noted = |known| Some(Notes(Notes::of(known).0 | note as u16).known());
    let _ = slot.fetch_update(Relaxed, Relaxed, noted);
}

/// Notes a connection that is still being made.
pub(crate) fn note_connecting(fd: i32, before: i32) {
    let Some(own) = user_timeout(fd) else { return };
    own.store(before, Relaxed);
    note(fd, Note::Connecting);
}

/// The user timeout that the program itself had set on a connection that is still being made.
#[inline]
pub(crate) fn connecting(fd: i32) -> Option<i32> {
    if !notes(fd).has(Note::Connecting) {
        return None;
    }
    user_timeout(fd).map(|own| own.load(Relaxed))
}

/// A descriptor was copied: nothing that was known of its number is about the copy. By the copy too the program may learn
/// that the connection stands.
#[inline]
pub(crate) fn copied(from: i32, to: i32) {
    if from == to {
        return;
    }
    forget(to);
    if let Some(before) = connecting(from) {
        note_connecting(to, before);
    }
}

fn strike(fd: i32, bits: u16) {
    let Some(slot) = slot(fd) else { return };
    let struck = |known| {
        let notes = Notes::of(known).0;
        (notes & bits != 0).then(|| Notes(notes & !bits).known())
    };
    let _ = slot.fetch_update(Relaxed, Relaxed, struck);
}

/// Takes a note back.
pub(crate) fn strike_note(fd: i32, note: Note) {
    strike(fd, note as u16);
}

/// Takes notes about a connection's end back.
pub(crate) fn strike_end(fd: i32) {
    strike(fd, ENDS);
}

/// The same for every descriptor.
pub(crate) fn strike_all_ends() {
    each_in_range(0, u32::MAX, strike_end);
}

/// What is known of a listener; a waiting connection is counted off.
pub(crate) fn on_accept(fd: i32) -> Known {
    let Some(slot) = slot(fd) else { return Known::Nothing };
    match slot.load(Relaxed) {
        NOTHING | NOTES.. => Known::Nothing,
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
            Known::Waiting(more) => WAITING.saturating_add(more).min(NOTES - 1),
        },
        Relaxed,
    );
}

/// Called for every descriptor that ends: one load and one branch for those that nothing is known of.
#[inline]
pub(crate) fn forget(fd: i32) -> Notes {
    let Some(slot) = slot(fd) else { return Notes::default() };
    let known = slot.load(Relaxed);
    if known != NOTHING {
        slot.store(NOTHING, Relaxed);
    }
    Notes::of(known)
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
