//! The keys of the configuration.

use crate::label::Label;

macro_rules! keys {
    ($($(#[$doc:meta])* $key:ident = $name:literal),* $(,)?) => {
        /// A key of the configuration.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Key { $($(#[$doc])* $key),* }

        impl Key {
            /// Every key, in the order in which their options are set.
            pub const ALL: &'static [Self] = &[$(Self::$key),*];

            /// In the same order.
            const NAMES: [Label<20>; Self::ALL.len()] = [$(Label::new($name)),*];

            /// As written in the configuration.
            #[must_use]
            pub const fn name(self) -> &'static str {
                Self::NAMES[self as usize].as_str()
            }

            /// The key written so.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().zip(&Self::NAMES).find(|(_, known)| *known == name).map(|(key, _)| *key)
            }
        }
    };
}

keys! {
    /// SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT.
    #[doc(alias = "SO_KEEPALIVE")]
    Keepalive = "keepalive",
    /// TCP_USER_TIMEOUT.
    #[doc(alias = "TCP_USER_TIMEOUT")]
    UserTimeout = "user_timeout",
    /// Keepalive and user timeout from one promise.
    DeadPeerTimeout = "dead_peer_timeout",
    /// SO_LINGER.
    #[doc(alias = "SO_LINGER")]
    Linger = "linger",
    /// TCP_NODELAY.
    Nodelay = "nodelay",
    /// TCP_QUICKACK.
    Quickack = "quickack",
    /// TCP_SYNCNT.
    #[doc(alias = "TCP_SYNCNT")]
    SynRetries = "syn_retries",
    /// TCP_USER_TIMEOUT, while connecting.
    ConnectTimeout = "connect_timeout",
    /// TCP_DEFER_ACCEPT.
    DeferAccept = "defer_accept",
    /// SO_RCVTIMEO.
    #[doc(alias = "SO_RCVTIMEO")]
    ReceiveTimeout = "receive_timeout",
    /// SO_SNDTIMEO.
    #[doc(alias = "SO_SNDTIMEO")]
    SendTimeout = "send_timeout",
    /// SO_RCVBUF.
    #[doc(alias = "SO_RCVBUF")]
    ReceiveBuffer = "receive_buffer",
    /// SO_SNDBUF.
    #[doc(alias = "SO_SNDBUF")]
    SendBuffer = "send_buffer",
    /// TCP_MAXSEG.
    MaxSegment = "max_segment",
    /// TCP_CONGESTION.
    Congestion = "congestion",
    /// TCP_NOTSENT_LOWAT.
    NotsentLowat = "notsent_lowat",
    /// TCP_LINGER2.
    #[doc(alias = "TCP_LINGER2")]
    FinTimeout = "fin_timeout",
    /// TCP_LINGER2 = -1.
    #[doc(alias = "TIME_WAIT")]
    TimeWait = "time_wait",
    /// SO_MAX_PACING_RATE.
    MaxPacingRate = "max_pacing_rate",
    /// TCP_FASTOPEN_CONNECT and TCP_FASTOPEN.
    Fastopen = "fastopen",
    /// IP_TTL and IPV6_UNICAST_HOPS.
    Ttl = "ttl",
    /// IP_TOS and IPV6_TCLASS.
    #[doc(alias = "IP_TOS")]
    Dscp = "dscp",
    /// SO_PRIORITY.
    Priority = "priority",
    /// SO_MARK.
    Mark = "mark",
    /// SO_BINDTODEVICE.
    #[doc(alias = "SO_BINDTODEVICE")]
    Interface = "interface",
    /// IP_BIND_ADDRESS_NO_PORT.
    #[doc(alias = "IP_BIND_ADDRESS_NO_PORT")]
    LocalPortsLate = "local_ports_late",
    /// SO_REUSEADDR.
    ReuseAddress = "reuse_address",
    /// SO_REUSEPORT.
    ReusePort = "reuse_port",
    /// IP_FREEBIND.
    #[doc(alias = "IP_FREEBIND")]
    Freebind = "freebind",
    /// IP_TRANSPARENT.
    #[doc(alias = "IP_TRANSPARENT")]
    Transparent = "transparent",
    /// Any option by level and name.
    Raw = "raw",
    /// Whether the rule or the program has the last word.
    Enforce = "enforce",
}
