//! First match without a walk: of many patterns, each with the number of its rule, the smallest number that matches.
//!
//! One hash table for each IP version holds every network by its length and its bits, and behind each network the
//! ports, cut into ranges that do not overlap. A look-up asks once for each length that occurs, however many
//! networks there are.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::connection::Endpoint;
use crate::hash::FoldHasher;
use crate::matcher::Pattern;

/// The number of a rule.
type Number = u32;
const NONE: Number = Number::MAX;

/// Patterns, ready to be asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    /// Patterns without an address.
    any: Ports,
    /// Where their ranges are many, which every look-up asks: for each [`BLOCK`] of ports the first that reaches into it.
    blocks: Box<[u16]>,
    v4: Networks<u32>,
    v6: Networks<u128>,
    /// The ranges of all ports, those of one network together.
    ranges: Box<[Range]>,
}

/// Bits of a port within its block.
const BLOCK: u16 = 3;
/// So many ranges are searched by halves.
const FEW: usize = 64;

/// Ports up to `last` from the end of the range before, and the rule that they are for.
#[derive(Debug, Clone, Copy)]
struct Range {
    last: u16,
    number: Number,
}

/// Where the ranges of a network lie; without a count, the rule that all of its ports are for, which saves most look-ups
/// a cache line.
#[derive(Debug, Clone, Copy)]
struct Ports {
    start: u32,
    count: u32,
}

impl Ports {
    const fn all_for(number: Number) -> Self {
        Self { start: number, count: 0 }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self::all_for(NONE)
    }
}

#[derive(Debug, Clone)]
struct Networks<B> {
    /// Prefix lengths that occur.
    lengths: Box<[u8]>,
    /// By length and bits.
    table: HashMap<(u8, B), Ports, BuildHasherDefault<FoldHasher>>,
}

impl<B> Default for Networks<B> {
    fn default() -> Self {
        Self { lengths: Box::default(), table: HashMap::default() }
    }
}

/// The bits of an address.
trait Bits: Copy + Eq + Ord + Hash {
    fn masked(self, length: u8) -> Self;
}

impl Bits for u32 {
    fn masked(self, length: u8) -> Self {
        u32::MAX.checked_shl(32 - u32::from(length)).map_or(0, |mask| self & mask)
    }
}

impl Bits for u128 {
    fn masked(self, length: u8) -> Self {
        u128::MAX.checked_shl(128 - u32::from(length)).map_or(0, |mask| self & mask)
    }
}

impl Index {
    /// Of patterns with the numbers of their rules, which must rise. Those that name a host are asked elsewhere.
    pub(crate) fn new<'a>(patterns: impl Iterator<Item = (u32, &'a Pattern)>) -> Self {
        let (mut any, mut v4, mut v6) = (Vec::new(), Vec::new(), Vec::new());
        for (number, pattern) in patterns.filter(|(_, pattern)| pattern.host().is_none()) {
            let ports = (*pattern.ports().start(), *pattern.ports().end(), number);
            match pattern.network() {
                None => any.push(ports),
                Some((IpAddr::V4(ip), length)) => v4.push((length, u32::from(ip), ports)),
                Some((IpAddr::V6(ip), length)) => v6.push((length, u128::from(ip), ports)),
            }
        }
        let mut ranges = Vec::new();
        let any = add_ranges(&mut ranges, &any);
        let mut blocks = Vec::new();
        if ranges.len() > FEW {
            let mut reaching = 0;
            blocks = (0..=u16::MAX)
                .step_by(1 << BLOCK)
                .map(|port| {
                    while ranges.get(reaching).is_some_and(|range| range.last < port) {
                        reaching += 1;
                    }
                    reaching as u16
                })
                .collect();
        }
        let v4 = Networks::new(v4, &mut ranges);
        let v6 = Networks::new(v6, &mut ranges);
        Self { any, blocks: blocks.into_boxed_slice(), v4, v6, ranges: ranges.into_boxed_slice() }
    }

    /// The smallest number whose pattern matches.
    pub(crate) fn first(&self, endpoint: Endpoint) -> Option<u32> {
        let port = endpoint.port();
        let any = self.any(port);
        let first = match endpoint.ip() {
            IpAddr::V4(ip) => self.v4.first(u32::from(ip), any, |ports| self.number(ports, port)),
            IpAddr::V6(ip) => self.v6.first(u128::from(ip), any, |ports| self.number(ports, port)),
        };
        (first != NONE).then_some(first)
    }

    fn any(&self, port: u16) -> Number {
        let Some(&reaching) = self.blocks.get(usize::from(port >> BLOCK)) else { return self.number(self.any, port) };
        // These are the first of all.
        let ranges = self.ranges.get(usize::from(reaching)..).unwrap_or_default();
        ranges.iter().find(|range| port <= range.last).map_or(NONE, |range| range.number)
    }

    fn number(&self, ports: Ports, port: u16) -> Number {
        if ports.count == 0 {
            return ports.start;
        }
        let start = ports.start as usize;
        let ranges = self.ranges.get(start..start + ports.count as usize).unwrap_or_default();
        let at = match ranges.len() {
            ..=4 => ranges.iter().position(|range| port <= range.last).unwrap_or(ranges.len()),
            _ => ranges.partition_point(|range| range.last < port),
        };
        ranges.get(at).map_or(NONE, |range| range.number)
    }
}

impl<B: Bits> Networks<B> {
    /// Sorts the ports by network.
    fn new(mut patterns: Vec<(u8, B, (u16, u16, Number))>, ranges: &mut Vec<Range>) -> Self {
        // Stable: the numbers of one network still rise.
        patterns.sort_by_key(|(length, bits, _)| (*length, *bits));
        let lengths: Vec<u8> =
            patterns.chunk_by(|a, b| a.0 == b.0).flat_map(<[_]>::first).map(|(length, ..)| *length).collect();
        let networks = || patterns.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
        let mut table = HashMap::with_capacity_and_hasher(networks().count(), BuildHasherDefault::default());
        let mut ports = Vec::new();
        for network in networks() {
            let Some(&(length, bits, _)) = network.first() else { continue };
            ports.clear();
            ports.extend(network.iter().map(|pattern| pattern.2));
            table.insert((length, bits), add_ranges(ranges, &ports));
        }
        Self { table, lengths: lengths.into_boxed_slice() }
    }

    /// The smallest number of all networks that have the address.
    fn first(&self, address: B, first: Number, number: impl Fn(Ports) -> Number) -> Number {
        let networks = self.lengths.iter().filter_map(|&length| self.table.get(&(length, address.masked(length))));
        networks.fold(first, |first, ports| first.min(number(*ports)))
    }
}

/// Cuts port ranges, in the order of their rules, into ranges that do not overlap, each with its first rule.
fn add_ranges(ranges: &mut Vec<Range>, patterns: &[(u16, u16, Number)]) -> Ports {
    let start = ranges.len();
    match *patterns {
        [] => return Ports::default(),
        // Most networks, without a port.
        [(0, u16::MAX, number)] => return Ports::all_for(number),
        _ => {}
    }
    // Where some range begins, or has ended: nothing changes in between.
    let mut cuts: Vec<u32> =
        patterns.iter().flat_map(|(first, last, _)| [u32::from(*first), u32::from(*last) + 1]).chain([0]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut numbers = vec![NONE; cuts.len()];
    // The next piece at or behind each that has no rule yet, so that none is looked at twice.
    let mut next: Vec<usize> = (0..=cuts.len()).collect();
    for (first, last, number) in patterns {
        let find = |next: &mut Vec<usize>, mut at: usize| {
            while let Some(&further) = next.get(at).filter(|further| **further != at) {
                let beyond = next.get(further).copied().unwrap_or(further);
                if let Some(slot) = next.get_mut(at) {
                    *slot = beyond;
                }
                at = further;
            }
            at
        };
        let Ok(from) = cuts.binary_search(&u32::from(*first)) else { continue };
        let mut at = find(&mut next, from);
        while cuts.get(at).is_some_and(|cut| *cut <= u32::from(*last)) {
            if let (Some(slot), Some(link)) = (numbers.get_mut(at), next.get_mut(at)) {
                *slot = *number;
                *link = at + 1;
            }
            at = find(&mut next, at + 1);
        }
    }
    let ends = cuts.iter().skip(1).map(|cut| cut - 1).chain([u32::from(u16::MAX)]);
    for (&number, end) in numbers.iter().zip(ends) {
        let Ok(last) = u16::try_from(end) else { continue };
        match ranges.get_mut(start..).and_then(<[Range]>::last_mut).filter(|range| range.number == number) {
            Some(range) => range.last = last,
            None => ranges.push(Range { last, number }),
        }
    }
    Ports { start: start as u32, count: (ranges.len() - start) as u32 }
}

/// Pairs of patterns, for the listener and for its client: the same for rules that ask for both.
#[derive(Debug, Clone, Default)]
pub(crate) struct PairIndex {
    /// Kinds of networks that occur together.
    kinds: Box<[(Kind, Kind)]>,
    table: HashMap<[Network; 2], Box<[Ranges]>, BuildHasherDefault<FoldHasher>>,
}

/// 0 is any address, then IPv4 by its prefix length, then IPv6.
type Kind = u8;
type Network = (Kind, u128);
const FIRST_OF_V4: Kind = 1;
const FIRST_OF_V6: Kind = FIRST_OF_V4 + 33;

/// The ports of a pair, and its rule.
#[derive(Debug, Clone)]
struct Ranges {
    listener: RangeInclusive<u16>,
    client: RangeInclusive<u16>,
    number: Number,
}

impl PairIndex {
    /// Of pairs with the numbers of their rules, which must rise.
    pub(crate) fn new<'a>(pairs: impl Iterator<Item = (u32, &'a Pattern, &'a Pattern)>) -> Self {
        let network = |pattern: &Pattern| match pattern.network() {
            None => (0, 0),
            Some((IpAddr::V4(ip), length)) => (FIRST_OF_V4 + length, u128::from(u32::from(ip))),
            Some((IpAddr::V6(ip), length)) => (FIRST_OF_V6 + length, u128::from(ip)),
        };
        let mut table: HashMap<_, Vec<Ranges>, BuildHasherDefault<FoldHasher>> = HashMap::default();
        for (number, listen, from) in pairs {
            let ranges = Ranges { listener: listen.ports().clone(), client: from.ports().clone(), number };
            table.entry([network(listen), network(from)]).or_default().push(ranges);
        }
        let mut kinds: Vec<(Kind, Kind)> = table.keys().map(|[listen, from]| (listen.0, from.0)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let table = table.into_iter().map(|(networks, ranges)| (networks, ranges.into_boxed_slice())).collect();
        Self { kinds: kinds.into_boxed_slice(), table }
    }

    /// The smallest number of which both patterns match.
    pub(crate) fn first(&self, local: Endpoint, peer: Endpoint) -> Option<u32> {
        let network = |kind: Kind, ip: IpAddr| match (kind, ip) {
            (0, _) => Some((0, 0)),
            (FIRST_OF_V6.., IpAddr::V6(ip)) => Some((kind, u128::from(ip).masked(kind - FIRST_OF_V6))),
            (FIRST_OF_V4..FIRST_OF_V6, IpAddr::V4(ip)) => {
                Some((kind, u128::from(u32::from(ip).masked(kind - FIRST_OF_V4))))
            }
            _ => None,
        };
        let known = self.kinds.iter().filter_map(|&(listen, from)| {
            let ranges = self.table.get(&[network(listen, local.ip())?, network(from, peer.ip())?])?;
            let meant = |pair: &&Ranges| pair.listener.contains(&local.port()) && pair.client.contains(&peer.port());
            ranges.iter().find(meant).map(|pair| pair.number)
        });
        known.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_ranges_of_ports() {
        let ports = (1..=900).chain((2_000..60_000).step_by(777)).chain([65_535]);
        let texts = ports.map(|port| format!(":{port}")).chain([":100-3000".into(), ":50000-50100".into()]);
        let patterns: Vec<Pattern> = texts.map(|text| Pattern::parse(&text).expect("a pattern")).collect();
        for count in [1, 60, 64, 70, patterns.len()] {
            let patterns = patterns.iter().rev().take(count);
            let index = Index::new((0..).zip(patterns.clone()));
            for port in 0..=u16::MAX {
                let endpoint = Endpoint::new(std::net::Ipv4Addr::LOCALHOST.into(), port);
                let first = patterns.clone().position(|pattern| pattern.matches(endpoint));
                assert_eq!(index.first(endpoint).map(|number| number as usize), first, "{count} {port}");
            }
        }
    }
}
