//! `sockopt explain`: which rule a connection gets, what is set on it and why, and how long its peer may be gone unnoticed.

use std::env;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;

use anstyle::{AnsiColor, Style};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use comfy_table::{ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle};
use policy::constants;
use policy::explain::{Asked, Candidate, Environment, Explainer, Given};
use policy::plain::Plain;
use policy::plan::Plan;
use policy::rules::Inheritance;
use policy::timers::{End, ROUND_TRIP_MS, State, Sysctls, Timers};
use policy::{
    Connection, Endpoint, Enforce, HostSet, Key, Name, Origin, Phase, Phases, Process, Rules, Setting, Source, Value,
};
use serde::Serialize;

use crate::{args, check, exit, output, sysctl};

const EXAMPLES: &str = "Examples:
  sockopt explain --config sockopt.toml --process java 10.1.2.3:443
  sockopt explain --dead-peer-timeout 15s --all example.org:443
  sockopt explain --listen :8080 --from 10.9.9.9";

pub(crate) fn command() -> Command {
    let command = Command::new("explain")
        .about("Explain what a connection gets, and how soon a lost peer is seen")
        .long_about(
            "Shows the rule that matches, the options with their origin, the setsockopt calls in order, and for each \
             state of TCP how long a peer that vanished goes unnoticed: with this configuration, and in a program that \
             sets nothing. The times are the kernel's own formulas with this machine's net.ipv4.* and the rounding of \
             its timers.",
        )
        .after_long_help(format!(
            "{}\n\n{EXAMPLES}",
            exit::section(&[
                (exit::OK, "explained"),
                (exit::NO_ADDRESS, "a name has no address"),
                (exit::USAGE, "wrong usage"),
                (exit::CONFIGURATION, "the configuration has errors"),
            ])
        ))
        .arg(
            Arg::new("host")
                .value_name("HOST[:PORT]")
                .help("A destination: an address, or a name, each of whose addresses is explained"),
        )
        .arg(Arg::new("listen").long("listen").value_name("ADDRESS").help("A listener instead, e.g. :8080"))
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("PEER")
                .requires("listen")
                .hide_short_help(true)
                .help("What it accepts from this client"),
        )
        .group(ArgGroup::new("what").args(["host", "listen"]).required(true))
        .arg(
            Arg::new("program")
                .long("process")
                .value_name("NAME")
                .hide_short_help(true)
                .help("In this process: the base name of its executable or script, for rules with `process`"),
        )
        .arg(
            Arg::new("command")
                .long("command")
                .value_name("LINE")
                .hide_short_help(true)
                .help("With this command line, for rules with `command`"),
        )
        .arg(Arg::new("all").long("all").action(ArgAction::SetTrue).help("Every rule, and why it does not match"))
        .arg(args::json());
    args::with_shortcuts(args::with_control(command, &["config", "to"]))
}

pub(crate) fn explain(matches: &ArgMatches) -> u8 {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let connections = match connections(text("host"), text("listen"), text("from")) {
        Ok(connections) => connections,
        Err((why, code)) => {
            output::error(&why, None);
            return code;
        }
    };
    let process = Process {
        names: text("program").map(base_name).into_iter().collect(),
        command: text("command").unwrap_or_default().to_owned(),
    };
    let loaded = args::loaded(&args::variables(matches));
    let parsed = loaded.configuration.parse();
    let compiled = parsed.compile(&process);
    if let Err(code) = check::report(&loaded, &compiled) {
        return code;
    }
    let Ok(rules) = &compiled.rules else { return exit::CONFIGURATION };
    let (machine, missing) = sysctl::read();
    let asked = asked(text("host").unwrap_or_default());
    let context = Context {
        rules,
        hosts: asked.hosts(rules),
        is_by_address: asked.name.is_none(),
        explainer: Explainer::new(&parsed, &process, &asked),
        sources: &compiled.sources,
        sysctls: &machine.sysctls,
        process: &process,
        all: matches.get_flag("all"),
    };
    let mut explanations: Vec<Explanation> = Vec::new();
    for what in connections {
        let explanation = context.explain(&what);
        // The addresses of a name mostly get the same.
        match explanations.iter_mut().find(|known| known.found == explanation.found) {
            Some(known) => known.addresses.extend(explanation.addresses),
            None => explanations.push(explanation),
        }
    }
    let mut notes = Vec::new();
    if loaded.disabled {
        notes.push("SOCKOPT_DISABLE is set: the library does nothing".to_owned());
    } else if !loaded.is_configured() {
        notes.push("no configuration: the library sets nothing".to_owned());
    }
    if !missing.is_empty() {
        notes.push(format!("taken for the kernel's default: net.ipv4.{}", missing.join(", net.ipv4.")));
    }
    if matches.get_flag("json") {
        let report = Report { connections: &explanations, notes: &notes, machine: Figures::new(&machine.sysctls) };
        output::print(&output::json(&report, true));
    } else {
        let blocks: Vec<String> = explanations.iter().map(Explanation::text).collect();
        output::print(&blocks.join("\n"));
        if explanations.iter().any(|explanation| !explanation.found.unnoticed.is_empty()) {
            output::print(&format!("\n{}\n", Figures::new(&machine.sysctls)));
        }
        notes.iter().for_each(|note| output::note(note));
    }
    exit::OK
}

/// What is to be explained.
#[derive(Clone, Copy)]
enum What {
    Connect(Endpoint),
    Listen(Endpoint),
    Accept { local: Endpoint, peer: Endpoint },
}

type Refused = (String, u8);

fn connections(host: Option<&str>, listen: Option<&str>, from: Option<&str>) -> Result<Vec<What>, Refused> {
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
        return Err((format!("--from {from}: a client of another IP version than {listen}"), exit::USAGE));
    }
    Ok(found)
}

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
fn asked(text: &str) -> Asked {
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
    let port: u16 = port.parse().map_err(|_| (format!("{text}: \"{port}\" is not a port"), exit::USAGE))?;
    if host.is_empty() || host.contains("://") || host.contains('/') {
        return Err((format!("{text}: not a host; accepted: 10.1.2.3:443, [::1]:443, example.org:443"), exit::USAGE));
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
fn base_name(program: &str) -> String {
    Path::new(program).file_name().map_or_else(|| program.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// What everything is explained from.
struct Context<'a> {
    rules: &'a Rules,
    /// What of the rules' names the destination is known by.
    hosts: HostSet,
    is_by_address: bool,
    explainer: Explainer<'a>,
    sources: &'a [Source],
    sysctls: &'a Sysctls,
    process: &'a Process,
    /// Whether every rule is listed.
    all: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    connections: &'a [Explanation],
    notes: &'a [String],
    machine: Figures,
}

/// Everything that is to be said of one connection, or of several that get the same.
#[derive(Serialize)]
struct Explanation {
    addresses: Vec<String>,
    #[serde(flatten)]
    found: Found,
}

#[derive(Serialize, PartialEq)]
struct Found {
    /// `connect`, `listen` or `accept`.
    call: &'static str,
    /// The client.
    from: Option<String>,
    /// The rule that matches.
    rule: Option<RuleLine>,
    /// What counts where no rule matches.
    #[serde(skip)]
    otherwise: String,
    /// Every rule, in order; none but with --all.
    rules: Vec<RuleLine>,
    /// Who has the last word.
    #[serde(serialize_with = "as_written")]
    enforce: Enforce,
    steps: Vec<Step>,
    /// Options that are `"system"`.
    left_to_the_program: Vec<Place>,
    unnoticed: Vec<Row>,
    notes: Vec<String>,
}

#[derive(Serialize, PartialEq, Clone)]
struct RuleLine {
    name: Option<String>,
    number: usize,
    file: String,
    line: usize,
    /// Why it does not match.
    mismatch: Option<String>,
}

/// The calls of one phase.
#[derive(Serialize, PartialEq)]
struct Step {
    /// `before connect`.
    when: &'static str,
    calls: Vec<Call>,
}

/// One setsockopt.
#[derive(Serialize, PartialEq)]
struct Call {
    level: String,
    name: String,
    /// A number, or what setsockopt(2) takes as text.
    value: serde_json::Value,
    from: Option<Place>,
}

/// Where an option stands.
#[derive(Serialize, PartialEq, Clone)]
struct Place {
    /// The key that stands there.
    key: &'static str,
    /// `defaults`, `rule` or `environment`.
    layer: &'static str,
    /// The file or the variable.
    source: String,
    line: usize,
    column: usize,
}

/// How long a peer may be gone, in one state.
#[derive(Serialize, PartialEq)]
struct Row {
    state: &'static str,
    #[serde(skip)]
    shown: &'static str,
    with: Times,
    without: Times,
}

/// Milliseconds; neither is never.
#[derive(Serialize, PartialEq)]
struct Times {
    earliest_ms: Option<u64>,
    latest_ms: Option<u64>,
    #[serde(skip)]
    end: End,
}

impl From<End> for Times {
    fn from(end: End) -> Self {
        let (earliest_ms, latest_ms) = match end {
            End::Between { earliest, latest } => (Some(earliest), Some(latest)),
            End::Never => (None, None),
        };
        Self { earliest_ms, latest_ms, end }
    }
}

/// What the times are computed from.
#[derive(Serialize)]
struct Figures {
    tcp_keepalive_time: u64,
    tcp_keepalive_intvl: u64,
    tcp_keepalive_probes: u64,
    tcp_retries2: u64,
    tcp_orphan_retries: u64,
    tcp_syn_retries: u64,
    tcp_syn_linear_timeouts: u64,
    tcp_rto_min_us: u64,
    tcp_rto_max_ms: u64,
    tcp_fastopen: u64,
    ticks_per_second: Option<u64>,
    round_trip_ms: u64,
}

impl Figures {
    fn new(sysctls: &Sysctls) -> Self {
        Self {
            tcp_keepalive_time: sysctls.keepalive_time,
            tcp_keepalive_intvl: sysctls.keepalive_interval,
            tcp_keepalive_probes: sysctls.keepalive_probes,
            tcp_retries2: sysctls.retries2,
            tcp_orphan_retries: sysctls.orphan_retries,
            tcp_syn_retries: sysctls.syn_retries,
            tcp_syn_linear_timeouts: sysctls.syn_linear_timeouts,
            tcp_rto_min_us: sysctls.rto_min_us,
            tcp_rto_max_ms: sysctls.rto_max_ms,
            tcp_fastopen: sysctls.fastopen,
            ticks_per_second: sysctls.ticks_per_second,
            round_trip_ms: ROUND_TRIP_MS,
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ticks = self.ticks_per_second.map_or("any number of".to_owned(), |rate| rate.to_string());
        write!(
            f,
            "Idle counts from the peer's last packet, data from when it was sent, a closed\n\
             window from when it closed. \"Without\" is a program that sets nothing itself.\n\
             By this machine's net.ipv4.tcp_* and {ticks} timer ticks a second, for round\n\
             trips of up to {} ms.",
            self.round_trip_ms
        )
    }
}

impl Context<'_> {
    fn explain(&self, what: &What) -> Explanation {
        let mut notes = Vec::new();
        let named = what;
        let what = &match *what {
            What::Connect(peer) => What::Connect(peer.as_destination_of_any()),
            other => other,
        };
        if let (What::Connect(named), What::Connect(peer)) = (named, what)
            && named != peer
        {
            notes.push(format!("the kernel takes {} for this machine: {}", named.ip(), peer.ip()));
        }
        let (call, endpoint, from) = match *what {
            What::Connect(peer) => ("connect", peer, None),
            What::Listen(local) => ("listen", local, None),
            What::Accept { local, peer } => ("accept", local, Some(peer)),
        };
        let connection = match *what {
            What::Connect(peer) => Connection::Outbound { peer },
            What::Listen(local) => Connection::Listening { local },
            What::Accept { local, peer } => Connection::Inbound { local, peer },
        };
        let decision = self.rules.decide_named(&connection, &self.hosts);
        let (steps, settings) = match *what {
            What::Connect(peer) => self.outbound(peer),
            What::Listen(local) => self.inbound(local, None, &mut notes),
            What::Accept { local, peer } => self.inbound(local, Some(peer), &mut notes),
        };
        let timers = settings.as_ref().map(|settings| Timers::of(settings.iter().copied()));
        if timers.is_some_and(|timers| timers.connect_timeout.is_some() && timers.may_wait_for_data(self.sysctls)) {
            notes.push(
                "connecting: the later time is where the kernel has a Fast Open cookie, and SYNs are counted instead"
                    .to_owned(),
            );
        }
        let steps: Vec<Step> = steps.into_iter().filter(|step| !step.calls.is_empty()).collect();
        let candidates = self.explainer.candidates(&connection);
        let matched = candidates.iter().find(|candidate| candidate.mismatch.is_none());
        let listed = if self.all { &candidates[..] } else { &[] };
        let is_set = !steps.is_empty();
        // Where no rule matched, a decision is called after its layers.
        let otherwise = if is_set { format!("{decision} only") } else { "nothing is set".to_owned() };
        let left = self.explainer.given(&connection).into_iter().filter(|given| given.is_left);
        self.note(&candidates, &connection, endpoint, &mut notes);
        match decision.profile().enforce() {
            _ if !is_set => {}
            Enforce::Always => {}
            Enforce::Never => notes.push("enforce is off: what the program sets itself later holds".to_owned()),
            Enforce::Fill => notes.push(
                "enforce is \"fill\": set only where the program has left the system's default, the keepalive as a whole; \
                 the times are those of a program that sets nothing itself"
                    .to_owned(),
            ),
        }
        let lingers = decision.profile().settings().iter().find_map(|setting| match setting.value {
            Value::Linger { on: true, seconds: seconds @ 1.. } => Some(seconds),
            _ => None,
        });
        if let Some(seconds) = lingers.filter(|_| is_set) {
            notes.push(format!(
                "close waits up to {seconds} s while data is not acknowledged, also on a non-blocking socket"
            ));
        }
        if is_set && decision.profile().settings().iter().any(|setting| setting.key == Key::Interface) {
            notes.push(
                "interface is not for name look-ups of the C library, nor for UDP that is sent without connect or bind"
                    .to_owned(),
            );
        }
        let left_to_the_program: Vec<Place> = left.map(|given| self.place(&given)).collect();
        if left_to_the_program.iter().any(|place| matches!(place.key, "keepalive" | "user_timeout")) {
            notes.push("what is left to the program counts as not set in the times".to_owned());
        }
        let found = Found {
            call,
            from: from.map(shown),
            rule: matched.map(|candidate| self.rule_line(candidate)),
            otherwise,
            rules: listed.iter().map(|candidate| self.rule_line(candidate)).collect(),
            enforce: decision.profile().enforce(),
            steps,
            left_to_the_program,
            unnoticed: settings.map_or_else(Vec::new, |settings| {
                self.unnoticed(Timers::of(settings), matches!(what, What::Connect(_)))
            }),
            notes,
        };
        Explanation { addresses: vec![shown(endpoint)], found }
    }

    /// What could have matched, had more been said.
    fn note(&self, candidates: &[Candidate], connection: &Connection, endpoint: Endpoint, notes: &mut Vec<String>) {
        use policy::explain::Mismatch::{self, Address, Command, Process};
        let before = || candidates.iter().map_while(|candidate| candidate.mismatch.as_ref());
        if self.process.names.is_empty() && before().any(|mismatch| matches!(mismatch, Process(_))) {
            notes.push("rules with `process` do not match here: --process NAME says which it is".to_owned());
        }
        if self.process.command.is_empty() && before().any(|mismatch| matches!(mismatch, Command(_))) {
            notes.push("rules with `command` do not match here: --command LINE gives it".to_owned());
        }
        if endpoint.port() == 0 && before().any(|mismatch| matches!(mismatch, Address(..))) {
            notes.push("no port is given: rules that name one do not match".to_owned());
        }
        let names_host = |mismatch: &Mismatch| match mismatch {
            Mismatch::Address(_, patterns) => patterns.iter().any(|pattern| pattern.host().is_some()),
            _ => false,
        };
        if self.is_by_address && before().any(names_host) {
            notes.push("some rules go by names that programs look up: give the name instead".to_owned());
        }
        match self.explainer.environment(connection) {
            Environment::OtherProcesses => {
                notes.push("the options from the environment are for other processes (SOCKOPT_PROCESS)".to_owned());
            }
            Environment::OtherDestinations => {
                notes.push("the options from the environment are for other destinations (SOCKOPT_TO)".to_owned());
            }
            Environment::Empty | Environment::InForce => {}
        }
    }

    /// Around bind and connect.
    fn outbound(&self, peer: Endpoint) -> (Vec<Step>, Option<Vec<&Setting>>) {
        const CONNECT: Phases = Phases::of(&[Phase::Connect]);
        const CONNECTED: Phases = Phases::of(&[Phase::Connected]);
        let any: IpAddr = if peer.ip().is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let binding = self.binding(Endpoint::new(any, 0), "before a bind", Phase::Bind);
        let connection = Connection::Outbound { peer };
        let plan = self.rules.plan(connection, CONNECT, &self.hosts);
        let connected = plan.at(CONNECTED);
        let steps = vec![
            binding,
            self.step("before connect", &connection, &plan),
            self.step("once connected", &connection, &connected),
        ];
        (steps, Some(plan.in_order().chain(connected.in_order()).collect()))
    }

    fn binding(&self, local: Endpoint, when: &'static str, phase: Phase) -> Step {
        let connection = Connection::Binding { local };
        let plan = self.rules.plan(connection, Phases::of(&[phase]), &HostSet::NONE);
        self.step(when, &connection, &plan)
    }

    /// Around bind, listen and accept; and what an accepted socket has in the end, if that is the same for every client.
    fn inbound(
        &self,
        local: Endpoint,
        peer: Option<Endpoint>,
        notes: &mut Vec<String>,
    ) -> (Vec<Step>, Option<Vec<&Setting>>) {
        const LISTEN: Phases = Phases::of(&[Phase::Listen]);
        let listening = Connection::Listening { local };
        let on_listener = self.rules.plan(listening, LISTEN, &HostSet::NONE);
        let inheritance = on_listener.inheritance();
        // Who connects makes a difference only where it is decided for each.
        let accepted = match peer {
            Some(peer) => {
                let connection = Connection::Inbound { local, peer };
                Some((connection, self.rules.plan(connection, inheritance.phases(), &HostSet::NONE)))
            }
            None if inheritance == Inheritance::None => {
                notes.push("a rule has `from`, so it depends on the client: --from PEER shows it".to_owned());
                None
            }
            None => Some((listening, on_listener.at(inheritance.phases()))),
        };
        let mut steps =
            vec![self.binding(local, "before bind", Phase::Bind), self.step("before listen", &listening, &on_listener)];
        if peer.is_none() {
            steps.push(self.binding(local, "before bind, a UDP socket", Phase::BindDatagram));
        }
        let Some((connection, own)) = accepted else { return (steps, None) };
        steps.push(self.step("after accept", &connection, &own));
        (steps, Some(on_listener.in_order().chain(own.in_order()).collect()))
    }

    fn step(&self, when: &'static str, connection: &Connection, plan: &Plan<'_>) -> Step {
        let given = self.explainer.given(connection);
        let call = |setting: &Setting| {
            let name = constants::option_name(setting.level, setting.name).map(str::to_owned);
            let level = constants::level_name(setting.level).map(str::to_owned);
            Call {
                level: level.unwrap_or_else(|| setting.level.to_string()),
                name: name.unwrap_or_else(|| setting.name.to_string()),
                value: value(&setting.value),
                from: given.iter().find(|given| given.key == setting.key).map(|given| self.place(given)),
            }
        };
        Step { when, calls: plan.in_order().map(call).collect() }
    }

    fn place(&self, given: &Given) -> Place {
        let source = self.sources.get(given.source);
        let (line, column) = source.map_or((0, 0), |source| source.position(given.span.start));
        let layer = match given.origin {
            Origin::Defaults => "defaults",
            Origin::Rule => "rule",
            Origin::Environment => "environment",
        };
        let written: Key = given.written;
        Place { key: written.name(), layer, source: self.file(given.source), line, column }
    }

    /// The path of a file as one would name it from here.
    fn file(&self, source: usize) -> String {
        let name = self.sources.get(source).map_or("", |source| source.name.as_str());
        let here = env::current_dir().ok();
        let short =
            here.and_then(|here| Path::new(name).strip_prefix(here).ok().map(|path| path.display().to_string()));
        short.unwrap_or_else(|| name.to_owned())
    }

    fn rule_line(&self, candidate: &Candidate) -> RuleLine {
        RuleLine {
            name: candidate.name.clone(),
            number: candidate.number,
            file: self.file(candidate.source),
            line: candidate.line,
            mismatch: candidate.mismatch.as_ref().map(ToString::to_string),
        }
    }

    fn unnoticed(&self, with: Timers, connects: bool) -> Vec<Row> {
        let row = |state: State| {
            let (name, shown) = match state {
                State::Connecting => ("connecting", "connecting"),
                State::Idle => ("idle", "idle, waiting for an answer"),
                State::InFlight => ("in_flight", "data in flight"),
                State::ClosedWindow => ("zero_window", "window closed, then vanished"),
                State::ClosedWindowAlive => ("zero_window_alive", "window closed, but alive"),
                State::Closing => ("closing", "close() with data in flight"),
            };
            let (with, without) = (with.end(state, self.sysctls), Timers::default().end(state, self.sysctls));
            Row { state: name, shown, with: with.into(), without: without.into() }
        };
        // What is accepted has connected.
        State::ALL.into_iter().filter(|state| connects || *state != State::Connecting).map(row).collect()
    }
}

fn shown(endpoint: Endpoint) -> String {
    if endpoint.port() == 0 { endpoint.ip().to_string() } else { endpoint.to_string() }
}

/// As the configuration has it.
fn as_written<S: serde::Serializer>(enforce: &Enforce, serializer: S) -> Result<S::Ok, S::Error> {
    match enforce {
        Enforce::Always => serializer.serialize_bool(true),
        Enforce::Never => serializer.serialize_bool(false),
        Enforce::Fill => serializer.serialize_str("fill"),
    }
}

/// As setsockopt(2) takes it.
fn value(value: &Value) -> serde_json::Value {
    match value {
        Value::Int(number) => (*number).into(),
        Value::Timeval { seconds, microseconds } => format!("{{{seconds}, {microseconds}}}").into(),
        Value::Linger { on, seconds } => format!("{{{}, {seconds}}}", i32::from(*on)).into(),
        Value::Text(text) => (&**text).into(),
    }
}

const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none())
    .header_separator(LineStyle::none().fill('─'))
    .content_lines(ContentLineStyle::none());
const BOLD: Style = Style::new().bold();
const NEVER: Style = AnsiColor::Red.on_default();
/// As wide as a table is where nobody says how wide it may be.
const WIDTH: usize = 80;

/// A table in lines, its head in bold.
fn table(head: [&str; 3], rows: Vec<[String; 3]>) -> String {
    let width = output::terminal_size().map_or(WIDTH, |(columns, _)| columns);
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
    table.set_header(head);
    table.add_rows(rows.iter().map(|row| row.each_ref().map(|cell| output::plain(cell))));
    let mut text = String::new();
    for (index, line) in table.lines().enumerate() {
        let line = line.trim_end();
        text += &if index == 0 { format!("{BOLD}{line}{BOLD:#}\n") } else { format!("{line}\n") };
    }
    text
}

impl Place {
    fn text(&self) -> String {
        match self.layer {
            "environment" => output::as_given(&self.source).into_owned(),
            layer => format!("{layer}, {}:{}", self.source, self.line),
        }
    }
}

impl Explanation {
    fn text(&self) -> String {
        let addresses = self.addresses.join(", ");
        let what = match (self.found.call, &self.found.from) {
            ("connect", _) => format!("connect to {addresses}"),
            ("accept", Some(from)) => format!("listen on {addresses}, accept from {from}"),
            _ => format!("listen on {addresses}"),
        };
        format!("{BOLD}{what}:{BOLD:#} {}", self.found.text())
    }
}

impl Found {
    fn text(&self) -> String {
        let mut text = match &self.rule {
            Some(RuleLine { name: Some(name), file, line, .. }) => {
                format!("rule \"{}\", {}:{line}\n", Plain(name), Plain(file))
            }
            Some(RuleLine { number, file, line, .. }) => format!("rule {number}, {}:{line}\n", Plain(file)),
            None => format!("no rule matches: {}\n", Plain(&self.otherwise)),
        };
        if !self.rules.is_empty() {
            text += &format!("\n{}", self.all_rules());
        }
        for step in &self.steps {
            text += &format!("\n{}", calls(step));
        }
        for (index, place) in self.left_to_the_program.iter().enumerate() {
            let gap = if index == 0 { "\n" } else { "" };
            text += &format!("{gap}{} = \"system\" ({}): left to the program\n", place.key, Plain(&place.text()));
        }
        if !self.unnoticed.is_empty() {
            text += &format!("\n{}", self.times());
        }
        for note in &self.notes {
            text += &format!("\nnote: {}\n", Plain(&output::as_given(note)));
        }
        text
    }

    fn all_rules(&self) -> String {
        let counts = self.rules.iter().position(|rule| rule.mismatch.is_none()).unwrap_or(self.rules.len());
        let row = |(index, rule): (usize, &RuleLine)| {
            let verdict = match &rule.mismatch {
                Some(mismatch) => format!("no: {mismatch}"),
                None if index == counts => "yes: the first that matches is used".to_owned(),
                None => "would match, but an earlier rule wins".to_owned(),
            };
            [
                rule.name.clone().unwrap_or_else(|| format!("rule {}", rule.number)),
                format!("{}:{}", rule.file, rule.line),
                verdict,
            ]
        };
        table(["rule", "at", "does it match?"], self.rules.iter().enumerate().map(row).collect())
    }

    fn times(&self) -> String {
        let row = |row: &Row| {
            let end = |end: End| match (row.state, end) {
                // It is to be left alone.
                ("zero_window_alive", End::Never) => "not ended".to_owned(),
                ("zero_window_alive", end) => format!("ended, {end}"),
                (_, end) => end.to_string(),
            };
            [row.shown.to_owned(), end(row.with.end), end(row.without.end)]
        };
        let rows = self.unnoticed.iter().map(row).collect();
        let text = table(["a peer that vanished goes unnoticed", "with this", "without"], rows);
        text.replace("for ever", &format!("{NEVER}for ever{NEVER:#}"))
    }
}

/// The calls of a step with their origin, said once for all that come from the same place.
fn calls(step: &Step) -> String {
    let mut last = None;
    let row = |call: &Call| {
        let is_new = last != call.from.as_ref().map(Place::text) || call.from.is_none();
        last = call.from.as_ref().map(Place::text);
        let (key, from) = match &call.from {
            Some(place) if is_new => (place.key.to_owned(), place.text()),
            _ => (String::new(), String::new()),
        };
        let value = call.value.as_str().map_or_else(|| call.value.to_string(), str::to_owned);
        [key, format!("{} {} {value}", call.level, call.name), from]
    };
    let rows = step.calls.iter().map(row).collect();
    table(["option", &format!("setsockopt {}", step.when), "from"], rows)
}
