//! What people write for an address that other tools take, with what it is called here. What is suggested is accepted.

use std::net::Ipv6Addr;

use crate::name::international;
use crate::ports::{FORMS, Refused, parse_ports};

/// Whether a text is an entry of a list.
type IsEntry = fn(&str) -> bool;

/// None if it is not known what was meant.
pub(crate) fn slip(is_entry: IsEntry, text: &str, address: &str, ports: Option<&str>) -> Option<Refused> {
    let told = |message: String, help: String| Some(Refused { message, help });
    if text.starts_with('!') {
        return told(format!("\"{text}\" is an exclusion, which is not supported here"), FORMS.to_owned());
    }
    if text.contains(',') {
        let is_port = |port: &str| parse_ports(port.trim()).is_ok();
        let has_ports = ports.is_some_and(|ports| ports.contains(',') && ports.split(',').all(is_port));
        let what = if has_ports { "has several ports" } else { "contains several entries" };
        let help =
            meant(is_entry, text).map_or_else(|| FORMS.to_owned(), |each| format!("write an entry for each: {each}"));
        return told(format!("\"{text}\" {what}"), help);
    }
    if ports.is_none() && parse_ports(text).is_ok() {
        return told(format!("\"{text}\" is not an address"), format!("a port alone is written \":{text}\""));
    }
    if ports == Some("*") && !address.is_empty() && is_entry(address) {
        return told("\"*\" is not a port".to_owned(), format!("any port is written \"{address}\""));
    }
    if let Some(network) = network_by_stars(address, ports) {
        return told(format!("\"{text}\" is not an address"), format!("a network is written \"{network}\""));
    }
    if !address.is_ascii() && international(address).is_none() && address.chars().any(char::is_alphabetic) {
        return told(
            format!("\"{text}\" is not a valid internationalised host name"),
            "write its ASCII form, which begins with \"xn--\" (idn2(1) prints it); a label with a wildcard must be ASCII".to_owned(),
        );
    }
    None
}

/// `::1:80`, an address without a port to the grammar. Nobody has an address of `::/96` but `::` and `::1` (RFC 4291, section
/// 2.5.5.1: deprecated), so that this was meant to be one of these with a port.
pub(crate) fn port_without_brackets(text: &str) -> Option<Refused> {
    let (host, port) = text.rsplit_once(':').filter(|(_, port)| parse_ports(port).is_ok())?;
    // Of "::80" the first colon is left, which is no address.
    let host = if host == ":" { "::" } else { host };
    let host = host.parse::<Ipv6Addr>().ok().filter(|host| host.is_loopback() || host.is_unspecified())?;
    let is_other = text.parse::<Ipv6Addr>().is_ok_and(|address| !address.is_loopback());
    is_other.then(|| Refused {
        message: format!("\"{text}\" is an IPv6 address without a port"),
        help: format!("a port needs brackets: \"[{host}]:{port}\"; the address itself is written \"[{text}]\""),
    })
}

/// The entries that a text with commas stands for, in words: as many as are shown. None if one of them is none. A port behind
/// an entry with a port belongs to the same address.
fn meant(is_entry: IsEntry, text: &str) -> Option<String> {
    const SHOWN: usize = 4;
    let mut each = Vec::new();
    let mut before: Option<&str> = None;
    for piece in text.split(',').map(str::trim).take(SHOWN + 1) {
        let is_port = parse_ports(piece).is_ok();
        let split = piece.rsplit_once(':').filter(|(_, port)| parse_ports(port).is_ok());
        // An address of IPv6 without brackets has no port, but was meant to have one where another follows.
        let is_whole = |address: &str| address.contains(':') && is_entry(piece) && !address.ends_with(']');
        let has_more_ports = text.rsplit_once(':').is_some_and(|(_, ports)| ports.contains(','));
        let split = split.filter(|(address, _)| has_more_ports || !is_whole(address));
        each.push(match (before, split) {
            (Some(address), _) if is_port => entry(is_entry, address, Some(piece))?,
            (_, Some((address, port))) => entry(is_entry, address, Some(port))?,
            _ => entry(is_entry, piece, None)?,
        });
        before = if is_port { before } else { split.map(|(address, _)| address) };
    }
    if each.len() > SHOWN {
        each[SHOWN] = "...".to_owned();
    }
    Some(each.join(", "))
}

/// An entry in quotes, if it is one.
fn entry(is_entry: IsEntry, address: &str, port: Option<&str>) -> Option<String> {
    let bare = address.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')).unwrap_or(address);
    let entry = match (network_by_stars(address, port), port) {
        (Some(network), _) => network,
        (None, None) if parse_ports(address).is_ok() => format!(":{address}"),
        (None, None) => address.to_owned(),
        (None, Some(port)) if bare.contains(':') => format!("[{bare}]:{port}"),
        (None, Some(port)) => format!("{address}:{port}"),
    };
    is_entry(&entry).then(|| format!("\"{entry}\""))
}

/// `10.*` and `10.1.*.*:80` as networks.
fn network_by_stars(address: &str, ports: Option<&str>) -> Option<String> {
    let parts: Vec<&str> = address.split('.').take(5).collect();
    let numbers: Vec<u8> = parts.iter().map_while(|part| part.parse().ok()).collect();
    let is_network = (1..=3).contains(&numbers.len())
        && (numbers.len() + 1..=4).contains(&parts.len())
        && parts.iter().skip(numbers.len()).all(|part| *part == "*");
    if !is_network || ports.is_some_and(|ports| parse_ports(ports).is_err()) {
        return None;
    }
    let octet = |index: usize| numbers.get(index).copied().unwrap_or(0);
    let port = ports.map_or(String::new(), |ports| format!(":{ports}"));
    Some(format!("{}.{}.{}.0/{}{port}", octet(0), octet(1), octet(2), numbers.len() * 8))
}

#[cfg(test)]
mod tests {
    use crate::matcher::Pattern;

    /// Seen to fail: `[::1]:80,443` had `::1:80` suggested, which is an address of IPv6 without a port; `443,80` and
    /// `10.*,192.168.*` had what is an error itself suggested.
    #[test]
    fn what_is_suggested_is_accepted() {
        const NONE: &str = "";
        for (text, entries) in [
            ("db:80,443", r#""db:80", "db:443""#),
            ("db:80, 443-450", r#""db:80", "db:443-450""#),
            ("[::1]:80,443", r#""[::1]:80", "[::1]:443""#),
            ("2001:db8::1:80,443", r#""[2001:db8::1]:80", "[2001:db8::1]:443""#),
            ("[::1]:80,[::2]:90", r#""[::1]:80", "[::2]:90""#),
            ("2001:db8::1,2001:db8::2", r#""2001:db8::1", "2001:db8::2""#),
            ("db:80,443,web:80", r#""db:80", "db:443", "web:80""#),
            ("db:80,web", r#""db:80", "web""#),
            ("10.*:80,443", r#""10.0.0.0/8:80", "10.0.0.0/8:443""#),
            ("10.*,192.168.*", r#""10.0.0.0/8", "192.168.0.0/16""#),
            ("10.0.0.0/8:80,443", r#""10.0.0.0/8:80", "10.0.0.0/8:443""#),
            ("10.0.0.1,10.0.0.2", r#""10.0.0.1", "10.0.0.2""#),
            ("443,80", r#"":443", ":80""#),
            (":443,80", r#"":443", ":80""#),
            ("a,b,c,d,e,f", r#""a", "b", "c", "d", ..."#),
            ("db:80,,", NONE),
            ("db:,80", NONE),
            ("443", r#"":443""#),
            ("443-500", r#"":443-500""#),
            ("99999", NONE),
            ("db:*", r#""db""#),
            ("[::1]:*", r#""::1""#),
            ("2001:db8:*", NONE),
            ("10.*", r#""10.0.0.0/8""#),
            ("10.0.0.*:443", r#""10.0.0.0/24:443""#),
            ("10.0.0.*:x", NONE),
            ("!10.0.0.1", NONE),
            ("!a,!b", NONE),
            ("!", NONE),
        ] {
            let help = Pattern::parse(text).expect_err(text).help;
            if entries == NONE {
                assert!(help.starts_with("accepted: "), "{text}: {help}");
                continue;
            }
            let suggested: Vec<&str> = help.split('"').skip(1).step_by(2).collect();
            let shown: Vec<&str> = entries.split('"').skip(1).step_by(2).collect();
            assert_eq!(suggested, shown, "{text}: {help}");
            for entry in suggested {
                let pattern = Pattern::parse(entry).unwrap_or_else(|why| panic!("{text}: {entry}: {why:?}"));
                let has_port = !pattern.ports().contains(&1);
                assert!(has_port || !entry.trim_end_matches(char::is_numeric).ends_with("]:"), "{text}: {entry}");
            }
        }
    }

    /// Seen to fail, as a test of this function: with one call for each exclamation mark the stack ran over.
    #[test]
    fn long_texts() {
        for text in ["!", ",", "!,", "a,", "1,", "[", ":", "*.", "10.*,", "::,"] {
            assert!(Pattern::parse(&text.repeat(1 << 18)).is_err(), "{text}");
        }
    }
}
