//! `quire wal at`: the state as it was after an entry, by a replay.

use ::wal::View;
use ::wal::inspect::Bounds;
use ::wal::meta::Applied;
use api::catalog::{Answer, Book, PAGE_MAX, Page, Query};
use api::order::{Order, Question, Read};
use clap::Args;
use kit::exit::Exit;
use serde::Serialize;

use super::entries::{Entries, Line, Shown};
use super::group::{Opened, Player, ReplicaSettings};
use super::out::{Out, Stop, money, time};
use super::show::absent;

/// Orders that are shown to people, the newest; JSON has all.
const ORDERS_SHOWN: u64 = 20;

/// Flags of `quire wal at`.
#[derive(Debug, Args)]
pub(super) struct AtSettings {
    /// Which one.
    #[command(flatten)]
    replica: ReplicaSettings,
    /// Index of the entry after which to look
    index: u64,
    /// JSON: one object for the state, then one for each book or order
    #[arg(long)]
    json: bool,
}

pub(super) fn run(settings: &AtSettings) -> Result<Exit, Stop> {
    let opened = settings.replica.open()?;
    let bounds = opened.bounds()?;
    let (player, line) = replay_to(&opened, &bounds, settings.index, &mut |_, _| Ok(()))?;
    let mut out = Out::new();
    let place = Place::new(&player, line.as_deref());
    match &player {
        Player::Catalog(replay) => catalog_at(&mut out, &opened, &replay.view(), &place, settings.json)?,
        Player::Order(replay) => orders_at(&mut out, &opened, &replay.view(), &place, settings.json)?,
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// Applies the entries through `index`, and lets `after` look after each. Returns the last of them as well.
pub(super) fn replay_to(
    opened: &Opened,
    bounds: &Bounds,
    index: u64,
    after: &mut dyn FnMut(&Player, &Line) -> Result<(), Stop>,
) -> Result<(Player, Option<Box<Line>>), Stop> {
    let path = opened.path.display();
    if index == 0 || index > bounds.last {
        return Err(absent(opened, bounds, index));
    }
    let commit = bounds.hard.commit;
    if index > commit {
        return Err(Stop::new(
            Exit::No,
            format!(
                "{path}: entry {index} is not committed, and may yet be replaced; the newest that is, is {commit}"
            ),
        ));
    }
    let mut entries = Entries::new(opened, bounds, (1, index), true)?;
    let mut last = None;
    while let Some(shown) = entries.next()? {
        match shown {
            Shown::Entry(line) => {
                let player = entries.player().expect("nothing was damaged so far");
                after(player, &line)?;
                last = Some(line);
            }
            Shown::Damage { index, what } => {
                return Err(Stop::new(Exit::Damaged, format!("{path}: damaged at index {index}: {what}")));
            }
        }
    }
    let player = entries.into_player().expect("nothing was damaged");
    let replayed = player.applied().index;
    if replayed < index {
        return Err(Stop::new(Exit::Damaged, format!("{path}: damaged at index {}: nothing", replayed + 1)));
    }
    Ok((player, last))
}

/// Where in the log a state is, in the schema.
#[derive(Serialize)]
struct Place {
    index: u64,
    term: Option<u64>,
    time: Option<String>,
    log_ms: u64,
    state_hash: String,
}

impl Place {
    fn new(player: &Player, line: Option<&Line>) -> Place {
        let Applied { index, log_ms, hash } = player.applied();
        Place {
            index,
            term: line.map(|line| line.entry.term),
            time: line.and_then(|line| time(line.entry.stamp.wall_ms)),
            log_ms,
            state_hash: format!("{hash:032x}"),
        }
    }

    fn print(&self, out: &mut Out, what: &str) -> Result<(), Stop> {
        let Place { index, term, time, log_ms, state_hash } = self;
        let (term, time) = (term.unwrap_or_default(), time.as_deref().unwrap_or("no time"));
        out.line(format_args!("{what} after entry {index}, term {term}, {time}, log time {log_ms} ms"))?;
        out.line(format_args!("state {state_hash}"))
    }
}

#[derive(Serialize)]
struct CatalogState<'p> {
    #[serde(flatten)]
    place: &'p Place,
    group: &'static str,
    set_up: bool,
    books: u64,
    newest_sale: String,
    trimmed: String,
    in_outbox: u64,
    outcomes: u64,
    copies_entered: u64,
    copies_withdrawn: u64,
    copies_sold: u64,
    front_ends: usize,
    consumers: usize,
}

fn catalog_at(
    out: &mut Out,
    opened: &Opened,
    view: &View<'_>,
    place: &Place,
    json: bool,
) -> Result<(), Stop> {
    let failed = |error| opened.failed(error);
    let figures = catalog::queries::figures(view).map_err(failed)?;
    let shown = kit::answers::position;
    let copies = |copies: u128| u64::try_from(copies).unwrap_or(u64::MAX);
    let state = CatalogState {
        place,
        group: "catalog",
        set_up: figures.is_some(),
        books: figures.as_ref().map_or(0, |figures| figures.books),
        newest_sale: shown(figures.as_ref().map(|figures| figures.newest).unwrap_or_default()),
        trimmed: shown(figures.as_ref().map(|figures| figures.trimmed).unwrap_or_default()),
        in_outbox: figures.as_ref().map_or(0, |figures| figures.waiting),
        outcomes: figures.as_ref().map_or(0, |figures| figures.outcomes),
        copies_entered: figures.as_ref().map_or(0, |figures| copies(figures.totals.entered)),
        copies_withdrawn: figures.as_ref().map_or(0, |figures| copies(figures.totals.withdrawn)),
        copies_sold: figures.as_ref().map_or(0, |figures| copies(figures.totals.sold)),
        front_ends: catalog::queries::front_ends(view).map_err(failed)?.len(),
        consumers: catalog::queries::consumers(view).map_err(failed)?.len(),
    };
    if json {
        out.json("state", &state)?;
    } else {
        place.print(out, "the catalog")?;
        let CatalogState { books, newest_sale, in_outbox, copies_sold, outcomes, .. } = &state;
        out.line(format_args!(
            "{books} books, {copies_sold} copies sold, newest sale {newest_sale}, {in_outbox} in the outbox, {outcomes} keys remembered"
        ))?;
        out.line("")?;
        out.line(format_args!(
            "{:>8}  {:>10}  {:>12}  {:>8}  TITLE (TOPIC)",
            "BOOK", "STOCK", "COST", "CHANGED"
        ))?;
    }
    let mut after = 0;
    loop {
        let query = Query::Books { after, limit: PAGE_MAX };
        let Answer::Books(Page { rows, more }) = catalog::queries::answer(view, &query).map_err(failed)?
        else {
            unreachable!("books were asked for");
        };
        for book in &rows {
            if json {
                out.json("book", book)?;
            } else {
                let Book { id, title, topic, stock, cost_cents, changed_at } = book;
                let cost = money(*cost_cents);
                out.line(format_args!(
                    "{id:>8}  {stock:>10}  {cost:>12}  {changed_at:>8}  {title} ({topic})"
                ))?;
            }
            after = book.id;
        }
        if !more {
            return Ok(());
        }
    }
}

#[derive(Serialize)]
struct OrderState<'p> {
    #[serde(flatten)]
    place: &'p Place,
    group: &'static str,
    through: String,
    orders: u64,
    copies: u64,
    revenue_cents: u64,
}

/// An order, in the schema.
#[derive(Serialize)]
struct OrderShown<'o> {
    order: u64,
    book: u64,
    title: &'o str,
    quantity: u64,
    price_cents: u64,
    key: &'o str,
    time: Option<String>,
    position: String,
    catalog_index: u64,
}

fn orders_at(out: &mut Out, opened: &Opened, view: &View<'_>, place: &Place, json: bool) -> Result<(), Stop> {
    let failed = |error| opened.failed(error);
    let totals = order::queries::totals(view).map_err(failed)?;
    let small = |sum: u128| u64::try_from(sum).unwrap_or(u64::MAX);
    let state = OrderState {
        place,
        group: "order",
        through: kit::answers::position(order::queries::through(view).map_err(failed)?),
        orders: totals.orders,
        copies: small(totals.copies),
        revenue_cents: small(totals.revenue_cents),
    };
    if json {
        out.json("state", &state)?;
    } else {
        place.print(out, "the order book")?;
        let OrderState { through, orders, copies, revenue_cents, .. } = &state;
        let revenue = money(*revenue_cents);
        out.line(format_args!(
            "{orders} orders, {copies} copies, revenue {revenue}, all sales through {through}"
        ))?;
        out.line("")?;
        out.line(format_args!(
            "{:>8}  {:>8}  {:>8}  {:>12}  {:<24}  {:<10}  KEY",
            "ORDER", "BOOK", "QUANTITY", "PRICE", "TIME", "POSITION"
        ))?;
    }
    let skipped = if json { 0 } else { totals.orders.saturating_sub(ORDERS_SHOWN) };
    let (mut after, mut passed) = (0, 0);
    loop {
        let question = Question::Orders { after, limit: PAGE_MAX };
        let Read::Orders { rows, more, .. } = order::queries::answer(view, &question).map_err(failed)? else {
            unreachable!("orders were asked for");
        };
        for row in &rows {
            after = row.order;
            passed += 1;
            if passed > skipped {
                print_order(out, row, json)?;
            }
        }
        if !more {
            return Ok(());
        }
    }
}

fn print_order(out: &mut Out, row: &Order, json: bool) -> Result<(), Stop> {
    let Order { order, key, book, title, quantity, price_cents, wall_ms, position, catalog_index } = row;
    let (time, position) = (time(*wall_ms), kit::answers::position(*position));
    if json {
        return out.json(
            "order",
            &OrderShown {
                order: *order,
                book: *book,
                title,
                quantity: *quantity,
                price_cents: *price_cents,
                key,
                time,
                position,
                catalog_index: *catalog_index,
            },
        );
    }
    let (time, price) = (time.unwrap_or_else(|| "-".into()), money(*price_cents));
    out.line(format_args!(
        "{order:>8}  {book:>8}  {quantity:>8}  {price:>12}  {time:<24}  {position:<10}  {key:?}"
    ))
}
