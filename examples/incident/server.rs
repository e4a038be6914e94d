//! What a node serves: every request is answered after 50 ms, and the connection kept.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use crate::lab::PORT;

pub(crate) const SERVICE_TIME: Duration = Duration::from_millis(50);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";

/// Says a line on standard output when it is ready.
pub(crate) fn serve(address: Ipv4Addr) -> io::Result<()> {
    let listener = TcpListener::bind((address, PORT))?;
    println!("ready");
    for connection in listener.incoming().flatten() {
        // What goes wrong with a connection is the client's to report.
        std::thread::spawn(move || answer(&connection));
    }
    Ok(())
}

fn answer(mut connection: &TcpStream) -> io::Result<()> {
    for line in BufReader::new(connection).lines() {
        if line?.is_empty() {
            std::thread::sleep(SERVICE_TIME);
            connection.write_all(ANSWER)?;
        }
    }
    Ok(())
}
