//! Who has the last word about an option, the rule or the program; and by what it is told that a program has left an
//! option at the system's default.

use crate::constants::{SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP, number};
use crate::kernel::{KernelOption, SO_KEEPALIVE, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL};
use crate::options::{Setting, Value};

pub use crate::options::Probing;

/// `enforce`: who has the last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enforce {
    /// The rule: its options are set over what the program has set, and the program's own later calls are answered and not
    /// carried out.
    #[default]
    Always,
    /// The program: the rule's options are set over what it has set before, and not over what it sets later.
    Never,
    /// The program, before and after: only what it has left at the system's default is set.
    Fill,
}

/// What getsockopt answers of an option that nobody has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untouched {
    /// Zeroes, in every kernel.
    Zeroes,
    /// This number, in every kernel.
    Number(i32),
    /// The code point zero; the two bits below are the kernel's own (RFC 3168).
    CodePoint,
    /// The kernel tunes the value by itself, and tells by a bit of SO_BUF_LOCK whether somebody else has set it.
    Unlocked {
        /// The bit, SOCK_SNDBUF_LOCK or SOCK_RCVBUF_LOCK (include/uapi/linux/socket.h).
        bit: i32,
    },
    /// What it answers of a socket that was just made: a sysctl says what that is, or the option is not known here.
    AsNew,
}

const fn option(level: i32, name: &str) -> (i32, i32) {
    (level, number(name))
}

/// SO_BUF_LOCK, since Linux 5.14.
pub const SO_BUF_LOCK: (i32, i32) = option(SOL_SOCKET, "SO_BUF_LOCK");

/// Options that are zero, off or empty on a new socket, whatever the sysctls.
const ZEROES: &[(i32, i32)] = &[
    option(SOL_SOCKET, "SO_KEEPALIVE"),
    option(SOL_SOCKET, "SO_LINGER"),
    option(SOL_SOCKET, "SO_RCVTIMEO"),
    option(SOL_SOCKET, "SO_SNDTIMEO"),
    option(SOL_SOCKET, "SO_PRIORITY"),
    option(SOL_SOCKET, "SO_MARK"),
    option(SOL_SOCKET, "SO_BINDTODEVICE"),
    option(SOL_SOCKET, "SO_REUSEADDR"),
    option(SOL_SOCKET, "SO_REUSEPORT"),
    option(SOL_TCP, "TCP_USER_TIMEOUT"),
    option(SOL_TCP, "TCP_NODELAY"),
    option(SOL_TCP, "TCP_DEFER_ACCEPT"),
    option(SOL_TCP, "TCP_NOTSENT_LOWAT"),
    option(SOL_TCP, "TCP_FASTOPEN"),
    option(SOL_TCP, "TCP_FASTOPEN_CONNECT"),
    option(SOL_IP, "IP_BIND_ADDRESS_NO_PORT"),
    option(SOL_IP, "IP_FREEBIND"),
    option(SOL_IP, "IP_TRANSPARENT"),
];

impl Untouched {
    /// That of an option.
    #[must_use]
    pub fn of(level: i32, name: i32) -> Self {
        const MAXSEG: (i32, i32) = option(SOL_TCP, "TCP_MAXSEG");
        const QUICKACK: (i32, i32) = option(SOL_TCP, "TCP_QUICKACK");
        const RATE: (i32, i32) = option(SOL_SOCKET, "SO_MAX_PACING_RATE");
        const TOS: (i32, i32) = option(SOL_IP, "IP_TOS");
        const TCLASS: (i32, i32) = option(SOL_IPV6, "IPV6_TCLASS");
        const SEND: (i32, i32) = option(SOL_SOCKET, "SO_SNDBUF");
        const SEND_FORCED: (i32, i32) = option(SOL_SOCKET, "SO_SNDBUFFORCE");
        const RECEIVE: (i32, i32) = option(SOL_SOCKET, "SO_RCVBUF");
        const RECEIVE_FORCED: (i32, i32) = option(SOL_SOCKET, "SO_RCVBUFFORCE");
        match (level, name) {
            // RFC 1122 (4.2.2.6), until there is a route.
            MAXSEG => Self::Number(536),
            QUICKACK => Self::Number(1),
            RATE => Self::Number(-1),
            TOS | TCLASS => Self::CodePoint,
            SEND | SEND_FORCED => Self::Unlocked { bit: 1 },
            RECEIVE | RECEIVE_FORCED => Self::Unlocked { bit: 2 },
            known if ZEROES.contains(&known) => Self::Zeroes,
            _ => Self::AsNew,
        }
    }
}

impl Untouched {
    /// Whether an answer of getsockopt is that of an untouched option, where the value alone tells.
    #[must_use]
    pub fn is_value(self, answer: &[u8]) -> bool {
        let number = || answer.first_chunk::<4>().map(|number| i32::from_ne_bytes(*number));
        match self {
            Self::Zeroes => answer.iter().all(|byte| *byte == 0),
            // SO_MAX_PACING_RATE has eight bytes.
            Self::Number(-1) => answer.iter().all(|byte| *byte == u8::MAX),
            Self::Number(untouched) => number() == Some(untouched),
            Self::CodePoint => number().is_some_and(|number| number & !3 == 0),
            Self::Unlocked { bit } => number().is_some_and(|locked| locked & bit == 0),
            Self::AsNew => false,
        }
    }
}

/// The options of the keepalive, which a program chooses as a whole: by the first.
pub const KEEPALIVE: [KernelOption; 4] = [SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT];

/// Whether an option is one of them.
#[must_use]
pub fn is_of_keepalive(level: i32, name: i32) -> bool {
    KEEPALIVE.contains(&KernelOption { level, name })
}

impl Probing {
    /// That of a rule, which may leave it to the program: then it is none that a socket can have.
    pub(crate) fn of<'a>(settings: impl Iterator<Item = &'a Setting> + Clone) -> Self {
        let value = |option: KernelOption| {
            let is_it = |setting: &&Setting| (setting.level, setting.name) == (option.level, option.name);
            match settings.clone().find(is_it).map(|setting| &setting.value) {
                Some(Value::Int(value)) => *value,
                _ => 0,
            }
        };
        Self { time: value(TCP_KEEPIDLE), interval: value(TCP_KEEPINTVL) }
    }
}

impl Setting {
    /// Of a user timeout that was computed from the rule's keepalive: whether it fits the keepalive that a socket has, since
    /// that is the rule's, or one under which a lost probe does not end a living connection.
    #[must_use]
    pub fn fits(&self, on_socket: Probing) -> bool {
        let outlasts = matches!(self.value, Value::Int(time) if on_socket.outlasts_a_lost_probe(time));
        outlasts || self.computed_from == Some(on_socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CATALOG;

    /// A sysctl says what a new socket has of these, and of no other option that has a key.
    #[test]
    fn what_a_sysctl_decides() {
        let as_new: Vec<&str> = CATALOG
            .iter()
            .filter(|entry| {
                let is_as_new = |option: &KernelOption| Untouched::of(option.level, option.name) == Untouched::AsNew;
                entry.kernel.iter().any(|option| is_as_new(option) && !is_of_keepalive(option.level, option.name))
            })
            .map(|entry| entry.key.name())
            .collect();
        assert_eq!(as_new, ["syn_retries", "congestion", "fin_timeout", "time_wait", "ttl"]);
    }

    /// Measured: beside 5 s and 3 s, 8 s is fatal and 9 s is not.
    #[test]
    fn one_lost_probe() {
        let probing = Probing { time: 5, interval: 3 };
        for (user_timeout, outlasts) in [(1, false), (8_000, false), (9_000, false), (9_100, true), (14_000, true)] {
            assert_eq!(probing.outlasts_a_lost_probe(user_timeout), outlasts, "{user_timeout}");
        }
        let longest = Probing { time: 32_767, interval: 32_767 };
        assert!(longest.outlasts_a_lost_probe(i32::MAX));
    }
}
