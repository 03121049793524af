//! `quire wal show`: one entry, all of it.

use ::wal::entry::{CHAIN_START, Chain, HEADER_BYTES, Record};
use ::wal::inspect::{self, Bounds, Found};
use clap::Args;
use kit::exit::Exit;
use serde_json::Value;

use super::entries::{self, Entries, Line, Shown, class_word};
use super::group::{Opened, ReplicaSettings};
use super::out::{Out, Stop, time};

/// Flags of `quire wal show`.
#[derive(Debug, Args)]
pub(super) struct ShowSettings {
    /// Which one.
    #[command(flatten)]
    replica: ReplicaSettings,
    /// Index of the entry
    index: u64,
    /// Say what became of it, by a replay from the first entry
    #[arg(long)]
    outcome: bool,
    /// One JSON object, with the payload in hex
    #[arg(long)]
    json: bool,
}

pub(super) fn run(settings: &ShowSettings) -> Result<Exit, Stop> {
    let opened = settings.replica.open()?;
    let bounds = opened.bounds()?;
    let index = settings.index;
    let shown = match settings.outcome {
        true => Entries::new(&opened, &bounds, (index, index), true)?.next()?,
        false => {
            let bytes = inspect::entry_at(opened.source(), index).map_err(|error| opened.failed(error))?;
            let found = bytes.as_deref().map(|bytes| Found { index, record: Record::read(index, bytes) });
            let decode = |found| entries::decode(opened.group, found, bounds.hard.commit, None);
            found.map(decode).transpose().map_err(|error| opened.failed(error))?
        }
    };
    let mut out = Out::new();
    match shown {
        None => Err(absent(&opened, &bounds, index)),
        Some(shown @ Shown::Damage { .. }) => {
            entries::print(&mut out, &shown, settings.json)?;
            out.flush()?;
            Ok(Exit::Damaged)
        }
        Some(Shown::Entry(line)) => {
            if settings.json {
                out.json("entry", &line.fields(true))?;
            } else {
                let before = chain_before(&opened, &bounds, index)?;
                print(&mut out, &line, before)?;
            }
            out.flush()?;
            Ok(Exit::Ok)
        }
    }
}

/// Why there is no such entry.
pub(super) fn absent(opened: &Opened, bounds: &Bounds, index: u64) -> Stop {
    let path = opened.path.display();
    let (first, last) = (bounds.first(), bounds.last);
    if (first..=last).contains(&index) {
        return Stop::new(
            Exit::Damaged,
            format!("{path}: entry {index} is missing, the log has {first}..={last}"),
        );
    }
    if bounds.last < first {
        return Stop::new(Exit::No, format!("{path} has no entry {index}: its log is empty"));
    }
    Stop::new(Exit::No, format!("{path} has no entry {index}: its log has {first}..={last}"))
}

/// The chain before the entry, unless what is there cannot be read.
fn chain_before(opened: &Opened, bounds: &Bounds, index: u64) -> Result<Option<Chain>, Stop> {
    match index.checked_sub(1) {
        Some(before) if before == bounds.start.index => Ok(Some(bounds.start.chain)),
        Some(before) => {
            let bytes = inspect::entry_at(opened.source(), before).map_err(|error| opened.failed(error))?;
            Ok(bytes.and_then(|bytes| Some(Record::read(before, &bytes).ok()?.chain)))
        }
        None => Ok(Some(CHAIN_START)),
    }
}

fn print(out: &mut Out, line: &Line, before: Option<Chain>) -> Result<(), Stop> {
    let entry = &line.entry;
    let payload = entry.command.payload.len();
    let chain = match before.map(|before| ::wal::entry::chain(&before, entry)) {
        Some(wanted) if wanted == line.chain => "follows from the entry before".to_owned(),
        Some(wanted) => format!("WRONG: the entry before gives {}", hex::encode(wanted)),
        None => "the entry before cannot be read".to_owned(),
    };
    let mut field = |name: &str, value: String| out.cut(format_args!("{name:<14}{value}"));
    field("index", entry.index.to_string())?;
    field("term", entry.term.to_string())?;
    field("time", time(entry.stamp.wall_ms).unwrap_or_else(|| "-".into()))?;
    field("log time", format!("{} ms", entry.stamp.log_ms))?;
    field("class", class_word(entry.class).to_owned())?;
    field("kind", format!("{} ({})", line.kind(), entry.command.kind))?;
    field("version", entry.command.version.to_string())?;
    field("committed", if line.committed { "yes" } else { "not that this replica knows" }.to_owned())?;
    field("bytes", format!("{} ({HEADER_BYTES} header, {payload} payload)", HEADER_BYTES + payload))?;
    field("checksum", format!("{:08x}", line.checksum))?;
    field("chain", format!("{} ({chain})", hex::encode(line.chain)))?;
    if let Some(effect) = &line.effect {
        field("outcome", effect.to_string())?;
    }
    if let Ok(Value::Object(command)) = serde_json::to_value(&line.meaning) {
        for (name, value) in &command {
            match value {
                Value::Array(items) => {
                    out.line(format_args!("{name}"))?;
                    items.iter().try_for_each(|item| out.line(format_args!("  {item}")))?;
                }
                other => out.cut(format_args!("{name:<14}{other}"))?,
            }
        }
    }
    Ok(())
}
