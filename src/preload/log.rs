//! Lines to stderr or to the log file: whole, one write each, at once or not at all, without allocation.

use std::ffi::{CString, OsStr};
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};

use once_cell::race::OnceRef;
use policy::plain;
use policy::variables::Level;
use socket::ffi;
use socket::line::{self, Identity};

use crate::fault;

static LEVEL: AtomicU8 = AtomicU8::new(Level::Warn as u8);
static FILE: OnceRef<'static, CString> = OnceRef::new();
static FILE_FAILED: AtomicBool = AtomicBool::new(false);
/// Lines that are lost, and of which nobody knows yet.
static LOST: AtomicUsize = AtomicUsize::new(0);

/// Sets where and how much is logged.
pub(crate) fn configure(level: Level, file: Option<&'static CString>) {
    LEVEL.store(level as u8, Relaxed);
    if let Some(file) = file {
        let _ = FILE.set(file);
    }
}

/// Whether lines of a level are written.
pub(crate) fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Relaxed)
}

pub(crate) fn error(text: fmt::Arguments<'_>) {
    say(Level::Error, "error: ", text);
}
pub(crate) fn warn(text: fmt::Arguments<'_>) {
    say(Level::Warn, "warning: ", text);
}
pub(crate) fn info(text: fmt::Arguments<'_>) {
    say(Level::Info, "info: ", text);
}
pub(crate) fn debug(text: fmt::Arguments<'_>) {
    say(Level::Debug, "debug: ", text);
}

#[inline]
fn say(level: Level, word: &str, text: fmt::Arguments<'_>) {
    if enabled(level) {
        write_line(level, word, text);
    }
}

// Out of line, and one buffer at a time: the stack may be a signal handler's.
#[cold]
#[inline(never)]
fn write_line(level: Level, word: &str, text: fmt::Arguments<'_>) {
    if level == Level::Debug {
        fault::point("log");
    }
    // What there is no room for is lost: no hook waits for whoever reads the log. It is said when there is room again.
    let lost = LOST.swap(0, Relaxed);
    let is_known =
        lost == 0 || put("warning: ", format_args!("{lost} lines before this one are lost: no room for them"));
    if !is_known {
        LOST.fetch_add(lost + 1, Relaxed);
    } else if !put(word, text) {
        LOST.fetch_add(1, Relaxed);
    }
}

/// Writes a line; false where there was no room for it.
fn put(word: &str, text: fmt::Arguments<'_>) -> bool {
    let Some(file) = FILE.get() else { return format_line(word, text, to_stderr) };
    format_line(word, text, |bytes| line::append(file, bytes)).unwrap_or_else(|errno| {
        if !FILE_FAILED.swap(true, Relaxed) {
            let name = Path::new(OsStr::from_bytes(file.to_bytes())).display();
            let complaint = format_args!("SOCKOPT_LOG_FILE {name}: {errno}; logging to stderr");
            format_line("error: ", complaint, to_stderr);
        }
        format_line(word, text, to_stderr)
    })
}

#[inline(never)]
fn format_line<R>(word: &str, text: fmt::Arguments<'_>, give: impl FnOnce(&[u8]) -> R) -> R {
    let mut line = Line { bytes: [0; 1024], length: 0 };
    let _ = write!(line, "sockopt[{}]: {word}", ffi::process_id());
    let _ = line.write_fmt(text);
    give(line.finish())
}

/// The file that was descriptor 2 when the library was loaded.
struct Stderr {
    device: AtomicU64,
    inode: AtomicU64,
    special: AtomicU64,
    /// 0 where there is none to write to.
    kind: AtomicU32,
}

static STDERR: Stderr =
    Stderr { device: AtomicU64::new(0), inode: AtomicU64::new(0), special: AtomicU64::new(0), kind: AtomicU32::new(0) };

/// Looks what descriptor 2 is: nothing else is ever written to, whatever the program has opened by that number since.
/// If it is a socket, it belongs to the program (inetd), not to its terminal.
pub(crate) fn begin() {
    if let Some(identity) = Identity::of(line::STDERR).filter(|identity| !identity.is_socket()) {
        STDERR.device.store(identity.device, Relaxed);
        STDERR.inode.store(identity.inode, Relaxed);
        STDERR.special.store(identity.special, Relaxed);
        STDERR.kind.store(identity.kind, Release);
    }
}

/// Writes to the program's standard error; false where there was no room for it.
fn to_stderr(bytes: &[u8]) -> bool {
    let kind = STDERR.kind.load(Acquire);
    let (device, inode) = (STDERR.device.load(Relaxed), STDERR.inode.load(Relaxed));
    let special = STDERR.special.load(Relaxed);
    kind == 0 || line::write_to_stderr(Identity { device, inode, special, kind }, bytes)
}

/// Lines that wait until they may be written: what set-up has to say, which runs with all signals blocked.
#[derive(Default)]
pub(crate) struct Lines {
    lines: Vec<(Level, &'static str, String)>,
    are_last_words: bool,
}

impl Lines {
    pub(crate) fn error(&mut self, text: fmt::Arguments<'_>) {
        self.add(Level::Error, "error: ", text);
    }
    pub(crate) fn warn(&mut self, text: fmt::Arguments<'_>) {
        self.add(Level::Warn, "warning: ", text);
    }
    pub(crate) fn info(&mut self, text: fmt::Arguments<'_>) {
        self.add(Level::Info, "info: ", text);
    }
    /// A problem of the configuration, which says its severity itself, behind its place.
    pub(crate) fn problem(&mut self, level: Level, text: fmt::Arguments<'_>) {
        self.add(level, "", text);
    }

    fn add(&mut self, level: Level, word: &'static str, text: fmt::Arguments<'_>) {
        if enabled(level) {
            let mut line = String::new();
            let _ = line.write_fmt(text);
            self.lines.push((level, word, line));
        }
    }

    /// Has the process end when they are written, SOCKOPT_STRICT.
    pub(crate) fn end_the_process(&mut self) {
        self.are_last_words = true;
    }
    pub(crate) fn are_last_words(&self) -> bool {
        self.are_last_words
    }

    pub(crate) fn write(&self) {
        self.lines.iter().for_each(|(level, word, text)| write_line(*level, word, format_args!("{text}")));
    }
}

/// A line of bounded length; what does not fit is cut off, the line break never.
struct Line {
    bytes: [u8; 1024],
    length: usize,
}

impl Line {
    fn finish(&mut self) -> &[u8] {
        if let Some(end) = self.bytes.get_mut(self.length) {
            *end = b'\n';
        }
        self.bytes.get(..=self.length).unwrap_or(&self.bytes)
    }
}

/// Where a line takes what may be shown.
struct Raw<'a>(&'a mut Line);

impl fmt::Write for Raw<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Line { bytes, length } = self.0;
        let mut end = text.len().min(bytes.len() - 1 - *length);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let taken = text.as_bytes().get(..end).unwrap_or_default();
        if let Some(free) = bytes.get_mut(*length..*length + taken.len()) {
            free.copy_from_slice(taken);
            *length += taken.len();
        }
        Ok(())
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One line stays one line, whatever a rule or a file is called.
        plain::write(text, &mut Raw(self))
    }
}
