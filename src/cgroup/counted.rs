//! What is counted, and by which numbers the kernel knows it. Pure.
//!
//! A socket keeps the number of its counters until it ends, so a number means the same whatever is attached in the meantime: it
//! goes with the name of a rule, and is given to another one only long after that rule is gone.

use std::collections::{HashMap, HashSet};

use crate::tables::TooLarge;

/// How the defaults are called where they are counted.
pub(crate) const DEFAULTS: &str = "defaults";

/// How a socket came to a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// It connected.
    Connect,
    /// It was accepted.
    Accept,
}

impl Side {
    /// As it is printed and kept.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Accept => "accept",
        }
    }
}

/// Something that has counters of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Counted {
    /// The rule's name, or "defaults".
    pub rule: String,
    /// How sockets come to it.
    pub side: Side,
    /// Which of the rule's destinations, as `to` has it; empty if the rule is counted as a whole.
    pub to: String,
}

impl Counted {
    /// Characters that would end a line are replaced: only a name between quotation marks has such.
    pub(crate) fn new(rule: &str, side: Side, to: &str) -> Self {
        let plain = |text: &str| text.replace(char::is_control, "\u{fffd}");
        Self { rule: plain(rule), side, to: plain(to) }
    }
}

/// A rule with more destinations than this is counted as a whole.
pub(crate) const MOST_DESTINATIONS: usize = 16;

/// A counter. Its place in a row is never given to another one: programs of another version of the command may count there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Sockets that the rule was carried out on.
    Sockets,
    /// Ended as one of both sides wanted.
    Closed,
    /// Closed by the program before it was connected.
    Abandoned,
    /// Nobody answered to the connect.
    ConnectTimeout,
    /// The peer refused the connect.
    Refused,
    /// The network said that there is no way there.
    Unreachable,
    /// Idle, and the probes of keepalive were not answered.
    Keepalive,
    /// Data that was sent was not acknowledged.
    Unacknowledged,
    /// The peer has had no room for data for too long.
    ClosedWindow,
    /// The peer reset the connection.
    Reset,
    /// Another error.
    Other,
}

/// Bytes of a row of counters, of which there is room for more.
pub(crate) const ROW: usize = 128;

impl Count {
    /// Why a connection ended.
    pub const ENDS: [Self; 10] = [
        Self::Closed,
        Self::ConnectTimeout,
        Self::Refused,
        Self::Unreachable,
        Self::Abandoned,
        Self::Keepalive,
        Self::Unacknowledged,
        Self::ClosedWindow,
        Self::Reset,
        Self::Other,
    ];

    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sockets => "sockets",
            Self::Closed => "closed",
            Self::Abandoned => "abandoned",
            Self::ConnectTimeout => "connect_timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Keepalive => "keepalive",
            Self::Unacknowledged => "unacknowledged",
            Self::ClosedWindow => "closed_window",
            Self::Reset => "reset",
            Self::Other => "other",
        }
    }

    /// Where it is in a row.
    pub(crate) const fn offset(self) -> i32 {
        self as i32 * 8
    }
}

/// Something that is counted, with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) number: u32,
    /// The configuration has it no more.
    pub(crate) is_retired: bool,
    /// What was counted in tables that were too small for all that came later.
    pub(crate) carried: Vec<u64>,
    pub(crate) counted: Counted,
}

/// All that is counted: what the configuration has, then what earlier ones had, the latest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Book {
    /// Where the search for a free number begins.
    next: u32,
    pub(crate) entries: Vec<Entry>,
}

/// Of what is gone from the configuration, so much is still counted.
const MOST_RETIRED: usize = 100;
/// Numbers have 16 bits, and 0 is none.
const MOST_NUMBERS: usize = 0xffff;
/// As many as may be counted by one configuration.
pub(crate) const MOST_COUNTED: usize = MOST_NUMBERS - MOST_RETIRED;

impl Book {
    /// How many rows a table is to have for so many things that are counted.
    ///
    /// # Errors
    /// [`TooLarge`]
    pub(crate) fn capacity(count: usize) -> Result<u32, TooLarge> {
        let needed = count + MOST_RETIRED;
        if count > MOST_COUNTED {
            return Err(TooLarge { what: "counters", limit: MOST_COUNTED });
        }
        // Room for others before a number comes again.
        Ok((4 * needed).next_power_of_two().min(MOST_NUMBERS + 1) as u32)
    }

    /// Gives everything a number below `capacity`: the one that it has, if it has one. Answers with those that are new. What is
    /// gone is kept if its number `is_used`.
    pub(crate) fn enter(&mut self, all: &[Counted], capacity: u32, is_used: impl Fn(&Entry) -> bool) -> Vec<u32> {
        let mut known: HashMap<Counted, (u32, Vec<u64>)> =
            self.entries.iter().map(|entry| (entry.counted.clone(), (entry.number, entry.carried.clone()))).collect();
        let mut current = Vec::with_capacity(all.len());
        let mut new = Vec::new();
        for counted in all {
            current.push((counted.clone(), known.remove(counted)));
        }
        let was_retired = |entry: &&Entry| entry.is_retired;
        let (old, older): (Vec<&Entry>, Vec<&Entry>) = self.entries.iter().partition(|entry| !was_retired(entry));
        let is_left = |entry: &&Entry| known.contains_key(&entry.counted) && is_used(entry);
        let left = old.into_iter().chain(older).filter(is_left);
        let retired: Vec<Entry> =
            left.take(MOST_RETIRED).map(|entry| Entry { is_retired: true, ..entry.clone() }).collect();
        let kept = current.iter().filter_map(|(_, known)| known.as_ref().map(|(number, _)| *number));
        let mut taken: HashSet<u32> = kept.chain(retired.iter().map(|entry| entry.number)).collect();
        let mut entries = Vec::with_capacity(current.len() + retired.len());
        for (counted, known) in current {
            let (number, carried) = known.unwrap_or_else(|| {
                // There are more numbers than entries.
                while self.next == 0 || self.next >= capacity || taken.contains(&self.next) {
                    self.next = if self.next >= capacity { 1 } else { self.next + 1 };
                }
                let number = self.next;
                self.next += 1;
                new.push(number);
                taken.insert(number);
                (number, Vec::new())
            });
            entries.push(Entry { number, is_retired: false, carried, counted });
        }
        entries.extend(retired);
        self.entries = entries;
        new
    }

    /// Text of a line for each.
    pub(crate) fn to_text(&self) -> String {
        let line = |entry: &Entry| {
            let Counted { rule, side, to } = &entry.counted;
            let retired = if entry.is_retired { "retired" } else { "" };
            let carried = entry.carried.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
            format!("{}\t{retired}\t{carried}\t{}\t{to}\t{rule}\n", entry.number, side.name())
        };
        format!("{}\n{}", self.next, self.entries.iter().map(line).collect::<String>())
    }

    /// None if it is not such a text.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let next = lines.next()?.parse().ok()?;
        let entry = |line: &str| {
            let mut parts = line.splitn(6, '\t');
            let number = parts.next()?.parse().ok()?;
            let is_retired = parts.next()? == "retired";
            let carried = parts.next()?.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
            let side = if parts.next()? == Side::Accept.name() { Side::Accept } else { Side::Connect };
            let (to, rule) = (parts.next()?.to_owned(), parts.next()?.to_owned());
            Some(Entry { number, is_retired, carried, counted: Counted { rule, side, to } })
        };
        Some(Self { next, entries: lines.map(entry).collect::<Option<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(rules: &[&str]) -> Vec<Counted> {
        let of = |rule: &&str| Counted::new(rule, Side::Connect, "");
        rules.iter().map(of).collect()
    }

    fn numbers(book: &Book) -> Vec<(String, u32, bool)> {
        let entries = book.entries.iter();
        entries.map(|entry| (entry.counted.rule.clone(), entry.number, entry.is_retired)).collect()
    }

    /// Seen to fail: with numbers by the order of the rules.
    #[test]
    fn a_number_goes_with_the_name() {
        let mut book = Book::default();
        assert_eq!(book.enter(&counted(&["a", "b"]), 512, |_| true), [1, 2]);
        assert_eq!(book.enter(&counted(&["c", "b"]), 512, |_| true), [3]);
        let now = [("c".into(), 3, false), ("b".into(), 2, false), ("a".into(), 1, true)];
        assert_eq!(numbers(&book), now);
        book.entries.iter_mut().for_each(|entry| entry.carried = vec![u64::from(entry.number), 7]);
        assert_eq!(Book::from_text(&book.to_text()), Some(book.clone()));
        // It comes back.
        assert!(book.enter(&counted(&["a"]), 512, |_| true).is_empty());
        assert_eq!(numbers(&book), [("a".into(), 1, false), ("c".into(), 3, true), ("b".into(), 2, true)]);
        // Nobody keeps what was never used.
        book.enter(&counted(&["d"]), 512, |entry| entry.number == 2);
        assert_eq!(numbers(&book), [("d".into(), 4, false), ("b".into(), 2, true)]);
        let carried: Vec<&[u64]> = book.entries.iter().map(|entry| &*entry.carried).collect();
        assert_eq!(carried, [&[][..], &[2, 7]]);
    }

    /// Seen to fail: with the lowest number that is free.
    #[test]
    fn a_number_is_given_to_another_only_long_afterwards() {
        let mut book = Book::default();
        let capacity = Book::capacity(1).expect("it fits");
        let mut given = Vec::new();
        for round in 0..2 * capacity {
            given.extend(book.enter(&counted(&[&format!("rule {round}")]), capacity, |_| true));
            assert!(book.entries.len() <= MOST_RETIRED + 1);
        }
        assert!(given.iter().all(|number| (1..capacity).contains(number)));
        let again = given.iter().skip(1).position(|number| *number == 1).expect("it comes again");
        assert!(again > 400, "{again}");
    }

    #[test]
    fn names_with_any_characters() {
        let mut book = Book::default();
        book.enter(&counted(&["a\tb\nc", "\"", "ä"]), 512, |_| true);
        let read = Book::from_text(&book.to_text()).expect("it is well formed");
        assert_eq!(read.entries.len(), 3);
        assert_eq!(read.entries.last().map(|entry| entry.counted.rule.as_str()), Some("ä"));
        for text in ["", "x", "1\n2\t\n", "1\nx\t\t\tconnect\t\tname", "1\n1\t\tx\tconnect\t\tname"] {
            assert_eq!(Book::from_text(text), None, "{text:?}");
        }
    }

    #[test]
    fn too_many() {
        assert_eq!(Book::capacity(65_435), Ok(65_536));
        let refused = Book::capacity(65_436).expect_err("one too many");
        assert_eq!(refused.to_string(), "the rules need more than 65435 counters");
    }
}
