//! Writes by the batch, as daemons send them to each other: for stores with many books.

use std::io;
use std::time::Duration;

use api::catalog::{Create, REQUEST_LIFE_MS, WRITES, Write};
use api::{BATCH_ITEMS_MAX, Batch};

use crate::daemon::Daemon;

/// The title of the book that is added as number `n`, from 0.
pub fn title(n: u64) -> String {
    let title = format!("{n:>8} {}", "a title as long as the catalog takes it ".repeat(6));
    title.chars().take(250).collect()
}

/// Adds books with long titles, each by an entry of about half a KiB.
///
/// # Errors
/// When the primary does not take them.
pub fn add_books(primary: &Daemon, count: u64) -> io::Result<()> {
    let not_after_ms = not_after_ms(primary)?;
    let create = |n: u64| {
        Write::Create(Create {
            key: format!("book-{n}"),
            title: title(n),
            topic: format!("topic {}", n % 100),
            stock: 1_000_000,
            cost_cents: 1000,
            not_after_ms,
        })
    };
    write_all(primary, count, &create)
}

/// Log time until which what begins now may be under way, in ms.
///
/// # Errors
/// When the primary does not say what time it is.
pub fn not_after_ms(primary: &Daemon) -> io::Result<u64> {
    Ok(primary.group().map_err(io::Error::other)?.log_ms + REQUEST_LIFE_MS)
}

/// Sends writes to the primary as daemons do, a few full batches at a time.
///
/// # Errors
/// When it takes one of them 20 times not.
pub fn write_all(primary: &Daemon, count: u64, write: &(dyn Fn(u64) -> Write + Sync)) -> io::Result<()> {
    const LANES: u64 = 4;
    let url = format!("http://127.0.0.1:{}{WRITES}", primary.spec().peer);
    let lane = |lane: u64| -> Result<(), String> {
        let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
        let mut numbers = (lane..count).step_by(LANES as usize).peekable();
        while numbers.peek().is_some() {
            let items: Vec<Write> = numbers.by_ref().take(BATCH_ITEMS_MAX).map(write).collect();
            let body = postcard::to_stdvec(&Batch { items }).map_err(|error| error.to_string())?;
            // The same keys again are answered by what became of them.
            let mut attempts = 0;
            while let Err(error) = agent.post(&url).send(&body).map(drop) {
                attempts += 1;
                if attempts > 20 {
                    return Err(error.to_string());
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|number| scope.spawn(move || lane(number))).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().expect("no panic")).map_err(io::Error::other)
    })
}
