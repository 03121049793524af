//! Errors as answers: problem details for HTTP (RFC 9457), with the two fields Quire adds to each.
//!
//! `message` is the reference's field for the same sentence. `retryable` says whether the same request, sent again
//! with the same key, may well succeed.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::http::Response;

/// Statuses that say "not now": the default of `retryable`.
const NOT_NOW: [u16; 4] = [408, 429, 503, 504];
/// Fields that every problem has; `field` does not replace them.
const OWN_FIELDS: [&str; 6] = ["type", "title", "status", "detail", "message", "retryable"];

/// A refusal or a failure, to be answered instead of a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The HTTP status, 400 to 599.
    pub status: u16,
    /// What kind of problem, as a name in lower case: `out-of-stock` is answered as type `/problems/out-of-stock`.
    pub kind: &'static str,
    /// The kind in words; the same for every problem of this kind.
    pub title: &'static str,
    /// This problem in a sentence: what was found, what was wanted, what to do.
    pub detail: String,
    /// The reference's sentence for it; `detail` unless set.
    pub message: String,
    /// Whether the same request may succeed later. Unless set: the status is 408, 429, 503 or 504.
    pub retryable: bool,
    more: Option<Box<More>>,
}

/// What few problems have; boxed, so that a `Result` with a problem stays small.
#[derive(Debug, Clone, PartialEq, Default)]
struct More {
    fields: Map<String, Value>,
    headers: Vec<(&'static str, String)>,
}

impl Problem {
    /// A problem whose message is its detail.
    pub fn new(status: u16, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
        let detail = detail.into();
        let retryable = NOT_NOW.contains(&status);
        let message = detail.clone();
        Problem { status, kind, title, detail, message, retryable, more: None }
    }

    /// Our own mistake: 500, and nothing about its cause, which is in the log.
    pub(crate) fn internal() -> Problem {
        Problem::new(
            500,
            "internal",
            "internal error",
            "this is a fault of the server; its log has the cause",
        )
    }

    /// With the reference's sentence.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// With its own word on whether a retry makes sense.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// With a `Retry-After` header, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        self.header("retry-after", &seconds.to_string())
    }

    /// With one more field in the body. The six own fields cannot be replaced; a value that is no JSON becomes null.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Serialize) -> Self {
        debug_assert!(!OWN_FIELDS.contains(&name), "{name} is a field of every problem");
        if !OWN_FIELDS.contains(&name) {
            let value = serde_json::to_value(value).unwrap_or_default();
            self.more.get_or_insert_default().fields.insert(name.to_string(), value);
        }
        self
    }

    /// With one more header field in the answer.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.more.get_or_insert_default().headers.push((name, value.to_string()));
        self
    }
}

/// The body, in the order people read it.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    message: &'a str,
    retryable: bool,
    #[serde(flatten)]
    fields: &'a Map<String, Value>,
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Response {
        let Problem { status, kind, title, detail, message, retryable, more } = &problem;
        let More { fields, headers } = &more.as_deref().cloned().unwrap_or_default();
        let body = Body {
            r#type: format!("/problems/{kind}"),
            title,
            status: *status,
            detail,
            message,
            retryable: *retryable,
            fields,
        };
        let response = Response::json_as(*status, "application/problem+json", &body)
            .expect("a problem's status is 400 to 599 and its body is plain JSON");
        headers.iter().fold(response, |response, (name, value)| response.with_header(name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_every_field_and_a_newline() {
        let response: Response =
            Problem::new(409, "out-of-stock", "out of stock", "book 2 has 0 copies, 1 wanted")
                .message("Item not available")
                .field("stock", 0)
                .into();
        assert_eq!(response.status, 409);
        assert_eq!(response.headers["content-type"], "application/problem+json");
        assert_eq!(
            String::from_utf8(response.body.to_vec()).unwrap(),
            concat!(
                r#"{"type":"/problems/out-of-stock","title":"out of stock","status":409,"#,
                r#""detail":"book 2 has 0 copies, 1 wanted","message":"Item not available","retryable":false,"stock":0}"#,
                "\n"
            )
        );
    }

    #[test]
    fn the_status_decides_whether_to_retry_unless_told() {
        for (status, want) in [
            (400, false),
            (404, false),
            (408, true),
            (409, false),
            (429, true),
            (500, false),
            (503, true),
            (504, true),
        ] {
            assert_eq!(Problem::new(status, "k", "t", "d").retryable, want, "{status}");
        }
        assert!(Problem::new(409, "k", "t", "d").retryable(true).retryable);
    }

    #[test]
    fn retry_after_is_a_header() {
        let response: Response = Problem::new(503, "full", "full", "d").retry_after(2).into();
        assert_eq!(response.headers["retry-after"], "2");
    }
}
