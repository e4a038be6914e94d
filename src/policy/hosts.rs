//! Host names in `to`: names as they are compared, and which entries an address is known by.
//!
//! Nothing is looked up here. Whoever knows by which names the program found an address says so ([`HostSet`]).

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::ops::RangeInclusive;

use wildmatch::WildMatch;

use crate::hash::FoldHasher;
use crate::matcher::Pattern;

pub use crate::name::Name;

/// The entries of `to` that name a host and that an address is known by.
///
/// Of fixed size, since it is made where nothing may be allocated. Who is known by more than [`HostSet::MOST`]
/// different names of the configuration is known by the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSet {
    ids: [u32; Self::MOST],
    count: usize,
}

impl HostSet {
    /// So many fit.
    pub const MOST: usize = 24;
    /// Known by no name.
    pub const NONE: Self = Self { ids: [0; Self::MOST], count: 0 };

    /// The numbers of the entries, in no order.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        self.ids.get(..self.count).unwrap_or_default()
    }

    /// Adds an entry; where there is no room, the one with the largest number goes.
    pub fn insert(&mut self, id: u32) {
        if self.ids().contains(&id) {
            return;
        }
        if let Some(free) = self.ids.get_mut(self.count) {
            *free = id;
            self.count += 1;
        } else if let Some(largest) = self.ids.iter_mut().max().filter(|largest| **largest > id) {
            *largest = id;
        }
    }
}

/// What one entry is for.
#[derive(Debug, Clone)]
struct Use {
    ports: RangeInclusive<u16>,
    /// The number of its rule; none for SOCKOPT_TO.
    rule: Option<u32>,
}

/// A name with wildcards.
#[derive(Debug, Clone)]
struct Wild {
    glob: WildMatch,
    /// Bytes behind the last wildcard.
    tail: usize,
    id: u32,
}

/// Every host name of the rules, ready to be asked. Equal texts are one entry; the numbers are in the order of
/// the rules.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts {
    exact: HashMap<Box<str>, u32, BuildHasherDefault<FoldHasher>>,
    wild: Box<[Wild]>,
    /// By number.
    uses: Box<[Box<[Use]>]>,
}

impl Hosts {
    /// Of the patterns that name hosts, with the numbers of their rules.
    pub(crate) fn new<'a>(patterns: impl Iterator<Item = (Option<u32>, &'a Pattern)>) -> Self {
        let mut ids: HashMap<&str, usize, BuildHasherDefault<FoldHasher>> = HashMap::default();
        let mut uses: Vec<Vec<Use>> = Vec::new();
        for (rule, pattern) in patterns {
            let Some(host) = pattern.host() else { continue };
            let id = *ids.entry(host).or_insert(uses.len());
            if id == uses.len() {
                uses.push(Vec::new());
            }
            if let Some(uses) = uses.get_mut(id) {
                uses.push(Use { ports: pattern.ports().clone(), rule });
            }
        }
        let (mut exact, mut wild) = (HashMap::default(), Vec::new());
        for (host, id) in ids {
            let id = id as u32;
            match host.rfind(['*', '?']) {
                Some(last) => wild.push(Wild { glob: WildMatch::new(host), tail: host.len() - last - 1, id }),
                None => drop(exact.insert(host.into(), id)),
            }
        }
        let uses = uses.into_iter().map(Vec::into_boxed_slice).collect();
        Self { exact, wild: wild.into_boxed_slice(), uses }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.uses.is_empty()
    }

    /// Adds the entries that a name matches.
    pub(crate) fn add(&self, set: &mut HostSet, name: &Name) {
        self.exact.get(name.as_str()).into_iter().for_each(|id| set.insert(*id));
        let meant = self.wild.iter().filter(|wild| wild.glob.matches(name.as_str()));
        meant.for_each(|wild| set.insert(wild.id));
    }

    /// Adds the entries that a name matches if a search domain was put behind it, which nobody has said.
    pub(crate) fn add_completed(&self, set: &mut HostSet, name: &Name, domain: &str) {
        let Some(completed) = name.completed(domain) else { return };
        self.exact.get(completed.as_str()).into_iter().for_each(|id| set.insert(*id));
        // `*.cluster.local` does not mean whatever is asked for on a machine that completes by `cluster.local`.
        let own = completed.as_str().len() - name.as_str().len();
        let counts = |wild: &&Wild| name.is_single_label() || wild.tail > own;
        let meant = self.wild.iter().filter(counts).filter(|wild| wild.glob.matches(completed.as_str()));
        meant.for_each(|wild| set.insert(wild.id));
    }

    /// The first rule that names the host for this port.
    pub(crate) fn first(&self, set: &HostSet, port: u16) -> Option<u32> {
        if set.count == 0 {
            return None;
        }
        self.uses(set, port).filter_map(|one| one.rule).min()
    }

    /// Whether SOCKOPT_TO names the host for this port.
    pub(crate) fn is_in_scope(&self, set: &HostSet, port: u16) -> bool {
        self.uses(set, port).any(|one| one.rule.is_none())
    }

    fn uses(&self, set: &HostSet, port: u16) -> impl Iterator<Item = &Use> {
        let of_hosts = set.ids().iter().filter_map(|&id| self.uses.get(id as usize));
        of_hosts.flatten().filter(move |one| one.ports.contains(&port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_no_names() {
        for address in
            ["10.1.2.3", "10.1.2.3.", "127.1", "0x7f000001", "0X7F.0x", "2130706433", "::1", "fe80::1%lo", ""]
        {
            assert!(Name::new(address.as_bytes()).is_none(), "{address}");
        }
        for (name, compared) in [
            ("Redis.Example.", "redis.example"),
            ("10.1.2.3.in-addr.arpa", "10.1.2.3.in-addr.arpa"),
            ("0xg", "0xg"),
            ("a..", "a."),
        ] {
            assert_eq!(Name::new(name.as_bytes()).expect(name).as_str(), compared);
        }
    }

    #[test]
    fn lengths() {
        assert_eq!(Name::new(&[b'A'; 253]).expect("as long as can be").as_str(), "a".repeat(253));
        assert!(Name::new(&[b'a'; 254]).is_none());
        assert!(Name::new(&[&[b'a'; 253][..], b"."].concat()).is_some());
        assert!(Name::new(b"\xff").is_none());
        let name = Name::new(&[b'a'; 250]).expect("a name");
        assert!(name.completed("bc.").is_some() && name.completed("bcd").is_none());
    }

    #[test]
    fn the_first_entries_are_kept() {
        let mut set = HostSet::NONE;
        (0..30).rev().chain(5..40).for_each(|id| set.insert(id));
        let mut ids = set.ids().to_vec();
        ids.sort_unstable();
        assert_eq!(ids, (0..HostSet::MOST as u32).collect::<Vec<_>>());
    }

    #[test]
    fn completion() {
        let patterns = ["redis.prod.svc.local", "*.prod.svc.local", "*.svc.local", "r*", "google.com.svc.local"];
        let patterns = patterns.map(|text| Pattern::parse(text).expect(text));
        let hosts = Hosts::new((0..).map(Some).zip(&patterns));
        for (name, domain, expected) in [
            ("redis", "prod.svc.local", &[0, 1, 2, 3][..]),
            ("redis.prod", "svc.local.", &[0, 1]),
            ("redis.prod.svc", "local", &[0, 1, 2]),
            ("google.com", "svc.local", &[4]),
            ("google.com", "prod.svc.local", &[]),
        ] {
            let mut set = HostSet::NONE;
            hosts.add_completed(&mut set, &Name::new(name.as_bytes()).expect(name), domain);
            let mut ids = set.ids().to_vec();
            ids.sort_unstable();
            assert_eq!(ids, expected, "{name} {domain}");
        }
    }
}
