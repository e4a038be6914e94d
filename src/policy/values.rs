//! Reads one value of the configuration, from TOML or from an environment variable, by the catalogue's row.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::catalog::{Accepts, DSCP_NAMES, Entry, Key, LEAST_DEAD_PEER_TIMEOUT, LONGEST_DEAD_PEER_TIMEOUT};
use crate::code::Code;
use crate::constants;
use crate::enforce::Enforce;
use crate::error::{Problems, nearest};
use crate::options::{Phase, Phases, Value};
use crate::promise::{self, Detection};
use crate::units::{self, DisplayBytes, DisplayNumber, Malformed};

/// What a key was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Leave the socket as it is, even if a lower layer says otherwise.
    System,
    /// SO_KEEPALIVE and those of its parameters that were given.
    Keepalive(Keepalive),
    /// dead_peer_timeout: keepalive, and a user timeout to go with it.
    Detect(Detection),
    /// user_timeout = time + interval x probes of the keepalive in force.
    AutoUserTimeout,
    /// The value of the key's only option, or of the same option for IPv4 and IPv6.
    Value(Value),
    /// Outbound TCP Fast Open on or off.
    FastopenConnect(bool),
    /// A listener's queue of TCP Fast Open connections.
    FastopenQueue(i32),
    /// Options by number.
    Raw(Vec<RawOption>),
    /// Who has the last word.
    Enforce(Enforce),
    /// The value was refused, which is reported: nothing that depends on it is to be judged.
    Refused,
}

/// Keepalive as given; a part that was not given keeps the system's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// SO_KEEPALIVE.
    pub(crate) on: bool,
    /// TCP_KEEPIDLE, seconds, 1 to 32767.
    pub(crate) time: Option<u32>,
    /// TCP_KEEPINTVL, seconds, 1 to 32767.
    pub(crate) interval: Option<u32>,
    /// TCP_KEEPCNT, 1 to 127.
    pub(crate) probes: Option<u32>,
}

/// An entry of `raw`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawOption {
    /// setsockopt level.
    pub(crate) level: i32,
    /// Option number.
    pub(crate) name: i32,
    /// Its value.
    pub(crate) value: Value,
    /// When it is set.
    pub(crate) phases: Phases,
}

/// Entries of `raw` in one table: those of `[defaults]` are copied into each rule.
const MOST_RAW: usize = 64;

/// A value as it was written.
#[derive(Clone, Copy)]
pub(crate) enum Form<'a> {
    /// In TOML, where types are told apart.
    Toml(&'a DeValue<'a>),
    /// In an environment variable, where everything is text.
    Variable(&'a str),
}

impl<'a> Form<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            Self::Toml(DeValue::String(text)) => Some(text),
            Self::Variable(text) => Some(text.trim()),
            Self::Toml(_) => None,
        }
    }

    fn integer(self) -> Option<i64> {
        match self {
            Self::Toml(DeValue::Integer(digits)) => i64::from_str_radix(digits.as_str(), digits.radix()).ok(),
            Self::Variable(text) => text.trim().parse().ok(),
            Self::Toml(_) => None,
        }
    }

    fn boolean(self) -> Option<bool> {
        match self {
            Self::Toml(DeValue::Boolean(value)) => Some(*value),
            Self::Variable(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "on" | "yes" | "1" => Some(true),
                "false" | "off" | "no" | "0" => Some(false),
                _ => None,
            },
            Self::Toml(_) => None,
        }
    }
}

impl fmt::Display for Form<'_> {
    /// What stands there, for errors: `the integer 60`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(text) => write!(f, "\"{}\"", text.trim()),
            Self::Toml(DeValue::String(text)) => write!(f, "\"{text}\""),
            Self::Toml(DeValue::Integer(digits)) => write!(f, "the bare number {digits}"),
            Self::Toml(DeValue::Float(digits)) => write!(f, "the number {digits}"),
            Self::Toml(DeValue::Boolean(value)) => write!(f, "{value}"),
            Self::Toml(DeValue::Datetime(_)) => f.write_str("a date"),
            Self::Toml(DeValue::Array(_)) => f.write_str("a list"),
            Self::Toml(DeValue::Table(_)) => f.write_str("a table"),
        }
    }
}

/// Where a value stands, and where its problems go.
pub(crate) struct Reader<'p> {
    pub(crate) source: usize,
    /// Where in the source that begins which spans are of.
    pub(crate) base: usize,
    pub(crate) problems: &'p mut Problems,
    /// The last promise with what keeps it: dear to compute, and most rules make the same.
    detected: Option<(u64, Option<Detection>)>,
}

impl<'p> Reader<'p> {
    pub(crate) fn new(source: usize, problems: &'p mut Problems) -> Self {
        Self { source, base: 0, problems, detected: None }
    }

    pub(crate) fn error(
        &mut self,
        code: Code,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.problems.report(code, self.source, self.place(&span), message, help.into());
    }

    /// An error that is dear to word: of a file that is wrong throughout, most are only counted.
    pub(crate) fn error_with(&mut self, code: Code, span: Range<usize>, words: impl FnOnce() -> (String, String)) {
        let is_kept = self.problems.keeps_error_at(self.source, self.place(&span).start);
        let (message, help) = if is_kept { words() } else { Default::default() };
        self.error(code, span, message, help);
    }

    /// The bytes of the source.
    pub(crate) fn place(&self, span: &Range<usize>) -> Range<usize> {
        self.base + span.start..self.base + span.end
    }

    /// Reads the value of a key; None once a problem was reported.
    pub(crate) fn choice(&mut self, entry: &Entry, span: Range<usize>, form: Form<'_>) -> Option<Choice> {
        let key = entry.key.name();
        if form.text() == Some("system") && entry.accepts != Accepts::Enforce {
            return Some(Choice::System);
        }
        let int = |number: i64| Choice::Value(Value::Int(number as u32 as i32));
        match entry.accepts {
            Accepts::ConnectTimeout => {
                // The first retransmission of the SYN is due after 1 s, and nothing is looked at before; after 127 s
                // the kernel gives up by itself (net.ipv4.tcp_syn_retries = 6).
                self.duration(key, span, form, 1_000, 1_000, 127_000, "").map(|ms| int(ms as i64))
            }
            Accepts::Keepalive => self.keepalive(span, form).map(Choice::Keepalive),
            Accepts::UserTimeout => match form.text() {
                Some("auto") => Some(Choice::AutoUserTimeout),
                Some("off") => Some(int(0)),
                _ => self
                    .duration(key, span, form, 1_000, 1, i32::MAX as u64, "\"auto\", \"off\" or ")
                    .map(|ms| int(ms as i64)),
            },
            Accepts::DeadPeerTimeout => {
                let (least, longest) = (LEAST_DEAD_PEER_TIMEOUT, LONGEST_DEAD_PEER_TIMEOUT);
                let promise = self.duration(key, span, form, 1, least, longest, "")?;
                let (_, detection) = match self.detected {
                    Some(known) if known.0 == promise => known,
                    _ => *self.detected.insert((promise, promise::within(promise))),
                };
                detection.map(Choice::Detect)
            }
            Accepts::Linger => match form.text() {
                Some("off") => Some(Choice::Value(Value::Linger { on: false, seconds: 0 })),
                Some("reset") => Some(Choice::Value(Value::Linger { on: true, seconds: 0 })),
                Some(gone @ "reset-when-drained") => {
                    self.error(Code::Removed,
                        span,
                        format!("linger = \"{gone}\" is replaced by time_wait = false"),
                        "write time_wait = false: it leaves no TIME_WAIT and sends everything first, also at exit and over fork",
                    );
                    None
                }
                Some(text) if text == "0" || units::microseconds(text) == Ok(0) => {
                    self.error(
                        Code::OutOfRange,
                        span,
                        "linger for no time means an abortive close (RST)",
                        "write \"reset\" if that is meant, or \"off\"",
                    );
                    None
                }
                _ => {
                    let or = "\"reset\", \"off\" or ";
                    let seconds = self.duration(key, span, form, 1_000_000, 1, i32::MAX as u64, or)?;
                    Some(Choice::Value(Value::Linger { on: true, seconds: seconds as i32 }))
                }
            },
            Accepts::Fastopen => match (form, form.boolean()) {
                (Form::Toml(_), Some(on)) => Some(Choice::FastopenConnect(on)),
                (Form::Variable(text), Some(on)) if text.trim().parse::<i64>().is_err() => {
                    Some(Choice::FastopenConnect(on))
                }
                _ => self
                    .integer(key, span, form, 1, 65_535, "true or false for outbound connections, or for listeners ")
                    .map(|queue| Choice::FastopenQueue(queue as i32)),
            },
            Accepts::Raw => self.raw(span, form),
            Accepts::Enforce => self.enforce(span, form).map(Choice::Enforce),
            // A negative time in FIN_WAIT2 is none, zero the system's (net/ipv4/tcp.c, do_tcp_setsockopt).
            Accepts::TimeWait => self.boolean(key, span, form).map(|on| int(if on { 0 } else { -1 })),
            Accepts::Boolean => self.boolean(key, span, form).map(|on| int(i64::from(on))),
            Accepts::Integer { min, max } => self.integer(key, span, form, min, max, "").map(int),
            Accepts::Seconds { min, max } => {
                self.duration(key, span, form, 1_000_000, min, max, "").map(|s| int(s as i64))
            }
            Accepts::Retransmissions => self.retransmissions(key, span, form).map(int),
            Accepts::Timeval => {
                let milliseconds = match form.text() {
                    Some("off") => 0,
                    _ => self.duration(key, span, form, 1_000, 1, i32::MAX as u64 * 1_000, "\"off\" or ")?,
                } as i64;
                Some(Choice::Value(Value::Timeval {
                    seconds: milliseconds / 1_000,
                    microseconds: milliseconds % 1_000 * 1_000,
                }))
            }
            Accepts::Size { min, max } => self.size(key, span, form, min, max, "").map(|bytes| int(bytes as i64)),
            Accepts::Rate => match form.text() {
                Some("unlimited") => Some(int(i64::from(u32::MAX))),
                _ => self
                    .size(key, span, form, 1, u64::from(u32::MAX) - 1, "\"unlimited\" or ")
                    .map(|rate| int(rate as i64)),
            },
            Accepts::Dscp => self.dscp(span, form).map(|code_point| int(i64::from(code_point) << 2)),
            Accepts::Name { longest } => self.name(key, span, form, longest),
        }
    }

    fn boolean(&mut self, key: &str, span: Range<usize>, form: Form<'_>) -> Option<bool> {
        let value = form.boolean();
        if value.is_none() {
            self.error(
                Code::WrongType,
                span,
                format!("{key} takes true or false, not {form}"),
                "accepted: true, false",
            );
        }
        value
    }

    fn enforce(&mut self, span: Range<usize>, form: Form<'_>) -> Option<Enforce> {
        match (form.boolean(), form.text()) {
            (Some(true), _) => Some(Enforce::Always),
            (Some(false), _) => Some(Enforce::Never),
            (None, Some("fill")) => Some(Enforce::Fill),
            _ => {
                self.error(
                    Code::WrongType,
                    span,
                    format!("enforce takes true, false or \"fill\", not {form}"),
                    "accepted: true, false, \"fill\"",
                );
                None
            }
        }
    }

    fn integer(
        &mut self,
        key: &str,
        span: Range<usize>,
        form: Form<'_>,
        min: i64,
        max: i64,
        also: &str,
    ) -> Option<i64> {
        let value = form.integer().filter(|number| (min..=max).contains(number));
        if value.is_none() {
            let (code, message) = match (form.integer(), form) {
                (Some(number), _) => (Code::OutOfRange, format!("{key} = {number} is out of range")),
                (None, Form::Toml(DeValue::Integer(digits))) => {
                    (Code::OutOfRange, format!("{key} = {digits} is out of range"))
                }
                _ => (Code::WrongType, format!("{key} takes a whole number, not {form}")),
            };
            self.error(code, span, message, format!("accepted: {also}{min} to {max}"));
        }
        value
    }

    /// A duration that is a whole number of `unit` microseconds, between `min` and `max` units.
    #[expect(clippy::too_many_arguments, reason = "each is a column of the catalogue or a place for the error")]
    fn duration(
        &mut self,
        key: &str,
        span: Range<usize>,
        form: Form<'_>,
        unit: u64,
        min: u64,
        max: u64,
        also: &str,
    ) -> Option<u64> {
        let accepted = || format!("accepted: {also}{} to {}", DisplayNumber(min * unit), DisplayNumber(max * unit));
        let Some(text) = form.text() else {
            let fits = |seconds: &i64| {
                let micros = u64::try_from(*seconds).ok().and_then(|seconds| seconds.checked_mul(1_000_000));
                micros.is_some_and(|micros| (min * unit..=max * unit).contains(&micros))
            };
            let example = form.integer().filter(fits).map(|n| format!(", for example \"{n}s\"")).unwrap_or_default();
            self.error(
                Code::MissingUnit,
                span,
                format!("{key} takes a duration with a unit, not {form}"),
                format!("{}{example}", accepted()),
            );
            return None;
        };
        let (code, message) = match units::microseconds(text) {
            Ok(micros) if !micros.is_multiple_of(unit) => {
                let unit = if unit == 1_000 { "milliseconds" } else { "seconds" };
                (Code::OutOfRange, format!("{key} = \"{text}\" is not a whole number of {unit}"))
            }
            Ok(micros) if (min..=max).contains(&(micros / unit)) => return Some(micros / unit),
            Ok(_) | Err(Malformed::TooLarge) => (Code::OutOfRange, format!("{key} = \"{text}\" is out of range")),
            Err(malformed) => (malformed.code(), malformed.told(key, text, "a duration")),
        };
        self.error(code, span, message, format!("{}; units: us, ms, s, m, h, d", accepted()));
        None
    }

    fn size(&mut self, key: &str, span: Range<usize>, form: Form<'_>, min: u64, max: u64, also: &str) -> Option<u64> {
        let accepted = || format!("accepted: {also}{} to {}", DisplayBytes(min), DisplayBytes(max));
        let Some(text) = form.text() else {
            let fits = |bytes: &i64| u64::try_from(*bytes).is_ok_and(|bytes| (min..=max).contains(&bytes));
            let example = form.integer().filter(fits).map(|n| format!(", for example \"{n}B\"")).unwrap_or_default();
            self.error(
                Code::MissingUnit,
                span,
                format!("{key} takes a size with a unit, not {form}"),
                format!("{}{example}", accepted()),
            );
            return None;
        };
        let (code, message) = match units::bytes(text) {
            Ok(bytes) if (min..=max).contains(&bytes) => return Some(bytes),
            Ok(_) | Err(Malformed::TooLarge) => (Code::OutOfRange, format!("{key} = \"{text}\" is out of range")),
            Err(malformed) => (malformed.code(), malformed.told(key, text, "a size")),
        };
        self.error(code, span, message, format!("{}; units: B, KiB, MiB, GiB, kB, MB, GB", accepted()));
        None
    }

    fn keepalive(&mut self, span: Range<usize>, form: Form<'_>) -> Option<Keepalive> {
        const FORMS: &str = "accepted: \"on\", \"off\", or { time = \"60s\", interval = \"20s\", probes = 4 }";
        let mut keepalive = Keepalive { on: true, time: None, interval: None, probes: None };
        match form {
            Form::Toml(DeValue::Table(table)) => return self.keepalive_table(table, keepalive),
            _ if form.text() == Some("on") => return Some(keepalive),
            _ if form.text() == Some("off") => return Some(Keepalive { on: false, ..keepalive }),
            Form::Variable(_) if form.boolean().is_some() => {
                return form.boolean().map(|on| Keepalive { on, ..keepalive });
            }
            Form::Variable(text) => {
                let parts: Vec<&str> = text.split(',').collect();
                let [time, interval, probes] = parts.as_slice() else {
                    self.error(
                        Code::WrongType,
                        span,
                        format!("keepalive takes time, interval and probes, not {form}"),
                        "accepted: on, off, or for example 60s,20s,4",
                    );
                    return None;
                };
                // The variable's columns: each part by its own place.
                let second = time.len() + 1;
                let third = second + interval.len() + 1;
                keepalive.time = self.keepalive_seconds("time", 0..time.len(), Form::Variable(time));
                keepalive.interval =
                    self.keepalive_seconds("interval", second..second + interval.len(), Form::Variable(interval));
                keepalive.probes = self.probes(third..third + probes.len(), Form::Variable(probes));
                return (keepalive.time.is_some() && keepalive.interval.is_some() && keepalive.probes.is_some())
                    .then_some(keepalive);
            }
            Form::Toml(_) => {}
        }
        self.error(Code::WrongType, span, format!("keepalive takes a table, \"on\" or \"off\", not {form}"), FORMS);
        None
    }

    fn keepalive_table(&mut self, table: &DeTable<'_>, mut keepalive: Keepalive) -> Option<Keepalive> {
        const PARTS: [&str; 3] = ["time", "interval", "probes"];
        let mut complete = true;
        for (name, value) in table {
            let (span, form) = (value.span(), Form::Toml(value.get_ref()));
            complete &= match name.get_ref().as_ref() {
                "time" => {
                    keepalive.time = self.keepalive_seconds("time", span, form);
                    keepalive.time.is_some()
                }
                "interval" => {
                    keepalive.interval = self.keepalive_seconds("interval", span, form);
                    keepalive.interval.is_some()
                }
                "probes" => {
                    keepalive.probes = self.probes(span, form);
                    keepalive.probes.is_some()
                }
                other => {
                    let help = || match other {
                        "idle" | "keepidle" => "did you mean \"time\"?".to_owned(),
                        "intvl" | "keepintvl" => "did you mean \"interval\"?".to_owned(),
                        "count" | "cnt" | "keepcnt" | "retries" => "did you mean \"probes\"?".to_owned(),
                        _ => did_you_mean(other, PARTS.into_iter(), "keepalive has time, interval and probes"),
                    };
                    self.error_with(Code::UnknownKey, name.span(), || {
                        (format!("unknown part of keepalive: \"{other}\""), help())
                    });
                    false
                }
            };
        }
        complete.then_some(keepalive)
    }

    fn keepalive_seconds(&mut self, part: &str, span: Range<usize>, form: Form<'_>) -> Option<u32> {
        self.duration(&format!("keepalive.{part}"), span, form, 1_000_000, 1, 32_767, "").map(|seconds| seconds as u32)
    }

    fn probes(&mut self, span: Range<usize>, form: Form<'_>) -> Option<u32> {
        self.integer("keepalive.probes", span, form, 1, 127, "").map(|probes| probes as u32)
    }

    /// tcp_defer_accept is kept as a number of retransmissions (net/ipv4/tcp.c, secs_to_retrans): the k-th
    /// comes 1, 3, 7, 15, 31, 63, 127 s and then every 120 s after the first SYN-ACK.
    fn retransmissions(&mut self, key: &str, span: Range<usize>, form: Form<'_>) -> Option<i64> {
        /// The kernel keeps at most 255.
        const LONGEST: u64 = 127 + (255 - 7) * 120;
        if form.text().is_none() {
            let help = "accepted: \"1s\", \"3s\", \"7s\", \"15s\", \"31s\", \"63s\", \"127s\", then every 120 s";
            self.error(Code::MissingUnit, span, format!("{key} takes a duration with a unit, not {form}"), help);
            return None;
        }
        let seconds = self.duration(key, span.clone(), form, 1_000_000, 1, LONGEST, "")?;
        let (mut below, mut period, mut step) = (1, 1, 1);
        while period < seconds {
            below = period;
            step = (step * 2).min(120);
            period += step;
        }
        if period == seconds {
            return Some(seconds as i64);
        }
        let (below, period) = (DisplayNumber(below * 1_000_000), DisplayNumber(period * 1_000_000));
        self.error(
            Code::OutOfRange,
            span,
            format!("{key} = {form} does not exist: the kernel counts retransmissions"),
            format!("nearest: \"{below}\" or \"{period}\""),
        );
        None
    }

    fn dscp(&mut self, span: Range<usize>, form: Form<'_>) -> Option<u8> {
        const ACCEPTED: &str = "accepted: 0 to 63, or a name such as \"ef\", \"af41\", \"cs6\"";
        if let Some(number) = form.integer() {
            let code_point = u8::try_from(number).ok().filter(|code_point| *code_point < 64);
            if code_point.is_none() {
                self.error(Code::OutOfRange, span, format!("dscp = {number} is out of range"), ACCEPTED);
            }
            return code_point;
        }
        let name = form.text().map(str::to_ascii_lowercase);
        let known = name.as_deref().and_then(|name| DSCP_NAMES.iter().find(|(known, _)| *known == name));
        if known.is_none() {
            self.error(Code::WrongType, span, format!("dscp takes a code point, not {form}"), ACCEPTED);
        }
        known.map(|(_, code_point)| *code_point)
    }

    fn name(&mut self, key: &str, span: Range<usize>, form: Form<'_>, longest: usize) -> Option<Choice> {
        let text = form.text().filter(|text| {
            (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
        });
        if text.is_none() {
            self.error(
                Code::WrongType,
                span,
                format!("{key} takes a name, not {form}"),
                format!("accepted: 1 to {longest} printable characters without space or slash"),
            );
        }
        text.map(|text| Choice::Value(Value::Text(text.into())))
    }

    fn raw(&mut self, span: Range<usize>, form: Form<'_>) -> Option<Choice> {
        const FORMS: &str =
            "accepted: [{ level = \"SOL_TCP\", name = \"TCP_USER_TIMEOUT\", value = 14000 }], numbers or kernel names";
        let Form::Toml(DeValue::Array(items)) = form else {
            self.error(Code::BadRaw, span, format!("raw takes a list, not {form}"), FORMS);
            return None;
        };
        if items.len() > MOST_RAW {
            let message = format!("raw has {} entries", items.len());
            self.error(
                Code::BadRaw,
                span,
                message,
                format!("accepted: at most {MOST_RAW}, for the kernel has few more options"),
            );
            return None;
        }
        let mut options = Vec::with_capacity(items.len());
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => options.extend(self.raw_option(item.span(), table)),
                other => self.error(
                    Code::BadRaw,
                    item.span(),
                    format!("an entry of raw is a table, not {}", Form::Toml(other)),
                    FORMS,
                ),
            }
        }
        (options.len() == items.len()).then_some(Choice::Raw(options))
    }

    fn raw_option(&mut self, span: Range<usize>, table: &DeTable<'_>) -> Option<RawOption> {
        const PARTS: [&str; 4] = ["level", "name", "value", "at"];
        for name in table.keys().filter(|name| !PARTS.contains(&name.get_ref().as_ref())) {
            let help = || did_you_mean(name.get_ref(), PARTS.into_iter(), "raw has level, name, value and at");
            self.error_with(Code::UnknownKey, name.span(), || {
                (format!("unknown part of raw: \"{}\"", name.get_ref()), help())
            });
        }
        let part = |name: &str| table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value);
        let [Some(level), Some(name), Some(value), at] = PARTS.map(part) else {
            self.error(
                Code::BadRaw,
                span,
                "an entry of raw has level, name and value",
                "for example { level = \"SOL_TCP\", name = \"TCP_USER_TIMEOUT\", value = 14000 }",
            );
            return None;
        };
        let level = self.constant("level", level, constants::level_number, |text| {
            did_you_mean(text, constants::level_names(), "give its number instead")
        });
        let name = self.constant(
            "name",
            name,
            // Without a level nothing can be said of the name.
            |text| level.map_or(Some(0), |level| constants::option_number(level, text)),
            |text| match constants::level_of(text) {
                // Its number would mean something else here.
                Some(home) => format!("{text} belongs to level \"{home}\""),
                None => {
                    did_you_mean(text, level.into_iter().flat_map(constants::option_names), "give its number instead")
                }
            },
        );
        let form = Form::Toml(value.get_ref());
        if let (Some(level), Some(name)) = (level, name)
            && let Some((message, help)) = wrong_shape(level, name, form)
        {
            self.error(Code::WrongType, value.span(), message, help);
            return None;
        }
        let value = match (form.boolean(), form.text()) {
            (Some(on), _) => Value::Int(i32::from(on)),
            (None, Some(text)) if text.len() <= 255 && !text.contains('\0') => Value::Text(text.into()),
            _ => {
                let range = (i64::from(i32::MIN), i64::from(u32::MAX));
                Value::Int(self.integer("value", value.span(), form, range.0, range.1, "a string, or ")? as u32 as i32)
            }
        };
        let (level, name) = (level?, name?);
        let phases = match at {
            Some(at) => self.raw_phase(at)?,
            None if constants::BEFORE_BIND.contains(&(level, name)) => Phases::of(&[Phase::Bind, Phase::Connect]),
            None => Phases::of(&[Phase::Connect, Phase::Listen, Phase::Accept]),
        };
        Some(RawOption { level, name, value, phases })
    }

    /// When an entry of raw is set, where it says so.
    fn raw_phase(&mut self, at: &Spanned<DeValue<'_>>) -> Option<Phases> {
        let form = Form::Toml(at.get_ref());
        Some(Phases::of(match form.text() {
            Some("bind") => &[Phase::Bind],
            Some("connect") => &[Phase::Connect],
            Some("listen") => &[Phase::Listen, Phase::Accept],
            Some("accept") => &[Phase::Accept, Phase::AcceptAlways],
            _ => {
                self.error(
                    Code::BadRaw,
                    at.span(),
                    format!("at = {form} is no call"),
                    "accepted: \"bind\", \"connect\", \"listen\", \"accept\"",
                );
                return None;
            }
        }))
    }

    fn constant(
        &mut self,
        part: &str,
        value: &Spanned<DeValue<'_>>,
        number: impl Fn(&str) -> Option<i32>,
        help: impl Fn(&str) -> String,
    ) -> Option<i32> {
        let form = Form::Toml(value.get_ref());
        let Some(text) = form.text() else {
            let number = self.integer(part, value.span(), form, 0, i64::from(i32::MAX), "a kernel name, or ");
            return number.map(|number| number as i32);
        };
        let found = number(text);
        if found.is_none() {
            self.error_with(Code::BadRaw, value.span(), || (format!("unknown {part} \"{text}\""), help(text)));
        }
        found
    }
}

impl Malformed {
    fn code(self) -> Code {
        if self == Self::NotANumber { Code::WrongType } else { Code::MissingUnit }
    }

    fn told(self, key: &str, text: &str, what: &str) -> String {
        match self {
            Self::NoUnit => format!("{key} = \"{text}\" has no unit"),
            Self::NotWhole => format!("{key} = \"{text}\" is not a whole number"),
            Self::UnknownUnit | Self::NotANumber | Self::TooLarge => format!("{key} = \"{text}\" is not {what}"),
        }
    }
}

/// What is wrong with a value of `raw` that the kernel would take for something else than it says, or refuse.
fn wrong_shape(level: i32, number: i32, form: Form<'_>) -> Option<(String, String)> {
    let shape = constants::shape(level, number)?;
    let name = constants::option_name(level, number)?;
    match (shape, form.text()) {
        (constants::Shape::Structure(key), _) => Some((
            format!("{name} takes a structure, which raw cannot write"),
            key.map_or_else(|| "leave it out".to_owned(), |key| format!("use the key \"{key}\"")),
        )),
        (constants::Shape::Number, Some(text)) => Some((
            format!("{name} takes a number, not \"{text}\""),
            match text.parse::<u32>() {
                Ok(number) => format!("without quotes: value = {number}"),
                Err(_) => "the kernel would take the bytes of the text for one".to_owned(),
            },
        )),
        (constants::Shape::Text, None) => {
            Some((format!("{name} takes a name, not {form}"), "accepted: a text in quotes".to_owned()))
        }
        _ => None,
    }
}

/// `did you mean "x"?`, or what to say where nothing comes near.
pub(crate) fn did_you_mean<'a>(given: &str, known: impl Iterator<Item = &'a str>, otherwise: &str) -> String {
    nearest(given, known).map_or_else(|| otherwise.to_owned(), |name| format!("did you mean \"{name}\"?"))
}

/// The keys that an option table can have.
pub(crate) fn option_keys() -> impl Iterator<Item = &'static str> {
    Key::ALL.iter().map(|key| key.name())
}
