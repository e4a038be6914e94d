//! Where the kernel's structures have their fields, from the kernel's own description of its types (BTF).
//!
//! Format: Documentation/bpf/btf.rst. All numbers are in this machine's order.

use std::fs;

/// The description of the running kernel's types. Linux 4.18 and CONFIG_DEBUG_INFO_BTF.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// Deeper than structures without a name lie in each other.
const DEEPEST: usize = 8;

/// Kinds of types that matter here (linux/btf.h).
mod kind {
    pub(super) const STRUCTURE: u32 = 4;
    pub(super) const UNION: u32 = 5;
}

/// How many bytes a type of this kind has behind its first twelve.
fn length_behind(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        // ARRAY
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64
        4 | 5 | 15 | 19 => 12 * members,
        // ENUM, FUNC_PROTO
        6 | 13 => 8 * members,
        _ => return None,
    })
}

/// A description of types.
pub(crate) struct Types {
    bytes: Vec<u8>,
    /// Where the names are.
    names: usize,
    /// Where each type is; the first has number 1.
    places: Vec<usize>,
}

impl Types {
    /// The kernel's, if it tells them.
    pub(crate) fn of_kernel() -> Option<Self> {
        Self::parse(fs::read(KERNEL).ok()?)
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let word = |at: usize| number(&bytes, at);
        if bytes.get(..2)? != MAGIC.to_ne_bytes() {
            return None;
        }
        let header = word(4)?;
        let mut at = header + word(8)?;
        let end = at + word(12)?;
        let names = header + word(16)?;
        let mut places = Vec::new();
        while at < end {
            places.push(at);
            let info = word(at + 4)?;
            at += 12 + length_behind((info >> 24) as u32 & 0x1f, info & 0xffff)?;
        }
        Some(Self { bytes, names, places })
    }

    fn name(&self, offset: usize) -> &[u8] {
        let text = self.bytes.get(self.names + offset..).unwrap_or_default();
        text.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The place of a structure or union, and how many members it has.
    fn members(&self, at: usize) -> Option<(usize, bool)> {
        let info = number(&self.bytes, at + 4)?;
        let kind = (info >> 24) as u32 & 0x1f;
        (kind == kind::STRUCTURE || kind == kind::UNION).then_some((info & 0xffff, info >> 31 == 1))
    }

    /// How many bytes from the start of a structure one of its fields is.
    pub(crate) fn offset(&self, structure: &str, field: &str) -> Option<i16> {
        let is_it = |at: &&usize| {
            self.members(**at).is_some_and(|(members, _)| members > 0)
                && number(&self.bytes, **at).is_some_and(|name| self.name(name) == structure.as_bytes())
        };
        let at = *self.places.iter().find(is_it)?;
        let bits = self.bits(at, field.as_bytes(), DEEPEST)?;
        (bits % 8 == 0).then(|| i16::try_from(bits / 8).ok())?
    }

    fn bits(&self, at: usize, field: &[u8], deepest: usize) -> Option<usize> {
        let (members, has_widths) = self.members(at)?;
        (0..members).find_map(|member| {
            let member = at + 12 + 12 * member;
            let (name, of_type) = (number(&self.bytes, member)?, number(&self.bytes, member + 4)?);
            let offset = number(&self.bytes, member + 8)?;
            // Where some have a width in bits, it is in the upper eight.
            let offset = if has_widths { offset & 0x00ff_ffff } else { offset };
            if self.name(name) == field {
                return Some(offset);
            }
            // A field of a structure without a name is the outer one's too.
            let inner = *self.places.get(of_type.checked_sub(1)?)?;
            let is_open = self.name(name).is_empty() && deepest > 0;
            is_open.then(|| self.bits(inner, field, deepest - 1))?.map(|inside| offset + inside)
        })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(u32::from_ne_bytes(word) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int first; struct { int second; union { int third; }; }; }` beside a few types of other kinds.
    fn example() -> Vec<u8> {
        let names = b"\0int\0outer\0first\0second\0third\0";
        let structure = |kind: u32, members: u32| kind << 24 | members;
        let types: Vec<u32> = [
            // 1: int, with what is behind an INT.
            vec![1, 1 << 24, 4, 32],
            // 2: a pointer to it. 3: an array.
            vec![0, 2 << 24, 1],
            vec![0, 3 << 24, 0, 1, 1, 4],
            // 4: the union. 5: the structure in the middle. 6: outer.
            vec![0, structure(5, 1), 4, 24, 1, 0],
            vec![0, structure(4, 2), 8, 17, 1, 0, 0, 4, 32],
            vec![5, structure(4, 2) | 1 << 31, 12, 11, 1, 32 << 24, 0, 5, 32],
        ]
        .concat();
        let length = 4 * types.len() as u32;
        let mut bytes = [MAGIC.to_ne_bytes(), [1, 0]].concat();
        for word in [24, 0, length, length, names.len() as u32] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(types.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(names);
        bytes
    }

    #[test]
    fn fields_of_fields_without_a_name() {
        let types = Types::parse(example()).expect("it is well formed");
        assert_eq!(types.places.len(), 6);
        let found = ["first", "second", "third", "fourth"].map(|field| types.offset("outer", field));
        assert_eq!(found, [Some(0), Some(4), Some(8), None]);
        assert_eq!(types.offset("inner", "first"), None);
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        let whole = example();
        for length in 0..whole.len() {
            let cut = whole.get(..length).unwrap_or_default().to_vec();
            if let Some(types) = Types::parse(cut) {
                let _ = types.offset("outer", "third");
            }
        }
    }

    /// If this kernel tells its types, they have what is asked for.
    #[test]
    fn of_this_kernel() {
        if fs::metadata(KERNEL).is_ok() {
            let types = Types::of_kernel().expect("the kernel's own description can be read");
            assert!(types.offset("sock", "sk_err").is_some_and(|offset| offset > 0));
            assert!(types.offset("inet_connection_sock", "icsk_retransmits").is_some());
            assert!(types.offset("tcp_sock", "snd_wnd").is_some());
        }
    }
}
