//! A load of buyers who do not give up: each sends the same key until it knows what became of it. And who check: what
//! they read afterwards must include what they bought.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Answer, Client};
use crate::store::new_key;
use crate::wait;

/// Pause before a buyer sends its key again.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// After every so many sales a buyer looks whether the store knows of it.
const READ_EVERY: usize = 4;
/// Longest time in which a buyer learns what became of its key.
const PATIENCE: Duration = Duration::from_secs(60);

/// A sale that the store has acknowledged.
#[derive(Debug, Clone)]
pub struct Bought {
    /// The idempotency key.
    pub key: String,
    /// The order number.
    pub order: u64,
    /// The book.
    pub book: u64,
    /// Copies of it.
    pub quantity: u64,
    /// Copies that were left.
    pub stock: u64,
    /// The catalog's log index of the sale.
    pub index: u64,
    /// When the answer came.
    pub at: Instant,
}

/// Buyers at work. Each buys one copy at a time; the books take turns.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    buyers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Answers that told nothing, and had to be asked for again.
    retries: AtomicUsize,
    bought: Mutex<Vec<Bought>>,
}

impl Load {
    /// Starts `buyers` threads that buy these books at this front end. There must be more copies than they can buy.
    pub fn start(front: &Client, buyers: usize, books: &[u64]) -> Load {
        let shared = Arc::new(Shared::default());
        let buyer = |number: usize| {
            let (shared, front, books) = (shared.clone(), front.clone(), books.to_vec());
            std::thread::spawn(move || {
                for turn in number.. {
                    if shared.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let bought = buy(&front, books[turn % books.len()], &shared.retries);
                    if turn % READ_EVERY == 0 {
                        read(&front, &bought);
                    }
                    shared.bought.lock().unwrap_or_else(PoisonError::into_inner).push(bought);
                }
            })
        };
        let buyers = (0..buyers).map(buyer).collect();
        Load { shared, buyers }
    }

    /// Sales acknowledged so far.
    pub fn count(&self) -> usize {
        self.shared.bought.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until this many more sales are acknowledged.
    ///
    /// # Panics
    /// After `limit`, or if a buyer met an answer that it should not have.
    pub fn wait_for_more(&self, sales: usize, limit: Duration) {
        let wanted = self.count() + sales;
        wait::until(limit, &format!("{sales} more sales"), || {
            assert!(!self.buyers.iter().any(JoinHandle::is_finished), "a buyer has given up");
            match self.count() {
                count if count >= wanted => Ok(()),
                count => Err(format!("{count} sales are acknowledged, {wanted} are wanted")),
            }
        });
    }

    /// Stops when every key in hand is decided, and returns all sales in the order of their answers, and how often
    /// an answer told nothing.
    ///
    /// # Panics
    /// If a buyer met an answer that it should not have.
    pub fn stop(self) -> (Vec<Bought>, usize) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for buyer in self.buyers {
            buyer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        let bought = std::mem::take(&mut *self.shared.bought.lock().unwrap_or_else(PoisonError::into_inner));
        (bought, self.shared.retries.load(Ordering::Relaxed))
    }
}

/// Buys one copy, however often it takes.
fn buy(front: &Client, book: u64, retries: &AtomicUsize) -> Bought {
    let key = new_key("load");
    let start = Instant::now();
    loop {
        let why = match front.buy(book, 1, &key) {
            Ok(answer) if answer.status == 200 => return bought(&answer, &key),
            Ok(answer) if matches!(answer.status, 503 | 504) => answer.to_string(),
            Ok(answer) => panic!("a buyer of a book in stock got {answer}"),
            Err(why) => why,
        };
        assert!(start.elapsed() < PATIENCE, "key {key} is not decided after {PATIENCE:?}: {why}");
        retries.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// Reads the book and the order just after the sale. The store may fail to answer, but not with an older state.
fn read(front: &Client, sale: &Bought) {
    let ask = |path: &str| match front.send("GET", path, &[], None) {
        Ok(answer) if answer.status != 503 => Some(answer.expect(200)),
        Ok(_) | Err(_) => None,
    };
    if let Some(book) = ask(&format!("/lookup/{}", sale.book)) {
        let index = book.header("quire-index").and_then(|index| index.parse::<u64>().ok());
        assert!(index >= Some(sale.index), "read at {index:?} after {sale:?}: {book}");
        assert!(book.number("stock") <= sale.stock, "{book} after {sale:?}");
    }
    if let Some(order) = ask(&format!("/orders/{}", sale.order)) {
        assert_eq!(order.field("key"), sale.key, "{order} after {sale:?}");
    }
}

/// The sale that an answer acknowledges.
///
/// # Panics
/// If the answer names another key, or lacks something.
pub fn bought(answer: &Answer, key: &str) -> Bought {
    assert_eq!(answer.field("key"), key, "{answer}");
    let number = |name| answer.number(name);
    Bought {
        key: key.to_owned(),
        order: number("order"),
        book: number("book"),
        quantity: number("quantity"),
        stock: number("stock"),
        index: number("index"),
        at: Instant::now(),
    }
}
