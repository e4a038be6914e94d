//! Addresses and the names by which they were looked up, as programs in the kernel have learned them.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use policy::Name;

use crate::assembler::Map;
use crate::dns::NAME;
use crate::hosts;
use crate::maps;
use crate::refusal::Refusal;
use crate::sys::{self, MapForm, MapType, borrowed};

/// As many addresses are known at a time: those that were connected to or looked up least recently go.
const MOST: u32 = 8192;
/// Bytes of an address.
const KEY: usize = 16;

/// The table.
#[derive(Debug)]
pub(crate) struct Addresses(pub(crate) OwnedFd);

impl Addresses {
    /// An empty one.
    pub(crate) fn make(most: u32) -> Result<Self, Refusal> {
        let (key, value) = (KEY as u32, NAME as u32);
        let name = c"sockopt_hosts";
        maps::make(&MapForm { kind: MapType::RecentHash, key, value, entries: most, flags: 0, name, types: None })
            .map(Self)
    }

    /// The one that is pinned, if there is one of this form.
    pub(crate) fn at(pins: &Path) -> Option<Self> {
        let map = sys::open_pin(&pins.join(Map::Addresses.name())).ok()?;
        sys::value_size(borrowed(&map)).is_ok_and(|size| size == NAME as u32).then_some(Self(map))
    }

    /// One with room for all.
    pub(crate) fn new() -> Result<Self, Refusal> {
        Self::make(MOST)
    }

    /// How many are known.
    pub(crate) fn count(&self) -> usize {
        let mut last: Option<Vec<u8>> = None;
        // It changes meanwhile, and begins anew where the last one is gone.
        for count in 0..MOST as usize {
            match sys::next_key(borrowed(&self.0), last.as_deref(), KEY) {
                Ok(next) => last = Some(next),
                Err(_) => return count,
            }
        }
        MOST as usize
    }

    /// The name of an address.
    pub(crate) fn name_of(&self, ip: IpAddr) -> Option<Name> {
        let key = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let value = sys::lookup(borrowed(&self.0), &key, NAME as usize).ok()?;
        Name::new(&hosts::text(&value)?)
    }
}
