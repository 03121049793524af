//! The clients: readers, buyers, people who change books and people who add them.
//!
//! Each does one thing at a time. A write whose outcome is unknown is sent again, with the same key, until it is
//! decided. Readers know nothing of replicas; they have a front end.

use std::time::Duration;

use api::catalog::{Create, REQUEST_LIFE_MS, Sell, Update, Write};

use super::books::{BOOK_MAX, BOOKS, HOT, TOPICS, Wanted, title};
use super::network::Place;
use super::outside::{Answer, CATALOGS, Outside};
use super::random::Random;

/// Pause of a client whose front end is gone, or whose write must be sent again.
const AGAIN: Duration = Duration::from_millis(5);
/// Latest log time at which a write may be applied, in ms: no run is that long.
const NOT_AFTER_MS: u64 = REQUEST_LIFE_MS;

/// What somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Reader,
    /// Buys, now and then several books at once.
    Buyer,
    /// Sets stocks and prices.
    Keeper,
    /// Gives books other titles and topics.
    Renamer,
    /// Adds books.
    Author,
}

/// Who there is at each front end, and how long they think, about.
pub const CROWD: [(Kind, usize, Duration); 5] = [
    (Kind::Reader, 12, Duration::from_micros(1_200)),
    (Kind::Buyer, 3, Duration::from_millis(160)),
    (Kind::Keeper, 1, Duration::from_millis(180)),
    (Kind::Renamer, 1, Duration::from_millis(700)),
    (Kind::Author, 1, Duration::from_millis(600)),
];

/// What a client does next.
pub enum Wish {
    /// Read this.
    Read(Wanted),
    /// Send these writes to that replica, as this attempt.
    Write(u64, Place, Vec<Write>),
    /// Nothing for so long.
    Wait(Duration),
}

/// A client.
pub struct Client {
    number: usize,
    kind: Kind,
    /// Its front end, from 0.
    pub home: usize,
    pause: Duration,
    /// What it is at, and since when.
    busy: Option<(Duration, Option<Vec<Write>>)>,
    attempt: u64,
    writes: u64,
    primary: Place,
}

impl Client {
    /// A client at rest.
    pub fn new(number: usize, kind: Kind, home: usize, pause: Duration) -> Client {
        Client { number, kind, home, pause, busy: None, attempt: 0, writes: 0, primary: number % CATALOGS }
    }

    /// Since when it has been at what it is at.
    pub fn busy_since(&self) -> Option<Duration> {
        self.busy.as_ref().map(|(since, _)| *since)
    }

    /// What it is, for complaints.
    pub fn name(&self) -> String {
        format!("{:?} {}", self.kind, self.number)
    }

    /// What it does now. `closing`: it begins nothing new.
    pub fn wish(&mut self, closing: bool, out: &mut Outside) -> Option<Wish> {
        let (kind, now) = (self.kind, out.now);
        if let Some((_, Some(writes))) = &self.busy {
            self.attempt += 1;
            return Some(Wish::Write(self.attempt, self.primary, writes.clone()));
        }
        if closing {
            return None;
        }
        if kind == Kind::Reader {
            self.busy = Some((now, None));
            return Some(Wish::Read(wanted(&mut out.random)));
        }
        let count = if kind == Kind::Buyer { [1, 1, 1, 3][out.random.index(4)] } else { 1 };
        let writes: Option<Vec<Write>> = (0..count).map(|_| self.write(&mut out.random)).collect();
        let Some(writes) = writes else { return Some(Wish::Wait(self.pause)) };
        self.attempt += 1;
        self.busy = Some((now, Some(writes.clone())));
        Some(Wish::Write(self.attempt, self.primary, writes))
    }

    /// Its read has ended. Returns how long it thinks.
    pub fn read_done(&mut self, answered: bool, out: &mut Outside) -> Duration {
        self.busy = None;
        if answered { out.random.around(self.pause) } else { AGAIN }
    }

    /// A write has ended, for good or not. Returns how long it thinks, or `None` if that was an earlier attempt.
    pub fn write_done(&mut self, attempt: u64, answer: &Answer, out: &mut Outside) -> Option<Duration> {
        let (_, writes) = self.busy.as_ref().filter(|_| attempt == self.attempt)?;
        match answer {
            Answer::Written(results) => {
                for (write, result) in writes.iter().flatten().zip(results) {
                    out.writes.told(key(write), result, out.now);
                }
                self.busy = None;
                Some(out.random.around(self.pause))
            }
            Answer::Elsewhere(Some(primary)) => {
                self.primary = *primary;
                Some(AGAIN)
            }
            _ => {
                self.primary = (self.primary + 1) % CATALOGS;
                Some(AGAIN)
            }
        }
    }

    /// Something new to write, under a key of its own. `None` if there is nothing to do.
    fn write(&mut self, random: &mut Random) -> Option<Write> {
        self.writes += 1;
        let key = format!("{}-{}", self.number, self.writes);
        let book = some_book(random);
        let not_after_ms = NOT_AFTER_MS;
        let topic = |random: &mut Random| TOPICS[random.index(TOPICS.len() - 1)].replace('-', " ");
        let nothing = |book| Update {
            key: key.clone(),
            book,
            stock: None,
            cost_cents: None,
            title: None,
            topic: None,
            not_after_ms,
        };
        Some(match self.kind {
            Kind::Reader => return None,
            Kind::Buyer => Write::Sell(Sell { key, book, quantity: 1 + random.below(3), not_after_ms }),
            Kind::Keeper if random.below(2) == 0 => {
                Write::Update(Update { stock: Some(random.below(100)), ..nothing(book) })
            }
            Kind::Keeper => {
                Write::Update(Update { cost_cents: Some(100 + random.below(900)), ..nothing(book) })
            }
            Kind::Renamer if random.below(2) == 0 => {
                let book = 1 + random.below(BOOKS);
                Write::Update(Update { title: Some(title(random.below(60))), ..nothing(book) })
            }
            Kind::Renamer => {
                let book = 1 + random.below(BOOKS);
                Write::Update(Update { topic: Some(topic(random)), ..nothing(book) })
            }
            Kind::Author if self.writes > (BOOK_MAX - BOOKS) / 3 => return None,
            Kind::Author => Write::Create(Create {
                key,
                title: title(100 + random.below(100)),
                topic: topic(random),
                stock: random.below(50),
                cost_cents: 100,
                not_after_ms,
            }),
        })
    }
}

fn key(write: &Write) -> &str {
    match write {
        Write::Sell(sell) => &sell.key,
        Write::Update(update) => &update.key,
        Write::Create(create) => &create.key,
    }
}

/// A book, mostly a hot one or another that there is.
fn some_book(random: &mut Random) -> u64 {
    match random.below(20) {
        0..8 => 1 + random.below(HOT),
        8..19 => 1 + random.below(BOOKS),
        _ => 1 + random.below(BOOK_MAX),
    }
}

/// What a reader asks for.
fn wanted(random: &mut Random) -> Wanted {
    match random.below(100) {
        0..68 => Wanted::Book(some_book(random)),
        68..78 => Wanted::Book(BOOKS + 1 + random.below(BOOK_MAX - BOOKS)),
        78..88 => Wanted::Topic(random.index(TOPICS.len())),
        88..94 => Wanted::Part(random.index(TOPICS.len())),
        _ => Wanted::Topics,
    }
}
