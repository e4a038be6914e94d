//! One socket option with its value, and the phases at which it can be set.

use std::fmt;
use std::ops::BitOr;

use crate::constants;
use crate::key::Key;

/// A value in the form that setsockopt(2) takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// An `int`; an `unsigned int` option takes the same bits.
    Int(i32),
    /// A `struct timeval`, socket(7) SO_RCVTIMEO.
    Timeval {
        /// Whole seconds.
        seconds: i64,
        /// Microseconds, 0 to 999,999.
        microseconds: i64,
    },
    /// A `struct linger`, socket(7) SO_LINGER.
    Linger {
        /// Whether close(2) lingers (or resets) at all.
        on: bool,
        /// Seconds; 0 with `on` is the abortive close (RST).
        seconds: i32,
    },
    /// A string, such as an interface or a congestion control algorithm.
    Text(Box<str>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Timeval { seconds, microseconds } => write!(f, "{{{seconds}s,{microseconds}us}}"),
            Self::Linger { on, seconds } => write!(f, "{{{},{seconds}}}", i32::from(*on)),
            Self::Text(text) => write!(f, "\"{text}\""),
        }
    }
}

/// When an option is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Phase {
    /// Just before a TCP socket connects.
    Connect = 1,
    /// Just before a UDP socket connects.
    Datagram = 1 << 1,
    /// Just before bind(2): what the kernel looks at there and never again.
    Bind = 1 << 2,
    /// Just before listen(2); accepted sockets inherit it.
    Listen = 1 << 3,
    /// On an accepted socket whose listener could not be set beforehand.
    Accept = 1 << 4,
    /// On an accepted socket, since it does not inherit this from its listener (or the listener must not have it).
    AcceptAlways = 1 << 5,
    /// When the connection stands: what connecting needed otherwise (`connect_timeout`).
    Connected = 1 << 6,
    /// Just before bind(2) of a UDP socket, by a rule with `listen`.
    BindDatagram = 1 << 7,
}

/// A set of [`Phase`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Phases(u16);

impl Phases {
    /// No phase at all.
    pub const NONE: Self = Self(0);

    /// The phases listed.
    #[must_use]
    pub const fn of(phases: &[Phase]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < phases.len() {
            bits |= phases[index] as u16;
            index += 1;
        }
        Self(bits)
    }

    /// Whether `phase` is among them.
    #[must_use]
    pub const fn contains(self, phase: Phase) -> bool {
        self.0 & phase as u16 != 0
    }

    /// Whether the two sets share a phase.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// All of them but one.
    #[must_use]
    pub const fn without(self, phase: Phase) -> Self {
        Self(self.0 & !(phase as u16))
    }

    /// The phases in words, for people: `connect, listen, UDP`.
    #[must_use]
    pub fn in_words(self) -> String {
        use Phase::{AcceptAlways, Bind, Connect, Datagram, Listen};
        let names =
            [(Bind, "bind"), (Connect, "connect"), (Listen, "listen"), (AcceptAlways, "accept"), (Datagram, "UDP")];
        let names = names.into_iter().filter(|(phase, _)| self.contains(*phase)).map(|(_, name)| name);
        names.collect::<Vec<_>>().join(", ")
    }

    /// The phases in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Phases {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The IP versions whose packets a socket sends: an option of one version means nothing for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// IPv4 packets, from an AF_INET socket or from an AF_INET6 one with a mapped address.
    V4 = 1,
    /// IPv6 packets.
    V6 = 2,
    /// Either: a listener on `::`, or an option that is the same for both.
    Any = 3,
}

impl Family {
    /// Whether an option for `self` concerns a socket of `other`.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self as u8 & other as u8 != 0
    }
}

/// The times of a keepalive that a user timeout counts with, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probing {
    /// TCP_KEEPIDLE.
    pub time: i32,
    /// TCP_KEEPINTVL.
    pub interval: i32,
}

impl Probing {
    /// Whether a connection with these times and a user timeout outlasts a probe that is lost. The user timeout is looked at
    /// when the second probe is due, and the kernel's timers are late by up to an eighth and a tick each.
    #[must_use]
    pub fn outlasts_a_lost_probe(self, user_timeout_ms: i32) -> bool {
        const TWO_TICKS: i64 = 20;
        let second_probe = (i64::from(self.time) + i64::from(self.interval)) * 1_000;
        i64::from(user_timeout_ms) * 8 > second_probe * 9 + 8 * TWO_TICKS
    }
}

/// One setsockopt(2) call: the unit of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The configuration key that it comes from.
    pub key: Key,
    /// The protocol level, e.g. `SOL_TCP`.
    pub level: i32,
    /// The option's number within the level, e.g. `TCP_USER_TIMEOUT`.
    pub name: i32,
    /// The value.
    pub value: Value,
    /// When it is set.
    pub phases: Phases,
    /// For which IP version.
    pub family: Family,
    /// Of a user timeout that was computed from a keepalive (`"auto"`, `dead_peer_timeout`): the times of that.
    pub computed_from: Option<Probing>,
    /// Its number among all settings of all rules: what "warned about already" is kept by.
    pub id: u32,
}

impl Setting {
    /// The bytes of the value that the kernel reads where the program gives so many; from fewer it mostly makes EINVAL.
    #[must_use]
    pub fn bytes_read(&self, given: usize) -> usize {
        /// What a name has at most without its NUL (IFNAMSIZ, linux/if.h; TCP_CA_NAME_MAX, net/tcp.h).
        const LONGEST_NAME: usize = 15;
        match self.value {
            // Of IP's a byte is enough, and of four or more it reads four (net/ipv4/ip_sockglue.c).
            Value::Int(_) if self.level == constants::SOL_IP => {
                if given < 4 {
                    1
                } else {
                    4
                }
            }
            // An unsigned long, if there are as many bytes (net/core/sock.c).
            Value::Int(_) if self.key == Key::MaxPacingRate && given >= size_of::<usize>() => size_of::<usize>(),
            Value::Int(_) => 4,
            Value::Timeval { .. } => 2 * size_of::<usize>(),
            Value::Linger { .. } => 8,
            // An empty interface name takes the socket off its interface (net/core/sock.c, sock_setbindtodevice).
            Value::Text(_) if self.key == Key::Interface => given.min(LONGEST_NAME),
            // Up to its NUL, of which nothing is known here.
            Value::Text(_) => given.clamp(1, LONGEST_NAME),
        }
    }
}

impl fmt::Display for Setting {
    /// `TCP_USER_TIMEOUT=14000`; numbers in place of a name that the kernel headers do not give.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match constants::option_name(self.level, self.name) {
            Some(name) => write!(f, "{name}={}", self.value),
            None => write!(f, "level {} option {}={}", self.level, self.name, self.value),
        }
    }
}
