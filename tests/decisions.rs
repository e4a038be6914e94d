//! Which rule counts for a connection and what it sets: `fixtures/decisions/NAME.toml`, one test a file.
//!
//! A fixture is a configuration, then a line `---`, then what is to come of it:
//!
//! ```text
//! SOCKOPT_TO=:443                      from here on, a variable; without a value it is taken away again
//! process java java-17                 from here on, the process by these names
//! command java -jar client.jar         from here on, its command line
//! connect 10.1.2.3:443 -> gateway: SO_KEEPALIVE=1 TCP_KEEPIDLE=5
//! connect 10.1.2.3:443 as redis.example db -> ...  to an address that was looked up by these names
//! udp 10.1.2.3:53 -> defaults: IP_TTL=9           a UDP socket that connects
//! bind 0.0.0.0:8080 -> left alone: no rule matched
//! listen 0.0.0.0:8080 -> http, inherited: ...     what the accepted sockets need: inherited, some options, per peer
//! accept 0.0.0.0:8080 from 10.9.9.9:5000 -> ...   all that an accepted socket needs if its listener has nothing
//! accept-always 0.0.0.0:8080 from ...             what it needs even if its listener has everything
//! enforced connect 10.1.2.3:443 -> yes            whether the program is kept from undoing it, or fill
//! enforces TCP_USER_TIMEOUT -> no                 whether any profile for this process enforces an option
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use policy::plan::Plan;
use policy::rules::Inheritance;
use policy::{
    Configuration, Connection, Endpoint, Enforce, HostSet, Key, Name, Phase, Phases, Process, Rules, Source, compile,
    constants,
};

use crate::support::{root, test};

pub(crate) fn trials() -> Vec<Trial> {
    let files = fixtures();
    let mut trials: Vec<Trial> = files
        .iter()
        .map(|file| {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let file = file.clone();
            test(format!("decisions::{name}"), move || check(&file))
        })
        .collect();
    trials.push(test("decisions::every_key_is_among_them", move || every_key_is_among_them(&files)));
    trials
}

fn fixtures() -> Vec<PathBuf> {
    let folder = root().join("tests/fixtures/decisions");
    let entries = fs::read_dir(&folder).expect("tests/fixtures/decisions");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder's entry").path()).collect();
    files.sort();
    files
}

fn every_key_is_among_them(files: &[PathBuf]) {
    let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).expect("a fixture")).collect();
    let is_given = |key: &Key| {
        let given = |line: &str| {
            line.trim_start().strip_prefix(key.name()).is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        texts.iter().any(|text| text.lines().any(given))
    };
    let missing: Vec<&str> = Key::ALL.iter().filter(|key| !is_given(key)).map(|key| key.name()).collect();
    assert!(missing.is_empty(), "no fixture gives {}", missing.join(", "));
}

fn check(file: &Path) {
    let text = fs::read_to_string(file).expect("a fixture");
    let (toml, expectations) = text.split_once("---\n").expect("a line --- below the configuration");
    let first_line = toml.lines().count() + 2;
    let mut scene = Scene { toml, variables: BTreeMap::new(), process: Process::default() };
    let mut rules = None;
    let mut wrong = String::new();
    let mut count = 0;
    for (index, line) in expectations.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((question, expected)) = line.split_once(" -> ") else {
            scene.change(line);
            rules = None;
            continue;
        };
        count += 1;
        let actual = answer(rules.get_or_insert_with(|| scene.compile()), question);
        if actual != expected.trim() {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let _ = write!(
                wrong,
                "\n{name}:{}: {question}\n  expected {expected}\n  actual   {actual}",
                first_line + index
            );
        }
    }
    assert!(count > 0, "{} expects nothing", file.display());
    assert!(wrong.is_empty(), "{wrong}");
}

/// What the rules are compiled from.
struct Scene<'a> {
    toml: &'a str,
    variables: BTreeMap<String, String>,
    process: Process,
}

impl Scene<'_> {
    fn change(&mut self, line: &str) {
        if let Some(names) = line.strip_prefix("process ") {
            self.process.names = names.split_whitespace().map(str::to_owned).collect();
        } else if let Some(command) = line.strip_prefix("command ") {
            self.process.command = command.to_owned();
        } else if let Some((name, value)) = line.split_once('=').filter(|(name, _)| name.starts_with("SOCKOPT_")) {
            if value.is_empty() {
                self.variables.remove(name);
            } else {
                self.variables.insert(name.to_owned(), value.to_owned());
            }
        } else {
            panic!("neither a variable, a process, a command nor an expectation: {line}");
        }
    }

    fn compile(&self) -> Rules {
        let document = Source { name: "fixture".into(), text: self.toml.to_owned() };
        let variables = self.variables.iter().map(|(name, text)| Source { name: name.clone(), text: text.clone() });
        let configuration = Configuration { document: Some(document), variables: variables.collect() };
        let compiled = compile(&configuration, &self.process);
        let problems = |list: &[policy::Problem]| {
            list.iter().map(|problem| format!("\n{}", problem.one_line(&compiled.sources))).collect::<String>()
        };
        assert!(compiled.warnings.is_empty(), "{}", problems(&compiled.warnings));
        compiled.rules.clone().unwrap_or_else(|errors| panic!("{}", problems(&errors)))
    }
}

fn answer(rules: &Rules, question: &str) -> String {
    let (verb, rest) = question.split_once(' ').unwrap_or((question, ""));
    match verb {
        "enforces" => {
            let (level, number) = option_named(rest);
            yes_or_no(rules.enforces(level, number))
        }
        "enforced" => {
            let (verb, rest) = rest.split_once(' ').unwrap_or_default();
            let (connection, _) = situation(verb, rest);
            match rules.decide(&connection).profile().enforce() {
                Enforce::Always => "yes",
                Enforce::Never => "no",
                Enforce::Fill => "fill",
            }
            .to_owned()
        }
        _ => {
            let (rest, names) = rest.split_once(" as ").unwrap_or((rest, ""));
            let (connection, phases) = situation(verb, rest);
            let mut hosts = HostSet::NONE;
            let names = names.split(' ').filter_map(|name| Name::new(name.as_bytes()));
            names.for_each(|name| rules.add_hosts(&mut hosts, &name));
            describe(&rules.plan(connection, phases, &hosts), verb == "listen")
        }
    }
}

fn situation(verb: &str, rest: &str) -> (Connection, Phases) {
    let phases: &[Phase] = match verb {
        "connect" => &[Phase::Connect],
        "connected" => &[Phase::Connected],
        "udp" => &[Phase::Datagram],
        "bind" => &[Phase::Bind],
        "udp-bind" => &[Phase::BindDatagram],
        "listen" => &[Phase::Listen],
        "accept" => &[Phase::Accept, Phase::AcceptAlways],
        "accept-always" => &[Phase::AcceptAlways],
        _ => panic!("no such situation: {verb} {rest}"),
    };
    let connection = match verb {
        "connect" | "connected" | "udp" => Connection::Outbound { peer: endpoint(rest) },
        "bind" => Connection::Binding { local: endpoint(rest) },
        "udp-bind" => Connection::BindingUdp { local: endpoint(rest) },
        "listen" => Connection::Listening { local: endpoint(rest) },
        _ => {
            let (local, peer) = rest.split_once(" from ").expect("accept LOCAL from PEER");
            Connection::Inbound { local: endpoint(local), peer: endpoint(peer) }
        }
    };
    (connection, Phases::of(phases))
}

fn describe(plan: &Plan<'_>, is_listener: bool) -> String {
    let decision = plan.decision();
    let who = decision.rule().map_or("defaults", |rule| rule.name());
    let more = match plan.inheritance() {
        _ if !is_listener => "",
        Inheritance::Full => ", inherited",
        Inheritance::Partial => ", some options",
        Inheritance::None => ", per peer",
    };
    match plan.bypass() {
        Some(reason) => format!("left alone{more}: {reason}"),
        None => format!("{who}{more}:{}", plan.settings().map(|setting| format!(" {setting}")).collect::<String>()),
    }
}

fn endpoint(text: &str) -> Endpoint {
    let address: SocketAddr = text.trim().parse().unwrap_or_else(|_| panic!("no address and port: {text}"));
    Endpoint::new(address.ip(), address.port())
}

fn option_named(name: &str) -> (i32, i32) {
    let found = constants::OPTIONS.iter().find(|(_, known, _)| known == name);
    let &(level, _, number) = found.unwrap_or_else(|| panic!("no such option: {name}"));
    (level, number)
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}
