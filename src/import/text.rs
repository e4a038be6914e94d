//! What the line based syntaxes have in common: lines and words with their places, addresses.

use std::ops::Range;

use crate::draft::{Draft, Part};
use crate::note::{Kind, Notes, Place};
use crate::time::{SECOND, Units, nanoseconds};

/// The lines of a text with where they begin, without what ends them.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    text.split_inclusive('\n').map(move |line| {
        let at = start;
        start += line.len();
        (at, line.trim_end_matches(['\n', '\r']))
    })
}

/// A part of a text that is in it, with where it is.
pub(crate) fn within(whole: &str, start: usize, part: &str) -> Range<usize> {
    let at = start + (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    at..at + part.len()
}

/// A word and the bytes that it was written with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) span: Range<usize>,
}

/// The words of a line as a shell or HAProxy takes them apart: quotes of both kinds, a backslash before what stands for itself, `#`
/// before a comment.
pub(crate) fn words(line: &str, start: usize) -> Vec<Word> {
    let mut words = Vec::new();
    let mut open: Option<Word> = None;
    let mut quote = None;
    let mut letters = line.char_indices();
    while let Some((at, c)) = letters.next() {
        let here = start + at;
        let is_blank = c == ' ' || c == '\t';
        if quote.is_none() && (is_blank || c == '#' && open.is_none()) {
            words.extend(open.take());
            if c == '#' {
                break;
            }
            continue;
        }
        let word = open.get_or_insert_with(|| Word { text: String::new(), span: here..here });
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(own), c) if own == c => quote = None,
            (None | Some('"'), '\\') => {
                if let Some((_, next)) = letters.next() {
                    word.text.push(next);
                    word.span.end = here + 1 + next.len_utf8();
                    continue;
                }
            }
            (_, c) => word.text.push(c),
        }
        word.span.end = here + c.len_utf8();
    }
    words.extend(open);
    words
}

/// Gives a rule an address that something listens on or connects to, as all of these write it: `80`, `:80`, `*:80`, `10.0.0.1:80`,
/// `[::1]:80`, `example.com:80`. None of the kernel's is one of a UNIX socket.
pub(crate) fn aim(draft: &mut Draft, address: &str, place: &Place, notes: &mut Notes) {
    if address.starts_with('/') || address.starts_with('@') || address.starts_with("unix") {
        notes.add(Kind::NoMatch, place, "left out: a UNIX socket, which has no TCP options", "");
        return;
    }
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None if !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_digit()) => ("", Some(address)),
        None => (address, None),
    };
    let is_any = matches!(host, "" | "*" | "0.0.0.0" | "[::]" | "::");
    let target = match port {
        Some(port) if is_any => format!(":{port}"),
        Some(_) => address.to_owned(),
        None if is_any && draft.side.is_server() => "*".to_owned(),
        None => host.to_owned(),
    };
    draft.target(&target, place, notes);
}

/// A time in whole seconds; who it is for cuts off the rest. Zero is none.
pub(crate) fn seconds(text: &str, units: Units, place: &Place, who: &str, notes: &mut Notes) -> Option<Part> {
    let Some(all) = nanoseconds(text, units, Some(SECOND)) else {
        notes.add(Kind::Unreadable, place, format!("\"{text}\" is no time"), "");
        return None;
    };
    let value = all / SECOND;
    if !all.is_multiple_of(SECOND) {
        let message = format!("a fraction of a second: {who} cuts it off, which leaves {value} s");
        notes.add(Kind::Fraction, place, message, "");
    }
    (all > 0).then(|| Part { value, place: place.clone() })
}

/// A proxy that gives up connecting by a timer of its own does so under any rules.
pub(crate) fn own_connect_timer(who: &str, name: &str, place: &Place, notes: &mut Notes) {
    let message = format!("{name} is a timer of {who}'s own, which counts as before: no connect_timeout is needed");
    notes.add(Kind::Hint, place, message, "");
}

/// A whole number, or a note that it is none.
pub(crate) fn number(text: &str, place: &Place, notes: &mut Notes) -> Option<u64> {
    let found = text.trim().parse().ok();
    if found.is_none() {
        notes.add(Kind::Unreadable, place, format!("\"{text}\" is no whole number"), "");
    }
    found
}
