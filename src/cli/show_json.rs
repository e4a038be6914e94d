//! What `sockopt show` has found, as `--json` prints it.

use policy::health::State;
use serde::Serialize;
use socket::Kind;
use socket::current::Current;

use crate::output;
use crate::processes::{Found, Socket, direction};
use crate::way::{Attached, Way};

#[derive(Serialize)]
struct Report<'a> {
    processes: Vec<ProcessReport<'a>>,
    /// Processes that do not exist or may not be looked into.
    errors: Vec<&'a str>,
}

#[derive(Serialize)]
struct ProcessReport<'a> {
    pid: i32,
    name: Option<&'a str>,
    command: &'a str,
    /// By which way the options of its sockets are set: `library`, `supervisor`, or nothing where that is not known.
    way: Option<Way>,
    /// Whether programs in the kernel are attached to its control group (`sockopt attach`).
    in_kernel: bool,
    sockets: Vec<SocketReport>,
}

#[derive(Serialize)]
struct SocketReport {
    fds: Vec<i32>,
    /// Whose table of descriptors it is, if not the process's.
    thread: Option<i32>,
    inode: u64,
    protocol: &'static str,
    local: Option<String>,
    peer: Option<String>,
    direction: Option<&'static str>,
    state: &'static str,
    keepalive: Option<KeepaliveReport>,
    user_timeout_ms: Option<u32>,
    linger_s: Option<i32>,
    time_wait: Option<bool>,
    nodelay: Option<bool>,
    congestion: Option<String>,
    unsent_bytes: Option<u32>,
    unacked_bytes: Option<u32>,
    connection: Option<ConnectionReport>,
    listener: Option<ListenerReport>,
    timer: Option<TimerReport>,
    verdict: &'static str,
    reason: String,
}

#[derive(Serialize)]
struct KeepaliveReport {
    on: bool,
    time_s: u32,
    interval_s: u32,
    probes: u32,
}

#[derive(Serialize)]
struct ConnectionReport {
    unacked_segments: u32,
    last_data_received_ms: Option<u32>,
    last_ack_received_ms: Option<u32>,
    last_data_sent_ms: Option<u32>,
    retransmits: u8,
    total_retransmits: u32,
    unanswered_probes: u8,
    backoff: u8,
    rto_us: u32,
    rtt_us: u32,
    rtt_deviation_us: u32,
}

#[derive(Serialize)]
struct ListenerReport {
    waiting: u32,
    backlog: u32,
}

#[derive(Serialize)]
struct TimerReport {
    name: &'static str,
    remaining_ms: u64,
}

impl SocketReport {
    fn new(socket: &Socket) -> Self {
        let Socket { descriptor, current, connection, timer } = socket;
        let Current { info, .. } = current;
        let verdict = current.verdict();
        let is_listener = info.state == State::Listen;
        let time = |ms: u32| socket.has_exchanged().then_some(ms);
        Self {
            fds: descriptor.fds.clone(),
            thread: descriptor.thread,
            inode: descriptor.inode,
            protocol: if current.kind == Kind::Mptcp { "mptcp" } else { "tcp" },
            local: current.local.map(|local| local.to_string()),
            peer: current.peer.map(|peer| peer.to_string()),
            direction: connection.as_ref().and_then(direction),
            state: info.state.name(),
            keepalive: current.keepalive.map(|keepalive| KeepaliveReport {
                on: keepalive.on,
                time_s: keepalive.time_s,
                interval_s: keepalive.interval_s,
                probes: keepalive.probes,
            }),
            user_timeout_ms: current.user_timeout_ms,
            linger_s: current.linger_s,
            time_wait: current.time_wait,
            nodelay: current.nodelay,
            congestion: current.congestion.clone(),
            unsent_bytes: current.unsent,
            unacked_bytes: current.unacknowledged,
            connection: (!is_listener && info.state != State::Close).then_some(ConnectionReport {
                unacked_segments: info.unacked,
                last_data_received_ms: time(info.last_data_ms),
                last_ack_received_ms: time(info.last_ack_ms),
                last_data_sent_ms: time(info.last_data_sent_ms),
                retransmits: info.retransmits,
                total_retransmits: info.total_retransmits,
                unanswered_probes: info.probes,
                backoff: info.backoff,
                rto_us: info.rto_us,
                rtt_us: info.rtt_us,
                rtt_deviation_us: info.rtt_deviation_us,
            }),
            listener: is_listener.then_some(ListenerReport { waiting: info.unacked, backlog: info.sacked }),
            timer: timer.map(|timer| TimerReport { name: timer.purpose.name(), remaining_ms: timer.remaining_ms }),
            verdict: verdict.word(),
            reason: verdict.to_string(),
        }
    }
}

/// In one line unless it is for reading.
pub(crate) fn json(found: &Found, is_pretty: bool) -> String {
    let attached = Attached::now();
    let report = Report {
        processes: found
            .processes
            .iter()
            .map(|looked| ProcessReport {
                pid: looked.pid,
                name: looked.process.names.first().map(String::as_str),
                command: &looked.process.command,
                way: Way::of(looked.pid),
                in_kernel: attached.is_for(looked.pid),
                sockets: looked.sockets.iter().map(SocketReport::new).collect(),
            })
            .collect(),
        errors: found.failures.iter().filter(|t| t.is_fatal).map(|failure| failure.message.as_str()).collect(),
    };
    output::json(&report, is_pretty)
}
