//! `sockopt import`: a sockopt.toml of the configuration that people already have.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};
use import::{Format, Request, Source};
use policy::Enforce;
use policy::units::Count;

use crate::{exit, output};

/// No file that people write comes near.
const LARGEST_FILE: u64 = 64 << 20;

pub(crate) fn command() -> Command {
    Command::new("import")
        .about("Convert configuration of other programs")
        .long_about(
            "Reads configuration files of other programs and prints a sockopt.toml that sets the same socket options. Each rule has a comment with \
             the file and line that it comes from. What a sockopt.toml cannot express is reported on stderr, with file and line. The result has no \
             errors.",
        )
        .after_long_help(format!(
            "{}\n\nKinds of files, for --from:{}\n\nKinds of notes:{}\n\nExamples:\n  sockopt import redis.yaml --namespace prod > sockopt.toml\n  \
             kubectl get destinationrules,envoyfilters -A -o yaml | sockopt import -",
            exit::section(&[
                (exit::OK, "the configuration is printed"),
                (exit::NOT_ALL, "with --strict: something is missing in it"),
                (exit::USAGE, "wrong usage"),
                (exit::CONFIGURATION, "a file cannot be read, or its kind is unknown"),
            ]),
            Format::ALL.iter().map(|format| format!("\n  {:<10} {}", format.name(), format.meaning())).collect::<String>(),
            import::Kind::ALL.iter().map(|kind| format!("\n  {:<15} {}", kind.name(), kind.meaning())).collect::<String>(),
        ))
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("KIND")
                .value_parser(PossibleValuesParser::new(Format::ALL.iter().map(|format| format.name())))
                .hide_possible_values(true)
                .help("The kind of the files, if name and content do not show it"),
        )
        .arg(
            Arg::new("namespace")
                .long("namespace")
                .short('n')
                .value_name("NAME")
                .help("The namespace for documents without one; it completes short service names"),
        )
        .arg(
            Arg::new("enforce")
                .long("enforce")
                .value_name("BOOL|fill")
                .value_parser(PossibleValuesParser::new(["true", "false", "fill"]))
                .hide_possible_values(true)
                .help("Who wins if a program sets an option itself: true: the rules; false: the program; fill: the program, and the rules set only what it has left at the system's default"),
        )
        .arg(
            Arg::new("strict")
                .long("strict")
                .action(ArgAction::SetTrue)
                .help("Exit with 1 if a setting of the files is missing in the result"),
        )
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .help("The files; - is standard input")
                .required(true)
                .num_args(1..)
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(OsString)),
        )
}

pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let told = matches.get_one::<String>("from").and_then(|name| Format::from_name(name));
    let (mut sources, mut formats, mut failures) = (Vec::new(), Vec::new(), 0);
    for file in matches.get_many::<OsString>("files").into_iter().flatten() {
        let found = read(file).and_then(|source| match told.or_else(|| Format::of(&source)) {
            Some(format) => Ok((source, format)),
            None => Err((
                format!("{}: neither its name nor its content shows what kind of file this is", source.name),
                Some("use --from KIND"),
            )),
        });
        match found {
            Ok((source, format)) => {
                sources.push(source);
                formats.push(format);
            }
            Err((message, help)) => {
                output::error(&message, help);
                failures += 1;
            }
        }
    }
    if failures > 0 {
        return exit::CONFIGURATION;
    }
    let enforce = match matches.get_one::<String>("enforce").map(String::as_str) {
        Some("true") => Some(Enforce::Always),
        Some("false") => Some(Enforce::Never),
        Some(_) => Some(Enforce::Fill),
        None => None,
    };
    let request = Request { namespace: matches.get_one::<String>("namespace").cloned(), enforce };
    let outcome = import::import(&sources, &formats, &request);
    for note in &outcome.notes {
        let place = note.place.as_ref();
        let place = place.and_then(|place| sources.get(place.source).map(|source| (source, &place.span)));
        output::remark(note.kind.is_lost(), note.kind.name(), &note.message, note.help.as_deref(), place);
    }
    if outcome.more > 0 {
        output::note(&format!("{} not shown", Count(outcome.more, "more note")));
    }
    output::print_bytes(outcome.toml.as_bytes());
    if matches.get_flag("strict") && outcome.has_lost { exit::NOT_ALL } else { exit::OK }
}

/// A file's text, or standard input's.
fn read(file: &OsStr) -> Result<Source, (String, Option<&'static str>)> {
    let is_input = file == "-";
    let name = if is_input { "standard input".to_owned() } else { file.to_string_lossy().into_owned() };
    let content = if is_input { bytes(io::stdin().lock()) } else { File::open(Path::new(file)).and_then(bytes) };
    match content {
        Ok(bytes) if bytes.len() as u64 > LARGEST_FILE => {
            Err((format!("{name} is larger than {} MiB", LARGEST_FILE >> 20), None))
        }
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Source { name, text }),
            Err(_) => Err((format!("{name} is not text in UTF-8"), None)),
        },
        Err(error) => Err((format!("{name} cannot be read: {error}"), None)),
    }
}

fn bytes(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
