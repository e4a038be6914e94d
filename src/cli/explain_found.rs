//! What `sockopt explain` finds: the rule, the calls and where they come from, how long a peer may be gone.

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use cgroup::Refused;
use cgroup::account::{self, Hook};
use policy::constants;
use policy::explain::{Candidate, Environment, Explainer, Given};
use policy::plan::Plan;
use policy::rules::Inheritance;
use policy::timers::{State, Sysctls, Timers};
use policy::{
    Connection, Direction, Endpoint, Enforce, HostSet, Key, Origin, Phase, Phases, Process, Rules, Setting, Source,
    Value,
};

use crate::explain_asked::What;
use crate::explain_report::{Call, Explanation, Found, Place, Row, RuleLine, Step};
use crate::kernel::ByKernel;
use crate::output;

/// What everything is explained from.
pub(crate) struct Context<'a> {
    pub(crate) rules: &'a Rules,
    /// What of the rules' names the destination is known by.
    pub(crate) hosts: HostSet,
    pub(crate) is_by_address: bool,
    pub(crate) explainer: Explainer<'a>,
    pub(crate) sources: &'a [Source],
    pub(crate) sysctls: &'a Sysctls,
    pub(crate) process: &'a Process,
    /// Whether every rule is listed.
    pub(crate) all: bool,
    /// What this kernel refused, if programs in it are asked about.
    pub(crate) kernel: Option<&'a Refused>,
}

impl Context<'_> {
    pub(crate) fn explain(&self, what: &What) -> Explanation {
        let mut notes = Vec::new();
        let named = what;
        let what = &match *what {
            What::Connect(peer) => What::Connect(peer.as_destination_of_any()),
            other => other,
        };
        if let (What::Connect(named), What::Connect(peer)) = (named, what)
            && named != peer
        {
            notes.push(format!("{} means this host: the kernel connects to {}", named.ip(), peer.ip()));
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
        let timers = Timers::of(settings.iter().copied());
        if timers.connect_timeout.is_some() && timers.may_wait_for_data(self.sysctls) {
            notes.push(
                "connecting: the later time applies if the kernel has a Fast Open cookie for the peer; then the number of SYNs is limited instead"
                    .to_owned(),
            );
        }
        let steps: Vec<Step> = steps.into_iter().filter(|step| !step.calls.is_empty()).collect();
        let candidates = self.explainer.candidates(&connection);
        let matched = candidates.iter().find(|candidate| candidate.mismatch.is_none());
        let listed = if self.all { &candidates[..] } else { &[] };
        let is_set = !steps.is_empty();
        // Where no rule matched, a decision is called after its layers.
        let otherwise = if steps.iter().any(|step| step.when != UDP_SERVER) {
            format!("{} only", output::decision(&decision.to_string()))
        } else if is_set {
            "nothing is set on a TCP socket".to_owned()
        } else {
            "nothing is set".to_owned()
        };
        let left = self.explainer.given(&connection).into_iter().filter(|given| given.is_left);
        self.note(&candidates, &connection, endpoint, &mut notes);
        match decision.profile().enforce() {
            _ if !is_set => {}
            Enforce::Always => {}
            Enforce::Never => {
                notes.push("enforce is false: what the program itself sets later overrides this".to_owned());
            }
            Enforce::Fill => notes.push(
                "enforce is \"fill\": an option is set only if the program has left it at the system's default (keepalive counts as \
                 one option); the times are those of a program that sets nothing itself"
                    .to_owned(),
            ),
        }
        let lingers = decision.profile().settings().iter().find_map(|setting| match setting.value {
            Value::Linger { on: true, seconds: seconds @ 1.. } => Some(seconds),
            _ => None,
        });
        if let Some(seconds) = lingers.filter(|_| is_set) {
            notes.push(format!(
                "close blocks for up to {seconds} s while data is not acknowledged, also on a non-blocking socket"
            ));
        }
        if is_set && decision.profile().settings().iter().any(|setting| setting.key == Key::Interface) {
            notes.push(
                "interface does not apply to the C library's own DNS queries, nor to UDP that is sent without connect or bind"
                    .to_owned(),
            );
        }
        let left_to_the_program: Vec<Place> = left.map(|given| self.place(&given)).collect();
        if left_to_the_program.iter().any(|place| matches!(place.key, "keepalive" | "user_timeout")) {
            notes.push("the times assume that the program does not set what is left to it".to_owned());
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
            unnoticed: self.unnoticed(timers, matches!(what, What::Connect(_))),
            notes,
        };
        Explanation { addresses: vec![shown(endpoint)], found }
    }

    /// What could have matched, had more been said.
    fn note(&self, candidates: &[Candidate<'_>], connection: &Connection, endpoint: Endpoint, notes: &mut Vec<String>) {
        use policy::conditions::Mismatch::{self, Address, Command, Process};
        let before = || candidates.iter().map_while(|candidate| candidate.mismatch.as_ref());
        if self.process.names.is_empty() && before().any(|mismatch| matches!(mismatch, Process(_))) {
            notes.push("rules with `process` do not match without --process NAME".to_owned());
        }
        if self.process.command.is_empty() && before().any(|mismatch| matches!(mismatch, Command(_))) {
            notes.push("rules with `command` do not match without --command LINE".to_owned());
        }
        if endpoint.port() == 0 && before().any(|mismatch| matches!(mismatch, Address(..))) {
            notes.push("no port is given, so rules with ports do not match".to_owned());
        }
        let names_host = |mismatch: &Mismatch<'_>| match mismatch {
            Mismatch::Address(_, patterns) => patterns.iter().any(|pattern| pattern.host().is_some()),
            _ => false,
        };
        if self.is_by_address && before().any(names_host) {
            notes.push("some rules have host names: they match only if you give the host name".to_owned());
        }
        match self.explainer.environment(connection) {
            Environment::OtherProcesses => {
                let origin = output::origin();
                notes.push(format!("the options from {origin} are for other processes (SOCKOPT_PROCESS)"));
            }
            Environment::OtherDestinations => {
                let origin = output::origin();
                notes.push(format!("the options from {origin} are for other destinations (SOCKOPT_TO)"));
            }
            Environment::Empty | Environment::InForce => {}
        }
    }

    /// Around bind and connect.
    fn outbound(&self, peer: Endpoint) -> (Vec<Step>, Vec<&Setting>) {
        const CONNECT: Phases = Phases::of(&[Phase::Connect]);
        let any: IpAddr = if peer.ip().is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let binding = Connection::Binding { local: Endpoint::new(any, 0) };
        let binding = self.binding(&binding, "before a bind", Phase::Bind);
        let connection = Connection::Outbound { peer };
        let plan = self.rules.plan(connection, CONNECT, &self.hosts);
        // What is replaced by raw is not taken back.
        let user_timeout = plan
            .in_order()
            .filter(|setting| (setting.level, setting.name) == (libc::SOL_TCP, libc::TCP_USER_TIMEOUT))
            .last();
        let is_replaced = user_timeout.is_some_and(|setting| setting.key == Key::Raw);
        let connected = plan.at(if is_replaced { Phases::NONE } else { Phases::of(&[Phase::Connected]) });
        let steps =
            vec![binding, self.step(CONNECTING, &connection, &plan), self.step(CONNECTED, &connection, &connected)];
        (steps, plan.in_order().chain(connected.in_order()).collect())
    }

    fn binding(&self, connection: &Connection, when: &'static str, phase: Phase) -> Step {
        let plan = self.rules.plan(*connection, Phases::of(&[phase]), &HostSet::NONE);
        self.step(when, connection, &plan)
    }

    /// What a UDP socket that is bound there gets, and that another rule is for it, if so.
    fn udp_server(&self, local: Endpoint, notes: &mut Vec<String>) -> Step {
        let (udp, tcp) = (Connection::BindingUdp { local }, Connection::Binding { local });
        let rule = |connection| self.rules.decide(connection).rule();
        let step = self.binding(&udp, UDP_SERVER, Phase::BindDatagram);
        if rule(&udp) != rule(&tcp) && !step.calls.is_empty() {
            let name = self.rules.decide(&udp).to_string();
            notes.push(format!("for a UDP socket another rule counts: {}", output::plain(&name)));
        }
        step
    }

    /// Around bind, listen and accept; and what an accepted socket has in the end.
    fn inbound(&self, local: Endpoint, peer: Option<Endpoint>, notes: &mut Vec<String>) -> (Vec<Step>, Vec<&Setting>) {
        const LISTEN: Phases = Phases::of(&[Phase::Listen]);
        let listening = Connection::Listening { local };
        let on_listener = self.rules.plan(listening, LISTEN, &HostSet::NONE);
        let inheritance = on_listener.inheritance();
        // Who connects makes a difference only where it is decided for each.
        let accepted = match peer {
            Some(peer) => {
                let connection = Connection::Inbound { local, peer };
                (connection, self.rules.plan(connection, inheritance.phases(), &HostSet::NONE))
            }
            None => {
                if inheritance == Inheritance::None {
                    notes.push("clients in the `from` of a rule get other options: use --from CLIENT".to_owned());
                }
                (listening, on_listener.with_inheritance(Inheritance::Full).at(inheritance.phases()))
            }
        };
        let mut steps = vec![
            self.binding(&Connection::Binding { local }, "before bind", Phase::Bind),
            self.step(LISTENING, &listening, &on_listener),
        ];
        if peer.is_none() {
            steps.push(self.udp_server(local, notes));
        }
        let (connection, own) = accepted;
        steps.push(self.step(ACCEPTED, &connection, &own));
        (steps, on_listener.in_order().chain(own.in_order()).collect())
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
                kernel: self.kernel.map(|refused| by_kernel(when, setting, plan, refused)),
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

    fn rule_line(&self, candidate: &Candidate<'_>) -> RuleLine {
        RuleLine {
            name: candidate.name.map(str::to_owned),
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

/// What programs in the kernel do about a setting of this step.
fn by_kernel(when: &str, setting: &Setting, plan: &Plan<'_>, refused: &Refused) -> ByKernel {
    let rule = plan.decision().rule();
    let whole = account::why_not_decision(plan.decision(), refused);
    let why_not = whole.or_else(|| account::why_not(setting, plan.enforce(), refused));
    let is_here = |hook: &Hook| match hook {
        Hook::Connect4 | Hook::Connect6 => when == CONNECTING,
        Hook::Connected => when == CONNECTED,
        Hook::Listen => when == LISTENING,
        Hook::Accept => when == ACCEPTED,
    };
    let direction = rule.map_or(Direction::Both, |rule| rule.conditions().direction());
    let hooks: Vec<Hook> = account::hooks(setting, direction, true).into_iter().filter(is_here).collect();
    match why_not {
        None if hooks.is_empty() => {
            ByKernel::of(&[], false, Some("no eBPF program of sockopt runs at this step".to_owned()))
        }
        None => ByKernel::of(&hooks, plan.enforce() == Enforce::Always, None),
        Some(why) => ByKernel::of(&[], false, Some(why)),
    }
}

const CONNECTING: &str = "before connect";
const CONNECTED: &str = "once connected";
const LISTENING: &str = "before listen";
const ACCEPTED: &str = "after accept";
const UDP_SERVER: &str = "before bind, a UDP socket";

fn shown(endpoint: Endpoint) -> String {
    if endpoint.port() == 0 { endpoint.ip().to_string() } else { endpoint.to_string() }
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
