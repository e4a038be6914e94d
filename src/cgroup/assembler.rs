//! Instructions of the kernel's eBPF machine (RFC 9669), put together with labels, and printed as `bpftool prog dump` does.

use std::fmt;

/// One instruction, `struct bpf_insn` of linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What it does.
    pub code: u8,
    /// The destination in the lower half, the source in the upper.
    pub registers: u8,
    /// Of a load or store: bytes from the register. Of a jump: how many instructions it leaves out.
    pub offset: i16,
    /// A number that it works with.
    pub immediate: i32,
}

/// A register. r0 has results; r1 to r5 are arguments, and lost in a call; r6 to r9 are kept; r10 is the end of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "r0 to r10")]
pub enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How many bytes are loaded or stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// 1 byte; the others of the register become zero.
    Byte,
    /// 2 bytes; the same.
    Half,
    /// 4 bytes.
    Word,
    /// 8 bytes.
    Double,
}

/// When a jump is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// They are the same.
    Equal,
    /// They are not.
    NotEqual,
    /// The first is larger, both without sign.
    Above,
    /// The first is larger or they are the same, both without sign.
    AtLeast,
}

/// A function of the kernel's that programs may call, by its number in linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Helper {
    /// bpf_map_lookup_elem
    MapLookup = 1,
    /// bpf_map_update_elem
    MapUpdate = 2,
    /// bpf_map_delete_elem
    MapDelete = 3,
    /// bpf_skb_load_bytes
    LoadPacket = 26,
    /// bpf_get_current_task
    CurrentTask = 35,
    /// bpf_setsockopt
    SetSockopt = 49,
    /// bpf_getsockopt
    GetSockopt = 57,
    /// bpf_sock_ops_cb_flags_set
    SetFlags = 59,
    /// bpf_sk_storage_get
    StorageGet = 107,
    /// bpf_probe_read_kernel
    ReadKernel = 113,
    /// bpf_probe_read_kernel_str
    ReadKernelText = 115,
    /// bpf_skc_to_tcp_sock
    TcpSocket = 137,
}

impl Helper {
    const ALL: [(Self, &'static str); 12] = [
        (Self::MapLookup, "bpf_map_lookup_elem"),
        (Self::MapUpdate, "bpf_map_update_elem"),
        (Self::MapDelete, "bpf_map_delete_elem"),
        (Self::LoadPacket, "bpf_skb_load_bytes"),
        (Self::CurrentTask, "bpf_get_current_task"),
        (Self::SetSockopt, "bpf_setsockopt"),
        (Self::GetSockopt, "bpf_getsockopt"),
        (Self::SetFlags, "bpf_sock_ops_cb_flags_set"),
        (Self::StorageGet, "bpf_sk_storage_get"),
        (Self::ReadKernel, "bpf_probe_read_kernel"),
        (Self::ReadKernelText, "bpf_probe_read_kernel_str"),
        (Self::TcpSocket, "bpf_skc_to_tcp_sock"),
    ];

    /// The one with this number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.iter().map(|(helper, _)| *helper).find(|helper| *helper as i32 == number)
    }
}

/// A table in the kernel that programs share with us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Map {
    /// Networks.
    Networks,
    /// Ranges of ports.
    Ports,
    /// States of the machine that reads names of executables.
    Names,
    /// What each profile sets, and where its options lie.
    Profiles,
    /// Options with their values.
    Options,
    /// Beside each option, whether it is to be filled in.
    Fills,
    /// Of each option that is enforced, its bit.
    Enforced,
    /// Of each socket, which options are enforced on it, and the number of its counters.
    Sockets,
    /// Of each listener and what it accepts, the class of its clients.
    Listeners,
    /// Of each socket that connects within a time of a rule's: that user timeout in the upper half, the one that comes then in the
    /// lower.
    Connecting,
    /// What the kernel answered to each option that was tried.
    Results,
    /// Of each answer that is counted, the number of its counters.
    Numbers,
    /// How many sockets there were, and how they ended.
    Counters,
    /// States of the machine that reads host names.
    Hosts,
    /// By which name each address was looked up last, of those that rules name.
    Addresses,
}

impl Map {
    /// As it is called in the kernel.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Networks => "networks",
            Self::Ports => "ports",
            Self::Names => "names",
            Self::Profiles => "profiles",
            Self::Options => "options",
            Self::Fills => "fills",
            Self::Enforced => "enforced",
            Self::Sockets => "sockets",
            Self::Listeners => "listeners",
            Self::Connecting => "connecting",
            Self::Results => "results",
            Self::Numbers => "numbers",
            Self::Counters => "counters",
            Self::Hosts => "hosts",
            Self::Addresses => "addresses",
        }
    }
}

// linux/bpf_common.h and linux/bpf.h: classes, sizes, modes, operations, sources.
/// Class: load of an immediate of 64 bits (two instructions).
pub(crate) const LOAD_WIDE: u8 = 0x18;
/// Class: load from memory.
pub(crate) const LOAD: u8 = 0x61;
/// Class: store of an immediate.
pub(crate) const STORE_IMMEDIATE: u8 = 0x62;
/// Class: store of a register.
pub(crate) const STORE: u8 = 0x63;
/// Size: 1 byte, where a load or store has 4.
pub(crate) const BYTE: u8 = 0x10;
/// Size: 2 bytes, where a load or store has 4.
pub(crate) const HALF: u8 = 0x08;
/// Size: 8 bytes, where a load or store has 4.
pub(crate) const DOUBLE: u8 = 0x18;
/// Class: arithmetic with 64 bits.
pub(crate) const WIDE: u8 = 0x07;
/// Class: jumps that compare 64 bits.
pub(crate) const JUMP: u8 = 0x05;
/// Class: jumps that compare 32 bits.
pub(crate) const JUMP_WORD: u8 = 0x06;
/// Class: an atomic operation on 8 bytes of memory; the immediate says which, 0 is to add.
pub(crate) const ATOMIC: u8 = 0xdb;
/// Source: a register.
pub(crate) const BY_REGISTER: u8 = 0x08;
/// Operations of arithmetic.
pub(crate) const ADD: u8 = 0x00;
pub(crate) const SUBTRACT: u8 = 0x10;
pub(crate) const MULTIPLY: u8 = 0x20;
pub(crate) const OR: u8 = 0x40;
pub(crate) const AND: u8 = 0x50;
pub(crate) const SHIFT_LEFT: u8 = 0x60;
pub(crate) const SHIFT_RIGHT: u8 = 0x70;
pub(crate) const MOVE: u8 = 0xb0;
/// Class 32-bit arithmetic, operation "byte order", to big endian.
pub(crate) const TO_BIG_ENDIAN: u8 = 0xdc;
pub(crate) const CALL: u8 = 0x85;
pub(crate) const EXIT: u8 = 0x95;
pub(crate) const GO: u8 = 0x05;
/// BPF_PSEUDO_MAP_FD, the source of a wide load: the immediate is a map's descriptor.
pub(crate) const MAP_DESCRIPTOR: u8 = 1;

impl When {
    /// The bits of the operation.
    pub(crate) const fn bits(self) -> u8 {
        match self {
            Self::Equal => 0x10,
            Self::Above => 0x20,
            Self::AtLeast => 0x30,
            Self::NotEqual => 0x50,
        }
    }

    const fn sign(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Above => ">",
            Self::AtLeast => ">=",
        }
    }

    /// Those that there are.
    pub(crate) const ALL: [Self; 4] = [Self::Equal, Self::NotEqual, Self::Above, Self::AtLeast];
}

/// A place in a program that jumps lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A program, ready to be loaded but for the descriptors of its maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// As it is called in the kernel: at most 15 characters.
    pub name: &'static str,
    /// Its instructions.
    pub code: Vec<Instruction>,
    /// Which instructions load a map's address, and which map.
    pub maps: Vec<(usize, Map)>,
}

/// Puts a program together.
#[derive(Debug, Default)]
pub struct Assembler {
    code: Vec<Instruction>,
    maps: Vec<(usize, Map)>,
    /// Where each label is, once it is known.
    labels: Vec<Option<usize>>,
    /// Jumps that are still to be given their length.
    jumps: Vec<(usize, Label)>,
}

/// What was put together is no program: a jump is too long, or leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoProgram;

impl Assembler {
    fn add(&mut self, code: u8, destination: Register, source: u8, offset: i16, immediate: i32) {
        let registers = destination as u8 | source << 4;
        self.code.push(Instruction { code, registers, offset, immediate });
    }

    /// `to = value`
    pub fn set(&mut self, to: Register, value: i32) {
        self.add(WIDE | MOVE, to, 0, 0, value);
    }

    /// `to = from`
    pub fn copy(&mut self, to: Register, from: Register) {
        self.add(WIDE | MOVE | BY_REGISTER, to, from as u8, 0, 0);
    }

    /// `to += value`
    pub fn add_number(&mut self, to: Register, value: i32) {
        self.add(WIDE | ADD, to, 0, 0, value);
    }

    /// `to += from`
    pub fn add_register(&mut self, to: Register, from: Register) {
        self.add(WIDE | ADD | BY_REGISTER, to, from as u8, 0, 0);
    }

    /// `to -= from`
    pub fn subtract(&mut self, to: Register, from: Register) {
        self.add(WIDE | SUBTRACT | BY_REGISTER, to, from as u8, 0, 0);
    }

    /// `to *= value`
    pub fn multiply(&mut self, to: Register, value: i32) {
        self.add(WIDE | MULTIPLY, to, 0, 0, value);
    }

    /// `to |= from`
    pub fn or(&mut self, to: Register, from: Register) {
        self.add(WIDE | OR | BY_REGISTER, to, from as u8, 0, 0);
    }

    /// `to &= value`
    pub fn and_number(&mut self, to: Register, value: i32) {
        self.add(WIDE | AND, to, 0, 0, value);
    }

    /// `to &= from`
    pub fn and(&mut self, to: Register, from: Register) {
        self.add(WIDE | AND | BY_REGISTER, to, from as u8, 0, 0);
    }

    /// `to <<= bits`
    pub fn shift_left(&mut self, to: Register, bits: i32) {
        self.add(WIDE | SHIFT_LEFT, to, 0, 0, bits);
    }

    /// `to >>= bits`
    pub fn shift_right(&mut self, to: Register, bits: i32) {
        self.add(WIDE | SHIFT_RIGHT, to, 0, 0, bits);
    }

    /// The lower 16 bits from network order into this machine's, or back; the others become zero.
    pub fn swap_16(&mut self, register: Register) {
        self.add(TO_BIG_ENDIAN, register, 0, 0, 16);
    }

    /// `to = *(from + offset)`
    pub fn load(&mut self, size: Size, to: Register, from: Register, offset: i16) {
        self.add(LOAD | size.bits(), to, from as u8, offset, 0);
    }

    /// `*(to + offset) = from`
    pub fn store(&mut self, size: Size, to: Register, offset: i16, from: Register) {
        self.add(STORE | size.bits(), to, from as u8, offset, 0);
    }

    /// `*(to) += from`, 8 bytes, whoever else does the same at this moment
    pub fn add_in_memory(&mut self, to: Register, from: Register) {
        self.add(ATOMIC, to, from as u8, 0, 0);
    }

    /// `*(to + offset) = value`
    pub fn store_number(&mut self, size: Size, to: Register, offset: i16, value: i32) {
        self.add(STORE_IMMEDIATE | size.bits(), to, 0, offset, value);
    }

    /// `to = ` the map
    pub fn load_map(&mut self, to: Register, map: Map) {
        self.maps.push((self.code.len(), map));
        self.add(LOAD_WIDE, to, MAP_DESCRIPTOR, 0, 0);
        self.code.push(Instruction { code: 0, registers: 0, offset: 0, immediate: 0 });
    }

    /// Calls one of the kernel's functions.
    pub fn call(&mut self, helper: Helper) {
        self.add(CALL, Register::R0, 0, 0, helper as i32);
    }

    /// Ends the program; r0 is its answer.
    pub fn exit(&mut self) {
        self.add(EXIT, Register::R0, 0, 0, 0);
    }

    /// A place that is named before it is reached.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub fn place(&mut self, label: Label) {
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(self.code.len());
        }
    }

    /// Goes on at the label.
    pub fn go(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.add(GO, Register::R0, 0, 0, 0);
    }

    /// Goes on at the label if the register compares so with a number.
    pub fn go_if(&mut self, register: Register, when: When, number: i32, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.add(JUMP | when.bits(), register, 0, 0, number);
    }

    /// The same by the lower 32 bits of the register: a number of 64 would have its sign in the upper ones.
    pub fn go_if_word(&mut self, register: Register, when: When, number: i32, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.add(JUMP_WORD | when.bits(), register, 0, 0, number);
    }

    /// Goes on at the label if two registers compare so.
    pub fn go_if_register(&mut self, register: Register, when: When, other: Register, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.add(JUMP | when.bits() | BY_REGISTER, register, other as u8, 0, 0);
    }

    /// The program.
    ///
    /// # Errors
    /// [`NoProgram`]
    pub fn finish(mut self, name: &'static str) -> Result<Program, NoProgram> {
        for (at, label) in self.jumps {
            let target = self.labels.get(label.0).copied().flatten().ok_or(NoProgram)?;
            let distance = target as i64 - at as i64 - 1;
            let jump = self.code.get_mut(at).ok_or(NoProgram)?;
            jump.offset = i16::try_from(distance).map_err(|_| NoProgram)?;
        }
        Ok(Program { name, code: self.code, maps: self.maps })
    }
}

impl Size {
    const fn bits(self) -> u8 {
        match self {
            Self::Byte => BYTE,
            Self::Half => HALF,
            Self::Word => 0,
            Self::Double => DOUBLE,
        }
    }
}

impl Program {
    /// The descriptor of each map put where it is loaded.
    #[must_use]
    pub fn with_maps(&self, descriptor: impl Fn(Map) -> i32) -> Vec<Instruction> {
        let mut code = self.code.clone();
        for (at, map) in &self.maps {
            if let Some(instruction) = code.get_mut(*at) {
                instruction.immediate = descriptor(*map);
            }
        }
        code
    }
}

impl fmt::Display for Program {
    /// A line for each instruction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut is_second_half = false;
        for (at, instruction) in self.code.iter().enumerate() {
            if std::mem::take(&mut is_second_half) {
                continue;
            }
            let Instruction { code, registers, offset, immediate } = *instruction;
            let (to, from) = (registers & 0xf, registers >> 4);
            let target = at as i64 + 1 + i64::from(offset);
            let size = match code & DOUBLE {
                DOUBLE => "u64",
                BYTE => "u8",
                HALF => "u16",
                _ => "u32",
            };
            write!(f, "{at:4}: ")?;
            match code {
                LOAD_WIDE => {
                    is_second_half = true;
                    let map = self.maps.iter().find(|(place, _)| *place == at).map_or("?", |(_, map)| map.name());
                    writeln!(f, "r{to} = map {map}")?;
                }
                EXIT => writeln!(f, "exit")?,
                GO => writeln!(f, "goto {target}")?,
                CALL => {
                    let name = Helper::ALL.iter().find(|(helper, _)| *helper as i32 == immediate);
                    writeln!(f, "call {}", name.map_or("?", |(_, name)| name))?;
                }
                TO_BIG_ENDIAN => writeln!(f, "r{to} = be{immediate} r{to}")?,
                ATOMIC => writeln!(f, "lock *(u64 *)(r{to} {offset:+}) += r{from}")?,
                _ if code & !DOUBLE == LOAD => writeln!(f, "r{to} = *({size} *)(r{from} {offset:+})")?,
                _ if code & !DOUBLE == STORE => writeln!(f, "*({size} *)(r{to} {offset:+}) = r{from}")?,
                _ if code & !DOUBLE == STORE_IMMEDIATE => writeln!(f, "*({size} *)(r{to} {offset:+}) = {immediate}")?,
                _ => {
                    let operand = if code & BY_REGISTER != 0 { format!("r{from}") } else { immediate.to_string() };
                    let when = When::ALL.iter().find(|when| when.bits() == code & 0xf0);
                    match (code & 0x07, when) {
                        (JUMP, Some(when)) => writeln!(f, "if r{to} {} {operand} goto {target}", when.sign())?,
                        (JUMP_WORD, Some(when)) => writeln!(f, "if w{to} {} {operand} goto {target}", when.sign())?,
                        (WIDE, _) => {
                            let sign = match code & 0xf0 {
                                ADD => "+=",
                                SUBTRACT => "-=",
                                MULTIPLY => "*=",
                                OR => "|=",
                                AND => "&=",
                                SHIFT_LEFT => "<<=",
                                SHIFT_RIGHT => ">>=",
                                MOVE => "=",
                                _ => "?",
                            };
                            writeln!(f, "r{to} {sign} {operand}")?;
                        }
                        _ => writeln!(f, "?")?,
                    }
                }
            }
        }
        Ok(())
    }
}
