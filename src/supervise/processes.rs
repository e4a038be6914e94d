//! The processes of a supervisor. The program is what `sockopt run` was; beside it, in a session of their own, the guardian and
//! its worker:
//!
//! ```text
//! caller ── sockopt run ──────────── exec ──> the program
//!            └ fork, fork ─> guardian: waits for the end of the program, and for that of the worker
//!                              └ fork ─> worker: answers the calls that wait
//! ```

use std::mem::forget;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Resource, Rlimit};
use socket::Errno;
use socket::ffi::{self, Task};

use crate::filter::{Instruction, Needs};
use crate::guard::{guard, wait_for};
use crate::handover::{DONE, FAILED, HELLO, Message, REAL, TRIAL, errno, is_ready, receive, send};
use crate::log::null;
use crate::sys::{self, Side};
use crate::trial::{Means, TRIAL_PORT, look_once};
use crate::worker::Worker;
use crate::{Refusal, Step};

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
