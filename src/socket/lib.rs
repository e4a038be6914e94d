//! Sets and reads socket options on a descriptor; addresses as the kernel has them.
//!
//! Knows nothing about preloading: the library uses it from inside a program, the command from outside. Nothing
//! here allocates, locks or is a cancellation point, since hooks call it, but for [`process`], [`namespace`] and
//! [`current`], which only the command uses, and what says so.

pub mod address;
pub mod connecting;
pub mod current;
pub mod describe;
pub mod enact;
pub mod errno;
pub mod ffi;
pub mod fill;
pub mod filter;
pub mod line;
pub mod memory;
pub mod namespace;
pub mod opening;
pub mod ports;
pub mod process;
pub mod setting;
pub mod signal;
pub mod standing;

pub use address::Address;
pub use describe::Kind;
pub use errno::Errno;
