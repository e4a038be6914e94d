//! The program that counts: sockets that a rule was carried out on, and how their connections ended.
//!
//! Why a connection ended is in the kernel's socket at the moment when it is closed: its error, and how much of what was sent was
//! acknowledged. Programs may read that where the kernel describes its types, and the program is told which field is where.

use crate::assembler::Register::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};
use crate::assembler::Size::{Double, Word};
use crate::assembler::When::{Equal, NotEqual};
use crate::assembler::{Assembler, Helper, Label, Map, NoProgram, Program, Register};
use crate::btf::Types;
use crate::counted::{Count, ROW};
use crate::layout::{NUMBER_BIT, event};
use crate::maker::{follow, if_to_itself};
use crate::refusal::Refusal;

/// Events: BPF_SOCK_OPS_TCP_CONNECT_CB and BPF_SOCK_OPS_STATE_CB.
const CONNECTS: i32 = 3;
const CHANGES: i32 = 10;
/// Arguments of the latter: the state before, and the one that comes.
const BEFORE: i16 = 4;
const AFTER: i16 = 8;

/// States of TCP, linux/bpf.h.
mod state {
    pub(super) const ESTABLISHED: i32 = 1;
    pub(super) const SYN_SENT: i32 = 2;
    pub(super) const SYN_RECEIVED: i32 = 3;
    pub(super) const CLOSED: i32 = 7;
    pub(super) const LISTENS: i32 = 10;
}

/// What a timer leaves as the error if nothing else was heard, and what it leaves if an ICMP message said that there is no way.
const SILENCE: [i32; 8] = [
    libc::ETIMEDOUT,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
    libc::ECONNREFUSED,
    libc::EHOSTDOWN,
    libc::ENONET,
    libc::ENOPROTOOPT,
    libc::EACCES,
];
/// Of a connect, whose error an ICMP message is at once.
const NO_WAY: [i32; 5] = [libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EHOSTDOWN, libc::ENONET, libc::EACCES];

/// Where the stack has the key of a row.
const KEY: i16 = -8;

/// Where `struct tcp_sock` has its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// The error that the program will be told.
    pub error: i16,
    /// The file's side, which is none when the program has closed it.
    pub socket: i16,
    /// What the program has written so far.
    pub written: i16,
    /// What was sent.
    pub sent: i16,
    /// What the peer has acknowledged.
    pub acknowledged: i16,
    /// How much more the peer takes.
    pub window: i16,
}

impl Fields {
    /// Those of the running kernel.
    ///
    /// # Errors
    /// If it does not describe its types.
    pub fn of_kernel() -> Result<Self, Refusal> {
        let no = || {
            Refusal::Target(
                "--metrics: this kernel does not describe its types (/sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF), so \
                 programs cannot tell how a connection ended; without --metrics the configuration can be attached"
                    .to_owned(),
            )
        };
        let types = Types::of_kernel().ok_or_else(no)?;
        Self::of(&types).ok_or_else(no)
    }

    fn of(types: &Types) -> Option<Self> {
        Some(Self {
            // `struct tcp_sock` begins with it.
            error: types.offset("sock", "sk_err")?,
            socket: types.offset("sock", "sk_socket")?,
            written: types.offset("tcp_sock", "write_seq")?,
            sent: types.offset("tcp_sock", "snd_nxt")?,
            acknowledged: types.offset("tcp_sock", "snd_una")?,
            window: types.offset("tcp_sock", "snd_wnd")?,
        })
    }
}

/// The program in the making.
struct Maker {
    asm: Assembler,
    /// Where one is added to what r7 says.
    add: Label,
    end: Label,
}

impl Maker {
    /// It is this one.
    fn is(&mut self, count: Count) {
        self.asm.set(R7, count.offset());
        self.asm.go(self.add);
    }

    /// It is this one if the error in r1 is one of these.
    fn is_if(&mut self, errors: &[i32], count: Count) {
        let (found, next) = (self.asm.label(), self.asm.label());
        for error in errors {
            self.asm.go_if_word(R1, Equal, *error, found);
        }
        self.asm.go(next);
        self.asm.place(found);
        self.is(count);
        self.asm.place(next);
    }

    /// The number of the socket's counters in r8.
    fn number(&mut self) {
        self.asm.load(Double, R2, R6, event::SOCKET);
        self.asm.go_if(R2, Equal, 0, self.end);
        self.asm.load_map(R1, Map::Sockets);
        self.asm.set(R3, 0);
        self.asm.set(R4, 0);
        self.asm.call(Helper::StorageGet);
        self.asm.go_if(R0, Equal, 0, self.end);
        self.asm.load(Double, R8, R0, 0);
        self.asm.shift_right(R8, NUMBER_BIT);
        self.asm.go_if(R8, Equal, 0, self.end);
    }

    /// The connection is closed; r8 is its state before.
    fn why(&mut self, fields: &Fields) {
        let [was_connecting, reset, silence, in_flight] = [(); 4].map(|()| self.asm.label());
        self.asm.load(Double, R1, R6, event::SOCKET);
        self.asm.go_if(R1, Equal, 0, self.end);
        self.asm.call(Helper::TcpSocket);
        self.asm.go_if(R0, Equal, 0, self.end);
        self.asm.copy(R9, R0);
        self.asm.load(Word, R1, R9, fields.error);
        self.asm.go_if(R8, Equal, state::SYN_SENT, was_connecting);
        self.is_if(&[0], Count::Closed);
        for error in [libc::ECONNRESET, libc::EPIPE] {
            self.asm.go_if_word(R1, Equal, error, reset);
        }
        for error in SILENCE {
            self.asm.go_if_word(R1, Equal, error, silence);
        }
        self.is(Count::Other);

        self.asm.place(was_connecting);
        self.is_if(&[0], Count::Abandoned);
        self.is_if(&[libc::ETIMEDOUT], Count::ConnectTimeout);
        self.is_if(&[libc::ECONNREFUSED], Count::Refused);
        self.is_if(&NO_WAY, Count::Unreachable);
        self.is(Count::Other);

        // A program that has closed its socket is told of no reset, and peers may well answer its last words with one.
        self.asm.place(reset);
        self.asm.load(Double, R1, R9, fields.socket);
        self.is_if_zero(R1, Count::Closed);
        self.is(Count::Reset);

        // Which of the kernel's three timers has run out: that for what was sent, that for what the peer has no room for, or
        // that for a connection in which all is acknowledged.
        self.asm.place(silence);
        self.asm.load(Word, R2, R9, fields.acknowledged);
        self.asm.load(Word, R3, R9, fields.written);
        self.asm.subtract(R3, R2);
        self.is_if_zero(R3, Count::Keepalive);
        self.asm.load(Word, R3, R9, fields.sent);
        self.asm.subtract(R3, R2);
        self.is_if_zero(R3, Count::ClosedWindow);
        self.asm.load(Word, R3, R9, fields.window);
        self.asm.go_if_word(R3, NotEqual, 0, in_flight);
        self.is(Count::ClosedWindow);
        self.asm.place(in_flight);
        self.is(Count::Unacknowledged);
    }

    fn is_if_zero(&mut self, register: Register, count: Count) {
        let next = self.asm.label();
        self.asm.go_if(register, NotEqual, 0, next);
        self.is(count);
        self.asm.place(next);
    }
}

/// `sock_ops`: what becomes of sockets that are counted.
///
/// # Errors
/// [`NoProgram`]
pub fn ended(fields: &Fields) -> Result<Program, NoProgram> {
    let mut asm = Assembler::default();
    let [add, known, end, changes, established] = [(); 5].map(|()| asm.label());
    asm.copy(R6, R1);
    asm.load(Word, R1, R6, event::WHAT);
    asm.go_if(R1, Equal, CHANGES, changes);
    asm.go_if(R1, NotEqual, CONNECTS, end);
    let mut make = Maker { asm, add, end };
    make.number();
    follow(&mut make.asm);
    make.asm.set(R7, Count::Sockets.offset());
    make.asm.go(known);

    make.asm.place(changes);
    make.asm.load(Word, R8, R6, BEFORE);
    make.asm.load(Word, R1, R6, AFTER);
    make.asm.go_if(R1, Equal, state::ESTABLISHED, established);
    make.asm.go_if(R1, NotEqual, state::CLOSED, end);
    for before in [state::CLOSED, state::LISTENS, state::SYN_RECEIVED] {
        make.asm.go_if(R8, Equal, before, end);
    }
    make.why(fields);
    // One that was accepted.
    make.asm.place(established);
    make.asm.go_if(R8, NotEqual, state::SYN_RECEIVED, end);
    // It was counted when it began to connect.
    if_to_itself(&mut make.asm, end);
    make.is(Count::Sockets);

    make.asm.place(add);
    make.number();
    make.asm.place(known);
    make.asm.store(Word, R10, KEY, R8);
    make.asm.load_map(R1, Map::Counters);
    make.asm.copy(R2, R10);
    make.asm.add_number(R2, KEY.into());
    make.asm.call(Helper::MapLookup);
    make.asm.go_if(R0, Equal, 0, end);
    // The kernel wants to see that it lies in the row.
    make.asm.and_number(R7, ROW as i32 - 8);
    make.asm.add_register(R0, R7);
    make.asm.set(R1, 1);
    make.asm.add_in_memory(R0, R1);
    make.asm.place(end);
    make.asm.set(R0, 1);
    make.asm.exit();
    make.asm.finish("sockopt_ended")
}
