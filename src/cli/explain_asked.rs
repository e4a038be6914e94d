//! What `sockopt explain` is asked: destinations, listeners and clients, as the command line has them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;

use policy::explain::Asked;
use policy::{Endpoint, Name};

use crate::exit;

/// What is to be explained.
#[derive(Clone, Copy)]
pub(crate) enum What {
    Connect(Endpoint),
    Listen(Endpoint),
    Accept { local: Endpoint, peer: Endpoint },
}

/// Why it cannot be explained, and the exit code.
pub(crate) type Refused = (String, u8);

/// All that the command line asks for.
pub(crate) fn connections(host: Option<&str>, listen: Option<&str>, from: Option<&str>) -> Result<Vec<What>, Refused> {
    for (option, text) in [("", host), ("--listen ", listen), ("--from ", from)] {
        if let Some(text) = text {
            refuse_at_once(option, text)?;
        }
    }
    let Some(listen) = listen else {
        return Ok(resolve(host.unwrap_or_default())?.into_iter().map(What::Connect).collect());
    };
    let locals = listener(listen).ok_or_else(|| {
        (format!("--listen {listen}: not an address; accepted: :8080, 127.0.0.1:8080, [::1]:8080"), exit::USAGE)
    })?;
    let Some(from) = from else { return Ok(locals.into_iter().map(What::Listen).collect()) };
    let peer = address(from).ok_or_else(|| (format!("--from {from}: not an address"), exit::USAGE))?;
    // A client of IPv6 does not come to a listener of IPv4; one on any address of IPv6 takes both.
    let takes = |local: &Endpoint| {
        local.ip().is_ipv4() == peer.ip().is_ipv4() || local.ip().is_unspecified() && local.ip().is_ipv6()
    };
    let found: Vec<What> = locals.into_iter().filter(takes).map(|local| What::Accept { local, peer }).collect();
    if found.is_empty() {
        return Err((format!("--from {from}: the client has another IP version than {listen}"), exit::USAGE));
    }
    Ok(found)
}

/// What has a form of its own for which there is a better answer.
fn refuse_at_once(option: &str, text: &str) -> Result<(), Refused> {
    if text.is_empty() {
        return Err((format!("{option}the host is empty; {FORMS}"), exit::USAGE));
    }
    if let Some((_, zone)) = text.split_once('%') {
        let zone = zone.split(']').next().unwrap_or_default();
        return Err((format!("{option}{text}: a zone (%{zone}) is not supported; leave it out"), exit::USAGE));
    }
    Ok(())
}

const FORMS: &str = "accepted: 10.1.2.3:443, [::1]:443, example.org:443";

/// An address, with a port or without: `10.1.2.3`, `10.1.2.3:443`, `::1`, `[::1]`, `[::1]:443`. Without one it is 0.
fn address(text: &str) -> Option<Endpoint> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().map(|ip| (ip, 0));
    let (ip, port) = address.or_else(|_| text.parse::<SocketAddr>().map(|both| (both.ip(), both.port()))).ok()?;
    Some(Endpoint::new(ip, port))
}

/// What a listener may be bound to; without an address, either of the two that mean any.
fn listener(text: &str) -> Option<Vec<Endpoint>> {
    match text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        Some(port) => {
            let port = port.parse().ok()?;
            let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            Some(any.map(|ip| Endpoint::new(ip, port)).to_vec())
        }
        None => Some(vec![address(text)?]),
    }
}

/// The name that the program looks up, by which rules that name hosts go; as the C library completes it.
pub(crate) fn asked(text: &str) -> Asked {
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    let name = Name::new(host.as_bytes()).filter(|_| address(text).is_none());
    // What ends in a dot is not completed, and for localhost the C library has its own answer.
    let completes = !host.ends_with('.') && host != "localhost";
    Asked { name, domains: if completes { load::search_domains() } else { Vec::new() } }
}

/// The endpoints that a destination names.
fn resolve(text: &str) -> Result<Vec<Endpoint>, Refused> {
    if let Some(endpoint) = address(text) {
        return Ok(vec![endpoint]);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "0"));
    if host.contains(':') && !host.contains("://") {
        let help = "IPv6 with a port needs brackets: [2001:db8::1]:443";
        return Err((format!("{text}: not an address; {help}"), exit::USAGE));
    }
    let port: u16 = port.parse().map_err(|_| (format!("{text}: \"{port}\" is not a port"), exit::USAGE))?;
    if host.is_empty() || host.contains("://") || host.contains('/') {
        return Err((format!("{text}: not a host; {FORMS}"), exit::USAGE));
    }
    let found =
        (host, port).to_socket_addrs().map_err(|error: io::Error| (format!("{host}: {error}"), exit::NO_ADDRESS))?;
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for endpoint in found.map(|found| Endpoint::new(found.ip(), found.port())) {
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    Ok(endpoints)
}

/// `process` is matched against base names.
pub(crate) fn base_name(program: &str) -> String {
    Path::new(program).file_name().map_or_else(|| program.to_owned(), |name| name.to_string_lossy().into_owned())
}
