//! What the API planes of all three daemons say of books, sales and orders: JSON shapes, headers and parameters.
//!
//! The reference's fields come first, ours after them. `docs/http-api.md` describes them for people.

use std::time::Duration;

use api::catalog::{Book, PAGE_MAX, Page, Position, Sold, Topic, WriteResult};
use api::order::Order;
use jiff::Timestamp;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::body::money;
use crate::http::{Request, Response};
use crate::problem::Problem;
use crate::refusals;

/// Response header: the catalog's log index at which the answer was read or decided.
pub const INDEX_HEADER: &str = "quire-index";
/// Response header: what the answer is worth, see `LINEARIZABLE` and `AT_POSITION`.
pub const CONSISTENCY_HEADER: &str = "quire-consistency";
/// Response header: the key had been decided before this request.
pub const REPLAYED_HEADER: &str = "idempotency-replayed";
/// The answer includes all that was acknowledged before the request came.
pub const LINEARIZABLE: &str = "linearizable";
/// The answer includes at least the sales through the position that was asked for.
pub const AT_POSITION: &str = "at-position";
/// Longest wait of a readiness probe for a read point.
pub const READY_LIMIT: Duration = Duration::from_millis(500);

/// `GET /healthcheck` and its like: all is well.
pub fn ok() -> Response {
    message(200, "OK")
}

/// A single word to the caller.
pub fn message(status: u16, message: &'static str) -> Response {
    Response::json(status, &Message { message })
}

/// A key for a request that came without one.
pub fn new_key() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// An answer that was read at `index`.
pub fn read_at(response: Response, index: u64, consistency: &str) -> Response {
    response.with_header(INDEX_HEADER, &index.to_string()).with_header(CONSISTENCY_HEADER, consistency)
}

/// A problem that is the answer to a read: what was asked for is not there.
pub fn missing_at(problem: Problem, index: u64) -> Problem {
    problem.header(INDEX_HEADER, &index.to_string()).header(CONSISTENCY_HEADER, LINEARIZABLE)
}

/// The answer to a write that was decided as wanted.
pub fn decided(response: Response, result: &WriteResult) -> Response {
    let response = response.with_header(INDEX_HEADER, &result.index.to_string());
    if result.replayed { response.with_header(REPLAYED_HEADER, "true") } else { response }
}

/// The answer to a write that was decided otherwise.
pub fn decided_problem(problem: Problem, result: &WriteResult) -> Problem {
    let problem = problem.header(INDEX_HEADER, &result.index.to_string());
    if result.replayed { problem.header(REPLAYED_HEADER, "true") } else { problem }
}

/// `?limit=`: rows wanted, 1 to `PAGE_MAX`, which is also the default.
pub fn limit(request: &Request) -> Result<u32, Problem> {
    let Some(text) = request.query_param("limit") else { return Ok(PAGE_MAX) };
    let limit = whole(&text).filter(|limit| (1..=u64::from(PAGE_MAX)).contains(limit));
    limit.and_then(|limit| u32::try_from(limit).ok()).ok_or_else(|| {
        refusals::bad_parameter("limit", &text, &format!("a whole number from 1 to {PAGE_MAX}"))
    })
}

/// `?after=` of rows in order of number: 0, the default, is before the first.
pub fn after(request: &Request) -> Result<u64, Problem> {
    let Some(text) = request.query_param("after") else { return Ok(0) };
    whole(&text)
        .ok_or_else(|| refusals::bad_parameter("after", &text, "a whole number, the last one you have"))
}

/// `?position=`, as a buy's answer shows it.
pub fn position_param(request: &Request) -> Result<Option<Position>, Problem> {
    let Some(text) = request.query_param("position") else { return Ok(None) };
    let parsed = text.split_once('.').and_then(|(incarnation, sale)| {
        let incarnation = u32::try_from(whole(incarnation)?).ok()?;
        Some(Position { incarnation, sale: whole(sale)? })
    });
    let wanted = "<incarnation>.<sale>, as in the answer of a buy";
    parsed.map(Some).ok_or_else(|| refusals::bad_parameter("position", &text, wanted))
}

/// Decimal digits alone; `u64::from_str` would take a sign.
fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[derive(Debug, Serialize)]
struct Message {
    message: &'static str,
}

/// `GET /search/{topic}`.
#[derive(Debug, Serialize)]
pub struct Search<'a> {
    items: InOrder<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}

impl<'a> Search<'a> {
    /// Titles and book numbers in the order of the page.
    pub fn new(page: &'a Page<(String, u64)>) -> Search<'a> {
        let next = next(page, |(title, _)| title.as_str());
        Search { items: InOrder(&page.rows), next }
    }
}

/// A JSON object whose members keep the order they have here.
#[derive(Debug)]
struct InOrder<'a>(&'a [(String, u64)]);

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (title, id) in self.0 {
            map.serialize_entry(title, id)?;
        }
        map.end()
    }
}

/// A book, as `GET /lookup/{id}` and `GET /books` show it.
#[derive(Debug, Serialize)]
pub struct BookShown<'a> {
    cost: Value,
    stock: u64,
    id: u64,
    title: &'a str,
    topic: &'a str,
    index: u64,
}

impl<'a> From<&'a Book> for BookShown<'a> {
    fn from(book: &'a Book) -> Self {
        BookShown {
            cost: money(book.cost_cents.into()),
            stock: book.stock,
            id: book.id,
            title: &book.title,
            topic: &book.topic,
            index: book.changed_at,
        }
    }
}

/// `GET /books`.
#[derive(Debug, Serialize)]
pub struct Books<'a> {
    books: Vec<BookShown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

impl<'a> From<&'a Page<Book>> for Books<'a> {
    fn from(page: &'a Page<Book>) -> Self {
        Books { books: page.rows.iter().map(BookShown::from).collect(), next: next(page, |book| book.id) }
    }
}

/// `GET /topics`.
#[derive(Debug, Serialize)]
pub struct Topics<'a> {
    topics: Vec<TopicShown<'a>>,
}

#[derive(Debug, Serialize)]
struct TopicShown<'a> {
    slug: &'a str,
    topic: &'a str,
    books: u64,
}

impl<'a> From<&'a [Topic]> for Topics<'a> {
    fn from(topics: &'a [Topic]) -> Self {
        let shown =
            |topic: &'a Topic| TopicShown { slug: &topic.slug, topic: &topic.topic, books: topic.books };
        Topics { topics: topics.iter().map(shown).collect() }
    }
}

/// A sale, as the buyer sees it.
#[derive(Debug, Serialize)]
pub struct SoldShown<'a> {
    order: u64,
    #[serde(rename = "book_id")]
    book: u64,
    quantity: u64,
    price: Value,
    total: Value,
    stock: u64,
    key: &'a str,
    index: u64,
    position: String,
}

impl<'a> SoldShown<'a> {
    /// A sale under `key`.
    pub fn new(sold: &Sold, result: &WriteResult, key: &'a str) -> SoldShown<'a> {
        SoldShown {
            order: sold.order,
            book: sold.book,
            quantity: sold.quantity,
            price: money(sold.price_cents.into()),
            total: total(sold.price_cents, sold.quantity),
            stock: sold.stock,
            key,
            index: result.index,
            position: position(sold.position),
        }
    }
}

/// `POST /buy/{id}`.
#[derive(Debug, Serialize)]
pub struct Bought<'a> {
    message: String,
    order: u64,
    book: u64,
    quantity: u64,
    price: Value,
    total: Value,
    stock: u64,
    key: &'a str,
    index: u64,
    replica: &'a str,
    position: String,
}

impl<'a> Bought<'a> {
    /// A sale under `key`, served by the order replica `replica`.
    pub fn new(sold: &Sold, result: &WriteResult, key: &'a str, replica: &'a str) -> Bought<'a> {
        Bought {
            message: format!("successfully purchased the book {} from {replica}", sold.title),
            order: sold.order,
            book: sold.book,
            quantity: sold.quantity,
            price: money(sold.price_cents.into()),
            total: total(sold.price_cents, sold.quantity),
            stock: sold.stock,
            key,
            index: result.index,
            replica,
            position: position(sold.position),
        }
    }
}

/// An order, as `GET /orders/{n}` and `GET /orders` show it.
#[derive(Debug, Serialize)]
pub struct OrderShown<'a> {
    order: u64,
    book: u64,
    title: &'a str,
    quantity: u64,
    price: Value,
    total: Value,
    key: &'a str,
    time: String,
    position: String,
    index: u64,
}

impl<'a> From<&'a Order> for OrderShown<'a> {
    fn from(order: &'a Order) -> Self {
        OrderShown {
            order: order.order,
            book: order.book,
            title: &order.title,
            quantity: order.quantity,
            price: money(order.price_cents.into()),
            total: total(order.price_cents, order.quantity),
            key: &order.key,
            time: time(order.wall_ms),
            position: position(order.position),
            index: order.catalog_index,
        }
    }
}

/// `GET /orders`.
#[derive(Debug, Serialize)]
pub struct Orders<'a> {
    orders: Vec<OrderShown<'a>>,
    total: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

impl<'a> Orders<'a> {
    /// One page of an order book of `total` orders.
    pub fn new(rows: &'a [Order], more: bool, total: u64) -> Orders<'a> {
        let next = rows.last().filter(|_| more).map(|order| order.order);
        Orders { orders: rows.iter().map(OrderShown::from).collect(), total, next }
    }
}

/// A position as `<incarnation>.<sale>`: what `?position=` takes.
pub fn position(position: Position) -> String {
    format!("{}.{}", position.incarnation, position.sale)
}

/// What `?after=` must be for the rows after this page, if there are any.
fn next<'a, T, K>(page: &'a Page<T>, key: impl Fn(&'a T) -> K) -> Option<K> {
    page.rows.last().filter(|_| page.more).map(key)
}

/// The most copies at the highest price are more cents than 64 bits hold. Exact as far as `money` is.
fn total(price_cents: u64, quantity: u64) -> Value {
    money(u128::from(price_cents) * u128::from(quantity))
}

/// RFC 3339 in UTC with milliseconds. A clock beyond the year 9999 shows as its last moment.
pub fn time(wall_ms: u64) -> String {
    let ms = i64::try_from(wall_ms).unwrap_or(i64::MAX);
    format!("{:.3}", Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_in_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_795_435_200_120), "2026-11-23T12:00:00.120Z");
        assert!(time(u64::MAX).starts_with("9999-12-30T"));
    }

    #[test]
    fn search_keeps_the_order_of_the_page() {
        let page = Page { rows: vec![("b".into(), 2), ("a".into(), 1), ("c\"".into(), 3)], more: true };
        let json = serde_json::to_string(&Search::new(&page)).unwrap();
        assert_eq!(json, r#"{"items":{"b":2,"a":1,"c\"":3},"next":"c\""}"#);
    }

    #[test]
    fn the_last_page_has_no_next() {
        let page: Page<(String, u64)> = Page { rows: vec![("b".into(), 2)], more: false };
        assert_eq!(serde_json::to_string(&Search::new(&page)).unwrap(), r#"{"items":{"b":2}}"#);
    }

    #[test]
    fn totals_beyond_64_bits_do_not_wrap() {
        let most = total(api::catalog::COST_CENTS_MAX, api::catalog::COPIES_MAX);
        assert_eq!(most.as_f64(), Some(1e18));
        assert_eq!(total(1, 1).to_string(), "0.01");
        assert_eq!(total(1_000_000, 999_999_999).to_string(), "9999999990000.0");
    }
}
