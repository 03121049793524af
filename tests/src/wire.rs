//! A client on a bare socket, for what no decent client sends: bytes as they are, and answers one by one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use ureq::http::{HeaderMap, HeaderName, HeaderValue};

/// Longest wait for anything; more than any limit that a test sets.
const PATIENCE: Duration = Duration::from_secs(15);

/// One connection to a port of 127.0.0.1.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    /// Arrived and not yet asked for.
    bytes: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Received {
    /// The status line, for example `HTTP/1.1 200 OK`.
    pub line: String,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Received {
    /// The status.
    pub fn status(&self) -> Option<u16> {
        self.line.split(' ').nth(1)?.parse().ok()
    }

    /// A header's text, empty without one.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Wire {
    /// A connection from 127.0.0.1.
    ///
    /// # Errors
    /// In words: there is none to be had.
    pub fn open(port: u16) -> Result<Wire, String> {
        Wire::open_from(Ipv4Addr::LOCALHOST, port)
    }

    /// A connection from another address of the loopback network.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_from(source: Ipv4Addr, port: u16) -> Result<Wire, String> {
        let connect = || {
            // Ours alone: a daemon that another test starts meanwhile would keep the connection open.
            let (family, flags) = (AddressFamily::INET, SocketFlags::CLOEXEC);
            let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
            rustix::net::bind(&socket, &SocketAddrV4::new(source, 0))?;
            rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
            let stream = TcpStream::from(socket);
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok::<_, std::io::Error>(stream)
        };
        let stream = connect().map_err(|error| format!("connecting from {source}: {error}"))?;
        Ok(Wire { stream, bytes: Vec::new() })
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// In words: the other end does not take them.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| format!("sending: {error}"))
    }

    /// Sends our end; answers can still be read.
    pub fn end(&self) {
        // A connection that is gone has ended.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next answer. One to `HEAD` has no body, whatever its length.
    ///
    /// # Errors
    /// In words: there is no whole answer.
    pub fn answer(&mut self, to_head: bool) -> Result<Received, String> {
        let head = loop {
            match self.bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.more()?,
            }
        };
        let text = String::from_utf8_lossy(&self.bytes[..head]).into_owned();
        self.bytes.drain(..head);
        let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
        let line = lines.next().unwrap_or_default().to_owned();
        let mut headers = HeaderMap::new();
        for field in lines {
            let (name, value) = field.split_once(':').ok_or_else(|| format!("no colon in {field:?}"))?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
            headers.append(name, HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?);
        }
        let mut received = Received { line, headers, body: String::new() };
        let without_body = to_head || matches!(received.status(), Some(100 | 204 | 304));
        if !without_body {
            let length = received.header("content-length").parse::<usize>();
            let length = length.map_err(|_| format!("no Content-Length in {text:?}"))?;
            while self.bytes.len() < length {
                self.more()?;
            }
            received.body = String::from_utf8_lossy(&self.bytes[..length]).into_owned();
            self.bytes.drain(..length);
        }
        Ok(received)
    }

    /// What comes before the end of the connection.
    ///
    /// # Errors
    /// In words: it is reset, or does not end.
    pub fn rest(&mut self) -> Result<String, String> {
        let read = self.stream.read_to_end(&mut self.bytes);
        let bytes = std::mem::take(&mut self.bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        read.map(|_| text.clone()).map_err(|error| format!("after {text:?}: {}", in_words(&error)))
    }

    fn more(&mut self) -> Result<(), String> {
        let mut buffer = [0; 16 * 1024];
        let so_far = |bytes: &[u8]| format!("after {:?}", String::from_utf8_lossy(bytes));
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(format!("the connection ended {}", so_far(&self.bytes))),
            Ok(length) => {
                self.bytes.extend_from_slice(&buffer[..length]);
                Ok(())
            }
            Err(error) => Err(format!("{} {}", in_words(&error), so_far(&self.bytes))),
        }
    }
}

fn in_words(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("nothing came for {PATIENCE:?}"),
        _ => error.to_string(),
    }
}
