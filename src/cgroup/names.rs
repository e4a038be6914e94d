//! Names of executables: all entries of `process` as one machine that reads a name byte by byte. Pure.
//!
//! A name's bytes need not be UTF-8, and entries are about characters, `?` about any one: so what the machine is in the middle of
//! a character is part of its state. What is no UTF-8 is U+FFFD for each longest part that could have become a character, as in
//! `String::from_utf8_lossy`, by which rules are matched elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use policy::rules::Rule;
use policy::{Glob, Rules};

use crate::tables::TooLarge;

/// States that there may be: a kilobyte each.
pub(crate) const MOST_STATES: usize = 4096;
const TOO_MANY: TooLarge =
    TooLarge { what: "states for the names in process (fewer wildcards need fewer)", limit: MOST_STATES };

/// A state: what follows each byte, and the class of the process if the name ends here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) next: [u32; 256],
    pub(crate) class: u32,
}

/// Which of the lists of `process` that rules have let a process through.
pub(crate) type Passed = BTreeSet<usize>;

/// All lists of `process` of a policy.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The first is the one in which it starts. None if no rule has `process`.
    pub(crate) states: Vec<State>,
    /// Classes of processes: which lists let them through. None does the first.
    pub(crate) classes: Vec<Passed>,
    lists: Vec<Box<[Glob]>>,
}

impl Names {
    /// Those of a policy's rules.
    ///
    /// # Errors
    /// [`TooLarge`]
    pub(crate) fn of(rules: &Rules) -> Result<Self, TooLarge> {
        let all: BTreeMap<Vec<&str>, &[Glob]> = rules
            .rules()
            .filter_map(|rule| rule.conditions().process())
            .map(|list| (list.iter().map(Glob::as_str).collect(), list))
            .collect();
        let lists: Vec<Box<[Glob]>> = all.into_values().map(Into::into).collect();
        if lists.is_empty() {
            return Ok(Self::none());
        }
        let (states, classes) = machine(&lists, TOO_MANY)?;
        Ok(Self { states, classes, lists })
    }

    /// Nothing is known of processes.
    pub(crate) fn none() -> Self {
        Self { classes: vec![Passed::new()], ..Self::default() }
    }

    /// Whether rules ask for the process at all.
    pub(crate) fn are_asked_for(&self) -> bool {
        !self.states.is_empty()
    }

    /// The rules that a class of processes is let through by, with their numbers from 1. Command lines are not known.
    pub(crate) fn rules_for<'a>(&self, class: &Passed, rules: &'a Rules) -> Vec<(u32, &'a Rule)> {
        let is_let_through = |(_, rule): &(u32, &Rule)| {
            let conditions = rule.conditions();
            let is_it = |list: &[Glob]| {
                class.iter().any(|number| self.lists.get(*number).is_some_and(|known| **known == *list))
            };
            conditions.command().is_none() && conditions.process().is_none_or(is_it)
        };
        (1..).zip(rules.rules()).filter(is_let_through).collect()
    }
}

/// Where in which entry: its number in [`Machine::globs`], and how many of its characters have been met.
type Positions = BTreeSet<(usize, usize)>;

/// What has been read: bytes of a character that is not complete, and before them what is met so far.
type Read = (Vec<u8>, Positions);

/// The states and the classes of the machine that tells which of these lists a name matches. It starts in the first state, and the
/// first class is that of names which match none.
pub(crate) fn machine(lists: &[Box<[Glob]>], too_many: TooLarge) -> Result<(Vec<State>, Vec<Passed>), TooLarge> {
    Machine::of(lists).finish(too_many)
}

struct Machine {
    /// The number of the list that an entry is of, and its characters.
    globs: Vec<(usize, Vec<char>)>,
    /// For each byte the least of those that are as good.
    like: [u8; 256],
}

/// Where a byte may stand in UTF-8 (RFC 3629, section 4).
const fn kind(byte: u8) -> u8 {
    match byte {
        0..=0x7f => 0,
        0x80..=0x8f => 1,
        0x90..=0x9f => 2,
        0xa0..=0xbf => 3,
        0xc2..=0xdf => 4,
        0xe0 => 5,
        0xed => 6,
        0xe1..=0xef => 7,
        0xf0 => 8,
        0xf1..=0xf3 => 9,
        0xf4 => 10,
        _ => 11,
    }
}

impl Machine {
    fn of(lists: &[Box<[Glob]>]) -> Self {
        let numbered = lists.iter().enumerate();
        let of_list = numbered.flat_map(|(number, list)| list.iter().map(move |glob| (number, glob)));
        let globs = of_list.map(|(number, glob)| (number, glob.as_str().chars().collect())).collect();
        let texts = lists.iter().flatten().map(Glob::as_str);
        let literal: BTreeSet<u8> = texts.flat_map(str::bytes).filter(|byte| !b"*?".contains(byte)).collect();
        let mut like = [0; 256];
        let mut first = BTreeMap::new();
        for (byte, like) in (0..=u8::MAX).zip(&mut like) {
            *like = if literal.contains(&byte) { byte } else { *first.entry(kind(byte)).or_insert(byte) };
        }
        Self { globs, like }
    }

    fn symbol(&self, (glob, at): (usize, usize)) -> Option<char> {
        self.globs.get(glob)?.1.get(at).copied()
    }

    /// With what is met by no character at all.
    fn closed(&self, positions: impl Iterator<Item = (usize, usize)>) -> Positions {
        let mut closed = Positions::new();
        for (glob, mut at) in positions {
            closed.insert((glob, at));
            while self.symbol((glob, at)) == Some('*') {
                at += 1;
                closed.insert((glob, at));
            }
        }
        closed
    }

    fn start(&self) -> Read {
        (Vec::new(), self.closed((0..self.globs.len()).map(|glob| (glob, 0))))
    }

    fn after(&self, positions: &Positions, read: char) -> Positions {
        let next = |&(glob, at): &(usize, usize)| match self.symbol((glob, at))? {
            '*' => Some((glob, at)),
            '?' => Some((glob, at + 1)),
            symbol => (symbol == read).then_some((glob, at + 1)),
        };
        self.closed(positions.iter().filter_map(next))
    }

    /// What follows any character beyond ASCII, if that is the same for all of them.
    fn after_any(&self, positions: &Positions) -> Option<Positions> {
        let is_one = |position: &(usize, usize)| self.symbol(*position).is_some_and(|symbol| !symbol.is_ascii());
        (!positions.iter().any(is_one)).then(|| self.after(positions, char::REPLACEMENT_CHARACTER))
    }

    fn next(&self, (pending, positions): &Read, byte: u8) -> Read {
        let mut text = [pending.as_slice(), &[byte]].concat();
        let mut positions = positions.clone();
        loop {
            match std::str::from_utf8(&text) {
                Ok(whole) => {
                    let read = whole.chars().fold(positions, |positions, read| self.after(&positions, read));
                    return (Vec::new(), read);
                }
                Err(error) if error.error_len().is_none() => break,
                // What was pending has become nothing, and this byte may begin something.
                Err(_) => {
                    positions = self.after(&positions, char::REPLACEMENT_CHARACTER);
                    if text.len() == 1 {
                        return (Vec::new(), positions);
                    }
                    text = vec![byte];
                }
            }
        }
        // Where it does not matter what it becomes, and how many of them, it has become that already.
        if let Some(after) = self.after_any(&positions)
            && self.after_any(&after).as_ref() == Some(&after)
        {
            return (Vec::new(), after);
        }
        (text, positions)
    }

    /// Which lists have an entry that is met if the name ends here.
    fn passed(&self, (pending, positions): &Read) -> Passed {
        let met =
            if pending.is_empty() { positions.clone() } else { self.after(positions, char::REPLACEMENT_CHARACTER) };
        let list = |&(glob, at): &(usize, usize)| {
            self.globs.get(glob).filter(|(_, symbols)| symbols.len() == at).map(|(list, _)| *list)
        };
        met.iter().filter_map(list).collect()
    }

    fn finish(&self, too_many: TooLarge) -> Result<(Vec<State>, Vec<Passed>), TooLarge> {
        let (mut states, mut passed_by) = (Vec::new(), vec![Passed::new()]);
        let mut known: BTreeMap<Read, u32> = BTreeMap::from([(self.start(), 0)]);
        let mut all: Vec<Read> = vec![self.start()];
        let mut classes: BTreeMap<Passed, u32> = BTreeMap::from([(Passed::new(), 0)]);
        let mut at = 0;
        while let Some(read) = all.get(at).cloned() {
            let mut next = [0; 256];
            for byte in 0..=u8::MAX {
                let like = self.like[usize::from(byte)];
                next[usize::from(byte)] = if like == byte {
                    let read = self.next(&read, byte);
                    let number = all.len() as u32;
                    *known.entry(read).or_insert_with_key(|read| {
                        all.push(read.clone());
                        number
                    })
                } else {
                    next[usize::from(like)]
                };
            }
            if all.len() > too_many.limit {
                return Err(too_many);
            }
            let passed = self.passed(&read);
            let class = classes.len() as u32;
            let class = *classes.entry(passed).or_insert_with_key(|passed| {
                passed_by.push(passed.clone());
                class
            });
            states.push(State { next, class });
            at += 1;
        }
        Ok((states, passed_by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(globs: &[&str]) -> Box<[Glob]> {
        globs.iter().map(|glob| Glob::new(glob)).collect()
    }

    fn names(lists: &[&[&str]]) -> Result<Names, TooLarge> {
        let lists: Vec<Box<[Glob]>> = lists.iter().map(|globs| list(globs)).collect();
        let (states, classes) = machine(&lists, TOO_MANY)?;
        Ok(Names { states, classes, lists })
    }

    fn passed(names: &Names, name: &[u8]) -> Passed {
        let after = |state: usize, byte: &u8| names.states[state].next[usize::from(*byte)] as usize;
        names.classes[names.states[name.iter().fold(0, after)].class as usize].clone()
    }

    /// Names and entries of few characters each, so that many match: also names that are no UTF-8, and parts of characters.
    ///
    /// Seen to fail: without the character that is pending at the end; with what is pending forgotten wherever the next character
    /// does not matter.
    #[test]
    fn every_name_is_matched_as_elsewhere() {
        const PIECES: [&[u8]; 12] = [
            b"a",
            b"b",
            b"a",
            b"b",
            "\u{e9}".as_bytes(),
            "\u{20ac}".as_bytes(),
            "\u{fffd}".as_bytes(),
            "\u{1f600}".as_bytes(),
            b"\xe2",
            b"\x82",
            b"\xf0\x9f",
            b"\xed\xa0",
        ];
        const SYMBOLS: [&str; 9] = ["a", "b", "*", "?", "a", "b", "\u{e9}", "\u{20ac}", "\u{fffd}"];
        let mut seed = 7_u64;
        let mut below = |limit: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % limit
        };
        let (mut some, mut none, mut fitting) = (0, 0, 0);
        for _ in 0..80 {
            let mut lists = Vec::new();
            for _ in 0..=below(3) {
                let mut globs = Vec::new();
                for _ in 0..=below(2) {
                    let length = 1 + below(4);
                    globs.push((0..length).map(|_| SYMBOLS[below(SYMBOLS.len())]).collect::<String>());
                }
                lists.push(globs);
            }
            let lists: Vec<Vec<&str>> = lists.iter().map(|globs| globs.iter().map(String::as_str).collect()).collect();
            let Ok(names) = names(&lists.iter().map(Vec::as_slice).collect::<Vec<_>>()) else { continue };
            fitting += 1;
            for _ in 0..300 {
                let length = 1 + below(5);
                let name: Vec<u8> = (0..length).flat_map(|_| PIECES[below(PIECES.len())].to_vec()).collect();
                let text = String::from_utf8_lossy(&name);
                let is_meant = |globs: &[&str]| globs.iter().any(|glob| Glob::new(glob).matches(&text));
                let expected: Passed =
                    lists.iter().enumerate().filter(|(_, globs)| is_meant(globs)).map(|(number, _)| number).collect();
                assert_eq!(passed(&names, &name), expected, "{lists:?} {name:x?}");
                *if expected.is_empty() { &mut none } else { &mut some } += 1;
            }
        }
        assert!(some > 3_000 && none > 3_000 && fitting > 75, "{some} {none} {fitting}");
    }

    /// Names without wildcards need a state for each of their characters, and not one for each byte that may follow.
    ///
    /// Seen to fail: with every pending character kept.
    #[test]
    fn exact_names_need_few_states() {
        let names = names(&[&["java", "python3.11"], &["java"], &["gunicorn", "py*"]]).expect("it is small");
        assert!(names.states.len() < 30, "{} states", names.states.len());
        assert_eq!(passed(&names, b"java"), Passed::from([0, 1]));
        assert_eq!(passed(&names, b"javac"), Passed::new());
        assert_eq!(passed(&names, b"python3.11"), Passed::from([0, 2]));
        assert_eq!(names.classes.len(), 4);
    }

    /// A name needs a state for each of its characters, one before them, and one for every other name.
    ///
    /// Seen to fail: with one state more or less taken.
    #[test]
    fn as_many_states_as_there_may_be() {
        let of_length = |length: usize| names(&[&[&*"x".repeat(length)]]).map(|names| names.states.len());
        assert_eq!(of_length(4_094), Ok(4_096));
        assert!(of_length(4_095).is_err());
    }

    /// Each of these may be met or not, by itself: 2 to the power of 13.
    #[test]
    fn too_many_states_are_refused() {
        let globs: Vec<String> = ('a'..='m').map(|letter| format!("*{letter}{letter}*")).collect();
        let lists: Vec<[&str; 1]> = globs.iter().map(|glob| [glob.as_str()]).collect();
        let lists: Vec<&[&str]> = lists.iter().map(<[&str; 1]>::as_slice).collect();
        let refused = names(&lists).err().map(|what| what.to_string());
        assert_eq!(
            refused.as_deref(),
            Some("the rules need more than 4096 states for the names in process (fewer wildcards need fewer)")
        );
    }
}
