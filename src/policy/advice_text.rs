//! Every advice, with what it says, its code and its cure: the one place that words them.

use std::fmt;

use crate::catalog::Key;
use crate::code::Code;
use crate::constants;
use crate::error::{Remedy, Title, Words};
use crate::options::Setting;
use crate::timers::End;
use crate::units::DisplayNumber;

/// What a configuration does that its author may not have meant. Times are seconds unless their name says otherwise.
#[derive(Debug)]
pub(crate) enum Advice<'a> {
    /// Keepalive alone.
    DataUnguarded { unnoticed: End, cure: Cure },
    /// A user timeout alone.
    IdleUnguarded { user_timeout_ms: u64 },
    /// Keepalive without a time of its own.
    SlowKeepalive { unnoticed: End, time: u64 },
    /// The kernel sends one probe.
    SingleProbe,
    /// The user timeout ends when the second probe is due.
    LostProbe { user_timeout_ms: u64, second_probe: u64, due: End, cure: Cure },
    /// The user timeout is longer than all probes take.
    LateUserTimeout { user_timeout_ms: u64, all_probes: u64, probes: u64, unanswered: u64, noticed: End, without: End },
    /// The user timeout ends before all probes are sent.
    UselessProbes { user_timeout_ms: u64, all_probes: u64, probes: u64, unanswered: u64, noticed: End },
    /// A short user timeout, which comes from `by`, beside an option of bulk transfer.
    ShortForBulk { user_timeout_ms: u64, by: Key, bulk: Key, cut_off: End },
    /// `time_wait = false` beside `linger = "reset"`.
    TimeWaitUnneeded,
    /// `time_wait = false`.
    NoTimeWait,
    /// `raw` sets an option that another key sets as well.
    RawReplaces { key: Key, raw: &'a Setting },
    /// A linger with a time.
    BlockingClose { seconds: i32 },
    /// `local_ports_late` for every process, by that key or by `raw`.
    LatePort { setting: &'a Setting },
    /// `raw` sets an option after the only call that looks at it.
    AfterBind { raw: &'a Setting },
    /// `fastopen = true` for every port, or for these at which the server speaks first.
    ServerSpeaksFirst { ports: Option<&'a [(u16, &'static str)]> },
    /// `quickack = false`, likewise.
    LateHandshake { ports: Option<&'a [(u16, &'static str)]> },
    /// A later layer has another keepalive than that of `dead_peer_timeout`.
    OtherKeepalive { noticed: End },
    /// `linger = "reset"` on accepted connections.
    ResetsReplies,
    /// A user timeout by itself that is filled in.
    FillBesideOther { user_timeout_ms: u64 },
    /// A buffer that is filled in, on a kernel that does not tell who has set it.
    FillUnknown { key: Key },
    /// What the kernel takes from programs with a capability alone, with a condition.
    NeedsCapability { setting: &'a Setting, capability: &'static str, condition: &'static str },
    /// A congestion control that this machine does not have.
    UnknownAlgorithm { setting: &'a Setting, available: &'a [String] },
    /// A rule without keepalive and user timeout takes connections from a later rule that has them.
    TakesFromOther { rule: Title<'a>, later: Title<'a>, line: usize },
    /// Earlier rules, some of them with their lines, cover everything that a rule matches.
    NeverMatches { rule: Title<'a>, by: &'a [(Title<'a>, usize)], more: usize },
    /// Too many rules to compare this one and those behind it.
    NotCompared,
}

/// A user timeout that fits a keepalive.
#[derive(Debug)]
pub(crate) enum Cure {
    /// "auto", which is so many seconds.
    Auto(u64),
    /// So many seconds, of a keepalive of which only a part is given.
    Seconds(u64),
}

/// `for 14.0 to 14.9 s`, `for ever`.
struct For(End);

impl fmt::Display for For {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.latest() {
            Some(_) => write!(f, "for {}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Milliseconds as one would write them.
fn time(milliseconds: u64) -> DisplayNumber {
    DisplayNumber(milliseconds * 1_000)
}

/// The option that a setting is of, as it is written.
fn written(setting: &Setting) -> String {
    let name = match setting.key {
        Key::Raw => constants::option_name(setting.level, setting.name).unwrap_or_default(),
        key => key.name(),
    };
    format!("{name} = {}", setting.value)
}

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DataUnguarded { unnoticed, .. } => write!(
                f,
                "keepalive without user_timeout: a peer that vanishes while data is in flight goes unnoticed {}",
                For(*unnoticed)
            ),
            Self::IdleUnguarded { .. } => f.write_str(
                "user_timeout without keepalive: a program that waits for an answer from a vanished peer waits for ever",
            ),
            Self::SlowKeepalive { unnoticed, .. } => {
                write!(f, "keepalive without time: an idle peer that vanished goes unnoticed {}", For(*unnoticed))
            }
            Self::SingleProbe => f.write_str("one lost probe ends a living connection: probes = 1"),
            Self::LostProbe { user_timeout_ms, second_probe, .. } => {
                let ends = if *user_timeout_ms > second_probe * 1_000 { "may end" } else { "ends" };
                let user_timeout = time(*user_timeout_ms);
                write!(
                    f,
                    "one lost probe {ends} a living connection: user_timeout is {user_timeout}, time + interval {second_probe} s"
                )
            }
            Self::LateUserTimeout { user_timeout_ms, all_probes, noticed, without, .. } => {
                let user_timeout = time(*user_timeout_ms);
                write!(
                    f,
                    "user_timeout is {user_timeout}, above time + interval x probes = {all_probes} s: an idle peer that vanished is noticed after {noticed} instead of {without}"
                )
            }
            Self::UselessProbes { user_timeout_ms, probes, unanswered, noticed, .. } => {
                let user_timeout = time(*user_timeout_ms);
                write!(
                    f,
                    "with user_timeout = \"{user_timeout}\" set, probes = {probes} is ignored: a connection to an idle peer ends after {unanswered} unanswered probes, {noticed} after the last packet"
                )
            }
            Self::ShortForBulk { user_timeout_ms, by, bulk, cut_off } => {
                let by = if *by == Key::UserTimeout { String::new() } else { format!(" (by {})", by.name()) };
                write!(
                    f,
                    "user_timeout is {}{by} on what looks like bulk transfer ({}): a living reader that keeps its window closed is cut off after {cut_off}",
                    time(*user_timeout_ms),
                    bulk.name()
                )
            }
            Self::TimeWaitUnneeded => f.write_str(
                "time_wait = false has no effect together with linger = \"reset\", which leaves no TIME_WAIT either",
            ),
            Self::NoTimeWait => f.write_str(
                "time_wait = false: no TIME_WAIT is left to acknowledge a FIN that the peer sends again, or to absorb delayed duplicates",
            ),
            Self::BlockingClose { seconds } => write!(
                f,
                "linger = \"{seconds}s\": close blocks for up to {seconds} s while data is not acknowledged, also on a non-blocking socket; an event loop (Node, nginx, Redis) handles nothing else meanwhile"
            ),
            Self::LatePort { setting } => {
                match setting.key {
                    Key::Raw => write!(f, "raw {}", written(setting))?,
                    key => write!(f, "{} = true", key.name())?,
                }
                f.write_str(
                    ": a program that binds to port 0 and then asks for its port gets 0 until it listens or connects (active FTP, Python's socketserver)"
                )
            }
            Self::AfterBind { raw } => {
                write!(f, "raw {}: only bind looks at this option, and here it is set later: it has no effect", written(raw))
            }
            Self::ServerSpeaksFirst { ports } => {
                let place = where_server_is_first(*ports);
                write!(f, "fastopen = true for {place}: the client may wait for ever")
            }
            Self::LateHandshake { ports } => {
                let place = where_server_is_first(*ports);
                write!(f, "quickack = false for {place}: the server gets the connection up to 200 ms later")
            }
            Self::OtherKeepalive { noticed } => write!(
                f,
                "this keepalive replaces that of dead_peer_timeout: an idle peer that vanished is noticed after {noticed}"
            ),
            Self::RawReplaces { key, raw } => {
                write!(f, "raw sets {} after {}: the value of raw is in force", written(raw), key.name())
            }
            Self::ResetsReplies => f.write_str(
                "linger = \"reset\" on accepted connections: close and exit discard data that the client has not acknowledged",
            ),
            Self::FillBesideOther { user_timeout_ms } => write!(
                f,
                "user_timeout is {} with enforce = \"fill\": it is also set if the program has its own keepalive, and one lost probe may then end a living connection",
                time(*user_timeout_ms)
            ),
            Self::FillUnknown { key } => {
                write!(f, "{} is never set by enforce = \"fill\" on this kernel", key.name())
            }
            Self::NeedsCapability { setting, capability, condition } => {
                write!(f, "{} needs {capability} in the program{condition}", written(setting))
            }
            Self::UnknownAlgorithm { setting, .. } => {
                write!(f, "{} is not a congestion control algorithm of this kernel", written(setting))
            }
            Self::TakesFromOther { rule, later, line } => write!(
                f,
                "{rule} comes before {later} (line {line}), matches some of the same connections, and sets neither keepalive nor user_timeout on them"
            ),
            Self::NeverMatches { rule, by, more } => {
                let mut names: Vec<String> = by.iter().map(|(rule, line)| format!("{rule} (line {line})")).collect();
                if *more > 0 {
                    names.push(format!("{more} more"));
                }
                let last = names.pop().unwrap_or_default();
                let covers = if names.is_empty() { "covers" } else { "cover" };
                let names = if names.is_empty() { last } else { format!("{} and {last}", names.join(", ")) };
                write!(f, "{rule} can never match: {names} {covers} everything it matches")
            }
            Self::NotCompared => {
                f.write_str("there are too many rules: from here on no rule was compared with the earlier ones")
            }
        }
    }
}

impl Words for Advice<'_> {
    fn code(&self) -> Code {
        match self {
            Self::DataUnguarded { .. } => Code::DataUnguarded,
            Self::IdleUnguarded { .. } => Code::IdleUnguarded,
            Self::SlowKeepalive { .. } => Code::SlowKeepalive,
            Self::SingleProbe | Self::LostProbe { .. } => Code::OneProbe,
            Self::LateUserTimeout { .. } | Self::UselessProbes { .. } => Code::UselessProbes,
            Self::ShortForBulk { .. } => Code::ShortForBulk,
            Self::TimeWaitUnneeded => Code::TimeWaitUnneeded,
            Self::NoTimeWait => Code::NoTimeWait,
            Self::RawReplaces { .. } => Code::RawReplaces,
            Self::BlockingClose { .. } => Code::BlockingClose,
            Self::LatePort { .. } => Code::LatePort,
            Self::AfterBind { .. } => Code::AfterBind,
            Self::ServerSpeaksFirst { .. } => Code::ServerSpeaksFirst,
            Self::LateHandshake { .. } => Code::LateHandshake,
            Self::OtherKeepalive { .. } => Code::OtherKeepalive,
            Self::ResetsReplies => Code::ResetsReplies,
            Self::FillBesideOther { .. } => Code::FillBesideOther,
            Self::FillUnknown { .. } => Code::FillUnknown,
            Self::NeedsCapability { .. } => Code::NeedsCapability,
            Self::UnknownAlgorithm { .. } => Code::UnknownAlgorithm,
            Self::TakesFromOther { .. } => Code::TakesFromOther,
            Self::NeverMatches { .. } => Code::NeverMatches,
            Self::NotCompared => Code::NotCompared,
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::DataUnguarded { cure, .. } => {
                let cure = match cure {
                    Cure::Auto(seconds) => format!("user_timeout = \"auto\", which is {seconds} s here"),
                    Cure::Seconds(_) => "user_timeout, or use dead_peer_timeout, which is both".to_owned(),
                };
                format!("the kernel sends no probes while data is in flight; add {cure}")
            }
            Self::IdleUnguarded { user_timeout_ms } => {
                format!("user_timeout applies only while data is in flight; add {}", fitting(*user_timeout_ms))
            }
            Self::SlowKeepalive { time, .. } => {
                format!("without time, net.ipv4.tcp_keepalive_time applies, which is {time} s; add time")
            }
            Self::SingleProbe => "write probes = 3: the connection then survives two lost probes".to_owned(),
            Self::LostProbe { due, cure, .. } => {
                let cure = match cure {
                    Cure::Auto(seconds) => format!("user_timeout = \"auto\", which is {seconds} s here"),
                    Cure::Seconds(seconds) => format!("user_timeout = \"{seconds}s\""),
                };
                format!("write {cure}: the kernel checks user_timeout when the second probe is due, {due} after the last packet")
            }
            Self::LateUserTimeout { all_probes, probes, unanswered, .. } => format!(
                "with user_timeout set, probes = {probes} is ignored: the connection ends after {unanswered} unanswered probes; \"auto\" would be {all_probes} s"
            ),
            Self::UselessProbes { all_probes, unanswered, .. } => format!(
                "write probes = {unanswered}, or user_timeout = \"auto\" for time + interval x probes = {all_probes} s"
            ),
            Self::ShortForBulk { .. } => {
                "give slow readers a rule of their own with a longer user_timeout, as in config/presets/bulk-transfer.toml".to_owned()
            }
            Self::TimeWaitUnneeded => {
                "remove linger: with time_wait = false alone the kernel sends all data first".to_owned()
            }
            Self::NoTimeWait => {
                "harm is rare because of timestamps and random sequence numbers (RFC 1337, RFC 6191); `check --allow no-time-wait` hides this advice".to_owned()
            }
            Self::RawReplaces { key, .. } => {
                format!("both set this kernel option; delete the entry of raw, or {}", key.name())
            }
            Self::BlockingClose { .. } => {
                "without linger, close returns at once, and the kernel sends the rest in the background".to_owned()
            }
            Self::AfterBind { .. } => {
                "use a rule with \"listen\" or \"process\", or [defaults], and leave out `at`: where a program binds, no destination is known".to_owned()
            }
            Self::LatePort { .. } => {
                "set it only for clients that bind to an address before they connect, with a rule that has process".to_owned()
            }
            Self::ServerSpeaksFirst { .. } => {
                "once the kernel has the server's cookie, connect succeeds before anything is sent, also to a closed port: the SYN goes out with the client's first data; set fastopen only in rules for ports where the client speaks first, such as to = [\":443\"]".to_owned()
            }
            Self::LateHandshake { .. } => {
                "the last packet of the handshake waits for the client's first data; set quickack = false only in rules for ports where the client speaks first".to_owned()
            }
            Self::OtherKeepalive { .. } => {
                "dead_peer_timeout sets keepalive and user_timeout, and a keepalive in a rule or in the environment overrides the first; write dead_peer_timeout there instead, or add user_timeout to say that this is meant".to_owned()
            }
            Self::ResetsReplies => {
                "measured: 128504 of 161104 bytes of a reply arrived; time_wait = false leaves no TIME_WAIT either, and the kernel sends all data first".to_owned()
            }
            Self::FillBesideOther { .. } => {
                "write \"auto\" or use dead_peer_timeout: their user timeout is set only if the keepalive survives a lost probe with it".to_owned()
            }
            Self::FillUnknown { .. } => {
                "only Linux 5.14 and newer tell whether the program has set the buffer (SO_BUF_LOCK)".to_owned()
            }
            Self::NeedsCapability { .. } => {
                "without it the kernel refuses the option, and the program runs without the option".to_owned()
            }
            Self::UnknownAlgorithm { available, .. } => {
                format!("net.ipv4.tcp_available_congestion_control: {}", available.join(" "))
            }
            Self::TakesFromOther { .. } => {
                "only the first rule that matches is used; add dead_peer_timeout to this rule or to [defaults], or write dead_peer_timeout = \"system\" here if you want none".to_owned()
            }
            Self::NeverMatches { by, more, .. } => {
                let them = if by.len() + more == 1 { "it" } else { "them" };
                format!("the first rule that matches is used; move this one above {them}, or delete it")
            }
            Self::NotCompared => return None,
        })
    }

    fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::DataUnguarded { cure, .. } | Self::LostProbe { cure, .. } => {
                let toml = match cure {
                    Cure::Auto(_) => "\"auto\"".to_owned(),
                    Cure::Seconds(seconds) => format!("\"{seconds}s\""),
                };
                Some(Remedy { key: Key::UserTimeout, toml })
            }
            Self::IdleUnguarded { user_timeout_ms } => {
                let toml = fitting(*user_timeout_ms).strip_prefix("keepalive = ")?.to_owned();
                Some(Remedy { key: Key::Keepalive, toml })
            }
            _ => None,
        }
    }
}

/// The keepalive whose time + interval x probes is a user timeout.
fn fitting(milliseconds: u64) -> String {
    let seconds = milliseconds / 1_000;
    let interval = seconds * 3 / 14;
    if interval == 0 || !milliseconds.is_multiple_of(1_000) {
        return "keepalive, or use dead_peer_timeout, which is both".to_owned();
    }
    format!("keepalive = {{ time = \"{}s\", interval = \"{interval}s\", probes = 3 }}", seconds - 3 * interval)
}

/// Where the server speaks first: among all ports, or these.
fn where_server_is_first(ports: Option<&[(u16, &str)]>) -> String {
    let Some(ports) = ports else {
        return "every port, also where the server speaks first (FTP, SMTP, POP3, IMAP, MySQL)".to_owned();
    };
    let plural = if ports.len() == 1 { "" } else { "s" };
    let ports: Vec<String> = ports.iter().map(|(port, name)| format!("{port} ({name})")).collect();
    format!("port{plural} {}, where the server speaks first", ports.join(", "))
}
