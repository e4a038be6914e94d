//! What a rule asks of a socket and of its process: `to`, `listen`, `from`, `protocol`, `process`, `command`.
//!
//! One type for the file as it is written, the compiled rule and the environment's SOCKOPT_TO and SOCKOPT_PROCESS, and the one
//! place that says what it takes to match. The tables of [`Rules`](crate::Rules) find the first rule faster; a property test
//! compares them with a walk along these.

use std::fmt;

use crate::connection::{Connection, Endpoint};
use crate::glob::{self, Glob};
use crate::matcher::Pattern;
use crate::process::Process;

/// Which sockets a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Those that connect: it has `to`.
    Outbound,
    /// Those that listen, and what they accept: it has `listen` and not `from`. UDP servers too, unless it has `protocol = "tcp"`.
    Listeners,
    /// UDP servers alone: it has `listen` and `protocol = "udp"`.
    UdpServers,
    /// Those that are accepted, of some clients: it has `from`.
    Accepted,
    /// All of them: it has none of these.
    Both,
}

/// Whose ports `listen` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP's.
    Tcp,
    /// UDP's.
    Udp,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name)
    }
}

/// The conditions of a rule. Each that is there has to match, by any entry of its list; one that is not there always does.
///
/// A rule that has `to` has neither `listen` nor `from`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    pub(crate) to: Option<Box<[Pattern]>>,
    pub(crate) listen: Option<Box<[Pattern]>>,
    pub(crate) from: Option<Box<[Pattern]>>,
    pub(crate) protocol: Option<Protocol>,
    /// Apart, as few rules have any.
    pub(crate) processes: Option<Box<Processes>>,
}

/// `process` and `command`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Processes {
    pub(crate) process: Option<Box<[Glob]>>,
    pub(crate) command: Option<Box<[Glob]>>,
}

/// Why a rule does not match: the first condition that does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch<'a> {
    /// It is for sockets that connect.
    Connects,
    /// It is for sockets that listen or accept.
    Accepts,
    /// It is for some clients, and while a socket is bound or listens, no client is known.
    NoClient,
    /// None of its addresses under this key is meant.
    Address(&'static str, &'a [Pattern]),
    /// It is for sockets of this protocol alone.
    Protocol(Protocol),
    /// Its `process` does not mean this one.
    Process(&'a [Glob]),
    /// Its `command` does not mean this one.
    Command(&'a [Glob]),
}

impl Conditions {
    /// Which sockets they mean.
    #[must_use]
    pub fn direction(&self) -> Direction {
        match (&self.to, &self.listen, &self.from) {
            (Some(_), ..) => Direction::Outbound,
            (None, _, Some(_)) => Direction::Accepted,
            (None, Some(_), None) if self.protocol == Some(Protocol::Udp) => Direction::UdpServers,
            (None, Some(_), None) => Direction::Listeners,
            (None, None, None) => Direction::Both,
        }
    }

    /// `to`: the destination of a socket that connects, where an unspecified address is the loopback's already. An entry that
    /// names a host ([`Pattern::host`]) matches by the names that the destination is known by.
    #[must_use]
    pub fn to(&self) -> Option<&[Pattern]> {
        self.to.as_deref()
    }

    /// `listen`: the address that a socket listens on, is bound to, or was accepted at.
    #[must_use]
    pub fn listen(&self) -> Option<&[Pattern]> {
        self.listen.as_deref()
    }

    /// `from`: the client of an accepted socket.
    #[must_use]
    pub fn from(&self) -> Option<&[Pattern]> {
        self.from.as_deref()
    }

    /// `protocol`: `listen` means the ports of this protocol alone.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    /// Whether the rule is for UDP sockets that are bound.
    #[must_use]
    pub fn is_for_udp_servers(&self) -> bool {
        match self.direction() {
            Direction::UdpServers | Direction::Both => true,
            Direction::Listeners => self.protocol.is_none(),
            Direction::Outbound | Direction::Accepted => false,
        }
    }

    /// `process`: one of them has to match one of the process's names ([`Process::names`]). None in rules that were compiled for
    /// one process, for which this has been decided.
    #[must_use]
    pub fn process(&self) -> Option<&[Glob]> {
        self.processes.as_ref()?.process.as_deref()
    }

    /// `command`: one of them has to match the command line ([`Process::command`]). None in rules that were compiled for one
    /// process, for which this has been decided.
    #[must_use]
    pub fn command(&self) -> Option<&[Glob]> {
        self.processes.as_ref()?.command.as_deref()
    }

    /// Whether they ask for a process at all.
    #[must_use]
    pub fn ask_for_process(&self) -> bool {
        self.processes.is_some()
    }

    /// `process` and `command`, to be filled in.
    pub(crate) fn processes_mut(&mut self) -> &mut Processes {
        self.processes.get_or_insert_default()
    }

    /// Whether the rule is for sockets that connect.
    #[must_use]
    pub fn is_for_connecting(&self) -> bool {
        matches!(self.direction(), Direction::Outbound | Direction::Both)
    }

    /// Whether it is for accepted sockets, and for none that connects.
    pub(crate) fn is_for_accepted(&self) -> bool {
        matches!(self.direction(), Direction::Listeners | Direction::Accepted)
    }

    /// Why they do not mean a socket with this connection, by its addresses, if so; `is_meant` says whether an entry of a
    /// list means an end of it.
    pub(crate) fn mismatch_by_address(
        &self,
        connection: &Connection,
        is_meant: impl Fn(&Pattern, Endpoint) -> bool,
    ) -> Option<Mismatch<'_>> {
        let address = |key, patterns: Option<_>, end| {
            let patterns: &[Pattern] = patterns?;
            let is_met = patterns.iter().any(|pattern| is_meant(pattern, end));
            (!is_met).then_some(Mismatch::Address(key, patterns))
        };
        match (*connection, self.direction()) {
            (Connection::Outbound { .. }, Direction::Listeners | Direction::UdpServers | Direction::Accepted) => {
                Some(Mismatch::Accepts)
            }
            (Connection::Outbound { peer }, _) => address("to", self.to(), peer),
            (_, Direction::Outbound) => Some(Mismatch::Connects),
            (Connection::BindingUdp { local }, direction) => match (direction, self.protocol) {
                (Direction::Accepted, _) => Some(Mismatch::NoClient),
                (_, Some(protocol @ Protocol::Tcp)) => Some(Mismatch::Protocol(protocol)),
                _ => address("listen", self.listen(), local),
            },
            (_, Direction::UdpServers) => Some(Mismatch::Protocol(Protocol::Udp)),
            (Connection::Binding { local } | Connection::Listening { local }, direction) => {
                // Who will connect is not known here, so a rule with `from` cannot be meant.
                let no_client = || (direction == Direction::Accepted).then_some(Mismatch::NoClient);
                address("listen", self.listen(), local).or_else(no_client)
            }
            (Connection::Inbound { local, peer }, _) => {
                address("listen", self.listen(), local).or_else(|| address("from", self.from(), peer))
            }
        }
    }

    /// Why they do not mean a process, if so.
    pub(crate) fn mismatch_by_process(&self, process: &Process) -> Option<Mismatch<'_>> {
        let by_name = self.process().filter(|globs| !process.is_one_of(globs)).map(Mismatch::Process);
        let is_other = |globs: &&[Glob]| !globs.iter().any(|glob| glob.matches(&process.command));
        by_name.or_else(|| self.command().filter(is_other).map(Mismatch::Command))
    }

    /// Whether every process that others mean is one that these mean. Where wildcards make that hard to tell, no.
    pub(crate) fn let_pass_every_process_of(&self, others: &Self) -> bool {
        glob::includes(self.process(), others.process()) && glob::includes(self.command(), others.command())
    }
}

/// The keys of a rule that `[defaults]` cannot have.
pub(crate) const OF_RULES: [&str; 7] = ["name", "to", "listen", "from", "protocol", "process", "command"];

/// How many entries of a list are shown.
const SHOWN: usize = 4;

fn list(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    for (index, item) in items.iter().take(SHOWN).enumerate() {
        write!(f, "{}\"{item}\"", if index > 0 { ", " } else { "" })?;
    }
    match items.len().checked_sub(SHOWN) {
        Some(more @ 1..) => write!(f, " and {more} more"),
        _ => Ok(()),
    }
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connects => f.write_str("it is for sockets that connect (to)"),
            Self::Accepts => f.write_str("it is for sockets that listen or accept (listen, from)"),
            Self::NoClient => f.write_str("it is for some clients (from), which are known only after accept"),
            Self::Address(key, patterns) => {
                write!(f, "{key} does not match: ")?;
                list(f, patterns)
            }
            Self::Protocol(Protocol::Tcp) => f.write_str("it is for TCP sockets (protocol)"),
            Self::Protocol(Protocol::Udp) => f.write_str("it is for UDP sockets that are bound (protocol)"),
            Self::Process(globs) => {
                f.write_str("process does not match: ")?;
                list(f, globs)
            }
            Self::Command(globs) => {
                f.write_str("command does not match: ")?;
                list(f, globs)
            }
        }
    }
}
