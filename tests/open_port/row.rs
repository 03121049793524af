//! One row of a table: what a client sends on a new connection, and what comes of it.

use serde_json::Value;
use tests::wire::{Received, Wire};

/// First lines of answers.
pub(super) const OK: &str = "HTTP/1.1 200 OK";
pub(super) const OK_1_0: &str = "HTTP/1.0 200 OK";
pub(super) const CONTINUE: &str = "HTTP/1.1 100 Continue";
pub(super) const NO_CONTENT: &str = "HTTP/1.1 204 No Content";
pub(super) const BAD_REQUEST: &str = "HTTP/1.1 400 Bad Request";
pub(super) const NOT_FOUND: &str = "HTTP/1.1 404 Not Found";
pub(super) const WRONG_METHOD: &str = "HTTP/1.1 405 Method Not Allowed";
pub(super) const TOO_SLOW: &str = "HTTP/1.1 408 Request Timeout";
pub(super) const BODY_TOO_LARGE: &str = "HTTP/1.1 413 Payload Too Large";
pub(super) const TARGET_TOO_LONG: &str = "HTTP/1.1 414 URI Too Long";
pub(super) const BAD_EXPECTATION: &str = "HTTP/1.1 417 Expectation Failed";
pub(super) const BAD_FIELD: &str = "HTTP/1.1 422 Unprocessable Entity";
pub(super) const HEAD_TOO_LARGE: &str = "HTTP/1.1 431 Request Header Fields Too Large";
pub(super) const NOT_IMPLEMENTED: &str = "HTTP/1.1 501 Not Implemented";

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It takes the next request.
    Open,
    /// It ends after the last answer.
    Closed,
}

pub(super) use Then::{Closed, Open};

/// A row.
pub(super) struct Row {
    /// The situation.
    pub(super) name: &'static str,
    sent: Vec<u8>,
    /// The client sends its end after that.
    ends: bool,
    answers: &'static [&'static str],
    /// What is sent after those answers, and what answers that.
    more: Option<(&'static str, &'static [&'static str])>,
    then: Then,
    /// The connection ends some time after its last answer, which cannot know of it.
    unannounced: bool,
    /// A part of the last answer, of its head or its body.
    says: &'static str,
    /// The only daemon that it is about.
    only: Option<&'static str>,
}

pub(super) fn row(
    name: &'static str,
    sent: impl AsRef<[u8]>,
    answers: &'static [&'static str],
    then: Then,
    says: &'static str,
) -> Row {
    let sent = sent.as_ref().to_vec();
    Row { name, sent, ends: false, answers, more: None, then, unannounced: false, says, only: None }
}

/// Lines, each with its end, and an empty one.
macro_rules! head {
    ($($line:expr),+ $(,)?) => { concat!($($line, "\r\n",)+ "\r\n") };
}
pub(super) use head;

impl Row {
    /// The same with a client that sends its end and waits for answers.
    pub(super) fn half_closed(mut self) -> Row {
        self.ends = true;
        self
    }

    /// The same with something sent and answered after its answers.
    pub(super) fn then_sent(mut self, sent: &'static str, answers: &'static [&'static str]) -> Row {
        self.more = Some((sent, answers));
        self
    }

    /// The same with an end that its last answer does not announce.
    pub(super) fn unannounced(mut self) -> Row {
        self.unannounced = true;
        self
    }

    /// The same at one of the daemons only.
    pub(super) fn only(mut self, role: &'static str) -> Row {
        self.only = Some(role);
        self
    }

    /// The same at a route that reads a body (`{write}`) or a number (`{read}`), which each daemon has under its own name.
    fn sent(&self, daemon: &str) -> Vec<u8> {
        let (write, read) = match daemon {
            "catalog" => ("PUT /catalog/buy", "/catalog/query?id="),
            "order" => ("PUT /order", "/orders/"),
            _ => ("POST /buy/1", "/lookup/"),
        };
        let replace = |bytes: Vec<u8>, name: &[u8], by: &str| -> Vec<u8> {
            match bytes.windows(name.len()).position(|window| window == name) {
                Some(at) => [&bytes[..at], by.as_bytes(), &bytes[at + name.len()..]].concat(),
                None => bytes,
            }
        };
        replace(replace(self.sent.clone(), b"{write}", write), b"{read}", read)
    }

    /// Tries it at the daemon of that role.
    pub(super) fn check(&self, role: &str, port: u16) -> Result<(), String> {
        if self.only.is_some_and(|only| only != role) {
            return Ok(());
        }
        let sent = self.sent(role);
        let mut wire = Wire::open(port)?;
        // A server that has refused what came first need not take the rest.
        let taken = wire.send(&sent);
        if self.ends {
            wire.end();
        }
        let mut last = answers(&mut wire, self.answers, sent.starts_with(b"HEAD "))?;
        if let Some((sent, then)) = self.more {
            wire.send(sent.as_bytes())?;
            last = answers(&mut wire, then, false)?;
        }
        if let Some(last) = &last
            && !format!("{:?}{}", last.headers, last.body).contains(self.says)
        {
            return Err(format!("{:?} is not in {last:?}", self.says));
        }
        match (self.then, last) {
            (Open, _) => {
                taken?;
                goes_on(&mut wire)
            }
            (Closed, Some(last)) if !self.announces_its_end(&last) => {
                Err(format!("the connection ends, and {last:?} does not say so"))
            }
            (Closed, _) => ends(&mut wire),
        }
    }

    fn announces_its_end(&self, last: &Received) -> bool {
        let by_version = last.line.starts_with("HTTP/1.0");
        last.header("connection") == "close" || by_version || self.ends || self.unannounced
    }
}

/// Reads answers that begin with these lines. Returns the last one.
fn answers(wire: &mut Wire, lines: &[&str], to_head: bool) -> Result<Option<Received>, String> {
    let mut last = None;
    for (at, line) in lines.iter().enumerate() {
        let answer = wire.answer(to_head)?;
        if answer.line != *line {
            return Err(format!("answer {} is {answer:?}, wanted {line}", at + 1));
        }
        well_formed(&answer, to_head)?;
        last = Some(answer);
    }
    Ok(last)
}

/// What every answer has. A problem has all its fields.
fn well_formed(answer: &Received, to_head: bool) -> Result<(), String> {
    if answer.status() == Some(100) {
        return Ok(());
    }
    if answer.header("date").is_empty() {
        return Err(format!("no date in {answer:?}"));
    }
    if answer.status() < Some(400) || to_head {
        return Ok(());
    }
    let json: Value = serde_json::from_str(&answer.body).map_err(|error| format!("{error} in {answer:?}"))?;
    let texts = ["type", "title", "detail", "message"].map(|name| json[name].as_str().unwrap_or_default());
    let complete = answer.header("content-type") == "application/problem+json"
        && json["status"].as_u64() == answer.status().map(u64::from)
        && json["retryable"].is_boolean()
        && texts.iter().all(|text| !text.is_empty())
        && texts[0].starts_with("/problems/")
        && answer.body.ends_with("}\n");
    if complete { Ok(()) } else { Err(format!("{answer:?} is no complete problem")) }
}

/// The next request gets the next answer, and nothing else was on its way.
fn goes_on(wire: &mut Wire) -> Result<(), String> {
    wire.send(head!("GET /livez HTTP/1.1", "Host: a", "Connection: close").as_bytes())?;
    let next = wire.answer(false).map_err(|why| format!("the next request: {why}"))?;
    if next.line != OK {
        return Err(format!("the next answer is {next:?}"));
    }
    ends(wire)
}

fn ends(wire: &mut Wire) -> Result<(), String> {
    match wire.rest()?.as_str() {
        "" => Ok(()),
        more => Err(format!("{more:?} comes after the last answer")),
    }
}
