//! Host names by DNS: a program that reads the answers which sockets of the group receive, and what programs for connects ask.
//!
//! What is remembered of an address is the name by which it was looked up last, as the message has it, and not what rules make of
//! it: so it is as good for every configuration, and for two at a time while one takes the other's place. The name is read again at
//! each connect to such an address.

use crate::assembler::Register::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};
use crate::assembler::Size::{Byte, Double, Half, Word};
use crate::assembler::When::{Above, AtLeast, Equal, NotEqual};
use crate::assembler::{Assembler, Helper, Label, Map, NoProgram, Program};
use crate::hosts::SYMBOLS;

/// Bytes that are remembered of a name. With its lengths and the zero at its end it has at most 255 (RFC 1035, section 2.3.4).
pub(crate) const NAME: i32 = 256;

/// Fields of `struct __sk_buff` (linux/bpf.h), a packet; what is loaded begins with IP's header.
pub(crate) mod packet {
    pub(super) const LENGTH: i16 = 0;
    pub(super) const PROTOCOL: i16 = 16;
    pub(crate) const BEGIN: i16 = 76;
    pub(crate) const END: i16 = 80;
}

/// linux/if_ether.h
const ETH_P_IP: i32 = 0x0800;
const ETH_P_IPV6: i32 = 0x86dd;
const IPPROTO_UDP: i32 = 17;
/// Version 4, and five words of header: without options, which nobody sends.
const IPV4_WITHOUT_OPTIONS: i32 = 0x45;
const UDP_HEADER: i16 = 8;
/// What answers come from.
const DOMAIN: i32 = 53;
/// The header of a message (RFC 1035, section 4.1.1), and what it has where.
const HEADER: i32 = 12;
const FLAGS: i16 = 2;
const QUESTIONS: i16 = 4;
const ANSWERS: i16 = 6;
/// QR, the opcode and the response code; and what they are in an answer that is no error.
const KIND: i32 = 0xf80f;
const IS_ANSWER: i32 = 0x8000;
/// Type and class of a question.
const QUESTION: i32 = 4;
/// Type and class of a record (sections 3.2.2, 3.2.4; RFC 3596).
const IN_A: i32 = 0x0001_0001;
const IN_AAAA: i32 = 0x001c_0001;
/// From its type to the length of its data.
const RECORD: i32 = 10;
const DATA_LENGTH: i16 = 8;
/// Lengths of labels (section 2.3.4), and two bytes that point to where the rest of a name is (section 4.1.4).
const LONGEST_LABEL: i32 = 63;
const POINTER: i32 = 0xc0;
/// Records and labels that are read behind the question, together: 4096 bytes have 256 addresses with a pointer before each.
const MOST_STEPS: i32 = 512;

/// Numbers in network order, as this machine loads them.
const fn network_order(number: i32) -> i32 {
    number.to_be()
}
const fn network_order_16(number: i32) -> i32 {
    (number as u16).to_be() as i32
}

/// Places on the stack for reading a name: 8 bytes each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scratch {
    /// The key of an array.
    pub(crate) key: i16,
    /// How many bytes of the label are left.
    pub(crate) left: i16,
}

impl Scratch {
    /// Looks up what follows the byte in r2 in the state in r8: in r8. It is a row of its own for each of both: without CAP_PERFMON
    /// the kernel's verifier goes too many ways where a place in a row depends on a number.
    fn step(self, asm: &mut Assembler, none: Label) {
        asm.shift_left(R8, SYMBOLS.trailing_zeros() as i32);
        asm.add_register(R8, R2);
        asm.store(Word, R10, self.key, R8);
        asm.load_map(R1, Map::Hosts);
        asm.copy(R2, R10);
        asm.add_number(R2, self.key.into());
        asm.call(Helper::MapLookup);
        asm.go_if(R0, Equal, 0, none);
        asm.load(Word, R8, R0, 0);
    }

    /// Reads the name at r9, which has [`NAME`] bytes: r8 is what its class adds to a class of networks, r7 how many bytes it has. It
    /// goes on at `none` if it is no name. Uses all registers but r6.
    fn read(self, asm: &mut Assembler, none: Label) {
        let [next, inside, step, end] = [(); 4].map(|()| asm.label());
        asm.set(R7, 0);
        asm.set(R8, 0);
        asm.store_number(Double, R10, self.left, 0);
        asm.place(next);
        asm.go_if(R7, AtLeast, NAME - 1, none);
        asm.load(Byte, R2, R9, 0);
        asm.add_number(R9, 1);
        asm.add_number(R7, 1);
        asm.load(Double, R1, R10, self.left);
        asm.go_if(R1, NotEqual, 0, inside);
        asm.go_if(R2, Equal, 0, end);
        asm.go_if(R2, Above, LONGEST_LABEL, none);
        asm.store(Double, R10, self.left, R2);
        asm.set(R2, b'.'.into());
        asm.go(step);
        asm.place(inside);
        asm.add_number(R1, -1);
        asm.store(Double, R10, self.left, R1);
        asm.go_if(R2, Equal, b'.'.into(), none);
        asm.go_if(R2, Equal, 0, none);
        asm.go_if(R2, AtLeast, SYMBOLS as i32, none);
        asm.place(step);
        self.step(asm, none);
        asm.go(next);
        asm.place(end);
        self.step(asm, none);
    }

    /// Finds by which name the address at `address` of the stack is known: what its class adds to a class of networks is put at
    /// `class`, 0 if it is known by none that rules name. Uses all registers but r6 and r7, which is at `kept` meanwhile.
    pub(crate) fn find(self, asm: &mut Assembler, address: i16, class: i16, kept: i16) {
        let [unknown, done] = [(); 2].map(|()| asm.label());
        asm.store_number(Double, R10, class, 0);
        lookup(asm, address);
        asm.go_if(R0, Equal, 0, done);
        asm.store(Double, R10, kept, R7);
        asm.copy(R9, R0);
        self.read(asm, unknown);
        asm.store(Double, R10, class, R8);
        asm.place(unknown);
        asm.load(Double, R7, R10, kept);
        asm.place(done);
    }
}

fn lookup(asm: &mut Assembler, address: i16) {
    asm.load_map(R1, Map::Addresses);
    asm.copy(R2, R10);
    asm.add_number(R2, address.into());
    asm.call(Helper::MapLookup);
}

/// Where the stack has what.
mod stack {
    use super::{NAME, Scratch};

    pub(super) const NAME_AT: i16 = -(NAME as i16);
    pub(super) const SCRATCH: Scratch = Scratch { key: NAME_AT - 8, left: NAME_AT - 16 };
    /// The key of an address: IPv4 as `::ffff:a.b.c.d`.
    pub(super) const ADDRESS: i16 = NAME_AT - 32;
    pub(super) const HEADER: i16 = NAME_AT - 48;
    pub(super) const RECORD: i16 = NAME_AT - 64;
    /// How many records are left.
    pub(super) const RECORDS: i16 = NAME_AT - 72;
    /// Where the question is.
    pub(super) const QUESTION: i16 = NAME_AT - 80;
    /// Bytes of a record's data.
    pub(super) const LENGTH: i16 = NAME_AT - 88;
    pub(super) const BYTE: i16 = NAME_AT - 96;
}

/// Loads `length` bytes from where r7 is in the packet, or ends.
fn load(asm: &mut Assembler, to: i16, length: i32, end: Label) {
    asm.set(R4, length);
    load_r4(asm, to, end);
}

fn load_r4(asm: &mut Assembler, to: i16, end: Label) {
    asm.copy(R1, R6);
    asm.copy(R2, R7);
    asm.copy(R3, R10);
    asm.add_number(R3, to.into());
    asm.call(Helper::LoadPacket);
    asm.go_if(R0, NotEqual, 0, end);
}

/// Of a packet of this version of IP: r7 is where UDP's data begin, if it is from a name server. r2 and r3 are where it begins and
/// ends in memory.
fn is_from_name_server(asm: &mut Assembler, header: i16, protocol: i16, end: Label) {
    asm.copy(R4, R2);
    asm.add_number(R4, (header + UDP_HEADER).into());
    asm.go_if_register(R4, Above, R3, end);
    asm.load(Byte, R1, R2, protocol);
    asm.go_if(R1, NotEqual, IPPROTO_UDP, end);
    asm.load(Half, R1, R2, header);
    asm.go_if(R1, NotEqual, network_order_16(DOMAIN), end);
    asm.set(R7, (header + UDP_HEADER).into());
}

/// `cgroup/ingress`: a socket receives a packet. If it is an answer of a name server, its addresses are known by the name that was
/// asked for. Whatever it is, it is let through.
///
/// # Errors
/// [`NoProgram`]
pub fn answers() -> Result<Program, NoProgram> {
    let mut asm = Assembler::default();
    let [ipv6, message, short, some, again, pointer, root] = [(); 7].map(|()| asm.label());
    let [a, aaaa, learn, forget, skip, end] = [(); 6].map(|()| asm.label());
    asm.copy(R6, R1);
    asm.load(Word, R1, R6, packet::PROTOCOL);
    asm.load(Word, R2, R6, packet::BEGIN);
    asm.load(Word, R3, R6, packet::END);
    asm.go_if(R1, Equal, network_order_16(ETH_P_IPV6), ipv6);
    asm.go_if(R1, NotEqual, network_order_16(ETH_P_IP), end);
    is_from_name_server(&mut asm, 20, 9, end);
    asm.load(Byte, R1, R2, 0);
    asm.go_if(R1, NotEqual, IPV4_WITHOUT_OPTIONS, end);
    asm.go(message);
    asm.place(ipv6);
    is_from_name_server(&mut asm, 40, 6, end);
    asm.place(message);
    load(&mut asm, stack::HEADER, HEADER, end);
    asm.load(Half, R1, R10, stack::HEADER + FLAGS);
    asm.and_number(R1, network_order_16(KIND));
    asm.go_if(R1, NotEqual, network_order_16(IS_ANSWER), end);
    asm.load(Half, R1, R10, stack::HEADER + QUESTIONS);
    asm.go_if(R1, NotEqual, network_order_16(1), end);
    asm.load(Half, R1, R10, stack::HEADER + ANSWERS);
    asm.go_if(R1, Equal, 0, end);
    asm.swap_16(R1);
    asm.store(Double, R10, stack::RECORDS, R1);
    // As much as a name may have, or as there is.
    asm.add_number(R7, HEADER);
    asm.store(Double, R10, stack::QUESTION, R7);
    for at in (stack::NAME_AT..0).step_by(8) {
        asm.store_number(Double, R10, at, 0);
    }
    asm.load(Word, R4, R6, packet::LENGTH);
    asm.go_if_register(R7, AtLeast, R4, end);
    asm.subtract(R4, R7);
    asm.go_if(R4, AtLeast, NAME, short);
    asm.go_if(R4, AtLeast, 1, some);
    asm.go(end);
    asm.place(short);
    asm.set(R4, NAME);
    asm.place(some);
    load_r4(&mut asm, stack::NAME_AT, end);
    asm.copy(R9, R10);
    asm.add_number(R9, stack::NAME_AT.into());
    stack::SCRATCH.read(&mut asm, end);
    asm.load(Double, R1, R10, stack::QUESTION);
    asm.add_register(R7, R1);
    asm.add_number(R7, QUESTION);
    // r7 is where it reads, r8 the class, r9 counts.
    asm.set(R9, 0);
    asm.place(again);
    asm.go_if(R9, AtLeast, MOST_STEPS, end);
    asm.add_number(R9, 1);
    load(&mut asm, stack::BYTE, 1, end);
    asm.load(Byte, R1, R10, stack::BYTE);
    asm.go_if(R1, AtLeast, POINTER, pointer);
    asm.go_if(R1, Equal, 0, root);
    asm.go_if(R1, Above, LONGEST_LABEL, end);
    asm.add_register(R7, R1);
    asm.add_number(R7, 1);
    asm.go(again);
    asm.place(pointer);
    asm.add_number(R7, 1);
    asm.place(root);
    asm.add_number(R7, 1);
    load(&mut asm, stack::RECORD, RECORD, end);
    asm.add_number(R7, RECORD);
    asm.load(Half, R2, R10, stack::RECORD + DATA_LENGTH);
    asm.swap_16(R2);
    asm.store(Double, R10, stack::LENGTH, R2);
    asm.load(Word, R1, R10, stack::RECORD);
    asm.go_if(R1, Equal, network_order(IN_A), a);
    asm.go_if(R1, Equal, network_order(IN_AAAA), aaaa);
    asm.go(skip);
    asm.place(a);
    asm.go_if(R2, NotEqual, 4, end);
    load(&mut asm, stack::ADDRESS + 12, 4, end);
    asm.store_number(Double, R10, stack::ADDRESS, 0);
    asm.store_number(Word, R10, stack::ADDRESS + 8, network_order(0xffff));
    // What is unspecified is this machine, and connects are known by where they come to.
    asm.load(Word, R1, R10, stack::ADDRESS + 12);
    asm.go_if(R1, NotEqual, 0, learn);
    asm.store_number(Word, R10, stack::ADDRESS + 12, network_order(0x7f00_0001));
    asm.go(learn);
    asm.place(aaaa);
    asm.go_if(R2, NotEqual, 16, end);
    load(&mut asm, stack::ADDRESS, 16, end);
    asm.load(Double, R1, R10, stack::ADDRESS);
    asm.load(Double, R2, R10, stack::ADDRESS + 8);
    asm.or(R1, R2);
    asm.go_if(R1, NotEqual, 0, learn);
    asm.store_number(Word, R10, stack::ADDRESS + 12, network_order(1));
    asm.place(learn);
    asm.load_map(R1, Map::Addresses);
    asm.copy(R2, R10);
    asm.add_number(R2, stack::ADDRESS.into());
    asm.go_if(R8, Equal, 0, forget);
    asm.copy(R3, R10);
    asm.add_number(R3, stack::NAME_AT.into());
    asm.set(R4, 0);
    asm.call(Helper::MapUpdate);
    asm.go(skip);
    // The newest look-up counts, also of a name that no rule has.
    asm.place(forget);
    asm.call(Helper::MapDelete);
    asm.place(skip);
    asm.load(Double, R1, R10, stack::LENGTH);
    asm.add_register(R7, R1);
    asm.load(Double, R1, R10, stack::RECORDS);
    asm.add_number(R1, -1);
    asm.store(Double, R10, stack::RECORDS, R1);
    asm.go_if(R1, NotEqual, 0, again);
    asm.place(end);
    asm.set(R0, 1);
    asm.exit();
    asm.finish("sockopt_answers")
}
