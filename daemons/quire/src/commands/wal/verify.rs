//! `quire wal verify`: whether a log is what was written, and the state what follows from it.

use std::time::{Duration, Instant};

use ::wal::StateMachine;
use ::wal::inspect::{self, Bounds, Finding, LogReport, Replay};
use ::wal::meta::Applied;
use catalog::machine::Catalog;
use clap::Args;
use kit::exit::Exit;
use kit::pace::Pace;
use order::machine::Orders;
use serde::Serialize;

use super::bar::Bar;
use super::group::{Group, Opened, ReplicaSettings};
use super::out::{Out, Stop};

/// MiB per second beside a daemon, unless something else is wanted.
const RATE_MIB_S: u32 = 8;

/// Flags of `quire wal verify`.
#[derive(Debug, Args)]
pub(super) struct VerifySettings {
    /// Which one.
    #[command(flatten)]
    replica: ReplicaSettings,
    /// Check the log only: records, order, terms and chain, but not the state by a replay
    #[arg(long)]
    log_only: bool,
    /// MiB of log per second to read, and to replay, at the most; 0: as fast as it goes [default: 8 where its daemon
    /// runs, else 0]
    #[arg(long, value_name = "MIB_S")]
    rate: Option<u32>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl VerifySettings {
    fn pace(&self, opened: &Opened) -> Pace {
        let usual = || if opened.seems_in_use() { RATE_MIB_S } else { 0 };
        Pace::new(u64::from(self.rate.unwrap_or_else(usual)) << 20)
    }
}

/// How far a step is: shown, and no faster than it may be.
struct Progress<'p> {
    bar: Bar,
    pace: &'p Pace,
    bytes: u64,
}

impl<'p> Progress<'p> {
    fn new(step: &'static str, bytes: u64, pace: &'p Pace) -> Progress<'p> {
        Progress { bar: Bar::new(step, bytes), pace, bytes: 0 }
    }

    /// It has come so far. No transaction is open: a walk copies what it reads.
    fn at(&mut self, bytes: u64) {
        self.bar.at(bytes);
        // The few entries that are not committed may be read again.
        self.pace.done(bytes.saturating_sub(self.bytes));
        self.bytes = bytes;
    }
}

/// What was checked, in the schema.
#[derive(Serialize, Default)]
struct Verdict {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    bad_index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<String>,
    first: u64,
    last: u64,
    entries: u64,
    bytes: u64,
    terms: u64,
    chain: Option<String>,
    applied: Option<u64>,
    state_hash: Option<String>,
    log_seconds: f64,
    replay_seconds: Option<f64>,
    state_seconds: Option<f64>,
}

pub(super) fn run(settings: &VerifySettings) -> Result<Exit, Stop> {
    // It takes a processor for as long as it lasts, and the daemon beside it has customers.
    kit::background::stand_back();
    let opened = settings.replica.open()?;
    let mut out = Out::new();
    let mut verdict = Verdict::default();
    let finding = check(settings, &opened, &mut verdict, &mut out)?;
    verdict.ok = finding.is_none();
    if settings.json {
        verdict.bad_index = finding.as_ref().and_then(|finding| finding.index);
        verdict.found = finding.as_ref().map(|finding| finding.what.clone());
        out.json("verify", &verdict)?;
    }
    out.flush()?;
    match finding {
        None => Ok(Exit::Ok),
        Some(Finding { index, what }) => {
            let path = opened.path.display();
            let message = match index {
                Some(index) => format!("{path}: damaged at index {index}: {what}"),
                None => format!("{path}: damaged: {what}"),
            };
            Err(Stop::new(Exit::Damaged, message))
        }
    }
}

/// All steps, up to the first finding.
fn check(
    settings: &VerifySettings,
    opened: &Opened,
    verdict: &mut Verdict,
    out: &mut Out,
) -> Result<Option<Finding>, Stop> {
    let bounds = opened.bounds()?;
    (verdict.first, verdict.last) = (bounds.first(), bounds.last);
    let pace = settings.pace(opened);
    let mut progress = Progress::new("log", opened.room().used, &pace);
    let start = Instant::now();
    let step = inspect::verify_log(opened.source(), &mut |bytes| progress.at(bytes));
    let took = start.elapsed();
    progress.bar.end();
    verdict.log_seconds = took.as_secs_f64();
    let report = match step.map_err(|error| opened.failed(error))? {
        Ok(report) => report,
        Err(finding) => return Ok(Some(finding)),
    };
    let LogReport { entries, bytes, terms, last } = report;
    (verdict.entries, verdict.bytes, verdict.terms) = (entries, bytes, terms);
    (verdict.last, verdict.chain) = (last.index, Some(hex::encode(last.chain)));
    if !settings.json {
        let (first, last) = (bounds.first(), last.index);
        let rate = rate(bytes, took);
        out.line(format_args!(
            "log     {entries} entries, {first}..={last}, {terms} terms, {bytes} bytes{rate}"
        ))?;
    }
    if settings.log_only {
        return Ok(None);
    }
    match opened.group {
        Group::Catalog => check_state(settings, opened, &bounds, Catalog, verdict, out),
        Group::Order => check_state(settings, opened, &bounds, Orders, verdict, out),
    }
}

fn check_state<M: StateMachine>(
    settings: &VerifySettings,
    opened: &Opened,
    bounds: &Bounds,
    machine: M,
    verdict: &mut Verdict,
    out: &mut Out,
) -> Result<Option<Finding>, Stop> {
    let mut replay = (bounds.start.index == 0).then(|| Replay::new(machine));
    if let Some(replay) = &mut replay {
        let pace = settings.pace(opened);
        let mut progress = Progress::new("replay", verdict.bytes, &pace);
        let start = Instant::now();
        let to = bounds.applied.index;
        let step = inspect::verify_replay(opened.source(), replay, to, &mut |bytes| progress.at(bytes));
        let took = start.elapsed();
        progress.bar.end();
        verdict.replay_seconds = Some(took.as_secs_f64());
        if let Err(finding) = step.map_err(|error| opened.failed(error))? {
            return Ok(Some(finding));
        }
        if !settings.json {
            let hash = replay.applied().hash;
            out.line(format_args!("replay  through {to}, state {hash:032x}{}", rate(verdict.bytes, took)))?;
        }
    } else if !settings.json {
        let first = bounds.first();
        out.line(format_args!(
            "replay  not possible: the log begins at {first}, what was before is compacted away"
        ))?;
    }
    if opened.is_remote() {
        return check_noted(settings, bounds, replay.as_ref(), verdict, out);
    }
    let start = Instant::now();
    let step = inspect::verify_state(opened.source(), opened.group.tables(), replay.as_mut());
    verdict.state_seconds = Some(start.elapsed().as_secs_f64());
    match step.map_err(|error| opened.failed(error))? {
        Err(finding) => Ok(Some(finding)),
        Ok(Applied { index, hash, .. }) => {
            verdict.applied = Some(index);
            verdict.state_hash = Some(format!("{hash:032x}"));
            if !settings.json {
                let same = if replay.is_some() { "the same as stored" } else { "as noted" };
                out.line(format_args!("state   through {index}, state {hash:032x}, {same}"))?;
            }
            Ok(None)
        }
    }
}

/// A daemon shows its log, not its state: the replay is compared with the hash that it notes.
fn check_noted<M: StateMachine>(
    settings: &VerifySettings,
    bounds: &Bounds,
    replay: Option<&Replay<M>>,
    verdict: &mut Verdict,
    out: &mut Out,
) -> Result<Option<Finding>, Stop> {
    let Applied { index, hash, .. } = bounds.applied;
    if let Some(replayed) = replay.map(|replay| replay.applied().hash).filter(|replayed| *replayed != hash) {
        let what =
            format!("a replay through {index} hashes to {replayed:032x}, the daemon notes {hash:032x}");
        return Ok(Some(Finding { index: None, what }));
    }
    verdict.applied = Some(index);
    verdict.state_hash = Some(format!("{hash:032x}"));
    if !settings.json {
        let same = if replay.is_some() { "the same as" } else { "as" };
        out.line(format_args!(
            "state   through {index}, state {hash:032x}, {same} the daemon notes; its values are not read from a URL"
        ))?;
    }
    Ok(None)
}

/// Fewest bytes that say something about a rate.
const RATE_BYTES_MIN: u64 = 1 << 20;

/// Bytes per second, for what is large enough to tell.
fn rate(bytes: u64, took: Duration) -> String {
    match took.as_secs_f64() {
        seconds if bytes >= RATE_BYTES_MIN && seconds > 0.0 => {
            format!(", {:.0} MB/s", bytes as f64 / seconds / 1e6)
        }
        _ => String::new(),
    }
}
