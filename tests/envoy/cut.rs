//! A peer of Envoy's vanishes: when Envoy notices. `UPDATE_EXPECTED=1` waits long enough for each of them and writes the table of
//! docs/programs.md; otherwise the test waits for the short ones, and holds what it finds against the table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use std::{env, fs};

use super::{Bootstrap, Proxy, SERVICE_PORT, connect, imported, mesh, name_service, serve};
use crate::support::lab::{Lab, Place, Place::Here, SERVER, Socket};
use crate::support::root;

/// Longer than the kernel takes with the filters' values: 60 s, 20 s and a timer.
const LONG: Duration = Duration::from_secs(95);
/// Longer than what ends within 15 s, on a machine that has much else to do.
const SHORT: Duration = Duration::from_secs(20);
/// By how many seconds two runs differ on such a machine.
const SLACK: f64 = 2.0;

const WAYS: [&str; 4] = ["nothing set", "EnvoyFilters", "the same, imported", "`dead_peer_timeout = \"15s\"`"];
const SITUATIONS: [&str; 3] = [
    "the upstream, while Envoy waits for its answer",
    "the upstream, while a request is in flight",
    "the client, while a response is in flight",
];

/// Seen to fail: with a `dead_peer_timeout` of 30s; with no cut, and with a cell of the table changed.
pub(super) fn peer_vanishes() {
    let lab = Lab::with_link();
    name_service(&lab, SERVER);
    let rules = imported("envoy-cut", "mesh.yaml", &mesh());
    let environments: [&[&str]; 4] = [&[], &[], &[&rules], &["SOCKOPT_DEAD_PEER_TIMEOUT=15s"]];
    let start = |place, addresses: [&'static str; 4], is_near| {
        let mut proxies = Vec::new();
        for ((way, address), environment) in (0..).zip(addresses).zip(environments) {
            let bootstrap = if way == 1 { Bootstrap::with_filters(address) } else { Bootstrap::new(address) };
            let discovery = if is_near { super::Discovery::Static("127.0.0.1") } else { bootstrap.discovery };
            proxies.push(Bootstrap { discovery, ..bootstrap }.start(&lab, place, environment, 1));
        }
        proxies
    };
    // Those whose upstream vanishes are on the client's side, with clients that stay.
    let _far = serve(&lab, Place::Server, SERVER);
    let gateways = start(Place::Client, ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"], false);
    // Those whose client vanishes are on the server's side, with an upstream that stays.
    let own = ["198.19.0.4", "198.19.0.5", "198.19.0.6", "198.19.0.7"];
    let add = own.map(|address| format!("ip -n server address add {address}/24 dev eth0\n")).concat();
    lab.shell(Here, &add);
    let _near = serve(&lab, Place::Server, "127.0.0.1");
    let servers = start(Place::Server, own, true);

    let ask = |how: &str, proxies: &[Proxy]| {
        let all: Vec<String> = proxies.iter().map(|proxy| format!("{how} {}", proxy.listens)).collect();
        connect(&lab, Place::Client, &all)
    };
    let far = SocketAddr::new(SERVER.parse().expect("an address"), SERVICE_PORT);
    let is_upstream =
        |socket: &Socket| socket.peer == Some(far) && gateways.iter().any(|proxy| proxy.pid == socket.pid);
    let is_downstream = |socket: &Socket| servers.iter().any(|proxy| proxy.role_of(socket) == Some("accepted"));
    let _waiting = ask("wait", &gateways);
    let waiting = lab.wait_for(4, is_upstream);
    let _uploads = ask("upload", &gateways);
    let uploads: Vec<Socket> = lab
        .wait_for(8, is_upstream)
        .into_iter()
        .filter(|socket| !waiting.iter().any(|one| one.local == socket.local))
        .collect();
    let _streams = ask("stream", &servers);
    let streams = lab.wait_for(4, is_downstream);
    // Long enough for every acknowledgement: those who wait have nothing in flight.
    thread::sleep(Duration::from_millis(300));
    lab.shell(Here, &own.map(|address| format!("ip route add blackhole {address}/32\n")).concat());
    let cut = lab.cut();

    let is_update = env::var_os("UPDATE_EXPECTED").is_some();
    let window = if is_update { LONG } else { SHORT };
    let mut missing: BTreeMap<(u32, SocketAddr, Option<SocketAddr>), (usize, usize)> = BTreeMap::new();
    for (situation, sockets, proxies) in [(0, &waiting, &gateways), (1, &uploads, &gateways), (2, &streams, &servers)] {
        for socket in sockets {
            let way = proxies.iter().position(|proxy| proxy.pid == socket.pid).expect("one of them");
            missing.insert((socket.pid, socket.local, socket.peer), (situation, way));
        }
    }
    assert_eq!(missing.values().collect::<BTreeSet<_>>().len(), SITUATIONS.len() * WAYS.len());
    let mut found = [[None; WAYS.len()]; SITUATIONS.len()];
    while !missing.is_empty() && cut.elapsed() < window {
        let after = cut.elapsed().as_secs_f64();
        let there: BTreeSet<_> = lab.sockets().iter().map(|socket| (socket.pid, socket.local, socket.peer)).collect();
        missing.retain(|socket, (situation, way)| {
            let is_there = there.contains(socket);
            if !is_there {
                found[*situation][*way] = Some(after);
            }
            is_there
        });
        thread::sleep(Duration::from_millis(50));
    }
    if is_update { table::write(&found) } else { table::check(&found, window.as_secs_f64()) }
}

type Found = [[Option<f64>; WAYS.len()]; SITUATIONS.len()];

mod table {
    use super::{Found, LONG, SITUATIONS, SLACK, WAYS, fs, root};

    const BEGIN: &str = "<!-- envoy: written by the tests -->\n";
    const END: &str = "<!-- /envoy -->";
    const NEVER: &str = "never";

    fn page() -> String {
        fs::read_to_string(root().join("docs/programs.md")).expect("docs/programs.md")
    }

    pub(super) fn write(found: &Found) {
        let mut table = format!("| what vanishes | {} |\n|---|---|---|---|---|\n", WAYS.join(" | "));
        for (situation, found) in SITUATIONS.iter().zip(found) {
            let cells = found.map(|after| after.map_or(NEVER.to_owned(), |after| format!("{after:.1} s")));
            table += &format!("| {situation} | {} |\n", cells.join(" | "));
        }
        table += &format!("\nNever: not within {} s.\n", LONG.as_secs());
        let page = page();
        let (head, rest) = page.split_once(BEGIN).expect("docs/programs.md has the marks");
        let (_, tail) = rest.split_once(END).expect("docs/programs.md has the marks");
        fs::write(root().join("docs/programs.md"), [head, BEGIN, &table, END, tail].concat())
            .expect("docs/programs.md");
    }

    /// What ends within the window does so when the table says, and nothing else does.
    pub(super) fn check(found: &Found, window: f64) {
        let page = page();
        let table = page
            .split_once(BEGIN)
            .and_then(|(_, rest)| rest.split_once(END))
            .expect("docs/programs.md has the marks")
            .0;
        for (situation, found) in SITUATIONS.iter().zip(found) {
            let row =
                table.lines().find(|row| row.contains(situation)).unwrap_or_else(|| panic!("no row: {situation}"));
            let cells: Vec<&str> = row.split('|').map(str::trim).skip(2).take(WAYS.len()).collect();
            for ((cell, found), way) in cells.iter().zip(found).zip(WAYS) {
                let said: Option<f64> = cell.strip_suffix(" s").and_then(|number| number.parse().ok());
                assert!(said.is_some() || *cell == NEVER, "{row}");
                let is_so = match (said.filter(|said| *said < window), found) {
                    (Some(said), Some(found)) => (said - found).abs() < SLACK,
                    (None, None) => true,
                    _ => false,
                };
                assert!(is_so, "{situation}, {way}: {cell} in docs/programs.md, {found:?} here");
            }
        }
    }
}
