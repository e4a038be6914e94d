//! `enforce = "fill"` in the kernel: a program asks for each option before it sets it, and leaves it where it is not what a new
//! socket has.

use policy::catalog::{SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_USER_TIMEOUT};
use policy::constants::{SOL_IP, SOL_SOCKET, SOL_TCP};
use policy::enforce::{Untouched, is_of_keepalive};
use policy::{Key, Setting, Value};

use crate::assembler::Register::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use crate::assembler::Size::{Double, Word};
use crate::assembler::When::{Above, AtLeast, Equal, NotEqual};
use crate::assembler::{Assembler, Helper, Label, Map};
use crate::settable::Refused;

/// How it is decided whether an option is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
enum How {
    /// It is, whatever the program has.
    #[default]
    Always,
    /// If the socket has what a new one has.
    Left,
    /// If it is not kept alive: the program chooses the keepalive as a whole.
    OfKeepalive,
    /// As `Left`, but not beside a keepalive of the program's of which one lost probe would then end the connection.
    Computed,
    /// It is a time for connecting (`connect_timeout`).
    Limit,
    /// As `Left`. The priority, which comes along with it, stays where it has been chosen.
    Tos,
}

/// A row beside that of the option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Fill {
    level: i32,
    name: i32,
    /// Bytes that the kernel is asked for.
    length: u32,
    how: How,
    /// Which bits of the first four bytes count.
    mask: u32,
    /// The keepalive from which a user timeout was computed, seconds.
    time: i32,
    interval: i32,
    /// What a new socket has.
    new: [u8; 16],
    /// What nine times the time until the second probe has to be below, milliseconds.
    limit: u64,
}

/// Where a row has what.
pub(crate) mod row {
    pub(super) const LEVEL: i16 = 0;
    pub(super) const NAME: i16 = 4;
    pub(super) const LENGTH: i16 = 8;
    pub(super) const HOW: i16 = 12;
    pub(super) const MASK: i16 = 16;
    pub(super) const TIME: i16 = 20;
    pub(super) const INTERVAL: i16 = 24;
    pub(super) const NEW: i16 = 32;
    pub(crate) const LIMIT: i16 = 48;
    /// Of a time for connecting: the user timeout that comes then, and whether a rule has it.
    pub(crate) const AFTERWARDS: i16 = TIME;
    pub(crate) const IS_RULES: i16 = INTERVAL;
    pub(super) const MARK: i16 = 56;
}

/// In what is remembered of a socket: its user timeout was computed and filled in.
pub(crate) const COMPUTED_BIT: i32 = 47;
/// How many bytes are asked for of an option whose value is a text.
const TEXT: u32 = 16;
/// By [`policy::enforce::Probing::outlasts_a_lost_probe`]: 8 times the user timeout is above 9 times the time until the second
/// probe and these milliseconds.
const TICKS: i32 = 160;

/// How many bytes the kernel is to be asked for.
pub(crate) fn length(level: i32, name: i32) -> u32 {
    let is_text = [(SOL_TCP, libc::TCP_CONGESTION), (SOL_SOCKET, libc::SO_BINDTODEVICE)].contains(&(level, name));
    if is_text { TEXT } else { 4 }
}

impl Fill {
    /// Of a setting of a rule that fills in.
    pub(crate) fn of(setting: &Setting, is_udp: bool, known: &Refused) -> Self {
        let (level, name) = (setting.level, setting.name);
        let how = match setting.computed_from {
            _ if is_of_keepalive(level, name) => How::OfKeepalive,
            Some(_) => How::Computed,
            None if (level, name) == (SOL_IP, libc::IP_TOS) => How::Tos,
            None => How::Left,
        };
        let mask = if Untouched::of(level, name) == Untouched::CodePoint { !3 } else { !0 };
        let limit = match setting.value {
            Value::Int(time) if how == How::Computed => (i64::from(time) * 8 - i64::from(TICKS)).max(0) as u64,
            _ => 0,
        };
        let (time, interval) = setting.computed_from.map_or((0, 0), |from| (from.time, from.interval));
        let new = known.new_of(is_udp, level, name);
        Self { level, name, length: length(level, name), how, mask, time, interval, new, limit }
    }

    /// Whether it is a time for connecting.
    pub(crate) fn is_limit(&self) -> bool {
        self.how == How::Limit
    }

    /// Whether it is a user timeout that was computed from the rule's keepalive.
    pub(crate) fn is_computed(&self) -> bool {
        self.how == How::Computed
    }

    /// Of a time for connecting, with what the socket is to have then.
    pub(crate) fn limit(setting: &Setting, afterwards: Option<&Setting>) -> Self {
        let number = |value: &Value| if let Value::Int(number) = value { *number } else { 0 };
        Self {
            level: setting.level,
            name: setting.name,
            length: 4,
            how: How::Limit,
            time: afterwards.map_or(0, |then| number(&then.value)),
            interval: afterwards.is_some_and(|then| then.key != Key::ConnectTimeout).into(),
            limit: number(&setting.value).unsigned_abs().into(),
            ..Self::default()
        }
    }

    /// As the kernel has it.
    pub(crate) fn to_bytes(self) -> [u8; 64] {
        let Self { level, name, length, how, mask, time, interval, new, limit } = self;
        let words = [level as u32, name as u32, length, how as u32, mask, time as u32, interval as u32, 0];
        let mark = if how == How::Computed { 1 << COMPUTED_BIT } else { 0_u64 };
        let head = words.iter().flat_map(|word| word.to_ne_bytes());
        let all = head.chain(new).chain(limit.to_ne_bytes()).chain(mark.to_ne_bytes());
        let mut bytes = [0; 64];
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        bytes
    }
}

/// Where the stack has what. Further below are none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stack {
    /// 4 bytes for keys.
    pub(crate) key: i16,
    /// 56 bytes.
    pub(crate) own: i16,
}

impl Stack {
    /// Whether the socket was kept alive when nothing was set on it yet.
    const fn kept(self) -> i16 {
        self.own
    }
    /// What is asked for.
    pub(crate) const fn answer(self) -> i16 {
        self.own + 8
    }
    /// The row.
    pub(crate) const fn row(self) -> i16 {
        self.own + 24
    }
    /// The time of the keepalive, or those of connecting.
    pub(crate) const fn time(self) -> i16 {
        self.own + 32
    }
    /// The priority before IP_TOS.
    const fn priority(self) -> i16 {
        self.own + 40
    }
    /// What is to be remembered.
    pub(crate) const fn mark(self) -> i16 {
        self.own + 48
    }

    /// Asks for four bytes, into `at`; r0 is what the kernel answers. `of` is what the option is asked of.
    pub(crate) fn ask(self, asm: &mut Assembler, of: crate::assembler::Register, (level, name): (i32, i32), at: i16) {
        asm.store_number(Double, R10, at, 0);
        asm.copy(R1, of);
        asm.set(R2, level);
        asm.set(R3, name);
        asm.copy(R4, R10);
        asm.add_number(R4, at.into());
        asm.set(R5, 4);
        asm.call(Helper::GetSockopt);
    }

    /// Before anything is set.
    pub(crate) fn begin(self, asm: &mut Assembler, socket: i16) {
        let (known, settled) = (asm.label(), asm.label());
        self.settle(asm, socket, settled);
        asm.place(settled);
        asm.store_number(Double, R10, self.mark(), 0);
        self.ask(asm, R6, (SO_KEEPALIVE.level, SO_KEEPALIVE.name), self.kept());
        asm.go_if(R0, Equal, 0, known);
        // What cannot be read is the program's.
        asm.store_number(Double, R10, self.kept(), 1);
        asm.place(known);
    }

    /// Whether option r7 + r9 is to be set on the socket at `socket` of the context; else goes on at `skip`. Uses r0 to r5.
    pub(crate) fn before(self, asm: &mut Assembler, socket: i16, skip: Label, end: Label) {
        let [set, left, of_keepalive, limit, some, own, sum] = [(); 7].map(|()| asm.label());
        asm.copy(R1, R7);
        asm.add_register(R1, R9);
        asm.store(Word, R10, self.key, R1);
        asm.load_map(R1, Map::Fills);
        asm.copy(R2, R10);
        asm.add_number(R2, self.key.into());
        asm.call(Helper::MapLookup);
        asm.go_if(R0, Equal, 0, end);
        asm.store(Double, R10, self.row(), R0);
        asm.load(Word, R1, R0, row::HOW);
        asm.go_if(R1, Equal, How::Always as i32, set);
        asm.go_if(R1, Equal, How::Limit as i32, limit);
        asm.go_if(R1, NotEqual, How::OfKeepalive as i32, left);
        asm.place(of_keepalive);
        asm.load(Double, R1, R10, self.kept());
        asm.go_if(R1, Equal, 0, set);
        asm.go(skip);
        asm.place(limit);
        self.limit(asm, socket, set, skip);
        asm.place(left);
        for half in [0, 8] {
            asm.store_number(Double, R10, self.answer() + half, 0);
        }
        asm.load(Word, R2, R0, row::LEVEL);
        asm.load(Word, R3, R0, row::NAME);
        asm.load(Word, R5, R0, row::LENGTH);
        asm.go_if(R5, AtLeast, 1, some);
        asm.go(end);
        asm.place(some);
        asm.go_if(R5, Above, TEXT as i32, end);
        asm.copy(R1, R6);
        asm.copy(R4, R10);
        asm.add_number(R4, self.answer().into());
        asm.call(Helper::GetSockopt);
        asm.go_if(R0, NotEqual, 0, skip);
        asm.load(Double, R3, R10, self.row());
        for word in [0, 4, 8, 12] {
            asm.load(Word, R1, R10, self.answer() + word);
            asm.load(Word, R2, R3, row::NEW + word);
            if word == 0 {
                asm.load(Word, R4, R3, row::MASK);
                asm.and(R1, R4);
                asm.and(R2, R4);
            }
            asm.go_if_register(R1, NotEqual, R2, skip);
        }
        asm.load(Word, R1, R3, row::HOW);
        asm.go_if(R1, Equal, How::Computed as i32, own);
        asm.go_if(R1, NotEqual, How::Tos as i32, set);
        self.ask(asm, R6, (SOL_SOCKET, libc::SO_PRIORITY), self.priority());
        asm.go(set);
        asm.place(own);
        asm.load(Double, R1, R10, self.kept());
        asm.go_if(R1, Equal, 0, set);
        self.ask(asm, R6, (TCP_KEEPIDLE.level, TCP_KEEPIDLE.name), self.time());
        asm.go_if(R0, NotEqual, 0, skip);
        self.ask(asm, R6, (TCP_KEEPINTVL.level, TCP_KEEPINTVL.name), self.answer());
        asm.go_if(R0, NotEqual, 0, skip);
        asm.load(Double, R3, R10, self.row());
        asm.load(Word, R1, R10, self.time());
        asm.load(Word, R2, R10, self.answer());
        // It is the rule's own keepalive, or one that outlasts a lost probe.
        asm.load(Word, R4, R3, row::TIME);
        asm.go_if_register(R1, NotEqual, R4, sum);
        asm.load(Word, R4, R3, row::INTERVAL);
        asm.go_if_register(R2, Equal, R4, set);
        asm.place(sum);
        asm.add_register(R1, R2);
        asm.multiply(R1, 9_000);
        asm.load(Double, R2, R3, row::LIMIT);
        asm.go_if_register(R1, AtLeast, R2, skip);
        asm.place(set);
    }

    /// When it was set.
    pub(crate) fn after(self, asm: &mut Assembler) {
        let (computed, done) = (asm.label(), asm.label());
        asm.load(Double, R3, R10, self.row());
        asm.load(Word, R1, R3, row::HOW);
        asm.go_if(R1, Equal, How::Computed as i32, computed);
        asm.go_if(R1, NotEqual, How::Tos as i32, done);
        asm.load(Word, R1, R10, self.priority());
        asm.go_if(R1, Equal, 0, done);
        asm.copy(R1, R6);
        asm.set(R2, SOL_SOCKET);
        asm.set(R3, libc::SO_PRIORITY);
        asm.copy(R4, R10);
        asm.add_number(R4, self.priority().into());
        asm.set(R5, 4);
        asm.call(Helper::SetSockopt);
        asm.go(done);
        asm.place(computed);
        asm.load(Double, R1, R3, row::MARK);
        asm.store(Double, R10, self.mark(), R1);
        asm.place(done);
    }

    /// In `cgroup/setsockopt`, of an option that no rule enforces on the socket: takes a computed user timeout back where the
    /// program chooses a keepalive of which a lost probe would then end a living connection. r6 is the context, r0 what is
    /// remembered of the socket; all others are used. Goes on at `pass`.
    pub(crate) fn take_back(self, asm: &mut Assembler, pass: Label) {
        /// Fields of `struct bpf_sockopt`.
        const SOCKET: i16 = 0;
        const VALUE: i16 = 8;
        const VALUE_END: i16 = 16;
        let [interval, known, forget] = [(); 3].map(|()| asm.label());
        let timeout = (TCP_USER_TIMEOUT.level, TCP_USER_TIMEOUT.name);
        asm.store(Double, R10, self.row(), R0);
        asm.load(Double, R1, R0, 0);
        asm.shift_right(R1, COMPUTED_BIT);
        asm.and_number(R1, 1);
        asm.go_if(R1, Equal, 0, pass);
        asm.load(Word, R1, R10, self.key);
        asm.go_if(R1, NotEqual, SOL_TCP, pass);
        asm.load(Word, R1, R10, self.key + 4);
        asm.go_if(R1, Equal, TCP_USER_TIMEOUT.name, forget);
        asm.set(R8, TCP_KEEPINTVL.name);
        asm.go_if(R1, Equal, TCP_KEEPIDLE.name, known);
        asm.go_if(R1, Equal, TCP_KEEPINTVL.name, interval);
        asm.go(pass);
        asm.place(interval);
        asm.set(R8, TCP_KEEPIDLE.name);
        asm.place(known);
        asm.load(Double, R1, R6, VALUE);
        asm.load(Double, R2, R6, VALUE_END);
        asm.copy(R3, R1);
        asm.add_number(R3, 4);
        asm.go_if_register(R3, Above, R2, pass);
        asm.load(Word, R9, R1, 0);
        asm.load(Double, R7, R6, SOCKET);
        asm.go_if(R7, Equal, 0, pass);
        asm.store_number(Double, R10, self.answer(), 0);
        asm.copy(R1, R7);
        asm.set(R2, SOL_TCP);
        asm.copy(R3, R8);
        asm.copy(R4, R10);
        asm.add_number(R4, self.answer().into());
        asm.set(R5, 4);
        asm.call(Helper::GetSockopt);
        asm.go_if(R0, NotEqual, 0, pass);
        asm.load(Word, R1, R10, self.answer());
        asm.add_register(R9, R1);
        asm.multiply(R9, 9_000);
        asm.add_number(R9, TICKS);
        self.ask(asm, R7, timeout, self.answer());
        asm.go_if(R0, NotEqual, 0, pass);
        asm.load(Word, R1, R10, self.answer());
        asm.multiply(R1, 8);
        asm.go_if_register(R1, Above, R9, pass);
        asm.store_number(Double, R10, self.answer(), 0);
        asm.copy(R1, R7);
        asm.set(R2, timeout.0);
        asm.set(R3, timeout.1);
        asm.copy(R4, R10);
        asm.add_number(R4, self.answer().into());
        asm.set(R5, 4);
        asm.call(Helper::SetSockopt);
        asm.place(forget);
        asm.load(Double, R1, R10, self.row());
        asm.load(Double, R2, R1, 0);
        asm.set(R3, 1 << 24);
        asm.multiply(R3, 1 << (COMPUTED_BIT - 24));
        asm.subtract(R2, R3);
        asm.store(Double, R1, 0, R2);
        asm.go(pass);
    }
}
