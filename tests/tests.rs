//! The store under test: real processes, asked over their public API. One binary, so that tests can share stores.

mod backup;
mod bad_input;
mod buying;
mod conformance;
mod damage;
mod documented;
mod exits;
mod faults;
mod fronts;
mod full_disk;
mod locks;
mod open_port;
mod recovery;
mod reference_files;
mod repair;
mod seeing;
mod shown;
mod smoke;
mod up;
mod wal_cli;

use std::sync::OnceLock;

use serde_json::json;
use tests::store::{Shared, Store, new_key};

/// A store as it was born. Tests that use it change nothing: no book, no stock, no order.
fn untouched() -> Shared {
    static STORE: OnceLock<Store> = OnceLock::new();
    Store::shared(&STORE, "untouched")
}

/// A store that is bought from. Each test adds books of its own (`new_book`), or is the only one that touches one of
/// the first seven:
///
/// | book | whose |
/// |---|---|
/// | 1 | `conformance::the_smoke_session` |
/// | 2 | `conformance::buying` |
/// | 5 | `conformance::buying_at_a_catalog_replica` |
/// | 6 | `conformance::ordering_at_an_order_replica` |
fn trading() -> Shared {
    static STORE: OnceLock<Store> = OnceLock::new();
    Store::shared(&STORE, "trading")
}

/// Adds a book that nobody else knows to a store.
fn new_book(store: &Store, stock: u64) -> u64 {
    let title = new_key("A book that only one test knows");
    let book = json!({ "title": title, "topic": "tests", "stock": stock, "cost": 12.34, "request_id": new_key("new") });
    let answer = store.catalogs[0].api.send("POST", "/books", &[], Some(book.to_string().as_bytes()));
    answer.expect("the catalog answers").expect(201).number("id")
}
