//! The kernel's options, by level and number.

use std::ops::Deref;

use crate::constants::{SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP, number};

/// A kernel option by level and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelOption {
    /// setsockopt level.
    pub level: i32,
    /// Option number.
    pub name: i32,
}

/// Some options, in a table without their address (see [`Label`](crate::label::Label)).
#[derive(Debug, Clone, Copy)]
pub struct KernelOptions {
    options: [KernelOption; 4],
    count: usize,
}

impl KernelOptions {
    pub(crate) const fn of(list: &[KernelOption]) -> Self {
        let mut options = [KernelOption { level: 0, name: 0 }; 4];
        let mut at = 0;
        while at < list.len() {
            options[at] = list[at];
            at += 1;
        }
        Self { options, count: list.len() }
    }
}

impl Deref for KernelOptions {
    type Target = [KernelOption];
    fn deref(&self) -> &[KernelOption] {
        self.options.get(..self.count).unwrap_or_default()
    }
}

pub(crate) const fn socket(name: &str) -> KernelOption {
    KernelOption { level: SOL_SOCKET, name: number(name) }
}
pub(crate) const fn tcp(name: &str) -> KernelOption {
    KernelOption { level: SOL_TCP, name: number(name) }
}
pub(crate) const fn ip(name: &str) -> KernelOption {
    KernelOption { level: SOL_IP, name: number(name) }
}
pub(crate) const fn ipv6(name: &str) -> KernelOption {
    KernelOption { level: SOL_IPV6, name: number(name) }
}

/// SO_KEEPALIVE, socket(7).
pub const SO_KEEPALIVE: KernelOption = socket("SO_KEEPALIVE");
/// Unacknowledged data, and connecting, for so many milliseconds, tcp(7).
pub const TCP_USER_TIMEOUT: KernelOption = tcp("TCP_USER_TIMEOUT");
/// TCP_KEEPIDLE, tcp(7), seconds.
pub const TCP_KEEPIDLE: KernelOption = tcp("TCP_KEEPIDLE");
/// TCP_KEEPINTVL, tcp(7), seconds.
pub const TCP_KEEPINTVL: KernelOption = tcp("TCP_KEEPINTVL");
/// TCP_KEEPCNT, tcp(7), probes.
pub const TCP_KEEPCNT: KernelOption = tcp("TCP_KEEPCNT");
/// TCP_FASTOPEN_CONNECT, the client's side.
pub const TCP_FASTOPEN_CONNECT: KernelOption = tcp("TCP_FASTOPEN_CONNECT");
/// TCP_FASTOPEN, the listener's queue length.
pub const TCP_FASTOPEN: KernelOption = tcp("TCP_FASTOPEN");
