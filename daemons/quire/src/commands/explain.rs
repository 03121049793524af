//! `quire explain`: all that happened to an order, from the logs of both groups.
//!
//! `search` goes through the logs and finds the entries, `story` puts them in the order of what caused what, this module
//! shows them. Nothing is asked of the store itself: what the logs and the replicas' notes say is what there is, and what
//! they do not hold (who was primary in a term that is over, whether an answer arrived) is said to be unknown.

mod search;
mod story;

use std::path::{Path, PathBuf};

use clap::Args;
use kit::exit::{Exit, Failure};
use kit::settings::ApiClientSettings;

use self::search::Wanted;
use self::story::{Event, Head, Story};
use super::wal::group::{Group, Opened};
use super::wal::guard;
use super::wal::out::{Out, Stop};

/// What `quire explain --help` ends with.
pub(super) const HELP: &str = "\
REPLICA is a data directory or the URL of a daemon's API; give one of each group at least, and more to have them compared. \
Without any, all replicas below --data-dir.

Exit codes: 0 done, 1 there is no such order or key, or replicas differ, 65 damaged: the entry is named, 69 nothing answers \
at the URL, 74 it cannot be read, 77 not allowed, 78 no data directory or daemon of this release.";

/// Flags of `quire explain`.
#[derive(Debug, Args)]
#[command(
    override_usage = "quire explain [OPTIONS] order N [REPLICA]...\n       quire explain [OPTIONS] --key KEY [REPLICA]..."
)]
pub(crate) struct ExplainSettings {
    /// The process that waits for this one; when it ends, this one is killed
    #[arg(long, hide = true, value_name = "PID")]
    guarded_by: Option<u32>,
    /// The idempotency key of a buy, also one that was refused
    #[arg(long)]
    key: Option<String>,
    /// Directory in which the replicas are, if none is named
    #[arg(long, value_name = "DIR", default_value = kit::settings::DATA_DIR)]
    data_dir: PathBuf,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// For daemons that are named by URL.
    #[command(flatten)]
    client: ApiClientSettings,
    /// `order` and its number, unless there is a key; then data directories or URLs of replicas
    #[arg(value_name = "WHAT")]
    words: Vec<PathBuf>,
}

impl ExplainSettings {
    /// What is looked for, and where.
    fn wanted(&self) -> Result<(Wanted, &[PathBuf]), Stop> {
        if let Some(key) = &self.key {
            return Ok((Wanted::key(key), &self.words));
        }
        let number = match self.words.as_slice() {
            [what, number, ..] if what == Path::new("order") => number.to_str(),
            _ => return Err(Stop::new(Exit::Usage, "wanted order N, or --key KEY")),
        };
        match number.and_then(|number| number.parse().ok()) {
            Some(order) => Ok((Wanted::order(order), &self.words[2..])),
            None => {
                let found = self.words[1].display();
                Err(Stop::new(Exit::Usage, format!("{found:?} is no order number")))
            }
        }
    }
}

/// Do it.
pub(crate) fn run(settings: &ExplainSettings) -> Result<Exit, Failure> {
    match settings.guarded_by {
        Some(guard) => guard::under(guard)?,
        None => return guard::run(),
    }
    match explain(settings) {
        Ok(exit) => Ok(exit),
        Err(Stop::NobodyReads) => Ok(Exit::Ok),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

fn explain(settings: &ExplainSettings) -> Result<Exit, Stop> {
    let (wanted, replicas) = settings.wanted()?;
    let replicas = if replicas.is_empty() { below(&settings.data_dir)? } else { replicas.to_vec() };
    let opened =
        replicas.iter().map(|path| Opened::new(path, &settings.client)).collect::<Result<Vec<_>, _>>()?;
    let of = |group| opened.iter().filter(|opened| opened.group == group).collect::<Vec<_>>();
    let found = search::both(&of(Group::Catalog), &of(Group::Order), wanted)?;
    let story = Story::of(&found)?;
    if story.events.is_empty() && story.findings.is_empty() {
        let searched: Vec<String> = replicas.iter().map(|path| path.display().to_string()).collect();
        return Err(Stop::new(Exit::No, format!("{} in {}", found.wanted.absent(), searched.join(", "))));
    }
    let mut out = Out::new();
    if settings.json {
        out.json("explained", &story.head)?;
        story.events.iter().try_for_each(|event| out.json("event", event))?;
        story.findings.iter().try_for_each(|finding| out.json("finding", finding))?;
    } else {
        print(&mut out, &story)?;
    }
    out.flush()?;
    Ok(story.exit)
}

/// The replicas whose directories are in this one, in order of name.
pub(super) fn below(data_dir: &Path) -> Result<Vec<PathBuf>, Stop> {
    let failed = |error: std::io::Error| {
        let directory = data_dir.display();
        Stop::new(Exit::Io, format!("cannot read {directory}: {error}; name replicas, or their --data-dir"))
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data_dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if ["catalog-", "order-"].iter().any(|role| name.starts_with(role)) && path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() {
        let directory = data_dir.display();
        return Err(Stop::new(
            Exit::Usage,
            format!("{directory} has no replicas; name some, or their --data-dir"),
        ));
    }
    Ok(found)
}

fn print(out: &mut Out, story: &Story) -> Result<(), Stop> {
    let Head { order, key, book, title, quantity, price_cents, position, .. } = &story.head;
    if let Some(key) = key {
        let order = order.map_or_else(|| "no order".into(), |order| format!("order {order}"));
        let mut line = format!("{order}, key {key:?}");
        if let (Some(book), Some(quantity)) = (book, quantity) {
            let title = title.as_ref().map_or_else(String::new, |title| format!(" {title:?}"));
            line.push_str(&format!(": {quantity} of book {book}{title}"));
        }
        if let Some(price) = price_cents {
            line.push_str(&format!(" at {}", super::wal::out::money(*price)));
        }
        if let Some(position) = position {
            line.push_str(&format!(", sale {position}"));
        }
        out.line(line)?;
        out.line("")?;
    }
    if !story.events.is_empty() {
        out.line(format_args!(
            "{:<12}  {:<7}  {:>8}  {:>5}  {:<24}  {:>10}  WHAT",
            "STEP", "GROUP", "INDEX", "TERM", "TIME", "AFTER"
        ))?;
    }
    let number = |number: &Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
    for Event { step, group, index, term, time, after_ms, what, .. } in &story.events {
        let (index, term, time) = (number(index), number(term), time.as_deref().unwrap_or("-"));
        let after = after_ms.map_or_else(|| "-".into(), seconds);
        out.cut(format_args!(
            "{step:<12}  {group:<7}  {index:>8}  {term:>5}  {time:<24}  {after:>10}  {what}"
        ))?;
    }
    if story.events.iter().any(|event| event.step == "told") {
        out.line("")?;
        out.line("told, if the answer arrived; if not, 504: the outcome is unknown, ask again with the key")?;
    }
    story.findings.iter().try_for_each(|finding| out.line(&finding.what))
}

/// A time from another one, with its sign.
fn seconds(ms: i64) -> String {
    let sign = if ms < 0 { '-' } else { '+' };
    format!("{sign}{}.{:03} s", ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000)
}
