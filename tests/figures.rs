//! The summary of the benchmarks in docs/benchmarks.md has the figures of benches/RESULTS.md.
//!
//! `UPDATE_EXPECTED=1` writes them; do it after `cargo bench -- --save`.

use std::env;
use std::fmt::Write;
use std::fs;

use libtest_mimic::Trial;

use crate::support::{root, test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![test("documents::benchmarks::summary_is_that_of_the_results", summary)]
}

/// A row of a table in RESULTS.md, and what a reader of the summary calls it.
struct Figure {
    words: &'static str,
    section: &'static str,
    /// The first cells of the row.
    row: &'static [&'static str],
}

const fn figure(words: &'static str, section: &'static str, row: &'static [&'static str]) -> Figure {
    Figure { words, section, row }
}

const FIVE: &str = "sockopt: dead_peer_timeout, 5 options";
const ONE_VARIABLE: &str = "sockopt: SOCKOPT_DEAD_PEER_TIMEOUT=15s";
const NOTHING: &str = "sockopt: nothing configured";

const COSTS: &[Figure] = &[
    figure(
        "connect, `dead_peer_timeout` (5 options), against the program that sets them itself",
        "connect",
        &[FIVE, "the program sets 5 options itself"],
    ),
    figure("connect, 1 rule, which does not match", "unmatched", &["sockopt: 1 rule, none matches"]),
    figure("connect, 10,000 rules, none matches", "unmatched", &["sockopt: 10000 rules, none matches"]),
    figure("accept, a rule with `listen`, 5 options", "accept", &["sockopt: a rule with listen, 5 options"]),
    figure("accept, a rule with `from`, 1 option", "accept", &["sockopt: a rule with from, 1 option"]),
    figure("`close` of a descriptor that is not a socket", "calls", &["close() of what is no socket", FIVE]),
    figure("`socket` for a UNIX socket", "calls", &["socket(AF_UNIX)", FIVE]),
    figure("`socket` for a UDP socket", "calls", &["socket(AF_INET, SOCK_DGRAM)", FIVE]),
    figure("connect of a UNIX socket", "calls", &["connect() of a UNIX socket", FIVE]),
    figure("start and end of /bin/true, nothing configured", "exec", &[NOTHING]),
    figure("start and end of /bin/true, one variable", "exec", &[ONE_VARIABLE]),
    figure("a decision among 10,000 rules", "decide", &["10000"]),
    figure(
        "reading 10,000 rules, at the first connect",
        "load",
        &["sockopt: 10000 rules, none matches: added to the first connect of the process"],
    ),
    figure(
        "connect, 5 options by programs in the kernel, against the program that sets them itself",
        "kernel",
        &["socket, connect, close", "kernel: 5 options", "the program sets 5 options itself"],
    ),
    figure(
        "the same by `[defaults]`, which are for listeners too",
        "kernel",
        &["socket, connect, close", "kernel: 5 options by [defaults], for listeners too"],
    ),
    figure(
        "Go's `net.Dial` under the supervisor, 5 options",
        "supervisor",
        &["dial, 1 goroutine, no keepalive of Go's"],
    ),
    figure("memory (Rss), nothing configured", "memory", &["without a socket", NOTHING]),
    figure("memory (Rss), one variable", "memory", &["without a socket", ONE_VARIABLE]),
    figure(
        "memory (Rss), 100 rules, after a connection",
        "memory",
        &["after a connection", "sockopt: 100 rules, none matches"],
    ),
];

const LOADS: &[Figure] = &[
    figure(
        "wrk to nginx, a connection for each request, nginx preloaded",
        "throughput",
        &["wrk, a connection each: nginx preloaded"],
    ),
    figure(
        "wrk to nginx, a connection for each request, wrk preloaded",
        "throughput",
        &["wrk, a connection each: wrk preloaded"],
    ),
    figure(
        "wrk to nginx, kept-alive connections, nginx preloaded",
        "throughput",
        &["wrk, kept-alive connections: nginx preloaded"],
    ),
    figure(
        "wrk to nginx, kept-alive connections, wrk preloaded",
        "throughput",
        &["wrk, kept-alive connections: wrk preloaded"],
    ),
    figure(
        "redis-benchmark, a connection for each request, both sides preloaded",
        "throughput",
        &["redis-benchmark, a connection each: both sides preloaded"],
    ),
    figure(
        "redis-benchmark, kept-alive connections, both sides preloaded",
        "throughput",
        &["redis-benchmark, kept-alive connections: both sides preloaded"],
    ),
    figure("JMeter, a connection for each request", "throughput", &["JMeter, a connection each: JMeter preloaded"]),
    figure("JMeter, kept-alive connections", "throughput", &["JMeter, kept-alive connections: JMeter preloaded"]),
];

impl Figure {
    /// The columns of the row in `results`, by their names; of two with one name the first.
    fn cells<'a>(&self, results: &'a str) -> impl Fn(&str) -> Option<&'a str> {
        let [begin, end] = ["begin", "end"].map(|mark| format!("<!-- {mark} {} -->", self.section));
        let section = results.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
        let (section, _) = section.unwrap_or_else(|| panic!("RESULTS.md has no section {}", self.section));
        let cells = |line: &'a str| -> Vec<&'a str> {
            line.trim_start_matches("| ").trim_end_matches(" |").split(" | ").map(str::trim).collect()
        };
        let mut table = section.lines().filter(|line| line.starts_with('|')).map(cells);
        let columns = table.next().unwrap_or_default();
        let row = table.find(|row| row.starts_with(self.row));
        let row = row.unwrap_or_else(|| panic!("section {} has no row {:?}", self.section, self.row));
        move |name: &str| columns.iter().position(|&column| column == name).and_then(|at| row.get(at).copied())
    }

    /// What it costs: the column that says so, with its unit.
    fn cost(&self, results: &str) -> String {
        let cell = self.cells(results);
        let ratio = || cell("ratio").and_then(|ratio| ratio.parse::<f64>().ok());
        let percent = || ratio().map(|ratio| format!("{:+.1} %", (ratio - 1.0) * 100.0));
        let nanoseconds = || cell("ns added").map(|ns| format!("{ns} ns"));
        let start = || cell("added").zip(percent()).map(|(added, percent)| format!("{added}, {percent}"));
        let plain = || ["a decision", "takes", "Rss"].iter().find_map(|name| cell(name)).map(str::to_owned);
        nanoseconds().or_else(start).or_else(plain).or_else(percent).unwrap_or_else(|| panic!("{}", self.words))
    }

    fn line(&self, results: &str, value: &str) -> String {
        let cell = self.cells(results);
        let goal = cell("goal").or_else(|| cell("goal (Rss)")).or_else(|| cell("goal (requests/s)"));
        format!(
            "| {} | {value} | {} | {} |\n",
            self.words,
            goal.unwrap_or_default(),
            cell("outcome").unwrap_or_default()
        )
    }
}

/// The part of docs/benchmarks.md that is made of RESULTS.md.
fn figures(results: &str) -> String {
    let goals = results.lines().find(|line| line.starts_with("Of ") && line.contains(" goals "));
    let mut text = format!("{}\n\n", goals.expect("RESULTS.md counts its goals"));
    text += "| what | cost | goal | outcome |\n|---|---|---|---|\n";
    COSTS.iter().for_each(|figure| text += &figure.line(results, &figure.cost(results)));
    let _ = write!(text, "\nRequests per second with the library, as a percentage of those without it:\n\n");
    text += "| load | with the library | goal | outcome |\n|---|---|---|---|\n";
    for figure in LOADS {
        let ratio = figure.cells(results)("ratio").and_then(|ratio| ratio.parse::<f64>().ok());
        text += &figure.line(results, &format!("{:.1} %", ratio.expect("a ratio") * 100.0));
    }
    text
}

/// Seen to fail with a figure of RESULTS.md changed, and with one of the summary.
fn summary() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let results = read("benches/RESULTS.md");
    let file = root().join("docs/benchmarks.md");
    let old = read("docs/benchmarks.md");
    let begin = "<!-- begin: from benches/RESULTS.md, by a test -->\n";
    let end = "<!-- end -->\n";
    let (before, rest) = old.split_once(begin).expect("where the figures begin");
    let (found, after) = rest.split_once(end).expect("where the figures end");
    let expected = figures(&results);
    if env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&file, format!("{before}{begin}{expected}{end}{after}")).expect("docs/benchmarks.md");
        return;
    }
    assert_eq!(found, expected, "UPDATE_EXPECTED=1 writes it");
}
