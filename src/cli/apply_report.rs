//! What `sockopt apply` has done to each socket, as JSON and for people.

use policy::Value;
use policy::plain::Plain;
use policy::units::{Count, DisplayDuration};
use serde::{Serialize, Serializer};
use socket::namespace::{Purpose, Timer};

use crate::keeper::Kept;
use crate::output;
use crate::processes::{ProcessSockets, title};

#[derive(Serialize)]
pub(crate) struct Report<'a> {
    pub(crate) dry_run: bool,
    pub(crate) processes: &'a [Done<'a>],
    /// Processes that do not exist or may not be looked into.
    pub(crate) errors: Vec<&'a str>,
}

pub(crate) struct Done<'a> {
    pub(crate) looked: &'a ProcessSockets,
    pub(crate) sockets: Vec<Applied>,
}

impl Serialize for Done<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Process<'a> {
            pid: i32,
            name: Option<&'a str>,
            command: &'a str,
            sockets: &'a [Applied],
        }
        let ProcessSockets { pid, process, .. } = self.looked;
        let name = process.names.first().map(String::as_str);
        Process { pid: *pid, name, command: &process.command, sockets: &self.sockets }.serialize(serializer)
    }
}

#[derive(Serialize)]
pub(crate) struct Applied {
    pub(crate) fds: Vec<i32>,
    pub(crate) thread: Option<i32>,
    pub(crate) inode: u64,
    pub(crate) protocol: &'static str,
    pub(crate) local: Option<String>,
    pub(crate) peer: Option<String>,
    pub(crate) direction: Option<&'static str>,
    pub(crate) state: Option<&'static str>,
    pub(crate) rule: Option<String>,
    pub(crate) changes: Vec<Change>,
    pub(crate) failures: Vec<Failure>,
    /// Options that have the value already.
    pub(crate) already: Vec<String>,
    /// Keys of options that the program has set itself, where only the rest is filled in.
    pub(crate) left_to_the_program: Vec<&'static str>,
    /// Keys that it is too late for, or that need the library.
    pub(crate) left_out: Vec<&'static str>,
    pub(crate) left_alone: Option<String>,
    /// Whether a program in the kernel keeps options as they are.
    pub(crate) held: bool,
    /// Whether programs in the kernel have it from now on.
    #[serde(skip)]
    pub(crate) kept: Option<Kept>,
    #[serde(skip)]
    pub(crate) waiting: u32,
    #[serde(skip)]
    pub(crate) timer: Option<Timer>,
}

#[derive(Serialize, Clone, PartialEq)]
pub(crate) struct Change {
    pub(crate) option: String,
    #[serde(serialize_with = "optional_value")]
    pub(crate) before: Option<Value>,
    #[serde(serialize_with = "value")]
    pub(crate) after: Value,
}

#[derive(Serialize)]
pub(crate) struct Failure {
    pub(crate) setting: String,
    pub(crate) errno: String,
}

fn value<S: Serializer>(value: &Value, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Value::Int(value) => serializer.serialize_i32(*value),
        Value::Text(text) => serializer.serialize_str(text),
        other => serializer.collect_str(other),
    }
}

fn optional_value<S: Serializer>(optional: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    match optional {
        Some(known) => value(known, serializer),
        None => serializer.serialize_none(),
    }
}

impl Applied {
    /// Whether the configuration says anything about it.
    pub(crate) fn is_meant(&self) -> bool {
        self.left_alone.is_none()
    }

    /// Whether an option, by its name, has the value that was meant.
    pub(crate) fn has(&self, option: &str) -> bool {
        self.already.iter().any(|name| name == option) || self.changes.iter().any(|change| change.option == option)
    }

    pub(crate) fn is_refused(&self) -> bool {
        let has_others = !(self.changes.is_empty() && self.already.is_empty() && self.left_to_the_program.is_empty());
        !self.failures.is_empty() && !has_others
    }

    fn title(&self) -> String {
        format!("fd {} {}", self.fd(), self.ends())
    }

    fn fd(&self) -> i32 {
        self.fds.first().copied().unwrap_or_default()
    }

    fn ends(&self) -> String {
        let local = self.local.as_deref().unwrap_or("-");
        match (&self.peer, self.direction) {
            (Some(peer), Some("inbound")) => format!("{local} <- {peer}"),
            (Some(peer), Some("outbound")) => {
                format!("{local} -> {peer}{}", if self.protocol == "udp" { " (UDP)" } else { "" })
            }
            _ => format!("{local} (listening)"),
        }
    }
}

impl Done<'_> {
    /// What is new, for people: sockets with the same changes together.
    pub(crate) fn people(&self, is_dry: bool) -> String {
        let bold = anstyle::Style::new().bold();
        let mut text = format!("{bold}{}{bold:#}\n", title(self.looked.pid, &self.looked.process));
        let mut groups: Vec<(&Applied, Vec<&Applied>)> = Vec::new();
        for socket in self.sockets.iter().filter(|socket| !socket.changes.is_empty()) {
            let same = |(first, _): &&mut (&Applied, _)| first.rule == socket.rule && first.changes == socket.changes;
            match groups.iter_mut().find(same) {
                Some((_, sockets)) => sockets.push(socket),
                None => groups.push((socket, vec![socket])),
            }
        }
        for (first, sockets) in &groups {
            text.push_str(&format!(
                "  by {}{}:\n",
                Plain(&output::decision(first.rule.as_deref().unwrap_or_default())),
                if is_dry { ", not done" } else { "" }
            ));
            let before = |change: &Change| {
                change.before.as_ref().map_or_else(|| "?".to_owned(), |value| output::plain(&value.to_string()))
            };
            let widest = |of: &dyn Fn(&Change) -> usize| first.changes.iter().map(of).max().unwrap_or(0);
            let (names, befores) = (widest(&|change| change.option.len()), widest(&|change| before(change).len()));
            for change in &first.changes {
                let after = output::plain(&change.after.to_string());
                let line = format!("{:names$}  {:befores$}  ->  {after}", change.option, before(change));
                text.push_str(&format!("    {line}\n"));
            }
            text.push_str(&format!("  on {}:\n", Count(sockets.len(), "socket")));
            let lines = sockets.iter().map(|socket| format!("    fd {:<4} {}\n", socket.fd(), socket.ends()));
            text.extend(lines);
        }
        let mut chosen: Vec<(&[&str], usize)> = Vec::new();
        for keys in self.sockets.iter().map(|socket| &*socket.left_to_the_program).filter(|keys| !keys.is_empty()) {
            match chosen.iter_mut().find(|(known, _)| *known == keys) {
                Some((_, count)) => *count += 1,
                None => chosen.push((keys, 1)),
            }
        }
        for (keys, number) in chosen {
            text.push_str(&format!("  left to the program, {}: {}\n", keys.join(", "), Count(number, "socket")));
        }
        let already = |socket: &&Applied| {
            let is_as_configured = socket.failures.is_empty() && socket.left_to_the_program.is_empty();
            socket.is_meant() && socket.changes.is_empty() && is_as_configured
        };
        let already = self.sockets.iter().filter(already).count();
        if already > 0 {
            text.push_str(&format!("  already as configured: {}\n", Count(already, "socket")));
        }
        let mut alone: Vec<(&str, usize)> = Vec::new();
        for reason in self.sockets.iter().filter_map(|socket| socket.left_alone.as_deref()) {
            match alone.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, count)) => *count += 1,
                None => alone.push((reason, 1)),
            }
        }
        for (reason, number) in alone {
            text.push_str(&format!("  left alone, {reason}: {}\n", Count(number, "socket")));
        }
        if self.sockets.is_empty() {
            text.push_str("  no socket\n");
        }
        text
    }
}

/// What was refused, and what this cannot do.
pub(crate) fn notes(done: &[Done<'_>]) {
    let all = || done.iter().flat_map(|done| &done.sockets);
    for socket in all() {
        for Failure { setting, errno } in &socket.failures {
            output::warning(&format!("{}: {setting} failed: {errno}", socket.title()), None);
        }
    }
    if all().any(|socket| socket.held) {
        output::note(
            "an option that `sockopt attach` enforces can be changed only there: replace or detach its configuration; `sockopt \
             status` lists what is attached",
        );
    }
    let mut left_out: Vec<&str> = all().flat_map(|socket| &socket.left_out).copied().collect();
    left_out.sort_unstable();
    left_out.dedup();
    if !left_out.is_empty() {
        output::note(&format!(
            "not set, because they need a new connection, or the library in the program: {}",
            left_out.join(", ")
        ));
    }
    let changed = || all().filter(|socket| !socket.changes.is_empty());
    for socket in changed() {
        // The user timeout is looked at when the timer goes off, and not before.
        if let Some(Timer { purpose: Purpose::Retransmit | Purpose::WindowProbe, remaining_ms: ms @ 1_000.. }) =
            socket.timer
        {
            output::note(&format!(
                "{}: takes effect at its next retransmission, in about {}",
                socket.title(),
                DisplayDuration(ms)
            ));
        }
        if socket.waiting > 0 {
            output::note(&format!(
                "{}: {} in its accept queue will not inherit the options; run apply again when the program has accepted",
                socket.title(),
                Count(socket.waiting as usize, "connection")
            ));
        }
    }
    if changed().next().is_some() {
        output::note(
            "connections that a program opens from now on do not get these options, except what accepted ones inherit from its listening sockets; to cover all, start it under `sockopt run`",
        );
    }
}
