//! `connect_timeout` in the kernel: a user timeout while a socket connects, and the one that it has afterwards.
//!
//! Both are remembered of the socket when it connects. As long as its user timeout is the former, the latter takes its place when
//! the connection stands.

use policy::catalog::TCP_USER_TIMEOUT;
use policy::constants::SOL_TCP;

use crate::assembler::Register::{R0, R1, R2, R3, R4, R5, R6, R10};
use crate::assembler::Size::{Double, Word};
use crate::assembler::When::{AtLeast, Equal, NotEqual};
use crate::assembler::{Assembler, Helper, Label, Map};
use crate::fill::{Stack, row};

const TIMEOUT: (i32, i32) = (SOL_TCP, TCP_USER_TIMEOUT.name);

impl Stack {
    /// What is remembered of the socket at `socket` of the context: r0, or none, and then it goes on at `none`.
    fn of_socket(self, asm: &mut Assembler, socket: i16, make: i32, none: Label) {
        asm.load(Double, R2, R6, socket);
        asm.go_if(R2, Equal, 0, none);
        asm.load_map(R1, Map::Connecting);
        asm.set(R3, 0);
        asm.set(R4, make);
        asm.call(Helper::StorageGet);
        asm.go_if(R0, Equal, 0, none);
    }

    /// Takes the time for connecting back, where there is one: the connection stands, or is made anew. Uses r0 to r5, and goes on at
    /// `done`.
    pub(crate) fn settle(self, asm: &mut Assembler, socket: i16, done: Label) {
        let times = self.time();
        let (afterwards, limit) = if cfg!(target_endian = "little") { (times, times + 4) } else { (times + 4, times) };
        self.of_socket(asm, socket, 0, done);
        asm.load(Double, R1, R0, 0);
        asm.store(Double, R10, times, R1);
        asm.store_number(Double, R0, 0, 0);
        asm.go_if(R1, Equal, 0, done);
        self.ask(asm, R6, TIMEOUT, self.answer());
        asm.go_if(R0, NotEqual, 0, done);
        asm.load(Word, R1, R10, self.answer());
        asm.load(Word, R2, R10, limit);
        // The program has set another one meanwhile.
        asm.go_if_register(R1, NotEqual, R2, done);
        asm.copy(R1, R6);
        asm.set(R2, TIMEOUT.0);
        asm.set(R3, TIMEOUT.1);
        asm.copy(R4, R10);
        asm.add_number(R4, afterwards.into());
        asm.set(R5, 4);
        asm.call(Helper::SetSockopt);
        asm.go(done);
    }

    /// Of a row for connecting: goes on at `set` if its time is to be set, at `skip` if the program has one that is no longer.
    pub(crate) fn limit(self, asm: &mut Assembler, socket: i16, set: Label, skip: Label) {
        let [rules, known] = [(); 2].map(|()| asm.label());
        self.ask(asm, R6, TIMEOUT, self.answer());
        asm.go_if(R0, NotEqual, 0, skip);
        asm.load(Word, R1, R10, self.answer());
        asm.load(Double, R3, R10, self.row());
        asm.load(Word, R2, R3, row::IS_RULES);
        asm.go_if(R2, NotEqual, 0, rules);
        asm.go_if(R1, Equal, 0, rules);
        asm.load(Double, R2, R3, row::LIMIT);
        asm.go_if_register(R2, AtLeast, R1, skip);
        asm.go(known);
        asm.place(rules);
        asm.load(Word, R1, R3, row::AFTERWARDS);
        asm.place(known);
        asm.store(Double, R10, self.answer(), R1);
        self.of_socket(asm, socket, 1, skip);
        asm.load(Double, R3, R10, self.row());
        asm.load(Double, R1, R3, row::LIMIT);
        asm.load(Double, R2, R10, self.answer());
        let (low, high) = if cfg!(target_endian = "little") { (0, 4) } else { (4, 0) };
        asm.store(Word, R0, low, R2);
        asm.store(Word, R0, high, R1);
        asm.go(set);
    }
}
