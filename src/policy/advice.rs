//! What a configuration does that its author may not have meant: `sockopt check`, after the errors.
//!
//! What is judged is what a socket would get: `[defaults]`, a rule and the environment, one over the other. Each advice
//! stands at the option that brings it about, with the figure that it rests on.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::advice_text::{Advice, Cure};
use crate::catalog::Key;
use crate::compile::{Compiler, Effective, Origin, overlay};
use crate::conditions::Conditions;
use crate::constants::{self, SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP};
use crate::document::{Document, Given, RuleForm};
use crate::enforce::Enforce;
use crate::error::{Listed, Problems};
use crate::matcher::Pattern;
use crate::options::{Phase, Phases, Setting, Value};
use crate::parsed::Parsed;
use crate::rules::Profile;
use crate::shadow::{self, Reach};
use crate::timers::{State, Sysctls, Timers};
use crate::values::Choice;
use crate::variables::Shortcuts;

/// A user timeout under this is short for a reader that may pause, milliseconds.
const SHORT_FOR_BULK: u64 = 60_000;
/// Options that are of use to whoever sends much.
const OF_BULK: [Key; 3] = [Key::SendBuffer, Key::NotsentLowat, Key::MaxPacingRate];

/// Where the kernel has not seen the address yet.
const BEFORE_BIND: Phases = Phases::of(&[Phase::Bind, Phase::BindDatagram]);

/// Ports of protocols in which the server speaks first, and the client not before it: IANA's assignments, with RFC 959, 5321, 1939, 3977,
/// 9051, 6409, 5804, 6143, and MySQL's handshake. Not SSH (RFC 4253, 4.2): both ends begin at once, and OpenSSH's client does not wait.
const SERVER_SPEAKS_FIRST: [(u16, &str); 9] = [
    (21, "FTP"),
    (25, "SMTP"),
    (110, "POP3"),
    (119, "NNTP"),
    (143, "IMAP"),
    (587, "SMTP"),
    (3306, "MySQL"),
    (4190, "ManageSieve"),
    (5900, "VNC"),
];

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
            self.judge_raw(form, &profile, &effective);
            self.judge_handshake(form, &effective);
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
            let advice = Advice::TakesFromOther { rule: earlier.title(), later: later.title(), line: self.line(later) };
            self.problems.add(0, self.first_line(earlier), &advice);
        }
    }

    /// What a rule sets by itself and the defaults.
    fn profile_of(&self, form: &RuleForm) -> Profile {
        let mut unheard = Problems::default();
        let (document, shortcuts) = (self.document, self.shortcuts);
        Compiler { document, shortcuts, problems: &mut unheard, next_id: 0 }.profile(Some(form), false)
    }

    /// Gives advice at the option of the highest layer among these.
    fn say(&mut self, effective: &Effective<'_>, keys: &[Key], advice: &Advice<'_>) {
        let given = keys.iter().filter_map(|key| effective.get(key)).max_by_key(|(origin, _)| *origin);
        // raw sets everything.
        if let Some((_, given)) = given.or_else(|| effective.get(&Key::Raw)) {
            self.problems.add(given.source, given.span.clone(), advice);
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
        let user_timeout_ms = timers.user_timeout;
        let all_probes = time + interval * probes;
        let cure = || match timers {
            Timers { time: Some(_), interval: Some(_), probes: Some(_), .. } => Cure::Auto(all_probes),
            _ => Cure::Seconds(all_probes),
        };

        if timers.keepalive && !has_user_timeout && !is_left(&Key::UserTimeout) {
            let unnoticed = end(State::InFlight, timers);
            self.say(effective, BOTH, &Advice::DataUnguarded { unnoticed, cure: cure() });
        }
        if has_user_timeout && !timers.keepalive && !is_left(&Key::Keepalive) {
            self.say(effective, BOTH, &Advice::IdleUnguarded { user_timeout_ms });
        }
        if timers.keepalive && timers.time.is_none() {
            let unnoticed = end(State::Idle, timers);
            self.say(effective, &[Key::Keepalive], &Advice::SlowKeepalive { unnoticed, time });
        } else if timers.keepalive {
            let without = end(State::Idle, Timers { user_timeout: 0, ..timers });
            let after_one = end(State::Idle, Timers { user_timeout: 0, probes: Some(1), ..timers });
            let noticed = end(State::Idle, timers);
            // Each timer is late, so a timeout that is barely longer can be over at the same time.
            let at_the_first = after_one.latest().is_some_and(|latest| latest >= user_timeout_ms);
            let unanswered = user_timeout_ms.saturating_sub(time * 1_000).div_ceil((interval * 1_000).max(1)).max(1);
            if probes == 1 && (!has_user_timeout || at_the_first) {
                self.say(effective, &[Key::Keepalive], &Advice::SingleProbe);
            } else if has_user_timeout && at_the_first {
                let second_probe = time + interval;
                let advice = Advice::LostProbe { user_timeout_ms, second_probe, due: after_one, cure: cure() };
                self.say(effective, BOTH, &advice);
            } else if user_timeout_ms > all_probes * 1_000 {
                let advice =
                    Advice::LateUserTimeout { user_timeout_ms, all_probes, probes, unanswered, noticed, without };
                self.say(effective, BOTH, &advice);
            } else if has_user_timeout && unanswered < probes {
                let advice = Advice::UselessProbes { user_timeout_ms, all_probes, probes, unanswered, noticed };
                self.say(effective, BOTH, &advice);
            }
        }
        let origin = |key: &Key| effective.get(key).map(|(origin, _)| *origin);
        let promised_ms = effective.get(&Key::UserTimeout).and_then(|(_, given)| given.promised_ms);
        if let Some(promised_ms) = promised_ms.filter(|_| origin(&Key::UserTimeout) < origin(&Key::Keepalive)) {
            let noticed = end(State::Idle, timers);
            // What dead_peer_timeout says is at most a quarter more than its user timeout.
            let is_kept = |latest| latest <= promised_ms + promised_ms / 4;
            if timers.keepalive && !noticed.latest().is_some_and(is_kept) {
                self.say(effective, &[Key::Keepalive], &Advice::OtherKeepalive { noticed });
            }
        }
        let bulk = OF_BULK.iter().find(|key| effective.get(key).is_some_and(|(_, given)| limits(&given.choice)));
        if let Some(bulk) = bulk.filter(|_| has_user_timeout && user_timeout_ms < SHORT_FOR_BULK) {
            let by = effective.get(&Key::UserTimeout).map_or(Key::UserTimeout, |(_, given)| given.written);
            let cut_off = end(State::ClosedWindowAlive, timers);
            let advice = Advice::ShortForBulk { user_timeout_ms, by, bulk: *bulk, cut_off };
            self.say(effective, &[Key::UserTimeout], &advice);
        }
    }

    /// What a socket has to meet that a rule sets this key on.
    fn conditions<'c>(
        &'c self,
        form: Option<&'c RuleForm>,
        effective: &Effective<'_>,
        key: Key,
    ) -> impl Iterator<Item = &'c Conditions> {
        let is_of_environment = effective.get(&key).is_some_and(|(origin, _)| *origin == Origin::Environment);
        let of_environment = Some(&self.shortcuts.conditions).filter(|_| is_of_environment);
        form.map(|form| &form.conditions).into_iter().chain(of_environment)
    }

    fn judge_close(&mut self, form: Option<&RuleForm>, profile: &Profile, effective: &Effective<'_>) {
        let accepts = form.is_some_and(|form| form.conditions.is_for_accepted());
        let resets = Timers::of(profile.settings()).resets;
        let is_off = |setting: &Setting| matches!(setting.value, Value::Int(..0));
        let without_time_wait = profile.settings().iter().any(|setting| {
            setting.key == Key::TimeWait && is_off(setting) && replaced_by(profile, setting).is_none_or(is_off)
        });
        if without_time_wait {
            let advice = if resets { Advice::TimeWaitUnneeded } else { Advice::NoTimeWait };
            self.say(effective, &[Key::TimeWait], &advice);
        }
        let lingers = profile.settings().iter().find_map(|setting| match setting.value {
            Value::Linger { on: true, seconds: seconds @ 1.. } => Some(seconds),
            _ => None,
        });
        if let Some(seconds) = lingers {
            self.say(effective, &[Key::Linger], &Advice::BlockingClose { seconds });
        }
        let late = Key::LocalPortsLate.entry().kernel[0];
        let late_port = profile.settings().iter().find(|setting| {
            (setting.level, setting.name) == (late.level, late.name)
                && setting.phases.intersects(BEFORE_BIND)
                && replaced_by(profile, setting).unwrap_or(setting).value != Value::Int(0)
        });
        // That rule or variable is for certain programs, for sockets that connect, or for ports that servers choose themselves.
        let may_meet_any_program = |conditions: &Conditions| {
            let binds_any_port = |list: &[Pattern]| list.iter().any(|pattern| pattern.ports().contains(&0));
            !conditions.ask_for_process() && conditions.to().is_none() && conditions.listen().is_none_or(binds_any_port)
        };
        if let Some(setting) = late_port
            && self.conditions(form, effective, setting.key).all(may_meet_any_program)
        {
            self.say(effective, &[setting.key], &Advice::LatePort { setting });
        }
        if accepts && resets {
            self.say(effective, &[Key::Linger], &Advice::ResetsReplies);
        }
    }

    /// A SYN (`fastopen`) or the last packet of the handshake (`quickack = false`) waits for the client's first data, and the client
    /// for the server's.
    fn judge_handshake(&mut self, form: Option<&RuleForm>, effective: &Effective<'_>) {
        let is_for_connecting = form.is_none_or(|form| form.conditions.is_for_connecting());
        if !is_for_connecting {
            return;
        }
        for (key, choice) in
            [(Key::Fastopen, Choice::FastopenConnect(true)), (Key::Quickack, Choice::Value(Value::Int(0)))]
        {
            if effective.get(&key).is_none_or(|(_, given)| given.choice != choice) {
                continue;
            }
            let conditions: Vec<_> = self.conditions(form, effective, key).collect();
            let is_for = |port: u16| {
                let mut lists = conditions.iter().copied().filter_map(Conditions::to);
                lists.all(|list| list.iter().any(|pattern| pattern.ports().contains(&port)))
            };
            let ports: Vec<_> = SERVER_SPEAKS_FIRST.into_iter().filter(|(port, _)| is_for(*port)).collect();
            if ports.is_empty() {
                continue;
            }
            let is_for_all = ports.len() == SERVER_SPEAKS_FIRST.len();
            let ports = (!is_for_all).then_some(&*ports);
            let advice = match key {
                Key::Fastopen => Advice::ServerSpeaksFirst { ports },
                _ => Advice::LateHandshake { ports },
            };
            self.say(effective, &[key], &advice);
        }
    }

    /// What raw sets again, or too late.
    fn judge_raw(&mut self, form: Option<&RuleForm>, profile: &Profile, effective: &Effective<'_>) {
        // What comes from [defaults] is set in bind by those, where no rule for connections matches yet.
        let is_own = form.is_none() || effective.get(&Key::Raw).is_some_and(|(origin, _)| *origin == Origin::Rule);
        let of_bind = |raw: &&Setting| constants::ONLY_IN_BIND.contains(&(raw.level, raw.name));
        for raw in profile.settings().iter().filter(|setting| is_own && setting.key == Key::Raw).filter(of_bind) {
            if !raw.phases.intersects(BEFORE_BIND) {
                self.say(effective, &[Key::Raw], &Advice::AfterBind { raw });
            }
        }
        for setting in profile.settings().iter().filter(|setting| setting.key != Key::Raw) {
            if let Some(raw) = replaced_by(profile, setting) {
                let key = effective.get(&setting.key).map_or(setting.key, |(_, given)| given.written);
                self.say(effective, &[Key::Raw], &Advice::RawReplaces { key, raw });
            }
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
                    let advice = Advice::FillBesideOther { user_timeout_ms: u64::from(time.unsigned_abs()) };
                    self.say(effective, &[Key::UserTimeout], &advice);
                }
                (key @ (Key::ReceiveBuffer | Key::SendBuffer), _)
                    if self.machine.kernel.is_some_and(|kernel| kernel < (5, 14)) =>
                {
                    self.say(effective, &[key], &Advice::FillUnknown { key });
                }
                _ => {}
            }
        }
    }

    fn judge_capabilities(&mut self, profile: &Profile, effective: &Effective<'_>) {
        for setting in profile.settings() {
            let Some(need) = need(self.machine, setting) else { continue };
            let advice = match need {
                Need::Capability(capability, condition) => Advice::NeedsCapability { setting, capability, condition },
                Need::Algorithm(congestion) => Advice::UnknownAlgorithm { setting, available: &congestion.available },
            };
            self.say(effective, &[setting.key], &advice);
        }
    }

    fn never_matches(&mut self, form: &RuleForm, by: &BTreeSet<usize>) {
        const SHOWN: usize = 3;
        let rules = by.iter().filter_map(|index| self.document.rules.get(*index));
        let shown: Vec<_> = rules.take(SHOWN).map(|rule| (rule.title(), self.line(rule))).collect();
        let more = by.len().saturating_sub(SHOWN);
        let advice = Advice::NeverMatches { rule: form.title(), by: &shown, more };
        self.problems.add(0, self.first_line(form), &advice);
    }

    fn not_compared(&mut self, form: &RuleForm) {
        self.problems.add(0, self.first_line(form), &Advice::NotCompared);
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

/// The raw setting that gives the option another value, wherever the setting itself is made: it is the last.
fn replaced_by<'p>(profile: &'p Profile, setting: &Setting) -> Option<&'p Setting> {
    let is_same = |raw: &&Setting| {
        raw.key == Key::Raw
            && (raw.level, raw.name) == (setting.level, setting.name)
            && setting.phases.and(raw.phases) == setting.phases
    };
    profile.settings().iter().rfind(is_same).filter(|raw| raw.value != setting.value)
}

/// What the kernel asks for before it takes a setting, as measured on Linux 6.18 and read in its source.
fn need<'m>(machine: &'m Machine, setting: &Setting) -> Option<Need<'m>> {
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
        (SOL_SOCKET, "SO_BINDTODEVICE", _) if machine.kernel.is_some_and(|kernel| kernel < (5, 7)) => {
            Need::Capability("CAP_NET_RAW", ": this kernel is older than 5.7")
        }
        (SOL_TCP, "TCP_CONGESTION", Value::Text(name)) => {
            let congestion = machine.congestion.as_ref()?;
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

/// Why a setting may be refused.
enum Need<'a> {
    /// The program has to have it; a condition.
    Capability(&'static str, &'static str),
    /// The kernel has no such algorithm, only these.
    Algorithm(&'a Congestion),
}

/// Whether an option of bulk transfer is in force.
fn limits(choice: &Choice) -> bool {
    !matches!(choice, Choice::System | Choice::Refused | Choice::Value(Value::Int(-1)))
}
