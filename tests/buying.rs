//! Many buyers, few copies, and requests that come twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;

use serde_json::{Value, json};
use tests::client::{Answer, Client};
use tests::store::{Store, new_key};

use crate::{new_book, trading};

/// Sends all at once, and returns the answers in order.
fn at_once<T: Sync>(requests: &[T], send: impl Fn(&T) -> Answer + Sync) -> Vec<Answer> {
    let start = Barrier::new(requests.len());
    std::thread::scope(|scope| {
        let send = |request| {
            let (start, send) = (&start, &send);
            scope.spawn(move || {
                start.wait();
                send(request)
            })
        };
        let senders: Vec<_> = requests.iter().map(send).collect();
        senders.into_iter().map(|sender| sender.join().expect("every request is answered")).collect()
    })
}

/// The order book's lines for a book, as an order replica lists them.
fn log_lines(replica: &Client, book: u64) -> Vec<Value> {
    let log = replica.get("/log").expect(200).json();
    let lines = log.as_array().expect("a list").iter().filter(|line| line["query_id"] == book);
    lines.cloned().collect()
}

#[test]
fn fifty_buyers_ten_copies() {
    let store = trading();
    let book = new_book(&store, 10);
    let keys: Vec<String> = (0..50).map(|_| new_key("fifty")).collect();
    let answers = at_once(&keys, |key| store.front.api.buy(book, 1, key).expect("an answer"));

    let mut sold = BTreeMap::new();
    let mut stocks = BTreeSet::new();
    for (key, answer) in keys.iter().zip(&answers) {
        if answer.status == 200 {
            sold.insert(answer.number("order"), key.clone());
            stocks.insert(answer.number("stock"));
        } else {
            assert_eq!(answer.problem(409), "Item not available");
            assert_eq!(answer.field("available"), 0, "{answer}");
        }
    }
    assert_eq!(sold.len(), 10, "orders, each with a number of its own");
    assert!(stocks.into_iter().eq(0..10), "each copy is sold once");
    for catalog in &store.catalogs {
        let read = catalog.api.get(&format!("/catalog/query?id={book}"));
        assert_eq!(read.number("stock"), 0, "{read} of {}", catalog.name());
    }
    for order in &store.orders {
        let lines = log_lines(&order.api, book);
        let recorded = lines.iter().map(|line| (line["id"].as_u64(), line["request_id"].as_str()));
        let wanted = sold.iter().map(|(number, key)| (Some(*number), Some(key.as_str())));
        assert!(recorded.eq(wanted), "{} has {lines:?}, sold were {sold:?}", order.name());
    }
}

/// Twenty requests under one key, to all seven daemons.
fn everywhere(store: &Store, book: u64, key: &str) -> Vec<Answer> {
    enum Route<'a> {
        Front(&'a Client),
        Order(&'a Client),
        Catalog(&'a Client),
    }
    let mut routes = Vec::new();
    for _ in 0..3 {
        routes.extend(store.orders.iter().map(|daemon| Route::Order(&daemon.api)));
        routes.extend(store.catalogs.iter().map(|daemon| Route::Catalog(&daemon.api)));
    }
    routes.extend([Route::Front(&store.front.api), Route::Front(&store.front.api)]);
    assert_eq!(routes.len(), 20);
    let body = json!({ "book_id": book, "request_id": key });
    at_once(&routes, |route| match route {
        Route::Front(api) => api.buy(book, 1, key).expect("an answer"),
        Route::Order(api) => api.put("/order", &body),
        Route::Catalog(api) => api.put("/catalog/buy", &body),
    })
}

#[test]
fn one_key_sent_twenty_times_to_all_daemons_is_one_order() {
    let store = trading();
    let book = new_book(&store, 10);
    let key = new_key("twenty");
    let answers = everywhere(&store, book, &key);
    let outcome = |answer: &Answer| {
        assert_eq!(answer.status, 200, "{answer}");
        ["order", "quantity", "price", "total", "stock", "key", "index", "position"]
            .map(|name| answer.field(name))
    };
    let first = outcome(&answers[0]);
    assert!(!first.contains(&Value::Null), "{first:?}");
    for answer in &answers {
        assert_eq!(outcome(answer), first, "{answer}");
    }
    let replayed = answers.iter().filter(|answer| answer.header("idempotency-replayed") == Some("true"));
    assert!(replayed.count() >= 19, "at most one was not a replay");
    for catalog in &store.catalogs {
        assert_eq!(catalog.api.get(&format!("/catalog/query?id={book}")).number("stock"), 9);
    }
    for order in &store.orders {
        let lines = log_lines(&order.api, book);
        assert!(matches!(&lines[..], [line] if line["request_id"] == *key), "{lines:?}");
    }
}

#[test]
fn a_refusal_is_remembered_as_well() {
    let store = trading();
    let book = new_book(&store, 0);
    let key = new_key("refused");
    for answer in everywhere(&store, book, &key) {
        assert_eq!(answer.problem(409), "Item not available");
        assert_eq!(answer.field("available"), 0);
    }
    store.set_stock(book, 5);
    for answer in everywhere(&store, book, &key) {
        assert_eq!(answer.problem(409), "Item not available");
        assert_eq!(answer.header("idempotency-replayed"), Some("true"), "{answer}");
    }
    assert_eq!(store.front.api.get(&format!("/lookup/{book}")).number("stock"), 5);
    store.front.api.buy(book, 1, &new_key("refused")).expect("an answer").expect(200);
}

#[test]
fn a_key_is_good_for_one_request() {
    let store = trading();
    let (book, other) = (new_book(&store, 10), new_book(&store, 10));
    let key = new_key("reused");
    store.front.api.buy(book, 2, &key).expect("an answer").expect(200);
    let front = |book, quantity| store.front.api.buy(book, quantity, &key).expect("an answer");
    let body = |book, quantity| json!({ "book_id": book, "request_id": key, "quantity": quantity });
    let reused = [
        front(book, 3),
        front(other, 2),
        store.orders[0].api.put("/order", &body(book, 1)),
        store.orders[1].api.put("/order", &body(other, 2)),
        store.catalogs[0].api.put("/catalog/buy", &body(book, 1)),
        store.catalogs[1].api.put("/catalog/buy", &body(other, 2)),
        store.catalogs[2].api.put("/catalog/buy", &body(tests::store::NO_BOOK, 2)),
    ];
    for answer in reused {
        answer.problem(422);
        assert_eq!(answer.field("type"), "/problems/key-reused", "{answer}");
    }
    assert_eq!(front(book, 2).expect(200).header("idempotency-replayed"), Some("true"));
    for (book, left) in [(book, 8), (other, 10)] {
        assert_eq!(store.front.api.get(&format!("/lookup/{book}")).number("stock"), left);
    }

    // Updates have keys of their own: the same text is another key there, and is as good for one request.
    let update = |stock| json!({ "book_id": book, "request_id": key, "stock": stock });
    store.catalogs[1].api.put("/catalog/update", &update(50)).expect(200);
    store.catalogs[2].api.put("/catalog/update", &update(60)).problem(422);
    let replayed = store.catalogs[0].api.put("/catalog/update", &update(50)).expect(200);
    assert_eq!(replayed.header("idempotency-replayed"), Some("true"));
    assert_eq!(store.front.api.get(&format!("/lookup/{book}")).number("stock"), 50);
}

/// [stock cannot be set to 0]
#[test]
fn stock_can_be_set_to_nothing() {
    let store = trading();
    let book = new_book(&store, 10);
    store.set_stock(book, 0);
    for catalog in &store.catalogs {
        assert_eq!(catalog.api.get(&format!("/catalog/query?id={book}")).number("stock"), 0);
    }
    assert_eq!(
        store.front.api.buy(book, 1, &new_key("nothing")).expect("an answer").problem(409),
        "Item not available"
    );
}

#[test]
fn several_copies_are_sold_together_or_not_at_all() {
    let store = trading();
    let book = new_book(&store, 10);
    let buy = |quantity| store.front.api.buy(book, quantity, &new_key("several")).expect("an answer");
    let seven = buy(7).expect(200);
    assert_eq!([seven.number("quantity"), seven.number("stock")], [7, 3]);
    assert_eq!(seven.field("total"), 86.38, "7 times 12.34, exactly");
    let four = buy(4);
    assert_eq!(four.problem(409), "Item not available");
    assert_eq!(four.field("available"), 3);
    assert_eq!(buy(3).expect(200).number("stock"), 0);
    assert_eq!(buy(1).problem(409), "Item not available");
    for order in &store.orders {
        assert_eq!(log_lines(&order.api, book).len(), 2, "orders at {}", order.name());
    }
}
