//! Socket addresses as bytes: `struct sockaddr_in`, `struct sockaddr_in6` (ip(7), ipv6(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::{Bypass, Endpoint};

/// The longest address that is looked at, `sizeof(struct sockaddr_in6)`.
pub const LONGEST: usize = 28;
/// The shortest length that the kernel takes for AF_INET6: without the scope id (SIN6_LEN_RFC2133).
const SHORTEST_V6: usize = 24;
/// `sizeof(struct sockaddr_in)`.
const SHORTEST_V4: usize = 16;

/// What a socket address says, read once.
#[derive(Debug, Clone, Copy)]
pub struct Address(Result<Endpoint, Bypass>);

impl Address {
    /// Of the bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self::of(bytes, bytes.len())
    }

    /// The same where they are for bind(2).
    #[must_use]
    pub fn to_bind(bytes: &[u8]) -> Self {
        Self::of_to_bind(bytes, bytes.len())
    }

    /// No family and no address are 0.0.0.0 to bind(2), and not to connect(2) (net/ipv4/af_inet.c, __inet_bind).
    pub(crate) fn of_to_bind(beginning: &[u8], length: usize) -> Self {
        match *beginning {
            [0, 0, high, low, 0, 0, 0, 0, ..] if length >= SHORTEST_V4 => {
                Self(Ok(Endpoint::new(Ipv4Addr::UNSPECIFIED.into(), u16::from_be_bytes([high, low]))))
            }
            _ => Self::of(beginning, length),
        }
    }

    /// Of the beginning of an address that is so long; what follows says nothing about where it is.
    #[must_use]
    #[inline(always)] // the beginning has a length that is known
    pub(crate) fn of(beginning: &[u8], length: usize) -> Self {
        let family = beginning.first_chunk().map(|family| i32::from(u16::from_ne_bytes(*family)));
        Self(match (family, beginning) {
            (None, _) => Err(Bypass::BadAddress),
            (Some(libc::AF_INET), &[_, _, high, low, a, b, c, d, ..]) if length >= SHORTEST_V4 => {
                Ok(Endpoint::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), u16::from_be_bytes([high, low])))
            }
            (Some(libc::AF_INET6), [_, _, high, low, _, _, _, _, rest @ ..]) if length >= SHORTEST_V6 => {
                let at = |octets: &[u8; 16]| {
                    Endpoint::new(IpAddr::V6(Ipv6Addr::from(*octets)), u16::from_be_bytes([*high, *low]))
                };
                rest.first_chunk().map(at).ok_or(Bypass::BadAddress)
            }
            (Some(libc::AF_INET | libc::AF_INET6), _) => Err(Bypass::BadAddress),
            _ => Err(Bypass::NotInternet),
        })
    }

    /// Whether it is of a family that this is not about.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.0 == Err(Bypass::NotInternet)
    }

    /// The address and port.
    ///
    /// # Errors
    /// [`Bypass::NotInternet`] for another family, [`Bypass::BadAddress`] for fewer bytes than the family needs.
    pub fn endpoint(&self) -> Result<Endpoint, Bypass> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inet6(octets: [u8; 16], port: u16, length: usize) -> Address {
        let mut bytes = [0xff; 40];
        bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[8..24].copy_from_slice(&octets);
        Address::new(&bytes[..length])
    }

    #[test]
    fn families_and_lengths() {
        let mut v4 = [0xff; 20];
        v4[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        v4[2..8].copy_from_slice(&[1, 187, 10, 1, 2, 3]);
        assert_eq!(Address::new(&v4[..16]).endpoint().map(|e| e.to_string()), Ok("10.1.2.3:443".into()));
        assert_eq!(Address::new(&v4).endpoint().map(|e| e.to_string()), Ok("10.1.2.3:443".into()), "junk after it");
        assert_eq!(Address::new(&v4[..15]).endpoint(), Err(Bypass::BadAddress));
        assert_eq!(Address::new(&[]).endpoint(), Err(Bypass::BadAddress));
        assert_eq!(Address::new(&[libc::AF_UNIX as u8, 0, b'/']).endpoint(), Err(Bypass::NotInternet));
        assert_eq!(Address::new(&[0, 0]).endpoint(), Err(Bypass::NotInternet), "AF_UNSPEC disconnects");
        let any = [&[0, 0, 1, 187][..], &[0; 12]].concat();
        assert_eq!(Address::to_bind(&any).endpoint().map(|e| e.to_string()), Ok("0.0.0.0:443".into()));
        assert_eq!(Address::new(&any).endpoint(), Err(Bypass::NotInternet));
        assert_eq!(Address::to_bind(&any[..15]).endpoint(), Err(Bypass::NotInternet));
        let mapped = Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped().octets();
        for length in [24, 28, 40] {
            assert_eq!(inet6(mapped, 80, length).endpoint().map(|e| e.to_string()), Ok("10.1.2.3:80".into()));
        }
        assert_eq!(inet6(mapped, 80, 23).endpoint(), Err(Bypass::BadAddress));
        let v6 = "2001:db8::1".parse::<Ipv6Addr>().expect("an address").octets();
        assert_eq!(inet6(v6, 80, 28).endpoint().map(|e| e.to_string()), Ok("[2001:db8::1]:80".into()));
    }
}
