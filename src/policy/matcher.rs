//! Patterns: which endpoints an entry of `to`, `listen` or `from` means, by address or by name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};

use crate::connection::Endpoint;
use crate::name::{LONGEST, Name, international, is_address};
use crate::ports::{FORMS, parse_ports, refused};
use crate::slip::{port_without_brackets, slip};

pub use crate::ports::Refused;

/// An address, a network, a host name or anything, and a range of ports: `10.0.0.0/8:443`, `*.example.com:443`,
/// `[2001:db8::/32]:8000-8099`, `:9092`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    pub(crate) place: Place,
    pub(crate) ports: RangeInclusive<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Any,
    Network(IpNet),
    /// In lower case, without a trailing dot; with `*` and `?` as wildcards.
    Host(Box<str>),
}

impl Pattern {
    /// Every endpoint.
    pub const ANY: Self = Self { place: Place::Any, ports: ANY_PORT };

    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with the text and what would be right.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let text = text.trim();
        if text.is_empty() {
            return refused("an empty address matches nothing".into(), FORMS);
        }
        // No search by text: that prepares tables for texts which are longer than any of these.
        if text.as_bytes().windows(3).any(|three| three == b"://") {
            return refused(format!("\"{text}\" is a URL, not an address"), FORMS);
        }
        if text.contains('%') {
            let help = "leave out the % and what follows it";
            return refused(format!("\"{text}\" has a zone (%), which is not supported"), help);
        }
        // "2001:db8::1" and "2001:db8::/32": an IPv6 address without brackets has no port. None has a single colon.
        let may_be_whole = text.bytes().filter(|byte| *byte == b':').count() != 1;
        if may_be_whole && let Some(network) = network(text).transpose()? {
            if let Some(refused) = port_without_brackets(text) {
                return Err(refused);
            }
            return Ok(Self { place: Place::Network(network), ports: ANY_PORT });
        }
        let (address, ports) = if let Some(inside) = text.strip_prefix('[') {
            let Some((address, rest)) = inside.split_once(']') else {
                return refused(format!("\"{text}\" has no closing bracket"), FORMS);
            };
            match rest {
                "" => (address, None),
                _ if rest.starts_with(':') => (address, rest.get(1..)),
                _ => return refused(format!("\"{rest}\" after the bracket is no port"), FORMS),
            }
        } else {
            match text.rsplit_once(':') {
                Some((address, ports)) => (address, Some(ports)),
                None => (text, None),
            }
        };
        Self::of_parts(text, address, ports)
            .map_err(|refused| slip(|text| Self::parse(text).is_ok(), text, address, ports).unwrap_or(refused))
    }

    /// Reads what is no network without a port.
    fn of_parts(text: &str, address: &str, ports: Option<&str>) -> Result<Self, Refused> {
        let ports = ports.map_or(Ok(ANY_PORT), parse_ports)?;
        if matches!(address, "" | "*") && !text.starts_with('[') {
            return Ok(Self { place: Place::Any, ports });
        }
        let ascii = international(address);
        let address = ascii.as_ref().map_or(address, Name::as_str);
        match network(address).transpose()? {
            Some(network) => Ok(Self { place: Place::Network(network), ports }),
            None if address.parse::<SocketAddr>().is_ok() => {
                refused(format!("\"{text}\" has more than one port"), FORMS)
            }
            None if text.starts_with('[') || address.contains(':') => {
                refused(format!("\"{address}\" is not an IPv6 address or network"), FORMS)
            }
            None if is_host_name(address) => {
                let host = address.strip_suffix('.').unwrap_or(address).to_ascii_lowercase();
                if host.len() > LONGEST {
                    return refused(
                        format!("a host name of {} bytes is too long", host.len()),
                        format!("accepted: at most {LONGEST} bytes"),
                    );
                }
                Ok(Self { place: Place::Host(host.into()), ports })
            }
            None => refused(format!("\"{text}\" is not an address"), FORMS),
        }
    }

    /// The same for what is connected to: an unspecified address is the loopback's to the kernel, and to programs that
    /// connect to it.
    #[must_use]
    pub fn as_destination(mut self) -> Self {
        if let Place::Network(network) = &mut self.place
            && network.prefix_len() == network.max_prefix_len()
        {
            *network = IpNet::from(Endpoint::new(network.addr(), 0).as_destination_of_any().ip());
        }
        self
    }

    /// The same ports of any address.
    #[must_use]
    pub fn anywhere(&self) -> Self {
        Self { place: Place::Any, ports: self.ports.clone() }
    }

    /// Whether the endpoint is meant by its address; a pattern that names a host never means one so.
    #[must_use]
    pub fn matches(&self, endpoint: Endpoint) -> bool {
        self.ports.contains(&endpoint.port())
            && match &self.place {
                Place::Any => true,
                Place::Network(network) => network.contains(&endpoint.ip()),
                Place::Host(_) => false,
            }
    }

    /// The host name, in lower case and without a trailing dot, if it names one.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match &self.place {
            Place::Host(name) => Some(name),
            Place::Any | Place::Network(_) => None,
        }
    }

    /// The address of the network and the length of its prefix, for a single address that of all its bits. None is any address
    /// of either IP version, or a host ([`Self::host`]). An IPv4-mapped network is one of IPv4.
    #[must_use]
    pub fn network(&self) -> Option<(IpAddr, u8)> {
        match &self.place {
            Place::Network(network) => Some((network.network(), network.prefix_len())),
            Place::Any | Place::Host(_) => None,
        }
    }

    /// The ports, 0 to 65535 where none is written.
    #[must_use]
    pub fn ports(&self) -> &RangeInclusive<u16> {
        &self.ports
    }
}

/// Whether a text is a pattern that names a host.
#[must_use]
pub fn names_host(text: &str) -> bool {
    Pattern::parse(text).is_ok_and(|pattern| pattern.host().is_some())
}

/// Whether the rules of a TOML text may name hosts, seen without reading it as TOML: something between quotes behind
/// a `to`, up to the bracket that ends the list, is a host's name. No part of the text is looked at twice.
#[must_use]
pub fn may_name_hosts(toml: &str) -> bool {
    // Escapes are not read here.
    if toml.contains('\\') {
        return true;
    }
    let mut rest = toml;
    while let Some(at) = rest.as_bytes().windows(2).position(|pair| pair == b"to") {
        rest = rest.get(at + 2..).unwrap_or_default();
        match look_behind(rest) {
            Seen::Host => return true,
            Seen::None { looked_at } => rest = rest.get(looked_at..).unwrap_or_default(),
        }
    }
    false
}

/// What stands behind a key that ends in `to`.
enum Seen {
    /// What may be a host's name.
    Host,
    /// No such thing in so many bytes.
    None { looked_at: usize },
}

fn look_behind(rest: &str) -> Seen {
    const NOTHING: Seen = Seen::None { looked_at: 0 };
    let Some(value) = rest.trim_start_matches(['"', '\'', ' ', '\t']).strip_prefix('=') else { return NOTHING };
    let value = value.trim_start();
    // What stands alone in three quotes is not looked for.
    if value.starts_with("\"\"\"") || value.starts_with("'''") {
        return Seen::Host;
    }
    // A host's name has a letter; most of what stands here has none. Behind three quotes there may be a line break.
    let may_be = |piece: &str| {
        piece.bytes().any(|byte| byte.is_ascii_alphabetic() || !byte.is_ascii()) && names_host(piece.trim())
    };
    let Some(list) = value.strip_prefix('[') else {
        // Another quote ends it, of whichever kind.
        let text = value.strip_prefix(['"', '\'']).and_then(|text| text.split(['"', '\'']).next());
        return if text.is_some_and(may_be) { Seen::Host } else { NOTHING };
    };
    let mut looked_at = rest.len() - list.len();
    // Which pieces are quoted is not to be told.
    for piece in list.split(['"', '\'']) {
        // `[::1]` is no end, and what ends a list is not in a comment.
        match piece.find(']') {
            Some(end) if !piece.get(..end).is_some_and(|until| until.contains(['[', '#'])) => {
                return Seen::None { looked_at: looked_at + end };
            }
            _ if piece.contains('#') || may_be(piece) => return Seen::Host,
            _ => looked_at += piece.len() + 1,
        }
    }
    Seen::None { looked_at: rest.len() }
}

const ANY_PORT: RangeInclusive<u16> = 0..=u16::MAX;

/// The network that a text without port names; None if it is neither address nor network.
fn network(text: &str) -> Option<Result<IpNet, Refused>> {
    let Some((address, prefix)) = text.split_once('/') else {
        return text.parse::<IpAddr>().ok().map(|address| Ok(IpNet::from(address.to_canonical())));
    };
    // Several entries in one, which the caller tells.
    if prefix.contains(',') {
        return None;
    }
    let address: IpAddr = address.parse().ok()?;
    if let Some((bits, port)) = prefix.split_once(':') {
        // "10.0.0.0/8:443" has a port, which the caller takes off first; IPv6 needs brackets for that.
        let brackets = || refused(format!("\"{text}\" needs brackets"), format!("write \"[{address}/{bits}]:{port}\""));
        return address.is_ipv6().then(brackets);
    }
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let Some(prefix) = prefix.parse::<u8>().ok().filter(|bits| *bits <= longest) else {
        return Some(refused(format!("\"/{prefix}\" is not a prefix length"), format!("accepted: /0 to /{longest}")));
    };
    Some(match IpNet::new(address, prefix) {
        Ok(network) if network.trunc() == network => Ok(unmapped(network)),
        Ok(network) => refused(
            format!("{network} has address bits set beyond its prefix"),
            format!("write {} for the network, or {address} for the single address", network.trunc()),
        ),
        Err(_) => refused(format!("\"{text}\" is not a network"), FORMS),
    })
}

/// `::ffff:10.0.0.0/104` is 10.0.0.0/8: endpoints are held unmapped.
fn unmapped(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(prefix) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(Ipv4Addr::from(v4.octets()), prefix)
    {
        return IpNet::V4(v4);
    }
    network
}

/// A name with at least one letter, whose last part is no number: that would be an address with a slip.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'*' | b'?'))
        && name.bytes().any(|b| b.is_ascii_alphabetic())
        && !name.split('.').any(str::is_empty)
        && !is_address(name)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any_port = self.ports == ANY_PORT;
        match &self.place {
            Place::Any if any_port => return f.write_str("*"),
            Place::Any => {}
            Place::Host(name) => f.write_str(name)?,
            &Place::Network(network) => {
                let single = network.prefix_len() == network.max_prefix_len();
                match (network, single) {
                    (IpNet::V4(v4), true) => write!(f, "{}", v4.addr())?,
                    (IpNet::V4(v4), false) => write!(f, "{v4}")?,
                    (IpNet::V6(v6), true) => write!(f, "[{}]", v6.addr())?,
                    (IpNet::V6(v6), false) => write!(f, "[{v6}]")?,
                }
            }
        }
        match (any_port, self.ports.start(), self.ports.end()) {
            (true, ..) => Ok(()),
            (false, first, last) if first == last => write!(f, ":{first}"),
            (false, first, last) => write!(f, ":{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        let address: std::net::SocketAddr = text.parse().expect("an address and port");
        Endpoint::new(address.ip(), address.port())
    }

    #[test]
    fn matching() {
        for (pattern, peer, expected) in [
            ("10.0.0.0/8:443", "10.1.2.3:443", true),
            ("10.0.0.0/8:443", "10.1.2.3:444", false),
            ("10.0.0.0/8:443", "11.1.2.3:443", false),
            ("10.0.0.0/8", "[::ffff:10.1.2.3]:443", true),
            ("[::ffff:10.0.0.0/104]:443", "10.1.2.3:443", true),
            ("::ffff:10.1.2.3", "10.1.2.3:443", true),
            ("[2001:db8::/32]:8000-8099", "[2001:db8::1]:8099", true),
            ("[2001:db8::/32]:8000-8099", "[2001:db8::1]:8100", false),
            ("2001:db8::1", "[2001:db8::1]:1", true),
            ("2001:db8::/32", "[2001:db9::1]:1", false),
            (":9092", "[2001:db8::1]:9092", true),
            (":9092", "10.1.2.3:9092", true),
            ("*:9092", "10.1.2.3:9093", false),
            ("*", "10.1.2.3:1", true),
            ("0.0.0.0/0", "10.1.2.3:1", true),
            ("0.0.0.0/0", "[::1]:1", false),
            ("::/0", "10.1.2.3:1", false),
        ] {
            assert_eq!(Pattern::parse(pattern).expect(pattern).matches(endpoint(peer)), expected, "{pattern} {peer}");
        }
    }

    #[test]
    fn where_hosts_may_be_named() {
        for (toml, expected) in [
            ("to = [\"10.0.0.0/8\", \"[::1]:80\"]\nprocess = [\"java\"]", false),
            ("to = [\"10.0.0.0/8\",\n  'redis' ]", true),
            ("to = [\"[::1]:80\", # the gateway's own\n \"redis\"]", true),
            ("to = [ # the ]\n \"redis\"]", true),
            ("to = [\"10.0.0.0/8\"] # \"redis\"", false),
            ("auto = \"redis\"", true),
            ("user_timeout = \"auto\"\nlinger = \"off\"", false),
            ("\"to\"=\"*.example.com:80\"", true),
            ("to=\"10.1.2.3\"\nname = \"redis\"", false),
            ("to = \"\"\"\nredis\"\"\"", true),
            ("to = [\n'\'\'redis:80'\'\', '10.1.2.3']", true),
            ("to", false),
            ("to =", false),
            ("to = [\"", false),
        ] {
            assert_eq!(may_name_hosts(toml), expected, "{toml}");
        }
    }

    #[test]
    fn printed_patterns_read_back() {
        for text in [
            "*",
            ":80",
            "10.0.0.0/8",
            "10.1.2.3:1-2",
            "[::1]",
            "[2001:db8::/32]:80",
            "[::]:80",
            "*.a-b_c.d?:1-2",
            "redis",
        ] {
            assert_eq!(Pattern::parse(text).expect(text).to_string(), text);
        }
    }
}
