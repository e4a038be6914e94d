//! `sockopt explain`: which rule a connection gets, what is set on it and why, and how long its peer may be gone unnoticed.

use cgroup::HostNames;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use policy::Process;
use policy::explain::Explainer;

use crate::explain_asked::{asked, base_name, connections};
use crate::explain_found::Context;
use crate::explain_report::{Explanation, Figures, Report};
use crate::kernel::Looked;
use crate::{args, check, exit, output, sysctl};

const EXAMPLES: &str = "Examples:
  sockopt explain --config sockopt.toml --process java 10.1.2.3:443
  sockopt explain --dead-peer-timeout 15s --all example.org:443
  sockopt explain --listen :8080 --from 10.9.9.9";

pub(crate) fn command() -> Command {
    let command = Command::new("explain")
        .about("Explain a connection's options, and when a dead peer is noticed")
        .long_about(
            "Shows the rule that matches, the options and where they come from, the setsockopt calls in order, and for each \
             TCP state how long a vanished peer goes unnoticed: with this configuration, and in a program that \
             sets nothing. The times are computed with the kernel's formulas, this host's net.ipv4.* and the rounding of \
             the kernel's timers.",
        )
        .after_long_help(format!(
            "{}\n\n{EXAMPLES}",
            exit::section(&[
                (exit::OK, "explained"),
                (exit::NO_ADDRESS, "a name has no address"),
                (exit::USAGE, "wrong usage"),
                (exit::CONFIGURATION, "the configuration has errors"),
            ])
        ))
        .arg(
            Arg::new("host")
                .value_name("HOST[:PORT]")
                .help("A destination: an address, or a host name (all its addresses are explained)"),
        )
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("ADDRESS")
                .help("Explain a listening socket instead, such as :8080, and what it accepts"),
        )
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("CLIENT")
                .requires("listen")
                .hide_short_help(true)
                .help("With --listen: explain a connection that is accepted from this client"),
        )
        .group(ArgGroup::new("what").args(["host", "listen"]).required(true))
        .arg(
            Arg::new("program")
                .long("process")
                .value_name("NAME")
                .hide_short_help(true)
                .help("Assume that this process connects: the base name of its executable or script, for rules with `process`"),
        )
        .arg(
            Arg::new("command")
                .long("command")
                .value_name("LINE")
                .hide_short_help(true)
                .help("Assume this command line, for rules with `command`"),
        )
        .arg(Arg::new("all").long("all").action(ArgAction::SetTrue).help("List every rule, and why it does not match"))
        .arg(
            Arg::new("for")
                .long("for")
                .value_name("BACKEND")
                .value_parser(check::WAYS)
                .hide_possible_values(true)
                .hide_short_help(true)
                .help(
                    "Also show what this backend cannot do: library, supervisor, or kernel (sockopt attach). With kernel, \
                     explain shows which eBPF program sets each option; if root runs it, the options are tested on this kernel",
                ),
        )
        .arg(args::json());
    args::with_shortcuts(args::with_control(command, &["config", "to"]))
}

pub(crate) fn explain(matches: &ArgMatches) -> u8 {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let connections = match connections(text("host"), text("listen"), text("from")) {
        Ok(connections) => connections,
        Err((why, code)) => {
            output::error(&why, None);
            return code;
        }
    };
    let process = Process {
        names: text("program").map(base_name).into_iter().collect(),
        command: text("command").unwrap_or_default().to_owned(),
    };
    let loaded = args::loaded(&args::variables(matches));
    let parsed = loaded.configuration.parse();
    let compiled = parsed.compile(&process);
    if let Err(code) = check::report(&loaded, &compiled) {
        return code;
    }
    let Ok(rules) = &compiled.rules else { return exit::CONFIGURATION };
    let (machine, missing) = sysctl::read();
    let asked = asked(text("host").unwrap_or_default());
    let mut notes = Vec::new();
    let every = text("for").and_then(|_| loaded.configuration.parse().into_rules(None).0.ok());
    let looked = every
        .as_ref()
        .filter(|_| text("for") == Some("kernel"))
        .map(|every| Looked::at(every, None, HostNames::Unasked));
    match (&looked, every.as_ref().zip(text("for"))) {
        (Some(looked), _) => {
            notes.push(looked.note());
            let refused =
                |lost: &String| format!("sockopt attach refuses this (with --partial it leaves this out): {lost}");
            notes.extend(looked.lost.iter().map(refused));
        }
        (None, Some((every, way))) => notes.extend(check::what_it_cannot(way, every)),
        (None, None) => {}
    }
    let context = Context {
        rules,
        hosts: asked.hosts(rules),
        is_by_address: asked.name.is_none(),
        explainer: Explainer::new(&parsed, &process, &asked),
        sources: &compiled.sources,
        sysctls: &machine.sysctls,
        process: &process,
        all: matches.get_flag("all"),
        kernel: looked.as_ref().map(|looked| &looked.refused),
    };
    let mut explanations: Vec<Explanation> = Vec::new();
    for what in connections {
        let explanation = context.explain(&what);
        // The addresses of a name mostly get the same.
        match explanations.iter_mut().find(|known| known.found == explanation.found) {
            Some(known) => known.addresses.extend(explanation.addresses),
            None => explanations.push(explanation),
        }
    }
    if loaded.disabled {
        notes.push("SOCKOPT_DISABLE is set: the library does nothing".to_owned());
    } else if !loaded.is_configured() {
        notes.push("no configuration: the library sets nothing".to_owned());
    }
    if !missing.is_empty() {
        notes.push(format!(
            "cannot be read here, so the kernel's default is assumed: net.ipv4.{}",
            missing.join(", net.ipv4.")
        ));
    }
    if matches.get_flag("json") {
        let report = Report { connections: &explanations, notes: &notes, machine: Figures::new(&machine.sysctls) };
        output::print(&output::json(&report, true));
    } else {
        let blocks: Vec<String> = explanations.iter().map(Explanation::text).collect();
        output::print(&blocks.join("\n"));
        if explanations.iter().any(|explanation| !explanation.found.unnoticed.is_empty()) {
            output::print(&format!("\n{}\n", Figures::new(&machine.sysctls)));
        }
        notes.iter().for_each(|note| output::note(note));
    }
    exit::OK
}
