//! Options by level and name, as Envoy's `socket_options` has them, to keys: config.core.v3.SocketOption
//! (envoyproxy.io/docs/envoy/latest/api-v3/config/core/v3/socket_option.proto).

use policy::Key;
use policy::constants::{SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP};
use policy::units::DisplayBytes;

use crate::context::Document;
use crate::draft::{Options, Part, quoted};
use crate::note::{Kind, Notes, Place};
use crate::oracle::Side;
use crate::time;
use crate::yaml::Value;

/// A value of an option.
enum Given {
    Integer(i64),
    Bytes(Vec<u8>),
}

/// Takes a list of `socket_options`.
pub(crate) fn read(options: &mut Options, list: Value<'_>, side: Side, document: &Document<'_>, notes: &mut Notes) {
    for item in list.items() {
        let place = document.place(item);
        // protobuf leaves out what is zero.
        let number = |key: &str, notes: &mut Notes| match item.get(key) {
            Some(value) => document.integer(value, notes),
            None => Some(0),
        };
        let (Some(level), Some(name)) = (number("level", notes), number("name", notes)) else { continue };
        // An option of the other kind of sockets is one that Envoy does not set here either.
        // If both are there, `stream` counts.
        let is_of = |kind: &str| item.get("type").is_some_and(|of| of.get(kind).is_some());
        let of = if is_of("stream") { Some("TCP") } else { is_of("datagram").then_some("UDP") };
        if let Some(of) = of.filter(|of| (*of == "UDP") != (side == Side::Udp)) {
            notes.add(Kind::NoMatch, &place, format!("left out: an option of {of} sockets alone"), "");
            continue;
        }
        let value = match (item.get("int_value"), item.get("buf_value")) {
            (Some(value), _) => match document.integer(value, notes) {
                Some(number) => (Given::Integer(number), document.place(value)),
                None => continue,
            },
            (None, Some(buffer)) => match buffer.text().and_then(base64) {
                Some(bytes) => (Given::Bytes(bytes), document.place(buffer)),
                None => {
                    notes.add(Kind::Unreadable, &document.place(buffer), "this is no base64", "");
                    continue;
                }
            },
            (None, None) => (Given::Integer(0), place),
        };
        convert(options, level, name, value.0, &value.1, notes);
    }
}

/// The option of a number that the catalogue has by another name.
fn is(level: i64, name: i64, of: i32, known: &str) -> bool {
    level == i64::from(of)
        && policy::constants::option_number(of, known).is_some_and(|number| name == i64::from(number))
}

fn convert(options: &mut Options, level: i64, name: i64, given: Given, place: &Place, notes: &mut Notes) {
    let names = |known: &str, of: i32| is(level, name, of, known);
    if let Given::Bytes(bytes) = &given
        && structure(options, level, name, bytes, place)
    {
        return;
    }
    let number = match given {
        Given::Integer(number) => number,
        Given::Bytes(bytes) => {
            let is_text = names("TCP_CONGESTION", SOL_TCP) || names("SO_BINDTODEVICE", SOL_SOCKET);
            match <[u8; 4]>::try_from(bytes.as_slice()) {
                // Little-endian, as everywhere where the library runs.
                Ok(four) if !is_text => i64::from(i32::from_le_bytes(four)),
                _ => return text(options, level, name, &bytes, place, notes),
            }
        }
    };
    let part = |value: i64| u64::try_from(value).ok().map(|value| Part { value, place: place.clone() });
    let refuse = |notes: &mut Notes| {
        notes.add(Kind::OutOfRange, place, format!("left out: {number} is no such value"), "");
    };
    if names("SO_KEEPALIVE", SOL_SOCKET) {
        options.keepalive.on = Some((number != 0, place.clone()));
        return;
    }
    for (known, slot) in [
        ("TCP_KEEPIDLE", &mut options.keepalive.time),
        ("TCP_KEEPINTVL", &mut options.keepalive.interval),
        ("TCP_KEEPCNT", &mut options.keepalive.probes),
    ] {
        if names(known, SOL_TCP) {
            match part(number) {
                Some(part) => *slot = Some(part),
                None => refuse(notes),
            }
            return;
        }
    }
    match key(level, name) {
        Some((key, Form::Boolean)) => options.set(key, (number != 0).to_string(), place),
        Some((key, Form::Number)) => options.set(key, number.to_string(), place),
        Some((_, Form::Bytes)) if number < 0 => refuse(notes),
        Some((key, Form::Bytes)) => {
            let bytes = u64::try_from(number).unwrap_or_default();
            options.set(key, format!("\"{}\"", DisplayBytes(bytes)), place);
        }
        Some((_, Form::Milliseconds)) if number < 0 => refuse(notes),
        Some((key, Form::Milliseconds)) if number == 0 => options.set(key, "\"off\"", place),
        Some((key, Form::Milliseconds)) => {
            let nanoseconds = u64::try_from(number).unwrap_or(u64::MAX).saturating_mul(1_000_000);
            options.set(key, format!("\"{}\"", time::duration(nanoseconds)), place);
        }
        Some((_, Form::Linger2)) if number < 0 => options.set(Key::TimeWait, "false", place),
        Some((key, Form::Linger2)) if number > 0 => options.set(key, format!("\"{number}s\""), place),
        Some((_, Form::DeferAccept)) if number > 0 => defer_accept(options, number, place, notes),
        Some((key, Form::Tos)) if (0..=255).contains(&number) && number & 3 == 0 => {
            options.set(key, (number >> 2).to_string(), place);
        }
        _ => options.set_raw(level, name, &number.to_string(), place),
    }
}

/// How a number becomes a key's value.
#[derive(Clone, Copy)]
enum Form {
    Boolean,
    Number,
    Bytes,
    Milliseconds,
    Linger2,
    DeferAccept,
    Tos,
}

#[rustfmt::skip] // a table reads by its columns
fn key(level: i64, name: i64) -> Option<(Key, Form)> {
    const KEYS: &[(i32, &str, Key, Form)] = &[
        (SOL_TCP, "TCP_USER_TIMEOUT", Key::UserTimeout, Form::Milliseconds),
        (SOL_TCP, "TCP_NODELAY", Key::Nodelay, Form::Boolean),
        (SOL_TCP, "TCP_QUICKACK", Key::Quickack, Form::Boolean),
        (SOL_TCP, "TCP_SYNCNT", Key::SynRetries, Form::Number),
        (SOL_TCP, "TCP_MAXSEG", Key::MaxSegment, Form::Number),
        (SOL_TCP, "TCP_LINGER2", Key::FinTimeout, Form::Linger2),
        (SOL_TCP, "TCP_DEFER_ACCEPT", Key::DeferAccept, Form::DeferAccept),
        (SOL_TCP, "TCP_NOTSENT_LOWAT", Key::NotsentLowat, Form::Bytes),
        (SOL_TCP, "TCP_FASTOPEN", Key::Fastopen, Form::Number),
        (SOL_TCP, "TCP_FASTOPEN_CONNECT", Key::Fastopen, Form::Boolean),
        (SOL_SOCKET, "SO_RCVBUF", Key::ReceiveBuffer, Form::Bytes),
        (SOL_SOCKET, "SO_SNDBUF", Key::SendBuffer, Form::Bytes),
        (SOL_SOCKET, "SO_PRIORITY", Key::Priority, Form::Number),
        (SOL_SOCKET, "SO_MARK", Key::Mark, Form::Number),
        (SOL_SOCKET, "SO_REUSEADDR", Key::ReuseAddress, Form::Boolean),
        (SOL_SOCKET, "SO_REUSEPORT", Key::ReusePort, Form::Boolean),
        (SOL_SOCKET, "SO_MAX_PACING_RATE", Key::MaxPacingRate, Form::Bytes),
        (SOL_IP, "IP_TTL", Key::Ttl, Form::Number),
        (SOL_IPV6, "IPV6_UNICAST_HOPS", Key::Ttl, Form::Number),
        (SOL_IP, "IP_TOS", Key::Dscp, Form::Tos),
        (SOL_IPV6, "IPV6_TCLASS", Key::Dscp, Form::Tos),
        (SOL_IP, "IP_FREEBIND", Key::Freebind, Form::Boolean),
        (SOL_IPV6, "IPV6_FREEBIND", Key::Freebind, Form::Boolean),
        (SOL_IP, "IP_TRANSPARENT", Key::Transparent, Form::Boolean),
        (SOL_IPV6, "IPV6_TRANSPARENT", Key::Transparent, Form::Boolean),
        (SOL_IP, "IP_BIND_ADDRESS_NO_PORT", Key::LocalPortsLate, Form::Boolean),
    ];
    let row = KEYS.iter().find(|(of, known, ..)| is(level, name, *of, known));
    row.map(|&(.., key, form)| (key, form))
}

/// The kernel keeps a number of retransmissions and rounds up (net/ipv4/tcp.c, secs_to_retrans): 1, 3, 7, 15, 31, 63,
/// 127 s, then every 120 s.
pub(crate) fn defer_accept(options: &mut Options, seconds: i64, place: &Place, notes: &mut Notes) {
    let (mut period, mut step) = (1_i64, 1_i64);
    while period < seconds && period < 1 << 20 {
        step = (step * 2).min(120);
        period += step;
    }
    if period != seconds {
        notes.add(Kind::Changed, place, format!("the kernel rounds {seconds} s up to {period} s"), "");
    }
    options.set(Key::DeferAccept, format!("\"{period}s\""), place);
}

/// Buffers that are a structure: struct linger and struct timeval of 64-bit machines.
fn structure(options: &mut Options, level: i64, name: i64, bytes: &[u8], place: &Place) -> bool {
    let names = |known: &str| is(level, name, SOL_SOCKET, known);
    if names("SO_LINGER")
        && let (Some(on), Some(seconds), 8) = (word(bytes, 0), word(bytes, 4), bytes.len())
    {
        let value = match (on, seconds) {
            (0, _) => "\"off\"".to_owned(),
            (_, 0) => "\"reset\"".to_owned(),
            (_, seconds) => format!("\"{seconds}s\""),
        };
        options.set(Key::Linger, value, place);
        return true;
    }
    for (known, key) in [("SO_RCVTIMEO", Key::ReceiveTimeout), ("SO_SNDTIMEO", Key::SendTimeout)] {
        if let (true, Ok(all)) = (names(known), <[u8; 16]>::try_from(bytes)) {
            let whole = i128::from_le_bytes(all);
            let (seconds, micros) = (whole as u64, (whole >> 64) as u64);
            let value = match seconds.checked_mul(1_000_000).and_then(|all| all.checked_add(micros)) {
                Some(0) => "\"off\"".to_owned(),
                Some(micros) => format!("\"{}\"", time::duration(micros.saturating_mul(1_000))),
                None => return false,
            };
            options.set(key, value, place);
            return true;
        }
    }
    false
}

fn word(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..at + 4)?.try_into().ok().map(i32::from_le_bytes)
}

/// A buffer that is a name, or nothing that can be written.
fn text(options: &mut Options, level: i64, name: i64, bytes: &[u8], place: &Place, notes: &mut Notes) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let rest_is_empty = bytes.get(end..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
    let text = bytes
        .get(..end)
        .and_then(|text| std::str::from_utf8(text).ok())
        .filter(|text| rest_is_empty && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()));
    let Some(text) = text else {
        let message = format!("left out: a buffer of {} bytes, which is neither an integer nor a name", bytes.len());
        return notes.add(Kind::NoInteger, place, message, "");
    };
    if is(level, name, SOL_SOCKET, "SO_BINDTODEVICE") {
        options.set(Key::Interface, quoted(text), place);
    } else if is(level, name, SOL_TCP, "TCP_CONGESTION") {
        options.set(Key::Congestion, quoted(text), place);
    } else {
        options.set_raw(level, name, &quoted(text), place);
    }
}

/// Base64 of either alphabet, with or without padding, as protobuf's JSON mapping takes it.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let (mut bytes, mut held, mut bits) = (Vec::with_capacity(text.len()), 0_u32, 0_u32);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        held = (held << 6 | u32::from(six)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 0xff) as u8);
        }
    }
    (bits < 6).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_both_alphabets() {
        assert_eq!(base64("dmlydDE="), Some(b"virt1".to_vec()));
        assert_eq!(base64("AQAAAA=="), Some(vec![1, 0, 0, 0]));
        assert_eq!(base64("-_8"), Some(vec![0xfb, 0xff]));
        assert_eq!(base64("+/8="), Some(vec![0xfb, 0xff]));
        assert_eq!(base64("a"), None);
        assert_eq!(base64("a*bc"), None);
    }
}
