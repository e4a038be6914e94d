//! nginx's configuration: nginx.org/en/docs, "listen" of ngx_http_core_module and ngx_stream_core_module (`so_keepalive`, `rcvbuf`,
//! `sndbuf`, `fastopen`, `deferred`, `reuseport`, `ipv6only`, `udp`, `quic`), `proxy_socket_keepalive`, `proxy_connect_timeout` and their
//! like, and "Configuration file measurement units".

use std::collections::BTreeMap;
use std::ops::Range;

use policy::Key;
use policy::constants::{SOL_IPV6, option_number};
use policy::units::DisplayBytes;

use crate::context::Context;
use crate::draft::{Draft, Options, Part};
use crate::note::{Kind, Notes, Place};
use crate::oracle::Side;
use crate::text::{self, Word};
use crate::time;

/// Modules that connect, and the port of each where its address has none.
const MODULES: [&str; 6] = ["proxy", "fastcgi", "uwsgi", "scgi", "grpc", "memcached"];

/// A directive, and in which block it stands.
struct Directive {
    words: Vec<Word>,
    block: usize,
}

/// A block, its name, and the one that it stands in.
struct Block {
    words: Vec<Word>,
    parent: usize,
}

/// Reads a file.
pub(crate) fn read(source: usize, context: &mut Context<'_>) {
    let (directives, blocks) = parse(context.text(source));
    let at = |word: &Word| Place { source, span: word.span.clone() };
    let mut upstreams: BTreeMap<&str, Vec<&Word>> = BTreeMap::new();
    for Directive { words, block } in &directives {
        if let ([server, address, ..], Some([upstream, name])) =
            (words.as_slice(), blocks.get(*block).map(|block| block.words.as_slice()))
            && server.text == "server"
            && upstream.text == "upstream"
        {
            upstreams.entry(name.text.as_str()).or_default().push(address);
        }
    }
    let mut is_timer_told = false;
    for Directive { words, block } in &directives {
        let [name, address, rest @ ..] = words.as_slice() else { continue };
        let is_timer = |module| name.text.strip_suffix("_connect_timeout") == Some(module);
        if MODULES.into_iter().any(is_timer) && !std::mem::replace(&mut is_timer_told, true) {
            text::own_connect_timer("nginx", &name.text, &at(name), &mut context.notes);
        }
        if name.text == "listen" {
            listen(address, rest, source, context);
            continue;
        }
        let Some(module) = name.text.strip_suffix("_pass").filter(|module| MODULES.contains(module)) else { continue };
        let Some(switch) = nearest(&format!("{module}_socket_keepalive"), *block, &directives, &blocks) else {
            continue;
        };
        if switch.text != "on" {
            continue;
        }
        let mut draft =
            Draft::new(at(switch), format!("{module}_socket_keepalive of {}", address.text), &address.text, Side::To);
        draft.options.keepalive.on = Some((true, at(switch)));
        pass(&mut draft, address, &upstreams, source, &mut context.notes);
        context.add(draft);
    }
}

/// The value of a directive in this block or the nearest around it.
fn nearest<'d>(name: &str, block: usize, directives: &'d [Directive], blocks: &[Block]) -> Option<&'d Word> {
    let mut here = block;
    loop {
        let own = directives.iter().rev().filter(|directive| directive.block == here);
        let found = own
            .map(|directive| directive.words.as_slice())
            .find(|words| words.first().is_some_and(|word| word.text == name));
        if let Some([_, value, ..]) = found {
            return Some(value);
        }
        if here == 0 {
            return None;
        }
        here = blocks.get(here)?.parent;
    }
}

/// Where a directive connects to.
fn pass(draft: &mut Draft, address: &Word, upstreams: &BTreeMap<&str, Vec<&Word>>, source: usize, notes: &mut Notes) {
    let place = Place { source, span: address.span.clone() };
    let (scheme, rest) = address.text.split_once("://").unwrap_or(("", &address.text));
    let host = rest.split('/').next().unwrap_or_default();
    if rest.contains('$') {
        notes.add(Kind::NoMatch, &place, "left out: where it connects to is known to nginx alone, by variables", "");
        return;
    }
    if rest.starts_with("unix:") {
        notes.add(Kind::NoMatch, &place, "left out: a UNIX socket, which has no TCP options", "");
        return;
    }
    let default = match scheme {
        "https" | "grpcs" => Some("443"),
        "http" | "grpc" => Some("80"),
        _ => None,
    };
    let with_port = |host: &str, default: Option<&str>| {
        let has_port =
            host.rsplit_once(':').is_some_and(|(before, _)| !before.starts_with('[') || before.ends_with(']'));
        default.filter(|_| !has_port).map_or(host.to_owned(), |port| format!("{host}:{port}"))
    };
    match upstreams.get(host) {
        Some(servers) => {
            for server in servers {
                let place = Place { source, span: server.span.clone() };
                text::aim(draft, &with_port(&server.text, Some("80")), &place, notes);
            }
        }
        None => text::aim(draft, &with_port(host, default), &place, notes),
    }
}

fn listen(address: &Word, parameters: &[Word], source: usize, context: &mut Context<'_>) {
    let place = Place { source, span: address.span.clone() };
    let mut draft = Draft::new(
        place.clone(),
        format!("listen {}", address.text),
        &format!("listen {}", address.text),
        Side::Listen,
    );
    if parameters.iter().any(|parameter| matches!(parameter.text.as_str(), "udp" | "quic")) {
        draft.title.push_str(", UDP");
        draft.side = Side::Udp;
    }
    let options = &mut draft.options;
    let notes = &mut context.notes;
    for parameter in parameters {
        let (name, value) = parameter.text.split_once('=').unwrap_or((&parameter.text, ""));
        let place = Place { source, span: parameter.span.clone() };
        match name {
            "so_keepalive" => keepalive(options, value, &place, notes),
            "rcvbuf" | "sndbuf" => {
                let key = if name == "rcvbuf" { Key::ReceiveBuffer } else { Key::SendBuffer };
                match time::bytes(value) {
                    Some(bytes) => options.set(key, format!("\"{}\"", DisplayBytes(bytes)), &place),
                    None => notes.add(Kind::Unreadable, &place, format!("\"{value}\" is no size"), "for example 64k"),
                }
            }
            "fastopen" => {
                if let Some(number) = text::number(value, &place, notes) {
                    options.set(Key::Fastopen, number.to_string(), &place);
                }
            }
            // nginx asks for one second.
            "deferred" => options.set(Key::DeferAccept, "\"1s\"", &place),
            "reuseport" => options.set(Key::ReusePort, "true", &place),
            "ipv6only" => {
                if let Some(number) = option_number(SOL_IPV6, "IPV6_V6ONLY") {
                    let on = if value == "on" { "1" } else { "0" };
                    options.set_raw(i64::from(SOL_IPV6), i64::from(number), on, &place);
                }
            }
            "backlog" => {
                let message = "left out: the backlog is an argument of listen(2), no socket option";
                notes.add(Kind::NotAnOption, &place, message, "");
            }
            _ => {}
        }
    }
    if draft.options.is_empty() {
        return;
    }
    // An address alone is port 80's.
    let is_alone = !address.text.contains(':') && address.text.contains('.')
        || address.text.starts_with('[') && address.text.ends_with(']');
    let target = if is_alone { format!("{}:80", address.text) } else { address.text.clone() };
    text::aim(&mut draft, &target, &place, notes);
    context.add(draft);
}

/// `on`, `off`, or `idle:interval:count`, any of which may be missing.
fn keepalive(options: &mut Options, value: &str, place: &Place, notes: &mut Notes) {
    match value {
        "on" => options.keepalive.on = Some((true, place.clone())),
        "off" => options.keepalive.on = Some((false, place.clone())),
        times => {
            let parts: Vec<&str> = times.split(':').collect();
            let [idle, interval, count] = parts.as_slice() else {
                notes.add(
                    Kind::Unreadable,
                    place,
                    format!("\"{value}\" is no so_keepalive"),
                    "on, off or idle:interval:count",
                );
                return;
            };
            options.keepalive.on = Some((true, place.clone()));
            for (part, slot) in [(idle, &mut options.keepalive.time), (interval, &mut options.keepalive.interval)] {
                if !part.is_empty() {
                    *slot = text::seconds(part, time::NGINX, place, "nginx", notes);
                }
            }
            if !count.is_empty() {
                let number = text::number(count, place, notes);
                options.keepalive.probes = number.map(|value| Part { value, place: place.clone() });
            }
        }
    }
}

/// Directives and blocks; block 0 is the file.
fn parse(text: &str) -> (Vec<Directive>, Vec<Block>) {
    let mut blocks = vec![Block { words: Vec::new(), parent: 0 }];
    let (mut directives, mut words, mut here) = (Vec::new(), Vec::new(), 0);
    let mut rest = 0;
    while let Some((word, span)) = token(text, &mut rest) {
        match word {
            Token::Word(word) => words.push(Word { text: word, span }),
            Token::End => directives.push(Directive { words: std::mem::take(&mut words), block: here }),
            Token::Open => {
                blocks.push(Block { words: std::mem::take(&mut words), parent: here });
                here = blocks.len() - 1;
            }
            Token::Close => {
                words.clear();
                here = blocks.get(here).map_or(0, |block| block.parent);
            }
        }
    }
    (directives, blocks)
}

enum Token {
    Word(String),
    End,
    Open,
    Close,
}

/// The next word or sign from a place on.
fn token(text: &str, from: &mut usize) -> Option<(Token, Range<usize>)> {
    let mut letters = text.get(*from..)?.char_indices().map(|(at, c)| (*from + at, c)).peekable();
    let (mut word, mut start, mut quote) = (String::new(), None, None);
    let end = loop {
        let Some((at, c)) = letters.next() else { break text.len() };
        match (quote, c) {
            (Some(own), c) if own == c => quote = None,
            (_, '\\') => {
                start.get_or_insert(at);
                if let Some((_, next)) = letters.next() {
                    word.push(next);
                }
            }
            (Some(_), c) => word.push(c),
            (None, '#') if start.is_none() => while letters.next_if(|(_, c)| *c != '\n').is_some() {},
            (None, ';' | '{' | '}') if start.is_none() => {
                *from = at + 1;
                let sign = match c {
                    ';' => Token::End,
                    '{' => Token::Open,
                    _ => Token::Close,
                };
                return Some((sign, at..at + 1));
            }
            // `${name}` is a variable.
            (None, '{') if word.ends_with('$') => word.push(c),
            (None, '}') if word.contains("${") => word.push(c),
            (None, ';' | '{' | '}') => break at,
            (None, c) if c.is_whitespace() => {
                if start.is_some() {
                    break at;
                }
            }
            (None, '"' | '\'') if start.is_none() => {
                start = Some(at);
                quote = Some(c);
            }
            (None, c) => {
                start.get_or_insert(at);
                word.push(c);
            }
        }
    };
    *from = end;
    start.map(|start| (Token::Word(word), start..end))
}

/// Whether a text is of this kind.
pub(crate) fn is_nginx(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim();
        let is_block = ["http", "server", "stream", "events", "upstream", "location"].iter().any(|name| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']) && rest.trim_end().ends_with('{'))
        });
        is_block || line.starts_with("listen ") && line.ends_with(';')
    })
}
