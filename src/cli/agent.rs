//! `sockopt agent`: keeps a configuration attached to a control group, while both may change.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread::sleep;
use std::time::Duration;

use clap::{ArgMatches, Command};
use load::Loaded;

use crate::attach::{self, Prepared};
use crate::{args, output};

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
                 While there is no such control group it waits. What was detached by `sockopt detach` is attached again.\n\n\
                 If the agent ends, everything stays attached and in force; `sockopt detach` takes it off. Under systemd, \
                 with Type=notify, the agent is started when it has attached for the first time.",
            ),
    )
    .after_long_help(
        "Exit status:
  0   never: it runs until a signal ends it
  1   it could not be attached at the start
  2   wrong usage
  78  at the start the configuration was wrong, or more than the kernel can do",
    )
}

pub(crate) fn agent(matches: &ArgMatches) -> u8 {
    let mut agent = Agent::default();
    loop {
        if let Err(code) = agent.look(matches) {
            return code;
        }
        sleep(INTERVAL);
    }
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
}

impl Agent {
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
                    is_new = true;
                }
                Err(code) if self.prepared.is_none() => return Err(code),
                Err(_) => output::note("the configuration before this change stays in force"),
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
        let is_attached =
            || cgroup::status().is_ok_and(|all| all.iter().any(|one| one.group_id == group.id() && one.is_in_force()));
        if !is_new && self.group == Some(group.id()) && is_attached() {
            return Ok(());
        }
        if self.pause > 0 && !is_new {
            self.pause -= 1;
            return Ok(());
        }
        match attach::put(&group, prepared) {
            Ok(()) => {
                if self.group.is_none() {
                    tell_service_manager();
                }
                self.group = Some(group.id());
            }
            Err(code) if self.group.is_none() => return Err(code),
            Err(_) => {
                output::note(&format!("it is tried again in {RETRY} s"));
                self.pause = RETRY;
            }
        }
        Ok(())
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
