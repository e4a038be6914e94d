//! A peer vanishes without a word: who notices, and when?
//!
//! Builds a client, a router and a server in network namespaces (no root needed), lets curl and
//! Java talk to the server, each without and with libsockopt.so, cuts the link silently, and shows
//! what becomes of them. It ends with a table, an SVG timeline and a sentence.

mod clients;
mod lab;
mod server;
#[path = "../shared/mod.rs"]
mod shared;
mod timeline;
mod view;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser, error::ErrorKind};

use clients::{Client, Program, Situation, State};
use lab::Lab;
use shared::promise::Promise;
use shared::screen::{Screen, say, short};
use shared::{Failure, NOT_AS_PROMISED, namespaces, picture, programs};

const CONNECTED_WITHIN: Duration = Duration::from_secs(20);
const KERNEL_SEEN_AT: Duration = Duration::from_secs(3);

/// Cuts the link under curl and Java, without and with libsockopt.so, and shows who notices
#[derive(Parser)]
#[command(
    name = "half-open",
    after_help = "\
Needs curl, iproute2 and util-linux, and a JDK if Java is to take part. Needs no root.
SOCKOPT_LIBRARY names a libsockopt.so other than the one built along with this program.

Exit status: 0 as promised, 1 not as promised, 2 wrong usage, 77 cannot run here."
)]
struct Args {
    /// Seconds to watch after the cut [default: 30, or twice the dead peer timeout]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(6..=500))]
    seconds: Option<u64>,
    /// The time within which a vanished peer must be noticed, as the library is told
    #[arg(long, value_name = "TIME", default_value = "15s")]
    dead_peer_timeout: Promise,
    /// Where the timeline goes
    #[arg(long, value_name = "PATH", default_value = "half-open.svg")]
    svg: PathBuf,
    /// Leave Java out
    #[arg(long)]
    no_java: bool,
    /// Be the process inside the namespaces, with its files in this directory
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
    /// Be the server for so many clients
    #[arg(long, hide = true)]
    serve: Option<usize>,
}

/// What this run is to show.
struct Plan {
    library: PathBuf,
    preload: String,
    promise: Promise,
    window: Duration,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(clients) = args.serve {
        return server::serve(clients).map_or_else(|e| Failure::from(e).complain(), |()| 0).into();
    }
    let promise = args.dead_peer_timeout.clone();
    let window = args.seconds.map(Duration::from_secs);
    let window = window.unwrap_or(promise.time.mul_f64(2.0).max(Duration::from_secs(30)));
    if window <= promise.time {
        usage("--seconds must be more than the dead peer timeout");
    }
    picture::check(&args.svg).unwrap_or_else(|why| usage(why));
    namespaces::run(&[("ss", "iproute2"), ("curl", "curl")], args.inside.as_deref(), |directory| {
        let library = programs::library()?;
        let preload = programs::preload(directory, &library)?;
        let plan = Plan { library, preload, promise, window };
        inside(&args, &plan, directory)
    })
}

fn usage(text: &str) -> ! {
    Args::command().error(ErrorKind::ValueValidation, text).exit()
}

fn inside(args: &Args, plan: &Plan, directory: &Path) -> Result<u8, Failure> {
    let lab = Lab::build(directory)?;
    say!("client --- router --- server, each in a network namespace of its own\n");
    say!("  without  the programs as they are");
    say!("  with     SOCKOPT_DEAD_PEER_TIMEOUT={}", plan.promise.text);
    say!("           LD_PRELOAD={}\n", short(&plan.library));
    let mut programs = vec![Program::Curl];
    if !args.no_java {
        match clients::prepare_java(&lab) {
            Ok(()) => programs.push(Program::Java),
            Err(reason) => say!("Java takes no part: {reason}."),
        }
    }
    clients::prepare(&lab)?;
    let mut clients = clients::all(&programs, &lab);
    connect(&mut clients, &lab, plan)?;
    say!("{} clients are connected; the server would answer each after 10 s.", clients.len());
    let cut = Instant::now();
    lab.cut()?;
    say!("From now on the router drops everything: no RST, no ICMP.\n");

    let screen = Screen::new(plan.window);
    let sockets = watch(&mut clients, cut, &lab, &screen)?;
    view::finish(&screen, &clients);
    clients.iter_mut().for_each(Client::end);
    kernel_note(&clients, &sockets);
    timeline::write(&args.svg, &clients, plan)
        .map_err(|error| Failure::Broken(format!("{}: {error}", args.svg.display())))?;
    say!("Timeline: {}\n", args.svg.display());
    Ok(conclude(&clients, plan))
}

/// Starts server and clients and returns when every request has arrived. Java first: it takes
/// longest to start, and the fresher the connections at the cut, the better the times compare.
fn connect(clients: &mut [Client], lab: &Lab, plan: &Plan) -> Result<(), Failure> {
    let until = Instant::now() + CONNECTED_WITHIN;
    let mut server = lab.start_server(clients.len())?;
    let (sender, reports) = mpsc::channel();
    if let Some(stdout) = server.stdout.take() {
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        std::thread::spawn(move || lines.all(|line| sender.send(line).is_ok()));
    }
    let report = || reports.recv_timeout(until.saturating_duration_since(Instant::now()));
    report().map_err(|_| Failure::Broken("the server does not start".to_owned()))?;
    for program in [Program::Java, Program::Curl] {
        let ours = |client: &Client| client.program == program;
        let mut missing: Vec<usize> = (0..clients.len()).filter(|&i| ours(&clients[i])).collect();
        for &number in &missing {
            clients[number].start(number, lab, plan)?;
        }
        while let Some(&first) = missing.first() {
            let arrived = report();
            for client in clients.iter_mut() {
                client.look(until)?;
                if let State::Ended { said, .. } = &client.state {
                    let why = format!("{client} the library, ended before the cut: {said}");
                    return Err(Failure::Broken(why));
                }
            }
            let first = &clients[first];
            let late = |_| Failure::Broken(format!("{first} the library: no request in time"));
            let line = arrived.map_err(late)?;
            missing.retain(|number| number.to_string() != line);
        }
    }
    // Long enough for every acknowledgement: those who wait have nothing in flight.
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

/// Watches the clients until the window is over; returns what the kernel said of their sockets.
fn watch(clients: &mut [Client], cut: Instant, lab: &Lab, screen: &Screen) -> Result<Vec<String>, Failure> {
    let mut sockets = Vec::new();
    loop {
        let now = cut.elapsed();
        for client in clients.iter_mut() {
            if client.look(cut)? {
                view::ended(screen, client);
            }
        }
        if now >= screen.window {
            return Ok(sockets);
        }
        if sockets.is_empty() && now >= KERNEL_SEEN_AT {
            sockets = lab.sockets(clients.len());
        }
        view::draw(screen, clients, now);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The two connections that wait, as `ss` shows them: one has a timer, one looks healthy for ever.
fn kernel_note(clients: &[Client], sockets: &[String]) {
    // Java sets no keepalive of its own, so it shows the difference best.
    let java = clients.iter().any(|client| client.program == Program::Java);
    let program = if java { Program::Java } else { Program::Curl };
    say!("ss -tno, 3 s after the cut, {program} waiting for an answer:");
    for (client, socket) in clients.iter().zip(sockets) {
        if client.program != program || client.situation != Situation::Waiting {
            continue;
        }
        let timer = match socket.split_whitespace().find(|word| word.starts_with("timer:")) {
            // ss writes 1.2 s as 1.200ms.
            Some(timer) if timer.contains('.') => timer.replace("ms,", "s,"),
            Some(timer) => timer.to_owned(),
            None => "no timer".to_owned(),
        };
        let state = socket.split_whitespace().next().unwrap_or("no connection");
        let own = if client.covered || java { "" } else { "  (curl's own, good for 600 s)" };
        say!("  {:<8} {state}  {timer}{own}", client.library());
    }
    say!("");
}

/// Says what was seen, in one sentence, after a line for everything that is not as promised.
fn conclude(clients: &[Client], plan: &Plan) -> u8 {
    let (promise, window, half) = (&plan.promise, plan.window.as_secs(), clients.len() / 2);
    let mut times = Vec::new();
    let mut differences = 0;
    for client in clients {
        let difference = match &client.state {
            State::Running if !client.covered => continue,
            State::Running => format!("did not notice within {window} s"),
            State::Ended { after, said, timed_out } => {
                if client.covered && *timed_out && *after <= promise.time {
                    times.push(after.as_secs_f64());
                    continue;
                }
                format!("ended after {:.1} s: {said}", after.as_secs_f64())
            }
        };
        differences += 1;
        say!("Not as promised: {client} the library:\n  {difference}");
    }
    let noticed = times.len();
    if differences > 0 {
        say!("{noticed} of {half} clients with the library noticed within {}.", promise.text);
        return NOT_AS_PROMISED;
    }
    let first = times.iter().copied().fold(f64::MAX, f64::min);
    let last = times.iter().copied().fold(0.0, f64::max);
    let range = format!("{first:.1} to {last:.1} s");
    say!("With the library all {half} clients noticed within {} ({range});", promise.text);
    say!("without it all {half} still hang after {window} s.");
    0
}
