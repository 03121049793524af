//! Measures how long a store sells nothing when its catalog primary is killed: `cargo run --release -p tests --bin
//! failover`, after `cargo build --release`.
//!
//! In each round buyers are at work, the primary gets SIGKILL, and the longest time between two answers that
//! acknowledge a sale is taken, from just before the kill until well after it. Then the replica is started again. A
//! store of its own, on ports of its own, with default settings.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use tests::audit::audit;
use tests::load::{Bought, Load};
use tests::store::{BOOKS, Store};

/// Kills.
const ROUNDS: usize = 7;
/// Threads that buy.
const BUYERS: usize = 8;
/// Copies of each book, more than can be sold.
const PLENTY: u64 = 100_000_000;
/// Longest wait for the sales around a kill.
const SALES_LIMIT: Duration = Duration::from_secs(60);
/// Sales before a kill, and after one.
const SALES_AROUND: usize = 500;

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    let store = Store::start("failover");
    BOOKS.for_each(|book| store.set_stock(book, PLENTY));
    let stocks = store.stocks_at(&store.catalogs[0]);
    let load = Load::start(&store.front.api, BUYERS, &BOOKS.collect::<Vec<_>>());
    let mut kills = Vec::new();
    for _ in 0..ROUNDS {
        load.wait_for_more(SALES_AROUND, SALES_LIMIT);
        let primary = store.catalog_primary();
        let start = Instant::now();
        primary.kill();
        load.wait_for_more(SALES_AROUND, SALES_LIMIT);
        kills.push((primary.name().to_owned(), start, Instant::now()));
        primary.start();
        store.wait_for(primary);
    }
    let (bought, retries) = load.stop();
    let mut gaps = Vec::new();
    for (round, (name, start, end)) in kills.iter().enumerate() {
        let gap = longest_gap(&bought, *start, *end);
        gaps.push(gap);
        writeln!(out, "round {}: {name} killed, longest gap between two sales {gap:.1?}", round + 1)?;
    }
    gaps.sort_unstable();
    let before = longest_gap(&bought, bought[0].at, kills[0].1);
    writeln!(out, "median {:.1?}, longest {:.1?}", gaps[ROUNDS / 2], gaps[ROUNDS - 1])?;
    writeln!(
        out,
        "longest gap before the first kill {before:.1?}; {BUYERS} buyers, {} sales, {retries} retries",
        bought.len()
    )?;
    audit(&store, &stocks, &bought).map_err(io::Error::other)?;
    writeln!(out, "every sale is in the order book once, and the stock adds up")
}

/// The longest time between two acknowledgements, of those of which the later one came after `start` and the earlier
/// one before `end`.
fn longest_gap(bought: &[Bought], start: Instant, end: Instant) -> Duration {
    let mut times: Vec<Instant> = bought.iter().map(|sale| sale.at).collect();
    times.sort_unstable();
    let pairs = times.windows(2).filter(|pair| pair[1] >= start && pair[0] <= end);
    pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
