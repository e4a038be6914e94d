//! A small HTTP server for one reader: whoever asks for metrics. It must never hurt what the agent is for.
//!
//! Requests are read for a bounded time and to a bounded length, each by a thread of its own, of which there is a bounded number.
//! Every connection has one answer.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a request may take to arrive, and the answer to be read.
const REQUEST: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(20);
/// Of a request's head.
const MOST_BYTES: usize = 8192;
const MOST_HEADERS: usize = 64;
/// At the same time. Others are turned away.
const MOST_CONNECTIONS: usize = 32;
const STACK: usize = 256 << 10;
/// After the kernel has given no connection, for want of descriptors for example.
const PAUSE: Duration = Duration::from_millis(200);

/// What is answered.
pub(crate) struct Answer {
    /// 200 OK, and so on.
    pub(crate) status: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn text(status: &'static str, body: &str) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: format!("{body}\n") }
    }
}

/// The address is taken from here on.
///
/// # Errors
/// Why it cannot be.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
}

/// Answers to requests for a path, until the process ends.
///
/// # Errors
/// If there can be no thread for it.
pub(crate) fn serve(listener: TcpListener, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> io::Result<()> {
    // One for each connection that is served.
    let answer = Arc::new(answer);
    let accept = move || {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(PAUSE);
                continue;
            };
            if Arc::strong_count(&answer) > MOST_CONNECTIONS {
                continue;
            }
            let answer = Arc::clone(&answer);
            let one = move || {
                // The other side is told by the answer, or by its end.
                let _ = converse(&stream, &*answer);
            };
            // Without a thread it is closed.
            let _ = thread::Builder::new().name("metrics".to_owned()).stack_size(STACK).spawn(one);
        }
    };
    thread::Builder::new().name("metrics".to_owned()).stack_size(STACK).spawn(accept).map(drop)
}

/// The time that is left, which is never 0: that would be for ever.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn converse(stream: &TcpStream, answer: &(impl Fn(&str) -> Answer + ?Sized)) -> io::Result<()> {
    let (answer, has_body) = match request(stream)? {
        Request::Get(path) => (answer(&path), true),
        Request::Head(path) => (answer(&path), false),
        Request::Other => (Answer::text("405 Method Not Allowed", "only GET and HEAD"), true),
        Request::Wrong => (Answer::text("400 Bad Request", "this is no request of HTTP/1"), true),
        Request::TooLong => (Answer::text("431 Request Header Fields Too Large", "too long"), true),
    };
    let Answer { status, kind, body } = answer;
    let length = body.len();
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n"
    );
    let until = Instant::now() + ANSWER;
    write(stream, head.as_bytes(), until)?;
    if has_body {
        write(stream, body.as_bytes(), until)?;
    }
    stream.shutdown(Shutdown::Write)?;
    // What is unread when a socket is closed resets the connection, and the answer may be lost with it.
    let (until, mut rest) = (Instant::now() + REQUEST, [0; 1024]);
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        if (&mut &*stream).read(&mut rest)? == 0 {
            return Ok(());
        }
    }
}

fn write(mut stream: &TcpStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    Get(String),
    Head(String),
    Other,
    Wrong,
    TooLong,
}

/// Reads the head of a request.
///
/// # Errors
/// If it does not arrive.
fn request(mut stream: &TcpStream) -> io::Result<Request> {
    let until = Instant::now() + REQUEST;
    let (mut bytes, mut length) = ([0; MOST_BYTES], 0);
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        let Some(room) = bytes.get_mut(length..).filter(|room| !room.is_empty()) else { return Ok(Request::TooLong) };
        match stream.read(room) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => length += read,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
            Err(why) => return Err(why),
        }
        if let Some(request) = parsed(bytes.get(..length).unwrap_or_default()) {
            return Ok(request);
        }
    }
}

/// None if there is more to come.
fn parsed(bytes: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => Some(match (request.method, request.path) {
            (Some("GET"), Some(path)) => Request::Get(path.to_owned()),
            (Some("HEAD"), Some(path)) => Request::Head(path.to_owned()),
            _ => Request::Other,
        }),
        Err(httparse::Error::TooManyHeaders) => Some(Request::TooLong),
        Err(_) => Some(Request::Wrong),
    }
}
