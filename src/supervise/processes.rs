//! The processes of a supervisor. The program is what `sockopt run` was; beside it, in a session of their own, the guardian and
//! its worker:
//!
//! ```text
//! caller ── sockopt run ──────────── exec ──> the program
//!            └ fork, fork ─> guardian: waits for the end of the program, and for that of the worker
//!                              └ fork ─> worker: answers the calls that wait
//! ```

use std::io::{IoSlice, IoSliceMut};
use std::mem::{MaybeUninit, forget};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::time::{Duration, Instant};

use policy::variables::Level;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, kill_process, waitpid};
use socket::ffi::{self, Task};
use socket::{Address, Errno, Kind, describe};

use crate::filter::{Instruction, Needs};
use crate::log::null;
use crate::made;
use crate::notification::{Call, Notification, WORDS};
use crate::sys::{self, Answer, Shared, Side};
use crate::worker::Worker;
use crate::{Refusal, Step};

/// How long the other side may take for an answer; it takes a fraction of a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the processes tell one another while the supervisor starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    kind: u8,
    step: u8,
    number: i32,
}

const HELLO: u8 = b'h';
const TRIAL: u8 = b't';
const REAL: u8 = b'r';
const DONE: u8 = b'd';
const FAILED: u8 = b'f';

impl Message {
    fn new(kind: u8) -> Self {
        Self { kind, step: 0, number: 0 }
    }

    fn failed(step: Step, errno: Errno) -> Self {
        Self { kind: FAILED, step: step as u8, number: errno.0 }
    }

    fn result(self) -> Result<(), Refusal> {
        if self.kind == FAILED { Err(Refusal::new(Step::of(self.step), Errno(self.number))) } else { Ok(()) }
    }
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

fn send(socket: BorrowedFd<'_>, message: Message, descriptor: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let [a, b, c, d] = message.number.to_ne_bytes();
    let bytes = [message.kind, message.step, a, b, c, d];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let list = descriptor.map(|descriptor| [descriptor]);
    if let Some(list) = &list {
        control.push(SendAncillaryMessage::ScmRights(list));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).map(drop).map_err(errno)
}

/// The next message; none where the other side has gone.
fn receive(socket: BorrowedFd<'_>) -> Result<Option<(Message, Option<OwnedFd>)>, Errno> {
    if !is_ready(socket, PollFlags::IN, Some(PATIENCE)) {
        return Err(Errno(libc::ETIMEDOUT));
    }
    let mut bytes = [0; 6];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
    let length = received.map_err(errno)?.bytes;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut list) => list.next(),
        _ => None,
    });
    let descriptor = descriptors.next();
    let [kind, step, number @ ..] = bytes;
    let message = Message { kind, step, number: i32::from_ne_bytes(number) };
    Ok((length == bytes.len()).then_some((message, descriptor)))
}

/// Waits for a descriptor, at most so long.
fn is_ready(descriptor: BorrowedFd<'_>, events: PollFlags, at_most: Option<Duration>) -> bool {
    let time = at_most.and_then(|time| Timespec::try_from(time).ok());
    let mut one = [PollFd::from_borrowed_fd(descriptor, events)];
    loop {
        match poll(&mut one, time.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            found => return found == Ok(1),
        }
    }
}

/// Puts the filter in front of this process's calls, with as much as the kernel has.
fn install(filter: &[Instruction]) -> Result<OwnedFd, Errno> {
    const LISTENER: u64 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    /// No mitigation for speculative stores, which would slow the whole program down, where the kernel does that still.
    const SPEC_ALLOW: u64 = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    /// A call that the worker has taken waits on when a signal comes, since Linux 5.19.
    const WAIT_KILLABLE: u64 = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let with = |flags: u64| sys::install(filter, flags as libc::c_ulong);
    let with_fewer = || {
        with(LISTENER | SPEC_ALLOW | WAIT_KILLABLE)
            .or_else(|errno| if errno.0 == libc::EINVAL { with(LISTENER | SPEC_ALLOW) } else { Err(errno) })
            .or_else(|errno| if errno.0 == libc::EINVAL { with(LISTENER) } else { Err(errno) })
    };
    match with_fewer() {
        // Without CAP_SYS_ADMIN: programs started from here get no rights by their files any more.
        Err(Errno(libc::EACCES)) => {
            rustix::thread::set_no_new_privs(true).map_err(errno)?;
            with_fewer()
        }
        other => other,
    }
}

/// A supervisor that waits for the program.
pub struct Ready {
    socket: OwnedFd,
    guardian: i32,
    needs: Needs,
    /// What is needed where sockets are made.
    by_making: Needs,
    /// What the supervisor has as well, for what is to be done by this process itself.
    worker: Worker,
    summary: String,
}

/// Starts a supervisor and tries it out.
pub(crate) fn start(needs: Needs, by_making: Needs, worker: Worker, summary: String) -> Result<Ready, Refusal> {
    let at = |step: Step| move |errno: Errno| Refusal::new(step, errno);
    let sizes = sys::sizes().map_err(at(Step::Seccomp))?;
    if sizes != (size_of::<libc::seccomp_notif>() as u16, size_of::<libc::seccomp_notif_resp>() as u16) {
        return Err(Refusal::new(Step::Seccomp, Errno(libc::EPROTO)));
    }
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (socket, theirs) = pair.map_err(errno).map_err(at(Step::Start))?;
    let is_parent = sys::adopts_orphans();
    // Who gets orphans would get the guardian for a child, and learn of its end; else it is to be nobody's child here.
    match if is_parent { sys::fork_unseen() } else { sys::fork() }.map_err(at(Step::Start))? {
        Side::Child => {
            forget(socket);
            match if is_parent { Ok(Side::Child) } else { sys::fork() } {
                Ok(Side::Child) => guardian(theirs, worker),
                Ok(Side::Parent(_)) => ffi::exit_now(0),
                Err(errno) => {
                    let _ = send(theirs.as_fd(), Message::failed(Step::Start, errno), None);
                    ffi::exit_now(0)
                }
            }
        }
        Side::Parent(_) if is_parent => {}
        Side::Parent(child) => wait_for(child),
    }
    drop(theirs);
    let mut ready = match receive(socket.as_fd()) {
        Ok(Some((Message { kind: HELLO, number: guardian, .. }, _))) => {
            Ready { socket, guardian, needs, by_making, worker, summary }
        }
        Ok(Some((message @ Message { kind: FAILED, .. }, _))) => {
            return Err(Refusal::new(Step::of(message.step), Errno(message.number)));
        }
        other => return Err(Refusal::new(Step::Start, other.err().unwrap_or(Errno(libc::EPIPE)))),
    };
    ready.try_out()?;
    Ok(ready)
}

fn wait_for(child: i32) {
    if let Some(child) = Pid::from_raw(child) {
        while matches!(waitpid(Some(child), WaitOptions::empty()), Err(rustix::io::Errno::INTR)) {}
    }
}

/// Ends a child that has not been waited for.
fn kill(child: i32) {
    let _ = Pid::from_raw(child).map(|child| kill_process(child, Signal::KILL));
}

impl Ready {
    /// Has a throwaway child make a call that waits, and the guardian look into it as the worker will into the program.
    fn try_out(&mut self) -> Result<(), Refusal> {
        let child = match sys::fork().map_err(|errno| Refusal::new(Step::Start, errno))? {
            Side::Child => {
                self.make_a_call();
                ffi::exit_now(0)
            }
            Side::Parent(child) => child,
        };
        let result = receive(self.socket.as_fd());
        if result.is_err() {
            let _ =
                Pid::from_raw(child).map(|child| rustix::process::kill_process(child, rustix::process::Signal::KILL));
        }
        wait_for(child);
        match result {
            Ok(Some((message, _))) => {
                if message.kind == DONE && message.number == Means::Making as i32 {
                    self.worker.make_sockets();
                    self.needs = std::mem::take(&mut self.by_making);
                }
                message.result()
            }
            other => Err(Refusal::new(Step::Start, other.err().unwrap_or(Errno(libc::EPIPE)))),
        }
    }

    /// In the child.
    fn make_a_call(&self) {
        sys::let_look_in(self.guardian);
        let filter = Needs { connect: true, datagrams: true, ..Needs::default() }.filter();
        // Connecting it sends nothing.
        let new = || UdpSocket::bind(("127.0.0.1", 0));
        let result = new()
            .map_err(|error| (Step::Start, Errno(error.raw_os_error().unwrap_or(libc::EIO))))
            .and_then(|socket| Ok((socket, install(&filter).map_err(|errno| (Step::Seccomp, errno))?)));
        match result {
            Ok((socket, listener)) => {
                let _ = send(self.socket.as_fd(), Message::new(TRIAL), Some(listener.as_fd()));
                // Only the guardian has it from here on: if that gives up, the call fails and does not wait.
                drop(listener);
                let _ = socket.connect(("127.0.0.1", TRIAL_PORT));
                // Where that socket could not be copied, one is made. Else both calls fail.
                let _ = new().and_then(|made| made.connect(("127.0.0.1", TRIAL_PORT)));
            }
            Err((step, errno)) => {
                let _ = send(self.socket.as_fd(), Message::failed(step, errno), None);
            }
        }
    }

    /// Whether the program's sockets are made by the supervisor, since it can have no copies of them.
    #[must_use]
    pub fn makes_sockets(&self) -> bool {
        self.worker.made.is_some()
    }

    /// Puts this process under the supervisor; what it becomes is told of from the next call on.
    ///
    /// # Errors
    /// Where it cannot be. If the step is [`Step::HandOver`], nothing works any more that is told of.
    pub fn enter(mut self) -> Result<(), Refusal> {
        self.worker.say(&self.summary);
        if self.worker.prepare_inherited() {
            // What has come in before does not have it from its listener.
            self.needs.look_at_accepted();
        }
        sys::let_look_in(self.guardian);
        let listener = install(&self.needs.filter()).map_err(|errno| Refusal::new(Step::Seccomp, errno))?;
        let handed_over = send(self.socket.as_fd(), Message::new(REAL), Some(listener.as_fd()))
            .and_then(|()| receive(self.socket.as_fd()));
        match handed_over {
            Ok(Some((message, _))) => message.result(),
            other => Err(Refusal::new(Step::HandOver, other.err().unwrap_or(Errno(libc::EPIPE)))),
        }
    }
}

/// discard; nobody need listen there.
const TRIAL_PORT: u16 = 9;

/// Leaves all that is the program's: its session, descriptors, folder, and name.
fn leave(socket: BorrowedFd<'_>) {
    let _ = rustix::process::setsid();
    sys::block_signals();
    let _ = rustix::process::chdir("/");
    // Copies of sockets that connect are held here, of every process of the program.
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Ok(null) = null() {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    let kept = socket.as_raw_fd().unsigned_abs();
    if kept > 3 {
        sys::close_range(3, kept - 1);
    }
    sys::close_range(kept + 1, u32::MAX);
    sys::rename(c"sockopt-guard");
}

/// The guardian from its beginning to its end.
fn guardian(socket: OwnedFd, mut worker: Worker) -> ! {
    leave(socket.as_fd());
    // Held as long as there is a supervisor: by it others know whose it is.
    let _program = ffi::pidfd_open(worker.log.program(), Task::Process);
    let hello = Message { number: ffi::process_id(), ..Message::new(HELLO) };
    let _ = send(socket.as_fd(), hello, None);
    let listener = loop {
        match receive(socket.as_fd()) {
            Ok(Some((Message { kind: TRIAL, .. }, Some(listener)))) => {
                let message = match look_once(listener.as_fd(), &worker.shared.call) {
                    Ok(means) => {
                        if means == Means::Making {
                            worker.make_sockets();
                        }
                        Message { number: means as i32, ..Message::new(DONE) }
                    }
                    Err((step, errno)) => Message::failed(step, errno),
                };
                drop(listener);
                let _ = send(socket.as_fd(), message, None);
            }
            Ok(Some((Message { kind: REAL, .. }, Some(listener)))) => break listener,
            // What the child could not do.
            Ok(Some((message, None))) => {
                let _ = send(socket.as_fd(), message, None);
            }
            Err(Errno(libc::ETIMEDOUT)) if !is_ready(socket.as_fd(), PollFlags::HUP, Some(Duration::ZERO)) => {}
            _ => ffi::exit_now(0),
        }
    };
    sys::wake_up_at_once(listener.as_fd());
    let _ = send(socket.as_fd(), Message::new(DONE), None);
    drop(socket);
    guard(&listener, worker)
}

/// How the supervisor has the program's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
enum Means {
    /// It copies the program's descriptors.
    Copies,
    /// It makes them.
    Making,
}

/// The memory that a call is taken into.
type Memory = [std::sync::atomic::AtomicU64; WORDS];

/// Takes the next call of who is tried out.
fn next_call(listener: BorrowedFd<'_>, memory: &Memory) -> Result<Notification, Errno> {
    if !is_ready(listener, PollFlags::IN, Some(PATIENCE)) {
        return Err(Errno(libc::ETIMEDOUT));
    }
    sys::receive(listener, memory)?;
    let call = taken(memory);
    clear(memory);
    Ok(call)
}

/// Takes a call, looks into who makes it by every means that the worker has, and lets it go on. Where descriptors cannot be copied, the
/// next two are tried in another way.
fn look_once(listener: BorrowedFd<'_>, memory: &Memory) -> Result<Means, (Step, Errno)> {
    let at = |step: Step| move |errno: Errno| (step, errno);
    let call = next_call(listener, memory).map_err(at(Step::Receive))?;
    let looked = || {
        let mut bytes = [0; 16];
        sys::read_memory(call.thread, call.place(1), &mut bytes).map_err(at(Step::Memory))?;
        let is_it = Address::new(&bytes).endpoint().is_ok_and(|peer| peer.port() == TRIAL_PORT);
        if call.call() != Some(Call::Connect) || !is_it {
            return Err((Step::Memory, Errno(libc::EPROTO)));
        }
        let process = ffi::pidfd_open(call.thread, Task::Process).map_err(at(Step::Descriptor))?;
        let copy = match ffi::pidfd_getfd(process.as_fd(), call.int(0)) {
            Ok(copy) => copy,
            Err(errno) => return Ok(Err(errno)),
        };
        match describe::kind(copy.as_raw_fd()) {
            Ok(Kind::Udp) => Ok(Ok(())),
            found => Err((Step::Descriptor, found.err().unwrap_or(Errno(libc::EPROTO)))),
        }
    };
    let looked = looked().and_then(|copied| {
        if sys::is_waiting(listener, call.id) { Ok(copied) } else { Err((Step::Receive, Errno(libc::ENOENT))) }
    });
    let answered = sys::send(listener, call.id, Answer::Continue).map_err(at(Step::Answer));
    match (looked?, answered?) {
        (Ok(()), ()) => Ok(Means::Copies),
        (Err(refused), ()) => {
            // What is said is why it cannot be copied.
            make_once(listener, memory).map(|()| Means::Making).map_err(|_| (Step::Descriptor, refused))
        }
    }
}

/// Makes the socket that is asked for next, and knows it again when it is connected.
fn make_once(listener: BorrowedFd<'_>, memory: &Memory) -> Result<(), Errno> {
    let call = next_call(listener, memory)?;
    let made =
        if call.call() == Some(Call::Socket) { made::try_out(listener, &call) } else { Err(Errno(libc::EPROTO)) };
    let (inode, answer) = match made {
        Ok((inode, fd)) => (Ok(inode), Answer::Result(fd.into())),
        Err(errno) => (Err(errno), Answer::Continue),
    };
    sys::send(listener, call.id, answer)?;
    let inode = inode?;
    let call = next_call(listener, memory)?;
    let found = sys::socket_of(call.thread, call.int(0));
    sys::send(listener, call.id, Answer::Continue)?;
    if found? == Some(inode) { Ok(()) } else { Err(Errno(libc::EPROTO)) }
}

fn taken(memory: &Memory) -> Notification {
    Notification::of(std::array::from_fn(|index| memory.get(index).map_or(0, |word| word.load(Relaxed))))
}

fn clear(memory: &Memory) {
    // The number last: as long as it is there, somebody may have to answer.
    memory.iter().rev().for_each(|word| word.store(0, Relaxed));
}

/// How a worker ends.
enum End {
    /// No program is left.
    Programs,
    /// It is alone.
    Guardian,
}

/// Watches over workers, one after the other, until no program is left.
fn guard(listener: &OwnedFd, mut worker: Worker) -> ! {
    /// Workers that ended at once, or at their first call, one after the other: then it is no accident.
    const MOST_IN_A_ROW: u32 = 10;
    /// So many workers may be kept by the kernel at the same time.
    const MOST_ENDING: usize = 4;
    let shared = worker.shared;
    let mut in_a_row = 0;
    // The worker has it from its first moment: it is to learn of this process's end even before it has begun.
    let guardian = ffi::pidfd_open(ffi::process_id(), Task::Process).ok();
    // Without it nobody is ended who is kept by a call.
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok();
    shared.is_watched.store(0, Relaxed);
    // Workers that cannot be ended at once: the kernel waits with them.
    let mut ending: Vec<i32> = Vec::new();
    loop {
        ending.retain(|child| !has_ended(*child));
        let (answered, start) = (shared.answered.load(Relaxed), Instant::now());
        let can_be = in_a_row < MOST_IN_A_ROW && ending.len() < MOST_ENDING;
        let side = if can_be { sys::fork() } else { Err(Errno(libc::EAGAIN)) };
        let child = match side {
            Ok(Side::Parent(child)) => child,
            Ok(Side::Child) => {
                sys::rename(c"sockopt-work");
                sys::give_back_code();
                match work(listener, &mut worker, guardian.as_ref(), bell.as_ref()) {
                    End::Programs => ffi::exit_now(0),
                    End::Guardian => {
                        sys::rename(c"sockopt-guard");
                        drop((guardian, bell));
                        // The next worker is a copy of this one.
                        guard(listener, worker)
                    }
                }
            }
            Err(errno) => {
                // For a while without options, rather than not at all.
                worker.log.say(
                    Level::Warn,
                    worker.log.program(),
                    format_args!(
                        "no worker stays alive ({errno} {in_a_row}): for {PAUSE:?} calls go on without options"
                    ),
                );
                let until = Instant::now() + PAUSE;
                while let Some(left) = until.checked_duration_since(Instant::now()) {
                    match next(listener.as_fd(), None, shared, Some(left)) {
                        Next::Call => {
                            let _ = take_over(listener.as_fd(), shared);
                        }
                        Next::Nothing => {}
                        Next::End => ffi::exit_now(0),
                    }
                }
                in_a_row = 0;
                continue;
            }
        };
        // The worker has its copies; nothing of a program's is held twice.
        worker.forget();
        sys::give_back_code();
        let event = wait_for_either(listener.as_fd(), child, bell.as_ref(), shared);
        if event == Event::Over {
            // It ends by itself, unless it was stopped. Nobody else would wait for it.
            kill(child);
            wait_for(child);
            ffi::exit_now(0);
        }
        if event == Event::Kept {
            shared.kept_by.store(taken(&shared.call).thread.unsigned_abs().into(), Relaxed);
            kill(child);
            // From here on it does nothing any more, be it that the kernel still waits.
            ending.push(child);
            let _ = take_over(listener.as_fd(), shared);
            continue;
        }
        wait_for(child);
        let had_a_call = take_over(listener.as_fd(), shared);
        let ended_early = shared.answered.load(Relaxed) == answered && (had_a_call || start.elapsed() < AT_ONCE);
        in_a_row = if ended_early { in_a_row + 1 } else { 0 };
    }
}

/// What does not live so long has ended by itself.
const AT_ONCE: Duration = Duration::from_millis(5);

/// How long the guardian does without a worker where there can be none.
const PAUSE: Duration = Duration::from_secs(1);

/// Lets the call go on that a worker had taken, if it had; a socket that the worker had given already is the answer.
fn take_over(listener: BorrowedFd<'_>, shared: &Shared) -> bool {
    let call = taken(&shared.call);
    if call.id != 0 {
        let given = i64::try_from(shared.given.load(SeqCst)).ok().filter(|given| *given > 0);
        let given = given.filter(|_| call.call() == Some(Call::Socket));
        let _ = sys::send(listener, call.id, given.map_or(Answer::Continue, |given| Answer::Result(given - 1)));
    }
    shared.given.store(0, SeqCst);
    clear(&shared.call);
    call.id != 0
}

/// Whether a child has ended; then it is forgotten.
fn has_ended(child: i32) -> bool {
    Pid::from_raw(child).is_none_or(|child| !matches!(waitpid(Some(child), WaitOptions::NOHANG), Ok(None)))
}

/// What a guardian waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The programs have ended.
    Over,
    /// The worker has.
    Worker,
    /// The worker does not get on with a call.
    Kept,
}

/// Every so often the guardian looks whether the worker gets on; twice the same call is too long.
const WATCH: Duration = Duration::from_secs(2);

/// Waits until something has happened. While no calls are made, nothing wakes it up: the worker rings when one comes.
fn wait_for_either(listener: BorrowedFd<'_>, worker: i32, bell: Option<&OwnedFd>, shared: &Shared) -> Event {
    let Ok(worker) = ffi::pidfd_open(worker, Task::Process) else { return Event::Worker };
    let other = PollFd::from_borrowed_fd(bell.map_or(listener, AsFd::as_fd), PollFlags::IN);
    let mut all = [
        PollFd::from_borrowed_fd(listener, PollFlags::empty()),
        PollFd::from_borrowed_fd(worker.as_fd(), PollFlags::IN),
        other,
    ];
    let listened = if bell.is_some() { 3 } else { 2 };
    let watch = Timespec::try_from(WATCH).ok();
    let now = || (shared.answered.load(SeqCst), shared.call.first().map_or(0, |id| id.load(SeqCst)));
    let mut last = now();
    loop {
        let is_watched = shared.is_watched.load(SeqCst) != 0;
        let Ok(count) = poll(all.get_mut(..listened).unwrap_or_default(), watch.as_ref().filter(|_| is_watched)) else {
            continue;
        };
        let [programs, worker, rung] = &all;
        if programs.revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return Event::Over;
        }
        if !worker.revents().is_empty() {
            return Event::Worker;
        }
        if count > 0 && rung.revents().contains(PollFlags::IN) {
            let _ = bell.map(|bell| rustix::io::read(bell, &mut [0; 8]));
            shared.is_watched.store(1, SeqCst);
            last = now();
        } else if count == 0 {
            let (before, found) = (last, now());
            last = found;
            if found.1 != 0 && found == before {
                return Event::Kept;
            }
            if found.1 == 0 && found.0 == before.0 {
                shared.is_watched.store(0, SeqCst);
                // A call that has come in between.
                if now().1 != 0 {
                    shared.is_watched.store(1, SeqCst);
                }
            }
        }
    }
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A call, which was taken.
    Call,
    /// Nothing for so long.
    Nothing,
    /// No call any more, or no guardian.
    End,
}

/// Takes the next call.
fn next(
    listener: BorrowedFd<'_>,
    guardian: Option<BorrowedFd<'_>>,
    shared: &Shared,
    at_most: Option<Duration>,
) -> Next {
    let time = at_most.and_then(|time| Timespec::try_from(time).ok());
    // Without a guardian the same twice.
    let other = PollFd::from_borrowed_fd(guardian.unwrap_or(listener), PollFlags::IN);
    let mut both = [PollFd::from_borrowed_fd(listener, PollFlags::IN), other];
    let listened = if guardian.is_some() { 2 } else { 1 };
    loop {
        match poll(both.get_mut(..listened).unwrap_or_default(), time.as_ref()) {
            Ok(0) => return Next::Nothing,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return Next::End,
        }
        let [ours, other] = &both;
        if ours.revents().contains(PollFlags::IN) {
            match sys::receive(listener, &shared.call) {
                Ok(()) => return Next::Call,
                // It waits no more, or a signal came.
                Err(Errno(libc::ENOENT | libc::EINTR)) => {
                    clear(&shared.call);
                    continue;
                }
                Err(_) => return Next::End,
            }
        }
        if !ours.revents().is_empty() || (guardian.is_some() && !other.revents().is_empty()) {
            return Next::End;
        }
    }
}

/// Answers calls.
fn work(listener: &OwnedFd, worker: &mut Worker, guardian: Option<&OwnedFd>, bell: Option<&OwnedFd>) -> End {
    let shared = worker.shared;
    let kept_by = shared.kept_by.swap(0, Relaxed);
    if let Ok(thread @ 1..) = i32::try_from(kept_by) {
        worker.log.say(
            Level::Warn,
            thread,
            format_args!(
                "the supervisor could not get on with a call of this process: the call goes on without options"
            ),
        );
    }
    let mut at_most = worker.look_at_held();
    loop {
        match next(listener.as_fd(), guardian.map(OwnedFd::as_fd), shared, at_most) {
            Next::Call => {
                let call = taken(&shared.call);
                fence(SeqCst);
                if shared.is_watched.load(SeqCst) == 0
                    && let Some(bell) = bell
                {
                    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
                }
                let answer = worker.answer(listener.as_fd(), &call);
                let _ = sys::send(listener.as_fd(), call.id, answer);
                // Before the call: it is none of the next one's.
                shared.given.store(0, SeqCst);
                clear(&shared.call);
                shared.answered.fetch_add(1, Relaxed);
            }
            Next::Nothing => {}
            Next::End => break,
        }
        at_most = worker.look_at_held();
    }
    let is_over = is_ready(listener.as_fd(), PollFlags::empty(), Some(Duration::ZERO));
    if is_over { End::Programs } else { End::Guardian }
}
