//! The clients: which there are, how they are started, and what becomes of them.

use std::fmt;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Plan;
use crate::lab::Lab;
use crate::server;
use crate::shared::programs::neutral;

/// Uploads last ten seconds at this rate and pause for some 20 ms at the most: at the cut, data is under way.
const UPLOAD_BYTES: u64 = 40_000_000;
const UPLOAD_RATE: u64 = 4_000_000;
const JAVA_SOURCE: &str = include_str!("Client.java");
/// Quick to start, and no files left in /tmp.
const JAVA_OPTIONS: &str = "-XX:+IgnoreUnrecognizedVMOptions -XX:-UsePerfData -XX:TieredStopAtLevel=1 -Xmx64m";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Curl,
    Java,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Situation {
    Waiting,
    InFlight,
}

pub(crate) enum State {
    Running,
    /// How long after the cut, the last that it said, and whether that is what a dead peer looks like to it.
    Ended {
        after: Duration,
        said: String,
        timed_out: bool,
    },
}

pub(crate) struct Client {
    pub(crate) program: Program,
    pub(crate) situation: Situation,
    pub(crate) covered: bool,
    pub(crate) state: State,
    process: Option<Child>,
    stderr: PathBuf,
}

/// Every client twice, without and with the library next to each other.
pub(crate) fn all(programs: &[Program], lab: &Lab) -> Vec<Client> {
    let mut clients = Vec::new();
    for &program in programs {
        for situation in [Situation::Waiting, Situation::InFlight] {
            for covered in [false, true] {
                let stderr = lab.file(&format!("{}.stderr", clients.len()));
                let (state, process) = (State::Running, None);
                clients.push(Client { program, situation, covered, state, process, stderr });
            }
        }
    }
    clients
}

/// Makes the file to upload.
pub(crate) fn prepare(lab: &Lab) -> std::io::Result<()> {
    File::create(lab.file("upload"))?.set_len(UPLOAD_BYTES)
}

/// Compiles the Java client; the error is the reason why there is none.
pub(crate) fn prepare_java(lab: &Lab) -> Result<(), String> {
    std::fs::write(lab.file("Client.java"), JAVA_SOURCE).map_err(|e| e.to_string())?;
    for (program, arguments) in [("java", "-version"), ("javac", "-nowarn Client.java")] {
        let mut command = Command::new(program);
        neutral(&mut command).args(arguments.split(' ')).current_dir(lab.file(""));
        match command.stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                return Err(format!("{program} fails: {}", text.lines().next().unwrap_or("no reason given")));
            }
            Err(_) => return Err(format!("no {program} in PATH")),
        }
    }
    Ok(())
}

impl Client {
    pub(crate) fn start(&mut self, number: usize, lab: &Lab, plan: &Plan) -> std::io::Result<()> {
        let (host, port) = (server::ADDRESS, server::port(number));
        let mut command = lab.on_client();
        neutral(&mut command).current_dir(lab.file("")).arg("env");
        if self.covered {
            command.arg(format!("SOCKOPT_DEAD_PEER_TIMEOUT={}", plan.promise.text));
            command.arg(&plan.preload);
        }
        let curl = format!("curl -q -sS --noproxy * http://{host}:{port}/");
        let java = format!("java {JAVA_OPTIONS} -cp . Client");
        let line = match (self.program, self.situation) {
            (Program::Curl, Situation::Waiting) => curl,
            (Program::Curl, Situation::InFlight) => {
                format!("{curl} -T upload -H Expect: --limit-rate {UPLOAD_RATE}")
            }
            (Program::Java, Situation::Waiting) => format!("{java} wait {host} {port}"),
            (Program::Java, Situation::InFlight) => {
                format!("{java} send {host} {port} {UPLOAD_BYTES} {UPLOAD_RATE}")
            }
        };
        command.args(line.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&self.stderr)?);
        // A Ctrl-C on the terminal is not for the clients: it would look as if they had given up.
        self.process = Some(command.process_group(0).spawn()?);
        Ok(())
    }

    /// Looks whether it has ended; true if it has ended just now.
    pub(crate) fn look(&mut self, cut: Instant) -> std::io::Result<bool> {
        let (Some(process), State::Running) = (self.process.as_mut(), &self.state) else {
            return Ok(false);
        };
        let Some(status) = process.try_wait()? else {
            return Ok(false);
        };
        let after = cut.elapsed();
        let stderr = std::fs::read_to_string(&self.stderr).unwrap_or_default();
        let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let timed_out = !status.success() && last.contains("timed out");
        let said = if last.is_empty() { status.to_string() } else { last.replace("curl: ", "") };
        self.state = State::Ended { after, said, timed_out };
        Ok(true)
    }

    pub(crate) fn library(&self) -> &'static str {
        if self.covered { "with" } else { "without" }
    }

    /// Ends it, if it is still there.
    pub(crate) fn end(&mut self) {
        if let (Some(process), State::Running) = (self.process.as_mut(), &self.state) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if *self == Program::Curl { "curl" } else { "Java" })
    }
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if *self == Situation::Waiting { "waiting for an answer" } else { "data in flight" })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.program, self.situation, self.library())
    }
}
