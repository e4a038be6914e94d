//! Every error and warning that reading a configuration may end in, with what it says, its code and its cure: the one place that
//! words them. What is wrong with an address is [`Refused`]'s to say, as commands read addresses too; advice is in
//! `advice_text.rs`, which the library does not need.

use std::fmt;

use crate::catalog::{CATALOG, Key};
use crate::code::Code;
use crate::conditions::{Direction, OF_RULES};
use crate::constants;
use crate::error::{Title, Words, nearest};
use crate::form::Form;
use crate::ports::Refused;
use crate::units::{DisplayBytes, DisplayNumber, Malformed};

/// What is wrong with a configuration.
pub(crate) enum Fault<'a> {
    // The text.
    /// It is not TOML, in the parser's words; what was meant, if that is known.
    Syntax { message: &'a str, meant: Option<Meant<'a>> },
    /// A key that stands twice, if it can be told which.
    DuplicateKey(Option<&'a str>),
    /// A table of more tokens than this.
    TooManyTokens(usize),

    // Tables and keys.
    /// An unknown key at the top.
    UnknownTable(&'a str),
    /// `defaults` or `rule` is no table.
    NoTable { name: &'a str, form: Form<'a> },
    /// `[rule]`.
    SingleRule,
    /// An entry of `rule`.
    NoRule(Form<'a>),
    /// An unknown key in a table of options.
    UnknownKey(&'a str),
    /// An unknown key in a table that is a value.
    UnknownPart { of: Parts, name: &'a str },
    /// A rule's name that is no text.
    NoName(Form<'a>),
    /// A condition or a name in `[defaults]`.
    MisplacedCondition(&'a str),
    /// `to` beside `listen` or `from`.
    BothDirections,
    /// A `protocol` that is none.
    NoProtocol(Form<'a>),
    /// `protocol` without `listen`.
    ProtocolAlone,
    /// `protocol = "udp"` beside `from`.
    NoUdpClients,
    /// A key, or a variable, that says the same as another; why.
    Conflict { one: &'a str, with: &'a str, why: &'static str },

    // Conditions.
    /// An entry of a list of texts.
    NoText { key: &'a str, form: Form<'a> },
    /// A condition without an entry.
    EmptyList(&'a str),
    /// An empty entry.
    EmptyGlob(&'a str),
    /// An entry of `process` with a slash.
    Path(&'a str),
    /// An entry of so many bytes.
    LongGlob { key: &'a str, bytes: usize, longest: usize },
    /// A host's name where only addresses are taken.
    HostName { key: &'a str, text: &'a str },
    /// What is no address.
    Address(Refused),

    // Values.
    /// Another type than the key takes.
    WrongType { key: &'a str, takes: &'static str, form: Form<'a>, accepted: Accepted },
    /// Out of range.
    OutOfRange { key: &'a str, value: &'a dyn fmt::Display, accepted: Accepted },
    /// A quantity without quotes, so without a unit.
    BareNumber { key: &'a str, of: Quantity, form: Form<'a>, accepted: Accepted, example: Option<i64> },
    /// A text that is no quantity.
    NoQuantity { key: &'a str, of: Quantity, text: &'a str, why: Malformed, accepted: Accepted },
    /// A time that the kernel cannot keep exactly.
    NotWhole { key: &'a str, text: &'a str, unit: &'static str, accepted: Accepted },
    /// A time that is no sum of the retransmissions' times, with the nearest, microseconds.
    NoRetransmission { key: &'a str, form: Form<'a>, nearest: [u64; 2] },
    /// `linger = "reset-when-drained"`.
    ReplacedLinger(&'a str),
    /// `linger` for no time.
    NoLinger,

    // raw.
    /// It has so many entries.
    ManyRaw { entries: usize, most: usize },
    /// An entry of it.
    NoRawEntry(Form<'a>),
    /// An entry without one of its parts.
    IncompleteRaw,
    /// A level that does not exist, or an option that does not within its level.
    UnknownConstant { part: &'a str, text: &'a str, level: Option<i32> },
    /// `at`.
    NoCall(Form<'a>),
    /// An option whose value is a structure, and the key that sets it.
    Structure { option: &'static str, key: Option<&'static str> },
    /// An option whose value is a number.
    TextForNumber { option: &'static str, text: &'a str },
    /// An option whose value is a text.
    NumberForText { option: &'static str, form: Form<'a> },

    // What depends on several keys.
    /// An option that the rule's sockets can never have.
    NeverSet { option: Never, direction: Direction, in_to: bool },
    /// `user_timeout = "auto"` for a rule, if that is not where it stands; the sum in seconds that is too large, or there is none; the
    /// variable that is in the place of the file's keepalive.
    NoAuto { rule: Option<Title<'a>>, sum: Option<u64>, variable: Option<&'a str> },

    // Variables.
    /// `SOCKOPT_LOG`.
    UnknownLevel { value: &'a str, known: &'a [&'static str] },
    /// A switch.
    NoSwitch { variable: &'a str, value: &'a str },
    /// A variable that nothing reads; the nearest that something does.
    UnknownVariable { name: &'a str, near: &'a dyn Fn() -> Option<String> },
    /// A variable that has no effect without an option beside it.
    VariableAlone(&'a str),
}

/// What was meant by a value without quotes.
pub(crate) enum Meant<'a> {
    /// `True`, `yes`.
    Boolean(bool),
    /// `on`, `off`: a text, or for some keys a boolean.
    Switch(&'a str),
    /// A text.
    Text(&'a str),
}

/// A value that is a table.
#[derive(Clone, Copy)]
pub(crate) enum Parts {
    /// `keepalive`.
    Keepalive,
    /// An entry of `raw`.
    Raw,
}

impl Parts {
    /// The keys of the table.
    pub(crate) const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Keepalive => &["time", "interval", "probes"],
            Self::Raw => &["level", "name", "value", "at"],
        }
    }
}

/// What has a unit.
#[derive(Clone, Copy)]
pub(crate) enum Quantity {
    /// A time.
    Duration,
    /// A number of bytes.
    Size,
}

/// What a key takes; `also` stands before a range, such as `"off" or `.
#[derive(Clone, Copy)]
pub(crate) enum Accepted {
    /// As it stands here.
    As(&'static str),
    /// Whole numbers.
    Numbers { also: &'static str, min: i64, max: i64 },
    /// Microseconds.
    Durations { also: &'static str, min: u64, max: u64 },
    /// Bytes.
    Sizes { also: &'static str, min: u64, max: u64 },
    /// A text of at most so many characters.
    Name(usize),
}

/// An option that is never set.
pub(crate) enum Never {
    /// By its key.
    Key(Key),
    /// `fastopen = true`, which is for sockets that connect.
    FastopenConnect(bool),
    /// The length of a queue under the same key, which is for those that listen.
    FastopenQueue(i32),
    /// An entry of `raw`, by level and name.
    Raw(i32, i32),
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::As(text) => write!(f, "accepted: {text}"),
            Self::Numbers { also, min, max } => write!(f, "accepted: {also}{min} to {max}"),
            Self::Durations { also, min, max } => {
                write!(f, "accepted: {also}{} to {}", DisplayNumber(min), DisplayNumber(max))
            }
            Self::Sizes { also, min, max } => {
                write!(f, "accepted: {also}{} to {}", DisplayBytes(min), DisplayBytes(max))
            }
            Self::Name(longest) => {
                write!(f, "accepted: 1 to {longest} printable characters without space or slash")
            }
        }
    }
}

impl Accepted {
    /// The same with the units that there are, if there are any.
    fn with_units(self) -> String {
        match self {
            Self::Durations { .. } => format!("{self}; units: us, ms, s, m, h, d"),
            Self::Sizes { .. } => format!("{self}; units: B, KiB, MiB, GiB, kB, MB, GB"),
            _ => self.to_string(),
        }
    }
}

impl Quantity {
    fn name(self) -> &'static str {
        match self {
            Self::Duration => "duration",
            Self::Size => "size",
        }
    }
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The parser takes every value without quotes for a text.
            Self::Syntax { meant: Some(Meant::Boolean(_)), .. } => f.write_str("not a TOML value"),
            Self::Syntax { meant: Some(_), .. } => f.write_str("not a TOML value: strings need quotes"),
            Self::Syntax { message: "string values must be quoted, expected literal string", .. } => {
                f.write_str("the value is missing, or is not TOML: strings need quotes")
            }
            Self::Syntax { message, .. } => f.write_str(message),
            Self::DuplicateKey(None) => f.write_str("duplicate key"),
            Self::DuplicateKey(Some(key)) => write!(f, "duplicate key \"{key}\""),
            Self::TooManyTokens(most) => write!(f, "more than {most} tokens in one table"),

            Self::UnknownTable(name) | Self::UnknownKey(name) => write!(f, "unknown key \"{name}\""),
            Self::NoTable { name, form } => write!(f, "{name} must be a table, not {form}"),
            Self::SingleRule => f.write_str("[rule] is a single table; rules are a list of tables"),
            Self::NoRule(form) => write!(f, "a rule must be a table, not {form}"),
            Self::NoName(form) => write!(f, "name takes a string, not {form}"),
            Self::UnknownPart { of: Parts::Keepalive, name } => write!(f, "unknown key \"{name}\" in keepalive"),
            Self::UnknownPart { of: Parts::Raw, name } => write!(f, "unknown key \"{name}\" in raw"),
            Self::MisplacedCondition(key) => {
                write!(f, "\"{key}\" is not allowed in [defaults], which applies to every TCP socket")
            }
            Self::BothDirections => f.write_str(
                "a rule cannot have both \"to\" (for sockets that connect) and \"listen\" or \"from\" (for sockets that accept)",
            ),
            Self::NoProtocol(form) => write!(f, "protocol is \"tcp\" or \"udp\", not {form}"),
            Self::ProtocolAlone => f.write_str("\"protocol\" needs \"listen\": it says whether these are TCP or UDP ports"),
            Self::NoUdpClients => {
                f.write_str("a UDP socket accepts no connections, so a rule with \"from\" never matches one")
            }
            Self::Conflict { one, with, why } => write!(f, "{one} conflicts with {with}, {why}"),

            Self::NoText { key, form } => write!(f, "{key} takes a list of strings, not {form}"),
            Self::EmptyList(key) | Self::EmptyGlob(key) => write!(f, "an empty \"{key}\" matches nothing"),
            Self::Path(text) => write!(f, "process takes a base name, not a path (\"{text}\")"),
            Self::LongGlob { key, bytes, .. } => write!(f, "an entry of {key} is too long ({bytes} bytes)"),
            Self::HostName { key, text } => write!(f, "{key} takes addresses, not a host name (\"{text}\")"),
            Self::Address(refused) => f.write_str(&refused.message),

            Self::WrongType { key, takes, form, .. } => write!(f, "{key} takes {takes}, not {form}"),
            Self::OutOfRange { key, value, .. } => write!(f, "{key} = {value} is out of range"),
            Self::BareNumber { key, of, form, .. } => {
                write!(f, "{key} takes a {} with a unit, not {form}", of.name())
            }
            Self::NoQuantity { key, text, why: Malformed::NoUnit, .. } => write!(f, "{key} = \"{text}\" has no unit"),
            Self::NoQuantity { key, text, why: Malformed::NotWhole, .. } => {
                write!(f, "{key} = \"{text}\" is not a whole number")
            }
            Self::NoQuantity { key, text, why: Malformed::TooLarge, .. } => {
                write!(f, "{key} = \"{text}\" is out of range")
            }
            Self::NoQuantity { key, text, of, .. } => write!(f, "{key} = \"{text}\" is not a {}", of.name()),
            Self::NotWhole { key, text, unit, .. } => write!(f, "{key} = \"{text}\" is not a whole number of {unit}"),
            Self::NoRetransmission { key, form, .. } => {
                write!(f, "{key} = {form} is not possible: the kernel counts this time in SYN-ACK retransmissions")
            }
            Self::ReplacedLinger(gone) => write!(f, "linger = \"{gone}\" was replaced by time_wait = false"),
            Self::NoLinger => f.write_str("linger with a time of 0 means an abortive close (RST)"),

            Self::ManyRaw { entries, .. } => write!(f, "raw has {entries} entries"),
            Self::NoRawEntry(form) => write!(f, "an entry of raw must be a table, not {form}"),
            Self::IncompleteRaw => f.write_str("an entry of raw needs level, name and value"),
            Self::UnknownConstant { part, text, .. } => write!(f, "unknown {part} \"{text}\""),
            Self::NoCall(form) => write!(f, "at = {form} is not possible"),
            Self::Structure { option, .. } => write!(f, "{option} takes a structure, which raw cannot express"),
            Self::TextForNumber { option, text } => write!(f, "{option} takes a number, not \"{text}\""),
            Self::NumberForText { option, form } => write!(f, "{option} takes a name, not {form}"),

            Self::NeverSet { option, direction, .. } => {
                match *option {
                    Never::Key(key) => f.write_str(key.name())?,
                    Never::FastopenConnect(on) => write!(f, "fastopen = {on}")?,
                    Never::FastopenQueue(length) => write!(f, "fastopen = {length}")?,
                    Never::Raw(level, name) => match constants::option_name(level, name) {
                        Some(name) => write!(f, "raw: {name}")?,
                        None => write!(f, "raw: level {level} option {name}")?,
                    },
                }
                let with = match direction {
                    Direction::Outbound | Direction::Both => "\"to\"",
                    Direction::Listeners => "\"listen\"",
                    Direction::UdpServers => "protocol = \"udp\"",
                    Direction::Accepted => "\"from\"",
                };
                write!(f, " cannot be set by a rule with {with}")
            }
            Self::NoAuto { rule, variable, .. } => {
                f.write_str("user_timeout = \"auto\" cannot be computed")?;
                rule.map_or(Ok(()), |rule| write!(f, " for {rule}"))?;
                variable.map_or(Ok(()), |name| write!(f, " with the keepalive of {name}"))
            }

            Self::UnknownLevel { value, .. } => write!(f, "unknown log level \"{value}\""),
            Self::NoSwitch { variable, value } => write!(f, "{variable} is an on/off switch, not \"{value}\""),
            Self::UnknownVariable { name, .. } => write!(f, "unknown variable {name}"),
            Self::VariableAlone(name) => write!(f, "{name} alone has no effect"),
        }
    }
}

impl Words for Fault<'_> {
    fn code(&self) -> Code {
        match self {
            Self::Syntax { .. } | Self::TooManyTokens(_) => Code::Syntax,
            Self::DuplicateKey(_) => Code::DuplicateKey,
            Self::UnknownTable(_) | Self::UnknownKey(_) | Self::UnknownPart { .. } => Code::UnknownKey,
            Self::MisplacedCondition(_) => Code::MisplacedCondition,
            Self::BothDirections => Code::BothDirections,
            Self::ProtocolAlone | Self::NoUdpClients => Code::MisplacedCondition,
            Self::Conflict { .. } => Code::ConflictingKeys,
            Self::EmptyList(_) | Self::EmptyGlob(_) => Code::EmptyCondition,
            Self::Path(_) | Self::LongGlob { .. } => Code::BadPattern,
            Self::HostName { .. } | Self::Address(_) => Code::BadAddress,
            Self::WrongType { key: "raw", .. } => Code::BadRaw,
            Self::NoTable { .. }
            | Self::SingleRule
            | Self::NoRule(_)
            | Self::NoName(_)
            | Self::NoProtocol(_)
            | Self::NoText { .. }
            | Self::WrongType { .. }
            | Self::Structure { .. }
            | Self::TextForNumber { .. }
            | Self::NumberForText { .. }
            | Self::NoQuantity { why: Malformed::NotANumber, .. } => Code::WrongType,
            Self::OutOfRange { .. }
            | Self::NotWhole { .. }
            | Self::NoRetransmission { .. }
            | Self::NoLinger
            | Self::NoQuantity { why: Malformed::TooLarge, .. } => Code::OutOfRange,
            Self::BareNumber { .. } | Self::NoQuantity { .. } => Code::MissingUnit,
            Self::ReplacedLinger(_) => Code::Removed,
            Self::ManyRaw { .. }
            | Self::NoRawEntry(_)
            | Self::IncompleteRaw
            | Self::UnknownConstant { .. }
            | Self::NoCall(_) => Code::BadRaw,
            Self::NeverSet { .. } | Self::NoAuto { .. } => Code::NotHere,
            Self::UnknownLevel { .. } | Self::NoSwitch { .. } => Code::BadSwitch,
            Self::UnknownVariable { .. } => Code::UnknownVariable,
            Self::VariableAlone(_) => Code::UselessVariable,
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Syntax { meant, .. } => meant.as_ref()?.help(),
            Self::DuplicateKey(_) => return None,
            Self::TooManyTokens(_) => {
                "split it into several rules, each with its own [[rule]] at the start of a line".to_owned()
            }

            Self::UnknownTable(name) => misplaced(name),
            Self::NoTable { .. } => "write [defaults] or [[rule]]".to_owned(),
            Self::SingleRule => "write [[rule]], with two brackets".to_owned(),
            Self::NoRule(_) => "write [[rule]]".to_owned(),
            Self::NoName(_) => "for example name = \"gateway\"".to_owned(),
            Self::UnknownKey(name) => meant_option(name),
            Self::UnknownPart { of, name } => meant_part(*of, name),
            Self::MisplacedCondition(_) => "move it to a [[rule]]".to_owned(),
            Self::BothDirections => "write two rules".to_owned(),
            Self::NoProtocol(_) => "leave it out if the rule is for both".to_owned(),
            Self::ProtocolAlone => "add \"listen\", or leave \"protocol\" out: rules with \"to\" are for TCP and UDP".to_owned(),
            Self::NoUdpClients => "leave out \"from\", or \"protocol\"".to_owned(),
            Self::Conflict { .. } => "remove one of them".to_owned(),

            Self::NoText { .. } => "strings need quotes".to_owned(),
            Self::EmptyList(key) => format!("leave \"{key}\" out to match everything"),
            Self::EmptyGlob(_) => "accepted: a name with * and ? as wildcards".to_owned(),
            Self::Path(_) => {
                "write the base name of the executable or script; command matches the whole command line".to_owned()
            }
            Self::LongGlob { longest, .. } => {
                format!("accepted: at most {longest} bytes, with * and ? as wildcards")
            }
            Self::HostName { .. } => "write an address; only \"to\" takes host names".to_owned(),
            Self::Address(refused) => refused.help.clone(),

            Self::WrongType { accepted, .. }
            | Self::OutOfRange { accepted, .. }
            | Self::NoQuantity { accepted, .. }
            | Self::NotWhole { accepted, .. } => accepted.with_units(),
            Self::BareNumber { accepted, example: None, .. } => accepted.to_string(),
            Self::BareNumber { accepted, example: Some(number), of, .. } => {
                let unit = if matches!(of, Quantity::Duration) { "s" } else { "B" };
                format!("{accepted}, for example \"{number}{unit}\"")
            }
            Self::NoRetransmission { nearest: [below, above], .. } => {
                format!("nearest possible: \"{}\" or \"{}\"", DisplayNumber(*below), DisplayNumber(*above))
            }
            Self::ReplacedLinger(_) => {
                "write time_wait = false: it leaves no TIME_WAIT, and the kernel sends all data first, also when the program exits"
                    .to_owned()
            }
            Self::NoLinger => "write \"reset\" if you mean that, or \"off\"".to_owned(),

            Self::ManyRaw { most, .. } => format!("accepted: at most {most}; the kernel has hardly more options than that"),
            Self::NoRawEntry(_) => Accepted::As(RAW).to_string(),
            Self::IncompleteRaw => {
                "for example { level = \"SOL_TCP\", name = \"TCP_USER_TIMEOUT\", value = 14000 }".to_owned()
            }
            Self::UnknownConstant { part: "level", text, .. } => {
                did_you_mean(text, constants::level_names(), BY_NUMBER)
            }
            Self::UnknownConstant { text, level, .. } => match constants::level_of(text) {
                // Its number would mean something else here.
                Some(home) => format!("{text} belongs to level \"{home}\""),
                None => did_you_mean(text, level.iter().flat_map(|level| constants::option_names(*level)), BY_NUMBER),
            },
            Self::NoCall(_) => "accepted: \"bind\", \"connect\", \"listen\", \"accept\"".to_owned(),
            Self::Structure { key, .. } => {
                key.map_or_else(|| "leave it out".to_owned(), |key| format!("use the key \"{key}\""))
            }
            Self::TextForNumber { text, .. } => match text.parse::<u32>() {
                Ok(number) => format!("without quotes: value = {number}"),
                Err(_) => "write a number without quotes: the kernel would read the bytes of a string as a number".to_owned(),
            },
            Self::NumberForText { .. } => "accepted: a string in quotes".to_owned(),

            Self::NeverSet { option: Never::FastopenConnect(_), direction: Direction::Listeners, .. } => {
                "true and false are for sockets that connect: for a listening socket write the length of its queue, such as fastopen = 100"
                    .to_owned()
            }
            Self::NeverSet { option: Never::FastopenQueue(_), direction: Direction::Outbound, .. } => {
                "a number is the length of a listening socket's queue: for sockets that connect write fastopen = true".to_owned()
            }
            Self::NeverSet { direction, in_to, .. } => match direction {
                Direction::Outbound | Direction::Both => {
                    "it is set at bind or on listening sockets, where no destination is known: use a rule with \"listen\", or [defaults]"
                }
                Direction::Listeners => "it is set on sockets that connect: use a rule with \"to\", or [defaults]",
                Direction::UdpServers => "a UDP socket that is bound has no such option: write protocol = \"tcp\"",
                Direction::Accepted if !in_to => {
                    "the client is known only after accept, too late for this option: use a rule with \"listen\", or [defaults]"
                }
                Direction::Accepted => {
                    "the client is known only after accept, too late for this option: use a rule with \"listen\" or \"to\", or [defaults]"
                }
            }
            .to_owned(),
            Self::NoAuto { sum: Some(seconds), .. } => {
                format!("time + interval x probes is {seconds} s, more than TCP_USER_TIMEOUT holds (2147483 s)")
            }
            Self::NoAuto { sum: None, .. } => {
                "\"auto\" is time + interval x probes: set all three in keepalive, or write a duration for user_timeout"
                    .to_owned()
            }

            Self::UnknownLevel { value, known } => {
                did_you_mean(value, known.iter().copied(), &format!("accepted: {}", known.join(", ")))
            }
            Self::NoSwitch { .. } => "accepted: 1, true, on, yes; 0, false, off, no".to_owned(),
            Self::UnknownVariable { name: "SOCKOPT_RAW", .. } => {
                "raw has no variable; use SOCKOPT_CONFIG_TOML".to_owned()
            }
            Self::UnknownVariable { near, .. } => {
                near().map_or_else(|| "it is ignored".to_owned(), |near| format!("did you mean \"{near}\"?"))
            }
            Self::VariableAlone(_) => {
                "it restricts options that are given together with it, such as dead_peer_timeout; rules in a file have their own conditions".to_owned()
            }
        })
    }
}

/// How `raw` is written.
pub(crate) const RAW: &str =
    "[{ level = \"SOL_TCP\", name = \"TCP_USER_TIMEOUT\", value = 14000 }], numbers or kernel names";

const BY_NUMBER: &str = "give its number instead";

impl Meant<'_> {
    fn help(&self) -> String {
        match self {
            Self::Boolean(value) => format!("write {value}, in lower case and without quotes"),
            Self::Switch(word) => format!("write \"{word}\", in quotes; or true or false, if the key takes those"),
            Self::Text(word) => format!("write \"{word}\", in quotes"),
        }
    }
}

/// `did you mean "x"?`, or what to say where nothing comes near.
fn did_you_mean<'a>(given: &str, known: impl Iterator<Item = &'a str>, otherwise: &str) -> String {
    nearest(given, known).map_or_else(|| otherwise.to_owned(), |name| format!("did you mean \"{name}\"?"))
}

/// A key at the top that belongs in a table, or is misspelt.
fn misplaced(name: &str) -> String {
    if Key::from_name(name).is_some() {
        return format!("\"{name}\" belongs in [defaults] or a [[rule]]");
    }
    if OF_RULES.contains(&name) {
        return format!("\"{name}\" belongs in a [[rule]]");
    }
    match name {
        "rules" | "Rule" => "write [[rule]] for each rule".to_owned(),
        _ => did_you_mean(name, ["defaults", "rule"].into_iter(), "the file has [defaults] and [[rule]]"),
    }
}

/// What an unknown option was probably meant to be.
fn meant_option(name: &str) -> String {
    // TCP_USER_TIMEOUT or so_linger: the kernel's name of what has another one here.
    let kernel = CATALOG.iter().find(|entry| {
        entry.kernel.iter().any(|option| {
            constants::option_name(option.level, option.name).is_some_and(|known| known.eq_ignore_ascii_case(name))
        })
    });
    let known = || Key::ALL.iter().map(|key| key.name()).chain(OF_RULES);
    match kernel {
        Some(entry) => format!("did you mean \"{}\"?", entry.key.name()),
        None => did_you_mean(name, known(), "`man sockopt.toml` has every key"),
    }
}

/// What an unknown part was probably meant to be.
fn meant_part(of: Parts, name: &str) -> String {
    let otherwise = match (of, name) {
        (Parts::Keepalive, "idle" | "keepidle") => return "did you mean \"time\"?".to_owned(),
        (Parts::Keepalive, "intvl" | "keepintvl") => return "did you mean \"interval\"?".to_owned(),
        (Parts::Keepalive, "count" | "cnt" | "keepcnt" | "retries") => return "did you mean \"probes\"?".to_owned(),
        (Parts::Keepalive, _) => "keepalive takes time, interval and probes",
        (Parts::Raw, _) => "an entry of raw takes level, name, value and at",
    };
    did_you_mean(name, of.names().iter().copied(), otherwise)
}
