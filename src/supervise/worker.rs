//! What the supervisor does for a call that waits: the same decision as the library's, on a copy of the program's descriptor.
//! Whatever fails, the call goes on as if nobody had looked.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use policy::plan::Plan;
use policy::rules::Inheritance;
use policy::variables::Level;
use policy::{
    Configuration, Connection, Decision, Endpoint, Enforce, HostSet, Phase, Phases, Rules, Setting, compile_alone,
    constants,
};
use socket::describe::kind;
use socket::enact::{self, Enactment, Made};
use socket::ffi::Task;
use socket::fill::AsNew;
use socket::setting::{Outcome, set};
use socket::standing::{self, local_endpoint};
use socket::{Address, Errno, Kind, address, ffi};

use crate::filter::AFTER_ACCEPT;
use crate::log::Log;
use crate::notification::{Call, Notification};
use crate::sys::{self, Answer, Shared};

/// The configuration in force for one process.
pub(crate) struct Active {
    rules: Rules,
    /// By [`Setting::id`]: whether its failure was reported.
    warned: Box<[Cell<bool>]>,
    /// What a new socket has of the options that are compared with it.
    new: AsNew,
}

impl Active {
    pub(crate) fn new(rules: Rules) -> Self {
        let warned = (0..rules.setting_count()).map(|_| Cell::new(false)).collect();
        let new = AsNew::ask(rules.compared_with_new());
        Self { rules, warned, new }
    }

    fn plan(&self, connection: Connection, phases: Phases) -> Plan<'_> {
        // Go resolves names itself: which names an address is known by is not seen.
        self.rules.plan(connection, phases, &HostSet::NONE)
    }
}

/// What is configured, for each process that there may be.
pub(crate) enum Policy {
    /// The same for all.
    One(Rc<Active>),
    /// Rules ask for the process.
    ByProcess { configuration: Configuration, known: HashMap<(Vec<u8>, Vec<u8>), Rc<Active>> },
}

/// So many programs at most are remembered with their rules.
const MOST_PROGRAMS: usize = 64;

impl Policy {
    fn of(&mut self, thread: i32) -> Option<Rc<Active>> {
        let (configuration, known) = match self {
            Self::One(active) => return Some(Rc::clone(active)),
            Self::ByProcess { configuration, known } => (configuration, known),
        };
        let folder = std::path::PathBuf::from(format!("/proc/{thread}"));
        let executable = fs::read_link(folder.join("exe")).unwrap_or_default().into_os_string().into_encoded_bytes();
        let key = (executable, fs::read(folder.join("cmdline")).unwrap_or_default());
        if let Some(active) = known.get(&key) {
            return Some(Rc::clone(active));
        }
        let active = Rc::new(Active::new(compile_alone(configuration, &load::process_in(&folder)).0.ok()?));
        if known.len() >= MOST_PROGRAMS {
            known.clear();
        }
        known.insert(key, Rc::clone(&active));
        Some(active)
    }
}

/// Who answers the calls that wait.
pub(crate) struct Worker {
    pub(crate) policy: Policy,
    pub(crate) log: Log,
    pub(crate) shared: &'static Shared,
}

const CONNECT: Phases = Phases::of(&[Phase::Connect, Phase::Datagram]);

/// A call that is looked at.
#[derive(Clone, Copy)]
struct Waiting<'a> {
    listener: BorrowedFd<'a>,
    call: &'a Notification,
    /// What it is called.
    name: &'static str,
    /// The program's descriptor.
    fd: i32,
}

impl Worker {
    /// What becomes of a call. A fault of ours lets it go on.
    pub(crate) fn answer(&mut self, listener: BorrowedFd<'_>, call: &Notification) -> Answer {
        let answer = catch_unwind(AssertUnwindSafe(|| self.look(listener, call)));
        answer.ok().flatten().unwrap_or(Answer::Continue)
    }

    fn look(&mut self, listener: BorrowedFd<'_>, call: &Notification) -> Option<Answer> {
        let kind = call.call().filter(|_| call.thread > 0)?;
        let active = self.policy.of(call.thread)?;
        let name = match kind {
            Call::Connect => "connect",
            Call::Bind => "bind",
            Call::Listen => "listen",
            Call::SetSockOpt => "setsockopt",
            Call::SendTo => "sendto",
            Call::SendMsg => "sendmsg",
            Call::SendMmsg => "sendmmsg",
        };
        let waiting = Waiting { listener, call, name, fd: call.int(0) };
        match kind {
            Call::Connect => self.connect(&active, waiting, self.address(call, call.place(1), call.int(2))?),
            Call::SendTo => self.connect(&active, waiting, self.address(call, call.place(4), call.int(5))?),
            Call::SendMsg | Call::SendMmsg => {
                let (place, length) = self.header(call, call.place(1))?;
                self.connect(&active, waiting, self.address(call, place, length)?)
            }
            Call::Bind => self.bind(&active, waiting, self.address(call, call.place(1), call.int(2))?),
            Call::Listen => self.listen(&active, waiting),
            Call::SetSockOpt => self.set(&active, waiting),
        }
    }

    /// Reads what is there of so many bytes.
    fn read(&self, call: &Notification, at: u64, into: &mut [u8]) -> Option<usize> {
        match sys::read_memory(call.thread, at, into) {
            Ok(length) => Some(length),
            Err(Errno(libc::EPERM)) => {
                self.closed(call.thread);
                None
            }
            // The kernel answers that.
            Err(_) => None,
        }
    }

    fn closed(&self, thread: i32) {
        self.log.warn_once(
            "closed",
            thread,
            format_args!(
                "the kernel lets nobody look into this process (ptrace(2): another user, or a file that may not be read): nothing is set in it"
            ),
        );
    }

    fn address(&self, call: &Notification, at: u64, length: i32) -> Option<Address> {
        let mut bytes = [0; address::LONGEST];
        let length = usize::try_from(length).ok()?.min(bytes.len());
        let read = self.read(call, at, bytes.get_mut(..length)?)?;
        bytes.get(..read).filter(|_| read == length).map(Address::new)
    }

    /// The address in a `struct msghdr`, with which a `struct mmsghdr` begins.
    fn header(&self, call: &Notification, at: u64) -> Option<(u64, i32)> {
        let mut bytes = [0; 12];
        let read = self.read(call, at, &mut bytes)?;
        let [a, b, c, d, e, f, g, h, length @ ..] = bytes;
        (read == bytes.len()).then(|| (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), i32::from_ne_bytes(length)))
    }

    /// A copy of the descriptor that a call is about.
    fn copy(&self, waiting: Waiting<'_>) -> Option<OwnedFd> {
        let thread = waiting.call.thread;
        let task = match ffi::pidfd_open(thread, Task::Thread) {
            // Before Linux 6.9: threads have the same descriptors, almost always.
            Err(Errno(libc::EINVAL)) => ffi::pidfd_open(crate::log::process_of(thread), Task::Process),
            task => task,
        };
        let copy = task.and_then(|task| ffi::pidfd_getfd(task.as_fd(), waiting.fd));
        if copy.as_ref().err() == Some(&Errno(libc::EPERM)) {
            self.closed(thread);
        }
        // Else it may be another thread's by now.
        copy.ok().filter(|_| sys::is_waiting(waiting.listener, waiting.call.id))
    }

    fn debug(&self, waiting: Waiting<'_>, text: std::fmt::Arguments<'_>) {
        let Waiting { name, fd, .. } = waiting;
        self.log.say(Level::Debug, waiting.call.thread, format_args!("{name} fd {fd}{text}"));
    }

    fn connect(&self, active: &Active, waiting: Waiting<'_>, address: Address) -> Option<Answer> {
        let given = match address.endpoint() {
            Ok(given) => given,
            Err(reason) => {
                self.debug(waiting, format_args!(": left alone: {reason}"));
                return None;
            }
        };
        let mut copy = None;
        let mut peer = given;
        if given.ip().is_unspecified() {
            let own = self.copy(waiting)?;
            peer = local_endpoint(own.as_raw_fd())
                .map_or(given.as_destination_of_any(), |local| given.as_destination(local.ip()));
            copy = Some(own);
        }
        let plan = active.plan(Connection::Outbound { peer }, CONNECT);
        if let Some(reason) = plan.bypass() {
            self.debug(waiting, format_args!(" {peer}: left alone: {reason}"));
            return None;
        }
        let copy = copy.or_else(|| self.copy(waiting))?;
        match enact::before_connect(copy.as_raw_fd(), plan, |fd| kind(fd).ok()) {
            Ok((plan, first)) => {
                self.make(active, waiting, copy.as_fd(), (&plan.decision(), first), plan.settings(), peer)
            }
            Err(reason) => self.debug(waiting, format_args!(" {peer}: left alone: {reason}")),
        }
        None
    }

    fn bind(&self, active: &Active, waiting: Waiting<'_>, address: Address) -> Option<Answer> {
        const BIND: Phases = Phases::of(&[Phase::Bind]);
        const UDP: Phases = Phases::of(&[Phase::BindDatagram]);
        let local = address.endpoint().ok()?;
        let plan = active.plan(Connection::Binding { local }, BIND | UDP);
        if plan.bypass().is_some() {
            return None;
        }
        let copy = self.copy(waiting)?;
        let plan = plan.at(match kind(copy.as_raw_fd()) {
            Ok(Kind::Tcp | Kind::Mptcp) => BIND,
            Ok(Kind::Udp) => UDP,
            _ => return None,
        });
        self.make(active, waiting, copy.as_fd(), (&plan.decision(), None), plan.settings(), local);
        None
    }

    fn listen(&self, active: &Active, waiting: Waiting<'_>) -> Option<Answer> {
        let copy = self.copy(waiting)?;
        let kind = kind(copy.as_raw_fd()).ok();
        let local = local_endpoint(copy.as_raw_fd());
        let (Some(Kind::Tcp | Kind::Mptcp), Some(local)) = (kind, local) else { return None };
        let plan = active.plan(Connection::Listening { local }, Phases::of(&[Phase::Listen]));
        match plan.bypass() {
            None => {
                self.make(active, waiting, copy.as_fd(), (&plan.decision(), None), plan.settings(), local);
                if plan.inheritance() == Inheritance::None {
                    self.debug(waiting, format_args!(" {local}: decided for each accepted socket"));
                }
            }
            Some(reason) => self.debug(waiting, format_args!(" {local}: left alone: {reason}")),
        }
        self.shared.ports.remember(local);
        None
    }

    fn set(&self, active: &Active, waiting: Waiting<'_>) -> Option<Answer> {
        let (level, name) = (waiting.call.int(1), waiting.call.int(2));
        let copy = self.copy(waiting)?;
        let fd = copy.as_raw_fd();
        let kind_of = |fd| kind(fd).ok();
        let (connection, phases) =
            standing::of(fd, &active.rules, kind_of, |local| self.shared.ports.listener_of(local))?;
        if AFTER_ACCEPT.contains(&(level, name)) && matches!(connection, Connection::Inbound { .. }) {
            self.accepted(active, waiting, copy.as_fd(), connection);
        }
        let plan = active.plan(connection, phases);
        let setting = plan.enforced(level, name)?;
        // The kernel reads so much of the value; what it would refuse for want of it, it shall refuse.
        let (length, read) = (waiting.call.int(4), setting.bytes_read());
        let mut value = [0; 16];
        let value = value.get_mut(..read)?;
        if usize::try_from(length).ok()? < read || self.read(waiting.call, waiting.call.place(3), value)? < read {
            return None;
        }
        // What the kernel does not take from the rule is the program's to set.
        if set(fd, setting) != Outcome::Done {
            return None;
        }
        let (fd, decision) = (waiting.fd, plan.decision());
        let thread = waiting.call.thread;
        match constants::option_name(level, name) {
            Some(name) => self.log.say(
                Level::Info,
                thread,
                format_args!("setsockopt fd {fd} {name}: not carried out: {decision} enforces it"),
            ),
            None => self.log.say(
                Level::Info,
                thread,
                format_args!("setsockopt fd {fd} level {level} option {name}: not carried out: {decision} enforces it"),
            ),
        }
        Some(Answer::Result(0))
    }

    /// What an accepted socket does not have from its listener, set when the program first sets something on it.
    fn accepted(&self, active: &Active, waiting: Waiting<'_>, copy: BorrowedFd<'_>, connection: Connection) {
        let Connection::Inbound { local, peer } = connection else { return };
        let inheritance = active.plan(Connection::Listening { local }, Phases::NONE).inheritance();
        let plan = active.plan(connection, inheritance.phases());
        // Who has the last word has it from its first call on.
        let is_later = plan.enforce() == Enforce::Never
            && AFTER_ACCEPT.first() == Some(&(waiting.call.int(1), waiting.call.int(2)));
        if plan.bypass().is_none() && !is_later {
            let waiting = Waiting { name: "accept", ..waiting };
            self.make(active, waiting, copy, (&plan.decision(), None), plan.in_order(), peer);
        }
    }

    /// Makes settings but for the first, which was made already; reports them, and each that fails once.
    fn make<'a>(
        &self,
        active: &Active,
        waiting: Waiting<'_>,
        copy: BorrowedFd<'_>,
        (decision, first): (&Decision<'_>, Option<&'a Setting>),
        settings: impl Iterator<Item = &'a Setting> + Clone,
        endpoint: Endpoint,
    ) {
        let Waiting { name: call, fd, .. } = waiting;
        let warn = |setting: &Setting, text: std::fmt::Arguments<'_>| {
            if active.warned.get(setting.id as usize).is_none_or(|warned| !warned.replace(true)) {
                let text = format_args!("{call} fd {fd} {endpoint}: {decision}: {setting} {text}");
                self.log.say(Level::Warn, waiting.call.thread, text);
            }
        };
        let (mut made, mut chosen) = (Made::default(), Made::default());
        let enforce = decision.profile().enforce();
        let enactment = Enactment::begin(copy.as_raw_fd(), enforce, settings.clone(), &active.new, |setting, errno| {
            warn(setting, format_args!("is left out: whether the program has set it is not known: {errno}"));
        });
        first.into_iter().for_each(|setting| made.note(setting));
        for setting in settings.filter(|setting| first.is_none_or(|first| !std::ptr::eq(first, *setting))) {
            match enactment.make(setting) {
                Outcome::LeftToProgram => chosen.note(setting),
                Outcome::Done => made.note(setting),
                Outcome::Absent => {}
                Outcome::Failed(errno) => warn(setting, format_args!("failed: {errno}")),
            }
        }
        match (made.count, chosen.count) {
            (0, 0) => {}
            (_, 0) => self.debug(waiting, format_args!(" {endpoint}: {decision}:{made}")),
            (0, _) => {
                self.debug(waiting, format_args!(" {endpoint}: {decision}: left to the program:{}", chosen.keys()));
            }
            _ => self
                .debug(waiting, format_args!(" {endpoint}: {decision}:{made}; left to the program:{}", chosen.keys())),
        }
    }
}
