//! Programs that a command line names among the arguments of another, which may start them: an entry point's script, a wrapper
//! that is not known. Nothing is known of what is done with them, but what would be said of them is.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::executable::{Backend, Outlook};
use crate::library::Library;
use crate::program::{self, Program};

/// As many words as are looked at.
const MOST: usize = 32;

/// What is to be said of the first of them that the library does not reach.
pub fn beyond_reach(program: &Program, library: &Library) -> Option<String> {
    let is_known =
        |word: &OsStr| word == program.file || program.script.as_deref().is_some_and(|script| word == script);
    let words = program.words.get(1..)?;
    // What a name without a slash names is known of the first word alone.
    let first = words.iter().position(|word| !word.as_bytes().starts_with(b"-") && !is_known(word));
    for (at, word) in words.iter().enumerate().take(MOST).filter(|(_, word)| !is_known(word)) {
        let is_whole = word.as_bytes().contains(&b'/') || first == Some(at);
        let mut commands = if is_whole { vec![words.get(at..).unwrap_or_default().to_vec()] } else { Vec::new() };
        commands.extend(paths_within(word).map(|path| vec![path]));
        commands.retain(|command| command.first().is_some_and(|word| !is_library(word)));
        let verdicts = commands.iter().filter_map(|command| Some(program::resolve(command).ok()?.verdict(library)));
        let is_beyond = |outlook| matches!(outlook, Outlook::Cannot | Outlook::Partly);
        if let Some(verdict) = verdicts.into_iter().find(|verdict| is_beyond(verdict.outlook)) {
            let help = if verdict.backend == Backend::Supervisor { "; --by supervisor reaches it too" } else { "" };
            return Some(format!(
                "an argument names a program that the library would not reach: {}{help}",
                verdict.why
            ));
        }
    }
    None
}

/// By its name: one without a name of its own (DT_SONAME) looks as a static program does.
fn is_library(word: &OsStr) -> bool {
    let name = word.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.ends_with(b".so") || name.windows(4).any(|part| part == b".so.")
}

/// Paths in a longer word: a shell's text, an option's value.
fn paths_within(word: &OsStr) -> impl Iterator<Item = OsString> {
    let is_border = |byte: &u8| byte.is_ascii_whitespace() || b";|&()<>'\"`=".contains(byte);
    let is_longer = word.as_bytes().iter().any(is_border);
    let pieces = word.as_bytes().split(is_border).filter(move |piece| is_longer && piece.contains(&b'/'));
    pieces.take(MOST).map(|piece| OsStr::from_bytes(piece).to_owned()).collect::<Vec<_>>().into_iter()
}
