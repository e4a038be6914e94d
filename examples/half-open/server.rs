//! The server: it reads at once whatever it is sent, and answers ten seconds after the connection was
//! made. That is slow enough for every client to be cut off in between, and soon enough that only the
//! cut explains why it hangs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 2);
const FIRST_PORT: u16 = 8001;
const ANSWER_AFTER: Duration = Duration::from_secs(10);
/// An upload counts as under way once this much of it has arrived.
const UNDER_WAY: u64 = 1 << 20;

/// Each client has a port of its own, so that reports and `ss` tell them apart.
pub(crate) fn port(client: usize) -> u16 {
    FIRST_PORT + u16::try_from(client).unwrap_or(0)
}

/// Says `ready`, then the number of each client whose request has arrived, a line each, on standard
/// output.
pub(crate) fn serve(clients: usize) -> io::Result<()> {
    for client in 0..clients {
        let listener = TcpListener::bind((ADDRESS, port(client)))?;
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                // What goes wrong with a connection here is what the clients are there to show.
                let _ = answer(client, &connection);
            }
        });
    }
    println!("ready");
    loop {
        std::thread::park();
    }
}

fn answer(client: usize, mut connection: &TcpStream) -> io::Result<()> {
    let accepted = Instant::now();
    let mut from = BufReader::new(connection);
    let mut length = 0u64;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let first = length.min(UNDER_WAY);
    io::copy(&mut from.by_ref().take(first), &mut io::sink())?;
    println!("{client}");
    io::copy(&mut from.by_ref().take(length - first), &mut io::sink())?;
    std::thread::sleep(ANSWER_AFTER.saturating_sub(accepted.elapsed()));
    connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}
