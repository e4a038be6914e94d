//! systemd's socket units: systemd.socket(5), systemd.syntax(7), systemd.time(7), as of systemd 252.

use policy::Key;
use policy::constants::{SOL_IP, SOL_IPV6, option_number};
use policy::units::DisplayBytes;

use crate::context::Context;
use crate::draft::{Draft, Options, Part, quoted};
use crate::note::{Kind, Notes, Place};
use crate::oracle::Side;
use crate::systemd_units::Unit;
use crate::{socket_options, text, time};

/// An address of a unit.
struct Listen {
    address: String,
    place: Place,
    is_udp: bool,
}

/// What the files of one unit say, later ones over earlier ones.
#[derive(Default)]
struct Socket {
    options: Options,
    listens: Vec<Listen>,
    header: Option<Place>,
}

/// Reads a unit with its drop-ins.
pub(crate) fn read(unit: &Unit, context: &mut Context<'_>) {
    let mut socket = Socket::default();
    unit.sources.iter().for_each(|source| file(*source, &mut socket, context));
    let Socket { options, listens, header } = socket;
    let name = &unit.name;
    let Some(header) = header else { return };
    if options.is_empty() {
        return;
    }
    if listens.is_empty() {
        context.notes.add(
            Kind::NoMatch,
            &header,
            if unit.is_whole { "left out: the unit listens nowhere" } else { "left out: a drop-in without its unit" },
            format!("import it together with {}", if unit.is_whole { "the file that has ListenStream=" } else { name }),
        );
    }
    for is_udp in [false, true] {
        let side = if is_udp { Side::Udp } else { Side::Listen };
        let mut draft = Draft::new(header.clone(), format!("{name}{}", if is_udp { ", UDP" } else { "" }), name, side);
        draft.options = options.clone();
        let own: Vec<&Listen> = listens.iter().filter(|listen| listen.is_udp == is_udp).collect();
        if own.is_empty() {
            continue;
        }
        for listen in own {
            aim(&mut draft, listen, &mut context.notes);
        }
        context.add(draft);
    }
}

fn file(source: usize, socket: &mut Socket, context: &mut Context<'_>) {
    let content = context.text(source);
    let (mut is_socket, mut is_continued) = (false, false);
    for (start, line) in text::lines(content) {
        let trimmed = line.trim();
        if std::mem::replace(&mut is_continued, trimmed.ends_with('\\')) {
            // What goes on in the next line is nothing that is read here.
            continue;
        }
        if trimmed.starts_with(['#', ';']) {
            is_continued = false;
        } else if trimmed.starts_with('[') {
            is_socket = trimmed == "[Socket]";
            if is_socket {
                socket.header.get_or_insert_with(|| Place { source, span: text::within(line, start, trimmed) });
            }
        } else if let (true, Some((key, value))) = (is_socket, trimmed.split_once('=')) {
            let value = value.trim();
            let place = Place { source, span: text::within(line, start, value) };
            match key.trim_end() {
                key @ ("ListenStream" | "ListenDatagram") => {
                    let is_udp = key == "ListenDatagram";
                    if value.is_empty() {
                        socket.listens.clear();
                    } else {
                        socket.listens.push(Listen { address: value.to_owned(), place, is_udp });
                    }
                }
                "ListenSequentialPacket" | "ListenFIFO" | "ListenSpecial" | "ListenNetlink" | "ListenMessageQueue"
                    if !value.is_empty() =>
                {
                    context.notes.add(Kind::NoMatch, &place, "left out: no TCP or UDP socket", "");
                }
                key => take(&mut socket.options, key, value, &place, &mut context.notes),
            }
        }
    }
}

fn aim(draft: &mut Draft, listen: &Listen, notes: &mut Notes) {
    let address = listen.address.as_str();
    if address.starts_with("vsock") {
        notes.add(Kind::NoMatch, &listen.place, "left out: a vsock address", "");
        return;
    }
    // A zone behind the port: [fe80::1]:80%eth0.
    let (address, zone) = address.split_once('%').map_or((address, None), |(address, zone)| (address, Some(zone)));
    if zone.is_some() {
        notes.add(Kind::Changed, &listen.place, "without the interface behind the %, which a rule does not know", "");
    }
    text::aim(draft, address, &listen.place, notes);
}

/// systemd.syntax(7).
fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

fn take(options: &mut Options, key: &str, value: &str, place: &Place, notes: &mut Notes) {
    if value.is_empty() {
        return;
    }
    let is_switch = |notes: &mut Notes| {
        let found = boolean(value);
        if found.is_none() {
            notes.add(Kind::Unreadable, place, format!("\"{value}\" is no boolean"), "yes or no");
        }
        found
    };
    let seconds = |notes: &mut Notes| text::seconds(value, time::SYSTEMD, place, "systemd", notes);
    match key {
        "KeepAlive" => {
            if let Some(on) = is_switch(notes) {
                options.keepalive.on = Some((on, place.clone()));
            }
        }
        "KeepAliveTimeSec" => options.keepalive.time = seconds(notes),
        "KeepAliveIntervalSec" => options.keepalive.interval = seconds(notes),
        "KeepAliveProbes" => {
            let probes = text::number(value, place, notes).filter(|probes| *probes > 0);
            options.keepalive.probes = probes.map(|value| Part { value, place: place.clone() });
        }
        "NoDelay" | "ReusePort" | "FreeBind" | "Transparent" => {
            if let Some(on) = is_switch(notes) {
                let key = match key {
                    "NoDelay" => Key::Nodelay,
                    "ReusePort" => Key::ReusePort,
                    "FreeBind" => Key::Freebind,
                    _ => Key::Transparent,
                };
                options.set(key, on.to_string(), place);
            }
        }
        "BindIPv6Only" if value == "ipv6-only" => {
            if let Some(number) = option_number(SOL_IPV6, "IPV6_V6ONLY") {
                options.set_raw(i64::from(SOL_IPV6), i64::from(number), "1", place);
            }
        }
        "Priority" | "IPTTL" | "Mark" => {
            let key = match key {
                "Priority" => Key::Priority,
                "IPTTL" => Key::Ttl,
                _ => Key::Mark,
            };
            if let Some(number) = text::number(value, place, notes) {
                options.set(key, number.to_string(), place);
            }
        }
        "DeferAcceptSec" => {
            if let Some(part) = seconds(notes) {
                socket_options::defer_accept(options, i64::try_from(part.value).unwrap_or(i64::MAX), place, notes);
            }
        }
        "ReceiveBuffer" | "SendBuffer" => {
            let key = if key == "SendBuffer" { Key::SendBuffer } else { Key::ReceiveBuffer };
            match time::bytes(value) {
                Some(bytes) => options.set(key, format!("\"{}\"", DisplayBytes(bytes)), place),
                None => notes.add(Kind::Unreadable, place, format!("\"{value}\" is no size"), "for example 64K"),
            }
        }
        "IPTOS" => tos(options, value, place, notes),
        "TCPCongestion" => options.set(Key::Congestion, quoted(value), place),
        "BindToDevice" => options.set(Key::Interface, quoted(value), place),
        "Backlog" => {
            let message = "left out: the backlog is an argument of listen(2), no socket option";
            notes.add(Kind::NotAnOption, place, message, "");
        }
        "SocketProtocol" => {
            notes.add(Kind::NoMatch, place, format!("left out: {value} is neither TCP nor UDP to a rule"), "");
        }
        _ => {}
    }
}

/// A byte of ip(7)'s IP_TOS, not a code point: its upper six bits are one.
fn tos(options: &mut Options, value: &str, place: &Place, notes: &mut Notes) {
    let byte = match value {
        "low-delay" => Some(16),
        "throughput" => Some(8),
        "reliability" => Some(4),
        "low-cost" => Some(2),
        _ => text::number(value, place, notes),
    };
    let Some(byte) = byte else { return };
    if byte <= 255 && byte & 3 == 0 {
        let message = format!("IPTOS is the whole byte, dscp its upper six bits: {byte} becomes {}", byte >> 2);
        notes.add(Kind::Changed, place, message, "");
        options.set(Key::Dscp, (byte >> 2).to_string(), place);
    } else if let Some(number) = option_number(SOL_IP, "IP_TOS") {
        options.set_raw(0, i64::from(number), &byte.to_string(), place);
    }
}

/// Whether a text is a socket unit.
pub(crate) fn is_unit(text: &str) -> bool {
    text.lines().any(|line| line.trim() == "[Socket]")
}
