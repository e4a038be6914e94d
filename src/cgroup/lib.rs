//! Sets socket options in all programs of a control group, by programs in the kernel (eBPF): docs/design-kernel.md.

pub mod account;
pub mod assembler;
pub mod attach;
mod btf;
#[cfg(test)]
mod checks;
pub mod compile;
pub mod counted;
pub mod counters;
pub mod dns;
pub mod ended;
mod executable;
mod fill;
pub mod group;
mod hosts;
mod layout;
mod learned;
mod limit;
mod lookup;
mod maker;
mod maps;
mod names;
mod others;
mod pins;
mod place;
pub mod probe;
pub mod programs;
pub mod refusal;
pub mod remembered;
mod rows;
mod search;
pub mod settable;
pub mod status;
mod sys;
pub mod tables;

pub use attach::{Attached, attach, detach, note_adopted};
pub use compile::{Lost, Tables};
pub use counted::{Count, Counted, Side};
pub use counters::Counts;
pub use group::Group;
pub use pins::FILE_SYSTEM;
pub use probe::{clear_away, probe, probe_anywhere};
pub use refusal::Refusal;
pub use remembered::Remembered;
pub use settable::{HostNames, Refused};
pub use status::{About, Attachment, status};
