//! What `sockopt show` has found, for people to read: tables, and what they come to.

use anstyle::{AnsiColor, Style};
use policy::health::{State, Verdict};
use policy::units::{Count, DisplayDuration, DisplayNumber};
use socket::Kind;
use socket::current::Current;

use crate::output;
use crate::processes::{self, Found, ProcessSockets, Socket};
use crate::table::{Cell, Column, Layout, Table};
use crate::way::{Attached, Way};

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
    let is_connected = socket.has_exchanged();
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
pub(crate) fn people(found: &Found, width: Option<usize>) -> String {
    let rows: Vec<Vec<Vec<Cell>>> =
        found.processes.iter().map(|looked| looked.sockets.iter().map(row).collect()).collect();
    let table = Table::new(&COLUMNS, rows.iter().flatten(), &LAYOUTS, width);
    let bold = Style::new().bold();
    let mut text = String::new();
    let has_rows = rows.iter().any(|rows| !rows.is_empty());
    if has_rows {
        text.push_str(&table.head(Style::new().dimmed()));
    }
    let attached = Attached::now();
    for (looked, rows) in found.processes.iter().zip(&rows) {
        // Of many, those without are not of interest.
        if rows.is_empty() && found.processes.len() > 1 {
            continue;
        }
        text.push_str(&format!("{bold}{}{bold:#}\n", heading(looked, width, &attached)));
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
fn heading(looked: &ProcessSockets, width: Option<usize>, attached: &Attached) -> String {
    let title = processes::title(looked.pid, &looked.process);
    let ways = Way::of(looked.pid).map(Way::name).into_iter().chain(attached.is_for(looked.pid).then_some("kernel"));
    let ways: Vec<String> = ways.map(|way| format!("the {way}")).collect();
    let title = if ways.is_empty() { title } else { format!("{title}, options set by {}", ways.join(" and ")) };
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
        text.push_str("Use `sockopt apply --dead-peer-timeout 15s PID` to notice vanished peers.\n");
    } else if has("half-open?") {
        text.push_str("All have keepalive and a user timeout: the kernel ends them if no answer comes.\n");
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
