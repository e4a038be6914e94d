//! Messages in one voice, on stderr, coloured only on a terminal and not under NO_COLOR.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use clap::Command;
use policy::plain::{Plain, is_unseen};
use policy::variables::{PREFIX, is_option};
use policy::{Problem, Severity, Source};

use crate::exit;

/// Variables that this command line gave as options, with these: whoever wrote `--ttl` is not to read of SOCKOPT_TTL.
static OPTIONS: OnceLock<Vec<(String, String)>> = OnceLock::new();

/// Names the variables (first) that stand for options (second).
pub(crate) fn call_by_option(names: Vec<(String, String)>) {
    let _ = OPTIONS.set(names);
}

/// A text with options in place of the variables that they gave.
pub(crate) fn as_given(text: &str) -> Cow<'_, str> {
    let options = OPTIONS.get().map_or(&[][..], Vec::as_slice);
    if options.is_empty() {
        return text.into();
    }
    let (mut given, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(PREFIX) {
        let (before, from) = rest.split_at(at);
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let (name, behind) = from.split_at(from.find(|c| !is_name(c)).unwrap_or(from.len()));
        given.push_str(before);
        given.push_str(options.iter().find(|(variable, _)| variable == name).map_or(name, |(_, option)| option));
        rest = behind;
    }
    (given + rest).into()
}

/// Where the options come from that are over those of the file: what was typed does not come from the environment.
pub(crate) fn origin() -> &'static str {
    let typed = OPTIONS.get().map_or(&[][..], Vec::as_slice);
    let is_typed = |name: &str| typed.iter().any(|(variable, _)| variable == name);
    let inherited = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let is_inherited = inherited.filter(|name| is_option(name)).any(|name| !is_typed(&name));
    match (typed.iter().any(|(variable, _)| is_option(variable)), is_inherited) {
        (true, false) => "the command line",
        (true, true) => "the command line and the environment",
        (false, _) => "the environment",
    }
}

/// A decision, with the layers of one that no rule made as they were given here.
pub(crate) fn decision(decision: &str) -> String {
    match decision {
        "environment" => origin().to_owned(),
        "defaults and environment" => format!("defaults and {}", origin()),
        rule => rule.to_owned(),
    }
}

/// A problem of the configuration with the line that it is in.
pub(crate) fn problem(problem: &Problem, sources: &[Source]) {
    let level = match problem.severity() {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Advice => Level::NOTE.with_name("advice"),
    };
    let Problem { line, column, span, message, help, .. } = problem;
    let place = sources.get(problem.source).map(|source| Place { source, line: *line, column: *column, span });
    placed(level, problem.code.name(), message, help.as_deref(), place);
}

/// What is said of a file that is not ours, with the line that it is in.
pub(crate) fn remark(
    is_warning: bool,
    code: &str,
    message: &str,
    help: Option<&str>,
    place: Option<(&Source, &Range<usize>)>,
) {
    let level = if is_warning { Level::WARNING } else { Level::NOTE };
    let place = place.map(|(source, span)| {
        let (line, column) = source.position(span.start);
        Place { source, line, column, span }
    });
    placed(level, code, message, help, place);
}

/// A place in a text.
#[derive(Clone, Copy)]
struct Place<'a> {
    source: &'a Source,
    line: usize,
    column: usize,
    span: &'a Range<usize>,
}

fn placed(level: Level<'static>, code: &str, text: &str, help: Option<&str>, place: Option<Place<'_>>) {
    let Some(place) = place else { return message(level, text, help) };
    let path = plain(&as_given(&place.source.name));
    let title = wrapped(&plain(&as_given(text)), LONGEST_LEVEL + "[]".len() + code.len());
    let excerpt = Excerpt::of(place);
    let text = shown(&excerpt.text);
    let mut group = if excerpt.is_far {
        let origin = Origin::path(path).line(place.line).char_column(place.column);
        level.primary_title(title).id(code).element(origin).element(Level::NOTE.message(format!("there: {text}")))
    } else {
        let snippet = Snippet::source(text).path(path).line_start(place.line);
        level.primary_title(title).id(code).element(snippet.annotation(AnnotationKind::Primary.span(excerpt.span)))
    };
    if let Some(help) = help {
        // It stands behind as many blanks as the number of the last line shown has digits.
        let before = excerpt.last_line.to_string().len() + " = help: ".len();
        group = group.element(Level::HELP.message(wrapped(&plain(&as_given(help)), before)));
    }
    anstream::eprintln!("{}\n", Renderer::styled().render(&[group]));
}

/// The lines of a problem.
struct Excerpt<'a> {
    text: Cow<'a, str>,
    /// What is meant, in it.
    span: Range<usize>,
    last_line: usize,
    /// Whether it is far from the beginning of its line, and the text is not all before it.
    is_far: bool,
}

/// Bytes of lines that are shown whole; of longer ones as much as is looked at.
const LONGEST_EXCERPT: usize = 4_000;
/// Bytes of what is meant where it is cut off.
const LONGEST_SPAN: usize = 60;

impl<'a> Excerpt<'a> {
    fn of(place: Place<'a>) -> Self {
        let text = place.source.text.as_str();
        let Range { start, end } = place.span.clone();
        let first = text.get(..start).and_then(|before| before.rfind('\n')).map_or(0, |line_break| line_break + 1);
        let line_end =
            |from: usize| text.get(from..).and_then(|rest| rest.find('\n')).map_or(text.len(), |at| from + at);
        let lines = text.get(first..line_end(end)).unwrap_or_default();
        if lines.len() <= LONGEST_EXCERPT {
            let last_line = place.line + text.get(start..end).map_or(0, |span| span.matches('\n').count());
            return Self { text: lines.into(), span: start - first..end - first, last_line, is_far: false };
        }
        let to = (start..=line_end(start).min(start + LONGEST_SPAN)).rev().find(|at| text.is_char_boundary(*at));
        let to = to.unwrap_or(start);
        let is_far = start - first > LONGEST_EXCERPT;
        let from = if is_far { start } else { first };
        let piece = format!("{}…", text.get(from..to).unwrap_or_default());
        Self { text: piece.into(), span: start - from..end.min(to) - from, last_line: place.line, is_far }
    }
}

fn message(level: Level<'static>, text: &str, help: Option<&str>) {
    for (level, text) in [(level, text)].into_iter().chain(help.map(|help| (Level::HELP, help))) {
        let line =
            annotate_snippets::Group::with_title(level.primary_title(wrapped(&plain(&as_given(text)), LONGEST_LEVEL)));
        anstream::eprintln!("{}", Renderer::styled().render(&[line]));
    }
}

const LONGEST_LEVEL: usize = "warning: ".len();

/// A text with line breaks between words, where it is shown on a terminal that would break them anywhere; so many columns
/// stand before it.
fn wrapped(text: &str, before: usize) -> String {
    let Some((terminal_size::Width(width), _)) = terminal_size::terminal_size_of(std::io::stderr()) else {
        return text.to_owned();
    };
    let room = usize::from(width).saturating_sub(before);
    let (mut lines, mut used) = (String::with_capacity(text.len()), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            lines.push('\n');
            used = 0;
        } else if used > 0 {
            lines.push(' ');
            used += 1;
        }
        lines.push_str(word);
        used += length;
    }
    lines
}

pub(crate) fn error(text: &str, help: Option<&str>) {
    message(Level::ERROR, text, help);
}

pub(crate) fn warning(text: &str, help: Option<&str>) {
    message(Level::WARNING, text, help);
}

pub(crate) fn note(text: &str) {
    message(Level::NOTE, text, None);
}

/// What clap has to say instead of the arguments: help, or what is wrong with them, with its tips in our voice. It quotes
/// words of the command line as they are, within its own colours: it is asked again, with the words as they may be shown.
pub(crate) fn usage(command: Command, error: clap::Error) -> ! {
    if error.use_stderr() {
        let words = std::env::args_os().map(|word| plain(&word.to_string_lossy()));
        // Words that are no text are an error in which none is quoted, and may be none when they are text.
        let again = command.try_get_matches_from(words).err();
        let error = again.filter(|again| again.kind() == error.kind()).unwrap_or(error);
        let said = error.render().ansi().to_string();
        anstream::eprint!("{}", said.replace("tip:\u{1b}", "help:\u{1b}"));
        std::process::exit(error.exit_code());
    }
    error.exit()
}

/// Writes a text with colours to stdout, without them where they are not wanted.
pub(crate) fn print(text: &str) {
    let mut stdout = anstream::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

/// Writes to stdout what is no message: a document for somebody else.
pub(crate) fn print_bytes(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(bytes).and_then(|()| stdout.flush()));
}

/// Whether stdout takes no more, and whether that is a fault: whoever stops reading has read enough, a disk may be full.
static IS_CLOSED: AtomicBool = AtomicBool::new(false);
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// What became of something written to stdout; a fault is said once.
pub(crate) fn written(result: io::Result<()>) {
    let Err(why) = result else { return };
    if !IS_CLOSED.swap(true, Relaxed) && why.kind() != io::ErrorKind::BrokenPipe {
        HAS_FAILED.store(true, Relaxed);
        error(&format!("stdout cannot be written: {why}"), None);
    }
}

/// Whether nobody gets what is printed from now on.
pub(crate) fn is_closed() -> bool {
    IS_CLOSED.load(Relaxed)
}

/// The exit code of a subcommand, which is no good one if what it printed is lost.
pub(crate) fn exit_code(code: u8) -> u8 {
    if code == exit::OK && HAS_FAILED.load(Relaxed) { exit::CANNOT_WORK } else { code }
}

/// The columns of the terminal that stdout is; none if it is none.
pub(crate) fn terminal_size() -> Option<(usize, usize)> {
    let stdout = io::stdout();
    let size = stdout.is_terminal().then(|| terminal_size::terminal_size_of(stdout)).flatten();
    size.map(|(width, height)| (width.0.into(), height.0.into()))
}

/// A text of somebody else's making, with what a terminal would take for an order, or not show, written out.
pub(crate) fn plain(text: &str) -> String {
    Plain(text).to_string()
}

/// A source as it may be shown: the same bytes stay where they are, since places are counted in them.
fn shown(text: &str) -> Cow<'_, str> {
    let is_layout = |c: char| matches!(c, '\n' | '\r' | '\t');
    if !text.contains(|c| is_unseen(c) && !is_layout(c)) {
        return text.into();
    }
    let stand_in = |c: char| ["?", "\u{b7}", "\u{fffd}", "\u{fffd}?"].get(c.len_utf8() - 1).copied().unwrap_or("?");
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) && !is_layout(c) { shown.push_str(stand_in(c)) } else { shown.push(c) }
    }
    shown.into()
}

/// JSON, in one line unless it is for reading.
pub(crate) fn json(report: &impl serde::Serialize, is_pretty: bool) -> String {
    let json = if is_pretty { serde_json::to_string_pretty(report) } else { serde_json::to_string(report) };
    // Only maps with keys that are no strings can fail.
    let json = json.unwrap_or_default();
    if !json.contains(|c| is_unseen(c) && c != '\n') {
        return json + "\n";
    }
    // They stand in texts only, which JSON lets be written so.
    let mut escaped = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match c {
            '\n' => escaped.push(c),
            c if is_unseen(c) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| escaped.push_str(&format!("\\u{unit:04x}")))
            }
            c => escaped.push(c),
        }
    }
    escaped + "\n"
}
