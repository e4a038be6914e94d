//! Programs that a command line names among the arguments of another, which may start them: an entry point's script, a wrapper
//! that is not known. And those that a shell's text names. Nothing is known of what is done with them, but what would be said of them is.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::executable::{Backend, Outlook};
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

/// What is to be said of the first of them that the library does not reach; without a library, the supervisor.
pub fn beyond_reach(program: &Program, library: Option<&Library>) -> Option<String> {
    among_arguments(program, library).or_else(|| in_text(program, library))
}

/// Programs that have a daemon start what a command line names: who they are, at which of their commands, and what to do.
const BY_DAEMONS: &[(&[&str], &[&str], &str)] = &[
    (
        &["systemctl"],
        &["start", "restart", "try-restart", "reload-or-restart", "isolate"],
        "systemd starts the service, without the library and without the supervisor: use `sockopt attach --unit UNIT`, or a drop-in for the unit",
    ),
    (
        &["docker", "docker-compose", "nerdctl"],
        &["run", "exec", "start", "restart", "up"],
        "what runs in the container does not get the options: use `sockopt attach --container ID`, or put the library into the container",
    ),
    (
        &["kubectl", "oc"],
        &["run", "exec", "create", "apply", "debug"],
        "what runs in the cluster does not get the options: configure the pod",
    ),
];

/// What is to be said of one of those.
pub fn by_daemon(program: &Program) -> Option<&'static str> {
    let (first, words) = program.words.split_first()?;
    let name = Path::new(first).file_name()?;
    let is_meant = |(names, commands, _): &&(&[&str], &[&str], &str)| {
        names.iter().any(|known| name == *known) && words.iter().any(|word| commands.iter().any(|known| word == *known))
    };
    BY_DAEMONS.iter().find(is_meant).map(|(.., note)| *note)
}

/// Says so, and what reaches it. Of a program that is not for this machine nothing is known but where the kernel runs it: an emulator
/// makes this machine's system calls.
fn said(who: &str, program: &Program, library: Option<&Library>) -> Option<String> {
    let is_other = program.executed().is_some_and(|(_, image)| image.has_other_system_calls());
    let (way, verdict) = match library {
        Some(library) => ("library", program.verdict(library)),
        None if is_other => ("supervisor", program.supervised()),
        None => return None,
    };
    if !matches!(verdict.outlook, Outlook::Cannot | Outlook::Partly) {
        return None;
    }
    let help = match verdict.backend {
        Backend::Supervisor => "; --by supervisor covers it too",
        Backend::Library if is_other => "; `sockopt attach` covers it too",
        Backend::Library => "",
    };
    Some(format!("{who} a program that the {way} would not reach: {}{help}", verdict.why))
}

/// What a shell's text starts, if that is a program which makes its system calls itself, or others than this machine's. All else is not
/// looked into: what is dynamic has the library, or is a wrapper that says so itself.
fn in_text(program: &Program, library: Option<&Library>) -> Option<String> {
    if !is_shell(&program.words) {
        return None;
    }
    let (mut text, mut own) = (Vec::new(), PathBuf::new());
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
            own = script.parent().map(Path::to_owned).unwrap_or_default();
            File::open(script).ok()?.take(LONGEST_SCRIPT).read_to_end(&mut text).ok()?;
            format!("{} names", script.display())
        }
    };
    let mut known = BTreeSet::new();
    let commands = shell_text::commands(&text, &own, MOST_COMMANDS).into_iter();
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
    let is_beyond = |program: &Program| {
        let is_such = program
            .executed()
            .is_some_and(|(_, image)| image.is_past_every_library() || image.has_other_system_calls());
        is_such && !is_none(program)
    };
    let mut programs = programs.take(MOST).filter_map(|command| program::resolve(&command).ok()).filter(is_beyond);
    programs.find_map(|program| said(&who, &program, library))
}

/// Programs among the arguments.
fn among_arguments(program: &Program, library: Option<&Library>) -> Option<String> {
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
        let programs = commands.iter().filter_map(|command| program::resolve(command).ok());
        if let Some(said) = programs.into_iter().find_map(|program| said("an argument names", &program, library)) {
            return Some(said);
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
