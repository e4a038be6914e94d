//! What the kernel lists of a network namespace (proc_pid_net(5), `tcp` and `tcp6`): pending timers, which no socket
//! option tells, and listeners.
//!
//! Not by netlink, which answers for the namespace of the one who asks. For the command, as `process`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::{io, thread};

use policy::Endpoint;
use policy::health::State;

use crate::errno::Errno;
use crate::ffi;
use crate::fill::AsNew;

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To send again what is not acknowledged.
    Retransmit,
    /// To probe an idle peer; in SYN_RECV and FIN_WAIT2, to give up.
    Keepalive,
    /// To ask whether a closed window has opened.
    WindowProbe,
    /// To end TIME_WAIT.
    TimeWait,
}

impl Purpose {
    /// A word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Retransmit => "retransmit",
            Self::Keepalive => "keepalive",
            Self::WindowProbe => "window-probe",
            Self::TimeWait => "time-wait",
        }
    }
}

/// A pending timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// What for.
    pub purpose: Purpose,
    /// When it goes off, milliseconds from now.
    pub remaining_ms: u64,
}

/// A network namespace's TCP sockets.
#[derive(Debug, Default)]
pub struct Namespace {
    timers: HashMap<u64, Timer>,
    /// The addresses that something listens on.
    pub listeners: Vec<Endpoint>,
}

impl Namespace {
    /// Reads what the kernel lists of a process's namespace: nothing, if that is refused.
    #[must_use]
    pub fn of(pid: i32) -> Self {
        let mut namespace = Self::default();
        for family in ["tcp", "tcp6"] {
            let table = fs::read_to_string(format!("/proc/{pid}/net/{family}")).unwrap_or_default();
            table.lines().skip(1).for_each(|line| namespace.take(line));
        }
        namespace
    }

    /// The timer of the socket with this inode, as it was when the list was read.
    #[must_use]
    pub fn timer(&self, inode: u64) -> Option<Timer> {
        self.timers.get(&inode).copied()
    }

    fn take(&mut self, line: &str) {
        let Some(Line { local, state, inode, timer }) = Line::read(line) else { return };
        if state == State::Listen {
            self.listeners.extend(local);
        }
        if let Some(timer) = timer {
            self.timers.insert(inode, timer);
        }
    }
}

/// What a new socket in a process's namespace has of some options, sorted by level and name: asked in a thread that enters it,
/// where it is not this process's own.
#[must_use]
pub fn as_new(pid: i32, options: &[(i32, i32)]) -> AsNew {
    let ask = || -> io::Result<AsNew> {
        let [own, other] = [File::open("/proc/thread-self/ns/net")?, File::open(format!("/proc/{pid}/ns/net"))?];
        if own.metadata()?.ino() == other.metadata()?.ino() {
            return Ok(AsNew::ask(options));
        }
        let inside = || ffi::enter_network_namespace(other.as_fd()).map(|()| AsNew::ask(options).settled());
        let answer = thread::scope(|scope| scope.spawn(inside).join());
        answer.unwrap_or(Err(Errno(libc::EAGAIN))).map_err(|Errno(errno)| io::Error::from_raw_os_error(errno))
    };
    let unknown = |error: io::Error| AsNew::unknown(options, Errno(error.raw_os_error().unwrap_or(libc::EIO)));
    if options.is_empty() { AsNew::default() } else { ask().unwrap_or_else(unknown) }
}

struct Line {
    local: Option<Endpoint>,
    state: State,
    inode: u64,
    timer: Option<Timer>,
}

impl Line {
    /// `sl local remote st tx:rx tr:when retransmits uid timeout inode …`, hexadecimal up to `retransmits`.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let local = endpoint(words.next()?);
        let state = State::from_number(u8::from_str_radix(words.nth(1)?, 16).ok()?);
        let (active, when) = words.nth(1)?.split_once(':')?;
        // In hundredths (USER_HZ).
        let remaining_ms = u64::from_str_radix(when, 16).ok()? * 10;
        let purpose = match active {
            "01" => Some(Purpose::Retransmit),
            "02" => Some(Purpose::Keepalive),
            "03" => Some(Purpose::TimeWait),
            "04" => Some(Purpose::WindowProbe),
            _ => None,
        };
        let timer = purpose.map(|purpose| Timer { purpose, remaining_ms });
        Some(Self { local, state, inode: words.nth(3)?.parse().ok()?, timer })
    }
}

/// `0100007F:1F90`: the address in words as they lie in memory, the port as a number.
fn endpoint(text: &str) -> Option<Endpoint> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let [a, b, c, d] = [word(0)?, word(8)?, word(16)?, word(24)?];
            let mut octets = [0; 16];
            octets.iter_mut().zip([a, b, c, d].concat()).for_each(|(to, from)| *to = from);
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    Some(Endpoint::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel() {
        let mut namespace = Namespace::default();
        for line in [
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1066 1 0000000045 100 0 0 10 0",
            "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 00 100 0 0 10 0",
            "   2: 0100007F:0016 0200007F:C350 01 00000000:00000000 02:00000123 00000000     0        0 8 1 00 20 4 30 10 -1",
            "   3: 0100007F:0017 0200007F:C350 01 00000000:00000000 04:00000001 00000000     0        0 9 1 00 20 4 30 10 -1",
            "   4: 0100007F:0018 0200007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 10 1 00 20 4 30 10 -1",
            "",
            "   5: nonsense",
        ] {
            namespace.take(line);
        }
        let shown: Vec<String> = namespace.listeners.iter().map(Endpoint::to_string).collect();
        assert_eq!(shown, ["127.0.0.1:8080", "[::1]:80"]);
        assert_eq!(namespace.timer(8), Some(Timer { purpose: Purpose::Keepalive, remaining_ms: 2_910 }));
        assert_eq!(namespace.timer(9), Some(Timer { purpose: Purpose::WindowProbe, remaining_ms: 10 }));
        assert_eq!((namespace.timer(10), namespace.timer(1066)), (None, None));
    }
}
