//! `sockopt agent`: keeps a configuration attached to a control group, while both may change.

use std::env;
use std::net::SocketAddr as Address;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread::sleep;
use std::time::Duration;

use cgroup::Attachment;
use clap::{Arg, ArgMatches, Command, value_parser};
use load::Loaded;

use crate::attach::{self, Prepared};
use crate::metrics::{Shared, State};
use crate::{args, exit, output, serve};

/// How often the file and the control group are looked at. A ConfigMap's file is a link to a folder that is replaced, so there is
/// no one file that the kernel could watch.
const INTERVAL: Duration = Duration::from_secs(1);
/// After so many looks, what the kernel refused is tried again.
const RETRY: u32 = 30;

pub(crate) fn command() -> Command {
    attach::with_arguments(
        Command::new("agent")
            .about("Keep a configuration attached, and follow its changes")
            .long_about(
                "Does what `sockopt attach` does, and stays. Once a second it looks whether the configuration has changed, and \
                 attaches the new one without a gap. If the new one has errors, they are reported and the old one stays in \
                 force. If the control group is a new one, as after each start of a systemd service, it attaches there too. \
                 While there is no such control group it waits. What was detached by `sockopt detach` is attached again. What somebody \
                 else attaches there stays until the agent's own configuration changes.\n\n\
                 If the agent ends, everything stays attached and in force; `sockopt detach` takes it off. Under systemd, \
                 with Type=notify, the agent counts as started only when it has attached for the first time.",
            ),
    )
    .arg(
        Arg::new("metrics")
            .long("metrics")
            .value_name("ADDRESS:PORT")
            .help("Count, and serve it to Prometheus there, such as 127.0.0.1:9464")
            .long_help(
                "Count for each rule the sockets that it was carried out on and how their connections ended, as `sockopt attach \
                 --metrics` does, and serve the counters as OpenMetrics text to Prometheus: 127.0.0.1:9464 or [::1]:9464, path \
                 /metrics. /ready answers 200 while the programs are attached, and 503 while not. There is no password: whoever \
                 reaches the address reads the names and destinations of the rules.",
            )
            .value_parser(value_parser!(Address)),
    )
    .after_long_help(
        "Exit status:
  0   never: it runs until a signal ends it
  1   it could not be attached at the start, or cannot listen for --metrics
  2   wrong usage
  78  at the start the configuration was wrong, or more than the kernel can do",
    )
}

pub(crate) fn agent(matches: &ArgMatches) -> u8 {
    let mut agent = Agent::default();
    // Before anything is attached: two agents that take turns are nothing that somebody wants.
    if let Some(address) = metrics_address(matches) {
        let shared = agent.shared.clone();
        let served =
            serve::listen(address).and_then(|listener| serve::serve(listener, move |path| shared.answer(path)));
        if let Err(why) = served {
            output::error(&format!("--metrics: cannot listen on {address}: {why}"), None);
            return exit::CANNOT_WORK;
        }
    }
    loop {
        if let Err(code) = agent.look(matches) {
            return code;
        }
        let attachment = agent.attachment();
        agent.shared.set(State { attachment, is_current: agent.is_current });
        sleep(INTERVAL);
    }
}

/// Where to listen, if `attach --watch` has not only the word.
fn metrics_address(matches: &ArgMatches) -> Option<Address> {
    matches.try_get_one::<Address>("metrics").ok().flatten().copied()
}

#[derive(Default)]
struct Agent {
    /// What was read last, be it right or wrong.
    seen: Option<Loaded>,
    /// What is to be in force.
    prepared: Option<Prepared>,
    /// The control group that it was attached to last.
    group: Option<u64>,
    /// Why there is no control group, once it was said.
    missing: Option<String>,
    /// How many looks to leave out, because the kernel refused.
    pause: u32,
    /// What it has attached there, as long as nobody else has replaced it: the numbers of the programs.
    own: Option<Vec<(&'static str, u32)>>,
    /// Whether what was read last can be attached, and is.
    is_right: bool,
    is_current: bool,
    /// For those who ask.
    shared: Shared,
}

impl Agent {
    /// What is in force in the control group.
    fn attachment(&self) -> Option<Attachment> {
        let all = cgroup::status().ok()?;
        all.into_iter().find(|one| Some(one.group_id) == self.group && one.is_in_force())
    }

    /// Looks at everything once, and does what is to be done.
    ///
    /// # Errors
    /// The exit status, if the very first attachment was refused.
    fn look(&mut self, matches: &ArgMatches) -> Result<(), u8> {
        let loaded = args::loaded(&args::variables(matches));
        let group = attach::group(matches);
        if group.is_ok() && self.missing.take().is_some() {
            // What the kernel cannot do there is not known yet.
            self.seen = None;
        }
        let mut is_new = false;
        if self.seen.as_ref() != Some(&loaded) {
            match attach::prepared(&loaded, matches, group.as_ref().ok()) {
                Ok(prepared) => {
                    self.prepared = Some(prepared);
                    (self.is_right, self.is_current, is_new) = (true, false, true);
                }
                Err(code) if self.prepared.is_none() => return Err(code),
                Err(_) => {
                    (self.is_right, self.is_current) = (false, false);
                    output::note("the configuration before this change stays in force");
                }
            }
            self.seen = Some(loaded);
        }
        let Some(prepared) = &self.prepared else { return Ok(()) };
        let group = match group {
            Ok(group) => group,
            Err(refusal) => {
                let why = refusal.to_string();
                if self.missing.as_ref() != Some(&why) {
                    output::warning(&format!("waiting: {why}"), None);
                    self.missing = Some(why);
                }
                return Ok(());
            }
        };
        if !is_new
            && self.group == Some(group.id())
            && let Some(found) = self.attachment()
        {
            self.look_whose(found);
            return Ok(());
        }
        if self.pause > 0 && !is_new {
            self.pause -= 1;
            return Ok(());
        }
        match attach::put(&group, prepared) {
            Ok(generation) => {
                if self.group.is_none() {
                    tell_service_manager();
                }
                self.group = Some(group.id());
                let own = self.attachment().filter(|found| found.about.generation == generation);
                self.own = own.map(|found| found.programs);
                self.is_current = self.is_right;
            }
            Err(code) if self.group.is_none() => return Err(code),
            Err(_) => {
                self.is_current = false;
                output::note(&format!("the agent tries again in {RETRY} s"));
                self.pause = RETRY;
            }
        }
        Ok(())
    }
}

impl Agent {
    /// Says once if what is attached is somebody else's. Whoever attaches last is right: two agents that replace each other's
    /// programs every second are nothing that anybody wants.
    fn look_whose(&mut self, found: Attachment) {
        if self.own.as_ref() == Some(&found.programs) {
            return;
        }
        let about = &found.about;
        output::warning(
            &format!(
                "somebody else has attached {} to {}, in place of what this agent had attached (sockopt attach, or another agent)",
                output::plain(&about.configuration),
                output::plain(&about.group),
            ),
            Some(
                "this agent leaves that in force until its own configuration changes; to have its own back at once, \
                 `sockopt detach` that control group",
            ),
        );
        self.own = Some(found.programs);
        self.is_current = false;
    }
}

/// Tells systemd that the service is started, if it waits for that (sd_notify(3)).
fn tell_service_manager() {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return };
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&place),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(why) = told {
        output::warning(&format!("NOTIFY_SOCKET: {why}"), None);
    }
}
