//! Where values are read, and where their problems go.

use std::ops::Range;

use toml::de::DeValue;

use crate::error::Problems;
use crate::exclusion::MOST_PIECES;
use crate::fault::{Accepted, Fault};
use crate::form::Form;
use crate::promise::Detection;

/// Reads the values of a source.
pub(crate) struct Reader<'p> {
    pub(crate) source: usize,
    /// Where in the source that begins which spans are of.
    pub(crate) base: usize,
    pub(crate) problems: &'p mut Problems,
    /// How many entries may come of exclusions yet.
    pub(crate) room: usize,
    /// The last promise with what keeps it: dear to compute, and most rules make the same.
    pub(crate) detected: Option<(u64, Option<Detection>)>,
}

impl<'p> Reader<'p> {
    pub(crate) fn new(source: usize, problems: &'p mut Problems) -> Self {
        Self { source, base: 0, problems, room: MOST_PIECES, detected: None }
    }

    /// Reports what is wrong at a place.
    pub(crate) fn fault(&mut self, span: Range<usize>, fault: &Fault<'_>) {
        self.problems.add(self.source, self.place(&span), fault);
    }

    /// The bytes of the source.
    pub(crate) fn place(&self, span: &Range<usize>) -> Range<usize> {
        self.base + span.start..self.base + span.end
    }

    /// A whole number in a range; `also` names what else the key takes.
    pub(crate) fn integer(
        &mut self,
        key: &str,
        span: Range<usize>,
        form: Form<'_>,
        (min, max): (i64, i64),
        also: &'static str,
    ) -> Option<i64> {
        let accepted = Accepted::Numbers { also, min, max };
        match (form.integer(), form) {
            (Some(number), _) if (min..=max).contains(&number) => return Some(number),
            (Some(number), _) => self.fault(span, &Fault::OutOfRange { key, value: &number, accepted }),
            (None, Form::Toml(DeValue::Integer(digits))) => {
                self.fault(span, &Fault::OutOfRange { key, value: digits, accepted });
            }
            _ => self.fault(span, &Fault::WrongType { key, takes: "a whole number", form, accepted }),
        }
        None
    }
}
