//! The incident, replayed: half of a service vanishes under load. What becomes of the throughput?
//!
//! Builds clients, a router with the service's address and two nodes in network namespaces (no root
//! needed). The clients are alike but for what is set on their sockets; node B is cut off without a
//! word, for all of them at the same moment. It ends with a table, a picture and a sentence.

mod figures;
mod lab;
mod load;
mod overlay;
mod server;
#[path = "../shared/mod.rs"]
mod shared;
mod view;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser, error::ErrorKind};

use figures::{Figures, milliseconds, now};
use lab::{Lab, Reroute};
use load::{Load, Program, Setting};
use shared::promise::Promise;
use shared::screen::{say, short};
use shared::{Failure, NOT_AS_PROMISED, namespaces, picture, programs};
use view::View;

/// Four JVMs at once may take long on a small machine.
const UNDER_LOAD_WITHIN: Duration = Duration::from_secs(120);
/// How long after the promise the throughput may take to be back: a thread that was thinking at the cut sends its
/// request after it, and needs another thought and an answer then.
const BACK_AFTER_PROMISE: usize = 2;

/// Cuts off one of two nodes under load and shows what becomes of the throughput
#[derive(Parser)]
#[command(
    name = "incident",
    after_help = "\
Needs iproute2, util-linux and nftables, and JMeter with a JDK (javac) or Python 3 for the load. Needs no root.
JMETER names another JMeter than the one in PATH, SOCKOPT_LIBRARY a libsockopt.so other than the one built along
with this program.

Exit status: 0 as expected (with libsockopt the throughput is back at 90 % within the dead peer timeout and two
seconds, and no thread is stuck; with nothing it never is), 1 not so, 2 wrong usage, 77 cannot run here."
)]
struct Args {
    /// The short form: Python, a dead peer timeout of 5s, 10 threads, nothing and libsockopt, in half a minute
    #[arg(long)]
    short: bool,
    /// Who makes the load [default: jmeter-hc4 where there is JMeter, else python]
    #[arg(long)]
    client: Option<Program>,
    /// What is set on the clients' sockets, a client for each [default: all]
    #[arg(long, value_delimiter = ',')]
    runs: Option<Vec<Setting>>,
    /// Milliseconds that each thread waits before each request, one scene for each
    #[arg(long, value_name = "MS", value_delimiter = ',', default_value = "0,500")]
    think: Vec<u64>,
    /// The control group of the client `kernel`, to which `sockopt attach` has attached the dead peer timeout
    #[arg(long, value_name = "DIRECTORY")]
    group: Option<PathBuf>,
    /// Threads of each client [default: 40]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=1000))]
    threads: Option<u64>,
    /// The time within which a vanished peer must be noticed, as the library is told [default: 15s]
    #[arg(long, value_name = "TIME")]
    dead_peer_timeout: Option<Promise>,
    /// Seconds under load before the cut that count [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(3..=600))]
    cut_at: Option<u64>,
    /// Seconds to watch after the cut [default: 30, or twice the dead peer timeout]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10..=3600))]
    seconds: Option<u64>,
    /// Seconds after the cut until the router gives new connections to node A alone
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u64).range(..10))]
    fail_over: u64,
    /// What becomes of node B's flows then
    #[arg(long, value_enum, default_value = "none")]
    reroute: Reroute,
    /// Where the picture goes
    #[arg(long, value_name = "PATH", default_value = "incident.svg")]
    svg: PathBuf,
    /// Be the process inside the namespaces, with its files in this directory
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
    /// Be a node's server at this address
    #[arg(long, hide = true)]
    serve: Option<Ipv4Addr>,
}

/// What this run is to show.
struct Plan {
    program: Program,
    settings: Vec<Setting>,
    threads: usize,
    promise: Promise,
    before: Duration,
    window: Duration,
    fail_over: Duration,
    reroute: Reroute,
    preload: String,
    group: Option<PathBuf>,
}

/// The incident with one think time, for all settings at once.
struct Scene {
    think: u64,
    runs: Vec<Figures>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(address) = args.serve {
        return server::serve(address).map_or_else(|e| Failure::from(e).complain(), |()| 0).into();
    }
    picture::check(&args.svg).unwrap_or_else(|why| usage(why));
    let short_form = args.short;
    let default = move |long: u64, short: u64| if short_form { short } else { long };
    let promise = args.dead_peer_timeout.clone();
    let promise = promise.unwrap_or_else(|| {
        let time = Duration::from_secs(default(15, 5));
        Promise { text: format!("{}s", time.as_secs()), time }
    });
    let window = args.seconds.unwrap_or((promise.time.as_secs() * 2).max(default(30, 10)));
    if window < promise.time.as_secs() + 5 {
        usage("--seconds must be at least five more than the dead peer timeout");
    }
    let settings = args.runs.clone().unwrap_or_else(|| match args.short {
        true => vec![Setting::Nothing, Setting::Libsockopt],
        false => vec![Setting::Nothing, Setting::Keepalive, Setting::UserTimeout, Setting::Libsockopt],
    });
    if settings.contains(&Setting::Kernel) && args.group.is_none() {
        usage("the client `kernel` needs --group, and root");
    }
    namespaces::run(&[("nft", "nftables")], args.inside.as_deref(), |directory| {
        let library = programs::library()?;
        let plan = Plan {
            program: program(&args)?,
            settings,
            threads: args.threads.unwrap_or(default(40, 10)) as usize,
            promise,
            before: Duration::from_secs(args.cut_at.unwrap_or(default(10, 3))),
            window: Duration::from_secs(window),
            fail_over: Duration::from_secs(args.fail_over),
            reroute: args.reroute,
            preload: programs::preload(directory, &library)?,
            group: args.group.clone(),
        };
        inside(&args, &plan, &library, directory)
    })
}

fn usage(text: &str) -> ! {
    Args::command().error(ErrorKind::ValueValidation, text).exit()
}

/// Who makes the load.
fn program(args: &Args) -> Result<Program, Failure> {
    let there = |program: &str| {
        let look = Command::new("/bin/sh").args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null()).status();
        look.is_ok_and(|status| status.success())
    };
    let jmeter = || there(&std::env::var("JMETER").unwrap_or_else(|_| "jmeter".to_owned()));
    let program = match args.client {
        Some(program) => program,
        None if args.short => Program::Python,
        None if jmeter() => Program::JmeterHc4,
        None => {
            say!("There is no JMeter here: a Python client makes the load.\n");
            Program::Python
        }
    };
    match program {
        Program::Python if !there("python3") => Err(Failure::CannotRun("no python3 (package python3)".to_owned())),
        Program::Python => Ok(program),
        _ if !jmeter() => Err(Failure::CannotRun("no jmeter (package jmeter); --client python needs none".to_owned())),
        _ => Ok(program),
    }
}

fn inside(args: &Args, plan: &Plan, library: &Path, directory: &Path) -> Result<u8, Failure> {
    say!("clients --- router --+-- node A     {}, {} threads each,", plan.program.name(), plan.threads);
    say!(
        "                     +-- node B     {} ms a request, kept-alive connections\n",
        server::SERVICE_TIME.as_millis()
    );
    for setting in &plan.settings {
        let group = plan.group.as_ref().filter(|_| *setting == Setting::Kernel);
        let variable = setting.variable(&plan.promise).or(group.map(|group| format!("in {}", group.display())));
        let variable = variable.unwrap_or_else(|| "the program as it is".to_owned());
        say!("  {:<17}  {variable}", setting.name());
    }
    say!("  {:<17}  LD_PRELOAD={}\n", "with a variable", short(library));
    let mut scenes = Vec::new();
    for &think in &args.think {
        let directory = directory.join(scenes.len().to_string());
        std::fs::create_dir(&directory)?;
        scenes.push(play(think, plan, &directory)?);
    }
    overlay::write(&args.svg, &scenes, plan)
        .map_err(|error| Failure::Broken(format!("{}: {error}", args.svg.display())))?;
    say!("Picture: {}\n", args.svg.display());
    Ok(judge(&scenes, plan))
}

/// One scene, from the start of the load to the end of the time that is watched.
fn play(think: u64, plan: &Plan, directory: &Path) -> Result<Scene, Failure> {
    let lab = Lab::build(directory, plan.settings.len())?;
    let mut loads = Vec::new();
    for (number, &setting) in plan.settings.iter().enumerate() {
        loads.push(Load::start(number, setting, think, &lab, directory, plan)?);
    }
    say!("Think time {think} ms: waiting for {} threads to be under load.", plan.threads * loads.len());
    let until = Instant::now() + UNDER_LOAD_WITHIN;
    while loads.iter().any(|load| load.results.threads.len() < plan.threads) {
        if Instant::now() > until {
            return Err(Failure::Broken("the load does not start".to_owned()));
        }
        pause(&mut loads)?;
    }
    let mut view = View::new(plan);
    let (_, warm) = plan.program.start();
    let planned = now() + milliseconds(Duration::from_secs(warm) + plan.before);
    watch(&mut loads, &mut view, planned, planned)?;
    lab.cut()?;
    let cut = now();
    watch(&mut loads, &mut view, cut, cut + milliseconds(plan.fail_over))?;
    lab.fail_over(plan.reroute)?;
    watch(&mut loads, &mut view, cut, cut + milliseconds(plan.window))?;
    pause(&mut loads)?;
    let figures = |load: &Load| Figures::of(load.setting, &load.results, cut, plan);
    let scene = Scene { think, runs: loads.iter().map(figures).collect() };
    view.finish(&scene);
    Ok(scene)
}

/// Reads and shows what the loads report, until then.
fn watch(loads: &mut [Load], view: &mut View, cut: i64, until: i64) -> Result<(), Failure> {
    while now() < until {
        pause(loads)?;
        view.draw(loads, cut);
    }
    Ok(())
}

fn pause(loads: &mut [Load]) -> Result<(), Failure> {
    std::thread::sleep(Duration::from_millis(50));
    loads.iter_mut().try_for_each(Load::read)
}

/// Says whether it is as expected, in one sentence, after a line for everything that is not.
fn judge(scenes: &[Scene], plan: &Plan) -> u8 {
    let limit = plan.promise.time.as_secs() as usize + BACK_AFTER_PROMISE;
    // Threads that share a few connections have few on node B: those that are stuck are hardly missed.
    let shared = plan.program == Program::JmeterJava;
    let (mut good, mut others) = (Vec::new(), 0);
    for scene in scenes {
        for run in &scene.runs {
            let expected = match run.setting {
                Setting::Libsockopt | Setting::Kernel => run.back.is_some_and(|back| back <= limit) && run.stuck == 0,
                // A reset ends a connection that something is sent on, without any option.
                Setting::Nothing if plan.reroute != Reroute::Rst => run.stuck > 0 && (run.back.is_none() || shared),
                _ => continue,
            };
            if !expected {
                others += 1;
                let back = run.back.map_or("never back".to_owned(), |back| format!("back after {back} s"));
                say!("Not as expected: {}, think time {} ms:", run.setting.name(), scene.think);
                say!("  {back}, {} of {} threads stuck", run.stuck, plan.threads);
            } else if let (Setting::Libsockopt | Setting::Kernel, Some(back)) = (run.setting, run.back) {
                good.push((run.setting, format!("{back} s (think time {} ms)", scene.think)));
            }
        }
    }
    if others > 0 {
        return NOT_AS_PROMISED;
    }
    for setting in [Setting::Libsockopt, Setting::Kernel] {
        let times: Vec<&str> = good.iter().filter(|(of, _)| *of == setting).map(|(_, time)| time.as_str()).collect();
        if !times.is_empty() {
            say!("With {} the throughput was back after {}, no thread stuck.", setting.name(), times.join(", "));
        }
    }
    let never = |scene: &Scene| scene.runs.iter().any(|run| run.setting == Setting::Nothing && run.back.is_none());
    if scenes.iter().all(never) {
        say!("With nothing it never was in the {} s watched.", plan.window.as_secs());
    }
    0
}
