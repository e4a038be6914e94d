//! What the kernel looks up: a policy's networks, ports, profiles and options as rows of tables. Pure.
//!
//! A network's row is found by its longest prefix, while of a policy's rules the first that matches counts. So each row has the
//! answer already: the ports of its own network and of all networks around it, cut into ranges, each with its first rule.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use policy::matcher::Pattern;

/// What is looked up: each table of patterns is a class of networks. Each class of processes has three, one after the other.
pub(crate) type Class = u32;
/// `to` of rules for sockets that connect.
pub(crate) const TO: Class = 0;
/// `listen` of rules for listeners.
pub(crate) const LISTEN: Class = 1;
/// `listen` of all rules for accepted sockets: the answer is the class of their clients.
pub(crate) const LOCAL: Class = 2;
/// How many these are. Behind those of all processes are the classes of clients.
pub(crate) const OF_PROCESS: Class = 3;

/// `::ffff:0:0/96`, where IPv4 is.
const MAPPED: u128 = 0xffff_0000_0000;
const MAPPED_LENGTH: u8 = 96;

/// The most rows of networks, and of ports: 8 to 64 MiB of the kernel's memory each.
pub(crate) const MOST_ROWS: usize = 1 << 20;

/// A table that would be too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// What there is too much of.
    pub what: &'static str,
    /// How much there may be.
    pub limit: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the rules need more than {} {}", self.limit, self.what)
    }
}

/// A network: `struct bpf_lpm_trie_key` with a class before the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// What is looked up.
    pub class: u32,
    /// As IPv6, IPv4 as `::ffff:a.b.c.d`.
    pub bits: u128,
    /// Of the address alone.
    pub length: u8,
}

impl Network {
    /// As the kernel has it: the length with the class's bits, the class, the address in network order.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let parts = [(32 + u32::from(self.length)).to_ne_bytes(), self.class.to_ne_bytes()];
        let all = parts.as_flattened().iter().chain(&self.bits.to_be_bytes()).copied().collect::<Vec<u8>>();
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        bytes
    }
}

/// The answer for a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Without a count: the answer for all ports. Else the first of its ranges.
    pub start: u32,
    /// How many ranges it has.
    pub count: u32,
}

/// Ports up to `last`, from the end of the range before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The last of them.
    pub last: u16,
    /// The answer for them.
    pub answer: u32,
}

/// Networks and ports.
#[derive(Debug, Default)]
pub struct Networks {
    /// Each network once.
    pub rows: Vec<(Network, Answer)>,
    /// The ranges of all, those of one network together.
    pub ranges: Vec<Range>,
    known: HashMap<Vec<(u16, u32)>, u32>,
}

/// A piece of all ports with the numbers of the rules that match there.
type Piece = (u16, u16, BTreeSet<u32>);

/// Cuts ranges of ports into pieces that do not overlap.
fn cut(ranges: &[(u16, u16, u32)]) -> Vec<Piece> {
    let mut events: BTreeMap<u32, Vec<(u32, bool)>> = BTreeMap::from([(0, Vec::new())]);
    for (first, last, number) in ranges {
        events.entry(u32::from(*first)).or_default().push((*number, true));
        events.entry(u32::from(*last) + 1).or_default().push((*number, false));
    }
    let mut active: BTreeMap<u32, u32> = BTreeMap::new();
    let mut pieces: Vec<Piece> = Vec::with_capacity(events.len());
    let ends = events.keys().skip(1).copied().chain([65_536]).collect::<Vec<u32>>();
    for ((first, changes), end) in events.into_iter().zip(ends) {
        for (number, begins) in changes {
            let count = active.entry(number).or_default();
            if begins {
                *count += 1;
            } else {
                *count -= 1;
            }
            if *count == 0 {
                active.remove(&number);
            }
        }
        let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(end.saturating_sub(1))) else { continue };
        pieces.push((first, last, active.keys().copied().collect()));
    }
    pieces
}

impl Networks {
    /// Adds the patterns of a class with the numbers of their rules. `answer` is what is found where a set of rules matches;
    /// where `first_counts`, it is given the first of them alone.
    ///
    /// # Errors
    /// [`TooLarge`]
    pub fn add<'a>(
        &mut self,
        class: Class,
        patterns: impl Iterator<Item = (u32, &'a Pattern)>,
        first_counts: bool,
        mut answer: impl FnMut(&BTreeSet<u32>) -> u32,
    ) -> Result<(), TooLarge> {
        type Own = Vec<(u16, u16, u32)>;
        let mut networks: BTreeMap<(u128, u8), Own> =
            BTreeMap::from([((0, 0), Own::new()), ((MAPPED, MAPPED_LENGTH), Own::new())]);
        for (number, pattern) in patterns.filter(|(_, pattern)| pattern.host().is_none()) {
            let ports = (*pattern.ports().start(), *pattern.ports().end(), number);
            let mut add = |network| networks.entry(network).or_default().push(ports);
            match pattern.network() {
                None => {
                    add((0, 0));
                    add((MAPPED, MAPPED_LENGTH));
                }
                Some((IpAddr::V4(ip), length)) => {
                    add((MAPPED | u128::from(u32::from(ip)), MAPPED_LENGTH + length));
                }
                Some((IpAddr::V6(ip), length)) => add((u128::from(ip), length)),
            }
        }
        struct Around {
            bits: u128,
            length: u8,
            ranges: Own,
            answers: Vec<(u16, u32)>,
        }
        // Those that the next may lie in, the outermost first.
        let mut around: Vec<Around> = Vec::new();
        for ((bits, length), own) in networks {
            let is_inside = |outer: &Around| {
                outer.length <= length
                    && (outer.length == 0 || (outer.bits ^ bits) >> (128 - u32::from(outer.length)) == 0)
            };
            while around.last().is_some_and(|outer| !is_inside(outer)) {
                around.pop();
            }
            // An IPv4 address is in no network of IPv6.
            let outer = around.last().filter(|_| (bits, length) != (MAPPED, MAPPED_LENGTH));
            let mut ranges = outer.map_or_else(Own::new, |outer| outer.ranges.clone());
            ranges.extend(own);
            let pieces = cut(&ranges);
            let mut answers: Vec<(u16, u32)> = Vec::with_capacity(pieces.len());
            if first_counts {
                ranges.clear();
            }
            for (first, last, numbers) in pieces {
                let found = if first_counts {
                    let number = numbers.first().copied();
                    ranges.extend(number.map(|number| (first, last, number)));
                    answer(&number.into_iter().collect())
                } else {
                    answer(&numbers)
                };
                match answers.last_mut().filter(|(_, same)| *same == found) {
                    Some((end, _)) => *end = last,
                    None => answers.push((last, found)),
                }
            }
            // The longest prefix around it has the same answer.
            if outer.is_none_or(|outer| outer.answers != answers) {
                let row = self.answer(&answers)?;
                self.rows.push((Network { class, bits, length }, row));
                if self.rows.len() > MOST_ROWS {
                    return Err(TooLarge { what: "networks", limit: MOST_ROWS });
                }
            }
            around.push(Around { bits, length, ranges, answers });
        }
        Ok(())
    }

    fn answer(&mut self, answers: &[(u16, u32)]) -> Result<Answer, TooLarge> {
        if let [(_, only)] = answers {
            return Ok(Answer { start: *only, count: 0 });
        }
        let count = answers.len() as u32;
        if let Some(start) = self.known.get(answers) {
            return Ok(Answer { start: *start, count });
        }
        let start = self.ranges.len();
        if start + answers.len() > MOST_ROWS {
            return Err(TooLarge { what: "ranges of ports", limit: MOST_ROWS });
        }
        self.ranges.extend(answers.iter().map(|(last, answer)| Range { last: *last, answer: *answer }));
        self.known.insert(answers.to_vec(), start as u32);
        Ok(Answer { start: start as u32, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(networks: &mut Networks, pattern: &str) -> Result<(), TooLarge> {
        let pattern = Pattern::parse(pattern).expect("a pattern");
        networks.add(TO, std::iter::once((1, &pattern)), true, |numbers| numbers.first().copied().unwrap_or_default())
    }

    /// Seen to fail: without either limit.
    #[test]
    fn what_does_not_fit_is_named() {
        let row = (Network { class: TO, bits: 0, length: 0 }, Answer { start: 0, count: 0 });
        // Three rows: all of IPv6, all of IPv4, and the network.
        let mut networks = Networks { rows: vec![row; MOST_ROWS - 3], ..Networks::default() };
        assert_eq!(added(&mut networks, "10.0.0.0/8"), Ok(()));
        let refused = added(&mut networks, "10.0.0.0/8").expect_err("one too many");
        assert_eq!(refused.to_string(), "the rules need more than 1048576 networks");
        // Three ranges: up to the port, the port, and behind it.
        let range = Range { last: 0, answer: 0 };
        let mut networks = Networks { ranges: vec![range; MOST_ROWS - 3], ..Networks::default() };
        assert_eq!(added(&mut networks, "10.0.0.0/8:443"), Ok(()));
        let refused = added(&mut networks, "10.0.0.0/8:80").expect_err("one too many");
        assert_eq!(refused.to_string(), "the rules need more than 1048576 ranges of ports");
    }
}
