//! Programs that a command line names among the arguments of another, which may start them: an entry point's script, a wrapper
//! that is not known. And those that a shell's text names. Nothing is known of what is done with them, but what would be said of them is.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::executable::{Backend, Outlook, Verdict};
use crate::library::Library;
use crate::program::{self, Program, is_shell};
use crate::shell_text;
use crate::wrapper::{self, ShellText};

/// As many words as are looked at.
const MOST: usize = 32;

/// As many commands of a shell's text as are looked at.
const MOST_COMMANDS: usize = 500;

/// As much of a script as is read.
const LONGEST_SCRIPT: u64 = 65_536;

/// What is to be said of the first of them that the library does not reach.
pub fn beyond_reach(program: &Program, library: &Library) -> Option<String> {
    among_arguments(program, library).or_else(|| in_text(program, library))
}

/// Says so; the supervisor may reach it.
fn said(who: &str, verdict: Verdict) -> String {
    let help = if verdict.backend == Backend::Supervisor { "; --by supervisor covers it too" } else { "" };
    format!("{who} a program that the library would not reach: {}{help}", verdict.why)
}

/// What a shell's text starts, if that is a program which makes its system calls itself. All else is not looked into: what is dynamic has
/// the library, or is a wrapper that says so itself.
fn in_text(program: &Program, library: &Library) -> Option<String> {
    if !is_shell(&program.words) {
        return None;
    }
    let mut text = Vec::new();
    let who = match wrapper::text_of_shell(&program.words)? {
        ShellText::Words(words) => {
            text.extend_from_slice(words.as_bytes());
            "the shell's command line names".to_owned()
        }
        ShellText::File(file) => {
            let script = Path::new(file);
            if !script.is_file() {
                return None;
            }
            File::open(script).ok()?.take(LONGEST_SCRIPT).read_to_end(&mut text).ok()?;
            format!("{} names", script.display())
        }
    };
    let mut known = BTreeSet::new();
    let commands = shell_text::commands(&text, MOST_COMMANDS).into_iter();
    let new = commands.filter(|command| command.first().is_some_and(|word| known.insert(word.clone())));
    let is_own = |word: &OsStr| word.to_str().is_some_and(wrapper::is_done_by_shell);
    let programs = new.filter(|command| command.first().is_some_and(|word| !is_own(word)));
    // sockopt itself says what it starts; ldconfig is static, and connects to nobody.
    let is_none = |program: &Program| {
        matches!(
            program.file.file_name().and_then(OsStr::to_str),
            None | Some("sockopt" | "ldconfig" | "ldconfig.real")
        )
    };
    let programs = programs.take(MOST).filter_map(|command| program::resolve(&command).ok());
    let beyond = programs.filter(|program| program.is_past_every_library() && !is_none(program));
    let verdict =
        beyond.map(|program| program.verdict(library)).find(|verdict| verdict.backend == Backend::Supervisor)?;
    Some(said(&who, verdict))
}

/// Programs among the arguments.
fn among_arguments(program: &Program, library: &Library) -> Option<String> {
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
            return Some(said("an argument names", verdict));
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
