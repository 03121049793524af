//! Waiting for something that happens on another thread, from a coroutine or from an OS thread.
//!
//! `promise` is a one-shot rendezvous: one side completes, the other waits. `Watch` is a number that only grows,
//! with any number of waiters. Neither ever blocks a coroutine's thread for longer than a few instructions, and
//! both loop over spurious wakes.
//!
//! A wake from an OS thread costs a system call per waiter, a wake from within a coroutine does not. Groups of
//! more than `DIRECT_WAKES_MAX` are therefore handed to one coroutine that wakes them (measured: half the cost
//! per waiter, and the woken callers come back as one batch).

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use may::coroutine;
use may::sync::{Blocker, mpsc};

/// Waiters that a thread wakes itself; beyond it the fan-out coroutine does it.
const DIRECT_WAKES_MAX: usize = 4;

/// Shortest park. `may` counts in whole milliseconds and takes 0 for "for ever", so a shorter rest is rounded up.
const PARK_MIN: Duration = Duration::from_millis(1);

/// Longest single park. A longer wait parks again; this keeps `Duration::MAX` away from the timer's arithmetic.
const PARK_MAX: Duration = Duration::from_secs(60 * 60);

/// The two ends of a one-shot rendezvous.
pub fn promise<T: Send + 'static>() -> (Completer<T>, Waiter<T>) {
    let state = Arc::new(Mutex::new(State::Pending));
    (Completer { state: state.clone() }, Waiter { state })
}

/// The end that knows the value. Dropped without `complete`, it tells the waiter that nothing will come.
#[derive(Debug)]
pub struct Completer<T> {
    state: Arc<Mutex<State<T>>>,
}

/// The end that wants the value.
#[derive(Debug)]
pub struct Waiter<T> {
    state: Arc<Mutex<State<T>>>,
}

#[derive(Debug)]
enum State<T> {
    /// Nothing yet, nobody parked.
    Pending,
    /// Nothing yet, this one is parked.
    Parked(Arc<Blocker>),
    /// The value, not yet fetched.
    Done(T),
    /// One end has left.
    Over,
}

impl<T> Completer<T> {
    /// Hands the value over and wakes the waiter. If the waiter has left, the value is dropped.
    pub fn complete(self, value: T) {
        self.settle(State::Done(value));
    }

    fn settle(&self, outcome: State<T>) {
        let mut state = lock(&self.state);
        let before = match *state {
            State::Pending | State::Parked(_) => mem::replace(&mut *state, outcome),
            State::Done(_) | State::Over => return,
        };
        drop(state);
        if let State::Parked(blocker) = before {
            blocker.unpark();
        }
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        self.settle(State::Over);
    }
}

impl<T> Waiter<T> {
    /// Parks the caller until the value is there. `None`: the limit passed, or the completer was dropped without
    /// a value. The limit has a resolution of 1 ms.
    pub fn wait(self, limit: Duration) -> Option<T> {
        let deadline = Instant::now().checked_add(limit);
        let blocker = match self.poll(false) {
            Poll::Ready(value) => return value,
            Poll::Park(blocker) => blocker,
        };
        loop {
            let over = park(&blocker, deadline);
            match self.poll(over) {
                Poll::Ready(value) => return value,
                Poll::Park(_) => continue,
            }
        }
    }

    /// Fetches the value, or arranges for a wake. With `last` it does not arrange anything but leaves.
    fn poll(&self, last: bool) -> Poll<T> {
        let mut state = lock(&self.state);
        match mem::replace(&mut *state, State::Over) {
            State::Done(value) => Poll::Ready(Some(value)),
            State::Over => Poll::Ready(None),
            State::Pending | State::Parked(_) if last => Poll::Ready(None),
            State::Pending => {
                let blocker = Blocker::current();
                *state = State::Parked(blocker.clone());
                Poll::Park(blocker)
            }
            State::Parked(blocker) => {
                *state = State::Parked(blocker.clone());
                Poll::Park(blocker)
            }
        }
    }
}

enum Poll<T> {
    Ready(Option<T>),
    Park(Arc<Blocker>),
}

/// Completes many promises. More than a few are completed by the fan-out coroutine, shortly after this returns;
/// their order is kept.
pub fn complete_all<T: Send + 'static>(results: Vec<(Completer<T>, T)>) {
    let complete = move |results: Vec<(Completer<T>, T)>| {
        for (completer, value) in results {
            completer.complete(value);
        }
    };
    if results.len() <= DIRECT_WAKES_MAX || coroutine::is_coroutine() {
        complete(results);
    } else {
        fan_out(Box::new(move || complete(results)));
    }
}

/// Lets `time` pass: parks a coroutine, blocks any other thread.
pub fn pause(time: Duration) {
    coroutine::sleep(time);
}

/// A number that only grows, and that many can wait for.
///
/// Waiters cost memory until their limit passes; what bounds their number is whatever bounds the callers.
#[derive(Debug)]
pub struct Watch {
    value: AtomicU64,
    /// Entries in `waiters`, so that `publish` need not lock when there are none.
    waiting: AtomicUsize,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    /// In order of what they wait to see exceeded; the second number tells equal ones apart.
    parked: BTreeMap<(u64, u64), Arc<Blocker>>,
    next: u64,
}

impl Watch {
    /// A watch that starts at `value`.
    pub fn new(value: u64) -> Arc<Watch> {
        Arc::new(Watch {
            value: AtomicU64::new(value),
            waiting: AtomicUsize::new(0),
            waiters: Mutex::default(),
        })
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::SeqCst)
    }

    /// Raises the value and wakes whoever waited for it. A value that is not greater changes nothing. Any thread
    /// may call; without waiters it is two atomic operations.
    pub fn publish(&self, value: u64) {
        if self.value.fetch_max(value, Ordering::SeqCst) >= value {
            return;
        }
        // A waiter counts itself first and looks at the value then; so it sees the value or is seen here.
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let ready = {
            let mut waiters = lock(&self.waiters);
            let later = waiters.parked.split_off(&(value, 0));
            let ready = mem::replace(&mut waiters.parked, later);
            self.waiting.fetch_sub(ready.len(), Ordering::SeqCst);
            ready
        };
        unpark_all(ready.into_values().collect());
    }

    /// Raises the value by one at least: for a watch that only says that something happened.
    pub fn bump(&self) {
        self.publish(self.get() + 1);
    }

    /// Parks the caller until the value exceeds `seen` or the limit passes; returns the value at that moment.
    pub fn wait_beyond(&self, seen: u64, limit: Duration) -> u64 {
        if self.get() > seen {
            return self.get();
        }
        let deadline = Instant::now().checked_add(limit);
        let blocker = Blocker::current();
        let key = {
            let mut waiters = lock(&self.waiters);
            let key = (seen, waiters.next);
            waiters.next += 1;
            waiters.parked.insert(key, blocker.clone());
            self.waiting.fetch_add(1, Ordering::SeqCst);
            key
        };
        let mut over = false;
        while self.get() <= seen && !over {
            over = park(&blocker, deadline);
        }
        if lock(&self.waiters).parked.remove(&key).is_some() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        self.get()
    }
}

/// Parks until woken (perhaps for no reason) or until the deadline; true if the deadline has passed. No deadline
/// waits for ever.
fn park(blocker: &Blocker, deadline: Option<Instant>) -> bool {
    let rest = match deadline {
        None => PARK_MAX,
        Some(deadline) => deadline.saturating_duration_since(Instant::now()),
    };
    if rest.is_zero() {
        return true;
    }
    // Timeouts are judged by the clock, so the result is not needed. Cancelled coroutines unwind out of here.
    let _ = blocker.park(Some(rest.clamp(PARK_MIN, PARK_MAX)));
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

fn unpark_all(blockers: Vec<Arc<Blocker>>) {
    let unpark = |blockers: Vec<Arc<Blocker>>| blockers.iter().for_each(|blocker| blocker.unpark());
    if blockers.len() <= DIRECT_WAKES_MAX || coroutine::is_coroutine() {
        unpark(blockers);
    } else {
        fan_out(Box::new(move || unpark(blockers)));
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Runs a job on the fan-out coroutine. Its queue has no bound of its own: what is queued are wakes of parked
/// callers, of which there are as many as there are callers.
fn fan_out(job: Job) {
    static QUEUE: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let queue = QUEUE.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Job>();
        may::go!(move || {
            for job in receiver.iter() {
                job();
            }
        });
        Mutex::new(sender)
    });
    lock(queue).send(job).expect("the fan-out coroutine never ends");
}

/// Nothing panics while one of these locks is held, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Once;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn start_coroutines() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            may::config().set_workers(2).set_stack_size(0x4000).set_pool_capacity(64);
            may::config().set_worker_pin(false);
        });
    }

    /// Runs the same check on an OS thread and on a coroutine.
    fn on_both(check: impl Fn() + Send + Clone + 'static) {
        start_coroutines();
        check();
        let check = check.clone();
        may::go!(check).join().expect("the check holds on a coroutine");
    }

    #[test]
    fn a_value_given_before_or_after_the_wait_arrives() {
        on_both(|| {
            let (completer, waiter) = promise();
            completer.complete(1);
            assert_eq!(waiter.wait(Duration::ZERO), Some(1));

            let (completer, waiter) = promise();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                completer.complete(2);
            });
            assert_eq!(waiter.wait(SOON), Some(2));
        });
    }

    #[test]
    fn the_limit_is_kept_down_to_a_millisecond() {
        on_both(|| {
            for limit in [Duration::ZERO, Duration::from_micros(1), Duration::from_millis(30)] {
                let (completer, waiter) = promise::<()>();
                let start = Instant::now();
                assert_eq!(waiter.wait(limit), None);
                assert!(start.elapsed() >= limit, "{:?} < {limit:?}", start.elapsed());
                assert!(start.elapsed() < limit + Duration::from_secs(1));
                completer.complete(()); // nobody is there any more
            }
        });
    }

    #[test]
    fn a_dropped_completer_ends_the_wait_at_once() {
        on_both(|| {
            let (completer, waiter) = promise::<()>();
            drop(completer);
            assert_eq!(waiter.wait(Duration::MAX), None);

            let (completer, waiter) = promise::<()>();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                drop(completer);
            });
            let start = Instant::now();
            assert_eq!(waiter.wait(Duration::MAX), None);
            assert!(start.elapsed() < SOON);
        });
    }

    #[test]
    fn spurious_wakes_neither_end_nor_prolong_a_wait() {
        on_both(|| {
            let (completer, waiter) = promise::<u32>();
            let state = waiter.state.clone();
            let noise = thread::spawn(move || {
                for _ in 0..50 {
                    if let State::Parked(blocker) = &*lock(&state) {
                        blocker.unpark();
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                completer.complete(7);
            });
            assert_eq!(waiter.wait(SOON), Some(7));

            let (_completer, waiter) = promise::<u32>();
            let state = waiter.state.clone();
            let more = thread::spawn(move || {
                for _ in 0..100 {
                    if let State::Parked(blocker) = &*lock(&state) {
                        blocker.unpark();
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let start = Instant::now();
            assert_eq!(waiter.wait(Duration::from_millis(40)), None);
            assert!(start.elapsed() >= Duration::from_millis(40));
            assert!(start.elapsed() < Duration::from_millis(90), "{:?}", start.elapsed());
            drop((noise, more));
        });
    }

    #[test]
    fn a_waiter_may_be_made_elsewhere_than_it_waits() {
        start_coroutines();
        // Made on an OS thread, waited for on a coroutine: the coroutine's thread must stay free.
        let pairs: Vec<_> = (0..8).map(|_| promise::<usize>()).collect();
        let (completers, waiters): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let handles: Vec<_> = waiters.into_iter().map(|waiter| may::go!(move || waiter.wait(SOON))).collect();
        // Runs although eight coroutines wait on two threads.
        may::go!(|| ()).join().expect("a free worker");
        complete_all(completers.into_iter().zip(0..).collect());
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.join().expect("no panic"), Some(n));
        }
    }

    #[test]
    fn a_watch_only_grows() {
        let watch = Watch::new(5);
        watch.publish(3);
        assert_eq!(watch.get(), 5);
        watch.publish(9);
        assert_eq!(watch.wait_beyond(8, SOON), 9);
        assert_eq!(watch.wait_beyond(9, Duration::from_millis(5)), 9);
    }

    #[test]
    fn a_watch_wakes_those_whose_number_is_passed_and_no_others() {
        start_coroutines();
        let watch = Watch::new(0);
        let handles: Vec<_> = (0..200u64)
            .map(|n| {
                let watch = watch.clone();
                may::go!(move || watch.wait_beyond(n, SOON))
            })
            .collect();
        while watch.waiting.load(Ordering::SeqCst) < 200 {
            thread::sleep(Duration::from_millis(1));
        }
        watch.publish(100);
        for _ in 0..500 {
            if handles[..100].iter().all(|handle| handle.is_done()) {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        assert!(handles[..100].iter().all(|handle| handle.is_done()));
        assert!(handles[100..].iter().all(|handle| !handle.is_done()));
        assert_eq!(watch.waiting.load(Ordering::SeqCst), 100);
        watch.publish(1000);
        for (n, handle) in handles.into_iter().enumerate() {
            assert!(handle.join().expect("no panic") > n as u64);
        }
        assert_eq!(watch.waiting.load(Ordering::SeqCst), 0);
        assert!(lock(&watch.waiters).parked.is_empty());
    }

    #[test]
    fn a_watch_that_times_out_leaves_nothing_behind() {
        on_both(|| {
            let watch = Watch::new(1);
            assert_eq!(watch.wait_beyond(1, Duration::from_millis(10)), 1);
            assert_eq!(watch.waiting.load(Ordering::SeqCst), 0);
            assert!(lock(&watch.waiters).parked.is_empty());
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever the delays on both sides and wherever the waiter runs, a value that was given well before the
        /// limit arrives, one that comes well after it does not, and no wait is longer than its limit.
        #[test]
        fn a_promise_keeps_its_time(give_ms in 0u64..12, limit_ms in 0u64..12, on_coroutine: bool, give: bool) {
            start_coroutines();
            let (completer, waiter) = promise::<u64>();
            let start = Instant::now();
            let giver = thread::spawn(move || {
                thread::sleep(Duration::from_millis(give_ms));
                if give { completer.complete(give_ms) }
            });
            let wait = move || waiter.wait(Duration::from_millis(limit_ms));
            let got = if on_coroutine { may::go!(wait).join().expect("no panic") } else { wait() };
            let took = start.elapsed();
            match got {
                Some(value) => prop_assert!(give && value == give_ms),
                None => prop_assert!(!give || limit_ms <= give_ms + 5 || took > Duration::from_millis(limit_ms)),
            }
            prop_assert!(took < Duration::from_millis(limit_ms + 500));
            giver.join().expect("no panic");
        }

        /// Publishers race with waiters: every waiter sees a number beyond its own.
        #[test]
        fn no_wake_is_lost(numbers in prop::collection::vec(1u64..50, 1..40)) {
            start_coroutines();
            let watch = Watch::new(0);
            let top = *numbers.iter().max().expect("not empty");
            let waiters: Vec<_> = (0..top).map(|n| {
                let watch = watch.clone();
                may::go!(move || (n, watch.wait_beyond(n, SOON)))
            }).collect();
            let publisher = { let watch = watch.clone(); thread::spawn(move || numbers.iter().for_each(|n| watch.publish(*n))) };
            for waiter in waiters {
                let (n, seen) = waiter.join().expect("no panic");
                prop_assert!(seen > n);
            }
            publisher.join().expect("no panic");
            prop_assert_eq!(watch.get(), top);
        }
    }
}
