//! Hands a socket that was there before over to programs in the kernel, which keep its options in force from then on.

use std::os::fd::BorrowedFd;

use cgroup::{Refused, Remembered, Tables, account, remembered};
use policy::plan::Plan;
use policy::{Connection, Endpoint, Enforce, HostSet, Key, Phases, Process, Rules, Setting};

/// What it takes.
pub(crate) struct Keeper<'a> {
    pub(crate) remembered: &'a Remembered,
    pub(crate) tables: &'a Tables,
    /// What this kernel refused when it was tried.
    pub(crate) refused: &'a Refused,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The programs did not have it before.
    pub(crate) is_new: bool,
    /// The program that owns it can change what was set: it was made in another control group.
    pub(crate) is_out_of_reach: bool,
    /// The same, because the kernel has no memory left to remember anything of it.
    pub(crate) is_without_room: bool,
}

impl Keeper<'_> {
    /// Whether the programs would make a setting: no other is made here. A time for connecting is none: nothing would take it back.
    pub(crate) fn makes(&self, plan: &Plan<'_>, setting: &Setting) -> bool {
        setting.key != Key::ConnectTimeout
            && account::why_not_decision(plan.decision(), self.refused).is_none()
            && account::why_not(setting, plan.enforce(), self.refused).is_none()
    }

    /// By what of the rules' names the peer is known, if programs have learned its name.
    pub(crate) fn hosts(&self, rules: &Rules, connection: &Connection) -> HostSet {
        let mut hosts = HostSet::NONE;
        if let Connection::Outbound { peer } = connection
            && let Some(name) = self.remembered.name_of(peer.ip())
        {
            rules.add_hosts(&mut hosts, &name);
        }
        hosts
    }

    /// What is enforced on it, which is suspended: it would keep us from setting anything.
    pub(crate) fn release(&self, socket: BorrowedFd<'_>) -> Option<u64> {
        let known = self.remembered.enforced(socket);
        if known.is_some_and(|bits| bits != 0) {
            let _ = self.remembered.enforce(socket, 0);
        }
        known
    }

    /// Notes the class of a listener's clients, by the process that listens.
    pub(crate) fn listens(&self, socket: BorrowedFd<'_>, process: &Process, local: Endpoint) {
        let name = process.names.first().map_or("", String::as_str);
        if self.tables.listens {
            let _ = self.remembered.listens(socket, self.tables, (name, local));
        }
    }

    /// Has what is in force on it enforced from now on, as its plan says; of a listener, what it accepts has that from it.
    pub(crate) fn keep(
        &self,
        socket: BorrowedFd<'_>,
        connection: &Connection,
        plan: &Plan<'_>,
        in_force: &[&Setting],
        known: Option<u64>,
    ) -> Kept {
        let mut bits = match plan.enforce() {
            Enforce::Always => remembered::bits(in_force.iter().copied()),
            Enforce::Never => 0,
            Enforce::Fill => remembered::computed(known.unwrap_or_default(), in_force.iter().copied()),
        };
        if matches!(connection, Connection::Listening { .. }) && plan.enforce() == Enforce::Always {
            let inherited = plan.at(Phases::INBOUND);
            let made = inherited.settings().filter(|setting| self.makes(plan, setting));
            bits |= remembered::bits(made.filter(|setting| setting.phases.intersects(Phases::ACCEPTED)));
        }
        // Where nothing is to be remembered, nothing is written: the kernel has little room for each socket.
        let is_kept = (bits == 0 && known.is_none()) || self.remembered.enforce(socket, bits).is_ok();
        Kept {
            is_new: is_kept && known != Some(bits) && bits != 0,
            is_out_of_reach: is_kept && bits != 0 && !self.remembered.is_reached(socket),
            is_without_room: !is_kept && bits != 0,
        }
    }
}
