//! What kind of socket a descriptor is, asked of the kernel: SOL_SOCKET options succeed on every kind.

use crate::errno::Errno;
use crate::ffi;

/// The kinds that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// Multipath TCP, which has no user timeout.
    Mptcp,
    /// UDP.
    Udp,
    /// Anything else: UNIX, raw, netlink, SCTP, ...
    Other,
}

/// The kind of socket (SO_PROTOCOL and SO_TYPE, socket(7)).
///
/// # Errors
/// EBADF, ENOTSOCK.
pub fn kind(fd: i32) -> Result<Kind, Errno> {
    let protocol = ffi::get_int(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    let expected = match protocol {
        libc::IPPROTO_TCP | libc::IPPROTO_MPTCP => libc::SOCK_STREAM,
        libc::IPPROTO_UDP => libc::SOCK_DGRAM,
        _ => return Ok(Kind::Other),
    };
    // A raw socket has the protocol that it sniffs.
    if ffi::get_int(fd, libc::SOL_SOCKET, libc::SO_TYPE)? != expected {
        return Ok(Kind::Other);
    }
    Ok(match protocol {
        libc::IPPROTO_TCP => Kind::Tcp,
        libc::IPPROTO_MPTCP => Kind::Mptcp,
        _ => Kind::Udp,
    })
}

/// Whether a socket that was accepted from an Internet address is TCP, Multipath or not: the protocol alone tells, since
/// none of those that accept shares it.
#[must_use]
pub fn is_accepted_tcp(fd: i32) -> bool {
    let protocol = ffi::get_int(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL);
    matches!(protocol, Ok(libc::IPPROTO_TCP | libc::IPPROTO_MPTCP))
}
