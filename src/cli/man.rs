//! `sockopt man`: manual pages, from the same definitions as the help.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, ValueHint, value_parser};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::pages::PAGES;
use crate::{exit, output};

/// What there is a page of, besides the command as a whole.
const SUBCOMMANDS: [&str; 13] = [
    "run",
    "check",
    "explain",
    "show",
    "apply",
    "import",
    "attach",
    "agent",
    "detach",
    "status",
    "completions",
    "man",
    "schema",
];

pub(crate) fn command() -> Command {
    Command::new("man")
        .about("Print a manual page")
        .long_about(
            "Prints a manual page in roff format: of sockopt, of a subcommand, of the configuration file (sockopt.toml) or of the \
             library (libsockopt). On a terminal, man(1) shows the page. With --out, it writes all pages to man1, man5 and man7 below a \
             directory such as /usr/local/share/man.",
        )
        .after_long_help(exit::section(&exit::PRINTING))
        .arg(
            Arg::new("page")
                .value_name("PAGE")
                .help("A subcommand, sockopt.toml or libsockopt; without it, sockopt itself")
                .value_parser(PossibleValuesParser::new(
                    SUBCOMMANDS.into_iter().chain(PAGES.iter().map(|page| page.name)),
                ))
                .hide_possible_values(true),
        )
        .arg(
            Arg::new("out")
                .long("out")
                .value_name("DIRECTORY")
                .help("Write all pages below this directory")
                .value_hint(ValueHint::DirPath)
                .value_parser(value_parser!(OsString))
                .conflicts_with("page"),
        )
}

/// Prints a page of the command as a whole, or writes all of them.
pub(crate) fn man(matches: &ArgMatches, mut command: Command) -> u8 {
    command.build();
    if let Some(folder) = matches.get_one::<OsString>("out").map(Path::new) {
        return match write_pages(&command, folder) {
            Ok(()) => exit::OK,
            Err(error) => failed(&folder.display().to_string(), &error),
        };
    }
    let name = matches.get_one::<String>("page").map(String::as_str);
    let rendered = match PAGES.iter().find(|page| Some(page.name) == name) {
        Some(page) => Ok(ascii(&page.render())),
        None => render(name.and_then(|name| command.find_subcommand(name)).unwrap_or(&command), &command),
    };
    match rendered {
        Ok(page) if io::stdout().is_terminal() && is_shown(&page) => {}
        Ok(page) => output::print_bytes(&page),
        Err(error) => return failed("the page", &error),
    }
    exit::OK
}

fn failed(what: &str, error: &io::Error) -> u8 {
    output::error(&format!("{what} cannot be written: {error}"), None);
    exit::CANNOT_WORK
}

/// Has man(1) show a page; false where there is none that can.
fn is_shown(page: &[u8]) -> bool {
    let man = Process::new("man").args(["-l", "-"]).stdin(Stdio::piped()).spawn();
    let Ok(mut man) = man else { return false };
    let given = man.stdin.take().is_some_and(|mut input| input.write_all(page).is_ok());
    man.wait().is_ok_and(|status| status.success()) && given
}

/// `man1/sockopt.1`, a page for each subcommand beside it, and those about the file and the library.
fn write_pages(command: &Command, folder: &Path) -> io::Result<()> {
    let into = |section: u8, name: &str, page: &[u8]| {
        let folder = folder.join(format!("man{section}"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{name}.{section}")), page)
    };
    for page in std::iter::once(command).chain(command.get_subcommands()) {
        into(1, name(page), &render(page, command)?)?;
    }
    PAGES.iter().try_for_each(|page| into(page.section, page.name, &ascii(&page.render())))
}

/// `sockopt` or `sockopt-run`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// The page of a command, which names those of all the others that belong to the whole.
fn render(command: &Command, whole: &Command) -> io::Result<Vec<u8>> {
    let command = command.clone().version(None::<&str>).mut_args(|argument| {
        // The renderer knows nothing of other names.
        match (argument.get_visible_aliases(), argument.get_long_help().or(argument.get_help())) {
            (Some(aliases), Some(help)) if !aliases.is_empty() => {
                let help = format!("{help} Also --{}.", aliases.join(", --"));
                argument.long_help(help)
            }
            _ => argument,
        }
    });
    let title = name(&command).to_uppercase();
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    // The renderer leaves out a date that is empty, and what follows moves to its place.
    writeln!(page, ".TH {title} 1 \"\" \"sockopt {}\" \"User Commands\"", env!("CARGO_PKG_VERSION"))?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::new();
    let sections = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    for line in sections.lines() {
        match (line.strip_suffix(':').filter(|line| !line.starts_with(' ')), line.trim()) {
            (Some(heading), _) => {
                roff.control("SH", [heading.to_uppercase().as_str()]);
            }
            (None, "") => {}
            // Two columns, or a line for itself.
            (None, line) => {
                roff.control("TP", []);
                match line.split_once(' ').filter(|_| !line.starts_with("sockopt ")) {
                    Some((entry, meaning)) => roff.text([bold(entry)]).text([roman(meaning.trim())]),
                    None => roff.text([bold(line)]),
                };
            }
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    let subcommands = whole.get_subcommands().map(|subcommand| format!("sockopt-{}", subcommand.get_name()));
    let others = std::iter::once("sockopt".to_owned()).chain(subcommands).filter(|page| page != name(&command));
    let others = others
        .map(|page| format!("{page}(1)"))
        .chain(PAGES.iter().map(|page| format!("{}({})", page.name, page.section)))
        .chain(["tcp(7)".into(), "socket(7)".into(), "ld.so(8)".into()]);
    roff.text([roman(others.collect::<Vec<_>>().join(", "))]);
    roff.to_writer(&mut page)?;
    Ok(ascii(&String::from_utf8_lossy(&page)))
}

/// groff(7) takes ASCII, and other characters by their number.
fn ascii(page: &str) -> Vec<u8> {
    let escaped = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    page.chars().map(escaped).collect::<String>().into_bytes()
}
