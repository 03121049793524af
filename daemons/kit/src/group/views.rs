//! Snapshots for other replicas: views of one state, each held by a thread of its own.
//!
//! A view is a read transaction, and its thread does nothing but read chunks from it when asked. So no coroutine holds a
//! transaction across a park, and every chunk of a transfer is of the same state, also one that is asked for twice.
//! While it is open the store cannot use pages again that become free meanwhile: it ends when nobody has asked for
//! `IDLE_MAX`, and in any case after the time in which all of it should have been taken (`age_max`); the receiver then begins
//! anew with another.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::Rejected;
use api::replication::{Fetch, Fetched};
use wal::Table;
use wal::snapshot::{self, Chunk, Head, Place};
use wal::store::Store;

use super::{lock, spawn};
use crate::wait::{Completer, promise};

/// Most views at once: every one pins pages. A further receiver is told to come later.
const VIEWS_MAX: usize = 2;
/// A view that nobody asks of for so long ends. A receiver that was restarted meanwhile goes on where it was.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Longest life of a view, whatever it shows ...
const AGE_MAX: Duration = Duration::from_secs(30 * 60);
/// ... and this much longer for what it shows: bytes per second, half of the slowest rate that a receiver can be set to.
const RATE_MIN: u64 = 512 << 10;
/// Questions that wait for the thread of a view; its receiver asks one at a time.
const ASKS_MAX: usize = 4;
/// Longest wait for a chunk, which is a read of half a MiB.
const CHUNK_LIMIT: Duration = Duration::from_secs(5);

/// The open views.
#[derive(Default)]
pub(super) struct Views(Arc<Mutex<Vec<View>>>);

struct View {
    id: u64,
    asks: SyncSender<Ask>,
}

struct Ask {
    after: Option<Place>,
    answer: Completer<wal::Result<Chunk>>,
}

impl Views {
    /// Answers a call for a part of a snapshot; parks while it is read.
    pub(super) fn answer(
        &self,
        fetch: Fetch,
        store: &Arc<dyn Store>,
        tables: &'static [Table],
    ) -> Result<Fetched, Rejected> {
        if fetch.view == 0 {
            return self.open(fetch.at_least, store, tables);
        }
        let asks = lock(&self.0).iter().find(|view| view.id == fetch.view).map(|view| view.asks.clone());
        let Some(asks) = asks else {
            return Err(Rejected::NotReady("this view of the state is closed; begin with another".into()));
        };
        let (answer, waiter) = promise();
        let after = fetch.after.map(|(table, key)| Place { table, key });
        if asks.try_send(Ask { after, answer }).is_err() {
            return Err(Rejected::Overloaded("this view of the state is asked too often".into()));
        }
        match waiter.wait(CHUNK_LIMIT) {
            Some(Ok(Chunk { checksum, last, records })) => {
                Ok(Fetched { view: fetch.view, head: Vec::new(), checksum, last, records })
            }
            Some(Err(error)) => Err(Rejected::NotReady(format!("the state cannot be read: {error}"))),
            None => Err(Rejected::NotReady("the state was not read in time".into())),
        }
    }

    fn open(
        &self,
        at_least: u64,
        store: &Arc<dyn Store>,
        tables: &'static [Table],
    ) -> Result<Fetched, Rejected> {
        let (asks, asked) = sync_channel(ASKS_MAX);
        let Some(slot) = self.slot(asks) else {
            return Err(Rejected::Overloaded(format!("{VIEWS_MAX} snapshots are on their way already")));
        };
        let id = slot.id;
        let (opened, waiter) = promise();
        let store = store.clone();
        spawn("snapshot-view", move || {
            let _slot = slot;
            serve(&*store, tables, at_least, &asked, opened);
        });
        match waiter.wait(CHUNK_LIMIT) {
            Some(Ok(head)) => Ok(Fetched { view: id, head, checksum: 0, last: false, records: Vec::new() }),
            Some(Err(why)) => Err(Rejected::NotReady(why)),
            None => Err(Rejected::NotReady("no view of the state could be opened in time".into())),
        }
    }

    /// A place among the views, if there is one.
    fn slot(&self, asks: SyncSender<Ask>) -> Option<Slot> {
        let mut views = lock(&self.0);
        if views.len() >= VIEWS_MAX {
            return None;
        }
        let id = uuid::Uuid::new_v4().as_u64_pair().0.max(1);
        views.push(View { id, asks });
        Some(Slot { id, views: self.0.clone() })
    }
}

/// The place of a view, given back however its thread ends.
struct Slot {
    id: u64,
    views: Arc<Mutex<Vec<View>>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.views).retain(|view| view.id != self.id);
    }
}

/// Longest life of a view of a state of so many bytes.
fn age_max(bytes: u64) -> Duration {
    AGE_MAX + Duration::from_secs(bytes / RATE_MIN)
}

/// The life of a view.
fn serve(
    store: &dyn Store,
    tables: &[Table],
    at_least: u64,
    asked: &Receiver<Ask>,
    opened: Completer<Result<Vec<u8>, String>>,
) {
    let begun = || -> wal::Result<_> {
        let txn = store.hold()?;
        let head = Head::of(&*txn)?;
        let bytes = tables.iter().map(|table| txn.bytes(*table)).sum::<wal::Result<u64>>()?;
        Ok((txn, head, age_max(bytes)))
    };
    let (txn, age_max) = match begun() {
        Err(error) => return opened.complete(Err(format!("the state cannot be read: {error}"))),
        Ok((txn, Some(head), age_max)) if head.mark.index >= at_least => {
            opened.complete(Ok(postcard::to_stdvec(&head).expect("plain data types always encode")));
            log::info!("a peer takes a snapshot of {}", head.mark.index);
            (txn, age_max)
        }
        Ok((_, head, _)) => {
            let has = head.map_or(0, |head| head.mark.index);
            return opened
                .complete(Err(format!("its state is that of {has}, {at_least} or later is asked for")));
        }
    };
    let until = Instant::now() + age_max;
    while Instant::now() < until {
        let Ok(Ask { after, answer }) = asked.recv_timeout(IDLE_MAX) else { return };
        answer.complete(snapshot::chunk(&*txn, tables, after.as_ref()));
    }
    log::warn!("a peer has not taken its snapshot within {} s; it begins anew", age_max.as_secs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_when_the_thread_that_has_it_panics() {
        let views = Views::default();
        let slot = || views.slot(sync_channel(ASKS_MAX).0);
        let held: Vec<Slot> = (0..VIEWS_MAX).map(|_| slot().unwrap()).collect();
        assert!(slot().is_none());
        let thread = std::thread::spawn(move || {
            let _held = held;
            panic!("a table that was not opened");
        });
        assert!(thread.join().is_err());
        assert!(slot().is_some());
    }

    #[test]
    fn a_view_lives_as_long_as_the_slowest_receiver_needs() {
        assert_eq!(age_max(0), AGE_MAX);
        let (mib_s, gib) = (1 << 20, 1 << 30);
        for state in [gib, 10 * gib, 1_000 * gib] {
            assert!(age_max(state).as_secs() > state / mib_s, "{state} bytes at 1 MiB/s");
        }
    }
}
