//! setsockopt(2) of the program: what a rule enforces, and what is set on an accepted socket when the program first sets something on it.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;

use policy::enforce::is_of_keepalive;
use policy::plan::Plan;
use policy::rules::Inheritance;
use policy::variables::Level;
use policy::{Connection, Enforce, Phase, Phases, Setting, constants};
use socket::connecting::is_connecting;
use socket::describe::kind;
use socket::fill::{self, Left};
use socket::setting::{Outcome, is_in_force, set};
use socket::standing::{self, Standing};
use socket::{Kind, ffi};

use crate::filter::AFTER_ACCEPT;
use crate::made::Settled;
use crate::runtime::Runtime;
use crate::sys::{self, Answer, Extent};
use crate::worker::{Waiting, Worker};

impl Worker {
    pub(crate) fn set(&self, runtime: &Runtime, waiting: Waiting<'_>) -> Option<Answer> {
        let (level, name) = (waiting.call.int(1), waiting.call.int(2));
        if self.made.is_some() {
            return self.set_later(runtime, waiting);
        }
        let copy = self.copy(waiting)?;
        let fd = copy.as_raw_fd();
        // What sets an option of TCP's own tells what kind of socket it is: no other has them.
        let is_known = level == libc::SOL_TCP && !AFTER_ACCEPT.contains(&(level, name));
        let kind_of = |fd| if is_known { Some(Kind::Tcp) } else { kind(fd).ok() };
        let listeners = (self.shared.has_listened.load(Relaxed) != 0).then_some(&self.shared.ports);
        let mut standing = standing::of(fd, &runtime.rules, kind_of, listeners)?;
        if AFTER_ACCEPT.contains(&(level, name)) && !standing.is_foreign {
            self.accepted(runtime, waiting, copy.as_fd(), standing);
        }
        if standing.is_unsure
            && let Connection::Inbound { local, .. } = standing.connection
        {
            // What is decided for each accepted socket is in force only from this call on.
            let listening = runtime.plan(Connection::Listening { local }, Phases::NONE);
            standing.is_unsure = listening.inheritance() != Inheritance::None;
        }
        let plan = runtime.plan(standing.connection, standing.phases);
        let is_filled = plan.enforce() == Enforce::Fill && runtime.rules.fills_computed_timeouts();
        if is_filled && is_of_keepalive(level, name) {
            return self.chosen(runtime, waiting, copy.as_fd(), plan.for_every_client());
        }
        // Of a listener also what it passes on to every client.
        let passed_on = || match standing.connection {
            Connection::Listening { local } if plan.enforce() == Enforce::Always => {
                let mut settings = runtime.rules.passed_on(local, plan);
                settings.find(|setting| (setting.level, setting.name) == (level, name))
            }
            _ => None,
        };
        let setting = plan.enforced(level, name).or_else(passed_on);
        let setting = setting.filter(|setting| standing.enforces(fd, setting, &runtime.rules))?;
        if !self.is_carried_out(waiting, setting) {
            self.take(waiting, copy.as_fd())?;
            return (set(fd, setting) == Outcome::Done).then(|| self.kept(waiting, plan));
        }
        // While it connects, the user timeout is another one; the rule's comes when the connection stands.
        let is_for_later = setting.phases.contains(Phase::Connected) && is_connecting(fd, &runtime.rules);
        // What the kernel does not take from the rule is the program's to set.
        if !is_for_later && set(fd, setting) != Outcome::Done {
            return None;
        }
        Some(self.kept(waiting, plan))
    }

    /// The same on a socket that was made and of which there is no copy any more: on those on which the rule's options were set, they
    /// still are.
    fn set_later(&self, runtime: &Runtime, waiting: Waiting<'_>) -> Option<Answer> {
        let inode = sys::socket_of(waiting.call.thread, waiting.fd).ok()??;
        let Settled { connection, phases } = self.made.as_ref()?.borrow().settled(inode)?;
        let plan = runtime.plan(connection, phases).for_every_client();
        let setting = plan.enforced(waiting.call.int(1), waiting.call.int(2))?;
        let has_failed = runtime.warned.get(setting.id as usize).is_none_or(Cell::get);
        (!has_failed && self.is_carried_out(waiting, setting)).then(|| self.kept(waiting, plan))
    }

    /// Whether the kernel would read the value of an option; what it would refuse for want of it, it shall refuse.
    fn is_carried_out(&self, waiting: Waiting<'_>, setting: &Setting) -> bool {
        let Ok(length) = usize::try_from(waiting.call.int(4)) else { return false };
        let read = setting.bytes_read(length);
        let mut value = [0; 16];
        let Some(value) = value.get_mut(..read) else { return false };
        length >= read
            && self
                .read(waiting.call, waiting.call.place(3), value, Extent::Readable)
                .is_some_and(|found| found >= read)
    }

    /// Sets on the copy what a program sets by no value, or by too few bytes, if the kernel takes it: for 0, as of IP_TOS.
    fn take(&self, waiting: Waiting<'_>, copy: BorrowedFd<'_>) -> Option<()> {
        let (level, name, place) = (waiting.call.int(1), waiting.call.int(2), waiting.call.place(3));
        let length = usize::try_from(waiting.call.int(4)).ok()?;
        let mut value = [0; 16];
        let is_whole = place == 0 || {
            let value = value.get_mut(..length)?;
            self.read(waiting.call, place, value, Extent::Readable)? == length
        };
        if !is_whole || !sys::is_waiting(waiting.listener, waiting.call.id) {
            return None;
        }
        match place {
            0 => ffi::set_nothing(copy.as_raw_fd(), level, name, length).ok(),
            _ => ffi::set_bytes(copy.as_raw_fd(), level, name, value.get(..length)?).ok(),
        }
    }

    /// The program's own value is not set.
    fn kept(&self, waiting: Waiting<'_>, plan: Plan<'_>) -> Answer {
        let (level, name) = (waiting.call.int(1), waiting.call.int(2));
        let (fd, decision, thread) = (waiting.fd, plan.decision(), waiting.call.thread);
        // Names are looked for where they are written: the table is no part of what a call needs otherwise.
        if !self.log.enabled(Level::Info) {
            return Answer::Result(0);
        }
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
        Answer::Result(0)
    }

    /// The program chooses a keepalive where only the rest is filled in: the call is made here, on the same socket, since a user
    /// timeout that went with the rule's may have to be taken back afterwards.
    fn chosen(&self, runtime: &Runtime, waiting: Waiting<'_>, copy: BorrowedFd<'_>, plan: Plan<'_>) -> Option<Answer> {
        let (level, name) = (waiting.call.int(1), waiting.call.int(2));
        let fd = copy.as_raw_fd();
        let mut value = [0; 4];
        if waiting.call.int(4) < 4 {
            return None;
        }
        let read = self.read(waiting.call, waiting.call.place(3), &mut value, Extent::Readable)?;
        // What was read may be another thread's by now.
        if read < value.len() || !sys::is_waiting(waiting.listener, waiting.call.id) {
            return None;
        }
        if let Err(errno) = ffi::set_bytes(fd, level, name, &value) {
            return Some(Answer::Error(errno));
        }
        if let Some(setting) = fill::take_back(fd, &runtime.rules, || Some(plan)) {
            let fd = waiting.fd;
            let text =
                format_args!("setsockopt fd {fd}: {setting} is taken back: the program has chosen its own keepalive");
            self.log.say(Level::Info, waiting.call.thread, text);
        }
        Some(Answer::Result(0))
    }

    /// What an accepted socket does not have from its listener, set when the program first sets something on it.
    fn accepted(&self, runtime: &Runtime, waiting: Waiting<'_>, copy: BorrowedFd<'_>, standing: Standing) {
        let Standing { connection, is_unsure, .. } = standing;
        let Connection::Inbound { local, peer } = connection else { return };
        let inheritance = runtime.plan(Connection::Listening { local }, Phases::NONE).inheritance();
        let is_of_multipath = inheritance != Inheritance::None && self.shared.ports.is_multipath(local);
        let is_whole = inheritance == Inheritance::Full || is_of_multipath;
        let plan = runtime.plan(connection, if is_whole { Phases::ACCEPTED } else { inheritance.phases() });
        let fd = copy.as_raw_fd();
        let is_enforced = plan.enforce() == Enforce::Always;
        let settles = is_enforced || inheritance != Inheritance::Full;
        if plan.bypass().is_some() || !(settles || is_of_multipath) {
            return;
        }
        // Who has the last word has it from its first call on.
        if !is_enforced {
            let Ok(cookie) = ffi::cookie(fd) else { return };
            if self.settled.borrow().get(cookie).is_some() {
                return;
            }
            self.settled.borrow_mut().insert(cookie, ());
        }
        // Of what a listener of Multipath TCP could not pass on, the program may have set some by now.
        let has_last_word = is_of_multipath && !is_enforced;
        let left = if has_last_word { self.multipath.left(fd, plan.settings()) } else { Left::default() };
        // What it has from its listener may be another rule's.
        let is_of_it = |setting: &&Setting| {
            let comes_later = inheritance == Inheritance::None || setting.phases.contains(Phase::AcceptAlways);
            !is_unsure || comes_later || is_of_multipath && self.multipath.lacks(setting)
        };
        let is_missing = |setting: &&Setting| match plan.enforce() {
            // Mostly all of it is there already, from the listener or from the call before.
            Enforce::Always => is_in_force(fd, setting) != Ok(true),
            _ if is_of_multipath && !setting.phases.contains(Phase::AcceptAlways) => left.has(setting),
            _ => settles,
        };
        // Before any of it is set: a line of the log asks again which it was.
        let mut made: Vec<&Setting> = Vec::new();
        let waiting = Waiting { name: "accept", ..waiting };
        // Some set another one as well: IP_TOS the priority.
        // And raw replaces what comes before it.
        let counts = |setting: &&Setting| {
            let same = plan.settings().filter(|one| (one.level, one.name) == (setting.level, setting.name));
            same.last().is_none_or(|last| std::ptr::eq(last, *setting))
        };
        for _ in 0..2 {
            let is_new = |setting: &&Setting| !made.iter().any(|one| std::ptr::eq(*one, *setting));
            let of_it = plan.settings().filter(is_of_it).filter(counts).filter(is_new);
            let missing: Vec<&Setting> = of_it.filter(is_missing).collect();
            if missing.is_empty() {
                break;
            }
            self.make(runtime, waiting, copy, (&plan.decision(), None), missing.iter().copied(), peer);
            made.extend(missing);
        }
    }
}
