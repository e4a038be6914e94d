//! The kernel's names and numbers of levels and options: what `raw` accepts by name, and what logs and errors print.
//!
//! The numbers are those of asm-generic (x86-64, aarch64, riscv64, ...) and of the protocols' headers, which are
//! the same everywhere. `socket` checks at compile time that libc agrees on the machine that is built for.

use crate::label::Label;

/// setsockopt level of socket(7).
pub const SOL_SOCKET: i32 = 1;
/// setsockopt level of ip(7).
pub const SOL_IP: i32 = 0;
/// setsockopt level of tcp(7).
pub const SOL_TCP: i32 = 6;
/// setsockopt level of ipv6(7).
pub const SOL_IPV6: i32 = 41;

const LEVELS: &[(Label<12>, i32)] = &[
    (Label::new("SOL_SOCKET"), SOL_SOCKET),
    (Label::new("SOL_IP"), SOL_IP),
    (Label::new("SOL_TCP"), SOL_TCP),
    (Label::new("SOL_IPV6"), SOL_IPV6),
    (Label::new("IPPROTO_IP"), SOL_IP),
    (Label::new("IPPROTO_TCP"), SOL_TCP),
    (Label::new("IPPROTO_IPV6"), SOL_IPV6),
];

const fn option(level: i32, name: &str, number: i32) -> (i32, Label<24>, i32) {
    (level, Label::new(name), number)
}

/// Options that take an integer or a string, by level: (level, name, number).
#[rustfmt::skip] // a table reads by its columns
pub const OPTIONS: &[(i32, Label<24>, i32)] = &[
    option(SOL_SOCKET, "SO_DEBUG", 1),
    option(SOL_SOCKET, "SO_REUSEADDR", 2),
    option(SOL_SOCKET, "SO_DONTROUTE", 5),
    option(SOL_SOCKET, "SO_BROADCAST", 6),
    option(SOL_SOCKET, "SO_SNDBUF", 7),
    option(SOL_SOCKET, "SO_RCVBUF", 8),
    option(SOL_SOCKET, "SO_KEEPALIVE", 9),
    option(SOL_SOCKET, "SO_OOBINLINE", 10),
    option(SOL_SOCKET, "SO_NO_CHECK", 11),
    option(SOL_SOCKET, "SO_PRIORITY", 12),
    option(SOL_SOCKET, "SO_LINGER", 13),
    option(SOL_SOCKET, "SO_REUSEPORT", 15),
    option(SOL_SOCKET, "SO_PASSCRED", 16),
    option(SOL_SOCKET, "SO_RCVLOWAT", 18),
    option(SOL_SOCKET, "SO_SNDLOWAT", 19),
    option(SOL_SOCKET, "SO_RCVTIMEO", 20),
    option(SOL_SOCKET, "SO_SNDTIMEO", 21),
    option(SOL_SOCKET, "SO_BINDTODEVICE", 25),
    option(SOL_SOCKET, "SO_TIMESTAMP", 29),
    option(SOL_SOCKET, "SO_SNDBUFFORCE", 32),
    option(SOL_SOCKET, "SO_RCVBUFFORCE", 33),
    option(SOL_SOCKET, "SO_MARK", 36),
    option(SOL_SOCKET, "SO_TIMESTAMPING", 37),
    option(SOL_SOCKET, "SO_RXQ_OVFL", 40),
    option(SOL_SOCKET, "SO_PEEK_OFF", 42),
    option(SOL_SOCKET, "SO_NOFCS", 43),
    option(SOL_SOCKET, "SO_LOCK_FILTER", 44),
    option(SOL_SOCKET, "SO_BUSY_POLL", 46),
    option(SOL_SOCKET, "SO_MAX_PACING_RATE", 47),
    option(SOL_SOCKET, "SO_INCOMING_CPU", 49),
    option(SOL_SOCKET, "SO_ZEROCOPY", 60),
    option(SOL_SOCKET, "SO_TXTIME", 61),
    option(SOL_SOCKET, "SO_BINDTOIFINDEX", 62),
    option(SOL_SOCKET, "SO_PREFER_BUSY_POLL", 69),
    option(SOL_SOCKET, "SO_BUSY_POLL_BUDGET", 70),
    option(SOL_SOCKET, "SO_BUF_LOCK", 72),
    option(SOL_SOCKET, "SO_RESERVE_MEM", 73),
    option(SOL_SOCKET, "SO_TXREHASH", 74),
    option(SOL_TCP, "TCP_NODELAY", 1),
    option(SOL_TCP, "TCP_MAXSEG", 2),
    option(SOL_TCP, "TCP_CORK", 3),
    option(SOL_TCP, "TCP_KEEPIDLE", 4),
    option(SOL_TCP, "TCP_KEEPINTVL", 5),
    option(SOL_TCP, "TCP_KEEPCNT", 6),
    option(SOL_TCP, "TCP_SYNCNT", 7),
    option(SOL_TCP, "TCP_LINGER2", 8),
    option(SOL_TCP, "TCP_DEFER_ACCEPT", 9),
    option(SOL_TCP, "TCP_WINDOW_CLAMP", 10),
    option(SOL_TCP, "TCP_QUICKACK", 12),
    option(SOL_TCP, "TCP_CONGESTION", 13),
    option(SOL_TCP, "TCP_THIN_LINEAR_TIMEOUTS", 16),
    option(SOL_TCP, "TCP_THIN_DUPACK", 17),
    option(SOL_TCP, "TCP_USER_TIMEOUT", 18),
    option(SOL_TCP, "TCP_FASTOPEN", 23),
    option(SOL_TCP, "TCP_TIMESTAMP", 24),
    option(SOL_TCP, "TCP_NOTSENT_LOWAT", 25),
    option(SOL_TCP, "TCP_SAVE_SYN", 27),
    option(SOL_TCP, "TCP_FASTOPEN_CONNECT", 30),
    option(SOL_TCP, "TCP_FASTOPEN_NO_COOKIE", 34),
    option(SOL_TCP, "TCP_INQ", 36),
    option(SOL_TCP, "TCP_TX_DELAY", 37),
    option(SOL_IP, "IP_TOS", 1),
    option(SOL_IP, "IP_TTL", 2),
    option(SOL_IP, "IP_OPTIONS", 4),
    option(SOL_IP, "IP_RECVTTL", 12),
    option(SOL_IP, "IP_MTU_DISCOVER", 10),
    option(SOL_IP, "IP_RECVERR", 11),
    option(SOL_IP, "IP_RECVTOS", 13),
    option(SOL_IP, "IP_FREEBIND", 15),
    option(SOL_IP, "IP_TRANSPARENT", 19),
    option(SOL_IP, "IP_MINTTL", 21),
    option(SOL_IP, "IP_NODEFRAG", 22),
    option(SOL_IP, "IP_BIND_ADDRESS_NO_PORT", 24),
    option(SOL_IP, "IP_UNICAST_IF", 50),
    option(SOL_IP, "IP_LOCAL_PORT_RANGE", 51),
    option(SOL_IPV6, "IPV6_UNICAST_HOPS", 16),
    option(SOL_IPV6, "IPV6_MTU_DISCOVER", 23),
    option(SOL_IPV6, "IPV6_MTU", 24),
    option(SOL_IPV6, "IPV6_RECVERR", 25),
    option(SOL_IPV6, "IPV6_V6ONLY", 26),
    option(SOL_IPV6, "IPV6_TCLASS", 67),
    option(SOL_IPV6, "IPV6_DONTFRAG", 62),
    option(SOL_IPV6, "IPV6_AUTOFLOWLABEL", 70),
    option(SOL_IPV6, "IPV6_ADDR_PREFERENCES", 72),
    option(SOL_IPV6, "IPV6_MINHOPCOUNT", 73),
    option(SOL_IPV6, "IPV6_FREEBIND", 78),
    option(SOL_IPV6, "IPV6_TRANSPARENT", 75),
    option(SOL_IPV6, "IPV6_UNICAST_IF", 76),
    option(SOL_TCP, "TCP_RTO_MAX_MS", 44),
    option(SOL_TCP, "TCP_RTO_MIN_US", 45),
    option(SOL_TCP, "TCP_DELACK_MAX_US", 46),
];

/// The number of a level by its name, e.g. `SOL_TCP` or `IPPROTO_TCP`.
#[must_use]
pub fn level_number(name: &str) -> Option<i32> {
    LEVELS.iter().find(|(known, _)| known == name).map(|&(_, number)| number)
}

/// The name of a level, e.g. `SOL_TCP`.
#[must_use]
pub fn level_name(level: i32) -> Option<&'static str> {
    LEVELS.iter().find(|(_, number)| *number == level).map(|(name, _)| name.as_str())
}

/// The number of an option by its name within a level.
#[must_use]
pub fn option_number(level: i32, name: &str) -> Option<i32> {
    OPTIONS.iter().find(|(of, known, _)| *of == level && known == name).map(|&(.., number)| number)
}

/// The name of an option, e.g. `TCP_USER_TIMEOUT`.
#[must_use]
pub fn option_name(level: i32, number: i32) -> Option<&'static str> {
    OPTIONS.iter().find(|(of, _, known)| *of == level && *known == number).map(|(_, name, _)| name.as_str())
}

/// The name of the level that an option belongs to.
#[must_use]
pub fn level_of(name: &str) -> Option<&'static str> {
    level_name(OPTIONS.iter().find(|(_, known, _)| known == name)?.0)
}

/// Every level name that is understood.
pub fn level_names() -> impl Iterator<Item = &'static str> {
    LEVELS.iter().map(|(name, _)| name.as_str())
}

/// Every option name of a level.
pub fn option_names(level: i32) -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().filter(move |(of, ..)| *of == level).map(|(_, name, _)| name.as_str())
}

/// What bind(2) looks at, and listen too late: an entry of `raw` is set there unless it says otherwise, and where a rule is for
/// sockets that connect, before connect.
pub(crate) const BEFORE_BIND: [(i32, i32); 9] = [
    (SOL_SOCKET, number("SO_REUSEADDR")),
    (SOL_SOCKET, number("SO_REUSEPORT")),
    (SOL_IP, number("IP_FREEBIND")),
    (SOL_IP, number("IP_TRANSPARENT")),
    (SOL_IP, number("IP_BIND_ADDRESS_NO_PORT")),
    (SOL_IP, number("IP_LOCAL_PORT_RANGE")),
    (SOL_IPV6, number("IPV6_V6ONLY")),
    (SOL_IPV6, number("IPV6_FREEBIND")),
    (SOL_IPV6, number("IPV6_TRANSPARENT")),
];

/// Those of them at which neither connect nor listen looks (net/ipv4/af_inet.c, __inet_bind; net/ipv6/af_inet6.c).
pub(crate) const ONLY_IN_BIND: [(i32, i32); 3] =
    [(SOL_IP, number("IP_FREEBIND")), (SOL_IP, number("IP_BIND_ADDRESS_NO_PORT")), (SOL_IPV6, number("IPV6_FREEBIND"))];

/// What the kernel reads from the value of an option that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An int, of whose bytes a text would be taken.
    Number,
    /// A name; of an int its bytes.
    Text,
    /// Either.
    Any,
    /// More than one int, and the key that sets it.
    Structure(Option<&'static str>),
}

/// None for an option that is not known here.
pub(crate) fn shape(level: i32, number: i32) -> Option<Shape> {
    Some(match option_name(level, number)? {
        "SO_LINGER" => Shape::Structure(Some("linger")),
        "SO_RCVTIMEO" => Shape::Structure(Some("receive_timeout")),
        "SO_SNDTIMEO" => Shape::Structure(Some("send_timeout")),
        "SO_TXTIME" => Shape::Structure(None),
        "SO_BINDTODEVICE" | "TCP_CONGESTION" => Shape::Text,
        "IP_OPTIONS" => Shape::Any,
        _ => Shape::Number,
    })
}

/// The number of an option that this crate itself names: a typing error fails the build.
pub(crate) const fn number(name: &str) -> i32 {
    let mut row = 0;
    while row < OPTIONS.len() {
        if same(OPTIONS[row].1.as_bytes(), name.as_bytes()) {
            return OPTIONS[row].2;
        }
        row += 1;
    }
    panic!("no such option in OPTIONS")
}

const fn same(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let mut index = 0;
    while index < left.len() {
        if left[index] != right[index] {
            return false;
        }
        index += 1;
    }
    true
}
