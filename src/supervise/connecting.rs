//! connect(2) that does not wait: when the connection stands, the time for connecting is taken back.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use policy::{Connection, Key};
use socket::connecting::{Connecting, Finish, afterwards, limit_syns};
use socket::line::Identity;

use crate::held::{FIRST_LOOK, Held, MOST_LOOKS, SELDOM, State};
use crate::runtime::Runtime;
use crate::worker::{CONNECT, Waiting, Worker};

impl Worker {
    /// Holds a copy until the connection stands. Is it held already, the connect is repeated to see whether it is done.
    pub(crate) fn hold(
        &mut self,
        runtime: &Rc<Runtime>,
        waiting: Waiting<'_>,
        copy: OwnedFd,
        connecting: &Connecting<'_>,
    ) {
        let Connecting { peer, limit, mut own, is_running, afterwards, .. } = *connecting;
        let inode = Identity::of(copy.as_raw_fd()).map(|identity| identity.inode);
        let mut before = self.connecting.iter().filter(|(_, held)| is_running && held.inode == inode);
        if let Some((at, held)) = before.next().map(|(at, held)| (*at, held)) {
            if held.peer == peer {
                return;
            }
            // That connect has failed.
            if afterwards.key == Key::ConnectTimeout {
                own = held.own;
            }
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
            let plan = held.runtime.plan(Connection::Outbound { peer: held.peer }, CONNECT);
            let Some(afterwards) = afterwards(plan) else { continue };
            let Held { peer, limit, own, .. } = held;
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
        self.connecting.first_key_value().map(|((next, _), _)| next.saturating_duration_since(now))
    }
}
