//! What a socket is, asked of the kernel: nothing is remembered that could be about another socket.

use policy::{Connection, Endpoint, Phase, Phases, Rules};

use crate::describe::Kind;
use crate::ffi;
use crate::ports::Ports;

/// Which connection a socket has or is to have, and the phases of its life that are behind it. None before connect or listen,
/// when the program's options are yet to be set over. `kind_of` is asked what kind it is; `listeners` are the ports that
/// programs have listened on, if they have on any.
pub fn of(
    fd: i32,
    rules: &Rules,
    kind_of: impl Fn(i32) -> Option<Kind>,
    listeners: Option<&Ports>,
) -> Option<(Connection, Phases)> {
    let tcp = |fd| kind_of(fd).filter(|kind| matches!(kind, Kind::Tcp | Kind::Mptcp));
    let Ok(peer) = ffi::peer_address(fd) else {
        const UDP: Phases = Phases::of(&[Phase::BindDatagram]);
        if rules.phases().intersects(UDP) && kind_of(fd) == Some(Kind::Udp) {
            let local = local_endpoint(fd).filter(|local| local.port() != 0)?;
            return Some((Connection::BindingUdp { local }, UDP));
        }
        let may_listen = rules.phases().intersects(Phases::INBOUND);
        (may_listen && is_listening(fd)).then(|| tcp(fd)).flatten()?;
        return Some((Connection::Listening { local: local_endpoint(fd)? }, Phases::of(&[Phase::Listen])));
    };
    let peer = peer.endpoint().ok()?;
    let outbound = Connection::Outbound { peer };
    match kind_of(fd)? {
        Kind::Tcp | Kind::Mptcp => {}
        Kind::Udp => return Some((outbound, Phases::of(&[Phase::Datagram]))),
        Kind::Other => return None,
    }
    let listener = match listeners {
        None => None,
        Some(listeners) => listeners.listener_of(local_endpoint(fd)?),
    };
    Some(match listener {
        Some(local) => (Connection::Inbound { local, peer }, Phases::INBOUND),
        None => (outbound, Phases::OUTBOUND),
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
