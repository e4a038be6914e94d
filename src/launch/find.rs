//! Which file a word names, as execvp(3) finds it, and how the start of that file tells execve(2) what to do with it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use crate::wrapper;

/// Exit code, as env(1) has it: the program was found and cannot be started.
pub const CANNOT_START: u8 = 126;
/// Exit code, as env(1) has it: there is no such program.
pub const NOT_FOUND: u8 = 127;

/// Why nothing can be started, with the exit code of env(1).
#[derive(Debug)]
pub struct Failure {
    /// The exit code that a start would have.
    pub code: u8,
    /// Why.
    pub why: String,
    /// What would help.
    pub help: Option<String>,
}

/// As much of a file as the kernel looks at, BINPRM_BUF_SIZE.
const HEAD: usize = 256;

/// What the start of a file makes of it.
pub(crate) enum Head {
    Elf,
    /// Its interpreter, and the one argument that it may have.
    Script(OsString, Option<OsString>),
    /// Text without `#!`: execvp(3) has it run by sh.
    Text,
    Other,
    Unreadable,
}

pub(crate) fn head(file: &Path) -> Head {
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
pub fn find(program: &OsStr, path: &OsStr) -> Result<PathBuf, Failure> {
    let cannot = |code, why: &str| Failure { code, why: format!("{}: {why}", program.display()), help: None };
    let denied = || cannot(CANNOT_START, "Permission denied");
    let check = |file: &Path| match (file.metadata(), accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS)) {
        // Another answer may be a container's, whose seccomp filter does not know the call.
        (Ok(found), access) if found.is_file() && access != Err(Errno::ACCESS) => Ok(()),
        (Err(error), _) => Err(error.kind()),
        _ => Err(ErrorKind::PermissionDenied),
    };
    if program.as_bytes().contains(&b'/') {
        return match check(Path::new(program)) {
            Ok(()) => Ok(program.into()),
            Err(ErrorKind::NotFound) => Err(cannot(NOT_FOUND, "no such program")),
            Err(ErrorKind::NotADirectory) => Err(cannot(CANNOT_START, "Not a directory")),
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
    Err(if was_denied { denied() } else { cannot(NOT_FOUND, "no such program") })
}

pub(crate) fn path_of_environment() -> OsString {
    env::var_os("PATH").unwrap_or_else(|| wrapper::DEFAULT_PATH.into())
}

/// The kernel takes what stands behind `#!` as a path, from the current directory.
pub(crate) fn interpreter_at(script: &Path, interpreter: &OsStr) -> Result<PathBuf, Failure> {
    let path =
        if interpreter.as_bytes().contains(&b'/') { interpreter.into() } else { Path::new(".").join(interpreter) };
    find(path.as_os_str(), OsStr::new("")).map_err(|failure| Failure {
        why: match failure.code {
            NOT_FOUND => {
                format!("{}: its interpreter {} does not exist", script.display(), interpreter.display())
            }
            _ => format!("{}: its interpreter {} may not be executed", script.display(), interpreter.display()),
        },
        help: interpreter.as_bytes().ends_with(b"\r").then(|| {
            "its lines end with carriage return and line feed, as on Windows: remove the carriage returns".into()
        }),
        ..failure
    })
}
