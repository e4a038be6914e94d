//! What a socket is, asked of the kernel: nothing is remembered that could be about another socket.

use policy::{Connection, Endpoint, Phase, Phases, Rules, Setting};

use crate::connecting::running_limit;
use crate::describe::Kind;
use crate::ffi;
use crate::opening::{Opening, opening};
use crate::ports::{Listener, Ports};
use crate::setting::changes_nothing;

/// Which connection a socket has or is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// As rules see it.
    pub connection: Connection,
    /// The phases of its life that are behind it.
    pub phases: Phases,
    /// Maybe nobody has set a rule's options on it: it may have come from another process, or have its port without bind.
    pub is_foreign: bool,
    /// It was accepted on a port that has had several listeners, and maybe by another one than this rule is for.
    pub is_unsure: bool,
}

impl Standing {
    fn own(connection: Connection, phases: Phases) -> Self {
        Self { connection, phases, is_foreign: false, is_unsure: false }
    }

    /// Whether a setting has the last word about its option on this socket. On one that is foreign or unsure only if it is in force:
    /// then somebody has set it by the same rule, or the program itself has.
    #[must_use]
    pub fn enforces(&self, fd: i32, setting: &Setting, rules: &Rules) -> bool {
        // Until somebody asks how a connect ended, another user timeout stands in the place of the rule's.
        let is_to_come = || setting.phases.contains(Phase::Connected) && running_limit(fd, rules).is_some();
        !(self.is_foreign || self.is_unsure) || changes_nothing(fd, setting) || is_to_come()
    }
}

/// What a socket is. None before connect or listen, when the program's options are yet to be set over. `kind_of` is asked what
/// kind it is; `listeners` are the ports that programs have listened on, if they have on any.
pub fn of(
    fd: i32,
    rules: &Rules,
    kind_of: impl Fn(i32) -> Option<Kind>,
    listeners: Option<&Ports>,
) -> Option<Standing> {
    let tcp = |fd| kind_of(fd).filter(|kind| matches!(kind, Kind::Tcp | Kind::Mptcp));
    let Ok(peer) = ffi::peer_address(fd) else {
        const UDP: Phases = Phases::of(&[Phase::BindDatagram]);
        if rules.phases().intersects(UDP) && kind_of(fd) == Some(Kind::Udp) {
            let local = local_endpoint(fd).filter(|local| local.port() != 0)?;
            // A UDP socket that sends is given a port as well.
            return Some(Standing { is_foreign: true, ..Standing::own(Connection::BindingUdp { local }, UDP) });
        }
        let may_listen = rules.phases().intersects(Phases::INBOUND);
        (may_listen && is_listening(fd)).then(|| tcp(fd)).flatten()?;
        return Some(Standing::own(Connection::Listening { local: local_endpoint(fd)? }, Phases::of(&[Phase::Listen])));
    };
    let peer = peer.endpoint().ok()?;
    let outbound = Connection::Outbound { peer };
    let opening = match opening(fd) {
        Ok(opening) => opening,
        // Not TCP, or Multipath TCP before Linux 5.16.
        Err(_) => match kind_of(fd)? {
            Kind::Tcp | Kind::Mptcp => None,
            Kind::Udp => return Some(Standing::own(outbound, Phases::of(&[Phase::Datagram]))),
            Kind::Other => return None,
        },
    };
    if opening == Some(Opening::Active) {
        return Some(Standing::own(outbound, Phases::OUTBOUND));
    }
    let own = || local_endpoint(fd);
    let listener = match listeners {
        None => None,
        Some(listeners) => listeners.listener_of(fd, own()?),
    };
    Some(match (listener, opening) {
        (Some(Listener { local, is_sure }), _) => {
            Standing { is_unsure: !is_sure, ..Standing::own(Connection::Inbound { local, peer }, Phases::INBOUND) }
        }
        (None, Some(_)) => {
            let connection = Connection::Inbound { local: own()?, peer };
            Standing { is_foreign: true, ..Standing::own(connection, Phases::INBOUND) }
        }
        (None, None) => Standing { is_foreign: true, ..Standing::own(outbound, Phases::OUTBOUND) },
    })
}

/// Whether a socket listens.
#[must_use]
pub fn is_listening(fd: i32) -> bool {
    ffi::get_int(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|yes| yes != 0)
}

/// Whether a socket is bound, to a port or at least to an address (IP_BIND_ADDRESS_NO_PORT).
#[must_use]
pub fn is_bound(fd: i32) -> bool {
    local_endpoint(fd).is_some_and(|local| local.port() != 0 || !local.ip().is_unspecified())
}

/// The address and port that a socket is bound to.
#[must_use]
pub fn local_endpoint(fd: i32) -> Option<Endpoint> {
    ffi::local_address(fd).ok()?.endpoint().ok()
}
