//! What the figures that the kernel keeps about a TCP socket say about its peer.
//!
//! Pure: `show` reads the figures, this judges them. The kernel never says "half-open"; what it says is how long data or
//! probes have gone without an answer, and that is held against what the round trip explains.

use std::fmt;

use crate::units::{Count, DisplayDuration};

/// A state of a TCP socket (tcp(7), include/net/tcp_states.h), by the kernel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Data can flow both ways.
    Established = 1,
    /// A connect in progress.
    SynSent = 2,
    /// The passive side of a handshake.
    SynReceived = 3,
    /// This side has closed, its FIN is not acknowledged.
    FinWait1 = 4,
    /// This side has closed, the peer has acknowledged it.
    FinWait2 = 5,
    /// Both have closed.
    TimeWait = 6,
    /// Not connected: not yet, or not any more.
    Close = 7,
    /// The peer has closed, this side has not.
    CloseWait = 8,
    /// Both have closed, this side's FIN is not acknowledged.
    LastAck = 9,
    /// Waits for connections.
    Listen = 10,
    /// Both have closed at once.
    Closing = 11,
}

impl State {
    /// Every state with its name.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::Established, "ESTABLISHED"),
        (Self::SynSent, "SYN_SENT"),
        (Self::SynReceived, "SYN_RECV"),
        (Self::FinWait1, "FIN_WAIT1"),
        (Self::FinWait2, "FIN_WAIT2"),
        (Self::TimeWait, "TIME_WAIT"),
        (Self::Close, "CLOSE"),
        (Self::CloseWait, "CLOSE_WAIT"),
        (Self::LastAck, "LAST_ACK"),
        (Self::Listen, "LISTEN"),
        (Self::Closing, "CLOSING"),
    ];

    /// The state with this number; what is none (request sockets have some of their own) is a handshake.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        Self::ALL.iter().find(|(state, _)| *state as u8 == number).map_or(Self::SynReceived, |(state, _)| *state)
    }

    /// The kernel's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(state, _)| *state == self).map_or("", |(_, name)| name)
    }
}

/// What is known of a socket, as `struct tcp_info` has it (include/uapi/linux/tcp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// The state.
    pub state: State,
    /// TCP_KEEPIDLE and TCP_KEEPINTVL, seconds, if SO_KEEPALIVE is on.
    pub keepalive: Option<(u32, u32)>,
    /// Bytes that are still to be sent for the first time.
    pub unsent: u64,
    /// Segments that were sent and are not acknowledged, a FIN included.
    pub unacknowledged: u32,
    /// Milliseconds since data was last sent, retransmissions included.
    pub last_data_sent_ms: u32,
    /// Milliseconds since data last arrived.
    pub last_data_ms: u32,
    /// Milliseconds since an acknowledgement last arrived.
    pub last_ack_ms: u32,
    /// The retransmission timeout now, microseconds; doubled `backoff` times.
    pub rto_us: u32,
    /// Smoothed round trip, microseconds.
    pub rtt_us: u32,
    /// Its mean deviation, microseconds.
    pub rtt_deviation_us: u32,
    /// How often the timeout was doubled since the last acknowledgement.
    pub backoff: u8,
    /// Keepalive or window probes without an answer.
    pub probes: u8,
}

/// The kernel's least retransmission timeout, include/net/tcp.h TCP_RTO_MIN.
const LEAST_RTO_MS: u64 = 200;

impl Figures {
    /// A living peer has answered after this time, one lost packet allowed for: two retransmission timeouts.
    fn patience_ms(&self) -> u64 {
        let round_trip = u64::from(self.rtt_us) + 4 * u64::from(self.rtt_deviation_us);
        2 * (round_trip / 1_000).max(LEAST_RTO_MS)
    }

    /// How long, at least, what is unacknowledged has been without an answer. A connection that was idle before has had no
    /// acknowledgement for longer, and that says nothing; and who has answered the last that was sent is there, even if it
    /// takes nothing more (a window that is closed on data under way).
    fn unanswered_ms(&self) -> u64 {
        if self.last_ack_ms <= self.last_data_sent_ms {
            return 0;
        }
        let doublings = self.rto_us - self.rto_us.checked_shr(self.backoff.into()).unwrap_or(0);
        let since_first_sent = u64::from(self.last_data_sent_ms) + u64::from(doublings / 1_000);
        since_first_sent.min(self.last_ack_ms.into())
    }

    /// What is to be thought of the socket.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.state {
            State::Listen => return Verdict::Listening,
            State::Close | State::TimeWait => return Verdict::Closed,
            State::SynSent | State::SynReceived => return Verdict::Connecting,
            _ => {}
        }
        let patience = self.patience_ms();
        if self.unacknowledged > 0 {
            let for_ms = self.unanswered_ms();
            if for_ms > patience {
                return Verdict::HalfOpen(Sign::Unacknowledged { for_ms });
            }
        } else if self.probes > 0 && self.probes_are_unanswered(patience) {
            return Verdict::HalfOpen(Sign::Probes { count: self.probes, silent_ms: self.silent_ms() });
        }
        let is_idle = self.unacknowledged == 0 && self.unsent == 0;
        match self.state {
            State::Established | State::FinWait2 if is_idle && self.keepalive.is_none() => Verdict::Unguarded,
            State::Established => Verdict::Ok,
            _ => Verdict::Closing,
        }
    }

    /// Milliseconds since anything arrived.
    fn silent_ms(&self) -> u64 {
        self.last_ack_ms.min(self.last_data_ms).into()
    }

    /// Whether the answer is overdue: a probe that was sent a moment ago is unanswered too.
    fn probes_are_unanswered(&self, patience: u64) -> bool {
        let more = u64::from(self.probes) - 1;
        match self.keepalive {
            // To a closed window: they come further apart than a retransmission timeout, so the second says it.
            _ if self.unsent > 0 => more > 0,
            None => more > 0,
            Some((time, interval)) => {
                let first_sent = u64::from(time) * 1_000;
                let behind_it = more * u64::from(interval) * 1_000;
                // The timers run late by up to an eighth (kernel/time/timer.c).
                behind_it > patience || self.silent_ms() > (first_sent + behind_it) * 9 / 8 + patience
            }
        }
    }
}

/// What makes a socket suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Data was sent and not acknowledged.
    Unacknowledged {
        /// For at least so long, milliseconds.
        for_ms: u64,
    },
    /// Probes were sent and not answered.
    Probes {
        /// So many.
        count: u8,
        /// Nothing has arrived for so long, milliseconds.
        silent_ms: u64,
    },
}

/// What is to be thought of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The peer does not answer: it has probably vanished.
    HalfOpen(Sign),
    /// Idle without keepalive: a vanished peer would never be noticed.
    Unguarded,
    /// Waits for connections.
    Listening,
    /// The handshake is not done.
    Connecting,
    /// One side has closed.
    Closing,
    /// Not connected.
    Closed,
    /// Nothing to be said against it.
    Ok,
}

impl Verdict {
    /// A word for it, for tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::HalfOpen(_) => "half-open?",
            Self::Unguarded => "unguarded",
            Self::Listening => "listening",
            Self::Connecting => "connecting",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Ok => "ok",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HalfOpen(Sign::Unacknowledged { for_ms }) => {
                write!(
                    f,
                    "half-open? data unacknowledged for {}, longer than the round trip explains",
                    DisplayDuration(*for_ms)
                )
            }
            Self::HalfOpen(Sign::Probes { count, silent_ms }) => {
                let probes = Count(usize::from(*count), "probe");
                write!(f, "half-open? {probes} unanswered, nothing heard for {}", DisplayDuration(*silent_ms))
            }
            Self::Unguarded => f.write_str("idle without keepalive: a vanished peer would never be noticed"),
            Self::Listening => f.write_str("waits for connections"),
            Self::Connecting => f.write_str("the handshake is not done"),
            Self::Closing => f.write_str("one side has closed"),
            Self::Closed => f.write_str("not connected"),
            Self::Ok => f.write_str("no problem found"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Established, 45 ms away, keepalive 60/20, last heard of 10 s ago, nothing in flight.
    const IDLE: Figures = Figures {
        state: State::Established,
        keepalive: Some((60, 20)),
        unsent: 0,
        unacknowledged: 0,
        last_data_sent_ms: 10_045,
        last_data_ms: 10_000,
        last_ack_ms: 10_000,
        rto_us: 248_000,
        rtt_us: 45_000,
        rtt_deviation_us: 3_000,
        backoff: 0,
        probes: 0,
    };

    #[test]
    fn states_by_their_numbers() {
        for (state, name) in State::ALL {
            assert_eq!((State::from_number(state as u8), state.name()), (state, name));
        }
        assert_eq!(State::from_number(12), State::SynReceived);
    }

    #[test]
    fn without_a_connection() {
        for (state, verdict) in [
            (State::Listen, Verdict::Listening),
            (State::Close, Verdict::Closed),
            (State::SynSent, Verdict::Connecting),
            (State::CloseWait, Verdict::Closing),
            (State::LastAck, Verdict::Closing),
        ] {
            assert_eq!(Figures { state, keepalive: None, ..IDLE }.verdict(), verdict);
        }
    }

    #[test]
    fn idle() {
        assert_eq!(IDLE.verdict(), Verdict::Ok);
        for state in [State::Established, State::FinWait2] {
            assert_eq!(Figures { keepalive: None, state, ..IDLE }.verdict(), Verdict::Unguarded);
        }
        // A reader that waits behind a closed window is no idle peer: it acknowledges every probe.
        assert_eq!(Figures { keepalive: None, unsent: 1, ..IDLE }.verdict(), Verdict::Ok);
    }

    /// Idle for 10 s, then data is sent: silence up to now says nothing.
    #[test]
    fn data_in_flight() {
        let sent = |ms, backoff: u8, last_ack_ms| Figures {
            unacknowledged: 1,
            last_data_sent_ms: ms,
            backoff,
            rto_us: 248_000 << backoff,
            last_ack_ms,
            ..IDLE
        };
        assert_eq!(sent(20, 0, 10_000).verdict(), Verdict::Ok);
        // One packet was lost and has just been sent again.
        assert_eq!(sent(20, 1, 10_268).verdict(), Verdict::Ok);
        // That one is lost too, or nobody is there.
        assert_eq!(sent(400, 1, 10_648).verdict(), Verdict::HalfOpen(Sign::Unacknowledged { for_ms: 400 + 248 }));
        // The last acknowledgement is nearer than the data that was first sent.
        assert_eq!(sent(5_000, 3, 6_000).verdict(), Verdict::HalfOpen(Sign::Unacknowledged { for_ms: 6_000 }));
        // It answers, and takes nothing.
        assert_eq!(sent(5_000, 3, 5_000).verdict(), Verdict::Ok);
        // A satellite and a shaky one.
        let far = Figures { rtt_us: 700_000, rtt_deviation_us: 100_000, ..sent(400, 1, 10_648) };
        assert_eq!(far.verdict(), Verdict::Ok);
        // As often doubled as it can be.
        assert!(matches!(sent(90_000, 15, 900_000).verdict(), Verdict::HalfOpen(_)));
        assert!(matches!(Figures { backoff: 200, ..sent(90_000, 3, 900_000) }.verdict(), Verdict::HalfOpen(_)));
        // Closing: the FIN counts.
        assert!(matches!(Figures { state: State::FinWait1, ..sent(400, 1, 900) }.verdict(), Verdict::HalfOpen(_)));
    }

    #[test]
    fn probes() {
        let heard = |ms, probes| Figures { last_ack_ms: ms, last_data_ms: ms + 1, probes, ..IDLE };
        // Sent on time, or late as timers are: the answer is under way.
        assert_eq!(heard(60_010, 1).verdict(), Verdict::Ok);
        assert_eq!(heard(62_000, 1).verdict(), Verdict::Ok);
        assert_eq!(heard(70_000, 1).verdict(), Verdict::HalfOpen(Sign::Probes { count: 1, silent_ms: 70_000 }));
        assert_eq!(heard(80_010, 2).verdict(), Verdict::HalfOpen(Sign::Probes { count: 2, silent_ms: 80_010 }));
        // A closed window.
        let closed = |probes| Figures { unsent: 9_000, keepalive: None, ..heard(200_000, probes) };
        assert_eq!(closed(1).verdict(), Verdict::Ok);
        assert!(matches!(closed(2).verdict(), Verdict::HalfOpen(_)));
    }
}
