//! `sockopt`, the command: runs programs under the library, checks and explains configurations.
#![forbid(unsafe_code)]

mod apply;
mod args;
mod check;
mod documents;
mod exit;
mod explain;
mod output;
mod pages;
mod processes;
mod run;
mod schema;
mod show;
mod sysctl;
mod table;

use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = args::command().try_get_matches().unwrap_or_else(|error| output::usage(error));
    let code = match matches.subcommand() {
        Some(("run", matches)) => run::run(matches),
        Some(("check", matches)) => check::check(matches),
        Some(("explain", matches)) => explain::explain(matches),
        Some(("apply", matches)) => apply::apply(matches),
        Some(("show", matches)) => show::show(matches),
        Some(("completions", matches)) => documents::completions(matches),
        Some(("man", matches)) => documents::man(matches),
        Some(("schema", _)) => schema::print(),
        _ => exit::USAGE,
    };
    output::exit_code(code).into()
}
