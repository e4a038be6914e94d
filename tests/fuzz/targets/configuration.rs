#![no_main]
//! Any text as a configuration file.
mod bounds;
mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| bounds::hold(&common::configuration(text), text.len()));
