#![no_main]
//! Any text as a file of Istio's, Envoy's, a gateway's or Kubernetes' own.
mod imported;

use import::{Format, Source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let source = Source { name: "fuzz.yaml".into(), text: text.into() };
    // Which the input chooses itself, by its length.
    imported::hold(&[source], &[Format::Yaml], (text.len() % 2 == 0).then_some("ns"));
});
