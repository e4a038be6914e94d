//! Scripts of calls (tests/probes/calls.c), each run plain and under the library in a network namespace of its own,
//! with another process as the peer that also reads the options back from the kernel (tests/probes/readback.c).
//!
//! What the calls answer must be the same both times. A line `@look s SO_KEEPALIVE=1` states what is to be found under
//! the library; the same line without it must find something else, so that no such line can hold by accident. So is
//! `@ended 4000=0`, how many connections with that port have ended and are still there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support;

/// The network namespaces that every script runs in.
pub(crate) const NEEDS: &[&str] = &["namespaces"];

/// A script with its configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    environment: Vec<(String, String)>,
    /// Requests to the outside before the program starts.
    before: Vec<String>,
    /// Which probe, if not `calls`.
    probe: &'static str,
    /// Its arguments.
    calls: Vec<String>,
    /// What each line on stderr must contain, in order.
    says: Vec<String>,
    /// Whether values that are the same without the library are what is tested.
    same_looks: bool,
    /// Whether the supervisor is refused copies of the program's descriptors.
    is_confined: bool,
}

/// The lines of a text without indentation, comments and empty ones.
fn lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
}

impl Script {
    /// Calls, one a line.
    pub(crate) fn new(calls: &str) -> Self {
        Self { calls: lines(calls).collect(), ..Self::default() }
    }

    /// Another probe, one of whose arguments may be the `@look` that it is to print.
    pub(crate) fn program(probe: &'static str, arguments: &[&str]) -> Self {
        Self { probe, calls: arguments.iter().map(|&argument| argument.to_owned()).collect(), ..Self::default() }
    }

    /// The configuration.
    pub(crate) fn toml(self, toml: &str) -> Self {
        self.variable("SOCKOPT_CONFIG_TOML", toml)
    }

    /// One variable.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Requests served before the program starts, one a line.
    pub(crate) fn before(mut self, requests: &str) -> Self {
        self.before.extend(lines(requests));
        self
    }

    /// The one line that the library says, by what it must contain.
    pub(crate) fn says(mut self, parts: &str) -> Self {
        self.says.push(parts.to_owned());
        self
    }

    /// The library is to leave these sockets alone.
    pub(crate) fn same_looks(mut self) -> Self {
        self.same_looks = true;
        self
    }

    /// Under the supervisor, with the program linked statically.
    fn run_supervised(&self) -> (String, String) {
        let mut command = support::plain("unshare");
        command.arg("-Urn").arg(support::probe("readback")).args(&self.before);
        if self.is_confined {
            // As Docker's seccomp profile does.
            let refused = format!("{},{}", libc::SYS_pidfd_getfd, libc::SYS_kcmp);
            command.arg(support::probe("refuse")).args([&refused, "1"]);
        } else {
            command.arg("env");
        }
        command.arg(support::sockopt()).args(["run", "--by=supervisor", "--"]);
        self.environment.iter().for_each(|(name, value)| {
            command.env(name, value);
        });
        let probe = if self.probe.is_empty() { "calls" } else { self.probe };
        finish(command.arg(support::static_probe(probe)).args(&self.calls))
    }

    fn run(&self, wrapper: &[String], preload: bool, program: &[String]) -> (String, String) {
        let mut command = support::plain("unshare");
        command.arg("-Urn").arg(support::probe("readback")).args(&self.before).args(wrapper);
        if wrapper.is_empty() {
            command.arg("env");
        }
        if preload {
            if !wrapper.is_empty() {
                command.arg("-E");
            }
            command.arg(format!("LD_PRELOAD={}", support::library().display()));
        }
        self.environment.iter().for_each(|(name, value)| {
            command.env(name, value);
        });
        finish(command.args(program))
    }

    fn words(&self) -> Vec<String> {
        let probe = if self.probe.is_empty() { "calls" } else { self.probe };
        let path = support::probe(probe).display().to_string();
        [path].into_iter().chain(self.calls.iter().cloned()).collect()
    }

    /// Runs it both ways and compares; gives what was printed under the library.
    pub(crate) fn check(&self) -> String {
        self.compare(self.run(&[], true, &self.words()))
    }

    /// The same for aarch64, by qemu, without the library and under it.
    pub(crate) fn check_aarch64(&self) {
        let run = |preload: bool| {
            let mut command = support::plain("unshare");
            command.arg("-Urn").arg(support::probe("readback")).args(&self.before).arg("env");
            command.args([support::QEMU_AARCH64, "-L", "/usr/aarch64-linux-gnu"]);
            if preload {
                command.arg("-E").arg(format!("LD_PRELOAD={}", support::aarch64_library().display()));
            }
            self.environment.iter().for_each(|(name, value)| {
                command.env(name, value);
            });
            let probe = if self.probe.is_empty() { "calls" } else { self.probe };
            finish(command.arg(support::aarch64_probe(probe)).args(&self.calls))
        };
        self.compare_with(run(true), run(false));
    }

    /// The same under the supervisor. What it says of accepted sockets when it starts is not compared.
    pub(crate) fn check_supervised(&self) -> String {
        let (printed, said) = self.run_supervised();
        let is_compared = |line: &&str| {
            !(line.starts_with("warning: accepted sockets ")
                || self.is_confined && (line.starts_with("warning: ") || line.contains("Multipath TCP lacks")))
        };
        let said: String = said.lines().filter(is_compared).map(|line| format!("{line}\n")).collect();
        self.compare((printed, said))
    }

    /// The supervisor gets no copies of the program's descriptors.
    pub(crate) fn confined(mut self) -> Self {
        self.is_confined = true;
        self
    }

    /// The same answers under the supervisor, whatever it sets.
    pub(crate) fn check_answers_supervised(&self) {
        let is_answer = |line: &&str| !line.starts_with("@look") && !line.starts_with("@ended");
        let answers = |text: &str| text.lines().filter(is_answer).map(str::to_owned).collect::<Vec<_>>();
        let ((plain, _), (supervised, said)) = (self.run(&[], false, &self.words()), self.run_supervised());
        assert_eq!(answers(&supervised), answers(&plain), "{self:#?}\n{supervised}{said}");
    }

    /// With a pause before each look: nobody tells the supervisor when a connection stands.
    pub(crate) fn pauses_before_looks(mut self) -> Self {
        let calls = std::mem::take(&mut self.calls);
        for call in calls {
            if call.starts_with("@look") || call.contains(" TCP_USER_TIMEOUT") {
                self.calls.push("poll -1 400".to_owned());
            }
            self.calls.push(call);
        }
        self
    }

    /// With an option set on each accepted socket, as Go does.
    pub(crate) fn sets_after_accept(mut self) -> Self {
        let calls = std::mem::take(&mut self.calls);
        for call in calls {
            let mut words = call.split(' ');
            let accepted = words.find(|word| word.starts_with("accept")).and(words.next()).map(str::to_owned);
            self.calls.push(call);
            self.calls.extend(accepted.map(|socket| format!("set {socket} TCP_NODELAY 0")));
        }
        self
    }

    fn compare(&self, under_it: (String, String)) -> String {
        self.compare_with(under_it, self.run(&[], false, &self.words()))
    }

    fn compare_with(&self, (preloaded, said): (String, String), (plain, nothing): (String, String)) -> String {
        assert_eq!(nothing, "", "without the library");
        let context = || format!("{self:#?}\nwithout the library:\n{plain}\nunder it:\n{preloaded}{said}");
        let is_look = |line: &&str| line.starts_with("@look") || line.starts_with("@ended");
        let answers = |text: &str| text.lines().filter(|line| !is_look(line)).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(answers(&preloaded), answers(&plain), "{}", context());
        let wanted: Vec<&str> = self.calls.iter().map(String::as_str).filter(is_look).collect();
        assert_eq!(preloaded.lines().filter(is_look).collect::<Vec<_>>(), wanted, "{}", context());
        for (found, wanted) in plain.lines().filter(is_look).zip(&wanted) {
            assert_eq!(found == *wanted, self.same_looks, "{wanted} without the library\n{}", context());
        }
        assert_eq!(said.lines().count(), self.says.len(), "{}", context());
        for (line, parts) in said.lines().zip(&self.says) {
            assert!(parts.split('|').all(|part| line.contains(part)), "{parts}\n{line}");
        }
        preloaded
    }

    /// What the `@look` lines find, word by word.
    pub(crate) fn looks(&self, preload: bool) -> Vec<String> {
        Self::looked(&self.run(&[], preload, &self.words()).0)
    }

    /// The same under the supervisor.
    pub(crate) fn looks_supervised(&self) -> Vec<String> {
        Self::looked(&self.run_supervised().0)
    }

    fn looked(found: &str) -> Vec<String> {
        let looks = found.lines().filter_map(|line| line.strip_prefix("@look "));
        looks.flat_map(|line| line.split(' ').skip(1)).map(str::to_owned).collect()
    }

    /// Under strace: the system calls of each call, in order, without the script's own.
    pub(crate) fn traced(&self, name: &str, preload: bool, trace: &str) -> Vec<Vec<String>> {
        let trace = self.trace(name, preload, trace, &self.words());
        // What stands between two marks is one call; in between the script prints, or talks to the outside.
        trace.split(|line| line.contains("0xabc")).skip(1).step_by(2).map(<[String]>::to_vec).collect()
    }

    /// Every line that strace writes.
    pub(crate) fn trace(&self, name: &str, preload: bool, trace: &str, program: &[String]) -> Vec<String> {
        let file: PathBuf = support::scratch(&format!("{name} {preload}").replace(['/', ' '], "-")).join("trace");
        let wrapper = ["strace", "-f", "-s", "4", "-e", &format!("trace={trace}"), "-o", &file.display().to_string()];
        self.run(&wrapper.map(str::to_owned), preload, program);
        let text = fs::read_to_string(&file).expect("strace has written");
        // Without the process id.
        text.lines().filter_map(|line| line.split_once(' ')).map(|(_, line)| line.trim().to_owned()).collect()
    }
}

/// Runs a command that must succeed; what it printed.
pub(crate) fn finish(command: &mut Command) -> (String, String) {
    let output = command.output().expect("unshare runs");
    let (stdout, stderr) = support::text(&output);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    (stdout, stderr)
}
