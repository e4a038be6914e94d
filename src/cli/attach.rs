//! `sockopt attach`, `status` and `detach`: options in all programs of a control group, set by programs in the kernel.

use std::ffi::OsString;
use std::path::Path;

use cgroup::{Attachment, Group, HostNames, Refusal, Refused, Tables};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, ValueHint, value_parser};
use policy::units::Count;
use policy::{Configuration, Process};
use serde::Serialize;

use crate::kernel::Looked;
use crate::{adopt, args, check, counts, dns, exit, output};

const EXIT_CODES: &str = "Exit status:
  0   done
  1   it failed; nothing has changed
  2   wrong usage
  78  the configuration has errors, or asks for what the kernel cannot do";

/// The control group that is meant.
fn with_target(command: Command, is_required: bool) -> Command {
    // The kinds of targets are a line of their own below.
    let target = if is_required { "<TARGET>" } else { "[TARGET]" };
    let usage = format!("sockopt {} [OPTIONS] {target}", command.get_name());
    command
        .override_usage(usage)
        .arg(
            Arg::new("target")
                .value_name("TARGET")
                .help("The control group: its directory, or its path as in /proc/PID/cgroup")
                .long_help(
                    "The control group (version 2): its directory, such as /sys/fs/cgroup/system.slice/x.service, or its path \
                     as in /proc/PID/cgroup, such as /system.slice/x.service. All groups in it are meant too, also those \
                     that are made later. In its place, one of the next four can be given.",
                )
                // Not beside another kind: it is in a group with them.
                .required(is_required)
                .value_hint(ValueHint::DirPath)
                .value_parser(value_parser!(OsString)),
        )
        .arg(
            Arg::new("pid")
                .long("pid")
                .value_name("PID")
                .help("The control group of this process")
                .value_parser(value_parser!(u32)),
        )
        .arg(
            Arg::new("unit")
                .long("unit")
                .value_name("NAME")
                .help("The control group of this active systemd unit")
                .long_help(
                    "The control group of this systemd unit (nginx, nginx.service, user.slice). It exists while the unit is \
                     active. Each start of a service makes a new one: `ExecStartPre=+sockopt attach --unit %n` in the unit \
                     attaches at every start, and `sockopt agent` attaches again when it sees a new one.",
                ),
        )
        .arg(
            Arg::new("container")
                .long("container")
                .value_name("ID")
                .help("The control group of this running container")
                .long_help(
                    "The control group of this running container, by its ID or the first characters of it, as `docker ps`, \
                     `podman ps`, `nerdctl ps` and `crictl ps` show it. The runtime does not matter and is not asked.",
                ),
        )
        .arg(
            Arg::new("kubernetes")
                .long("kubernetes")
                .action(ArgAction::SetTrue)
                .help("The control group of all pods of this node"),
        )
        .group(ArgGroup::new("group").args(["target", "pid", "unit", "container", "kubernetes"]).required(is_required))
}

pub(crate) fn command() -> Command {
    let command = Command::new("attach")
        .about("Set options in the kernel, for a control group")
        .long_about(
            "Attaches eBPF programs to a control group. In the kernel, they set the configuration's options on every socket \
             that a process in the group connects, listens on or accepts. Nothing is loaded into the processes, so static \
             programs, Go, setuid programs and io_uring are covered as well. Processes that run already are covered from \
             now on, and the sockets that they have already get the options of their rule as well, unless --no-adopt is \
             given.\n\n\
             The eBPF programs stay attached when the command has ended, until `sockopt detach`. Attaching again replaces \
             the configuration without a gap.\n\n\
             It needs root (or CAP_BPF and CAP_NET_ADMIN; CAP_PERFMON too for rules with process and for --metrics), and \
             Linux 5.10. eBPF programs of others are never displaced: if one is attached that ours would replace, nothing \
             is done.",
        )
        .after_long_help(EXIT_CODES);
    with_arguments(command)
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .conflicts_with("watch")
                .help("Try the options, list what sets each, attach nothing"),
        )
        .arg(
            Arg::new("watch")
                .long("watch")
                .action(ArgAction::SetTrue)
                .hide_short_help(true)
                .help("Stay, and follow changes, as sockopt agent does"),
        )
    .arg(
        Arg::new("metrics")
            .long("metrics")
            .action(ArgAction::SetTrue)
            .hide_short_help(true)
            .help("Count sockets, and how connections end, for sockopt status")
            .long_help(
                "Count for each rule the sockets that it was carried out on and how their connections ended: `sockopt status` \
                 shows it. Needs CAP_PERFMON as well, and a kernel that describes its types (CONFIG_DEBUG_INFO_BTF). \
                 `sockopt agent --metrics` serves the counters to Prometheus.",
            ),
    )
}

/// What is attached, and where.
pub(crate) fn with_arguments(command: Command) -> Command {
    let command = with_target(command, true).arg(
        Arg::new("partial").long("partial").action(ArgAction::SetTrue).help("Leave out what the kernel cannot do"),
    );
    let command = dns::with_argument(command).arg(
        Arg::new("no-adopt")
            .long("no-adopt")
            .action(ArgAction::SetTrue)
            .hide_short_help(true)
            .help("Leave sockets alone that are there already: options only for new connections and listeners"),
    );
    args::with_shortcuts_of_kernel(args::with_control(command, &["config"]))
}

pub(crate) fn detach_command() -> Command {
    with_target(
        Command::new("detach")
            .about("Undo attach")
            .long_about(
                "Takes the programs of `sockopt attach` off a control group. Sockets keep the options that they have; the \
                 applications may change them again.",
            )
            .after_long_help(
                "Exit status:
  0   done
  1   nothing is attached there, or it could not be taken off
  2   wrong usage",
            ),
        true,
    )
}

pub(crate) fn status_command() -> Command {
    let command = Command::new("status")
        .about("List what is attached")
        .long_about(
            "Lists what is attached on this machine, by which configuration. With a target: what is attached to that control \
             group, and whether anything is, by the exit status. So it serves as a readiness probe of Kubernetes.",
        )
        .after_long_help(
            "Exit status:
  0   success
  1   nothing is attached to the target, or it cannot be looked at
  2   wrong usage",
        );
    with_target(command, false).arg(args::json())
}

pub(crate) fn group(matches: &ArgMatches) -> Result<Group, Refusal> {
    let text = |name| matches.get_one::<String>(name);
    if let Some(pid) = matches.get_one::<u32>("pid") {
        Group::of_process(*pid)
    } else if let Some(name) = text("unit") {
        Group::of_unit(name)
    } else if let Some(id) = text("container") {
        Group::of_container(id)
    } else if let Some(target) = matches.get_one::<OsString>("target") {
        Group::at(Path::new(target))
    } else {
        Group::of_pods()
    }
}

fn refused(refusal: &Refusal) -> u8 {
    output::error(&refusal.to_string(), None);
    exit::CANNOT_WORK
}

pub(crate) fn attach(matches: &ArgMatches) -> u8 {
    let loaded = args::loaded(&args::variables(matches));
    // What is wrong with the configuration is said even if there is no such group.
    let group = group(matches);
    if matches.get_flag("dry-run") {
        let host_names = dns::asked(matches);
        let shown = group.as_ref().map_err(refused).and_then(|group| show(&loaded, group, host_names));
        let prepared = shown.and_then(|()| prepared(&loaded, matches, group.as_ref().ok()));
        return prepared.map_or_else(|code| code, |_| exit::OK);
    }
    let attached = prepared(&loaded, matches, group.as_ref().ok())
        .and_then(|prepared| put(&group.map_err(|refusal| refused(&refusal))?, &prepared));
    attached.map_or_else(|code| code, |_| exit::OK)
}

/// Lists what would be attached. What is wrong with a configuration is not for here.
fn show(loaded: &load::Loaded, group: &Group, host_names: HostNames) -> Result<(), u8> {
    let Ok(rules) = loaded.configuration.parse().into_rules(None).0 else { return Ok(()) };
    let looked = Looked::at(&rules, Some(group), host_names);
    output::print(&looked.table());
    output::note(&looked.note());
    output::note(&format!("nothing was attached to {}", output::plain(&group.path().display().to_string())));
    Ok(())
}

/// A policy that can be attached.
pub(crate) struct Prepared {
    tables: Tables,
    /// What it was compiled from.
    source: Configuration,
    /// Whether its rules are other ones in other processes.
    asks_for_process: bool,
    /// What this kernel refused when it was tried.
    refused: Refused,
    /// What is to be said of host names.
    host_names: Vec<String>,
    /// Whether sockets that are there already get the options.
    adopts: bool,
    /// Where it came from.
    configuration: String,
    rules: usize,
}

/// Compiles what was read. What is wrong with it is said; so is what this kernel cannot do in the group, if there is one.
///
/// # Errors
/// The exit status.
pub(crate) fn prepared(loaded: &load::Loaded, matches: &ArgMatches, group: Option<&Group>) -> Result<Prepared, u8> {
    if loaded.disabled {
        output::error("SOCKOPT_DISABLE is set: nothing is done", None);
        return Err(exit::CANNOT_WORK);
    }
    let parsed = loaded.configuration.parse();
    check::report(loaded, &parsed.compile(&Process::default()))?;
    if !loaded.is_configured() {
        let help = "give --config FILE, or an option such as --dead-peer-timeout 15s";
        output::error("nothing is configured", Some(help));
        return Err(exit::USAGE);
    }
    // Its errors were reported.
    let rules = parsed.into_rules(None).0.map_err(|_| exit::CONFIGURATION)?;
    let too_large = |what: cgroup::tables::TooLarge| {
        output::error(&what.to_string(), None);
        exit::CONFIGURATION
    };
    let is_known = matches.try_contains_id("metrics").is_ok();
    let counts = is_known && matches.value_source("metrics") == Some(ValueSource::CommandLine);
    let compiled = |unable: &Refused| Tables::without(&rules, unable, counts).map_err(too_large);
    let asked = Refused { host_names: dns::asked(matches), ..Refused::default() };
    let tables = compiled(&asked)?;
    // What this kernel cannot do is known only when it was tried.
    let unable = match group {
        Some(group) => cgroup::probe(group, &tables).map_err(|refusal| refused(&refusal))?,
        None => asked.clone(),
    };
    let tables = if unable == asked { tables } else { compiled(&unable)? };
    let is_partial = matches.get_flag("partial");
    for lost in &tables.lost {
        let text = lost.to_string();
        if is_partial { output::warning(&format!("left out: {text}"), None) } else { output::error(&text, None) }
    }
    if !tables.lost.is_empty() && !is_partial {
        output::error(
            "the kernel cannot do all that the configuration asks for: nothing was attached",
            Some(dns::help(&rules, &unable)),
        );
        return Err(exit::CONFIGURATION);
    }
    if !tables.connects && !tables.listens {
        output::error("the configuration sets nothing that the kernel can set", None);
        return Err(exit::CONFIGURATION);
    }
    let host_names = dns::notes(&rules, &unable);
    let document = loaded.configuration.document.as_ref();
    let configuration =
        document.map_or_else(|| format!("options of {}", output::origin()), |source| source.name.clone());
    Ok(Prepared {
        tables,
        source: loaded.configuration.clone(),
        asks_for_process: loaded.asks_for_process(),
        refused: unable,
        host_names,
        adopts: !matches.get_flag("no-adopt"),
        configuration,
        rules: rules.rule_count(),
    })
}

/// Attaches it, or puts it in the place of what is attached: how often that was done there so far.
///
/// # Errors
/// The exit status; why was said.
pub(crate) fn put(group: &Group, prepared: &Prepared) -> Result<u64, u8> {
    let Prepared { tables, configuration, rules, .. } = prepared;
    let done = cgroup::attach(group, tables, configuration, *rules).map_err(|refusal| refused(&refusal))?;
    if done.has_mounted {
        output::note(&format!("a BPF file system was mounted at {}", cgroup::FILE_SYSTEM));
    }
    let what = if done.generation == 1 { "attached to" } else { "replaced at" };
    output::print(&format!(
        "{what} {}: {}; {}\n",
        output::plain(&group.path().display().to_string()),
        source(configuration, *rules),
        members(group),
    ));
    for note in &prepared.host_names {
        output::note(note);
    }
    for other in nested(group) {
        output::note(&other);
    }
    if prepared.adopts {
        let Prepared { source: configuration, asks_for_process, refused, .. } = prepared;
        let asks_for_process = *asks_for_process;
        let policy = adopt::Policy { configuration, asks_for_process, tables, refused };
        adopt::adopt(group, &policy, &done.remembered);
    }
    Ok(done.generation)
}

/// Where options come from, in words.
fn source(configuration: &str, rules: usize) -> String {
    let name = output::plain(configuration);
    if rules == 0 { name } else { format!("{name}, {}", Count(rules, "rule")) }
}

/// Who is in a group now.
fn members(group: &Group) -> String {
    let (processes, has_others) = group.processes();
    match (processes.len(), has_others) {
        (0, false) => "no process is in this control group yet".to_owned(),
        (1, false) => "1 process now".to_owned(),
        (count, false) => format!("{count} processes now"),
        (count, true) => format!("{count} processes now, and others that this PID namespace does not show"),
    }
}

/// What else of ours runs for the same programs: attached to a group around this one, or within it. The kernel runs the inner one's
/// first.
fn nested(group: &Group) -> Vec<String> {
    let others = cgroup::status().unwrap_or_default();
    let others = others.into_iter().filter(|other| other.is_in_force() && other.group_id != group.id());
    let said = |other: Attachment| {
        let path = Path::new(&other.about.group);
        let (outer, inner) = if group.path().starts_with(path) {
            (path, group.path())
        } else if path.starts_with(group.path()) {
            (group.path(), path)
        } else {
            return None;
        };
        let plain = |path: &Path| output::plain(&path.display().to_string());
        Some(format!(
            "sockets of {} get the options of {} as well, whose values are set last",
            plain(inner),
            plain(outer)
        ))
    };
    others.filter_map(said).collect()
}

pub(crate) fn detach(matches: &ArgMatches) -> u8 {
    cgroup::clear_away();
    let detached = group(matches).and_then(|group| Ok((cgroup::detach(&group)?, group)));
    match detached {
        Ok((about, group)) => {
            output::print(&format!(
                "detached from {}: {}; sockets keep the options that they have\n",
                output::plain(&group.path().display().to_string()),
                source(&about.configuration, about.rules),
            ));
            exit::OK
        }
        Err(refusal) => refused(&refusal),
    }
}

pub(crate) fn status(matches: &ArgMatches) -> u8 {
    let asked = matches.get_one::<clap::Id>("group").is_some();
    if !asked {
        cgroup::clear_away();
    }
    let looked = if asked { group(matches).map(Some) } else { Ok(None) };
    let found = looked.and_then(|group| {
        let mut attachments = cgroup::status()?;
        if let Some(group) = group {
            attachments.retain(|one| one.group_id == group.id() && one.is_in_force());
            if attachments.is_empty() {
                return Err(Refusal::NothingAttached(group.path().to_owned()));
            }
        }
        Ok(attachments)
    });
    let attachments = match found {
        Ok(attachments) => attachments,
        Err(refusal) => return refused(&refusal),
    };
    if matches.get_flag("json") {
        let shown: Vec<Shown<'_>> = attachments.iter().map(Shown::of).collect();
        output::print(&output::json(&Report { attachments: shown }, true));
    } else if attachments.is_empty() {
        output::print("nothing is attached\n");
    } else {
        output::print(&attachments.iter().map(in_words).collect::<String>());
    }
    exit::OK
}

fn in_words(attachment: &Attachment) -> String {
    let about = &attachment.about;
    let group = if about.group.is_empty() { "a control group that is not known" } else { &about.group };
    let state = if attachment.is_gone {
        " (exists no more; the next attach or detach clears this away)".to_owned()
    } else if attachment.programs.is_empty() {
        " (somebody has detached the programs: attach again)".to_owned()
    } else {
        String::new()
    };
    let adopted = match about.adopted {
        0 => String::new(),
        adopted => format!(
            "  adopted: {} that {} there before\n",
            Count(adopted, "socket"),
            if adopted == 1 { "was" } else { "were" }
        ),
    };
    let programs: Vec<&str> = attachment.programs.iter().map(|(place, _)| *place).collect();
    format!(
        "{}{state}\n  configuration: {}, generation {}\n{adopted}{}  programs: {}\n{}",
        output::plain(group),
        source(&about.configuration, about.rules),
        about.generation,
        attachment.known_addresses().map(dns::known).unwrap_or_default(),
        if programs.is_empty() { "none".to_owned() } else { programs.join(", ") },
        attachment.counts().as_deref().map(counts::table).unwrap_or_default(),
    )
}

#[derive(Serialize)]
struct Report<'a> {
    attachments: Vec<Shown<'a>>,
}

/// One attachment as JSON.
#[derive(Serialize)]
struct Shown<'a> {
    cgroup: &'a str,
    cgroup_id: u64,
    is_gone: bool,
    configuration: &'a str,
    rules: usize,
    generation: u64,
    /// Sockets that were there before.
    adopted: usize,
    /// Addresses that are known by host names; nothing if no rule names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    known_addresses: Option<usize>,
    pins: String,
    programs: Vec<ShownProgram>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Vec<counts::Shown>>,
}

#[derive(Serialize)]
struct ShownProgram {
    at: &'static str,
    id: u32,
}

impl<'a> Shown<'a> {
    fn of(attachment: &'a Attachment) -> Self {
        let Attachment { about, programs, .. } = attachment;
        Self {
            cgroup: &about.group,
            cgroup_id: attachment.group_id,
            is_gone: attachment.is_gone,
            configuration: &about.configuration,
            rules: about.rules,
            generation: about.generation,
            adopted: about.adopted,
            known_addresses: attachment.known_addresses(),
            pins: attachment.pins.display().to_string(),
            programs: programs.iter().map(|(at, id)| ShownProgram { at, id: *id }).collect(),
            metrics: attachment.counts().map(|counts| counts.iter().map(counts::Shown::of).collect()),
        }
    }
}
