//! What is known of the listeners behind descriptors, so that accept need not ask the kernel.
//!
//! Hints, in a table without locks: they are set by listen and accept, and taken back by close, close_range, dup2 and
//! dup3, before the call and behind it, since the number may be looked at in between. A hint that is missing costs work: the
//! kernel is asked again. So two descriptors may share a row, of which the last counts, and a child of vfork, which
//! closes the descriptors that its program is not to have, may take back its parent's.
//!
//! A hint that is wrong would cost a connection its options. Who finds out about a listener therefore puts a ticket into
//! the row first ([`look`]), and what was found counts only if the ticket is still there: else the descriptor has
//! ended meanwhile, and its number may be another's. And accept looks at the row before the call as well ([`see`]): what another
//! thread has found out or put in its place while it waited says nothing of the connection that it got.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64};

use once_cell::race::OnceRef;
use policy::Endpoint;
use socket::ports::Ports;
use zerocopy::FromZeros;

/// A descriptor's row is its number modulo this.
const ROWS: usize = 4_096;

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
    /// The same, and ask the socket which listener it came by: somebody found out, or put another in its place, meanwhile.
    Unsure,
}

// The lowest 16 bits of a row. The next 16 are the ticket, the others say which of its descriptors it is about.
const NOTHING: u16 = 0;
const SETTLED: u16 = 1;
const SOME_OPTIONS: u16 = 2;
const PER_PEER: u16 = 3;
/// Somebody is finding out.
const LOOKING: u16 = 4;
/// From here on, this much less is the number of connections that still wait.
const WAITING: u16 = 4;

/// What is known; nothing, where all is zero.
#[derive(FromZeros)]
pub(crate) struct Tables {
    by_descriptor: [AtomicU64; ROWS],
    ports: Ports,
}

#[cfg(test)]
impl Tables {
    pub(crate) const fn zeroes() -> Self {
        Self { by_descriptor: [const { AtomicU64::new(0) }; ROWS], ports: Ports::new() }
    }
}

/// None in a process that has nothing configured.
static TABLES: OnceRef<'static, Tables> = OnceRef::new();
/// Whether anything was ever put into a row.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// Begins to know things, by tables of zeroes; the first are kept.
pub(crate) fn begin(tables: &'static Tables) {
    let _ = TABLES.set(tables);
}

/// The row of a descriptor, and what its upper half is when it is about this one.
#[inline]
fn row(fd: i32) -> Option<(&'static AtomicU64, u64)> {
    let tables = TABLES.get()?;
    let fd = u32::try_from(fd).ok()?;
    let row = tables.by_descriptor.get(fd as usize % ROWS)?;
    Some((row, u64::from(fd / ROWS as u32) << 32))
}

/// Called for a range of descriptors that end, the last included, unless the flags say that they go on until exec.
pub(crate) fn forget_range(first: u32, last: u32, flags: i32) {
    let ends = flags as u32 & libc::CLOSE_RANGE_CLOEXEC == 0;
    let Some(tables) = TABLES.get().filter(|_| ends && IN_USE.load(Relaxed)) else { return };
    // The kernel refuses a range that ends before it begins.
    let Some(more) = last.checked_sub(first) else { return };
    if (more as usize) < ROWS / 2 {
        // Beyond i32::MAX there are none.
        return (first..=last).filter_map(|fd| i32::try_from(fd).ok()).for_each(forget_row);
    }
    for (index, row) in (0..).zip(&tables.by_descriptor) {
        let found = row.load(Relaxed);
        let fd = (found >> 32) as u32 * ROWS as u32 + index;
        if found as u16 != NOTHING && (first..=last).contains(&fd) {
            row.store(0, Relaxed);
        }
    }
}

/// What a row says of a descriptor at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen(u64);

impl Seen {
    fn is_known(self) -> bool {
        !matches!(self.0 as u16, NOTHING | LOOKING)
    }

    /// Whether it was known to have its options, and nobody to wait who came before it had them.
    pub(crate) fn is_settled(self) -> bool {
        self.0 as u16 == SETTLED
    }

    /// Whether both come of the same look.
    fn is_of_look(self, other: Self) -> bool {
        self.0 >> 16 == other.0 >> 16
    }
}

/// What is known of a descriptor, before it is used.
#[inline]
pub(crate) fn see(fd: i32) -> Seen {
    let Some((row, whose)) = row(fd) else { return Seen(0) };
    let found = row.load(Relaxed);
    Seen(if found >> 32 == whose >> 32 { found } else { 0 })
}

/// Whether what was seen holds on, but for those who wait.
pub(crate) fn holds(fd: i32, seen: Seen) -> bool {
    seen.is_known() && see(fd).is_of_look(seen)
}

/// What is known of a listener; a waiting connection is counted off. `before` is what was seen before the call.
#[inline]
pub(crate) fn on_accept(fd: i32, before: Seen) -> Known {
    let now = see(fd);
    if now == before && now.0 as u16 == SETTLED { Known::Settled } else { changed(fd, before, now) }
}

fn changed(fd: i32, before: Seen, now: Seen) -> Known {
    match before.0 as u16 {
        _ if !before.is_known() && !now.is_known() => Known::Nothing,
        _ if !before.is_known() || !now.is_known() || !now.is_of_look(before) => Known::Unsure,
        SETTLED => Known::Settled,
        SOME_OPTIONS => Known::SomeOptions,
        PER_PEER => Known::PerPeer,
        more => {
            let left = now.0 as u16;
            if let Some((row, whose)) = row(fd)
                && left > WAITING
            {
                let next = if left - 1 == WAITING { SETTLED } else { left - 1 };
                // Lost to another thread: one connection more is looked at than need be.
                let next = whose | now.0 & 0xffff_0000 | u64::from(next);
                let _ = row.compare_exchange(now.0, next, Relaxed, Relaxed);
            }
            Known::Waiting(more - WAITING)
        }
    }
}

/// Somebody finds out about a descriptor.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    fd: i32,
    ticket: u64,
}

/// Begins to find out about a descriptor.
pub(crate) fn look(fd: i32) -> Look {
    static TICKETS: AtomicU16 = AtomicU16::new(0);
    let ticket = u64::from(TICKETS.fetch_add(1, Relaxed)) << 16;
    if let Some((row, whose)) = row(fd) {
        IN_USE.store(true, Relaxed);
        // In one order with what the kernel does next: who ends the descriptor after it was asked finds the ticket.
        row.swap(whose | ticket | u64::from(LOOKING), SeqCst);
    }
    Look { fd, ticket }
}

impl Look {
    /// Remembers what was found, unless the descriptor has ended since.
    pub(crate) fn found(self, known: Known) {
        let Some((row, whose)) = row(self.fd) else { return };
        let found = match known {
            Known::Nothing | Known::Unsure => NOTHING,
            Known::Settled | Known::Waiting(0) => SETTLED,
            Known::SomeOptions => SOME_OPTIONS,
            Known::PerPeer => PER_PEER,
            // Too many to be counted are looked at one by one.
            Known::Waiting(more) => more.checked_add(WAITING).unwrap_or(PER_PEER),
        };
        let [looking, found] = [LOOKING, found].map(|known| whose | self.ticket | u64::from(known));
        let _ = row.compare_exchange(looking, found, SeqCst, Relaxed);
    }
}

/// Called for every descriptor that ends: one load and one branch for those that nothing is known of.
#[inline]
pub(crate) fn forget(fd: i32) {
    if IN_USE.load(Relaxed) {
        forget_row(fd);
    }
}

#[inline]
fn forget_row(fd: i32) {
    let Some((row, whose)) = row(fd) else { return };
    let found = row.load(Relaxed);
    if found as u16 != NOTHING && found >> 32 == whose >> 32 {
        row.store(0, Relaxed);
    }
}

/// Remembers the address of a listener.
pub(crate) fn remember_port(listener: i32, local: Endpoint) {
    if let Some(tables) = TABLES.get() {
        tables.ports.remember(listener, local);
    }
}

/// Whether this process has listened on the port.
pub(crate) fn is_port_known(local: Endpoint) -> bool {
    TABLES.get().is_some_and(|tables| tables.ports.is_known(local))
}

/// How this process listened on each port, where there is anything to be remembered of listeners.
pub(crate) fn ports() -> Option<&'static Ports> {
    TABLES.get().map(|tables| &tables.ports)
}
