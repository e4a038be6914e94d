//! Two processes that take turns, a batch each: the ratio of each pair of batches, of all pairs the median, and of all
//! rounds, which start both anew, the median again.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Bench;
use crate::lab::{self, Failure, Server};
use crate::report::{Goal, Section, ratio};
use crate::stats::{Random, Summary};
use crate::variants::Variant;

/// What a workload answers, nanoseconds for one operation.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

/// A workload that waits to be asked.
struct Running {
    process: Server,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    said: PathBuf,
}

impl Running {
    fn start(bench: &Bench, mut command: Command, name: &str) -> Result<Running, Failure> {
        let said = bench.scratch.join(name);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&said)?);
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let (asks, answers) = (child.stdin.take(), child.stdout.take().ok_or("no standard output")?);
        Ok(Running { process: Server(child), asks, answers: BufReader::new(answers), said })
    }

    fn ask(&mut self) -> Result<Sample, Failure> {
        let asked = self.asks.as_mut().map_or(Ok(()), |asks| asks.write_all(b"."));
        let mut answer = String::new();
        if asked.is_err() || self.answers.read_line(&mut answer)? == 0 {
            return Err(fs::read_to_string(&self.said)?.into());
        }
        let numbers: Vec<f64> = answer.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        match *numbers {
            [.., wall, cpu] => Ok(Sample { wall, cpu }),
            _ => Err(format!("a workload says {answer:?}").into()),
        }
    }

    /// Ends it, and makes sure that the library was there and had nothing to say.
    fn end(mut self) -> Result<(), Failure> {
        self.asks = None;
        let status = self.process.0.wait()?;
        let said = fs::read_to_string(&self.said)?;
        if status.success() && said.is_empty() { Ok(()) } else { Err(format!("{status}: {said}").into()) }
    }
}

/// Two variants that are compared.
pub(crate) struct Row {
    pub(crate) with: Variant,
    pub(crate) against: Variant,
    pub(crate) goal: Goal,
}

impl Row {
    pub(crate) fn new(with: Variant, goal: Goal) -> Row {
        Row { with, against: Variant::none(), goal }
    }

    fn free(with: Variant) -> Row {
        Row::new(with, Goal::None)
    }

    /// Nothing against itself: what a difference has to exceed to be one.
    fn noise() -> Row {
        let label = "noise: no preload against itself".to_owned();
        Row::free(Variant { label, ..Variant::none() })
    }
}

/// What came of a row.
pub(crate) struct Compared {
    rounds: usize,
    batches: usize,
    /// Ratios.
    pub(crate) wall: Summary,
    pub(crate) cpu: Summary,
    /// Nanoseconds for one operation.
    pub(crate) added_wall: Summary,
    pub(crate) added_cpu: Summary,
}

impl Compared {
    /// The ratio, and what is added.
    pub(crate) fn by(&self, clock: Clock) -> (Summary, Summary) {
        match clock {
            Clock::Processor => (self.cpu, self.added_cpu),
            Clock::Wall => (self.wall, self.added_wall),
        }
    }
}

/// However many rounds are asked for, a section ends; but not before it has some.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);
const FEWEST: usize = 7;

/// Every row once a round, the rows in a new order each time. `batches` of each process are a round; where there are
/// some, the first is to warm up.
pub(crate) fn compare(
    bench: &Bench,
    rounds: usize,
    batches: usize,
    rows: &[Row],
    command: impl Fn(&Variant) -> Command,
) -> Result<Vec<Compared>, Failure> {
    let mut random = Random::new(0x5eed);
    let mut medians: Vec<[Vec<f64>; 4]> = rows.iter().map(|_| Default::default()).collect();
    bench.progress.set_position(0);
    bench.progress.set_length((rounds * rows.len()) as u64);
    let begun = Instant::now();
    for round in 0..rounds {
        if round >= FEWEST && begun.elapsed() > LONGEST {
            break;
        }
        for index in random.shuffled(rows.len()) {
            let row = &rows[index];
            let mut with = Running::start(bench, command(&row.with), "stderr with")?;
            let mut against = Running::start(bench, command(&row.against), "stderr against")?;
            let mut pairs = Vec::new();
            for batch in 0..batches {
                let pair = if random.below(2) == 0 {
                    let first = with.ask()?;
                    (first, against.ask()?)
                } else {
                    let first = against.ask()?;
                    (with.ask()?, first)
                };
                if batch > 0 || batches == 1 {
                    pairs.push(pair);
                }
            }
            with.end()?;
            against.end()?;
            let median =
                |value: &dyn Fn(&(Sample, Sample)) -> f64| Summary::of(pairs.iter().map(value).collect()).median;
            let of_round = [
                median(&|(with, against)| with.wall / against.wall),
                median(&|(with, against)| with.cpu / against.cpu),
                median(&|(with, against)| with.wall - against.wall),
                median(&|(with, against)| with.cpu - against.cpu),
            ];
            medians[index].iter_mut().zip(of_round).for_each(|(rounds, median)| rounds.push(median));
            bench.progress.inc(1);
        }
    }
    let compared = medians.into_iter().map(|rounds| {
        let rounds_done = rounds[0].len();
        let [wall, cpu, added_wall, added_cpu] = rounds.map(Summary::of);
        Compared { rounds: rounds_done, batches, wall, cpu, added_wall, added_cpu }
    });
    Ok(compared.collect())
}

/// A workload under a variant.
pub(crate) fn workload(bench: &Bench, name: &str, arguments: &[&str], variant: &Variant) -> Command {
    let mut command = lab::within(variant.group.as_deref(), bench.workload(name));
    variant.apply(command.args(arguments));
    command
}

/// By what a row is judged.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Clock {
    /// Which waiting for a processor is no part of.
    Processor,
    Wall,
}

fn columns(second: &'static str, clock: Clock) -> Vec<&'static str> {
    let other = if clock == Clock::Processor { "by the wall clock" } else { "by processor time" };
    vec!["variant", second, "ratio", "middle half", other, "goal", "outcome"]
}

/// The first row is the noise.
fn ratios(rows: &[Row], compared: &[Compared], clock: Clock) -> Vec<Vec<String>> {
    let judged = |compared: &Compared| match clock {
        Clock::Processor => (compared.cpu, compared.wall),
        Clock::Wall => (compared.wall, compared.cpu),
    };
    let noise = compared.first().map(|compared| judged(compared).0);
    let cells = rows.iter().zip(compared).map(|(row, compared)| {
        let (by_this, by_other) = judged(compared);
        let mut cells = vec![row.with.label.clone(), row.against.label.clone()];
        cells.extend(ratio(&by_this));
        cells.push(format!("{:.3}", by_other.median));
        cells.extend(row.goal.cells(&by_this, noise.as_ref()));
        cells
    });
    cells.collect()
}

/// How many batches of each process are a round.
pub(crate) const BATCHES: usize = 30;

pub(crate) fn tcp(bench: &Bench, mode: &str, variant: &Variant) -> Command {
    workload(bench, "tcp", &[mode, &variant.options.to_string()], variant)
}

fn pairs(compared: &[Compared], clock: Clock) -> String {
    let (rounds, batches) = compared.first().map_or((0, 0), |compared| (compared.rounds, compared.batches));
    let clock = if clock == Clock::Processor { "processor time" } else { "the wall clock" };
    format!("Two processes in turn, {rounds} rounds of {batches} batches each; by {clock}.")
}

pub(crate) fn connect(bench: &Bench) -> Result<Section, Failure> {
    let variants = &bench.variants;
    let mut rows = vec![Row::noise(), Row::free(variants.empty.clone())];
    for options in [4, 5, 6] {
        rows.push(Row::free(Variant::floor(options)));
        for ours in variants.connecting(options)? {
            rows.push(Row::free(ours.clone()));
            let floor = Goal::AtMost(1.02, "≤ floor + 2 %".to_owned());
            rows.push(Row { with: ours, against: Variant::floor(options), goal: floor });
        }
    }
    rows.extend(variants.neighbours().into_iter().map(Row::free));
    let compared = compare(bench, bench.rounds, BATCHES, &rows, |variant| tcp(bench, "connect", variant))?;
    Ok(Section {
        name: "connect",
        title: "TCP socket, connect and close",
        method: pairs(&compared, Clock::Processor),
        columns: columns("against", Clock::Processor),
        rows: ratios(&rows, &compared, Clock::Processor),
        notes: variants.missing().into_iter().collect(),
    })
}

pub(crate) fn unmatched(bench: &Bench) -> Result<Section, Failure> {
    let mut rows = vec![Row::noise()];
    for ours in bench.variants.unconfigured() {
        rows.push(Row::new(ours, Goal::Noise));
    }
    for count in [1, 100, 10_000] {
        rows.extend(bench.variants.unmatched(count)?.into_iter().map(|ours| Row::new(ours, Goal::Noise)));
    }
    let compared = compare(bench, bench.rounds, BATCHES, &rows, |variant| tcp(bench, "connect", variant))?;
    Ok(Section {
        name: "unmatched",
        title: "TCP socket, connect and close, where no rule matches",
        method: format!(
            "{} The rules are read before the first connection that is timed.",
            pairs(&compared, Clock::Processor)
        ),
        columns: columns("against", Clock::Processor),
        rows: ratios(&rows, &compared, Clock::Processor),
        notes: Vec::new(),
    })
}

pub(crate) fn accept(bench: &Bench) -> Result<Section, Failure> {
    let variants = &bench.variants;
    let mut rows = vec![Row::noise()];
    rows.extend(variants.listening()?.into_iter().map(|ours| Row::new(ours, Goal::Noise)));
    rows.push(Row::free(Variant::floor(1)));
    rows.extend(variants.accepting()?.into_iter().map(|ours| Row::new(ours, Goal::at_most(1.10))));
    rows.push(Row::free(Variant::floor(5)));
    rows.extend(variants.neighbours().into_iter().map(Row::free));
    let compared = compare(bench, bench.rounds, BATCHES, &rows, |variant| tcp(bench, "accept", variant))?;
    Ok(Section {
        name: "accept",
        title: "TCP accept and close",
        method: pairs(&compared, Clock::Processor),
        columns: columns("against", Clock::Processor),
        rows: ratios(&rows, &compared, Clock::Processor),
        notes: variants.missing().into_iter().collect(),
    })
}

pub(crate) fn calls(bench: &Bench) -> Result<Section, Failure> {
    let variants = &bench.variants;
    let calls = [
        ("close() of what is no socket", "close"),
        ("socket(AF_UNIX)", "socket-unix"),
        ("socket(AF_INET, SOCK_DGRAM)", "socket-udp"),
        ("connect() of a UNIX socket", "connect-unix"),
    ];
    let (mut cells, mut method) = (Vec::new(), String::new());
    for (said, call) in calls {
        let goal = || Goal::AtMost(3.0, "≤ +3 ns".to_owned());
        let mut rows = vec![Row::noise()];
        rows.extend(variants.connecting(5)?.into_iter().map(|ours| Row::new(ours, goal())));
        rows.extend(variants.neighbours().into_iter().map(Row::free));
        let compared =
            compare(bench, bench.rounds, BATCHES, &rows, |variant| workload(bench, "calls", &[call], variant))?;
        method = pairs(&compared, Clock::Processor);
        for (row, compared) in rows.iter().zip(&compared) {
            let added = &compared.added_cpu;
            let mut row_cells = vec![said.to_owned(), row.with.label.clone()];
            row_cells.push(format!("{:+.1}", added.median));
            row_cells.push(format!("{:+.1} to {:+.1}", added.half.0, added.half.1));
            row_cells.push(format!("{:.3}", compared.cpu.median));
            row_cells.extend(row.goal.cells(added, None));
            cells.push(row_cells);
        }
    }
    Ok(Section {
        name: "calls",
        title: "Calls that no rule is about",
        method: format!("Nanoseconds that a call takes more than without a preload. {method}"),
        columns: vec!["call", "variant", "ns added", "middle half", "ratio", "goal", "outcome"],
        rows: cells,
        notes: variants.missing().into_iter().collect(),
    })
}

pub(crate) fn sockets(bench: &Bench) -> Result<Section, Failure> {
    let variants = &bench.variants;
    let mut rows = vec![Row::noise()];
    rows.extend(variants.connecting(5)?.into_iter().map(|ours| Row::new(ours, Goal::Noise)));
    rows.extend(variants.neighbours().into_iter().map(Row::free));
    let rounds = bench.rounds.div_ceil(2);
    let compared =
        compare(bench, rounds, BATCHES, &rows, |variant| workload(bench, "calls", &["open", "4000"], variant))?;
    Ok(Section {
        name: "sockets",
        title: "One more TCP socket, opened and closed, with 4,000 open",
        method: pairs(&compared, Clock::Processor),
        columns: columns("against", Clock::Processor),
        rows: ratios(&rows, &compared, Clock::Processor),
        notes: variants.missing().into_iter().collect(),
    })
}

/// /bin/true with the environment of a variant, which is the child's alone: the workload itself runs without.
pub(crate) fn spawn(bench: &Bench, variant: &Variant) -> Command {
    let mut command = lab::within(variant.group.as_deref(), bench.workload("spawn"));
    command.args(variant.environment.iter().map(|(name, value)| format!("{name}={value}")));
    command
}

/// The first call of a process that concerns a socket.
pub(crate) fn first(bench: &Bench, variant: &Variant) -> Command {
    workload(bench, "tcp", &["first"], variant)
}

pub(crate) fn exec(bench: &Bench) -> Result<Section, Failure> {
    let variants = &bench.variants;
    let mut rows = vec![Row::noise(), Row::free(variants.empty.clone())];
    for ours in variants.unconfigured().into_iter().chain(variants.by_variable()) {
        rows.push(Row::new(ours, Goal::at_most(1.12)));
    }
    rows.extend(variants.unmatched(100)?.into_iter().map(Row::free));
    rows.extend(variants.neighbours().into_iter().map(Row::free));
    let compared = compare(bench, bench.rounds, BATCHES, &rows, |variant| spawn(bench, variant))?;
    let mut cells = ratios(&rows, &compared, Clock::Wall);
    for (cells, compared) in cells.iter_mut().zip(&compared) {
        cells[1] = format!("{:+.0} us", compared.added_wall.median / 1e3);
    }
    Ok(Section {
        name: "exec",
        title: "Start and end of /bin/true",
        method: format!(
            "posix_spawn to wait4; processor time is the child's alone, so that its share is larger. {} What it is made of is \
             counted in the next section.",
            pairs(&compared, Clock::Wall)
        ),
        columns: columns("added", Clock::Wall),
        rows: cells,
        notes: variants.missing().into_iter().collect(),
    })
}
