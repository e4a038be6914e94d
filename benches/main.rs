//! What the library costs, beside what a user would take instead, and beside nothing at all.
//!
//! `cargo bench` prints tables; README.md in this folder says how they are measured. Everything runs in namespaces of
//! its own, on the loopback.

mod counted;
mod kernel;
mod lab;
mod report;
mod rules;
mod stats;
mod supervised;
mod throughput;
mod timed;
mod variants;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use lab::Failure;
use report::Section;
use variants::Variants;

type Measure = fn(&Bench) -> Result<Section, Failure>;

/// In the order of the results.
const SECTIONS: [(&str, Measure); 15] = [
    ("connect", timed::connect),
    ("unmatched", timed::unmatched),
    ("accept", timed::accept),
    ("calls", timed::calls),
    ("sockets", timed::sockets),
    ("exec", timed::exec),
    ("start", counted::start),
    ("decide", rules::decide),
    ("load", rules::load),
    ("throughput", throughput::throughput),
    ("memory", counted::memory),
    ("syscalls", counted::system_calls),
    ("instructions", counted::by_operation),
    ("supervisor", supervised::supervisor),
    ("kernel", kernel::kernel),
];

/// Measures what libsockopt.so costs
#[derive(Parser)]
#[command(
    name = "cargo bench --",
    after_help = "Needs cc, unshare (util-linux) and ip (iproute2). Sections that \
    need more say so: strace, valgrind, go, wrk and nginx, redis-server and redis-benchmark, jmeter; Debian's libkeepalive0, \
    libdontdie0 and libproxychains4 are measured beside where they are installed."
)]
struct Args {
    /// The library; more than once to compare builds [default: the one that cargo built along with this]
    #[arg(long, value_name = "PATH")]
    library: Vec<PathBuf>,
    /// The command, for the sections supervisor and kernel; packages have a static one [default: the one that cargo built along with this]
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_sockopt"))]
    command: PathBuf,
    /// Only these sections: connect, unmatched, accept, calls, sockets, exec, start, decide, load, throughput,
    /// memory, syscalls, instructions, supervisor, kernel
    #[arg(long, value_name = "SECTION,...", value_delimiter = ',', value_parser = SECTIONS.map(|(name, _)| name))]
    only: Vec<String>,
    /// A minute in all, for a first look
    #[arg(long)]
    quick: bool,
    /// Rounds of a row that compares times [default: 21; requests per second: 15, JMeter 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(3..))]
    rounds: Option<u16>,
    /// Write what was measured into benches/RESULTS.md; what was not is left as it is there
    #[arg(long)]
    save: bool,
    /// Control groups that something is attached to, for the section kernel
    #[arg(long, hide = true, value_name = "FOLDER")]
    groups: Option<PathBuf>,
    /// Be the process inside the namespaces
    #[arg(long, hide = true)]
    inside: bool,
    /// Compile RULES rules COMPILE times, decide DECIDE times by them and print nothing, for counting instructions
    #[arg(long, hide = true, num_args = 3, value_names = ["RULES", "COMPILE", "DECIDE"])]
    repeat: Vec<usize>,
    /// What cargo bench says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// What every section works with.
struct Bench {
    /// Compiled workloads, configurations, logs.
    scratch: PathBuf,
    variants: Variants,
    /// `sockopt`.
    command: PathBuf,
    /// For the section kernel, where there are some.
    groups: Option<PathBuf>,
    rounds: usize,
    /// What `--rounds` says.
    asked: Option<usize>,
    quick: bool,
    progress: ProgressBar,
}

impl Bench {
    /// `full`, or a fraction of it where only a look is wanted.
    fn scaled(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    fn workload(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let [rules, compile, decide] = *args.repeat {
        rules::repeat(rules, compile, decide);
        return ExitCode::SUCCESS;
    }
    let outcome = if args.inside { inside(&args) } else { outside(&args) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Whether a section is asked for.
fn is_wanted(args: &Args, name: &str) -> bool {
    args.only.is_empty() || args.only.iter().any(|only| only == name)
}

/// Makes what has to be made outside of the namespaces, and enters them.
fn outside(args: &Args) -> Result<(), Failure> {
    let attached = is_wanted(args, "kernel").then(|| kernel::Groups::attach(&args.command));
    let groups = match attached {
        Some(Ok(groups)) => Some(groups),
        Some(Err(why)) => {
            eprintln!("kernel: {why}");
            None
        }
        None => None,
    };
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    lab::enter(&arguments, groups.as_ref().map(kernel::Groups::top))
}

fn inside(args: &Args) -> Result<(), Failure> {
    lab::set_up()?;
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch)?;
    lab::compile(&scratch)?;
    let machine = lab::machine();
    let libraries = match &*args.library {
        [] => vec![std::env::current_exe()?.with_file_name("libsockopt.so")],
        given => given.iter().map(fs::canonicalize).collect::<Result<_, _>>()?,
    };
    let identities: Vec<String> = libraries.iter().map(|library| lab::identity(library)).collect::<Result<_, _>>()?;
    println!("{machine}");
    for (library, identity) in libraries.iter().zip(&identities) {
        println!("{identity}\n    {}", library.display());
    }
    if args.save && libraries.len() > 1 {
        return Err("--save takes one library".into());
    }
    let wanted: Vec<_> = SECTIONS.into_iter().filter(|(name, _)| is_wanted(args, name)).collect();
    let progress = ProgressBar::new(1).with_style(ProgressStyle::with_template("{msg:14} {wide_bar} {elapsed}")?);
    let bench = Bench {
        variants: Variants::new(&scratch, libraries)?,
        scratch,
        command: fs::canonicalize(&args.command)?,
        groups: args.groups.clone(),
        rounds: args.rounds.map_or(if args.quick { 7 } else { 21 }, usize::from),
        asked: args.rounds.map(usize::from),
        quick: args.quick,
        progress,
    };
    let begun = Instant::now();
    let mut sections = Vec::new();
    for (name, measure) in wanted {
        bench.progress.reset();
        bench.progress.set_message(name);
        let section = measure(&bench).map_err(|failure| format!("{name}: {failure}"))?;
        bench.progress.suspend(|| section.print());
        sections.push(section);
    }
    bench.progress.finish_and_clear();
    println!("\n{} s", begun.elapsed().as_secs());
    if args.save {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
        report::save(&file, &machine, &sections, &SECTIONS.map(|(name, _)| name), &identities.concat())?;
    }
    Ok(())
}
