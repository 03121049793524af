//! An independent check of linearizability: of one book per run, all that was done to it and a sample of what was read, without
//! regard to log indexes; a search for an order of all operations that explains every answer and keeps to the clock.
//!
//! The search is that of Wing and Gong (1993) with Lowe's memory of configurations that led nowhere (2017). It is exact
//! within its budget; beyond it, it says nothing.

use std::collections::HashSet;
use std::time::Duration;

use api::catalog::{Book, Outcome, Refusal, Write, WriteResult};

use crate::reader::How;

/// Most operations of one run that are searched.
const OPERATIONS_MAX: usize = 240;
/// Most configurations that are looked at.
const BUDGET: usize = 200_000;

/// What is remembered of the book: stock and price.
type State = (u64, u64);

/// What was done, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Read(State),
    /// So many were sold at this price, and so many were left.
    Sold(u64, u64, u64),
    /// So many were wanted, so many were there.
    TooFew(u64, u64),
    /// Stock and price were set, where there is a number; the book after it.
    Set(Option<u64>, Option<u64>, State),
}

/// An operation on a book, from before it was asked for until its answer had come.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    book: u64,
    began: Duration,
    ended: Duration,
    action: Action,
}

impl Operation {
    /// A write that was decided; nothing if it leaves stock and price as they are.
    pub fn write(write: &Write, result: &WriteResult, began: Duration, ended: Duration) -> Option<Operation> {
        let (book, action) = match (write, &result.outcome) {
            (_, Outcome::Sold(sold)) => {
                (sold.book, Action::Sold(sold.quantity, sold.price_cents, sold.stock))
            }
            (Write::Sell(sell), Outcome::Refused(Refusal::OutOfStock { available, .. })) => {
                (sell.book, Action::TooFew(sell.quantity, *available))
            }
            (Write::Update(update), Outcome::Updated { book }) => {
                (book.id, Action::Set(update.stock, update.cost_cents, state(book)))
            }
            _ => return None,
        };
        Some(Operation { book, began, ended, action })
    }

    /// A read of a book, which showed its stock and its price in cents.
    pub fn read(book: u64, (stock, cents): (u64, u64), began: Duration, ended: Duration) -> Operation {
        Operation { book, began, ended, action: Action::Read((stock, cents)) }
    }
}

fn state(book: &Book) -> State {
    (book.stock, book.cost_cents)
}

/// The state after an action, if it can have had this outcome in `before`.
fn after(before: State, action: Action) -> Option<State> {
    let (stock, cents) = before;
    match action {
        Action::Read(seen) => (seen == before).then_some(before),
        Action::Sold(quantity, price, left) => {
            (price == cents && stock.checked_sub(quantity) == Some(left)).then_some((left, cents))
        }
        Action::TooFew(wanted, there) => (there == stock && wanted > stock).then_some(before),
        Action::Set(new_stock, new_cents, seen) => {
            let now = (new_stock.unwrap_or(stock), new_cents.unwrap_or(cents));
            (seen == now).then_some(now)
        }
    }
}

/// The operations on the sampled book.
#[derive(Debug, Default)]
pub struct Samples {
    /// The book, 0 for none.
    book: u64,
    first: State,
    operations: Vec<Operation>,
    /// Reads that a front end answered by itself are left out: nothing is promised of them.
    without_hits: bool,
    /// There were too many to know all writes.
    overflowed: bool,
}

impl Samples {
    /// Of this book, with its stock and price at the start.
    pub fn of(book: u64, stock: u64, cents: u64) -> Samples {
        Samples { book, first: (stock, cents), ..Samples::default() }
    }

    /// The same without reads that a front end answers by itself, where nothing is promised of those.
    pub fn without_hits(self, without_hits: bool) -> Samples {
        Samples { without_hits, ..self }
    }

    /// Whether a read of this book, answered so, may be added: reads can be left out, writes cannot.
    pub fn wants_read(&self, book: u64, how: How) -> bool {
        let is_promised = how != How::Hit || !self.without_hits;
        is_promised && book == self.book && self.operations.len() < OPERATIONS_MAX / 2
    }

    /// An operation has ended.
    pub fn add(&mut self, operation: Operation) {
        if operation.book != self.book {
            return;
        }
        if self.operations.len() < OPERATIONS_MAX {
            self.operations.push(operation);
        } else {
            self.overflowed = true;
        }
    }

    /// What is wrong, if something certainly is.
    pub fn complaint(&self) -> Option<String> {
        if self.overflowed || self.explained() {
            return None;
        }
        let mut operations = self.operations.clone();
        operations.sort_by_key(|operation| operation.began);
        let told = operations
            .iter()
            .map(|Operation { began, ended, action, .. }| format!("{began:?}..{ended:?} {action:?}"));
        let told: Vec<String> = told.collect();
        Some(format!("no order of these explains what was told of book {}: {}", self.book, told.join("; ")))
    }

    /// Whether an order of all operations explains them, or the budget ran out.
    fn explained(&self) -> bool {
        let mut calls: Vec<(Duration, bool, usize)> = Vec::new();
        for (at, operation) in self.operations.iter().enumerate() {
            calls.push((operation.began, false, at));
            calls.push((operation.ended, true, at));
        }
        // At the same moment, beginnings come first: such operations overlap.
        calls.sort_unstable();
        let mut list = List::new(calls.len());
        let mut done = vec![0u64; self.operations.len().div_ceil(64)];
        let mut state = self.first;
        let mut dead_ends: HashSet<(Vec<u64>, State)> = HashSet::new();
        let mut path: Vec<(usize, State)> = Vec::new();
        let ends: Vec<usize> = (0..self.operations.len())
            .map(|at| calls.iter().position(|(_, end, of)| *end && *of == at).expect("every operation ends"))
            .collect();
        let mut at = list.first();
        while let Some(place) = at {
            let (_, is_end, operation) = calls[place];
            if is_end {
                // This one should have come before: the last choice was wrong.
                let Some((chosen, before)) = path.pop() else { return false };
                let (_, _, of) = calls[chosen];
                done[of / 64] &= !(1 << (of % 64));
                state = before;
                list.put_back(ends[of]);
                list.put_back(chosen);
                at = list.after(chosen);
                continue;
            }
            let next = after(state, self.operations[operation].action);
            let fresh = next.is_some_and(|next| {
                done[operation / 64] |= 1 << (operation % 64);
                let fresh = dead_ends.insert((done.clone(), next));
                if !fresh {
                    done[operation / 64] &= !(1 << (operation % 64));
                }
                fresh
            });
            match next.filter(|_| fresh) {
                Some(next) => {
                    path.push((place, state));
                    state = next;
                    list.take(place);
                    list.take(ends[operation]);
                    at = list.first();
                }
                None => at = list.after(place),
            }
            if dead_ends.len() >= BUDGET {
                return true;
            }
        }
        true
    }
}

/// A list of places from which places are taken and put back in reverse order.
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl List {
    /// Places 0 to `len`; 0 in the vectors stands for the head, place n is at n + 1.
    fn new(len: usize) -> List {
        List {
            next: (0..=len).map(|at| if at == len { 0 } else { at + 1 }).collect(),
            previous: (0..=len).map(|at| if at == 0 { len } else { at - 1 }).collect(),
        }
    }

    fn first(&self) -> Option<usize> {
        self.next[0].checked_sub(1)
    }

    fn after(&self, place: usize) -> Option<usize> {
        self.next[place + 1].checked_sub(1)
    }

    fn take(&mut self, place: usize) {
        let (before, after) = (self.previous[place + 1], self.next[place + 1]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    fn put_back(&mut self, place: usize) {
        let (before, after) = (self.previous[place + 1], self.next[place + 1]);
        self.next[before] = place + 1;
        self.previous[after] = place + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(operations: &[(u64, u64, Action)]) -> Samples {
        let mut samples = Samples::of(1, 5, 100);
        let ms = Duration::from_millis;
        for (began, ended, action) in operations {
            samples.add(Operation { book: 1, began: ms(*began), ended: ms(*ended), action: *action });
        }
        samples
    }

    #[test]
    fn what_nothing_is_promised_of_is_left_out() {
        let all = Samples::of(1, 5, 100);
        assert!(all.wants_read(1, How::Hit) && !all.wants_read(2, How::Fill));
        let some = all.without_hits(true);
        assert!(!some.wants_read(1, How::Hit) && some.wants_read(1, How::Fill));
    }

    #[test]
    fn overlapping_operations_may_be_in_any_order() {
        let fine = samples(&[
            (0, 10, Action::Sold(1, 100, 3)),
            (0, 10, Action::Sold(1, 100, 4)),
            (5, 20, Action::Read((4, 100))),
            (11, 20, Action::TooFew(4, 3)),
        ]);
        assert_eq!(fine.complaint(), None);
    }

    #[test]
    fn what_ended_before_is_before() {
        let stale = samples(&[(0, 10, Action::Sold(1, 100, 4)), (11, 20, Action::Read((5, 100)))]);
        assert!(stale.complaint().is_some());
        let inverted = samples(&[
            (0, 100, Action::Sold(1, 100, 4)),
            (10, 20, Action::Read((4, 100))),
            (21, 30, Action::Read((5, 100))),
        ]);
        assert!(inverted.complaint().is_some());
    }

    #[test]
    fn what_cannot_have_come_of_it_is_found() {
        assert!(samples(&[(0, 1, Action::Sold(6, 100, 0))]).complaint().is_some());
        assert!(samples(&[(0, 1, Action::Set(Some(3), None, (3, 200)))]).complaint().is_some());
        assert_eq!(samples(&[(0, 1, Action::Set(Some(3), None, (3, 100)))]).complaint(), None);
    }
}
