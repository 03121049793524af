//! The bounded queue between callers and lanes.
//!
//! Callers never wait: an entry that does not fit is handed back. A lane takes as much as fits into one call with
//! a single lock. The lock is held for moves of memory only, so a coroutine may take it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::census::Gauge;

/// What an entry counts for.
pub(super) trait Weight {
    /// Items in it.
    fn items(&self) -> usize;
    /// Bytes in it.
    fn bytes(&self) -> usize;
}

/// An amount: of what is queued, or of what fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) items: usize,
    pub(super) bytes: usize,
}

/// Why an entry was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    /// What the queue holds at most.
    max: Load,
    state: Mutex<State<T>>,
    /// Signalled when an entry comes and when the queue closes.
    changed: Condvar,
    /// Signalled when a pause is over before its time.
    pausing: Condvar,
    gauge: Arc<Gauge>,
}

#[derive(Debug)]
struct State<T> {
    entries: VecDeque<T>,
    load: Load,
    /// Lanes that wait for an entry.
    idle: usize,
    /// The pause that lasts, or else the next one, is over at once.
    hurried: bool,
    closed: bool,
}

impl<T: Weight> Queue<T> {
    pub(super) fn new(max: Load) -> Queue<T> {
        let state = State {
            entries: VecDeque::new(),
            load: Load { items: 0, bytes: 0 },
            idle: 0,
            hurried: false,
            closed: false,
        };
        let gauge = Arc::new(Gauge::default());
        gauge.limit.store(max.items as u64, Ordering::Relaxed);
        Queue { max, state: Mutex::new(state), changed: Condvar::new(), pausing: Condvar::new(), gauge }
    }

    /// What it holds and has carried, for those who count.
    pub(super) fn gauge(&self) -> &Arc<Gauge> {
        &self.gauge
    }

    /// Queues an entry, at once or not at all.
    pub(super) fn push(&self, entry: T) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        let load = Load { items: state.load.items + entry.items(), bytes: state.load.bytes + entry.bytes() };
        if load.items > self.max.items || load.bytes > self.max.bytes {
            self.gauge.full.fetch_add(entry.items() as u64, Ordering::Relaxed);
            return Err(Refused::Full);
        }
        state.load = load;
        self.gauge.waiting.store(load.items as u64, Ordering::Relaxed);
        state.entries.push_back(entry);
        let wake = state.idle > 0;
        drop(state);
        if wake {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Adds to a batch what fits into `room` beside what it holds; an empty batch gets at least one entry, however
    /// large, and waits for it. False if the queue has closed.
    pub(super) fn fill(&self, batch: &mut Vec<T>, room: Load) -> bool {
        let mut state = self.lock();
        while batch.is_empty() && state.entries.is_empty() && !state.closed {
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
        let mut items: usize = batch.iter().map(Weight::items).sum();
        let mut bytes: usize = batch.iter().map(Weight::bytes).sum();
        let before = state.load.items;
        while let Some(next) = state.entries.front() {
            let next = Load { items: next.items(), bytes: next.bytes() };
            items += next.items;
            bytes += next.bytes;
            if !batch.is_empty() && (items > room.items || bytes > room.bytes) {
                break;
            }
            state.load.items -= next.items;
            state.load.bytes -= next.bytes;
            batch.extend(state.entries.pop_front());
        }
        let taken = before - state.load.items;
        if taken > 0 {
            self.gauge.waiting.store(state.load.items as u64, Ordering::Relaxed);
            self.gauge.items.fetch_add(taken as u64, Ordering::Relaxed);
            self.gauge.calls.fetch_add(1, Ordering::Relaxed);
        }
        !state.closed
    }

    /// Waits, until it is told to hurry at the latest; false if the queue has closed.
    pub(super) fn pause(&self, rest: Duration) -> bool {
        let deadline = Instant::now() + rest;
        let mut state = self.lock();
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            if state.closed || rest.is_zero() || std::mem::take(&mut state.hurried) {
                return !state.closed;
            }
            let waited = self.pausing.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends a pause, or the next one if none lasts.
    pub(super) fn hurry(&self) {
        self.lock().hurried = true;
        self.pausing.notify_all();
    }

    /// Drops all entries.
    pub(super) fn clear(&self) {
        let dropped = {
            let mut state = self.lock();
            state.load = Load { items: 0, bytes: 0 };
            self.gauge.waiting.store(0, Ordering::Relaxed);
            std::mem::take(&mut state.entries)
        };
        // Outside the lock: dropping an entry wakes its caller.
        drop(dropped);
    }

    /// Refuses entries from now on, drops those that wait, and lets the lanes end.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        self.pausing.notify_all();
        self.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    impl Weight for (usize, usize) {
        fn items(&self) -> usize {
            self.0
        }
        fn bytes(&self) -> usize {
            self.1
        }
    }

    const LOTS: Load = Load { items: 1000, bytes: 1000 };

    #[test]
    fn full_is_full_in_items_and_in_bytes() {
        let queue = Queue::new(Load { items: 3, bytes: 100 });
        assert_eq!(queue.push((2, 10)), Ok(()));
        assert_eq!(queue.push((2, 10)), Err(Refused::Full));
        assert_eq!(queue.push((1, 91)), Err(Refused::Full));
        assert_eq!(queue.push((1, 90)), Ok(()));
        let mut batch = Vec::new();
        assert!(queue.fill(&mut batch, LOTS));
        assert_eq!(batch, [(2, 10), (1, 90)]);
        assert_eq!(queue.push((3, 100)), Ok(()));
        queue.close();
        assert_eq!(queue.push((1, 1)), Err(Refused::Closed));
        assert!(!queue.fill(&mut Vec::new(), LOTS));
        assert!(!queue.pause(Duration::MAX.min(Duration::from_secs(60))));
    }

    #[test]
    fn an_oversized_entry_travels_alone() {
        let queue = Queue::new(LOTS);
        for entry in [(1, 1), (9, 1), (1, 1)] {
            queue.push(entry).unwrap();
        }
        let room = Load { items: 4, bytes: 10 };
        for expected in [(1, 1), (9, 1), (1, 1)] {
            let mut batch = Vec::new();
            assert!(queue.fill(&mut batch, room));
            assert_eq!(batch, [expected]);
        }
    }

    #[test]
    fn closing_ends_waiting() {
        let queue = Arc::new(Queue::<(usize, usize)>::new(LOTS));
        let waiting = {
            let queue = queue.clone();
            thread::spawn(move || queue.fill(&mut Vec::new(), LOTS))
        };
        let pausing = {
            let queue = queue.clone();
            thread::spawn(move || queue.pause(Duration::from_secs(60)))
        };
        thread::sleep(Duration::from_millis(20));
        queue.close();
        assert!(!waiting.join().unwrap());
        assert!(!pausing.join().unwrap());
    }

    #[test]
    fn hurry_ends_one_pause() {
        let long = Duration::from_secs(60);
        let queue = Arc::new(Queue::<(usize, usize)>::new(LOTS));
        queue.hurry();
        assert!(queue.pause(long), "the next one, if none lasts");
        let pausing = {
            let queue = queue.clone();
            thread::spawn(move || queue.pause(long))
        };
        thread::sleep(Duration::from_millis(20));
        queue.hurry();
        assert!(pausing.join().unwrap());
        let start = Instant::now();
        assert!(queue.pause(Duration::from_millis(20)) && start.elapsed() >= Duration::from_millis(20));
    }

    proptest! {
        /// Nothing is lost, doubled or reordered, and no batch is larger than allowed.
        #[test]
        fn everything_comes_out_once_in_order(entries in prop::collection::vec((1usize..6, 0usize..50), 0..60)) {
            let queue = Queue::new(Load { items: usize::MAX, bytes: usize::MAX });
            for entry in &entries {
                queue.push(*entry).unwrap();
            }
            let room = Load { items: 5, bytes: 60 };
            let mut out = Vec::new();
            while out.len() < entries.len() {
                let mut batch = Vec::new();
                queue.fill(&mut batch, room);
                prop_assert!(batch.iter().map(Weight::items).sum::<usize>() <= room.items);
                prop_assert!(batch.iter().map(Weight::bytes).sum::<usize>() <= room.bytes);
                out.extend(batch);
            }
            prop_assert_eq!(out, entries);
        }
    }
}
