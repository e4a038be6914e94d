//! Which file a command line starts in the end, as execvp(3) finds it, `#!` names its interpreter (execve(2)), and
//! env(1) its command; and what becomes of the library in it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use object::ReadCache;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use crate::executable::{self, Image, Libc, Verdict};
use crate::exit;
use crate::library::Library;
use crate::privilege::{Caller, Elevation, Rights, elevation};

/// What a command line comes to.
#[derive(Debug)]
pub(crate) struct Program {
    /// The file that is executed in the end: for a script, its interpreter.
    pub(crate) file: PathBuf,
    /// The arguments that it gets, from the name that it is started by.
    pub(crate) words: Vec<OsString>,
    /// The script that named it, if any.
    pub(crate) script: Option<PathBuf>,
    /// Why it will not see LD_PRELOAD: env(1) takes it away.
    cleared: Option<&'static str>,
    /// What that file is.
    end: End,
}

/// Where the chain of interpreters ends.
#[derive(Debug, Clone)]
enum End {
    Program(Image),
    /// No ELF file: the kernel may know another format (binfmt_misc), or refuse it.
    Foreign,
    /// Nobody may read it.
    Unreadable,
    /// env(1), called in a way that is not followed.
    Env,
}

/// Why nothing can be started, with the exit code of env(1).
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) why: String,
    pub(crate) help: Option<String>,
}

/// Scripts whose interpreter is a script: the kernel follows five (fs/exec.c), env(1) starts anew.
const LONGEST_CHAIN: usize = 16;
/// As much of a file as the kernel looks at, BINPRM_BUF_SIZE.
const HEAD: usize = 256;

/// What the start of a file makes of it.
enum Head {
    Elf,
    /// Its interpreter, and the one argument that it may have.
    Script(OsString, Option<OsString>),
    /// Text without `#!`: execvp(3) has it run by sh.
    Text,
    Other,
    Unreadable,
}

fn head(file: &Path) -> Head {
    let mut start = [0; HEAD];
    let Ok(length) = File::open(file).and_then(|file| file.read_at(&mut start, 0)) else { return Head::Unreadable };
    let start = start.get(..length).unwrap_or_default();
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(line) = start.strip_prefix(b"#!") else {
        return match start {
            _ if start.starts_with(b"\x7fELF") => Head::Elf,
            _ if start.contains(&0) => Head::Other,
            _ => Head::Text,
        };
    };
    let line = line.split(|byte| matches!(byte, b'\n' | 0)).next().unwrap_or_default().trim_ascii_start();
    let end = line.iter().position(is_blank).unwrap_or(line.len());
    let (interpreter, rest) = line.split_at_checked(end).unwrap_or_default();
    let (first, last) = (rest.iter().position(|b| !is_blank(b)), rest.iter().rposition(|b| !is_blank(b)));
    let argument = first.zip(last).and_then(|(first, last)| rest.get(first..=last));
    let own = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    if interpreter.is_empty() { Head::Text } else { Head::Script(own(interpreter), argument.map(own)) }
}

/// Finds a program as execvp(3) does, in folders separated by colons of which an empty one is the current.
pub(crate) fn find(program: &OsStr, path: &OsStr) -> Result<PathBuf, Failure> {
    let cannot = |code, why: &str| Failure { code, why: format!("{}: {why}", program.display()), help: None };
    let denied = || cannot(exit::CANNOT_START, "Permission denied");
    let check = |file: &Path| match (file.metadata(), accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS)) {
        // Another answer may be a container's, whose seccomp filter does not know the call.
        (Ok(found), access) if found.is_file() && access != Err(Errno::ACCESS) => Ok(()),
        (Err(error), _) => Err(error.kind()),
        _ => Err(ErrorKind::PermissionDenied),
    };
    if program.as_bytes().contains(&b'/') {
        return match check(Path::new(program)) {
            Ok(()) => Ok(program.into()),
            Err(ErrorKind::NotFound) => Err(cannot(exit::NOT_FOUND, "no such program")),
            Err(ErrorKind::NotADirectory) => Err(cannot(exit::CANNOT_START, "Not a directory")),
            Err(_) => Err(denied()),
        };
    }
    let mut was_denied = false;
    for folder in env::split_paths(path).filter(|_| !program.is_empty()) {
        let file = if folder.as_os_str().is_empty() { Path::new(".").join(program) } else { folder.join(program) };
        match check(&file) {
            Ok(()) => return Ok(file),
            Err(why) => was_denied |= !matches!(why, ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }
    Err(if was_denied { denied() } else { cannot(exit::NOT_FOUND, "no such program") })
}

/// What execvp(3) takes where there is no PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

fn path_of_environment() -> OsString {
    env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into())
}

/// Follows a command line to the file that is executed in the end.
pub(crate) fn resolve(words: &[OsString]) -> Result<Program, Failure> {
    let mut path = path_of_environment();
    let mut words = words.to_vec();
    let (mut script, mut cleared) = (None, None);
    let mut file = find(words.first().map_or(OsStr::new(""), OsString::as_os_str), &path)?;
    for _ in 0..LONGEST_CHAIN {
        let arguments = words.get(1..).unwrap_or_default().to_vec();
        let (interpreter, argument) = match head(&file) {
            Head::Script(interpreter, argument) => (interpreter, argument),
            // The shell that execvp(3) takes.
            Head::Text => ("/bin/sh".into(), None),
            Head::Elf if is_env(&words) => {
                let Some(call) = Env::read(&arguments) else {
                    return Ok(Program { file, words, script, cleared, end: End::Env });
                };
                let Some(program) = call.command.first() else {
                    return Ok(Program { end: program_at(&file)?, file, words, script, cleared });
                };
                path = match call.path {
                    Some(path) => path,
                    None if call.is_emptied => DEFAULT_PATH.into(),
                    None => path,
                };
                file = find(program, &path)?;
                cleared = cleared.or(call.cleared);
                words = call.command;
                continue;
            }
            Head::Elf => return Ok(Program { end: program_at(&file)?, file, words, script, cleared }),
            Head::Other => return Ok(Program { file, words, script, cleared, end: End::Foreign }),
            Head::Unreadable => return Ok(Program { file, words, script, cleared, end: End::Unreadable }),
        };
        let next = interpreter_at(&file, &interpreter)?;
        words = [Some(interpreter), argument, Some(file.clone().into_os_string())]
            .into_iter()
            .flatten()
            .chain(arguments)
            .collect();
        script.get_or_insert(file);
        file = next;
    }
    Ok(Program { file, words, script, cleared, end: End::Foreign })
}

/// The kernel takes what stands behind `#!` as a path, from the current directory.
fn interpreter_at(script: &Path, interpreter: &OsStr) -> Result<PathBuf, Failure> {
    let path =
        if interpreter.as_bytes().contains(&b'/') { interpreter.into() } else { Path::new(".").join(interpreter) };
    find(path.as_os_str(), OsStr::new("")).map_err(|failure| Failure {
        why: match failure.code {
            exit::NOT_FOUND => {
                format!("{}: its interpreter {} does not exist", script.display(), interpreter.display())
            }
            _ => format!("{}: its interpreter {} may not be executed", script.display(), interpreter.display()),
        },
        help: interpreter
            .as_bytes()
            .ends_with(b"\r")
            .then(|| "its lines end as on Windows: take the carriage returns out".into()),
        ..failure
    })
}

fn program_at(file: &Path) -> Result<End, Failure> {
    let image = File::open(file).ok().and_then(|file| Image::read(&ReadCache::new(file)));
    let Some(image) = image else { return Ok(End::Foreign) };
    if let Some(loader) = image.loader.as_deref().map(|loader| Path::new(OsStr::from_bytes(loader)))
        && !loader.exists()
    {
        return Err(Failure {
            code: exit::NOT_FOUND,
            why: format!("{}: its loader {} does not exist", file.display(), loader.display()),
            help: Some(format!("it is built for {}, and for another system or libc than this", image.architecture)),
        });
    }
    Ok(End::Program(image))
}

fn is_env(words: &[OsString]) -> bool {
    words.first().and_then(|word| Path::new(word).file_name()) == Some(OsStr::new("env"))
}

/// What env(1) makes of its arguments.
#[derive(Debug, Default)]
struct Env {
    command: Vec<OsString>,
    /// PATH, if it sets one.
    path: Option<OsString>,
    is_emptied: bool,
    /// Whether the command is started in another folder.
    is_elsewhere: bool,
    /// How it takes LD_PRELOAD away.
    cleared: Option<&'static str>,
}

impl Env {
    /// None where it does something that is not followed here.
    fn read(arguments: &[OsString]) -> Option<Self> {
        let mut found = Self::default();
        let mut rest: Vec<OsString> = arguments.iter().rev().cloned().collect();
        let unset = |found: &mut Self, name: &[u8]| {
            if name == b"LD_PRELOAD" {
                found.cleared = Some("unsets LD_PRELOAD");
            }
        };
        while let Some(word) = rest.pop() {
            let bytes = word.as_bytes();
            let long = bytes.strip_prefix(b"--").map(|long| {
                let equals = long.iter().position(|byte| *byte == b'=').unwrap_or(long.len());
                (long.get(..equals).unwrap_or_default(), long.get(equals + 1..).map(<[u8]>::to_vec))
            });
            match (bytes, long) {
                (_, Some((b"", None))) => break,
                (b"-", _) | (_, Some((b"ignore-environment", None))) => found.is_emptied = true,
                (_, Some((b"unset", value))) => {
                    unset(&mut found, &value.or_else(|| rest.pop().map(OsString::into_vec))?)
                }
                (_, Some((b"chdir", value))) => {
                    found.is_elsewhere = true;
                    drop(value.or_else(|| rest.pop().map(OsString::into_vec))?);
                }
                (_, Some((b"split-string", value))) => rest.extend(split(&value?)?.into_iter().rev()),
                (_, Some((b"debug" | b"block-signal" | b"default-signal" | b"ignore-signal", _))) => {}
                (_, Some(_)) => return None,
                (short, None) if short.starts_with(b"-") => {
                    for at in 1..short.len() {
                        let value = short.get(at + 1..).filter(|value| !value.is_empty()).map(<[u8]>::to_vec);
                        match short.get(at) {
                            Some(b'i') => found.is_emptied = true,
                            Some(b'v') => {}
                            Some(b'C') => {
                                found.is_elsewhere = true;
                                drop(value.or_else(|| rest.pop().map(OsString::into_vec))?);
                                break;
                            }
                            Some(b'u') => {
                                unset(&mut found, &value.or_else(|| rest.pop().map(OsString::into_vec))?);
                                break;
                            }
                            Some(b'S') => {
                                let value = value.or_else(|| rest.pop().map(OsString::into_vec))?;
                                rest.extend(split(&value)?.into_iter().rev());
                                break;
                            }
                            _ => return None,
                        }
                    }
                }
                _ => {
                    rest.push(word);
                    break;
                }
            }
        }
        if found.is_emptied {
            found.cleared = Some("empties the environment");
        }
        while let Some(word) = rest.pop() {
            let Some(equals) = word.as_bytes().iter().position(|byte| *byte == b'=') else {
                rest.push(word);
                break;
            };
            match word.as_bytes().split_at_checked(equals)? {
                (b"PATH", value) => found.path = Some(OsStr::from_bytes(value.get(1..)?).to_owned()),
                (b"LD_PRELOAD", _) => found.cleared = Some("sets LD_PRELOAD anew"),
                _ => {}
            }
        }
        rest.reverse();
        found.command = rest;
        let is_relative = |word: &OsString| word.as_bytes().contains(&b'/') && !word.as_bytes().starts_with(b"/");
        Some(found).filter(|found| !(found.is_elsewhere && found.command.first().is_some_and(is_relative)))
    }
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

/// Shells make no connections but for others.
fn is_shell(words: &[OsString]) -> bool {
    let name = |index: usize| words.get(index).and_then(|word| Path::new(word).file_name()).map(OsStr::as_bytes);
    let name = if matches!(name(0), Some(b"busybox" | b"toybox")) { name(1) } else { name(0) };
    matches!(name, Some(b"sh" | b"ash" | b"bash" | b"dash" | b"fish" | b"ksh" | b"mksh" | b"yash" | b"zsh"))
}

impl Program {
    /// What becomes of the library in it.
    pub(crate) fn verdict(&self, library: &Library) -> Verdict {
        let file = self.file.display();
        let name = match &self.script {
            Some(script) => format!("{file} (which runs {})", script.display()),
            None => file.to_string(),
        };
        if let Some(how) = self.cleared {
            return Verdict::cannot(
                format!("env {how}: {name} is started without the library"),
                "put sockopt run behind env: env -i ... sockopt run ... -- PROGRAM",
            );
        }
        if let Some(verdict) = self.elevated(&name) {
            return verdict;
        }
        let unknown =
            |what: &str| Verdict::unknown(format!("{name} {what}: whether the library takes effect is not known"));
        let image = match &self.end {
            End::Program(image) => image,
            End::Foreign => return unknown("is neither an ELF file nor a script"),
            End::Unreadable => return unknown("cannot be read"),
            End::Env => return unknown("is called in a way that is not followed here"),
        };
        let calls_sockets = || {
            let Ok(file) = File::open(&self.file) else { return false };
            let cache = ReadCache::new(file);
            let calls = executable::symbols(&cache, false).unwrap_or_default();
            ["connect", "listen", "accept", "accept4"].iter().any(|call| calls.contains(*call))
        };
        let verdict = image.verdict(&name, library.image.architecture, calls_sockets);
        match verdict {
            Some(verdict)
                if is_shell(&self.words) && image.is_static() && image.architecture == library.image.architecture =>
            {
                Verdict::partly(
                    format!("{}; dynamically linked programs that it starts have the library", verdict.why),
                    "if its own connections matter, use a dynamically linked shell",
                )
            }
            Some(verdict) => verdict,
            None => self.beside_libc(&name, image, library),
        }
    }

    fn elevated(&self, name: &str) -> Option<Verdict> {
        let elevation = elevation(Caller::this(), Rights::of(&self.file)?)?;
        let why = match elevation {
            Elevation::User(user) => {
                format!("{name} is setuid: it runs as user {user}, and then the loader ignores LD_PRELOAD")
            }
            Elevation::Group(group) => {
                format!("{name} is setgid: it runs as group {group}, and then the loader ignores LD_PRELOAD")
            }
            Elevation::Capabilities => format!("{name} has file capabilities: with them the loader ignores LD_PRELOAD"),
            Elevation::Caller => {
                format!("the effective user or group is not the real one: the loader of {name} ignores LD_PRELOAD then")
            }
        };
        let instead = match elevation {
            Elevation::User(0) => "become root first: sudo sockopt run ... -- PROGRAM",
            Elevation::User(_) => "become that user first: sudo -u USER sockopt run ... -- PROGRAM",
            Elevation::Group(_) => "take that group first: sg GROUP -c \"sockopt run ... -- PROGRAM\"",
            Elevation::Capabilities => {
                "give it the capabilities as ambient ones in place of the file's: AmbientCapabilities= of systemd, setpriv --ambient-caps"
            }
            Elevation::Caller => "start sockopt as the user that the program is to run as",
        };
        Some(Verdict::cannot(why, instead))
    }

    /// Holds what the library needs against the libc that the program's loader belongs to.
    fn beside_libc(&self, name: &str, image: &Image, library: &Library) -> Verdict {
        let loader = PathBuf::from(OsString::from_vec(image.loader.clone().unwrap_or_default()));
        match image.libc() {
            Some(Libc::Glibc) => library.beside_glibc(name, self.folders(image).as_deref(), &loader),
            Some(Libc::Musl) => library.beside_musl(name, &loader),
            None => Verdict::unknown(format!(
                "{name} has the loader {}, which is neither glibc's nor musl's: whether it takes the library is not known",
                loader.display()
            )),
        }
    }

    /// Folders where the loader looks for libraries before its own; None if that cannot be told.
    fn folders(&self, image: &Image) -> Option<Vec<PathBuf>> {
        let origin = self.file.canonicalize().ok()?.parent()?.display().to_string();
        let named = image.search.as_ref()?.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin);
        let environment = env::var_os("LD_LIBRARY_PATH").unwrap_or_default().into_string().ok()?.replace(';', ":");
        let folders = named.split(':').chain(environment.split(':')).filter(|folder| !folder.is_empty());
        let folders: Vec<PathBuf> = folders.map(PathBuf::from).collect();
        folders.iter().all(|folder| !folder.as_os_str().as_bytes().contains(&b'$')).then_some(folders)
    }
}
