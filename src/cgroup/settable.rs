//! Which options programs in the kernel can set, and how they have them.

use std::collections::BTreeMap;

use policy::constants::{SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP, option_number};
use policy::{Setting, Value};
use socket::Errno;

/// Whether programs know hosts by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HostNames {
    /// Nobody has asked for that.
    #[default]
    Unasked,
    /// They learn them from the answers of name servers.
    Learned,
    /// They cannot on this kernel, and why.
    Refused(String),
}

/// What this kernel refuses, and what it says of a new socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    /// Options, by level and name, and with which error.
    pub options: BTreeMap<(i32, i32), Errno>,
    /// Why programs cannot know the process that they run for, if so.
    pub process: Option<String>,
    /// Whether programs know hosts by their names.
    pub host_names: HostNames,
    /// Options that it does not tell programs, and with which error.
    pub unread: BTreeMap<(i32, i32), Errno>,
    /// What it tells of a new socket: of UDP or TCP, by level and name.
    pub new: BTreeMap<(bool, i32, i32), [u8; 16]>,
}

impl Refused {
    /// The error with which a setting's option is refused.
    #[must_use]
    pub fn of(&self, setting: &Setting) -> Option<Errno> {
        self.options.get(&(setting.level, setting.name)).copied()
    }

    /// The error with which programs are not told what a socket has of a setting's option.
    #[must_use]
    pub fn of_reading(&self, setting: &Setting) -> Option<Errno> {
        self.unread.get(&(setting.level, setting.name)).copied()
    }

    /// What a new socket has; zeroes where that was not asked.
    pub(crate) fn new_of(&self, is_udp: bool, level: i32, name: i32) -> [u8; 16] {
        let of = |is_udp| self.new.get(&(is_udp, level, name)).copied();
        of(is_udp).or_else(|| of(false)).unwrap_or_default()
    }
}

/// Options that the kernel lets programs set on a socket (net/core/filter.c), which is not every option: by level and name.
/// A place in this list is a bit in what is remembered of a socket, also by programs of another version of the command: only
/// ever add to it.
const SETTABLE: [(i32, &str); 24] = [
    (SOL_SOCKET, "SO_KEEPALIVE"),
    (SOL_TCP, "TCP_KEEPIDLE"),
    (SOL_TCP, "TCP_KEEPINTVL"),
    (SOL_TCP, "TCP_KEEPCNT"),
    (SOL_TCP, "TCP_USER_TIMEOUT"),
    (SOL_TCP, "TCP_SYNCNT"),
    (SOL_TCP, "TCP_NODELAY"),
    (SOL_TCP, "TCP_MAXSEG"),
    (SOL_TCP, "TCP_CONGESTION"),
    (SOL_TCP, "TCP_NOTSENT_LOWAT"),
    (SOL_TCP, "TCP_WINDOW_CLAMP"),
    (SOL_TCP, "TCP_THIN_LINEAR_TIMEOUTS"),
    (SOL_TCP, "TCP_RTO_MAX_MS"),
    (SOL_SOCKET, "SO_RCVBUF"),
    (SOL_SOCKET, "SO_SNDBUF"),
    (SOL_SOCKET, "SO_RCVLOWAT"),
    (SOL_SOCKET, "SO_MAX_PACING_RATE"),
    (SOL_SOCKET, "SO_PRIORITY"),
    (SOL_SOCKET, "SO_MARK"),
    (SOL_SOCKET, "SO_BINDTODEVICE"),
    (SOL_SOCKET, "SO_REUSEADDR"),
    (SOL_SOCKET, "SO_REUSEPORT"),
    (SOL_IP, "IP_TOS"),
    (SOL_IPV6, "IPV6_TCLASS"),
];

/// The bit of an option, if programs can set it.
pub(crate) fn bit(level: i32, name: i32) -> Option<u32> {
    SETTABLE
        .iter()
        .zip(0..)
        .find_map(|((of, option), bit)| (*of == level && option_number(level, option) == Some(name)).then_some(bit))
}

/// Whether the kernel lets programs set an option, on some kernel at least.
#[must_use]
pub fn is_settable(level: i32, name: i32) -> bool {
    bit(level, name).is_some()
}

/// An option with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OptionRow {
    /// As in setsockopt(2).
    pub level: i32,
    /// As in setsockopt(2).
    pub name: i32,
    /// Bytes of the value.
    pub length: u32,
    /// The value, behind which there are zeroes.
    pub value: [u8; 16],
}

impl OptionRow {
    /// None if programs cannot set it, on whatever kernel.
    pub(crate) fn of(setting: &Setting) -> Option<Self> {
        let (mut value, length) = ([0; 16], setting.value.length()?);
        match &setting.value {
            Value::Int(number) => value.iter_mut().zip(number.to_ne_bytes()).for_each(|(to, from)| *to = from),
            Value::Text(text) => value.iter_mut().zip(text.bytes().take(15)).for_each(|(to, from)| *to = from),
            Value::Timeval { .. } | Value::Linger { .. } => return None,
        }
        is_settable(setting.level, setting.name).then_some(Self {
            level: setting.level,
            name: setting.name,
            length,
            value,
        })
    }
}

trait Length {
    fn length(&self) -> Option<u32>;
}

impl Length for Value {
    fn length(&self) -> Option<u32> {
        match self {
            Self::Int(_) => Some(4),
            Self::Text(text) => u32::try_from(text.len().min(15)).ok().filter(|length| *length > 0),
            Self::Timeval { .. } | Self::Linger { .. } => None,
        }
    }
}

/// An option that can be enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforced {
    /// As in setsockopt(2).
    pub level: i32,
    /// As in setsockopt(2).
    pub name: i32,
    /// Its bit.
    pub bit: u64,
    /// From fewer bytes the kernel makes an error of its own.
    pub least: u32,
}

impl Enforced {
    /// All that there are: what is enforced on a socket stays so when another policy takes the place of the one that did it.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let of = |((level, option), bit): (&(i32, &str), u32)| {
            let least = match *option {
                // An empty name takes the socket off its interface, and no byte at all is a zero.
                "SO_BINDTODEVICE" | "IP_TOS" => 0,
                "TCP_CONGESTION" => 1,
                _ => 4,
            };
            Some(Self { level: *level, name: option_number(*level, option)?, bit: 1 << bit, least })
        };
        SETTABLE.iter().zip(0..).filter_map(of).collect()
    }
}
