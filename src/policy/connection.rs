//! What a socket is about to do, as far as a rule can see it.

use std::fmt;
use std::net::IpAddr;

/// An IP address and a TCP or UDP port.
///
/// IPv4-mapped IPv6 addresses (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2) are held as IPv4: Java connects to
/// them, and a rule for `a.b.c.d` means them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    ip: IpAddr,
    port: u16,
}

impl Endpoint {
    /// Any address and port.
    pub const ANY: Self = Self { ip: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), port: 0 };

    /// An endpoint; an IPv4-mapped address becomes the IPv4 address that it stands for.
    #[must_use]
    pub fn new(ip: IpAddr, port: u16) -> Self {
        Self { ip: ip.to_canonical(), port }
    }

    /// The address, never IPv4-mapped.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The port, in host byte order; 0 where the kernel is yet to choose one.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.port),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

/// The side of a TCP connection, or the step towards one, that a socket is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// connect(2) to `peer`, or a send that connects (MSG_FASTOPEN).
    Outbound {
        /// The destination.
        peer: Endpoint,
    },
    /// bind(2) to `local`; what follows, connect or listen, is not known yet.
    Binding {
        /// The address asked for.
        local: Endpoint,
    },
    /// listen(2) on a socket bound to `local`.
    Listening {
        /// The listener's bound address; unspecified for "any".
        local: Endpoint,
    },
    /// A socket that accept(2) returned.
    Inbound {
        /// The address its listener is bound to.
        local: Endpoint,
        /// The client.
        peer: Endpoint,
    },
}
