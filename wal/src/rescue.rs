//! For an operator: what can be done with data directories when a group cannot help itself.
//!
//! `survey` says what a directory holds. `rescue` makes it the whole of a new group, when the majority of the old one is
//! gone for ever: all that is in its log counts as committed, the cluster id is another one, so that nodes of the old group
//! that come back are refused. Only changes of the members that were under way are undone: there are no such members any
//! more, but what was written after them may have been acknowledged. What the lost ones had acknowledged and this one has
//! not is lost, and nobody can say how much that is. `set_aside` moves a directory that its group refuses out of the way,
//! so that its daemon comes back blank and is admitted anew; nothing is ever deleted.
//!
//! All of it takes the directory's lock: the daemon must not run.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::data_dir::{DataDir, DirError, Identity};
use crate::entry::{Class, Command, Entry, Stamp};
use crate::error::{Diverged, Error, Result};
use crate::inspect::OpenError;
use crate::log::{self, Log};
use crate::meta::{self, Applied, ClusterId, Formation, HardState, Mark, Membership};
use crate::store::{LOG, Lmdb, META, Read, Store, Table, Write};

/// Directories that were set aside beside one that is in use, at most; then somebody should look at them.
pub const ASIDE_MAX: u32 = 8;
/// Address space beside twice what a store takes: a log may be written anew here.
const MAP_BYTES_MORE: u64 = 1 << 30;
/// Entries that are written anew at once.
const BATCH: usize = 256;

/// What a directory holds.
#[derive(Debug, Clone)]
pub struct Survivor {
    /// Whose it is.
    pub identity: Identity,
    /// Its node id, as a number.
    pub node: u64,
    /// The group, if it is part of one.
    pub formation: Option<Formation>,
    /// Its members, as far as entries are applied here.
    pub membership: Membership,
    /// Its newest term, its vote, and how far it knows entries to be committed.
    pub hard: HardState,
    /// How far its state is.
    pub applied: Applied,
    /// The last entry of its log.
    pub last: Mark,
    /// The checkpoint that its state did not agree with, if there was one.
    pub diverged: Option<Diverged>,
}

/// A directory, opened for such work.
pub struct Patient {
    // Before the directory, whose lock goes last.
    store: Lmdb,
    survivor: Survivor,
    _directory: DataDir,
}

impl Patient {
    /// Opens a directory whose daemon does not run; `tables` says which tables the state machine of a role has.
    ///
    /// # Errors
    /// When it is none of ours, in use, or cannot be read.
    pub fn open(
        path: &Path,
        tables: impl FnOnce(&Identity) -> &'static [Table],
    ) -> std::result::Result<Patient, OpenError> {
        let identity = Identity::read(path)?;
        let directory = DataDir::open(path, &identity.role, identity.process)?;
        let length = fs::metadata(path.join("data.mdb")).map_or(0, |data| data.len());
        // The file may end within a page: its daemon was killed while it allocated space.
        let map_bytes = (2 * length).next_multiple_of(MAP_BYTES_MORE) + MAP_BYTES_MORE;
        let map_bytes = usize::try_from(map_bytes).unwrap_or(usize::MAX);
        let tables: Vec<Table> = [LOG, META].iter().chain(tables(&identity)).copied().collect();
        let store = Lmdb::open(path, &tables, map_bytes)?;
        let survivor = survey(&*store.read()?, identity, directory.node())?;
        Ok(Patient { store, survivor, _directory: directory })
    }

    /// What it holds.
    pub fn survivor(&self) -> &Survivor {
        &self.survivor
    }

    /// Its state.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn read(&self) -> Result<Box<dyn Read + '_>> {
        Store::read(&self.store)
    }

    /// Makes it the whole of a new group with this id. Everything in its log counts as committed, but for changes of the
    /// members that its state has not seen; then come `commands`, for the state machine to know that it was rescued. The
    /// other members by configuration are admitted as they come, blank.
    ///
    /// # Errors
    /// When it belongs to no group, its state is known to be wrong, or it cannot be read or written.
    pub fn rescue(&mut self, cluster: ClusterId, commands: Vec<Command>) -> Result<Rescued> {
        let survivor = &self.survivor;
        if let Some(diverged) = survivor.diverged {
            return Err(Error::Diverged(diverged));
        }
        let Some(old) = &survivor.formation else {
            return Err(Error::Engine(
                "this directory belongs to no group: there is nothing to rescue".into(),
            ));
        };
        let mut txn = self.store.write()?;
        let mut log = Log::open(&*txn)?;
        let undone = self.undo_changes(&mut *txn, &mut log)?;
        let kept = log.last().index;
        let term = survivor.hard.term.max(survivor.last.term) + 1;
        let stamp = Stamp { wall_ms: 0, log_ms: log.last().log_ms };
        let entries = std::iter::once(nothing()).chain(commands).zip(kept + 1..);
        let entries: Vec<Entry> = entries
            .map(|(command, index)| Entry { index, term, stamp, class: Class::Normal, command })
            .collect();
        log.append(&mut *txn, &entries)?;
        let name = (survivor.identity.process, survivor.node);
        let formation = Formation { cluster, members: old.members, voters: vec![name] };
        let membership =
            Membership { index: survivor.membership.index, ..Membership::formed(&formation.voters) };
        meta::replace_formation(&mut *txn, &formation)?;
        meta::set_membership(&mut *txn, &membership)?;
        meta::set_hard_state(&mut *txn, &HardState { term, vote: 0, commit: log.last().index })?;
        txn.commit()?;
        Ok(Rescued { kept, undone, term })
    }

    /// Puts an empty entry in the place of every change of the members that is not applied yet, committed or not: the group
    /// is to be this node alone. What comes after the first of them is appended anew, because its chain is another one.
    /// Says how many there were.
    fn undo_changes(&self, txn: &mut dyn Write, log: &mut Log) -> Result<u64> {
        // As it was committed last, whatever is written meanwhile.
        let old = self.store.read()?;
        let mut undone = 0;
        let mut batch = Vec::new();
        let mut written = Ok(());
        log::scan(&*old, self.survivor.applied.index + 1, &mut |mut entry, _| {
            if entry.class == Class::Membership {
                (entry.class, entry.command) = (Class::Normal, nothing());
                undone += 1;
            }
            if undone > 0 {
                batch.push(entry);
            }
            if batch.len() < BATCH {
                return ControlFlow::Continue(());
            }
            written = log.append(txn, &std::mem::take(&mut batch));
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        written?;
        log.append(txn, &batch)?;
        Ok(undone)
    }
}

/// What the engine's own empty entry holds.
fn nothing() -> Command {
    Command { kind: 0, version: 0, payload: Vec::new() }
}

/// What a rescue kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rescued {
    /// Index of the last entry that was kept.
    pub kept: u64,
    /// Changes of the members that are in the log, were not in the state, and will not come about.
    pub undone: u64,
    /// The term in which the new group begins.
    pub term: u64,
}

fn survey(txn: &dyn Read, identity: Identity, node: u64) -> Result<Survivor> {
    Ok(Survivor {
        identity,
        node,
        formation: meta::formation(txn)?,
        membership: meta::membership(txn)?.unwrap_or_default(),
        hard: meta::hard_state(txn)?,
        applied: meta::applied(txn)?,
        last: Log::open(txn)?.last(),
        diverged: meta::diverged(txn)?,
    })
}

/// Moves a directory to `<path>.refused-<n>`, with the first number that is free, and returns that path.
///
/// # Errors
/// When it is none of ours, in use, cannot be moved, or `ASIDE_MAX` were set aside already.
pub fn set_aside(path: &Path) -> std::result::Result<PathBuf, DirError> {
    let identity = Identity::read(path)?;
    let directory = DataDir::open(path, &identity.role, identity.process)?;
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".refused-{number}"));
        PathBuf::from(name)
    };
    let Some(aside) = (1..=ASIDE_MAX).map(name).find(|path| !path.exists()) else {
        return Err(DirError::CannotCreate {
            path: name(ASIDE_MAX + 1),
            cause: std::io::Error::other(format!(
                "{ASIDE_MAX} directories were set aside before; look at them, and remove those that nobody needs"
            )),
        });
    };
    let moved = fs::rename(path, &aside).and_then(|()| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    });
    drop(directory);
    moved.map(|()| aside).map_err(|cause| DirError::Io { path: path.into(), cause })
}
