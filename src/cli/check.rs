//! `sockopt check`: every error of a configuration, and advice where there is none.

use std::ffi::OsString;
use std::path::Path;

use cgroup::HostNames;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};
use load::Loaded;
use policy::plain::Plain;
use policy::units::Count;
use policy::{Code, Compiled, Configuration, Listed, Parsed, Problem, Process, Rules, Severity, Source};
use serde::Serialize;

use crate::kernel::{self, Looked};
use crate::{args, exit, fix, output, sysctl};

/// What `--for` takes.
pub(crate) const WAYS: [&str; 3] = ["library", "supervisor", "kernel"];

pub(crate) fn command() -> Command {
    Command::new("check")
        .about("Check a configuration")
        .long_about(
            "Reports every error of a configuration, with line and column, and says what would be correct. If there is none, \
             points out settings that probably do something unintended, with the figures for this kernel.",
        )
        .after_long_help(format!(
            "{}\n\nKinds of warnings and advice, for --allow:{}",
            exit::section(&[
                (exit::OK, "no errors"),
                (exit::ADVICE, "--deny-advice: there is advice or a warning; --diff: there is a change"),
                (exit::USAGE, "wrong usage"),
                (exit::CONFIGURATION, "the configuration has errors, or cannot be read"),
            ]),
            allowed().map(|code| format!("\n  {:<18} {}", code.name(), code.meaning())).collect::<String>()
        ))
        .arg(
            Arg::new("deny-advice")
                .long("deny-advice")
                .action(ArgAction::SetTrue)
                .help("Exit with 1 if there is advice or a warning"),
        )
        .arg(
            Arg::new("allow")
                .long("allow")
                .value_name("CODE")
                .action(ArgAction::Append)
                .value_delimiter(',')
                .value_parser(PossibleValuesParser::new(allowed().map(Code::name)))
                .hide_possible_values(true)
                .help("Hide warnings and advice of this kind, such as one-probe")
                .long_help(
                    "Hide warnings and advice of this kind. The kind is the word in brackets, for example one-probe in \
                     advice[one-probe]. Repeatable; several kinds can be separated by commas",
                ),
        )
        .arg(
            Arg::new("for")
                .long("for")
                .value_name("BACKEND")
                .value_parser(WAYS)
                .hide_possible_values(true)
                .help("Also list what this backend cannot do: library, supervisor or kernel")
                .long_help(
                    "Also list what this backend cannot do of the configuration: library or supervisor (sockopt run), or kernel \
                     (sockopt attach). With kernel, check lists each option with the eBPF program that sets it. If root runs it, \
                     each option is tested on this kernel, on a socket in a temporary control group",
                ),
        )
        .arg(
            Arg::new("fix")
                .long("fix")
                .action(ArgAction::SetTrue)
                .requires("file")
                .conflicts_with("json")
                .help("Change the file as the advice says, if that is one value; print the diff"),
        )
        .arg(
            Arg::new("diff")
                .long("diff")
                .action(ArgAction::SetTrue)
                .requires("file")
                .conflicts_with_all(["json", "fix"])
                .help("Print what --fix would change, and write nothing; exit with 1 if there is a change"),
        )
        .arg(args::json())
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .value_hint(ValueHint::FilePath)
                .help("The configuration file. Without it, check reads what a program started from this shell would get: SOCKOPT_CONFIG, SOCKOPT_CONFIG_TOML or /etc/sockopt/sockopt.toml, and the option variables SOCKOPT_...")
                .value_parser(value_parser!(OsString)),
        )
}

/// What `check --allow` takes: errors cannot be allowed.
fn allowed() -> impl Iterator<Item = Code> {
    Code::ALL.iter().copied().filter(|code| code.severity() != Severity::Error)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// SOCKOPT_DISABLE is set: the library does nothing.
    disabled: bool,
    /// The file, SOCKOPT_CONFIG_TOML, or nothing.
    source: Option<&'a str>,
    /// How many rules there are; nothing if there are errors.
    rules: Option<usize>,
    /// The first hundred errors, the first hundred warnings, the first hundred pieces of advice.
    problems: Vec<Entry<'a>>,
    /// How many there are beyond these.
    more: usize,
    /// What the way that was asked for cannot do; nothing if none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    cannot: Option<&'a [String]>,
    /// What programs in the kernel set; nothing if that was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<kernel::Report<'a>>,
}

/// A problem.
#[derive(Serialize)]
struct Entry<'a> {
    severity: String,
    /// A stable name of the kind of problem, for `--allow`; none of what cannot be read.
    code: Option<&'static str>,
    message: &'a str,
    help: Option<&'a str>,
    /// The file or the variable.
    source: Option<&'a str>,
    /// From 1, in characters.
    line: Option<usize>,
    column: Option<usize>,
    /// Bytes of the source.
    start: Option<usize>,
    end: Option<usize>,
}

impl<'a> Entry<'a> {
    fn new(problem: &'a Problem, sources: &'a [Source]) -> Self {
        let source = sources.get(problem.source);
        Self {
            severity: problem.severity().to_string(),
            code: Some(problem.code.name()),
            message: &problem.message,
            help: problem.help.as_deref(),
            source: source.map(|source| source.name.as_str()),
            line: source.map(|_| problem.line),
            column: source.map(|_| problem.column),
            start: source.map(|_| problem.span.start),
            end: source.map(|_| problem.span.end),
        }
    }

    fn failure(message: &'a str) -> Self {
        let severity = Severity::Error.to_string();
        Self {
            severity,
            code: None,
            message,
            help: help_for(message),
            source: None,
            line: None,
            column: None,
            start: None,
            end: None,
        }
    }
}

/// What to do about a file that cannot be read, if that is plain.
fn help_for(failure: &str) -> Option<&'static str> {
    const HELP: &str = "the manual page sockopt.toml(5) shows how to write one; without a file, give options such as \
                        --dead-peer-timeout 15s";
    failure.contains("No such file or directory").then_some(HELP)
}

/// What is to be checked.
fn load(matches: &ArgMatches) -> Loaded {
    match matches.get_one::<OsString>("file") {
        Some(file) if file.is_empty() => {
            Loaded { failures: vec!["the name of the file is empty".to_owned()], ..Loaded::default() }
        }
        Some(file) => match load::read_file(Path::new(file)) {
            Ok(source) => Loaded {
                configuration: Configuration { document: Some(source), variables: Vec::new() },
                ..Loaded::default()
            },
            Err(unreadable) => Loaded { failures: vec![unreadable.to_string()], ..Loaded::default() },
        },
        None => load::from_environment(std::env::vars_os()),
    }
}

pub(crate) fn check(matches: &ArgMatches) -> u8 {
    let mut loaded = load(matches);
    let allowed: Vec<&String> = matches.get_many("allow").into_iter().flatten().collect();
    let (is_fix, is_diff) = (matches.get_flag("fix"), matches.get_flag("diff"));
    if let (true, Some(file)) = (is_fix || is_diff, matches.get_one::<OsString>("file")) {
        let fixed = loaded.configuration.document.as_ref().and_then(|source| fix::fix(source, &allowed));
        if let (Some(text), Some(source)) = (&fixed, &mut loaded.configuration.document) {
            output::print(&fix::difference(source, text));
            if is_diff {
                return exit::ADVICE;
            }
            if let Err(error) = std::fs::write(file, text) {
                output::error(&format!("{} cannot be written: {error}", output::plain(&source.name)), None);
                return exit::CANNOT_WORK;
            }
            source.text.clone_from(text);
        } else if is_diff && loaded.failures.is_empty() {
            output::note("nothing to fix");
        }
    }
    let parsed = loaded.configuration.parse();
    let mut compiled = parsed.compile(&Process::default());
    let taken = loaded.failures.is_empty() && compiled.rules.is_ok();
    let mut advice = if taken { parsed.advise(&sysctl::read().0) } else { Listed::default() };
    for listed in [&mut compiled.warnings, &mut advice] {
        listed.problems.retain(|problem| !allowed.iter().any(|code| *code == problem.code.name()));
    }
    let way = matches.get_one::<String>("for").filter(|_| taken);
    // Rules for some processes alone are among them.
    let every = way.and_then(|_| loaded.configuration.parse().into_rules(None).0.ok());
    let looked = every
        .as_ref()
        .filter(|_| way.is_some_and(|way| way == "kernel"))
        .map(|rules| Looked::at(rules, None, HostNames::Unasked));
    let cannot = way.zip(every).map(|(way, rules)| match &looked {
        Some(looked) => looked.lost.clone(),
        None => what_it_cannot(way, &rules),
    });
    if matches.get_flag("json") {
        print_json(&loaded, &compiled, &advice, (cannot.as_deref(), looked.as_ref()));
    } else {
        print_text(&loaded, &parsed, &compiled, &advice);
        if let Some(looked) = &looked {
            output::print(&looked.table());
            output::note(&looked.note());
        }
        cannot.iter().flatten().for_each(|text| output::warning(text, None));
        if let Some((way, [])) = way.zip(cannot.as_deref()) {
            output::note(&format!("the {way} can do everything in this configuration"));
        }
    }
    let is_clean = || {
        let has_all = cannot.as_ref().is_none_or(|cannot| cannot.is_empty());
        advice.is_empty() && compiled.warnings.is_empty() && has_all
    };
    match taken {
        false => exit::CONFIGURATION,
        true if matches.get_flag("deny-advice") && !is_clean() => exit::ADVICE,
        true => exit::OK,
    }
}

/// What a configuration asks for that a way cannot do.
pub(crate) fn what_it_cannot(way: &str, rules: &Rules) -> Vec<String> {
    match way {
        "supervisor" => supervise::what_it_cannot(rules, false),
        // It has every key and every condition; which programs it does not reach, no configuration tells.
        _ => Vec::new(),
    }
}

fn print_json(
    loaded: &Loaded,
    compiled: &Compiled,
    advice: &Listed,
    (cannot, looked): (Option<&[String]>, Option<&Looked>),
) {
    let problems = problems(compiled).chain(advice).map(|problem| Entry::new(problem, &compiled.sources));
    let rules = compiled.rules.as_ref().ok().filter(|_| loaded.failures.is_empty());
    let report = Report {
        disabled: loaded.disabled,
        source: loaded.configuration.document.as_ref().map(|source| source.name.as_str()),
        rules: rules.map(Rules::rule_count),
        problems: loaded.failures.iter().map(|failure| Entry::failure(failure)).chain(problems).collect(),
        more: more(compiled, advice),
        cannot,
        kernel: looked.map(Looked::report),
    };
    output::print(&output::json(&report, true));
}

fn print_text(loaded: &Loaded, parsed: &Parsed<'_>, compiled: &Compiled, advice: &Listed) {
    if loaded.disabled {
        return output::note("SOCKOPT_DISABLE is set: the library does nothing");
    }
    // A misspelt variable is the likeliest reason for no configuration.
    let Ok(rules) = show(loaded, compiled, advice) else { return };
    if !loaded.is_configured() {
        return output::note(
            "no configuration: neither SOCKOPT_CONFIG, SOCKOPT_CONFIG_TOML, /etc/sockopt/sockopt.toml nor an option such as SOCKOPT_DEAD_PEER_TIMEOUT",
        );
    }
    let name = loaded.configuration.document.as_ref().map_or("environment", |source| source.name.as_str());
    let defaults = parsed.has_defaults().then(|| "[defaults]".to_owned());
    let rules = (rules > 0).then(|| Count(rules, "rule").to_string());
    let of_file = defaults.into_iter().chain(rules).collect::<Vec<_>>().join(" and ");
    let of_environment = if parsed.has_shortcuts() { "options from the environment" } else { "" };
    let what = match (&*of_file, of_environment) {
        ("", "") => "nothing is set".to_owned(),
        ("", one) | (one, "") => one.to_owned(),
        (one, other) => format!("{one}, {other}"),
    };
    let advice = match advice.count() {
        0 => String::new(),
        1 => ", 1 piece of advice".to_owned(),
        more => format!(", {more} pieces of advice"),
    };
    output::print(&format!("{}: no errors, {what}{advice}\n", Plain(name)));
}

/// Reports every problem of a configuration; the number of rules if none is an error, the exit code otherwise.
pub(crate) fn report(loaded: &Loaded, compiled: &Compiled) -> Result<usize, u8> {
    show(loaded, compiled, &Listed::default())
}

/// Errors, then warnings.
fn problems(compiled: &Compiled) -> impl Iterator<Item = &Problem> {
    compiled.rules.as_ref().err().into_iter().flatten().chain(&compiled.warnings)
}

/// How many there are that are not listed.
fn more(compiled: &Compiled, advice: &Listed) -> usize {
    compiled.rules.as_ref().err().map_or(0, |errors| errors.more) + compiled.warnings.more + advice.more
}

fn show(loaded: &Loaded, compiled: &Compiled, advice: &Listed) -> Result<usize, u8> {
    loaded.failures.iter().for_each(|failure| output::error(failure, help_for(failure)));
    for problem in problems(compiled).chain(advice) {
        output::problem(problem, &compiled.sources);
    }
    let more = more(compiled, advice);
    if more > 0 {
        output::note(&format!("{more} more are not shown"));
    }
    match &compiled.rules {
        Ok(rules) if loaded.failures.is_empty() => Ok(rules.rule_count()),
        rules => {
            let count = rules.as_ref().err().map_or(0, Listed::count) + loaded.failures.len();
            output::error(&format!("{} in the configuration", Count(count, "error")), None);
            Err(exit::CONFIGURATION)
        }
    }
}
