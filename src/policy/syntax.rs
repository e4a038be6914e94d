//! TOML text to a [`Document`], by work and memory that grow with the text alone, whatever stands there.
//!
//! The parser makes two records of each token and one of each error, so a file that is wrong in every character would
//! take hundreds of times its size. Hence text is read in pieces, in each of which one error is kept, and every error
//! is asked for only where a piece is short.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, Error};
use toml_parser::Source;

use crate::document::Document;
use crate::error::Problems;
use crate::fault::{Fault, Meant};
use crate::plain::is_unseen;
use crate::reader::Reader;

/// Bytes of a piece: some rules, so that what is done once for each does not count.
const PIECE: usize = 2 << 10;
/// Bytes of text in which every error is looked for, not the first alone. What people write by hand is shorter.
const SHORT: usize = 16 << 10;
/// What is read at once has no more tokens (names, values, brackets, commas, ...): a rule with 200,000 addresses.
const MOST_TOKENS: usize = 1 << 19;
/// How often lines with syntax errors are taken out before the rest counts as unreadable.
const ROUNDS: usize = 4;

/// Reads TOML text; what is wrong goes to `problems`.
pub(crate) fn read(text: &str, source: usize, problems: &mut Problems) -> Document {
    let apart = match by_pieces(text, PIECE, source, problems) {
        Ok(document) => return document,
        Err(apart) => apart,
    };
    if text.len() <= SHORT {
        return recovered(text, &mut Reader::new(source, problems));
    }
    // A line that looks like the header of a rule is none in a string of several lines. Where there is no such string, the
    // piece with the error had to be whole.
    let has_long_strings = || ["\"\"\"", "'''"].iter().any(|quotes| text.contains(quotes));
    let refused = match apart {
        Apart::Broken if !has_long_strings() => None,
        _ => match parse(text) {
            Ok(root) => return of(&root, &mut Reader::new(source, problems)),
            Err(refused) => Some(refused),
        },
    };
    if !matches!(apart, Apart::Single) {
        torn(text, source, problems);
    }
    if let Some(refused) = refused.filter(|_| problems.has_no_errors()) {
        // It is about two pieces, or there is only one.
        let place = if let Apart::Together(place) = apart { place } else { header_of(text) };
        refused.report(text, place, &mut Reader::new(source, problems));
    }
    Document { is_torn: true, ..Document::default() }
}

/// Why text is not read in pieces.
#[derive(Debug)]
enum Apart {
    /// One of them has a syntax error.
    Broken,
    /// There is only one.
    Single,
    /// What stands here may go together with something in another.
    Together(Range<usize>),
}

/// Reads text in pieces of at least so many bytes, so that one small tree after the other fits in the same memory, where
/// that is the same as reading all of it at once, and less.
fn by_pieces(text: &str, least: usize, source: usize, problems: &mut Problems) -> Result<Document, Apart> {
    let (mut document, mut found) = (Document::default(), Problems::default());
    let mut reader = Reader::new(source, &mut found);
    let mut known: BTreeSet<String> = BTreeSet::new();
    // What is reserved and not used costs nothing; most rules are longer than this.
    document.rules.reserve(text.len() / 64);
    for place in pieces(text, least) {
        if place.len() == text.len() {
            return Err(Apart::Single);
        }
        let piece = text.get(place.clone()).unwrap_or_default();
        let root = parse(piece).map_err(|_| Apart::Broken)?;
        for key in root.get_ref().keys() {
            let span = key.span();
            let together = || Err(Apart::Together(place.start + span.start..place.start + span.end));
            match key.get_ref().as_ref() {
                "rule" if piece.starts_with(HEADER) => {}
                // It may be no list of tables that others are added to, or be continued.
                "rule" => return together(),
                // It may be there twice, or be continued.
                other if !known.insert(other.to_owned()) => return together(),
                _ => {}
            }
        }
        reader.base = place.start;
        document.take(&root, &mut reader);
    }
    problems.append(found);
    Ok(document)
}

const HEADER: &str = "[[rule]]";

/// Text in pieces of at least so many bytes. A piece ends where a rule begins: text that is whole up to there goes on with
/// a new table. Where the line is within something else, a string or a list, that has no end in this piece, which is an
/// error of syntax.
fn pieces(text: &str, least: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
        let least = if rest.starts_with(HEADER) { least } else { 0 };
        let from = (least..rest.len()).find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        let end = rest.get(from..)?.find("\n[[rule]]").map_or(rest.len(), |at| from + at + 1);
        let piece = start..start + end;
        start = piece.end;
        Some(piece)
    })
}

/// Why text was not parsed.
enum Refused {
    Syntax(Error),
    TooManyTokens,
}

impl Refused {
    /// Reports it for a text; an error has its own place.
    fn report(&self, text: &str, place: Range<usize>, reader: &mut Reader<'_>) {
        match self {
            Self::Syntax(error) => syntax_error(error, text, reader),
            Self::TooManyTokens => {
                reader.fault(place, &Fault::TooManyTokens(MOST_TOKENS));
            }
        }
    }
}

/// The header of a rule at the start of a piece, or as much of what stands there.
fn header_of(piece: &str) -> Range<usize> {
    let most = piece.find('\n').unwrap_or(piece.len()).min(HEADER.len());
    0..(0..=most).rev().find(|at| piece.is_char_boundary(*at)).unwrap_or(0)
}

/// The tree of a text, or its first error: no other is kept.
fn parse(text: &str) -> Result<Spanned<DeTable<'_>>, Refused> {
    // A token has a byte at least.
    if text.len() > MOST_TOKENS && Source::new(text).lex().nth(MOST_TOKENS).is_some() {
        return Err(Refused::TooManyTokens);
    }
    DeTable::parse(text).map_err(Refused::Syntax)
}

/// Reads what has no syntax error.
fn of(root: &Spanned<DeTable<'_>>, reader: &mut Reader<'_>) -> Document {
    let mut document = Document::default();
    document.take(root, reader);
    document
}

/// Reports what is wrong with each piece of a long text: all of it in short ones, the first error of a long one.
fn torn(text: &str, source: usize, problems: &mut Problems) {
    for place in pieces(text, PIECE) {
        let piece = text.get(place.clone()).unwrap_or_default();
        let mut reader = Reader::new(source, problems);
        reader.base = place.start;
        if piece.len() <= SHORT {
            recovered(piece, &mut reader);
            continue;
        }
        match parse(piece) {
            Ok(root) => drop(of(&root, &mut reader)),
            Err(refused) => refused.report(piece, header_of(piece), &mut reader),
        }
    }
}

/// Reports every error of a short text: those of syntax, and what the lines without them have.
fn recovered(text: &str, reader: &mut Reader<'_>) -> Document {
    let (root, mut errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return of(&root, reader);
    }
    drop(root);
    errors.iter().for_each(|error| syntax_error(error, text, reader));
    let mut sound = Cow::Borrowed(text);
    for _ in 1..ROUNDS {
        let Some(rest) = without_lines_of(&errors, &sound) else { break };
        let (root, left) = DeTable::parse_recoverable(&rest);
        if left.is_empty() {
            return Document { is_torn: true, ..of(&root, reader) };
        }
        errors = left;
        sound = Cow::Owned(rest);
    }
    Document { is_torn: true, ..Document::default() }
}

fn syntax_error(error: &Error, text: &str, reader: &mut Reader<'_>) {
    let span = error.span().unwrap_or(0..0);
    let message = error.message();
    let is_of_value = ["string values must be quoted", "invalid float", "invalid integer", "invalid boolean"];
    let is_of_value = is_of_value.iter().any(|begin| message.starts_with(begin));
    let meant = if is_of_value { unquoted(text, span.start) } else { None };
    let fault = match text.get(span.clone()).filter(|key| !key.is_empty()) {
        key if message == "duplicate key" => Fault::DuplicateKey(key),
        _ => Fault::Syntax { message, meant },
    };
    reader.fault(span, &fault);
}

/// What was meant by a value that should stand in quotes, or is a boolean of another language.
fn unquoted(text: &str, place: usize) -> Option<Meant<'_>> {
    let is_end = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '{' | '}' | '=' | '#' | '"' | '\'');
    // The error may be within the word, so it is gone back to the word's beginning; of a long one not all is looked at.
    let from = (place.saturating_sub(LONGEST_WORD)..=place).find(|at| text.is_char_boundary(*at))?;
    let to = (place..=text.len().min(place + LONGEST_WORD)).rev().find(|at| text.is_char_boundary(*at))?;
    let before = text.get(from..place)?;
    let start =
        before.rfind(is_end).map_or(from, |at| from + at + before[at..].chars().next().map_or(1, char::len_utf8));
    let word = text.get(start..to)?.split(is_end).next().filter(|word| !word.is_empty())?;
    let is_cut = start == from && from > 0 || start + word.len() == to && to < text.len();
    let is_value = text.get(..start)?.trim_end().ends_with(['=', '[', ',']);
    let is_word = !word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    let is_quantity = word.ends_with(|c: char| c.is_ascii_alphabetic()) || word.contains([':', '/']);
    let is_text = is_word || is_quantity || word.matches('.').count() > 1;
    if is_cut || !is_value || !is_text || word.contains(is_unseen) {
        return None;
    }
    Some(match word.to_ascii_lowercase().as_str() {
        "yes" | "true" => Meant::Boolean(true),
        "no" | "false" => Meant::Boolean(false),
        "on" => Meant::Switch("on"),
        "off" => Meant::Switch("off"),
        _ => Meant::Text(word),
    })
}

/// Bytes before and behind an error in which its word is looked for.
const LONGEST_WORD: usize = 80;

/// The text with blanks for each line that has a syntax error, so that the others can be judged, in their places. None
/// if a table's header is among them: what follows would belong to another table.
fn without_lines_of(errors: &[Error], text: &str) -> Option<String> {
    let mut spans: Vec<Range<usize>> = errors.iter().map(Error::span).collect::<Option<_>>()?;
    spans.sort_unstable_by_key(|span| span.start);
    let mut spans = spans.into_iter().peekable();
    let mut sound = String::with_capacity(text.len());
    // Where the errors that have begun end.
    let mut reached = None;
    for line in text.split_inclusive('\n') {
        let (start, end) = (sound.len(), sound.len() + line.len());
        let break_at = end - usize::from(line.ends_with('\n'));
        while let Some(span) = spans.next_if(|span| span.start <= break_at) {
            reached = reached.max(Some(span.end.max(span.start)));
        }
        if reached.is_none_or(|reached| reached < start) {
            sound.push_str(line);
        } else if line.trim_start().starts_with('[') {
            return None;
        } else {
            line.bytes().for_each(|byte| sound.push(if matches!(byte, b'\n' | b'\r') { byte.into() } else { ' ' }));
        }
    }
    Some(sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that was read, and what is wrong with it.
    fn read(text: &str, least: Option<usize>) -> Option<String> {
        let mut problems = Problems::default();
        let document = match least {
            Some(least) => by_pieces(text, least, 3, &mut problems).ok()?,
            None => of(&DeTable::parse_recoverable(text).0, &mut Reader::new(3, &mut problems)),
        };
        Some(format!("{document:?} {:?}", problems.into_sorted(["", "", "", text].into_iter())))
    }

    #[test]
    fn pieces_are_what_the_whole_is() {
        let rule = "[[rule]]\nname = 'r'\nto = [':80', 'é']\nkeepalive = { time = '5s', intervall = 3 }\n";
        let sub = "[[rule]]\nfrom = '10.0.0.0/8'\n[rule.keepalive]\ntime = 5\n";
        let defaults = "# é\nother = 1\n[defaults]\r\nlinger = 'rest'\r\n";
        for text in [
            format!("{defaults}{rule}{rule}"),
            format!("{rule}{sub}{rule}{sub}"),
            format!("\u{feff}{rule}{rule}"),
            format!("{rule}{defaults}{rule}"),
            format!("{rule}[[rule]] # more\n[[rule]]"),
        ] {
            for least in [0, 1, 30, 117, 118] {
                if let Some(pieces) = read(&text, Some(least)) {
                    assert_eq!(Some(pieces), read(&text, None), "{least} {text}");
                } else {
                    assert!(least > 30 || text.starts_with('\u{feff}'), "{least} {text}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_sum_of_its_pieces_is_not_read_so() {
        for text in [
            // In a string, a list, a comment's line that is none.
            "name = \"\"\"\n[[rule]]\n\"\"\"\n[[rule]]\nx = 1\n",
            "x = [\n[[rule]]\n]\n",
            "x = [\n'a',\n[[rule]]\n[[rule]]\n",
            // Twice, or of another kind.
            "rule = []\n[[rule]]\nname = 'a'\n",
            "[rule]\nx = 1\n[[rule]]\nname = 'a'\n",
            "rule.x = 1\n[[rule]]\nname = 'a'\n",
            "[[rule]]\n[defaults]\nx = 1\n[[rule]]\n[defaults]\ny = 1\n",
            "[defaults.keepalive]\n[[rule]]\n[defaults]\ny = 1\n",
            "[[rule]]\nname = 'a'\n[rule]\nx = 1\n[[rule]]\n",
            "[[rule]]\nname = 'a'\nname = 'b'\n[[rule]]\n",
            "[[rule]]x\n[[rule]]\n",
            // Nothing to take apart.
            "[defaults]\n",
            "[[rule]]\nname = 'a'\n",
        ] {
            assert_eq!(read(text, Some(0)), None, "{text}");
        }
    }

    /// Lines of what is wrong with a text, and whether it is torn.
    fn problems(text: &str) -> (Vec<(usize, String)>, bool) {
        let mut problems = Problems::default();
        let document = super::read(text, 0, &mut problems);
        let errors = problems.into_sorted([text].into_iter()).0;
        (errors.iter().map(|error| (error.line, error.message.clone())).collect(), document.is_torn)
    }

    #[test]
    fn every_error_of_a_long_text() {
        let rules = |count: usize| "[[rule]]\nto = ':80'\nttl = 5\n".repeat(count);
        let wrong = "[[rule]]\nttl = 300\nttl 5\nto = 5\n";
        let text = format!("{}{wrong}{}{wrong}{}", rules(1_000), rules(1_000), rules(1_000));
        assert!(text.len() > 4 * SHORT);
        let messages = ["ttl = 300 is out of range", "key with no value", "to takes a list of strings"];
        let (found, is_torn) = problems(&text);
        let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [3_002, 3_003, 3_004, 6_006, 6_007, 6_008], "{found:?}");
        assert!(
            is_torn && found.iter().zip(messages.repeat(2)).all(|((_, is), says)| is.starts_with(says)),
            "{found:?}"
        );
        // A header in a string is none, and what is right is read.
        let string = "[[rule]]\nname = \"\"\"\n[[rule]]\n\"\"\"\n";
        assert_eq!(problems(&(rules(1_000) + string + &rules(1_000))), (vec![], false));
        let (found, is_torn) = problems(&(rules(1_000) + string + &rules(1_000) + wrong));
        assert!(is_torn && found.iter().any(|(line, _)| *line == 6_006), "{found:?}");
        // What is about two pieces.
        let twice = format!("[defaults]\n{}[defaults]\n{}", rules(1_000), rules(1_000));
        assert_eq!(problems(&twice), (vec![(3_002, "duplicate key \"defaults\"".into())], true));
    }

    #[test]
    fn a_table_of_too_many_tokens() {
        let list = |count: usize| format!("[[rule]]\nttl = 5\n[[rule]]\nlisten = [{}]\n", "':80',".repeat(count));
        assert_eq!(problems(&list(MOST_TOKENS / 2 - 100)), (vec![], false));
        let message = format!("more than {MOST_TOKENS} tokens in one table");
        assert_eq!(problems(&list(MOST_TOKENS / 2 + 100)), (vec![(1, message)], true));
    }
}
