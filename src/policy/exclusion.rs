//! Exclusions in lists of addresses: `["10.0.0.0/8", "!10.0.0.1"]`. What is excluded is cut out of the other entries while the list is
//! read, and the networks and ports that are left are entries like any other. So nothing that comes later has to know of exclusions:
//! the tables, the comparison of rules, the supervisor, the programs in the kernel.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::matcher::{Pattern, Place};
use crate::ports::{Refused, refused};

/// So many entries may come of the exclusions of a configuration, beyond those that are written: each takes memory.
pub const MOST_PIECES: usize = 16_384;
/// So many exclusions may stand in a list: each is compared with all that the others have left.
pub const MOST_EXCLUSIONS: usize = 64;

/// A list of addresses as it is written.
#[derive(Debug, Default)]
pub struct List {
    meant: Vec<Pattern>,
    excluded: Vec<Pattern>,
}

impl List {
    /// Reads an entry. For what is connected to, an unspecified address is the loopback's ([`Pattern::as_destination`]).
    ///
    /// # Errors
    /// What is wrong with the text and what would be right.
    pub fn add(&mut self, text: &str, is_destination: bool) -> Result<(), Refused> {
        let read = |text: &str| {
            let pattern = Pattern::parse(text)?;
            Ok(if is_destination { pattern.as_destination() } else { pattern })
        };
        let Some(excluded) = text.trim().strip_prefix('!') else {
            self.meant.push(read(text)?);
            return Ok(());
        };
        let pattern = read(excluded)?;
        if pattern.host().is_some() {
            return refused(
                format!(
                    "\"{}\" excludes a host name; an exclusion must be an address, a network or a port",
                    text.trim()
                ),
                before(&pattern),
            );
        }
        self.excluded.push(pattern);
        Ok(())
    }

    /// Takes the newest entry back if it names a host; whether it did.
    pub(crate) fn take_back_host(&mut self) -> bool {
        self.meant.pop_if(|pattern| pattern.host().is_some()).is_some()
    }

    /// The entries that are left. A list of exclusions alone means everything else. `room` is how many may be added yet
    /// ([`MOST_PIECES`]), and what is left of it.
    ///
    /// # Errors
    /// What is excluded cannot be cut out, or is everything.
    pub fn into_patterns(self, room: &mut usize) -> Result<Box<[Pattern]>, Refused> {
        let Self { mut meant, excluded } = self;
        if excluded.is_empty() {
            return Ok(meant.into_boxed_slice());
        }
        if excluded.len() > MOST_EXCLUSIONS {
            let help = format!(
                "accepted: at most {MOST_EXCLUSIONS}; instead, put a rule for the excluded addresses before this one, with other options or none"
            );
            return refused(format!("{} exclusions are too many", excluded.len()), help);
        }
        if meant.is_empty() {
            meant.push(Pattern::ANY);
        }
        let written = meant.len();
        for pattern in &excluded {
            let mut left = Vec::with_capacity(meant.len());
            for one in meant {
                if one.host().is_some() && pattern.network().is_some() && overlap(&one, pattern) {
                    let message =
                        format!("\"!{pattern}\" cannot restrict \"{one}\": a host name is matched by its name alone");
                    return refused(message, before(pattern));
                }
                cut(one, pattern, &mut left);
                if left.len() > written.saturating_add(*room) {
                    // The next list does not begin anew.
                    *room = 0;
                    let help = format!(
                        "accepted: {MOST_PIECES} in all; exclude whole networks, or list the networks that should match"
                    );
                    return refused("the exclusions leave too many networks".into(), help);
                }
            }
            meant = left;
        }
        if meant.is_empty() {
            return refused("everything in this list is excluded".into(), "remove an exclusion, or the rule");
        }
        *room -= meant.len().saturating_sub(written);
        Ok(meant.into_boxed_slice())
    }
}

fn before(pattern: &Pattern) -> String {
    format!(
        "put a rule for \"{pattern}\" before this one, with other options or none: the first rule that matches is used"
    )
}

/// Whether they have a port in common.
fn overlap(one: &Pattern, other: &Pattern) -> bool {
    one.ports.start() <= other.ports.end() && other.ports.start() <= one.ports.end()
}

/// Adds what of an entry is left without another.
fn cut(one: Pattern, other: &Pattern, left: &mut Vec<Pattern>) {
    if !overlap(&one, other) {
        return left.push(one);
    }
    match (&one.place, &other.place) {
        (_, Place::Any) => ports(one, other, left),
        (Place::Any, Place::Network(_)) => {
            for all in [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())] {
                cut(Pattern { place: Place::Network(all), ports: one.ports.clone() }, other, left);
            }
        }
        (Place::Network(network), Place::Network(excluded)) if excluded.contains(network) => ports(one, other, left),
        (Place::Network(network), Place::Network(excluded)) if network.contains(excluded) => {
            // One half has it, the other is left, and so on.
            let mut inner = *network;
            while let Some((half, rest)) = halves(inner, excluded) {
                left.push(Pattern { place: Place::Network(rest), ports: one.ports.clone() });
                inner = half;
            }
            ports(Pattern { place: Place::Network(inner), ports: one.ports }, other, left);
        }
        _ => left.push(one),
    }
}

/// The half of a network that has a smaller one, and the other; None if they are the same.
fn halves(network: IpNet, smaller: &IpNet) -> Option<(IpNet, IpNet)> {
    let mut halves = network.subnets(network.prefix_len() + 1).ok().filter(|_| network != *smaller)?;
    let (low, high) = (halves.next()?, halves.next()?);
    Some(if low.contains(smaller) { (low, high) } else { (high, low) })
}

/// The same addresses with the ports that are left.
fn ports(one: Pattern, other: &Pattern, left: &mut Vec<Pattern>) {
    let (first, last) = (*one.ports.start(), *one.ports.end());
    let below = other.ports.start().checked_sub(1).filter(|end| *end >= first).map(|end| first..=end);
    let above = other.ports.end().checked_add(1).filter(|start| *start <= last).map(|start| start..=last);
    left.extend([below, above].into_iter().flatten().map(|ports| Pattern { place: one.place.clone(), ports }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(texts: &[&str]) -> Result<Vec<String>, String> {
        let mut list = List::default();
        for text in texts {
            list.add(text, true).map_err(|refused| refused.message)?;
        }
        let patterns = list.into_patterns(&mut MOST_PIECES.clone()).map_err(|refused| refused.message)?;
        Ok(patterns.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_left() {
        for (texts, expected) in [
            (&["10.0.0.0/30", "!10.0.0.1"][..], &["10.0.0.2/31", "10.0.0.0"][..]),
            (&["!10.0.0.1", "10.0.0.0/30", "10.0.0.1"], &["10.0.0.2/31", "10.0.0.0"]),
            (&["10.0.0.0/31:80-90", "! 10.0.0.1:85"], &["10.0.0.0:80-90", "10.0.0.1:80-84", "10.0.0.1:86-90"]),
            (&["10.0.0.0/8", "!10.0.0.0/8:443"], &["10.0.0.0/8:0-442", "10.0.0.0/8:444-65535"]),
            (&["10.0.0.0/8", "!11.0.0.0/8", "!::1"], &["10.0.0.0/8"]),
            (&["10.0.0.1:80", "!10.0.0.0/8:443"], &["10.0.0.1:80"]),
            (&["*:1-9", "!:1", "!:9"], &[":2-8"]),
            (&["!0.0.0.0/1"], &["128.0.0.0/1", "[::/0]"]),
            (&["*", "!::/0"], &["0.0.0.0/0"]),
            // An address that is left is none that a program means by it.
            (&["0.0.0.0/31", "!0.0.0.1"], &["0.0.0.0"]),
            (&["127.0.0.0/31", "!127.0.0.0"], &["127.0.0.1"]),
            (&["127.0.0.0/31", "!0.0.0.0"], &["127.0.0.0"]),
            (&["redis", "!:6379"], &["redis:0-6378", "redis:6380-65535"]),
            (&["redis:6379", "!10.0.0.1:443"], &["redis:6379"]),
        ] {
            assert_eq!(left(texts), Ok(expected.iter().map(|text| (*text).to_owned()).collect()), "{texts:?}");
        }
        for (texts, part) in [
            (&["10.0.0.1", "!10.0.0.0/8"][..], "everything"),
            (&["!*"], "everything"),
            (&["redis", "!10.0.0.1"], "by its name alone"),
            (&["*", "!redis"], "a host name"),
            (&["*", "!!10.0.0.1"], "is an exclusion"),
            (&["*", "!10.*"], "\"10.*\" is not an address"),
            (&["*", "!"], "an empty address"),
        ] {
            let message = left(texts).expect_err(part);
            assert!(message.contains(part), "{texts:?}: {message}");
        }
    }

    #[test]
    fn too_many() {
        let texts: Vec<String> = (0..=MOST_EXCLUSIONS).map(|n| format!("!10.0.{n}.1")).collect();
        assert!(left(&texts.iter().map(String::as_str).collect::<Vec<_>>()).expect_err("").contains("too many"));
        let mut list = List::default();
        list.add("!::1", false).expect("an exclusion");
        assert!(list.into_patterns(&mut 100).is_err());
    }
}
