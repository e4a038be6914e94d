//! What `sockopt attach` can do for a key, by programs in the kernel (eBPF): a column of the catalogue. What is refused, `check`,
//! `explain`, the manual page and the list in docs/design-kernel.md are made from it.

/// What programs in the kernel do for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InKernel {
    /// They set it, from this version of Linux, of those that were tried (5.10, 6.1, 6.12, 6.18).
    Bpf {
        /// The oldest.
        since: &'static str,
    },
    /// Which option it is decides, for each (`raw`).
    ByOption,
    /// The kernel has no way for a program to set its option.
    NoOption,
    /// It is set at bind, where no program of ours is attached.
    AtBind,
}

impl InKernel {
    /// Why programs do not set it, of options with these names, if so.
    #[must_use]
    pub fn why_not(self, options: &str) -> Option<String> {
        match self {
            Self::Bpf { .. } | Self::ByOption => None,
            Self::NoOption => Some(format!("eBPF programs cannot set {options}")),
            Self::AtBind => Some(format!("{options} is set at bind, which is not supported in the kernel yet")),
        }
    }
}

/// The oldest kernel that programs are attached to.
pub const OLDEST: &str = "5.10";
