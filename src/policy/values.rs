//! Reads one value of the configuration, from TOML or from an environment variable, by the catalogue's row.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::catalog::{Accepts, DSCP_NAMES, Entry, LEAST_DEAD_PEER_TIMEOUT, LONGEST_DEAD_PEER_TIMEOUT};
use crate::enforce::Enforce;
use crate::fault::{Accepted, Fault, Parts, Quantity};
use crate::form::Form;
use crate::options::Value;
use crate::promise::{self, Detection};
use crate::raw::{self, RawOption};
use crate::reader::Reader;
use crate::units::{self, Malformed};

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

impl Reader<'_> {
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
                self.duration(key, span, form, (1_000, 1_000, 127_000), "").map(|ms| int(ms as i64))
            }
            Accepts::Keepalive => self.keepalive(span, form).map(Choice::Keepalive),
            Accepts::UserTimeout => match form.text() {
                Some("auto") => Some(Choice::AutoUserTimeout),
                Some("off") => Some(int(0)),
                _ => self
                    .duration(key, span, form, (1_000, 1, i32::MAX as u64), "\"auto\", \"off\" or ")
                    .map(|ms| int(ms as i64)),
            },
            Accepts::DeadPeerTimeout => {
                let (least, longest) = (LEAST_DEAD_PEER_TIMEOUT, LONGEST_DEAD_PEER_TIMEOUT);
                let promise = self.duration(key, span, form, (1, least, longest), "")?;
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
                    self.fault(span, &Fault::ReplacedLinger(gone));
                    None
                }
                Some(text) if text == "0" || units::microseconds(text) == Ok(0) => {
                    self.fault(span, &Fault::NoLinger);
                    None
                }
                _ => {
                    let or = "\"reset\", \"off\" or ";
                    let seconds = self.duration(key, span, form, (1_000_000, 1, i32::MAX as u64), or)?;
                    Some(Choice::Value(Value::Linger { on: true, seconds: seconds as i32 }))
                }
            },
            Accepts::Fastopen => match (form, form.boolean()) {
                (Form::Toml(_), Some(on)) => Some(Choice::FastopenConnect(on)),
                (Form::Variable(text), Some(on)) if text.trim().parse::<i64>().is_err() => {
                    Some(Choice::FastopenConnect(on))
                }
                _ => self
                    .integer(
                        key,
                        span,
                        form,
                        (1, 65_535),
                        "true or false for outbound connections; for the queue of a listener ",
                    )
                    .map(|queue| Choice::FastopenQueue(queue as i32)),
            },
            Accepts::Raw => raw::read(self, span, form).map(Choice::Raw),
            Accepts::Enforce => self.enforce(span, form).map(Choice::Enforce),
            // A negative time in FIN_WAIT2 is none, zero the system's (net/ipv4/tcp.c, do_tcp_setsockopt).
            Accepts::TimeWait => self.boolean(key, span, form).map(|on| int(if on { 0 } else { -1 })),
            Accepts::Boolean => self.boolean(key, span, form).map(|on| int(i64::from(on))),
            Accepts::Integer { min, max } => self.integer(key, span, form, (min, max), "").map(int),
            Accepts::Seconds { min, max } => {
                self.duration(key, span, form, (1_000_000, min, max), "").map(|s| int(s as i64))
            }
            Accepts::Retransmissions => self.retransmissions(key, span, form).map(int),
            Accepts::Timeval => {
                let milliseconds = match form.text() {
                    Some("off") => 0,
                    _ => self.duration(key, span, form, (1_000, 1, i32::MAX as u64 * 1_000), "\"off\" or ")?,
                } as i64;
                Some(Choice::Value(Value::Timeval {
                    seconds: milliseconds / 1_000,
                    microseconds: milliseconds % 1_000 * 1_000,
                }))
            }
            Accepts::Size { min, max } => self.size(key, span, form, (min, max), "").map(|bytes| int(bytes as i64)),
            Accepts::Rate => match form.text() {
                Some("unlimited") => Some(int(i64::from(u32::MAX))),
                _ => self
                    .size(key, span, form, (1, u64::from(u32::MAX) - 1), "\"unlimited\" or ")
                    .map(|rate| int(rate as i64)),
            },
            Accepts::Dscp => self.dscp(span, form).map(|code_point| int(i64::from(code_point) << 2)),
            Accepts::Name { longest } => self.name(key, span, form, longest),
        }
    }

    fn boolean(&mut self, key: &str, span: Range<usize>, form: Form<'_>) -> Option<bool> {
        let value = form.boolean();
        if value.is_none() {
            let accepted = Accepted::As("true, false");
            self.fault(span, &Fault::WrongType { key, takes: "true or false", form, accepted });
        }
        value
    }

    fn enforce(&mut self, span: Range<usize>, form: Form<'_>) -> Option<Enforce> {
        match (form.boolean(), form.text()) {
            (Some(true), _) => Some(Enforce::Always),
            (Some(false), _) => Some(Enforce::Never),
            (None, Some("fill")) => Some(Enforce::Fill),
            _ => {
                let accepted = Accepted::As("true, false, \"fill\"");
                let takes = "true, false or \"fill\"";
                self.fault(span, &Fault::WrongType { key: "enforce", takes, form, accepted });
                None
            }
        }
    }

    /// A duration that is a whole number of `unit` microseconds, between `min` and `max` units.
    fn duration(
        &mut self,
        key: &str,
        span: Range<usize>,
        form: Form<'_>,
        (unit, min, max): (u64, u64, u64),
        also: &'static str,
    ) -> Option<u64> {
        let accepted = Accepted::Durations { also, min: min * unit, max: max * unit };
        let of = Quantity::Duration;
        let Some(text) = form.text() else {
            let fits = |seconds: &i64| {
                let micros = u64::try_from(*seconds).ok().and_then(|seconds| seconds.checked_mul(1_000_000));
                micros.is_some_and(|micros| (min * unit..=max * unit).contains(&micros))
            };
            let example = form.integer().filter(fits);
            self.fault(span, &Fault::BareNumber { key, of, form, accepted, example });
            return None;
        };
        let why = match units::microseconds(text) {
            Ok(micros) if !micros.is_multiple_of(unit) => {
                let unit = if unit == 1_000 { "milliseconds" } else { "seconds" };
                self.fault(span, &Fault::NotWhole { key, text, unit, accepted });
                return None;
            }
            Ok(micros) if (min..=max).contains(&(micros / unit)) => return Some(micros / unit),
            Ok(_) => Malformed::TooLarge,
            Err(malformed) => malformed,
        };
        self.fault(span, &Fault::NoQuantity { key, of, text, why, accepted });
        None
    }

    fn size(
        &mut self,
        key: &str,
        span: Range<usize>,
        form: Form<'_>,
        (min, max): (u64, u64),
        also: &'static str,
    ) -> Option<u64> {
        let (of, accepted) = (Quantity::Size, Accepted::Sizes { also, min, max });
        let Some(text) = form.text() else {
            let fits = |bytes: &i64| u64::try_from(*bytes).is_ok_and(|bytes| (min..=max).contains(&bytes));
            let example = form.integer().filter(fits);
            self.fault(span, &Fault::BareNumber { key, of, form, accepted, example });
            return None;
        };
        let why = match units::bytes(text) {
            Ok(bytes) if (min..=max).contains(&bytes) => return Some(bytes),
            Ok(_) => Malformed::TooLarge,
            Err(malformed) => malformed,
        };
        self.fault(span, &Fault::NoQuantity { key, of, text, why, accepted });
        None
    }

    fn keepalive(&mut self, span: Range<usize>, form: Form<'_>) -> Option<Keepalive> {
        const FORMS: Accepted = Accepted::As("\"on\", \"off\", or { time = \"60s\", interval = \"20s\", probes = 4 }");
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
                    let (key, takes) = ("keepalive", "time, interval and probes");
                    let accepted = Accepted::As("on, off, or for example 60s,20s,4");
                    self.fault(span, &Fault::WrongType { key, takes, form, accepted });
                    return None;
                };
                // The variable's columns: each part by its own place.
                let second = time.len() + 1;
                let third = second + interval.len() + 1;
                keepalive.time = self.keepalive_seconds("keepalive.time", 0..time.len(), Form::Variable(time));
                keepalive.interval = self.keepalive_seconds(
                    "keepalive.interval",
                    second..second + interval.len(),
                    Form::Variable(interval),
                );
                keepalive.probes = self.probes(third..third + probes.len(), Form::Variable(probes));
                return (keepalive.time.is_some() && keepalive.interval.is_some() && keepalive.probes.is_some())
                    .then_some(keepalive);
            }
            Form::Toml(_) => {}
        }
        let (key, takes) = ("keepalive", "a table, \"on\" or \"off\"");
        self.fault(span, &Fault::WrongType { key, takes, form, accepted: FORMS });
        None
    }

    fn keepalive_table(&mut self, table: &DeTable<'_>, mut keepalive: Keepalive) -> Option<Keepalive> {
        let mut complete = true;
        for (name, value) in table {
            let (span, form) = (value.span(), Form::Toml(value.get_ref()));
            complete &= match name.get_ref().as_ref() {
                "time" => {
                    keepalive.time = self.keepalive_seconds("keepalive.time", span, form);
                    keepalive.time.is_some()
                }
                "interval" => {
                    keepalive.interval = self.keepalive_seconds("keepalive.interval", span, form);
                    keepalive.interval.is_some()
                }
                "probes" => {
                    keepalive.probes = self.probes(span, form);
                    keepalive.probes.is_some()
                }
                other => {
                    self.fault(name.span(), &Fault::UnknownPart { of: Parts::Keepalive, name: other });
                    false
                }
            };
        }
        complete.then_some(keepalive)
    }

    fn keepalive_seconds(&mut self, part: &str, span: Range<usize>, form: Form<'_>) -> Option<u32> {
        self.duration(part, span, form, (1_000_000, 1, 32_767), "").map(|seconds| seconds as u32)
    }

    fn probes(&mut self, span: Range<usize>, form: Form<'_>) -> Option<u32> {
        self.integer("keepalive.probes", span, form, (1, 127), "").map(|probes| probes as u32)
    }

    /// tcp_defer_accept is kept as a number of retransmissions (net/ipv4/tcp.c, secs_to_retrans): the k-th
    /// comes 1, 3, 7, 15, 31, 63, 127 s and then every 120 s after the first SYN-ACK.
    fn retransmissions(&mut self, key: &str, span: Range<usize>, form: Form<'_>) -> Option<i64> {
        /// The kernel keeps at most 255.
        const LONGEST: u64 = 127 + (255 - 7) * 120;
        if form.text().is_none() {
            const TIMES: Accepted = Accepted::As(
                "\"1s\", \"3s\", \"7s\", \"15s\", \"31s\", \"63s\", \"127s\", \"247s\" and so on in steps of 120 s",
            );
            let (of, accepted, example) = (Quantity::Duration, TIMES, None);
            self.fault(span, &Fault::BareNumber { key, of, form, accepted, example });
            return None;
        }
        let seconds = self.duration(key, span.clone(), form, (1_000_000, 1, LONGEST), "")?;
        let (mut below, mut period, mut step) = (1, 1, 1);
        while period < seconds {
            below = period;
            step = (step * 2).min(120);
            period += step;
        }
        if period == seconds {
            return Some(seconds as i64);
        }
        let nearest = [below * 1_000_000, period * 1_000_000];
        self.fault(span, &Fault::NoRetransmission { key, form, nearest });
        None
    }

    fn dscp(&mut self, span: Range<usize>, form: Form<'_>) -> Option<u8> {
        const ACCEPTED: Accepted = Accepted::As("0 to 63, or a name such as \"ef\", \"af41\", \"cs6\"");
        if let Some(number) = form.integer() {
            let code_point = u8::try_from(number).ok().filter(|code_point| *code_point < 64);
            if code_point.is_none() {
                self.fault(span, &Fault::OutOfRange { key: "dscp", value: &number, accepted: ACCEPTED });
            }
            return code_point;
        }
        let name = form.text().map(str::to_ascii_lowercase);
        let known = name.as_deref().and_then(|name| DSCP_NAMES.iter().find(|(known, _)| known == name));
        if known.is_none() {
            let takes = "a code point";
            self.fault(span, &Fault::WrongType { key: "dscp", takes, form, accepted: ACCEPTED });
        }
        known.map(|(_, code_point)| *code_point)
    }

    fn name(&mut self, key: &str, span: Range<usize>, form: Form<'_>, longest: usize) -> Option<Choice> {
        let text = form.text().filter(|text| {
            (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
        });
        if text.is_none() {
            let accepted = Accepted::Name(longest);
            self.fault(span, &Fault::WrongType { key, takes: "a name", form, accepted });
        }
        text.map(|text| Choice::Value(Value::Text(text.into())))
    }
}
