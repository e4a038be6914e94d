//! HAProxy's configuration: docs.haproxy.org, "Configuration Manual", sections 2.2 (quoting), 2.5 (time format), 2.9 (addresses), 4.2
//! (`option tcpka`, `clitcpka`, `srvtcpka`, `clitcpka-idle` and the like, in seconds; `option nolinger`; `timeout connect`), 5.1 and 5.2
//! (`tcp-ut`, in milliseconds).

use std::collections::BTreeMap;

use policy::Key;
use policy::constants::{SOL_IPV6, option_number};

use crate::context::Context;
use crate::draft::{Draft, Keepalive, Options, Part, quoted};
use crate::note::{Kind, Notes, Place};
use crate::oracle::Side;
use crate::text::{self, Word};
use crate::time::{self, SECOND};

/// What the lines of a section say, with those of its defaults under it.
#[derive(Debug, Clone, Default)]
struct Section {
    kind: String,
    name: String,
    clients: Keepalive,
    servers: Keepalive,
    reset: Option<(bool, Place)>,
    default_server: Options,
    lines: Vec<Line>,
}

/// A `bind` or `server` line, whose section is not yet read to its end.
#[derive(Debug, Clone)]
struct Line {
    side: Side,
    name: String,
    addresses: Vec<(String, Place)>,
    options: Options,
    place: Place,
}

/// Reads a file.
pub(crate) fn read(source: usize, context: &mut Context<'_>) {
    let content = context.text(source);
    let mut defaults: BTreeMap<String, Section> = BTreeMap::new();
    let (mut last_defaults, mut section) = (Section::default(), Section::default());
    let mut is_timer_told = false;
    for (start, line) in text::lines(content) {
        let words = text::words(line, start);
        let Some(first) = words.first() else { continue };
        if let [timeout, connect, ..] = words.as_slice()
            && (timeout.text.as_str(), connect.text.as_str()) == ("timeout", "connect")
            && !std::mem::replace(&mut is_timer_told, true)
        {
            text::own_connect_timer("HAProxy", "timeout connect", &at(source, connect), &mut context.notes);
        }
        match first.text.as_str() {
            kind @ ("global" | "defaults" | "frontend" | "backend" | "listen" | "resolvers" | "peers" | "mailers"
            | "userlist" | "cache" | "program" | "http-errors" | "ring" | "log-forward" | "log-profile"
            | "traces" | "crt-store" | "acme" | "fcgi-app") => {
                let done = std::mem::take(&mut section);
                if done.kind == "defaults" {
                    defaults.insert(done.name.clone(), done.clone());
                    last_defaults = done;
                } else {
                    finish(done, context);
                }
                let from = words.iter().position(|word| word.text == "from").and_then(|at| words.get(at + 1));
                let base = from.and_then(|name| defaults.get(&name.text));
                section = match kind {
                    "defaults" => base.cloned().unwrap_or_default(),
                    "frontend" | "backend" | "listen" => base.unwrap_or(&last_defaults).clone(),
                    _ => Section::default(),
                };
                section.kind = kind.to_owned();
                section.name = words.get(1).map_or(String::new(), |name| name.text.clone());
                // Older files have the address here.
                if let ("frontend" | "listen", Some(address)) =
                    (kind, words.get(2).filter(|word| word.text.contains(':')))
                {
                    bind(&mut section, address, &[], source, &mut context.notes);
                }
            }
            _ => take(&mut section, &words, source, &mut context.notes),
        }
    }
    finish(section, context);
}

fn at(source: usize, word: &Word) -> Place {
    Place { source, span: word.span.clone() }
}

fn take(section: &mut Section, words: &[Word], source: usize, notes: &mut Notes) {
    let (is_no, words) = match words {
        [no, rest @ ..] if no.text == "no" && !rest.is_empty() => (true, rest),
        all => (false, all),
    };
    let [first, rest @ ..] = words else { return };
    match (first.text.as_str(), rest) {
        ("option", [option, ..]) => {
            let place = at(source, option);
            let given = Some((!is_no, place.clone()));
            let (is_front, is_back) = (section.kind != "backend", section.kind != "frontend");
            match option.text.as_str() {
                "tcpka" => {
                    if is_front {
                        section.clients.on = given.clone();
                    }
                    if is_back {
                        section.servers.on = given;
                    }
                }
                "clitcpka" => section.clients.on = given,
                "srvtcpka" => section.servers.on = given,
                "nolinger" => section.reset = given,
                _ => {}
            }
        }
        (name, [value, ..]) if name.starts_with("clitcpka-") || name.starts_with("srvtcpka-") => {
            let place = at(source, value);
            let keepalive = if name.starts_with("cli") { &mut section.clients } else { &mut section.servers };
            match name.split_once('-').map(|(_, part)| part) {
                Some("cnt") => {
                    let number = text::number(&value.text, &place, notes);
                    keepalive.probes = number.map(|value| Part { value, place });
                }
                Some("idle") => keepalive.time = text::seconds(&value.text, time::HAPROXY, &place, "HAProxy", notes),
                Some("intvl") => {
                    keepalive.interval = text::seconds(&value.text, time::HAPROXY, &place, "HAProxy", notes)
                }
                _ => {}
            }
        }
        ("bind", [address, parameters @ ..]) => bind(section, address, parameters, source, notes),
        ("default-server", parameters) => server_options(&mut section.default_server, parameters, source, notes),
        ("server", [name, address, parameters @ ..]) => server(section, name, address, parameters, source, notes),
        ("server-template", [name, _, address, parameters @ ..]) => {
            server(section, name, address, parameters, source, notes);
        }
        _ => {}
    }
}

fn bind(section: &mut Section, address: &Word, parameters: &[Word], source: usize, notes: &mut Notes) {
    let place = at(source, address);
    let addresses = address.text.split(',').map(|one| (one.to_owned(), place.clone())).collect();
    let mut options = Options::default();
    let mut words = parameters.iter();
    while let Some(word) = words.next() {
        let place = at(source, word);
        match word.text.as_str() {
            "tcp-ut" => user_timeout(&mut options, words.next(), source, notes),
            // One second: it is to be woken by the first data.
            "defer-accept" => options.set(Key::DeferAccept, "\"1s\"", &place),
            "interface" => {
                if let Some(name) = words.next() {
                    options.set(Key::Interface, quoted(&name.text), &at(source, name));
                }
            }
            "mss" => {
                if let Some(value) = words.next() {
                    let place = at(source, value);
                    // A negative one is taken off what the route has.
                    match value.text.parse::<u32>() {
                        Ok(number) => options.set(Key::MaxSegment, number.to_string(), &place),
                        Err(_) => notes.add(
                            Kind::NotAnOption,
                            &place,
                            "left out: a segment size that depends on the route",
                            "",
                        ),
                    }
                }
            }
            "transparent" => options.set(Key::Transparent, "true", &place),
            "v6only" => {
                if let Some(number) = option_number(SOL_IPV6, "IPV6_V6ONLY") {
                    options.set_raw(i64::from(SOL_IPV6), i64::from(number), "1", &place);
                }
            }
            "tfo" => {
                let message = "left out: the length of the queue is HAProxy's own";
                notes.add(Kind::OwnTimer, &place, message, "write fastopen = 256, for example");
            }
            "backlog" => {
                let message = "left out: the backlog is an argument of listen(2), no socket option";
                notes.add(Kind::NotAnOption, &place, message, "");
            }
            _ => {}
        }
    }
    section.lines.push(Line { side: Side::Listen, name: section.name.clone(), addresses, options, place });
}

fn server(section: &mut Section, name: &Word, address: &Word, parameters: &[Word], source: usize, notes: &mut Notes) {
    let place = at(source, address);
    let mut options = section.default_server.clone();
    server_options(&mut options, parameters, source, notes);
    let name = format!("{}/{}", section.name, name.text);
    section.lines.push(Line {
        side: Side::To,
        name,
        addresses: vec![(address.text.clone(), place.clone())],
        options,
        place,
    });
}

fn server_options(options: &mut Options, parameters: &[Word], source: usize, notes: &mut Notes) {
    let mut words = parameters.iter();
    while let Some(word) = words.next() {
        match word.text.as_str() {
            "tcp-ut" => user_timeout(options, words.next(), source, notes),
            "tfo" => options.set(Key::Fastopen, "true", &at(source, word)),
            "no-tfo" => options.set(Key::Fastopen, "false", &at(source, word)),
            "interface" => {
                if let Some(name) = words.next() {
                    options.set(Key::Interface, quoted(&name.text), &at(source, name));
                }
            }
            _ => {}
        }
    }
}

/// Milliseconds, where there is no unit.
fn user_timeout(options: &mut Options, value: Option<&Word>, source: usize, notes: &mut Notes) {
    let Some(value) = value else { return };
    let place = at(source, value);
    match time::nanoseconds(&value.text, time::HAPROXY, Some(SECOND / 1_000)) {
        Some(0) => options.set(Key::UserTimeout, "\"off\"", &place),
        Some(all) => options.set(Key::UserTimeout, format!("\"{}\"", time::duration(all)), &place),
        None => notes.add(Kind::Unreadable, &place, format!("\"{}\" is no time", value.text), ""),
    }
}

/// The rules of a section.
fn finish(section: Section, context: &mut Context<'_>) {
    if !matches!(section.kind.as_str(), "frontend" | "backend" | "listen") {
        return;
    }
    for line in &section.lines {
        let mut draft =
            Draft::new(line.place.clone(), format!("{} {}", section.kind, section.name), &line.name, line.side);
        draft.options = line.options.clone();
        draft.options.keepalive =
            if line.side == Side::Listen { section.clients.clone() } else { section.servers.clone() };
        if let Some((false, _)) = draft.options.keepalive.on {
            // Switched off again, which is the system's way.
            draft.options.keepalive = Keepalive::default();
        }
        if let Some((true, place)) = &section.reset {
            draft.options.set(Key::Linger, "\"reset\"", place);
        }
        if draft.options.is_empty() {
            continue;
        }
        for (address, place) in &line.addresses {
            aim(&mut draft, address, place, &mut context.notes);
        }
        context.add(draft);
    }
}

fn aim(draft: &mut Draft, address: &str, place: &Place, notes: &mut Notes) {
    let (family, address) = address.split_once('@').unwrap_or(("", address));
    match family {
        "" | "ip" | "ipv4" | "ipv6" | "tcp" | "tcp4" | "tcp6" | "mptcp" | "mptcp4" | "mptcp6" => {}
        // tcp-ut is ignored there, as keepalive is.
        "quic4" | "quic6" | "udp" | "udp4" | "udp6" => {
            notes.add(Kind::NoMatch, place, format!("left out: {family}@ is UDP, which has no such options"), "");
            return;
        }
        _ => {
            notes.add(Kind::NoMatch, place, format!("left out: {family}@ is no TCP address"), "");
            return;
        }
    }
    // A server without a port, or with one that is added to the client's.
    let address = match address.rsplit_once(':') {
        Some((host, port)) if draft.side == Side::To && (port.is_empty() || port.starts_with(['+', '-'])) => host,
        _ => address,
    };
    // IPv6 without brackets: the port is behind the last colon.
    let bare = address.rsplit_once(':').filter(|(host, _)| host.contains(':') && !host.starts_with('['));
    match bare {
        Some((host, port)) if host != "::" && host != ":" => {
            text::aim(draft, &format!("[{host}]:{port}"), place, notes)
        }
        Some((_, port)) => text::aim(draft, &format!(":{port}"), place, notes),
        None => text::aim(draft, address, place, notes),
    }
}

/// Whether a text is of this kind: sections without braces.
pub(crate) fn is_haproxy(text: &str) -> bool {
    let mut is_section = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("frontend" | "backend" | "listen" | "defaults" | "global")
                if !line.trim_end().ends_with(['{', ';']) =>
            {
                is_section = true;
            }
            Some("bind" | "server" | "option" | "mode" | "timeout")
                if is_section && !line.trim_end().ends_with(';') =>
            {
                return true;
            }
            _ => {}
        }
    }
    false
}
