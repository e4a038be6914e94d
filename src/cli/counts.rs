//! What was counted for each rule, for `sockopt status`.

use anstyle::Style;
use cgroup::{Count, Counts, Side};
use policy::units::Count as Number;
use serde::Serialize;

use crate::output;
use crate::table::{Cell, Column, Layout, Table};

const fn column(title: &'static str, is_right: bool, is_last: bool) -> Column {
    Column { title, is_right, is_last }
}

const COLUMNS: [Column; 5] = [
    column("rule", false, false),
    column("destination", false, false),
    column("sockets", true, false),
    column("open", true, false),
    column("ended", false, true),
];
const LAYOUT: Layout = &[&[Some(0), Some(1), Some(2), Some(3), Some(4)]];
/// More rows than this are shown only where something was counted.
const MOST_ROWS: usize = 20;

/// Those that have not ended.
pub(crate) fn open(counts: &Counts) -> u64 {
    let ended: u64 = Count::ENDS.iter().map(|end| counts.of(*end)).sum();
    counts.of(Count::Sockets).saturating_sub(ended)
}

/// How connections ended: `12 closed, 3 keepalive`.
fn ends(counts: &Counts) -> String {
    let ends = Count::ENDS.iter().map(|end| (counts.of(*end), end.name().replace('_', " ")));
    let ends: Vec<String> = ends.filter(|(count, _)| *count > 0).map(|(count, end)| format!("{count} {end}")).collect();
    ends.join(", ")
}

fn row(counts: &Counts) -> Vec<Cell> {
    let counted = &counts.counted;
    let rule = output::plain(&counted.rule);
    let destination = match counted.side {
        Side::Connect => output::plain(&counted.to),
        Side::Accept => "(accepted)".to_owned(),
    };
    let cells = [
        if counts.is_retired { format!("{rule} (removed)") } else { rule },
        destination,
        counts.of(Count::Sockets).to_string(),
        open(counts).to_string(),
        ends(counts),
    ];
    cells.map(Cell::from).to_vec()
}

/// A table of it, each line behind two blanks.
pub(crate) fn table(all: &[Counts]) -> String {
    let is_shown = |counts: &&Counts| counts.of(Count::Sockets) > 0 || (all.len() <= MOST_ROWS && !counts.is_retired);
    let rows: Vec<Vec<Cell>> = all.iter().filter(is_shown).map(row).collect();
    let left = all.iter().filter(|counts| !counts.is_retired && !is_shown(counts)).count();
    let table = Table::new(&COLUMNS, rows.iter(), &[LAYOUT], None);
    let mut text = if rows.is_empty() { String::new() } else { table.head(Style::new().bold()) };
    text.extend(rows.iter().map(|row| table.row(row)));
    if left > 0 {
        text.push_str(&format!("nothing was counted for {}\n", Number(left, "more line")));
    }
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// The same as JSON.
#[derive(Serialize)]
pub(crate) struct Shown {
    rule: String,
    direction: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    to: String,
    is_retired: bool,
    sockets: u64,
    open: u64,
    ended: serde_json::Map<String, serde_json::Value>,
}

impl Shown {
    pub(crate) fn of(counts: &Counts) -> Self {
        Self {
            rule: counts.counted.rule.clone(),
            direction: counts.counted.side.name(),
            to: counts.counted.to.clone(),
            is_retired: counts.is_retired,
            sockets: counts.of(Count::Sockets),
            open: open(counts),
            ended: Count::ENDS.iter().map(|end| (end.name().to_owned(), counts.of(*end).into())).collect(),
        }
    }
}
