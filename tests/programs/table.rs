//! docs/programs.md: what the tests of the entries found. `UPDATE_EXPECTED=1` writes the rows of
//! those that ran and passed; otherwise each test checks that its row stands there. Versions, and what a program sets
//! by itself, are of the last update. Seen to fail with a word changed in a row, and with a row's name changed.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::{env, fs};

use super::{Look, Role, Way};
use crate::support::lab::Options;
use crate::support::{root, search_path, text};

const BEGIN: &str = "<!-- programs: written by the tests -->\n";
const HEAD: &str =
    "| program | version | under | role | does as without sockopt | sets by itself |\n|---|---|---|---|---|---|\n";
const END: &str = "<!-- /programs -->";

/// The rows of this run, by program.
static FOUND: Mutex<BTreeMap<&'static str, String>> = Mutex::new(BTreeMap::new());

/// What an entry's test found.
pub(super) fn found(program: &'static str, version: &str, way: Way, does: &str, without: &[Look]) {
    let under = way.name();
    let mut roles: Vec<Role> = Vec::new();
    for look in without {
        if !roles.contains(&look.role) {
            roles.push(look.role);
        }
    }
    let role = roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ");
    let mut own: Vec<(String, Vec<&str>)> = Vec::new();
    for look in without {
        let (Some(sets), role) = (own_of(look.options), look.role.name()) else { continue };
        match own.iter_mut().find(|(same, _)| *same == sets) {
            Some((_, roles)) if roles.contains(&role) => {}
            Some((_, roles)) => roles.push(role),
            None => own.push((sets, vec![role])),
        }
    }
    let own = own.iter().map(|(sets, by)| match &roles[..] {
        [_] => sets.clone(),
        _ => format!("{}: {sets}", by.join(", ")),
    });
    let own = own.collect::<Vec<_>>().join("; ");
    let own = if own.is_empty() { "nothing".to_owned() } else { own };
    if env::var_os("UPDATE_EXPECTED").is_some() {
        let row = format!("| {program} | {} | {under} | {role} | {does} | {own} |\n", version_of(version));
        FOUND.lock().unwrap_or_else(PoisonError::into_inner).insert(program, row);
        return;
    }
    let is_it = |row: &&String| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        cells.len() == 8 && [cells[1], cells[3], cells[4], cells[5]] == [program, under, &role, does]
    };
    assert!(
        rows(&page()).iter().any(|row| is_it(&row)),
        "docs/programs.md has no row for {program:?} as {role:?} that does {does:?}: `UPDATE_EXPECTED=1 cargo test --test \
        tests -- programs::` writes it"
    );
}

/// Beyond the kernel's defaults.
fn own_of([on, time, interval, probes, user_timeout]: Options) -> Option<String> {
    let mut parts = Vec::new();
    if on == 1 {
        parts.push(match (time, interval, probes) {
            (7_200, 75, 9) => "keepalive".to_owned(),
            _ => format!("keepalive {time} s, {interval} s, {probes}"),
        });
    }
    if user_timeout != 0 {
        parts.push(format!("user timeout {} s", user_timeout / 1_000));
    }
    (!parts.is_empty()).then(|| parts.join(" and "))
}

/// The first thing that looks like a version in what such a command says.
fn version_of(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).env("PATH", search_path()).output().expect("a shell");
    let (stdout, stderr) = text(&output);
    let said = stdout + &stderr;
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let words = said.split(|c| !is_part(c)).map(|word| word.trim_start_matches(|c: char| !c.is_ascii_digit()));
    let version = words.map(|word| word.trim_matches('.')).find(|word| word.contains('.'));
    version.unwrap_or_else(|| panic!("{command} says no version: {said}")).to_owned()
}

fn page() -> String {
    fs::read_to_string(root().join("docs/programs.md")).expect("docs/programs.md")
}

/// The table's rows as they stand.
fn rows(page: &str) -> Vec<String> {
    let table =
        page.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).expect("docs/programs.md has the marks").0;
    table.strip_prefix(HEAD).unwrap_or_default().lines().map(|line| format!("{line}\n")).collect()
}

fn program_of(row: &str) -> &str {
    row.split('|').nth(1).unwrap_or_default().trim()
}

/// The table lists these, in this order, and no other.
pub(super) fn check(programs: &[&str]) {
    if env::var_os("UPDATE_EXPECTED").is_none() {
        let rows = rows(&page());
        assert_eq!(rows.iter().map(|row| program_of(row)).collect::<Vec<_>>(), programs);
    }
}

/// Writes the rows that this run found among those that were there.
pub(super) fn write(programs: &[&str]) {
    let found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if found.is_empty() {
        return;
    }
    let page = page();
    let before = rows(&page);
    let old = |program: &str| before.iter().find(|row| program_of(row) == program).cloned();
    let table: String =
        programs.iter().filter_map(|program| found.get(program).cloned().or_else(|| old(program))).collect();
    let (head, rest) = page.split_once(BEGIN).expect("docs/programs.md has the marks");
    let (_, tail) = rest.split_once(END).expect("docs/programs.md has the marks");
    fs::write(root().join("docs/programs.md"), [head, BEGIN, HEAD, &table, END, tail].concat())
        .expect("docs/programs.md");
}
