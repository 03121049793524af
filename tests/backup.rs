//! Backup of a store that people buy from, and a restore to before a mistake was made.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use tests::audit::{audit_orders, order_book};
use tests::daemon::Daemon;
use tests::load::{Bought, Load};
use tests::store::{BOOKS, Store, new_key};
use tests::{scratch, wait};

/// More copies of each book than can be sold in a test.
const PLENTY: u64 = 1_000_000;
/// Longest wait for some sales. Says nothing of speed: a machine may be busy.
const SALES_LIMIT: Duration = Duration::from_secs(60);
/// Longest time that a daemon takes to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for a word in a daemon's log.
const LOG_LIMIT: Duration = Duration::from_secs(30);

fn quire(words: &[&str], paths: &[PathBuf]) -> Output {
    let mut command = Command::new(scratch::quire());
    command.args(words).args(paths).arg("--json").env_clear();
    command.output().expect("the tool can be started")
}

/// What it says, if it ends well.
fn says(words: &[&str], paths: &[PathBuf]) -> Value {
    let output = quire(words, paths);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {stderr}");
    serde_json::from_slice(&output.stdout).expect("one object of JSON")
}

fn directory(store: &Store, daemon: &Daemon) -> PathBuf {
    store.directory().join(daemon.name())
}

fn url(daemon: &Daemon) -> PathBuf {
    format!("http://127.0.0.1:{}", daemon.spec().api).into()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a name in UTF-8")
}

#[test]
fn a_store_is_restored_to_before_a_mistake() {
    let store = Store::start("backup");
    BOOKS.for_each(|book| store.set_stock(book, PLENTY));
    let load = Load::start(&store.front.api, 4, &BOOKS.collect::<Vec<_>>());
    load.wait_for_more(50, SALES_LIMIT);

    // While people buy, from the directories of backups and from the daemons themselves.
    let early = store.directory().join("early");
    let replicas = [directory(&store, store.catalog_backup()), directory(&store, store.order_backup())];
    says(&["backup", text(&early)], &replicas);
    load.wait_for_more(20, SALES_LIMIT);
    let by_url = store.directory().join("by-url");
    says(&["backup", text(&by_url)], &[url(store.catalog_primary()), url(store.order_primary())]);
    load.wait_for_more(20, SALES_LIMIT);
    let (bought, _) = load.stop();

    // The mistake: everything for a cent. Some buy.
    let before = bought.iter().map(|sale| sale.index).max().expect("some were sold");
    for book in BOOKS {
        let body = json!({ "book_id": book, "request_id": new_key("mistake"), "cost": 0.01 });
        store.catalogs[0].api.put("/catalog/update", &body).expect(200);
    }
    let load = Load::start(&store.front.api, 2, &BOOKS.collect::<Vec<_>>());
    load.wait_for_more(20, SALES_LIMIT);
    let (cheap, _) = load.stop();

    let late = store.directory().join("late");
    let made = says(&["backup", text(&late), "--data-dir", text(store.directory())], &[]);
    assert!(made["catalog"]["point"]["index"].as_u64() > Some(before), "{made}");

    restored(&store, &late, before, &bought, &cheap);
}

/// Puts the restored directories in the place of the old ones, and looks at what the store is then.
fn restored(store: &Store, backup: &Path, index: u64, bought: &[Bought], cheap: &[Bought]) {
    let new = store.directory().join("new");
    let words = ["restore", text(backup), "--to-index", &index.to_string(), "--data-dir", text(&new)];
    let answer = says(&words, &[]);
    assert_eq!(answer["plan"]["catalog"]["index"], index, "{answer}");
    let daemons: Vec<&Daemon> = store.replicas().collect();
    let old = store.directory().join("old");
    std::fs::create_dir(&old).expect("a directory can be made");
    for daemon in &daemons {
        daemon.terminate(STOP_LIMIT);
        std::fs::rename(directory(store, daemon), old.join(daemon.name())).expect("it can be moved");
        std::fs::rename(new.join(daemon.name()), directory(store, daemon)).expect("it can be moved");
    }
    daemons.iter().for_each(|daemon| daemon.start());
    store.wait_ready();

    // Every sale up to the index is there, once, and none of those after it.
    audit_orders(store, bought).unwrap_or_else(|why| panic!("{why}"));
    let sold = bought.iter().filter(|sale| sale.book == 1).count() as u64;
    let answer = store.front.api.get("/lookup/1").expect(200);
    assert_eq!(answer.number("stock"), PLENTY - sold, "{answer}");
    assert_ne!(answer.field("cost"), json!(0.01), "{answer}");

    // A key of before is remembered, one of after is not; and no order number is given twice.
    let again = |sale: &Bought| {
        let headers = [("idempotency-key", sale.key.as_str())];
        let path = format!("/buy/{}", sale.book);
        store.front.api.send("POST", &path, &headers, None).expect("it answers").expect(200)
    };
    assert_eq!(again(&bought[0]).number("order"), bought[0].order);
    let newest = cheap.iter().map(|sale| sale.order).max().expect("some were sold");
    assert!(again(&cheap[0]).number("order") > newest, "a new incarnation");
    wait::until(SALES_LIMIT, "the order book has the new order", || {
        let orders = order_book(&store.orders[0].api).len();
        if orders == bought.len() + 1 { Ok(()) } else { Err(format!("{orders} orders")) }
    });

    // A replica that has its old directory is refused.
    let stray = &store.catalogs[0];
    stray.terminate(STOP_LIMIT);
    std::fs::rename(directory(store, stray), new.join(stray.name())).expect("it can be moved");
    std::fs::rename(old.join(stray.name()), directory(store, stray)).expect("it can be moved");
    stray.start();
    wait::until(LOG_LIMIT, "the old replica is refused", || {
        let log = stray.log();
        if log.contains("it belongs to cluster") { Ok(()) } else { Err("not yet".into()) }
    });
    let answer = store.front.api.get("/lookup/1").expect(200);
    assert_eq!(answer.number("stock"), PLENTY - sold - u64::from(cheap[0].book == 1), "{answer}");
}
