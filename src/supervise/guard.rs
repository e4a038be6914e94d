//! The guardian, which watches over workers, and the worker, which answers calls.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::time::{Duration, Instant};

use policy::variables::Level;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use socket::Errno;
use socket::ffi::{self, Task};

use crate::handover::is_ready;
use crate::notification::Call;
use crate::sys::{self, Answer, Shared, Side};
use crate::trial::{clear, taken};
use crate::worker::Worker;

/// How a worker ends.
enum End {
    /// No program is left.
    Programs,
    /// It is alone.
    Guardian,
}

/// Watches over workers, one after the other, until no program is left.
pub(crate) fn guard(listener: &OwnedFd, mut worker: Worker) -> ! {
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

/// Waits for the end of a child.
pub(crate) fn wait_for(child: i32) {
    if let Some(child) = Pid::from_raw(child) {
        while matches!(waitpid(Some(child), WaitOptions::empty()), Err(rustix::io::Errno::INTR)) {}
    }
}

/// Ends a child that has not been waited for.
fn kill(child: i32) {
    let _ = Pid::from_raw(child).map(|child| kill_process(child, Signal::KILL));
}
