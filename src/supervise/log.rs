//! Lines to the program's standard error or to the log file, in the shape of the library's: whole, at once or not at all.
//!
//! The supervisor holds none of the program's descriptors, or what reads its output would never see the end. For each line it
//! takes a copy of the program's descriptor 2, if that is still the file that it was at the start, and gives it back.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::CString;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use policy::plain;
use policy::variables::Level;
use rustix::fs::{Mode, OFlags};
use rustix::stdio::dup2_stderr;
use socket::ffi::{self, Task};
use socket::line::{self, Identity};

/// What fits in a line of the library's.
const LONGEST: usize = 1023;

/// Where lines go.
pub(crate) struct Log {
    level: Level,
    file: Option<CString>,
    /// The process that `sockopt run` became.
    program: i32,
    /// Its standard error at the start, unless that is a socket, which is the program's own (inetd).
    stderr: Option<Identity>,
    has_failed: Cell<bool>,
    lost: Cell<usize>,
    said: RefCell<HashSet<&'static str>>,
}

impl Log {
    /// As configured; in the process that becomes the program.
    pub(crate) fn new(level: Level, file: Option<CString>) -> Self {
        Self {
            level,
            file,
            program: ffi::process_id(),
            stderr: Identity::of(line::STDERR).filter(|identity| !identity.is_socket()),
            has_failed: Cell::new(false),
            lost: Cell::new(0),
            said: RefCell::default(),
        }
    }

    /// The process that `sockopt run` became.
    pub(crate) fn program(&self) -> i32 {
        self.program
    }

    /// Whether lines of a level are written.
    pub(crate) fn enabled(&self, level: Level) -> bool {
        level as u8 <= self.level as u8
    }

    /// A line about what a thread of some process does.
    pub(crate) fn say(&self, level: Level, thread: i32, text: fmt::Arguments<'_>) {
        if !self.enabled(level) {
            return;
        }
        let process = process_of(thread);
        let word = match level {
            Level::Off => return,
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
        };
        let lost = self.lost.take();
        let is_known = lost == 0
            || self.put(process, "warning", format_args!("{lost} lines before this one are lost: no room for them"));
        if !is_known {
            self.lost.set(lost + 1);
        } else if !self.put(process, word, text) {
            self.lost.set(1);
        }
    }

    /// The same, once for each `what`.
    pub(crate) fn warn_once(&self, what: &'static str, thread: i32, text: fmt::Arguments<'_>) {
        if self.said.borrow_mut().insert(what) {
            self.say(Level::Warn, thread, text);
        }
    }

    fn put(&self, process: i32, word: &str, text: fmt::Arguments<'_>) -> bool {
        let mut raw = String::new();
        let _ = write!(raw, "sockopt[{process}]: {word}: ");
        let _ = raw.write_fmt(text);
        let mut line = String::with_capacity(raw.len() + 1);
        let _ = plain::write(&raw, &mut line);
        let end = (0..=LONGEST.min(line.len())).rev().find(|end| line.is_char_boundary(*end));
        line.truncate(end.unwrap_or(0));
        line.push('\n');
        let Some(file) = &self.file else { return self.to_stderr(process, line.as_bytes()) };
        line::append(file, line.as_bytes()).unwrap_or_else(|errno| {
            if !self.has_failed.replace(true) {
                let name = file.to_string_lossy();
                let complaint =
                    format!("sockopt[{process}]: error: SOCKOPT_LOG_FILE {name}: {errno}; logging to stderr\n");
                self.to_stderr(process, complaint.as_bytes());
            }
            self.to_stderr(process, line.as_bytes())
        })
    }

    /// Nobody is told where no process has it any more: then there is nobody who would read it.
    fn to_stderr(&self, process: i32, bytes: &[u8]) -> bool {
        let Some(is) = self.stderr else { return true };
        if ffi::process_id() == self.program {
            return line::write_to_stderr(is, bytes);
        }
        [process, self.program].into_iter().any(|process| {
            let copy = ffi::pidfd_open(process, Task::Process)
                .and_then(|process| ffi::pidfd_getfd(process.as_fd(), line::STDERR))
                .or_else(|errno| opened_again(process, is).ok_or(errno));
            let Ok(copy) = copy else { return false };
            if dup2_stderr(&copy).is_err() {
                return false;
            }
            drop(copy);
            let is_written = line::write_to_stderr(is, bytes);
            null_stderr();
            is_written
        })
    }
}

/// A process's standard error, opened anew where it cannot be copied, and where that is the same: a pipe or a terminal, which have no
/// place at which the program writes next.
fn opened_again(process: i32, is: Identity) -> Option<OwnedFd> {
    if is.is_regular() {
        return None;
    }
    let path = format!("/proc/{process}/fd/{}", line::STDERR);
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok()
}

pub(crate) fn null() -> std::io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// Gives back the copy of the program's standard error.
fn null_stderr() {
    if let Ok(null) = null() {
        let _ = dup2_stderr(&null);
    }
}

/// The process that a thread belongs to, as far as it can be told.
pub(crate) fn process_of(thread: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|id| id.trim().parse().ok()).unwrap_or(thread)
}
