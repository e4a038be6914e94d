//! What is in force on a socket, and how it fares, as the kernel has it.
//!
//! For the command: nothing here is called by the hooks.

use policy::health::{Figures, State, Verdict};
use policy::{Connection, Endpoint, Setting, Value};

use crate::describe::Kind;
use crate::errno::Errno;
use crate::ffi;
use crate::opening::{Opening, opening};

/// SO_KEEPALIVE and the times that hold with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// SO_KEEPALIVE.
    pub on: bool,
    /// TCP_KEEPIDLE, seconds; the system's, where the program has set none.
    pub time_s: u32,
    /// TCP_KEEPINTVL, seconds.
    pub interval_s: u32,
    /// TCP_KEEPCNT.
    pub probes: u32,
}

/// A TCP socket. What a kind of socket, a state or a kernel does not have is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// TCP or MPTCP.
    pub kind: Kind,
    /// The address that it is bound to.
    pub local: Option<Endpoint>,
    /// The peer, also of a connect in progress, and of a connection that has ended.
    pub peer: Option<Endpoint>,
    /// By which end the connection was opened, where that is told.
    pub opening: Option<Opening>,
    /// The keepalive.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT, milliseconds; 0 is off.
    pub user_timeout_ms: Option<u32>,
    /// SO_LINGER: the seconds, if it is on; 0 resets.
    pub linger_s: Option<i32>,
    /// Whether its end may leave a TIME_WAIT here: not with a negative TCP_LINGER2.
    pub time_wait: Option<bool>,
    /// TCP_NODELAY.
    pub nodelay: Option<bool>,
    /// TCP_CONGESTION.
    pub congestion: Option<String>,
    /// Bytes written and not sent yet.
    pub unsent: Option<u32>,
    /// Bytes sent and not acknowledged.
    pub unacknowledged: Option<u32>,
    /// TCP_INFO.
    pub info: Info,
}

/// A part of `struct tcp_info` (include/uapi/linux/tcp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// The state.
    pub state: State,
    /// Retransmission timeouts since the last acknowledgement.
    pub retransmits: u8,
    /// Keepalive or window probes without an answer.
    pub probes: u8,
    /// How often the timeout was doubled.
    pub backoff: u8,
    /// Retransmission timeout, microseconds.
    pub rto_us: u32,
    /// Segments sent and not acknowledged; connections in the accept queue, of a listener.
    pub unacked: u32,
    /// Of a listener, how many its accept queue holds.
    pub sacked: u32,
    /// Milliseconds since data was last sent.
    pub last_data_sent_ms: u32,
    /// Milliseconds since data last arrived.
    pub last_data_ms: u32,
    /// Milliseconds since an acknowledgement last arrived.
    pub last_ack_ms: u32,
    /// Smoothed round trip, microseconds.
    pub rtt_us: u32,
    /// Its mean deviation, microseconds.
    pub rtt_deviation_us: u32,
    /// Segments retransmitted since the connection began.
    pub total_retransmits: u32,
}

impl Info {
    fn read(fd: i32) -> Result<Self, Errno> {
        let mut bytes = [0_u8; 104];
        ffi::get_bytes(fd, libc::SOL_TCP, libc::TCP_INFO, &mut bytes)?;
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let word = |at: usize| {
            let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
            word.map_or(0, |word| u32::from_ne_bytes(*word))
        };
        Ok(Self {
            state: State::from_number(byte(0)),
            retransmits: byte(2),
            probes: byte(3),
            backoff: byte(4),
            rto_us: word(8),
            unacked: word(24),
            sacked: word(28),
            last_data_sent_ms: word(44),
            last_data_ms: word(52),
            last_ack_ms: word(56),
            rtt_us: word(68),
            rtt_deviation_us: word(72),
            total_retransmits: word(100),
        })
    }
}

impl Current {
    /// Asks the kernel about a TCP or MPTCP socket.
    ///
    /// # Errors
    /// Those of getsockopt(2) for TCP_INFO.
    pub fn read(fd: i32, kind: Kind) -> Result<Self, Errno> {
        let tcp = |name| ffi::get_int(fd, libc::SOL_TCP, name).ok();
        let count = |name| tcp(name).and_then(|value| u32::try_from(value).ok());
        let is_on = |value: i32| value != 0;
        let keepalive = || {
            Some(Keepalive {
                on: is_on(ffi::get_int(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE).ok()?),
                time_s: count(libc::TCP_KEEPIDLE)?,
                interval_s: count(libc::TCP_KEEPINTVL)?,
                probes: count(libc::TCP_KEEPCNT)?,
            })
        };
        let info = Info::read(fd)?;
        let queue = ffi::send_queue(fd).ok();
        Ok(Self {
            kind,
            local: ffi::local_address(fd).ok().and_then(|address| address.endpoint().ok()),
            peer: ffi::peer_address(fd).ok().and_then(|address| address.endpoint().ok()),
            opening: opening(fd).ok().flatten(),
            keepalive: keepalive(),
            user_timeout_ms: count(libc::TCP_USER_TIMEOUT),
            linger_s: linger(fd).ok().and_then(|(on, seconds)| on.then_some(seconds)),
            time_wait: tcp(libc::TCP_LINGER2).map(|seconds| seconds >= 0),
            nodelay: tcp(libc::TCP_NODELAY).map(is_on),
            congestion: text(fd, libc::SOL_TCP, libc::TCP_CONGESTION).ok(),
            unsent: queue.map(|(_, unsent)| unsent),
            unacknowledged: queue.map(|(all, unsent)| all.saturating_sub(unsent)),
            info,
        })
    }

    /// What is to be thought of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let info = &self.info;
        Figures {
            state: info.state,
            keepalive: self.keepalive.filter(|keepalive| keepalive.on).map(|k| (k.time_s, k.interval_s)),
            unsent: self.unsent.unwrap_or(0).into(),
            unacknowledged: info.unacked,
            last_data_sent_ms: info.last_data_sent_ms,
            last_data_ms: info.last_data_ms,
            last_ack_ms: info.last_ack_ms,
            rto_us: info.rto_us,
            rtt_us: info.rtt_us,
            rtt_deviation_us: info.rtt_deviation_us,
            backoff: info.backoff,
            probes: info.probes,
        }
        .verdict()
    }

    /// What a rule sees of it, by the listeners that it may have been accepted on; none if it is not connected.
    #[must_use]
    pub fn connection(&self, listeners: &[Endpoint]) -> Option<Connection> {
        let local = self.local?;
        match self.info.state {
            State::Listen => Some(Connection::Listening { local }),
            State::Close | State::TimeWait => None,
            _ => {
                let peer = self.peer?;
                Some(match (self.opening, listener_of(local, listeners)) {
                    (Some(Opening::Active), _) | (None, None) => Connection::Outbound { peer },
                    (_, Some(local)) => Connection::Inbound { local, peer },
                    (Some(Opening::Passive), None) => Connection::Inbound { local, peer },
                })
            }
        }
    }
}

/// The address of the listener that a socket with this local address was accepted on, if it was: they have the same port.
fn listener_of(local: Endpoint, listeners: &[Endpoint]) -> Option<Endpoint> {
    let port = || listeners.iter().filter(|listener| listener.port() == local.port());
    let any = |v4: bool| port().find(move |listener| listener.ip().is_unspecified() && listener.ip().is_ipv4() == v4);
    port()
        .find(|listener| **listener == local)
        .or_else(|| any(true).filter(|_| local.ip().is_ipv4()))
        // One on `::` takes IPv4 as well.
        .or_else(|| any(false))
        .copied()
}

fn linger(fd: i32) -> Result<(bool, i32), Errno> {
    let mut bytes = [0_u8; 8];
    ffi::get_bytes(fd, libc::SOL_SOCKET, libc::SO_LINGER, &mut bytes)?;
    let [a, b, c, d, seconds @ ..] = bytes;
    Ok((i32::from_ne_bytes([a, b, c, d]) != 0, i32::from_ne_bytes(seconds)))
}

fn text(fd: i32, level: i32, name: i32) -> Result<String, Errno> {
    let mut bytes = [0_u8; 64];
    let length = ffi::get_bytes(fd, level, name, &mut bytes)?;
    let text = bytes.get(..length).unwrap_or(&bytes).split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// The value that is in force of the option that a setting is about.
///
/// # Errors
/// Those of getsockopt(2); some options can only be set.
pub fn value(fd: i32, setting: &Setting) -> Result<Value, Errno> {
    Ok(match setting.value {
        Value::Int(_) => Value::Int(ffi::get_int(fd, setting.level, setting.name)?),
        Value::Timeval { .. } => {
            // The kernel's struct timeval: two longs, which are as wide as an address.
            const LONG: usize = size_of::<isize>();
            let mut bytes = [0_u8; 2 * LONG];
            ffi::get_bytes(fd, setting.level, setting.name, &mut bytes)?;
            let long = |at: usize| {
                let long = bytes.get(at..).and_then(|rest| rest.first_chunk::<LONG>());
                long.map_or(0, |long| isize::from_ne_bytes(*long) as i64)
            };
            Value::Timeval { seconds: long(0), microseconds: long(LONG) }
        }
        Value::Linger { .. } => {
            let (on, seconds) = linger(fd)?;
            Value::Linger { on, seconds }
        }
        Value::Text(_) => Value::Text(text(fd, setting.level, setting.name)?.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_by_their_listeners() {
        let endpoint = |text: &str| {
            let address: std::net::SocketAddr = text.parse().expect("an address and port");
            Endpoint::new(address.ip(), address.port())
        };
        let listeners = ["0.0.0.0:80", "127.0.0.1:80", "[::]:81", "[::1]:82", "0.0.0.0:83"].map(endpoint);
        for (local, expected) in [
            ("127.0.0.1:80", Some("127.0.0.1:80")),
            ("10.1.2.3:80", Some("0.0.0.0:80")),
            ("10.1.2.3:81", Some("[::]:81")),
            ("[::ffff:10.1.2.3]:81", Some("[::]:81")),
            ("[2001:db8::1]:81", Some("[::]:81")),
            ("[::1]:82", Some("[::1]:82")),
            ("[2001:db8::1]:82", None),
            ("[2001:db8::1]:83", None),
            ("10.1.2.3:84", None),
        ] {
            assert_eq!(listener_of(endpoint(local), &listeners), expected.map(endpoint), "{local}");
        }
    }
}
