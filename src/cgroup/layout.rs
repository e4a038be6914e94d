//! Where the programs find what: the fields of what the kernel gives them, of rows of tables, and their stack.

use crate::dns::Scratch;
use crate::fill;

/// Fields of `struct bpf_sock_addr` (linux/bpf.h), what a socket connects to.
pub(crate) mod address {
    pub(crate) const IP4: i16 = 4;
    pub(crate) const IP6: i16 = 8;
    pub(crate) const PORT: i16 = 24;
    pub(crate) const TYPE: i16 = 32;
    pub(crate) const PROTOCOL: i16 = 36;
    pub(crate) const SOCKET: i16 = 64;
}

/// Fields of `struct bpf_sock_ops`, something that a TCP socket goes through.
pub(crate) mod event {
    pub(crate) const WHAT: i16 = 0;
    pub(crate) const FAMILY: i16 = 20;
    pub(crate) const REMOTE_IP4: i16 = 24;
    pub(crate) const LOCAL_IP4: i16 = 28;
    pub(crate) const REMOTE_IP6: i16 = 32;
    pub(crate) const LOCAL_IP6: i16 = 48;
    /// In network order.
    pub(crate) const REMOTE_PORT: i16 = 64;
    /// In this machine's order.
    pub(crate) const LOCAL_PORT: i16 = 68;
    /// Which events the socket is to have besides those that every socket has.
    pub(crate) const FLAGS: i16 = 84;
    pub(crate) const SOCKET: i16 = 184;
    /// BPF_SOCK_OPS_STATE_CB_FLAG: each change of the connection's state.
    pub(crate) const STATES: i32 = 4;
    /// BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB: it has connected.
    pub(crate) const CONNECTED: i32 = 4;
    /// BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB: it was accepted.
    pub(crate) const ACCEPTED: i32 = 5;
    /// BPF_SOCK_OPS_TCP_LISTEN_CB
    pub(crate) const LISTENS: i32 = 11;
}

/// Fields of `struct bpf_sockopt`, a call of setsockopt.
pub(crate) mod call {
    pub(crate) const SOCKET: i16 = 0;
    pub(crate) const LEVEL: i16 = 24;
    pub(crate) const NAME: i16 = 28;
    pub(crate) const LENGTH: i16 = 32;
}

/// Fields of `struct bpf_sock`.
pub(crate) mod socket {
    pub(crate) const SOURCE_IP4: i16 = 24;
    pub(crate) const SOURCE_IP6: i16 = 28;
}

/// Where the stack has what.
pub(crate) mod stack {
    /// The key of a network: the length of its prefix, the class, the address.
    pub(crate) const NETWORK: i16 = -24;
    pub(crate) const CLASS: i16 = NETWORK + 4;
    pub(crate) const ADDRESS: i16 = NETWORK + 8;
    /// The key of an array, or level and name of an option.
    pub(crate) const KEY: i16 = -32;
    /// The slot of the profile.
    pub(crate) const SLOT: i16 = -40;
    /// Which slot of a profile.
    pub(crate) const KIND: i16 = -48;
    /// A register that is needed again.
    pub(crate) const SAVED: i16 = -56;
    /// The first class of networks for the process that the program runs for, if rules ask for it.
    pub(crate) const PROCESS: i16 = -72;
    /// The name of its executable: 256 bytes.
    pub(crate) const NAME: i16 = -328;
    /// What the names that the address is known by add to the class of networks, if rules name hosts. From here on, the name of the
    /// executable is not needed any more.
    pub(crate) const HOST: i16 = -80;
    /// The port while they are looked for, and a place for that.
    pub(crate) const PORT: i16 = -88;
    pub(crate) const LEFT: i16 = -96;
    /// The answer: the profile in the lower half, what is counted in the upper.
    pub(crate) const ANSWER: i16 = -64;
    /// What is needed to fill in.
    pub(crate) const FILL: i16 = -384;
}

pub(crate) const SCRATCH: Scratch = Scratch { key: stack::KEY, left: stack::LEFT };
pub(crate) const FILL: fill::Stack = fill::Stack { key: stack::KEY, own: stack::FILL };
/// Where the number of the counters begins in what is remembered of a socket.
pub(crate) const NUMBER_BIT: i32 = 48;
pub(crate) const SOCK_STREAM: i32 = 1;
pub(crate) const SOCK_DGRAM: i32 = 2;
pub(crate) const IPPROTO_TCP: i32 = 6;
pub(crate) const IPPROTO_UDP: i32 = 17;
pub(crate) const AF_INET: i32 = 2;
/// Each option; in it the length and the value.
pub(crate) const OPTION_LENGTH: i16 = 8;
pub(crate) const OPTION_VALUE: i32 = 16;
/// Of an option that was tried: what the kernel answered when it was asked for it, how many bytes it was asked for, and those.
pub(crate) const RESULT_READ: i16 = 4;
pub(crate) const RESULT_LENGTH: i16 = 8;
pub(crate) const RESULT_VALUE: i16 = 16;
/// As many bytes as the value of an option may have.
pub(crate) const MOST_BYTES: i32 = 16;
/// As much of an option's value as the kernel shows to programs.
pub(crate) const PAGE: i32 = 4096;
/// Halving 2^20 ranges so often leaves one.
pub(crate) const HALVINGS: usize = 20;

/// A number of 32 bits in network order, as this machine loads it.
pub(crate) const fn network_order(number: u32) -> i32 {
    number.to_be() as i32
}
