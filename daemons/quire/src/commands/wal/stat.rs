//! `quire wal stat`: how many entries of which kind, how large, how fast.

use ::wal::inspect::Walk;
use clap::Args;
use kit::exit::Exit;
use serde::Serialize;
use std::collections::BTreeMap;

use super::group::{Opened, ReplicaSettings};
use super::out::{Out, Stop, time};

/// Flags of `quire wal stat`.
#[derive(Debug, Args)]
pub(super) struct StatSettings {
    /// Which one.
    #[command(flatten)]
    replica: ReplicaSettings,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Stat {
    role: String,
    process: u64,
    node: String,
    cluster: Option<String>,
    first: Option<End>,
    last: Option<End>,
    entries: u64,
    damaged: u64,
    bytes: u64,
    terms: u64,
    /// Wall time from the first to the last command.
    span_ms: Option<u64>,
    entries_per_second: Option<f64>,
    bytes_per_second: Option<f64>,
    largest: Option<Largest>,
    kinds: BTreeMap<String, Kind>,
    commit: u64,
    applied: u64,
    state_hash: String,
    store_used_bytes: u64,
    store_bound_bytes: u64,
}

#[derive(Serialize, Clone)]
struct End {
    index: u64,
    term: u64,
    time: Option<String>,
    chain: String,
}

#[derive(Serialize)]
struct Largest {
    index: u64,
    kind: String,
    bytes: u64,
}

#[derive(Serialize, Default)]
struct Kind {
    entries: u64,
    bytes: u64,
}

pub(super) fn run(settings: &StatSettings) -> Result<Exit, Stop> {
    let opened = settings.replica.open()?;
    let stat = count(&opened)?;
    let mut out = Out::new();
    if settings.json {
        out.json("stat", &stat)?;
    } else {
        print(&mut out, &stat)?;
    }
    out.flush()?;
    Ok(if stat.damaged > 0 { Exit::Damaged } else { Exit::Ok })
}

fn count(opened: &Opened) -> Result<Stat, Stop> {
    let bounds = opened.bounds()?;
    let identity = opened.identity();
    let room = opened.room();
    let mut stat = Stat {
        role: identity.role.clone(),
        process: identity.process,
        node: identity.node.clone(),
        cluster: bounds.formation.as_ref().map(|formation| hex::encode(formation.cluster)),
        first: None,
        last: None,
        entries: 0,
        damaged: 0,
        bytes: 0,
        terms: 0,
        span_ms: None,
        entries_per_second: None,
        bytes_per_second: None,
        largest: None,
        kinds: BTreeMap::new(),
        commit: bounds.hard.commit,
        applied: bounds.applied.index,
        state_hash: format!("{:032x}", bounds.applied.hash),
        store_used_bytes: room.used,
        store_bound_bytes: room.bound,
    };
    let mut walls: Option<(u64, u64)> = None;
    let mut newest_term = None;
    // One word per kind, not one per entry.
    let mut words: BTreeMap<(bool, u8), String> = BTreeMap::new();
    let mut walk = Walk::new(opened.source(), bounds.first(), bounds.last);
    while let Some(found) = walk.advance().map_err(|error| opened.failed(error))? {
        let Ok(record) = found.record else {
            stat.damaged += 1;
            continue;
        };
        let bytes = record.size() as u64;
        let key = (record.class == ::wal::entry::Class::Normal, record.kind);
        let word = words.entry(key).or_insert_with(|| opened.group.kind(record.class, record.kind));
        match stat.kinds.get_mut(word) {
            Some(kind) => (kind.entries, kind.bytes) = (kind.entries + 1, kind.bytes + bytes),
            None => drop(stat.kinds.insert(word.clone(), Kind { entries: 1, bytes })),
        }
        stat.entries += 1;
        stat.bytes += bytes;
        stat.terms += u64::from(newest_term != Some(record.term));
        newest_term = Some(record.term);
        if stat.largest.as_ref().is_none_or(|largest| bytes > largest.bytes) {
            stat.largest = Some(Largest { index: record.index, kind: word.clone(), bytes });
        }
        let end = || End {
            index: record.index,
            term: record.term,
            time: time(record.stamp.wall_ms),
            chain: hex::encode(record.chain),
        };
        if stat.first.is_none() {
            stat.first = Some(end());
        }
        if record.index == bounds.last {
            stat.last = Some(end());
        }
        if record.stamp.wall_ms > 0 {
            let wall_ms = record.stamp.wall_ms;
            walls = Some(walls.map_or((wall_ms, wall_ms), |(a, b)| (a.min(wall_ms), b.max(wall_ms))));
        }
    }
    if let Some((from, to)) = walls {
        let span_ms = to - from;
        stat.span_ms = Some(span_ms);
        if span_ms > 0 {
            let per_second = |count: u64| (count as f64 * 1000.0 / span_ms as f64 * 10.0).round() / 10.0;
            stat.entries_per_second = Some(per_second(stat.entries));
            stat.bytes_per_second = Some(per_second(stat.bytes));
        }
    }
    Ok(stat)
}

fn print(out: &mut Out, stat: &Stat) -> Result<(), Stop> {
    let mut field = |name: &str, value: String| out.cut(format_args!("{name:<12}{value}"));
    let end = |end: &Option<End>| match end {
        Some(End { index, term, time, .. }) => {
            format!("{index}, term {term}, {}", time.as_deref().unwrap_or("no time"))
        }
        None => "none".into(),
    };
    field("replica", format!("{} {}, node {}", stat.role, stat.process, stat.node))?;
    field("group", stat.cluster.clone().unwrap_or_else(|| "none".into()))?;
    field("first", end(&stat.first))?;
    field("last", end(&stat.last))?;
    field("entries", format!("{} in {} terms", stat.entries, stat.terms))?;
    if stat.damaged > 0 {
        field("damaged", format!("{}; quire wal verify names the first", stat.damaged))?;
    }
    field("bytes", stat.bytes.to_string())?;
    if let (Some(span), Some(entries), Some(bytes)) =
        (stat.span_ms, stat.entries_per_second, stat.bytes_per_second)
    {
        let span = humantime::format_duration(std::time::Duration::from_millis(span));
        field("rate", format!("{entries}/s, {bytes} B/s over {span}"))?;
    }
    if let Some(Largest { index, kind, bytes }) = &stat.largest {
        field("largest", format!("{index}, {kind}, {bytes} bytes"))?;
    }
    field("commit", stat.commit.to_string())?;
    field("applied", format!("{}, state {}", stat.applied, stat.state_hash))?;
    if let Some(End { chain, .. }) = &stat.last {
        field("chain", chain.clone())?;
    }
    field("store", format!("{} of {} bytes used", stat.store_used_bytes, stat.store_bound_bytes))?;
    out.line("")?;
    out.line(format_args!("{:<18}  {:>10}  {:>12}  {:>10}", "KIND", "ENTRIES", "BYTES", "BYTES EACH"))?;
    for (word, Kind { entries, bytes }) in &stat.kinds {
        out.line(format_args!("{word:<18}  {entries:>10}  {bytes:>12}  {:>10}", bytes / entries))?;
    }
    Ok(())
}
