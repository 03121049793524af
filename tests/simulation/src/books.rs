//! What is in the simulated shop, and what readers ask it for.

use catalog::machine::{Limits, Seed, Setup};
use frontend::cache::Target;

/// Books at the start; their numbers are 1 to here.
pub const BOOKS: u64 = 12;
/// Books that everybody wants: 1 to here.
pub const HOT: u64 = 2;
/// Greatest number that anybody asks for. Those above `BOOKS` are of no book until somebody adds one.
pub const BOOK_MAX: u64 = 40;
/// Topics, by slug. The last ones have no book at the start.
pub const TOPICS: [&str; 5] = ["distributed-systems", "graduate-school", "spring", "rare", "empty"];
/// Topics that have books at the start.
const FIRST_TOPICS: u64 = 3;
/// Copies of each book at the start: few enough to run out.
pub const STOCK: u64 = 60;

/// Something to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// A book by number.
    Book(u64),
    /// The titles of a topic.
    Topic(usize),
    /// The first titles of a topic after `M`.
    Part(usize),
    /// The list of topics.
    Topics,
}

impl Wanted {
    /// Everything there is to ask for.
    pub fn all() -> impl Iterator<Item = Wanted> {
        let books = (1..=BOOK_MAX).map(Wanted::Book);
        let topics = 0..TOPICS.len();
        books.chain(topics.clone().map(Wanted::Topic)).chain(topics.map(Wanted::Part)).chain([Wanted::Topics])
    }

    /// How many there are.
    pub const COUNT: usize = BOOK_MAX as usize + 2 * TOPICS.len() + 1;

    /// Its place among all, from 0.
    pub fn number(self) -> usize {
        match self {
            Wanted::Book(id) => id as usize - 1,
            Wanted::Topic(topic) => BOOK_MAX as usize + topic,
            Wanted::Part(topic) => BOOK_MAX as usize + TOPICS.len() + topic,
            Wanted::Topics => Wanted::COUNT - 1,
        }
    }

    /// As the cache names it.
    pub fn target(self) -> Target<'static> {
        match self {
            Wanted::Book(id) => Target::Book(id),
            Wanted::Topic(topic) => Target::Page { slug: TOPICS[topic], after: None, limit: 100 },
            Wanted::Part(topic) => Target::Page { slug: TOPICS[topic], after: Some("M"), limit: 2 },
            Wanted::Topics => Target::Topics,
        }
    }
}

/// The title of a book: a letter, so that titles spread over pages, and a number.
pub fn title(number: u64) -> String {
    format!("{} {number}", char::from(b'A' + (number * 7 % 26) as u8))
}

/// The price of a book at the start, in cents.
pub fn cost_cents(id: u64) -> u64 {
    id * 100
}

/// How the catalog is set up.
pub fn setup() -> Setup {
    let books = (1..=BOOKS).map(|id| Seed {
        title: title(id),
        topic: TOPICS[(id % FIRST_TOPICS) as usize].replace('-', " "),
        stock: STOCK,
        cost_cents: cost_cents(id),
    });
    Setup { limits: Limits::default(), books: books.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_in_order() {
        assert!(Wanted::all().map(Wanted::number).eq(0..Wanted::COUNT));
    }
}
