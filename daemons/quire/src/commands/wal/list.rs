//! `quire wal list`: entries, one a line.

use clap::Args;
use kit::exit::Exit;

use super::entries::{self, Entries, Shown};
use super::filter::Filter;
use super::group::ReplicaSettings;
use super::out::{Out, Stop};

/// Flags of `quire wal list`.
#[derive(Debug, Args)]
pub(super) struct ListSettings {
    /// Which one.
    #[command(flatten)]
    replica: ReplicaSettings,
    #[command(flatten)]
    filter: Filter,
    /// Say what became of each entry, by a replay from the first one
    #[arg(long)]
    outcome: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(settings: &ListSettings) -> Result<Exit, Stop> {
    let opened = settings.replica.open()?;
    let filter = &settings.filter;
    filter.check(opened.group)?;
    let bounds = opened.bounds()?;
    let effects = settings.outcome || filter.needs_replay(&opened);
    let mut entries = Entries::new(&opened, &bounds, filter.range(&bounds), effects)?;
    let mut out = Out::new();
    let mut exit = Exit::Ok;
    if !settings.json {
        entries::print_head(&mut out)?;
    }
    while let Some(shown) = entries.next()? {
        match &shown {
            Shown::Entry(line) if !filter.takes(line) => continue,
            Shown::Entry(_) => {}
            Shown::Damage { .. } => exit = Exit::Damaged,
        }
        entries::print(&mut out, &shown, settings.json)?;
    }
    out.flush()?;
    Ok(exit)
}
