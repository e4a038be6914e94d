//! `sockopt`, the command: runs programs under the library, checks and explains configurations.
#![forbid(unsafe_code)]

mod apply;
mod args;
mod check;
mod documents;
mod executable;
mod exit;
mod explain;
mod library;
mod machine;
mod output;
mod privilege;
mod processes;
mod program;
mod run;
mod schema;
mod show;
mod table;

use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = args::command().get_matches();
    match matches.subcommand() {
        Some(("run", matches)) => run::run(matches).into(),
        Some(("check", matches)) => check::check(matches).into(),
        Some(("explain", matches)) => explain::explain(matches).into(),
        Some(("apply", matches)) => apply::apply(matches).into(),
        Some(("show", matches)) => show::show(matches).into(),
        Some(("completions", matches)) => documents::completions(matches).into(),
        Some(("man", matches)) => documents::man(matches).into(),
        Some(("schema", _)) => schema::print().into(),
        _ => exit::USAGE.into(),
    }
}
