//! The clients: readers, buyers, people who change books, who add them, and who look into the order book.
//!
//! Each does one thing at a time. A buy or write whose outcome is unknown is sent again, with the same key, until it is
//! decided. One that was certainly not sent is sent again or given up; what was given up must never be sold. Buyers now and
//! then ask again for what was decided, or use the key for something else.

use std::time::Duration;

use api::catalog::{Create, Decline, Outcome, Position, REQUEST_LIFE_MS, Sell, Update, Write, WriteResult};
use api::order::{Query, Question, Read};
use frontend::buying::Verdict;

use super::books::{BOOK_MAX, BOOKS, HOT, TOPICS, Wanted, title};
use super::check::{Floor, Operation};
use super::network::Place;
use super::outside::{Answer, CATALOGS, Outside};
use super::random::Random;

/// Pause of a client whose front end is gone, or whose request must be sent again.
const AGAIN: Duration = Duration::from_millis(20);
/// Orders that one question is about, at most.
const PAGE: u32 = 50;

/// What somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Reader,
    /// Buys, through the order replicas.
    Buyer,
    /// Buys several books at once, straight from the catalog: what an order replica makes of buys that come together.
    Dealer,
    /// Sets stocks and prices.
    Keeper,
    /// Gives books other titles and topics.
    Renamer,
    /// Adds books.
    Author,
    /// Looks into the order book.
    Bookkeeper,
}

/// Who there is at each front end, and how long they think, about.
pub const CROWD: [(Kind, usize, Duration); 7] = [
    (Kind::Reader, 12, Duration::from_micros(1_200)),
    (Kind::Buyer, 3, Duration::from_millis(120)),
    (Kind::Dealer, 1, Duration::from_millis(200)),
    (Kind::Keeper, 1, Duration::from_millis(180)),
    (Kind::Renamer, 1, Duration::from_millis(700)),
    (Kind::Author, 1, Duration::from_millis(600)),
    (Kind::Bookkeeper, 1, Duration::from_millis(60)),
];

/// A buy: its key, book and copies.
pub type Buy = (String, u64, u64);

/// What a client does next.
pub enum Wish {
    /// Read this.
    Read(Wanted),
    /// Send these writes to that catalog replica, as this attempt.
    Write(u64, Place, Vec<Write>),
    /// Buy this, as this attempt.
    Buy(u64, Buy),
    /// Ask the order book.
    Orders(Query),
    /// Nothing for so long.
    Wait(Duration),
}

/// What it is at.
enum Busy {
    Read,
    Writes(Vec<Write>),
    Buy(Buy, Why),
    Orders(Query, Floor),
}

/// Why somebody buys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It wants a book.
    New,
    /// It has forgotten that this was decided.
    Repeated,
    /// It uses a key for something else that was used before.
    Misused,
}

/// A client.
pub struct Client {
    number: usize,
    kind: Kind,
    /// Its front end, from 0.
    pub home: usize,
    pause: Duration,
    busy: Option<(Duration, Busy)>,
    attempt: u64,
    writes: u64,
    primary: Place,
    /// What it bought last, and what it was told.
    bought: Option<(Buy, WriteResult)>,
    /// It asks for a buy once more, after an attempt of which nobody knows what became: a no says nothing about that one.
    unsure: bool,
}

impl Client {
    /// A client at rest.
    pub fn new(number: usize, kind: Kind, home: usize, pause: Duration) -> Client {
        let primary = number % CATALOGS;
        Client {
            number,
            kind,
            home,
            pause,
            busy: None,
            attempt: 0,
            writes: 0,
            primary,
            bought: None,
            unsure: false,
        }
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
        if let Some((_, busy)) = &self.busy {
            self.attempt += 1;
            return Some(match busy {
                Busy::Writes(writes) => Wish::Write(self.attempt, self.primary, timed(writes, out)),
                Busy::Buy(buy, _) => Wish::Buy(self.attempt, buy.clone()),
                Busy::Orders(query, _) => Wish::Orders(query.clone()),
                Busy::Read => return None,
            });
        }
        if closing {
            return None;
        }
        self.attempt += 1;
        let (wish, busy) = match self.kind {
            Kind::Reader => {
                let wanted = wanted(&mut out.random);
                (Wish::Read(wanted), Busy::Read)
            }
            Kind::Buyer => {
                let (buy, why) = self.buy(out);
                (Wish::Buy(self.attempt, buy.clone()), Busy::Buy(buy, why))
            }
            Kind::Bookkeeper => {
                let query = self.question(out);
                (Wish::Orders(query.clone()), Busy::Orders(query, out.orders.begin()))
            }
            _ => {
                let count = if self.kind == Kind::Dealer { 3 } else { 1 };
                let writes: Option<Vec<Write>> = (0..count).map(|_| self.write(out)).collect();
                let Some(writes) = writes else { return Some(Wish::Wait(self.pause)) };
                (Wish::Write(self.attempt, self.primary, timed(&writes, out)), Busy::Writes(writes))
            }
        };
        self.busy = Some((out.now, busy));
        Some(wish)
    }

    /// It has ended what it was at. Returns how long it thinks.
    fn rest(&mut self, out: &mut Outside) -> Duration {
        (self.busy, self.unsure) = (None, false);
        out.random.around(self.pause)
    }

    /// Its read has ended. Returns how long it thinks.
    pub fn read_done(&mut self, answered: bool, out: &mut Outside) -> Duration {
        let pause = self.rest(out);
        if answered { pause } else { AGAIN }
    }

    /// A write has ended, for good or not. Returns how long it thinks, or `None` if that was an earlier attempt.
    pub fn write_done(&mut self, attempt: u64, answer: &Answer, out: &mut Outside) -> Option<Duration> {
        let (since, Busy::Writes(writes)) = self.busy.as_ref().filter(|_| attempt == self.attempt)? else {
            return None;
        };
        match answer {
            Answer::Written(results) => {
                out.log_ms = results.iter().map(|result| result.log_ms).fold(out.log_ms, u64::max);
                if results.iter().any(|result| result.outcome == Outcome::Declined(Decline::Expired)) {
                    return Some(AGAIN);
                }
                for (write, result) in writes.iter().zip(results) {
                    out.writes.told(key(write), result, out.now);
                    if let Some(operation) = Operation::write(write, result, *since, out.now) {
                        out.samples.add(operation);
                    }
                }
                Some(self.rest(out))
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

    /// A buy has ended, for good or not.
    pub fn buy_done(
        &mut self,
        attempt: u64,
        verdict: Option<Verdict>,
        out: &mut Outside,
    ) -> Option<Duration> {
        let (since, Busy::Buy(buy, why)) = self.busy.as_ref().filter(|_| attempt == self.attempt)? else {
            return None;
        };
        let (key, why) = (buy.0.as_str(), *why);
        match verdict {
            Some(Verdict::Decided { result, .. }) if why == Why::Misused => {
                out.complain(format!(
                    "key {key} was used for something else, and that was decided: {result:?}"
                ));
                Some(self.rest(out))
            }
            Some(Verdict::Decided { result, .. }) => {
                out.writes.told(key, &result, out.now);
                if let Outcome::Sold(sold) = &result.outcome {
                    out.orders.told(sold.order, key, sold.book, sold.quantity);
                }
                let sell = Sell { key: buy.0.clone(), book: buy.1, quantity: buy.2, not_after_ms: 0 };
                if let Some(operation) = Operation::write(&Write::Sell(sell), &result, *since, out.now)
                    && why == Why::New
                {
                    out.samples.add(operation);
                }
                self.bought = Some((buy.clone(), result));
                Some(self.rest(out))
            }
            Some(Verdict::Declined(Decline::KeyReused)) => {
                if why != Why::Misused {
                    out.complain(format!("key {key} is said to be used for something else"));
                }
                Some(self.rest(out))
            }
            // Nothing was sold, and nothing will be: it asks again, or never.
            Some(Verdict::Declined(_) | Verdict::NotSent(_)) if why != Why::New => Some(self.rest(out)),
            Some(Verdict::Declined(_) | Verdict::NotSent(_)) if out.random.below(2) == 0 => {
                if !self.unsure {
                    out.writes.denied(key, out.now);
                }
                Some(self.rest(out))
            }
            verdict => {
                self.unsure |= matches!(verdict, None | Some(Verdict::Unknown));
                Some(AGAIN)
            }
        }
    }

    /// A question about the order book has its answer, or will have none.
    pub fn orders_done(&mut self, read: Option<Read>, out: &mut Outside) -> Duration {
        let Some((_, Busy::Orders(query, floor))) = &self.busy else { return AGAIN };
        let Some(read) = read else { return AGAIN };
        if let Some(words) = out.orders.shown(&query.question, &read, floor) {
            out.complain(words);
        }
        self.rest(out)
    }

    fn question(&mut self, out: &mut Outside) -> Query {
        let patience_ms = 900;
        let some = out.random.number();
        match out.orders.some_order(some) {
            Some(order) if out.random.below(3) > 0 => {
                Query { position: None, patience_ms, question: Question::Order { order } }
            }
            Some(order) => Query {
                position: None,
                patience_ms,
                question: Question::Orders { after: order - out.random.below(order + 1), limit: PAGE },
            },
            None => Query {
                position: Some(Position::default()),
                patience_ms,
                question: Question::Orders { after: 0, limit: PAGE },
            },
        }
    }

    fn key(&mut self, out: &mut Outside) -> String {
        self.writes += 1;
        let key = format!("{}-{}", self.number, self.writes);
        out.writes.asked(&key);
        key
    }

    fn buy(&mut self, out: &mut Outside) -> (Buy, Why) {
        if let Some(((key, book, quantity), _)) = &self.bought {
            match out.random.below(16) {
                0 => return ((key.clone(), *book, *quantity), Why::Repeated),
                1 => return ((key.clone(), *book, quantity + 1), Why::Misused),
                _ => {}
            }
        }
        let key = self.key(out);
        ((key, some_book(&mut out.random), 1 + out.random.below(3)), Why::New)
    }

    /// Something new to write, under a key of its own. `None` if there is nothing to do.
    fn write(&mut self, out: &mut Outside) -> Option<Write> {
        if self.kind == Kind::Author && self.writes > (BOOK_MAX - BOOKS) / 3 {
            return None;
        }
        let key = self.key(out);
        let random = &mut out.random;
        let book = some_book(random);
        let not_after_ms = 0; // see `timed`
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
            Kind::Reader | Kind::Buyer | Kind::Bookkeeper => return None,
            Kind::Dealer => Write::Sell(Sell { key, book, quantity: 1 + random.below(3), not_after_ms }),
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

/// The writes, to be applied within the life of a request from the newest log time that anybody was told.
fn timed(writes: &[Write], out: &Outside) -> Vec<Write> {
    let mut writes = writes.to_vec();
    for write in &mut writes {
        *match write {
            Write::Sell(Sell { not_after_ms, .. })
            | Write::Update(Update { not_after_ms, .. })
            | Write::Create(Create { not_after_ms, .. }) => not_after_ms,
        } = out.log_ms + REQUEST_LIFE_MS;
    }
    writes
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
