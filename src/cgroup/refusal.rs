//! Why something is not done.

use std::fmt;
use std::path::PathBuf;

use socket::Errno;

use crate::tables::TooLarge;

/// Somebody else's program on a control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Its number.
    pub id: u32,
    /// Its name, which may be empty.
    pub name: String,
    /// The control group that it is attached to.
    pub group: PathBuf,
    /// What it is attached as: `connect4`.
    pub place: &'static str,
    /// Where it is pinned, if it is.
    pub pin: Option<PathBuf>,
    /// Whether it allows no program beside it at all; else ours would replace it.
    pub is_exclusive: bool,
}

/// Why nothing was attached, or detached.
#[derive(Debug)]
pub enum Refusal {
    /// The control group.
    Target(String),
    /// Somebody else's program is there.
    Other(Other),
    /// The policy does not fit.
    TooLarge(TooLarge),
    /// Nothing is attached there.
    NothingAttached(PathBuf),
    /// A step that the kernel refuses.
    Kernel {
        /// What could not be done.
        step: String,
        /// What the kernel said.
        errno: Errno,
        /// What its verifier said, which may be nothing.
        log: String,
    },
}

impl Refusal {
    pub(crate) fn kernel(step: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let step = step.into();
        |errno| Self::Kernel { step, errno, log: String::new() }
    }

    pub(crate) fn file(step: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let step = step.into();
        |why| Self::Kernel { step, errno: Errno(why.raw_os_error().unwrap_or(libc::EIO)), log: String::new() }
    }
}

impl From<TooLarge> for Refusal {
    fn from(what: TooLarge) -> Self {
        Self::TooLarge(what)
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "without a name" } else { self.name.as_str() };
        write!(f, "program {} ({name}) is attached to {} ({})", self.id, self.group.display(), self.place)?;
        if let Some(pin) = &self.pin {
            write!(f, ", pinned at {}", pin.display())?;
        }
        f.write_str(if self.is_exclusive {
            "; it allows no other program beside it"
        } else {
            "; it would no longer run in this control group if another one were attached"
        })
    }
}

/// Lines of a verifier's log.
const SHOWN: usize = 12;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(why) => f.write_str(why),
            Self::Other(other) => other.fmt(f),
            Self::TooLarge(what) => what.fmt(f),
            Self::NothingAttached(path) => write!(f, "nothing is attached to {}", path.display()),
            Self::Kernel { step, errno, log } => {
                write!(f, "{step}: {errno}")?;
                match errno.0 {
                    libc::EPERM | libc::EACCES => f.write_str(
                        " (root is needed: CAP_BPF and CAP_NET_ADMIN, and CAP_SYS_ADMIN to mount a file system)",
                    )?,
                    libc::ENOSYS => f.write_str(" (this kernel has no eBPF)")?,
                    _ => {}
                }
                // What the kernel's verifier stumbled over stands at the end.
                let lines: Vec<&str> = log.lines().collect();
                lines.iter().skip(lines.len().saturating_sub(SHOWN)).try_for_each(|line| write!(f, "\n{line}"))
            }
        }
    }
}
