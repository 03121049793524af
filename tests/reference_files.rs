//! The reference's seven env files make a store: each order replica is a group of its own, and records every sale.

use tests::audit::{audit, order_book};
use tests::load::Load;
use tests::store::{BOOKS, Shape, Store};
use tests::wait;

use std::time::Duration;

/// Longest wait for a few sales.
const SALES_LIMIT: Duration = Duration::from_secs(30);

#[test]
fn the_reference_env_files_make_a_store() {
    let store = Store::start_as(Shape::ReferenceFiles, 1, "reference-files");
    let stocks = store.stocks_at(&store.catalogs[0]);
    let load = Load::start(&store.front.api, 4, &BOOKS.collect::<Vec<_>>());
    load.wait_for_more(50, SALES_LIMIT);
    // One of the three books is closed for a while; the others go on, and it catches up.
    store.orders[2].kill();
    load.wait_for_more(50, SALES_LIMIT);
    store.orders[2].start();
    store.wait_for(&store.orders[2]);
    let (bought, _) = load.stop();
    audit(&store, &stocks, &bought).unwrap_or_else(|why| panic!("{why}"));
    wait::until(SALES_LIMIT, "all order books are equal", || {
        let books: Vec<_> = store.orders.iter().map(|order| order_book(&order.api)).collect();
        if books.windows(2).all(|pair| pair[0] == pair[1]) { Ok(()) } else { Err("they differ".into()) }
    });
}
