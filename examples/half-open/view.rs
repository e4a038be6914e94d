//! What is seen on the way: on a terminal a table that moves, otherwise a line for each event.

use std::time::Duration;

use comfy_table::{Cell, Color};

use crate::clients::{Client, State};
use crate::shared::screen::{Screen, lines, say};

/// With this many columns what a client said fits beside its time.
const WIDE: u16 = 100;

pub(crate) fn draw(screen: &Screen, clients: &[Client], now: Duration) {
    screen.draw(now, || table(screen, clients, &format!("hangs {:.1} s", now.as_secs_f64())));
}

/// Called when a client has ended.
pub(crate) fn ended(screen: &Screen, client: &Client) {
    if let (false, State::Ended { after, said, .. }) = (screen.is_live(), &client.state) {
        say!("{:5.1} s  {client}: {said}", after.as_secs_f64());
    }
}

/// The last table, which stays.
pub(crate) fn finish(screen: &Screen, clients: &[Client]) {
    screen.finish();
    let running = format!("still hangs after {:.1} s", screen.window.as_secs_f64());
    say!("{}\n", table(screen, clients, &running));
}

fn table(screen: &Screen, clients: &[Client], running: &str) -> String {
    let mut table = screen.table();
    table.set_header(["client", "situation", "library", "state"]);
    let space = if screen.width >= WIDE { ' ' } else { '\n' };
    for client in clients {
        let (state, colour) = match &client.state {
            State::Running if client.covered => (running.to_owned(), Color::Yellow),
            State::Running => (running.to_owned(), Color::Red),
            State::Ended { after, said, timed_out } => (
                format!("ended after {:.1} s:{space}{said}", after.as_secs_f64()),
                if *timed_out { Color::Green } else { Color::Yellow },
            ),
        };
        let names = [client.program.to_string(), client.situation.to_string()];
        let mut row: Vec<Cell> = names.into_iter().map(Cell::new).collect();
        row.extend([Cell::new(client.library()), Cell::new(state).fg(colour)]);
        table.add_row(row);
    }
    lines(table)
}
