#![no_main]
//! Any bytes as a socket address.
mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| common::address(bytes));
