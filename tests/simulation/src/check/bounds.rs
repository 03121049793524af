//! Tables are bounded, and what has served its purpose goes.

use api::session::FRONT_ENDS_MAX;
use catalog::queries;
use wal::View;
use wal::store::Store;

/// In what the tables of a catalog replica at rest exceed their bounds.
pub fn excesses(store: &dyn Store) -> Vec<String> {
    let txn = store.read().expect("a disk in memory can be read");
    let view = View::new(&*txn);
    let mut excesses = Vec::new();
    let mut bound = |what: &str, found: usize, most: usize| {
        if found > most {
            excesses.push(format!("{found} {what}, which are bounded by {most}"));
        }
    };
    let waiting = queries::waiting(&view).expect("undamaged") as usize;
    bound("sales that wait although all are recorded", waiting, 0);
    bound("consumers of one order group", queries::consumers(&view).expect("undamaged").len(), 1);
    bound("front ends", queries::front_ends(&view).expect("undamaged").len(), FRONT_ENDS_MAX);
    excesses
}

/// Whether everything that was sold is recorded by the order group, and forgotten by the catalog.
pub fn is_drained(catalog: &dyn Store, orders: &dyn Store) -> bool {
    let (catalog, orders) = (catalog.read(), orders.read());
    let (Ok(catalog), Ok(orders)) = (catalog, orders) else { return false };
    let (catalog, orders) = (View::new(&*catalog), View::new(&*orders));
    let drained = || -> wal::Result<bool> {
        let head = queries::outbox_head(&catalog)?;
        Ok(order::queries::through(&orders)? == head && queries::waiting(&catalog)? == 0)
    };
    drained().unwrap_or(false)
}
