//! A request and a response as handlers see them: whole, owned, of no particular server.
//!
//! Framing, limits and the connection belong to `api_plane`; what a body means belongs to `body`.

use std::net::SocketAddr;

use ::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use ::http::{Method, StatusCode};
use api::trace::Trace;
use bytes::Bytes;
use serde::Serialize;

use crate::problem::Problem;

/// The header that carries a trace (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// A request that was read to its end.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method; `HEAD` and `OPTIONS` included.
    pub method: Method,
    /// The path as it was sent, percent-escapes and all.
    pub path: String,
    /// What followed the `?`, as it was sent.
    pub query: Option<String>,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body, decoded from its transfer coding; at most the server's limit. Empty if there was none.
    pub body: Vec<u8>,
    /// The other end of the connection.
    pub peer: SocketAddr,
}

impl Request {
    /// The first value of this name in the query, percent-decoded once, `+` read as a space. A `%` that starts no
    /// escape stands for itself, and bytes that are no UTF-8 become U+FFFD, as in a browser's own decoder.
    pub fn query_param(&self, name: &str) -> Option<String> {
        form_field(self.query.as_deref()?, name)
    }

    /// The first value of this name in a body of a browser's form (`application/x-www-form-urlencoded`), decoded as
    /// `query_param` does. `None` also if the body is not UTF-8.
    pub fn form_param(&self, name: &str) -> Option<String> {
        form_field(std::str::from_utf8(&self.body).ok()?, name)
    }

    /// All values of this name in the query, decoded likewise, in order.
    pub fn query_params(&self, name: &str) -> Vec<String> {
        let pairs = self.query.as_deref().unwrap_or_default().split('&');
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(|(key, _)| form_decoded(key) == name).map(|(_, value)| form_decoded(value)).collect()
    }

    /// The first value of this header field, `None` if it is absent or not visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The trace that the request belongs to; `None` without a `traceparent`, with a malformed one, and with several.
    pub fn trace(&self) -> Option<Trace> {
        let mut values = self.headers.get_all(TRACEPARENT).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        value.to_str().ok()?.parse().ok()
    }
}

fn form_field(pairs: &str, name: &str) -> Option<String> {
    let pairs = pairs.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| form_decoded(key) == name)
        .map(|(_, value)| form_decoded(value))
}

fn form_decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// An answer. The server adds the length, the date and what the connection needs, and leaves out the body where the
/// protocol does (`HEAD`).
#[derive(Debug, Clone)]
pub struct Response {
    /// The status, 200 to 599.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body, in full. Answers that are given many times share it.
    pub body: Bytes,
}

impl Response {
    /// A JSON body with a newline at its end. A status outside 200 to 599 and a value that cannot be written as JSON
    /// (a map with keys that are no strings) are mistakes of ours and become a 500 problem.
    pub fn json<T: Serialize>(status: u16, body: &T) -> Response {
        Self::json_as(status, "application/json", body).unwrap_or_else(|mistake| {
            log::error!("an answer could not be written: {mistake}");
            Problem::internal().into()
        })
    }

    /// A body of this media type that others may share.
    pub fn shared(status: StatusCode, media_type: &'static str, body: Bytes) -> Response {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))]);
        Response { status, headers, body }
    }

    /// A plain text body, UTF-8.
    pub fn text(status: u16, body: impl Into<String>) -> Response {
        Self::of_type(status, "text/plain; charset=utf-8", body)
    }

    /// A body of bytes that only a program can read.
    pub fn bytes(body: Vec<u8>) -> Response {
        Self::with_body(200, "application/octet-stream", body).unwrap_or_else(|| Problem::internal().into())
    }

    /// A text of this media type. A status outside 200 to 599 is a mistake of ours and becomes a 500 problem.
    pub fn of_type(status: u16, media_type: &'static str, body: impl Into<String>) -> Response {
        let response = Self::with_body(status, media_type, body.into().into_bytes());
        response.unwrap_or_else(|| Problem::internal().into())
    }

    /// The same response with one more header field. A value that no header can hold (a control character) is left
    /// out and logged: callers pass what they made themselves.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &str) -> Response {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => {
                self.headers.append(name, value);
            }
            _ => {
                log::error!("header {name} was left out of an answer: its value {value:?} is no header value")
            }
        }
        self
    }

    /// A body of this JSON media type; the reason if it cannot be.
    pub(crate) fn json_as<T: Serialize>(
        status: u16,
        media_type: &'static str,
        body: &T,
    ) -> Result<Response, String> {
        let mut text = serde_json::to_vec(body).map_err(|error| error.to_string())?;
        text.push(b'\n');
        Self::with_body(status, media_type, text).ok_or_else(|| format!("status {status} is not 200 to 599"))
    }

    fn with_body(status: u16, media_type: &'static str, body: Vec<u8>) -> Option<Response> {
        let status = StatusCode::from_u16(status).ok().filter(|_| (200..=599).contains(&status))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        Some(Response { status, headers, body: body.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(query: Option<&str>) -> Request {
        Request {
            method: Method::GET,
            path: "/".into(),
            query: query.map(str::to_string),
            headers: HeaderMap::new(),
            body: Vec::new(),
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        }
    }

    #[test]
    fn query_parameters_are_decoded_once() {
        for (query, name, want) in [
            (None, "a", None),
            (Some(""), "a", None),
            (Some("a=1&b=2"), "b", Some("2")),
            (Some("a=1&a=2"), "a", Some("1")),
            (Some("a"), "a", Some("")),
            (Some("a=b=c"), "a", Some("b=c")),
            (Some("title=Xen+and%20the%2BArt"), "title", Some("Xen and the+Art")),
            (Some("a=%2541"), "a", Some("%41")),
            (Some("a=100%&b=%zz"), "a", Some("100%")),
            (Some("a=100%&b=%zz"), "b", Some("%zz")),
            (Some("%61=x"), "a", Some("x")),
            (Some("a=%ff"), "a", Some("\u{fffd}")),
        ] {
            assert_eq!(asking(query).query_param(name).as_deref(), want, "{name} in {query:?}");
        }
    }

    #[test]
    fn a_form_is_decoded_as_a_query_is() {
        let sent = |body: &[u8]| Request { body: body.to_vec(), ..asking(Some("a=of+the+query")) };
        let form = sent(b"key=a%2Bb&quantity=2&title=Xen+and");
        assert_eq!(form.form_param("key").as_deref(), Some("a+b"));
        assert_eq!(form.form_param("title").as_deref(), Some("Xen and"));
        assert_eq!(form.form_param("a"), None);
        assert_eq!(sent(b"a=\xff").form_param("a"), None);
    }

    #[test]
    fn json_ends_with_a_newline() {
        let response = Response::json(201, &serde_json::json!({"a": 1}));
        assert_eq!(response.status, StatusCode::CREATED);
        assert_eq!(response.body, &b"{\"a\":1}\n"[..]);
        assert_eq!(response.headers[CONTENT_TYPE], "application/json");
    }

    #[test]
    fn what_cannot_be_an_answer_is_a_500() {
        let unwritable = std::collections::BTreeMap::from([(vec![1], 1)]);
        assert_eq!(Response::json(200, &unwritable).status, 500);
        for status in [0, 99, 100, 199, 600, 1000] {
            assert_eq!(Response::text(status, "x").status, 500, "{status}");
        }
    }

    #[test]
    fn a_header_value_cannot_smuggle_a_line() {
        let response = Response::text(200, "x").with_header("location", "/a\r\nset-cookie: x=1");
        assert!(!response.headers.contains_key("location"));
        let response = Response::text(200, "x").with_header("location", "/a");
        assert_eq!(response.headers["location"], "/a");
    }
}
