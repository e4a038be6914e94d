//! The picture that the example leaves: a bar for each client, from the cut to the moment it gave up.

use std::path::Path;

use svg::node::element::{Group, Path as Outline};

use crate::Plan;
use crate::clients::{Client, State};
use crate::shared::picture::{
    Axis, BAD, GOOD, INK, OTHER, RIGHT, SOFT, WIDTH, block, bold, node, promise, sheet, text,
};

/// Where the bars begin.
const LEFT: f64 = 224.0;
const TOP: f64 = 120.0;
const HEADING: f64 = 40.0;
const ROW: f64 = 34.0;
const BAR: f64 = 20.0;

pub(crate) fn write(path: &Path, clients: &[Client], plan: &Plan) -> std::io::Result<()> {
    let axis = Axis { left: LEFT, from: 0.0, to: plan.window.as_secs_f64() };
    let promised = axis.x(plan.promise.time.as_secs_f64());
    let mut bars = Group::new();
    let mut y = TOP;
    for covered in [false, true] {
        let heading = match covered {
            true => format!("With the library, SOCKOPT_DEAD_PEER_TIMEOUT={}", plan.promise.text),
            false => "Without the library".to_owned(),
        };
        let group = || clients.iter().filter(|client| client.covered == covered);
        bars = bars.add(bold(text(28.0, y + 20.0, 14, INK, heading)));
        y += HEADING;
        bars = bars.add(axis.grid(y - 6.0, y + ROW * group().count() as f64 + 6.0));
        for client in group() {
            bars = bars.add(bar(client, &axis, promised, y + ROW / 2.0));
            y += ROW;
        }
        y += 14.0;
    }
    let about = "How long after the cut each client notices that nobody is there";
    let document = sheet(y + 62.0, "The peer vanishes without a word", about)
        .add(axis.scale(y, "the link was cut"))
        .add(bars)
        .add(promise(promised, TOP - 8.0, y, &format!("promised: {}", plan.promise.text)));
    svg::save(path, &document)
}

fn bar(client: &Client, axis: &Axis, promised: f64, middle: f64) -> Group {
    let (top, base) = (middle - BAR / 2.0, middle + 4.5);
    let group = Group::new().add(bold(text(28.0, base, 13, INK, client.program.to_string()))).add(text(
        66.0,
        base,
        13,
        SOFT,
        client.situation.to_string(),
    ));
    let State::Ended { after, said, timed_out } = &client.state else {
        // The arrow's head goes past the end of the axis: this is not over.
        let (neck, head, low) = (RIGHT - 10.0, RIGHT + 12.0, top + BAR);
        let arrow = format!("M{LEFT} {top} H{neck} v-5 L{head} {middle} L{neck} {} v-5 H{LEFT} Z", low + 5.0);
        let label = format!("still hanging after {} s", axis.to);
        return group.add(node!(Outline::new(); "d" arrow, "fill" BAD)).add(bold(text(
            LEFT + 12.0,
            base,
            13,
            "#ffffff",
            label,
        )));
    };
    let seconds = after.as_secs_f64();
    let end = axis.x(seconds);
    let colour = if *timed_out { GOOD } else { OTHER };
    // In the bar if it is long enough, else beside it, and before what the client said.
    let figure = bold(text(end - 12.0, base, 13, "#ffffff", format!("{seconds:.1} s")));
    let (figure, mut said_at) = match end - LEFT > 70.0 {
        true => (node!(figure; "text-anchor" "end"), end + 14.0),
        false => (node!(figure; "x" end + 12.0, "fill" INK), end + 64.0),
    };
    let group = group
        .add(block(LEFT, top, end - LEFT, BAR, colour))
        .add(block(end - 4.0, top - 5.0, 4.0, BAR + 10.0, INK))
        .add(figure);
    let length = 6.4 * said.chars().count() as f64;
    if said_at < promised + 14.0 && said_at + length > promised {
        said_at = promised + 14.0; // not across the line
    }
    match said_at + length < WIDTH {
        true => group.add(text(said_at, base, 12, SOFT, said.as_str())),
        false => group,
    }
}
