//! A group's store made from the files of a backup: to check a backup, and to restore one.

use std::path::Path;

use ::wal::archive::Reader;
use ::wal::error::{Error, Place};
use ::wal::inspect::Making;
use ::wal::meta::Applied;
use ::wal::snapshot::InFile;
use ::wal::{Entry, StateMachine, View};
use kit::exit::Exit;
use kit::group::storage_failure;
use kit::pace::Pace;

use super::manifest::Part;
use crate::commands::wal::bar::Bar;
use crate::commands::wal::out::Stop;

/// Address space of a store, in bytes: as much as a daemon sets aside.
const MAP_BYTES: usize = 64 << 30;
/// Entries in one transaction.
const BATCH: usize = 4_096;
/// Entries in one transaction of a store that is made at a pace: a few dozen ms.
const BATCH_PACED: usize = 512;

/// What sees every state on the way; the one that it begins with comes without its entry.
pub(in crate::commands) type After<'a> =
    dyn FnMut(&Applied, Option<&Entry>, &View<'_>) -> ::wal::Result<()> + 'a;

/// What a store is made from.
pub(in crate::commands) struct From<'p> {
    /// The backup.
    pub(in crate::commands) backup: &'p Path,
    /// The file of the state, and its index.
    pub(in crate::commands) state: Option<(&'p str, u64)>,
    /// The file of the log.
    pub(in crate::commands) log: &'p str,
    /// At what pace, for a store that is only looked at; none for one that stays, as fast as it goes.
    pub(in crate::commands) pace: Option<&'p Pace>,
}

impl<'p> From<'p> {
    /// The files of a part.
    pub(in crate::commands) fn part(backup: &'p Path, part: &'p Part) -> From<'p> {
        let state = part.state.as_ref().map(|state| (state.file.name.as_str(), state.point.index));
        From { backup, state, log: &part.log.file.name, pace: None }
    }

    /// Opens the log.
    pub(in crate::commands) fn log(&self) -> Result<Reader, Stop> {
        Reader::open(&self.backup.join(self.log)).map_err(|error| self.failed(error))
    }

    /// How a command ends that met this error here.
    pub(in crate::commands) fn failed(&self, error: Error) -> Stop {
        let path = self.backup.join(self.log);
        let path = path.display();
        match error {
            Error::Damaged { place: Place::Entry(index), found } => {
                Stop::new(Exit::Damaged, format!("{path}: damaged at index {index}: {found}"))
            }
            other => {
                let failure = storage_failure(other);
                Stop::new(failure.exit, format!("{path}: {}", failure.message))
            }
        }
    }
}

/// Makes the store in `target`, an empty directory, through entry `to`. `after` sees the state that it begins with, if
/// that is one after an entry, and every state after that.
pub(in crate::commands) fn make<M: StateMachine>(
    from: &From<'_>,
    machine: M,
    target: &Path,
    to: u64,
    after: &mut After<'_>,
) -> Result<Making<M>, Stop> {
    let failed = |error: Error| from.failed(error);
    let tables = machine.tables();
    let mut reader = from.log()?;
    let (making, size) = match from.pace {
        None => (Making::new(target, machine, MAP_BYTES), BATCH),
        Some(_) => (Making::scratch(target, machine, MAP_BYTES), BATCH_PACED),
    };
    let mut making = making.map_err(failed)?;
    match from.state.filter(|(_, index)| *index <= to) {
        Some((file, _)) => {
            let path = from.backup.join(file);
            let snapshot = InFile::read(&path, tables);
            let mut snapshot = snapshot.map_err(|error| Stop::new(Exit::Damaged, error.to_string()))?;
            making.begin(&mut snapshot, &mut reader).map_err(failed)?;
            let applied = making.applied();
            making.view(|view| after(&applied, None, view)).map_err(failed)?;
        }
        None if reader.start().index > 0 => {
            let (first, log) = (reader.start().index + 1, from.log);
            let message = format!("{log} begins at {first}: what was before {to} cannot be made again");
            return Err(Stop::new(Exit::No, message));
        }
        None => {}
    }
    let bar = Bar::entries("replay", to);
    let (mut batch, mut bytes) = (Vec::with_capacity(size), 0);
    while reader.last().index < to {
        match reader.entry().map_err(failed)? {
            Some((entry, _)) => {
                bytes += entry.command.payload.len() as u64;
                batch.push(entry);
            }
            None => {
                let found =
                    Error::Damaged { place: Place::Entry(reader.last().index + 1), found: "nothing".into() };
                return Err(failed(found));
            }
        }
        if batch.len() == size || reader.last().index == to {
            making
                .add_each(&batch, &mut |applied, entry, view| after(applied, Some(entry), view))
                .map_err(failed)?;
            bar.at(reader.last().index);
            batch.clear();
            from.pace.inspect(|pace| pace.done(bytes));
            bytes = 0;
        }
    }
    bar.end();
    let hash = making.hashed().map_err(failed)?;
    let Applied { index, hash: wanted, .. } = making.applied();
    if hash != wanted {
        let log = from.backup.join(from.log);
        let message = format!(
            "{}: the state made from it hashes to {hash:032x} after entry {index}, {wanted:032x} is wanted",
            log.display()
        );
        return Err(Stop::new(Exit::Damaged, message));
    }
    Ok(making)
}
