//! `quire wal blame`: who set each field of a book, when, and by which request.

use api::catalog::{Answer, Book, Query};
use clap::{Args, ValueEnum};
use kit::exit::Exit;
use serde::Serialize;

use super::at::replay_to;
use super::entries::Line;
use super::group::{Group, Meaning, Player, ReplicaSettings};
use super::out::{Out, Stop, money, time};

/// Flags of `quire wal blame`.
#[derive(Debug, Args)]
pub(super) struct BlameSettings {
    /// Which one.
    #[command(flatten)]
    replica: ReplicaSettings,
    /// What to look at
    what: What,
    /// Its number
    id: u64,
    /// As it was after this entry, instead of now
    #[arg(long, value_name = "INDEX")]
    at: Option<u64>,
    /// All changes, oldest first, instead of the last one of each field
    #[arg(long)]
    history: bool,
    /// One JSON object for each field
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// A book of the catalog
    Book,
}

/// A change of a field, in the schema.
#[derive(Serialize, Clone)]
struct Change {
    field: &'static str,
    value: String,
    index: u64,
    term: u64,
    time: Option<String>,
    kind: String,
    key: Option<String>,
}

/// How a field of a book is read.
type Field = (&'static str, fn(&Book) -> String);

/// Fields of a book as people read them.
const FIELDS: [Field; 4] = [
    ("title", |book| book.title.clone()),
    ("topic", |book| book.topic.clone()),
    ("stock", |book| book.stock.to_string()),
    ("cost", |book| money(book.cost_cents)),
];

pub(super) fn run(settings: &BlameSettings) -> Result<Exit, Stop> {
    let opened = settings.replica.open()?;
    let path = opened.path.display();
    let What::Book = settings.what;
    if opened.group != Group::Catalog {
        return Err(Stop::new(
            Exit::Usage,
            format!("{path} is of an order replica; books are in the catalog's log"),
        ));
    }
    let bounds = opened.bounds()?;
    let through = settings.at.unwrap_or(bounds.hard.commit.min(bounds.last));
    let id = settings.id;
    let mut book: Option<Book> = None;
    let mut changes: Vec<Change> = Vec::new();
    let mut last: [Option<Change>; FIELDS.len()] = Default::default();
    replay_to(&opened, &bounds, through, &mut |player, line| {
        if !may_change(line, id) {
            return Ok(());
        }
        let now = book_now(player, id).map_err(|error| opened.failed(error))?;
        let Some(now) = now else { return Ok(()) };
        for ((field, of), last) in FIELDS.iter().zip(&mut last) {
            if book.as_ref().map(of) != Some(of(&now)) {
                let change = Change::new(field, of(&now), line);
                if settings.history {
                    changes.push(change.clone());
                }
                *last = Some(change);
            }
        }
        book = Some(now);
        Ok(())
    })?;
    if book.is_none() {
        return Err(Stop::new(Exit::No, format!("{path} has no book {id} after entry {through}")));
    }
    let shown = if settings.history { changes } else { last.into_iter().flatten().collect() };
    let mut out = Out::new();
    print(&mut out, &shown, settings.json)?;
    out.flush()?;
    Ok(Exit::Ok)
}

/// Whether the entry may have changed the book. Books that come get their numbers when they are applied.
fn may_change(line: &Line, id: u64) -> bool {
    let brings = matches!(line.kind().as_str(), "setup" | "create");
    let names = matches!(&line.meaning, Meaning::Catalog(described) if described.book() == Some(id));
    brings || names
}

fn book_now(player: &Player, id: u64) -> ::wal::Result<Option<Book>> {
    match player {
        Player::Catalog(replay) => match catalog::queries::answer(&replay.view(), &Query::Book { id })? {
            Answer::Book(book) => Ok(book),
            _ => unreachable!("a book was asked for"),
        },
        Player::Order(_) => Ok(None),
    }
}

impl Change {
    fn new(field: &'static str, value: String, line: &Line) -> Change {
        let key = match &line.meaning {
            Meaning::Catalog(described) => described.key().map(str::to_owned),
            _ => None,
        };
        let entry = &line.entry;
        let time = time(entry.stamp.wall_ms);
        Change { field, value, index: entry.index, term: entry.term, time, kind: line.kind(), key }
    }
}

fn print(out: &mut Out, changes: &[Change], json: bool) -> Result<(), Stop> {
    if json {
        return changes.iter().try_for_each(|change| out.json("blame", change));
    }
    out.line(format_args!(
        "{:<6}  {:>8}  {:>5}  {:<24}  {:<8}  {:<24}  VALUE",
        "FIELD", "INDEX", "TERM", "TIME", "KIND", "KEY"
    ))?;
    for Change { field, value, index, term, time, kind, key } in changes {
        let time = time.as_deref().unwrap_or("-");
        let key = key.as_ref().map_or_else(|| "-".into(), |key| format!("{key:?}"));
        out.line(format_args!(
            "{field:<6}  {index:>8}  {term:>5}  {time:<24}  {kind:<8}  {key:<24}  {value}"
        ))?;
    }
    Ok(())
}
