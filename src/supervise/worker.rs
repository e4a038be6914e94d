//! What the supervisor does for a call that waits: the same decision as the library's, on a copy of the program's descriptor.
//! Whatever fails, the call goes on as if nobody had looked.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use policy::rules::Inheritance;
use policy::variables::Level;
use policy::{Connection, Decision, Endpoint, Enforce, Key, Phase, Phases, Setting};
use socket::connecting::{Limit, limit_syns, running_limit};
use socket::describe::kind;
use socket::enact::{self, Enacted, Hindrance};
use socket::standing::{is_bound, is_listening, local_endpoint};
use socket::{Address, Errno, Kind, address, ffi};

use crate::held::{Held, most_held};
use crate::log::Log;
use crate::made::{Made, Making, Settled};
use crate::multipath::Multipath;
use crate::notification::{Call, Notification};
use crate::recent::Recent;
use crate::runtime::{Policy, Runtime};
use crate::sys::{self, Answer, Extent, Shared};
use crate::tasks::Tasks;

/// Who answers the calls that wait.
pub(crate) struct Worker {
    pub(crate) policy: Policy,
    pub(crate) log: Log,
    pub(crate) shared: &'static Shared,
    pub(crate) multipath: Multipath,
    pub(crate) tasks: Tasks,
    /// Accepted sockets on which the program has the last word by now.
    pub(crate) settled: RefCell<Recent<()>>,
    /// How the program's sockets are had where they cannot be copied.
    pub(crate) made: Option<RefCell<Made>>,
    /// The socket that the present call is about, where it is one of these.
    present: Cell<Option<OwnedFd>>,
    /// Sockets that have a time for connecting, by when each is to be looked at, and by their copies.
    pub(crate) connecting: BTreeMap<(Instant, i32), Held>,
}

pub(crate) const CONNECT: Phases = Phases::of(&[Phase::Connect, Phase::Datagram]);

/// A call that is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Waiting<'a> {
    pub(crate) listener: BorrowedFd<'a>,
    pub(crate) call: &'a Notification,
    /// What it is called.
    pub(crate) name: &'static str,
    /// The program's descriptor.
    pub(crate) fd: i32,
}

/// Which call is made on which descriptor by which thread, for messages.
pub(crate) type At = (&'static str, i32, i32);

impl Worker {
    pub(crate) fn new(policy: Policy, log: Log, shared: &'static Shared, multipath: Multipath) -> Self {
        Self {
            policy,
            log,
            shared,
            multipath,
            tasks: Tasks::default(),
            settled: RefCell::default(),
            made: None,
            present: Cell::new(None),
            connecting: BTreeMap::new(),
        }
    }

    /// From here on the program's sockets are made, since they cannot be copied.
    pub(crate) fn make_sockets(&mut self) {
        self.made = Some(RefCell::default());
    }

    /// What becomes of a call. A fault of ours lets it go on.
    pub(crate) fn answer(&mut self, listener: BorrowedFd<'_>, call: &Notification) -> Answer {
        let answer = catch_unwind(AssertUnwindSafe(|| self.look(listener, call)));
        let Ok(answer) = answer else {
            self.log.warn_once("fault", call.thread, format_args!("internal error: a call goes on without options"));
            return Answer::Continue;
        };
        answer.unwrap_or(Answer::Continue)
    }

    fn look(&mut self, listener: BorrowedFd<'_>, call: &Notification) -> Option<Answer> {
        let kind = call.call().filter(|_| call.thread > 0)?;
        let runtime = self.policy.of(call.thread)?;
        let name = match kind {
            Call::Connect => "connect",
            Call::Bind => "bind",
            Call::Listen => "listen",
            Call::SetSockOpt => "setsockopt",
            Call::SendTo => "sendto",
            Call::SendMsg => "sendmsg",
            Call::SendMmsg => "sendmmsg",
            Call::Socket => return self.make_socket(listener, call),
        };
        let waiting = Waiting { listener, call, name, fd: call.int(0) };
        self.find_made(kind, waiting);
        let answer = self.decide(kind, &runtime, waiting);
        self.present.set(None);
        answer
    }

    fn decide(&mut self, kind: Call, runtime: &Rc<Runtime>, waiting: Waiting<'_>) -> Option<Answer> {
        let call = waiting.call;
        match kind {
            Call::Connect => self.connect(runtime, waiting, self.address(call, call.place(1), call.int(2))?, None),
            Call::SendTo => {
                let address = self.address(call, call.place(4), call.int(5))?;
                self.connect(runtime, waiting, address, Some(call.int(3)))
            }
            // No message, no connection.
            Call::SendMmsg if call.int(2) == 0 => None,
            Call::SendMsg | Call::SendMmsg => {
                let (place, length) = self.header(call, call.place(1))?;
                let flags = call.int(if kind == Call::SendMsg { 2 } else { 3 });
                self.connect(runtime, waiting, self.address(call, place, length)?, Some(flags))
            }
            Call::Bind => self.bind(runtime, waiting, self.address(call, call.place(1), call.int(2))?),
            Call::Listen => self.listen(runtime, waiting),
            Call::SetSockOpt => self.set(runtime, waiting),
            Call::Socket => None,
        }
    }

    /// Makes a socket in the program's place.
    fn make_socket(&self, listener: BorrowedFd<'_>, call: &Notification) -> Option<Answer> {
        let mut made = self.made.as_ref()?.borrow_mut();
        match made.make(listener, call) {
            Making::Placed(fd) => {
                // Whatever happens to this process: the program is to have it once.
                self.shared.given.store(u64::from(fd.unsigned_abs()) + 1, SeqCst);
                Some(Answer::Result(fd.into()))
            }
            Making::LeftAlone => None,
            Making::NoRoom(most) => {
                let text = format_args!(
                    "{most} sockets of the supervised programs are neither connected nor listened on, and the supervisor has room for no more (half of 4,096, or of the hard limit of descriptors less 80): others get no options"
                );
                self.log.warn_once("room", call.thread, text);
                None
            }
            Making::Closed => {
                self.closed(call.thread);
                None
            }
        }
    }

    /// Finds the socket that a call is about among those that were made. It is given away with whatever decides about it.
    fn find_made(&self, kind: Call, waiting: Waiting<'_>) {
        let Some(made) = &self.made else { return };
        let call = waiting.call;
        let port = || self.address(call, call.place(1), call.int(2))?.endpoint().ok().map(|local| local.port());
        let port = if kind == Call::Bind { port().unwrap_or(0) } else { 0 };
        let mut made = made.borrow_mut();
        if port != 0 {
            // A port is free when the program has closed its socket.
            made.free(port);
        }
        let thread = call.thread;
        let Ok(Some(inode)) = sys::socket_of(thread, waiting.fd) else { return };
        let found = match kind {
            Call::SetSockOpt => made.borrow(inode),
            Call::Bind => made.borrow_bound(inode),
            _ => made.take(inode),
        };
        // Else it may be another thread's by now.
        self.present.set(found.filter(|_| sys::is_waiting(waiting.listener, call.id)));
    }

    /// Remembers what a socket is of which no copy will be had any more.
    fn settle(&self, socket: BorrowedFd<'_>, connection: Connection, phases: Phases) {
        if let Some(made) = &self.made {
            made.borrow_mut().settle(socket, Settled { connection, phases });
        }
    }

    /// Reads what is there of so many bytes.
    pub(crate) fn read(&self, call: &Notification, at: u64, into: &mut [u8], extent: Extent) -> Option<usize> {
        match sys::read_memory(call.thread, at, into, extent) {
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
                "the kernel does not let the supervisor look into this process (ptrace(2): another user, a file that may not be read, or kernel.yama.ptrace_scope): no options are set in it"
            ),
        );
    }

    fn address(&self, call: &Notification, at: u64, length: i32) -> Option<Address> {
        let of = if call.call() == Some(Call::Bind) { Address::to_bind } else { Address::new };
        let mut bytes = [0; address::LONGEST];
        let length = usize::try_from(length).ok()?.min(bytes.len());
        let read = self.read(call, at, bytes.get_mut(..length)?, Extent::All)?;
        bytes.get(..read).filter(|_| read == length).map(of)
    }

    /// The address in a `struct msghdr`, with which a `struct mmsghdr` begins.
    fn header(&self, call: &Notification, at: u64) -> Option<(u64, i32)> {
        let mut bytes = [0; 12];
        let read = self.read(call, at, &mut bytes, Extent::All)?;
        let [a, b, c, d, e, f, g, h, length @ ..] = bytes;
        (read == bytes.len()).then(|| (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), i32::from_ne_bytes(length)))
    }

    /// A copy of the descriptor that a call is about.
    pub(crate) fn copy(&self, waiting: Waiting<'_>) -> Option<OwnedFd> {
        if self.made.is_some() {
            return self.present.take();
        }
        let thread = waiting.call.thread;
        let copy = self.tasks.copy(waiting.listener, waiting.call, waiting.fd);
        match copy.as_ref().err() {
            Some(Errno(libc::EPERM)) => self.closed(thread),
            // The kernel answers that, or nobody waits for an answer any more.
            None | Some(Errno(libc::EBADF | libc::ESRCH)) => {}
            Some(errno) => {
                let text = format_args!("a descriptor cannot be copied ({errno}): a call goes on without options");
                self.log.warn_once("copy", thread, text);
            }
        }
        copy.ok().flatten()
    }

    fn debug(&self, waiting: Waiting<'_>, text: std::fmt::Arguments<'_>) {
        let Waiting { name, fd, .. } = waiting;
        self.log.say(Level::Debug, waiting.call.thread, format_args!("{name} fd {fd}{text}"));
    }

    /// Before a call that connects; `flags` are those of a send that goes on to send in the same call.
    fn connect(
        &mut self,
        runtime: &Rc<Runtime>,
        waiting: Waiting<'_>,
        address: Address,
        flags: Option<i32>,
    ) -> Option<Answer> {
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
        let mut plan = runtime.plan(Connection::Outbound { peer }, CONNECT);
        if let Some(reason) = plan.bypass() {
            self.debug(waiting, format_args!(" {peer}: left alone: {reason}"));
            return None;
        }
        let copy = copy.or_else(|| self.copy(waiting))?;
        self.end_earlier(copy.as_fd());
        let fd = copy.as_raw_fd();
        let limit = match Limit::of(fd, &runtime.rules, peer, plan) {
            // The user timeout that is to follow could not be taken back.
            limit if limit.connecting().is_some_and(|limit| self.leaves_out(plan.enforce(), limit.afterwards)) => {
                plan = plan.without_limit();
                Limit::None
            }
            limit => limit,
        };
        let may_send_on = flags.is_some_and(|flags| flags & libc::MSG_DONTWAIT == 0);
        let sends_on = may_send_on && matches!(limit, Limit::Rule(_)) && !ffi::is_non_blocking(fd);
        let cannot_hold = limit.connecting().is_some() && self.connecting.len() >= most_held();
        // A copy would keep the port in use after the program has closed the socket. It may also be the port of a connect
        // that came to nothing.
        let has_port = || local_endpoint(fd).is_some_and(|local| local.port() != 0) && !ffi::has_begun_to_connect(fd);
        let is_by_syns = sends_on || cannot_hold || matches!(limit, Limit::Rule(_)) && has_port();
        let plan = if is_by_syns || limit.is_left_out() { plan.without_limit() } else { plan };
        let rule_for = |peer| runtime.plan(Connection::Outbound { peer }, CONNECT).decision();
        match enact::before_connect(fd, plan, |fd| kind(fd).ok(), rule_for) {
            Ok((plan, first)) => {
                let to = (&plan.decision(), first);
                self.make(runtime, waiting, copy.as_fd(), to, plan.settings(), peer);
                let is_multipath = || kind(fd) == Ok(Kind::Mptcp);
                if self.made.is_some() && plan.enforce() == Enforce::Always && !is_multipath() {
                    let is_udp = plan.phases().contains(Phase::Datagram);
                    let phases = if is_udp { plan.phases() } else { Phases::OUTBOUND };
                    self.settle(copy.as_fd(), Connection::Outbound { peer }, phases);
                }
                let connecting = limit.connecting().filter(|_| plan.phases() == Phases::of(&[Phase::Connect]))?;
                if !is_by_syns {
                    self.hold(runtime, waiting, copy, &connecting);
                    return None;
                }
                // The call may last long after the connection stands: a time for connecting would end it then.
                if connecting.own == 0 && connecting.afterwards.key == Key::ConnectTimeout {
                    let afterwards = [connecting.afterwards].into_iter();
                    self.make(runtime, waiting, copy.as_fd(), (&plan.decision(), None), afterwards, peer);
                }
                limit_syns(fd, connecting.limit);
            }
            Err(reason) => self.debug(waiting, format_args!(" {peer}: left alone: {reason}")),
        }
        None
    }

    /// Gives back what need not be held any more; how long it may take until the next time, if there is one.
    pub(crate) fn look_at_held(&mut self) -> Option<Duration> {
        let made = self.made.as_mut().and_then(|made| made.get_mut().look());
        [self.look_at_connecting(), made].into_iter().flatten().min()
    }

    /// Gives everything back that is the program's.
    pub(crate) fn forget(&mut self) {
        self.connecting.clear();
        self.tasks.forget();
        if let Some(made) = &mut self.made {
            made.get_mut().forget();
        }
    }

    fn bind(&self, runtime: &Runtime, waiting: Waiting<'_>, address: Address) -> Option<Answer> {
        const BIND: Phases = Phases::of(&[Phase::Bind]);
        const UDP: Phases = Phases::of(&[Phase::BindDatagram]);
        let local = address.endpoint().ok()?;
        let of_tcp = runtime.plan(Connection::Binding { local }, BIND);
        let of_udp = runtime.plan(Connection::BindingUdp { local }, UDP);
        if of_tcp.bypass().is_some() && of_udp.bypass().is_some() {
            return None;
        }
        let copy = self.copy(waiting)?;
        let plan = match kind(copy.as_raw_fd()) {
            Ok(Kind::Tcp | Kind::Mptcp) => of_tcp,
            Ok(Kind::Udp) => of_udp,
            _ => return None,
        };
        // The call fails on what is bound already: the program has had the last word since.
        if plan.enforce() != Enforce::Always && is_bound(copy.as_raw_fd()) {
            return None;
        }
        self.make(runtime, waiting, copy.as_fd(), (&plan.decision(), None), plan.settings(), local);
        if plan.phases() == UDP {
            self.settle(copy.as_fd(), Connection::BindingUdp { local }, UDP);
        }
        None
    }

    fn listen(&self, runtime: &Runtime, waiting: Waiting<'_>) -> Option<Answer> {
        let copy = self.copy(waiting)?;
        let kind = kind(copy.as_raw_fd()).ok();
        let local = local_endpoint(copy.as_raw_fd());
        let (Some(kind @ (Kind::Tcp | Kind::Mptcp)), Some(mut local)) = (kind, local) else { return None };
        // A connect that came to nothing has left its time.
        if running_limit(copy.as_raw_fd(), &runtime.rules).is_some() && ffi::is_closed(copy.as_raw_fd()) {
            let _ = ffi::set(copy.as_raw_fd(), libc::SOL_TCP, libc::TCP_USER_TIMEOUT, &0);
        }
        let mut answer = None;
        if local.port() == 0 {
            // The port is chosen by the call itself: it is made here, on the same socket, and the options follow.
            let backlog = waiting.call.int(1);
            match rustix::net::listen(&copy, backlog) {
                Ok(()) => answer = Some(Answer::Result(0)),
                Err(error) => return Some(Answer::Error(Errno(error.raw_os_error()))),
            }
            local = local_endpoint(copy.as_raw_fd()).unwrap_or(local);
        }
        let at = ("listen", waiting.fd, waiting.call.thread);
        self.prepare_listener(runtime, at, (copy.as_fd(), kind), local, answer.is_none());
        answer
    }

    /// Sets a listener's options. `may_be_again`: the program may have it listen for a second time.
    fn prepare_listener(
        &self,
        runtime: &Runtime,
        at: At,
        (listener, kind): (BorrowedFd<'_>, Kind),
        local: Endpoint,
        may_be_again: bool,
    ) {
        let (call, fd, thread) = at;
        let plan = runtime.plan(Connection::Listening { local }, Phases::of(&[Phase::Listen]));
        let plan = if self.made.is_some() { plan.for_every_client() } else { plan };
        let is_again = || is_listening(listener.as_raw_fd()) && self.shared.ports.is_known(local);
        let debug = |text: std::fmt::Arguments<'_>| {
            self.log.say(Level::Debug, thread, format_args!("{call} fd {fd} {local}: {text}"));
        };
        match plan.bypass() {
            None if may_be_again && plan.enforce() != Enforce::Always && is_again() => {
                debug(format_args!("it listens already: the program has the last word"));
            }
            None => {
                // What is accepted comes here late or never: it has what it would get in any case.
                let settings = runtime.rules.passed_on(local, plan);
                self.make_at(runtime, at, listener, (&plan.decision(), None), settings, local);
                if kind != Kind::Mptcp {
                    self.settle(listener, Connection::Listening { local }, Phases::of(&[Phase::Listen]));
                }
                if plan.inheritance() == Inheritance::None {
                    debug(format_args!("decided for each accepted socket"));
                }
            }
            Some(reason) => debug(format_args!("left alone: {reason}")),
        }
        self.shared.has_listened.store(1, Relaxed);
        self.shared.ports.remember(listener.as_raw_fd(), local);
        if kind == Kind::Mptcp {
            self.shared.ports.remember_multipath(local);
            let accepted = runtime.plan(Connection::Listening { local }, Phases::of(&[Phase::Accept]));
            if self.made.is_some() && accepted.settings().any(|setting| self.multipath.lacks(setting)) {
                let text = format_args!(
                    "{call} fd {fd} {local}: what is accepted gets no option that Multipath TCP lacks, as the user timeout: the supervisor gets no copies of it (pidfd_getfd is refused)"
                );
                self.log.warn_once("multipath", thread, text);
            }
        }
    }

    /// Says what is configured.
    pub(crate) fn say(&self, summary: &str) {
        self.log.say(Level::Info, ffi::process_id(), format_args!("{summary}"));
    }

    /// Gives the listeners their options that this process has before it becomes the program, and hands on; whether there are any.
    pub(crate) fn prepare_inherited(&mut self) -> bool {
        let thread = ffi::process_id();
        let Some(runtime) = self.policy.of(thread).filter(|runtime| runtime.rules.phases().intersects(Phases::INBOUND))
        else {
            return false;
        };
        let mut found = false;
        for fd in sys::descriptors() {
            if !is_listening(fd) {
                continue;
            }
            let Ok(copy) = sys::copy_own(fd) else { continue };
            if let Ok(kind @ (Kind::Tcp | Kind::Mptcp)) = kind(copy.as_raw_fd())
                && let Some(local) = local_endpoint(copy.as_raw_fd())
            {
                self.prepare_listener(&runtime, ("inherited listener", fd, thread), (copy.as_fd(), kind), local, false);
                found = true;
            }
        }
        found
    }

    /// Whether a setting is not made since it might have to be taken back, when there is no copy of the socket any more: a user timeout
    /// that goes with a keepalive which the program may choose otherwise.
    fn leaves_out(&self, enforce: Enforce, setting: &Setting) -> bool {
        self.made.is_some() && enforce == Enforce::Fill && setting.computed_from.is_some()
    }

    /// Makes settings but for the first, which was made already; reports them, and each that fails once.
    pub(crate) fn make<'a>(
        &self,
        runtime: &Runtime,
        waiting: Waiting<'_>,
        copy: BorrowedFd<'_>,
        by: (&Decision<'_>, Option<&'a Setting>),
        settings: impl Iterator<Item = &'a Setting> + Clone,
        endpoint: Endpoint,
    ) {
        let at = (waiting.name, waiting.fd, waiting.call.thread);
        self.make_at(runtime, at, copy, by, settings, endpoint);
    }

    pub(crate) fn make_at<'a>(
        &self,
        runtime: &Runtime,
        (call, fd, thread): At,
        copy: BorrowedFd<'_>,
        (decision, first): (&Decision<'_>, Option<&'a Setting>),
        settings: impl Iterator<Item = &'a Setting> + Clone,
        endpoint: Endpoint,
    ) {
        let hindered = |setting: &Setting, why: Hindrance| {
            if runtime.warned.get(setting.id as usize).is_none_or(|warned| !warned.replace(true)) {
                let text = format_args!("{call} fd {fd} {endpoint}: {decision}: {setting} {why}");
                self.log.say(Level::Warn, thread, text);
            }
        };
        let enforce = decision.profile().enforce();
        let settings = settings.filter(|setting| !self.leaves_out(enforce, setting));
        let enacted = Enacted::make(copy.as_raw_fd(), enforce, first, settings.clone(), &runtime.new, hindered);
        if !enacted.is_empty() {
            let made = enacted.of(first, settings);
            self.log.say(Level::Debug, thread, format_args!("{call} fd {fd} {endpoint}: {decision}:{made}"));
        }
    }
}
