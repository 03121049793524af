//! The reference's rows: what its users type and what they get, to the letter, or the difference that
//! `docs/http-api.md` names. `notes` in brackets are the reference's own behaviour where ours differs.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::client::Answer;
use tests::daemon::Daemon;
use tests::store::{CATALOG_IDS, Store, new_key};
use tests::wait;

use crate::{new_book, trading, untouched};

const DISTRIBUTED: &str = r#"{"items":{"How to finish Project 3 on time.":5,"How to get a good grade in 677 in 20 minutes a day.":1,"RPCs for Dummies.":2,"Why theory classes are so hard.":6}}"#;
const GRADUATE: &str = r#"{"items":{"Cooking for the Impatient Graduate Student.":4,"Spring in Pioneer Valley.":7,"Xen and the Art of Surviving Graduate School.":3}}"#;
const UNKNOWN_TOPIC: &str = "topic name should be in [distributed-systems, graduate-school]";
const UNKNOWN_BOOK: &str = "Please enter a correct id";
const SOLD_OUT: &str = "Item not available";

/// The body to the letter, with the newline that all answers end with.
fn is(answer: &Answer, body: &str) {
    assert_eq!(answer.status, 200, "{answer}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer}");
    assert_eq!(answer.body, format!("{body}\n"), "{}", answer.request);
}

/// The reference's fields, first and to the letter; ours may follow.
fn begins(answer: &Answer, fields: &str) {
    assert_eq!(answer.status, 200, "{answer}");
    let start = fields.strip_suffix('}').expect("an object");
    let rest = answer.body.strip_prefix(start);
    assert!(rest.is_some_and(|rest| rest.starts_with([',', '}'])), "{fields} does not begin {answer}");
    answer.json();
}

#[test]
fn the_front_end_says_what_it_can() {
    let store = untouched();
    is(
        &store.front.api.get("/"),
        r#"{"List":"Available APIs","search":"GET <address>:<port>/search/<topic_name>","lookup":"GET <address>:<port>/lookup/<item_id>","buy":"POST <address>:<port>/buy/<item_id>"}"#,
    );
    is(&store.front.api.get("/search"), r#"{"search":"GET <address>:<port>/search/<topic_name>"}"#);
    is(&store.front.api.get("/lookup"), r#"{"lookup":"GET <address>:<port>/lookup/<item_id>"}"#);
    is(&store.front.api.get("/buy"), r#"{"buy":"POST <address>:<port>/buy/<item_id>"}"#);
}

#[test]
fn searching() {
    let store = untouched();
    let front = &store.front.api;
    is(&front.get("/search/distributed-systems"), DISTRIBUTED);
    is(&front.get("/search/graduate-school"), GRADUATE);
    is(&front.get("/search/graduate%20school"), GRADUATE);
    is(&front.get("/search/graduate-school/"), GRADUATE);
    // [400]
    assert_eq!(front.get("/search/cooking").problem(404), UNKNOWN_TOPIC);
}

#[test]
fn looking_up() {
    let store = untouched();
    let front = &store.front.api;
    let answer = front.get("/lookup/1");
    begins(&answer, r#"{"cost":1000.0,"stock":1000}"#);
    assert_eq!(answer.header("quire-consistency"), Some("linearizable"), "{answer}");
    begins(&front.get("/lookup/2"), r#"{"cost":1.0,"stock":1000}"#);
    begins(&front.get("/lookup/7/"), r#"{"cost":10000.0,"stock":1000}"#);
    // [400]
    assert_eq!(front.get("/lookup/99").problem(404), UNKNOWN_BOOK);
    assert_eq!(front.get("/lookup/abc").problem(400), UNKNOWN_BOOK);
}

/// The seed catalog, as the reference has it.
#[test]
fn the_first_seven_books() {
    let store = untouched();
    let books = store.front.api.get("/books").expect(200).field("books");
    let row = |book: &Value| {
        let field = |name: &str| book[name].clone();
        json!([field("id"), field("title"), field("topic"), field("stock"), field("cost")])
    };
    let rows: Vec<Value> = books.as_array().expect("a list").iter().map(row).collect();
    assert_eq!(
        Value::from(rows),
        json!([
            [1, "How to get a good grade in 677 in 20 minutes a day.", "distributed systems", 1000, 1000.0],
            [2, "RPCs for Dummies.", "distributed systems", 1000, 1.0],
            [3, "Xen and the Art of Surviving Graduate School.", "graduate school", 1000, 100.0],
            [4, "Cooking for the Impatient Graduate Student.", "graduate school", 1000, 1000.0],
            [5, "How to finish Project 3 on time.", "distributed systems", 1000, 1000.0],
            [6, "Why theory classes are so hard.", "distributed systems", 1000, 1.0],
            [7, "Spring in Pioneer Valley.", "graduate school", 1000, 10000.0],
        ])
    );
    is(
        &store.front.api.get("/topics"),
        r#"{"topics":[{"slug":"distributed-systems","topic":"distributed systems","books":4},{"slug":"graduate-school","topic":"graduate school","books":3}]}"#,
    );
}

#[test]
fn pages() {
    let store = untouched();
    let front = &store.front.api;
    let page = front.get("/books?limit=3&after=2").expect(200);
    let ids: Vec<Value> =
        page.field("books").as_array().expect("a list").iter().map(|book| book["id"].clone()).collect();
    assert_eq!(ids, [3, 4, 5], "{page}");
    assert_eq!(page.field("next"), 5, "{page}");
    assert_eq!(front.get("/books?after=5").field("next"), Value::Null, "the last page");
    is(
        &front.get("/search/graduate-school?limit=1"),
        r#"{"items":{"Cooking for the Impatient Graduate Student.":4},"next":"Cooking for the Impatient Graduate Student."}"#,
    );
    is(
        &front.get("/search/graduate-school?after=Spring+in+Pioneer+Valley."),
        r#"{"items":{"Xen and the Art of Surviving Graduate School.":3}}"#,
    );
}

#[test]
fn every_daemon_is_healthy() {
    let store = untouched();
    for daemon in store.daemons() {
        for path in ["/healthcheck", "/livez", "/readyz"] {
            is(&daemon.api.get(path), r#"{"message":"OK"}"#);
        }
    }
}

#[test]
fn head_and_options() {
    let store = untouched();
    let send = |method, path| store.front.api.send(method, path, &[], None).expect("an answer");
    let (head, get) = (send("HEAD", "/search/graduate-school"), send("GET", "/search/graduate-school"));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), get.header("content-length"));
    let options = send("OPTIONS", "/buy/1");
    assert_eq!((options.status, options.header("allow")), (204, Some("POST, OPTIONS")), "{options}");
}

/// [`POST /invalidate-cache`, the election and the recovery are on the open port, and anyone may call them]
#[test]
fn what_is_the_daemons_own_affair_is_not_on_the_open_port() {
    let store = untouched();
    store.front.api.post("/invalidate-cache").problem(404);
    for daemon in store.replicas() {
        for path in ["/group/frames", "/group/hello", "/catalog/writes", "/catalog/outbox", "/order/buys"] {
            daemon.api.post(path).problem(404);
        }
    }
}

#[test]
fn querying_a_catalog_replica() {
    let store = untouched();
    for Daemon { api, .. } in &store.catalogs {
        begins(&api.get_with("/catalog/query", &json!({ "id": 1 })), r#"{"cost":1000.0,"stock":1000}"#);
        begins(&api.get("/catalog/query?id=1"), r#"{"cost":1000.0,"stock":1000}"#);
        is(&api.get_with("/catalog/query", &json!({ "topic": "distributed systems" })), DISTRIBUTED);
        is(&api.get("/catalog/query?topic=distributed+systems"), DISTRIBUTED);
        is(&api.get("/catalog/query?topic=graduate-school"), GRADUATE);
        // [400 {"success": false}]
        assert_eq!(api.get_with("/catalog/query", &json!({ "id": 99 })).problem(404), UNKNOWN_BOOK);
        assert_eq!(
            api.get_with("/catalog/query", &json!({ "topic": "cooking" })).problem(404),
            UNKNOWN_TOPIC
        );
    }
}

#[test]
fn who_is_primary() {
    let store = untouched();
    let primary = store.catalog_primary().id();
    for daemon in &store.catalogs {
        wait::until(tests::store::READY_LIMIT, "each replica knows the others", || {
            let answer = daemon.api.get("/info").expect(200);
            let info = answer.json();
            let others = CATALOG_IDS.iter().filter(|id| **id != daemon.id());
            let others: serde_json::Map<_, _> =
                others.map(|id| (id.to_string(), json!("127.0.0.1"))).collect();
            let wanted = json!({ "node_id": daemon.id(), "coordinator": primary, "neighbors": others });
            let same =
                wanted.as_object().expect("an object").iter().all(|(name, value)| info[name] == *value);
            if same { Ok(()) } else { Err(format!("{answer}; wanted {wanted}")) }
        });
    }
}

#[test]
fn the_log_of_a_store_that_sold_nothing() {
    let store = untouched();
    for Daemon { api, .. } in &store.orders {
        is(&api.get("/log"), r#"{"message":"Log is empty"}"#);
    }
    is(&store.front.api.get("/orders"), r#"{"orders":[],"total":0}"#);
    store.front.api.get("/orders/1").problem(404);
}

#[test]
fn buying() {
    const BOOK: u64 = 2;
    const TRIES_MAX: usize = 100;
    let store = trading();
    let mut replicas = BTreeSet::new();
    let mut stock = store.front.api.get("/lookup/2").number("stock");
    for tries in 1.. {
        let answer = store.front.api.post("/buy/2").expect(200);
        let replica = answer.field("replica").as_str().expect("a name").to_owned();
        assert_eq!(
            answer.field("message"),
            format!("successfully purchased the book RPCs for Dummies. from {replica}")
        );
        stock -= 1;
        for (name, wanted) in [
            ("book", json!(BOOK)),
            ("quantity", json!(1)),
            ("price", json!(1.0)),
            ("total", json!(1.0)),
            ("stock", json!(stock)),
        ] {
            assert_eq!(answer.field(name), wanted, "{name} in {answer}");
        }
        assert!(answer.field("key").as_str().is_some_and(|key| !key.is_empty()), "{answer}");
        assert_eq!(answer.header("location"), Some(&*format!("/orders/{}", answer.number("order"))));
        assert_eq!(answer.header("quire-index"), Some(&*answer.number("index").to_string()));
        assert_eq!(answer.header("idempotency-replayed"), None, "{answer}");
        replicas.insert(replica);
        if replicas.len() == store.orders.len() {
            break;
        }
        assert!(tries < TRIES_MAX, "only {replicas:?} serve orders");
    }
    let names = ["order_service_1", "order_service_2", "order_service_3"];
    assert!(replicas.iter().eq(names), "the replicas' names: {replicas:?}");
    assert_eq!(store.front.api.get("/lookup/2").number("stock"), stock);
}

#[test]
fn an_order_can_be_read_as_soon_as_it_is_made() {
    let store = trading();
    let book = new_book(&store, 5);
    let bought = store.front.api.buy(book, 3, "").map(|answer| answer.status);
    assert_eq!(bought, Ok(400), "an empty key is no key");
    let key = new_key("order");
    let bought = store.front.api.buy(book, 3, &key).expect("an answer").expect(200);
    let number = bought.number("order");
    let position = bought.field("position").as_str().expect("a position").to_owned();
    for path in [format!("/orders/{number}"), format!("/orders/{number}?position={position}")] {
        for daemon in store.orders.iter().chain([&store.front]) {
            let answer = daemon.api.get(&path).expect(200);
            for (name, wanted) in [
                ("order", json!(number)),
                ("book", json!(book)),
                ("quantity", json!(3)),
                ("price", json!(12.34)),
                ("total", json!(37.02)),
                ("key", json!(key)),
                ("position", json!(position)),
            ] {
                assert_eq!(answer.field(name), wanted, "{name} in {answer} of {}", daemon.name());
            }
        }
    }
}

/// [200]
#[test]
fn buying_what_is_sold_out() {
    let store = trading();
    let book = new_book(&store, 0);
    let key = new_key("sold out");
    let refused = store.front.api.buy(book, 1, &key).expect("an answer");
    assert_eq!(refused.problem(409), SOLD_OUT);
    assert_eq!(refused.field("available"), 0);
    let body = json!({ "book_id": book, "request_id": new_key("sold out") });
    assert_eq!(store.orders[0].api.put("/order", &body).problem(409), SOLD_OUT);
    assert_eq!(store.catalogs[0].api.put("/catalog/buy", &body).problem(409), SOLD_OUT);
}

#[test]
fn buying_at_a_catalog_replica() {
    let store = trading();
    for (daemon, request) in store.catalogs.iter().zip(7u64..) {
        let body = json!({ "book_id": 5, "request_id": request });
        let before = stock(&store, 5);
        let first = daemon.api.put("/catalog/buy", &body);
        begins(&first, r#"{"book":"How to finish Project 3 on time."}"#);
        assert_eq!(first.header("idempotency-replayed"), None);
        let again = daemon.api.put("/catalog/buy", &body);
        is(&again, first.body.trim_end());
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(stock(&store, 5), before - 1, "the second sold nothing");
    }
}

#[test]
fn updating_at_any_catalog_replica() {
    let store = trading();
    let book = new_book(&store, 10);
    for (daemon, stock) in store.catalogs.iter().zip([2000, 0, 77]) {
        let body = json!({ "book_id": book, "request_id": new_key("update"), "stock": stock, "cost": 0.5 });
        let answer = daemon.api.put("/catalog/update", &body).expect(200);
        assert!(
            answer.field("book").as_str().is_some_and(|title| title.starts_with("A book that only")),
            "{answer}"
        );
        assert_eq!(answer.field("message"), "Done update");
        for other in &store.catalogs {
            let read = other.api.get(&format!("/catalog/query?id={book}"));
            begins(&read, &format!(r#"{{"cost":0.5,"stock":{stock}}}"#));
        }
        begins(
            &store.front.api.get(&format!("/lookup/{book}")),
            &format!(r#"{{"cost":0.5,"stock":{stock}}}"#),
        );
    }
}

/// A book that moves is found where it is, at once. [search results are cached and never invalidated]
#[test]
fn a_search_is_never_stale() {
    let store = trading();
    let book = new_book(&store, 1);
    let (topic, title) = (new_key("topic"), new_key("title"));
    store.front.api.get(&format!("/search/{topic}")).problem(404);
    let body = json!({ "book_id": book, "request_id": new_key("move"), "topic": topic, "title": title });
    store.catalogs[2].api.put("/catalog/update", &body).expect(200);
    is(&store.front.api.get(&format!("/search/{topic}")), &format!(r#"{{"items":{{"{title}":{book}}}}}"#));
}

#[test]
fn ordering_at_an_order_replica() {
    let store = trading();
    for daemon in &store.orders {
        let request = new_key("order");
        let body = json!({ "book_id": 6, "request_id": request });
        let before = stock(&store, 6);
        let first = daemon.api.put("/order", &body);
        begins(&first, r#"{"book":"Why theory classes are so hard."}"#);
        is(&daemon.api.put("/order", &body), first.body.trim_end());
        assert_eq!(stock(&store, 6), before - 1, "the second sold nothing");

        let log = daemon.api.get("/log").expect(200).json();
        let lines = log.as_array().expect("a list").iter().filter(|line| line["request_id"] == *request);
        let lines: Vec<&Value> = lines.collect();
        let [line] = lines[..] else { panic!("one line for {request} is wanted in {log}") };
        assert_eq!(line["id"], first.number("order"));
        assert_eq!(line["query_id"], 6);
        assert!(
            line["timestamp"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')),
            "{line}"
        );
    }
}

/// The reference's `test_local.sh`, with the update sent to a backup.
#[test]
fn the_smoke_session() {
    let store = trading();
    let front = &store.front.api;
    is(&front.get("/search/distributed-systems"), DISTRIBUTED);
    is(&front.get("/search/graduate-school"), GRADUATE);
    begins(&front.get("/lookup/1"), r#"{"cost":1000.0,"stock":1000}"#);
    let bought = front.post("/buy/1").expect(200);
    let message = bought.field("message");
    let message = message.as_str().expect("a text");
    let book = "How to get a good grade in 677 in 20 minutes a day.";
    assert!(
        message.starts_with(&format!("successfully purchased the book {book} from order_service_")),
        "{message}"
    );
    begins(&front.get("/lookup/1"), r#"{"cost":1000.0,"stock":999}"#);
    let update = json!({ "book_id": 1, "request_id": 123, "stock": 2000, "cost": 2000 });
    let updated = store.catalog_backup().api.put("/catalog/update", &update);
    begins(&updated, &format!(r#"{{"book":"{book}","message":"Done update"}}"#));
    begins(&front.get("/lookup/1"), r#"{"cost":2000.0,"stock":2000}"#);
}

fn stock(store: &Store, book: u64) -> u64 {
    store.front.api.get(&format!("/lookup/{book}")).number("stock")
}
