//! Tables: of lanes, for `show`, and of cells that wrap, for `explain`.
//!
//! These are two printers because neither does the other's work. comfy-table wraps cells, and counts each for the width of
//! its column, colours included: a pair of long addresses, which has a lane for itself, would spread all other lanes. Ours
//! wraps nothing: rows of figures would no longer be readable.

use anstyle::Style;
use comfy_table::{ContentArrangement, ContentLineStyle, LineStyle, TableStyle};

use crate::output;

/// A column.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// Numbers are.
    pub(crate) is_right: bool,
    /// Nothing stands beside it and the rest of its lane is free, so its width does not count.
    pub(crate) is_last: bool,
}

/// What stands in a column.
#[derive(Clone, Default)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) style: Style,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, style: Style::new() }
    }
}

/// The lanes that a row takes: in each, which column stands where. Lanes share the widths.
pub(crate) type Layout = &'static [&'static [Option<usize>]];

/// Rows and how they are laid out: columns are put one below the other where the terminal is too narrow for one beside the
/// other.
pub(crate) struct Table<'a> {
    columns: &'a [Column],
    layout: Layout,
    widths: Vec<usize>,
}

const GAP: usize = 2;

fn width(text: &str) -> usize {
    text.chars().count()
}

impl<'a> Table<'a> {
    /// The first of some layouts that fits, or the last; the first if there is no limit.
    pub(crate) fn new<'r>(
        columns: &'a [Column],
        rows: impl Iterator<Item = &'r Vec<Cell>> + Clone,
        layouts: &[Layout],
        limit: Option<usize>,
    ) -> Self {
        let widest = |column: usize| {
            let title = columns.get(column).map_or(0, |column| width(column.title));
            let cells = rows.clone().filter_map(|row| row.get(column)).map(|cell| width(&cell.text));
            cells.chain([title]).max().unwrap_or(0)
        };
        let measured: Vec<usize> = (0..columns.len()).map(widest).collect();
        let mut fitting = None;
        for layout in layouts {
            let (widths, total) = measure(columns, &measured, layout);
            let fits = limit.is_none_or(|limit| total <= limit);
            fitting = Some(Self { columns, layout, widths });
            if fits {
                break;
            }
        }
        fitting.unwrap_or(Self { columns, layout: &[], widths: Vec::new() })
    }

    /// The titles.
    pub(crate) fn head(&self, style: Style) -> String {
        let titles: Vec<Cell> =
            self.columns.iter().map(|column| Cell { text: column.title.to_owned(), style }).collect();
        self.row(&titles)
    }

    /// A row, in as many lines as there are lanes.
    pub(crate) fn row(&self, cells: &[Cell]) -> String {
        let mut text = String::new();
        for lane in self.layout {
            let mut line = String::new();
            // Blanks are written only before something, so no line ends in them.
            let mut blanks = 0;
            for (place, column) in lane.iter().enumerate() {
                let room = self.widths.get(place).copied().unwrap_or(0);
                let found = column.and_then(|column| Some((self.columns.get(column)?, cells.get(column)?)));
                let Some((column, cell)) = found.filter(|(_, cell)| !cell.text.is_empty()) else {
                    blanks += room + GAP;
                    continue;
                };
                let rest = room.saturating_sub(width(&cell.text));
                let (before, after) = if column.is_right { (rest, 0) } else { (0, rest) };
                line.push_str(&" ".repeat(blanks + before));
                line.push_str(&format!("{}{}{:#}", cell.style, cell.text, cell.style));
                blanks = after + GAP;
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

/// The widths of a layout's places, and of the whole.
fn measure(columns: &[Column], measured: &[usize], layout: Layout) -> (Vec<usize>, usize) {
    let at = |column: Option<usize>| column.and_then(|column| measured.get(column)).copied().unwrap_or(0);
    let is_last = |column: Option<usize>| column.and_then(|column| columns.get(column)).is_some_and(|c| c.is_last);
    let places = layout.iter().map(|lane| lane.len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..places)
        .map(|place| {
            let lanes = layout.iter().filter_map(|lane| lane.get(place).copied());
            lanes.filter(|column| !is_last(*column)).map(at).max().unwrap_or(0)
        })
        .collect();
    let total = layout.iter().map(|lane| {
        let places = lane.iter().enumerate();
        let filled = places.map(|(place, column)| {
            let own = if is_last(*column) { at(*column) } else { widths.get(place).copied().unwrap_or(0) };
            own + GAP
        });
        filled.sum::<usize>().saturating_sub(GAP)
    });
    let total = total.max().unwrap_or(0);
    (widths, total)
}

const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none())
    .header_separator(LineStyle::none().fill('─'))
    .content_lines(ContentLineStyle::none());
/// As wide as a table is where nobody says how wide it may be.
const WIDTH: usize = 80;

/// A table whose cells wrap, its head in bold.
pub(crate) fn wrapping(head: [&str; 3], rows: Vec<[String; 3]>) -> String {
    let width = output::terminal_size().map_or(WIDTH, |(columns, _)| columns);
    let mut table = comfy_table::Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
    table.set_header(head);
    table.add_rows(rows.iter().map(|row| row.each_ref().map(|cell| output::plain(cell))));
    let (mut text, bold) = (String::new(), Style::new().bold());
    for (index, line) in table.lines().enumerate() {
        let line = line.trim_end();
        text += &if index == 0 { format!("{bold}{line}{bold:#}\n") } else { format!("{line}\n") };
    }
    text
}
