//! What any request may ask of any answer: a body for people's eyes (`?pretty`), and its own trace repeated.
//!
//! Costs a request that asks for neither a look at its query and one at its fields.

use ::http::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use crate::http::{Request, Response, TRACEPARENT};

/// Blanks before a line, for each level of nesting.
const INDENT: &[u8] = b"  ";

/// The wishes of one request.
pub(super) struct Wishes {
    pretty: bool,
    trace: Option<HeaderValue>,
}

impl Wishes {
    /// What this request asks for.
    pub(super) fn of(request: &Request) -> Wishes {
        let may_be_pretty = request.query.as_deref().is_some_and(|query| query.contains("pretty"));
        let pretty = may_be_pretty
            && request.query_param("pretty").is_some_and(|value| !matches!(&*value, "false" | "0"));
        let trace = request.headers.get(TRACEPARENT).filter(|_| request.trace().is_some()).cloned();
        Wishes { pretty, trace }
    }

    /// The answer as it was asked for.
    pub(super) fn grant(self, mut answer: Response) -> Response {
        if let Some(trace) = self.trace {
            answer.headers.insert(HeaderName::from_static(TRACEPARENT), trace);
        }
        if self.pretty && is_json(&answer.headers) {
            answer.body = Bytes::from(indented(&answer.body));
        }
        if self.pretty {
            weaken(&mut answer.headers);
        }
        answer
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    media_type == b"application/json" || media_type == b"application/problem+json"
}

/// An entity tag of the same content in other bytes is a weak one (RFC 9110, 8.8.1).
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")) else { return };
    if let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        headers.insert(ETAG, weak);
    }
}

/// JSON with a line for every member and element. Only blanks are added, so order and digits stay; text that is no JSON
/// comes to no harm either.
fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    let mut bytes = json.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if in_string {
            out.push(byte);
            in_string = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'{' | b'[' => {
                out.push(byte);
                let closes = bytes.peek().is_some_and(|next| matches!(next, b'}' | b']'));
                if closes {
                    out.extend(bytes.next());
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                new_line(&mut out, depth);
            }
            b':' => out.extend(b": "),
            _ => {
                in_string = byte == b'"';
                out.push(byte);
            }
        }
    }
    out.push(b'\n');
    out
}

fn new_line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    (0..depth).for_each(|_| out.extend(INDENT));
}

#[cfg(test)]
mod tests {
    use ::http::Method;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn asking(query: Option<&str>, fields: &[(&'static str, &'static str)]) -> Request {
        let fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Request {
            method: Method::GET,
            path: "/".into(),
            query: query.map(str::to_owned),
            headers: fields.collect(),
            body: Vec::new(),
            peer: ([127, 0, 0, 1], 1).into(),
        }
    }

    fn granted(request: &Request) -> Response {
        let answer = Response::json(200, &serde_json::json!({"a": [1.0, {}], "b\"{": []}));
        Wishes::of(request).grant(answer.with_header("etag", "\"1\""))
    }

    #[test]
    fn who_asks_for_it_gets_lines() {
        for query in ["pretty", "pretty=", "pretty=true", "a=b&pretty=1"] {
            let answer = granted(&asking(Some(query), &[]));
            let want = "{\n  \"a\": [\n    1.0,\n    {}\n  ],\n  \"b\\\"{\": []\n}\n";
            assert_eq!(String::from_utf8(answer.body.to_vec()).unwrap(), want, "{query}");
            assert_eq!(answer.headers[ETAG], "W/\"1\"");
        }
        for query in [None, Some("pretty=false"), Some("pretty=0"), Some("a=pretty"), Some("prettyish")] {
            let answer = granted(&asking(query, &[]));
            assert_eq!(answer.body, &b"{\"a\":[1.0,{}],\"b\\\"{\":[]}\n"[..], "{query:?}");
            assert_eq!(answer.headers[ETAG], "\"1\"");
        }
        let page = Wishes::of(&asking(Some("pretty"), &[])).grant(Response::text(200, "{}"));
        assert_eq!(page.body, &b"{}"[..], "what is no JSON stays as it is");
    }

    #[test]
    fn a_trace_is_repeated_if_it_is_one() {
        const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let answer = granted(&asking(None, &[(TRACEPARENT, TRACE)]));
        assert_eq!(answer.headers[TRACEPARENT], TRACE);
        for fields in [&[][..], &[(TRACEPARENT, "x")], &[(TRACEPARENT, TRACE), (TRACEPARENT, TRACE)]] {
            assert!(!granted(&asking(None, fields)).headers.contains_key(TRACEPARENT), "{fields:?}");
        }
    }

    proptest! {
        #[test]
        fn only_blanks_are_added(text in r#"[\[\]{}:,"\\a1 ]{0,40}"#) {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let again: Value = serde_json::from_slice(&indented(text.as_bytes())).unwrap();
                prop_assert_eq!(again, value);
            }
            let without = |bytes: &[u8]| -> Vec<u8> {
                bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect()
            };
            prop_assert_eq!(without(&indented(text.as_bytes())), without(text.as_bytes()));
        }
    }
}
