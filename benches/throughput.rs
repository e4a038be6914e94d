//! Requests per second of real programs: nginx under wrk, Redis under its own benchmark, and JMeter.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::lab::{self, Failure, Server};
use crate::report::{Goal, Section, ratio, time};
use crate::stats::{Random, Summary};
use crate::variants::Variant;

/// What came of one run.
struct Rate {
    per_second: f64,
    /// Nanoseconds of processor time for each request, of the side that may be preloaded.
    processor: Option<f64>,
}

/// A load, and how often a pair of it is run.
struct Load {
    said: String,
    rounds: usize,
    /// With or without the library.
    run: Box<dyn Fn(bool) -> Result<Rate, Failure>>,
}

/// However many rounds are asked for, a load ends; but not before it has three.
const LONGEST: Duration = Duration::from_secs(40);

const NEEDED: [&str; 5] = ["nginx", "wrk", "redis-server", "redis-benchmark", "jmeter"];

pub(crate) fn throughput(bench: &Bench) -> Result<Section, Failure> {
    // One build of the library is enough here.
    let first = |variants: Vec<Variant>| variants.into_iter().next().unwrap_or_default();
    let (server, client) = (first(bench.variants.listening()?), first(bench.variants.connecting(5)?));
    let missing: Vec<&str> = NEEDED.into_iter().filter(|program| !lab::is_installed(program)).collect();
    let are_there = |programs: &[&str]| programs.iter().all(|program| !missing.contains(program));
    let rounds = bench.asked.unwrap_or(bench.scaled(15, 5));
    let mut servers = Vec::new();
    let mut start = |server: Server| {
        let pid = server.0.id();
        servers.push(server);
        pid
    };
    let mut loads = Vec::new();
    let kept_or_not = [("a connection each", 1), ("kept-alive connections", 0)];
    if are_there(&["nginx"]) {
        let plain = start(nginx(&bench.scratch, 8000, &Variant::none())?);
        let preloaded = start(nginx(&bench.scratch, 8100, &server)?);
        for (kept, offset) in kept_or_not.into_iter().filter(|_| are_there(&["wrk"])) {
            let used = bench.workload("used");
            let run = Box::new(move |with| {
                let (pid, port) = if with { (preloaded, 8100) } else { (plain, 8000) };
                let before = processor_time(pid)?;
                let (rate, requests, _) = wrk(&used, &Variant::none(), port + offset)?;
                let processor = Some((processor_time(pid)? - before) / requests);
                Ok(Rate { per_second: rate, processor })
            });
            loads.push(Load { said: format!("wrk, {kept}: nginx preloaded"), rounds, run });
            let (used, client) = (bench.workload("used"), client.clone());
            let run = Box::new(move |with| {
                let variant = if with { client.clone() } else { Variant::none() };
                let (rate, requests, processor) = wrk(&used, &variant, 8000 + offset)?;
                Ok(Rate { per_second: rate, processor: Some(processor / requests) })
            });
            loads.push(Load { said: format!("wrk, {kept}: wrk preloaded"), rounds, run });
        }
    }
    if are_there(&["redis-server", "redis-benchmark"]) {
        let plain = start(redis(&bench.scratch, 8200, &Variant::none())?);
        let preloaded = start(redis(&bench.scratch, 8201, &server)?);
        for (kept, is_each) in kept_or_not {
            let (used, client) = (bench.workload("used"), client.clone());
            let requests = bench.scaled(20_000, 5_000) * if is_each == 1 { 1 } else { 3 };
            let run = Box::new(move |with| {
                let (pid, port) = if with { (preloaded, "8201") } else { (plain, "8200") };
                let before = processor_time(pid)?;
                let mut command = lab::plain(&used);
                if with {
                    client.apply(&mut command);
                }
                command.args(["redis-benchmark", "-p", port, "-c", "20", "-t", "set", "--csv"]);
                command.args(["-k", if is_each == 1 { "0" } else { "1" }, "-n", &requests.to_string()]);
                // "SET","123456.78","0.063",...
                let printed = lab::run(&mut command)?;
                let number = printed.lines().find_map(|line| line.strip_prefix("\"SET\",\"")?.split('"').next());
                let processor = processor_time(pid)? - before + used_time(&printed)?;
                let per_second = number.ok_or("redis-benchmark without a result")?.parse()?;
                Ok(Rate { per_second, processor: Some(processor / requests as f64) })
            });
            loads.push(Load { said: format!("redis-benchmark, {kept}: both sides preloaded"), rounds, run });
        }
    }
    if are_there(&["nginx", "jmeter"]) && !bench.quick {
        for (kept, offset) in kept_or_not {
            let run = jmeter(&bench.scratch, &client, 8000 + offset);
            let rounds = bench.asked.unwrap_or(3);
            loads.push(Load { said: format!("JMeter, {kept}: JMeter preloaded"), rounds, run });
        }
    }
    bench.progress.set_position(0);
    bench.progress.set_length(loads.iter().map(|load| load.rounds as u64).sum());
    let mut random = Random::new(11);
    let rows = loads.iter().map(|load| row(bench, load, &mut random)).collect::<Result<_, _>>()?;
    let mut notes = Vec::new();
    if !missing.is_empty() {
        notes.push(format!("Not installed: {}.", missing.join(", ")));
    }
    if bench.quick {
        notes.push("A quick run leaves JMeter out.".to_owned());
    }
    Ok(Section {
        name: "throughput",
        title: "Requests per second",
        method: "Two runs side by side, in random order; the ratio is the median of the pairs' ratios. The server's rule is one \
                 with `listen`, the client's one with `to`, five options each. On the loopback client and server share the \
                 cores, so that what one of them spends the other lacks. Processor time is that of what is preloaded, for each \
                 request."
            .to_owned(),
        columns: vec![
            "load",
            "rounds",
            "requests/s without",
            "ratio",
            "middle half",
            "processor time without",
            "ratio",
            "goal (requests/s)",
            "outcome",
        ],
        rows,
        notes,
    })
}

fn row(bench: &Bench, load: &Load, random: &mut Random) -> Result<Vec<String>, Failure> {
    let mut pairs = Vec::new();
    let begun = Instant::now();
    for round in 0..load.rounds {
        if round >= 3 && begun.elapsed() > LONGEST {
            break;
        }
        let with_first = random.below(2) == 0;
        let first = (load.run)(with_first)?;
        let second = (load.run)(!with_first)?;
        pairs.push(if with_first { (first, second) } else { (second, first) });
        bench.progress.inc(1);
    }
    let of = |value: &dyn Fn(&(Rate, Rate)) -> f64| Summary::of(pairs.iter().map(value).collect());
    let rates = of(&|(with, without)| with.per_second / without.per_second);
    let mut cells = vec![load.said.clone(), pairs.len().to_string()];
    cells.push(format!("{:.0}", of(&|(_, without)| without.per_second).median));
    cells.extend(ratio(&rates));
    if pairs.iter().all(|(with, without)| with.processor.is_some() && without.processor.is_some()) {
        let spent = |rate: &Rate| rate.processor.unwrap_or_default();
        cells.push(time(of(&|(_, without)| spent(without)).median));
        cells.push(format!("{:.3}", of(&|(with, without)| spent(with) / spent(without)).median));
    } else {
        cells.extend([String::new(), String::new()]);
    }
    cells.extend(Goal::AtLeast(0.99, "≥ 0.99".to_owned()).cells(&rates, None));
    Ok(cells)
}

/// Nanoseconds that a process has been on a processor so far, all of its threads (proc(5), schedstat).
fn processor_time(pid: u32) -> Result<f64, Failure> {
    let mut sum = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += text.split(' ').next().unwrap_or_default().parse::<f64>()?;
    }
    Ok(sum)
}

/// What `used` adds to the output, in nanoseconds.
fn used_time(printed: &str) -> Result<f64, Failure> {
    let line = printed.lines().find_map(|line| line.strip_prefix("processor time: ")?.strip_suffix(" us"));
    Ok(line.ok_or("no processor time")?.parse::<f64>()? * 1e3)
}

/// wrk against a port: requests per second, requests, and its processor time in all.
fn wrk(used: &Path, variant: &Variant, port: u16) -> Result<(f64, f64, f64), Failure> {
    let mut command = lab::plain(used);
    command.args(["wrk", "-t", "1", "-c", "20", "-d", "1"]);
    let printed = lab::run(variant.apply(&mut command).arg(format!("http://127.0.0.1:{port}/")))?;
    let rate = printed.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    let requests = printed.lines().find_map(|line| line.trim().split_once(" requests in ")).map(|(number, _)| number);
    let (rate, requests) = (rate.ok_or("wrk without a result")?, requests.ok_or("wrk without requests")?);
    Ok((rate.trim().parse()?, requests.parse()?, used_time(&printed)?))
}

/// One process, and no root's: it would want to become another user, of which there is none here. It keeps connections on
/// `port` and closes them after each answer on the next.
fn nginx(scratch: &Path, port: u16, variant: &Variant) -> Result<Server, Failure> {
    let folder = scratch.join(format!("nginx{port}"));
    fs::create_dir_all(&folder)?;
    let temporary: String =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path temp;\n")).concat();
    let server = |port: u16, more: &str| {
        format!("server {{ listen 127.0.0.1:{port}; {more} location / {{ return 200 'here'; }} }}\n")
    };
    let configuration = format!(
        "daemon off; master_process off; pid pid; error_log error.log;\nevents {{}}\n\
         http {{ access_log off; keepalive_requests 1000000000; {temporary} {}{} }}\n",
        server(port, ""),
        server(port + 1, "keepalive_timeout 0;")
    );
    fs::write(folder.join("nginx.conf"), configuration)?;
    let mut command = lab::plain("unshare");
    command
        .args(["--user", "--map-user=1000", "--map-group=1000", "nginx", "-e", "error.log", "-c"])
        .arg(folder.join("nginx.conf"))
        .arg("-p")
        .arg(&folder);
    listening(variant.apply(&mut command), port)
}

fn redis(scratch: &Path, port: u16, variant: &Variant) -> Result<Server, Failure> {
    let mut command = lab::plain("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(scratch);
    listening(variant.apply(&mut command), port)
}

/// Starts a server and waits until it listens.
fn listening(command: &mut Command, port: u16) -> Result<Server, Failure> {
    let mut server = Server(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = server.0.try_wait()? {
            return Err(format!("{command:?}: {status}").into());
        }
        if Instant::now() > until {
            return Err(format!("{command:?} does not listen").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// The JMeter of examples/jmeter, whose script knows what Debian's needs. The first seconds are the JVM's.
fn jmeter(scratch: &Path, client: &Variant, port: u16) -> Box<dyn Fn(bool) -> Result<Rate, Failure>> {
    let value =
        |name: &str| client.environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    let (library, configuration) = (value("LD_PRELOAD"), value("SOCKOPT_CONFIG"));
    let results = scratch.join("jmeter.csv");
    Box::new(move |with| {
        let _ = fs::remove_file(&results);
        let mut command = lab::plain("sh");
        command.envs(library.iter().map(|value| ("SOCKOPT_LIBRARY", value)));
        command.envs(configuration.iter().map(|value| ("SOCKOPT_CONFIG", value)));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/jmeter/run.sh"));
        command.arg(if with { "with" } else { "without" }).arg(&results);
        let output = command.args([&format!("-Jport={port}"), "-Jthreads=10", "-Jduration=8"]).output()?;
        if !output.status.success() {
            return Err(format!("JMeter: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        // Milliseconds since 1970 come first in every line.
        let text = fs::read_to_string(&results)?;
        let times: Vec<u64> =
            text.lines().filter_map(|line| line.split(',').next().and_then(|time| time.parse().ok())).collect();
        let (first, last) = (times.iter().min().ok_or("JMeter without samples")?, times.iter().max().unwrap_or(&0));
        let from = first + 3_000;
        let counted = times.iter().filter(|time| **time >= from).count();
        let per_second = counted as f64 / (last.saturating_sub(from).max(1) as f64 / 1e3);
        Ok(Rate { per_second, processor: None })
    })
}
