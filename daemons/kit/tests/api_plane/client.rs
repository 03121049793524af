//! A client that sends what it is told to, byte for byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longest wait for anything in these tests; past it they fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A request that every server here answers with 200.
pub(crate) const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) read: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

impl Client {
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// One answer with a body, which the length in its head delimits.
    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        self.fill(|read| read.len() >= length);
        answer.body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        answer
    }

    /// One answer's head.
    pub(crate) fn head(&mut self) -> Answer {
        let ends = |read: &[u8]| read.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| at + 4);
        self.fill(|read| ends(read).is_some());
        let head: Vec<u8> = self.read.drain(..ends(&self.read).unwrap()).collect();
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: String::new() }
    }

    pub(crate) fn fill(&mut self, enough: impl Fn(&[u8]) -> bool) {
        let mut buffer = [0; 64 * 1024];
        while !enough(&self.read) {
            let n = self.stream.read(&mut buffer).unwrap();
            assert!(n > 0, "the connection ended after {:?}", String::from_utf8_lossy(&self.read));
            self.read.extend_from_slice(&buffer[..n]);
        }
    }

    /// Everything to the end of the connection. A reset is not an end.
    pub(crate) fn rest(&mut self) -> String {
        self.stream.read_to_end(&mut self.read).unwrap();
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }

    pub(crate) fn is_open(&mut self) -> bool {
        self.send(HELLO);
        self.answer().status == 200
    }

    /// The status of the answer, if there is one.
    pub(crate) fn rest_of_status(&mut self) -> Option<u16> {
        let mut start = [0; 12];
        self.stream.read_exact(&mut start).ok()?;
        std::str::from_utf8(&start[9..]).ok()?.parse().ok()
    }
}

/// How many answers there are: each has a date.
pub(crate) fn answer_count(answers: &str) -> usize {
    answers.matches("\r\ndate: ").count()
}

pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
