//! What is seen on the way: on a terminal a chart that grows, otherwise a line each second; then the table.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Color};

use crate::figures::{now, per_second};
use crate::load::Load;
use crate::server::SERVICE_TIME;
use crate::shared::screen::{Screen, lines, say};
use crate::{Plan, Scene};

/// Columns for the names beside the bars, and lines for the bars of each run.
const NAMES: usize = 19;
const HEIGHT: usize = 3;
/// With less than this part of its throughput before the cut, a load has not got what it needs.
const BUSY: f64 = 0.8;
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(crate) struct View<'a> {
    screen: Screen,
    plan: &'a Plan,
    chart: String,
    said: usize,
}

impl View<'_> {
    pub(crate) fn new(plan: &Plan) -> View<'_> {
        View { screen: Screen::new(plan.window), plan, chart: String::new(), said: 0 }
    }

    pub(crate) fn draw(&mut self, loads: &[Load], cut: i64) {
        let now = now();
        let seconds: Vec<Vec<f64>> = loads.iter().map(|load| per_second(&load.results, cut, now, self.plan)).collect();
        let over = seconds.iter().map(Vec::len).min().unwrap_or(0);
        if over == self.said {
            return;
        }
        self.said = over;
        self.chart = self.chart(loads, &seconds);
        let since = u64::try_from(now - cut).unwrap_or(0);
        self.screen.draw(Duration::from_millis(since), || self.chart.clone());
        if !self.screen.is_live() {
            let figure = |(load, seconds): (&Load, &Vec<f64>)| {
                format!("  {} {:.0}", load.setting.name(), seconds.get(over - 1).unwrap_or(&0.0))
            };
            let figures: String = loads.iter().zip(&seconds).map(figure).collect();
            say!("{:4} s{figures}", over as i64 - self.plan.before.as_secs() as i64);
        }
    }

    /// The last chart, which stays, and what came of the scene.
    pub(crate) fn finish(&self, scene: &Scene) {
        let plan = self.plan;
        self.screen.finish();
        say!("{}\n", self.chart);
        say!("Think time {} ms, all samples from the cut to {} s after it:\n", scene.think, plan.window.as_secs());
        let numbers = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let mut table = self.screen.table();
        let head = ["", "per s\nbefore", "\nafter", "90 %\nagain", "\nfailed", "\naverage", "\nP99", "\nmax"];
        let head = head.map(str::to_owned).into_iter().chain([format!("stuck\nof {}", plan.threads)]);
        table.set_header(head.map(numbers));
        for run in &scene.runs {
            let back = run.back.map_or("never".to_owned(), |back| format!("{back} s"));
            let colour = |good: bool| if good { Color::Green } else { Color::Red };
            table.add_row([
                Cell::new(run.setting.name()),
                numbers(format!("{:.0}", run.before)),
                numbers(format!("{:.0}", run.after)),
                numbers(back).fg(colour(run.back.is_some())),
                numbers(run.errors.to_string()),
                numbers(time(run.average)),
                numbers(time(run.p99)),
                numbers(time(run.maximum)),
                numbers(run.stuck.to_string()).fg(colour(run.stuck == 0)),
            ]);
        }
        say!("{}\n", lines(table));
        let nominal = plan.threads as f64 / (Duration::from_millis(scene.think) + SERVICE_TIME).as_secs_f64();
        if let Some(run) = scene.runs.iter().find(|run| run.before < nominal * BUSY) {
            let reached = format!("{:.0} answers a second before the cut where {nominal:.0} were due", run.before);
            say!("This machine is too busy for good figures: {reached}.\n");
        }
    }

    /// Bars from left to right, a run below the other, and the axis.
    fn chart(&self, loads: &[Load], seconds: &[Vec<f64>]) -> String {
        let (before, window) = (self.plan.before.as_secs() as usize, self.plan.window.as_secs() as usize);
        let space = usize::from(self.screen.width).saturating_sub(NAMES + 1).max(10);
        let each = (before + window).div_ceil(space);
        let full = seconds.iter().flatten().copied().fold(1.0, f64::max);
        let mut text = String::new();
        for (load, seconds) in loads.iter().zip(seconds) {
            let columns: Vec<f64> =
                seconds.chunks(each).map(|chunk| chunk.iter().sum::<f64>() / chunk.len() as f64).collect();
            let last = seconds.last().map_or(String::new(), |last| format!("{last:.0} answers/s"));
            for (row, name) in [load.setting.name(), &last, ""].into_iter().enumerate().take(HEIGHT) {
                let filled = (HEIGHT - 1 - row) * 8;
                let block = |value: &f64| {
                    let eighths = (value / full * (HEIGHT * 8) as f64).round() as usize;
                    BLOCKS[eighths.saturating_sub(filled).min(8)]
                };
                text += &format!("{name:<NAMES$}{}\n", columns.iter().map(block).collect::<String>());
            }
        }
        let (cut, promise) = (before / each, (before + self.plan.promise.time.as_secs() as usize) / each);
        let mark = |column| if column == cut || column == promise { '┴' } else { '─' };
        let axis: String = (0..(before + window).div_ceil(each)).map(mark).collect();
        let (margin, promise) = (NAMES + cut, promise - cut);
        text + &format!("{:NAMES$}{axis}\n{:margin$}{:promise$}{}", "", "", "cut", self.plan.promise.text)
    }
}

fn time(milliseconds: i64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        _ => format!("{:.1} s", milliseconds as f64 / 1000.0),
    }
}
