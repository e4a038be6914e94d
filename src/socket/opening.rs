//! By which end a TCP connection was opened. No option tells that, but the kernel's own count of acknowledged bytes does.
//!
//! RFC 9293 counts a SYN as one byte of the sequence space, and tcpi_bytes_acked follows the sequence space (net/ipv4/tcp_input.c,
//! tcp_snd_una_update). An active open starts to count at its own SYN. A socket that was accepted is made when the last packet of
//! the handshake arrives, and starts behind the SYN. So an active open has one byte more acknowledged than it has sent.
//! The same on Linux 5.10, 6.1, 6.12 and 6.18, over IPv4 and IPv6, with TCP Fast Open, Multipath TCP and retransmitted data.

use crate::errno::Errno;
use crate::ffi;

/// The two ways to open a connection (RFC 9293, 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// By connect.
    Active,
    /// By accept.
    Passive,
}

/// By which of them a socket's connection was opened. None where the kernel's figures do not tell: while data is in flight,
/// before Linux 4.19, mostly after a local queue has dropped packets (not if it was one byte: that looks like a connection that was
/// accepted), and of what has no connection.
///
/// # Errors
/// ENOPROTOOPT or EOPNOTSUPP for what is not TCP; those of getsockopt(2).
pub fn opening(fd: i32) -> Result<Option<Opening>, Errno> {
    let mut info = [0; Figures::LENGTH];
    let length = ffi::get_bytes(fd, libc::SOL_TCP, libc::TCP_INFO, &mut info)?;
    Ok((length == info.len()).then(|| Figures::of(&info)).and_then(Figures::opening))
}

/// What of `struct tcp_info` (include/uapi/linux/tcp.h) it takes.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    state: u8,
    /// Segments sent and not acknowledged.
    unacked: u32,
    /// Sequence numbers that the peer has acknowledged: bytes of data, and each of SYN and FIN as one.
    bytes_acked: u64,
    /// Segments received.
    segs_in: u32,
    /// Sequence numbers that were not sent yet.
    notsent: u32,
    /// Bytes of data, each as often as it was sent.
    bytes_sent: u64,
    /// Those of them that were not sent for the first time.
    bytes_retrans: u64,
}

impl Figures {
    /// tcpi_bytes_sent and tcpi_bytes_retrans are there since Linux 4.19.
    const LENGTH: usize = 216;

    fn of(info: &[u8; Self::LENGTH]) -> Self {
        let word = |at: usize| {
            let word = info.get(at..).and_then(|rest| rest.first_chunk::<4>());
            word.map_or(0, |word| u32::from_ne_bytes(*word))
        };
        let long = |at: usize| {
            let long = info.get(at..).and_then(|rest| rest.first_chunk::<8>());
            long.map_or(0, |long| u64::from_ne_bytes(*long))
        };
        Self {
            state: info[0],
            unacked: word(24),
            bytes_acked: long(120),
            segs_in: word(140),
            notsent: word(144),
            bytes_sent: long(200),
            bytes_retrans: long(208),
        }
    }

    fn opening(self) -> Option<Opening> {
        // include/net/tcp_states.h
        const ESTABLISHED: u8 = 1;
        const SYN_SENT: u8 = 2;
        const FIN_WAIT1: u8 = 4;
        const FIN_WAIT2: u8 = 5;
        const CLOSE_WAIT: u8 = 8;
        let has_fin = match self.state {
            SYN_SENT => return Some(Opening::Active),
            ESTABLISHED | CLOSE_WAIT => false,
            // The FIN is behind all data.
            FIN_WAIT1 | FIN_WAIT2 => self.notsent == 0,
            _ => return None,
        };
        // Whoever imitates Linux and leaves these figures out says nothing by them: there is no connection without a segment.
        if self.segs_in == 0 {
            return None;
        }
        if self.bytes_acked == 0 {
            return Some(Opening::Passive);
        }
        // The bytes in flight are not among the figures.
        if self.unacked > 0 {
            return None;
        }
        let data = self.bytes_sent.checked_sub(self.bytes_retrans)?;
        match self.bytes_acked.checked_sub(data)?.checked_sub(u64::from(has_fin))? {
            0 => Some(Opening::Passive),
            1 => Some(Opening::Active),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};

    use super::*;

    /// Waits until the kernel tells, as it does when all data is acknowledged.
    fn told(socket: &TcpStream) -> Option<Opening> {
        let since = Instant::now();
        loop {
            let told = opening(socket.as_raw_fd()).expect("it is TCP");
            if told.is_some() || since.elapsed() > Duration::from_secs(10) {
                return told;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Both ends of a connection, through its life. Seen to fail: without the FIN counted (at the half-closed end).
    #[test]
    #[cfg_attr(miri, ignore = "opens sockets")]
    fn both_ends() {
        for place in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(place).expect("a port of this machine");
            let mut client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
            let (mut server, _) = listener.accept().expect("a connection waits");
            let assert_told = |client: &TcpStream, server: &TcpStream, when: &str| {
                assert_eq!(told(client), Some(Opening::Active), "{place}: {when}");
                assert_eq!(told(server), Some(Opening::Passive), "{place}: {when}");
            };
            assert_told(&client, &server, "at first");
            let (mut read, text) = ([0; 5], b"hello");
            client.write_all(text).and_then(|()| server.read_exact(&mut read)).expect("it is connected");
            assert_told(&client, &server, "the client has sent");
            server.write_all(text).and_then(|()| client.read_exact(&mut read)).expect("it is connected");
            assert_told(&client, &server, "both have sent");
            client.shutdown(Shutdown::Write).expect("it is connected");
            assert_eq!(server.read(&mut read).expect("it is connected"), 0);
            assert_told(&client, &server, "the client has sent its FIN");
            assert_eq!(opening(listener.as_raw_fd()), Ok(None), "a listener");
        }
    }

    /// Figures that are no connection's, or that do not fit each other.
    #[test]
    fn what_does_not_tell() {
        let idle = Figures { state: 1, segs_in: 1, bytes_acked: 1, ..Figures::default() };
        assert_eq!(idle.opening(), Some(Opening::Active));
        assert_eq!(Figures { bytes_acked: 0, ..idle }.opening(), Some(Opening::Passive));
        for silent in [
            Figures { segs_in: 0, ..idle },
            Figures { state: 7, ..idle },
            Figures { unacked: 1, bytes_sent: 100, ..idle },
            // A local queue has dropped what was sent.
            Figures { bytes_sent: 100, ..idle },
            Figures { bytes_retrans: 100, ..idle },
            Figures { bytes_acked: 100, ..idle },
        ] {
            assert_eq!(silent.opening(), None, "{silent:?}");
        }
    }

    /// A socket that has no TCP. Seen to fail: with the error taken for no answer.
    #[test]
    #[cfg_attr(miri, ignore = "opens sockets")]
    fn not_tcp() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port of this machine");
        assert!(opening(udp.as_raw_fd()).is_err());
    }
}
