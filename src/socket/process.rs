//! The sockets of another process: copies of its descriptors, by pidfd_getfd(2).
//!
//! For the command: unlike the rest of this crate it reads files and allocates. Nothing is done to the process: it is
//! not stopped, not traced, and its descriptors stay as they are. A copy is held for as short as can be, since the
//! connection ends only when the last descriptor of it is closed.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::errno::Errno;
use crate::ffi::{self, Task};

/// Why a process cannot be looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It does not exist, or not any more.
    NoSuchProcess,
    /// It belongs to somebody else, or to nobody (ptrace(2), "Ptrace access mode checking").
    NotPermitted,
    /// The kernel has no pidfd_open (5.3) or no pidfd_getfd (5.6), or a seccomp filter says so.
    NoSystemCall,
    /// Anything else, such as EMFILE.
    Other(Errno),
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        match errno.0 {
            libc::ESRCH | libc::ENOENT => Self::NoSuchProcess,
            libc::EPERM | libc::EACCES => Self::NotPermitted,
            libc::ENOSYS => Self::NoSystemCall,
            _ => Self::Other(errno),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Errno(error.raw_os_error().unwrap_or(libc::EIO)).into()
    }
}

/// A process, held so that its number cannot become another's.
#[derive(Debug)]
pub struct Target {
    pid: i32,
    process: OwnedFd,
}

/// A socket of a process, by the descriptors that it is open under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The thread in whose table they are, where that is not the process's.
    pub thread: Option<i32>,
    /// Their numbers, of which there is at least one.
    pub fds: Vec<i32>,
    /// The socket's inode, which is its own as long as it is open.
    pub inode: u64,
}

/// What there is in a process.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// Each socket once, in the order of descriptors.
    pub sockets: Vec<Descriptor>,
    /// Threads with a table of their own that this kernel does not let others copy from (before 6.9).
    pub out_of_reach: Vec<i32>,
}

impl Target {
    /// Takes hold of a process.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn open(pid: i32) -> Result<Self, Refused> {
        ffi::pidfd_open(pid, Task::Process).map(|process| Self { pid, process }).map_err(|errno| match errno {
            // A number of no process, or that of a thread.
            Errno(libc::EINVAL) => Refused::NoSuchProcess,
            other => other.into(),
        })
    }

    /// Every socket, of whatever family.
    ///
    /// # Errors
    /// Why the process cannot be looked into.
    pub fn sockets(&self) -> Result<Descriptors, Refused> {
        let mut found = Descriptors::default();
        let main = list(&format!("/proc/{}/fd", self.pid), None)?;
        // The list alone does not say that they can be copied.
        if let Some(first) = main.first() {
            match self.copy(first) {
                Ok(_) | Err(Errno(libc::EBADF)) => {}
                Err(refused) => return Err(refused.into()),
            }
        }
        let mut known: HashSet<u64> = main.iter().map(|socket| socket.inode).collect();
        found.sockets = main;
        let mut tables = vec![self.pid];
        for thread in threads(self.pid)? {
            // Where kcmp(2) is refused, what is found twice is the same all the same.
            if tables.iter().any(|&table| ffi::share_descriptors(table, thread).unwrap_or(false)) {
                continue;
            }
            tables.push(thread);
            // One that has ended meanwhile has none.
            let own = list(&format!("/proc/{}/task/{thread}/fd", self.pid), Some(thread)).unwrap_or_default();
            let own: Vec<Descriptor> = own.into_iter().filter(|own| known.insert(own.inode)).collect();
            if own.is_empty() {
                continue;
            }
            match ffi::pidfd_open(thread, Task::Thread) {
                Err(Errno(libc::EINVAL)) => found.out_of_reach.push(thread),
                _ => found.sockets.extend(own),
            }
        }
        Ok(found)
    }

    /// A copy of a socket; nothing else that has come to the same number since.
    ///
    /// # Errors
    /// EBADF where it is closed, ESRCH where the process has ended, EPERM where the process may not be looked into.
    pub fn copy(&self, descriptor: &Descriptor) -> Result<File, Errno> {
        let thread = descriptor.thread.map(|thread| ffi::pidfd_open(thread, Task::Thread)).transpose()?;
        let task = thread.as_ref().unwrap_or(&self.process).as_fd();
        for &fd in &descriptor.fds {
            let copy = match ffi::pidfd_getfd(task, fd) {
                Err(Errno(libc::EBADF)) => continue,
                copy => File::from(copy?),
            };
            if copy.metadata().is_ok_and(|status| status.ino() == descriptor.inode) {
                return Ok(copy);
            }
        }
        Err(Errno(libc::EBADF))
    }
}

/// The sockets among the descriptors that a folder of proc(5) lists.
fn list(folder: &str, thread: Option<i32>) -> Result<Vec<Descriptor>, Refused> {
    let mut all: Vec<(u64, i32)> = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let link = match fs::read_link(entry.path()) {
            // Anybody of the same user may list them, and no more than that.
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => return Err(Refused::NotPermitted),
            // Closed meanwhile.
            link => link.unwrap_or_default(),
        };
        let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        let fd = entry.file_name().to_str().and_then(|name| name.parse().ok());
        all.extend(inode.zip(fd));
    }
    all.sort_unstable();
    let mut sockets: Vec<Descriptor> = Vec::new();
    for (inode, fd) in all {
        match sockets.last_mut() {
            Some(last) if last.inode == inode => last.fds.push(fd),
            _ => sockets.push(Descriptor { thread, fds: vec![fd], inode }),
        }
    }
    sockets.sort_by_key(|socket| socket.fds.first().copied());
    Ok(sockets)
}

/// The threads of a process but the first.
fn threads(pid: i32) -> Result<Vec<i32>, Refused> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(ids.filter(|id| *id != pid).collect())
}
