//! The picture that the example leaves: throughput over time, the runs over each other, a panel for each think time.

use std::path::Path;

use svg::node::element::{Group, Path as Outline};

use crate::figures::Figures;
use crate::load::Setting;
use crate::shared::picture::{Axis, BAD, GOOD, GRID, INK, OTHER, PAPER, RIGHT, SOFT};
use crate::shared::picture::{block, bold, node, promise, sheet, text};
use crate::{Plan, Scene};

const LEFT: f64 = 76.0;
const TOP: f64 = 136.0;
const PANEL: f64 = 232.0;
const BETWEEN: f64 = 64.0;
const ROW: f64 = 18.0;
const BLUE: &str = "#3b6fb5";

/// Colour, width and dashes: what lies on each other must still be seen.
fn style(setting: Setting) -> (&'static str, f64, &'static str) {
    match setting {
        Setting::Nothing => (BAD, 5.0, "none"),
        Setting::Keepalive => (OTHER, 2.5, "7 4"),
        Setting::UserTimeout => (BLUE, 2.0, "2 3"),
        Setting::Libsockopt => (GOOD, 3.0, "none"),
        Setting::Kernel => (GOOD, 2.0, "5 3"),
    }
}

pub(crate) fn write(path: &Path, scenes: &[Scene], plan: &Plan) -> std::io::Result<()> {
    let axis = Axis { left: LEFT, from: -plan.before.as_secs_f64(), to: plan.window.as_secs_f64() };
    let mut panels = Group::new();
    let mut top = TOP;
    for scene in scenes {
        let heading = match scene.think {
            0 => "Think time 0: the threads wait for answers".to_owned(),
            think => format!("Think time {think} ms: most threads send their next request after the cut"),
        };
        panels = panels.add(bold(text(28.0, top - 22.0, 14, INK, heading))).add(panel(scene, &axis, top, plan));
        top += PANEL + BETWEEN;
    }
    let bottom = top - BETWEEN;
    let about = format!(
        "Answers per second before and after one of two nodes is cut off silently ({}, {} threads)",
        plan.program.name(),
        plan.threads
    );
    let document = sheet(bottom + 62.0, "The incident, replayed", &about)
        .add(axis.scale(bottom, "node B was cut off"))
        .add(panels);
    svg::save(path, &document)
}

fn panel(scene: &Scene, axis: &Axis, top: f64, plan: &Plan) -> Group {
    let bottom = top + PANEL;
    let highest = scene.runs.iter().flat_map(|run| &run.per_second).copied().fold(1.0, f64::max);
    let y = |value: f64| bottom - PANEL * value / (highest * 1.05);
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0];
    let step = step.into_iter().find(|step| highest / step <= 5.0).unwrap_or(5000.0);
    let promised = axis.x(plan.promise.time.as_secs_f64());
    let mut group = axis.grid(top, bottom).add(promise(promised, top, bottom, &plan.promise.text));
    for mark in 0..=(highest / step) as u32 {
        let value = f64::from(mark) * step;
        let label = text(LEFT - 10.0, y(value) + 4.0, 12, SOFT, format!("{value}"));
        group = group
            .add(block(
                LEFT,
                y(value),
                RIGHT - LEFT,
                if mark == 0 { 1.0 } else { 0.5 },
                if mark == 0 { INK } else { GRID },
            ))
            .add(node!(label; "text-anchor" "end"));
    }
    for run in &scene.runs {
        let (colour, width, dashes) = style(run.setting);
        // A step a second: the cut lies between two of them.
        let start = axis.x(axis.from);
        let step = |(second, value): (usize, &f64)| {
            format!(" V{:.1} H{:.1}", y(*value), axis.x(axis.from + second as f64 + 1.0))
        };
        let steps: String = run.per_second.iter().enumerate().map(step).collect();
        let outline = format!("M{start} {:.1}{steps}", y(run.per_second.first().copied().unwrap_or(0.0)));
        group = group.add(node!(Outline::new();
            "d" outline, "fill" "none", "stroke" colour, "stroke-width" width, "stroke-dasharray" dashes,
            "stroke-linejoin" "round"));
    }
    // Below half of the throughput nothing happens.
    let (x, first) = (axis.x(0.0) + 24.0, bottom - 12.0 - ROW * (scene.runs.len() as f64 - 1.0));
    let backing = block(x - 10.0, first - 15.0, 440.0, ROW * scene.runs.len() as f64 + 6.0, PAPER);
    scene.runs.iter().zip(0..).fold(group.add(node!(backing; "opacity" 0.9)), |group, (run, row)| {
        group.add(legend(run, x, first + ROW * f64::from(row), plan))
    })
}

fn legend(run: &Figures, x: f64, y: f64, plan: &Plan) -> Group {
    let (colour, width, dashes) = style(run.setting);
    let swatch = format!("M{x} {} h36", y - 4.0);
    let back = run.back.map_or("never back".to_owned(), |back| format!("back after {back} s"));
    let stuck = if run.stuck == 0 {
        "no thread stuck".to_owned()
    } else {
        format!("{} of {} threads stuck", run.stuck, plan.threads)
    };
    Group::new()
        .add(node!(Outline::new(); "d" swatch, "stroke" colour, "stroke-width" width, "stroke-dasharray" dashes))
        .add(bold(text(x + 46.0, y, 13, INK, run.setting.name())))
        .add(text(x + 190.0, y, 13, SOFT, format!("{back}, {stuck}")))
}
