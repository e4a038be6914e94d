//! What must hold for any input. The fuzz targets and `tests/properties.rs`, which replays the corpus, share it.

use std::fmt::{self, Write as _};
use std::io::Cursor;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use launch::executable;
use object::ReadCache;
use policy::rules::{Inheritance, Rules};
use policy::{
    Bypass, Compiled, Configuration, Connection, Endpoint, Enforce, HostSet, Key, Listed, Phase, Phases, Process,
    Source, compile,
};
use socket::Address;
use socket::memory::Place;

/// A text as a configuration file.
#[allow(dead_code, reason = "each target uses its own")]
pub(crate) fn configuration(text: &str) -> Configuration {
    Configuration { document: Some(Source { name: "fuzz.toml".into(), text: text.into() }), variables: Vec::new() }
}

/// A text as variables: a line is a name without its prefix, `=`, and a value; after a line `---` comes the file.
#[allow(dead_code, reason = "each target uses its own")]
pub(crate) fn environment(text: &str) -> Configuration {
    let (variables, document) = text.split_once("---\n").map_or((text, None), |(before, after)| (before, Some(after)));
    let variables = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| Source { name: format!("SOCKOPT_{name}"), text: value.into() })
        .collect();
    Configuration { document: document.and_then(|text| configuration(text).document), variables }
}

/// Compiles a configuration and looks at every part of the outcome.
#[allow(dead_code, reason = "each target uses its own")]
pub(crate) fn compiled(configuration: &Configuration) -> Compiled {
    let process = Process { names: vec!["java".into()], command: "java -jar ApacheJMeter.jar".into() };
    let compiled = compile(configuration, &process);
    assert!(compiled.sources.iter().eq(configuration.document.iter().chain(&configuration.variables)));
    let errors = compiled.rules.as_ref().err();
    assert!(errors.is_none_or(|errors| !errors.is_empty()), "refused without a reason");
    for problems in [errors.unwrap_or(&Listed::default()), &compiled.warnings] {
        assert!(problems.is_sorted_by_key(|problem| (problem.source, problem.span.start)), "{problems:?}");
        for problem in problems {
            let source = &compiled.sources[problem.source];
            assert!(source.text.get(problem.span.clone()).is_some(), "{problem:?} is not within its text");
            assert!(!problem.message.is_empty() && problem.help.as_ref().is_none_or(|help| !help.is_empty()));
            // The name is as the system gave it; who writes the line makes blanks of what would break it.
            let line = write!(OneLine { free: source.name.len() }, "{}", problem.one_line(&compiled.sources));
            assert!(line.is_ok(), "{:?} is more than one line", problem.one_line(&compiled.sources).to_string());
        }
    }
    if let Ok(rules) = &compiled.rules {
        let by_text =
            configuration.document.as_ref().is_some_and(|source| policy::matcher::may_name_hosts(&source.text));
        let by_variable = configuration.variables.iter().any(|variable| variable.name == "SOCKOPT_TO");
        assert!(!rules.names_hosts() || by_text || by_variable, "a host that the look of the text does not tell");
        hold(rules);
    }
    compiled
}

/// Takes a text as long as it is one line after so many bytes.
struct OneLine {
    free: usize,
}

impl fmt::Write for OneLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = self.free.min(text.len());
        self.free -= free;
        if text.bytes().skip(free).any(|byte| byte.is_ascii_control()) { Err(fmt::Error) } else { Ok(()) }
    }
}

const EVERY_PHASE: [Phase; 6] =
    [Phase::Connect, Phase::Datagram, Phase::Bind, Phase::Listen, Phase::Accept, Phase::AcceptAlways];

/// What is said of the rules as a whole agrees with each decision.
#[allow(dead_code, reason = "each target uses its own")]
fn hold(rules: &Rules) {
    assert!(rules.rules().count() <= rules.rule_count());
    for ip in [IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)), Ipv6Addr::LOCALHOST.into()] {
        let (one, other) = (Endpoint::new(ip, 443), Endpoint::new(ip, 40_000));
        for connection in [
            Connection::Outbound { peer: one },
            Connection::Binding { local: one },
            Connection::BindingUdp { local: one },
            Connection::Listening { local: one },
            Connection::Inbound { local: one, peer: other },
        ] {
            let decision = rules.decide(&connection);
            let profile = decision.profile();
            assert!(decision.rule().is_none_or(|rule| rules.rules().any(|known| known == rule)));
            for phase in EVERY_PHASE {
                let is_set = profile.settings().iter().any(|setting| setting.phases.contains(phase));
                let phase = Phases::of(&[phase]);
                assert_eq!(decision.bypass(phase).is_none(), is_set);
                assert!(is_set || rules.plan(connection, phase, &HostSet::NONE).settings().next().is_none());
                assert!(!is_set || rules.phases().intersects(phase));
            }
            for setting in profile.settings() {
                assert!(setting.id < rules.setting_count());
                assert!(setting.phases != Phases::NONE, "{setting} is never set");
                // connect_timeout alone is no user timeout of the rule's.
                let is_enforced = profile.enforce() == Enforce::Always && setting.key != Key::ConnectTimeout;
                assert!(!is_enforced || rules.enforces(setting.level, setting.name));
            }
        }
        let on_listener = rules.plan(Connection::Listening { local: one }, Phases::NONE, &HostSet::NONE);
        // Who is told that nothing is needed any more, or little, must be right about every peer.
        if on_listener.inheritance() != Inheritance::None {
            let inbound = rules.decide(&Connection::Inbound { local: one, peer: other });
            assert_eq!(inbound, on_listener.decision());
            let always = Phases::of(&[Phase::AcceptAlways]);
            assert_eq!(on_listener.inheritance() == Inheritance::Partial, inbound.bypass(always).is_none());
        }
    }
}

/// Any bytes as a socket address, read from a slice, from memory that ends with them, and through a message.
#[allow(dead_code, reason = "each target uses its own")]
pub(crate) fn address(bytes: &[u8]) {
    let pure = Address::new(bytes).endpoint();
    let length = u32::try_from(bytes.len()).expect("a short input");
    let copied = Place::here().page().address(bytes.as_ptr().cast(), length);
    // None where the kernel takes none of that length.
    let is_taken = (2..=128).contains(&length);
    assert_eq!(copied.map(|copied| copied.endpoint()), is_taken.then_some(pure));
    let native = |range: std::ops::Range<usize>| bytes.get(range).and_then(|two| <[u8; 2]>::try_from(two).ok());
    let family = native(0..2).map(|family| i32::from(u16::from_ne_bytes(family)));
    let expected = match family {
        None => Err(Bypass::BadAddress),
        Some(libc::AF_INET) if bytes.len() < 16 => Err(Bypass::BadAddress),
        Some(libc::AF_INET6) if bytes.len() < 24 => Err(Bypass::BadAddress),
        Some(libc::AF_INET | libc::AF_INET6) => Ok(()),
        Some(_) => Err(Bypass::NotInternet),
    };
    assert_eq!(pure.map(drop), expected);
    let Ok(endpoint) = pure else { return };
    assert_eq!(Some(endpoint.port()), native(2..4).map(u16::from_be_bytes));
    assert_eq!(endpoint.ip().to_canonical(), endpoint.ip());
    let text = endpoint.to_string();
    let read: SocketAddr = text.parse().expect("an endpoint prints as an address");
    assert_eq!((read.ip(), read.port()), (endpoint.ip(), endpoint.port()));
}

/// Any bytes as a program: the file is judged as its bytes are, read in pieces or not.
#[allow(dead_code, reason = "each target uses its own")]
pub(crate) fn executable(bytes: &[u8]) {
    let whole = executable::Image::read(bytes);
    assert!(whole.is_none() || bytes.starts_with(b"\x7fELF"), "no ELF file, but read");
    // A cache for each question: it knows texts by where they begin, and takes them for whole where another question's
    // table ends before.
    let cache = || ReadCache::new(Cursor::new(bytes));
    assert_eq!(executable::Image::read(&cache()), whole);
    for defined in [false, true] {
        assert_eq!(executable::symbols(&cache(), defined), executable::symbols(bytes, defined));
    }
    let Some(image) = whole else { return };
    for calls_sockets in [false, true] {
        let verdict = image.verdict("fuzz", image.architecture, || calls_sockets);
        assert!(verdict.is_some() || image.loader.is_some(), "static, but nothing is said of it");
        let whys = verdict.iter().map(|verdict| &verdict.why);
        whys.for_each(|why| assert!(why.starts_with("fuzz is ") && !why.contains('\n'), "{why}"));
    }
    let _ = (image.libc(), image.is_shared_library());
}
