//! What clients did and saw, and whether one copy of every book, changed by one write at a time, could have told them
//! all that (linearizability).
//!
//! The store names the order itself: every write has a version, the log's index of it, and every read shows the
//! version of the write that changed the book last. So the order that explains the history is known, and all that is
//! left to check is that it keeps to the clock: for any two operations on a book of which one ended before the other
//! began, the later one's version is not below the earlier one's, and above it if the later one is a write. Sorted by
//! version, a write before the reads that show it, the operations then are a sequential execution that agrees with
//! the clock; and where a pair is the wrong way round, no such execution has these versions. On top of that the
//! contents must agree: a read shows what its write left, and a write leaves what the write before it left, changed by
//! what it asked for.
//!
//! Pure: instants and answers in, violations out.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Instant;

/// What is remembered of a book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Copies in stock.
    pub stock: u64,
    /// Price, in cents.
    pub cents: u64,
}

/// The daemon that was asked, by its place in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    /// A front end.
    Front(usize),
    /// A catalog replica.
    Catalog(usize),
}

/// How a read was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// From a front end's cache.
    Hit,
    /// By a front end, from the end of a write that was under way.
    Waited,
    /// By a front end, from a replica.
    Passed,
    /// By a catalog replica.
    Replica,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The book.
    Read(From),
    /// Copies of it.
    Buy(u64),
    /// Another stock, another price in cents, or both.
    Update {
        /// The stock to set.
        stock: Option<u64>,
        /// The price to set.
        cents: Option<u64>,
    },
}

/// An operation whose outcome is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// The book.
    pub book: u64,
    /// What was asked for.
    pub kind: Kind,
    /// Who was asked (last).
    pub asked: Asked,
    /// Before it was sent (first).
    pub start: Instant,
    /// When its answer had come.
    pub end: Instant,
    /// Log index of the write, or of the write that a read shows.
    pub version: u64,
    /// The book after the write, or as the read shows it.
    pub content: Content,
}

/// A history: every write that was ever made to the books since they were as in `before`, and any number of reads.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The books before all operations, with the version of each.
    pub before: BTreeMap<u64, (u64, Content)>,
    /// The operations, in any order.
    pub operations: Vec<Operation>,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A read shows less than a write that was acknowledged before it began.
    Stale,
    /// A read shows less than another read that ended before it began.
    Inverted,
    /// A read shows a write that began only after the read had ended.
    Future,
    /// A write began when something newer than it was known already.
    Late,
    /// Two writes have one version.
    Twice,
    /// A read shows a version that no write has.
    Nobodys,
    /// A read shows something else than its write left.
    Differs,
    /// A write left something else than the write before it left, changed by what it asked for.
    Breaks,
}

/// A violation of linearizability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong.
    pub fault: Fault,
    /// With which operation.
    pub operation: Operation,
    /// The operation that shows it, if one does.
    pub other: Option<Operation>,
}

impl Kind {
    /// Whether it reads.
    pub fn is_read(self) -> bool {
        matches!(self, Kind::Read(_))
    }
}

impl History {
    /// Everything that is wrong, by book.
    pub fn violations(&self) -> Vec<Violation> {
        let mut books: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            books.entry(operation.book).or_default().push(operation);
        }
        let mut violations = Vec::new();
        for (book, operations) in &mut books {
            let before = self.before.get(book).copied();
            check_writes(before, operations, &mut violations);
            check_contents(before, operations, &mut violations);
            check_order(before, operations, &mut violations);
        }
        violations
    }
}

/// By version: no version twice, and every write follows from the one before it.
fn check_writes(before: Option<(u64, Content)>, operations: &[&Operation], found: &mut Vec<Violation>) {
    let mut writes: Vec<&Operation> =
        operations.iter().copied().filter(|operation| !operation.kind.is_read()).collect();
    writes.sort_by_key(|write| write.version);
    let mut previous = before.map(|(version, content)| (version, content, None));
    for write in writes {
        if let Some((version, content, other)) = previous {
            if version >= write.version {
                found.push(Violation { fault: Fault::Twice, operation: *write, other });
            } else if follows(content, write.kind) != Some(write.content) {
                found.push(Violation { fault: Fault::Breaks, operation: *write, other });
            }
        }
        previous = Some((write.version, write.content, Some(*write)));
    }
}

/// The content after a write; `None` if it cannot be done.
fn follows(before: Content, kind: Kind) -> Option<Content> {
    match kind {
        Kind::Read(_) => Some(before),
        Kind::Buy(copies) => Some(Content { stock: before.stock.checked_sub(copies)?, ..before }),
        Kind::Update { stock, cents } => {
            Some(Content { stock: stock.unwrap_or(before.stock), cents: cents.unwrap_or(before.cents) })
        }
    }
}

/// Every read shows a write that there is, that had begun, and what it left.
fn check_contents(before: Option<(u64, Content)>, operations: &[&Operation], found: &mut Vec<Violation>) {
    let writes = operations.iter().copied().filter(|operation| !operation.kind.is_read());
    let by_version: HashMap<u64, &Operation> = writes.map(|write| (write.version, write)).collect();
    for read in operations.iter().filter(|operation| operation.kind.is_read()) {
        let write = by_version.get(&read.version).copied();
        let left = match (write, before) {
            (Some(write), _) => Some(write.content),
            (None, Some((version, content))) if version == read.version => Some(content),
            (None, _) => None,
        };
        let fault = match (left, write) {
            (None, _) => Fault::Nobodys,
            (Some(_), Some(write)) if write.start > read.end => Fault::Future,
            (Some(left), _) if left != read.content => Fault::Differs,
            _ => continue,
        };
        found.push(Violation { fault, operation: **read, other: write.copied() });
    }
}

/// By the clock: whatever ended before an operation began is not newer than it.
fn check_order(before: Option<(u64, Content)>, operations: &mut [&Operation], found: &mut Vec<Violation>) {
    let mut ended: Vec<&Operation> = operations.to_vec();
    ended.sort_by_key(|operation| operation.end);
    operations.sort_by_key(|operation| operation.start);
    let mut ended = ended.into_iter().peekable();
    let mut newest: Option<&Operation> = None;
    for operation in operations.iter() {
        while let Some(done) = ended.next_if(|done| done.end < operation.start) {
            // Of a write and the reads that show it, the write is the one to name.
            let rank = |operation: &Operation| (operation.version, !operation.kind.is_read());
            if newest.is_none_or(|newest| rank(newest) < rank(done)) {
                newest = Some(done);
            }
        }
        let known = newest.map(|newest| newest.version).max(before.map(|(version, _)| version));
        let is_read = operation.kind.is_read();
        let fault = match known {
            Some(known) if is_read && operation.version < known => match newest {
                Some(newest) if newest.kind.is_read() => Fault::Inverted,
                _ => Fault::Stale,
            },
            Some(known) if !is_read && operation.version <= known => Fault::Late,
            _ => continue,
        };
        found.push(Violation { fault, operation: **operation, other: newest.copied() });
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |operation: &Operation| {
            let Operation { book, kind, asked, version, content, .. } = operation;
            format!(
                "{kind:?} of book {book} at {asked:?}: version {version}, stock {}, {} cents",
                content.stock, content.cents
            )
        };
        write!(f, "{:?}: {}", self.fault, shown(&self.operation))?;
        let Some(other) = &self.other else { return Ok(()) };
        let ms = |from: Instant, to: Instant| match to.checked_duration_since(from) {
            Some(later) => later.as_secs_f64() * 1e3,
            None => -(from.duration_since(to).as_secs_f64() * 1e3),
        };
        write!(
            f,
            "; it took {:.3} ms; {} began {:.3} ms and ended {:.3} ms after it began",
            ms(self.operation.start, self.operation.end),
            shown(other),
            ms(self.operation.start, other.start),
            ms(self.operation.start, other.end),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BEFORE: Content = Content { stock: 10, cents: 500 };

    /// Operations on one book, with their times in ms, that began at version 1 with 10 copies.
    struct Told {
        zero: Instant,
        history: History,
    }

    impl Told {
        fn new() -> Told {
            let before = BTreeMap::from([(7, (1, BEFORE))]);
            Told { zero: Instant::now(), history: History { before, operations: Vec::new() } }
        }

        fn with(mut self, kind: Kind, times: (u64, u64), version: u64, stock: u64) -> Told {
            let at = |ms| self.zero + Duration::from_millis(ms);
            self.history.operations.push(Operation {
                book: 7,
                kind,
                asked: Asked::Front(0),
                start: at(times.0),
                end: at(times.1),
                version,
                content: Content { stock, ..BEFORE },
            });
            self
        }

        fn read(self, times: (u64, u64), version: u64, stock: u64) -> Told {
            self.with(Kind::Read(From::Hit), times, version, stock)
        }

        fn buy(self, times: (u64, u64), version: u64, stock: u64) -> Told {
            self.with(Kind::Buy(1), times, version, stock)
        }

        fn faults(&self) -> Vec<Fault> {
            self.history.violations().iter().map(|violation| violation.fault).collect()
        }
    }

    #[test]
    fn what_one_copy_could_have_told_is_right() {
        let told = Told::new()
            .read((0, 5), 1, 10)
            .buy((10, 30), 4, 9)
            // While the write is under way a read may show either, in this order.
            .read((12, 15), 1, 10)
            .read((16, 18), 4, 9)
            .read((11, 40), 1, 10)
            .buy((20, 60), 6, 8)
            .read((35, 70), 6, 8)
            .with(Kind::Update { stock: Some(50), cents: None }, (80, 90), 9, 50)
            .read((91, 92), 9, 50);
        assert_eq!(told.faults(), []);
    }

    #[test]
    fn a_stale_read_is_found() {
        let told = Told::new().buy((10, 30), 4, 9).read((31, 32), 1, 10);
        assert_eq!(told.faults(), [Fault::Stale]);
        assert!(told.history.violations()[0].to_string().contains("began -21.000 ms"));
    }

    #[test]
    fn a_read_of_what_was_there_before_all_that_is_stale_already() {
        let mut told = Told::new().read((0, 1), 1, 10);
        told.history.before.insert(7, (2, BEFORE));
        assert_eq!(told.faults(), [Fault::Nobodys, Fault::Stale]);
    }

    #[test]
    fn a_new_value_and_then_the_old_one_are_found() {
        let told = Told::new().buy((10, 60), 4, 9).read((20, 25), 4, 9).read((26, 28), 1, 10);
        assert_eq!(told.faults(), [Fault::Inverted]);
    }

    #[test]
    fn a_read_from_the_future_is_found() {
        let told = Told::new().read((0, 9), 4, 9).buy((10, 20), 4, 9);
        assert_eq!(told.faults(), [Fault::Future, Fault::Late]);
    }

    #[test]
    fn a_write_behind_what_is_known_is_found() {
        let told = Told::new().buy((10, 20), 4, 8).buy((21, 30), 3, 9);
        assert_eq!(told.faults(), [Fault::Late]);
    }

    #[test]
    fn wrong_contents_are_found() {
        let told = Told::new().buy((10, 20), 4, 9).read((21, 22), 4, 8);
        assert_eq!(told.faults(), [Fault::Differs]);
        let told = Told::new().read((0, 1), 1, 11);
        assert_eq!(told.faults(), [Fault::Differs]);
        let told = Told::new().read((0, 1), 3, 10);
        assert_eq!(told.faults(), [Fault::Nobodys]);
    }

    #[test]
    fn a_lost_write_and_one_that_counts_twice_are_found() {
        let told = Told::new().buy((10, 20), 4, 9).buy((30, 40), 5, 9);
        assert_eq!(told.faults(), [Fault::Breaks]);
        let told = Told::new().buy((10, 20), 4, 9).buy((11, 40), 4, 9);
        assert_eq!(told.faults(), [Fault::Twice]);
    }
}
