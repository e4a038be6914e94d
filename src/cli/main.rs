//! `sockopt`, the command: runs programs under the library, checks and explains configurations.
#![forbid(unsafe_code)]

mod adopt;
mod agent;
mod apply;
mod apply_report;
mod args;
mod attach;
mod check;
mod completions;
mod counts;
mod dns;
mod exit;
mod explain;
mod explain_asked;
mod explain_found;
mod explain_report;
mod explain_text;
mod fix;
mod import;
mod keeper;
mod kernel;
mod man;
mod metrics;
mod output;
mod pages;
mod processes;
mod retrofit;
mod run;
mod schema;
mod serve;
mod show;
mod show_json;
mod show_text;
mod sysctl;
mod table;
mod way;

use std::alloc::System;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use load::DEFAULT_FILE;
use spinning_top::RawSpinlock;
use talc::TalcLock;
use talc::source::GlobalAllocSource;

use crate::args::Extent;

/// So much is asked of musl's malloc at a time: it then maps it by one call, where it would make ninety small ones. `sockopt run`
/// needs half of it.
const HEAP: usize = 1 << 18;

#[global_allocator]
static ALLOCATOR: TalcLock<RawSpinlock, GlobalAllocSource<System>> =
    TalcLock::new(GlobalAllocSource::with_block_size(System, HEAP));

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let first = words.get(1).map(OsString::as_os_str);
    let matches = quickly(&words).unwrap_or_else(|| {
        command_for(first).try_get_matches_from(&words).unwrap_or_else(|error| output::usage(command(), error))
    });
    let code = match matches.subcommand() {
        Some(("run", matches)) => run::run(matches),
        Some(("check", matches)) => check::check(matches),
        Some(("explain", matches)) => explain::explain(matches),
        Some(("apply", matches)) => apply::apply(matches),
        Some(("show", matches)) => show::show(matches),
        Some(("import", matches)) => import::run(matches),
        Some(("attach", matches)) if matches.get_flag("watch") => agent::agent(matches),
        Some(("agent", matches)) => agent::agent(matches),
        Some(("attach", matches)) => attach::attach(matches),
        Some(("detach", matches)) => attach::detach(matches),
        Some(("status", matches)) => attach::status(matches),
        Some(("completions", matches)) => completions::completions(matches, command()),
        Some(("man", matches)) => man::man(matches, command()),
        Some(("schema", _)) => schema::print(),
        _ => exit::USAGE,
    };
    output::exit_code(code).into()
}

/// The words of a `run` that is called as it should be: a program waits for it. Whatever else is asked, the whole definition is for.
fn quickly(words: &[OsString]) -> Option<ArgMatches> {
    let subcommand = (words.get(1)? == "run").then(|| args::run_by(Extent::For(words)))?;
    Command::new("sockopt").subcommand_required(true).subcommand(subcommand).try_get_matches_from(words).ok()
}

/// A subcommand's name and what defines it.
type Definition = (&'static str, fn() -> Command);

/// Each subcommand is defined where it is done.
const SUBCOMMANDS: [Definition; 13] = [
    ("run", args::run),
    ("check", check::command),
    ("explain", explain::command),
    ("show", show::command),
    ("apply", apply::command),
    ("import", import::command),
    ("attach", attach::command),
    ("agent", agent::command),
    ("detach", attach::detach_command),
    ("status", attach::status_command),
    ("completions", completions::command),
    ("man", man::command),
    ("schema", schema::command),
];

/// The whole command line.
fn command() -> Command {
    command_for(None)
}

/// As much of the command line as the first word needs: what a program waits for until it starts is mostly the definition of options.
fn command_for(first: Option<&OsStr>) -> Command {
    let only = SUBCOMMANDS.iter().find(|(name, _)| first == Some(OsStr::new(name)));
    let subcommands = match only {
        Some(only) => std::slice::from_ref(only),
        None => &SUBCOMMANDS,
    };
    let about = "Set TCP socket options in programs that do not let you set them";
    Command::new("sockopt")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .long_about(format!(
            "{about}.\n\nsockopt run starts a program under libsockopt.so, an LD_PRELOAD library that sets keepalive, \
             TCP_USER_TIMEOUT, SO_LINGER and more on the program's sockets, or under a supervisor if it is a Go program or a static \
             one. The options come from rules in a file (sockopt.toml), from \
             command-line options, or from environment variables of the same names."
        ))
        .after_help("--help shows exit status, environment and files; SUBCOMMAND --help its options.")
        .after_long_help(after_help())
        .subcommand_value_name("SUBCOMMAND")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands(subcommands.iter().map(|(_, definition)| definition()))
}

/// The end of `sockopt --help`: sections of a heading with a colon and entries in two columns.
fn after_help() -> String {
    format!(
        "{}\n  else run: the exit status of the program

Environment:
  SOCKOPT_CONFIG       configuration file, absolute path
  SOCKOPT_CONFIG_TOML  the configuration itself, if no file is named
  SOCKOPT_...          any option except raw: SOCKOPT_DEAD_PEER_TIMEOUT=15s
  SOCKOPT_TO           apply the option variables only to these destinations
  SOCKOPT_PROCESS      apply the option variables only in these processes
  SOCKOPT_LOG          off, error, warn, info or debug
  SOCKOPT_LOG_FILE     where to log instead of stderr, absolute path
  SOCKOPT_STRICT       1: programs end before main on configuration errors
  SOCKOPT_DISABLE      1: the library does nothing
  SOCKOPT_LIBRARY      libsockopt.so for sockopt run, absolute path
  NO_COLOR             no colours, even on a terminal

Files:
  {DEFAULT_FILE}  read if no variable names another file",
        exit::section(&exit::ALL)
    )
}
