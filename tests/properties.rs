//! What holds for every rule, address and value, tried on random ones (always the same) and on the fuzz corpus.

use std::fmt::{Debug, Display};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use libtest_mimic::Trial;
use policy::catalog::{Accepts, DSCP_NAMES};
use policy::explain::{Asked, Environment, Explainer};
use policy::matcher::Pattern;
use policy::options::Family;
use policy::plan::Plan;
use policy::rules::{Inheritance, Rule};
use policy::timers::{End, State, Sysctls, Timers};
use policy::units::{self, DisplayBytes, DisplayNumber};
use policy::{
    CATALOG, Conditions, Configuration, Connection, Decision, Direction, Endpoint, Entry, HostSet, Key, Origin, Phase,
    Phases, Process, Protocol, Rules, Setting, Source, Value, compile, promise,
};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use socket::setting::{Outcome, set};
use socket::{Errno, ffi};

use crate::support::{root, test};

#[path = "fuzz/targets/common.rs"]
mod common;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        test("properties::rules_match_as_a_walk_along_the_list_does", rules_match_as_a_walk_along_the_list_does),
        test("properties::names_match_as_a_walk_along_the_list_does", names_match_as_a_walk_along_the_list_does),
        test("properties::rules_are_read_as_they_decide", rules_are_read_as_they_decide),
        test("properties::printed_patterns_read_back", printed_patterns_read_back),
        test("properties::printed_durations_and_sizes_read_back", printed_durations_and_sizes_read_back),
        test("properties::the_kernel_takes_what_is_accepted", the_kernel_takes_what_is_accepted),
        test("properties::what_is_out_of_range_is_refused", what_is_out_of_range_is_refused),
        test("properties::the_kernel_refuses_it_too", the_kernel_refuses_it_too),
        test("properties::a_dead_peer_is_noticed_in_time", a_dead_peer_is_noticed_in_time),
        test("properties::a_dead_peer_is_noticed_when_it_is_said", a_dead_peer_is_noticed_when_it_is_said),
    ];
    for (name, law) in CORPORA {
        trials.push(test(format!("properties::corpus_{name}"), move || replay(name, law)));
    }
    trials
}

/// Tries a law on so many values, the same every time; what fails is made smaller before it is shown.
pub(crate) fn for_all<S: Strategy>(cases: u32, values: S, law: impl Fn(S::Value) -> Result<(), TestCaseError>)
where
    S::Value: Debug,
{
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner.run(&values, law).unwrap_or_else(|failure| panic!("{failure}"));
}

fn configuration(toml: &str, variables: &[(&str, String)]) -> Configuration {
    let source = |name: &str, text: &str| Source { name: name.to_owned(), text: text.to_owned() };
    Configuration {
        document: Some(source("property", toml)),
        variables: variables.iter().map(|(name, text)| source(name, text)).collect(),
    }
}

fn compiled(toml: &str, variables: &[(&str, String)], process: &Process) -> Result<Rules, String> {
    let outcome = compile(&configuration(toml, variables), process);
    let line = |problem: &policy::Problem| format!("{}\n", problem.one_line(&outcome.sources));
    outcome.rules.as_ref().map_err(|errors| errors.iter().map(line).collect::<String>())?;
    outcome.rules.map_err(|_| String::new())
}

// ---- Rules ----

/// An address pattern in the form that is least clever: bits to compare, the first so many of them.
#[derive(Debug, Clone)]
struct Meant {
    network: Option<(IpAddr, u8)>,
    ports: Option<(u16, u16)>,
    /// As `::ffff:a.b.c.d`.
    mapped: bool,
    /// With an exclamation mark.
    excluded: bool,
}

impl Display for Meant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.excluded { "!" } else { "" })?;
        match self.network {
            None if self.ports.is_none() => write!(f, "*")?,
            None => {}
            Some((IpAddr::V4(ip), prefix)) if self.mapped => write!(f, "[::ffff:{ip}/{}]", prefix + 96)?,
            Some((IpAddr::V4(ip), prefix)) => write!(f, "{ip}/{prefix}")?,
            Some((IpAddr::V6(ip), prefix)) => write!(f, "[{ip}/{prefix}]")?,
        }
        match self.ports {
            None => Ok(()),
            Some((first, last)) if first == last => write!(f, ":{first}"),
            Some((first, last)) => write!(f, ":{first}-{last}"),
        }
    }
}

fn bits(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{:032b}", u32::from(ip)),
        IpAddr::V6(ip) => format!("{:0128b}", u128::from(ip)),
    }
}

/// Where a connect to an address comes to.
fn reached(ip: IpAddr) -> IpAddr {
    match ip.to_string().as_str() {
        "0.0.0.0" | "::ffff:0.0.0.0" => Ipv4Addr::LOCALHOST.into(),
        "::" => Ipv6Addr::LOCALHOST.into(),
        _ => ip,
    }
}

impl Meant {
    /// As a destination.
    fn reaches(&self, ip: IpAddr, port: u16) -> bool {
        let network = self.network.map(|(of, prefix)| match (of, prefix) {
            (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => (reached(of), prefix),
            other => other,
        });
        Meant { network, ..self.clone() }.is(reached(ip), port)
    }

    fn is(&self, ip: IpAddr, port: u16) -> bool {
        let ip = match ip {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
            IpAddr::V4(_) => ip,
        };
        let is_network = |(of, prefix): (IpAddr, u8)| {
            of.is_ipv4() == ip.is_ipv4() && bits(of)[..usize::from(prefix)] == bits(ip)[..usize::from(prefix)]
        };
        self.network.is_none_or(is_network) && self.ports.is_none_or(|(first, last)| first <= port && port <= last)
    }
}

/// Few addresses, so that many are the same.
fn addresses() -> impl Strategy<Value = IpAddr> {
    let v4 = (select(vec![0_u8, 10, 127, 255]), 0..3_u8, 0..3_u8).prop_map(|(a, b, c)| Ipv4Addr::new(a, b, 1, c));
    let v6 = (select(vec![0_u16, 0x2001, 0xfe80]), 0..2_u16, 0..3_u16)
        .prop_map(|(a, b, c)| Ipv6Addr::new(a, 0xdb8 * b, 0, 0, 0, 0, 0, c));
    // What only looks as if it were mapped is among them: ::a.b.c.d.
    let other = v4.clone().prop_map(|ip| Ipv6Addr::from(u128::from(u32::from(ip))));
    let mapped = v4.clone().prop_map(|ip| ip.to_ipv6_mapped());
    prop_oneof![3 => v4.prop_map(IpAddr::V4), 2 => v6.prop_map(IpAddr::V6), 2 => mapped.prop_map(IpAddr::V6), 1 => other.prop_map(IpAddr::V6)]
}

fn ports() -> impl Strategy<Value = u16> + Clone {
    select(vec![1_u16, 79, 80, 81, 443, 8000, 8099, 65_535])
}

fn meant() -> impl Strategy<Value = Meant> {
    let network = (addresses(), 0..=128_u8, any::<bool>()).prop_map(|(ip, prefix, whole)| {
        let ip = ip.to_canonical();
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = if whole { longest } else { prefix % (longest + 1) };
        // The bits behind the prefix are none of a network's.
        let keep = |all: u128, longest: u8| all & u128::MAX.checked_shl(u32::from(longest - prefix)).unwrap_or(0);
        let ip = match ip {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(keep(u32::from(ip).into(), 32) as u32)),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(keep(ip.into(), 128))),
        };
        (ip, prefix)
    });
    let ports = (ports(), ports()).prop_map(|(one, other)| (one.min(other), one.max(other)));
    (proptest::option::weighted(0.8, network), proptest::option::of(ports), any::<bool>())
        .prop_map(|(network, ports, mapped)| Meant { network, ports, mapped, excluded: false })
}

/// Some lists have exclusions, a few of them nothing else. Not everything is excluded: that is an error.
fn list() -> impl Strategy<Value = Option<Vec<Meant>>> {
    const NEVER_EXCLUDED: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 7), 7);
    let (ip, port) = NEVER_EXCLUDED;
    let excluded = meant().prop_filter("everything", move |meant| !meant.is(ip.into(), port));
    let excluded = proptest::collection::vec(excluded.prop_map(|meant| Meant { excluded: true, ..meant }), 1..4);
    let plain = proptest::collection::vec(meant(), 1..4);
    let cut = (proptest::collection::vec(meant(), 0..3), excluded).prop_map(move |(mut all, excluded)| {
        if !all.is_empty() {
            let (network, ports) = (Some((ip.into(), 32)), Some((port, port)));
            all.push(Meant { network, ports, mapped: false, excluded: false });
        }
        // Their order does not matter.
        let at = excluded.len() % (all.len() + 1);
        all.splice(at..at, excluded);
        all
    });
    proptest::option::of(prop_oneof![3 => plain, 1 => cut])
}

/// Whether a list means what its entries are asked for.
fn any_of(list: &[Meant], is_meant: impl Fn(&Meant) -> bool) -> bool {
    let (excluded, rest): (Vec<&Meant>, Vec<&Meant>) = list.iter().partition(|meant| meant.excluded);
    (rest.is_empty() || rest.iter().any(|meant| is_meant(meant))) && !excluded.iter().any(|meant| is_meant(meant))
}

#[derive(Debug, Clone)]
struct RuleMeant {
    to: Option<Vec<Meant>>,
    listen: Option<Vec<Meant>>,
    from: Option<Vec<Meant>>,
    protocol: Option<&'static str>,
    process: Option<Vec<&'static str>>,
    sets: bool,
}

fn rule() -> impl Strategy<Value = RuleMeant> {
    let globs = vec!["java", "j*", "?ava", "*", "python*", "javaw", "?", "*av*", "j?v"];
    let process = proptest::option::weighted(0.3, proptest::collection::vec(select(globs), 1..3));
    let protocol = proptest::option::weighted(0.3, select(vec!["tcp", "udp"]));
    (list(), list(), list(), protocol, process, any::<bool>(), any::<bool>()).prop_map(
        |(to, listen, from, protocol, process, outbound, sets)| {
            let to = to.filter(|_| outbound || listen.is_none() && from.is_none());
            let inbound = to.is_none();
            let (listen, from) = (listen.filter(|_| inbound), from.filter(|_| inbound));
            let protocol = protocol.filter(|protocol| listen.is_some() && (from.is_none() || *protocol == "tcp"));
            RuleMeant { to, listen, from, protocol, process, sets: sets && protocol != Some("udp") }
        },
    )
}

/// `*` and `?`, by trying every way.
fn is_glob(glob: &[u8], name: &[u8]) -> bool {
    match (glob.split_first(), name.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((b'*', glob)), _) => (0..=name.len()).any(|skipped| is_glob(glob, &name[skipped..])),
        (Some((b'?', glob)), Some((_, name))) => is_glob(glob, name),
        (Some((one, glob)), Some((other, name))) => one == other && is_glob(glob, name),
        (Some(_), None) => false,
    }
}

/// A situation: the local end (or none), the peer (or none).
type Ends = (Option<(IpAddr, u16)>, Option<(IpAddr, u16)>);

impl RuleMeant {
    fn toml(&self, number: usize) -> String {
        let mut toml = format!("[[rule]]\nname = \"r{number}\"\n");
        for (key, list) in [("to", &self.to), ("listen", &self.listen), ("from", &self.from)] {
            if let Some(list) = list {
                let texts: Vec<String> = list.iter().map(|meant| format!("\"{meant}\"")).collect();
                toml += &format!("{key} = [{}]\n", texts.join(", "));
            }
        }
        if let Some(protocol) = self.protocol {
            toml += &format!("protocol = \"{protocol}\"\n");
        }
        if let Some(globs) = &self.process {
            toml += &format!("process = [\"{}\"]\n", globs.join("\", \""));
        }
        toml + &if self.sets { format!("user_timeout = \"{}ms\"\n", number + 1) } else { String::new() }
    }

    fn matches(&self, is_outbound: bool, (local, peer): Ends, protocol: &str, process: &str) -> bool {
        let any = |list: &Option<Vec<Meant>>, end: Option<(IpAddr, u16)>| match (list, end) {
            (None, _) => true,
            (Some(list), Some((ip, port))) if is_outbound => any_of(list, |meant| meant.reaches(ip, port)),
            (Some(list), Some((ip, port))) => any_of(list, |meant| meant.is(ip, port)),
            // Nobody is known yet of whom it could be said.
            (Some(_), None) => false,
        };
        let direction = if is_outbound { self.listen.is_none() && self.from.is_none() } else { self.to.is_none() };
        let for_process = |globs: &Vec<&str>| globs.iter().any(|glob| is_glob(glob.as_bytes(), process.as_bytes()));
        let ends = if is_outbound { any(&self.to, peer) } else { any(&self.listen, local) && any(&self.from, peer) };
        let is_protocol = self.protocol.is_none_or(|own| own == protocol);
        direction && ends && is_protocol && self.process.as_ref().is_none_or(for_process)
    }
}

/// The value of TCP_USER_TIMEOUT, which is another one for every rule.
fn user_timeout(decision: &Decision<'_>, phase: Phase) -> Option<i32> {
    let mut settings = decision.profile().settings().iter().filter(|setting| setting.phases.contains(phase));
    settings.find(|setting| setting.key == Key::UserTimeout).and_then(|setting| match setting.value {
        Value::Int(value) => Some(value),
        _ => None,
    })
}

/// Seen to fail with `max` in place of `min` in Networks::each, and with a range that is not cut in add_ranges. Of what is explained:
/// with `rev()` in Explainer::given, without `from` in Explainer::mismatch, and with Environment::InForce for every
/// connection.
fn rules_match_as_a_walk_along_the_list_does() {
    const DEFAULT: i32 = 9_000;
    const SHORTCUT: i32 = 7_000;
    let rules = proptest::collection::vec(rule(), 0..24);
    let shortcut = proptest::option::weighted(0.4, list());
    let ends = proptest::collection::vec(((addresses(), ports()), (addresses(), ports())), 8);
    let process = select(vec!["java", "javaw", "python3", "j"]);
    for_all(600, (rules, any::<bool>(), shortcut, ends, process), |(rules, has_defaults, shortcut, ends, process)| {
        let defaults =
            if has_defaults { format!("[defaults]\nuser_timeout = \"{DEFAULT}ms\"\n") } else { String::new() };
        let toml = rules.iter().enumerate().map(|(number, rule)| rule.toml(number)).collect::<String>() + &defaults;
        let mut variables = Vec::new();
        if let Some(to) = &shortcut {
            variables.push(("SOCKOPT_USER_TIMEOUT", format!("{SHORTCUT}ms")));
            if let Some(to) = to {
                variables.push(("SOCKOPT_TO", to.iter().map(Meant::to_string).collect::<Vec<_>>().join(",")));
            }
        }
        let process = Process { names: vec![process.into()], command: String::new() };
        let compiled = compiled(&toml, &variables, &process).map_err(TestCaseError::fail)?;
        let (configuration, asked) = (configuration(&toml, &variables), Asked::default());
        let parsed = configuration.parse();
        let explainer = Explainer::new(&parsed, &process, &asked);
        for (one, other) in ends {
            let end = |(ip, port): (IpAddr, u16)| Endpoint::new(ip, port);
            let (local, peer) = (end(one), end(other));
            for (connection, is_outbound, known, phase) in [
                (
                    Connection::Outbound { peer: peer.as_destination_of_any() },
                    true,
                    (None, Some(other)),
                    Some(Phase::Connect),
                ),
                (Connection::Binding { local }, false, (Some(one), None), None),
                (Connection::BindingUdp { local }, false, (Some(one), None), None),
                (Connection::Listening { local }, false, (Some(one), None), Some(Phase::Listen)),
                (Connection::Inbound { local, peer }, false, (Some(one), Some(other)), Some(Phase::Accept)),
            ] {
                let protocol = if matches!(connection, Connection::BindingUdp { .. }) { "udp" } else { "tcp" };
                let is_it = |rule: &RuleMeant| rule.matches(is_outbound, known, protocol, &process.names[0]);
                let found = rules.iter().position(is_it);
                let own = found.filter(|&number| rules[number].sets).map(|number| number as i32 + 1);
                let is_in_scope = shortcut.as_ref().is_some_and(|to| match to {
                    None => true,
                    Some(to) => is_outbound && any_of(to, |meant| meant.reaches(other.0, other.1)),
                });
                let value = is_in_scope.then_some(SHORTCUT).or(own).or(has_defaults.then_some(DEFAULT));
                let decision = compiled.decide(&connection);
                let name = found.map(|number| format!("r{number}"));
                prop_assert_eq!(decision.rule().map(|rule| rule.name().to_owned()), name, "{:?}", connection);
                if let Some(phase) = phase {
                    prop_assert_eq!(user_timeout(&decision, phase), value, "{:?}", connection);
                }
                // What is explained is what is done.
                let candidates = explainer.candidates(&connection);
                let explained = candidates.iter().position(|candidate| candidate.mismatch.is_none());
                prop_assert_eq!(explained, found, "{:?}", connection);
                let origin = match value {
                    _ if is_in_scope => Some(Origin::Environment),
                    _ if own.is_some() => Some(Origin::Rule),
                    value => value.map(|_| Origin::Defaults),
                };
                let given = explainer.given(&connection);
                prop_assert_eq!(given.first().map(|given| given.origin), origin, "{:?}", connection);
            }
        }
        Ok(())
    });
}

/// Whether a pattern, by what it says of itself, means an end of a connection.
fn means(pattern: &Pattern, end: Endpoint) -> bool {
    let is_network = |(of, prefix): (IpAddr, u8)| {
        of.is_ipv4() == end.ip().is_ipv4() && bits(of)[..usize::from(prefix)] == bits(end.ip())[..usize::from(prefix)]
    };
    pattern.host().is_none() && pattern.network().is_none_or(is_network) && pattern.ports().contains(&end.port())
}

/// As another engine finds the decision for a connection of a process: by nothing but what can be read of the rules.
fn read<'a>(rules: &'a Rules, connection: &Connection, process: &str) -> Plan<'a> {
    const LISTEN: Phases = Phases::of(&[Phase::Listen]);
    let any = |patterns: Option<&[Pattern]>, end| patterns.is_none_or(|list| list.iter().any(|one| means(one, end)));
    let is_for = |conditions: &Conditions| {
        let mut globs = conditions.process().into_iter().flatten();
        conditions.process().is_none() || globs.any(|glob| is_glob(glob.as_str().as_bytes(), process.as_bytes()))
    };
    let matches = |conditions: &Conditions| {
        let direction = conditions.direction();
        is_for(conditions)
            && match *connection {
                Connection::Outbound { peer } => {
                    matches!(direction, Direction::Outbound | Direction::Both) && any(conditions.to(), peer)
                }
                Connection::Binding { local } | Connection::Listening { local } => {
                    matches!(direction, Direction::Listeners | Direction::Both) && any(conditions.listen(), local)
                }
                Connection::BindingUdp { local } => {
                    let is_for_udp = !matches!(direction, Direction::Outbound | Direction::Accepted);
                    is_for_udp && conditions.protocol() != Some(Protocol::Tcp) && any(conditions.listen(), local)
                }
                Connection::Inbound { local, peer } => {
                    !matches!(direction, Direction::Outbound | Direction::UdpServers)
                        && any(conditions.listen(), local)
                        && any(conditions.from(), peer)
                }
            }
    };
    let all = || rules.rules().map(Rule::conditions);
    let first = all().position(&matches);
    let with_shortcuts = rules.shortcuts().is_some_and(&matches);
    let decision = match first.and_then(|first| rules.rules().nth(first)) {
        Some(rule) => rule.decision(with_shortcuts),
        None => rules.otherwise(with_shortcuts),
    };
    let family = |end: Endpoint| if end.ip().is_ipv4() { Family::V4 } else { Family::V6 };
    match *connection {
        Connection::Outbound { peer } => Plan::of(decision, Phases::OUTBOUND, family(peer)),
        Connection::Binding { local } => Plan::of(decision, Phases::of(&[Phase::Bind]), family(local)),
        Connection::BindingUdp { local } => {
            let is_any = local.ip().is_ipv6() && local.ip().is_unspecified();
            Plan::of(decision, Phases::of(&[Phase::BindDatagram]), if is_any { Family::Any } else { family(local) })
        }
        Connection::Inbound { peer, .. } => Plan::of(decision, Phases::ACCEPTED, family(peer)),
        Connection::Listening { local } => {
            let is_any = local.ip().is_ipv6() && local.ip().is_unspecified();
            let plan = Plan::of(decision, LISTEN, if is_any { Family::Any } else { family(local) });
            let is_for_some =
                |one: &Conditions| is_for(one) && one.direction() == Direction::Accepted && any(one.listen(), local);
            let for_some = all().position(is_for_some);
            let is_before = for_some.is_some_and(|at| first.is_none_or(|first| at < first));
            plan.with_inheritance(if is_before { Inheritance::None } else { Inheritance::Full })
        }
    }
}

/// What another engine makes of the rules is what they decide. Seen to fail with the conditions by process left out where a
/// configuration is compiled for every process, with `rules()` from the last to the first, and with options from the environment
/// that SOCKOPT_PROCESS keeps for some processes counted for all of them.
fn rules_are_read_as_they_decide() {
    let rules = proptest::collection::vec(rule(), 0..12);
    let scope = (list(), proptest::option::of(select(vec!["java", "j*", "python3"])));
    let shortcut = proptest::option::weighted(0.5, scope);
    let ends = proptest::collection::vec(((addresses(), ports()), (addresses(), ports())), 4);
    for_all(400, (rules, any::<bool>(), shortcut, ends), |(rules, has_defaults, shortcut, ends)| {
        let rule = |(number, rule): (usize, &RuleMeant)| rule.toml(number) + &format!("dscp = {number}\n");
        let defaults = if has_defaults { "[defaults]\nuser_timeout = \"9s\"\npriority = 3\n" } else { "" };
        let toml = rules.iter().enumerate().map(rule).collect::<String>() + defaults;
        let mut variables = Vec::new();
        if let Some((to, process)) = &shortcut {
            variables.push(("SOCKOPT_DSCP", "46".to_owned()));
            let to = to.iter().map(|to| to.iter().map(Meant::to_string).collect::<Vec<_>>().join(","));
            variables.extend(to.map(|to| ("SOCKOPT_TO", to)));
            variables.extend(process.map(|process| ("SOCKOPT_PROCESS", process.to_owned())));
        }
        let configuration = configuration(&toml, &variables);
        let (every, _) = configuration.parse().into_rules(None);
        let every = every.map_err(|errors| TestCaseError::fail(format!("{errors:?}")))?;
        prop_assert_eq!(every.rules().count(), rules.len());
        for process in ["java", "javaw", "python3", "j"] {
            let known = Process { names: vec![process.into()], command: String::new() };
            let own = compile(&configuration, &known).rules.expect("the same text");
            prop_assert!(own.rules().all(|rule| rule.conditions().process().is_none()));
            for ((ip, port), (other, other_port)) in &ends {
                let (local, peer) = (Endpoint::new(*ip, *port), Endpoint::new(*other, *other_port));
                for connection in [
                    Connection::Outbound { peer: peer.as_destination_of_any() },
                    Connection::Binding { local },
                    Connection::BindingUdp { local },
                    Connection::Listening { local },
                    Connection::Inbound { local, peer },
                ] {
                    let found = read(&every, &connection, process);
                    let plan = own.plan(connection, found.phases(), &HostSet::NONE);
                    let name = |plan: &Plan<'_>| plan.decision().rule().map(|rule| rule.name().to_owned());
                    prop_assert_eq!(name(&found), name(&plan), "{:?} {}", connection, process);
                    let calls = |plan: &Plan<'_>| plan.settings().map(ToString::to_string).collect::<Vec<_>>();
                    prop_assert_eq!(calls(&found), calls(&plan), "{:?} {}", connection, process);
                }
            }
        }
        Ok(())
    });
}

/// Parts of names and of patterns for them, so few that many match.
fn host(is_pattern: bool) -> impl Strategy<Value = String> {
    let parts = if is_pattern {
        vec!["a", "b", "A", "ab", ".c", ".C", "*", "?"]
    } else {
        vec!["a", "b", "B", "ab", ".c", ".a"]
    };
    (proptest::collection::vec(select(parts), 1..4), any::<bool>()).prop_map(|(parts, dot)| {
        let name = format!("a{}", parts.concat());
        if dot { name + "." } else { name }
    })
}

/// An entry of `to`: by address, or by name with ports.
#[derive(Debug, Clone)]
enum Entries {
    Address(Meant),
    Host(String, Option<(u16, u16)>),
}

impl Display for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(meant) => write!(f, "{meant}"),
            Self::Host(name, None) => write!(f, "{name}"),
            Self::Host(name, Some((first, last))) => write!(f, "{name}:{first}-{last}"),
        }
    }
}

impl Entries {
    fn is(&self, ip: IpAddr, port: u16, names: &[String]) -> bool {
        let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).to_lowercase();
        match self {
            Self::Address(meant) => meant.reaches(ip, port),
            Self::Host(glob, ports) => {
                ports.is_none_or(|(first, last)| first <= port && port <= last)
                    && names.iter().any(|name| is_glob(plain(glob).as_bytes(), plain(name).as_bytes()))
            }
        }
    }
}

/// The least clever way: every entry, every name. Of what is explained, seen to fail without is_in_scope in
/// Asked::is_meant.
fn names_match_as_a_walk_along_the_list_does() {
    let ports_of =
        || proptest::option::of((ports(), ports()).prop_map(|(one, other)| (one.min(other), one.max(other))));
    let entry = prop_oneof![
        1 => meant().prop_map(Entries::Address),
        3 => (host(true), ports_of()).prop_map(|(name, ports)| Entries::Host(name, ports)),
    ];
    let list = || proptest::collection::vec(entry.clone(), 1..4);
    let rules = proptest::collection::vec(list(), 0..12);
    let peers = proptest::collection::vec((addresses(), ports(), proptest::collection::vec(host(false), 0..3)), 8);
    let scope = proptest::option::of(list());
    for_all(400, (rules, scope, peers), |(rules, scope, peers)| {
        let line = |list: &[Entries], quote: &str| {
            list.iter().map(|entry| format!("{quote}{entry}{quote}")).collect::<Vec<_>>().join(",")
        };
        let rule = |(number, list): (usize, &Vec<Entries>)| {
            format!(
                "[[rule]]\nname = \"r{number}\"\nto = [{}]\nuser_timeout = \"{}ms\"\n",
                line(list, "\""),
                number + 1
            )
        };
        let toml: String = rules.iter().enumerate().map(rule).collect();
        let named =
            rules.iter().flatten().chain(scope.iter().flatten()).any(|entry| matches!(entry, Entries::Host(..)));
        let variables =
            scope.as_ref().map(|scope| [("SOCKOPT_USER_TIMEOUT", "77ms".to_owned()), ("SOCKOPT_TO", line(scope, ""))]);
        let compiled = compiled(&toml, variables.as_ref().map_or(&[], |both| &both[..]), &Process::default());
        let compiled = compiled.map_err(TestCaseError::fail)?;
        prop_assert_eq!(compiled.names_hosts(), named);
        let in_rules = rules.iter().flatten().any(|entry| matches!(entry, Entries::Host(..)));
        prop_assert!(!in_rules || policy::matcher::may_name_hosts(&toml), "{}", toml);
        for (ip, port, names) in peers {
            let mut hosts = policy::HostSet::NONE;
            for name in &names {
                compiled.add_hosts(&mut hosts, &policy::Name::new(name.as_bytes()).expect("a name"));
            }
            let connection = Connection::Outbound { peer: Endpoint::new(ip, port).as_destination_of_any() };
            let decision = compiled.decide_named(&connection, &hosts);
            let found = rules.iter().position(|list| list.iter().any(|entry| entry.is(ip, port, &names)));
            let in_scope = scope.as_ref().is_some_and(|scope| scope.iter().any(|entry| entry.is(ip, port, &names)));
            let value = in_scope.then_some(77).or(found.map(|number| number as i32 + 1));
            prop_assert_eq!(
                decision.rule().map(|rule| rule.name().to_owned()),
                found.map(|number| format!("r{number}"))
            );
            prop_assert_eq!(user_timeout(&decision, Phase::Connect), value);
            // What is explained is what is done; one name is asked for at a time.
            if let [name] = &names[..] {
                let asked = Asked { name: policy::Name::new(name.as_bytes()), domains: Vec::new() };
                let given = configuration(&toml, variables.as_ref().map_or(&[], |both| &both[..]));
                let (parsed, process) = (given.parse(), Process::default());
                let explainer = Explainer::new(&parsed, &process, &asked);
                let candidates = explainer.candidates(&connection);
                prop_assert_eq!(candidates.iter().position(|candidate| candidate.mismatch.is_none()), found);
                prop_assert_eq!(explainer.environment(&connection) == Environment::InForce, in_scope);
            }
        }
        Ok(())
    });
}

// ---- Texts ----

/// Seen to fail with the first port of a range printed for the last one, too.
fn printed_patterns_read_back() {
    for_all(3_000, (meant(), addresses(), ports()), |(meant, ip, port)| {
        let parse = |text: &str| Pattern::parse(text).map_err(|refused| TestCaseError::fail(refused.message));
        let pattern = parse(&meant.to_string())?;
        let again = parse(&pattern.to_string())?;
        prop_assert_eq!(&again, &pattern, "{}", pattern);
        prop_assert_eq!(again.to_string(), pattern.to_string());
        prop_assert_eq!(pattern.matches(Endpoint::new(ip, port)), meant.is(ip, port));
        Ok(())
    });
}

/// Seen to fail with KiB printed as kB.
fn printed_durations_and_sizes_read_back() {
    let round = (any::<u64>(), select(vec![1_u64, 1_000, 1_024, 60_000_000, 1 << 20, 1 << 30, 86_400_000_000]))
        .prop_map(|(number, unit)| (number % (u64::MAX / unit)) * unit);
    for_all(3_000, prop_oneof![any::<u64>(), round, 0..5_000_u64], |number| {
        prop_assert_eq!(units::microseconds(&DisplayNumber(number).to_string()), Ok(number));
        prop_assert_eq!(units::bytes(&DisplayBytes(number).to_string()), Ok(number));
        Ok(())
    });
    // Several units in a row add up.
    for_all(1_000, (0..100_u64, 0..100_u64, 0..100_u64, 0..1_000_u64), |(hours, minutes, seconds, ms)| {
        let text = format!("{hours}h{minutes}m {seconds}s{ms} ms");
        let sum = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + ms * 1_000;
        prop_assert_eq!(units::microseconds(&text), Ok(sum));
        Ok(())
    });
}

// ---- Values ----

/// Within a range, its ends more often than the rest.
fn within(min: u64, max: u64) -> BoxedStrategy<u64> {
    prop_oneof![Just(min), Just(max), min..=max, min..=max.min(min.saturating_add(300))].boxed()
}

fn shown(values: BoxedStrategy<u64>, unit: u64, words: &[&'static str]) -> BoxedStrategy<String> {
    let value = values.prop_map(move |number| format!("\"{}\"", DisplayNumber(number * unit)));
    word(value.boxed(), words)
}

fn word(value: BoxedStrategy<String>, words: &[&'static str]) -> BoxedStrategy<String> {
    if words.is_empty() {
        return value;
    }
    prop_oneof![3 => value, 1 => select(words.to_vec()).prop_map(|word| format!("\"{word}\""))].boxed()
}

fn bytes(min: u64, max: u64, words: &[&'static str]) -> BoxedStrategy<String> {
    word(within(min, max).prop_map(|number| format!("\"{}\"", DisplayBytes(number))).boxed(), words)
}

const INT_MAX: u64 = i32::MAX as u64;
/// The durations that TCP_DEFER_ACCEPT can be: the retransmissions of a SYN-ACK, 1, 2, 4 … s and at most 120 s apart.
fn defer_accept(retransmissions: u32) -> u64 {
    (0..=retransmissions).map(|count| (1_u64 << count.min(7)).min(120)).sum()
}

/// TOML values that a key accepts; None where it is not for the kernel, or anything at all is.
fn accepted(entry: &Entry) -> Option<BoxedStrategy<String>> {
    Some(match entry.accepts {
        Accepts::Enforce | Accepts::Raw => return None,
        Accepts::Keepalive => {
            let seconds = || proptest::option::of(shown(within(1, 32_767), 1_000_000, &[]));
            let probes = proptest::option::of(within(1, 127));
            let table = (seconds(), seconds(), probes).prop_map(|(time, interval, probes)| {
                let part = |name, value: Option<String>| value.map(|value| format!("{name} = {value}"));
                let parts =
                    [part("time", time), part("interval", interval), part("probes", probes.map(|n| n.to_string()))];
                format!("{{ {} }}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
            });
            word(table.boxed(), &["on", "off"])
        }
        Accepts::UserTimeout => shown(within(1, INT_MAX), 1_000, &["off"]),
        Accepts::ConnectTimeout => shown(within(1_000, 127_000), 1_000, &[]),
        Accepts::DeadPeerTimeout => {
            shown(within(policy::catalog::LEAST_DEAD_PEER_TIMEOUT, policy::catalog::LONGEST_DEAD_PEER_TIMEOUT), 1, &[])
        }
        Accepts::Linger => shown(within(1, INT_MAX), 1_000_000, &["reset", "off"]),
        Accepts::Fastopen => {
            prop_oneof![any::<bool>().prop_map(|on| on.to_string()), within(1, 65_535).prop_map(|n| n.to_string())]
                .boxed()
        }
        Accepts::Boolean | Accepts::TimeWait => any::<bool>().prop_map(|on| on.to_string()).boxed(),
        Accepts::Integer { min, max } => within(min as u64, max as u64).prop_map(|n| n.to_string()).boxed(),
        Accepts::Seconds { min, max } => shown(within(min, max), 1_000_000, &[]),
        Accepts::Retransmissions => {
            let durations = (0..255_u32).prop_map(defer_accept);
            shown(durations.boxed(), 1_000_000, &[])
        }
        Accepts::Timeval => shown(within(1, INT_MAX * 1_000), 1_000, &["off"]),
        Accepts::Size { min, max } => bytes(min, max, &[]),
        Accepts::Rate => bytes(1, u64::from(u32::MAX) - 1, &["unlimited"]),
        Accepts::Dscp => {
            let names = DSCP_NAMES.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>();
            word(within(0, 63).prop_map(|n| n.to_string()).boxed(), &names)
        }
        Accepts::Name { longest } => {
            // No letters that TOML would read otherwise.
            let name = format!("[a-z0-9_.:-]{{1,{longest}}}");
            let random = proptest::string::string_regex(&name).expect("a pattern");
            word(random.prop_map(|text| format!("\"{text}\"")).boxed(), &["lo", "reno", "cubic"])
        }
    })
}

/// The sockets of one IP version that options are tried on.
struct Sockets {
    /// As before connect(2): the peer has reset its connection, so it is closed again.
    closed: TcpStream,
    listener: TcpListener,
    datagram: UdpSocket,
    ip: IpAddr,
    family: Family,
}

impl Sockets {
    fn new(ip: IpAddr) -> Self {
        let bind = || TcpListener::bind((ip, 0)).expect("a port on loopback");
        let address = |listener: &TcpListener| listener.local_addr().expect("an address");
        let peer = bind();
        let mut closed = TcpStream::connect(address(&peer)).expect("a connection over loopback");
        closed.write_all(b"unread").expect("room in the buffer");
        let (accepted, _) = peer.accept().expect("the connection");
        accepted.peek(&mut [0]).expect("the data");
        // Close with unread data is a reset.
        drop(accepted);
        closed.read(&mut [0]).expect_err("a reset");
        let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        Self { closed, listener: bind(), datagram: UdpSocket::bind((ip, 0)).expect("a port"), ip, family }
    }

    fn both() -> Vec<Self> {
        [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].into_iter().map(Self::new).collect()
    }

    /// Every setting of the rules, made on the sockets that it is for.
    fn apply(&self, rules: &Rules, mut each: impl FnMut(i32, &Setting, Outcome)) {
        let (local, peer) = (Endpoint::new(self.ip, 80), Endpoint::new(self.ip, 40_000));
        let (closed, listener) = (self.closed.as_raw_fd(), self.listener.as_raw_fd());
        for (connection, phase, fd) in [
            (Connection::Outbound { peer }, Phase::Connect, closed),
            (Connection::Binding { local }, Phase::Bind, closed),
            (Connection::Listening { local }, Phase::Listen, listener),
            (Connection::Inbound { local, peer }, Phase::Accept, closed),
            (Connection::Inbound { local, peer }, Phase::AcceptAlways, closed),
            (Connection::Outbound { peer }, Phase::Datagram, self.datagram.as_raw_fd()),
        ] {
            for setting in rules.plan(connection, Phases::of(&[phase]), &HostSet::NONE).settings() {
                each(fd, setting, set(fd, setting));
            }
        }
    }
}

/// What the kernel makes something else of: twice the buffer, a queue of net.core.somaxconn at most.
const CHANGED: [Key; 5] = [Key::ReceiveBuffer, Key::SendBuffer, Key::Quickack, Key::Fastopen, Key::TimeWait];
/// What it answers where a capability is missing, or there is nothing of that name.
const EXCUSES: [i32; 4] = [libc::EPERM, libc::EACCES, libc::ENODEV, libc::ENOENT];

/// What is accepted is taken, and then in force as it was written. Seen to fail with a ttl of 256 in the catalogue.
fn the_kernel_takes_what_is_accepted() {
    let sockets = Sockets::both();
    for entry in CATALOG {
        let Some(values) = accepted(entry) else { continue };
        let key = entry.key.name();
        for_all(60, values, |value| {
            let toml = |table: &str| format!("{table}\n{key} = {value}\n");
            let rules = compiled(&toml("[defaults]"), &[], &Process::default()).map_err(TestCaseError::fail)?;
            let mut made = 0;
            for sockets in &sockets {
                let mut wrong = Vec::new();
                let mut each = |fd: i32, setting: &Setting, outcome: Outcome| {
                    made += 1;
                    match (outcome, &setting.value) {
                        (Outcome::Done, Value::Int(value)) if !CHANGED.contains(&setting.key) => {
                            let read = ffi::get_int(fd, setting.level, setting.name);
                            if read != Ok(*value) {
                                wrong.push(format!("{setting} reads back as {read:?}"));
                            }
                        }
                        (Outcome::Failed(Errno(errno)), _) if EXCUSES.contains(&errno) => {}
                        (Outcome::Done, _) => {}
                        (Outcome::Absent | Outcome::LeftToProgram | Outcome::Failed(_), _) => {
                            wrong.push(format!("{setting}: {outcome:?}"))
                        }
                    }
                };
                sockets.apply(&rules, &mut each);
                if entry.key == Key::Linger {
                    // Of [defaults] it is not for accepted sockets.
                    let rules = compiled(&toml("[[rule]]\nlisten = [\"*\"]"), &[], &Process::default());
                    sockets.apply(&rules.map_err(TestCaseError::fail)?, &mut each);
                }
                prop_assert!(wrong.is_empty(), "{}: {}", sockets.ip, wrong.join(", "));
            }
            prop_assert!(made > 0, "nothing was set");
            Ok(())
        });
    }
}

/// TOML values just beyond what a key accepts, and some way off.
fn refused(entry: &Entry) -> Option<BoxedStrategy<String>> {
    let beyond = |min: u64, max: u64, show: fn(u64) -> String| {
        let above = prop_oneof![Just(1_u64), 1..1_000_000_u64].prop_map(move |more| show(max + more));
        let below = within(0, min.saturating_sub(1)).prop_map(show);
        if min == 0 { above.boxed() } else { prop_oneof![above, below].boxed() }
    };
    let plain = |number: u64| number.to_string();
    Some(match entry.accepts {
        // These have no range, or every text is one of them.
        Accepts::Enforce | Accepts::Raw | Accepts::Boolean | Accepts::TimeWait => return None,
        Accepts::Keepalive => {
            let seconds = beyond(1, 32_767, |s| format!("\"{s}s\""));
            let probes = beyond(1, 127, |n| n.to_string());
            prop_oneof![
                seconds.clone().prop_map(|time| format!("{{ time = {time} }}")),
                seconds.prop_map(|interval| format!("{{ interval = {interval}, probes = 3 }}")),
                probes.prop_map(|probes| format!("{{ probes = {probes} }}")),
            ]
            .boxed()
        }
        Accepts::UserTimeout => beyond(1, INT_MAX, |ms| format!("\"{ms}ms\"")),
        Accepts::ConnectTimeout => beyond(1_000, 127_000, |ms| format!("\"{ms}ms\"")),
        Accepts::DeadPeerTimeout => {
            beyond(policy::catalog::LEAST_DEAD_PEER_TIMEOUT, policy::catalog::LONGEST_DEAD_PEER_TIMEOUT, |us| {
                format!("\"{us}us\"")
            })
        }
        Accepts::Linger => beyond(1, INT_MAX, |s| format!("\"{s}s\"")),
        Accepts::Fastopen => beyond(1, 65_535, plain),
        Accepts::Integer { min, max } => {
            let beyond = beyond(min as u64, max as u64, plain);
            prop_oneof![beyond, Just("-1".to_owned())].boxed()
        }
        Accepts::Seconds { min, max } => beyond(min, max, |s| format!("\"{s}s\"")),
        Accepts::Retransmissions => {
            let exists = |seconds: u64| (0..255).any(|count| defer_accept(count) == seconds);
            let between = (0..31_000_u64).prop_filter("exists", move |seconds| !exists(*seconds));
            between.prop_map(|s| format!("\"{s}s\"")).boxed()
        }
        Accepts::Timeval => beyond(1, INT_MAX * 1_000, |ms| format!("\"{ms}ms\"")),
        Accepts::Size { min, max } => beyond(min, max, |n| format!("\"{n}B\"")),
        Accepts::Rate => beyond(1, u64::from(u32::MAX) - 1, |n| format!("\"{n}B\"")),
        Accepts::Dscp => prop_oneof![beyond(0, 63, plain), Just("-1".to_owned())].boxed(),
        Accepts::Name { longest } => {
            let long = (longest + 1..longest + 40).prop_map(|length| format!("\"{}\"", "x".repeat(length)));
            prop_oneof![long, select(vec!["\"\"", "\"a b\"", "\"a/b\"", "\"\\u00e9\""]).prop_map(str::to_owned)].boxed()
        }
    })
}

/// Seen to fail with `min..=max + 1` in Reader::duration.
fn what_is_out_of_range_is_refused() {
    for entry in CATALOG {
        let Some(values) = refused(entry) else { continue };
        for_all(60, values, |value| {
            let toml = format!("[defaults]\n{} = {value}\n", entry.key.name());
            let Err(errors) = compiled(&toml, &[], &Process::default()) else {
                return Err(TestCaseError::fail(format!("{toml} is accepted")));
            };
            prop_assert!(errors.starts_with("property:2:") && errors.lines().count() == 1, "{}", errors);
            Ok(())
        });
    }
}

/// Where the catalogue's range is the kernel's own: level, option, IP version, and the values beside the range.
#[rustfmt::skip] // a table reads by its columns
const KERNEL_RANGES: &[(&str, &str, Family, &[i64])] = &[
    ("SOL_TCP", "TCP_KEEPIDLE", Family::Any, &[0, -1, 32_768]),
    ("SOL_TCP", "TCP_KEEPINTVL", Family::Any, &[0, -1, 32_768]),
    ("SOL_TCP", "TCP_KEEPCNT", Family::Any, &[0, -1, 128]),
    ("SOL_TCP", "TCP_USER_TIMEOUT", Family::Any, &[-1, 1 << 31]),
    ("SOL_TCP", "TCP_SYNCNT", Family::Any, &[0, -1, 128]),
    ("SOL_TCP", "TCP_MAXSEG", Family::Any, &[87, 32_768, -1]),
    ("SOL_IP", "IP_TTL", Family::V4, &[0, 256]),
    ("SOL_IPV6", "IPV6_UNICAST_HOPS", Family::V6, &[256]),
    ("SOL_IPV6", "IPV6_TCLASS", Family::V6, &[256]),
];

/// A range that is narrower than the kernel's would keep people from what they may do. Seen to fail with 127 in place of
/// 128 probes in the table.
fn the_kernel_refuses_it_too() {
    for sockets in Sockets::both() {
        for (level, name, family, values) in KERNEL_RANGES.iter().filter(|row| row.2.overlaps(sockets.family)) {
            for value in *values {
                let toml =
                    format!("[defaults]\nraw = [{{ level = \"{level}\", name = \"{name}\", value = {value} }}]\n");
                let rules = compiled(&toml, &[], &Process::default()).expect("raw takes any number");
                let mut made = 0;
                sockets.apply(&rules, |_, setting, outcome| {
                    made += 1;
                    assert_eq!(outcome, Outcome::Failed(Errno(libc::EINVAL)), "{setting} on {}", sockets.ip);
                });
                assert!(made > 0, "{name} {family:?}");
            }
        }
    }
}

// ---- Dead peers ----

/// CONFIG_HZ.
const TICK_RATES: [u64; 4] = [100, 250, 300, 1_000];

/// When a timer goes off that is set now for so many ticks (kernel/time/timer.c, calc_wheel_index): rounded up to the
/// wheel's level, of which each is eight times as coarse as the one before.
fn goes_off(now: u64, ticks: u64) -> u64 {
    let level = (1..9).rev().find(|level| ticks >= 63 << (3 * (level - 1))).unwrap_or(0);
    (((now + ticks) >> (3 * level)) + 1) << (3 * level)
}

/// The tick at which the connection is given up that was idle from `now` on (net/ipv4/tcp_timer.c, tcp_keepalive_timer).
fn idle_end(now: u64, hz: u64, detection: promise::Detection) -> u64 {
    let first = goes_off(now, u64::from(detection.time) * hz);
    (0..detection.probes).fold(first, |probed, _| goes_off(probed, u64::from(detection.interval) * hz))
}

/// The same with data sent at `now`: retransmissions after 200 ms, then twice as long each time, no longer than the user
/// timeout lets them, which counts from the first (tcp_retransmit_timer, tcp_clamp_rto_to_user_timeout).
fn in_flight_end(now: u64, hz: u64, user_timeout_ms: u64) -> u64 {
    let limit = user_timeout_ms * hz / 1_000;
    let mut rto = hz / 5;
    let first = goes_off(now, rto);
    let mut at = first;
    while at - first < limit {
        rto = (rto * 2).min(120 * hz);
        at = goes_off(at, rto.min(limit - (at - first)));
    }
    at
}

/// Every promise from 5 s to a day is kept at these tick rates, wherever the wheel stands. Seen to fail without the idle
/// timer's grid in timers::Model::idle.
fn a_dead_peer_is_noticed_in_time() {
    let (least, longest) = (policy::catalog::LEAST_DEAD_PEER_TIMEOUT, policy::catalog::LONGEST_DEAD_PEER_TIMEOUT);
    let promises = prop_oneof![within(least, longest), least..60_000_000, least..3_600_000_000];
    for_all(1_500, (promises, any::<u32>()), |(promise, now)| {
        let detection = promise::within(promise).ok_or_else(|| TestCaseError::fail("no times"))?;
        let (time, interval) = (u64::from(detection.time), u64::from(detection.interval));
        prop_assert!(detection.probes == 3 && interval >= 1 && time >= interval && time <= 32_767);
        let user_timeout = detection.user_timeout_ms();
        prop_assert_eq!(user_timeout, (time + 3 * interval) * 1_000);
        // A lost probe must not kill: the user timeout ends after the last one.
        prop_assert!(user_timeout > (time + interval) * 1_000);
        for hz in TICK_RATES {
            let now = u64::from(now);
            for (state, end) in
                [("idle", idle_end(now, hz, detection)), ("in flight", in_flight_end(now, hz, user_timeout))]
            {
                let microseconds = (end - now) * 1_000_000 / hz;
                prop_assert!(
                    microseconds <= promise,
                    "{}: {} us at {} ticks: {:?}",
                    state,
                    microseconds,
                    hz,
                    detection
                );
            }
        }
        // What the configuration makes of it is the same.
        let toml = format!("[defaults]\ndead_peer_timeout = \"{}\"\n", DisplayNumber(promise));
        let rules = compiled(&toml, &[], &Process::default()).map_err(TestCaseError::fail)?;
        let peer = Endpoint::new(Ipv4Addr::LOCALHOST.into(), 1);
        let value = user_timeout_of(&rules, peer);
        prop_assert_eq!(value.map(i64::from), Some(user_timeout as i64));
        Ok(())
    });
    for outside in [0, least - 1, longest + 1, u64::MAX] {
        assert_eq!(promise::within(outside), None);
    }
}

/// The ranges that are given hold wherever the wheel stands. Seen to fail with exact steps for the first probe, too, and
/// without the unit in Clock::wait.
fn a_dead_peer_is_noticed_when_it_is_said() {
    let seconds = || prop_oneof![1_u32..20, 1_u32..400, 1_u32..=32_767];
    let keepalive = (seconds(), seconds(), 1_u32..=127);
    let user_timeout = prop_oneof![1_u64..20_000, 1_u64..2_000_000];
    for_all(4_000, (keepalive, user_timeout, any::<u32>(), select(&TICK_RATES[..])), |(keepalive, limit, now, hz)| {
        let (time, interval, probes) = keepalive;
        let detection = promise::Detection { time, interval, probes };
        let now = u64::from(now);
        let sysctls = Sysctls { ticks_per_second: Some(hz), ..Sysctls::default() };
        let idle = Timers {
            keepalive: true,
            time: Some(time.into()),
            interval: Some(interval.into()),
            probes: Some(probes.into()),
            ..Timers::default()
        };
        let in_flight = Timers { user_timeout: limit, ..Timers::default() };
        for (state, timers, end) in [
            (State::Idle, idle, idle_end(now, hz, detection)),
            (State::InFlight, in_flight, in_flight_end(now, hz, limit)),
        ] {
            let End::Between { earliest, latest } = timers.end(state, &sysctls) else {
                return Err(TestCaseError::fail("never"));
            };
            let milliseconds = (end - now) * 1_000 / hz;
            let is_within = (earliest..=latest).contains(&milliseconds);
            prop_assert!(is_within, "{:?}: {} ms is not within {} to {}", state, milliseconds, earliest, latest);
        }
        Ok(())
    });
}

fn user_timeout_of(rules: &Rules, peer: Endpoint) -> Option<i32> {
    user_timeout(&rules.decide(&Connection::Outbound { peer }), Phase::Connect)
}

// ---- The fuzz corpus ----

type Law = fn(&[u8]);
const CORPORA: [(&str, Law); 4] = [
    ("configuration", |bytes| drop(common::compiled(&common::configuration(text(bytes))))),
    ("environment", |bytes| drop(common::compiled(&common::environment(text(bytes))))),
    ("address", common::address),
    ("executable", common::executable),
];

/// As libFuzzer's input becomes a text: up to the first byte that is none.
fn text(bytes: &[u8]) -> &str {
    let valid = str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    str::from_utf8(&bytes[..valid]).unwrap_or_default()
}

/// What the fuzzers found worth keeping, without a nightly compiler. Seen to fail with Flat without its filter, with 15
/// bytes enough for AF_INET, and with ELF files of 32 bits judged.
fn replay(name: &str, law: Law) {
    let folder = root().join("tests/fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{} holds next to nothing", folder.display());
    for file in files {
        let bytes = fs::read(&file).expect("an input");
        // Its name is told before the panic's own message is.
        let outcome = std::panic::catch_unwind(|| law(&bytes));
        assert!(outcome.is_ok(), "{}", file.display());
    }
}
