//! Going through the logs for the entries that concern an order.

use ::wal::inspect::Bounds;
use api::catalog::Position;
use catalog::machine::describe::Described;
use catalog::machine::order_position;
use order::machine::describe::SaleShown;

use crate::commands::wal::entries::{Entries, Line, Shown};
use crate::commands::wal::group::{Effect, Meaning, Opened};
use crate::commands::wal::out::Stop;

/// What is looked for. What is not known at first is filled in by what is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) order: Option<u64>,
    pub(super) key: Option<String>,
}

impl Wanted {
    pub(super) fn order(order: u64) -> Wanted {
        Wanted { order: Some(order), key: None }
    }

    pub(super) fn key(key: &str) -> Wanted {
        Wanted { order: None, key: Some(key.to_owned()) }
    }

    /// Where its sale is in the outbox.
    pub(super) fn position(&self) -> Option<Position> {
        self.order.map(order_position)
    }

    /// What there is none of.
    pub(super) fn absent(&self) -> String {
        match (&self.order, &self.key) {
            (Some(order), _) => format!("there is no order {order}"),
            (None, key) => format!("there is no buy with key {:?}", key.as_deref().unwrap_or_default()),
        }
    }

    /// The sale that it is, if it is among these.
    pub(super) fn among<'s>(&self, sales: &'s [SaleShown]) -> Option<&'s SaleShown> {
        sales.iter().find(|sale| Some(sale.order) == self.order || Some(&sale.key) == self.key.as_ref())
    }
}

/// One replica's log, gone through.
pub(super) struct Searched<'o> {
    pub(super) opened: &'o Opened,
    pub(super) bounds: Bounds,
    /// The entries that concern the order.
    pub(super) hits: Vec<Line>,
    /// In the catalog's log: the first entry by which the order group says that it has the sale for good.
    pub(super) acknowledged: Option<Line>,
    /// The first damage, if there is any, at or before the commit index.
    pub(super) damage: Option<(u64, String)>,
}

/// All that was found.
pub(super) struct Found<'o> {
    pub(super) wanted: Wanted,
    pub(super) catalogs: Vec<Searched<'o>>,
    pub(super) orders: Vec<Searched<'o>>,
}

/// Goes through the logs of both groups.
pub(super) fn both<'o>(
    catalogs: &[&'o Opened],
    orders: &[&'o Opened],
    mut wanted: Wanted,
) -> Result<Found<'o>, Stop> {
    let mut searched_orders = Vec::new();
    for opened in orders {
        searched_orders.push(search(opened, &mut wanted, order_hit)?);
    }
    let mut searched_catalogs = Vec::new();
    for opened in catalogs {
        let before = wanted.clone();
        let mut searched = search(opened, &mut wanted, catalog_hit)?;
        if before.key.is_none() && wanted.key.is_some() {
            // Entries before the one that told the key may have it, too.
            searched = search(opened, &mut wanted, catalog_hit)?;
        }
        searched_catalogs.push(searched);
    }
    // A key that is only in the catalog's log has told its order by now.
    if searched_orders.iter().all(|searched| searched.hits.is_empty()) {
        searched_orders.clear();
        for opened in orders {
            searched_orders.push(search(opened, &mut wanted, order_hit)?);
        }
    }
    Ok(Found { wanted, catalogs: searched_catalogs, orders: searched_orders })
}

/// What an entry is to the order.
enum Hit {
    Concerns,
    Acknowledges,
    Nothing,
}

fn search<'o>(
    opened: &'o Opened,
    wanted: &mut Wanted,
    hit: fn(&Line, &mut Wanted) -> Hit,
) -> Result<Searched<'o>, Stop> {
    let bounds = opened.bounds()?;
    let replayed = bounds.start.index == 0;
    let mut searched = Searched { opened, hits: Vec::new(), acknowledged: None, damage: None, bounds };
    let range = (searched.bounds.first(), searched.bounds.last);
    let mut entries = Entries::new(opened, &searched.bounds, range, replayed)?;
    while let Some(shown) = entries.next()? {
        match shown {
            Shown::Damage { index, what } if index <= searched.bounds.hard.commit => {
                searched.damage.get_or_insert((index, what));
            }
            // What is not committed may be half replaced.
            Shown::Damage { .. } => {}
            Shown::Entry(line) => match hit(&line, wanted) {
                Hit::Concerns => searched.hits.push(*line),
                Hit::Acknowledges if searched.acknowledged.is_none() => searched.acknowledged = Some(*line),
                Hit::Acknowledges | Hit::Nothing => {}
            },
        }
    }
    Ok(searched)
}

fn catalog_hit(line: &Line, wanted: &mut Wanted) -> Hit {
    let Meaning::Catalog(described) = &line.meaning else { return Hit::Nothing };
    match described {
        Described::Sell { key, .. } => {
            let made = line.effect.as_ref().and_then(Effect::order);
            if wanted.key.is_none() && made.is_some() && made == wanted.order {
                wanted.key = Some(key.clone());
            }
            if wanted.key.as_ref() != Some(key) {
                return Hit::Nothing;
            }
            wanted.order = wanted.order.or(made);
            Hit::Concerns
        }
        Described::Acknowledge { through, .. }
            if wanted.position().is_some_and(|position| *through >= position) =>
        {
            Hit::Acknowledges
        }
        _ => Hit::Nothing,
    }
}

fn order_hit(line: &Line, wanted: &mut Wanted) -> Hit {
    let Meaning::Order(described) = &line.meaning else { return Hit::Nothing };
    let Some(sale) = wanted.among(&described.sales) else { return Hit::Nothing };
    *wanted = Wanted { order: Some(sale.order), key: Some(sale.key.clone()) };
    Hit::Concerns
}
