//! Looks up in a policy's tables as the programs do.

use std::net::IpAddr;

use policy::Endpoint;

use crate::names::Names;
use crate::tables::{Class, Networks, OF_PROCESS};

impl Names {
    /// The first class of networks for an executable with this name.
    pub(crate) fn class_of(&self, name: &[u8]) -> Class {
        let state = |number: u32| self.states.get(number as usize);
        let next = |number, byte: &u8| state(number).map_or(0, |state| state.next[usize::from(*byte)]);
        state(name.iter().fold(0, next)).map_or(0, |state| OF_PROCESS * state.class)
    }
}

impl Networks {
    /// The answer for an address and a port: of the longest prefix, 0 if there is none.
    pub(crate) fn find(&self, class: Class, end: Endpoint) -> u32 {
        let bits = match end.ip() {
            IpAddr::V4(ip) => u128::from(ip.to_ipv6_mapped()),
            IpAddr::V6(ip) => u128::from(ip),
        };
        let is_in = |length: u8, network: u128| length == 0 || (bits ^ network) >> (128 - u32::from(length)) == 0;
        let of_class = self.rows.iter().filter(|(network, _)| network.class == class);
        let around = of_class.filter(|(network, _)| is_in(network.length, network.bits));
        let Some((_, answer)) = around.max_by_key(|(network, _)| network.length) else { return 0 };
        if answer.count == 0 {
            return answer.start;
        }
        let ranges = self.ranges.iter().skip(answer.start as usize).take(answer.count as usize);
        let mut behind = ranges.skip_while(|range| range.last < end.port());
        behind.next().map_or(0, |range| range.answer)
    }
}
