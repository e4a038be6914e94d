//! connect(2) that does not wait: when the connection stands, the time for connecting is taken back.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use policy::Connection;
use socket::connecting::{Connecting, Finish, afterwards, limit_syns};
use socket::ffi;
use socket::line::Identity;

use crate::held::{FIRST_LOOK, Held, MOST_LOOKS, SELDOM, State};
use crate::runtime::Runtime;
use crate::worker::{CONNECT, Waiting, Worker};

impl Worker {
    /// Does what was left to be done of the socket's connect before this one, which has failed.
    pub(crate) fn end_earlier(&mut self, copy: BorrowedFd<'_>) {
        if self.connecting.is_empty() || !ffi::is_closed(copy.as_raw_fd()) {
            return;
        }
        if let Some(at) = self.held_at(inode_of(copy))
            && let Some(held) = self.connecting.remove(&at)
        {
            self.finish(&held, State::Over);
        }
    }

    fn held_at(&self, inode: Option<u64>) -> Option<(Instant, i32)> {
        let inode = inode?;
        self.connecting.iter().find(|(_, held)| held.inode == Some(inode)).map(|(at, _)| *at)
    }

    /// Holds a copy until the connection stands. Is it held already, the connect is repeated to see whether it is done.
    pub(crate) fn hold(
        &mut self,
        runtime: &Rc<Runtime>,
        waiting: Waiting<'_>,
        copy: OwnedFd,
        connecting: &Connecting<'_>,
    ) {
        let Connecting { peer, limit, own, is_running, .. } = *connecting;
        let inode = inode_of(copy.as_fd());
        if let Some(at) = self.held_at(inode) {
            if is_running {
                return;
            }
            // The program has set another user timeout meanwhile.
            self.connecting.remove(&at);
        }
        let (since, runtime, thread) = (Instant::now(), Rc::clone(runtime), waiting.call.thread);
        let (process, fd) = (self.tasks.process_of(thread), waiting.fd);
        let at = (since + FIRST_LOOK, copy.as_raw_fd());
        self.connecting.insert(at, Held { copy, inode, since, runtime, peer, limit, own, thread, process, fd });
    }

    /// Looks which connections stand by now, or never will; how long it may take until the next time, if there is one.
    pub(crate) fn look_at_connecting(&mut self) -> Option<Duration> {
        self.connecting.first_key_value()?;
        let now = Instant::now();
        for _ in 0..MOST_LOOKS {
            let Some(first) = self.connecting.first_entry().filter(|first| first.key().0 <= now) else { break };
            let mut held = first.remove();
            let state = held.state();
            if state == State::Connecting {
                // Most stand within a millisecond, or take long.
                let next = now + ((now - held.since) / 4).clamp(FIRST_LOOK, SELDOM);
                self.connecting.insert((next, held.copy.as_raw_fd()), held);
                continue;
            }
            self.finish(&held, state);
        }
        self.connecting.first_key_value().map(|((next, _), _)| next.saturating_duration_since(now))
    }

    /// Takes the time for connecting back.
    fn finish(&self, held: &Held, state: State) {
        let Held { peer, limit, own, .. } = *held;
        let plan = held.runtime.plan(Connection::Outbound { peer }, CONNECT);
        let Some(afterwards) = afterwards(plan) else { return };
        let connecting = Connecting { peer, plan, limit, afterwards, own, is_running: true };
        if let Finish::Make(setting) = connecting.finish(held.copy.as_raw_fd()) {
            let name = if state == State::Over { "connected" } else { "closed" };
            let at = (name, held.fd, held.thread);
            let to = (&plan.decision(), None);
            self.make_at(&held.runtime, at, held.copy.as_fd(), to, [setting].into_iter(), peer);
        }
        if state == State::Closed {
            limit_syns(held.copy.as_raw_fd(), limit);
        }
    }
}

fn inode_of(socket: BorrowedFd<'_>) -> Option<u64> {
    Identity::of(socket.as_raw_fd()).map(|identity| identity.inode)
}
