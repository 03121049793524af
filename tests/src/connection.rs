//! A kept-alive connection to one daemon's API, at the cost of two system calls a request: for loads and histories.
//!
//! Requests may be sent ahead of their answers, which come in the same order. Knows nothing of what is asked; `client`
//! is the one to use where a request is one of few.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Longest wait for an answer: twice the longest that a daemon may take by its own limits, or that a test pauses one.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Bytes read at once: several answers.
const READ_BYTES: usize = 16 * 1024;
/// The field that says how the cache had its part in an answer.
const CACHE_STATUS: &str = "cache-status";

/// A connection, open or to be opened with the next request.
#[derive(Debug)]
pub struct Connection {
    port: u16,
    stream: Option<TcpStream>,
    /// Read and not yet given out.
    bytes: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// `cache-status`, empty without one.
    pub cache: String,
    /// The body.
    pub body: Vec<u8>,
}

/// A request with a JSON body, or none.
pub fn request(method: &str, path: &str, key: Option<&str>, body: &str) -> Vec<u8> {
    let key = key.map(|key| format!("idempotency-key: {key}\r\n")).unwrap_or_default();
    let length = body.len();
    let content = match length {
        0 if method == "GET" => String::new(),
        _ => format!("content-type: application/json\r\ncontent-length: {length}\r\n"),
    };
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{key}{content}\r\n{body}").into_bytes()
}

impl Connection {
    /// To the daemon on this port of 127.0.0.1. Opens nothing yet.
    pub fn new(port: u16) -> Connection {
        Connection { port, stream: None, bytes: Vec::new() }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// There was no whole answer; the request may have been taken or not. The next one opens a new connection.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<Reply> {
        self.send(request)?;
        self.receive()
    }

    /// Sends a request.
    ///
    /// # Errors
    /// As `ask`.
    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        let sent = self.stream().and_then(|mut stream| stream.write_all(request));
        self.closed_on_error(sent)
    }

    /// Waits for the answer to the oldest request that has none.
    ///
    /// # Errors
    /// As `ask`; the answers to all requests that were sent are lost.
    pub fn receive(&mut self) -> io::Result<Reply> {
        let reply = self.read();
        self.closed_on_error(reply)
    }

    fn stream(&mut self) -> io::Result<&TcpStream> {
        if self.stream.is_none() {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
            let stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            stream.set_write_timeout(Some(ANSWER_LIMIT))?;
            self.bytes.clear();
            self.stream = Some(stream);
        }
        Ok(self.stream.as_ref().expect("opened above"))
    }

    fn closed_on_error<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.stream = None;
        }
        result
    }

    fn read(&mut self) -> io::Result<Reply> {
        let head = loop {
            match self.bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.more()?,
            }
        };
        let Head { status, cache, length, closes } = Head::parse(&self.bytes[..head])?;
        while self.bytes.len() < head + length {
            self.more()?;
        }
        let body = self.bytes[head..head + length].to_vec();
        self.bytes.drain(..head + length);
        if closes {
            self.stream = None;
        }
        Ok(Reply { status, cache, body })
    }

    fn more(&mut self) -> io::Result<()> {
        let mut stream = self.stream.as_ref().ok_or(ErrorKind::NotConnected)?;
        let mut buffer = [0; READ_BYTES];
        match stream.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => {
                self.bytes.extend_from_slice(&buffer[..length]);
                Ok(())
            }
        }
    }
}

/// What matters of an answer's head.
struct Head {
    status: u16,
    cache: String,
    length: usize,
    closes: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> io::Result<Head> {
        let wrong = || io::Error::new(ErrorKind::InvalidData, String::from_utf8_lossy(bytes).into_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| wrong())?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(wrong)?;
        let mut head = Head { status, cache: String::new(), length: 0, closes: false };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value.parse().map_err(|_| wrong())?;
            } else if name.eq_ignore_ascii_case(CACHE_STATUS) {
                value.clone_into(&mut head.cache);
            } else if name.eq_ignore_ascii_case("connection") {
                head.closes = value.eq_ignore_ascii_case("close");
            }
        }
        Ok(head)
    }
}
