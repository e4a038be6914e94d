#![no_main]
//! Any text as a file of lines: the first line says of which kind, by its first letter. What stands behind a line `---` is a second file
//! of this kind, for systemd a drop-in of the first.
mod imported;

use import::{Format, Source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (kind, text) = text.split_once('\n').unwrap_or_default();
    let format = match kind.bytes().next() {
        Some(b'd') => Format::Systemd,
        Some(b'h') => Format::Haproxy,
        Some(b'n') => Format::Nginx,
        Some(b's') => Format::Sysctl,
        Some(b'v') => Format::Variables,
        // As a user would have it who names none.
        _ => match Format::of(&Source { name: "fuzz".into(), text: text.into() }) {
            Some(format) => format,
            None => return,
        },
    };
    let parts = text.split("\n---\n").take(2).zip(["fuzz.socket", "fuzz.socket.d/x.conf"]);
    let sources: Vec<Source> = parts.map(|(text, name)| Source { name: name.into(), text: text.into() }).collect();
    imported::hold(&sources, &vec![format; sources.len()], None);
});
