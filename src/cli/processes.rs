//! The processes that `show` and `apply` are about, and their sockets.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use policy::exclusion::{List, MOST_PIECES};
use policy::health::State;
use policy::matcher::{self, Pattern, names_host};
use policy::{Connection, Endpoint, Glob, Process};
use rustix::process::geteuid;
use socket::current::Current;
use socket::describe;
use socket::namespace::{Namespace, Timer};
use socket::process::{Descriptor, Refused, Target};
use socket::{Errno, Kind, ffi};

use crate::{exit, output};

/// Adds the arguments that choose processes.
pub(crate) fn with_selection(command: Command, is_required: bool) -> Command {
    command.arg(
        Arg::new("process-or-name")
            .value_name("PID|NAME")
            .required(is_required)
            .num_args(if is_required { 1.. } else { 0.. })
            .help("Process ID, or base name of the executable or script; * and ? are wildcards"),
    )
}

/// Which processes are meant.
pub(crate) struct Selection {
    words: Vec<String>,
    all: bool,
}

impl Selection {
    /// What the command line names, and what else was found out to be a name.
    pub(crate) fn new(matches: &ArgMatches, more: Option<String>) -> Result<Self, u8> {
        let words = matches.get_many::<String>("process-or-name").into_iter().flatten().cloned().chain(more).collect();
        let all = matches.try_get_one("all").ok().flatten().copied();
        let selection = Self { words, all: all.unwrap_or(false) };
        if selection.words.is_empty() && !selection.all {
            output::error("no process is named", Some("give process IDs or names, or --all"));
            return Err(exit::USAGE);
        }
        Ok(selection)
    }

    /// The processes there are now, each with whether it was named by its number, and what is wrong with the rest.
    fn processes(&self) -> (Vec<(i32, bool)>, Vec<Failure>) {
        let mut chosen: Vec<(i32, bool)> = Vec::new();
        let mut failures = Vec::new();
        let running = || {
            let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        };
        if self.all {
            // The kernel's own threads have no command line.
            chosen.extend(running().filter(|pid| !process(*pid).names.is_empty()).map(|pid| (pid, false)));
        }
        let ourselves = i32::try_from(std::process::id()).unwrap_or(0);
        for word in &self.words {
            if let Ok(pid) = word.parse::<i32>() {
                match thread_group(pid) {
                    Some(pid) => chosen.push((pid, true)),
                    None => failures.push(Failure::fatal(format!("there is no process {pid}"), None)),
                }
                continue;
            }
            let named: Vec<i32> =
                running().filter(|pid| *pid != ourselves && process(*pid).is_one_of(&[Glob::new(word)])).collect();
            if named.is_empty() {
                let help = "write the base name of the executable or script; * and ? are wildcards";
                failures.push(Failure::fatal(format!("there is no process named \"{word}\""), Some(help.into())));
            }
            chosen.extend(named.into_iter().map(|pid| (pid, false)));
        }
        // One that is named twice is named by its number if once so.
        chosen.sort_by_key(|(pid, by_number)| (*pid, !by_number));
        chosen.dedup_by_key(|(pid, _)| *pid);
        (chosen, failures)
    }

    /// Looks into every process that is meant.
    pub(crate) fn look(&self) -> Found {
        if !Path::new("/proc/self").exists() {
            let unseen = Failure::fatal("processes cannot be seen: /proc is not mounted".into(), None);
            return Found { processes: Vec::new(), failures: vec![unseen] };
        }
        let (chosen, failures) = self.processes();
        Found::of(chosen, failures)
    }
}

impl Found {
    /// Looks into these processes, each with whether it was named by its number.
    fn of(chosen: Vec<(i32, bool)>, failures: Vec<Failure>) -> Self {
        let mut found = Self { processes: Vec::new(), failures };
        let mut namespaces = Namespaces::default();
        let mut not_permitted = Vec::new();
        for (pid, by_number) in chosen {
            match ProcessSockets::into(pid, &mut namespaces) {
                Ok(looked) => found.processes.push(looked),
                Err((process, refused)) => {
                    let name = title(pid, &process);
                    match refused {
                        // It has ended since it was listed.
                        Refused::NoSuchProcess if !by_number => {}
                        Refused::NotPermitted if !by_number => not_permitted.push(name),
                        refused => found.failures.push(Failure::of(&name, refused)),
                    }
                }
            }
        }
        match not_permitted.as_slice() {
            [] => {}
            [first, ..] if found.processes.is_empty() => {
                found.failures.push(Failure::of(first, Refused::NotPermitted));
            }
            some => found.failures.push(Failure {
                message: format!(
                    "{} more process{} cannot be examined (EPERM): {}",
                    some.len(),
                    if some.len() == 1 { "" } else { "es" },
                    shortened(some)
                ),
                help: None,
                is_fatal: false,
            }),
        }
        found
    }

    /// Looks into the processes that these are, or are threads of.
    pub(crate) fn of_tasks(tasks: &[i32]) -> Self {
        let mut pids: Vec<i32> = tasks.iter().filter_map(|task| thread_group(*task)).collect();
        pids.sort_unstable();
        pids.dedup();
        Self::of(pids.into_iter().map(|pid| (pid, false)).collect(), Vec::new())
    }
}

/// Something to be said about the selection.
pub(crate) struct Failure {
    pub(crate) message: String,
    help: Option<String>,
    pub(crate) is_fatal: bool,
}

impl Failure {
    fn fatal(message: String, help: Option<String>) -> Self {
        Self { message, help, is_fatal: true }
    }

    /// Why a process cannot be looked into, and what to do about it.
    fn of(name: &str, refused: Refused) -> Self {
        match refused {
            Refused::NoSuchProcess => Self::fatal(format!("{name} has ended"), None),
            Refused::NotPermitted => {
                let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
                let help = match yama.trim() {
                    "3" => "kernel.yama.ptrace_scope is 3 here, so nobody may do that until the next boot".to_owned(),
                    _ if geteuid().is_root() => {
                        "this needs CAP_SYS_PTRACE in the user namespace of that process, which root in a container usually does not have"
                            .to_owned()
                    }
                    "" | "0" => {
                        "without CAP_SYS_PTRACE you may read only processes of your own user that have no other privileges: use sudo"
                            .to_owned()
                    }
                    scope => format!("kernel.yama.ptrace_scope is {scope} here, so this needs CAP_SYS_PTRACE: use sudo"),
                };
                Self::fatal(format!("{name}: its sockets may not be read (EPERM)"), Some(help))
            }
            Refused::NoSystemCall => Self::fatal(
                format!("{name}: its sockets cannot be read: this kernel has no pidfd_getfd (ENOSYS)"),
                Some("this needs Linux 5.6 or newer, and in a container a seccomp profile that allows it".into()),
            ),
            Refused::Other(errno) => Self::fatal(format!("{name}: its sockets cannot be read: {errno}"), None),
        }
    }

    pub(crate) fn report(&self) {
        if self.is_fatal {
            output::error(&self.message, self.help.as_deref());
        } else {
            output::note(&self.message);
        }
    }
}

/// What was found of a [`Selection`].
pub(crate) struct Found {
    pub(crate) processes: Vec<ProcessSockets>,
    pub(crate) failures: Vec<Failure>,
}

impl Found {
    /// Says what could not be looked into; the exit code so far.
    pub(crate) fn report(&self) -> u8 {
        self.failures.iter().for_each(Failure::report);
        for looked in &self.processes {
            if let Some(thread) = looked.out_of_reach.first() {
                output::note(&format!(
                    "{}: thread {thread} has its own descriptor table, which cannot be read before Linux 6.9",
                    title(looked.pid, &looked.process)
                ));
            }
        }
        if self.failures.iter().any(|failure| failure.is_fatal) { exit::CANNOT_WORK } else { exit::OK }
    }
}

/// A process and its sockets.
pub(crate) struct ProcessSockets {
    pub(crate) pid: i32,
    pub(crate) process: Process,
    pub(crate) target: Target,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) datagrams: Vec<Datagram>,
    out_of_reach: Vec<i32>,
}

/// A UDP socket that is connected.
pub(crate) struct Datagram {
    pub(crate) descriptor: Descriptor,
    pub(crate) local: Option<Endpoint>,
    pub(crate) peer: Endpoint,
}

/// A TCP socket of a process.
pub(crate) struct Socket {
    pub(crate) descriptor: Descriptor,
    pub(crate) current: Current,
    /// What a rule sees of it.
    pub(crate) connection: Option<Connection>,
    pub(crate) timer: Option<Timer>,
}

impl Socket {
    /// Whether anything has arrived on it, so that this has a time.
    pub(crate) fn has_exchanged(&self) -> bool {
        !matches!(self.current.info.state, State::Listen | State::Close | State::SynSent | State::SynReceived)
    }
}

impl ProcessSockets {
    fn into(pid: i32, namespaces: &mut Namespaces) -> Result<Self, (Process, Refused)> {
        // Held before it is asked for its name, so that both are the same process's.
        let target = Target::open(pid);
        let process = process(pid);
        let looked = target.and_then(|target| {
            let descriptors = target.sockets()?;
            Ok((target, descriptors))
        });
        let (target, descriptors) = match looked {
            Ok(found) => found,
            Err(refused) => return Err((process, refused)),
        };
        let mut seen: Vec<(Descriptor, Current)> = Vec::new();
        let mut datagrams = Vec::new();
        for descriptor in descriptors.sockets {
            let (copy, kind) = match copy(&target, &descriptor) {
                Ok(copied) => copied,
                // Closed, or its thread has ended, since it was listed.
                Err(Errno(libc::EBADF)) => continue,
                Err(_) if descriptor.thread.is_some() => continue,
                Err(errno) => return Err((process, errno.into())),
            };
            let fd = copy.as_raw_fd();
            let endpoint = |address: Result<socket::Address, Errno>| address.ok()?.endpoint().ok();
            match kind {
                Kind::Tcp | Kind::Mptcp => {
                    seen.extend(Current::read(fd, kind).ok().map(|current| (descriptor, current)))
                }
                Kind::Udp => datagrams.extend(endpoint(ffi::peer_address(fd)).map(|peer| Datagram {
                    descriptor,
                    local: endpoint(ffi::local_address(fd)),
                    peer,
                })),
                Kind::Other => {}
            }
        }
        let namespace = namespaces.of(pid);
        let is_listener = |current: &Current| matches!(current.connection(&[]), Some(Connection::Listening { .. }));
        let own = seen.iter().filter(|(_, current)| is_listener(current)).filter_map(|(_, current)| current.local);
        // Its own may be of another namespace; another process's may have accepted for it.
        let listeners: Vec<Endpoint> = own.chain(namespace.listeners.iter().copied()).collect();
        let sockets = seen.into_iter().map(|(descriptor, current)| Socket {
            connection: current.connection(&listeners),
            timer: namespace.timer(descriptor.inode),
            descriptor,
            current,
        });
        let sockets = sockets.collect();
        Ok(Self { pid, process, target, sockets, datagrams, out_of_reach: descriptors.out_of_reach })
    }
}

/// A copy of a socket, and what kind it is.
fn copy(target: &Target, descriptor: &Descriptor) -> Result<(File, Kind), Errno> {
    let copy = target.copy(descriptor)?;
    let kind = describe::kind(copy.as_raw_fd())?;
    Ok((copy, kind))
}

/// The network namespaces of processes, each read once.
#[derive(Default)]
struct Namespaces(HashMap<PathBuf, Namespace>);

impl Namespaces {
    fn of(&mut self, pid: i32) -> &Namespace {
        let link = format!("/proc/{pid}/ns/net");
        let name = fs::read_link(&link).unwrap_or(link.into());
        self.0.entry(name).or_insert_with(|| Namespace::of(pid))
    }
}

/// A list of names as far as anybody reads it.
fn shortened(names: &[String]) -> String {
    const ENOUGH: usize = 5;
    let more = if names.len() > ENOUGH { ", ..." } else { "" };
    names.iter().take(ENOUGH).map(String::as_str).collect::<Vec<_>>().join(", ") + more
}

/// `java (4711)`.
pub(crate) fn title(pid: i32, process: &Process) -> String {
    match process.names.first() {
        Some(name) => format!("{} ({pid})", output::plain(name)),
        None => format!("process {pid}"),
    }
}

/// Which side of a connection it is.
pub(crate) fn direction(connection: &Connection) -> Option<&'static str> {
    match connection {
        Connection::Outbound { .. } => Some("outbound"),
        Connection::Inbound { .. } => Some("inbound"),
        Connection::Listening { .. } => Some("listening"),
        Connection::Binding { .. } | Connection::BindingUdp { .. } => None,
    }
}

fn process(pid: i32) -> Process {
    load::process_in(Path::new(&format!("/proc/{pid}")))
}

/// The process that a process or thread number belongs to.
fn thread_group(id: i32) -> Option<i32> {
    // Its first line is the program's name, as far as that fits: a letter may be cut in the middle.
    let status = fs::read(format!("/proc/{id}/status")).ok()?;
    String::from_utf8_lossy(&status).lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Adds the filters by address.
pub(crate) fn with_filters(command: Command) -> Command {
    let filter = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("ADDRESS").action(ArgAction::Append).help(help)
    };
    command
        .arg(filter(
            "to",
            "Only connections to these peers, in the form of a rule's `to`: 10.0.0.0/8:443, !10.0.0.1, [2001:db8::/32], :6379; repeatable",
        ))
        .arg(filter("local", "Only sockets with these local addresses, in the same form; repeatable"))
}

/// Which sockets are of interest.
pub(crate) struct Filter {
    to: Box<[Pattern]>,
    local: Box<[Pattern]>,
}

impl Filter {
    pub(crate) fn new(matches: &ArgMatches) -> Result<Self, u8> {
        let patterns = |name: &str| {
            let words = matches.get_many::<String>(name).into_iter().flatten();
            let refuse = |refused: matcher::Refused| {
                output::error(&format!("--{name}: {}", refused.message), Some(&refused.help));
                exit::USAGE
            };
            let mut list = List::default();
            for word in words.flat_map(|word| word.split(',')) {
                if names_host(word) {
                    // A socket does not know the name that it was connected by.
                    let message = format!("--{name}: host names are not supported here (\"{word}\")");
                    output::error(&message, Some("give the address or network that the name resolves to"));
                    return Err(exit::USAGE);
                }
                list.add(word, name == "to").map_err(refuse)?;
            }
            let mut room = MOST_PIECES;
            list.into_patterns(&mut room).map_err(refuse)
        };
        Ok(Self { to: patterns("to")?, local: patterns("local")? })
    }

    pub(crate) fn lets_through(&self, current: &Current) -> bool {
        let fits = |patterns: &[Pattern], endpoint: Option<Endpoint>| {
            patterns.is_empty()
                || endpoint.is_some_and(|endpoint| patterns.iter().any(|pattern| pattern.matches(endpoint)))
        };
        fits(&self.to, current.peer) && fits(&self.local, current.local)
    }
}
