//! What the entries of both logs say of an order, in the order of what caused what.
//!
//! Times are the wall clocks of the primaries that proposed the entries: those of two groups may disagree, and nothing is
//! put in order by them.

use std::collections::BTreeMap;

use ::wal::inspect::{self, Difference, SideError};
use api::catalog::REQUEST_LIFE_MS;
use catalog::machine::describe::{Described, Effect as Decided};
use kit::exit::Exit;
use serde::Serialize;

use super::search::{Found, Searched};
use crate::commands::wal::entries::Line;
use crate::commands::wal::group::{Effect, Meaning};
use crate::commands::wal::out::{Stop, money, time};

/// The order in a line, in the schema.
#[derive(Debug, Serialize, Default)]
pub(super) struct Head {
    pub(super) order: Option<u64>,
    pub(super) key: Option<String>,
    pub(super) book: Option<u64>,
    pub(super) title: Option<String>,
    pub(super) quantity: Option<u64>,
    pub(super) price_cents: Option<u64>,
    pub(super) position: Option<String>,
}

/// A step, in the schema.
#[derive(Debug, Serialize)]
pub(super) struct Event {
    pub(super) step: &'static str,
    pub(super) group: &'static str,
    pub(super) index: Option<u64>,
    pub(super) term: Option<u64>,
    pub(super) time: Option<String>,
    pub(super) log_ms: Option<u64>,
    /// From the first attempt that was proposed, by the wall clocks.
    pub(super) after_ms: Option<i64>,
    pub(super) what: String,
}

/// What is wrong with a replica, in the schema.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) replica: String,
    pub(super) index: Option<u64>,
    pub(super) what: String,
}

/// All of it.
pub(super) struct Story {
    pub(super) head: Head,
    pub(super) events: Vec<Event>,
    pub(super) findings: Vec<Finding>,
    pub(super) exit: Exit,
}

impl Story {
    /// Tells what was found.
    pub(super) fn of(found: &Found<'_>) -> Result<Story, Stop> {
        let mut teller = Teller { found, events: Vec::new(), first_ms: None };
        let head = teller.head();
        if let Some(catalog) = witness(&found.catalogs) {
            teller.buys(catalog);
        }
        if let Some(order) = witness(&found.orders) {
            teller.records(order);
        }
        if let Some(catalog) = witness(&found.catalogs) {
            teller.acknowledged(catalog);
        }
        let events = teller.events;
        let mut findings = Vec::new();
        for group in [&found.catalogs, &found.orders] {
            damage(group, &mut findings);
        }
        let damaged = !findings.is_empty();
        for group in [&found.catalogs, &found.orders] {
            differences(group, &mut findings)?;
        }
        for (group, role) in [(&found.catalogs, "catalog"), (&found.orders, "order")] {
            if group.is_empty() && !events.is_empty() {
                let what = format!("no {role} replica was given: its part is missing");
                findings.push(Finding { replica: role.into(), index: None, what });
            }
        }
        let differs = findings.iter().any(|finding| finding.index.is_some());
        let exit = match (damaged, events.is_empty() || differs) {
            (true, _) => Exit::Damaged,
            (false, true) => Exit::No,
            (false, false) => Exit::Ok,
        };
        Ok(Story { head, events, findings, exit })
    }
}

/// The replica whose log tells the story: one that is whole, and knows most.
fn witness<'f, 'o>(group: &'f [Searched<'o>]) -> Option<&'f Searched<'o>> {
    // Of equals, the one that was named first.
    group
        .iter()
        .rev()
        .max_by_key(|searched| (searched.damage.is_none(), searched.hits.len(), searched.bounds.hard.commit))
}

struct Teller<'f, 'o> {
    found: &'f Found<'o>,
    events: Vec<Event>,
    first_ms: Option<u64>,
}

impl Teller<'_, '_> {
    fn head(&self) -> Head {
        let wanted = &self.found.wanted;
        let mut head = Head { order: wanted.order, key: wanted.key.clone(), ..Head::default() };
        let sells = self.found.catalogs.iter().flat_map(|searched| &searched.hits);
        for line in sells {
            if let Meaning::Catalog(Described::Sell { book, quantity, .. }) = &line.meaning {
                (head.book, head.quantity) = (Some(*book), Some(*quantity));
            }
            if let Some(Effect::Catalog(Decided { outcome: "sold", price_cents, .. })) = &line.effect {
                head.price_cents = *price_cents;
            }
        }
        let records = self.found.orders.iter().flat_map(|searched| &searched.hits);
        for line in records {
            let Meaning::Order(described) = &line.meaning else { continue };
            if let Some(sale) = wanted.among(&described.sales) {
                (head.book, head.quantity) = (Some(sale.book), Some(sale.quantity));
                (head.title, head.price_cents) = (Some(sale.title.clone()), Some(sale.price_cents));
            }
        }
        head.position = head.order.and(wanted.position()).map(kit::answers::position);
        head
    }

    fn event(&mut self, step: &'static str, line: &Line, what: String) {
        let wall_ms = line.entry.stamp.wall_ms;
        let first_ms = *self.first_ms.get_or_insert(wall_ms);
        self.events.push(Event {
            step,
            group: line.group.role(),
            index: Some(line.entry.index),
            term: Some(line.entry.term),
            time: time(wall_ms),
            log_ms: Some(line.entry.stamp.log_ms),
            after_ms: Some(wall_ms.cast_signed().saturating_sub(first_ms.cast_signed())),
            what,
        });
    }

    /// A request that came in: no log has an entry of that.
    fn received(&mut self, step: &'static str, what: String) {
        self.events.push(Event {
            step,
            group: "catalog",
            index: None,
            term: None,
            time: None,
            log_ms: None,
            after_ms: None,
            what,
        });
    }

    /// A step that has no clock of its own.
    fn consequence(&mut self, step: &'static str, line: &Line, what: String) {
        self.event(step, line, what);
        let event = self.events.last_mut().expect("just pushed");
        (event.time, event.after_ms, event.log_ms) = (None, None, None);
    }

    /// Every time that the buy was asked for.
    fn buys(&mut self, catalog: &Searched<'_>) {
        for (number, line) in catalog.hits.iter().enumerate() {
            let Meaning::Catalog(described @ Described::Sell { not_after_ms, .. }) = &line.meaning else {
                continue;
            };
            let received_ms = not_after_ms.saturating_sub(REQUEST_LIFE_MS);
            let step = if number == 0 { "received" } else { "again" };
            self.received(
                step,
                format!("at log time {received_ms} ms or later, to be applied by {not_after_ms} ms"),
            );
            let by = primary(&self.found.catalogs, line.entry.term);
            let log_ms = line.entry.stamp.log_ms;
            self.event("proposed", line, format!("{described}, by {by}, log time {log_ms} ms"));
            self.consequence("committed", line, holders(&self.found.catalogs, line));
            match &line.effect {
                Some(Effect::Catalog(decided)) => {
                    self.consequence("applied", line, decided.to_string());
                    self.consequence("told", line, told(decided));
                }
                _ if !line.committed => {
                    self.consequence("told", line, "nothing yet, or 504: the outcome is unknown".into());
                }
                _ => self.consequence("applied", line, unreplayed(catalog)),
            }
        }
        if catalog.hits.is_empty() && catalog.bounds.start.index > 0 {
            // The record in the order group's log tells what it knows.
            let records = self.found.orders.iter().flat_map(|searched| &searched.hits);
            let sale = records.filter_map(|line| match &line.meaning {
                Meaning::Order(described) => self.found.wanted.among(&described.sales),
                _ => None,
            });
            if let Some(sale) = sale.max_by_key(|sale| sale.order) {
                let first = catalog.bounds.first();
                self.events.push(Event {
                    step: "proposed",
                    group: "catalog",
                    index: Some(sale.catalog_index),
                    term: None,
                    time: time(sale.wall_ms),
                    log_ms: None,
                    after_ms: Some(0),
                    what: format!(
                        "the log of {} begins at {first}; this is what the order group recorded",
                        catalog.opened.path.display()
                    ),
                });
                self.first_ms = Some(sale.wall_ms);
            }
        }
    }

    /// Every time that the sale was recorded.
    fn records(&mut self, order: &Searched<'_>) {
        for line in &order.hits {
            let Meaning::Order(described) = &line.meaning else { continue };
            let others = described.sales.len() - 1;
            let with = if others == 0 { String::new() } else { format!(" with {others} others") };
            let what = format!(
                "sales after {} through {}{with}, by {}",
                described.after,
                described.through,
                primary(&self.found.orders, line.entry.term)
            );
            self.event("proposed", line, what);
            self.consequence("committed", line, holders(&self.found.orders, line));
            match &line.effect {
                Some(Effect::Order(effect)) if effect.outcome == "recorded" => {
                    self.consequence(
                        "recorded",
                        line,
                        format!("the book has all sales through {}", effect.through),
                    );
                }
                Some(Effect::Order(effect)) => {
                    let what = format!("{effect}: another entry has recorded it, this one changes nothing");
                    self.consequence("applied", line, what);
                }
                _ if line.committed => self.consequence("applied", line, unreplayed(order)),
                _ => {}
            }
        }
    }

    fn acknowledged(&mut self, catalog: &Searched<'_>) {
        if let Some(line) = &catalog.acknowledged
            && let Meaning::Catalog(described) = &line.meaning
        {
            let what = format!("{described}: the order group has it for good, the outbox may forget it");
            self.event("acknowledged", line, what);
        }
    }
}

/// Why it is not known what became of an entry.
fn unreplayed(searched: &Searched<'_>) -> String {
    match searched.damage {
        Some((index, _)) => format!("unknown: the log is damaged at {index}"),
        None => format!("unknown: the log begins at {}, and cannot be replayed", searched.bounds.first()),
    }
}

/// Which of the replicas have the entry, and which know that it is committed.
fn holders(group: &[Searched<'_>], line: &Line) -> String {
    let index = line.entry.index;
    let has = |searched: &&Searched<'_>| {
        searched.hits.iter().any(|other| (other.entry.index, other.chain) == (index, line.chain))
    };
    let names = |searched: &[&Searched<'_>]| {
        let names = searched.iter().map(|searched| searched.opened.path.display().to_string());
        names.collect::<Vec<_>>().join(", ")
    };
    let (committed, open): (Vec<_>, Vec<_>) =
        group.iter().filter(has).partition(|searched| index <= searched.bounds.hard.commit);
    let mut said = match committed.as_slice() {
        [] => "not that any replica given knows".to_owned(),
        replicas => format!("as {} know{}", names(replicas), if replicas.len() == 1 { "s" } else { "" }),
    };
    if !open.is_empty() {
        said.push_str(&format!("; {} has it and does not know yet", names(&open)));
    }
    said
}

/// Who was primary, as far as votes tell: a replica remembers its newest one only.
fn primary(group: &[Searched<'_>], term: u64) -> String {
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for searched in group {
        let hard = &searched.bounds.hard;
        if hard.term == term && hard.vote != 0 {
            *votes.entry(hard.vote).or_default() += 1;
        }
    }
    let Some((node, votes)) = votes.into_iter().max_by_key(|(_, votes)| *votes) else {
        return format!("the primary of term {term}, whose votes are not kept");
    };
    let formation = group.iter().find_map(|searched| searched.bounds.formation.as_ref());
    let voters = formation.map_or(1, |formation| formation.voters.len());
    let name = formation.and_then(|formation| formation.process_of(node));
    let name = name.map_or_else(|| format!("node {node:016x}"), |process| process.to_string());
    if votes * 2 > voters {
        return format!("primary {name}");
    }
    format!("primary {name}, as {votes} of {voters} votes say")
}

/// What the client was answered.
fn told(decided: &Decided) -> String {
    let Decided { outcome, reason, order, price_cents, stock, decided_at, .. } = decided;
    let again = match decided_at {
        Some(index) => format!(", the outcome of entry {index} again"),
        None => String::new(),
    };
    let number = |number: &Option<u64>| number.map_or_else(|| "?".into(), |number| number.to_string());
    let said = match (*outcome, *reason) {
        ("sold", _) => format!(
            "200: order {}, {} a copy, {} left",
            number(order),
            price_cents.map_or_else(|| "?".into(), money),
            number(stock)
        ),
        (_, Some("out-of-stock")) => format!("409: out of stock, {} left", number(stock)),
        (_, Some("unknown-book")) => "404: no such book".into(),
        (_, Some("key-reused")) => "422: the key was used for another request".into(),
        (_, Some("out-of-bounds")) => "422: out of bounds".into(),
        (_, Some("expired")) => {
            return "nothing: too old to be applied; the order replica asks again, or says 503".into();
        }
        (_, Some(reason)) => format!("503: {reason}"),
        (other, None) => other.into(),
    };
    format!("{said}{again}")
}

fn damage(group: &[Searched<'_>], findings: &mut Vec<Finding>) {
    for searched in group {
        if let Some((index, what)) = &searched.damage {
            let replica = searched.opened.path.display().to_string();
            let what = format!("{replica}: damaged at index {index}: {what}");
            findings.push(Finding { replica, index: Some(*index), what });
        }
    }
}

/// Where the logs of replicas of one group part.
fn differences(group: &[Searched<'_>], findings: &mut Vec<Finding>) -> Result<(), Stop> {
    let Some(best) = witness(group) else { return Ok(()) };
    for searched in group {
        if std::ptr::eq(searched, best) || searched.damage.is_some() || best.damage.is_some() {
            continue;
        }
        let sides = [best.opened, searched.opened];
        let difference = inspect::diff([sides[0].source(), sides[1].source()])
            .map_err(|SideError { side, error }| sides[side].failed(error))?;
        let (index, from) = match difference {
            Difference::At { index, .. } => (index, "at"),
            Difference::Before { index } => (index, "at or before"),
            Difference::None { .. } | Difference::Apart => continue,
        };
        if index > best.bounds.hard.commit.min(searched.bounds.hard.commit) {
            continue; // the group will settle it
        }
        let (replica, other) = (searched.opened.path.display().to_string(), best.opened.path.display());
        let what =
            format!("{replica} differs from {other} {from} index {index}: quire wal diff {other} {replica}");
        findings.push(Finding { replica, index: Some(index), what });
    }
    Ok(())
}
