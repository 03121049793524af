//! A client of one daemon's API, on `ureq`; and requests that no decent client sends, on a bare socket.

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Request};

use crate::wire::{Received, Wire};

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Longest wait for the request to be taken.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for the answer: three times the longest that a daemon may take by its own limits.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A client for the API plane of one daemon, on 127.0.0.1 unless told otherwise. Clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    address: SocketAddr,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The request, for messages.
    pub request: String,
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Client {
    /// For the daemon on this port.
    pub fn new(port: u16) -> Client {
        Client::at((Ipv4Addr::LOCALHOST, port).into())
    }

    /// For the daemon at this address.
    pub fn at(address: SocketAddr) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_send_request(Some(SEND_LIMIT))
            .timeout_send_body(Some(SEND_LIMIT))
            .timeout_recv_response(Some(ANSWER_LIMIT))
            .timeout_recv_body(Some(ANSWER_LIMIT))
            .build();
        Client { agent: config.new_agent(), address }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Sends a request; `None` is no body, not an empty one.
    ///
    /// # Errors
    /// In words: there was no answer.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, String> {
        let name = format!("{method} {path}");
        let url = format!("http://{}{path}", self.address);
        let with_headers = |map: &mut HeaderMap| {
            for (name, value) in headers {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("tests name real headers");
                let value = HeaderValue::from_bytes(value.as_bytes()).expect("tests send real values");
                map.append(name, value);
            }
        };
        let answer = match (method, body) {
            // ureq sends no body with these unless told to.
            ("GET" | "HEAD" | "DELETE" | "OPTIONS", Some(body)) => {
                let mut request = match method {
                    "GET" => self.agent.get(&url),
                    "HEAD" => self.agent.head(&url),
                    "DELETE" => self.agent.delete(&url),
                    _ => self.agent.options(&url),
                };
                with_headers(request.headers_mut().expect("the address is one"));
                request.force_send_body().send(body)
            }
            (_, Some(body)) => {
                let mut request = Request::builder().method(method).uri(&url);
                with_headers(request.headers_mut().expect("the address is one"));
                self.agent.run(request.body(body).expect("checked above"))
            }
            (_, None) => {
                let mut request = Request::builder().method(method).uri(&url);
                with_headers(request.headers_mut().expect("the address is one"));
                self.agent.run(request.body(()).expect("checked above"))
            }
        };
        let mut answer = answer.map_err(|error| format!("{name}: {error}"))?;
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| format!("{name}, reading the answer: {error}"))?;
        let body = String::from_utf8_lossy(&body).into_owned(); // a log is not text; who reads it asks for its bytes
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(Answer { request: name, status, headers, body })
    }

    /// `GET`.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn get(&self, path: &str) -> Answer {
        answered(self.send("GET", path, &[], None))
    }

    /// `GET` with a JSON body, as the reference's clients do.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn get_with(&self, path: &str, body: &Value) -> Answer {
        answered(self.send("GET", path, &[], Some(body.to_string().as_bytes())))
    }

    /// `PUT` of JSON.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn put(&self, path: &str, body: &Value) -> Answer {
        answered(self.send("PUT", path, &[], Some(body.to_string().as_bytes())))
    }

    /// `POST` without a body.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn post(&self, path: &str) -> Answer {
        answered(self.send("POST", path, &[], None))
    }

    /// Buys copies of a book at a front end.
    ///
    /// # Errors
    /// In words: there was no answer.
    pub fn buy(&self, book: u64, quantity: u64, key: &str) -> Result<Answer, String> {
        let body = serde_json::json!({ "quantity": quantity }).to_string();
        self.send("POST", &format!("/buy/{book}"), &[("idempotency-key", key)], Some(body.as_bytes()))
    }

    /// Sends these bytes on a connection of their own and reads one answer, whether or not all was taken.
    ///
    /// # Errors
    /// In words: there was no whole answer.
    pub fn send_bytes(&self, name: &str, bytes: &[u8]) -> Result<Answer, String> {
        let failed = |why: String| format!("{name}: {why}");
        let mut wire = Wire::open(self.address.port()).map_err(failed)?;
        let mut sending = wire.stream().try_clone().map_err(|error| failed(error.to_string()))?;
        std::thread::scope(|scope| {
            // A server that refuses a body need not read it: that the rest cannot be sent is no failure.
            scope.spawn(move || sending.write_all(bytes));
            let received = wire.answer(false);
            // Frees the writer, if it still waits for somebody to read.
            let _ = wire.stream().shutdown(Shutdown::Both);
            let received = received.map_err(failed)?;
            let status =
                received.status().ok_or_else(|| failed(format!("no status in {:?}", received.line)))?;
            let Received { headers, body, .. } = received;
            Ok(Answer { request: name.to_owned(), status, headers, body })
        })
    }
}

fn answered(answer: Result<Answer, String>) -> Answer {
    answer.unwrap_or_else(|error| panic!("{error}"))
}

impl Answer {
    /// The body as JSON of that shape.
    ///
    /// # Panics
    /// If it is something else.
    pub fn parse<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}, in {self}"))
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is something else.
    pub fn json(&self) -> Value {
        self.parse()
    }

    /// A field of the JSON object in the body; null if it is not there.
    ///
    /// # Panics
    /// If the body is no JSON.
    pub fn field(&self, name: &str) -> Value {
        self.json()[name].take()
    }

    /// A whole number among the fields.
    ///
    /// # Panics
    /// If there is none.
    pub fn number(&self, name: &str) -> u64 {
        self.field(name).as_u64().unwrap_or_else(|| panic!("no number {name:?} in {self}"))
    }

    /// A header's text, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// This answer.
    ///
    /// # Panics
    /// If the status is another.
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// The `message` of a problem.
    ///
    /// # Panics
    /// If this is no problem with that status, complete and consistent.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self}");
        let json = self.json();
        assert_eq!(json["status"], status, "{self}");
        assert!(json["retryable"].is_boolean(), "{self}");
        let text = |name: &str| match json[name].as_str() {
            Some(text) if !text.is_empty() => text.to_owned(),
            _ => panic!("no text {name:?} in {self}"),
        };
        assert!(text("type").starts_with("/problems/"), "{self}");
        text("title");
        text("detail");
        text("message")
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const BODY_CHARS_SHOWN: usize = 2000;
        let body: String = self.body.chars().take(BODY_CHARS_SHOWN).collect();
        write!(f, "the answer {} to {}: {body}", self.status, self.request)
    }
}
