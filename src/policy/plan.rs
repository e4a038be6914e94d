//! What is set on a socket, in which order, for which IP version: the one place that says so. The library, the supervisor and
//! `sockopt apply` carry a plan out, `sockopt explain` prints it.

use std::net::IpAddr;

use crate::catalog::Key;
use crate::connection::{Connection, Endpoint};
use crate::constants::SOL_TCP;
use crate::enforce::Enforce;
use crate::hosts::HostSet;
use crate::options::{Family, Phase, Phases, Setting};
use crate::rules::{Bypass, Decision, Inheritance, Rules};

impl Phases {
    /// On a connection that was accepted.
    pub const ACCEPTED: Self = Self::of(&[Phase::Accept, Phase::AcceptAlways]);
    /// On a TCP socket that listens, and on what it accepts.
    pub const INBOUND: Self = Self::of(&[Phase::Listen, Phase::Accept, Phase::AcceptAlways]);
    /// On a TCP socket that connects, before and after.
    pub const OUTBOUND: Self = Self::of(&[Phase::Connect, Phase::Connected]);
    /// Where it is not known yet whether the socket is TCP.
    const BEFORE_KIND: Self = Self::of(&[Phase::Connect, Phase::Accept, Phase::AcceptAlways]);
}

impl Inheritance {
    /// When something is set on an accepted socket itself.
    #[must_use]
    pub const fn phases(self) -> Phases {
        match self {
            Self::Full => Phases::NONE,
            Self::Partial => Phases::of(&[Phase::AcceptAlways]),
            Self::None => Phases::ACCEPTED,
        }
    }
}

/// The settings for one socket at some phases of its life.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    decision: Decision<'a>,
    is_accepted: bool,
    family: Family,
    phases: Phases,
    inheritance: Inheritance,
    /// `connect_timeout` is not set.
    leaves_limit: bool,
}

impl Rules {
    /// What is to be set at `phases` on a socket for this connection, to an address that is known by these host names.
    #[must_use]
    pub fn plan(&self, connection: Connection, phases: Phases, hosts: &HostSet) -> Plan<'_> {
        let decision = self.decide_named(&connection, hosts);
        let inheritance = match connection {
            Connection::Listening { local } => self.inheritance(local, &decision),
            _ => Inheritance::Full,
        };
        let is_accepted = matches!(connection, Connection::Inbound { .. });
        Plan { is_accepted, inheritance, ..Plan::of(decision, phases, Family::of(&connection)) }
    }
}

impl Rules {
    /// The settings of a plan for a listener bound to `local`, and where it is decided for each client which rule it gets
    /// ([`Inheritance::None`]), those as well that are the same in all of these rules. For whoever is not told of an accept.
    pub fn passed_on<'a>(&'a self, local: Endpoint, plan: Plan<'a>) -> impl Iterator<Item = &'a Setting> + Clone {
        let is_withheld = plan.inheritance == Inheritance::None;
        plan.for_every_client().settings().filter(move |setting| {
            !is_withheld
                || !setting.phases.intersects(Phases::ACCEPTED)
                || self.is_for_every_client(local, plan.decision().profile(), setting)
        })
    }
}

impl<'a> Plan<'a> {
    /// What a decision sets at `phases` on a socket that sends packets of these IP versions: for whoever finds decisions by other
    /// means than [`Rules::plan`] (see [`Rules`]).
    #[must_use]
    pub fn of(decision: Decision<'a>, phases: Phases, family: Family) -> Self {
        Self { decision, is_accepted: false, family, phases, inheritance: Inheritance::Full, leaves_limit: false }
    }

    /// The same for a listener that passes on this: with [`Inheritance::None`] nothing is set that accepted sockets would inherit.
    #[must_use]
    pub fn with_inheritance(self, inheritance: Inheritance) -> Self {
        Self { inheritance, ..self }
    }

    /// The same for a listener whose clients are never told apart: where no rule with `from` ever matches, since nothing can be set on
    /// what is accepted.
    #[must_use]
    pub fn for_every_client(self) -> Self {
        self.with_inheritance(Inheritance::Full)
    }

    /// The rule that it follows.
    #[must_use]
    pub fn decision(&self) -> Decision<'a> {
        self.decision
    }

    /// Who has the last word.
    #[must_use]
    pub fn enforce(&self) -> Enforce {
        self.decision.profile().enforce()
    }

    /// Of a listener: what the sockets that it accepts have from it.
    #[must_use]
    pub fn inheritance(&self) -> Inheritance {
        self.inheritance
    }

    /// When they are set.
    #[must_use]
    pub fn phases(&self) -> Phases {
        self.phases
    }

    /// The same rule's settings for the same socket at other phases.
    #[must_use]
    pub fn at(self, phases: Phases) -> Self {
        Self { phases, ..self }
    }

    /// The same as if the rule had no `connect_timeout`: its user timeout is set before the connection stands.
    #[must_use]
    pub fn without_limit(self) -> Self {
        Self { leaves_limit: true, ..self }
    }

    /// Why there is nothing to set, if so.
    #[must_use]
    pub fn bypass(&self) -> Option<Bypass> {
        self.decision.bypass(self.phases)
    }

    /// The settings, in the catalogue's order.
    pub fn settings(&self) -> impl Iterator<Item = &'a Setting> + Clone + use<'a> {
        let Self { phases, inheritance, leaves_limit, .. } = *self;
        let is_whole = leaves_limit && phases.contains(Phase::Connect);
        let phases = if is_whole { phases | Phases::OUTBOUND } else { phases };
        // What is bound may send packets of either: IP's options count on an IPv6 socket too.
        let family = if phases.contains(Phase::Bind) { Family::Any } else { self.family };
        // For some clients another rule is meant, and what they inherit could not be taken back: only what a listener alone has.
        let withheld = if inheritance == Inheritance::None { Phases::ACCEPTED } else { Phases::NONE };
        let is_due = move |setting: &&Setting| {
            setting.phases.intersects(phases)
                && !setting.phases.intersects(withheld)
                && setting.family.overlaps(family)
                && !(leaves_limit && setting.key == Key::ConnectTimeout)
        };
        self.decision.profile().at(phases).iter().filter(is_due)
    }

    /// The setting that has the last word about an option that the program sets, if there is one.
    #[must_use]
    pub fn enforced(&self, level: i32, name: i32) -> Option<&'a Setting> {
        let is_it =
            |setting: &&Setting| (setting.level, setting.name) == (level, name) && setting.key != Key::ConnectTimeout;
        self.settings().filter(|_| self.enforce() == Enforce::Always).find(is_it)
    }

    /// The setting that is made first, because it is at the same time the question whether the socket is TCP, which costs no call
    /// of its own so: the first of TCP's, which all other sockets refuse. None where a socket is asked before anything is set.
    #[must_use]
    #[inline]
    pub fn probe(&self) -> Option<&'a Setting> {
        let asks = self.phases.intersects(Phases::BEFORE_KIND)
            && match self.enforce() {
                Enforce::Always => true,
                // A connect that is repeated must set nothing anew.
                Enforce::Never => self.is_accepted,
                Enforce::Fill => false,
            };
        self.settings().filter(|_| asks).find(|setting| setting.level == SOL_TCP)
    }

    /// The settings in the order in which they are made.
    pub fn in_order(&self) -> impl Iterator<Item = &'a Setting> + Clone + use<'a> {
        let probe = self.probe();
        let is_other = move |setting: &&Setting| probe.is_none_or(|probe| !std::ptr::eq(probe, *setting));
        probe.into_iter().chain(self.settings().filter(is_other))
    }
}

impl Family {
    /// The IP versions whose packets the socket sends.
    fn of(connection: &Connection) -> Self {
        let end = match *connection {
            // A listener on `::` takes IPv4 as well, unless told otherwise, and IPv4's options do no harm then.
            Connection::Binding { local } | Connection::BindingUdp { local } | Connection::Listening { local } => {
                match local.ip() {
                    IpAddr::V6(ip) if ip.is_unspecified() => return Self::Any,
                    _ => local,
                }
            }
            Connection::Outbound { peer } | Connection::Inbound { peer, .. } => peer,
        };
        if end.ip().is_ipv4() { Self::V4 } else { Self::V6 }
    }
}
