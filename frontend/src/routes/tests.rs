//! Requests against a store that answers from memory: the reference's table, and bad input.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use api::catalog::{Book, Decline, Page, Position, Sold, Topic};
use api::order::Order;
use http::HeaderMap;
use kit::answers::{AT_POSITION, CONSISTENCY_HEADER, INDEX_HEADER, LINEARIZABLE, REPLAYED_HEADER};
use kit::credentials::Credentials;
use serde_json::{Value, json};

use super::*;
use crate::cluster::Cluster;

/// The reference's seven books, and whatever verdict a test wants for its buys.
pub(crate) struct Fake {
    pub(crate) books: Vec<Book>,
    pub(crate) verdict: Verdict,
    pub(crate) reads_fail: Option<GaveUp>,
    /// Buys as they arrived: key, book, quantity.
    pub(crate) buys: Mutex<Vec<(String, u64, u64)>>,
    pub(crate) questions: Mutex<Vec<(Option<Position>, Question)>>,
}

const INDEX: u64 = 40;

impl Fake {
    pub(crate) fn new() -> Fake {
        let book = |id, title: &str, topic: &str, dollars: u64| Book {
            id,
            title: title.into(),
            topic: topic.into(),
            stock: 1000,
            cost_cents: dollars * 100,
            changed_at: id + 1,
        };
        let (systems, school) = ("distributed systems", "graduate school");
        let books = vec![
            book(1, "How to get a good grade in 677 in 20 minutes a day.", systems, 1000),
            book(2, "RPCs for Dummies.", systems, 1),
            book(3, "Xen and the Art of Surviving Graduate School.", school, 100),
            book(4, "Cooking for the Impatient Graduate Student.", school, 1000),
            book(5, "How to finish Project 3 on time.", systems, 1000),
            book(6, "Why theory classes are so hard.", systems, 1),
            book(7, "Spring in Pioneer Valley.", school, 10000),
        ];
        Fake {
            books,
            verdict: decided(sold(2, 1), false),
            reads_fail: None,
            buys: Mutex::default(),
            questions: Mutex::default(),
        }
    }

    fn topics(&self) -> Vec<Topic> {
        let topic = |slug: &str, topic: &str, books| Topic { slug: slug.into(), topic: topic.into(), books };
        vec![
            topic("distributed-systems", "distributed systems", 4),
            topic("graduate-school", "graduate school", 3),
        ]
    }

    fn answer(&self, query: Query) -> Answer {
        match query {
            Query::Book { id } => Answer::Book(self.books.iter().find(|book| book.id == id).cloned()),
            Query::Topic { topic, after, limit } => {
                let of_topic =
                    |book: &&Book| [book.topic.clone(), book.topic.replace(' ', "-")].contains(&topic);
                let mut rows: Vec<(String, u64)> =
                    self.books.iter().filter(of_topic).map(|book| (book.title.clone(), book.id)).collect();
                if rows.is_empty() {
                    return Answer::Topic(Err(self.topics()));
                }
                rows.sort();
                rows.retain(|(title, _)| after.as_ref().is_none_or(|after| title > after));
                Answer::Topic(Ok(page(rows, limit)))
            }
            Query::Topics => Answer::Topics(self.topics()),
            Query::Books { after, limit } => Answer::Books(page(
                self.books.iter().filter(|book| book.id > after).cloned().collect(),
                limit,
            )),
            Query::OutboxHead => unreachable!("the front end does not ask for it"),
        }
    }
}

impl Store for Fake {
    fn read(&self, query: Query) -> Result<Read, GaveUp> {
        match self.reads_fail {
            Some(why) => Err(why),
            None => Ok(Read { index: INDEX, log_ms: 0, answer: self.answer(query) }),
        }
    }

    fn buy(&self, key: &str, book: u64, quantity: u64, _: Option<api::trace::Trace>) -> Verdict {
        self.buys.lock().unwrap().push((key.to_owned(), book, quantity));
        self.verdict.clone()
    }

    fn order_book(&self, position: Option<Position>, question: Question) -> Result<api::order::Read, GaveUp> {
        if let Some(why) = self.reads_fail {
            return Err(why);
        }
        self.questions.lock().unwrap().push((position, question.clone()));
        let orders: Vec<Order> = (1..=3).map(some_order).collect();
        Ok(match question {
            Question::Order { order } => {
                api::order::Read::Order(orders.into_iter().find(|there| there.order == order))
            }
            Question::Orders { after, limit } => {
                let page = page(orders.into_iter().filter(|order| order.order > after).collect(), limit);
                api::order::Read::Orders { rows: page.rows, more: page.more, total: 3 }
            }
        })
    }
}

fn page<T>(mut rows: Vec<T>, limit: u32) -> Page<T> {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    Page { rows, more }
}

fn some_order(order: u64) -> Order {
    Order {
        order,
        key: format!("key-{order}"),
        book: 2,
        title: "RPCs for Dummies.".into(),
        quantity: 3,
        price_cents: 150,
        wall_ms: 1_795_435_200_120,
        position: Position { incarnation: 1, sale: order },
        catalog_index: 30 + order,
    }
}

pub(crate) fn sold(book: u64, quantity: u64) -> Outcome {
    Outcome::Sold(Sold {
        order: 17,
        book,
        title: "RPCs for Dummies.".into(),
        quantity,
        price_cents: 150,
        stock: 1000 - quantity,
        position: Position { incarnation: 1, sale: 17 },
    })
}

pub(crate) fn decided(outcome: Outcome, replayed: bool) -> Verdict {
    let result = WriteResult { index: INDEX, log_ms: 0, replayed, outcome };
    Verdict::Decided { replica: "order_service_3".into(), result }
}

/// What came back.
struct Seen {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {:?}", self.text))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn kind(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text);
        self.json()["type"].as_str().unwrap().trim_start_matches("/problems/").to_owned()
    }
}

pub(crate) struct Front {
    pub(crate) context: Context,
    pub(crate) fake: Arc<Fake>,
    pub(crate) router: Router<Context>,
}

impl Front {
    pub(crate) fn new(fake: Fake) -> Front {
        let fake = Arc::new(fake);
        let router = router();
        let vitals = vitals::Vitals::new("frontend", 1, "", router.requests());
        let sights = Sights::new(
            vitals,
            ([127, 0, 0, 1], 1).into(),
            None,
            Cluster::new(&[], &[], &Credentials::none()),
        );
        let context = Context { store: fake.clone(), stop: Stop::new(), sights };
        Front { context, fake, router }
    }

    fn with_verdict(verdict: Verdict) -> Front {
        Front::new(Fake { verdict, ..Fake::new() })
    }

    fn get(&self, target: &str) -> Seen {
        self.send("GET", target, &[], "")
    }

    fn buy(&self, id: u64) -> Seen {
        self.send("POST", &format!("/buy/{id}"), &[], "")
    }

    fn send(&self, method: &str, target: &str, headers: &[(&'static str, &str)], body: &str) -> Seen {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let request = Request {
            method: method.parse().unwrap(),
            path: path.into(),
            query: query.map(str::to_owned),
            headers: map,
            body: body.into(),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        };
        let response = self.router.handle(&self.context, &request);
        Seen {
            status: response.status.as_u16(),
            headers: response.headers,
            text: String::from_utf8(response.body.to_vec()).unwrap(),
        }
    }
}

fn front() -> Front {
    Front::new(Fake::new())
}

#[test]
fn the_references_reads_are_answered_to_the_letter() {
    let rows = [
        (
            "/",
            r#"{"List":"Available APIs","search":"GET <address>:<port>/search/<topic_name>","lookup":"GET <address>:<port>/lookup/<item_id>","buy":"POST <address>:<port>/buy/<item_id>"}"#,
        ),
        (
            "/search/distributed-systems",
            r#"{"items":{"How to finish Project 3 on time.":5,"How to get a good grade in 677 in 20 minutes a day.":1,"RPCs for Dummies.":2,"Why theory classes are so hard.":6}}"#,
        ),
        (
            "/search/graduate-school",
            r#"{"items":{"Cooking for the Impatient Graduate Student.":4,"Spring in Pioneer Valley.":7,"Xen and the Art of Surviving Graduate School.":3}}"#,
        ),
        (
            "/lookup/1",
            r#"{"cost":1000.0,"stock":1000,"id":1,"title":"How to get a good grade in 677 in 20 minutes a day.","topic":"distributed systems","index":2}"#,
        ),
        ("/search", r#"{"search":"GET <address>:<port>/search/<topic_name>"}"#),
        ("/lookup", r#"{"lookup":"GET <address>:<port>/lookup/<item_id>"}"#),
        ("/buy", r#"{"buy":"POST <address>:<port>/buy/<item_id>"}"#),
        ("/search/", r#"{"search":"GET <address>:<port>/search/<topic_name>"}"#),
        ("/healthcheck", r#"{"message":"OK"}"#),
    ];
    for (target, body) in rows {
        let seen = front().get(target);
        assert_eq!((seen.status, seen.text.as_str()), (200, format!("{body}\n").as_str()), "{target}");
        assert_eq!(seen.header("content-type"), Some("application/json"), "{target}");
    }
}

#[test]
fn what_is_not_there_is_404_in_the_references_words() {
    let rows = [
        (
            "/search/cooking",
            "unknown-topic",
            "topic name should be in [distributed-systems, graduate-school]",
        ),
        ("/lookup/99", "unknown-book", "Please enter a correct id"),
        ("/lookup/0", "unknown-book", "Please enter a correct id"),
        ("/lookup/18446744073709551616", "unknown-book", "Please enter a correct id"),
        ("/orders/99", "unknown-order", "no order has this number"),
        ("/orders/18446744073709551616", "unknown-order", "no order has this number"),
    ];
    for (target, kind, message) in rows {
        let seen = front().get(target);
        assert_eq!((seen.status, seen.kind().as_str()), (404, kind), "{target}");
        assert_eq!(seen.json()["message"], message, "{target}");
    }
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let long_key = "k".repeat(256);
    let no_headers: &[(&'static str, &str)] = &[];
    let keyed = |key| vec![("idempotency-key", key)];
    let rows = [
        ("GET", "/lookup/abc", no_headers.to_vec(), "", 400),
        ("GET", "/lookup/-1", no_headers.to_vec(), "", 400),
        ("GET", "/lookup/1.5", no_headers.to_vec(), "", 400),
        ("GET", "/lookup/%31%zz", no_headers.to_vec(), "", 400),
        ("GET", "/search/%ff", no_headers.to_vec(), "", 400),
        ("GET", "/search/graduate-school?limit=0", no_headers.to_vec(), "", 400),
        ("GET", "/books?limit=1001", no_headers.to_vec(), "", 400),
        ("GET", "/books?limit=", no_headers.to_vec(), "", 400),
        ("GET", "/books?limit=%2B1", no_headers.to_vec(), "", 400),
        ("GET", "/books?after=x", no_headers.to_vec(), "", 400),
        ("GET", "/orders?after=-1", no_headers.to_vec(), "", 400),
        ("GET", "/orders?limit=18446744073709551617", no_headers.to_vec(), "", 400),
        ("GET", "/orders/abc", no_headers.to_vec(), "", 400),
        ("GET", "/orders/1?position=7", no_headers.to_vec(), "", 400),
        ("GET", "/orders/1?position=1.x", no_headers.to_vec(), "", 400),
        ("GET", "/orders/1?position=4294967296.1", no_headers.to_vec(), "", 400),
        ("POST", "/buy/abc", no_headers.to_vec(), "", 400),
        ("POST", "/buy/1", no_headers.to_vec(), r#"{"quantity": 1"#, 400),
        ("POST", "/buy/1", no_headers.to_vec(), "[1]", 400),
        ("POST", "/buy/1", no_headers.to_vec(), r#"{"quantity": 0}"#, 422),
        ("POST", "/buy/1", no_headers.to_vec(), r#"{"quantity": -1}"#, 422),
        ("POST", "/buy/1", no_headers.to_vec(), r#"{"quantity": 1.5}"#, 422),
        ("POST", "/buy/1", no_headers.to_vec(), r#"{"quantity": "1"}"#, 422),
        ("POST", "/buy/1", no_headers.to_vec(), r#"{"quantity": 1000000001}"#, 422),
        ("POST", "/buy/1", keyed(""), "", 400),
        ("POST", "/buy/1", keyed(&long_key), "", 400),
        ("POST", "/buy/18446744073709551616", no_headers.to_vec(), "", 404),
        ("GET", "/nothing", no_headers.to_vec(), "", 404),
        ("POST", "/invalidate-cache", no_headers.to_vec(), "", 404),
        ("POST", "/lookup/1", no_headers.to_vec(), "", 405),
        ("GET", "/buy/1", no_headers.to_vec(), "", 405),
        ("DELETE", "/orders/1", no_headers.to_vec(), "", 405),
    ];
    for (method, target, headers, body, status) in rows {
        let front = front();
        let seen = front.send(method, target, &headers, body);
        assert_eq!(seen.status, status, "{method} {target} {headers:?} {body}: {}", seen.text);
        seen.kind();
        assert!(!seen.json()["message"].as_str().unwrap().is_empty(), "{method} {target}");
        assert_eq!(seen.header("allow").is_some(), status == 405, "{method} {target}");
        assert!(front.fake.buys.lock().unwrap().is_empty(), "{method} {target} {body} bought something");
    }
}

#[test]
fn a_buy_tells_all_about_the_sale() {
    let front = Front::with_verdict(decided(sold(2, 3), false));
    let seen = front.send("POST", "/buy/2", &[("idempotency-key", "\"demo-1\"")], r#"{"quantity": 3}"#);
    assert_eq!(seen.status, 200);
    assert_eq!(
        seen.text.trim_end(),
        r#"{"message":"successfully purchased the book RPCs for Dummies. from order_service_3","order":17,"book":2,"quantity":3,"price":1.5,"total":4.5,"stock":997,"key":"demo-1","index":40,"replica":"order_service_3","position":"1.17"}"#
    );
    assert_eq!(seen.header("location"), Some("/orders/17"));
    assert_eq!(seen.header(INDEX_HEADER), Some("40"));
    assert_eq!(seen.header(REPLAYED_HEADER), None);
    assert_eq!(*front.fake.buys.lock().unwrap(), [("demo-1".to_owned(), 2, 3)]);
}

#[test]
fn a_buy_without_key_or_body_gets_a_new_key_and_one_copy() {
    let front = front();
    let keys: Vec<String> = (0..2).map(|_| front.buy(2).json()["key"].as_str().unwrap().to_owned()).collect();
    let buys = front.fake.buys.lock().unwrap();
    assert_eq!(*buys, [(keys[0].clone(), 2, 1), (keys[1].clone(), 2, 1)]);
    assert_ne!(keys[0], keys[1]);
    assert_eq!(uuid::Uuid::parse_str(&keys[0]).unwrap().get_version_num(), 7);
}

#[test]
fn a_replay_says_so_granted_or_refused() {
    let refused = Outcome::Refused(Refusal::OutOfStock { title: "RPCs for Dummies.".into(), available: 0 });
    for (outcome, status) in
        [(sold(2, 1), 200), (refused, 409), (Outcome::Refused(Refusal::UnknownBook), 404)]
    {
        let seen = Front::with_verdict(decided(outcome, true)).buy(2);
        assert_eq!((seen.status, seen.header(REPLAYED_HEADER)), (status, Some("true")));
        assert_eq!(seen.header(INDEX_HEADER), Some("40"));
    }
}

#[test]
fn a_buy_that_is_not_granted_says_why() {
    let out_of_stock =
        Outcome::Refused(Refusal::OutOfStock { title: "RPCs for Dummies.".into(), available: 2 });
    let rows = [
        (decided(out_of_stock, false), 409, "out-of-stock", "Item not available", false),
        (
            decided(Outcome::Refused(Refusal::UnknownBook), false),
            404,
            "unknown-book",
            "Please enter a correct id",
            false,
        ),
        (
            Verdict::Declined(Decline::KeyReused),
            422,
            "key-reused",
            "this key was used for another request; take a new key for a new request",
            false,
        ),
        (
            Verdict::Declined(Decline::OutboxFull { waiting: 5 }),
            503,
            "outbox-full",
            "5 sales wait for the order replicas; no buys are taken until they have recorded some",
            true,
        ),
        (
            Verdict::Declined(Decline::KeysFull),
            503,
            "keys-full",
            "the catalog can remember no more keys for as long as it promises to; no buys are taken until the oldest expire",
            true,
        ),
        (
            Verdict::Declined(Decline::NoRoom),
            507,
            "no-room",
            "the catalog's disks have no room for another write; reads go on, and writes are taken again when there is room",
            true,
        ),
        (Verdict::NotSent(GaveUp::Deadline), 503, "unavailable", "no replica answered in time", true),
        (Verdict::NotSent(GaveUp::Full), 503, "overloaded", "every queue that could take it is full", true),
        (Verdict::Unknown, 504, "outcome-unknown", "unknown; retry with this key", true),
    ];
    for (verdict, status, kind, message, retryable) in rows {
        let front = Front::with_verdict(verdict);
        let seen = front.send("POST", "/buy/2", &[("idempotency-key", "demo-1")], r#"{"quantity": 3}"#);
        let body = seen.json();
        assert_eq!((seen.status, seen.kind().as_str()), (status, kind));
        assert_eq!(body["message"], message, "{kind}");
        assert_eq!(body["retryable"], retryable, "{kind}");
        assert_eq!(body["key"], "demo-1", "{kind}");
        assert_eq!(seen.header("retry-after").is_some(), status >= 503, "{kind}");
        assert_eq!(body.get("available"), (kind == "out-of-stock").then_some(&json!(2)), "{kind}");
    }
}

#[test]
fn reads_say_where_and_how_well_they_were_read() {
    for target in
        ["/lookup/1", "/lookup/99", "/search/graduate-school", "/search/cooking", "/books", "/topics"]
    {
        let seen = front().get(target);
        assert_eq!(seen.header(INDEX_HEADER), Some("40"), "{target}");
        assert_eq!(seen.header(CONSISTENCY_HEADER), Some(LINEARIZABLE), "{target}");
    }
}

#[test]
fn a_store_that_does_not_answer_is_503() {
    for (why, kind) in [(GaveUp::Deadline, "unavailable"), (GaveUp::Full, "overloaded")] {
        let front = Front::new(Fake { reads_fail: Some(why), ..Fake::new() });
        for target in ["/lookup/1", "/search/graduate-school", "/books", "/topics", "/orders", "/orders/1"] {
            let seen = front.get(target);
            assert_eq!((seen.status, seen.kind().as_str()), (503, kind), "{target}");
            assert_eq!(seen.header("retry-after"), Some("1"), "{target}");
        }
    }
}

#[test]
fn topics_by_slug_or_name() {
    let by_slug = front().get("/search/graduate-school").text;
    assert_eq!(front().get("/search/graduate%20school").text, by_slug);
}

#[test]
fn search_goes_page_by_page() {
    let front = front();
    let first = front.get("/search/graduate-school?limit=2");
    assert_eq!(
        first.text.trim_end(),
        r#"{"items":{"Cooking for the Impatient Graduate Student.":4,"Spring in Pioneer Valley.":7},"next":"Spring in Pioneer Valley."}"#
    );
    let last = front.get("/search/graduate-school?limit=2&after=Spring+in+Pioneer+Valley.");
    assert_eq!(last.text.trim_end(), r#"{"items":{"Xen and the Art of Surviving Graduate School.":3}}"#);
}

#[test]
fn books_and_topics_are_listed() {
    let front = front();
    let page = front.get("/books?after=5&limit=1").json();
    assert_eq!(
        page,
        json!({
            "books": [{"cost": 1.0, "stock": 1000, "id": 6, "title": "Why theory classes are so hard.",
                       "topic": "distributed systems", "index": 7}],
            "next": 6
        })
    );
    let all = front.get("/books").json();
    assert_eq!(all["books"].as_array().unwrap().len(), 7);
    assert_eq!(all.get("next"), None);
    assert_eq!(
        front.get("/topics").json(),
        json!({"topics": [
            {"slug": "distributed-systems", "topic": "distributed systems", "books": 4},
            {"slug": "graduate-school", "topic": "graduate school", "books": 3},
        ]})
    );
}

#[test]
fn an_order_is_shown_whole() {
    let seen = front().get("/orders/2");
    assert_eq!(
        seen.text.trim_end(),
        r#"{"order":2,"book":2,"title":"RPCs for Dummies.","quantity":3,"price":1.5,"total":4.5,"key":"key-2","time":"2026-11-23T12:00:00.120Z","position":"1.2","index":32}"#
    );
    assert_eq!(seen.header(INDEX_HEADER), Some("32"));
    assert_eq!(seen.header(CONSISTENCY_HEADER), Some(LINEARIZABLE));
}

#[test]
fn an_order_can_be_read_at_the_position_of_a_buy() {
    let front = front();
    front.get("/orders/2?position=3.17");
    front.get("/orders/2");
    let missing = front.get("/orders/99?position=3.17");
    assert_eq!((missing.status, missing.header(CONSISTENCY_HEADER)), (404, Some(AT_POSITION)));
    let asked: Vec<_> = front.fake.questions.lock().unwrap().iter().map(|(position, _)| *position).collect();
    let position = Some(Position { incarnation: 3, sale: 17 });
    assert_eq!(asked, [position, None, position]);
}

#[test]
fn orders_go_page_by_page() {
    let front = front();
    let first = front.get("/orders?limit=2").json();
    let numbers = |page: &Value| -> Vec<u64> {
        page["orders"].as_array().unwrap().iter().map(|order| order["order"].as_u64().unwrap()).collect()
    };
    assert_eq!((numbers(&first), &first["total"], &first["next"]), (vec![1, 2], &json!(3), &json!(2)));
    let last = front.get("/orders?limit=2&after=2").json();
    assert_eq!((numbers(&last), last.get("next")), (vec![3], None));
}

#[test]
fn a_front_end_that_stops_is_not_ready() {
    let front = front();
    assert_eq!((front.get("/readyz").status, front.get("/livez").status), (200, 200));
    front.context.stop.request();
    assert_eq!((front.get("/readyz").status, front.get("/livez").status), (503, 200));
}
