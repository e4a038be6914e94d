//! `sockopt apply`: sets the configuration on the sockets that running programs have already.
//!
//! The rules and the calls are the library's: compiled for the process, decided for the connection, each setting by
//! itself. What differs is the moment: the connection stands.

use clap::{Arg, ArgAction, ArgMatches, Command};
use policy::Process;
use policy::units::Count;
use socket::namespace;

use crate::apply_report::{Applied, Done, Report, notes};
use crate::processes::{self, Selection};
use crate::retrofit::{Means, subjects};
use crate::{args, check, exit, output};

pub(crate) fn command() -> Command {
    let command = Command::new("apply")
        .about("Set options on sockets that running programs have open")
        .long_about(
            "Sets options on the sockets that running programs have open already, by the same rules as the library. This \
             frees a client that hangs on a vanished peer:\n\n    \
             sockopt apply --dead-peer-timeout 15s PID\n\n\
             On an idle connection the options take effect at once: the idle time that has passed counts, the kernel probes the \
             peer, and ends the connection when the remaining probes or the user timeout run out. On a connection with data in flight \
             they take effect when the kernel next retransmits that data; apply says when that is.\n\n\
             The programs are neither stopped nor traced. Connections that they open later do not get the options, except those \
             that their listening sockets accept. To cover all, restart the programs under `sockopt run`.",
        )
        .after_long_help(EXIT_CODES);
    let command = processes::with_selection(command, true)
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Show what would change, and change nothing"),
        )
        .arg(args::json());
    args::with_shortcuts(args::with_control(command, &["config", "to"]))
}

const EXIT_CODES: &str = "Exit status:
  0   done, or there was nothing to do
  1   a process does not exist, access is denied, or every option was refused
  2   wrong usage
  78  the configuration has errors";

pub(crate) fn apply(matches: &ArgMatches) -> u8 {
    applied(matches).unwrap_or_else(|code| code)
}

fn applied(matches: &ArgMatches) -> Result<u8, u8> {
    let selection = Selection::new(matches, None)?;
    let loaded = args::loaded(&args::variables(matches));
    if loaded.disabled {
        output::error("SOCKOPT_DISABLE is set: nothing is done", None);
        return Err(exit::CANNOT_WORK);
    }
    let parsed = loaded.configuration.parse();
    check::report(&loaded, &parsed.compile(&Process::default()))?;
    if !loaded.is_configured() {
        let help = "give an option such as --dead-peer-timeout 15s, or --config FILE";
        output::error("nothing is configured", Some(help));
        return Err(exit::USAGE);
    }
    let is_dry = matches.get_flag("dry-run");
    let found = selection.look();
    let mut done = Vec::new();
    let mut names_hosts = false;
    for looked in &found.processes {
        // The errors do not depend on the process.
        let Ok(rules) = parsed.compile(&looked.process).rules else { continue };
        names_hosts |= rules.scope_names_hosts();
        let new = namespace::as_new(looked.pid, rules.compared_with_new());
        let subjects = subjects(looked, &rules).into_iter();
        let means = Means { rules: &rules, new: &new, is_dry, keeper: None };
        let sockets = subjects.filter_map(|subject| subject.retrofit(looked, &means));
        done.push(Done { looked, sockets: sockets.collect() });
    }
    let code = found.report();
    if names_hosts {
        output::warning(
            "--to names a host, and by which name a program has connected is not known: it matches nothing",
            Some("use addresses"),
        );
    }
    if matches.get_flag("json") {
        let errors = found.failures.iter().filter(|failure| failure.is_fatal).map(|t| t.message.as_str()).collect();
        output::print(&output::json(&Report { dry_run: is_dry, processes: &done, errors }, true));
    } else {
        output::print(&done.iter().map(|done| done.people(is_dry)).collect::<String>());
        let changed = done.iter().flat_map(|done| &done.sockets).filter(|socket| !socket.changes.is_empty()).count();
        if !done.is_empty() {
            output::print(&format!(
                "{} {}\n",
                Count(changed, "socket"),
                if is_dry { "would change" } else { "changed" }
            ));
        }
        notes(&done);
    }
    let applied = || done.iter().flat_map(|done| &done.sockets);
    let all_refused =
        applied().any(Applied::is_refused) && applied().all(|socket| socket.is_refused() || !socket.is_meant());
    Ok(if all_refused { exit::CANNOT_WORK } else { code })
}
