//! How programs have listened on each port: tells which listener a socket was accepted on, and whether it was accepted where the
//! kernel does not (`opening`).
//!
//! Only another listener takes something back: an outbound socket that later gets the same local port by chance may be judged by the
//! rules for inbound ones when the program sets an option on it, while data is in flight. Where two listeners were for the same
//! addresses, it is no more than likely which of them accepted a socket: what the former accepted may still be open.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use policy::Endpoint;

use crate::ffi;

const ANY_V4: u16 = 1;
const ANY_V6: u16 = 1 << 1;
const MULTIPATH: u16 = 1 << 2;
/// Two listeners were for the same addresses.
const OVERLAP: u16 = 1 << 3;
/// On single addresses, each one of six bits.
const SOME_V4: u16 = 0x3f << 4;
const SOME_V6: u16 = 0x3f << 10;

/// The listener that a socket was accepted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// What it is bound to, which rules are matched against.
    pub local: Endpoint,
    /// Whether it cannot have been another one of that port.
    pub is_sure: bool,
}

/// Two bytes for each port; nothing is known where all is zero.
#[repr(transparent)]
#[derive(Debug, zerocopy::FromZeros)]
pub struct Ports([AtomicU16; 65_536]);

impl Ports {
    /// Nothing known.
    #[expect(clippy::new_without_default, reason = "it is larger than a stack of a small thread: for statics")]
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU16::new(0) }; 65_536])
    }

    fn at(&self, local: Endpoint) -> Option<&AtomicU16> {
        self.0.get(usize::from(local.port()))
    }

    /// Remembers a listener that is bound to this address. Of those that cannot listen beside it (bind(2), EADDRINUSE) none is left.
    pub fn remember(&self, listener: i32, local: Endpoint) {
        let Some(port) = self.at(local) else { return };
        let own = bit(local.ip());
        let is_on = |level, name| ffi::get_int(listener, level, name).is_ok_and(|value| value != 0);
        let rivals = match own {
            ANY_V4 => SOME_V4,
            ANY_V6 => SOME_V6 | SOME_V4 | ANY_V4,
            some if some & SOME_V4 != 0 => ANY_V4,
            _ => ANY_V6,
        };
        // Mostly it is the first one on its port, and nothing is asked.
        let rivals = match port.load(Relaxed) & rivals {
            0 => 0,
            found if own == ANY_V6 && is_on(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => found & SOME_V6,
            found => found,
        };
        if rivals == 0 {
            port.fetch_or(own, Relaxed);
            return;
        }
        port.fetch_or(own | OVERLAP, Relaxed);
        // Or this one fails to listen, or another device or network namespace keeps them apart.
        if !is_on(libc::SOL_SOCKET, libc::SO_REUSEPORT) {
            port.fetch_and(!rivals, Relaxed);
        }
    }

    /// Remembers that a listener is one of Multipath TCP.
    pub fn remember_multipath(&self, local: Endpoint) {
        if let Some(port) = self.at(local) {
            port.fetch_or(MULTIPATH, Relaxed);
        }
    }

    /// Whether a listener of Multipath TCP was on the port.
    #[must_use]
    pub fn is_multipath(&self, local: Endpoint) -> bool {
        self.at(local).is_some_and(|port| port.load(Relaxed) & MULTIPATH != 0)
    }

    /// Whether there was a listener on the port.
    #[must_use]
    pub fn is_known(&self, local: Endpoint) -> bool {
        self.at(local).is_some_and(|port| port.load(Relaxed) != 0)
    }

    /// The listener behind an accepted socket: the one on its own address if there is one, as the kernel prefers that. None for a socket
    /// that was not accepted.
    #[must_use]
    pub fn listener_of(&self, accepted: i32, local: Endpoint) -> Option<Listener> {
        let how = self.at(local).map_or(0, |port| port.load(Relaxed));
        let has = |bits: u16| how & bits != 0;
        if how == 0 {
            return None;
        }
        // What a listener of IPv6 accepts is a socket of IPv6, whatever the address of its client. A listener on ::ffff:127.0.0.1 is
        // one too, and stands here as one of IPv4.
        let is_v6 = || ffi::get_int(accepted, libc::SOL_SOCKET, libc::SO_DOMAIN) == Ok(libc::AF_INET6);
        let may_be_mapped = local.ip().is_ipv4() && has(ANY_V6) && has(ANY_V4 | bit(local.ip())) && is_v6();
        let ip = match local.ip() {
            own if has(bit(own)) => own,
            IpAddr::V4(_) if has(ANY_V4) && !may_be_mapped => Ipv4Addr::UNSPECIFIED.into(),
            _ if has(ANY_V6) => Ipv6Addr::UNSPECIFIED.into(),
            own => own,
        };
        let is_sure = !may_be_mapped && !has(OVERLAP);
        Some(Listener { local: Endpoint::new(ip, local.port()), is_sure })
    }
}

/// What stands for an address.
fn bit(ip: IpAddr) -> u16 {
    let one_of_six = |octets: &[u8]| octets.iter().map(|octet| u16::from(*octet)).sum::<u16>() % 6;
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => ANY_V4,
        IpAddr::V6(ip) if ip.is_unspecified() => ANY_V6,
        IpAddr::V4(ip) => 1 << (4 + one_of_six(&ip.octets())),
        IpAddr::V6(ip) => 1 << (10 + one_of_six(&ip.octets())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    fn endpoint(address: SocketAddr) -> Endpoint {
        Endpoint::new(address.ip(), address.port())
    }

    /// What is accepted on this machine's own address, by listeners of that port, one after the other. Seen to fail: where nothing was
    /// taken back, and where the narrowest was not preferred.
    #[test]
    #[cfg_attr(miri, ignore = "opens sockets")]
    fn the_last_of_those_that_exclude_each_other() {
        let ports = Box::new(Ports::new());
        let mut port = 0;
        let mut accepted_by = |address: &str| {
            let ip: IpAddr = address.parse().expect("an address");
            let listener = TcpListener::bind((ip, port)).expect("a port of this machine");
            let local = endpoint(listener.local_addr().expect("it is bound"));
            port = local.port();
            ports.remember(listener.as_raw_fd(), local);
            let _client = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            let (server, _) = listener.accept().expect("a connection waits");
            let own = server.local_addr().expect("it is connected");
            let own = SocketAddr::new(own.ip().to_canonical(), own.port());
            ports
                .listener_of(server.as_raw_fd(), endpoint(own))
                .map(|found| (found.local.ip().to_string(), found.is_sure))
        };
        assert_eq!(accepted_by("0.0.0.0"), Some(("0.0.0.0".to_owned(), true)));
        for address in ["127.0.0.1", "::", "0.0.0.0", "::", "127.0.0.1", "0.0.0.0"] {
            assert_eq!(accepted_by(address), Some((address.to_owned(), false)));
        }
    }

    /// Listeners that share a port. Seen to fail: with all single addresses taken for one.
    #[test]
    fn beside_each_other() {
        let ports = Box::new(Ports::new());
        let at = |ip: &str| Endpoint::new(ip.parse().expect("an address"), 80);
        assert_eq!(ports.listener_of(-1, at("127.0.0.1")), None);
        for ip in ["127.0.0.2", "::1", "127.0.0.3"] {
            ports.remember(-1, at(ip));
        }
        if let Some(port) = ports.at(at("0.0.0.0")) {
            port.fetch_or(ANY_V4, Relaxed);
        }
        for (local, listener) in [("127.0.0.1", "0.0.0.0"), ("127.0.0.2", "127.0.0.2"), ("::1", "::1"), ("::2", "::2")]
        {
            assert_eq!(
                ports.listener_of(-1, at(local)),
                Some(Listener { local: at(listener), is_sure: true }),
                "{local}"
            );
        }
    }
}
