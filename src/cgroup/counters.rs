//! Counters in the kernel: made when a policy is attached, kept over all that follow, and read.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::Path;

use socket::Errno;

use crate::assembler::Map;
use crate::counted::{Book, Count, Counted, DEFAULTS, Entry, ROW};
use crate::maps;
use crate::refusal::Refusal;
use crate::rows::Rows;
use crate::sys::{self, MapForm, MapType, borrowed};

/// The pins: the counters, and what each of them is for.
const COUNTERS: &str = "counters";
const BOOK: &str = "counted";

/// What was counted of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Of what.
    pub counted: Counted,
    /// Its rule is in the configuration no more.
    pub is_retired: bool,
    row: Vec<u64>,
}

impl Counts {
    /// One of the counters.
    #[must_use]
    pub fn of(&self, count: Count) -> u64 {
        self.row.get(count as usize).copied().unwrap_or_default()
    }
}

/// Counters for a policy that is to be attached.
pub(crate) struct Counting {
    made: Option<Made>,
}

struct Made {
    counters: OwnedFd,
    /// Those that had no room for all of it.
    old: Option<OwnedFd>,
    /// Numbers that those did not have.
    new: HashSet<u32>,
    book: Book,
}

fn key(number: u32) -> [u8; 4] {
    number.to_ne_bytes()
}

/// What a table has counted for something, and tables before it.
fn row(counters: &OwnedFd, entry: &Entry) -> Result<Vec<u64>, Errno> {
    let row = sys::lookup(borrowed(counters), &key(entry.number), ROW)?;
    let numbers = row.chunks_exact(8).map(|count| u64::from_ne_bytes(count.try_into().unwrap_or_default()));
    let carried = entry.carried.iter().copied().chain(std::iter::repeat(0));
    Ok(numbers.zip(carried).map(|(one, other)| one.saturating_add(other)).collect())
}

impl Counting {
    /// Nothing is counted.
    pub(crate) const NONE: Self = Self { made: None };

    /// Those that there are, if they have room for all of this; else new ones.
    pub(crate) fn of(pins: &Path, all: &[Counted]) -> Result<Self, Refusal> {
        let step = "the counters cannot be made";
        let capacity = Book::capacity(all.len())?;
        let (known, book) = before(pins)?.unzip();
        let mut book = book.unwrap_or_default();
        let rows = |map: &OwnedFd| sys::entries(borrowed(map)).map_err(Refusal::kernel(step));
        let is_used = |entry: &Entry| {
            let row = known.as_ref().map(|known| row(known, entry));
            row.is_some_and(|row| row.is_ok_and(|row| row.iter().any(|count| *count != 0)))
        };
        let capacity = match &known {
            Some(known) => rows(known)?.max(capacity),
            None => capacity,
        };
        let new = book.enter(all, capacity, is_used);
        let (counters, old) = match known {
            Some(known) if rows(&known)? >= capacity => (known, None),
            old => {
                let form = MapForm {
                    kind: MapType::Array,
                    key: 4,
                    value: ROW as u32,
                    entries: capacity,
                    flags: 0,
                    name: c"sockopt_counts",
                    types: None,
                };
                (maps::make(&form)?, old)
            }
        };
        for number in &new {
            sys::update(borrowed(&counters), &key(*number), &[0; ROW]).map_err(Refusal::kernel(step))?;
        }
        Ok(Self { made: Some(Made { counters, old, new: new.into_iter().collect(), book }) })
    }

    /// The number of each thing that is counted, behind one for what is not.
    pub(crate) fn numbers(&self) -> Rows {
        let book = self.made.iter().flat_map(|made| &made.book.entries).filter(|entry| !entry.is_retired);
        Rows::array(Map::Numbers, std::iter::once(0).chain(book.map(|entry| entry.number)).map(u32::to_ne_bytes))
    }

    pub(crate) fn counters(&self) -> Option<&OwnedFd> {
        self.made.as_ref().map(|made| &made.counters)
    }

    /// What is to be pinned, and how it is called. To be asked for when no program counts in other tables any more: what those have
    /// counted is carried over.
    pub(crate) fn pins(mut self) -> Result<Vec<(&'static str, OwnedFd)>, Refusal> {
        let Some(Made { counters, old, new, mut book }) = self.made.take() else { return Ok(Vec::new()) };
        if let Some(old) = old {
            for entry in book.entries.iter_mut().filter(|entry| !new.contains(&entry.number)) {
                entry.carried = row(&old, entry).map_err(Refusal::kernel("the counters cannot be read"))?;
            }
        }
        Ok(vec![(COUNTERS, counters), (BOOK, maps::of_text(c"sockopt_counted", &book.to_text())?)])
    }
}

/// What was pinned, if it is of this form.
fn before(pins: &Path) -> Result<Option<(OwnedFd, Book)>, Refusal> {
    let at = pins.join(COUNTERS);
    if !at.exists() {
        return Ok(None);
    }
    let step = || format!("{} cannot be read", at.display());
    let counters = sys::open_pin(&at).map_err(Refusal::kernel(step()))?;
    let size = sys::value_size(borrowed(&counters)).map_err(Refusal::kernel(step()))?;
    let book = maps::text_at(&pins.join(BOOK)).map_err(Refusal::kernel(step()))?;
    Ok(Book::from_text(&book).filter(|_| size as usize == ROW).map(|book| (counters, book)))
}

/// What was counted so far.
pub(crate) fn read(pins: &Path) -> Option<Vec<Counts>> {
    let (counters, book) = before(pins).ok()??;
    let counts = book.entries.into_iter().map(|entry| {
        let row = row(&counters, &entry).unwrap_or_default();
        Counts { counted: entry.counted, is_retired: entry.is_retired, row }
    });
    let mut counts: Vec<Counts> = counts.collect();
    // A rule's lines together, in the order of the rules.
    let first: HashMap<String, usize> =
        counts.iter().enumerate().rev().map(|(place, one)| (one.counted.rule.clone(), place)).collect();
    counts.sort_by_key(|one| (one.is_retired, one.counted.rule == DEFAULTS, first.get(&one.counted.rule).copied()));
    Some(counts)
}
