//! What pages show: the API's answers as they are read, and the words that are made of them.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Number;

/// Fewer copies than this are few.
const FEW: u64 = 10;
/// What need not be escaped in a segment or a query (RFC 3986, 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `GET /lookup/{id}`, and a row of `GET /books`.
#[derive(Debug, Deserialize)]
pub(crate) struct Book {
    pub(crate) id: u64,
    pub(crate) title: String,
    pub(crate) topic: String,
    pub(crate) stock: u64,
    cost: Number,
}

/// `GET /books`.
#[derive(Debug, Deserialize)]
pub(crate) struct Books {
    pub(crate) books: Vec<Book>,
    pub(crate) next: Option<u64>,
}

/// `GET /topics`.
#[derive(Debug, Deserialize)]
pub(crate) struct Topics {
    pub(crate) topics: Vec<Topic>,
}

/// A topic and how many books it has.
#[derive(Debug, Deserialize)]
pub(crate) struct Topic {
    slug: String,
    pub(crate) topic: String,
    pub(crate) books: u64,
}

/// `GET /search/{topic}`.
#[derive(Debug, Deserialize)]
pub(crate) struct Titles {
    pub(crate) items: InOrder,
    pub(crate) next: Option<String>,
}

/// Titles and book numbers in the order of the answer.
#[derive(Debug)]
pub(crate) struct InOrder(pub(crate) Vec<(String, u64)>);

/// `GET /orders/{n}`, and a row of `GET /orders`.
#[derive(Debug, Deserialize)]
pub(crate) struct Order {
    pub(crate) order: u64,
    pub(crate) book: u64,
    pub(crate) title: String,
    pub(crate) quantity: u64,
    price: Number,
    total: Number,
    pub(crate) key: String,
    time: String,
    pub(crate) position: String,
    pub(crate) index: u64,
}

/// `GET /orders`.
#[derive(Debug, Deserialize)]
pub(crate) struct Orders {
    pub(crate) orders: Vec<Order>,
    pub(crate) total: u64,
    pub(crate) next: Option<u64>,
}

/// `POST /buy/{id}`.
#[derive(Debug, Deserialize)]
pub(crate) struct Bought {
    pub(crate) order: u64,
    pub(crate) position: String,
}

/// Problems whose key is decided for good: no request with it sells any more. `buy.js` has the same list.
pub(crate) const DECIDED: [&str; 3] = ["out-of-stock", "unknown-book", "key-reused"];

/// What a problem says of the buy that it is the answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is decided, and told.
    Decided,
    /// This request has certainly done nothing.
    NotDone,
    /// It may have been done. Only the same request with the same key can tell.
    Unknown,
}

/// A problem (RFC 9457).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Trouble {
    r#type: String,
    pub(crate) title: String,
    pub(crate) status: u16,
    pub(crate) detail: String,
    pub(crate) available: Option<u64>,
    pub(crate) key: Option<String>,
}

impl Book {
    /// Its price.
    pub(crate) fn price(&self) -> String {
        money(&self.cost)
    }

    /// How many there are, in words.
    pub(crate) fn availability(&self) -> String {
        match self.stock {
            0 => "Sold out".into(),
            few if few < FEW => format!("Only {few} left"),
            many => format!("{} in stock", grouped(&many.to_string())),
        }
    }

    /// One of the eight colours of a cover.
    pub(crate) fn tone(&self) -> u64 {
        self.id % 8
    }
}

impl Topic {
    /// Where its books are.
    pub(crate) fn href(&self) -> String {
        format!("/search/{}", escaped(&self.slug))
    }

    /// Its name as a heading.
    pub(crate) fn heading(&self) -> String {
        heading(&self.topic)
    }
}

impl Order {
    /// What one copy cost.
    pub(crate) fn price(&self) -> String {
        money(&self.price)
    }

    /// What all copies cost.
    pub(crate) fn total(&self) -> String {
        money(&self.total)
    }

    /// When it was sold, to the second.
    pub(crate) fn when(&self) -> String {
        self.time.split('.').next().unwrap_or_default().replacen('T', " ", 1)
    }

    /// When it was sold, for machines.
    pub(crate) fn time(&self) -> &str {
        &self.time
    }
}

impl Trouble {
    /// What kind of problem it is, as `docs/http-api.md` lists them.
    pub(crate) fn kind(&self) -> &str {
        self.r#type.rsplit('/').next().unwrap_or_default()
    }

    /// What it says of the buy that it is the answer to. What is no problem of the API says nothing.
    pub(crate) fn fate(&self) -> Fate {
        match (self.kind(), self.status) {
            (kind, _) if DECIDED.contains(&kind) => Fate::Decided,
            ("", _) => Fate::Unknown,
            (_, 400..=499 | 503 | 507) => Fate::NotDone,
            _ => Fate::Unknown,
        }
    }
}

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rows;

        impl<'de> Visitor<'de> for Rows {
            type Value = InOrder;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of titles and numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = map.next_entry()? {
                    rows.push(row);
                }
                Ok(InOrder(rows))
            }
        }

        deserializer.deserialize_map(Rows)
    }
}

/// A topic's name with a capital letter.
pub(crate) fn heading(topic: &str) -> String {
    let mut letters = topic.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Text as a segment of a path, or as a value in a query.
pub(crate) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// `$1,234.50`. Exact below 10^13, as the number is.
fn money(amount: &Number) -> String {
    let text = format!("{:.2}", amount.as_f64().unwrap_or_default());
    let (whole, cents) = text.split_once('.').unwrap_or((&text, "00"));
    format!("${}.{cents}", grouped(whole))
}

/// Digits in groups of three.
fn grouped(digits: &str) -> String {
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_and_numbers_are_written_for_people() {
        for (json, wanted) in [
            ("1000.0", "$1,000.00"),
            ("0.5", "$0.50"),
            ("12.34", "$12.34"),
            ("0.0", "$0.00"),
            ("9999999999.99", "$9,999,999,999.99"),
            ("1e18", "$1,000,000,000,000,000,000.00"),
        ] {
            assert_eq!(money(&serde_json::from_str(json).unwrap()), wanted, "{json}");
        }
        assert_eq!(["1", "999", "1000", "1234567"].map(grouped), ["1", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn only_what_the_api_is_sure_of_settles_a_buy() {
        let fate = |kind: &str, status| {
            let r#type = if kind.is_empty() { String::new() } else { format!("/problems/{kind}") };
            Trouble { r#type, status, ..Trouble::default() }.fate()
        };
        for (kind, status, wanted) in [
            ("out-of-stock", 409, Fate::Decided),
            ("unknown-book", 404, Fate::Decided),
            ("key-reused", 422, Fate::Decided),
            ("invalid-field", 422, Fate::NotDone),
            ("unavailable", 503, Fate::NotDone),
            ("keys-full", 503, Fate::NotDone),
            ("catalog-full", 507, Fate::NotDone),
            ("outcome-unknown", 504, Fate::Unknown),
            ("bad-answer", 502, Fate::Unknown),
            ("internal", 500, Fate::Unknown),
            ("", 0, Fate::Unknown),
            ("", 503, Fate::Unknown),
        ] {
            assert_eq!(fate(kind, status), wanted, "{kind} {status}");
        }
    }

    #[test]
    fn titles_keep_their_order() {
        let titles: Titles = serde_json::from_str(r#"{"items":{"b":2,"a":1},"next":"a"}"#).unwrap();
        assert_eq!(titles.items.0, [("b".to_owned(), 2), ("a".to_owned(), 1)]);
    }

    #[test]
    fn a_slug_of_any_letters_is_a_path() {
        let topic = Topic { slug: "caf\u{e9}/c++ & \"x\"?".into(), topic: "\u{e9}t\u{e9}".into(), books: 1 };
        assert_eq!(topic.href(), "/search/caf%C3%A9%2Fc%2B%2B%20%26%20%22x%22%3F");
        assert_eq!(topic.heading(), "\u{c9}t\u{e9}");
    }
}
