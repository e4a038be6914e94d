//! Lines to stderr or to the log file: whole, one write each, without allocation.

use std::ffi::{CString, OsStr};
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use once_cell::race::OnceRef;
use policy::variables::Level;
use socket::ffi;

use crate::fault;

static LEVEL: AtomicU8 = AtomicU8::new(Level::Warn as u8);
static FILE: OnceRef<'static, CString> = OnceRef::new();
static FILE_FAILED: AtomicBool = AtomicBool::new(false);
const STDERR: i32 = 2;

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
    line(Level::Error, "error: ", text);
}
pub(crate) fn warn(text: fmt::Arguments<'_>) {
    line(Level::Warn, "warning: ", text);
}
pub(crate) fn info(text: fmt::Arguments<'_>) {
    line(Level::Info, "info: ", text);
}
pub(crate) fn debug(text: fmt::Arguments<'_>) {
    line(Level::Debug, "debug: ", text);
}

/// A problem of the configuration, which says its severity itself, behind its place.
pub(crate) fn problem(level: Level, text: fmt::Arguments<'_>) {
    line(level, "", text);
}

#[inline]
fn line(level: Level, word: &str, text: fmt::Arguments<'_>) {
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
    let Some(file) = FILE.get() else { return format_line(word, text, to_stderr) };
    let mut outcome = Ok(());
    format_line(word, text, |bytes| outcome = ffi::append(file, bytes));
    if let Err(errno) = outcome {
        if !FILE_FAILED.swap(true, Relaxed) {
            let name = Path::new(OsStr::from_bytes(file.to_bytes())).display();
            let complaint = format_args!("SOCKOPT_LOG_FILE {name}: {errno}; logging to stderr");
            format_line("error: ", complaint, to_stderr);
        }
        format_line(word, text, to_stderr);
    }
}

#[inline(never)]
fn format_line(word: &str, text: fmt::Arguments<'_>, give: impl FnOnce(&[u8])) {
    let mut line = Line { bytes: [0; 1024], length: 0 };
    let _ = write!(line, "sockopt[{}]: {word}", ffi::process_id());
    let _ = line.write_fmt(text);
    give(line.finish());
}

/// A descriptor 2 that is a socket belongs to the program (inetd), not to its terminal.
fn to_stderr(bytes: &[u8]) {
    if !ffi::is_socket(STDERR) {
        ffi::write(STDERR, bytes);
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

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - 1 - self.length;
        let taken = text.as_bytes().get(..text.len().min(room)).unwrap_or_default();
        if let Some(free) = self.bytes.get_mut(self.length..self.length + taken.len()) {
            free.copy_from_slice(taken);
            // One line stays one line, whatever a rule or a file is called.
            free.iter_mut().filter(|byte| byte.is_ascii_control()).for_each(|byte| *byte = b' ');
            self.length += taken.len();
        }
        Ok(())
    }
}
