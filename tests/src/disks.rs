//! What the replicas of a store that is not running have on disk, each held against the others and against a replay.

use std::path::{Path, PathBuf};

use wal::inspect::{self, Bounds, Directory, Replay};
use wal::meta::Applied;
use wal::{StateMachine, log};

use crate::store::{CATALOG_IDS, ORDER_IDS};

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closely {
    /// At what a crash may have broken.
    Ends,
    /// At every entry and every value, too.
    All,
}

/// What was found, of the replicas of both groups.
#[derive(Debug, Clone, Copy, Default)]
pub struct Looked {
    /// Entries in the longest log of the catalog.
    pub catalog: u64,
    /// Entries in the longest log of the order group.
    pub order: u64,
}

/// Looks at the directories of all six replicas below `data`: logs that agree as far as they are committed, states that
/// are what a replay of the log makes of it, and, of the catalog, every entry up to `newest` on a majority of disks.
///
/// # Errors
/// In words: what differs.
pub fn look(data: &Path, newest: u64, closely: Closely) -> Result<Looked, String> {
    let paths = |role: &str, ids: [u64; 3]| ids.map(|id| data.join(format!("{role}-{id}")));
    Ok(Looked {
        catalog: group(&paths("catalog", CATALOG_IDS), catalog::machine::Catalog, newest, closely)?,
        order: group(&paths("order", ORDER_IDS), order::machine::Orders, 0, closely)?,
    })
}

/// A replica's directory, and what it says of itself.
struct Replica {
    path: PathBuf,
    directory: Directory,
    bounds: Bounds,
}

fn group<M: StateMachine>(
    paths: &[PathBuf],
    machine: M,
    newest: u64,
    closely: Closely,
) -> Result<u64, String> {
    let tables = machine.tables();
    let open = |path: &PathBuf| -> Result<Replica, String> {
        let directory =
            Directory::open(path, |_| tables).map_err(|error| format!("{}: {error}", path.display()))?;
        let bounds = inspect::bounds(&directory).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Replica { path: path.clone(), directory, bounds })
    };
    let mut replicas = paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let having = replicas.iter().filter(|replica| replica.bounds.last >= newest).count();
    if having <= replicas.len() / 2 {
        let lasts: Vec<u64> = replicas.iter().map(|replica| replica.bounds.last).collect();
        return Err(format!(
            "lost: a client was told of entry {newest}, and the logs in {} and beside it end at {lasts:?}",
            paths[0].display()
        ));
    }
    agree(&replicas)?;
    replicas.sort_by_key(|replica| replica.bounds.applied.index);
    replayed(&replicas, machine)?;
    if closely == Closely::All {
        replicas.iter().try_for_each(|replica| every_byte::<M>(replica, tables))?;
    }
    Ok(replicas.iter().map(|replica| replica.bounds.last).max().unwrap_or_default())
}

/// Whatever two replicas both call committed is the same in both.
fn agree(replicas: &[Replica]) -> Result<(), String> {
    for pair in replicas.windows(2) {
        let index = pair.iter().map(|replica| replica.bounds.hard.commit).min().unwrap_or_default();
        if index == 0 {
            continue;
        }
        let chain = |replica: &Replica| {
            use wal::store::Source as _;
            let read = replica.directory.begin().and_then(|txn| log::read(&*txn, index));
            read.map(|(_, chain)| chain).map_err(|error| replica.failed(error))
        };
        if chain(&pair[0])? != chain(&pair[1])? {
            let [one, other] = [&pair[0], &pair[1]].map(|replica| replica.path.display().to_string());
            return Err(format!(
                "{one} and {other} differ at or before entry {index}, which both call committed"
            ));
        }
    }
    Ok(())
}

/// The state of each is that of the log at its index. `replicas` come in the order of theirs.
fn replayed<M: StateMachine>(replicas: &[Replica], machine: M) -> Result<(), String> {
    let mut replay = Replay::new(machine);
    for replica in replicas {
        let Applied { index, hash, .. } = replica.bounds.applied;
        let step = inspect::verify_replay(&replica.directory, &mut replay, index, &mut |_| {});
        step.map_err(|error| replica.failed(error))?
            .map_err(|finding| replica.failed(format!("{:?}: {}", finding.index, finding.what)))?;
        let applied = replay.applied();
        if (applied.index, applied.hash) != (index, hash) {
            return Err(replica.failed(format!(
                "its state after entry {index} hashes to {hash:032x}, a replay to {:032x} after {}",
                applied.hash, applied.index
            )));
        }
    }
    Ok(())
}

/// Every entry of the log and every value of the state is what was written.
fn every_byte<M: StateMachine>(replica: &Replica, tables: &[wal::Table]) -> Result<(), String> {
    let log = inspect::verify_log(&replica.directory, &mut |_| {}).map_err(|error| replica.failed(error))?;
    log.map_err(|finding| replica.failed(format!("{:?}: {}", finding.index, finding.what)))?;
    let state = inspect::verify_state::<M>(&replica.directory, tables, None);
    let state = state.map_err(|error| replica.failed(error))?;
    state.map(drop).map_err(|finding| replica.failed(format!("{:?}: {}", finding.index, finding.what)))
}

impl Replica {
    fn failed(&self, what: impl std::fmt::Display) -> String {
        format!("{}: {what}", self.path.display())
    }
}
