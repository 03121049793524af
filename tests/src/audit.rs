//! Does what the store says of itself agree with what its clients were told?

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::client::Client;
use crate::load::Bought;
use crate::store::Store;

/// An order, as `GET /orders` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Order {
    /// The order number.
    pub order: u64,
    /// The book.
    pub book: u64,
    /// Copies of it.
    pub quantity: u64,
    /// The idempotency key.
    pub key: String,
    /// Its place in the stream of sales.
    pub position: String,
}

#[derive(Debug, Deserialize)]
struct Page {
    orders: Vec<Order>,
    total: u64,
    next: Option<u64>,
}

/// The whole order book, as a front end or an order replica has it.
///
/// # Panics
/// If pages do not add up to the total, or are not in order of number, each number once.
pub fn order_book(client: &Client) -> Vec<Order> {
    let mut orders: Vec<Order> = Vec::new();
    let mut after = 0;
    loop {
        let page: Page = client.get(&format!("/orders?after={after}")).expect(200).parse();
        orders.extend(page.orders);
        match page.next {
            Some(next) => after = next,
            None => {
                let rises = orders.windows(2).all(|pair| pair[0].order < pair[1].order);
                assert!(rises, "order numbers do not rise in {orders:?}");
                assert_eq!(orders.len() as u64, page.total, "orders listed, and their total");
                return orders;
            }
        }
    }
}

/// Checks a store whose only sales ever are `bought`, and that had `stocks` before them: its orders are those sales
/// (`audit_orders`), and every catalog replica has the stock that is left.
///
/// # Errors
/// What differs.
///
/// # Panics
/// If a daemon does not answer.
pub fn audit(store: &Store, stocks: &BTreeMap<u64, u64>, bought: &[Bought]) -> Result<(), String> {
    audit_orders(store, bought)?;
    let mut left = stocks.clone();
    for sale in bought {
        let stock = left.get_mut(&sale.book).expect("only books of the store are sold");
        *stock =
            stock.checked_sub(sale.quantity).ok_or_else(|| format!("book {} was oversold", sale.book))?;
    }
    for catalog in &store.catalogs {
        let stocks = store.stocks_at(catalog);
        if stocks != left {
            return Err(format!("{} has {stocks:?} in stock, {left:?} must be left", catalog.name()));
        }
    }
    Ok(())
}

/// Checks a store whose only sales ever are `bought`: every one is in the order book of every order replica exactly
/// once and as it was acknowledged, and nothing else is, as they say themselves and as every front end says.
///
/// # Errors
/// What differs.
///
/// # Panics
/// If a daemon does not answer.
pub fn audit_orders(store: &Store, bought: &[Bought]) -> Result<(), String> {
    let mut acknowledged: Vec<_> =
        bought.iter().map(|sale| (sale.order, sale.book, sale.quantity, sale.key.as_str())).collect();
    acknowledged.sort_unstable();
    for daemon in store.orders.iter().chain(store.fronts()) {
        let recorded = order_book(&daemon.api);
        let recorded: Vec<_> = recorded
            .iter()
            .map(|order| (order.order, order.book, order.quantity, order.key.as_str()))
            .collect();
        if recorded != acknowledged {
            let lost: Vec<_> = acknowledged.iter().filter(|sale| !recorded.contains(sale)).take(5).collect();
            let extra: Vec<_> = recorded.iter().filter(|sale| !acknowledged.contains(sale)).take(5).collect();
            return Err(format!(
                "{} has {} orders, {} were acknowledged; the first that it lacks: {lost:?}, the first that nobody \
                 was told of: {extra:?}",
                daemon.name(),
                recorded.len(),
                acknowledged.len()
            ));
        }
    }
    Ok(())
}
