#![no_main]
//! Any text as variables, and a file below them.
mod bounds;
mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| bounds::hold(&common::environment(text), text.len()));
