//! Standard output: on a terminal a text that moves above a bar of progress, and tables.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use comfy_table::{ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none())
    .header_separator(LineStyle::none().fill('─'))
    .content_lines(ContentLineStyle::none());

/// One line to standard output. If nobody reads it any more there is nothing left to do.
macro_rules! say {
    ($($text:tt)*) => {
        if std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($text)*))).is_err() {
            $crate::shared::namespaces::leave($crate::shared::NOT_AS_PROMISED);
        }
    };
}
pub(crate) use say;

/// A path as short as it can be said from here.
pub(crate) fn short(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

pub(crate) struct Screen {
    pub(crate) window: Duration,
    pub(crate) width: u16,
    colour: bool,
    live: Option<Live>,
}

struct Live {
    text: ProgressBar,
    progress: ProgressBar,
}

impl Screen {
    pub(crate) fn new(window: Duration) -> Screen {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let terminal = std::io::stdout().is_terminal() && !dumb;
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let width = Table::new().width().filter(|_| terminal).unwrap_or(80);
        Screen { window, width, colour: terminal && !plain, live: terminal.then(|| Live::new(window)) }
    }

    /// Whether what is drawn can be replaced; elsewhere a line for each event has to do.
    pub(crate) fn is_live(&self) -> bool {
        self.live.is_some()
    }

    pub(crate) fn draw(&self, now: Duration, text: impl FnOnce() -> String) {
        let Some(live) = &self.live else { return };
        live.text.set_message(text());
        live.progress.set_position(now.as_millis() as u64);
        live.progress.set_message(format!("{} of {} s", now.as_secs(), self.window.as_secs()));
    }

    /// Makes room for what stays.
    pub(crate) fn finish(&self) {
        match &self.live {
            Some(live) => [&live.text, &live.progress].into_iter().for_each(ProgressBar::finish_and_clear),
            None => say!(""),
        }
    }

    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(self.width).force_no_tty();
        if self.colour {
            table.enforce_styling();
        }
        table
    }
}

impl Live {
    fn new(window: Duration) -> Live {
        let style = |template| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━━─")
        };
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let text = all.add(ProgressBar::no_length().with_style(style("{msg}")));
        let progress = all.add(ProgressBar::new(window.as_millis() as u64));
        progress.set_style(style("since the cut  {wide_bar}  {msg}"));
        Live { text, progress }
    }
}

/// The table's lines, with two blanks between its columns.
pub(crate) fn lines(mut table: Table) -> String {
    let last = table.column_count().saturating_sub(1);
    for column in table.column_iter_mut() {
        column.set_padding((0, if column.index == last { 0 } else { 2 }));
    }
    table.trim_fmt()
}
