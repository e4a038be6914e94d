//! What is said about a configuration that is wrong: `fixtures/errors/NAME.toml`, one test a file.
//!
//! `NAME.expected` beside it holds every problem in its one-line form: what the library writes to stderr, with the bare
//! file name in place of the path. Variables stand in `NAME.env`, one a line, alone or beside a file.
//! With `UPDATE_EXPECTED=1` in the environment the tests write what they find instead of comparing it: read it then as
//! the user would who has nothing else. Does it say where, what is wrong, what would be right?

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use policy::{Compiled, Configuration, Key, Problem, Process, Source, compile};

use crate::support::{plain, root, sockopt, test, text};

pub(crate) fn trials() -> Vec<Trial> {
    let cases = cases("errors");
    let mut trials: Vec<Trial> = cases
        .iter()
        .map(|case| {
            let (name, case) = (case.file_name().unwrap_or_default().to_string_lossy().into_owned(), case.clone());
            test(format!("errors::{name}"), move || check(&case))
        })
        .collect();
    let shown = cases.clone();
    let advising = cases.clone();
    trials.push(test("errors::what_is_suggested_is_accepted", move || what_is_suggested_is_accepted(&advising)));
    trials.push(test("errors::every_key_is_among_them", move || every_key_is_among_them(&cases)));
    trials.push(test("errors::the_command_shows_the_same", move || the_command_shows_the_same(&shown)));
    trials
}

/// Every case, as the path of its files without the extension.
pub(crate) fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = root().join("tests/fixtures").join(folder);
    let files = fs::read_dir(&folder).expect("a folder of fixtures").map(|entry| entry.expect("an entry").path());
    let is_case =
        |file: &PathBuf| matches!(file.extension().and_then(OsStr::to_str), Some("toml" | "env" | "expected"));
    let cases: BTreeSet<PathBuf> = files.filter(is_case).map(|file| file.with_extension("")).collect();
    cases.into_iter().collect()
}

pub(crate) fn configuration(case: &Path) -> Configuration {
    let document = case.with_extension("toml");
    let variables = fs::read_to_string(case.with_extension("env")).unwrap_or_default();
    let variable = |line: &str| {
        let (name, text) = line.split_once('=').unwrap_or_else(|| panic!("not a variable: {line}"));
        Source { name: name.to_owned(), text: text.to_owned() }
    };
    Configuration {
        document: document.is_file().then(|| Source {
            name: document.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            text: fs::read_to_string(&document).expect("a fixture in UTF-8"),
        }),
        variables: variables.lines().filter(|line| !line.is_empty()).map(variable).collect(),
    }
}

/// Every problem on its line.
fn report(compiled: &Compiled) -> String {
    let errors = compiled.rules.as_ref().err().into_iter().flatten();
    one_line_each(errors.chain(&compiled.warnings), &compiled.sources)
}

pub(crate) fn one_line_each<'a>(problems: impl Iterator<Item = &'a Problem>, sources: &[Source]) -> String {
    let lines: Vec<String> = problems.map(|problem| problem.one_line(sources).to_string()).collect();
    if lines.is_empty() { "no problems\n".to_owned() } else { lines.join("\n") + "\n" }
}

fn check(case: &Path) {
    compare(case, report(&compile(&configuration(case), &Process::default())));
}

/// Holds what was found against `NAME.expected`.
pub(crate) fn compare(case: &Path, actual: String) {
    let file = case.with_extension("expected");
    if env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&file, actual).expect("the expectation can be written");
        return;
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    if actual == expected {
        return;
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (expected, actual) = (lines(&expected), lines(&actual));
    let missing = expected.iter().filter(|line| !actual.contains(line)).map(|line| format!("\n  missing  {line}"));
    let surplus = actual.iter().filter(|line| !expected.contains(line)).map(|line| format!("\n  surplus  {line}"));
    let wrong: String = missing.chain(surplus).collect();
    panic!("{}:{}", file.display(), if wrong.is_empty() { "\n  in another order" } else { &wrong });
}

fn every_key_is_among_them(cases: &[PathBuf]) {
    let expected: String =
        cases.iter().map(|case| fs::read_to_string(case.with_extension("expected")).unwrap_or_default()).collect();
    // The message begins with the key, behind the severity; a part of it or a value may follow.
    let is_refused = |key: &&Key| {
        let mut messages = expected.lines().filter_map(|line| line.split_once(" error: ").map(|(_, message)| message));
        messages.any(|message| {
            message.strip_prefix(key.name()).is_some_and(|rest| rest.starts_with([' ', '.']))
                || message.starts_with(&format!("an entry of {}", key.name()))
        })
    };
    let missing: Vec<&str> = Key::ALL.iter().filter(|key| !is_refused(key)).map(|key| key.name()).collect();
    assert!(missing.is_empty(), "no fixture has a wrong value for {}", missing.join(", "));
}

/// Who writes what an error suggests must not get the next error for it.
fn what_is_suggested_is_accepted(cases: &[PathBuf]) {
    let mut wrong = BTreeSet::new();
    for case in cases {
        let compiled = compile(&configuration(case), &Process::default());
        for problem in compiled.rules.as_ref().err().into_iter().flatten() {
            let key = problem.message.split(' ').next().unwrap_or_default();
            if Key::from_name(key.split('.').next().unwrap_or_default()).is_none() {
                continue;
            }
            let help = problem.help.as_deref().unwrap_or_default();
            let suggested = help.split_once("for example ").or_else(|| help.split_once("nearest: "));
            // What stands in quotes: `"1s" or "3s"`.
            let values = suggested.map(|(_, text)| text.split('"').skip(1).step_by(2)).into_iter().flatten();
            for value in values.filter(|_| !help.contains("{ ")) {
                let text = format!("[defaults]\n{key} = \"{value}\"\n");
                let document = Some(Source { name: "suggested".into(), text });
                let again = compile(&Configuration { document, variables: Vec::new() }, &Process::default());
                if again.rules.is_err() {
                    wrong.insert(format!(
                        "{} suggests {value}: {}",
                        problem.one_line(&compiled.sources),
                        report(&again)
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

/// `sockopt check` tells the same of every file, with an excerpt each; it must not stumble over any of them.
fn the_command_shows_the_same(cases: &[PathBuf]) {
    for case in cases.iter().filter(|case| case.with_extension("toml").is_file()) {
        let file = case.with_extension("toml");
        let mut configuration = configuration(case);
        configuration.variables.clear();
        let compiled = compile(&configuration, &Process::default());
        let output = plain(sockopt()).arg("check").arg(&file).output().expect("sockopt can be started");
        let (stdout, stderr) = text(&output);
        let Err(errors) = &compiled.rules else {
            // There may be advice.
            let is_wrong = |line: &str| line.starts_with("error") || line.starts_with("warning");
            assert_eq!(output.status.code(), Some(0), "{}: {stdout}", file.display());
            assert!(!stderr.lines().any(is_wrong), "{}: {stderr}", file.display());
            continue;
        };
        assert_eq!(output.status.code(), Some(78), "{}: {stderr}", file.display());
        assert_eq!(stdout, "", "{}", file.display());
        for problem in errors {
            // A message that spans lines is shown as such; control characters are shown otherwise.
            let message = problem.message.split(|c: char| c.is_control()).next().unwrap_or_default();
            assert!(stderr.contains(message), "{}: \"{message}\" is not in\n{stderr}", file.display());
            let Some(source) = compiled.sources.get(problem.source) else { continue };
            let (line, column) = source.position(problem.span.start);
            let place = format!("{}:{line}:{column}\n", file.display());
            assert!(stderr.contains(&place), "{place} is not in\n{stderr}");
        }
        let excerpts = stderr.lines().filter(|line| line.trim_start().starts_with("--> ")).count();
        assert_eq!(excerpts, errors.len(), "{}:\n{stderr}", file.display());
        let ending =
            format!("error: {} error{} in the configuration\n", errors.len(), if errors.len() == 1 { "" } else { "s" });
        assert!(stderr.ends_with(&ending), "{}:\n{stderr}", file.display());
    }
}
