//! The catalog as a person would write it down: vectors and maps, no keys, no hashes, no care for cost.

use std::collections::BTreeMap;

use api::catalog::{
    Book, Create, Decline, Outcome, Position, REQUEST_LIFE_MS, Refusal, Sale, Sell, Sold, Update, WriteResult,
};
use catalog::machine::{ConsumerId, Limits, Reply};

use super::Command;

/// The model. Set up from the start, with `limits` and no books.
pub(crate) struct Model {
    limits: Limits,
    pub(crate) books: Vec<Book>,
    /// Spelling of each topic that has books, by slug.
    topics: BTreeMap<String, String>,
    outcomes: Vec<Remembered>,
    pub(crate) newest: Position,
    /// All sales ever, in order.
    pub(crate) sales: Vec<Sale>,
    pub(crate) trimmed: Position,
    pub(crate) consumers: BTreeMap<ConsumerId, Position>,
    complete: bool,
    pub(crate) entered: u64,
    pub(crate) withdrawn: u64,
}

#[derive(Clone)]
struct Remembered {
    log_ms: u64,
    result: WriteResult,
    command: Command,
}

impl Model {
    pub(crate) fn new(limits: Limits) -> Model {
        Model {
            limits,
            books: Vec::new(),
            topics: BTreeMap::new(),
            outcomes: Vec::new(),
            newest: Position { incarnation: 1, sale: 0 },
            sales: Vec::new(),
            trimmed: Position::default(),
            consumers: BTreeMap::new(),
            complete: false,
            entered: 0,
            withdrawn: 0,
        }
    }

    pub(crate) fn apply(&mut self, index: u64, log_ms: u64, command: &Command) -> Reply {
        match command {
            Command::Sell(_) | Command::Update(_) | Command::Create(_) => {
                Reply::Write { result: self.write(index, log_ms, command), book: None }
            }
            Command::Register(consumer) => {
                self.consumers.entry(*consumer).or_insert(self.trimmed);
                self.complete |= self.consumers.len() >= self.limits.consumers_min as usize;
                Reply::Registered { trimmed: self.trimmed }
            }
            Command::Acknowledge(consumer, through) => self.acknowledge(*consumer, *through),
            Command::Remove(consumer) => {
                let known = self.consumers.remove(consumer).is_some();
                self.trim();
                Reply::Removed { known }
            }
            Command::Incarnate(incarnation) => {
                if *incarnation > self.newest.incarnation {
                    self.newest = Position { incarnation: *incarnation, sale: 0 };
                }
                Reply::Incarnated { incarnation: self.newest.incarnation }
            }
        }
    }

    /// Sales that are in the outbox.
    pub(crate) fn outbox(&self) -> impl Iterator<Item = &Sale> {
        self.sales.iter().filter(|sale| sale.position > self.trimmed)
    }

    pub(crate) fn outcomes(&self) -> usize {
        self.outcomes.len()
    }

    fn write(&mut self, index: u64, log_ms: u64, command: &Command) -> WriteResult {
        let answer = |outcome| WriteResult { index, log_ms, replayed: false, outcome };
        if let Some(found) = self.outcomes.iter().find(|old| old.command.key() == command.key()) {
            if found.command.without_deadline() != command.without_deadline() {
                return answer(Outcome::Declined(Decline::KeyReused));
            }
            return WriteResult { log_ms, replayed: true, ..found.result.clone() };
        }
        if log_ms > command.not_after_ms() {
            return answer(Outcome::Declined(Decline::Expired));
        }
        let full = self.outcomes.len() as u64 >= self.limits.keys_max;
        if full && log_ms - self.outcomes[0].log_ms <= REQUEST_LIFE_MS {
            return answer(Outcome::Declined(Decline::KeysFull));
        }
        let outcome = match command {
            Command::Sell(sell) => self.sell(index, log_ms, sell),
            Command::Update(update) => self.update(index, update),
            Command::Create(create) => self.create(index, create),
            _ => unreachable!("only writes get here"),
        };
        let result = answer(outcome);
        if !matches!(result.outcome, Outcome::Declined(_)) {
            for _ in 0..2 {
                let outdated = |old: &Remembered| log_ms - old.log_ms > self.limits.keys_window_ms;
                let full = self.outcomes.len() as u64 >= self.limits.keys_max;
                if full || self.outcomes.first().is_some_and(outdated) {
                    self.outcomes.remove(0);
                }
            }
            self.outcomes.push(Remembered { log_ms, result: result.clone(), command: command.clone() });
        }
        result
    }

    fn sell(&mut self, index: u64, log_ms: u64, sell: &Sell) -> Outcome {
        let waiting = self.outbox().count() as u64;
        let Some(book) = self.books.iter_mut().find(|book| book.id == sell.book) else {
            return Outcome::Refused(Refusal::UnknownBook);
        };
        if book.stock < sell.quantity {
            return Outcome::Refused(Refusal::OutOfStock {
                title: book.title.clone(),
                available: book.stock,
            });
        }
        if waiting >= self.limits.outbox_max {
            return Outcome::Declined(Decline::OutboxFull { waiting });
        }
        book.stock -= sell.quantity;
        book.changed_at = index;
        self.newest.sale += 1;
        let order = (u64::from(self.newest.incarnation) - 1) * (1 << 40) + self.newest.sale;
        self.sales.push(Sale {
            position: self.newest,
            order,
            key: sell.key.clone(),
            book: book.id,
            title: book.title.clone(),
            quantity: sell.quantity,
            price_cents: book.cost_cents,
            index,
            wall_ms: super::wall_ms(log_ms),
        });
        Outcome::Sold(Sold {
            order,
            book: book.id,
            title: book.title.clone(),
            quantity: sell.quantity,
            price_cents: book.cost_cents,
            stock: book.stock,
            position: self.newest,
        })
    }

    fn update(&mut self, index: u64, update: &Update) -> Outcome {
        let Some(old) = self.books.iter().find(|book| book.id == update.book).cloned() else {
            return Outcome::Refused(Refusal::UnknownBook);
        };
        let mut new = old.clone();
        if let Some(title) = &update.title {
            new.title.clone_from(title);
        }
        if let Some(topic) = &update.topic {
            new.topic.clone_from(topic);
        }
        if let Some(other) = self.same_title(&new) {
            return Outcome::Refused(Refusal::TitleTaken { book: other });
        }
        new.stock = update.stock.unwrap_or(old.stock);
        new.cost_cents = update.cost_cents.unwrap_or(old.cost_cents);
        new.changed_at = index;
        self.entered += new.stock.saturating_sub(old.stock);
        self.withdrawn += old.stock.saturating_sub(new.stock);
        Outcome::Updated { book: self.shelve(new) }
    }

    fn create(&mut self, index: u64, create: &Create) -> Outcome {
        let book = Book {
            id: self.books.len() as u64 + 1,
            title: create.title.clone(),
            topic: create.topic.clone(),
            stock: create.stock,
            cost_cents: create.cost_cents,
            changed_at: index,
        };
        if let Some(other) = self.same_title(&book) {
            return Outcome::Refused(Refusal::TitleTaken { book: other });
        }
        self.entered += book.stock;
        Outcome::Created { book: self.shelve(book) }
    }

    fn same_title(&self, new: &Book) -> Option<u64> {
        let same = |book: &&Book| {
            book.id != new.id && book.title == new.title && slug(&book.topic) == slug(&new.topic)
        };
        self.books.iter().find(same).map(|book| book.id)
    }

    /// Puts a book on the shelf, in the spelling of its topic.
    fn shelve(&mut self, mut book: Book) -> Book {
        let slug_of_it = slug(&book.topic);
        book.topic = self.topics.get(&slug_of_it).cloned().unwrap_or(book.topic);
        self.books.retain(|other| other.id != book.id);
        self.books.push(book.clone());
        self.books.sort_by_key(|book| book.id);
        self.topics = self.books.iter().map(|book| (slug(&book.topic), book.topic.clone())).collect();
        book
    }

    fn acknowledge(&mut self, consumer: ConsumerId, through: Position) -> Reply {
        let Some(own) = self.consumers.get_mut(&consumer) else { return Reply::UnknownConsumer };
        if through > self.newest {
            return Reply::Ahead { head: self.newest };
        }
        *own = through.max(*own);
        let mut dropped = Vec::new();
        if self.complete {
            let foremost = *self.consumers.values().max().expect("the one that acknowledges");
            let lags = |own: Position| {
                let since = if own.incarnation == foremost.incarnation { own.sale } else { 0 };
                foremost.sale - since > self.limits.consumer_lag_max
            };
            dropped = self.consumers.iter().filter(|(_, own)| lags(**own)).map(|(id, _)| *id).collect();
            self.consumers.retain(|id, _| !dropped.contains(id));
        }
        self.trim();
        Reply::Acknowledged { trimmed: self.trimmed, dropped }
    }

    fn trim(&mut self) {
        if let Some(slowest) = self.consumers.values().min().filter(|_| self.complete) {
            let gone = self.sales.iter().map(|sale| sale.position).filter(|position| position <= slowest);
            self.trimmed = self.trimmed.max(gone.max().unwrap_or_default());
        }
    }
}

/// Good enough for the topics that tests use.
fn slug(topic: &str) -> String {
    topic.to_ascii_lowercase().replace(' ', "-")
}
