//! `--dns` of `attach` and `agent`: rules that name hosts, by what programs in the kernel learn from the answers of name servers.

use cgroup::{HostNames, Refused};
use clap::{Arg, ArgAction, ArgMatches, Command};
use policy::Rules;
use policy::matcher::Pattern;

/// With the option.
pub(crate) fn with_argument(command: Command) -> Command {
    command.arg(
        Arg::new("dns")
            .long("dns")
            .action(ArgAction::SetTrue)
            .hide_short_help(true)
            .help("Take rules that name hosts: learn their addresses from DNS answers")
            .long_help(
                "Take rules that name hosts in `to`. A program in the kernel reads the DNS answers that sockets in the group \
                 receive, over UDP from port 53, and learns the addresses of the names that rules have. The name in the \
                 question counts, in full, as search domains have completed it. What is looked up otherwise is not seen: in \
                 /etc/hosts, over TCP, TLS or HTTPS, by another process (nscd, resolved's varlink). The addresses are known to \
                 all programs in the group. Whoever can send the group a UDP packet from port 53 can make up an answer.",
            ),
    )
}

/// Whether it was given.
pub(crate) fn asked(matches: &ArgMatches) -> HostNames {
    if matches.get_flag("dns") { HostNames::Learned } else { HostNames::Unasked }
}

/// The host names that rules have.
fn names(rules: &Rules) -> impl Iterator<Item = &str> {
    rules.rules().flat_map(|rule| rule.hosts()).filter_map(Pattern::host)
}

/// What can be done about what the kernel cannot do.
pub(crate) fn help(rules: &Rules, unable: &Refused) -> &'static str {
    let would_help = unable.host_names == HostNames::Unasked && names(rules).next().is_some();
    if would_help && cgroup::probe::why_no_host_names().is_none() {
        "--dns learns the addresses of hosts from DNS answers; --partial leaves out what cannot be done"
    } else {
        "--partial leaves that out"
    }
}

/// What is to be said where names are learned.
pub(crate) fn notes(rules: &Rules, unable: &Refused) -> Vec<String> {
    if unable.host_names != HostNames::Learned {
        return Vec::new();
    }
    let mut all: Vec<&str> = names(rules).collect();
    all.sort_unstable();
    all.dedup();
    if all.is_empty() {
        return vec!["--dns has no effect: no rule names a host".to_owned()];
    }
    let mut notes = vec![
        "host names are learned from DNS answers over UDP port 53, from now on; not seen: /etc/hosts, nscd, resolved's \
         varlink, DNS over TCP, TLS or HTTPS"
            .to_owned(),
    ];
    let single: Vec<&str> = all.into_iter().filter(|name| !name.contains(['.', '*', '?'])).collect();
    if let [first, rest @ ..] = &single[..] {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        notes.push(format!(
            "{first}{more}: a search domain completes a name without a dot before it is asked for; write it in full, as \
             {first}.example.com"
        ));
    }
    notes
}

/// How many addresses are known, for `sockopt status`.
pub(crate) fn known(addresses: usize) -> String {
    let what = if addresses == 1 { "1 address".to_owned() } else { format!("{addresses} addresses") };
    format!("  host names: {what} known from DNS answers\n")
}
