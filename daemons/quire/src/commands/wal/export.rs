//! `quire wal export`: the log as JSON lines, from which `quire wal replay` makes it again.

use clap::Args;
use kit::exit::Exit;
use serde::{Deserialize, Serialize};

use super::entries::{Entries, Shown};
use super::group::{Opened, ReplicaSettings};
use super::out::{Out, Stop};

/// Flags of `quire wal export`.
#[derive(Debug, Args)]
pub(super) struct ExportSettings {
    /// Which one.
    #[command(flatten)]
    replica: ReplicaSettings,
    /// First index; a replay needs 1
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Last index; what is not committed is left out in any case
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// Say what became of each entry as well
    #[arg(long)]
    outcome: bool,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) role: String,
    pub(super) process: u64,
    pub(super) node: String,
    pub(super) cluster: Option<String>,
    /// The entries that follow.
    pub(super) first: u64,
    pub(super) last: u64,
    /// How far the stored state is, and its hash.
    pub(super) applied: u64,
    pub(super) state_hash: String,
}

pub(super) fn run(settings: &ExportSettings) -> Result<Exit, Stop> {
    let opened = settings.replica.open()?;
    let bounds = opened.bounds()?;
    let first = settings.from.unwrap_or(0).max(bounds.first());
    let last = settings.to.unwrap_or(u64::MAX).min(bounds.hard.commit).min(bounds.last);
    let identity = opened.identity();
    let head = Head {
        role: opened.group.role().into(),
        process: identity.process,
        node: identity.node.clone(),
        cluster: bounds.formation.as_ref().map(|formation| hex::encode(formation.cluster)),
        first,
        last,
        applied: bounds.applied.index,
        state_hash: format!("{:032x}", bounds.applied.hash),
    };
    let mut out = Out::new();
    out.json("export", &head)?;
    let mut next = first;
    let mut entries = Entries::new(&opened, &bounds, (first, last), settings.outcome)?;
    while let Some(shown) = entries.next()? {
        match shown {
            Shown::Entry(line) => {
                next = line.entry.index + 1;
                out.json("entry", &line.fields(true))?;
            }
            Shown::Damage { index, what } => return Err(damaged(&opened, out, index, &what)),
        }
    }
    if next <= last {
        return Err(damaged(&opened, out, next, "nothing"));
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// What is before the damage is still written.
fn damaged(opened: &Opened, mut out: Out, index: u64, what: &str) -> Stop {
    let path = opened.path.display();
    match out.flush() {
        Ok(()) => Stop::new(Exit::Damaged, format!("{path}: damaged at index {index}: {what}")),
        Err(stop) => stop,
    }
}
