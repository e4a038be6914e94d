//! Sections as tables: for the terminal, and for RESULTS.md, of which each run replaces what it has measured anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use comfy_table::{ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle};

use crate::stats::Summary;

/// What a row is to reach.
#[derive(Debug, Clone)]
pub(crate) enum Goal {
    /// None: measured for comparison.
    None,
    /// At most this, which is said so.
    AtMost(f64, String),
    /// At least this, which is said so.
    AtLeast(f64, String),
    /// What nothing against itself reaches: no difference that can be seen.
    Noise,
}

impl Goal {
    pub(crate) fn at_most(limit: f64) -> Goal {
        Goal::AtMost(limit, format!("≤ {limit:.2}"))
    }

    pub(crate) fn none_added() -> Goal {
        Goal::AtMost(0.0, "0".to_owned())
    }

    /// The goal and the outcome, for two cells. `noise` is the section's noise row.
    pub(crate) fn cells(&self, measured: &Summary, noise: Option<&Summary>) -> [String; 2] {
        let (limit, said) = match self {
            Goal::None => return [String::new(), String::new()],
            Goal::AtMost(limit, said) => (*limit, said.clone()),
            Goal::AtLeast(limit, said) => {
                // The same, seen from the other side.
                let turned = |(low, high): (f64, f64)| (-high, -low);
                let Summary { median, half, trust } = *measured;
                let negative = Summary { median: -median, half: turned(half), trust: turned(trust) };
                return [said.clone(), outcome(&negative, -limit).to_owned()];
            }
            Goal::Noise => {
                let reach = |noise: &Summary| (noise.trust.1 - 1.0).max(1.0 - noise.trust.0);
                let limit = 1.0 + noise.map_or(0.0, reach);
                (limit, format!("1.00 ± noise (≤ {limit:.3})"))
            }
        };
        [said, outcome(measured, limit).to_owned()]
    }
}

/// A median on the right side counts if it is known well enough, one on the wrong side unless it is not.
fn outcome(measured: &Summary, limit: f64) -> &'static str {
    let is_sure = measured.trust.1 <= limit + 0.05 * limit.abs();
    match (measured.median <= limit, is_sure) {
        (true, true) => MET,
        (false, _) if measured.trust.0 > limit => MISSED,
        _ => WITHIN_NOISE,
    }
}

const MET: &str = "met";
const WITHIN_NOISE: &str = "within noise";
const MISSED: &str = "missed";

/// One part of the results.
pub(crate) struct Section {
    /// As `--only` knows it.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// How it was measured.
    pub(crate) method: String,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
    /// What was left out, and why.
    pub(crate) notes: Vec<String>,
}

const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none())
    .header_separator(LineStyle::none().fill('─'))
    .content_lines(ContentLineStyle::none());

impl Section {
    pub(crate) fn print(&self) {
        let mut table = Table::new();
        table.load_style(STYLE).set_content_arrangement(ContentArrangement::Disabled).set_header(self.columns.clone());
        for row in &self.rows {
            table.add_row(row.clone());
        }
        println!("\n{}\n", self.title);
        table.lines().for_each(|line| println!("{}", line.trim_end()));
        self.notes.iter().for_each(|note| println!("{note}"));
    }

    fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n", self.title, self.method);
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        text += &line(&self.columns.iter().map(|&column| column.to_owned()).collect::<Vec<_>>());
        text += &format!("|{}\n", "---|".repeat(self.columns.len()));
        for row in &self.rows {
            text += &line(&row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>());
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }
}

fn begin(name: &str) -> String {
    format!("<!-- begin {name} -->\n")
}

fn end(name: &str) -> String {
    format!("<!-- end {name} -->\n")
}

/// Writes the sections into `file` in place of their predecessors and leaves the others; `names` gives the order.
pub(crate) fn save(file: &Path, machine: &str, sections: &[Section], names: &[&str], library: &str) -> io::Result<()> {
    let old = fs::read_to_string(file).unwrap_or_default();
    let mut blocks: BTreeMap<&str, String> = BTreeMap::new();
    for name in names {
        let block = old.split_once(&begin(name)).and_then(|(_, rest)| rest.split_once(&end(name)));
        if let Some((block, _)) = block {
            blocks.insert(name, block.to_owned());
        }
    }
    for section in sections {
        blocks.insert(section.name, format!("{}\n{library}\n", section.markdown()));
    }
    let cells = |outcome: &str| blocks.values().map(|block| block.matches(&format!("| {outcome} |")).count()).sum();
    let [met, within, missed]: [usize; 3] = [MET, WITHIN_NOISE, MISSED].map(cells);
    let mut text = format!(
        "# What the library costs\n\n\
         Written by `cargo bench -- --save`; [README.md](README.md) says how it is measured.\n\n\
         {machine}\n\
         Of {} goals {met} are met, {within} cannot be told from the noise, {missed} are missed.\n",
        met + within + missed
    );
    for name in names {
        if let Some(block) = blocks.get(name) {
            let _ = write!(text, "\n{}{block}{}", begin(name), end(name));
        }
    }
    fs::write(file, text)
}

/// Ratios and their middle half: `1.085 (1.05-1.11)`.
pub(crate) fn ratio(summary: &Summary) -> [String; 2] {
    [format!("{:.3}", summary.median), format!("{:.2} to {:.2}", summary.half.0, summary.half.1)]
}

/// Without decimals, and no "-0".
pub(crate) fn whole(number: f64) -> String {
    format!("{:.0}", number.round() + 0.0)
}

/// The same with its sign.
pub(crate) fn added(number: f64) -> String {
    format!("{:+.0}", number.round() + 0.0)
}

/// Nanoseconds in the unit that fits.
pub(crate) fn time(nanoseconds: f64) -> String {
    match nanoseconds.abs() {
        size if size < 10_000.0 => format!("{nanoseconds:.0} ns"),
        size if size < 1_000_000.0 => format!("{:.1} us", nanoseconds / 1e3),
        _ => format!("{:.2} ms", nanoseconds / 1e6),
    }
}
