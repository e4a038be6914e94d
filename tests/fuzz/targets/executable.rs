#![no_main]
//! Any bytes as a program that `sockopt run` judges.
mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| common::executable(bytes));
