//! What a client can get wrong, on every route of the three daemons: each mistake gets a problem with the right status
//! and a message, and afterwards the catalog and the order book are what they were.

use tests::client::{Answer, Client};
use tests::store::Store;

use crate::untouched;

/// A mistake, and what becomes of it.
struct Row {
    request: Request,
    status: u16,
    /// The problem's kind: `/problems/` and this.
    kind: &'static str,
    /// A part of the message.
    message: &'static str,
}

struct Request {
    daemon: Kind,
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Front,
    Catalog,
    Order,
}

use Kind::{Catalog, Front, Order};

fn request(daemon: Kind, method: &'static str, path: impl Into<String>) -> Request {
    Request { daemon, method, path: path.into(), headers: Vec::new(), body: None }
}

impl Request {
    fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = Some(body.into());
        self
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Request {
        self.headers.push((name, value.into()));
        self
    }

    fn gets(self, status: u16, kind: &'static str, message: &'static str) -> Row {
        Row { request: self, status, kind, message }
    }

    /// A replica that is no primary for once: writes are checked where they arrive.
    fn client<'s>(&self, store: &'s Store) -> &'s Client {
        match self.daemon {
            Front => &store.front.api,
            Catalog => &store.catalogs[1].api,
            Order => &store.orders[1].api,
        }
    }

    fn send(&self, store: &Store) -> Answer {
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let sent = self.client(store).send(self.method, &self.path, &headers, self.body.as_deref());
        sent.unwrap_or_else(|error| panic!("{:?} {error}, of {self}", self.daemon))
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const BODY_CHARS_SHOWN: usize = 200;
        let body = String::from_utf8_lossy(self.body.as_deref().unwrap_or_default());
        let body: String = body.chars().take(BODY_CHARS_SHOWN).collect();
        write!(f, "{:?} {} {} {:?} {body}", self.daemon, self.method, self.path, self.headers)
    }
}

/// Sends every mistake, and looks whether anything is different afterwards.
fn try_all(rows: &[Row]) {
    let store = untouched();
    let state = || {
        let books = store.front.api.get("/books").expect(200).body;
        let orders = store.front.api.get("/orders").expect(200).body;
        (books, orders)
    };
    let before = state();
    for Row { request, status, kind, message } in rows {
        let answer = request.send(&store);
        assert_eq!(answer.status, *status, "{request}\n{answer}");
        let said = answer.problem(*status);
        assert_eq!(answer.field("type"), format!("/problems/{kind}"), "{request}\n{answer}");
        assert!(said.contains(message), "{message:?} is not in the message for {request}\n{answer}");
        if *status < 500 {
            assert_eq!(answer.field("retryable"), false, "{request}\n{answer}");
        }
    }
    assert_eq!(state(), before);
}

/// Every route, and the methods it takes.
const ROUTES: &[(Kind, &str, &[&str])] = &[
    (Front, "/", &["GET"]),
    (Front, "/search", &["GET"]),
    (Front, "/search/distributed-systems", &["GET"]),
    (Front, "/lookup", &["GET"]),
    (Front, "/lookup/1", &["GET"]),
    (Front, "/buy", &["GET"]),
    (Front, "/buy/1", &["POST"]),
    (Front, "/books", &["GET"]),
    (Front, "/topics", &["GET"]),
    (Front, "/orders", &["GET"]),
    (Front, "/orders/1", &["GET"]),
    (Front, "/healthcheck", &["GET"]),
    (Front, "/livez", &["GET"]),
    (Front, "/readyz", &["GET"]),
    (Front, "/readyz/ready", &["GET"]),
    (Front, "/metrics", &["GET"]),
    (Front, "/status", &["GET"]),
    (Front, "/cluster/status", &["GET"]),
    (Catalog, "/catalog/query", &["GET"]),
    (Catalog, "/catalog/buy", &["PUT"]),
    (Catalog, "/catalog/update", &["PUT"]),
    (Catalog, "/books", &["POST"]),
    (Catalog, "/info", &["GET"]),
    (Catalog, "/healthcheck", &["GET"]),
    (Catalog, "/livez", &["GET"]),
    (Catalog, "/readyz", &["GET"]),
    (Catalog, "/readyz/ready", &["GET"]),
    (Catalog, "/metrics", &["GET"]),
    (Catalog, "/status", &["GET"]),
    (Order, "/order", &["PUT"]),
    (Order, "/log", &["GET"]),
    (Order, "/orders", &["GET"]),
    (Order, "/orders/1", &["GET"]),
    (Order, "/healthcheck", &["GET"]),
    (Order, "/livez", &["GET"]),
    (Order, "/readyz", &["GET"]),
    (Order, "/readyz/ready", &["GET"]),
    (Order, "/metrics", &["GET"]),
    (Order, "/status", &["GET"]),
];

#[test]
fn methods_that_a_route_does_not_take() {
    let mut rows = Vec::new();
    for (daemon, path, takes) in ROUTES {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            if !takes.contains(&method) {
                rows.push(request(*daemon, method, *path).gets(405, "method-not-allowed", method));
            }
        }
    }
    assert!(rows.len() > 100, "{}", rows.len());
    try_all(&rows);
    let store = untouched();
    for (daemon, path, takes) in ROUTES {
        let answer = request(*daemon, "DELETE", *path).send(&store);
        let allow = answer.header("allow").unwrap_or_else(|| panic!("no Allow in {answer}"));
        let mut allowed: Vec<&str> = allow.split(", ").collect();
        let mut wanted = [takes, &["OPTIONS"][..]].concat();
        if takes.contains(&"GET") {
            wanted.push("HEAD");
        }
        allowed.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(allowed, wanted, "{answer}");
    }
}

#[test]
fn paths_that_lead_nowhere() {
    let mut rows = Vec::new();
    for daemon in [Front, Catalog, Order] {
        for path in [
            "/nowhere",
            "//",
            "//lookup/1",
            "/lookup/1/2",
            "/Lookup/1",
            "/lookup//",
            "/.",
            "/%2e%2e/etc/passwd",
        ] {
            rows.push(request(daemon, "GET", path).gets(404, "unknown-path", ""));
        }
    }
    for (daemon, path) in
        [(Catalog, "/lookup/1"), (Order, "/catalog/query"), (Front, "/order"), (Front, "/log")]
    {
        rows.push(request(daemon, "GET", path).gets(404, "unknown-path", path));
    }
    for path in ["/lookup/%", "/lookup/%zz", "/lookup/%ff", "/search/%c3", "/orders/%4"] {
        rows.push(request(Front, "GET", path).gets(400, "malformed-path", ""));
    }
    try_all(&rows);
}

#[test]
fn numbers_that_are_none_and_numbers_of_nothing() {
    const CORRECT_ID: &str = "Please enter a correct id";
    let mut rows = Vec::new();
    for (bad, unknown) in [
        (Some("abc"), "0"),
        (Some("-1"), "99"),
        (Some("1.5"), "18446744073709551615"),
        (Some("+1"), "18446744073709551616"),
        (Some("1%2F2"), "99999999999999999999999999999999999999999999"),
        (Some("%EF%BC%91"), "0000000000000000000000000000000000000000099"),
        (Some("1e0"), "08"),
        (Some("0x1"), "1000000"),
    ] {
        if let Some(bad) = bad {
            rows.push(request(Front, "GET", format!("/lookup/{bad}")).gets(400, "bad-number", CORRECT_ID));
            rows.push(request(Front, "POST", format!("/buy/{bad}")).gets(400, "bad-number", CORRECT_ID));
            rows.push(request(Catalog, "GET", format!("/catalog/query?id={bad}")).gets(
                400,
                "bad-number",
                CORRECT_ID,
            ));
            for daemon in [Front, Order] {
                rows.push(request(daemon, "GET", format!("/orders/{bad}")).gets(400, "bad-number", ""));
            }
        }
        rows.push(request(Front, "GET", format!("/lookup/{unknown}")).gets(404, "unknown-book", CORRECT_ID));
        rows.push(request(Front, "POST", format!("/buy/{unknown}")).gets(404, "unknown-book", CORRECT_ID));
        rows.push(request(Catalog, "GET", format!("/catalog/query?id={unknown}")).gets(
            404,
            "unknown-book",
            CORRECT_ID,
        ));
        for daemon in [Front, Order] {
            rows.push(request(daemon, "GET", format!("/orders/{unknown}")).gets(404, "unknown-order", ""));
        }
    }
    try_all(&rows);
}

#[test]
fn topics_that_no_book_has() {
    const TOPICS: &str = "topic name should be in [distributed-systems, graduate-school]";
    let long = "x".repeat(300);
    let topics = ["cooking", "distributed-systemsx", "%20", "%00", "%E2%80%AE", &long];
    let mut rows = Vec::new();
    for topic in topics {
        rows.push(request(Front, "GET", format!("/search/{topic}")).gets(404, "unknown-topic", TOPICS));
        rows.push(request(Catalog, "GET", format!("/catalog/query?topic={topic}")).gets(
            404,
            "unknown-topic",
            TOPICS,
        ));
    }
    rows.push(request(Catalog, "GET", "/catalog/query").body(r#"{"topic":"cooking"}"#).gets(
        404,
        "unknown-topic",
        TOPICS,
    ));
    try_all(&rows);
}

#[test]
fn parameters_that_make_no_sense() {
    let mut rows = Vec::new();
    let listings = [
        (Front, "/books"),
        (Front, "/search/graduate-school"),
        (Front, "/orders"),
        (Order, "/orders"),
        (Order, "/log"),
    ];
    for (daemon, path) in listings {
        for limit in ["0", "1001", "-1", "x", "1.5", "", "99999999999999999999"] {
            rows.push(request(daemon, "GET", format!("{path}?limit={limit}")).gets(
                400,
                "bad-parameter",
                "limit",
            ));
        }
        if path != "/search/graduate-school" {
            for after in ["-1", "x", "1.5", "18446744073709551616"] {
                rows.push(request(daemon, "GET", format!("{path}?after={after}")).gets(
                    400,
                    "bad-parameter",
                    "after",
                ));
            }
        }
    }
    for position in ["", "1", "1.", ".1", "1.x", "-1.1", "1.2.3", "4294967296.1", "1.18446744073709551616"] {
        for daemon in [Front, Order] {
            let path = format!("/orders/1?position={position}");
            rows.push(request(daemon, "GET", path).gets(400, "bad-parameter", "position"));
        }
    }
    for query in ["", "?id=1&topic=distributed-systems", "?ID=1", "?"] {
        rows.push(request(Catalog, "GET", format!("/catalog/query{query}")).gets(
            400,
            "bad-query",
            "id or a topic",
        ));
    }
    try_all(&rows);
}

/// Every route that reads a body.
fn readers() -> Vec<Request> {
    vec![
        request(Front, "POST", "/buy/1"),
        request(Catalog, "GET", "/catalog/query"),
        request(Catalog, "PUT", "/catalog/buy"),
        request(Catalog, "PUT", "/catalog/update"),
        request(Catalog, "POST", "/books"),
        request(Order, "PUT", "/order"),
    ]
}

/// A row for each route that reads a body.
fn for_readers(
    body: impl Into<Vec<u8>> + Clone,
    status: u16,
    kind: &'static str,
    message: &'static str,
) -> Vec<Row> {
    readers().into_iter().map(|reader| reader.body(body.clone()).gets(status, kind, message)).collect()
}

#[test]
fn bodies_that_are_no_json_object() {
    let malformed = [
        // The reference README's own update command, with its missing comma.
        (r#"{"book_id": 1 "request_id": 5}"#, "line 1 column 15"),
        ("{\n  \"book_id\": 1,\n  \"stock\" 7\n}", "line 3 column 11"),
        (r#"{"book_id": 1,}"#, "line 1 column 15"),
        (r#"{"book_id": 1"#, "line 1 column 13"),
        (r#"{"book_id": 1} {"#, "line 1 column 16"),
        (r#"{"book_id": 01}"#, "line 1 column"),
        (r#"{book_id: 1}"#, "line 1 column 2"),
        (r#"{'book_id': 1}"#, "line 1 column 2"),
        (r#"{"book_id": NaN}"#, "line 1 column"),
        (r#"{"book_id": 1, "book_id": 2}"#, "twice"),
        ("{", "line 1 column 1"),
        ("[1]", "object"),
        ("7", "object"),
        (r#""book_id""#, "object"),
        ("null", "object"),
        ("true", "object"),
        ("book_id=1&request_id=5", "object"),
        ("<book_id>1</book_id>", "object"),
        ("\0", "object"),
    ];
    let mut rows = Vec::new();
    for (body, message) in malformed {
        rows.extend(for_readers(body, 400, "malformed-body", message));
    }
    rows.extend(for_readers(b"{\"book_id\": \"\xff\"}", 400, "malformed-body", "UTF-8"));
    let (open, close) = ("[".repeat(100), "]".repeat(100));
    rows.extend(for_readers(format!(r#"{{"book_id": {open}{close}}}"#), 400, "malformed-body", "nested"));
    rows.extend(for_readers(
        r#"{"a":"#.repeat(100) + "1" + &"}".repeat(100),
        400,
        "malformed-body",
        "nested",
    ));
    rows.extend(for_readers("[".repeat(60_000), 400, "malformed-body", "nested"));
    try_all(&rows);
}

#[test]
fn bodies_that_are_too_long() {
    const BODY_BYTES_MAX: usize = 64 * 1024;
    let padded = |length: usize| format!("{{{}}}", " ".repeat(length - 2));
    try_all(&for_readers(padded(BODY_BYTES_MAX + 1), 413, "body-too-large", ""));
    // At the bound it is read, and found wanting.
    let rows = readers().into_iter().filter(|reader| reader.method == "PUT");
    let rows: Vec<Row> = rows
        .map(|reader| reader.body(padded(BODY_BYTES_MAX)).gets(422, "invalid-field", "missing"))
        .collect();
    try_all(&rows);

    // On a bare socket, because a decent client may give up when its body is not taken.
    let store = untouched();
    let before = store.front.api.get("/books").expect(200).body;
    let long = vec![b' '; 2 * 1024 * 1024];
    for reader in readers() {
        let Request { method, path, .. } = &reader;
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", long.len());
        let sized = [head.as_bytes(), &long].concat();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n");
        let chunk = [format!("{:x}\r\n", long.len()).as_bytes(), &long, b"\r\n0\r\n\r\n"].concat();
        let chunked = [head.as_bytes(), &chunk].concat();
        for (framing, bytes) in [("sized", sized), ("chunked", chunked)] {
            let name = format!("{framing} 2 MiB to {reader}");
            reader
                .client(&store)
                .send_bytes(&name, &bytes)
                .unwrap_or_else(|error| panic!("{error}"))
                .problem(413);
        }
    }
    assert_eq!(store.front.api.get("/books").expect(200).body, before);
}

/// A row for each way in which one field of a body can be wrong; `rest` is a body without the field and without braces.
fn wrong_fields(reader: fn() -> Request, rest: &str, field: &'static str, values: &[&str]) -> Vec<Row> {
    let row = |value: &&str| {
        let comma = if rest.is_empty() { "" } else { ", " };
        reader().body(format!(r#"{{{rest}{comma}"{field}": {value}}}"#)).gets(422, "invalid-field", field)
    };
    values.iter().map(row).collect()
}

const NOT_A_COUNT: &[&str] = &[
    "-1",
    "1.5",
    "2.0",
    "1e1",
    "\"1\"",
    "\"\"",
    "null",
    "true",
    "[1]",
    "{}",
    "1000000001",
    "18446744073709551615",
    "18446744073709551616",
    "-0",
];
const NOT_A_BOOK: &[&str] =
    &["-1", "1.5", "1.0", "1e0", "\"1\"", "null", "false", "[]", "{}", "18446744073709551616"];
const NOT_A_COST: &[&str] = &[
    "0.123",
    "1.005",
    "10.000",
    "-1",
    "-0.01",
    "1e3",
    "1e400",
    "\"5\"",
    "\"5 $\"",
    "null",
    "[5]",
    "1000000000.01",
];
const NOT_A_TEXT: &[&str] =
    &["\"\"", "\"  \"", "7", "null", "[]", "{}", "\"a\\nb\"", "\"a\\u0000b\"", "\"\\ud800\""];

fn not_keys() -> Vec<String> {
    let long = format!("\"{}\"", "k".repeat(300));
    let plain = ["\"\"", "\"a\\nb\"", "\"\\u00fc\"", "1.5", "1e3", "null", "true", "[1]", "{}"];
    plain.into_iter().map(str::to_owned).chain([long]).collect()
}

#[test]
fn fields_that_are_wrong() {
    let keys = not_keys();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let long = format!("\"{}\"", "x".repeat(300));
    let texts = [NOT_A_TEXT, &[long.as_str()]].concat();
    let buy = || request(Front, "POST", "/buy/1");
    let catalog_buy = || request(Catalog, "PUT", "/catalog/buy");
    let order = || request(Order, "PUT", "/order");
    let update = || request(Catalog, "PUT", "/catalog/update");
    let create = || request(Catalog, "POST", "/books");
    let query = || request(Catalog, "GET", "/catalog/query");
    let no_quantity = [&["0"], NOT_A_COUNT].concat();

    let mut rows = wrong_fields(buy, "", "quantity", &no_quantity);
    for reader in [catalog_buy as fn() -> Request, order] {
        rows.extend(wrong_fields(reader, "", "book_id", NOT_A_BOOK));
        rows.extend(wrong_fields(reader, r#""book_id": 1"#, "quantity", &no_quantity));
        rows.extend(wrong_fields(reader, r#""book_id": 1"#, "request_id", &keys));
    }
    rows.extend(wrong_fields(update, r#""stock": 5"#, "book_id", NOT_A_BOOK));
    rows.extend(wrong_fields(update, r#""book_id": 1"#, "stock", NOT_A_COUNT));
    rows.extend(wrong_fields(update, r#""book_id": 1"#, "cost", NOT_A_COST));
    rows.extend(wrong_fields(update, r#""book_id": 1"#, "title", &texts));
    rows.extend(wrong_fields(update, r#""book_id": 1"#, "topic", &texts));
    rows.extend(wrong_fields(update, r#""book_id": 1, "stock": 5"#, "request_id", &keys));
    rows.extend(wrong_fields(create, r#""title": "t", "topic": "t", "cost": 1"#, "stock", NOT_A_COUNT));
    rows.extend(wrong_fields(create, r#""title": "t", "topic": "t", "stock": 1"#, "cost", NOT_A_COST));
    rows.extend(wrong_fields(create, r#""topic": "t", "stock": 1, "cost": 1"#, "title", &texts));
    rows.extend(wrong_fields(create, r#""title": "t", "stock": 1, "cost": 1"#, "topic", &texts));
    rows.extend(wrong_fields(
        create,
        r#""title": "t", "topic": "t", "stock": 1, "cost": 1"#,
        "request_id",
        &keys,
    ));
    rows.extend(wrong_fields(query, "", "id", NOT_A_BOOK));
    rows.extend(wrong_fields(query, "", "topic", &texts));
    // One wrong field spoils the update of the others.
    rows.push(update().body(r#"{"book_id": 1, "stock": 5, "cost": 0.123}"#).gets(
        422,
        "invalid-field",
        "cost",
    ));
    try_all(&rows);
}

#[test]
fn fields_that_are_missing() {
    let update = |body: &str| request(Catalog, "PUT", "/catalog/update").body(body);
    let create = |body: &str| request(Catalog, "POST", "/books").body(body);
    let mut rows = Vec::new();
    for body in ["", "{}", r#"{"request_id": "missing"}"#] {
        rows.push(request(Catalog, "PUT", "/catalog/buy").body(body).gets(422, "invalid-field", "book_id"));
        rows.push(request(Order, "PUT", "/order").body(body).gets(422, "invalid-field", "book_id"));
        rows.push(update(body).gets(422, "invalid-field", "book_id"));
        rows.push(create(body).gets(422, "missing-field", "title"));
    }
    rows.push(request(Order, "PUT", "/order").gets(422, "invalid-field", "book_id"));
    rows.push(update(r#"{"book_id": 1}"#).gets(422, "nothing-to-update", "Update not successful"));
    rows.push(update(r#"{"book_id": 1, "Stock": 5}"#).gets(
        422,
        "nothing-to-update",
        "Update not successful",
    ));
    rows.push(create(r#"{"title": "t", "stock": 1, "cost": 1}"#).gets(422, "missing-field", "topic"));
    rows.push(create(r#"{"title": "t", "topic": "t", "cost": 1}"#).gets(422, "missing-field", "stock"));
    rows.push(create(r#"{"title": "t", "topic": "t", "stock": 1}"#).gets(422, "missing-field", "cost"));
    try_all(&rows);
}

#[test]
fn books_that_are_not_there() {
    const CORRECT_ID: &str = "Please enter a correct id";
    let mut rows = Vec::new();
    for id in ["0", "99", "18446744073709551615"] {
        let body = format!(r#"{{"book_id": {id}, "stock": 5}}"#);
        for (daemon, path) in [(Catalog, "/catalog/buy"), (Catalog, "/catalog/update"), (Order, "/order")] {
            rows.push(request(daemon, "PUT", path).body(body.as_str()).gets(404, "unknown-book", CORRECT_ID));
        }
        let query = request(Catalog, "GET", "/catalog/query").body(format!(r#"{{"id": {id}}}"#));
        rows.push(query.gets(404, "unknown-book", CORRECT_ID));
    }
    let taken = r#"{"title": "RPCs for Dummies.", "topic": "Distributed Systems", "stock": 1, "cost": 1}"#;
    rows.push(request(Catalog, "POST", "/books").body(taken).gets(409, "title-taken", "book 2"));
    let taken = r#"{"book_id": 1, "title": "RPCs for Dummies.", "stock": 5}"#;
    rows.push(request(Catalog, "PUT", "/catalog/update").body(taken).gets(409, "title-taken", "book 2"));
    try_all(&rows);
}

#[test]
fn keys_that_are_none() {
    const KEY: &str = "idempotency-key";
    let mut rows = Vec::new();
    let writers = || {
        let body = r#"{"book_id": 1, "stock": 5, "quantity": 1, "title": "t", "topic": "t", "cost": 1}"#;
        readers().into_iter().filter(|reader| reader.method != "GET").map(move |reader| reader.body(body))
    };
    for value in ["", "\"\"", "\"unfinished", "\"a\"b", "\u{fc}"] {
        rows.extend(
            writers().map(|writer| writer.header(KEY, value).gets(400, "invalid-key", "Idempotency-Key")),
        );
    }
    let long = "k".repeat(300);
    rows.extend(
        writers().map(|writer| writer.header(KEY, &long).gets(400, "invalid-key", "Idempotency-Key")),
    );
    rows.extend(writers().map(|writer| {
        writer.header(KEY, "one").header(KEY, "two").gets(400, "invalid-key", "more than one Idempotency-Key")
    }));
    try_all(&rows);
}
