//! The one table of options: key, kernel option, accepted values, phases, since when, where it is documented.
//!
//! The parser, the errors, the environment's shortcuts, the reference file and the tests are fed from it.

use crate::in_kernel::{self, InKernel};
use crate::kernel::{ip, ipv6, socket, tcp};
use crate::label::Label;
use crate::options::{Phase, Phases};
use crate::units::{DisplayBytes, DisplayNumber};

pub use crate::kernel::{
    KernelOption, KernelOptions, SO_KEEPALIVE, TCP_FASTOPEN, TCP_FASTOPEN_CONNECT, TCP_KEEPCNT, TCP_KEEPIDLE,
    TCP_KEEPINTVL, TCP_USER_TIMEOUT,
};
pub use crate::key::Key;

impl Key {
    /// The key's row in the table.
    #[must_use]
    pub fn entry(self) -> &'static Entry {
        // Every key has a row, in the same order: a test holds the table against the enumeration.
        &CATALOG[self as usize]
    }
}

/// What a key accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// A table `{ time, interval, probes }`, `"on"` or `"off"`.
    Keepalive,
    /// A duration, `"auto"` or `"off"`, held in milliseconds.
    UserTimeout,
    /// A duration that [`promise::within`](crate::promise::within) can promise.
    DeadPeerTimeout,
    /// `"reset"`, a duration in whole seconds, or `"off"`.
    Linger,
    /// A boolean (outbound) or a queue length (listeners).
    Fastopen,
    /// A list of `{ level, name, value }`.
    Raw,
    /// A boolean or `"fill"`, no kernel option.
    Enforce,
    /// A duration of at least a second, and no longer than the kernel itself goes on.
    ConnectTimeout,
    /// true or false.
    Boolean,
    /// false for none, true for the system's own.
    TimeWait,
    /// A whole number.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// A duration in whole seconds.
    Seconds {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// TCP_DEFER_ACCEPT: the kernel keeps a number of SYN-ACK retransmissions, so only some durations exist.
    Retransmissions,
    /// A duration in whole milliseconds, or `"off"`, as struct timeval.
    Timeval,
    /// A size in bytes.
    Size {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// Bytes per second, or `"unlimited"`.
    Rate,
    /// A differentiated services code point, number or name (RFC 2474, RFC 2597, RFC 3246, RFC 5865, RFC 8622).
    Dscp,
    /// A name of at most so many bytes.
    Name {
        /// Longest, without the terminating NUL.
        longest: usize,
    },
}

impl Accepts {
    /// The values in words, but for `system`, which every kernel option takes.
    #[must_use]
    pub fn in_words(self) -> String {
        let seconds = |least: u64, most: u64| {
            format!("{} to {}", DisplayNumber(least * 1_000_000), DisplayNumber(most * 1_000_000))
        };
        match self {
            Self::Keepalive => {
                "60s,20s,4 for example (time and interval 1s to 32767s, 1 to 127 probes), on, off".into()
            }
            Self::UserTimeout => {
                format!("1ms to {}, off, auto (time + interval x probes of keepalive)", DisplayNumber(INT_MAX * 1_000))
            }
            Self::DeadPeerTimeout => {
                format!("{} to {}", DisplayNumber(LEAST_DEAD_PEER_TIMEOUT), DisplayNumber(LONGEST_DEAD_PEER_TIMEOUT))
            }
            Self::Linger => format!("reset, {}, off", seconds(1, INT_MAX)),
            Self::Fastopen => "true, false, 1 to 65535".into(),
            Self::Raw => "a list of { level, name, value } or { level, name, value, at }".into(),
            Self::ConnectTimeout => format!("{} to {}", DisplayNumber(1_000_000), DisplayNumber(127_000_000)),
            Self::Boolean | Self::TimeWait => "true, false".into(),
            Self::Enforce => "true, false, fill".into(),
            Self::Integer { min, max } => format!("{min} to {max}"),
            Self::Seconds { min, max } => format!("{}, whole seconds", seconds(min, max)),
            Self::Retransmissions => "1s, 3s, 7s, 15s, 31s, 63s, 127s, 247s and so on in steps of 120 s".into(),
            Self::Timeval => format!("1ms to {}, off", DisplayNumber(INT_MAX * 1_000_000)),
            Self::Size { min, max } => format!("{} to {}", DisplayBytes(min), DisplayBytes(max)),
            Self::Rate => format!("1B to {} a second, unlimited", DisplayBytes(u64::from(u32::MAX) - 1)),
            Self::Dscp => "0 to 63, or a name: le, ef, va, cs0 to cs7, af11 to af43".into(),
            Self::Name { longest } => format!("1 to {longest} printable characters"),
        }
    }
}

/// One row of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The options of the kernel that it sets.
    pub kernel: KernelOptions,
    /// The values that it accepts.
    pub accepts: Accepts,
    /// When it can be set.
    pub phases: Phases,
}

/// The columns that the command alone needs. They are a table of their own, which the library does not have: the loader would
/// have to write each address in it.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// What programs in the kernel (`sockopt attach`) do for it.
    pub in_kernel: InKernel,
    /// The kernel version that brought it.
    pub since: &'static str,
    /// The page or file that documents it.
    pub source: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
}

impl Entry {
    /// What else is said of the key.
    #[must_use]
    pub fn about(&self) -> &'static About {
        &ABOUT[self.key as usize]
    }
}

use Phase::{Accept, AcceptAlways, Bind, BindDatagram, Connect, Connected, Datagram, Listen};

#[expect(clippy::too_many_arguments, reason = "one for each column")]
const fn row(
    key: Key,
    kernel: &[KernelOption],
    accepts: Accepts,
    phases: &[Phase],
    in_kernel: InKernel,
    since: &'static str,
    source: &'static str,
    summary: &'static str,
) -> (Entry, About) {
    let entry = Entry { key, kernel: KernelOptions::of(kernel), accepts, phases: Phases::of(phases) };
    (entry, About { in_kernel, since, source, summary })
}

/// Programs in the kernel set it, in every kernel that they are attached to.
const BPF: InKernel = InKernel::Bpf { since: in_kernel::OLDEST };
/// Linux 6.1 and newer.
const BPF_6_1: InKernel = InKernel::Bpf { since: "6.1" };
const NO: InKernel = InKernel::NoOption;

/// Connecting and listening TCP sockets; accepted ones inherit it.
const TCP: &[Phase] = &[Connect, Listen, Accept];
/// The same, and UDP sockets that connect, or bind where a rule with `listen` is for them.
const IP: &[Phase] = &[Connect, Listen, Accept, Datagram, BindDatagram];
const INT_MAX: u64 = 2_147_483_647;

/// The shortest promise that can be kept, microseconds: one second a timer, and a retransmission before the
/// user timeout counts.
pub const LEAST_DEAD_PEER_TIMEOUT: u64 = 5_000_000;
/// The longest promise, microseconds.
pub const LONGEST_DEAD_PEER_TIMEOUT: u64 = 86_400_000_000;

/// Keys that say the same in two ways: the first excludes the others, in one table or among the variables.
pub(crate) const EXCLUSIVE: &[(Key, &[Key], &str)] = &[
    (Key::DeadPeerTimeout, &[Key::Keepalive, Key::UserTimeout], "which already sets it"),
    (Key::TimeWait, &[Key::FinTimeout], "which is the same kernel option (TCP_LINGER2)"),
];

/// The table, in the order of [`Key::ALL`], which is the order in which options are set.
#[rustfmt::skip] // a table reads by its columns
const ROWS: [(Entry, About); Key::ALL.len()] = [
    row(Key::Keepalive, &[SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT], Accepts::Keepalive, TCP, BPF, "2.4", "tcp(7)",
        "probe an idle peer: first after `time`, then every `interval`; end the connection after `probes` without an answer"),
    row(Key::UserTimeout, &[tcp("TCP_USER_TIMEOUT")], Accepts::UserTimeout, TCP, BPF, "2.6.37", "tcp(7), RFC 5482",
        "how long sent data may stay unacknowledged; also limits connecting, and how long the peer may keep its receive window closed"),
    row(Key::DeadPeerTimeout, &[], Accepts::DeadPeerTimeout, TCP, BPF, "2.6.37", "tcp(7)",
        "notice a vanished peer within this time, in every TCP state: sets both keepalive and user_timeout; the time counts from the peer's last packet, or from when the data was sent"),
    row(Key::Linger, &[socket("SO_LINGER")], Accepts::Linger, TCP, NO, "2.2", "socket(7)",
        "what close does: \"reset\" sends RST, discards unsent data, leaves no TIME_WAIT; with a duration, close waits that long for unsent data"),
    row(Key::Nodelay, &[tcp("TCP_NODELAY")], Accepts::Boolean, TCP, BPF_6_1, "2.2", "tcp(7)",
        "send small segments at once (no Nagle algorithm)"),
    row(Key::Quickack, &[tcp("TCP_QUICKACK")], Accepts::Boolean, &[Connect, Listen, Accept, AcceptAlways], NO, "2.4.4", "tcp(7)",
        "acknowledge at once; the kernel may switch this off again by itself"),
    row(Key::SynRetries, &[tcp("TCP_SYNCNT")], Accepts::Integer { min: 1, max: 127 }, &[Connect], BPF, "2.4", "tcp(7)",
        "retransmissions of the SYN before connecting fails"),
    row(Key::ConnectTimeout, &[tcp("TCP_USER_TIMEOUT")], Accepts::ConnectTimeout, &[Connect, Connected], BPF_6_1, "2.6.37", "tcp(7)",
        "how long connecting may take: a user timeout until the connection is established"),
    row(Key::DeferAccept, &[tcp("TCP_DEFER_ACCEPT")], Accepts::Retransmissions, &[Listen], NO, "2.4", "tcp(7)",
        "accept returns a connection only when its first data has arrived, or after about this time"),
    row(Key::ReceiveTimeout, &[socket("SO_RCVTIMEO")], Accepts::Timeval, &[Connect, Accept, AcceptAlways], NO, "2.3.41", "socket(7)",
        "a blocking receive fails with EAGAIN after this time"),
    row(Key::SendTimeout, &[socket("SO_SNDTIMEO")], Accepts::Timeval, &[Connect, Accept, AcceptAlways], NO, "2.3.41", "socket(7)",
        "a blocking send fails with EAGAIN, a blocking connect with EINPROGRESS, after this time"),
    row(Key::ReceiveBuffer, &[socket("SO_RCVBUF")], Accepts::Size { min: 1_152, max: INT_MAX / 2 }, IP, BPF, "2.2", "socket(7)",
        "size of the receive buffer; the kernel limits it to net.core.rmem_max, doubles it, and no longer tunes it automatically"),
    row(Key::SendBuffer, &[socket("SO_SNDBUF")], Accepts::Size { min: 2_304, max: INT_MAX / 2 }, IP, BPF, "2.2", "socket(7)",
        "size of the send buffer; the kernel limits it to net.core.wmem_max, doubles it, and no longer tunes it automatically"),
    row(Key::MaxSegment, &[tcp("TCP_MAXSEG")], Accepts::Integer { min: 88, max: 32_767 }, &[Connect, Listen], BPF_6_1, "2.2", "tcp(7)",
        "largest TCP segment in bytes (MSS)"),
    row(Key::Congestion, &[tcp("TCP_CONGESTION")], Accepts::Name { longest: 15 }, TCP, BPF, "2.6.13", "tcp(7)",
        "congestion control algorithm, one of net.ipv4.tcp_allowed_congestion_control"),
    row(Key::NotsentLowat, &[tcp("TCP_NOTSENT_LOWAT")], Accepts::Size { min: 1, max: INT_MAX }, TCP, BPF, "3.12", "tcp(7)",
        "the socket is writable only while fewer bytes than this are unsent"),
    row(Key::FinTimeout, &[tcp("TCP_LINGER2")], Accepts::Seconds { min: 1, max: 120 }, TCP, NO, "2.4", "tcp(7)",
        "how long a closed connection waits in FIN_WAIT2 for the peer's FIN"),
    row(Key::TimeWait, &[tcp("TCP_LINGER2")], Accepts::TimeWait, TCP, NO, "2.4", "tcp(7), net/ipv4/tcp.c",
        "false: close sends all data and FIN as always, and leaves no TIME_WAIT when the peer has acknowledged them"),
    row(Key::MaxPacingRate, &[socket("SO_MAX_PACING_RATE")], Accepts::Rate, TCP, BPF, "3.13", "socket(7)",
        "largest sending rate in bytes per second, for example \"10MiB\""),
    row(Key::Fastopen, &[TCP_FASTOPEN_CONNECT, TCP_FASTOPEN], Accepts::Fastopen, &[Connect, Listen], NO, "4.11", "tcp(7), RFC 7413",
        "true: outbound connections send data in the SYN; a number: length of the queue of such connections on a listening socket, at most net.core.somaxconn"),
    row(Key::Ttl, &[ip("IP_TTL"), ipv6("IPV6_UNICAST_HOPS")], Accepts::Integer { min: 1, max: 255 }, IP, NO, "2.2", "ip(7), ipv6(7)",
        "time to live / hop limit of sent packets"),
    row(Key::Dscp, &[ip("IP_TOS"), ipv6("IPV6_TCLASS")], Accepts::Dscp, IP, BPF, "2.2", "ip(7), RFC 2474",
        "differentiated services code point (DSCP) of sent packets, a number or a name such as \"ef\", \"af41\", \"cs6\""),
    row(Key::Priority, &[socket("SO_PRIORITY")], Accepts::Integer { min: 0, max: INT_MAX as i64 },
        &[Connect, Listen, Accept, AcceptAlways, Datagram, BindDatagram], BPF, "2.2", "socket(7)",
        "queueing priority; above 6 needs CAP_NET_ADMIN, or CAP_NET_RAW since 5.17"),
    row(Key::Mark, &[socket("SO_MARK")], Accepts::Integer { min: 0, max: u32::MAX as i64 }, IP, BPF, "2.6.25", "socket(7)",
        "packet mark for routing and filters; needs CAP_NET_ADMIN, or CAP_NET_RAW since 5.17"),
    row(Key::Interface, &[socket("SO_BINDTODEVICE")], Accepts::Name { longest: 15 }, IP, BPF, "2.2", "socket(7)",
        "use only this network interface, but not for the C library's own DNS queries, nor for UDP sent without connect or bind; needs CAP_NET_RAW before Linux 5.7"),
    row(Key::LocalPortsLate, &[ip("IP_BIND_ADDRESS_NO_PORT")], Accepts::Boolean, &[Bind], NO, "4.2", "ip(7)",
        "choose a client's port only at connect, not at a bind to port 0: the kernel then knows the peer and has more ports to choose from"),
    row(Key::ReuseAddress, &[socket("SO_REUSEADDR")], Accepts::Boolean, &[Bind], InKernel::AtBind, "2.2", "socket(7)",
        "allow bind to an address that connections in TIME_WAIT still use"),
    row(Key::ReusePort, &[socket("SO_REUSEPORT")], Accepts::Boolean, &[Bind], InKernel::AtBind, "3.9", "socket(7)",
        "let several sockets bind to the same address and port and share the incoming connections"),
    row(Key::Freebind, &[ip("IP_FREEBIND")], Accepts::Boolean, &[Bind, BindDatagram], NO, "2.4", "ip(7)",
        "allow bind to an address that this host does not have, or not yet"),
    row(Key::Transparent, &[ip("IP_TRANSPARENT")], Accepts::Boolean, &[Bind, BindDatagram], NO, "2.6.24", "ip(7)",
        "allow bind to any address, and accept connections to any address (TPROXY, for transparent proxies); needs CAP_NET_ADMIN or CAP_NET_RAW"),
    row(Key::Raw, &[], Accepts::Raw, &[Connect, Listen, Accept, AcceptAlways, Bind], InKernel::ByOption, "2.2", "setsockopt(2)",
        "options that have no key of their own, each with level, name and value; at: the call before which it is set (bind, connect, \
         listen) or after which (accept); without at, it is set before connect and listen, or before bind if it has an effect only there"),
    row(Key::Enforce, &[], Accepts::Enforce, &[], BPF, "2.2", "",
        "who wins if the program sets an option itself: true (default): the rule, and a later setsockopt of the program returns success \
         and changes nothing; false: the program; fill: the program, and the rule sets only what it has left at the system's default"),
];

/// What every key means.
pub static CATALOG: &[Entry] = &{
    let mut entries = [ROWS[0].0; ROWS.len()];
    let mut row = 0;
    while row < ROWS.len() {
        entries[row] = ROWS[row].0;
        row += 1;
    }
    entries
};

static ABOUT: &[About] = &{
    let mut about = [ROWS[0].1; ROWS.len()];
    let mut row = 0;
    while row < ROWS.len() {
        about[row] = ROWS[row].1;
        row += 1;
    }
    about
};

const fn dscp(name: &str, code_point: u8) -> (Label<4>, u8) {
    (Label::new(name), code_point)
}

/// Code points by name: (name, DSCP).
pub const DSCP_NAMES: &[(Label<4>, u8)] = &[
    dscp("cs0", 0),
    dscp("le", 1),
    dscp("cs1", 8),
    dscp("af11", 10),
    dscp("af12", 12),
    dscp("af13", 14),
    dscp("cs2", 16),
    dscp("af21", 18),
    dscp("af22", 20),
    dscp("af23", 22),
    dscp("cs3", 24),
    dscp("af31", 26),
    dscp("af32", 28),
    dscp("af33", 30),
    dscp("cs4", 32),
    dscp("af41", 34),
    dscp("af42", 36),
    dscp("af43", 38),
    dscp("cs5", 40),
    dscp("va", 44),
    dscp("ef", 46),
    dscp("cs6", 48),
    dscp("cs7", 56),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_row() {
        assert_eq!(CATALOG.len(), Key::ALL.len());
        for (&key, entry) in Key::ALL.iter().zip(CATALOG) {
            assert_eq!(key, entry.key);
            assert_eq!(Key::from_name(key.name()), Some(key));
        }
    }
}
