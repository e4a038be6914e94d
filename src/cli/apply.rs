//! `sockopt apply`: sets the configuration on the sockets that running programs have already.
//!
//! The rules and the calls are the library's: compiled for the process, decided for the connection, each setting by
//! itself. What differs is the moment: the connection stands.

use std::os::fd::AsRawFd;

use clap::{Arg, ArgAction, ArgMatches, Command};
use policy::constants;
use policy::health::State;
use policy::units::Count;
use policy::{Connection, Endpoint, HostSet, Key, Phase, Phases, Process, Rules, Setting, Value};
use socket::current;
use socket::enact::Enactment;
use socket::fill::AsNew;
use socket::namespace::{self, Timer};
use socket::process::Descriptor;
use socket::setting::Outcome;

use crate::apply_report::{Applied, Change, Done, Failure, Report, notes};
use crate::processes::{self, ProcessSockets, Selection, direction};
use crate::{args, check, exit, output};

pub(crate) fn command() -> Command {
    let command = Command::new("apply")
        .about("Set options on the sockets that running programs have already")
        .long_about(
            "Sets the configuration on the sockets that running programs have already, by the rules that the library \
             would follow in them. A client that hangs on a vanished peer is freed by\n\n    \
             sockopt apply --dead-peer-timeout 15s PID\n\n\
             On an idle connection the time that has passed counts: the peer is probed at once, and the connection is \
             given up when the remaining probes or the user timeout run out. A connection with data in flight is given up \
             only when the kernel would next send that data again; apply says when.\n\n\
             The programs are neither stopped nor traced. Connections that they open later are not covered, except those that \
             their listeners accept. For that, restart them under `sockopt run`.",
        )
        .after_long_help(EXIT_CODES);
    let command = processes::with_selection(command)
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Show what would change, and change nothing"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("As JSON"));
    args::with_shortcuts(args::with_control(command, &["config", "to"]))
}

const EXIT_CODES: &str = "Exit status:
  0   done, or there was nothing to do
  1   a process does not exist, access is denied, or every option was refused
  2   wrong usage
  78  the configuration has errors";

pub(crate) fn apply(matches: &ArgMatches) -> u8 {
    applied(matches).unwrap_or_else(|code| code)
}

fn applied(matches: &ArgMatches) -> Result<u8, u8> {
    let selection = Selection::new(matches, None)?;
    let loaded = args::loaded(&args::variables(matches));
    if loaded.disabled {
        output::error("SOCKOPT_DISABLE is set: nothing is done", None);
        return Err(exit::CANNOT_WORK);
    }
    let parsed = loaded.configuration.parse();
    check::report(&loaded, &parsed.compile(&Process::default()))?;
    if !loaded.is_configured() {
        let help = "give an option such as --dead-peer-timeout 15s, or --config FILE";
        output::error("nothing is configured", Some(help));
        return Err(exit::USAGE);
    }
    let is_dry = matches.get_flag("dry-run");
    let found = selection.look();
    let mut done = Vec::new();
    for looked in &found.processes {
        // The errors do not depend on the process.
        let Ok(rules) = parsed.compile(&looked.process).rules else { continue };
        let new = namespace::as_new(looked.pid, rules.compared_with_new());
        let subjects = subjects(looked, &rules).into_iter();
        let sockets = subjects.filter_map(|subject| subject.retrofit(looked, (&rules, &new), is_dry));
        done.push(Done { looked, sockets: sockets.collect() });
    }
    let code = found.report();
    if matches.get_flag("json") {
        let errors = found.failures.iter().filter(|failure| failure.is_fatal).map(|t| t.message.as_str()).collect();
        output::print(&output::json(&Report { dry_run: is_dry, processes: &done, errors }, true));
    } else {
        output::print(&done.iter().map(|done| done.people(is_dry)).collect::<String>());
        let changed = done.iter().flat_map(|done| &done.sockets).filter(|socket| !socket.changes.is_empty()).count();
        if !done.is_empty() {
            output::print(&format!(
                "{} {}\n",
                Count(changed, "socket"),
                if is_dry { "would change" } else { "changed" }
            ));
        }
        notes(&done);
    }
    let applied = || done.iter().flat_map(|done| &done.sockets);
    let all_refused =
        applied().any(Applied::is_refused) && applied().all(|socket| socket.is_refused() || !socket.is_meant());
    Ok(if all_refused { exit::CANNOT_WORK } else { code })
}

/// A socket that a configuration may be about.
struct Subject<'a> {
    descriptor: &'a Descriptor,
    local: Option<Endpoint>,
    peer: Option<Endpoint>,
    connection: Option<Connection>,
    /// None of UDP.
    state: Option<State>,
    timer: Option<Timer>,
    /// Connections that a listener has not handed out yet.
    waiting: u32,
}

fn subjects<'a>(looked: &'a ProcessSockets, rules: &Rules) -> Vec<Subject<'a>> {
    let tcp = looked.sockets.iter().map(|socket| Subject {
        descriptor: &socket.descriptor,
        local: socket.current.local,
        peer: socket.current.peer,
        connection: socket.connection,
        state: Some(socket.current.info.state),
        timer: socket.timer,
        waiting: if socket.current.info.state == State::Listen { socket.current.info.unacked } else { 0 },
    });
    let udp = looked.datagrams.iter().filter(|_| rules.phases().contains(Phase::Datagram)).map(|datagram| Subject {
        descriptor: &datagram.descriptor,
        local: datagram.local,
        peer: Some(datagram.peer),
        connection: Some(Connection::Outbound { peer: datagram.peer }),
        state: None,
        timer: None,
        waiting: 0,
    });
    tcp.chain(udp).collect()
}

impl Subject<'_> {
    /// Sets what is to be set, or finds out what would be. None: it is closed by now.
    fn retrofit(&self, looked: &ProcessSockets, (rules, new): (&Rules, &AsNew), is_dry: bool) -> Option<Applied> {
        let mut applied = Applied {
            fds: self.descriptor.fds.clone(),
            thread: self.descriptor.thread,
            inode: self.descriptor.inode,
            protocol: if self.state.is_some() { "tcp" } else { "udp" },
            local: self.local.map(|local| local.to_string()),
            peer: self.peer.map(|peer| peer.to_string()),
            direction: self.connection.as_ref().and_then(direction),
            state: self.state.map(State::name),
            rule: None,
            changes: Vec::new(),
            failures: Vec::new(),
            already: Vec::new(),
            left_to_the_program: Vec::new(),
            left_out: Vec::new(),
            left_alone: None,
            waiting: self.waiting,
            timer: self.timer,
        };
        let Some(connection) = self.connection else {
            applied.left_alone = Some("not connected".to_owned());
            return Some(applied);
        };
        let plan = rules.plan(connection, self.phases(&connection), &HostSet::NONE);
        if let Some(reason) = plan.bypass() {
            applied.left_alone = Some(reason.to_string());
            return Some(applied);
        }
        applied.rule = Some(plan.decision().to_string());
        let (settings, left_out): (Vec<&Setting>, Vec<&Setting>) =
            plan.settings().partition(|setting| self.can_have(setting));
        applied.left_out = left_out.iter().map(|setting| setting.key.name()).collect();
        applied.left_out.dedup();
        if settings.is_empty() {
            applied.left_alone = Some("nothing that can be set by now".to_owned());
            return Some(applied);
        }
        let copy = looked.target.copy(self.descriptor).ok()?;
        let fd = copy.as_raw_fd();
        let unknown = |setting: &Setting, errno| {
            let errno = format!("whether the program has set it is not known: {errno}");
            applied.failures.push(Failure { setting: setting.to_string(), errno });
        };
        let enactment = Enactment::begin(fd, plan.enforce(), settings.iter().copied(), new, unknown);
        let (settings, chosen): (Vec<&Setting>, Vec<&Setting>) =
            settings.into_iter().partition(|setting| enactment.makes(setting));
        leave_what_is_chosen(&mut applied, fd, &chosen);
        for same_key in settings.chunk_by(|one, next| one.key == next.key) {
            let before: Vec<Option<Value>> = same_key.iter().map(|setting| current::value(fd, setting).ok()).collect();
            let is_so = |(setting, before): (&&Setting, &Option<Value>)| {
                before.as_ref() == Some(&read_back(setting, before.as_ref()))
            };
            if same_key.iter().zip(&before).all(is_so) {
                applied.already.extend(same_key.iter().map(|setting| name(setting)));
                continue;
            }
            // All of a key's then, in their order: that of the keepalive counts the idle time that has passed.
            for (setting, before) in same_key.iter().zip(before) {
                let after = if is_dry {
                    read_back(setting, before.as_ref())
                } else {
                    match enactment.make(setting) {
                        Outcome::Done => current::value(fd, setting).unwrap_or_else(|_| setting.value.clone()),
                        Outcome::Absent | Outcome::LeftToProgram => continue,
                        Outcome::Failed(errno) => {
                            let failure = Failure { setting: setting.to_string(), errno: errno.to_string() };
                            applied.failures.push(failure);
                            continue;
                        }
                    }
                };
                if before.as_ref() == Some(&after) {
                    applied.already.push(name(setting));
                } else {
                    applied.changes.push(Change { option: name(setting), before, after });
                }
            }
        }
        Some(applied)
    }

    /// Those that lie behind it by now.
    fn phases(&self, connection: &Connection) -> Phases {
        match connection {
            Connection::Listening { .. } | Connection::Binding { .. } => Phases::of(&[Phase::Listen]),
            Connection::Inbound { .. } => Phases::ACCEPTED,
            Connection::Outbound { .. } if self.state.is_some() => Phases::OUTBOUND,
            Connection::Outbound { .. } => Phases::of(&[Phase::Datagram]),
        }
    }

    /// Whether a setting still means something at this point of a socket's life.
    fn can_have(&self, setting: &Setting) -> bool {
        match (self.state, setting.key) {
            (None | Some(State::Listen), _) | (Some(State::SynSent), Key::SynRetries) => true,
            // It would not move the connection, but cut it off from its packets.
            (_, Key::Interface) => false,
            // What an accepted socket can have, any connection can.
            (_, key) => key.entry().phases.intersects(Phases::ACCEPTED),
        }
    }
}

/// What getsockopt answers when the setting is in force, by what it answers before.
fn read_back(setting: &Setting, before: Option<&Value>) -> Value {
    match (setting.key, &setting.value) {
        // tcp(7): the system's time in FIN_WAIT2, as a number.
        (Key::TimeWait, Value::Int(0)) => match before {
            Some(Value::Int(seconds @ 0..)) => Value::Int(*seconds),
            _ => setting.value.clone(),
        },
        // socket(7): the kernel doubles them.
        (Key::ReceiveBuffer | Key::SendBuffer, Value::Int(bytes)) => Value::Int(bytes.saturating_mul(2)),
        (_, value) => value.clone(),
    }
}

fn name(setting: &Setting) -> String {
    match constants::option_name(setting.level, setting.name) {
        Some(name) => name.to_owned(),
        None => format!("level {} option {}", setting.level, setting.name),
    }
}

/// What the program has chosen itself, where only the rest is filled in.
fn leave_what_is_chosen(applied: &mut Applied, fd: i32, chosen: &[&Setting]) {
    for setting in chosen {
        match current::value(fd, setting).ok() {
            Some(current) if current == read_back(setting, Some(&current)) => applied.already.push(name(setting)),
            Some(_) => applied.left_to_the_program.push(setting.key.name()),
            None => {}
        }
    }
    applied.left_to_the_program.dedup();
}
