//! `sockopt show`: every TCP socket of running programs, as the kernel has it.

use std::io::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::{Arg, ArgAction, ArgMatches, Command};
use policy::health::{State, Verdict};
use policy::units::{Count, DisplayDuration, DisplayNumber};
use serde::Serialize;
use socket::current::Current;
use socket::{Kind, signal};

use crate::processes::{self, Filter, Found, ProcessSockets, Selection, Socket, direction};
use crate::table::{Cell, Column, Layout, Table};
use crate::{exit, output};

pub(crate) fn command() -> Command {
    let command = Command::new("show")
        .about("Show the TCP sockets of programs, and which look half-open")
        .long_about(
            "Shows every TCP socket of running programs, with the options in force and what the kernel knows of the \
             connection. The programs are neither stopped nor traced: their descriptors are copied for a phase \
             (pidfd_getfd, Linux 5.6). That is allowed for one's own programs, and for all with CAP_SYS_PTRACE.",
        )
        .after_long_help(LEGEND);
    let command = processes::with_selection(command).arg(
        Arg::new("all")
            .long("all")
            .action(ArgAction::SetTrue)
            .conflicts_with("process-or-name")
            .help("Every process that may be looked into"),
    );
    processes::with_filters(command)
        .arg(Arg::new("listen").long("listen").action(ArgAction::SetTrue).help("Only listening sockets"))
        .arg(
            Arg::new("watch")
                .long("watch")
                .value_name("SECONDS")
                .num_args(0..=1)
                .help("Show again every so many seconds (2 if not given) until Ctrl-C"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("As JSON, with more figures; with --watch a line each time"),
        )
}

const LEGEND: &str = "Verdicts:
  half-open?  data or probes unanswered for longer than the round trip explains
  unguarded   idle without keepalive: a vanished peer would never be noticed
  listening, connecting, closing, closed, ok

Columns:
  FD          lowest descriptor; a + after it: the socket has more
  KEEPALIVE   time, interval and number of probes, or off
  USER T.O.   TCP_USER_TIMEOUT
  UNSENT      bytes written and not sent yet
  UNACKED     bytes sent and not acknowledged
  LAST DATA   since data last arrived
  LAST ACK    since an acknowledgement last arrived
  RETRANS     retransmissions without an answer
  TIMER       the pending timer, and how many probes are unanswered

Exit status:
  0  shown
  1  a process does not exist, or access is denied
  2  wrong usage";

pub(crate) fn show(matches: &ArgMatches) -> u8 {
    shown(matches).unwrap_or_else(|code| code)
}

fn shown(matches: &ArgMatches) -> Result<u8, u8> {
    let (interval, name) = watch(matches)?;
    let selection = Selection::new(matches, name)?;
    let filter = Filter::new(matches)?;
    let listeners_only = matches.get_flag("listen");
    let as_json = matches.get_flag("json");
    let look = || {
        let mut found = selection.look();
        for looked in &mut found.processes {
            looked.sockets.retain(|socket| {
                filter.lets_through(&socket.current) && (!listeners_only || socket.current.info.state == State::Listen)
            });
        }
        found
    };
    let Some(interval) = interval else {
        let found = look();
        let code = found.report();
        output::print(&if as_json { json(&found, true) } else { people(&found, output::terminal_size().map(|s| s.0)) });
        return Ok(code);
    };
    signal::block(&WAKING);
    let mut screen = Screen::default();
    loop {
        let found = look();
        if found.processes.is_empty() && found.failures.iter().any(|failure| failure.is_fatal) {
            return Ok(found.report());
        }
        if as_json {
            output::print(&json(&found, false));
        } else {
            screen.show(&found);
        }
        if output::is_closed() {
            return Ok(exit::OK);
        }
        match signal::wait_for(&WAKING, interval) {
            None | Some(libc::SIGWINCH) => {}
            Some(_) => return Ok(exit::OK),
        }
    }
}

/// What ends `--watch`, or changes what it is shown on.
const WAKING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGWINCH];

/// The interval of `--watch`; what follows it and is no time is a process, and so is a number if there is no other.
fn watch(matches: &ArgMatches) -> Result<(Option<Duration>, Option<String>), u8> {
    const INTERVAL: Duration = Duration::from_secs(2);
    const LONGEST: f64 = 1e6;
    if matches.value_source("watch").is_none() {
        return Ok((None, None));
    }
    let Some(given) = matches.get_one::<String>("watch") else { return Ok((Some(INTERVAL), None)) };
    let has_processes = matches.contains_id("process-or-name") || matches.get_flag("all");
    match given.strip_suffix('s').unwrap_or(given).parse::<f64>() {
        Ok(seconds) if has_processes && (0.1..=LONGEST).contains(&seconds) => {
            Ok((Some(Duration::from_secs_f64(seconds)), None))
        }
        Ok(_) if has_processes => {
            output::error(&format!("--watch: \"{given}\" is out of range"), Some("accepted: seconds, 0.1 or more"));
            Err(exit::USAGE)
        }
        _ => Ok((Some(INTERVAL), Some(given.clone()))),
    }
}

// For people

/// The columns, in the order of [`row`].
const COLUMNS: [Column; 18] = {
    const fn left(title: &'static str) -> Column {
        Column { title, is_right: false, is_last: false }
    }
    const fn right(title: &'static str) -> Column {
        Column { title, is_right: true, is_last: false }
    }
    [
        right("FD"),
        left("LOCAL"),
        left("PEER"),
        left("STATE"),
        left("VERDICT"),
        left("KEEPALIVE"),
        left("USER T.O."),
        left("LINGER"),
        left("NODELAY"),
        left("CONGESTION"),
        right("UNSENT"),
        right("UNACKED"),
        right("LAST DATA"),
        right("LAST ACK"),
        right("RETRANS"),
        left("TIMER"),
        Column { title: "LOCAL -> PEER", is_right: false, is_last: true },
        left("TIME_WAIT"),
    ]
};

const FD: Option<usize> = Some(0);
const LOCAL: Option<usize> = Some(1);
const PEER: Option<usize> = Some(2);
const STATE: Option<usize> = Some(3);
const VERDICT: Option<usize> = Some(4);
const KEEPALIVE: Option<usize> = Some(5);
const USER_TIMEOUT: Option<usize> = Some(6);
const LINGER: Option<usize> = Some(7);
const NODELAY: Option<usize> = Some(8);
const CONGESTION: Option<usize> = Some(9);
const UNSENT: Option<usize> = Some(10);
const UNACKED: Option<usize> = Some(11);
const LAST_DATA: Option<usize> = Some(12);
const LAST_ACK: Option<usize> = Some(13);
const RETRANS: Option<usize> = Some(14);
const TIMER: Option<usize> = Some(15);
const BOTH: Option<usize> = Some(16);
const TIME_WAIT: Option<usize> = Some(17);

/// From the widest to the narrowest: about 160, 110, 80 columns, and for long addresses.
#[rustfmt::skip]
const LAYOUTS: [Layout; 4] = [
    &[&[FD, LOCAL, PEER, STATE, VERDICT, KEEPALIVE, USER_TIMEOUT, LINGER, TIME_WAIT, NODELAY, CONGESTION, UNSENT,
        UNACKED, LAST_DATA, LAST_ACK, RETRANS, TIMER]],
    &[&[FD, LOCAL, STATE, KEEPALIVE, LINGER, UNSENT, LAST_DATA, RETRANS, CONGESTION],
      &[None, PEER, VERDICT, USER_TIMEOUT, NODELAY, UNACKED, LAST_ACK, TIME_WAIT, TIMER]],
    &[&[FD, LOCAL, STATE, KEEPALIVE, LINGER, UNSENT, LAST_DATA],
      &[None, PEER, VERDICT, USER_TIMEOUT, NODELAY, UNACKED, LAST_ACK],
      &[None, TIMER, CONGESTION, TIME_WAIT, None, RETRANS]],
    &[&[FD, BOTH],
      &[None, STATE, KEEPALIVE, LINGER, UNSENT, LAST_DATA],
      &[None, VERDICT, USER_TIMEOUT, NODELAY, UNACKED, LAST_ACK],
      &[None, CONGESTION, TIMER, TIME_WAIT, RETRANS]],
];

/// What is not there.
const NONE: &str = "-";

fn row(socket: &Socket) -> Vec<Cell> {
    let Socket { descriptor, current, timer, .. } = socket;
    let info = &current.info;
    let is_listener = info.state == State::Listen;
    let is_connected = has_exchanged(info.state);
    let verdict = current.verdict();
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
    let of_connection = |text: String| if is_connected { text } else { NONE.to_owned() };
    let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
    let local = or_none(current.local.map(|local| local.to_string()));
    let peer = match current.peer {
        _ if is_listener => format!("({} of {} waiting)", info.unacked, info.sacked),
        peer => or_none(peer.map(|peer| peer.to_string())),
    };
    let fds = &descriptor.fds;
    let fd = fds.first().map_or(String::new(), |fd| format!("{fd}{}", if fds.len() > 1 { "+" } else { "" }));
    let timer = timer.map(|timer| {
        let unanswered = if info.probes > 0 { format!(" ({})", info.probes) } else { String::new() };
        format!("{} {}{unanswered}", timer.purpose.name(), DisplayDuration(timer.remaining_ms))
    });
    let kind = if current.kind == Kind::Mptcp { " mptcp" } else { "" };
    let time_wait = Cell::from(or_none(current.time_wait.map(|is_left| if is_left { "yes" } else { "no" }.to_owned())));
    let both = Cell::from(format!("{local} -> {peer}"));
    [
        fd,
        local,
        peer,
        format!("{}{kind}", info.state.name()),
        verdict.word().to_owned(),
        or_none(current.keepalive.map(|keepalive| {
            let seconds = |seconds: u32| DisplayNumber(u64::from(seconds) * 1_000_000);
            let (time, interval) = (seconds(keepalive.time_s), seconds(keepalive.interval_s));
            if keepalive.on { format!("{time},{interval},{}", keepalive.probes) } else { on_off(false) }
        })),
        or_none(current.user_timeout_ms.map(|ms| match ms {
            0 => on_off(false),
            ms => DisplayNumber(u64::from(ms) * 1_000).to_string(),
        })),
        match current.linger_s {
            None => on_off(false),
            Some(0) => "reset".to_owned(),
            Some(seconds) => format!("{seconds}s"),
        },
        or_none(current.nodelay.map(on_off)),
        or_none(current.congestion.as_deref().map(output::plain)),
        or_none(current.unsent.map(bytes)),
        or_none(current.unacknowledged.map(bytes)),
        of_connection(DisplayDuration(info.last_data_ms.into()).to_string()),
        of_connection(DisplayDuration(info.last_ack_ms.into()).to_string()),
        if is_listener { NONE.to_owned() } else { info.retransmits.to_string() },
        or_none(timer),
    ]
    .into_iter()
    .map(Cell::from)
    .enumerate()
    .map(|(column, cell)| if Some(column) == VERDICT { Cell { style: style(verdict), ..cell } } else { cell })
    .chain([both, time_wait])
    .collect()
}

/// Whether anything has arrived on such a socket, so that it has a time.
fn has_exchanged(state: State) -> bool {
    !matches!(state, State::Listen | State::Close | State::SynSent | State::SynReceived)
}

/// In at most seven characters.
fn bytes(count: u32) -> String {
    match count {
        count @ ..100_000 => count.to_string(),
        count @ ..10_000_000 => format!("{}KiB", count >> 10),
        count => format!("{}MiB", count >> 20),
    }
}

fn style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::HalfOpen(_) => AnsiColor::Red.on_default().bold(),
        Verdict::Unguarded => AnsiColor::Yellow.on_default(),
        Verdict::Ok => AnsiColor::Green.on_default(),
        _ => Style::new(),
    }
}

/// The tables, within so many columns if there is a limit.
fn people(found: &Found, width: Option<usize>) -> String {
    let rows: Vec<Vec<Vec<Cell>>> =
        found.processes.iter().map(|looked| looked.sockets.iter().map(row).collect()).collect();
    let table = Table::new(&COLUMNS, rows.iter().flatten(), &LAYOUTS, width);
    let bold = Style::new().bold();
    let mut text = String::new();
    let has_rows = rows.iter().any(|rows| !rows.is_empty());
    if has_rows {
        text.push_str(&table.head(Style::new().dimmed()));
    }
    for (looked, rows) in found.processes.iter().zip(&rows) {
        // Of many, those without are not of interest.
        if rows.is_empty() && found.processes.len() > 1 {
            continue;
        }
        text.push_str(&format!("{bold}{}{bold:#}\n", heading(looked, width)));
        if rows.is_empty() {
            text.push_str("no TCP socket\n");
        }
        rows.iter().for_each(|row| text.push_str(&table.row(row)));
    }
    if has_rows {
        text.push_str(&summary(found));
    } else if found.processes.len() > 1 {
        text.push_str("no TCP socket\n");
    }
    text
}

/// The process and its command line, in one line.
fn heading(looked: &ProcessSockets, width: Option<usize>) -> String {
    let title = processes::title(looked.pid, &looked.process);
    let command = output::plain(&looked.process.command);
    let line = if command.is_empty() { title } else { format!("{title}: {command}") };
    match width {
        Some(width) if line.chars().count() > width => {
            line.chars().take(width.saturating_sub(3)).chain("...".chars()).collect()
        }
        _ => line,
    }
}

/// How many of which, and what can be done about it.
fn summary(found: &Found) -> String {
    let mut counts: Vec<(Verdict, usize)> = Vec::new();
    for verdict in found.processes.iter().flat_map(|looked| &looked.sockets).map(|socket| socket.current.verdict()) {
        match counts.iter_mut().find(|(known, _)| known.word() == verdict.word()) {
            Some((_, count)) => *count += 1,
            None => counts.push((verdict, 1)),
        }
    }
    let total: usize = counts.iter().map(|(_, count)| count).sum();
    let each: Vec<String> = counts
        .iter()
        .map(|(verdict, count)| format!("{count} {}{}{:#}", style(*verdict), verdict.word(), style(*verdict)))
        .collect();
    let mut text = format!("\n{}: {}\n", Count(total, "TCP socket"), each.join(", "));
    let has = |word: &str| counts.iter().any(|(verdict, _)| verdict.word() == word);
    let explained = [
        ("half-open?", "data or probes unanswered for longer than the round trip explains"),
        ("unguarded", "idle without keepalive: a vanished peer would never be noticed"),
    ];
    for (word, meaning) in explained.iter().filter(|(word, _)| has(word)) {
        text.push_str(&format!("  {word:<10}  {meaning}\n"));
    }
    let sockets = found.processes.iter().flat_map(|looked| &looked.sockets).map(|socket| &socket.current);
    let mut in_danger = sockets.filter(|current| explained.iter().any(|(word, _)| current.verdict().word() == *word));
    if in_danger.any(|current| !is_guarded(current)) {
        text.push_str("`sockopt apply --dead-peer-timeout 15s PID` sets what notices a vanished peer.\n");
    } else if has("half-open?") {
        text.push_str("Keepalive and user timeout are in force on each: the kernel ends it unless an answer comes.\n");
    }
    text
}

/// Whether the kernel notices a vanished peer by the options in force, before anybody loses patience: idle and with data
/// in flight.
fn is_guarded(current: &Current) -> bool {
    const PATIENCE_S: u32 = 600;
    let probed = current
        .keepalive
        .is_some_and(|keepalive| keepalive.on && keepalive.time_s.saturating_add(keepalive.interval_s) <= PATIENCE_S);
    // Multipath TCP has none.
    let given_up = current.user_timeout_ms.is_none_or(|ms| (1..=PATIENCE_S * 1_000).contains(&ms));
    probed && given_up
}

/// A terminal that is written over again and again; or whatever else stdout is, where one follows the other.
#[derive(Default)]
struct Screen {
    is_used: bool,
}

impl Screen {
    fn show(&mut self, found: &Found) {
        let size = output::terminal_size();
        let mut text = people(found, size.map(|(width, _)| width));
        for failure in &found.failures {
            text.push_str(&format!("{}\n", output::plain(&failure.message)));
        }
        let Some((_, height)) = size else {
            let gap = if self.is_used { "\n" } else { "" };
            self.is_used = true;
            return output::print(&format!("{gap}{text}"));
        };
        let lines = text.lines().count();
        if lines >= height {
            let kept: Vec<&str> = text.lines().take(height.saturating_sub(2)).collect();
            text = format!("{}\n... {} more lines\n", kept.join("\n"), lines - kept.len());
        }
        // Whether colours are wanted says nothing about moving the cursor.
        let stdout = std::io::stdout();
        if anstream::AutoStream::choice(&stdout) == anstream::ColorChoice::Never {
            text = anstream::adapter::strip_str(&text).to_string();
        }
        let first = if self.is_used { "" } else { "\x1b[2J" };
        self.is_used = true;
        let body = text.replace('\n', "\x1b[K\n");
        let mut stdout = stdout.lock();
        output::written(write!(stdout, "{first}\x1b[H{body}\x1b[J").and_then(|()| stdout.flush()));
    }
}

// For programs

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
        let time = |ms: u32| has_exchanged(info.state).then_some(ms);
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

fn json(found: &Found, is_pretty: bool) -> String {
    let report = Report {
        processes: found
            .processes
            .iter()
            .map(|looked| ProcessReport {
                pid: looked.pid,
                name: looked.process.names.first().map(String::as_str),
                command: &looked.process.command,
                sockets: looked.sockets.iter().map(SocketReport::new).collect(),
            })
            .collect(),
        errors: found.failures.iter().filter(|t| t.is_fatal).map(|failure| failure.message.as_str()).collect(),
    };
    output::json(&report, is_pretty)
}
