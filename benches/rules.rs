//! Rules of mixed kinds: how long a decision takes among many, and how long it takes to read them.

use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use policy::{Configuration, Connection, Endpoint, Process, Rules, Source, compile};

use crate::Bench;
use crate::lab::Failure;
use crate::report::{Goal, Section, time};
use crate::stats::{Random, Summary};
use crate::timed;
use crate::variants::{KINDS, Variant, document};

fn configuration(count: usize) -> Configuration {
    let document = Some(Source { name: "rules".to_owned(), text: document(count) });
    Configuration { document, variables: Vec::new() }
}

fn compiled(configuration: &Configuration) -> Rules {
    let process = Process { names: vec!["bench".to_owned()], command: "bench".to_owned() };
    let compiled = compile(configuration, &process);
    match compiled.rules {
        Ok(rules) => rules,
        Err(errors) => panic!("{}", errors[0].one_line(&compiled.sources)),
    }
}

/// How many different connections are decided about.
pub(crate) const CONNECTIONS: usize = 1024;

/// Connections, every second of which meets one of the rules (any of them), while the others meet none.
fn connections(rules: usize) -> Vec<Connection> {
    let mut random = Random::new(0xc0_ffee);
    let v4 = |a: usize, b: usize, c: usize, d: usize| {
        let [a, b, c, d] = [a, b, c, d].map(|part| u8::try_from(part).unwrap_or(0));
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    let endpoint = |ip: IpAddr, port: usize| Endpoint::new(ip, u16::try_from(port).unwrap_or(0));
    let elsewhere = |random: &mut Random| {
        let ip = v4(203, 0, 113, random.below(256));
        match random.below(4) {
            0 => Connection::Listening { local: endpoint(v4(127, 0, 0, 1), 20_000 + random.below(1000)) },
            1 => Connection::Inbound { local: endpoint(v4(127, 0, 0, 1), 20_000), peer: endpoint(ip, 40_000) },
            _ => Connection::Outbound { peer: endpoint(ip, 20_000 + random.below(1000)) },
        }
    };
    let mut connections = Vec::new();
    for index in 0..CONNECTIONS {
        if index % 2 == 1 {
            connections.push(elsewhere(&mut random));
            continue;
        }
        let n = random.below(rules);
        let (high, low) = ((n / KINDS) >> 8 & 0xff, (n / KINDS) & 0xff);
        let port = 1 + n / KINDS % 1000;
        let peer = |ip, port| Connection::Outbound { peer: endpoint(ip, port) };
        connections.push(match n % KINDS {
            0 => peer(v4(10, high, low, random.below(256)), 443),
            1 => peer(v4(172, 16, high, low), 20_000),
            2 => peer(v4(203, 0, 113, 7), port),
            3 => {
                let [high, low] = [high, low].map(|part| u16::try_from(part).unwrap_or(0));
                peer(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, high, low, 1, 2, 3, 4)), 8042)
            }
            4 => peer(v4(10, high, random.below(256), 9), 10_001 + 4 * low),
            5 => Connection::Listening { local: endpoint(v4(127, 0, 0, 1), port) },
            6 => Connection::Inbound {
                local: endpoint(v4(10, high, low, 1), 9000),
                peer: endpoint(v4(192, 168, low, random.below(256)), 40_000),
            },
            // That rule is for another program.
            _ => elsewhere(&mut random),
        });
    }
    connections
}

/// For callgrind: the difference between two counts is what one of them costs.
pub(crate) fn repeat(rules: usize, compile: usize, decide: usize) {
    let (configuration, connections) = (configuration(rules), connections(rules));
    for _ in 1..compile {
        drop(black_box(compiled(black_box(&configuration))));
    }
    let rules = compiled(&configuration);
    for connection in connections.iter().cycle().take(decide) {
        black_box(rules.decide(black_box(connection)));
    }
}

/// Nanoseconds that this thread has been on a processor (proc(5), schedstat).
fn processor_time() -> Result<f64, Failure> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

pub(crate) const SIZES: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];

pub(crate) fn decide(bench: &Bench) -> Result<Section, Failure> {
    let sizes: Vec<(usize, Rules, Vec<Connection>)> =
        SIZES.map(|size| (size, compiled(&configuration(size)), connections(size))).into();
    let rounds = bench.scaled(61, 9);
    let mut random = Random::new(7);
    let mut times: Vec<Vec<f64>> = SIZES.iter().map(|_| Vec::new()).collect();
    bench.progress.set_position(0);
    bench.progress.set_length(rounds as u64);
    for _ in 0..rounds {
        for index in random.shuffled(sizes.len()) {
            let (_, rules, connections) = &sizes[index];
            let (start, mut done) = (Instant::now(), 0_usize);
            // A list that is searched from its beginning would take the whole day.
            while done < 8 * connections.len() && (done < 64 || start.elapsed().as_millis() < 20) {
                for connection in connections.iter().cycle().skip(done % connections.len()).take(64) {
                    black_box(rules.decide(black_box(connection)));
                }
                done += 64;
            }
            times[index].push(start.elapsed().as_nanos() as f64 / done as f64);
        }
        bench.progress.inc(1);
    }
    let summaries: Vec<Summary> = times.into_iter().map(Summary::of).collect();
    let one = summaries[0].median;
    let rows = SIZES.iter().zip(&summaries).flat_map(|(size, summary)| {
        let cells = |value: &Summary, said: &dyn Fn(f64) -> String, goal: &Goal| {
            let mut cells = vec![size.to_string(), said(value.median)];
            cells.push(format!("{} to {}", said(value.half.0), said(value.half.1)));
            cells.extend(goal.cells(value, None));
            cells
        };
        let goal = if *size == 10_000 { Goal::AtMost(100.0, "< 100 ns".to_owned()) } else { Goal::None };
        let mut rows = vec![cells(summary, &time, &goal)];
        if *size == 100_000 {
            let by = |(low, high): (f64, f64)| (low / one, high / one);
            let flat = Summary { median: summary.median / one, half: by(summary.half), trust: by(summary.trust) };
            let goal = Goal::AtMost(2.0, "≤ 2.00 of 1 rule's".to_owned());
            rows.push(cells(&flat, &|value| format!("{value:.2} of 1 rule's"), &goal));
        }
        rows
    });
    Ok(Section {
        name: "decide",
        title: "A decision among many rules",
        method: format!(
            "`Rules::decide` by itself: {rounds} rounds; rules for networks, addresses, ports, ranges, IPv6, listeners, \
             clients and other programs in turn. Half of the connections meet one of the rules, any of them, half none."
        ),
        columns: vec!["rules", "a decision", "middle half", "goal", "outcome"],
        rows: rows.collect(),
        notes: Vec::new(),
    })
}

pub(crate) fn load(bench: &Bench) -> Result<Section, Failure> {
    let rounds = bench.rounds.div_ceil(2);
    let mut rows = Vec::new();
    let mut add = |what: &str, summary: &Summary, goal: &Goal| {
        let mut cells = vec![what.to_owned(), time(summary.median)];
        cells.push(format!("{} to {}", time(summary.half.0), time(summary.half.1)));
        cells.extend(goal.cells(summary, None));
        rows.push(cells);
    };
    let limit = || Goal::AtMost(15e6, "< 15 ms".to_owned());
    for count in [100, 10_000] {
        let configuration = configuration(count);
        let mut alone = Vec::new();
        // The kernel counts processor time by the tick, a few milliseconds.
        let times = 20_000 / count;
        for _ in 0..rounds {
            let start = processor_time()?;
            for _ in 0..times {
                black_box(compile(black_box(&configuration), &Process::default()));
            }
            alone.push((processor_time()? - start) / times as f64);
        }
        add(&format!("`compile` of {count} rules by itself"), &Summary::of(alone), &Goal::None);
        for ours in bench.variants.unmatched(count)? {
            let row = [timed::Row { with: ours.clone(), against: Variant::none(), goal: Goal::None }];
            let compared = timed::compare(bench, rounds, 1, &row, |variant| timed::first(bench, variant))?;
            let goal = if count == 10_000 { limit() } else { Goal::None };
            add(&format!("{}: added to the first connect of the process", ours.label), &compared[0].added_cpu, &goal);
            let compared = timed::compare(bench, rounds, 2, &row, |variant| timed::spawn(bench, variant))?;
            add(&format!("{}: added to /bin/true", ours.label), &compared[0].added_cpu, &Goal::None);
        }
    }
    let size = fs::metadata(bench.scratch.join("unmatched10000.toml"))?.len() / 1024;
    Ok(Section {
        name: "load",
        title: "Reading many rules",
        method: format!(
            "The text is read when the program starts, whether it opens sockets or not, and compiled when the first \
             socket needs it. In processor time. 10,000 rules are {size} KiB here; {rounds} rounds."
        ),
        columns: vec!["what", "takes", "middle half", "goal", "outcome"],
        rows,
        notes: Vec::new(),
    })
}
