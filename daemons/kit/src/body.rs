//! Reading what a client sent: JSON bodies, keys, numbers in paths; and money.
//!
//! Every refusal says what was found, what was wanted and what to do. A body is split into the raw text of its fields
//! and no further: numbers are read from their own digits, never through a float, and a nested value costs no stack.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::http::Request;
use crate::problem::Problem;

/// Deepest nesting of a JSON body; deeper is refused before it is parsed.
pub const JSON_DEPTH_MAX: usize = 32;
/// Most bytes of an idempotency key.
const KEY_BYTES_MAX: usize = 255;
/// Most bytes of a client's text that an error repeats; the rest becomes `...`.
const QUOTE_BYTES_MAX: usize = 60;
/// The header that carries a key.
pub const KEY_HEADER: &str = "idempotency-key";

/// A JSON object whose fields are read one by one.
#[derive(Debug)]
pub struct Fields(BTreeMap<String, Box<RawValue>>);

/// The object in a body. An empty body is an object without fields.
///
/// # Errors
/// 400 if it is not UTF-8, not JSON, nested deeper than `JSON_DEPTH_MAX`, not an object, or has a field twice.
pub fn object(body: &[u8]) -> Result<Fields, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        malformed(format!("the body is not UTF-8 after byte {}; send JSON in UTF-8", error.valid_up_to()))
    })?;
    if text.trim().is_empty() {
        return Ok(Fields(BTreeMap::new()));
    }
    check_depth(text)?;
    serde_json::from_str(text).map_err(|error| match text.trim_start().starts_with('{') {
        true => malformed(format!("the body is not a JSON object: {error}; send one like {{\"field\": 1}}")),
        false => malformed(format!(
            "the body is {}, a JSON object is wanted; send one like {{\"field\": 1}}",
            quoted(text.trim())
        )),
    })
}

fn malformed(detail: String) -> Problem {
    Problem::new(400, "malformed-body", "malformed body", detail)
}

/// Nesting is counted on the text, so that nothing recursive ever sees what is too deep.
fn check_depth(text: &str) -> Result<(), Problem> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > JSON_DEPTH_MAX {
            return Err(malformed(format!(
                "the body is nested more than {JSON_DEPTH_MAX} levels deep; send a flat object"
            )));
        }
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    let twice = format!("field {} appears twice", quoted(&name));
                    if fields.insert(name, value).is_some() {
                        return Err(A::Error::custom(twice));
                    }
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

impl Fields {
    /// Whether the field is there, whatever its value.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A whole number within a range, `None` if the field is absent.
    ///
    /// # Errors
    /// 422 for anything else: a fraction (2.0 too), a negative number, an exponent, a string, null.
    pub fn integer(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        let Some(found) = self.raw(name) else { return Ok(None) };
        match digits(found).and_then(|digits| digits.parse().ok()).filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(invalid(name, found, &whole_number(&range))),
        }
    }

    /// A whole number that must be there.
    ///
    /// # Errors
    /// 422 as `integer`, and if the field is absent.
    pub fn required_integer(&self, name: &str, range: RangeInclusive<u64>) -> Result<u64, Problem> {
        self.integer(name, range.clone())?.ok_or_else(|| {
            let detail = format!("field {name:?} is missing, {} is wanted; add it", whole_number(&range));
            invalid_field(name, detail)
        })
    }

    /// An amount of money, in cents: a JSON number in whole units with at most two decimals, `None` if absent. 12.5 is
    /// 1250.
    ///
    /// # Errors
    /// 422 for anything else: more decimals, an exponent, a negative number, more than `max_cents`.
    pub fn cents(&self, name: &str, max_cents: u64) -> Result<Option<u64>, Problem> {
        let Some(found) = self.raw(name) else { return Ok(None) };
        let wanted = || format!("a number from 0 to {} with at most two decimals", money(max_cents.into()));
        match cents(found).filter(|cents| *cents <= max_cents) {
            Some(cents) => Ok(Some(cents)),
            None => Err(invalid(name, found, &wanted())),
        }
    }

    /// A text, as it is, `None` if absent.
    ///
    /// # Errors
    /// 422 if it is empty or blank, longer than `bytes_max` in UTF-8, has a control character, or is no string.
    pub fn text(&self, name: &str, bytes_max: usize) -> Result<Option<String>, Problem> {
        let Some(found) = self.raw(name) else { return Ok(None) };
        let fits = |text: &String| {
            !text.trim().is_empty() && text.len() <= bytes_max && !text.chars().any(char::is_control)
        };
        match string(found).filter(fits) {
            Some(text) => Ok(Some(text)),
            None => Err(invalid(
                name,
                found,
                &format!("a text of 1 to {bytes_max} bytes without control characters"),
            )),
        }
    }

    /// An idempotency key: a string as `check_key` wants it, or a whole number, which is its decimal text. `None` if
    /// absent.
    ///
    /// # Errors
    /// 422 for anything else.
    pub fn key(&self, name: &str) -> Result<Option<String>, Problem> {
        let Some(found) = self.raw(name) else { return Ok(None) };
        let number = || {
            let unsigned = found.strip_prefix('-').unwrap_or(found);
            digits(unsigned).map(|digits| if digits == "0" { "0".into() } else { found.to_string() })
        };
        match string(found).or_else(number).filter(|key| is_key(key)) {
            Some(key) => Ok(Some(key)),
            None => Err(invalid(name, found, &format!("{KEY_WANTED}, or a whole number"))),
        }
    }

    /// The field's own text: valid JSON without blanks around it.
    fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.get().trim())
    }
}

const KEY_WANTED: &str = "a key of 1 to 255 printable ASCII characters";

fn invalid(name: &str, found: &str, wanted: &str) -> Problem {
    invalid_field(name, format!("field {name:?} is {}, {wanted} is wanted; correct it", quoted(found)))
}

fn invalid_field(name: &str, detail: String) -> Problem {
    Problem::new(422, "invalid-field", "invalid field", detail).field("field", name)
}

fn whole_number(range: &RangeInclusive<u64>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}

/// What a client sent, shortened, for an error.
fn quoted(text: &str) -> String {
    let mut end = text.len().min(QUOTE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let shortened = if end < text.len() { "..." } else { "" };
    format!("{}{shortened}", text[..end].escape_debug())
}

/// The text of an unsigned JSON integer; JSON itself excludes leading zeros.
fn digits(raw: &str) -> Option<&str> {
    (!raw.is_empty() && raw.bytes().all(|byte| byte.is_ascii_digit())).then_some(raw)
}

fn string(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

fn cents(raw: &str) -> Option<u64> {
    let (units, decimals) = raw.split_once('.').unwrap_or((raw, "0"));
    let units: u64 = digits(units)?.parse().ok()?;
    let decimals = digits(decimals).filter(|decimals| decimals.len() <= 2)?;
    let hundredths: u64 = decimals.parse().ok()?;
    let hundredths = if decimals.len() == 1 { hundredths * 10 } else { hundredths };
    units.checked_mul(100)?.checked_add(hundredths)
}

/// An amount as the reference writes it: a JSON number in whole units with at least one decimal (`1000.0`, `0.5`,
/// `12.34`). Exact to 10^15 - 1 cents, the 15 digits that survive a JSON reader's float; beyond, the nearest float.
pub fn money(cents: u128) -> Value {
    #[allow(clippy::cast_precision_loss)] // see above: exact where it is promised
    let units = cents as f64 / 100.0;
    Value::from(units)
}

/// The rule for idempotency keys: 1 to 255 printable ASCII characters.
///
/// # Errors
/// 400 if the text breaks it.
pub fn check_key(text: &str) -> Result<(), Problem> {
    if is_key(text) { Ok(()) } else { Err(invalid_key(text)) }
}

fn is_key(text: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn invalid_key(found: &str) -> Problem {
    let detail = format!("the Idempotency-Key is {}, {KEY_WANTED} is wanted; send another", quoted(found));
    Problem::new(400, "invalid-key", "invalid idempotency key", detail)
}

/// The request's `Idempotency-Key`, `None` without the header. Taken are the structured string of the IETF draft
/// (`"abc"` in quotes, which are stripped) and a bare token (`abc`).
///
/// # Errors
/// 400 if the header is there twice, is no such string, or is no key.
pub fn key_header(request: &Request) -> Result<Option<String>, Problem> {
    let mut values = request.headers.get_all(KEY_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let detail = "there is more than one Idempotency-Key, one is wanted; send a request per key";
        return Err(Problem::new(400, "invalid-key", "invalid idempotency key", detail));
    }
    let raw = String::from_utf8_lossy(value.as_bytes());
    match unquoted(raw.trim()).filter(|key| is_key(key)) {
        Some(key) => Ok(Some(key)),
        None => Err(invalid_key(&raw)),
    }
}

/// A structured-field string (RFC 9651, 3.3.3) without its quotes and escapes; any other text as it is.
fn unquoted(raw: &str) -> Option<String> {
    let Some(inner) = raw.strip_prefix('"') else { return Some(raw.to_string()) };
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(text),
            '\\' => text.push(chars.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            plain => text.push(plain),
        }
    }
}

/// A number in a path: decimal digits.
///
/// # Errors
/// `bad` if it is anything else, `unknown` if it is too large for anything to have that number.
pub fn path_id(
    segment: &str,
    bad: impl FnOnce() -> Problem,
    unknown: impl FnOnce() -> Problem,
) -> Result<u64, Problem> {
    digits(segment).ok_or_else(bad)?.parse().map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use ::http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    fn field(json: &str) -> Fields {
        object(format!("{{\"x\": {json}}}").as_bytes())
            .unwrap_or_else(|problem| panic!("{json}: {problem:?}"))
    }

    #[test]
    fn an_empty_body_has_no_fields() {
        for body in ["", " \r\n\t", "{}", " {\n} "] {
            assert!(object(body.as_bytes()).unwrap().0.is_empty(), "{body:?}");
        }
    }

    #[test]
    fn bodies_that_are_no_object() {
        for (body, says) in [
            (&b"{\"a\": 1,\n \"b\": }"[..], "line 2 column 7"),
            (b"{\"a\": 1", "line 1 column 7"),
            (b"{\"a\": 1} x", "line 1 column 10"),
            (b"{\"a\": 01}", "line 1"),
            (b"{\"a\": 1, \"a\": 2}", "field a appears twice"),
            (b"[1, 2]", "the body is [1, 2], a JSON object is wanted"),
            (b"null", "the body is null"),
            (b"quantity=1", "the body is quantity=1"),
            (b"{\"a\": \"\xff\"}", "not UTF-8 after byte 7"),
            (b"\xef\xbb\xbf{}", "a JSON object is wanted"),
        ] {
            let problem = object(body).unwrap_err();
            assert_eq!(problem.status, 400);
            assert!(problem.detail.contains(says), "{:?}: {}", String::from_utf8_lossy(body), problem.detail);
        }
    }

    #[test]
    fn nesting_is_bounded_before_parsing() {
        let nested = |levels: usize| format!("{{\"x\": {}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(object(nested(JSON_DEPTH_MAX - 1).as_bytes()).is_ok());
        assert!(object(nested(JSON_DEPTH_MAX).as_bytes()).unwrap_err().detail.contains("32 levels"));
        assert_eq!(object("[".repeat(1_000_000).as_bytes()).unwrap_err().status, 400);
        let in_text = format!("{{\"x\": \"\\\"{}\"}}", "[".repeat(100));
        assert!(object(in_text.as_bytes()).is_ok(), "brackets in a string do not nest");
    }

    #[test]
    fn integers() {
        for (json, want) in [("1", 1), ("0", 0), ("7", 7), (" 10 ", 10)] {
            assert_eq!(field(json).integer("x", 0..=10).unwrap(), Some(want), "{json}");
        }
        for json in
            ["11", "-1", "-0", "2.0", "1e1", "\"1\"", "null", "true", "[]", "{}", "99999999999999999999999"]
        {
            let problem = field(json).integer("x", 0..=10).unwrap_err();
            assert_eq!(problem.status, 422, "{json}");
            assert!(problem.detail.starts_with("field \"x\" is "), "{}", problem.detail);
            assert!(problem.detail.contains("a whole number from 0 to 10 is wanted"), "{}", problem.detail);
        }
        assert_eq!(field("1").integer("y", 0..=10).unwrap(), None);
        assert!(field("1").required_integer("y", 0..=10).unwrap_err().detail.contains("is missing"));
        assert_eq!(field("18446744073709551615").integer("x", 0..=u64::MAX).unwrap(), Some(u64::MAX));
    }

    #[test]
    fn amounts() {
        for (json, want) in [
            ("0", 0),
            ("0.0", 0),
            ("0.01", 1),
            ("0.1", 10),
            ("0.29", 29),
            ("1.10", 110),
            ("2000", 200_000),
            ("1000.0", 100_000),
        ] {
            assert_eq!(field(json).cents("x", 1_000_000).unwrap(), Some(want), "{json}");
        }
        for json in [
            "-1",
            "-0.0",
            "0.30000000000000004",
            "1.001",
            "1e2",
            "10000.01",
            "\"1\"",
            "null",
            "99999999999999999999",
        ] {
            let problem = field(json).cents("x", 1_000_000).unwrap_err();
            assert_eq!(problem.status, 422, "{json}");
            assert!(
                problem.detail.contains("from 0 to 10000.0 with at most two decimals"),
                "{}",
                problem.detail
            );
        }
    }

    #[test]
    fn texts() {
        assert_eq!(field(r#""a\u00fc""#).text("x", 3).unwrap().as_deref(), Some("aü"));
        for json in [r#""""#, r#""  ""#, r#""abcd""#, r#""a\n""#, r#""\u0000""#, "1", "null"] {
            assert_eq!(field(json).text("x", 3).unwrap_err().status, 422, "{json}");
        }
    }

    #[test]
    fn a_long_value_is_shortened_in_the_error() {
        let problem = field(&format!("\"{}\"", "ü".repeat(1000))).text("x", 3).unwrap_err();
        assert!(problem.detail.len() < 300, "{}", problem.detail);
    }

    #[test]
    fn keys_in_a_body() {
        let longest = "k".repeat(255);
        for (json, want) in [
            (r#""abc""#, "abc"),
            (r#""a b~""#, "a b~"),
            ("7", "7"),
            ("0", "0"),
            ("-7", "-7"),
            ("-0", "0"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            (&format!("\"{longest}\""), &longest),
        ] {
            assert_eq!(field(json).key("x").unwrap().as_deref(), Some(want), "{json}");
        }
        let too_long = format!("\"k{longest}\"");
        for json in [r#""""#, r#""ü""#, r#""a\tb""#, "1.5", "1e3", "null", "true", "[1]", &too_long] {
            assert_eq!(field(json).key("x").unwrap_err().status, 422, "{json}");
        }
    }

    fn with_keys(values: &[&[u8]]) -> Request {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(KEY_HEADER, ::http::HeaderValue::from_bytes(value).unwrap());
        }
        Request {
            method: ::http::Method::POST,
            path: "/".into(),
            query: None,
            headers,
            body: Vec::new(),
            peer: ([127, 0, 0, 1], 1).into(),
        }
    }

    #[test]
    fn keys_in_the_header() {
        assert_eq!(key_header(&with_keys(&[])).unwrap(), None);
        for (value, want) in [
            (&b"abc"[..], "abc"),
            (b"\"abc\"", "abc"),
            (b"\"a \\\"b\\\\\"", "a \"b\\"),
            (b"8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
            (b"a\"b", "a\"b"),
        ] {
            assert_eq!(key_header(&with_keys(&[value])).unwrap().as_deref(), Some(want));
        }
        let too_long = [b'k'; 256];
        for value in [&b""[..], b"\"\"", b"\"abc", b"\"abc\"x", b"\"a\\b\"", b"\xc3\xbc", &too_long] {
            assert_eq!(key_header(&with_keys(&[value])).unwrap_err().status, 400, "{value:?}");
        }
        assert_eq!(key_header(&with_keys(&[b"a", b"a"])).unwrap_err().status, 400);
    }

    #[test]
    fn numbers_in_paths() {
        let read = |segment: &str| {
            let problem = |status| move || Problem::new(status, "k", "t", "d");
            path_id(segment, problem(400), problem(404)).map_err(|problem| problem.status)
        };
        for (segment, want) in [
            ("0", Ok(0)),
            ("7", Ok(7)),
            ("007", Ok(7)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(404)),
            ("", Err(400)),
            ("abc", Err(400)),
            ("-1", Err(400)),
            ("+1", Err(400)),
            ("1.0", Err(400)),
            ("１", Err(400)),
        ] {
            assert_eq!(read(segment), want, "{segment:?}");
        }
    }

    #[test]
    fn money_has_the_references_form() {
        for (cents, want) in [
            (0, "0.0"),
            (1, "0.01"),
            (50, "0.5"),
            (1_234, "12.34"),
            (100_000, "1000.0"),
            (100_000_000_000, "1000000000.0"),
            (999_999_999_999_999, "9999999999999.99"),
        ] {
            assert_eq!(money(cents).to_string(), want);
        }
    }

    proptest! {
        #[test]
        fn money_and_back(cents in 0u64..1_000_000_000_000_000) {
            let shown = money(cents.into()).to_string();
            prop_assert_eq!(field(&shown).cents("x", u64::MAX).unwrap(), Some(cents), "{}", shown);
        }

        #[test]
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = object(&body);
        }

        #[test]
        fn every_object_is_taken(fields in prop::collection::btree_map(".{0,8}", any::<i64>(), 0..8)) {
            let body = serde_json::to_vec(&fields).unwrap();
            let read = object(&body).unwrap();
            prop_assert_eq!(read.0.keys().collect::<Vec<_>>(), fields.keys().collect::<Vec<_>>());
        }
    }
}
