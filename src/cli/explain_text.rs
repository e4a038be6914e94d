//! What `sockopt explain` has found, for people to read.

use std::fmt;

use anstyle::{AnsiColor, Style};
use policy::plain::Plain;
use policy::timers::End;

use crate::explain_report::{Call, Explanation, Figures, Found, Place, Row, RuleLine, Step};
use crate::output;
use crate::table::wrapping;

const BOLD: Style = Style::new().bold();
const NEVER: Style = AnsiColor::Red.on_default();

impl Place {
    fn text(&self) -> String {
        match self.layer {
            "environment" => output::as_given(&self.source).into_owned(),
            layer => format!("{layer}, {}:{}", self.source, self.line),
        }
    }
}

impl Explanation {
    pub(crate) fn text(&self) -> String {
        let addresses = self.addresses.join(", ");
        let what = match (self.found.call, &self.found.from) {
            ("connect", _) => format!("connect to {addresses}"),
            ("accept", Some(from)) => format!("listen on {addresses}, accept from {from}"),
            _ => format!("listen on {addresses}"),
        };
        format!("{BOLD}{what}:{BOLD:#} {}", self.found.text())
    }
}

impl Found {
    fn text(&self) -> String {
        let mut text = match &self.rule {
            Some(RuleLine { name: Some(name), file, line, .. }) => {
                format!("rule \"{}\", {}:{line}\n", Plain(name), Plain(file))
            }
            Some(RuleLine { number, file, line, .. }) => format!("rule {number}, {}:{line}\n", Plain(file)),
            None => format!("no rule matches: {}\n", Plain(&self.otherwise)),
        };
        if !self.rules.is_empty() {
            text += &format!("\n{}", self.all_rules());
        }
        for step in &self.steps {
            text += &format!("\n{}", calls(step));
            if let Some(table) = in_kernel(step) {
                text += &format!("\n{table}");
            }
        }
        for (index, place) in self.left_to_the_program.iter().enumerate() {
            let gap = if index == 0 { "\n" } else { "" };
            text += &format!("{gap}{} = \"system\" ({}): left to the program\n", place.key, Plain(&place.text()));
        }
        if !self.unnoticed.is_empty() {
            text += &format!("\n{}", self.times());
        }
        for note in &self.notes {
            text += &format!("\nnote: {}\n", Plain(&output::as_given(note)));
        }
        text
    }

    fn all_rules(&self) -> String {
        let counts = self.rules.iter().position(|rule| rule.mismatch.is_none()).unwrap_or(self.rules.len());
        let row = |(index, rule): (usize, &RuleLine)| {
            let verdict = match &rule.mismatch {
                Some(mismatch) => format!("no: {mismatch}"),
                None if index == counts => "yes: the first that matches is used".to_owned(),
                None => "would match, but an earlier rule wins".to_owned(),
            };
            [
                rule.name.clone().unwrap_or_else(|| format!("rule {}", rule.number)),
                format!("{}:{}", rule.file, rule.line),
                verdict,
            ]
        };
        wrapping(["rule", "at", "does it match?"], self.rules.iter().enumerate().map(row).collect())
    }

    fn times(&self) -> String {
        let row = |row: &Row| {
            let end = |end: End| match (row.state, end) {
                // It is to be left alone.
                ("zero_window_alive", End::Never) => "not ended".to_owned(),
                ("zero_window_alive", end) => format!("ended, {end}"),
                (_, end) => end.to_string(),
            };
            [row.shown.to_owned(), end(row.with.end), end(row.without.end)]
        };
        let rows = self.unnoticed.iter().map(row).collect();
        let text = wrapping(["a peer that vanished goes unnoticed", "with this", "without"], rows);
        text.replace("for ever", &format!("{NEVER}for ever{NEVER:#}"))
    }
}

/// The calls of a step with their origin, said once for all that come from the same place.
fn calls(step: &Step) -> String {
    let mut last = None;
    let row = |call: &Call| {
        let is_new = last != call.from.as_ref().map(Place::text) || call.from.is_none();
        last = call.from.as_ref().map(Place::text);
        let (key, from) = match &call.from {
            Some(place) if is_new => (place.key.to_owned(), place.text()),
            _ => (String::new(), String::new()),
        };
        let value = call.value.as_str().map_or_else(|| call.value.to_string(), str::to_owned);
        [key, format!("{} {} {value}", call.level, call.name), from]
    };
    let rows = step.calls.iter().map(row).collect();
    wrapping(["option", &format!("setsockopt {}", step.when), "from"], rows)
}

/// What sets a step's options in the kernel, if that was asked for.
fn in_kernel(step: &Step) -> Option<String> {
    let text = |call: &Call| call.kernel.as_ref().map(|kernel| kernel.text.clone());
    let key = |call: &Call| call.from.as_ref().map_or("", |place| place.key);
    let rows: Option<Vec<[String; 3]>> = step
        .calls
        .chunk_by(|one, next| (key(one), text(one)) == (key(next), text(next)))
        .map(|same| {
            let names: Vec<&str> = same.iter().map(|call| call.name.as_str()).collect();
            let first = same.first()?;
            Some([key(first).to_owned(), names.join(", "), text(first)?])
        })
        .collect();
    Some(wrapping(["option", step.when, "in the kernel"], rows?))
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ticks = self.ticks_per_second.map_or("any number of".to_owned(), |rate| rate.to_string());
        write!(
            f,
            "The times begin with the peer's last packet (idle), when the data is sent (in\n\
             flight), or when the window closes. \"without\": a program that sets nothing.\n\
             Computed with this host's net.ipv4.tcp_*, {ticks} timer ticks a second, and\n\
             round-trip times of up to {} ms.",
            self.round_trip_ms
        )
    }
}
