//! What several of the programs have in common.

use crate::assembler::Register::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use crate::assembler::Size::{Double, Word};
use crate::assembler::When::{Above, AtLeast, Equal, NotEqual};
use crate::assembler::{Assembler, Helper, Label, Map, NoProgram, Program, Register};
use crate::compile::{Kind, MOST_OPTIONS, SLOTS};
use crate::executable::{self, Fields};
use crate::layout::{
    AF_INET, FILL, HALVINGS, IPPROTO_TCP, IPPROTO_UDP, MOST_BYTES, NUMBER_BIT, OPTION_LENGTH, OPTION_VALUE, SCRATCH,
    SOCK_DGRAM, SOCK_STREAM, address, event, network_order, stack,
};
use crate::tables::{Class, TO};

/// The same program in the making, with what several have in common.
pub(crate) struct Maker {
    pub(crate) asm: Assembler,
    /// Where a program ends that lets the call go on.
    pub(crate) end: Label,
    pub(crate) parts: Parts,
}

/// What only some policies need.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    /// If rules ask for the process: where the kernel has its name.
    pub process: Option<Fields>,
    /// Whether a rule asks what the socket has: to fill in what is left at the default, or for a time to connect.
    pub fills: bool,
    /// Whether rules name hosts.
    pub hosts: bool,
}

impl Maker {
    /// r6 is the context from here on.
    pub(crate) fn new(parts: Parts) -> Self {
        let mut asm = Assembler::default();
        let end = asm.label();
        asm.copy(R6, R1);
        Self { asm, end, parts }
    }

    pub(crate) fn finish(mut self, name: &'static str) -> Result<Program, NoProgram> {
        self.asm.place(self.end);
        self.asm.set(R0, 1);
        self.asm.exit();
        self.asm.finish(name)
    }

    /// Which slot of the profile counts.
    pub(crate) fn kind(&mut self, slot: i32) {
        self.asm.store_number(Double, R10, stack::KIND, slot);
    }

    /// The address of IPv4 in `from`, in network order, as part of a network's key.
    pub(crate) fn mapped_address(&mut self, from: Register) {
        self.asm.store(Word, R10, stack::ADDRESS + 12, from);
        self.asm.store_number(Double, R10, stack::ADDRESS, 0);
        self.asm.store_number(Word, R10, stack::ADDRESS + 8, network_order(0xffff));
    }

    /// The address of IPv6 at `offset` of the context as part of a network's key.
    pub(crate) fn address(&mut self, offset: i16) {
        for word in 0..4 {
            self.asm.load(Word, R1, R6, offset + 4 * word);
            self.asm.store(Word, R10, stack::ADDRESS + 4 * word, R1);
        }
    }

    /// Goes on at the label unless the address of the key is an IPv4 one.
    pub(crate) fn unless_mapped(&mut self, label: Label) {
        self.asm.load(Double, R1, R10, stack::ADDRESS);
        self.asm.go_if(R1, NotEqual, 0, label);
        self.asm.load(Word, R1, R10, stack::ADDRESS + 8);
        self.asm.go_if_word(R1, NotEqual, network_order(0xffff), label);
    }

    /// Looks the row of an array up whose number is in `index`: r0 is the row. There is one, but the kernel wants to be asked.
    pub(crate) fn row(&mut self, map: Map, index: Register) {
        self.asm.store(Word, R10, stack::KEY, index);
        self.asm.load_map(R1, map);
        self.asm.copy(R2, R10);
        self.asm.add_number(R2, stack::KEY.into());
        self.asm.call(Helper::MapLookup);
        self.asm.go_if(R0, Equal, 0, self.end);
    }

    /// Looks up the address of the key and the port in r7: r8 is the answer.
    pub(crate) fn decide(&mut self) {
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
    pub(crate) fn set(&mut self, socket: i16) {
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
    pub(crate) fn set_option(&mut self, number: impl FnOnce(&mut Assembler)) {
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
    pub(crate) fn remember(&mut self, socket: i16) {
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
    pub(crate) fn follow(&mut self) {
        self.asm.shift_right(R7, NUMBER_BIT);
        self.asm.go_if(R7, Equal, 0, self.end);
        follow(&mut self.asm);
    }

    /// Tells TCP from UDP, and leaves the rest alone.
    pub(crate) fn tell_kinds(&mut self, tcp: Kind, udp: Kind) {
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
    pub(crate) fn port(&mut self) {
        self.asm.load(Word, R7, R6, address::PORT);
        self.asm.swap_16(R7);
    }

    /// What is looked up: that of the process's own class, if rules ask for it.
    pub(crate) fn class(&mut self, class: Class) {
        let asks_for_host = self.parts.hosts && class == TO;
        match (self.parts.process, asks_for_host) {
            (None, false) => return self.asm.store_number(Word, R10, stack::CLASS, class as i32),
            (None, true) => self.asm.set(R1, class as i32),
            (Some(_), _) => {
                self.asm.load(Double, R1, R10, stack::PROCESS);
                self.asm.add_number(R1, class as i32);
            }
        }
        if asks_for_host {
            self.asm.load(Double, R2, R10, stack::HOST);
            self.asm.add_register(R1, R2);
        }
        self.asm.store(Word, R10, stack::CLASS, R1);
    }

    /// Finds by which names the address of the key is known, if rules ask for that. Uses all registers but r6 and r7.
    pub(crate) fn find_host(&mut self) {
        if self.parts.hosts {
            SCRATCH.find(&mut self.asm, stack::ADDRESS, stack::HOST, stack::PORT);
        }
    }

    /// Finds the process that makes the call. Uses all registers but r6 and r8.
    pub(crate) fn find_process(&mut self) {
        if let Some(fields) = self.parts.process {
            executable::find(&mut self.asm, fields, stack::PROCESS, stack::KEY, stack::NAME);
        }
    }
}

/// In a program for events, with the context in r6: goes on at the label if the socket has connected to itself. The kernel tells of
/// it as of one that was accepted. Uses r1 and r2.
pub(crate) fn if_to_itself(asm: &mut Assembler, label: Label) {
    let [ipv6, other] = [(); 2].map(|()| asm.label());
    remote_port(asm, R1);
    asm.load(Word, R2, R6, event::LOCAL_PORT);
    asm.go_if_register(R1, NotEqual, R2, other);
    asm.load(Word, R1, R6, event::FAMILY);
    asm.go_if(R1, NotEqual, AF_INET, ipv6);
    asm.load(Word, R1, R6, event::REMOTE_IP4);
    asm.load(Word, R2, R6, event::LOCAL_IP4);
    asm.go_if_register(R1, Equal, R2, label);
    asm.go(other);
    asm.place(ipv6);
    for word in [0, 4, 8, 12] {
        asm.load(Word, R1, R6, event::REMOTE_IP6 + word);
        asm.load(Word, R2, R6, event::LOCAL_IP6 + word);
        asm.go_if_register(R1, NotEqual, R2, other);
    }
    asm.go(label);
    asm.place(other);
}

/// In a program for events: the peer's port.
pub(crate) fn remote_port(asm: &mut Assembler, to: Register) {
    asm.load(Word, to, R6, event::REMOTE_PORT);
    // The kernel has the port in the upper half where the machine is little endian.
    if cfg!(target_endian = "little") {
        asm.shift_right(to, 16);
    }
    asm.swap_16(to);
}

/// In a program for events, with the context in r6: the socket is to have those of its states too.
pub(crate) fn follow(asm: &mut Assembler) {
    asm.load(Word, R2, R6, event::FLAGS);
    asm.set(R1, event::STATES);
    asm.or(R2, R1);
    asm.copy(R1, R6);
    asm.call(Helper::SetFlags);
}
