//! Ports, and why an entry of a list is refused.

use std::ops::RangeInclusive;

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: String,
}

pub(crate) fn refused<T>(message: String, help: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { message, help: help.into() })
}

pub(crate) const FORMS: &str = "accepted: \"10.1.2.3\", \"10.0.0.0/8:443\", \"[2001:db8::/32]:8000-8099\", \"*.example.com:443\", \":9092\", \"*\"";

/// A port, or a range of them.
pub(crate) fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, Refused> {
    let port = |digits: &str| match digits.parse::<u16>() {
        Ok(port) if port > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => refused(format!("\"{digits}\" is not a port"), "accepted: 1 to 65535, or a range such as 8000-8099"),
    };
    let Some((first, last)) = text.split_once('-') else {
        return port(text).map(|port| port..=port);
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return refused(format!("the port range {first}-{last} is empty"), format!("did you mean {last}-{first}?"));
    }
    Ok(first..=last)
}
