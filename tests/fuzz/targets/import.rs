#![no_main]
//! Any text as a file of somebody else's: what is made of it is a configuration without errors, and every note is about
//! a place in it. Of the kinds the one that the text looks like, else one by its length.

use import::{Format, Request, Source};
use libfuzzer_sys::fuzz_target;
use policy::{Configuration, Process, compile};

fuzz_target!(|text: &str| {
    let source = Source { name: "fuzz".into(), text: text.into() };
    let format = Format::of(&source).unwrap_or(Format::ALL[text.len() % Format::ALL.len()]);
    let request = Request { namespace: (text.len() % 2 == 0).then(|| "ns".into()), enforce: None };
    let outcome = import::import(std::slice::from_ref(&source), &[format], &request);
    for note in &outcome.notes {
        let place = note.place.as_ref().expect("a place");
        assert!(text.get(place.span.clone()).is_some(), "{note:?}");
    }
    let document = Some(Source { name: "imported".into(), text: outcome.toml });
    let configuration = Configuration { document, variables: Vec::new() };
    let compiled = compile(&configuration, &Process::default());
    assert!(compiled.rules.is_ok(), "{:?}\n{}", compiled.rules.err(), compiled.sources[0].text);
});
