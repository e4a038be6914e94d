//! The kernel's machine, for tests: runs a program on its tables, and says what it set.

use std::collections::BTreeMap;

use crate::assembler::MULTIPLY;
use crate::assembler::{
    ADD, AND, ATOMIC, BY_REGISTER, BYTE, CALL, DOUBLE, EXIT, GO, HALF, Helper, Instruction, JUMP, JUMP_WORD, LOAD,
    LOAD_WIDE, MOVE, Map, OR, Program, SHIFT_LEFT, SHIFT_RIGHT, STORE, STORE_IMMEDIATE, SUBTRACT, TO_BIG_ENDIAN, WIDE,
    When,
};
use crate::dns::{NAME, packet};
use crate::executable;
use crate::rows::{Kind, Rows};

/// What a program did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Its answer.
    pub(crate) result: u64,
    /// Level, name and value of what it set.
    pub(crate) set: Vec<(i32, i32, Vec<u8>)>,
    /// The flags that it gave the socket.
    pub(crate) flags: Option<u64>,
    /// Where in its row it has counted.
    pub(crate) counted: Option<u64>,
}

/// A machine with tables, and one socket.
pub(crate) struct Machine {
    rows: Vec<Rows>,
    /// The name of the process's executable, if it has one.
    pub(crate) executable: Option<Vec<u8>>,
    /// What the socket has of options, by level and name; of others the kernel tells nothing.
    pub(crate) options: BTreeMap<(i32, i32), Vec<u8>>,
    /// The value that a program sets, of a call of setsockopt.
    pub(crate) value: Vec<u8>,
    /// What is remembered of the socket.
    pub(crate) storage: BTreeMap<Map, u64>,
    /// By which name each address was looked up last.
    pub(crate) addresses: BTreeMap<[u8; 16], Vec<u8>>,
    /// What a socket receives.
    packet: Vec<u8>,
    memory: Vec<Vec<u8>>,
}

/// A pointer: the number of the memory from 1, then the offset in it.
fn pointer(memory: usize, offset: usize) -> u64 {
    ((memory as u64 + 1) << 32) + offset as u64
}

const MAP: u64 = 1 << 60;
const STACK: usize = 512;
/// Where the kernel has the task; behind it, as far from each other, what leads to the name.
const TASK: u64 = 1 << 56;

impl Machine {
    pub(crate) fn new(rows: Vec<Rows>) -> Self {
        Self {
            rows,
            executable: None,
            options: BTreeMap::new(),
            value: Vec::new(),
            storage: BTreeMap::new(),
            addresses: BTreeMap::new(),
            packet: Vec::new(),
            memory: Vec::new(),
        }
    }

    fn bytes(&mut self, at: u64, length: usize) -> &mut [u8] {
        let (memory, offset) = ((at >> 32) as usize - 1, (at & 0xffff_ffff) as usize);
        &mut self.memory[memory][offset..offset + length]
    }

    fn number(&mut self, at: u64, length: usize) -> u64 {
        let mut number = [0; 8];
        number[..length].copy_from_slice(self.bytes(at, length));
        u64::from_le_bytes(number)
    }

    fn address(&mut self, key: u64) -> [u8; 16] {
        self.bytes(key, 16).try_into().expect("16 bytes")
    }

    /// Bytes of the packet; zeroes where they are not there.
    fn load_packet(&mut self, offset: u64, to: u64, length: usize) -> u64 {
        let found = self.packet.get(offset as usize..offset as usize + length).map(<[u8]>::to_vec);
        let to = self.bytes(to, length);
        match found {
            Some(found) => {
                to.copy_from_slice(&found);
                0
            }
            None => {
                to.fill(0);
                -14_i64 as u64
            }
        }
    }

    /// Runs a program on a packet, of which as many bytes lie in one piece.
    pub(crate) fn receive(&mut self, program: &Program, packet: &[u8], linear: usize) -> u64 {
        let mut context = [0; 192];
        context[..4].copy_from_slice(&(packet.len() as u32).to_le_bytes());
        let protocol: u16 = if packet.first().is_some_and(|first| first >> 4 == 6) { 0x86dd } else { 0x0800 };
        context[16..18].copy_from_slice(&protocol.to_be_bytes());
        self.packet = packet.to_vec();
        self.run(program, &context, 168, &packet[..linear.min(packet.len())]).result
    }

    fn lookup(&mut self, map: Map, key: u64) -> u64 {
        if map == Map::Addresses {
            let key = self.address(key);
            let Some(name) = self.addresses.get(&key).cloned() else { return 0 };
            self.memory.push(name);
            return pointer(self.memory.len() - 1, 0);
        }
        let rows = self.rows.iter().find(|rows| rows.map == map).expect("a table");
        let (kind, length) = (rows.kind, rows.key);
        let key = self.bytes(key, length).to_vec();
        let rows = self.rows.iter().find(|rows| rows.map == map).expect("a table");
        let mut of_all = rows.keys.chunks_exact(rows.key).zip(rows.values.chunks_exact(rows.value));
        let found = match kind {
            Kind::Array => of_all.nth(u32::from_le_bytes(key[..4].try_into().expect("4 bytes")) as usize),
            Kind::Hash => of_all.find(|(known, _)| *known == key),
            Kind::LongestPrefix => {
                let bits = |key: &[u8]| u32::from_le_bytes(key[..4].try_into().expect("4 bytes")) as usize;
                let bit = |key: &[u8], at: usize| key[4 + at / 8] >> (7 - at % 8) & 1;
                let is_in = |known: &[u8]| {
                    bits(known) <= bits(&key) && (0..bits(known)).all(|at| bit(known, at) == bit(&key, at))
                };
                of_all.filter(|(known, _)| is_in(known)).max_by_key(|(known, _)| bits(known))
            }
        };
        let Some(value) = found.map(|(_, value)| value.to_vec()) else { return 0 };
        self.memory.push(value);
        pointer(self.memory.len() - 1, 0)
    }

    /// Reads an address of the kernel's, which is none of the program's own; r0.
    fn read_kernel(&mut self, to: u64, length: usize, from: u64) -> u64 {
        let path = executable::Fields::EXAMPLE.path().map(|offset| offset as u64);
        let places: Vec<u64> = (1..).zip(path).map(|(stage, offset)| stage * TASK + offset).collect();
        let found = places.iter().position(|place| *place == from);
        let value = match (found, &self.executable) {
            // A task of the kernel's own has no memory.
            (Some(0), None) => 0,
            (Some(at), _) => (at as u64 + 2) * TASK,
            (None, _) => {
                self.bytes(to, length).fill(0);
                return -14_i64 as u64;
            }
        };
        self.bytes(to, length).copy_from_slice(&value.to_le_bytes()[..length]);
        0
    }

    fn read_kernel_text(&mut self, to: u64, length: usize, from: u64) -> u64 {
        let name = self.executable.clone().filter(|_| from == 5 * TASK).expect("the name is where it is");
        let text: Vec<u8> = name.into_iter().take(length - 1).chain([0]).collect();
        // What follows is what was there before.
        self.bytes(to, length)[..text.len()].copy_from_slice(&text);
        text.len() as u64
    }

    /// Runs a program on a context; `socket` is where the context has the address of the socket, whose fields follow.
    pub(crate) fn run(&mut self, program: &Program, context: &[u8], at: usize, socket: &[u8]) -> Done {
        self.memory = vec![vec![0xaa; STACK], socket.to_vec(), context.to_vec()];
        let of_socket = pointer(1, 0);
        self.memory[2][at..at + 8].copy_from_slice(&of_socket.to_le_bytes());
        if at == 0 {
            // struct bpf_sockopt has where the value begins and ends.
            self.memory.push(self.value.clone());
            for (place, offset) in [(8, 0), (16, self.value.len())] {
                self.memory[2][place..place + 8].copy_from_slice(&pointer(3, offset).to_le_bytes());
            }
        }
        let mut done = Done::default();
        let mut registers = [0_u64; 11];
        registers[1] = pointer(2, 0);
        registers[10] = pointer(0, STACK);
        let mut next = 0;
        for _ in 0..200_000 {
            let Instruction { code, registers: both, offset, immediate } = program.code[next];
            let (to, from) = (usize::from(both & 0xf), usize::from(both >> 4));
            let wide = i64::from(immediate) as u64;
            let operand = if code & BY_REGISTER != 0 { registers[from] } else { wide };
            let length = match code & DOUBLE {
                DOUBLE => 8,
                BYTE => 1,
                HALF => 2,
                _ => 4,
            };
            let jump = (next as i64 + 1 + i64::from(offset)) as usize;
            let place = |register: u64| register.wrapping_add(i64::from(offset) as u64);
            next += 1;
            match code {
                EXIT => {
                    done.result = registers[0];
                    return done;
                }
                GO => next = jump,
                LOAD_WIDE => {
                    let (_, map) = program.maps.iter().find(|(at, _)| *at == next - 1).expect("a map");
                    registers[to] = MAP | *map as u64;
                    next += 1;
                }
                ATOMIC => {
                    assert_eq!((registers[from], done.counted), (1, None), "once");
                    done.counted = Some(registers[to] & 0xffff_ffff);
                }
                TO_BIG_ENDIAN => registers[to] = u64::from((registers[to] as u16).to_be()),
                CALL => {
                    let map = |register: u64| {
                        let all = [
                            Map::Networks,
                            Map::Ports,
                            Map::Names,
                            Map::Fills,
                            Map::Profiles,
                            Map::Options,
                            Map::Enforced,
                            Map::Sockets,
                            Map::Listeners,
                            Map::Connecting,
                            Map::Numbers,
                            Map::Counters,
                            Map::Hosts,
                            Map::Addresses,
                        ];
                        all.into_iter().find(|map| MAP | *map as u64 == register).expect("a map")
                    };
                    registers[0] = match Helper::from_number(immediate).expect("a helper") {
                        Helper::CurrentTask => TASK,
                        Helper::ReadKernel => self.read_kernel(registers[1], registers[2] as usize, registers[3]),
                        Helper::ReadKernelText => {
                            self.read_kernel_text(registers[1], registers[2] as usize, registers[3])
                        }
                        Helper::MapLookup => self.lookup(map(registers[1]), registers[2]),
                        Helper::MapUpdate => {
                            assert_eq!((map(registers[1]), registers[4]), (Map::Addresses, 0), "a table to write to");
                            let (key, name) = (self.address(registers[2]), self.bytes(registers[3], NAME as usize));
                            let name = name.to_vec();
                            self.addresses.insert(key, name);
                            0
                        }
                        Helper::MapDelete => {
                            assert_eq!(map(registers[1]), Map::Addresses, "a table to write to");
                            let key = self.address(registers[2]);
                            if self.addresses.remove(&key).is_some() { 0 } else { -2_i64 as u64 }
                        }
                        Helper::LoadPacket => {
                            assert_eq!(registers[1], pointer(2, 0), "the context");
                            self.load_packet(registers[2], registers[3], registers[4] as usize)
                        }
                        Helper::SetSockopt => {
                            assert!([pointer(2, 0), of_socket].contains(&registers[1]), "the context or the socket");
                            let value = self.bytes(registers[4], registers[5] as usize).to_vec();
                            let option = (registers[2] as i32, registers[3] as i32);
                            self.options.insert(option, value.clone());
                            // Interactive traffic's comes along, linux/pkt_sched.h.
                            if option == (libc::SOL_IP, libc::IP_TOS) {
                                self.options.insert((libc::SOL_SOCKET, libc::SO_PRIORITY), vec![6, 0, 0, 0]);
                            }
                            done.set.push((option.0, option.1, value));
                            0
                        }
                        Helper::SetFlags => {
                            assert_eq!(registers[1], pointer(2, 0), "the context");
                            done.flags = Some(registers[2]);
                            0
                        }
                        // What follows in the socket's memory are its fields.
                        Helper::TcpSocket => {
                            assert_eq!(registers[1], of_socket, "the socket");
                            of_socket
                        }
                        Helper::GetSockopt => {
                            assert!([pointer(2, 0), of_socket].contains(&registers[1]), "the context or the socket");
                            let known = self.options.get(&(registers[2] as i32, registers[3] as i32)).cloned();
                            let to = self.bytes(registers[4], registers[5] as usize);
                            to.fill(0);
                            match known {
                                Some(value) => {
                                    to.iter_mut().zip(value).for_each(|(to, from)| *to = from);
                                    0
                                }
                                None => -22_i64 as u64,
                            }
                        }
                        Helper::StorageGet => {
                            assert_eq!(registers[2], of_socket, "the socket");
                            let map = map(registers[1]);
                            if registers[4] == 1 {
                                self.storage.entry(map).or_default();
                            }
                            match self.storage.get(&map) {
                                None => 0,
                                Some(value) => {
                                    // Whatever is written there is what is remembered.
                                    self.memory.push(value.to_le_bytes().to_vec());
                                    pointer(self.memory.len() - 1, 0)
                                }
                            }
                        }
                    };
                    if Helper::from_number(immediate) == Some(Helper::StorageGet) && registers[0] != 0 {
                        // The program may write to it, with its next instructions: found again by its place.
                        self.memory.last_mut().expect("just made").push(map(registers[1]) as u8);
                    }
                    registers[1..6].fill(0xdead_dead_dead_dead);
                }
                // What a packet's context has of it are addresses: here of what is the socket otherwise.
                _ if code & !DOUBLE == LOAD && !self.packet.is_empty() && registers[from] == pointer(2, 0) => {
                    registers[to] = match offset {
                        packet::BEGIN => pointer(1, 0),
                        packet::END => pointer(1, self.memory[1].len()),
                        _ => self.number(place(registers[from]), length),
                    };
                }
                _ if code & !DOUBLE == LOAD => registers[to] = self.number(place(registers[from]), length),
                _ if code & !DOUBLE == STORE || code & !DOUBLE == STORE_IMMEDIATE => {
                    let value = if code & !DOUBLE == STORE { registers[from] } else { wide };
                    let at = place(registers[to]);
                    self.bytes(at, length).copy_from_slice(&value.to_le_bytes()[..length]);
                    let memory = &self.memory[(at >> 32) as usize - 1];
                    if memory.len() == 9 {
                        let written = u64::from_le_bytes(memory[..8].try_into().expect("8 bytes"));
                        let all = [Map::Sockets, Map::Listeners, Map::Connecting];
                        let map = all.into_iter().find(|map| *map as u8 == memory[8]).expect("a map");
                        self.storage.insert(map, written);
                    }
                }
                _ if code & 7 == WIDE => {
                    registers[to] = match code & 0xf0 {
                        ADD => registers[to].wrapping_add(operand),
                        SUBTRACT => registers[to].wrapping_sub(operand),
                        MULTIPLY => registers[to].wrapping_mul(operand),
                        OR => registers[to] | operand,
                        AND => registers[to] & operand,
                        SHIFT_LEFT => registers[to] << operand,
                        SHIFT_RIGHT => registers[to] >> operand,
                        MOVE => operand,
                        other => panic!("operation {other:x}"),
                    };
                }
                _ => {
                    let (one, other) = match code & 7 {
                        JUMP => (registers[to], operand),
                        JUMP_WORD => (u64::from(registers[to] as u32), u64::from(operand as u32)),
                        class => panic!("class {class:x}"),
                    };
                    let when = When::ALL.into_iter().find(|when| when.bits() == code & 0xf0).expect("a comparison");
                    let is_so = match when {
                        When::Equal => one == other,
                        When::NotEqual => one != other,
                        When::Above => one > other,
                        When::AtLeast => one >= other,
                    };
                    if is_so {
                        next = jump;
                    }
                }
            }
        }
        panic!("it does not end");
    }
}
