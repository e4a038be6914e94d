//! The load: who makes it, with which socket options, and the samples that it reports.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::ValueEnum;
use policy::promise;

use crate::Plan;
use crate::lab::{Lab, PORT, SERVICE};
use crate::shared::programs::neutral;
use crate::shared::{Failure, promise::Promise};

const PYTHON_SOURCE: &str = include_str!("load.py");
/// Starts Debian's JMeter, among others, with its plan.
const JMETER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/jmeter/run.sh");
/// Quick to start, and no files left in /tmp.
const JAVA_OPTIONS: &str = "-XX:-UsePerfData -XX:TieredStopAtLevel=1";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Program {
    /// JMeter, HTTP by Apache HttpClient 4
    JmeterHc4,
    /// JMeter, HTTP by Java itself
    JmeterJava,
    /// A small load client in Python
    Python,
}

impl Program {
    /// Seconds in which the threads start, so that they do not all ask at the same moment for ever after, and
    /// further seconds until what is still being compiled and cached does not count.
    pub(crate) fn start(self) -> (u64, u64) {
        if self == Program::Python { (1, 1) } else { (8, 2) }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Program::JmeterHc4 => "JMeter, HttpClient4",
            Program::JmeterJava => "JMeter, Java's own HTTP",
            Program::Python => "a Python client",
        }
    }
}

/// What is set on the client's sockets.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Setting {
    /// The program as it is
    Nothing,
    /// SO_KEEPALIVE with the times that dead_peer_timeout stands for
    Keepalive,
    /// TCP_USER_TIMEOUT as dead_peer_timeout has it
    UserTimeout,
    /// dead_peer_timeout: both
    Libsockopt,
    /// What is attached to the control group of --group, and nothing preloaded
    Kernel,
}

impl Setting {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Setting::Nothing => "nothing",
            Setting::Keepalive => "keepalive only",
            Setting::UserTimeout => "user timeout only",
            Setting::Libsockopt => "libsockopt",
            Setting::Kernel => "kernel",
        }
    }

    /// The variable that says it to the library, which is not even loaded where there is none.
    pub(crate) fn variable(self, promise: &Promise) -> Option<String> {
        let detection = promise::within(promise.time.as_micros() as u64)?;
        match self {
            Setting::Nothing | Setting::Kernel => None,
            Setting::Keepalive => {
                let promise::Detection { time, interval, probes } = detection;
                Some(format!("SOCKOPT_KEEPALIVE={time}s,{interval}s,{probes}"))
            }
            Setting::UserTimeout => Some(format!("SOCKOPT_USER_TIMEOUT={}ms", detection.user_timeout_ms())),
            Setting::Libsockopt => Some(format!("SOCKOPT_DEAD_PEER_TIMEOUT={}", promise.text)),
        }
    }
}

/// One client machine and what it runs.
pub(crate) struct Load {
    pub(crate) setting: Setting,
    pub(crate) results: Results,
    process: Child,
    output: PathBuf,
}

impl Load {
    pub(crate) fn start(
        number: usize,
        setting: Setting,
        think: u64,
        lab: &Lab,
        directory: &Path,
        plan: &Plan,
    ) -> Result<Load, Failure> {
        let file = |ending: &str| directory.join(format!("load{number}.{ending}"));
        let (results, output) = (file("csv"), file("output"));
        let mut command = lab.clients[number].command();
        neutral(&mut command).current_dir(directory);
        // Java's own HTTP would keep five idle connections and close every other one after its answer.
        let java = format!("{JAVA_OPTIONS} -Dhttp.maxConnections={}", plan.threads);
        // What run.sh compiles goes away with the test bed; the second name is for JMeters that are not Debian's.
        command.env("TMPDIR", directory).env("JAVA_ARGS", &java).env("JVM_ARGS", &java);
        if let (Setting::Kernel, Some(group)) = (setting, &plan.group) {
            command.args(["sh", "-c", "echo 0 >\"$0\"/cgroup.procs && exec \"$@\""]).arg(group);
        }
        command.arg("env");
        if let Some(variable) = setting.variable(&plan.promise) {
            command.args([&variable, &plan.preload]);
        }
        let (ramp, _) = plan.program.start();
        let (host, port, threads) = (SERVICE.to_string(), PORT.to_string(), plan.threads.to_string());
        if plan.program == Program::Python {
            let source = file("py");
            std::fs::write(&source, PYTHON_SOURCE)?;
            command.arg("python3").arg(source).args([host, port, threads]);
            command.args([think.to_string(), ramp.to_string()]).arg(&results);
        } else {
            let implementation = if plan.program == Program::JmeterHc4 { "HttpClient4" } else { "Java" };
            command.args([JMETER, "without"]).arg(&results);
            let saved = |name: &str, value: &str| format!("-Jjmeter.save.saveservice.{name}={value}");
            command.args([
                format!("-Jhost={host}"),
                format!("-Jport={port}"),
                format!("-Jthreads={threads}"),
                format!("-Jthink={think}"),
                format!("-Jramp={ramp}"),
                format!("-Jimplementation={implementation}"),
                "-Jduration=3600".to_owned(), // until it is ended
                saved("output_format", "csv"),
                saved("print_field_names", "true"),
                saved("autoflush", "true"),
                // A message may have a comma in it.
                saved("response_message", "false"),
            ]);
        }
        // A Ctrl-C on the terminal is not for the clients: it would look as if they had given up.
        let said = File::create(&output)?;
        command.process_group(0).stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        Ok(Load { setting, results: Results::new(results), process: command.spawn()?, output })
    }

    /// Reads what it has reported since the last time; it must not end by itself.
    pub(crate) fn read(&mut self) -> Result<(), Failure> {
        self.results.read()?;
        let Some(status) = self.process.try_wait()? else { return Ok(()) };
        let said = std::fs::read_to_string(&self.output).unwrap_or_default();
        let why = format!("the load with {} ended early ({status}):\n{said}", self.setting.name());
        Err(if status.code() == Some(69) { Failure::CannotRun(why) } else { Failure::Broken(why) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let group = format!("-{}", self.process.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.process.wait();
    }
}

/// One request and its answer, or its failure.
pub(crate) struct Sample {
    /// When it ended, milliseconds since 1970.
    pub(crate) end: i64,
    /// Milliseconds.
    pub(crate) elapsed: i64,
    pub(crate) success: bool,
}

/// The samples that a load has reported, in a file that grows.
pub(crate) struct Results {
    pub(crate) samples: Vec<Sample>,
    /// When each thread's last sample ended.
    pub(crate) threads: HashMap<String, i64>,
    path: PathBuf,
    file: Option<File>,
    unread: String,
    columns: Option<[usize; 4]>,
}

impl Results {
    fn new(path: PathBuf) -> Results {
        let (samples, threads, unread) = Default::default();
        Results { samples, threads, path, file: None, unread, columns: None }
    }

    fn read(&mut self) -> Result<(), Failure> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.read_to_string(&mut self.unread)?;
        let Some(end) = self.unread.rfind('\n') else { return Ok(()) };
        let rest = self.unread.split_off(end + 1);
        for line in std::mem::replace(&mut self.unread, rest).lines() {
            let wrong = || Failure::Broken(format!("{}: not understood: {line}", self.path.display()));
            let words: Vec<&str> = line.split(',').collect();
            let Some(columns) = self.columns else {
                let place = |name| words.iter().position(|word| *word == name).ok_or_else(wrong);
                self.columns = Some([place("timeStamp")?, place("elapsed")?, place("success")?, place("threadName")?]);
                continue;
            };
            let [begin, elapsed, success, thread] = columns.map(|column| words.get(column).copied().unwrap_or(""));
            let (Ok(begin), Ok(elapsed)) = (begin.parse::<i64>(), elapsed.parse()) else { return Err(wrong()) };
            let end = begin + elapsed;
            self.threads.insert(thread.to_owned(), end);
            self.samples.push(Sample { end, elapsed, success: success == "true" });
        }
        Ok(())
    }
}
