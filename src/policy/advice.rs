//! What a configuration does that its author may not have meant: `sockopt check`, after the errors.
//!
//! What is judged is what a socket would get: `[defaults]`, a rule and the environment, one over the other. Each advice
//! stands at the option that brings it about, with the figure that it rests on.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use crate::catalog::Key;
use crate::code::Code;
use crate::compile::{Compiler, Effective, overlay};
use crate::conditions::Conditions;
use crate::constants::{self, SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP};
use crate::document::{Document, Given, RuleForm};
use crate::enforce::Enforce;
use crate::error::{Listed, Problems};
use crate::options::{Setting, Value};
use crate::parsed::Parsed;
use crate::rules::Profile;
use crate::shadow::{self, Reach};
use crate::timers::{End, State, Sysctls, Timers};
use crate::units::DisplayNumber;
use crate::values::Choice;
use crate::variables::Shortcuts;

/// A user timeout under this is short for a reader that may pause, milliseconds.
const SHORT_FOR_BULK: u64 = 60_000;
/// Options that are of use to whoever sends much.
const OF_BULK: [Key; 3] = [Key::SendBuffer, Key::NotsentLowat, Key::MaxPacingRate];

/// Pairs of addresses that are compared to find rules that take connections from others; what is beyond is not judged.
const MOST_COMPARISONS: usize = 2_000_000;

/// What is known of the machine. Default: an unknown one, with the kernel's defaults.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Its figures.
    pub sysctls: Sysctls,
    /// The kernel's version, major and minor.
    pub kernel: Option<(u32, u32)>,
    /// Its congestion control algorithms.
    pub congestion: Option<Congestion>,
}

/// Congestion control algorithms (tcp(7)).
#[derive(Debug, Clone, Default)]
pub struct Congestion {
    /// tcp_available_congestion_control.
    pub available: Vec<String>,
    /// tcp_allowed_congestion_control: those that need no capability.
    pub allowed: Vec<String>,
}

impl Parsed<'_> {
    /// What to say of a configuration that compiles without errors, in the order of the text.
    #[must_use]
    pub fn advise(&self, machine: &Machine) -> Listed {
        let Self { configuration, document, shortcuts, .. } = self;
        let text = self.text();
        let lines = document.lines(text).collect();
        let mut adviser = Adviser { document, shortcuts, machine, text, lines, problems: Problems::default() };
        adviser.advise();
        adviser.problems.into_sorted(configuration.texts()).1
    }
}

struct Adviser<'a> {
    document: &'a Document,
    shortcuts: &'a Shortcuts,
    machine: &'a Machine,
    /// The document's.
    text: &'a str,
    /// On which each rule begins.
    lines: Vec<usize>,
    problems: Problems,
}

impl Adviser<'_> {
    fn advise(&mut self) {
        // Whoever no rule matches is like a last rule for everything.
        let everything = RuleForm::empty(0, 0..0);
        let rules: Vec<RuleForm> = self.document.rules.iter().cloned().chain([everything]).collect();
        let mut verdicts = shadow::judge(&rules).into_iter();
        let mut reached = Vec::with_capacity(self.document.rules.len());
        for form in &self.document.rules {
            match verdicts.next() {
                Some(Reach::Shadowed(by)) => self.never_matches(form, &by),
                Some(Reach::Unknown) => self.not_compared(form),
                _ => {
                    self.judge_socket(Some(form));
                    reached.push(form);
                }
            }
        }
        self.judge_order(&reached);
        if !matches!(verdicts.next(), Some(Reach::Shadowed(_))) {
            self.judge_socket(None);
        }
    }

    /// Judges what the sockets of a rule get, or those of none: with and without the environment's options, if these are
    /// not for all of them.
    fn judge_socket(&mut self, form: Option<&RuleForm>) {
        let Shortcuts { layer, conditions } = self.shortcuts;
        let is_for_some = conditions.to().is_some();
        let outbound = form.is_none_or(|form| form.conditions.is_for_connecting());
        let environment: &[bool] = match layer.0.is_empty() || is_for_some && !outbound {
            true => &[false],
            false if !is_for_some && !conditions.ask_for_process() => &[true],
            false => &[false, true],
        };
        for &with in environment {
            let document = self.document;
            let mut unheard = Problems::default();
            let mut compiler = Compiler { document, shortcuts: self.shortcuts, problems: &mut unheard, next_id: 0 };
            let profile = compiler.profile(form, with);
            let effective = overlay(document, form, with.then_some(layer));
            self.judge_detection(&profile, &effective);
            self.judge_capabilities(&profile, &effective);
            self.judge_fill(&profile, &effective);
            self.judge_close(form, &profile, &effective);
        }
    }

    /// Points out rules that take connections from a later one, and give up its watch for dead peers with them. Whoever says
    /// "system", or sets nothing at all, means it.
    fn judge_order(&mut self, forms: &[&RuleForm]) {
        const WATCH: [Key; 2] = [Key::Keepalive, Key::UserTimeout];
        let Shortcuts { layer, conditions } = self.shortcuts;
        let for_all = (*conditions == Conditions::default()).then_some(layer);
        let mut left = MOST_COMPARISONS;
        let is_set = |given: &Given| !matches!(given.choice, Choice::System | Choice::Refused);
        let watches = |(_, form): &(usize, &RuleForm)| {
            let timers = || Timers::of(self.profile_of(form).settings());
            form.layer.0.iter().any(|given| WATCH.contains(&given.key) && is_set(given))
                && (timers().keepalive || timers().user_timeout > 0)
        };
        let watching: Vec<(usize, &RuleForm)> = forms.iter().copied().enumerate().filter(watches).collect();
        for (at, earlier) in forms.iter().enumerate() {
            let sets = |given: &Given| is_set(given) && given.key != Key::Enforce;
            if left == 0 {
                return;
            }
            let effective = overlay(self.document, Some(earlier), for_all);
            let watches = WATCH.iter().chain([&Key::Raw]).any(|key| effective.get(key).is_some());
            if watches || !earlier.layer.0.iter().any(sets) {
                continue;
            }
            let mut meets = |later: &&&RuleForm| shadow::may_meet(&earlier.conditions, &later.conditions, &mut left);
            let behind = watching.partition_point(|(place, _)| *place <= at);
            let later = watching.iter().skip(behind).map(|(_, later)| later).find(|later| meets(later));
            let Some(later) = later else { continue };
            let message = format!(
                "{} takes connections from {} (line {}), and sets neither keepalive nor user_timeout on them",
                title(earlier),
                title(later),
                self.line(later)
            );
            let help = "only the first rule that matches is used; write dead_peer_timeout in this rule too, or into [defaults]; \
                        dead_peer_timeout = \"system\" if none is meant";
            self.problems.report(Code::TakesFromOther, 0, self.first_line(earlier), message, help);
        }
    }

    /// What a rule sets by itself and the defaults.
    fn profile_of(&self, form: &RuleForm) -> Profile {
        let mut unheard = Problems::default();
        let (document, shortcuts) = (self.document, self.shortcuts);
        Compiler { document, shortcuts, problems: &mut unheard, next_id: 0 }.profile(Some(form), false)
    }

    /// Says something at the option of the highest layer among these.
    fn say(&mut self, code: Code, effective: &Effective<'_>, keys: &[Key], message: String, help: String) {
        let given = keys.iter().filter_map(|key| effective.get(key)).max_by_key(|(origin, _)| *origin);
        // raw sets everything.
        if let Some((_, given)) = given.or_else(|| effective.get(&Key::Raw)) {
            self.problems.report(code, given.source, given.span.clone(), message, help);
        }
    }

    fn judge_detection(&mut self, profile: &Profile, effective: &Effective<'_>) {
        const BOTH: &[Key] = &[Key::Keepalive, Key::UserTimeout];
        let sysctls = &self.machine.sysctls;
        let timers = Timers::of(profile.settings());
        // "system" leaves it to the program, of which nothing is known.
        let is_left = |key| effective.get(key).is_some_and(|(_, given): &(_, &Given)| given.choice == Choice::System);
        let has_user_timeout = timers.user_timeout > 0;
        let end = |state, timers: Timers| timers.end(state, sysctls);
        let (time, interval, probes) = timers.keepalive_values(sysctls);
        let seconds = |milliseconds: u64| DisplayNumber(milliseconds * 1_000);
        let user_timeout = seconds(timers.user_timeout);
        let all_probes = time + interval * probes;

        if timers.keepalive && !has_user_timeout && !is_left(&Key::UserTimeout) {
            let message = format!(
                "keepalive without user_timeout: data in flight to a vanished peer goes unnoticed {}",
                For(end(State::InFlight, timers))
            );
            let cure = match timers {
                Timers { time: Some(_), interval: Some(_), probes: Some(_), .. } => {
                    format!("user_timeout = \"auto\", which is {all_probes} s here")
                }
                _ => "user_timeout, or use dead_peer_timeout, which is both".to_owned(),
            };
            self.say(
                Code::DataUnguarded,
                effective,
                BOTH,
                message,
                format!("while data is in flight nothing is probed; add {cure}"),
            );
        }
        if has_user_timeout && !timers.keepalive && !is_left(&Key::Keepalive) {
            let message = "user_timeout without keepalive: a program that waits for an answer from a vanished peer waits for ever";
            self.say(
                Code::IdleUnguarded,
                effective,
                BOTH,
                message.to_owned(),
                format!("it counts only while data is in flight; add {}", fitting(timers.user_timeout)),
            );
        }
        if timers.keepalive && timers.time.is_none() {
            let message = format!(
                "keepalive without time: an idle peer that vanished goes unnoticed {}",
                For(end(State::Idle, timers))
            );
            let help = format!("the system's net.ipv4.tcp_keepalive_time is {time} s; add time");
            self.say(Code::SlowKeepalive, effective, &[Key::Keepalive], message, help);
        } else if timers.keepalive {
            let without = end(State::Idle, Timers { user_timeout: 0, ..timers });
            let after_one = end(State::Idle, Timers { user_timeout: 0, probes: Some(1), ..timers });
            let with = end(State::Idle, timers);
            // Each timer is late, so a timeout that is barely longer can be over at the same time.
            let at_the_first = after_one.latest().is_some_and(|latest| latest >= timers.user_timeout);
            let given_up = timers.user_timeout.saturating_sub(time * 1_000).div_ceil((interval * 1_000).max(1)).max(1);
            if probes == 1 && (!has_user_timeout || at_the_first) {
                let message = "one lost probe ends a living connection: probes = 1".to_owned();
                self.say(
                    Code::OneProbe,
                    effective,
                    &[Key::Keepalive],
                    message,
                    "write probes = 3: the connection then survives two lost probes".to_owned(),
                );
            } else if has_user_timeout && at_the_first {
                let sum = time + interval;
                let ends = if timers.user_timeout > sum * 1_000 { "may end" } else { "ends" };
                let message = format!(
                    "one lost probe {ends} a living connection: user_timeout is {user_timeout}, time + interval {sum} s"
                );
                let enough = match timers {
                    Timers { time: Some(_), interval: Some(_), probes: Some(_), .. } => {
                        format!("user_timeout = \"auto\", which is {all_probes} s here")
                    }
                    _ => format!("user_timeout = \"{all_probes}s\""),
                };
                let help = format!(
                    "write {enough}: the kernel checks user_timeout when the second probe is due, {after_one} after the last packet"
                );
                self.say(Code::OneProbe, effective, BOTH, message, help);
            } else if timers.user_timeout > all_probes * 1_000 {
                let message = format!(
                    "user_timeout is {user_timeout}, above time + interval x probes = {all_probes} s: an idle peer that vanished is noticed after {with} instead of {without}"
                );
                let help = format!(
                    "with user_timeout set, probes = {probes} is ignored: the connection ends after {given_up} unanswered probes; \"auto\" is {all_probes} s"
                );
                self.say(Code::UselessProbes, effective, BOTH, message, help);
            } else if has_user_timeout && given_up < probes {
                let message = format!(
                    "with user_timeout = \"{user_timeout}\" set, probes = {probes} is ignored: the connection to an idle peer ends after {given_up} unanswered, {with}"
                );
                let help = format!(
                    "write probes = {given_up}, or user_timeout = \"auto\" for time + interval x probes = {all_probes} s"
                );
                self.say(Code::UselessProbes, effective, BOTH, message, help);
            }
        }
        let bulk = OF_BULK.iter().find(|key| effective.get(key).is_some_and(|(_, given)| limits(&given.choice)));
        if let Some(bulk) = bulk.filter(|_| has_user_timeout && timers.user_timeout < SHORT_FOR_BULK) {
            let by = match effective.get(&Key::UserTimeout) {
                Some((_, given)) if given.written != Key::UserTimeout => format!(" (by {})", given.written.name()),
                _ => String::new(),
            };
            let message = format!(
                "user_timeout is {user_timeout}{by} on what looks like bulk transfer ({}): a living reader that keeps its window closed is cut off after {}",
                bulk.name(),
                end(State::ClosedWindowAlive, timers)
            );
            let help = "give slow readers a rule of their own with a longer user_timeout, as in config/presets/bulk-transfer.toml";
            self.say(Code::ShortForBulk, effective, &[Key::UserTimeout], message, help.to_owned());
        }
    }

    fn judge_close(&mut self, form: Option<&RuleForm>, profile: &Profile, effective: &Effective<'_>) {
        let accepts = form.is_some_and(|form| form.conditions.is_for_accepted());
        let resets = Timers::of(profile.settings()).resets;
        let without_time_wait = profile
            .settings()
            .iter()
            .any(|setting| setting.key == Key::TimeWait && matches!(setting.value, Value::Int(seconds) if seconds < 0));
        if without_time_wait && resets {
            let message = "time_wait = false has no effect beside linger = \"reset\", which leaves no TIME_WAIT either";
            let help = "leave linger out: time_wait = false sends everything first";
            self.say(Code::TimeWaitUnneeded, effective, &[Key::TimeWait], message.to_owned(), help.to_owned());
        } else if without_time_wait {
            let message = "time_wait = false: no TIME_WAIT is left to answer a peer whose last FIN is lost, or to catch late duplicates";
            let help = "timestamps and random sequence numbers make harm rare (RFC 1337, RFC 6191); `check --allow no-time-wait` leaves this out";
            self.say(Code::NoTimeWait, effective, &[Key::TimeWait], message.to_owned(), help.to_owned());
        }
        let lingers = profile.settings().iter().find_map(|setting| match setting.value {
            Value::Linger { on: true, seconds: seconds @ 1.. } => Some(seconds),
            _ => None,
        });
        if let Some(seconds) = lingers {
            let message = format!(
                "linger = \"{seconds}s\": close waits up to {seconds} s while data is not acknowledged, also on a non-blocking socket: an event loop (Node, nginx, Redis) stands still meanwhile"
            );
            let help = "without linger the kernel sends what is left after close, in the background";
            self.say(Code::BlockingClose, effective, &[Key::Linger], message, help.to_owned());
        }
        let has_late_ports = profile
            .settings()
            .iter()
            .any(|setting| setting.key == Key::LocalPortsLate && setting.value == Value::Int(1));
        if has_late_ports && form.is_none_or(|form| !form.conditions.ask_for_process()) {
            let message = "local_ports_late = true: a program that binds to port 0 and then asks for its port is told 0 until it listens or connects (active FTP, Python's socketserver)";
            let help = "put it into a rule whose process is a client that binds to an address of its own";
            self.say(Code::LatePort, effective, &[Key::LocalPortsLate], message.to_owned(), help.to_owned());
        }
        if accepts && resets {
            let message = "linger = \"reset\" on accepted connections: close and exit throw away what the client has not acknowledged";
            let help = "measured: 128504 of 161104 bytes of a reply arrived; time_wait = false leaves no TIME_WAIT either, and sends everything first";
            self.say(Code::ResetsReplies, effective, &[Key::Linger], message.to_owned(), help.to_owned());
        }
    }

    /// What is only filled in.
    fn judge_fill(&mut self, profile: &Profile, effective: &Effective<'_>) {
        if profile.enforce() != Enforce::Fill {
            return;
        }
        for setting in profile.settings() {
            match (setting.key, &setting.value) {
                (Key::UserTimeout, Value::Int(time @ 1..)) if setting.computed_from.is_none() => {
                    let message = format!(
                        "user_timeout is {} with enforce = \"fill\": it is also set if the program has its own keepalive, and one lost probe may then end a living connection",
                        DisplayNumber(u64::from(time.unsigned_abs()) * 1_000)
                    );
                    let help =
                        "\"auto\" and dead_peer_timeout are set only beside a keepalive that outlasts a lost probe";
                    self.say(Code::FillBesideOther, effective, &[Key::UserTimeout], message, help.to_owned());
                }
                (key @ (Key::ReceiveBuffer | Key::SendBuffer), _)
                    if self.machine.kernel.is_some_and(|kernel| kernel < (5, 14)) =>
                {
                    let message = format!("{} is never set by enforce = \"fill\" on this kernel", key.name());
                    let help =
                        "kernels tell whether the program has set the buffer only since Linux 5.14 (SO_BUF_LOCK)";
                    self.say(Code::FillUnknown, effective, &[key], message, help.to_owned());
                }
                _ => {}
            }
        }
    }

    fn judge_capabilities(&mut self, profile: &Profile, effective: &Effective<'_>) {
        for setting in profile.settings() {
            let Some(need) = self.need(setting) else { continue };
            let option = constants::option_name(setting.level, setting.name).unwrap_or_default();
            let what = match setting.key {
                Key::Raw => format!("{option} = {}", setting.value),
                key => format!("{} = {}", key.name(), setting.value),
            };
            let (code, message, help) = match need {
                Need::Capability(capability, reason) => (
                    Code::NeedsCapability,
                    format!("{what} needs {capability} in the program{reason}"),
                    "without it the kernel refuses the option, and the program runs without the option".to_owned(),
                ),
                Need::Algorithm(congestion) => (
                    Code::UnknownAlgorithm,
                    format!("{what} is not among the congestion controls of this machine"),
                    format!("net.ipv4.tcp_available_congestion_control: {}", congestion.available.join(" ")),
                ),
            };
            self.say(code, effective, &[setting.key], message, help);
        }
    }

    /// What the kernel asks for before it takes a setting, as measured on Linux 6.18 and read in its source.
    fn need(&self, setting: &Setting) -> Option<Need<'_>> {
        const ADMIN: Need<'static> = Need::Capability("CAP_NET_ADMIN", "");
        let since_5_17 = Need::Capability("CAP_NET_ADMIN", ", or CAP_NET_RAW since Linux 5.17");
        let on = !matches!(setting.value, Value::Int(0));
        Some(match (setting.level, constants::option_name(setting.level, setting.name)?, &setting.value) {
            (SOL_SOCKET, "SO_MARK", _) => since_5_17,
            (SOL_SOCKET, "SO_PRIORITY", Value::Int(priority)) if !(0..=6).contains(priority) => since_5_17,
            (SOL_SOCKET, "SO_RCVBUFFORCE" | "SO_SNDBUFFORCE" | "SO_BUSY_POLL_BUDGET", _) => ADMIN,
            (SOL_SOCKET, "SO_DEBUG" | "SO_PREFER_BUSY_POLL", _) if on => ADMIN,
            (SOL_IP, "IP_TRANSPARENT", _) | (SOL_IPV6, "IPV6_TRANSPARENT", _) if on => {
                Need::Capability("CAP_NET_ADMIN or CAP_NET_RAW", "")
            }
            (SOL_SOCKET, "SO_BINDTODEVICE", _) if self.machine.kernel.is_some_and(|kernel| kernel < (5, 7)) => {
                Need::Capability("CAP_NET_RAW", ": this kernel is older than 5.7")
            }
            (SOL_TCP, "TCP_CONGESTION", Value::Text(name)) => {
                let congestion = self.machine.congestion.as_ref()?;
                let has = |list: &[String]| list.iter().any(|known| **known == **name);
                match (has(&congestion.allowed), has(&congestion.available)) {
                    (true, _) => return None,
                    (false, true) => {
                        Need::Capability("CAP_NET_ADMIN", ": it is not in net.ipv4.tcp_allowed_congestion_control")
                    }
                    (false, false) => Need::Algorithm(congestion),
                }
            }
            _ => return None,
        })
    }

    fn never_matches(&mut self, form: &RuleForm, by: &BTreeSet<usize>) {
        const SHOWN: usize = 3;
        let rules = by.iter().filter_map(|index| self.document.rules.get(*index));
        let mut names: Vec<String> =
            rules.take(SHOWN).map(|rule| format!("{} (line {})", title(rule), self.line(rule))).collect();
        if let Some(more @ 1..) = by.len().checked_sub(SHOWN) {
            names.push(format!("{more} more"));
        }
        let last = names.pop().unwrap_or_default();
        let names = if names.is_empty() { last } else { format!("{} and {last}", names.join(", ")) };
        let (covers, them) = if by.len() == 1 { ("covers", "it") } else { ("cover", "them") };
        let message = format!("{} can never match: {names} {covers} everything it matches", title(form));
        let help = format!("the first rule that matches is used; move this one above {them}, or delete it");
        self.problems.report(Code::NeverMatches, 0, self.first_line(form), message, help);
    }

    fn not_compared(&mut self, form: &RuleForm) {
        let message = "from here on no rule was compared with the earlier ones: there are too many rules";
        self.problems.report(Code::NotCompared, 0, self.first_line(form), message, None);
    }

    fn line(&self, form: &RuleForm) -> usize {
        self.lines.get(form.number.saturating_sub(1)).copied().unwrap_or(0)
    }

    /// The header of a rule, rather than all of it.
    fn first_line(&self, form: &RuleForm) -> Range<usize> {
        let text = self.text.get(form.span.clone()).unwrap_or_default();
        let length = text.lines().next().map_or(0, |line| line.trim_end().len());
        form.span.start..form.span.start + length
    }
}

fn title(form: &RuleForm) -> String {
    match &form.name {
        Some(name) => format!("rule \"{name}\""),
        None => format!("rule {}", form.number),
    }
}

/// Why a setting may be refused.
enum Need<'a> {
    /// The program has to have it; a reason.
    Capability(&'static str, &'static str),
    /// The kernel has no such algorithm, only these.
    Algorithm(&'a Congestion),
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

/// Whether an option of bulk transfer is in force.
fn limits(choice: &Choice) -> bool {
    !matches!(choice, Choice::System | Choice::Refused | Choice::Value(Value::Int(-1)))
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
