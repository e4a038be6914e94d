//! Completions and manual pages, from the same definitions as the help.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::str::FromStr;

use clap::builder::PossibleValue;
use clap::{ArgMatches, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use load::DEFAULT_FILE;

use crate::pages::PAGES;
use crate::{args, exit, output};

/// The exit codes of what only prints.
pub(crate) const CODES: [(u8, &str); 3] =
    [(exit::OK, "success"), (exit::CANNOT_WORK, "the output could not be written"), (exit::USAGE, "wrong usage")];

/// The end of `sockopt --help`: sections of a heading with a colon and entries in two columns.
pub(crate) fn after_help() -> String {
    format!(
        "{}\n  else that of the program that run became

Environment:
  SOCKOPT_CONFIG       configuration file, absolute path
  SOCKOPT_CONFIG_TOML  the configuration itself, where no file is named
  SOCKOPT_...          any option but raw: SOCKOPT_DEAD_PEER_TIMEOUT=15s
  SOCKOPT_TO           the option variables only for these destinations
  SOCKOPT_PROCESS      the option variables only in these processes
  SOCKOPT_LOG          off, error, warn, info or debug
  SOCKOPT_LOG_FILE     where to log instead of stderr, absolute path
  SOCKOPT_STRICT       1: programs end before main if the configuration is wrong
  SOCKOPT_DISABLE      1: the library does nothing
  SOCKOPT_LIBRARY      libsockopt.so for sockopt run, absolute path
  NO_COLOR             no colours, even on a terminal

Files:
  {DEFAULT_FILE}  read where no variable names another",
        exit::section(&exit::ALL)
    )
}

pub(crate) fn completions(matches: &ArgMatches) -> u8 {
    let shell = matches.get_one::<String>("shell").and_then(|name| Shell::from_str(name).ok());
    let Some(shell) = shell else { return exit::USAGE };
    let mut script = Vec::new();
    let mut command = args::command();
    clap_complete::generate(shell, &mut command, "sockopt", &mut script);
    let run = command.find_subcommand("run").into_iter().flat_map(Command::get_arguments);
    let valued = run
        .filter(|option| option.get_action().takes_values())
        .filter_map(|option| option.get_long_and_visible_aliases());
    let valued: Vec<String> = valued.flatten().map(|long| format!("--{long}")).collect();
    script.extend(match shell {
        Shell::Bash => BASH_PROGRAM.replace("VALUED", &valued.join("|")).into_bytes(),
        Shell::Fish => {
            let mut lines = FISH_PROGRAM.replace("VALUED", &valued.join(" "));
            for subcommand in command.get_subcommands() {
                for values in subcommand.get_positionals().map(|argument| argument.get_possible_values()) {
                    let names: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
                    if !names.is_empty() {
                        let condition = format!("__fish_sockopt_using_subcommand {}", subcommand.get_name());
                        lines += &format!("complete -c sockopt -n \"{condition}\" -f -a \"{}\"\n", names.join(" "));
                    }
                }
            }
            lines.into_bytes()
        }
        _ => Vec::new(),
    });
    written(io::stdout().lock().write_all(&script), "stdout")
}

/// What `run` starts is a command with completions of its own, which the generated script for bash does not know.
const BASH_PROGRAM: &str = r#"
_sockopt_or_program() {
    # COMP_WORDS is split at colons and equals signs as well.
    local line=${COMP_LINE:0:COMP_POINT} words at=2 index=0 seen=
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    local last=$(( ${#words[@]} - 1 ))
    if [[ ${words[1]-} == run ]]; then
        while (( at < last )); do
            case ${words[at]} in
                VALUED) (( at += 2 )) ;;
                --) (( ++at )); break ;;
                -*) (( ++at )) ;;
                *) break ;;
            esac
        done
        if (( at == last )) && [[ ${words[at]} && ( ${words[at]} != -* || ${words[at - 1]} == -- ) ]]; then
            mapfile -t COMPREPLY < <(compgen -c -- "${words[at]}")
            return 0
        elif (( at < last )); then
            if declare -F _command_offset >/dev/null; then
                local before
                printf -v before %s "${words[@]:0:at}"
                while [[ $seen != "$before" ]] && (( index < COMP_CWORD )); do
                    seen+=${COMP_WORDS[index++]}
                done
                _command_offset "$index"
            fi
            return 0
        fi
    fi
    _sockopt "$@"
}
complete -F _sockopt_or_program -o bashdefault -o default sockopt
"#;

/// The same for fish, whose generated script knows no arguments without a name.
const FISH_PROGRAM: &str = r#"
complete -c sockopt -n "__fish_sockopt_using_subcommand run" -x -a "(__fish_complete_subcommand --fcs-skip=2 -- VALUED)"
"#;

pub(crate) fn man(matches: &ArgMatches) -> u8 {
    let mut command = args::command();
    command.build();
    if let Some(folder) = matches.get_one::<OsString>("out").map(Path::new) {
        return written(write_pages(&command, folder), &folder.display().to_string());
    }
    let name = matches.get_one::<String>("page").map(String::as_str);
    let rendered = match PAGES.iter().find(|page| Some(page.name) == name) {
        Some(page) => Ok(ascii(&page.render())),
        None => render(name.and_then(|name| command.find_subcommand(name)).unwrap_or(&command)),
    };
    match rendered {
        Ok(page) if io::stdout().is_terminal() && is_shown(&page) => exit::OK,
        Ok(page) => written(io::stdout().lock().write_all(&page), "stdout"),
        Err(error) => written(Err(error), "the page"),
    }
}

fn written(result: io::Result<()>, what: &str) -> u8 {
    match result {
        // Whoever has closed the pipe wants no more of it.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            output::error(&format!("{what} cannot be written: {error}"), None);
            exit::CANNOT_WORK
        }
        _ => exit::OK,
    }
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
        into(1, name(page), &render(page)?)?;
    }
    PAGES.iter().try_for_each(|page| into(page.section, page.name, &ascii(&page.render())))
}

/// `sockopt` or `sockopt-run`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn render(command: &Command) -> io::Result<Vec<u8>> {
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
    let pages = args::command();
    let subcommands = pages.get_subcommands().map(|subcommand| format!("sockopt-{}", subcommand.get_name()));
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
