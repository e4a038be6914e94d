//! What must hold of files of somebody else's, whatever they are: what is made of them is a configuration that `sockopt check` finds
//! no error in, and every note is about a place in them.

use import::{Format, Request, Source};
use policy::{Configuration, Process, compile};

pub(crate) fn hold(sources: &[Source], formats: &[Format], namespace: Option<&str>) {
    let request = Request { namespace: namespace.map(str::to_owned), enforce: None };
    let outcome = import::import(sources, formats, &request);
    for note in &outcome.notes {
        let place = note.place.as_ref().expect("a place");
        assert!(sources[place.source].text.get(place.span.clone()).is_some(), "{note:?}");
    }
    let document = Some(Source { name: "imported".into(), text: outcome.toml });
    let configuration = Configuration { document, variables: Vec::new() };
    let compiled = compile(&configuration, &Process::default());
    assert!(compiled.rules.is_ok(), "{:?}\n{}", compiled.rules.err(), compiled.sources[0].text);
}
