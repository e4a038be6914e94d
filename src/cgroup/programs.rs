//! The programs that run in the kernel. They are the same for every policy: what they do is in the tables.

use crate::assembler::Register::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use crate::assembler::Size::{Double, Word};
use crate::assembler::When::{Above, AtLeast, Equal, NotEqual};
use crate::assembler::{Helper, Map, NoProgram, Program};
use crate::compile::{Kind, MOST_OPTIONS};
use crate::layout::{
    AF_INET, FILL, MOST_BYTES, PAGE, RESULT_LENGTH, RESULT_READ, RESULT_VALUE, address, call, event, network_order,
    socket, stack,
};
pub use crate::maker::Parts;
use crate::maker::{Maker, if_to_itself, remote_port};
use crate::tables::{LISTEN, LOCAL, TO};

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
    make.find_host();
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
    make.find_host();
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
    if_to_itself(&mut make.asm, if parts.fills { connected } else { make.end });
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
    if parts.fills {
        // A connect has failed before.
        let settled = make.asm.label();
        FILL.settle(&mut make.asm, event::SOCKET, settled);
        make.asm.place(settled);
    }
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
    remote_port(&mut make.asm, R7);
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
