//! The previous release and this one side by side: `tests/upgrade.sh` builds the previous one and runs this.
//!
//! A store of the previous release sells books while its daemons are replaced by this release one after the other, all
//! but the last of each group also taken back once on the way; nothing that was acknowledged may be lost, and nobody may stop selling for long.
//! Then the groups agree on the newest level, and a daemon of the previous release must not take part any more.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tests::audit::audit;
use tests::daemon::Daemon;
use tests::load::{Bought, Load};
use tests::scratch;
use tests::store::{BOOKS, READY_LIMIT, Store};
use tests::wait;

/// Threads that buy.
const BUYERS: usize = 4;
/// Copies of each book, more than can be sold.
const PLENTY: u64 = 100_000_000;
/// Longest wait for a few sales.
const SALES_LIMIT: Duration = Duration::from_secs(60);
/// Sales between two replacements.
const SALES_BETWEEN: usize = 100;
/// Longest time that a daemon may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Sales after which the log must hold a checkpoint, which the previous release does not know.
const SALES_TO_CHECKPOINT: usize = 2 * wal::replica::CHECKPOINT_EVERY as usize;
/// Exit code of a daemon that meets what it does not know.
const EXIT_CONFIG: i32 = 78;

fn main() -> io::Result<()> {
    let Some(previous) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("name the previous release's binary; tests/upgrade.sh does"));
    };
    let mut out = io::stdout();
    let this = scratch::quire();
    let store = Store::start_from(&previous, "upgrade");
    BOOKS.for_each(|book| store.set_stock(book, PLENTY));
    let stocks = store.stocks_at(&store.catalogs[0]);
    let load = Load::start(&store.front.api, BUYERS, &BOOKS.collect::<Vec<_>>());
    load.wait_for_more(SALES_BETWEEN, SALES_LIMIT);

    // The front end stays to the end: while it is down nobody can buy.
    let start = Instant::now();
    for daemon in store.replicas() {
        let mut steps = vec![("this", &this), ("the previous", &previous), ("this", &this)];
        if [store.catalogs.last(), store.orders.last()]
            .into_iter()
            .flatten()
            .any(|last| last.id() == daemon.id())
        {
            steps.truncate(1); // with it all members run this release, and may agree on what is new in it
        }
        for (release, binary) in steps {
            replace(&store, daemon, binary);
            load.wait_for_more(SALES_BETWEEN, SALES_LIMIT);
            writeln!(out, "{} runs {release} release, {} sales", daemon.name(), load.count())?;
        }
    }
    let end = Instant::now();
    let (mut bought, retries) = load.stop();
    let gap = longest_gap(&bought, start, end);
    writeln!(out, "{} sales, {retries} retries, longest gap between two sales {gap:.0?}", bought.len())?;
    replace(&store, &store.front, &this);

    for catalog in &store.catalogs {
        wait::until(READY_LIMIT, &format!("{} agrees on the newest level", catalog.name()), || match catalog
            .api
            .get("/info")
            .expect(200)
            .number("level")
        {
            level if level == u64::from(wal::level::NEWEST) => Ok(()),
            level => Err(format!("it has agreed on {level}")),
        });
    }
    writeln!(out, "all run this release, the catalog has agreed on level {}", wal::level::NEWEST)?;

    let load = Load::start(&store.front.api, BUYERS, &BOOKS.collect::<Vec<_>>());
    let backup = store.catalog_backup();
    stop(backup);
    load.wait_for_more(SALES_TO_CHECKPOINT, SALES_LIMIT);
    backup.run(&previous);
    backup.start();
    let status = backup.wait(SALES_LIMIT);
    let last = backup.log().lines().last().unwrap_or_default().to_owned();
    if status.code() != Some(EXIT_CONFIG) || !last.contains("run a newer one") {
        return Err(io::Error::other(format!("the previous release ended with {status}: {last}")));
    }
    writeln!(out, "the previous release stops at what it does not know: {last}")?;
    backup.run(&this);
    backup.start();
    store.wait_for(backup);
    bought.extend(load.stop().0);
    audit(&store, &stocks, &bought).map_err(io::Error::other)?;
    writeln!(out, "every sale is in the order book once, and the stock adds up")
}

/// Stops the daemon as a service manager does.
fn stop(daemon: &Daemon) {
    let status = daemon.terminate(STOP_LIMIT);
    assert!(status.success(), "{} ended with {status}\n{}", daemon.name(), daemon.log_tail());
}

fn replace(store: &Store, daemon: &Daemon, binary: &Path) {
    stop(daemon);
    daemon.run(binary);
    daemon.start();
    store.wait_for(daemon);
}

fn longest_gap(bought: &[Bought], start: Instant, end: Instant) -> Duration {
    let mut times: Vec<Instant> =
        bought.iter().map(|sale| sale.at).filter(|at| (start..end).contains(at)).collect();
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
