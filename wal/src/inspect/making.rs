//! A store that is made from what was kept of another: a snapshot, the log before it, entries after it.
//!
//! Used by `Rebuild`, to look at, and by a restore, whose directories a group starts from: `belong` makes it part of one.

use std::path::Path;

use crate::agreement::Agreement;
use crate::archive::Reader;
use crate::entry::{self, Class, Command, Entry, Stamp};
use crate::error::{Error, Result};
use crate::level::NEWEST;
use crate::log::{self, Log};
use crate::meta::{self, Applied, Formation, HardState, Mark, Membership};
use crate::snapshot::Snapshot;
use crate::state_machine::{self, StateHash, StateMachine, View};
use crate::store::{LOG, Lmdb, META, Store, Table, Transaction};

/// Entries in one transaction.
const BATCH: usize = 4_096;

/// A store that is being made. After an error it is not to be used.
pub struct Making<M> {
    machine: M,
    store: Lmdb,
    log: Log,
    applied: Applied,
    agreement: Agreement,
}

impl<M: StateMachine> Making<M> {
    /// An empty store in the directory `path`, which exists and has none.
    ///
    /// # Errors
    /// When the store cannot be made.
    pub fn new(path: &Path, machine: M, map_bytes: usize) -> Result<Making<M>> {
        Making::on(Lmdb::open, path, machine, map_bytes)
    }

    /// As `new`, for a store that is only looked at and then gone: it is on no disk.
    ///
    /// # Errors
    /// As `new`.
    pub fn scratch(path: &Path, machine: M, map_bytes: usize) -> Result<Making<M>> {
        Making::on(Lmdb::scratch, path, machine, map_bytes)
    }

    fn on(
        open: impl FnOnce(&Path, &[Table], usize) -> Result<Lmdb>,
        path: &Path,
        machine: M,
        map_bytes: usize,
    ) -> Result<Making<M>> {
        let tables: Vec<Table> = [LOG, META].iter().chain(machine.tables()).copied().collect();
        let store = open(path, &tables, map_bytes)?;
        let log = Log::open(&*store.read()?)?;
        Ok(Making { machine, store, log, applied: Applied::default(), agreement: Agreement::first(NEWEST) })
    }

    /// Begins with a snapshot, and with the log up to its entry, which `history` is read for.
    ///
    /// # Errors
    /// When the two do not belong together, or the store cannot be written.
    pub fn begin(&mut self, snapshot: &mut Snapshot, history: &mut Reader) -> Result<()> {
        let mut txn = self.store.write()?;
        snapshot.install(&mut *txn, self.machine.tables())?;
        txn.commit()?;
        let mark = snapshot.head().mark;
        self.keep_history(history, &mark)?;
        let mut txn = self.store.write()?;
        meta::set_log_start(&mut *txn, &history.start())?;
        meta::set_hard_state(&mut *txn, &HardState { term: mark.term, vote: 0, commit: mark.index })?;
        txn.commit()?;
        self.applied = snapshot.head().applied;
        let txn = self.store.read()?;
        self.log = Log::open(&*txn)?;
        self.agreement = Agreement::open(&*txn, NEWEST)?;
        Ok(())
    }

    /// Puts the entries up to `mark` into the log as they are.
    fn keep_history(&self, history: &mut Reader, mark: &Mark) -> Result<()> {
        let mut buffer = Vec::new();
        while history.last().index < mark.index {
            let mut txn = self.store.write()?;
            for _ in 0..BATCH {
                if history.last().index == mark.index {
                    break;
                }
                let Some((entry, chain)) = history.entry()? else {
                    return Err(Error::damaged_entry(history.last().index + 1, "nothing"));
                };
                buffer.clear();
                entry::encode(&entry, &chain, &mut buffer);
                txn.append(LOG, &log::key(entry.index), &buffer)?;
            }
            txn.commit()?;
        }
        if history.last() != *mark {
            return Err(Error::damaged_entry(
                mark.index,
                "another entry than the one that the snapshot is of",
            ));
        }
        Ok(())
    }

    /// Appends and applies the next entries in one transaction; says how far the state is.
    ///
    /// # Errors
    /// When one is not the next, goes back in term or does not apply, or the store cannot be written.
    pub fn add(&mut self, entries: &[Entry]) -> Result<Applied> {
        self.add_each(entries, &mut |_, _, _| Ok(()))
    }

    /// The same, and `after` sees the state after each.
    ///
    /// # Errors
    /// As `add`, and those of `after`.
    pub fn add_each(
        &mut self,
        entries: &[Entry],
        after: &mut dyn FnMut(&Applied, &Entry, &View<'_>) -> Result<()>,
    ) -> Result<Applied> {
        let Making { machine, store, log, applied, agreement } = self;
        let mut txn = store.write()?;
        for entry in entries {
            check_next(&log.last(), entry)?;
            log.append(&mut *txn, std::slice::from_ref(entry))?;
            agreement.apply(&mut *txn, entry)?;
            state_machine::apply(machine, &mut *txn, &mut applied.hash, entry)?;
            applied.index = entry.index;
            applied.log_ms = applied.log_ms.max(entry.stamp.log_ms);
            agreement.applied(applied);
            after(applied, entry, &View::new(as_read(&*txn)))?;
        }
        let last = log.last();
        meta::set_hard_state(&mut *txn, &HardState { term: last.term, vote: 0, commit: last.index })?;
        meta::set_applied(&mut *txn, applied)?;
        txn.commit()?;
        Ok(*applied)
    }

    /// Appends and applies commands of our own, in `term`, which must not be an earlier one.
    ///
    /// # Errors
    /// As `add`.
    pub fn command(&mut self, commands: Vec<Command>, term: u64, wall_ms: u64) -> Result<Applied> {
        let last = self.log.last();
        let stamp = Stamp { wall_ms, log_ms: last.log_ms };
        let entry = |(command, index)| Entry { index, term, stamp, class: Class::Normal, command };
        let entries: Vec<Entry> = commands.into_iter().zip(last.index + 1..).map(entry).collect();
        self.add(&entries)
    }

    /// How far the state is, and its hash as it was kept with every write.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// The place of the last entry.
    pub fn last(&self) -> Mark {
        self.log.last()
    }

    /// Lets `look` see the state.
    ///
    /// # Errors
    /// When the store cannot be read, and those of `look`.
    pub fn view<T>(&self, look: impl FnOnce(&View<'_>) -> Result<T>) -> Result<T> {
        let txn = self.store.read()?;
        look(&View::new(&*txn))
    }

    /// The hash of the state as it lies in the store, from every value.
    ///
    /// # Errors
    /// When a value is damaged.
    pub fn hashed(&self) -> Result<StateHash> {
        state_machine::state_hash(&*self.store.read()?, self.machine.tables())
    }

    /// The chain at `index`.
    ///
    /// # Errors
    /// When there is no such entry.
    pub fn chain_at(&self, index: u64) -> Result<crate::entry::Chain> {
        Ok(log::read(&*self.store.read()?, index)?.1)
    }

    /// Makes it part of a group that starts from here: whatever group it was of, it is of this one now, in the term of its
    /// last entry, and has voted for nobody.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn belong(&mut self, formation: &Formation) -> Result<()> {
        let last = self.log.last();
        let mut txn = self.store.write()?;
        meta::replace_formation(&mut *txn, formation)?;
        let members = Membership { index: last.index, ..Membership::formed(&formation.voters) };
        meta::set_membership(&mut *txn, &members)?;
        meta::set_hard_state(&mut *txn, &HardState { term: last.term, vote: 0, commit: last.index })?;
        meta::set_applied(&mut *txn, &self.applied)?;
        txn.commit()
    }
}

fn check_next(last: &Mark, entry: &Entry) -> Result<()> {
    if entry.index != last.index + 1 {
        return Err(Error::damaged_entry(last.index + 1, format!("the entry of index {}", entry.index)));
    }
    if entry.term < last.term {
        let found = format!("term {} after term {}", entry.term, last.term);
        return Err(Error::damaged_entry(entry.index, found));
    }
    Ok(())
}

fn as_read<'t>(txn: &'t (dyn Transaction + 't)) -> &'t dyn crate::store::Read {
    txn
}
