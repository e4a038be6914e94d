//! `libsockopt.so`: sets socket options from outside, in a program that nobody changes (LD_PRELOAD, ld.so(8)).
//!
//! A hook runs along one straight line: `hooks` → `intercept` (is this of interest? which rule?) → `socket` (set)
//! → `log` → the real function, exactly once. See docs/design.md for what a hook may and may not do.

mod apply;
mod arena;
mod connect;
mod descriptors;
mod elf;
mod fault;
mod guard;
mod hooks;
mod intercept;
mod left;
mod libc_compat;
#[cfg(all(target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod libc_symbols;
mod log;
mod lookup_table;
mod lookups;
mod neighbours;
mod real;
mod rebind;
mod setup;
mod state;
mod unwinding;
