//! Copying a replica's state and log into files, also while its daemon runs.

use std::fs;
use std::path::{Path, PathBuf};

use ::wal::archive::Writer;
use ::wal::error::Error;
use ::wal::inspect::{Bounds, Walk};
use ::wal::meta::Mark;
use ::wal::snapshot::{self, Flaw, Head, InFile};
use kit::exit::Exit;
use kit::pace::Pace;

use crate::commands::wal::bar::Bar;
use crate::commands::wal::group::Opened;
use crate::commands::wal::out::Stop;

/// Times that a log is read again whose beginning was compacted away meanwhile.
const TRIES: u32 = 3;

/// What was copied of one replica.
pub(super) struct Copied {
    /// What its state file is of, if there is one.
    pub(super) state: Option<Head>,
    /// The place before the first entry in its log file.
    pub(super) start: Mark,
    /// The place of the last one.
    pub(super) last: Mark,
}

/// The file of a group's state.
pub(super) fn state_file(opened: &Opened) -> String {
    format!("{}.state", opened.group.role())
}

/// The file of a group's log.
pub(super) fn log_file(opened: &Opened) -> String {
    format!("{}.log", opened.group.role())
}

/// Copies the state as it is now, in one read transaction, and checks all of it on the way.
pub(super) fn state(opened: &Opened, directory: &Path, pace: &Pace) -> Result<Option<Head>, Stop> {
    let path = directory.join(state_file(opened));
    if opened.is_remote() {
        let first = opened.bounds()?.first();
        if first > 1 {
            let url = opened.path.display();
            let message = format!(
                "{url}: its log begins at {first}, and a daemon shows its log, not its state; take the data directory"
            );
            return Err(Stop::new(Exit::No, message));
        }
        return Ok(None);
    }
    let failed = |error: Error| opened.failed(error);
    let unwritable = |what: String| Stop::new(Exit::Io, what);
    let tables = opened.group.tables();
    let txn = opened.source().begin().map_err(failed)?;
    let Some(head) = Head::of(&*txn).map_err(failed)? else { return Ok(None) };
    let bar = Bar::new("state", opened.room().used);
    let mut incoming = InFile::begin(&path, head.clone(), b"quire backup", tables).map_err(unwritable)?;
    let mut bytes = 0;
    while !incoming.is_whole() {
        let chunk = snapshot::chunk(&*txn, tables, incoming.place()).map_err(failed)?;
        let size = chunk.records.len() as u64;
        bytes += size;
        incoming.take(&chunk).map_err(|flaw: Flaw| {
            let source = opened.path.display();
            Stop::new(Exit::Damaged, format!("{source}: damaged: {flaw}: quire wal verify {source}"))
        })?;
        bar.at(bytes);
        pace.done(size);
    }
    bar.end();
    drop(txn);
    sync(&path)?;
    Ok(Some(head))
}

/// Copies the log through the commit index, and checks its order and chain on the way.
pub(super) fn log(opened: &Opened, directory: &Path, pace: &Pace) -> Result<(Mark, Mark), Stop> {
    let path = directory.join(log_file(opened));
    let mut tries = TRIES;
    loop {
        let bounds = opened.bounds()?;
        let copied = copy_log(opened, &bounds, &path, pace);
        tries -= 1;
        match copied {
            Err(_) if tries > 0 && opened.bounds()?.start.index > bounds.start.index => {}
            copied => return copied,
        }
    }
}

fn copy_log(opened: &Opened, bounds: &Bounds, path: &Path, pace: &Pace) -> Result<(Mark, Mark), Stop> {
    let failed = |error: Error| damaged_or(opened, error);
    let commit = bounds.hard.commit;
    let bar = Bar::new("log", opened.room().used);
    let mut writer = Writer::begin(path, bounds.start).map_err(failed)?;
    let mut walk = Walk::new(opened.source(), bounds.first(), commit);
    let mut bytes = 0;
    while let Some(found) = walk.advance().map_err(|error| opened.failed(error))? {
        let record = found.record.map_err(failed)?;
        writer.add(&record).map_err(failed)?;
        let size = record.size() as u64;
        bytes += size;
        bar.at(bytes);
        pace.done(size);
    }
    bar.end();
    let last = writer.last();
    if last.index < commit {
        return Err(damaged_or(opened, missing(last.index + 1)));
    }
    writer.end().map_err(|error| opened.failed(error))?;
    Ok((bounds.start, last))
}

fn missing(index: u64) -> Error {
    Error::Damaged { place: ::wal::error::Place::Entry(index), found: "nothing".into() }
}

/// How a backup ends whose source is damaged: the index is named as `quire wal verify` names it.
fn damaged_or(opened: &Opened, error: Error) -> Stop {
    match error {
        Error::Damaged { place: ::wal::error::Place::Entry(index), found } => {
            let source = opened.path.display();
            Stop::new(
                Exit::Damaged,
                format!("{source}: damaged at index {index}: {found}; take another replica"),
            )
        }
        other => opened.failed(other),
    }
}

/// Syncs a file.
pub(in crate::commands) fn sync(path: &Path) -> Result<(), Stop> {
    let synced = fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| Stop::new(Exit::Io, format!("cannot sync {}: {error}", path.display())))
}

/// The directory that a path is in.
pub(in crate::commands) fn parent(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or_else(|| ".".into(), Path::to_owned)
}
