//! Writes lines for people: at once or not at all. A line that would have to wait is lost, and so is one that cannot be
//! written without a signal that the program would get.
#![expect(unsafe_code, reason = "system calls about files; every block says what makes it sound")]

use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;

use crate::errno::Errno;
use crate::ffi::{checked, errno};
use crate::filter;
use crate::signal::{Pending, without_signals};

/// Which file is behind a descriptor, fstat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The device that it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// The device that it is, if it is one.
    pub special: u64,
    /// Its type, without permissions.
    pub kind: u32,
}

impl Identity {
    /// That of a descriptor; None where it is not open.
    #[must_use]
    pub fn of(fd: c_int) -> Option<Self> {
        let mut status = MaybeUninit::<libc::stat>::zeroed();
        // Not by libc's function, which is another system call in each libc.
        // SAFETY: fstat(2) fills the structure; all zeros is valid where it does not.
        let (result, status) =
            unsafe { (libc::syscall(libc::SYS_fstat, fd, status.as_mut_ptr()), status.assume_init()) };
        (result == 0).then_some(Self {
            device: status.st_dev,
            inode: status.st_ino,
            special: status.st_rdev,
            kind: status.st_mode & libc::S_IFMT,
        })
    }

    /// Whether it is a terminal, by its number (Documentation/admin-guide/devices.txt).
    fn is_terminal(self) -> bool {
        self.kind == libc::S_IFCHR && matches!(libc::major(self.special as libc::dev_t), 4 | 5 | 136..=143)
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_regular(self) -> bool {
        self.kind == libc::S_IFREG
    }

    /// Whether it is a socket.
    #[must_use]
    pub fn is_socket(self) -> bool {
        self.kind == libc::S_IFSOCK
    }
}

/// Standard error.
pub const STDERR: c_int = 2;

/// Writes a line to descriptor 2, if that is still this file; false where it is lost. No cancellation point, and with all
/// signals blocked: a handler that jumps away would leave the mask as it is here.
#[must_use]
pub fn write_to_stderr(is: Identity, bytes: &[u8]) -> bool {
    without_signals(|is_blocked| {
        if !is_blocked || Identity::of(STDERR) != Some(is) {
            return false;
        }
        let all_of_it = || guarded(bytes, |bytes| write(STDERR, bytes));
        // Few filters allow more than poll and write.
        let is_judged = filter::is_expected();
        let result = match has_room(STDERR) {
            // A line fits into one page, and a pipe that has room has a page.
            Some(true) if is.kind == libc::S_IFIFO && is_judged => all_of_it(),
            Some(true) if is.is_terminal() && is_judged => byte_by_byte(bytes),
            // Room for all of it, but another thread or process may be faster. Pipes know this since Linux 6.5.
            Some(true) if is.kind == libc::S_IFIFO => {
                write_at_once(bytes).or_else(|_| reopened(is, bytes)).or_else(|_| all_of_it())
            }
            // Room for a byte.
            Some(true) if is.is_terminal() => reopened(is, bytes).or_else(|_| byte_by_byte(bytes)),
            Some(true) => all_of_it(),
            Some(false) => Ok(false),
            // A filter refuses to tell.
            None if is.kind == libc::S_IFREG => all_of_it(),
            None if is_judged => Ok(false),
            None => write_at_once(bytes).or_else(|_| reopened(is, bytes)),
        };
        result.unwrap_or(false)
    })
}

/// Appends a line to a file: opened for it and closed again, not followed if a link, created 0600; false where it is
/// lost.
///
/// # Errors
/// Those of open(2).
pub fn append(path: &CStr, bytes: &[u8]) -> Result<bool, Errno> {
    const FLAGS: c_int = libc::O_WRONLY
        | libc::O_APPEND
        | libc::O_CREAT
        | libc::O_NOFOLLOW
        | libc::O_CLOEXEC
        | libc::O_NOCTTY
        | libc::O_NONBLOCK;
    without_signals(|is_blocked| {
        if !is_blocked {
            return Ok(false);
        }
        // SAFETY: openat(2) reads the string up to its NUL; the descriptor is ours alone until it is closed here.
        let fd = checked(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), FLAGS, 0o600) })?;
        let is_written = guarded(bytes, |bytes| write(fd as c_int, bytes)).unwrap_or(false);
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_close, fd) };
        Ok(is_written)
    })
}

/// The call that knows no room for it, or no such thing at all.
struct Unknown;

/// Writes, and takes away the signal that a failure has raised: of a pipe that nobody reads any more, of a limit on
/// files. (A terminal in the background raises none where its signal is blocked.)
fn guarded(bytes: &[u8], write: impl FnOnce(&[u8]) -> libc::c_long) -> Result<bool, Unknown> {
    // A filter may end the process for that question; a write rarely fails where there is room.
    let before = if filter::is_expected() { Pending::default() } else { Pending::now() };
    // One for the process and another for this thread would be two.
    if before.has(libc::SIGXFSZ) {
        return Ok(false);
    }
    let written = write(bytes);
    if written >= 0 {
        return Ok(written as usize == bytes.len());
    }
    match errno() {
        Errno(libc::EPIPE) => before.take_new(libc::SIGPIPE),
        Errno(libc::EFBIG) => before.take_new(libc::SIGXFSZ),
        Errno(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::EPERM) => return Err(Unknown),
        _ => {}
    }
    Ok(false)
}

fn write(fd: c_int, bytes: &[u8]) -> libc::c_long {
    // SAFETY: write(2) reads the slice.
    unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) }
}

/// Writes to descriptor 2 without waiting, whatever flags it has: pwritev2(2).
fn write_at_once(bytes: &[u8]) -> Result<bool, Unknown> {
    /// linux/fs.h.
    const RWF_NOWAIT: c_int = 8;
    /// Where the file stands.
    const NO_OFFSET: libc::c_long = -1;
    guarded(bytes, |bytes| {
        let piece = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: pwritev2(2) reads one structure, and the slice that it names.
        unsafe { libc::syscall(libc::SYS_pwritev2, STDERR, &raw const piece, 1, NO_OFFSET, 0, RWF_NOWAIT) }
    })
}

/// The same by a descriptor of our own for this one line, that has the flag.
fn reopened(is: Identity, bytes: &[u8]) -> Result<bool, Unknown> {
    const FLAGS: c_int = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    let name = c"/proc/thread-self/fd/2";
    // SAFETY: openat(2) reads the string up to its NUL; the descriptor is ours alone until it is closed here.
    let fd = checked(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, name.as_ptr(), FLAGS) });
    let fd = fd.map_err(|_| Unknown)? as c_int;
    // What is found under /proc is the program's to say.
    let result = if Identity::of(fd) == Some(is) { guarded(bytes, |bytes| write(fd, bytes)) } else { Err(Unknown) };
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close, fd) };
    result
}

/// The same in pieces for which there is surely room; others' lines may come in between.
fn byte_by_byte(bytes: &[u8]) -> Result<bool, Unknown> {
    for piece in bytes.chunks(1) {
        let is_written = has_room(STDERR) == Some(true) && guarded(piece, |piece| write(STDERR, piece))?;
        if !is_written {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a line can be written without waiting and without an error, poll(2); None where that is not told.
fn has_room(fd: c_int) -> Option<bool> {
    let mut one = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    #[cfg(target_arch = "x86_64")]
    // SAFETY: poll(2) reads and writes one structure.
    let result = unsafe { libc::syscall(libc::SYS_poll, &raw mut one, 1, 0) };
    #[cfg(not(target_arch = "x86_64"))]
    let result = {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: ppoll(2) reads and writes one structure, and reads a time.
        unsafe { libc::syscall(libc::SYS_ppoll, &raw mut one, 1, &raw const now, 0, 0) }
    };
    (result >= 0).then_some(one.revents == libc::POLLOUT)
}
