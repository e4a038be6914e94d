//! The processes of a supervisor. The program is what `sockopt run` was; beside it, in a session of their own, the guardian and
//! its worker:
//!
//! ```text
//! caller ── sockopt run ──────────── exec ──> the program
//!            └ fork ─> trial: makes a call that the guardian looks into, and ends
//!                        └ fork ─> guardian: waits for the end of the program, and for that of the worker
//!                                    └ fork ─> worker: answers the calls that wait
//! ```

use std::mem::forget;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, socketpair};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process};
use socket::Errno;
use socket::ffi::{self, Task};
use socket::signal::Pending;

use crate::filter::{self, Instruction, Needs};
use crate::guard::{guard, wait_for};
use crate::handover::{DONE, Message, REAL, TRIAL, errno, is_ready, receive, send};
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

/// The throwaway child. Dropped, it has ended, and of its end nothing is known: the program is not to learn of children that were not
/// its own.
struct Trial {
    id: i32,
    before: Pending,
}

impl Drop for Trial {
    fn drop(&mut self) {
        wait_for(self.id);
        self.before.take_new(libc::SIGCHLD);
    }
}

/// A supervisor that waits for the program.
pub struct Ready {
    /// It is waited for last: it ends while the rest is done.
    trial: Trial,
    socket: OwnedFd,
    guardian: i32,
    needs: Needs,
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
    let before = Pending::now();
    // Who gets orphans would get the guardian for a child, and learn of its end; else it is to be nobody's child here.
    let is_parent = sys::adopts_orphans();
    let trial = if is_parent {
        match sys::fork_unseen().map_err(at(Step::Start))? {
            Side::Child => {
                forget(socket);
                guardian(theirs, worker)
            }
            Side::Parent(guardian) => match sys::fork().map_err(at(Step::Start))? {
                Side::Child => {
                    drop(theirs);
                    make_a_call(socket.as_fd(), guardian)
                }
                Side::Parent(trial) => trial,
            },
        }
    } else {
        match sys::fork().map_err(at(Step::Start))? {
            Side::Child => match sys::fork() {
                Ok(Side::Child) => {
                    forget(socket);
                    guardian(theirs, worker)
                }
                Ok(Side::Parent(guardian)) => {
                    drop(theirs);
                    make_a_call(socket.as_fd(), guardian)
                }
                Err(errno) => {
                    let _ = send(theirs.as_fd(), Message::failed(Step::Start, errno), None);
                    ffi::exit_now(0)
                }
            },
            Side::Parent(trial) => trial,
        }
    };
    drop(theirs);
    let trial = Trial { id: trial, before };
    let result = receive(socket.as_fd());
    if result.is_err() {
        let _ = Pid::from_raw(trial.id).map(|trial| kill_process(trial, Signal::KILL));
    }
    match result {
        Ok(Some((message, _))) => {
            message.result()?;
            let mut ready = Ready { trial, socket, guardian: message.number, needs, worker, summary };
            if message.step == Means::Making as u8 {
                ready.worker.make_sockets();
                ready.needs = by_making;
            }
            Ok(ready)
        }
        other => Err(Refusal::new(Step::Start, other.err().unwrap_or(Errno(libc::EPIPE)))),
    }
}

/// The throwaway child from its beginning to its end: it makes a call that waits, into which the guardian looks as the worker will into
/// the program.
fn make_a_call(socket: BorrowedFd<'_>, guardian: i32) -> ! {
    sys::let_look_in(guardian);
    // Connecting it sends nothing.
    let new = || socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(errno);
    let discard = SocketAddrV4::new(Ipv4Addr::LOCALHOST, TRIAL_PORT);
    let result = new()
        .map_err(|errno| (Step::Start, errno))
        .and_then(|made| Ok((made, install(&filter::of_trial()).map_err(|errno| (Step::Seccomp, errno))?)));
    match result {
        Ok((made, listener)) => {
            let _ = send(socket, Message::new(TRIAL), Some(listener.as_fd()));
            // Only the guardian has it from here on: if that gives up, the call fails and does not wait.
            drop(listener);
            let _ = connect(&made, &discard);
            // Where that socket could not be copied, one is made. Else both calls fail.
            let _ = new().and_then(|made| connect(&made, &discard).map_err(errno));
        }
        Err((step, errno)) => {
            let _ = send(socket, Message::failed(step, errno), None);
        }
    }
    ffi::exit_now(0)
}

impl Ready {
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
        drop(self.trial);
        match handed_over {
            Ok(Some((message, _))) => message.result(),
            other => Err(Refusal::new(Step::HandOver, other.err().unwrap_or(Errno(libc::EPIPE)))),
        }
    }
}

/// Leaves the program's descriptors.
fn leave_descriptors(socket: BorrowedFd<'_>) {
    sys::block_signals();
    // Copies of sockets that connect are held here, of every process of the program.
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let kept = socket.as_raw_fd().unsigned_abs();
    if kept > 3 {
        sys::close_range(3, kept - 1);
    }
    sys::close_range(kept + 1, u32::MAX);
}

/// Leaves what else is the program's: its session, standard descriptors, folder, and name. It takes a while.
fn leave() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    if let Ok(null) = null() {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    sys::rename(c"sockopt-guard");
}

/// The guardian from its beginning to its end.
fn guardian(socket: OwnedFd, mut worker: Worker) -> ! {
    leave_descriptors(socket.as_fd());
    // Held as long as there is a supervisor: by it others know whose it is.
    let _program = ffi::pidfd_open(worker.log.program(), Task::Process);
    let listener = loop {
        match receive(socket.as_fd()) {
            Ok(Some((Message { kind: TRIAL, .. }, Some(listener)))) => {
                let message = match look_once(listener.as_fd(), &worker.shared.call) {
                    Ok(means) => {
                        if means == Means::Making {
                            worker.make_sockets();
                        }
                        Message { step: means as u8, number: ffi::process_id(), kind: DONE }
                    }
                    Err((step, errno)) => Message::failed(step, errno),
                };
                drop(listener);
                let _ = send(socket.as_fd(), message, None);
                // While the other side goes on; before it becomes the program.
                leave();
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
