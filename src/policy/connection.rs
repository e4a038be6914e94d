//! What a socket is about to do, as far as a rule can see it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    pub const ANY: Self = Self { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 };

    /// An endpoint; an IPv4-mapped address becomes the IPv4 address that it stands for.
    #[must_use]
    #[inline]
    pub fn new(ip: IpAddr, port: u16) -> Self {
        const MAPPED: u128 = 0xffff;
        let ip = match ip {
            // As to_canonical does, in fewer steps.
            IpAddr::V6(ip) if ip.to_bits() >> 32 == MAPPED => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() as u32)),
            ip => ip,
        };
        Self { ip, port }
    }

    /// Where a socket bound to `local` comes to that connects here: to the kernel an unspecified address is this machine, by
    /// its own address if the socket has one (net/ipv4/route.c, ip_route_output_key_hash_rcu), else by the loopback's; an
    /// IPv6 one is always the loopback's, of IPv4 if the socket is bound to an IPv4-mapped address (net/ipv6/tcp_ipv6.c,
    /// tcp_v6_connect). UDP is the same.
    #[must_use]
    pub fn as_destination(self, local: IpAddr) -> Self {
        let ip = match (self.ip, local) {
            (IpAddr::V4(to), IpAddr::V4(own)) if to.is_unspecified() && !own.is_unspecified() => own.into(),
            (IpAddr::V6(to), IpAddr::V6(_)) if to.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            (to, _) if to.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            (to, _) => to,
        };
        Self { ip, ..self }
    }

    /// The same for a socket that is not bound.
    #[must_use]
    pub fn as_destination_of_any(self) -> Self {
        self.as_destination(self.ip)
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
    /// bind(2) of a TCP socket to `local`; what follows, connect or listen, is not known yet.
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
    /// bind(2) of a UDP socket to `local`: a UDP server needs no listen(2).
    BindingUdp {
        /// The address asked for.
        local: Endpoint,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line is what Linux 6.18 answered, for TCP and for UDP.
    #[test]
    fn unspecified_destinations() {
        for (local, to, reached) in [
            ("0.0.0.0", "0.0.0.0", "127.0.0.1"),
            ("127.0.0.5", "0.0.0.0", "127.0.0.5"),
            ("10.7.7.7", "0.0.0.0", "10.7.7.7"),
            ("::", "::", "::1"),
            ("fd00::7", "::", "::1"),
            ("::ffff:10.7.7.7", "::", "127.0.0.1"),
            ("::ffff:0.0.0.0", "::", "127.0.0.1"),
            ("::", "::ffff:0.0.0.0", "127.0.0.1"),
            ("::ffff:10.7.7.7", "::ffff:0.0.0.0", "10.7.7.7"),
            ("10.7.7.7", "10.1.2.3", "10.1.2.3"),
            ("fd00::7", "fd00::8", "fd00::8"),
        ] {
            let endpoint = |text: &str| Endpoint::new(text.parse().expect(text), 80);
            let found = endpoint(to).as_destination(endpoint(local).ip());
            assert_eq!(found, endpoint(reached), "{to}, bound to {local}");
        }
    }
}
