//! The memory of set-up: pieces are used again, which is not counted on here: what counts is all that is ever allocated.

use allocation_counter::measure;
use policy::Configuration;

use crate::common;

/// What `src/preload/setup.rs` reserves at least for compiling, and a sixteenth of it for the outcome.
const LEAST: usize = 2 << 20;
const PER_BYTE: usize = 1024;

/// Compiles, checks, and counts.
pub(crate) fn hold(configuration: &Configuration, length: usize) {
    let mut compiled = None;
    let scratch = measure(|| compiled = Some(common::compiled(configuration))).bytes_total;
    let bound = (LEAST + PER_BYTE * length) as u64;
    assert!(scratch <= bound, "{scratch} bytes for a text of {length}");
    if let Some(Ok(rules)) = compiled.map(|compiled| compiled.rules) {
        let outcome = measure(|| drop(rules.clone())).bytes_total;
        assert!(outcome <= bound / 16, "{outcome} bytes kept for a text of {length}");
    }
}
