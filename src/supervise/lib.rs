//! Sets socket options in programs that no library can be loaded into: static ones, Go's, and whatever makes its system calls
//! itself. The kernel stops the few calls that matter (seccomp user notification, seccomp_unotify(2)) and tells a process of ours,
//! which sets the options on a copy of the program's descriptor and lets the call go on.
//!
//! The program keeps its process id, its parent, its terminal and its exit status: it is the supervisor that is started beside it.

mod connecting;
pub mod filter;
mod guard;
mod handover;
mod held;
mod last_word;
mod log;
mod made;
mod multipath;
pub mod notification;
mod processes;
mod recent;
mod runtime;
mod sys;
mod tasks;
mod trial;
mod worker;

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use load::Loaded;
use policy::rules::Rule;
use policy::{Direction, Phase, Rules};
use socket::Errno;

use crate::filter::Needs;
use crate::log::Log;
use crate::multipath::Multipath;
pub use crate::processes::Ready;
use crate::runtime::{Policy, Runtime};
use crate::worker::Worker;

/// Numbers of the kernel's that stand in this crate, by their names in its headers: for a test.
pub const NUMBERS: &[(&str, u64)] = &[
    ("SECCOMP_IOCTL_NOTIF_RECV", sys::RECEIVE as u64),
    ("SECCOMP_IOCTL_NOTIF_SEND", sys::SEND as u64),
    ("SECCOMP_IOCTL_NOTIF_ID_VALID", sys::IS_VALID as u64),
    ("SECCOMP_IOCTL_NOTIF_ADDFD", sys::ADD_DESCRIPTOR as u64),
    ("SECCOMP_RET_ALLOW", filter::ALLOW as u64),
    ("SECCOMP_RET_USER_NOTIF", filter::NOTIFY as u64),
    ("sizeof(struct seccomp_notif)", notification::WORDS as u64 * 8),
    #[cfg(target_arch = "x86_64")]
    ("AUDIT_ARCH_X86_64", filter::THIS_MACHINE as u64),
    #[cfg(target_arch = "aarch64")]
    ("AUDIT_ARCH_AARCH64", filter::THIS_MACHINE as u64),
    ("BPF_LD | BPF_W | BPF_ABS", filter::LOAD as u64),
    ("BPF_JMP | BPF_JEQ | BPF_K", filter::EQUAL as u64),
    ("BPF_JMP | BPF_JGE | BPF_K", filter::AT_LEAST as u64),
    ("BPF_JMP | BPF_JSET | BPF_K", filter::ANY_BIT as u64),
    ("BPF_JMP | BPF_JA", filter::ALWAYS as u64),
    ("BPF_RET | BPF_K", filter::RETURN as u64),
    ("sizeof(struct sockaddr_un)", filter::UNIX as u64),
    ("sizeof(struct sockaddr_in)", filter::SHORTEST as u64),
    ("MSG_FASTOPEN", notification::MSG_FASTOPEN as u64),
    ("offsetof(struct seccomp_data, nr)", filter::NUMBER as u64),
    ("offsetof(struct seccomp_data, arch)", filter::MACHINE as u64),
    ("offsetof(struct seccomp_data, args[3])", filter::argument(3) as u64),
];

/// What a supervisor does when it starts, and may not be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Processes and a socket between them.
    Start,
    /// The filter, seccomp(2).
    Seccomp,
    /// Being told of a call.
    Receive,
    /// Reading the program's memory.
    Memory,
    /// A copy of the program's descriptor.
    Descriptor,
    /// Letting the call go on.
    Answer,
    /// Giving what was tried out to the supervisor for good.
    HandOver,
}

impl Step {
    fn of(number: u8) -> Self {
        let all = [Self::Start, Self::Seccomp, Self::Receive, Self::Memory, Self::Descriptor, Self::Answer];
        all.into_iter().find(|step| *step as u8 == number).unwrap_or(Self::HandOver)
    }
}

/// Why there can be no supervisor here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What could not be done.
    pub step: Step,
    /// What the kernel said.
    pub errno: Errno,
}

impl Refusal {
    fn new(step: Step, errno: Errno) -> Self {
        Self { step, errno }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, errno } = self;
        match (step, errno.0) {
            (Step::Seccomp, libc::EBUSY) => {
                f.write_str("this process has a supervisor already, and the kernel allows only one (EBUSY)")
            }
            (Step::Seccomp, libc::EINVAL | libc::ENOSYS) => {
                write!(f, "the kernel, or a sandbox, offers no seccomp user notification ({errno})")
            }
            (Step::Seccomp, _) => write!(f, "the kernel refuses the seccomp filter: {errno}"),
            (Step::Descriptor, libc::EPERM) => f.write_str(
                "pidfd_getfd is not permitted (EPERM): a container's seccomp profile wants CAP_SYS_PTRACE for it, or the kernel's Yama forbids it",
            ),
            (Step::Start, _) => write!(f, "its processes cannot be started: {errno}"),
            (Step::Receive, _) => write!(f, "the kernel does not report the program's calls: {errno}"),
            (Step::Memory, libc::EPERM) => f.write_str(
                "the program's memory cannot be read: EPERM; a sandbox forbids it, or kernel.yama.ptrace_scope is 2 or 3",
            ),
            (Step::Memory, _) => write!(f, "the program's memory cannot be read: {errno}"),
            (Step::Descriptor, _) => write!(f, "the program's descriptors cannot be copied: {errno}"),
            (Step::Answer, _) => write!(f, "stopped calls cannot be continued: {errno}"),
            (Step::HandOver, _) => write!(f, "the supervisor has ended: {errno}"),
        }
    }
}

/// Starts a supervisor for this process and what it starts, by a configuration that was found to have no errors; `rules` are those
/// of this process. Only in a process with one thread.
///
/// # Errors
/// Why there can be none.
pub fn start(loaded: Loaded, rules: Rules) -> Result<Ready, Refusal> {
    let at = |errno: Errno| Refusal::new(Step::Start, errno);
    let file = loaded.log_file.as_ref().and_then(|path| CString::new(path.as_os_str().as_bytes()).ok());
    let log = Log::new(loaded.level, file);
    let summary = loaded.summary(&rules);
    let (mut needs, by_making, multipath, policy) = if loaded.asks_for_process() {
        let every = loaded.configuration.parse().into_rules(None).0.unwrap_or_default();
        let mut needs = Needs::of(&every);
        // A listener may come from a program that has other rules.
        needs.look_at_accepted();
        let policy = Policy::ByProcess { configuration: loaded.configuration, known: HashMap::new() };
        (needs, Needs::by_making(&every), Multipath::of(&every), policy)
    } else {
        let (needs, by_making, multipath) = (Needs::of(&rules), Needs::by_making(&rules), Multipath::of(&rules));
        (needs, by_making, multipath, Policy::One(Rc::new(Runtime::new(rules))))
    };
    if multipath.lacks_any() {
        needs.look_at_keepalive();
    }
    let shared = sys::Shared::new().map_err(at)?;
    processes::start(needs, by_making, Worker::new(policy, log, shared, multipath), summary)
}

/// What rules ask for that a supervisor cannot do, a sentence each. `makes_sockets` as [`Ready::makes_sockets`] tells it.
#[must_use]
pub fn what_it_cannot(rules: &Rules, makes_sockets: bool) -> Vec<String> {
    let mut lost = Vec::new();
    if makes_sockets {
        lost.extend(what_is_lost_by_making(rules));
    } else if rules.sets_on_accepted() {
        lost.push(
            "accepted sockets do not inherit some options (those in which a rule with from differs from the other rules for the same \
             port; priority, receive_timeout, send_timeout, quickack): the supervisor sets them when the program first sets TCP_NODELAY or SO_KEEPALIVE on the socket, as every Go program does; \
             in a program that sets neither, they are not set"
                .to_owned(),
        );
    }
    if rules.scope_names_hosts() {
        lost.push(
            "SOCKOPT_TO: the supervisor does not see the program look up names: host names never match; use addresses"
                .to_owned(),
        );
    }
    for rule in rules.rules() {
        let hosts: Vec<&str> = rule.hosts().filter_map(policy::matcher::Pattern::host).collect();
        if !hosts.is_empty() {
            lost.push(format!(
                "rule \"{}\": the supervisor does not see the program look up names: {} never matches; use addresses",
                rule.name(),
                hosts.join(", ")
            ));
        }
    }
    lost
}

/// What is lost where no copy of an accepted socket can be had, nor of one that has connected.
fn what_is_lost_by_making(rules: &Rules) -> impl Iterator<Item = String> {
    const WHY: &str = "the supervisor gets no copies of this program's sockets (pidfd_getfd is refused)";
    let is_lost = |rule: &&Rule| rule.conditions().direction() == Direction::Accepted;
    let names: Vec<String> = rules.rules().filter(is_lost).map(|rule| format!("rule \"{}\"", rule.name())).collect();
    let from = (!names.is_empty()).then(|| format!("{WHY}: rules with from never match: {}", names.join(", ")));
    let always = rules.phases().contains(Phase::AcceptAlways).then(|| {
        format!("{WHY}: accepted sockets get only what they inherit, not priority, receive_timeout, send_timeout and quickack")
    });
    let is_for_listeners = |rule: &Rule| rule.conditions().direction() == Direction::Listeners;
    let inbound = rules.rules().any(is_for_listeners) && !rules.enforced().is_empty();
    let enforced = inbound.then(|| format!("{WHY}: what the program sets on accepted sockets is not overruled"));
    let filled = rules
        .fills_computed_timeouts()
        .then(|| format!("{WHY}: with enforce = \"fill\" the user timeout that goes with a keepalive is not set"));
    [from, always, enforced, filled].into_iter().flatten()
}
