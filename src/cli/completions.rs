//! `sockopt completions`: what a shell completes command lines by, from the same definitions as the help.

use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgMatches, Command};
use clap_complete::Shell;

use crate::{exit, output};

pub(crate) fn command() -> Command {
    Command::new("completions")
        .about("Print a completion script for a shell")
        .long_about(
            "Prints a script for the completion of sockopt's command lines. Where shells look for it:\n\nbash: \
             ~/.local/share/bash-completion/completions/sockopt\nzsh: _sockopt in a directory of fpath\nfish: \
             ~/.config/fish/completions/sockopt.fish",
        )
        .after_long_help(exit::section(&exit::PRINTING))
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .help("bash, zsh or fish")
                .required(true)
                .value_parser(PossibleValuesParser::new(["bash", "zsh", "fish"]))
                .hide_possible_values(true),
        )
}

/// Prints the script for the command as a whole.
pub(crate) fn completions(matches: &ArgMatches, mut command: Command) -> u8 {
    let shell = matches.get_one::<String>("shell").and_then(|name| Shell::from_str(name).ok());
    let Some(shell) = shell else { return exit::USAGE };
    let mut script = Vec::new();
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
    output::print_bytes(&script);
    exit::OK
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
