//! Rules with `process`: what a process gets is what the rules for it alone decide.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use policy::{Connection, Endpoint, HostSet, Phase, Phases, Process};

use super::interpreter::Machine;
use super::{ENDS, PORTS, Programs, Random, connect, enforces, event, expected, policy_with, rules, rules_for};
use crate::compile::Tables;
use crate::rows::Rows;

const GLOBS: [&str; 8] = ["java", "java*", "*va", "p?thon3", "curl", "*", "?\u{e9}?", "python3"];
const NAMES: [&str; 9] = [
    "java",
    "javac",
    "python3",
    "pxthon3",
    "curl",
    "a\u{e9}b",
    "lava",
    "wget",
    "a-name-that-is-longer-than-a-command-is",
];

/// Most rules ask for some process.
fn policy(random: &mut Random) -> String {
    policy_with(random, |random, text| {
        if random.below(4) > 0 {
            let globs: Vec<String> = (0..=random.below(2)).map(|_| format!("\"{}\"", random.of(&GLOBS))).collect();
            let _ = writeln!(text, "process = [{}]", globs.join(", "));
        }
    })
}

fn process(name: &str) -> Process {
    Process { names: vec![name.to_owned()], command: String::new() }
}

/// Seen to fail: with one class for all processes that some rule asks for.
#[test]
fn each_process_has_the_rules_for_it() {
    let mut random = Random(3);
    let mut matched = 0;
    for _ in 0..150 {
        let text = policy(&mut random);
        let tables = Tables::of(&rules(&text)).expect("small tables");
        assert!(!tables.lost.iter().any(|lost| lost.what.contains("process")), "{text}\n{:?}", tables.lost);
        let programs = Programs::for_policy(&tables);
        let mut machine = Machine::new(Rows::of(&tables));
        for _ in 0..30 {
            let name = random.of(&NAMES);
            let rules = rules_for(&text, Some(&process(name)));
            let ip: IpAddr = random.of(&ENDS).parse().expect("an address");
            let port = random.of(&PORTS);
            let (is_mapped, is_udp) = (random.below(2) == 0, random.below(4) == 0);
            machine.storage.clear();
            machine.executable = Some(name.into());
            let done = connect(&programs, &mut machine, (ip, port), is_mapped, is_udp, Ipv4Addr::UNSPECIFIED.into());
            let phase = if is_udp { Phase::Datagram } else { Phase::Connect };
            let peer = Endpoint::new(ip, port);
            let plan = rules.plan(Connection::Outbound { peer }, Phases::of(&[phase]), &HostSet::NONE);
            assert_eq!((done.result, done.set), (1, expected(&plan)), "{text}\n{name} {peer} {plan:?}");
            assert!(enforces(&machine, &plan), "{text}\n{name} {peer} {:x?}", machine.storage);
            matched += usize::from(plan.decision().rule().is_some());
        }
    }
    assert!(matched > 500, "{matched} connections were some rule's");
}

/// What is accepted goes by the process that listened, whichever is interrupted by the packet.
///
/// Seen to fail: with the process that runs when the client's packet comes; with nothing found for processes that have nothing
/// set on listeners, so that what they accept was taken for another's.
#[test]
fn what_is_accepted_goes_by_the_process_that_listens() {
    const LISTENS: u8 = 11;
    const ACCEPTED: u8 = 5;
    let mut random = Random(4);
    let mut own = 0;
    for _ in 0..150 {
        let text = policy(&mut random);
        let tables = Tables::of(&rules(&text)).expect("small tables");
        if !tables.listens {
            continue;
        }
        let programs = Programs::for_policy(&tables);
        let mut machine = Machine::new(Rows::of(&tables));
        for _ in 0..30 {
            let name = random.of(&NAMES);
            let rules = rules_for(&text, Some(&process(name)));
            let (local, port) = (Ipv4Addr::new(10, 1, 2, 3).into(), random.of(&PORTS));
            let remote = (Ipv4Addr::new(10, 9, 9, 9).into(), random.of(&PORTS));
            machine.storage.clear();
            machine.executable = Some(name.into());
            let listened = event(&programs, &mut machine, LISTENS, (local, port), (local, 0), false);
            let end = Endpoint::new(local, port);
            let listening =
                rules.plan(Connection::Listening { local: end }, Phases::of(&[Phase::Listen]), &HostSet::NONE);
            assert_eq!(listened.set, expected(&listening), "{text}\n{name} {end}");
            machine.executable = Some(random.of(&NAMES).into());
            let done = event(&programs, &mut machine, ACCEPTED, (local, port), remote, false);
            let peer = Endpoint::new(remote.0, remote.1);
            let phases = listening.inheritance().phases();
            let plan = rules.plan(Connection::Inbound { local: end, peer }, phases, &HostSet::NONE);
            assert_eq!(done.set, expected(&plan), "{text}\n{name} {end} {peer} {phases:?}");
            own += usize::from(!done.set.is_empty());
        }
    }
    assert!(own > 150, "{own}");
}

/// A task of the kernel's own has none, and a name may have 255 bytes.
///
/// Seen to fail: with the search ended after 200 bytes.
#[test]
fn no_name_and_the_longest() {
    let long = "x".repeat(255);
    let text = format!(
        "[defaults]\npriority = 2\n[[rule]]\nprocess = [\"java\"]\npriority = 1\n\
         [[rule]]\nprocess = [\"{long}\"]\npriority = 3\n"
    );
    let tables = Tables::of(&rules(&text)).expect("small tables");
    let programs = Programs::for_policy(&tables);
    for (name, priority) in [(None, 2), (Some("java"), 1), (Some(long.as_str()), 3), (Some(&long[1..]), 2)] {
        let mut machine = Machine::new(Rows::of(&tables));
        machine.executable = name.map(Into::into);
        let peer = (Ipv4Addr::LOCALHOST.into(), 80);
        let done = connect(&programs, &mut machine, peer, false, false, Ipv4Addr::UNSPECIFIED.into());
        assert_eq!(done.set.first().map(|(_, _, value)| value[0]), Some(priority), "{name:?}");
    }
}
