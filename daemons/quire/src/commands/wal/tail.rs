//! `quire wal tail`: the newest entries, and those that come.

use std::collections::VecDeque;
use std::time::Duration;

use ::wal::entry::{Chain, Record};
use ::wal::inspect;
use clap::Args;
use kit::exit::Exit;
use serde::Serialize;

use super::entries::{self, Entries, Shown};
use super::filter::Filter;
use super::group::{Opened, ReplicaSettings};
use super::out::{Out, Stop};

/// Pause between two looks for new entries.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Entries that were shown and are remembered, to notice when the log's end is replaced.
const REMEMBERED_MAX: usize = 4_096;

/// Flags of `quire wal tail`.
#[derive(Debug, Args)]
pub(super) struct TailSettings {
    /// Which one.
    #[command(flatten)]
    replica: ReplicaSettings,
    /// How many of the newest entries to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    lines: u64,
    /// Go on with those that come, until stopped
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    filter: Filter,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// The end of the log was replaced, in the schema.
#[derive(Serialize)]
struct Replaced {
    from: u64,
}

pub(super) fn run(settings: &TailSettings) -> Result<Exit, Stop> {
    let opened = settings.replica.open()?;
    settings.filter.check(opened.group)?;
    if settings.filter.needs_replay(&opened) {
        return Err(Stop::new(
            Exit::Usage,
            "tail --order: order numbers take a replay; use quire wal list --order",
        ));
    }
    let bounds = opened.bounds()?;
    let (from, to) = settings.filter.range(&bounds);
    let from = from.max((to + 1).saturating_sub(settings.lines));
    let mut tail =
        Tail { settings, opened: &opened, out: Out::new(), shown: VecDeque::new(), exit: Exit::Ok };
    if !settings.json {
        entries::print_head(&mut tail.out)?;
    }
    let mut next = tail.show(from, to)?;
    if !settings.follow {
        return Ok(tail.exit);
    }
    let mut silent = false;
    loop {
        std::thread::sleep(LOOK_EVERY);
        match tail.go_on(next) {
            Ok(index) => (next, silent) = (index, false),
            // A daemon that is restarted comes back, as a directory stays.
            Err(Stop::Failed(failure)) if opened.is_remote() && failure.exit == Exit::Unavailable => {
                if !silent {
                    eprintln!("quire wal: {failure}; waiting for it");
                }
                silent = true;
                next = tail.shown.back().map_or(next, |(index, _)| next.max(index + 1));
            }
            Err(stop) => return Err(stop),
        }
    }
}

struct Tail<'s> {
    settings: &'s TailSettings,
    opened: &'s Opened,
    out: Out,
    /// Index and chain of the entries that were gone through last.
    shown: VecDeque<(u64, Chain)>,
    exit: Exit,
}

impl Tail<'_> {
    /// Shows the entries of this range; returns the index after the last one that there was.
    fn show(&mut self, from: u64, to: u64) -> Result<u64, Stop> {
        let bounds = self.opened.bounds()?;
        let mut entries = Entries::new(self.opened, &bounds, (from, to), false)?;
        let mut next = from;
        while let Some(shown) = entries.next()? {
            match &shown {
                Shown::Entry(line) => {
                    next = line.entry.index + 1;
                    self.shown.push_back((line.entry.index, line.chain));
                    if self.shown.len() > REMEMBERED_MAX {
                        self.shown.pop_front();
                    }
                    if !self.settings.filter.takes(line) {
                        continue;
                    }
                }
                Shown::Damage { index, .. } => {
                    next = index + 1;
                    self.exit = Exit::Damaged;
                }
            }
            entries::print(&mut self.out, &shown, self.settings.json)?;
        }
        self.out.flush()?;
        Ok(next)
    }

    /// Shows what has come since; returns the index after it.
    fn go_on(&mut self, next: u64) -> Result<u64, Stop> {
        let bounds = self.opened.bounds()?;
        let (_, to) = self.settings.filter.range(&bounds);
        let newest = self.shown.back().copied();
        let mut replaced = None;
        while let Some((index, chain)) = self.shown.back().copied() {
            if self.chain(index)? == Some(chain) {
                break;
            }
            self.shown.pop_back();
            replaced = Some(index);
        }
        let Some(from) = replaced.filter(|_| newest.is_some()) else {
            return if to >= next { self.show(next, to) } else { Ok(next) };
        };
        if self.settings.json {
            self.out.json("replaced", &Replaced { from })?;
        } else {
            self.out.line(format_args!("entries from {from} on were not committed, and are replaced:"))?;
        }
        self.show(from, to)
    }

    fn chain(&self, index: u64) -> Result<Option<Chain>, Stop> {
        let bytes =
            inspect::entry_at(self.opened.source(), index).map_err(|error| self.opened.failed(error))?;
        Ok(bytes.and_then(|bytes| Some(Record::read(index, &bytes).ok()?.chain)))
    }
}
