//! Counters in the kernel: made when a policy is attached, kept over all that follow, and read.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::assembler::Map;
use crate::counted::{Book, Count, Counted, DEFAULTS, ROW};
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
    made: Option<(OwnedFd, Book)>,
}

fn key(number: u32) -> [u8; 4] {
    number.to_ne_bytes()
}

impl Counting {
    /// Nothing is counted.
    pub(crate) const NONE: Self = Self { made: None };

    /// Those that there are, if they have room for all of this; else others to which what was counted is moved.
    pub(crate) fn of(pins: &Path, all: &[Counted]) -> Result<Self, Refusal> {
        let step = "the counters cannot be made";
        let capacity = Book::capacity(all.len())?;
        let (old, book) = before(pins)?.unzip();
        let mut book = book.unwrap_or_default();
        let rows = |map: &OwnedFd| sys::entries(borrowed(map)).map_err(Refusal::kernel(step));
        let counters = match &old {
            Some(old) if rows(old)? >= capacity => old.try_clone().map_err(Refusal::file(step))?,
            _ => {
                let counters = maps::make(&MapForm {
                    kind: MapType::Array,
                    key: 4,
                    value: ROW as u32,
                    entries: capacity,
                    flags: 0,
                    name: c"sockopt_counts",
                    types: None,
                })?;
                for (old, entry) in old.iter().flat_map(|old| book.entries.iter().map(move |entry| (old, entry))) {
                    let row = sys::lookup(borrowed(old), &key(entry.number), ROW).map_err(Refusal::kernel(step))?;
                    sys::update(borrowed(&counters), &key(entry.number), &row).map_err(Refusal::kernel(step))?;
                }
                counters
            }
        };
        let is_used = |number| {
            let row = sys::lookup(borrowed(&counters), &key(number), ROW);
            row.is_ok_and(|row| row.iter().any(|byte| *byte != 0))
        };
        for number in book.enter(all, rows(&counters)?, is_used) {
            sys::update(borrowed(&counters), &key(number), &[0; ROW]).map_err(Refusal::kernel(step))?;
        }
        Ok(Self { made: Some((counters, book)) })
    }

    /// The number of each thing that is counted, behind one for what is not.
    pub(crate) fn numbers(&self) -> Rows {
        let book = self.made.iter().flat_map(|(_, book)| &book.entries).filter(|entry| !entry.is_retired);
        Rows::array(Map::Numbers, std::iter::once(0).chain(book.map(|entry| entry.number)).map(u32::to_ne_bytes))
    }

    pub(crate) fn counters(&self) -> Option<&OwnedFd> {
        self.made.as_ref().map(|(counters, _)| counters)
    }

    /// What is to be pinned, and how it is called.
    pub(crate) fn pins(&self) -> Result<Vec<(&'static str, OwnedFd)>, Refusal> {
        let Some((counters, book)) = &self.made else { return Ok(Vec::new()) };
        let counters = counters.try_clone().map_err(Refusal::file("the counters cannot be kept"))?;
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
        let row = sys::lookup(borrowed(&counters), &key(entry.number), ROW).unwrap_or_default();
        let row = row.chunks_exact(8).map(|count| u64::from_ne_bytes(count.try_into().unwrap_or_default()));
        Counts { counted: entry.counted, is_retired: entry.is_retired, row: row.collect() }
    });
    let mut counts: Vec<Counts> = counts.collect();
    // A rule's lines together, in the order of the rules.
    let first: HashMap<String, usize> =
        counts.iter().enumerate().rev().map(|(place, one)| (one.counted.rule.clone(), place)).collect();
    counts.sort_by_key(|one| (one.is_retired, one.counted.rule == DEFAULTS, first.get(&one.counted.rule).copied()));
    Some(counts)
}
