//! How programs have listened on each port: tells which listener a socket was accepted on, and whether it was accepted where the
//! kernel does not (`opening`).
//!
//! Never taken back: an outbound socket that later gets the same local port by chance may be judged by the rules for inbound ones when
//! the program sets an option on it, while data is in flight.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use policy::Endpoint;

const ANY_V4: u8 = 1;
const ANY_V6: u8 = 2;
const ONE_ADDRESS: u8 = 4;
const MULTIPATH: u8 = 8;

/// A byte for each port; nothing is known where all is zero.
#[repr(transparent)]
#[derive(Debug, zerocopy::FromZeros)]
pub struct Ports([AtomicU8; 65_536]);

impl Ports {
    /// Nothing known.
    #[expect(clippy::new_without_default, reason = "it is as large as a stack of a small thread: for statics")]
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU8::new(0) }; 65_536])
    }

    fn at(&self, local: Endpoint) -> Option<&AtomicU8> {
        self.0.get(usize::from(local.port()))
    }

    /// Remembers the address of a listener.
    pub fn remember(&self, local: Endpoint) {
        let how = match local.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => ANY_V4,
            IpAddr::V6(ip) if ip.is_unspecified() => ANY_V6,
            _ => ONE_ADDRESS,
        };
        if let Some(port) = self.at(local) {
            port.fetch_or(how, Relaxed);
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

    /// The addresses to which the listener behind an accepted socket may be bound, which is what `listen` is matched against: the
    /// narrowest first, as the kernel looks for it. None for a socket that was not accepted.
    pub fn listeners_of(&self, local: Endpoint) -> impl Iterator<Item = Endpoint> + Clone + use<> {
        let how = self.at(local).map_or(0, |port| port.load(Relaxed));
        let v4 = Some(Ipv4Addr::UNSPECIFIED).filter(|_| local.ip().is_ipv4() && how & ANY_V4 != 0).map(IpAddr::from);
        // It takes IPv4 too.
        let v6 = Some(Ipv6Addr::UNSPECIFIED).filter(|_| how & ANY_V6 != 0).map(IpAddr::from);
        let is_narrow = how & ONE_ADDRESS != 0 || how != 0 && v4.or(v6).is_none();
        let own = Some(local.ip()).filter(|_| is_narrow);
        [own, v4, v6].into_iter().flatten().map(move |ip| Endpoint::new(ip, local.port()))
    }
}
