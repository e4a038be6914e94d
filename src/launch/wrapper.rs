//! Programs that start another one, which their command line names: timeout(1), env(1), gosu and the like. What counts
//! is the program that they start, and whether LD_PRELOAD reaches it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use Effect::{
    EmptiesEnvironment, Exec, Folder, KeepsLibrary, NoNewPrivileges, Nothing, OtherLibrary, Rights, Root,
    StartsNothing, Unclear, User, Variables,
};

use crate::neighbours;
use crate::wrapper_table::{Effect, MPTCPIZE, NOT_FOLLOWED, PLAIN, Rest, SYSTEMD, WITHOUT_LIBRARY, WRAPPERS, Wrapper};

/// What a wrapper makes of its arguments.
#[derive(Debug)]
pub enum Call {
    /// It starts this.
    Starts(Start),
    /// It starts nothing that is named: it prints, or works on processes that run already.
    Nothing,
    /// It is called in a way that is not followed here.
    Unclear,
    /// What it starts does not get the environment, or not the library: why, and what to do instead; then, whether the
    /// supervisor reaches it.
    WithoutLibrary(&'static str, &'static str, bool),
}

/// A program that is started by a wrapper.
#[derive(Debug, Default)]
pub struct Start {
    /// What it starts, with its arguments.
    pub command: Vec<OsString>,
    /// Where it is looked for, if the wrapper changes that.
    pub path: Option<OsString>,
    /// How the wrapper takes LD_PRELOAD away.
    pub cleared: Option<&'static str>,
    /// Where the wrapper sets or unsets ASAN_OPTIONS: whether what lets AddressSanitizer start behind the library is in it.
    pub lets_sanitizer_start: Option<bool>,
    /// The user that it is started as.
    pub user: Option<OsString>,
    /// Whether the rights of who starts it are others than those of who starts the wrapper.
    pub has_other_rights: bool,
    /// prctl(2), PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// The folder that becomes its root.
    pub root: Option<OsString>,
    /// Whether it is started in another folder.
    pub(crate) is_elsewhere: bool,
    /// Whether an option says that there is nothing to start.
    starts_nothing: bool,
}

/// What execvp(3) takes where there is no PATH.
pub const DEFAULT_PATH: &str = "/bin:/usr/bin";

const OTHER_VALUE: &str = "sets LD_PRELOAD to another value";

/// Whether a wrapper of this name is a script.
pub fn is_script(words: &[OsString]) -> bool {
    const SCRIPTS: &[&str] = &[
        "datefudge",
        "eatmydata",
        "fakechroot",
        "fakeroot",
        "heaptrack",
        "parallel",
        "proxychains",
        "proxychains3",
        "socksify",
        "torsocks",
        "tsocks",
        "valgrind",
        "xvfb-run",
    ];
    words.first().and_then(|word| Path::new(word).file_name()?.to_str()).is_some_and(|name| SCRIPTS.contains(&name))
}

/// What a command line starts, if its first word is a wrapper.
pub fn read(words: &[OsString]) -> Option<Call> {
    let (first, arguments) = words.split_first()?;
    let name = Path::new(first).file_name()?.to_str()?;
    if matches!(name, "busybox" | "toybox") && !arguments.is_empty() {
        return read(arguments);
    }
    if let Some((_, why, instead, is_supervised)) = WITHOUT_LIBRARY.iter().find(|(names, ..)| names.contains(&name)) {
        return Some(Call::WithoutLibrary(why, instead, *is_supervised));
    }
    let call = match name {
        "env" => env(arguments),
        "systemd-run" => systemd_run(arguments),
        "setarch" | "linux32" | "linux64" => setarch(name, arguments),
        "gdb" => gdb(arguments),
        "ip" => ip(arguments),
        "mptcpize" => mptcpize(arguments),
        // Without -u the first word is a user, whose shell it starts, as su does.
        "runuser" if !arguments.iter().any(names_a_user) => Some(Call::Unclear),
        // Alone they start nothing, or a shell.
        _ if NOT_FOLLOWED.contains(&name) => Some(Call::Unclear),
        _ => WRAPPERS.iter().find(|wrapper| wrapper.names.contains(&name))?.read(arguments),
    };
    Some(call.unwrap_or(Call::Unclear))
}

/// Whether an option of runuser(1) may be `-u` or `--user`.
fn names_a_user(word: &OsString) -> bool {
    let word = word.as_encoded_bytes();
    word.starts_with(b"--u") || word.starts_with(b"-u")
}

impl Start {
    fn apply(&mut self, effect: Effect, value: Option<OsString>) -> Option<()> {
        match effect {
            Nothing | Exec => {}
            StartsNothing => self.starts_nothing = true,
            Unclear => return None,
            Folder => self.is_elsewhere = true,
            Root => self.root = Some(value?),
            User => {
                self.user = Some(value?);
                self.has_other_rights = true;
            }
            Rights => self.has_other_rights = true,
            NoNewPrivileges => self.no_new_privileges = true,
            EmptiesEnvironment => {
                self.cleared = Some("clears the environment");
                self.path = Some(DEFAULT_PATH.into());
            }
            OtherLibrary => self.cleared = Some(OTHER_VALUE),
            KeepsLibrary => self.cleared = None,
            Variables => {
                let folder = PathBuf::from(value?);
                if folder.join("LD_PRELOAD").exists() {
                    self.cleared = Some(OTHER_VALUE);
                }
                if let Ok(options) = std::fs::read(folder.join(neighbours::SANITIZER_VARIABLE)) {
                    // The first line is the value.
                    let value = options.split(|byte| *byte == b'\n').next().unwrap_or_default();
                    self.lets_sanitizer_start = Some(neighbours::lets_sanitizer_start(value));
                }
            }
        }
        Some(())
    }

    /// Whether an assignment is one of AddressSanitizer's options.
    fn note_sanitizer_options(&mut self, assignment: &[u8]) {
        let value = assignment.strip_prefix(neighbours::SANITIZER_VARIABLE.as_bytes());
        if let Some(value) = value.and_then(|value| value.strip_prefix(b"=")) {
            self.lets_sanitizer_start = Some(neighbours::lets_sanitizer_start(value));
        }
    }

    /// Takes the assignments in front of a command.
    fn assign(&mut self) -> Option<()> {
        let assignments = self.command.iter().take_while(|word| word.as_bytes().contains(&b'=')).count();
        let command = self.command.split_off(assignments);
        for word in std::mem::replace(&mut self.command, command) {
            let equals = word.as_bytes().iter().position(|byte| *byte == b'=')?;
            match word.as_bytes().split_at_checked(equals)? {
                (b"PATH", value) => self.path = Some(OsStr::from_bytes(value.get(1..)?).to_owned()),
                (b"LD_PRELOAD", _) => self.cleared = Some(OTHER_VALUE),
                _ => self.note_sanitizer_options(word.as_bytes()),
            }
        }
        Some(())
    }

    /// None if the program cannot be told from here.
    fn call(mut self) -> Option<Call> {
        // In another root chroot(1) and unshare(1) start a shell if nothing is named.
        if self.root.is_some() && self.command.is_empty() && !self.starts_nothing {
            self.command.push(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
        }
        let program = self.command.first().filter(|_| !self.starts_nothing).map(|word| word.as_bytes());
        let Some(program) = program else { return Some(Call::Nothing) };
        let is_relative = program.contains(&b'/') && !program.starts_with(b"/");
        (!(self.is_elsewhere && is_relative)).then_some(Call::Starts(self))
    }
}

/// Options by their names, each with its value if it has one.
type Options = Vec<(String, Option<OsString>)>;

/// The arguments as getopt(3) goes through them.
struct Arguments<'a> {
    /// The last one first.
    rest: Vec<OsString>,
    short: &'a str,
    long: &'a [&'a str],
}

impl Arguments<'_> {
    /// The options of the next word, which are none where they end; None at one that is not known.
    fn next_options(&mut self) -> Option<Options> {
        let Some(word) = self.rest.pop() else { return Some(Vec::new()) };
        let bytes = word.as_bytes();
        if let Some(long) = bytes.strip_prefix(b"--") {
            if long.is_empty() {
                return Some(Vec::new());
            }
            let mut parts = long.splitn(2, |byte| *byte == b'=');
            let name = std::str::from_utf8(parts.next()?).ok()?.to_owned();
            let attached = parts.next().map(|value| OsStr::from_bytes(value).to_owned());
            let takes = |behind: &str| self.long.iter().any(|known| known.strip_suffix(behind) == Some(&*name));
            let value = match attached {
                Some(value) if takes("=") || takes("=?") || self.long.contains(&"*") => Some(value),
                None if takes("=") => Some(self.rest.pop()?),
                None if by_its_name(&name) == StartsNothing => None,
                None if takes("") || takes("=?") || self.long.contains(&"*") => None,
                _ => return None,
            };
            return Some(vec![(name, value)]);
        }
        if bytes.len() < 2 || !bytes.starts_with(b"-") {
            self.rest.push(word);
            return Some(Vec::new());
        }
        let mut found = Vec::new();
        for at in 1..bytes.len() {
            let letter = char::from(*bytes.get(at)?);
            let behind = self.short.split_once(letter).filter(|_| letter != ':')?.1;
            let attached =
                || bytes.get(at + 1..).filter(|value| !value.is_empty()).map(|v| OsStr::from_bytes(v).to_owned());
            let (takes, may_take) = (behind.starts_with(':') && !behind.starts_with("::"), behind.starts_with("::"));
            if takes {
                let value = attached().or_else(|| self.rest.pop())?;
                found.push((letter.to_string(), Some(value)));
                break;
            }
            found.push((letter.to_string(), if may_take { attached() } else { None }));
            if may_take {
                break;
            }
        }
        Some(found)
    }

    /// Hands each option with its value to who knows what it means, to the end of the options.
    fn each(&mut self, mut take: impl FnMut(&mut Self, &str, Option<OsString>) -> Option<()>) -> Option<()> {
        loop {
            let options = self.next_options()?;
            if options.is_empty() {
                return Some(());
            }
            for (name, value) in options {
                take(self, &name, value)?;
            }
        }
    }
}

impl Wrapper {
    /// None where it does something that is not followed here.
    fn read(&self, arguments: &[OsString]) -> Option<Call> {
        let mut arguments = Arguments { rest: reversed(arguments), short: self.short, long: self.long };
        let mut start = Start::default();
        start.apply(self.always, None)?;
        let mut is_text = self.rest == Rest::Text;
        arguments.each(|_, name, value| {
            let known = self.effects.iter().find(|(option, _)| *option == name);
            let effect = known.map_or(by_its_name(name), |(_, effect)| *effect);
            is_text &= effect != Exec;
            start.apply(effect, value)
        })?;
        let mut words = arguments.rest;
        for operand in self.operands {
            let Some(word) = words.pop() else { return Some(Call::Nothing) };
            start.apply(*operand, Some(word))?;
        }
        words.reverse();
        if words.first().is_some_and(|word| word == "--") {
            words.remove(0);
        }
        if self.rest == Rest::WordsOrText && words.first().is_some_and(|word| word == "-c" || word == "--command") {
            words.remove(0);
            is_text = true;
        }
        start.command = if is_text && !words.is_empty() { shell(words.join(OsStr::new(" "))) } else { words };
        start.call()
    }
}

/// What an option does that has the same name everywhere.
fn by_its_name(option: &str) -> Effect {
    if matches!(option, "help" | "version") { StartsNothing } else { Nothing }
}

fn reversed(words: &[OsString]) -> Vec<OsString> {
    words.iter().rev().cloned().collect()
}

fn shell(text: OsString) -> Vec<OsString> {
    vec!["/bin/sh".into(), "-c".into(), text]
}

/// env(1).
fn env(arguments: &[OsString]) -> Option<Call> {
    const LONG: &[&str] = &[
        "ignore-environment",
        "unset=",
        "chdir=",
        "split-string=",
        "debug",
        "block-signal=?",
        "default-signal=?",
        "ignore-signal=?",
        // Only where there is no program.
        "null",
    ];
    let mut arguments = Arguments { rest: reversed(arguments), short: "i0u:C:vS:", long: LONG };
    let mut start = Start::default();
    let mut take = |arguments: &mut Arguments<'_>, name: &str, value: Option<OsString>| {
        match (name, value) {
            ("i" | "ignore-environment", _) => start.apply(EmptiesEnvironment, None)?,
            ("u" | "unset", Some(name)) if name == "LD_PRELOAD" => start.cleared = Some("unsets LD_PRELOAD"),
            ("u" | "unset", Some(name)) if name == neighbours::SANITIZER_VARIABLE => {
                start.lets_sanitizer_start = Some(false);
            }
            ("C" | "chdir", _) => start.apply(Folder, None)?,
            ("S" | "split-string", value) => arguments.rest.extend(split(value?.as_bytes())?.into_iter().rev()),
            ("0" | "null", _) => start.apply(StartsNothing, None)?,
            _ => start.apply(by_its_name(name), None)?,
        }
        Some(())
    };
    arguments.each(&mut take)?;
    while arguments.rest.last().is_some_and(|word| word == "-") {
        arguments.rest.pop();
        take(&mut arguments, "i", None)?;
    }
    start.command = arguments.rest.into_iter().rev().collect();
    start.assign()?;
    start.call()
}

/// Splits the text of `env -S` at blanks, with quotes; None if it has variables or escapes in it.
fn split(text: &[u8]) -> Option<Vec<OsString>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    for &byte in text {
        match (quote, byte) {
            (_, b'$' | b'\\') => return None,
            (Some(open), _) if byte == open => quote = None,
            (None, b'\'' | b'"') => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (None, b'#') if word.is_none() => break,
            (None, _) if byte.is_ascii_whitespace() => words.extend(word.take().map(OsString::from_vec)),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word.map(OsString::from_vec));
    quote.is_none().then_some(words)
}

/// systemd-run(1): only with `--scope` it is the one who starts the program.
fn systemd_run(arguments: &[OsString]) -> Option<Call> {
    const LONG: &[&str] = &[
        "scope",
        "user",
        "system",
        "pty",
        "pipe",
        "wait",
        "quiet",
        "collect",
        "no-block",
        "no-ask-password",
        "same-dir",
        "shell",
        "remain-after-exit",
        "send-sighup",
        "slice-inherit",
        "unit=",
        "property=",
        "description=",
        "slice=",
        "service-type=",
        "uid=",
        "gid=",
        "nice=",
        "working-directory=",
        "setenv=",
        "host=",
        "machine=",
    ];
    let mut arguments = Arguments { rest: reversed(arguments), short: "dGPqrStu:p:E:H:M:", long: LONG };
    let mut start = Start::default();
    let mut is_scope = false;
    arguments.each(|_, name, value| {
        match name {
            "scope" => is_scope = true,
            "uid" => start.apply(User, value)?,
            "d" | "same-dir" | "working-directory" => start.apply(Folder, None)?,
            "E" | "setenv" if value.as_ref().is_some_and(|value| value.as_bytes().starts_with(b"LD_PRELOAD")) => {
                return None;
            }
            "E" | "setenv" => start.note_sanitizer_options(value?.as_bytes()),
            _ => {}
        }
        Some(())
    })?;
    if !is_scope {
        let instead = "put sockopt run after it: systemd-run ... sockopt run ... -- PROGRAM";
        return Some(Call::WithoutLibrary(SYSTEMD, instead, false));
    }
    start.command = arguments.rest.into_iter().rev().collect();
    start.call()
}

/// gdb(1): the program that it is to run is named as another program would be; it may also look at one that runs.
fn gdb(arguments: &[OsString]) -> Option<Call> {
    let at = arguments.iter().position(|word| word == "--args" || word == "-args")?;
    // Its own options may stand behind that as well.
    let command = arguments.get(at + 1..)?;
    let is_plain = command.first().is_none_or(|word| !word.as_bytes().starts_with(b"-"));
    is_plain.then(|| Start { command: command.to_vec(), ..Start::default() }.call()).flatten()
}

/// ip-netns(8), ip-vrf(8): `ip netns exec NAME PROGRAM ...`, with the words cut short as people do.
fn ip(arguments: &[OsString]) -> Option<Call> {
    let mut words = arguments.iter().skip_while(|word| word.as_bytes().starts_with(b"-"));
    let mut is = |least: usize, full: &[&str]| {
        words
            .next()
            .and_then(|word| word.to_str())
            .is_some_and(|word| word.len() >= least && full.iter().any(|full| full.starts_with(word)))
    };
    if !(is(3, &["netns", "vrf"]) && is(1, &["exec"])) {
        // An option with a value, or `-all` in place of a name, may stand in front.
        let may_start = arguments.iter().any(|word| word == "exec");
        return if may_start { None } else { Some(Call::Nothing) };
    }
    let command: Vec<OsString> = words.skip(1).cloned().collect();
    Start { command, ..Start::default() }.call()
}

/// mptcpize(8): `run` starts a program, the other words change systemd's units.
fn mptcpize(arguments: &[OsString]) -> Option<Call> {
    match arguments.split_first() {
        Some((word, rest)) if word == "run" => MPTCPIZE.read(rest),
        Some((word, _)) if word != "enable" && word != "disable" => None,
        _ => Some(Call::Nothing),
    }
}

/// setarch(8): the machine's name comes first, if it is not in the wrapper's own.
fn setarch(name: &str, arguments: &[OsString]) -> Option<Call> {
    let has_machine = name == "setarch" && arguments.first().is_some_and(|word| !word.as_bytes().starts_with(b"-"));
    let options = Wrapper {
        short: "BFILRSTXZ3v",
        long: &[
            "32bit",
            "fdpic-funcptrs",
            "short-inode",
            "addr-compat-layout",
            "addr-no-randomize",
            "whole-seconds",
            "sticky-timeouts",
            "read-implies-exec",
            "mmap-page-zero",
            "3gb",
            "4gb",
            "uname-2.6",
            "verbose",
        ],
        ..PLAIN
    };
    options.read(arguments.get(usize::from(has_machine)..)?)
}

/// What a shell does itself.
const DONE_BY_SHELL: &[&str] = &[
    ".", ":", "[", "alias", "bg", "break", "case", "cd", "command", "continue", "do", "done", "echo", "elif", "else",
    "esac", "eval", "exit", "export", "false", "fc", "fg", "fi", "for", "function", "getopts", "hash", "if", "in",
    "jobs", "kill", "let", "local", "printf", "pwd", "read", "readonly", "return", "set", "shift", "source", "test",
    "then", "time", "times", "trap", "true", "type", "typeset", "ulimit", "umask", "unalias", "unset", "until", "wait",
    "while",
];

/// Whether a shell does what this word says, and starts nothing by that name.
pub(crate) fn is_done_by_shell(word: &str) -> bool {
    DONE_BY_SHELL.contains(&word)
}

/// What a shell is given to do.
pub(crate) enum ShellText<'a> {
    /// Behind `-c`.
    Words(&'a OsStr),
    /// A script.
    File(&'a OsStr),
}

/// The arguments of a shell, without the name of an applet.
fn arguments_of_shell(words: &[OsString]) -> Option<&[OsString]> {
    let (first, arguments) = words.split_first()?;
    let is_box = Path::new(first).file_name().is_some_and(|name| name == "busybox" || name == "toybox");
    if is_box { arguments.get(1..) } else { Some(arguments) }
}

/// What a shell is given to do, if that is in its command line.
pub(crate) fn text_of_shell(words: &[OsString]) -> Option<ShellText<'_>> {
    let mut arguments = arguments_of_shell(words)?.iter();
    let mut is_text = false;
    while let Some(word) = arguments.next() {
        match word.as_bytes() {
            b"--" => {}
            b"--rcfile" | b"--init-file" => drop(arguments.next()),
            [b'-', b'-', ..] => {}
            [b'-' | b'+', letters @ ..] if !letters.is_empty() => {
                is_text |= letters.contains(&b'c');
                // The name of an option follows: `-euo pipefail`.
                if letters.iter().any(|letter| b"oO".contains(letter)) {
                    arguments.next();
                }
            }
            _ if is_text => return Some(ShellText::Words(word)),
            _ => return Some(ShellText::File(word)),
        }
    }
    None
}

/// What a shell starts in the end, if its text is one plain command: `sh -c "exec program argument"`.
pub fn of_shell(words: &[OsString]) -> Option<Vec<OsString>> {
    const OPTIONS: &[u8] = b"ceux";
    let (option, rest) = arguments_of_shell(words)?.split_first()?;
    let letters = option.as_bytes().strip_prefix(b"-")?;
    if !letters.contains(&b'c') || !letters.iter().all(|letter| OPTIONS.contains(letter)) {
        return None;
    }
    let text = rest.first()?.to_str()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " -_./,:%@+=".contains(c);
    let mut command: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    if !text.chars().all(is_plain) {
        return None;
    }
    if command.first() == Some(&"exec") {
        command.remove(0);
    }
    let first = command.first()?;
    let is_own = is_done_by_shell(first) || first.contains('=') || first.starts_with('-');
    (!is_own).then(|| command.into_iter().map(OsString::from).collect())
}
