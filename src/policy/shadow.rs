//! Rules that can never match, since those before them match all that they are for.
//!
//! What a rule is for is a set of boxes: ranges of addresses and ports of the socket, and of the peer for a rule with
//! `from`. A rule is shadowed where the boxes of earlier rules, taken together, cover each of its own. Called for advice.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::conditions::{Conditions, Direction};
use crate::document::RuleForm;
use crate::glob::{Glob, is_within};
use crate::matcher::Pattern;

/// The side of a connection that decides what a box means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Destinations of sockets that connect.
    Outbound,
    /// Addresses that TCP sockets listen on, or are bound to.
    Listening,
    /// Addresses that UDP sockets are bound to. Looked at only where some rule has `protocol`: else it is as with TCP.
    UdpServers,
    /// Addresses that are listened on, and the clients.
    Inbound,
}

/// A range, its ends included.
type Span = (u128, u128);
/// Address, port; the peer's address, the peer's port.
type Area = [Span; 4];

const ANYWHERE: [Span; 2] = [(0, u128::MAX), (0, u16::MAX as u128)];

/// A box of an earlier rule.
struct Taken {
    rule: usize,
    side: Side,
    area: Area,
}

/// More comparisons than any configuration that people write needs; what is beyond is not judged.
const MOST_COMPARISONS: usize = 20_000_000;

/// A rule with more areas than this is taken for one that matches nothing that others are for.
const MOST_AREAS: usize = 10_000;
/// An area that so many boxes have cut into pieces is taken for one that is not covered.
const MOST_CUTS: usize = 1_000;

/// What is known of a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// These earlier rules, by their index, match all that it is for.
    Shadowed(BTreeSet<usize>),
    /// Some of what it is for reaches it.
    Reached,
    /// Too much to compare: this one and all behind it.
    Unknown,
}

/// Whether some sockets may be meant by both of two rules, as far as their texts tell; nothing is said of a host and an address.
/// Takes what it compares off `left`, and says no where nothing is left.
pub(crate) fn may_meet(one: &Conditions, other: &Conditions, left: &mut usize) -> bool {
    let may_be_one_process = || one.let_pass_every_process_of(other) || other.let_pass_every_process_of(one);
    let sides = matched_sides(one, false).iter().filter(|side| matched_sides(other, false).contains(side));
    *left > 0
        && may_be_one_process()
        && sides.into_iter().any(|&side| {
            let (own, theirs) = (areas(one, side), areas(other, side));
            let pairs = own.len().saturating_mul(theirs.len());
            let is_affordable = pairs <= *left;
            *left = left.saturating_sub(pairs.max(1));
            let is_both = |(area, host): &(Area, Option<&str>), (their_area, their_host): &(Area, Option<&str>)| {
                let is_host = match (host, their_host) {
                    (None, None) => true,
                    (Some(host), Some(their_host)) => is_within(host, their_host) || is_within(their_host, host),
                    _ => false,
                };
                is_host && area.iter().zip(their_area).all(|(own, other)| meet(*own, *other))
            };
            is_affordable && own.iter().any(|own| theirs.iter().any(|theirs| is_both(own, theirs)))
        })
}

/// The sides on which a rule is the one that counts; UDP's only where it is told from TCP's.
fn matched_sides(rule: &Conditions, tells_udp: bool) -> &'static [Side] {
    let has_udp = tells_udp && rule.is_for_udp_servers();
    match (rule.direction(), has_udp) {
        (Direction::Outbound, _) => &[Side::Outbound],
        (Direction::Listeners, false) => &[Side::Listening, Side::Inbound],
        (Direction::Listeners, true) => &[Side::Listening, Side::UdpServers, Side::Inbound],
        (Direction::UdpServers, _) => &[Side::UdpServers],
        (Direction::Accepted, _) => &[Side::Inbound],
        (Direction::Both, false) => &[Side::Outbound, Side::Listening, Side::Inbound],
        (Direction::Both, true) => &[Side::Outbound, Side::Listening, Side::UdpServers, Side::Inbound],
    }
}

/// The sides on which a rule has to be reached to be of use. Whoever listens is not asked who will connect, so a rule for
/// listeners is dead only where none can listen.
fn needed_sides(rule: &Conditions, tells_udp: bool) -> &'static [Side] {
    let has_udp = tells_udp && rule.is_for_udp_servers();
    match (rule.direction(), has_udp) {
        (Direction::Listeners, false) => &[Side::Listening],
        (Direction::Listeners, true) => &[Side::Listening, Side::UdpServers],
        (Direction::Both, false) => &[Side::Outbound, Side::Listening],
        (Direction::Both, true) => &[Side::Outbound, Side::Listening, Side::UdpServers],
        _ => matched_sides(rule, tells_udp),
    }
}

/// A verdict for each rule, in order, up to the first that is unknown.
pub(crate) fn judge(rules: &[RuleForm]) -> Vec<Reach> {
    judge_within(rules, MOST_COMPARISONS)
}

fn judge_within(rules: &[RuleForm], comparisons: usize) -> Vec<Reach> {
    let mut search = Search { rules, taken: Vec::new(), named: Vec::new(), left: comparisons };
    let mut verdicts = Vec::with_capacity(rules.len());
    let tells_udp = rules.iter().any(|rule| rule.conditions.protocol().is_some());
    for (index, rule) in rules.iter().enumerate() {
        let sides = needed_sides(&rule.conditions, tells_udp);
        let mut used = BTreeSet::new();
        let covered = sides.iter().all(|&side| {
            let areas = areas(&rule.conditions, side);
            !areas.is_empty()
                && areas.into_iter().all(|(area, host)| {
                    let named = host.and_then(|host| search.names(index, host, &area));
                    used.extend(named);
                    named.is_some() || search.covers(index, side, area, (0, 0), &mut used)
                })
        });
        verdicts.push(match covered {
            _ if search.left == 0 => Reach::Unknown,
            true => Reach::Shadowed(used),
            false => Reach::Reached,
        });
        if search.left == 0 {
            break;
        }
        for &side in matched_sides(&rule.conditions, tells_udp) {
            for (area, host) in areas(&rule.conditions, side) {
                match host {
                    None => search.taken.push(Taken { rule: index, side, area }),
                    Some(host) => search.named.push((index, host, area)),
                }
            }
        }
    }
    verdicts
}

struct Search<'a> {
    rules: &'a [RuleForm],
    taken: Vec<Taken>,
    /// The hosts that earlier rules name, with the ports. Which addresses they have is not known.
    named: Vec<(usize, &'a str, Area)>,
    /// Comparisons that may still be made.
    left: usize,
}

impl Search<'_> {
    /// An earlier rule that means every host, on every port, that a name of a rule means.
    fn names(&mut self, rule: usize, host: &str, area: &Area) -> Option<usize> {
        self.left = self.left.saturating_sub(self.named.len());
        for (earlier, name, ports) in &self.named {
            let includes = is_within(host, name) && ports[1].0 <= area[1].0 && area[1].1 <= ports[1].1;
            if includes {
                self.left = self.left.saturating_sub(self.glob_pairs(*earlier, rule));
            }
            if self.left == 0 {
                return None;
            }
            if includes && self.lets_pass(*earlier, rule) {
                return Some(*earlier);
            }
        }
        None
    }

    /// Whether earlier rules cover an area of a rule, from the given box on and after so many cuts; which of them do
    /// goes to `used`.
    fn covers(
        &mut self,
        rule: usize,
        side: Side,
        area: Area,
        (from, cuts): (usize, usize),
        used: &mut BTreeSet<usize>,
    ) -> bool {
        let mut first = None;
        for (index, taken) in self.taken.iter().enumerate().skip(from) {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 || cuts == MOST_CUTS {
                return false;
            }
            let meets = taken.side == side && area.iter().zip(&taken.area).all(|(own, other)| meet(*own, *other));
            if !meets {
                continue;
            }
            self.left = self.left.saturating_sub(self.glob_pairs(taken.rule, rule));
            if !self.lets_pass(taken.rule, rule) {
                continue;
            }
            // One that is enough says more than several.
            if area.iter().zip(&taken.area).all(|(own, other)| other.0 <= own.0 && own.1 <= other.1) {
                used.insert(taken.rule);
                return true;
            }
            first = first.or(Some((index + 1, taken.rule, taken.area)));
        }
        let Some((next, found, theirs)) = first else { return false };
        // What sticks out on either side, dimension by dimension, is left to the boxes that follow.
        let mut rest = area;
        for dimension in 0..rest.len() {
            let (low, high) = rest[dimension];
            let (their_low, their_high) = theirs[dimension];
            if low < their_low {
                let mut below = rest;
                below[dimension] = (low, their_low - 1);
                if !self.covers(rule, side, below, (next, cuts + 1), used) {
                    return false;
                }
            }
            if high > their_high {
                let mut above = rest;
                above[dimension] = (their_high + 1, high);
                if !self.covers(rule, side, above, (next, cuts + 1), used) {
                    return false;
                }
            }
            rest[dimension] = (low.max(their_low), high.min(their_high));
        }
        used.insert(found);
        true
    }

    /// How many comparisons [`Self::lets_pass`] may take.
    fn glob_pairs(&self, earlier: usize, rule: usize) -> usize {
        let (Some(earlier), Some(rule)) = (self.rules.get(earlier), self.rules.get(rule)) else { return 0 };
        let pairs = |globs: fn(&Conditions) -> Option<&[Glob]>| {
            let count = |rule: &RuleForm| globs(&rule.conditions).map(<[_]>::len);
            count(earlier).map_or(0, |outer| outer.saturating_mul(count(rule).unwrap_or(1)))
        };
        pairs(Conditions::process).saturating_add(pairs(Conditions::command))
    }

    /// Whether every process that a rule is for is one that the earlier rule is for.
    fn lets_pass(&self, earlier: usize, rule: usize) -> bool {
        let (Some(earlier), Some(rule)) = (self.rules.get(earlier), self.rules.get(rule)) else { return false };
        earlier.conditions.let_pass_every_process_of(&rule.conditions)
    }
}

fn meet(own: Span, other: Span) -> bool {
    own.0 <= other.1 && other.0 <= own.1
}

/// What a rule is for, on one side of a connection, with the name of each host; nothing if that is too much.
fn areas(rule: &Conditions, side: Side) -> Vec<(Area, Option<&str>)> {
    let (own, from) = match side {
        Side::Outbound => (&rule.to, &None),
        Side::Listening | Side::UdpServers => (&rule.listen, &None),
        Side::Inbound => (&rule.listen, &rule.from),
    };
    let (own, peers) = (all_spans(own), all_spans(from));
    if own.len().saturating_mul(peers.len()) > MOST_AREAS {
        return Vec::new();
    }
    let with = |([address, port], host): ([Span; 2], _)| {
        peers.iter().map(move |([peer, peer_port], _)| ([address, port, *peer, *peer_port], host))
    };
    own.into_iter().flat_map(with).collect()
}

fn all_spans(patterns: &Option<Box<[Pattern]>>) -> Vec<([Span; 2], Option<&str>)> {
    match patterns {
        Some(patterns) => patterns.iter().flat_map(spans).collect(),
        None => vec![(ANYWHERE, None)],
    }
}

/// Addresses and ports of a pattern; a host may have any address. IPv4 lies where IPv4-mapped IPv6 addresses would, which
/// no endpoint has.
fn spans(pattern: &Pattern) -> Vec<([Span; 2], Option<&str>)> {
    const MAPPED: Span = (0xffff_0000_0000, 0xffff_ffff_ffff);
    let ports = (u128::from(*pattern.ports().start()), u128::from(*pattern.ports().end()));
    let span =
        |low: u128, free_bits: u32| (low, low | 1_u128.checked_shl(free_bits).map_or(u128::MAX, |size| size - 1));
    let addresses = match pattern.network() {
        None => vec![ANYWHERE[0]],
        Some((IpAddr::V4(ip), prefix)) => vec![span(MAPPED.0 | u128::from(ip.to_bits()), 32 - u32::from(prefix))],
        Some((IpAddr::V6(ip), prefix)) => match span(ip.to_bits(), 128 - u32::from(prefix)) {
            (low, high) if low < MAPPED.0 && high > MAPPED.1 => vec![(low, MAPPED.0 - 1), (MAPPED.1 + 1, high)],
            whole => vec![whole],
        },
    };
    addresses.into_iter().map(|address| ([address, ports], pattern.host())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Problems;

    /// Which of the rules are shadowed, and by which.
    fn shadowed(text: &str) -> Vec<(usize, Vec<usize>)> {
        let mut problems = Problems::default();
        let document = crate::syntax::read(text, 0, &mut problems);
        assert_eq!(problems.into_sorted([text].into_iter()).0.problems, []);
        let verdicts = judge(&document.rules).into_iter().enumerate();
        verdicts
            .filter_map(|(index, verdict)| match verdict {
                Reach::Shadowed(by) => Some((index, by.into_iter().collect())),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn which_are() {
        /// A rule, and those that shadow it.
        type By = (usize, &'static [usize]);
        let cases: &[(&str, &[By])] = &[
            ("{ to = '10.0.0.0/8' }, { to = '10.1.0.0/16:443' }", &[(1, &[0])]),
            ("{ to = '10.0.0.0/8:443' }, { to = '10.1.0.0/16' }", &[]),
            ("{ to = '10.0.0.0/9' }, { to = '10.128.0.0/9' }, { to = '10.0.0.0/8:80' }", &[(2, &[0, 1])]),
            ("{ to = ':1-99' }, { to = ':100-200' }, { to = ['10.1.2.3:50-150', ':200'] }", &[(2, &[0, 1])]),
            ("{ to = ':1-99' }, { to = ':101-200' }, { to = '10.1.2.3:50-150' }", &[]),
            ("{ to = '*' }, { to = '::1' }, { listen = '*' }", &[(1, &[0])]),
            // IPv4 is no part of IPv6.
            ("{ to = '::/0' }, { to = '10.0.0.0/8' }, { to = '2001:db8::1' }", &[(2, &[0])]),
            ("{ to = '::/0' }, { to = '0.0.0.0/0' }, { to = '*' }, { to = ':80' }", &[(2, &[0, 1]), (3, &[2])]),
            // Sides.
            ("{ to = '*' }, { listen = '*' }, { name = 'both' }", &[(2, &[0, 1])]),
            ("{ to = '*' }, { from = '*' }, { name = 'both' }", &[]),
            (
                "{ name = 'both' }, { to = ':1' }, { listen = ':1' }, { from = '10.0.0.0/8' }",
                &[(1, &[0]), (2, &[0]), (3, &[0])],
            ),
            ("{ from = '*' }, { listen = ':1' }", &[]),
            ("{ listen = ':1' }, { listen = ':1', from = '10.0.0.0/8' }", &[(1, &[0])]),
            (
                "{ from = '10.0.0.0/8' }, { listen = ':1', from = '10.1.0.0/16' }, { listen = ':1', from = '11.1.0.0/16' }",
                &[(1, &[0])],
            ),
            // Hosts: any address may be theirs, and none is known to be.
            ("{ to = 'redis:1-99' }, { to = 'redis:6' }, { to = 'redis' }, { to = '10.1.2.3:6' }", &[(1, &[0])]),
            ("{ to = '*.a.b' }, { to = ['x.a.b', '*y.a.b'] }, { to = ['a.b', 'x.a.b'] }", &[(1, &[0])]),
            ("{ to = ':6' }, { to = 'redis:6' }, { to = ['redis:5', '10.1.2.3:6'] }", &[(1, &[0])]),
            ("{ to = '10.0.0.0/8' }, { to = 'redis:6' }, { process = 'a', to = 'b' }, { to = 'b' }", &[]),
            // Protocols.
            (
                "{ listen = ':1', protocol = 'udp' }, { listen = ':1' }, { listen = ':1', protocol = 'tcp' }",
                &[(2, &[1])],
            ),
            (
                "{ listen = ':1', protocol = 'tcp' }, { listen = '*', protocol = 'udp' }, { listen = ':1' }, { name = 'both' }",
                &[(2, &[0, 1])],
            ),
            ("{ listen = ':1', protocol = 'udp' }, { listen = ':1', from = '10.0.0.0/8' }", &[]),
            // Processes.
            ("{ process = 'java', to = '*' }, { to = ':1' }", &[]),
            ("{ to = '*' }, { process = 'java', to = ':1' }", &[(1, &[0])]),
            ("{ process = 'java*', to = '*' }, { process = ['java', 'java1?'], to = ':1' }", &[(1, &[0])]),
            ("{ process = 'java?', to = '*' }, { process = 'java*', to = ':1' }", &[]),
            ("{ process = 'java', to = '*' }, { command = '*jmeter*', to = ':1' }", &[]),
            ("{ command = '*x*', to = '*' }, { command = '*x', process = 'java', to = ':1' }", &[(1, &[0])]),
            ("{ process = '*', to = '*' }, { to = ':1' }", &[(1, &[0])]),
        ];
        for (rules, expected) in cases {
            let expected: Vec<(usize, Vec<usize>)> = expected.iter().map(|(rule, by)| (*rule, by.to_vec())).collect();
            assert_eq!(shadowed(&format!("rule = [{rules}]")), expected, "{rules}");
        }
    }

    #[test]
    fn too_much_to_compare_is_left() {
        let rules: String = (0..99).map(|n| format!("[[rule]]\nto = '10.0.{n}.0/24:1-9'\n")).collect();
        let mut problems = Problems::default();
        let rules = crate::syntax::read(&rules, 0, &mut problems).rules;
        let verdicts = |comparisons| judge_within(&rules, comparisons);
        assert_eq!(verdicts(9_999).len(), 99);
        // Each rule is held against all before it.
        let some = verdicts(10 * 9 / 2);
        assert_eq!((some.len(), some.last()), (10, Some(&Reach::Unknown)));
        assert_eq!(some.iter().filter(|verdict| **verdict == Reach::Reached).count(), 9);
    }
}
