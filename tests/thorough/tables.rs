//! The tables that threads share without a lock (src/preload/lookup_table.rs, descriptors.rs), by themselves and hammered: never
//! half of one answer and half of another, never nothing where there is something.
//!
//! In every `cargo test`, on this machine's memory; under Miri, which also lets a thread read what is no longer newest
//! wherever the orderings in the source allow it, in tests/thorough/run.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use policy::{Endpoint, HostSet};

#[path = "../../src/preload/descriptors.rs"]
#[allow(dead_code, reason = "not every function is about threads")]
mod descriptors;
#[path = "../../src/preload/lookup_table.rs"]
#[allow(dead_code, reason = "what reads the program's memory belongs to the hooks")]
mod lookup_table;

use descriptors::Known;

fn on_accept(fd: i32) -> Known {
    descriptors::on_accept(fd, descriptors::see(fd))
}

/// The library maps them when it is loaded.
fn begin() {
    static LISTENERS: descriptors::Tables = descriptors::Tables::zeroes();
    static NAMES: lookup_table::Table = lookup_table::Table::zeroes();
    descriptors::begin(&LISTENERS);
    lookup_table::begin(&NAMES);
}

const ROUNDS: u32 = if cfg!(miri) { 12 } else { 2_000 };
const WRITERS: u32 = 3;
const READERS: u32 = 2;

/// One of many sets that say by themselves whether they are whole: how many numbers there are follows from each.
fn hosts(address: u32, version: u32) -> HostSet {
    let mut set = HostSet::NONE;
    let first = (address * 64 + version % 64) * 32;
    (0..1 + first / 32 % HostSet::MOST as u32).for_each(|id| set.insert(first + id));
    set
}

fn check(address: u32, known: &HostSet) {
    let Some(first) = known.ids().first() else { return };
    assert_eq!(first / 32 / 64, address, "what another address is known by");
    assert_eq!(*known, hosts(address, first / 32 % 64), "torn");
}

/// Addresses with the same `group` share a set of rows: its number comes from the one half of the address, turned, and
/// the other.
fn ip(group: u64, number: u32) -> IpAddr {
    let high = u64::from(number) << 20 | 0x2001_0db8 << 32;
    Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(high.rotate_left(32) ^ group)).into()
}

/// Runs writers, and readers until they are done.
fn race(write: impl Fn(u32, u32) + Sync, read: impl Fn() + Sync) {
    let (begun, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let together = || {
        begun.fetch_add(1, Ordering::Relaxed);
        while begun.load(Ordering::Relaxed) < (WRITERS + READERS) as usize {
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                together();
                while !done.load(Ordering::Relaxed) {
                    read();
                }
            });
        }
        let (together, write) = (&together, &write);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    together();
                    (0..ROUNDS).for_each(|round| write(writer, round));
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
        done.store(true, Ordering::Relaxed);
    });
}

/// Two addresses, one looked up with the same outcome by all, the other with a new one each time: both are known
/// throughout. Seen to fail, under Miri, with a `learn` that always writes the row that its address is in.
#[test]
fn what_is_known_stays_known() {
    begin();
    let (same, other) = (ip(1, 1), ip(2, 2));
    lookup_table::learn(same, &hosts(1, 0));
    lookup_table::learn(other, &hosts(2, 0));
    race(
        |writer, round| {
            lookup_table::learn(same, &hosts(1, 0));
            lookup_table::learn(other, &hosts(2, writer + round * WRITERS));
        },
        || {
            assert_eq!(lookup_table::known_by(same), hosts(1, 0));
            let known = lookup_table::known_by(other);
            assert_ne!(known, HostSet::NONE);
            check(2, &known);
        },
    );
}

/// More addresses than there are rows for: each is known by what is its own, whole, or by nothing. Seen to fail under
/// Miri without the fence in `Row::read`.
#[test]
fn rows_that_are_taken_over() {
    begin();
    const ADDRESSES: u32 = 24;
    race(
        |writer, round| {
            let address = 100 + (round * 7 + writer * 5) % ADDRESSES;
            lookup_table::learn(ip(3, address), &hosts(address, round));
        },
        || (100..100 + ADDRESSES).for_each(|address| check(address, &lookup_table::known_by(ip(3, address)))),
    );
    let known =
        (100..100 + ADDRESSES).filter(|address| lookup_table::known_by(ip(3, *address)) != HostSet::NONE).count();
    assert!((8..=16).contains(&known), "{known} of them are known");
}

/// Connections that waited are counted off by all threads that accept: none is missed.
#[test]
fn waiting_connections() {
    begin();
    const WAITING: u16 = if cfg!(miri) { 40 } else { 20_000 };
    let fd = 7;
    descriptors::look(fd).found(Known::Waiting(WAITING));
    let accepted = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                while let Known::Waiting(_) = on_accept(fd) {
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
                assert_eq!(on_accept(fd), Known::Settled);
            });
        }
    });
    assert!(accepted.into_inner() >= usize::from(WAITING));
}

/// What was found of a descriptor that has ended meanwhile does not count, nor does one in the same row. Seen to fail
/// with a `found` that always writes.
#[test]
fn descriptors_that_end() {
    type End = (&'static str, fn(i32));
    begin();
    let (fd, same_row) = (8, 8 + 4_096);
    let ends: [End; 3] = [
        ("close", descriptors::forget),
        ("close_range", |fd| descriptors::forget_range(fd as u32, fd as u32, 0)),
        ("seen by another", |fd| descriptors::look(fd).found(Known::Nothing)),
    ];
    for (name, end) in ends {
        for fd in [fd, same_row] {
            let look = descriptors::look(fd);
            assert_eq!(on_accept(fd), Known::Nothing, "{name}");
            end(fd);
            look.found(Known::Settled);
            assert_eq!(on_accept(fd), Known::Nothing, "{name}");
            descriptors::look(fd).found(Known::PerPeer);
            assert_eq!(on_accept(fd), Known::PerPeer, "{name}");
        }
        descriptors::forget(fd);
        // Few, with these rows; none; and many. Seen to fail with a narrow range that ends rows whoever they are about.
        for (first, last) in
            [(0, 100), (fd as u32, fd as u32), (same_row as u32 + 1, 9_000), (u32::MAX - 9, u32::MAX), (9_000, 0)]
        {
            descriptors::forget_range(first, last, 0);
        }
        assert_eq!(on_accept(same_row), Known::PerPeer, "{name}: of another descriptor");
        assert_eq!(on_accept(fd), Known::Nothing, "{name}");
        descriptors::forget_range(100, u32::MAX, 0);
        assert_eq!(on_accept(same_row), Known::Nothing, "{name}");
    }
    // What was seen before the call is of another look than what is known behind it, or of none.
    for (before, after, known) in [
        (Known::Settled, Known::Settled, Known::Unsure),
        (Known::Nothing, Known::Settled, Known::Unsure),
        (Known::PerPeer, Known::Nothing, Known::Unsure),
        (Known::Nothing, Known::Nothing, Known::Nothing),
    ] {
        descriptors::look(fd).found(before);
        let seen = descriptors::see(fd);
        descriptors::look(fd).found(after);
        assert_eq!(descriptors::on_accept(fd, seen), known, "{before:?}, then {after:?}");
    }
    // Others are counted off meanwhile.
    descriptors::look(fd).found(Known::Waiting(2));
    let seen = descriptors::see(fd);
    assert_eq!([on_accept(fd), on_accept(fd), on_accept(fd)], [Known::Waiting(2), Known::Waiting(1), Known::Settled]);
    assert_eq!(descriptors::on_accept(fd, seen), Known::Waiting(2));
    assert_eq!(on_accept(fd), Known::Settled);
    descriptors::look(fd).found(Known::Waiting(u16::MAX));
    assert_eq!(on_accept(fd), Known::PerPeer, "more than can be counted");
}

/// What threads find out about one port adds up.
#[test]
fn ports() {
    begin();
    let all = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]), Ipv6Addr::LOCALHOST.into()];
    let all = all.map(|ip| Endpoint::new(ip, 80));
    let v6 = Endpoint::new(Ipv6Addr::UNSPECIFIED.into(), 81);
    thread::scope(|scope| {
        for local in all.into_iter().chain([v6]) {
            scope.spawn(move || descriptors::remember_port(-1, local));
        }
    });
    let known = descriptors::ports().expect("the tables are there");
    for local in all {
        assert_eq!(known.listener_of(-1, local).map(|found| found.local), Some(local));
    }
    let found = known.listener_of(-1, Endpoint::new(Ipv6Addr::LOCALHOST.into(), 81));
    assert_eq!(found.map(|found| found.local), Some(v6));
}
