//! The filter: which system calls of the program the supervisor is told of. Classic BPF (seccomp(2), bpf(4)), made of what the
//! rules need; all other calls go on in the kernel at once.

use policy::catalog::{KernelOption, SO_KEEPALIVE};
use policy::enforce::KEEPALIVE;
use policy::{Phase, Phases, Rules};

use crate::notification::{Call, MSG_FASTOPEN};

/// What the rules need to be told of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Sockets that connect.
    pub connect: bool,
    /// bind(2).
    pub bind: bool,
    /// listen(2).
    pub listen: bool,
    /// Level and name of the options whose setsockopt(2) is looked at, sorted.
    pub options: Vec<(i32, i32)>,
    /// TCP sockets are made by the supervisor.
    pub streams: bool,
    /// UDP sockets are.
    pub datagrams: bool,
}

/// One instruction of classic BPF, `struct sock_filter` of linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// How many instructions to leave out if a comparison holds.
    pub if_true: u8,
    /// And if it does not.
    pub if_false: u8,
    /// A number that it works with.
    pub operand: u32,
}

// linux/bpf_common.h: class, size, mode, operation and source, added up.
/// Loads 32 bits of `struct seccomp_data` at a fixed place.
pub(crate) const LOAD: u16 = 0x20;
/// Goes on elsewhere if the number that was loaded is the operand.
pub(crate) const EQUAL: u16 = 0x15;
/// The same, if it is as large or larger.
pub(crate) const AT_LEAST: u16 = 0x35;
/// The same, if it has one of the operand's bits.
pub(crate) const ANY_BIT: u16 = 0x45;
/// Goes on as many instructions later as the operand says.
pub(crate) const ALWAYS: u16 = 0x05;
/// Ends with the operand as answer.
pub(crate) const RETURN: u16 = 0x06;

/// The kernel carries the call out, SECCOMP_RET_ALLOW.
pub(crate) const ALLOW: u32 = 0x7fff_0000;
/// The call waits for the supervisor, SECCOMP_RET_USER_NOTIF.
pub(crate) const NOTIFY: u32 = 0x7fc0_0000;

// linux/seccomp.h, struct seccomp_data.
pub(crate) const NUMBER: u32 = 0;
pub(crate) const MACHINE: u32 = 4;

/// Where the lower half of an argument lies.
pub(crate) const fn argument(index: u32) -> u32 {
    let half = if cfg!(target_endian = "little") { 0 } else { 4 };
    16 + 8 * index + half
}

/// linux/audit.h: the machine, 64 bits, little endian.
#[cfg(target_arch = "x86_64")]
pub(crate) const THIS_MACHINE: u32 = 0xC000_003E;
/// linux/audit.h.
#[cfg(target_arch = "aarch64")]
pub(crate) const THIS_MACHINE: u32 = 0xC000_00B7;
/// Machines that nobody has tried: no call is told of.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) const THIS_MACHINE: u32 = 0;

/// The numbers from which on x86-64 has the calls of x32, whose structures are others.
const X32: u32 = 0x4000_0000;

/// `sizeof(struct sockaddr_un)`, which C programs pass for every UNIX socket.
pub(crate) const UNIX: u32 = 110;
/// `sizeof(struct sockaddr_in)`: what is shorter, the kernel refuses.
pub(crate) const SHORTEST: u32 = 16;

/// What programs set on a socket that they have just accepted: by that the supervisor learns of it. Go sets both, always.
pub(crate) const AFTER_ACCEPT: [(i32, i32); 2] =
    [(SO_KEEPALIVE.level, SO_KEEPALIVE.name), (libc::SOL_TCP, libc::TCP_NODELAY)];

impl Needs {
    /// Those of rules. `rules` are to be those of every process that the program may start.
    #[must_use]
    pub fn of(rules: &Rules) -> Self {
        const CONNECT: Phases = Phases::of(&[Phase::Connect, Phase::Datagram, Phase::Connected]);
        const BIND: Phases = Phases::of(&[Phase::Bind, Phase::BindDatagram]);
        const LISTEN: Phases = Phases::of(&[Phase::Listen, Phase::Accept, Phase::AcceptAlways]);
        let phases = rules.phases();
        let mut options = rules.enforced().to_vec();
        if rules.fills_computed_timeouts() {
            options.extend(KEEPALIVE.map(|KernelOption { level, name }| (level, name)));
        }
        options.sort_unstable();
        options.dedup();
        let mut needs = Self {
            connect: phases.intersects(CONNECT),
            bind: phases.intersects(BIND),
            // A connect that came to nothing has left its time, which what is accepted would inherit.
            listen: phases.intersects(LISTEN | Phases::of(&[Phase::Connected])),
            options,
            ..Self::default()
        };
        // Everything else is inherited from the listener.
        if rules.sets_on_accepted() {
            needs.look_at_accepted();
        }
        needs
    }

    /// Be told of what programs set on a socket that they have just accepted, if they may listen at all.
    pub fn look_at_accepted(&mut self) {
        self.look_at(&AFTER_ACCEPT);
    }

    /// The same by one of these options alone, which mostly is looked at anyway: where only listeners of Multipath TCP do not pass on
    /// everything.
    pub fn look_at_keepalive(&mut self) {
        self.look_at(&[(SO_KEEPALIVE.level, SO_KEEPALIVE.name)]);
    }

    fn look_at(&mut self, options: &[(i32, i32)]) {
        if self.listen {
            self.options.extend(options);
            self.options.sort_unstable();
            self.options.dedup();
        }
    }

    /// The same, where the supervisor can have no copies of the program's sockets and makes them itself.
    #[must_use]
    pub fn by_making(rules: &Rules) -> Self {
        const STREAMS: Phases = Phases::of(&[Phase::Connect, Phase::Connected, Phase::Bind, Phase::Listen]);
        const DATAGRAMS: Phases = Phases::of(&[Phase::Datagram, Phase::BindDatagram]);
        let phases = rules.phases();
        let (streams, datagrams) = (phases.intersects(STREAMS), phases.intersects(DATAGRAMS));
        // By each of these calls a socket that was made may be given back.
        let is_any = streams || datagrams;
        let options = if is_any { rules.enforced().to_vec() } else { Vec::new() };
        Self { connect: is_any, bind: is_any, listen: streams, options, streams, datagrams }
    }

    /// Whether there is nothing to be told of.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// The filter.
    #[must_use]
    pub fn filter(&self) -> Vec<Instruction> {
        let mut code = Assembler::default();
        code.load(MACHINE);
        code.skip_unless(EQUAL, THIS_MACHINE, |code| {
            code.load(NUMBER);
            code.skip_if(AT_LEAST, X32, |code| self.calls(code));
        });
        code.answer(ALLOW);
        code.0
    }

    fn calls(&self, code: &mut Assembler) {
        let is = |code: &mut Assembler, call: Call, then: &dyn Fn(&mut Assembler)| {
            code.skip_unless(EQUAL, call.number(), |code| {
                then(code);
                code.answer(ALLOW);
            });
        };
        if self.connect {
            is(code, Call::Connect, &|code| notify_address(code, 2));
            for (call, flags) in [(Call::SendTo, 3), (Call::SendMsg, 2), (Call::SendMmsg, 3)] {
                is(code, call, &|code| {
                    code.load(argument(flags));
                    code.skip_unless(ANY_BIT, MSG_FASTOPEN, |code| code.answer(NOTIFY));
                });
            }
        }
        if self.bind {
            is(code, Call::Bind, &|code| notify_address(code, 2));
        }
        if self.listen {
            is(code, Call::Listen, &|code| code.answer(NOTIFY));
        }
        if self.streams || self.datagrams {
            is(code, Call::Socket, &|code| self.sockets(code));
        }
        if !self.options.is_empty() {
            is(code, Call::SetSockOpt, &|code| self.options(code));
        }
    }

    /// TCP and UDP sockets of the Internet's families. Any other type, flag or protocol is the kernel's to refuse, or of no interest.
    fn sockets(&self, code: &mut Assembler) {
        const FLAGS: [i32; 4] = [0, libc::SOCK_CLOEXEC, libc::SOCK_NONBLOCK, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK];
        for domain in [libc::AF_INET, libc::AF_INET6] {
            code.load(argument(0));
            code.skip_unless(EQUAL, domain as u32, |code| {
                for (is_made, kind, protocols) in [
                    (self.streams, libc::SOCK_STREAM, &[0, libc::IPPROTO_TCP, libc::IPPROTO_MPTCP][..]),
                    (self.datagrams, libc::SOCK_DGRAM, &[0, libc::IPPROTO_UDP]),
                ] {
                    for flags in FLAGS.into_iter().filter(|_| is_made) {
                        code.load(argument(1));
                        code.skip_unless(EQUAL, (kind | flags) as u32, |code| {
                            code.load(argument(2));
                            for protocol in protocols {
                                code.skip_unless(EQUAL, *protocol as u32, |code| code.answer(NOTIFY));
                            }
                            code.answer(ALLOW);
                        });
                    }
                }
                code.answer(ALLOW);
            });
        }
    }

    fn options(&self, code: &mut Assembler) {
        let mut levels: Vec<i32> = self.options.iter().map(|(level, _)| *level).collect();
        levels.dedup();
        for level in levels {
            code.load(argument(1));
            let names: Vec<i32> = self.options.iter().filter(|one| one.0 == level).map(|one| one.1).collect();
            code.skip_unless(EQUAL, level as u32, |code| {
                code.load(argument(2));
                for name in names {
                    code.skip_unless(EQUAL, name as u32, |code| code.answer(NOTIFY));
                }
                code.answer(ALLOW);
            });
        }
    }
}

/// The filter of the trial: the two calls that it makes. The longer a filter, the longer the kernel compiles it.
pub(crate) fn of_trial() -> Vec<Instruction> {
    let mut code = Assembler::default();
    code.load(MACHINE);
    code.skip_unless(EQUAL, THIS_MACHINE, |code| {
        code.load(NUMBER);
        for call in [Call::Connect, Call::Socket] {
            code.skip_unless(EQUAL, call.number(), |code| code.answer(NOTIFY));
        }
    });
    code.answer(ALLOW);
    code.0
}

/// Notifies of an address whose length is an argument, unless the length says that it is of no interest.
fn notify_address(code: &mut Assembler, length: u32) {
    code.load(argument(length));
    code.skip_unless(AT_LEAST, SHORTEST, |code| {
        code.skip_if(EQUAL, UNIX, |code| code.answer(NOTIFY));
    });
}

/// Puts instructions together; jumps are short, forward, and over a block.
#[derive(Default)]
struct Assembler(Vec<Instruction>);

impl Assembler {
    fn load(&mut self, place: u32) {
        self.0.push(Instruction { code: LOAD, if_true: 0, if_false: 0, operand: place });
    }

    fn answer(&mut self, answer: u32) {
        self.0.push(Instruction { code: RETURN, if_true: 0, if_false: 0, operand: answer });
    }

    fn skip_unless(&mut self, code: u16, operand: u32, block: impl FnOnce(&mut Self)) {
        self.jump(code, operand, false, block);
    }

    fn skip_if(&mut self, code: u16, operand: u32, block: impl FnOnce(&mut Self)) {
        self.jump(code, operand, true, block);
    }

    /// A block that is left out if a comparison comes out so. A jump of a comparison reaches 255 instructions; a longer one goes by
    /// an instruction of its own.
    fn jump(&mut self, code: u16, operand: u32, leaves_out: bool, block: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        block(&mut inner);
        let length = inner.0.len();
        match (u8::try_from(length), leaves_out) {
            (Ok(length), true) => self.0.push(Instruction { code, if_true: length, if_false: 0, operand }),
            (Ok(length), false) => self.0.push(Instruction { code, if_true: 0, if_false: length, operand }),
            (Err(_), _) => {
                let (if_true, if_false) = if leaves_out { (0, 1) } else { (1, 0) };
                self.0.push(Instruction { code, if_true, if_false, operand });
                self.0.push(Instruction { code: ALWAYS, if_true: 0, if_false: 0, operand: length as u32 });
            }
        }
        self.0.extend(inner.0);
    }
}
