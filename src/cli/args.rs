//! The command line. The options of `run` are made from the catalogue, one for each environment shortcut.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};
use policy::catalog::Accepts;
use policy::variables::{Level, PREFIX};
use policy::{CATALOG, Entry, InKernel, Key, constants};
use std::ffi::OsString;

use crate::{exit, output};

/// An option that stands for a variable that sets nothing: long name, variable, value's name, help, more help.
type Control = (&'static str, &'static str, &'static str, &'static str, &'static str);

const CONTROL: [Control; 5] = [
    ("config", "CONFIG", "FILE", "Configuration file", "Without it, SOCKOPT_CONFIG_TOML or /etc/sockopt/sockopt.toml."),
    (
        "to",
        "TO",
        "ADDRESS",
        "Set the options below only for these destinations",
        "For example 10.0.0.0/8:443, [2001:db8::/32]:8000-8099 or :6379; repeatable. Rules in a file have their own conditions.",
    ),
    (
        "process",
        "PROCESS",
        "NAME",
        "Set the options below only in these processes",
        "The base name of the executable, the name that it was started by, or the base name of the script that it runs; * and ? are wildcards; repeatable. For \
         JMeter write java.",
    ),
    (
        "log",
        "LOG",
        "LEVEL",
        "off, error, warn, info or debug",
        "The default is warn. info also logs which configuration was loaded and which setsockopt of the program was not carried out, debug also every decision.",
    ),
    (
        "log-file",
        "LOG_FILE",
        "FILE",
        "Where to log instead of stderr",
        "It is created with mode 0600, never through a symbolic link.",
    ),
];

/// How much of a definition is needed.
#[derive(Clone, Copy)]
pub(crate) enum Extent<'a> {
    /// All.
    Whole,
    /// What these words can mean, without a text: they are only to be read. Most of what a definition costs are the texts, and
    /// options that nobody gives.
    For(&'a [OsString]),
}

impl Extent<'_> {
    fn has_texts(self) -> bool {
        matches!(self, Self::Whole)
    }

    /// Whether an option can be meant.
    fn has(self, long: &str) -> bool {
        let is_it = |word: &OsString| {
            word.as_encoded_bytes().strip_prefix(b"--").is_some_and(|word| word.starts_with(long.as_bytes()))
        };
        match self {
            Self::Whole => true,
            Self::For(words) => words.iter().any(is_it),
        }
    }

    /// Adds the texts of the help.
    fn said(self, option: Arg, help: &'static str, more: impl FnOnce() -> String) -> Arg {
        if self.has_texts() { option.help(help).long_help(more()) } else { option }
    }
}

/// Adds some of [`CONTROL`] to a subcommand.
pub(crate) fn with_control(command: Command, names: &[&str]) -> Command {
    with_control_by(Extent::Whole, command, names)
}

fn with_control_by(extent: Extent<'_>, mut command: Command, names: &[&str]) -> Command {
    for (long, variable, value, help, more) in CONTROL.into_iter().filter(|(long, ..)| names.contains(long)) {
        let action = if matches!(long, "to" | "process") { ArgAction::Append } else { ArgAction::Set };
        let mut option =
            Arg::new(long).long(long).value_name(value).action(action).value_parser(value_parser!(OsString));
        option = extent.said(option, help, || format!("{help}. {more} [env: {PREFIX}{variable}]"));
        option = match long {
            // The file is where the rules are.
            "config" => option.visible_alias("rule-file").value_hint(ValueHint::FilePath),
            "log-file" => option.value_hint(ValueHint::FilePath),
            "log" => option
                .value_parser(PossibleValuesParser::new(Level::ALL.map(|(name, _)| name)).map(OsString::from))
                .ignore_case(true)
                .hide_possible_values(true),
            _ => option,
        };
        command = command.arg(option);
    }
    command
}

/// What most people need: the short help shows no others.
const COMMON: [Key; 4] = [Key::DeadPeerTimeout, Key::Keepalive, Key::UserTimeout, Key::Linger];

/// Adds an option for each environment shortcut to a subcommand.
pub(crate) fn with_shortcuts(command: Command) -> Command {
    with_some_shortcuts(Extent::Whole, command, |_| true)
}

/// The same, and of those that programs in the kernel cannot set the help says nothing: whoever gives one is told why.
pub(crate) fn with_shortcuts_of_kernel(command: Command) -> Command {
    with_some_shortcuts(Extent::Whole, command, |entry| matches!(entry.about().in_kernel, InKernel::Bpf { .. }))
}

fn with_some_shortcuts(extent: Extent<'_>, command: Command, is_shown: fn(&Entry) -> bool) -> Command {
    let heading = "Socket options";
    let mut command = command.next_help_heading(heading);
    // dead_peer_timeout first: it is all that most people need.
    let (first, others): (Vec<&Entry>, Vec<&Entry>) = shortcuts().partition(|entry| entry.key == Key::DeadPeerTimeout);
    for entry in first.into_iter().chain(others) {
        let long = long(entry);
        if !extent.has(&long) {
            continue;
        }
        let mut option = Arg::new(entry.key.name())
            .long(long)
            .value_name(value_name(entry))
            .hide_short_help(!COMMON.contains(&entry.key))
            .hide(!is_shown(entry))
            .allow_hyphen_values(true)
            .value_hint(ValueHint::Other);
        if extent.has_texts() {
            let described = format!("{} [env: {}]", described(entry, &entry.accepts.in_words()), variable(entry));
            option = option.help(brief(entry)).long_help(described);
        }
        command = command.arg(option);
    }
    if !extent.has_texts() {
        return command;
    }
    let hidden = shortcuts().filter(|entry| is_shown(entry) && !COMMON.contains(&entry.key)).count();
    command.next_help_heading(None).after_help(format!("{heading}: {hidden} more with --help"))
}

/// The length of the value that a summary begins with, as in "true: data in the SYN".
fn value_of(summary: &str) -> usize {
    ["true:", "false:"].into_iter().find(|value| summary.starts_with(value)).map_or(0, str::len)
}

fn capitalised(summary: &str) -> String {
    if value_of(summary) > 0 {
        return summary.to_owned();
    }
    let mut letters = summary.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

/// What an option does, without the particulars.
fn brief(entry: &Entry) -> String {
    let summary = entry.about().summary;
    let (value, rest) = summary.split_at(value_of(summary));
    let rest = rest.split([':', ';', ',']).next().unwrap_or_default();
    capitalised(&format!("{value}{rest}"))
}

/// What a key does, accepts and sets.
pub(crate) fn description(entry: &Entry) -> String {
    described(
        entry,
        &match entry.accepts {
            Accepts::Keepalive => "a table of time, interval and probes, any of them; on, off".to_owned(),
            accepts => accepts.in_words(),
        },
    )
}

fn described(entry: &Entry, accepted: &str) -> String {
    let names = entry.kernel.iter().filter_map(|option| constants::option_name(option.level, option.name));
    let kernel: Vec<&str> = names.collect();
    let system = if entry.accepts == Accepts::Enforce { "" } else { "; system leaves it alone" };
    let set = match policy::set_at(entry.key) {
        none if none.is_empty() => String::new(),
        phases => format!(" Set at {phases}."),
    };
    let kernel = match kernel.as_slice() {
        [] => String::new(),
        [name] => format!(" Kernel option {name}, see {}.", entry.about().source),
        names => format!(" Kernel options {}, see {}.", names.join(", "), entry.about().source),
    };
    format!("{}.\nAccepted: {accepted}{system}.{set}{kernel}", capitalised(entry.about().summary))
}

/// The definition of `run`, most of whose options are above.
pub(crate) fn run() -> Command {
    run_by(Extent::Whole)
        .about("Run a program under the library or the supervisor")
        .long_about(
            "Checks the configuration, and finds out whether the library can work in the program. If it can, run adds \
             libsockopt.so to LD_PRELOAD, and replaces itself with the program (exec). Ignored and blocked signals are \
             inherited unchanged. For a statically linked program or a Go program, run starts a supervisor (two small \
             processes). The kernel notifies it of the program's calls, and it sets the options from outside. If neither can \
             work (for example in a setuid program that a user other than root starts, or for another architecture), run says \
             why.\n\nWithout any configuration it sets dead_peer_timeout = \"60s\".",
        )
        .override_usage("sockopt run [OPTIONS] [--] PROGRAM [ARGUMENT]...")
        .after_long_help(format!(
            "{}\n  else that of the program\n\nExamples:\n  sockopt run --dead-peer-timeout 15s -- jmeter -n -t plan.jmx\n  sockopt run --keepalive \
             60s,20s,4 --user-timeout auto --to :5432 -- psql -h db\n  sockopt run --config sockopt.toml --dry-run -- java -jar \
             app.jar",
            exit::section(&[
                (exit::OK, "with --dry-run: the program could be started"),
                (exit::CANNOT_WORK, "neither the library nor the supervisor can work in the program"),
                (exit::USAGE, "wrong usage"),
                (exit::CONFIGURATION, "the configuration has errors, or is an unknown variable alone"),
                (exit::CANNOT_START, "the program was found and cannot be started"),
                (exit::NOT_FOUND, "the program was not found"),
            ])
        ))
}

/// Its options.
pub(crate) fn run_by(extent: Extent<'_>) -> Command {
    let switch = |long, help, more: &str| {
        let option = Arg::new(long).long(long).action(ArgAction::SetTrue);
        extent.said(option, help, || format!("{help}. {more}"))
    };
    let library = Arg::new("library")
        .long("library")
        .value_name("PATH")
        .value_hint(ValueHint::FilePath)
        .value_parser(value_parser!(OsString));
    let by = Arg::new("by")
        .long("by")
        .value_name("BACKEND")
        .value_parser(PossibleValuesParser::new(["library", "supervisor"]))
        .hide_possible_values(true);
    // The first word that is no option is the program, and whatever follows belongs to it.
    let program = Arg::new("program")
        .value_name("PROGRAM")
        .hide_short_help(true)
        .required(true)
        .num_args(1..)
        .trailing_var_arg(true)
        .value_hint(ValueHint::CommandWithArguments)
        .value_parser(value_parser!(OsString));
    let command = with_control_by(extent, Command::new("run"), &["config", "to", "process", "log", "log-file"])
        .arg(extent.said(library, "The libsockopt.so to use", || {
            "The libsockopt.so to use. Without this option, run searches the directory of the command, ../lib, \
             ../lib/sockopt, ../lib/TRIPLET and ../lib64 from there, and the same directories of /usr/local; never the \
             current directory. It skips a library for another architecture. [env: SOCKOPT_LIBRARY]"
                .to_owned()
        }))
        .arg(extent.said(by, "library or supervisor", || {
            "Who sets the options: library, which is loaded into the program, or supervisor, which sets them from \
             outside. If that is impossible, the program is not started. Without --by, run uses the library if it \
             can work in the program, otherwise the supervisor (Go, static programs)."
                .to_owned()
        }))
        .arg(switch(
            "dry-run",
            "Show what would happen, and start nothing",
            "Prints the variables that run would add or change to stdout, quoted for a shell, and to stderr whether and how the \
             options would take effect. The exit status is 0 if the program could be started.",
        ))
        .arg(switch(
            "strict",
            "End programs whose configuration is invalid later, too",
            "run itself never starts a program with an invalid configuration. With --strict, programs also end before main with \
             status 78 if the library finds the configuration invalid, for example because it was changed later. [env: SOCKOPT_STRICT=1]",
        ))
        .arg(switch(
            "force",
            "Start the program even if it gets no options",
            "The reason is then only a warning. Programs that it starts may still get options. With --by supervisor it is not started without the supervisor.",
        ));
    with_some_shortcuts(extent, command, |_| true).arg(extent.said(program, "The program and its arguments", || {
        "The program, which is found as execvp(3) finds it, and its arguments".to_owned()
    }))
}

/// The program and its arguments.
pub(crate) fn program(matches: &ArgMatches) -> Vec<OsString> {
    matches.get_many::<OsString>("program").into_iter().flatten().cloned().collect()
}

/// `--json`.
pub(crate) fn json() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON instead of text")
}

/// The rows that have a variable and are supported.
fn shortcuts() -> impl Iterator<Item = &'static Entry> {
    CATALOG.iter().filter(|entry| entry.accepts != Accepts::Raw)
}

fn long(entry: &Entry) -> String {
    entry.key.name().replace('_', "-")
}

fn variable(entry: &Entry) -> String {
    format!("{PREFIX}{}", entry.key.name().to_ascii_uppercase())
}

fn value_name(entry: &Entry) -> &'static str {
    match entry.accepts {
        Accepts::Keepalive => "TIMES",
        Accepts::DeadPeerTimeout
        | Accepts::ConnectTimeout
        | Accepts::Timeval
        | Accepts::Seconds { .. }
        | Accepts::Retransmissions => "TIME",
        Accepts::UserTimeout => "TIME|auto",
        Accepts::Linger => "reset|TIME",
        Accepts::Size { .. } | Accepts::Rate => "SIZE",
        Accepts::Boolean | Accepts::TimeWait => "BOOL",
        Accepts::Enforce => "BOOL|fill",
        Accepts::Fastopen => "BOOL|QUEUE",
        Accepts::Dscp => "CODEPOINT",
        Accepts::Name { .. } => "NAME",
        Accepts::Integer { .. } => "NUMBER",
        Accepts::Raw => "",
    }
}

/// The environment variables that a subcommand's options stand for.
pub(crate) fn variables(matches: &ArgMatches) -> Vec<(String, OsString)> {
    let mut variables = Vec::new();
    let list = |name: &str| {
        let values: Vec<&OsString> = matches.try_get_many::<OsString>(name).ok()??.collect();
        values.iter().map(|value| value.to_os_string()).reduce(|mut list, value| {
            list.push(",");
            list.push(value);
            list
        })
    };
    for (name, variable, ..) in CONTROL {
        let Some(value) = list(name) else { continue };
        let value = match name {
            // The program may change its directory, and the library takes absolute paths only.
            "config" | "log-file" => std::path::absolute(&value).map_or(value, Into::into),
            _ => value,
        };
        variables.push((format!("SOCKOPT_{variable}"), value));
    }
    // Whether a subcommand has an option, clap knows in debug builds alone.
    if let Ok(Some(true)) = matches.try_get_one::<bool>("strict") {
        variables.push(("SOCKOPT_STRICT".into(), "1".into()));
    }
    for entry in shortcuts() {
        if let Ok(Some(value)) = matches.try_get_one::<String>(entry.key.name()) {
            variables.push((variable(entry), value.into()));
        }
    }
    let option =
        |name: &str| name.strip_prefix(PREFIX).map(|name| format!("--{}", name.to_lowercase().replace('_', "-")));
    let names = variables.iter().map(|(name, _)| (name.clone(), option(name).unwrap_or_default()));
    output::call_by_option(names.collect());
    variables
}

/// What a program started from here with these options would get: the environment with the options over it.
pub(crate) fn loaded(variables: &[(String, OsString)]) -> load::Loaded {
    let inherited = std::env::vars_os().filter(|(name, _)| !variables.iter().any(|(own, _)| name == own.as_str()));
    let own = variables.iter().map(|(name, value)| (name.into(), value.clone()));
    load::from_environment(inherited.chain(own))
}
