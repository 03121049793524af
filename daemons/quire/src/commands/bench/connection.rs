//! One keep-alive connection of the load: a request out, its answer in, never more than one under way.
//!
//! The request belongs to the caller, who may send the same bytes again on another connection. The buffer for answers
//! is kept from request to request, so that the load costs little beside the store it measures.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

/// First size of the buffer for answers, in bytes.
const ANSWER_BYTES: usize = 4 * 1024;
/// Longest answer, in bytes; a longer one breaks the connection.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most fields in the head of an answer; one with more cannot be read.
const HEADERS_MAX: usize = 32;

/// A connection and what is under way on it.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    state: State,
    written: usize,
    answer: Vec<u8>,
    filled: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Idle,
    Sending,
    Receiving,
}

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing to do until the socket is ready again.
    Waits,
    /// The connection stands and has no request.
    Idle,
    /// The request was answered with this status. Unless `reusable`, the server closes the connection.
    Answered { status: u16, reusable: bool },
}

/// The head of an answer.
struct Head {
    status: u16,
    length: usize,
    body: usize,
    reusable: bool,
}

impl Connection {
    /// Begin to connect.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Connection> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let (stream, answer) = (TcpStream::from(socket), vec![0; ANSWER_BYTES]);
        Ok(Connection { stream, state: State::Connecting, written: 0, answer, filled: 0 })
    }

    /// Let the next `advance` send a request. Only on an idle connection.
    pub(crate) fn begin(&mut self) {
        debug_assert_eq!(self.state, State::Idle, "one request at a time");
        self.state = State::Sending;
        self.written = 0;
        self.filled = 0;
    }

    /// Go on with `request` as far as the socket allows. Call it whenever the socket became ready, with the same bytes
    /// until the request is answered.
    pub(crate) fn advance(&mut self, request: &[u8]) -> io::Result<Step> {
        loop {
            match self.state {
                State::Connecting => match self.stream.take_error()? {
                    Some(error) => return Err(error),
                    None if self.stream.peer_addr().is_err() => return Ok(Step::Waits),
                    None => self.state = State::Idle,
                },
                State::Idle => return Ok(Step::Idle),
                State::Sending => match self.stream.write(&request[self.written..]) {
                    Ok(written) => {
                        self.written += written;
                        if self.written == request.len() {
                            self.state = State::Receiving;
                            // The answer cannot be there yet; the socket will say when it is.
                            return Ok(Step::Waits);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Waits),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                },
                State::Receiving => return self.receive(),
            }
        }
    }

    /// The body of the answer that was just taken.
    pub(crate) fn body(&self) -> &[u8] {
        let answer = &self.answer[..self.filled];
        answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(&[], |end| &answer[end + 4..])
    }

    fn receive(&mut self) -> io::Result<Step> {
        loop {
            if self.filled == self.answer.len() {
                if self.filled >= ANSWER_BYTES_MAX {
                    return Err(unreadable("an answer that is too long"));
                }
                self.answer.resize(self.filled * 2, 0);
            }
            match self.stream.read(&mut self.answer[self.filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Waits),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if let Some(head) = Head::parse(&self.answer[..self.filled])? {
                let whole = head.body.saturating_add(head.length);
                if self.filled > whole {
                    return Err(unreadable("more than the answer"));
                }
                if self.filled == whole {
                    self.state = State::Idle;
                    return Ok(Step::Answered { status: head.status, reusable: head.reusable });
                }
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Head {
    /// The head at the front of `bytes`, or `None` if it has not all come.
    fn parse(bytes: &[u8]) -> io::Result<Option<Head>> {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let body = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(unreadable("no HTTP answer")),
        };
        let field = |name: &str| {
            let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(field.value).ok()
        };
        let length = field("content-length").and_then(|length| length.trim().parse().ok());
        Ok(Some(Head {
            status: response.code.ok_or_else(|| unreadable("no status"))?,
            length: length.ok_or_else(|| unreadable("an answer without its length"))?,
            body,
            reusable: !field("connection").is_some_and(|value| value.trim().eq_ignore_ascii_case("close")),
        }))
    }
}

fn unreadable(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_as_servers_write_them() {
        let answer =
            b"HTTP/1.1 409 Conflict\r\nCONTENT-LENGTH: 12\r\nConnection: Close\r\n\r\n{\"stock\":0}\n";
        let head = Head::parse(answer).unwrap().unwrap();
        assert_eq!((head.status, head.length, head.reusable), (409, 12, false));
        assert_eq!(&answer[head.body..], b"{\"stock\":0}\n");
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap().is_none());
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "no length");
        assert!(Head::parse(b"SSH-2.0-OpenSSH\r\n").is_err());
    }

    #[test]
    fn requests_and_answers_on_one_connection_then_its_end() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4];
            for _ in 0..2 {
                stream.read_exact(&mut request).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(20));
                stream.write_all(b"k").unwrap();
            }
            request
        });
        let mut connection = Connection::open(address).unwrap();
        let drive = |connection: &mut Connection| {
            let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
            loop {
                match connection.advance(b"ask!") {
                    Ok(Step::Waits) => std::thread::sleep(std::time::Duration::from_millis(1)),
                    other => break other,
                }
                assert!(std::time::Instant::now() < end, "stuck in {:?}", connection.state);
            }
        };
        assert_eq!(drive(&mut connection).unwrap(), Step::Idle);
        for _ in 0..2 {
            connection.begin();
            assert_eq!(drive(&mut connection).unwrap(), Step::Answered { status: 200, reusable: true });
            assert_eq!(connection.body(), b"ok");
        }
        assert_eq!(&server.join().unwrap(), b"ask!");
        connection.begin();
        let ended = drive(&mut connection).unwrap_err();
        assert!(matches!(
            ended.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ));
    }
}
