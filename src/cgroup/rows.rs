//! Tables as the bytes that the kernel and its programs know them by.

use crate::assembler::Map;
use crate::compile::{Slot, Tables};
use crate::executable::CLASS;
use crate::names::State;
use crate::settable::{Enforced, OptionRow};
use crate::tables::OF_PROCESS;

/// How a table is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By the very key.
    Hash,
    /// By a number.
    Array,
    /// By the longest prefix of an address.
    LongestPrefix,
}

/// A table's rows as the kernel takes them.
pub(crate) struct Rows {
    pub(crate) map: Map,
    pub(crate) kind: Kind,
    /// Bytes of a key.
    pub(crate) key: usize,
    /// Bytes of a value.
    pub(crate) value: usize,
    pub(crate) keys: Vec<u8>,
    pub(crate) values: Vec<u8>,
}

impl Rows {
    pub(crate) fn array<const N: usize>(map: Map, values: impl Iterator<Item = [u8; N]>) -> Self {
        let values: Vec<u8> = values.flatten().collect();
        let keys = (0..(values.len() / N) as u32).flat_map(u32::to_ne_bytes).collect();
        Self { map, kind: Kind::Array, key: 4, value: N, keys, values }
    }

    /// Options with their values.
    pub(crate) fn options(options: &[OptionRow]) -> Self {
        let option = |option: &OptionRow| -> [u8; 32] {
            let mut all = [0; 32];
            let head: [u8; 16] = bytes(&[option.level as u32, option.name as u32, option.length, 0]);
            all.iter_mut().zip(head.iter().chain(&option.value)).for_each(|(to, from)| *to = *from);
            all
        };
        Self::array(Map::Options, options.iter().map(option))
    }

    pub(crate) fn of(tables: &Tables) -> Vec<Self> {
        let words = |one: u32, other: u32| -> [u8; 8] { bytes(&[one, other]) };
        let networks = &tables.networks.rows;
        let enforced = Enforced::all();
        let slot = |slot: &Slot| -> [u8; 16] {
            let kept = slot.enforced.to_ne_bytes();
            let mut all = [0; 16];
            all.iter_mut().zip(words(slot.start, slot.count).iter().chain(&kept)).for_each(|(to, from)| *to = *from);
            all
        };
        let mut all = vec![
            Self {
                map: Map::Networks,
                kind: Kind::LongestPrefix,
                key: 24,
                value: 8,
                keys: networks.iter().flat_map(|(network, _)| network.to_bytes()).collect(),
                values: networks.iter().flat_map(|(_, answer)| words(answer.start, answer.count)).collect(),
            },
            Self::array(
                Map::Ports,
                tables.networks.ranges.iter().map(|range| words(u32::from(range.last), range.answer)),
            ),
            Self::array(Map::Profiles, tables.profiles.iter().flatten().map(slot)),
            Self::options(&tables.options),
            Self {
                map: Map::Enforced,
                kind: Kind::Hash,
                key: 8,
                value: 16,
                keys: enforced.iter().flat_map(|one| words(one.level as u32, one.name as u32)).collect(),
                values: enforced
                    .iter()
                    .flat_map(|one| [one.bit, u64::from(one.least)])
                    .flat_map(u64::to_ne_bytes)
                    .collect(),
            },
        ];
        if tables.fills_in {
            all.push(Self::array(Map::Fills, tables.fills.iter().map(|fill| fill.to_bytes())));
        }
        if tables.names.are_asked_for() {
            let state = |state: &State| {
                let class = OF_PROCESS * state.class;
                let words: Vec<u32> = state.next.iter().copied().chain([class, 0]).collect();
                bytes::<{ CLASS as usize + 8 }>(&words)
            };
            all.push(Self::array(Map::Names, tables.names.states.iter().map(state)));
        }
        if tables.hosts.are_asked_for() {
            all.push(Self::array(Map::Hosts, tables.hosts.steps(tables.classes_of_processes())));
        }
        all
    }
}

fn bytes<const N: usize>(words: &[u32]) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.iter_mut().zip(words.iter().flat_map(|word| word.to_ne_bytes())).for_each(|(to, from)| *to = from);
    bytes
}
