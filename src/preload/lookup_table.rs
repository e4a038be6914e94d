//! By which of the rules' host names the addresses are known that the program has looked up.
//!
//! A table of fixed size, written after the program's own look-ups and read at connect; nothing is looked up here.
//! Threads, signal handlers and children of a fork in the middle of a write read and write it without waiting: a row
//! that somebody is at counts as not there. What an address was known by stays readable until the new row is
//! complete, so a connect sees the one or the other.

use std::net::IpAddr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};

use once_cell::race::OnceRef;
use policy::{Endpoint, HostSet};
use zerocopy::FromZeros;

/// Whether rules may name hosts; before they are compiled, by the look of their text.
static WANTED: AtomicBool = AtomicBool::new(false);

/// Says whether look-ups are of interest.
pub(crate) fn set_enabled(yes: bool) {
    WANTED.store(yes, Relaxed);
}

/// Whether they are.
#[inline]
pub(crate) fn is_enabled() -> bool {
    WANTED.load(Relaxed)
}

/// Begins to know things, by a table of zeroes; the first is kept.
pub(crate) fn begin(table: &'static Table) {
    let _ = TABLE.set(table);
}

/// Rows that an address may be in, and how many such sets there are: 4096 addresses.
const WAYS: usize = 16;
const SETS: usize = 256;

#[derive(FromZeros)]
#[repr(align(128))]
struct Row {
    /// Odd while the row is written.
    turn: AtomicU32,
    count: AtomicU32,
    /// When the row was written or renewed; 0 if never. No two are the same.
    time: AtomicU64,
    address: [AtomicU64; 2],
    hosts: [AtomicU32; HostSet::MOST],
}

/// What is known; nothing, where all is zero.
#[derive(FromZeros)]
pub(crate) struct Table([[Row; WAYS]; SETS]);

#[cfg(test)]
impl Table {
    pub(crate) const fn zeroes() -> Self {
        Self([const { [const { Row::zeroes() }; WAYS] }; SETS])
    }
}

#[cfg(test)]
impl Row {
    const fn zeroes() -> Self {
        Self {
            turn: AtomicU32::new(0),
            count: AtomicU32::new(0),
            time: AtomicU64::new(0),
            address: [const { AtomicU64::new(0) }; 2],
            hosts: [const { AtomicU32::new(0) }; HostSet::MOST],
        }
    }
}

/// None where no rule may name a host.
static TABLE: OnceRef<'static, Table> = OnceRef::new();
static CLOCK: AtomicU64 = AtomicU64::new(0);

impl Row {
    /// What it says of an address, unless somebody writes it.
    fn read(&'static self, address: [u64; 2]) -> Result<Option<Known>, Busy> {
        let turn = self.turn.load(Acquire);
        let (time, [high, low]) = (self.time.load(Relaxed), &self.address);
        let is_it = time != 0 && [high.load(Relaxed), low.load(Relaxed)] == address;
        let mut hosts = HostSet::NONE;
        if is_it {
            let count = self.count.load(Relaxed) as usize;
            self.hosts.iter().take(count).for_each(|host| hosts.insert(host.load(Relaxed)));
        }
        fence(Acquire);
        let is_torn = is_odd(turn) || self.turn.load(Relaxed) != turn;
        if is_torn { Err(Busy) } else { Ok(is_it.then_some(Known { row: self, turn, time, hosts })) }
    }

    /// Renews what it says, unless somebody takes the row for another address.
    fn renew(&self, known: &Known, time: u64) -> Result<(), Busy> {
        // In one order with the two steps of `write`: one of both sides sees the other.
        let is_renewed = self.time.compare_exchange(known.time, time, SeqCst, Relaxed).is_ok();
        if is_renewed && self.turn.load(SeqCst) == known.turn { Ok(()) } else { Err(Busy) }
    }

    /// Writes it, unless somebody else does or has since it was as old as was seen.
    fn write(&self, seen: u64, time: u64, address: [u64; 2], hosts: &HostSet) -> Result<(), Busy> {
        let turn = self.turn.load(Relaxed);
        if is_odd(turn) || self.turn.compare_exchange(turn, turn.wrapping_add(1), SeqCst, Relaxed).is_err() {
            return Err(Busy);
        }
        let is_as_seen = self.time.load(SeqCst) == seen;
        fence(Release);
        if is_as_seen {
            self.time.store(time, Relaxed);
            self.address.iter().zip(address).for_each(|(to, from)| to.store(from, Relaxed));
            self.hosts.iter().zip(hosts.ids()).for_each(|(to, from)| to.store(*from, Relaxed));
            self.count.store(hosts.ids().len() as u32, Relaxed);
        }
        self.turn.store(turn.wrapping_add(2), Release);
        if is_as_seen { Ok(()) } else { Err(Busy) }
    }
}

fn is_odd(turn: u32) -> bool {
    !turn.is_multiple_of(2)
}

/// What a row says.
struct Known {
    row: &'static Row,
    turn: u32,
    time: u64,
    hosts: HostSet,
}

/// Somebody writes the row: another thread, or one that is not in this process, which was forked meanwhile.
struct Busy;

fn key(ip: IpAddr) -> [u64; 2] {
    let bits = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

fn set_of([high, low]: [u64; 2]) -> &'static [Row] {
    // 2^64 divided by the golden ratio; the highest bits are the best mixed.
    let mixed = (high.rotate_left(32) ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    TABLE.get().and_then(|table| table.0.get((mixed >> 56) as usize % SETS)).map_or(&[], |set| set)
}

/// What a thread that writes the row in this very moment keeps from being read is looked for once more.
const ATTEMPTS: usize = 3;

/// The newest that is said of an address.
#[inline(never)]
fn newest(set: &'static [Row], address: [u64; 2]) -> Option<Known> {
    for _ in 0..ATTEMPTS {
        let (mut found, mut is_complete): (Option<Known>, _) = (None, true);
        for row in set {
            match row.read(address) {
                Ok(None) => {}
                Ok(Some(known)) if found.as_ref().is_some_and(|found| found.time > known.time) => {}
                Ok(known) => found = known,
                Err(Busy) => is_complete = false,
            }
        }
        if is_complete || found.is_some() {
            return found;
        }
    }
    None
}

/// What an address is known by.
pub(crate) fn known_by(ip: IpAddr) -> HostSet {
    let address = key(ip);
    newest(set_of(address), address).map_or(HostSet::NONE, |known| known.hosts)
}

/// The newest look-up of an address counts, even if no rule names it any more.
pub(crate) fn learn(ip: IpAddr, hosts: &HostSet) {
    // Connects are known by where they come to.
    let address = key(Endpoint::new(ip, 0).as_destination_of_any().ip());
    let set = set_of(address);
    let time = CLOCK.fetch_add(1, Relaxed) + 1;
    for _ in 0..ATTEMPTS {
        let known = newest(set, address);
        let outcome = match &known {
            None if *hosts == HostSet::NONE => return,
            // Who looks up the same again and again leaves the row readable.
            Some(known) if known.hosts == *hosts => known.row.renew(known, time),
            _ => Err(Busy),
        };
        let in_force = known.map(|known| known.time);
        let write = |(row, seen): (&Row, u64)| row.write(seen, time, address, hosts);
        if outcome.or_else(|Busy| oldest(set, in_force).map_or(Err(Busy), write)).is_ok() {
            return;
        }
    }
}

/// The row to give up, and how old it is; not the one that is in force for the address.
fn oldest(set: &'static [Row], in_force: Option<u64>) -> Option<(&'static Row, u64)> {
    let free = set.iter().filter(|row| !is_odd(row.turn.load(Relaxed))).map(|row| (row, row.time.load(Relaxed)));
    free.filter(|(_, time)| *time == 0 || Some(*time) != in_force).min_by_key(|(_, time)| *time)
}
