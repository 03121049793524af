//! What the routes ask of the store, and the store as it is reached over the network.
//!
//! `Store` is the seam: routes know nothing else. `Replicas` asks catalog and order replicas for everything; a
//! cache is another `Store` that answers what it can and passes the rest on.

use std::sync::Arc;
use std::time::Duration;

use api::catalog::{Position, Query, Read};
use api::order::{Bought, Buy, Question};
use api::trace::Trace;
use kit::credentials::Credentials;
use kit::link::{Address, CallError, Link, LinkOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::balancer::{Balancer, GaveUp, Replica, Retry, Step};
use crate::buying::{Buying, Verdict};
use crate::cache::Target;
use crate::shown::{How, Shown};

/// How long the first attempt of a catalog read may take. A paused replica costs one read this much, once per
/// pause (see `ring`); the others never wait for it.
pub const READ_ATTEMPT_FIRST: Duration = Duration::from_millis(200);
/// How long the first attempt of a buy may take: time enough for the catalog to elect a primary.
pub const BUY_ATTEMPT_FIRST: Duration = Duration::from_millis(500);
/// How long the first attempt of an order read may take: the order replica may have to wait for sales.
pub const ORDER_READ_ATTEMPT_FIRST: Duration = Duration::from_millis(1000);
/// An order replica is told to try for this fraction of an attempt, so that one that is alive says itself how
/// far it got before the attempt is given up.
const PATIENCE_PERCENT: u32 = 90;
/// Longest HTTP call that carries reads: after it the link takes a new connection.
const READ_CALL_LIMIT: Duration = Duration::from_secs(2);
/// Longest HTTP call to an order replica, which tries for its callers' patience.
const ORDER_CALL_LIMIT: Duration = Duration::from_secs(5);
/// Connections for order reads to one order replica: one that waits for sales does not hold up the others.
const ORDER_READ_LANES: usize = 4;

/// What an answer must be worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// It includes all that was acknowledged before the call.
    Linearizable,
    /// It may come from an expired entry of the cache, if there is one.
    Local,
}

/// An answer about the catalog, and how it was come by.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The answer.
    pub shown: Arc<Shown>,
    /// How it was come by.
    pub how: How,
}

/// What the routes ask of the store. Calls park the caller, for no longer than the store's deadline.
pub trait Store: Send + Sync + 'static {
    /// Asks about the catalog. Linearizable: the answer includes all that was acknowledged before the call.
    fn read(&self, query: Query) -> Result<Read, GaveUp>;

    /// Asks about what can be cached.
    fn see(&self, target: &Target<'_>, _wanted: Consistency) -> Result<Seen, GaveUp> {
        let read = self.read(target.query())?;
        Ok(Seen { shown: Arc::new(Shown::read(target, &read)), how: How::Uncached })
    }

    /// Buys copies of a book, once for this key (1 to `KEY_BYTES_MAX` printable ASCII characters). The log keeps the trace.
    fn buy(&self, key: &str, book: u64, quantity: u64, trace: Option<Trace>) -> Verdict;

    /// Asks about the order book as of `position`, or, without one, of all sales acknowledged before the call.
    fn order_book(&self, position: Option<Position>, question: Question) -> Result<api::order::Read, GaveUp>;
}

/// The store as its replicas answer for it.
pub struct Replicas {
    catalog: Balancer<Query, Read>,
    buys: Balancer<Buy, Bought>,
    orders: Balancer<api::order::Query, api::order::Read>,
    /// How long a request may take in all.
    deadline: Duration,
}

/// Where a replica's peer plane is, by the name that people know it by.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Host name as configured.
    pub name: String,
    /// Its peer plane.
    pub address: Address,
}

impl Replicas {
    /// Opens links to all replicas; none has to be up. Each list holds 1 to `ring::REPLICAS_MAX` replicas.
    pub fn open(
        catalog: &[Upstream],
        orders: &[Upstream],
        deadline: Duration,
        credentials: &Credentials,
    ) -> Replicas {
        let usual = LinkOptions::new(credentials);
        let reads = LinkOptions { call_limit: READ_CALL_LIMIT, idempotent: true, ..usual.clone() };
        let buys = LinkOptions { call_limit: ORDER_CALL_LIMIT, ..usual };
        let order_reads = LinkOptions { lanes: ORDER_READ_LANES, idempotent: true, ..buys.clone() };
        Replicas {
            catalog: balancer("read", catalog, api::catalog::READS, reads, READ_ATTEMPT_FIRST),
            buys: balancer("buy", orders, api::order::BUYS, buys, BUY_ATTEMPT_FIRST),
            orders: balancer("orders", orders, api::order::READS, order_reads, ORDER_READ_ATTEMPT_FIRST),
            deadline,
        }
    }
}

impl Store for Replicas {
    fn read(&self, query: Query) -> Result<Read, GaveUp> {
        self.catalog.ask(self.deadline, |_| query.clone(), |_, read| first_answer(read))
    }

    fn buy(&self, key: &str, book: u64, quantity: u64, trace: Option<Trace>) -> Verdict {
        let mut buying = Buying::default();
        let make = |limit| Buy { key: key.to_owned(), book, quantity, patience_ms: patience_ms(limit) };
        self.buys
            .ask_in(trace, self.deadline, make, |name, attempt| buying.learn(name, attempt))
            .unwrap_or_else(|why| buying.give_up(why))
    }

    fn order_book(&self, position: Option<Position>, question: Question) -> Result<api::order::Read, GaveUp> {
        let make = |limit| api::order::Query {
            position,
            patience_ms: patience_ms(limit),
            question: question.clone(),
        };
        self.orders.ask(self.deadline, make, |_, read| match first_answer(read) {
            Step::Done(api::order::Read::Unavailable(reason)) => Step::Retry(Retry::Failed(reason)),
            step => step,
        })
    }
}

/// Reads change nothing, so whoever answers first is right.
fn first_answer<A>(attempt: Result<A, CallError>) -> Step<A> {
    match attempt {
        Ok(answer) => Step::Done(answer),
        Err(error) => Step::Retry(Retry::from(&error)),
    }
}

fn patience_ms(limit: Duration) -> u32 {
    let patience = limit * PATIENCE_PERCENT / 100;
    u32::try_from(patience.as_millis()).unwrap_or(u32::MAX)
}

fn balancer<Q, A>(
    purpose: &str,
    upstreams: &[Upstream],
    path: &'static str,
    options: LinkOptions,
    attempt_first: Duration,
) -> Balancer<Q, A>
where
    Q: Serialize + Send + 'static,
    A: DeserializeOwned + Send + 'static,
{
    let open = |upstream: &Upstream| Replica {
        name: upstream.name.clone(),
        link: Link::open(
            &format!("{purpose} {}", upstream.name),
            upstream.address.clone(),
            path,
            options.clone(),
        ),
    };
    Balancer::new(upstreams.iter().map(open).collect(), attempt_first)
}
