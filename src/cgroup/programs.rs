//! The programs that run in the kernel. They are the same for every policy: what they do is in the tables.

use crate::assembler::Register::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use crate::assembler::Size::{Double, Word};
use crate::assembler::When::{Above, AtLeast, Equal, NotEqual};
use crate::assembler::{Assembler, Helper, Label, Map, NoProgram, Program, Register};
use crate::compile::{Kind, MOST_OPTIONS, SLOTS};
use crate::executable::{self, Fields};
use crate::fill;
use crate::tables::{Class, LISTEN, LOCAL, TO};

/// Fields of `struct bpf_sock_addr` (linux/bpf.h), what a socket connects to.
mod address {
    pub(super) const IP4: i16 = 4;
    pub(super) const IP6: i16 = 8;
    pub(super) const PORT: i16 = 24;
    pub(super) const TYPE: i16 = 32;
    pub(super) const PROTOCOL: i16 = 36;
    pub(super) const SOCKET: i16 = 64;
}

/// Fields of `struct bpf_sock_ops`, something that a TCP socket goes through.
pub(crate) mod event {
    pub(crate) const WHAT: i16 = 0;
    pub(super) const FAMILY: i16 = 20;
    pub(super) const REMOTE_IP4: i16 = 24;
    pub(super) const LOCAL_IP4: i16 = 28;
    pub(super) const REMOTE_IP6: i16 = 32;
    pub(super) const LOCAL_IP6: i16 = 48;
    /// In network order.
    pub(super) const REMOTE_PORT: i16 = 64;
    /// In this machine's order.
    pub(super) const LOCAL_PORT: i16 = 68;
    /// Which events the socket is to have besides those that every socket has.
    pub(crate) const FLAGS: i16 = 84;
    pub(crate) const SOCKET: i16 = 184;
    /// BPF_SOCK_OPS_STATE_CB_FLAG: each change of the connection's state.
    pub(crate) const STATES: i32 = 4;
    /// BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB: it has connected.
    pub(super) const CONNECTED: i32 = 4;
    /// BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB: it was accepted.
    pub(super) const ACCEPTED: i32 = 5;
    /// BPF_SOCK_OPS_TCP_LISTEN_CB
    pub(super) const LISTENS: i32 = 11;
}

/// Fields of `struct bpf_sockopt`, a call of setsockopt.
mod call {
    pub(super) const SOCKET: i16 = 0;
    pub(super) const LEVEL: i16 = 24;
    pub(super) const NAME: i16 = 28;
    pub(super) const LENGTH: i16 = 32;
}

/// Fields of `struct bpf_sock`.
mod socket {
    pub(super) const SOURCE_IP4: i16 = 24;
    pub(super) const SOURCE_IP6: i16 = 28;
}

/// Where the stack has what.
mod stack {
    /// The key of a network: the length of its prefix, the class, the address.
    pub(super) const NETWORK: i16 = -24;
    pub(super) const CLASS: i16 = NETWORK + 4;
    pub(super) const ADDRESS: i16 = NETWORK + 8;
    /// The key of an array, or level and name of an option.
    pub(super) const KEY: i16 = -32;
    /// The slot of the profile.
    pub(super) const SLOT: i16 = -40;
    /// Which slot of a profile.
    pub(super) const KIND: i16 = -48;
    /// A register that is needed again.
    pub(super) const SAVED: i16 = -56;
    /// The first class of networks for the process that the program runs for, if rules ask for it.
    pub(super) const PROCESS: i16 = -72;
    /// The name of its executable: 256 bytes.
    pub(super) const NAME: i16 = -328;
    /// The answer: the profile in the lower half, what is counted in the upper.
    pub(super) const ANSWER: i16 = -64;
    /// What is needed to fill in.
    pub(super) const FILL: i16 = -384;
}

const FILL: fill::Stack = fill::Stack { key: stack::KEY, own: stack::FILL };
/// Where the number of the counters begins in what is remembered of a socket.
pub(crate) const NUMBER_BIT: i32 = 48;
const SOCK_STREAM: i32 = 1;
const SOCK_DGRAM: i32 = 2;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_UDP: i32 = 17;
const AF_INET: i32 = 2;
/// Each option; in it the length and the value.
const OPTION_LENGTH: i16 = 8;
const OPTION_VALUE: i32 = 16;
/// Of an option that was tried: what the kernel answered when it was asked for it, how many bytes it was asked for, and those.
pub(crate) const RESULT_READ: i16 = 4;
pub(crate) const RESULT_LENGTH: i16 = 8;
pub(crate) const RESULT_VALUE: i16 = 16;
/// As many bytes as the value of an option may have.
const MOST_BYTES: i32 = 16;
/// As much of an option's value as the kernel shows to programs.
const PAGE: i32 = 4096;
/// Halving 2^20 ranges so often leaves one.
const HALVINGS: usize = 20;

/// A number of 32 bits in network order, as this machine loads it.
const fn network_order(number: u32) -> i32 {
    number.to_be() as i32
}

/// The same program in the making, with what several have in common.
struct Maker {
    asm: Assembler,
    /// Where a program ends that lets the call go on.
    end: Label,
    parts: Parts,
}

/// What only some policies need.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    /// If rules ask for the process: where the kernel has its name.
    pub process: Option<Fields>,
    /// Whether a rule asks what the socket has: to fill in what is left at the default, or for a time to connect.
    pub fills: bool,
}

impl Maker {
    /// r6 is the context from here on.
    fn new(parts: Parts) -> Self {
        let mut asm = Assembler::default();
        let end = asm.label();
        asm.copy(R6, R1);
        Self { asm, end, parts }
    }

    fn finish(mut self, name: &'static str) -> Result<Program, NoProgram> {
        self.asm.place(self.end);
        self.asm.set(R0, 1);
        self.asm.exit();
        self.asm.finish(name)
    }

    /// Which slot of the profile counts.
    fn kind(&mut self, slot: i32) {
        self.asm.store_number(Double, R10, stack::KIND, slot);
    }

    /// The address of IPv4 in `from`, in network order, as part of a network's key.
    fn mapped_address(&mut self, from: Register) {
        self.asm.store(Word, R10, stack::ADDRESS + 12, from);
        self.asm.store_number(Double, R10, stack::ADDRESS, 0);
        self.asm.store_number(Word, R10, stack::ADDRESS + 8, network_order(0xffff));
    }

    /// The address of IPv6 at `offset` of the context as part of a network's key.
    fn address(&mut self, offset: i16) {
        for word in 0..4 {
            self.asm.load(Word, R1, R6, offset + 4 * word);
            self.asm.store(Word, R10, stack::ADDRESS + 4 * word, R1);
        }
    }

    /// Goes on at the label unless the address of the key is an IPv4 one.
    fn unless_mapped(&mut self, label: Label) {
        self.asm.load(Double, R1, R10, stack::ADDRESS);
        self.asm.go_if(R1, NotEqual, 0, label);
        self.asm.load(Word, R1, R10, stack::ADDRESS + 8);
        self.asm.go_if_word(R1, NotEqual, network_order(0xffff), label);
    }

    /// Looks the row of an array up whose number is in `index`: r0 is the row. There is one, but the kernel wants to be asked.
    fn row(&mut self, map: Map, index: Register) {
        self.asm.store(Word, R10, stack::KEY, index);
        self.asm.load_map(R1, map);
        self.asm.copy(R2, R10);
        self.asm.add_number(R2, stack::KEY.into());
        self.asm.call(Helper::MapLookup);
        self.asm.go_if(R0, Equal, 0, self.end);
    }

    /// Looks up the address of the key and the port in r7: r8 is the answer.
    fn decide(&mut self) {
        let (found, search) = (self.asm.label(), self.asm.label());
        self.asm.store_number(Word, R10, stack::NETWORK, 32 + 128);
        self.asm.load_map(R1, Map::Networks);
        self.asm.copy(R2, R10);
        self.asm.add_number(R2, stack::NETWORK.into());
        self.asm.call(Helper::MapLookup);
        self.asm.go_if(R0, Equal, 0, self.end);
        self.asm.load(Word, R8, R0, 0);
        self.asm.load(Word, R9, R0, 4);
        self.asm.go_if(R9, Equal, 0, found);
        // The range is among r9 that begin with r8: the half in which it is, again and again.
        for _ in 0..HALVINGS {
            let (next, lower) = (self.asm.label(), self.asm.label());
            self.asm.go_if(R9, Equal, 1, search);
            // r1 = the last of the lower half
            self.asm.copy(R1, R9);
            self.asm.shift_right(R1, 1);
            self.asm.store(Double, R10, stack::SAVED, R1);
            self.asm.add_register(R1, R8);
            self.asm.add_number(R1, -1);
            self.row(Map::Ports, R1);
            self.asm.load(Word, R2, R0, 0);
            self.asm.load(Double, R1, R10, stack::SAVED);
            self.asm.go_if_register(R2, AtLeast, R7, lower);
            self.asm.add_register(R8, R1);
            self.asm.subtract(R9, R1);
            self.asm.go(next);
            self.asm.place(lower);
            self.asm.copy(R9, R1);
            self.asm.place(next);
        }
        self.asm.place(search);
        self.row(Map::Ports, R8);
        self.asm.load(Word, R8, R0, 4);
        self.asm.place(found);
    }

    /// Sets what the profile of the answer in r8 has for the kind of socket; the socket is at `socket` of the context.
    fn set(&mut self, socket: i16) {
        let (next, done) = (self.asm.label(), self.asm.label());
        self.asm.store(Double, R10, stack::ANSWER, R8);
        // Each slot is a row: without CAP_PERFMON the kernel lets no offset in one depend on the way to it.
        self.asm.and_number(R8, 0xffff);
        self.asm.shift_left(R8, SLOTS.trailing_zeros() as i32);
        self.asm.load(Double, R1, R10, stack::KIND);
        self.asm.add_register(R8, R1);
        self.row(Map::Profiles, R8);
        self.asm.store(Double, R10, stack::SLOT, R0);
        self.asm.load(Word, R7, R0, 0);
        self.asm.load(Word, R8, R0, 4);
        // Options r7 to r7 + r8; r9 counts.
        self.asm.set(R9, 0);
        if self.parts.fills {
            FILL.begin(&mut self.asm, socket);
        }
        self.asm.place(next);
        self.asm.go_if_register(R9, AtLeast, R8, done);
        self.asm.go_if(R9, AtLeast, MOST_OPTIONS as i32, done);
        let skip = self.asm.label();
        if self.parts.fills {
            FILL.before(&mut self.asm, socket, skip, self.end);
        }
        self.set_option(|asm| {
            asm.copy(R1, R7);
            asm.add_register(R1, R9);
        });
        if self.parts.fills {
            FILL.after(&mut self.asm);
        }
        self.asm.place(skip);
        self.asm.add_number(R9, 1);
        self.asm.go(next);
        self.asm.place(done);
        self.remember(socket);
    }

    /// Sets the option whose number is put in r1; r0 is what the kernel answers.
    fn set_option(&mut self, number: impl FnOnce(&mut Assembler)) {
        let some = self.asm.label();
        number(&mut self.asm);
        self.row(Map::Options, R1);
        self.asm.load(Word, R2, R0, 0);
        self.asm.load(Word, R3, R0, 4);
        self.asm.load(Word, R5, R0, OPTION_LENGTH);
        self.asm.copy(R4, R0);
        self.asm.add_number(R4, OPTION_VALUE);
        // Kernels before 6.2 or so do not conclude from "not 0" that it is at least 1.
        self.asm.go_if(R5, AtLeast, 1, some);
        self.asm.go(self.end);
        self.asm.place(some);
        self.asm.go_if(R5, Above, MOST_BYTES, self.end);
        self.asm.copy(R1, R6);
        self.asm.call(Helper::SetSockopt);
    }

    /// Remembers which options the program is not to change, and what the socket is counted by.
    fn remember(&mut self, socket: i16) {
        let (forget, write, uncounted) = (self.asm.label(), self.asm.label(), self.asm.label());
        self.asm.load(Double, R7, R10, stack::SLOT);
        self.asm.load(Double, R7, R7, 8);
        if self.parts.fills {
            self.asm.load(Double, R1, R10, FILL.mark());
            self.asm.or(R7, R1);
        }
        self.asm.load(Double, R1, R10, stack::ANSWER);
        self.asm.shift_right(R1, 16);
        self.asm.go_if(R1, Equal, 0, uncounted);
        self.row(Map::Numbers, R1);
        self.asm.load(Word, R1, R0, 0);
        self.asm.shift_left(R1, NUMBER_BIT);
        self.asm.or(R7, R1);
        self.asm.place(uncounted);
        self.asm.load(Double, R2, R6, socket);
        self.asm.go_if(R2, Equal, 0, self.end);
        self.asm.load_map(R1, Map::Sockets);
        self.asm.set(R3, 0);
        self.asm.go_if(R7, Equal, 0, forget);
        self.asm.set(R4, 1);
        self.asm.call(Helper::StorageGet);
        self.asm.go_if(R0, NotEqual, 0, write);
        self.asm.go(self.end);
        // A socket may have been for another rule before, or have it from its listener.
        self.asm.place(forget);
        self.asm.set(R4, 0);
        self.asm.call(Helper::StorageGet);
        self.asm.go_if(R0, Equal, 0, self.end);
        self.asm.place(write);
        self.asm.store(Double, R0, 0, R7);
    }

    /// If the socket is counted: it is to have the event of its end.
    fn follow(&mut self) {
        self.asm.shift_right(R7, NUMBER_BIT);
        self.asm.go_if(R7, Equal, 0, self.end);
        follow(&mut self.asm);
    }

    /// Tells TCP from UDP, and leaves the rest alone.
    fn tell_kinds(&mut self, tcp: Kind, udp: Kind) {
        let (is_udp, known) = (self.asm.label(), self.asm.label());
        self.asm.load(Word, R1, R6, address::PROTOCOL);
        self.asm.load(Word, R2, R6, address::TYPE);
        self.asm.go_if(R1, Equal, IPPROTO_UDP, is_udp);
        self.asm.go_if(R1, NotEqual, IPPROTO_TCP, self.end);
        self.asm.go_if(R2, NotEqual, SOCK_STREAM, self.end);
        self.kind(tcp as i32);
        self.asm.go(known);
        self.asm.place(is_udp);
        self.asm.go_if(R2, NotEqual, SOCK_DGRAM, self.end);
        self.kind(udp as i32);
        self.asm.place(known);
    }

    /// The port that is connected to, in r7.
    fn port(&mut self) {
        self.asm.load(Word, R7, R6, address::PORT);
        self.asm.swap_16(R7);
    }

    /// What is looked up: that of the process's own class, if rules ask for it.
    fn class(&mut self, class: Class) {
        if self.parts.process.is_none() {
            return self.asm.store_number(Word, R10, stack::CLASS, class as i32);
        }
        self.asm.load(Double, R1, R10, stack::PROCESS);
        self.asm.add_number(R1, class as i32);
        self.asm.store(Word, R10, stack::CLASS, R1);
    }

    /// Finds the process that makes the call. Uses all registers but r6 and r8.
    fn find_process(&mut self) {
        if let Some(fields) = self.parts.process {
            executable::find(&mut self.asm, fields, stack::PROCESS, stack::KEY, stack::NAME);
        }
    }
}

/// In a program for events, with the context in r6: the socket is to have those of its states too.
pub(crate) fn follow(asm: &mut Assembler) {
    asm.load(Word, R2, R6, event::FLAGS);
    asm.set(R1, event::STATES);
    asm.or(R2, R1);
    asm.copy(R1, R6);
    asm.call(Helper::SetFlags);
}

/// `cgroup/connect4`: a socket connects to an address of IPv4.
///
/// # Errors
/// [`NoProgram`]
pub fn connect4(parts: Parts) -> Result<Program, NoProgram> {
    let mut make = Maker::new(parts);
    let known = make.asm.label();
    make.tell_kinds(Kind::Tcp4, Kind::Udp4);
    make.find_process();
    make.port();
    make.asm.load(Word, R8, R6, address::IP4);
    make.asm.go_if(R8, NotEqual, 0, known);
    // 0.0.0.0 is this machine: by the socket's own address if it is bound, else by the loopback's.
    make.asm.load(Double, R1, R6, address::SOCKET);
    make.asm.go_if(R1, Equal, 0, make.end);
    make.asm.load(Word, R8, R1, socket::SOURCE_IP4);
    make.asm.go_if(R8, NotEqual, 0, known);
    make.asm.set(R8, network_order(0x7f00_0001));
    make.asm.place(known);
    make.mapped_address(R8);
    make.class(TO);
    make.decide();
    make.set(address::SOCKET);
    make.finish("sockopt_connect4")
}

/// `cgroup/connect6`: a socket connects to an address of IPv6, or to one of IPv4 that is written so.
///
/// # Errors
/// [`NoProgram`]
pub fn connect6(parts: Parts) -> Result<Program, NoProgram> {
    let mut make = Maker::new(parts);
    let [is_ipv6, is_unspecified, is_loopback, is_mapped, decide] = [(); 5].map(|()| make.asm.label());
    make.tell_kinds(Kind::Tcp6, Kind::Udp6);
    make.find_process();
    make.port();
    make.address(address::IP6);
    make.asm.load(Double, R1, R10, stack::ADDRESS);
    make.asm.go_if(R1, NotEqual, 0, decide);
    make.asm.load(Double, R1, R10, stack::ADDRESS + 8);
    make.asm.go_if(R1, Equal, 0, is_unspecified);
    make.unless_mapped(decide);
    make.asm.load(Word, R8, R10, stack::ADDRESS + 12);
    make.asm.go_if(R8, NotEqual, 0, is_mapped);
    // ::ffff:0.0.0.0 is as 0.0.0.0.
    make.asm.load(Double, R1, R6, address::SOCKET);
    make.asm.go_if(R1, Equal, 0, make.end);
    make.asm.load(Word, R2, R1, socket::SOURCE_IP6 + 8);
    make.asm.load(Word, R8, R1, socket::SOURCE_IP6 + 12);
    make.asm.go_if_word(R2, NotEqual, network_order(0xffff), is_loopback);
    make.asm.go_if(R8, NotEqual, 0, is_mapped);
    make.asm.place(is_loopback);
    make.asm.set(R8, network_order(0x7f00_0001));
    make.asm.place(is_mapped);
    make.mapped_address(R8);
    // What is sent is IPv4: the slot before that of IPv6.
    make.asm.load(Double, R1, R10, stack::KIND);
    make.asm.go_if(R1, Equal, Kind::Udp6 as i32, is_ipv6);
    make.kind(Kind::Tcp4 as i32);
    make.asm.go(decide);
    make.asm.place(is_ipv6);
    make.kind(Kind::Udp4 as i32);
    make.asm.go(decide);
    // :: is ::1, unless the socket is bound to an address of IPv4.
    make.asm.place(is_unspecified);
    make.asm.load(Double, R1, R6, address::SOCKET);
    make.asm.go_if(R1, Equal, 0, make.end);
    make.asm.load(Word, R2, R1, socket::SOURCE_IP6 + 8);
    make.asm.go_if_word(R2, Equal, network_order(0xffff), is_loopback);
    make.asm.store_number(Word, R10, stack::ADDRESS + 12, network_order(1));
    make.asm.place(decide);
    make.class(TO);
    make.decide();
    make.set(address::SOCKET);
    make.finish("sockopt_connect6")
}

/// `cgroup/connect4` or `connect6`, for a socket of ours: tries each option, notes what the kernel answers, and lets it connect
/// nowhere.
///
/// # Errors
/// [`NoProgram`]
pub fn probe() -> Result<Program, NoProgram> {
    let mut make = Maker::new(Parts::default());
    // What the socket has before any is set, which the kernel does not tell of each; it ends behind the last.
    let [next, some, unread, set] = [(); 4].map(|()| make.asm.label());
    let end = std::mem::replace(&mut make.end, set);
    make.asm.set(R9, 0);
    make.asm.place(next);
    make.asm.go_if(R9, AtLeast, MOST_OPTIONS as i32, set);
    make.row(Map::Options, R9);
    make.asm.load(Word, R7, R0, 0);
    make.asm.load(Word, R8, R0, 4);
    make.row(Map::Results, R9);
    make.asm.store(Double, R10, stack::SAVED, R0);
    make.asm.load(Word, R5, R0, RESULT_LENGTH);
    make.asm.go_if(R5, AtLeast, 1, some);
    make.asm.go(unread);
    make.asm.place(some);
    make.asm.go_if(R5, Above, MOST_BYTES, unread);
    make.asm.copy(R1, R6);
    make.asm.copy(R2, R7);
    make.asm.copy(R3, R8);
    make.asm.copy(R4, R0);
    make.asm.add_number(R4, RESULT_VALUE.into());
    make.asm.call(Helper::GetSockopt);
    make.asm.load(Double, R1, R10, stack::SAVED);
    make.asm.store(Word, R1, RESULT_READ, R0);
    make.asm.place(unread);
    make.asm.add_number(R9, 1);
    make.asm.go(next);
    make.asm.place(set);
    make.end = end;
    let next = make.asm.label();
    make.asm.set(R9, 0);
    make.asm.place(next);
    make.asm.go_if(R9, AtLeast, MOST_OPTIONS as i32, make.end);
    make.set_option(|asm| asm.copy(R1, R9));
    make.asm.copy(R7, R0);
    make.asm.copy(R1, R9);
    make.row(Map::Results, R1);
    make.asm.store(Word, R0, 0, R7);
    make.asm.add_number(R9, 1);
    make.asm.go(next);
    make.asm.place(make.end);
    make.asm.set(R0, 0);
    make.asm.exit();
    make.asm.finish("sockopt_probe")
}

/// `cgroup/setsockopt`: a program sets an option. If a rule has the last word about it, the answer is success and nothing
/// is done.
///
/// # Errors
/// [`NoProgram`]
pub fn setsockopt(parts: Parts) -> Result<Program, NoProgram> {
    let mut make = Maker::new(parts);
    let pass = make.asm.label();
    make.asm.load(Word, R1, R6, call::LEVEL);
    make.asm.store(Word, R10, stack::KEY, R1);
    make.asm.load(Word, R1, R6, call::NAME);
    make.asm.store(Word, R10, stack::KEY + 4, R1);
    make.asm.load_map(R1, Map::Enforced);
    make.asm.copy(R2, R10);
    make.asm.add_number(R2, stack::KEY.into());
    make.asm.call(Helper::MapLookup);
    make.asm.go_if(R0, Equal, 0, pass);
    make.asm.load(Double, R7, R0, 0);
    make.asm.load(Double, R8, R0, 8);
    make.asm.load(Double, R2, R6, call::SOCKET);
    make.asm.go_if(R2, Equal, 0, pass);
    make.asm.load_map(R1, Map::Sockets);
    make.asm.set(R3, 0);
    make.asm.set(R4, 0);
    make.asm.call(Helper::StorageGet);
    make.asm.go_if(R0, Equal, 0, pass);
    let unenforced = make.asm.label();
    make.asm.load(Double, R1, R0, 0);
    make.asm.and(R1, R7);
    make.asm.go_if(R1, Equal, 0, unenforced);
    // Too short a value is the kernel's to refuse.
    make.asm.load(Word, R1, R6, call::LENGTH);
    make.asm.go_if_register(R8, Above, R1, pass);
    make.asm.set(R1, -1);
    make.asm.store(Word, R6, call::LENGTH, R1);
    make.asm.go(make.end);
    make.asm.place(unenforced);
    if parts.fills {
        FILL.take_back(&mut make.asm, pass);
    }
    make.asm.place(pass);
    // A negative length is another program's answer, which ran before: that the call is done.
    make.asm.load(Word, R1, R6, call::LENGTH);
    make.asm.go_if_word(R1, AtLeast, i32::MIN, make.end);
    // The kernel has shown a page of a longer value, and takes all of it if told to look at none (EFAULT otherwise).
    let is_long = make.asm.label();
    make.asm.go_if(R1, Above, PAGE, is_long);
    make.asm.go(make.end);
    make.asm.place(is_long);
    make.asm.set(R1, 0);
    make.asm.store(Word, R6, call::LENGTH, R1);
    make.finish("sockopt_enforce")
}

/// Sockets that listen, and what they accept (`sock_ops`).
///
/// # Errors
/// [`NoProgram`]
pub fn events(parts: Parts) -> Result<Program, NoProgram> {
    let mut make = Maker::new(parts);
    let [local, local_ipv6, local_known, accepted, remote_ipv6, remote_known] = [(); 6].map(|()| make.asm.label());
    let [specified, listener, listens, no_room, set] = [(); 5].map(|()| make.asm.label());
    make.asm.load(Word, R1, R6, event::WHAT);
    make.asm.go_if(R1, Equal, event::LISTENS, listener);
    let connected = make.asm.label();
    if parts.fills {
        make.asm.go_if(R1, Equal, event::CONNECTED, connected);
    }
    make.asm.go_if(R1, NotEqual, event::ACCEPTED, make.end);
    if parts.process.is_some() {
        // Whatever process is interrupted by the client's packet.
        make.asm.store_number(Double, R10, stack::PROCESS, 0);
    }
    // The class of its clients comes from the listener, which may be bound to another address than the connection has.
    make.asm.load(Double, R2, R6, event::SOCKET);
    make.asm.go_if(R2, Equal, 0, make.end);
    make.asm.load_map(R1, Map::Listeners);
    make.asm.set(R3, 0);
    make.asm.set(R4, 0);
    make.asm.call(Helper::StorageGet);
    make.asm.go_if(R0, Equal, 0, local);
    make.asm.load(Double, R8, R0, 0);
    make.asm.go(accepted);
    make.asm.place(listener);
    make.find_process();
    make.asm.place(local);
    make.asm.load(Word, R7, R6, event::LOCAL_PORT);
    make.asm.load(Word, R1, R6, event::FAMILY);
    make.asm.go_if(R1, NotEqual, AF_INET, local_ipv6);
    make.asm.load(Word, R1, R6, event::LOCAL_IP4);
    make.mapped_address(R1);
    make.kind(0);
    make.asm.go(local_known);
    make.asm.place(local_ipv6);
    make.address(event::LOCAL_IP6);
    make.kind(0);
    make.unless_mapped(specified);
    make.asm.go(local_known);
    make.asm.place(specified);
    make.kind(1);
    make.asm.load(Double, R1, R10, stack::ADDRESS);
    make.asm.load(Double, R2, R10, stack::ADDRESS + 8);
    make.asm.or(R1, R2);
    make.asm.go_if(R1, NotEqual, 0, local_known);
    // A listener on :: takes both.
    make.kind(2);
    make.asm.place(local_known);
    make.class(LOCAL);
    make.decide();
    make.asm.load(Word, R1, R6, event::WHAT);
    make.asm.go_if(R1, Equal, event::LISTENS, listens);
    make.asm.place(accepted);
    make.asm.go_if(R8, Equal, 0, make.end);
    make.asm.store(Word, R10, stack::CLASS, R8);
    make.asm.load(Word, R7, R6, event::REMOTE_PORT);
    // The kernel has the port in the upper half where the machine is little endian.
    if cfg!(target_endian = "little") {
        make.asm.shift_right(R7, 16);
    }
    make.asm.swap_16(R7);
    make.asm.load(Word, R1, R6, event::FAMILY);
    make.asm.go_if(R1, NotEqual, AF_INET, remote_ipv6);
    make.asm.load(Word, R1, R6, event::REMOTE_IP4);
    make.mapped_address(R1);
    make.kind(0);
    make.asm.go(remote_known);
    make.asm.place(remote_ipv6);
    make.address(event::REMOTE_IP6);
    make.kind(1);
    make.unless_mapped(remote_known);
    make.kind(0);
    make.asm.place(remote_known);
    make.decide();
    make.asm.go(set);
    // What is accepted has the class of its clients from its listener.
    make.asm.place(listens);
    make.asm.load(Double, R2, R6, event::SOCKET);
    make.asm.go_if(R2, Equal, 0, make.end);
    make.asm.load_map(R1, Map::Listeners);
    make.asm.set(R3, 0);
    make.asm.set(R4, 1);
    make.asm.call(Helper::StorageGet);
    make.asm.go_if(R0, Equal, 0, no_room);
    make.asm.store(Double, R0, 0, R8);
    make.asm.place(no_room);
    make.class(LISTEN);
    make.decide();
    make.asm.place(set);
    make.set(event::SOCKET);
    make.follow();
    if parts.fills {
        make.asm.go(make.end);
        make.asm.place(connected);
        FILL.settle(&mut make.asm, event::SOCKET, make.end);
    }
    make.finish("sockopt_events")
}
