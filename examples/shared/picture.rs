//! What the pictures have in common: paper, colours, and time from left to right.

use std::path::Path;

use svg::Document;
use svg::node::element::{Group, Line, Rectangle, Text};

pub(crate) const WIDTH: f64 = 960.0;
pub(crate) const RIGHT: f64 = 916.0;

pub(crate) const PAPER: &str = "#fbfbf9";
pub(crate) const INK: &str = "#22262b";
pub(crate) const SOFT: &str = "#68707a";
pub(crate) const GRID: &str = "#e4e5e1";
pub(crate) const BAD: &str = "#c9493b";
pub(crate) const GOOD: &str = "#1b7f79";
pub(crate) const OTHER: &str = "#a36a00";

/// An element and its attributes, at a glance.
macro_rules! node {
    ($element:expr; $($name:literal $value:expr),*) => { $element$(.set($name, $value))* };
}
pub(crate) use node;

/// Time, in seconds since the cut, as a place on the axis.
pub(crate) struct Axis {
    pub(crate) left: f64,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

impl Axis {
    pub(crate) fn x(&self, seconds: f64) -> f64 {
        let share = (seconds - self.from) / (self.to - self.from);
        self.left + (RIGHT - self.left) * share.clamp(0.0, 1.0)
    }

    /// Ten at the most, and the beginning.
    fn marks(&self) -> impl Iterator<Item = f64> {
        let steps = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0];
        let step = steps.into_iter().find(|step| (self.to - self.from) / step <= 10.0).unwrap_or(60.0);
        let (first, last) = ((self.from / step).ceil() as i32, (self.to / step) as i32);
        (first..=last).map(move |mark| f64::from(mark) * step)
    }

    pub(crate) fn grid(&self, top: f64, bottom: f64) -> Group {
        self.marks().fold(Group::new(), |group, seconds| {
            let colour = if seconds == 0.0 { INK } else { GRID };
            group.add(line(self.x(seconds), top, bottom, colour))
        })
    }

    pub(crate) fn scale(&self, y: f64, what: &str) -> Group {
        let title = text(RIGHT, y + 42.0, 12, SOFT, format!("time since {what}"));
        let group = Group::new().add(node!(title; "text-anchor" "end"));
        self.marks().fold(group, |group, seconds| {
            let label = if seconds == 0.0 { "cut".to_owned() } else { format!("{seconds} s") };
            let label = text(self.x(seconds), y + 20.0, 12, SOFT, label);
            group.add(node!(label; "text-anchor" "middle"))
        })
    }
}

/// An empty picture, with its heading and what it is about.
pub(crate) fn sheet(height: f64, heading: &str, about: &str) -> Document {
    let fonts = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
    let paper = block(0.5, 0.5, WIDTH - 1.0, height - 1.0, PAPER);
    node!(Document::new();
        "viewBox" (0, 0, WIDTH, height), "width" WIDTH, "height" height, "font-family" fonts)
    .add(node!(paper; "rx" 10, "stroke" GRID))
    .add(bold(text(28.0, 44.0, 22, INK, heading)))
    .add(text(28.0, 68.0, 14, SOFT, about))
}

/// A dashed line at the promise, and what it is over it.
pub(crate) fn promise(x: f64, top: f64, bottom: f64, label: &str) -> Group {
    let dashed = node!(line(x, top, bottom, GOOD); "stroke-width" 1.5, "stroke-dasharray" "5 4");
    let label = bold(text(x, top - 8.0, 12, GOOD, label));
    Group::new().add(dashed).add(node!(label; "text-anchor" "middle"))
}

pub(crate) fn text(x: f64, y: f64, size: u32, colour: &str, content: impl Into<String>) -> Text {
    node!(Text::new(content); "x" x, "y" y, "font-size" size, "fill" colour)
}

pub(crate) fn bold(text: Text) -> Text {
    text.set("font-weight", 600)
}

pub(crate) fn line(x: f64, top: f64, bottom: f64, colour: &str) -> Line {
    node!(Line::new(); "x1" x, "y1" top, "x2" x, "y2" bottom, "stroke" colour)
}

pub(crate) fn block(x: f64, y: f64, width: f64, height: f64, colour: &str) -> Rectangle {
    node!(Rectangle::new(); "x" x, "y" y, "width" width, "height" height, "fill" colour)
}

/// Whether a picture can be left there.
pub(crate) fn check(path: &Path) -> Result<(), &'static str> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match path.is_dir() || parent.is_some_and(|parent| !parent.is_dir()) {
        true => Err("--svg must name a file in a directory that exists"),
        false => Ok(()),
    }
}
