//! Repairing a replica that found damage of its own, with a snapshot of its peers (`wal::repair` says what stays).
//!
//! A note in the data directory says that it is damaged. A replica that starts with one is in quarantine: it takes no part in
//! its group, gives no snapshot and answers no read; it introduces itself, fetches a snapshot, is repaired with it, takes the
//! note away and goes on as after any start. A kill at any moment leaves the note, or a replica that is repaired.
//!
//! Who writes the note: the scrub or a reader that met damage - then the replica first lets another lead and fetches the
//! snapshot while it still runs, so that it is away for a restart only - and an error of damage that ends a replica. Both
//! start the daemon anew in place. Damage so soon after a repair is not repaired again: something goes on damaging, and
//! a person should look at the machine.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::status::RepairStatus;
use serde::{Deserialize, Serialize};
use wal::data_dir::write_json;
use wal::meta;
use wal::repair::{self, Repair};

use super::fetch::{INSTALL_LIMIT, Order};
use super::{Replica, Shared, die, lock, storage_failure};
use crate::exit::Exit;
use crate::wait::Watch;
use crate::{clock, logging, restart};

/// The note that the directory is damaged.
const NOTE: &str = "damaged";
/// What was repaired last, and when.
const REPAIRED: &str = "repaired";
/// The file that the snapshot for a repair arrives in.
const FILE: &str = "repair.incoming";
/// Version of both notes.
const FORMAT: u32 = 1;
/// Time after a repair in which damage is not repaired again.
const AGAIN_AFTER: Duration = Duration::from_secs(10 * 60);
/// Longest time in which a replica that still runs fetches the snapshot for its repair. What has arrived is kept.
const FETCH_LIMIT: Duration = Duration::from_secs(10 * 60);
/// Pause before a replica that still runs tries again to be repaired.
const RETRY_PAUSE: Duration = Duration::from_secs(60);
/// Longest time that a damaged primary waits for another to take over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);

/// A note in the data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: u32,
    /// What is, or was, damaged.
    findings: Vec<String>,
    /// Index that a snapshot must have at least.
    at_least: u64,
    /// When it was written, in ms since 1970.
    wall_ms: u64,
}

/// How it stands with repairs.
#[derive(Debug)]
pub(super) struct Repairs {
    /// The note, while this replica is in quarantine.
    note: Mutex<Option<Note>>,
    /// Held while a note is written: several may find damage at the same moment, and its file has one name.
    writing: Mutex<()>,
    /// The newest repair of this directory.
    newest: Mutex<Note>,
    /// What was found while it runs, and what a repair of that takes.
    found: Mutex<Option<(String, u64)>>,
    /// Rises with every finding; and on the stop.
    pub(super) news: Arc<Watch>,
    /// Repairs since the start.
    count: AtomicU64,
}

impl Repairs {
    /// As the directory has it.
    pub(super) fn open(directory: &Path) -> Repairs {
        let note = read(&directory.join(NOTE));
        if note.is_none() {
            // There may be none; what cannot be removed is overwritten by the next.
            let _ = fs::remove_file(directory.join(FILE));
        }
        Repairs {
            note: Mutex::new(note),
            writing: Mutex::default(),
            newest: Mutex::new(read(&directory.join(REPAIRED)).unwrap_or_default()),
            found: Mutex::default(),
            news: Watch::new(0),
            count: AtomicU64::new(0),
        }
    }

    /// Notes what somebody found who reads the store, if a repair helps.
    pub(super) fn found(&self, finding: &str, at_least: Option<u64>) {
        if let Some(at_least) = at_least {
            lock(&self.found).get_or_insert((finding.to_owned(), at_least));
            self.news.bump();
        }
    }

    /// Notes in the directory that it is damaged, beside what others have noted that found something in the same moment.
    fn write(&self, directory: &Path, finding: &str, at_least: u64) -> Result<(), String> {
        let _alone = lock(&self.writing);
        let mut note = read(&directory.join(NOTE)).unwrap_or_default();
        if !note.findings.iter().any(|noted| noted == finding) {
            note.findings.push(finding.into());
        }
        let at_least = note.at_least.max(at_least);
        let note = Note { version: FORMAT, at_least, wall_ms: clock::wall_ms(), ..note };
        write_json(directory, NOTE, &note)
            .map_err(|error| format!("the note of it cannot be written: {error}"))
    }

    /// A whole pass has found nothing.
    pub(super) fn found_nothing(&self) {
        *lock(&self.found) = None;
    }

    /// Repairs since the start.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn is_recent(&self) -> bool {
        let newest_ms = lock(&self.newest).wall_ms;
        u128::from(clock::wall_ms().abs_diff(newest_ms)) < AGAIN_AFTER.as_millis()
    }
}

/// A note, if there is one. One that cannot be read says that there is damage, and no more.
fn read(path: &Path) -> Option<Note> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => error.to_string().into_bytes(),
    };
    Some(serde_json::from_slice(&bytes).unwrap_or_else(|error| Note {
        findings: vec![format!("what {} says, which cannot be read: {error}", path.display())],
        ..Note::default()
    }))
}

/// What an error of damage says is damaged.
fn what(error: &wal::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("damaged ").map_or(text.clone(), str::to_owned)
}

impl Shared {
    /// What is damaged, while this replica is in quarantine.
    pub(super) fn quarantine(&self) -> Option<String> {
        lock(&self.repairs.note).as_ref().map(|note| note.findings.join("; "))
    }

    fn directory(&self) -> &Path {
        &self.identity.config.data_dir
    }

    /// Why damage is not to be repaired from the peers now, if it is not.
    fn unrepairable(&self) -> Result<(), String> {
        let members = lock(&self.membership).names.len();
        match () {
            () if !self.identity.config.recovery.repair => Err("QUIRE_REPAIR is off".into()),
            () if self.formation.get().is_none() || members < 2 => Err("there is no other member".into()),
            () if self.repairs.is_recent() => Err(format!(
                "it was repaired less than {} minutes ago: look at the disk and the memory of this machine",
                AGAIN_AFTER.as_secs() / 60
            )),
            () => Ok(()),
        }
    }

    fn write_note(&self, finding: &str, at_least: u64) -> Result<(), String> {
        self.repairs.write(self.directory(), finding, at_least)
    }

    /// Ends the process as an error of its replica wants it. If that is damage that the peers can help, it starts anew in
    /// place, in quarantine.
    pub(super) fn end(&self, error: wal::Error) -> ! {
        let Some(at_least) = repair::at_least(&error) else { die(storage_failure(error)) };
        let noted = match self.quarantine() {
            Some(_) => Err("it cannot be repaired so; set the directory aside with quire replace".into()),
            None => self.unrepairable().and_then(|()| self.write_note(&what(&error), at_least)),
        };
        let mut failure = storage_failure(error);
        match noted {
            Ok(()) => {
                log::error!("{}; noted, to be repaired from the peers after the next start", failure.message);
                logging::flush();
                die(if self.identity.config.stop.ends() { failure } else { restart::in_place() })
            }
            Err(why) => {
                debug_assert_eq!(failure.exit, Exit::Damaged);
                failure.message = format!("{}; {why}", failure.message);
                die(failure)
            }
        }
    }
}

impl<R: Send + 'static> Replica<R> {
    /// What is damaged, if this replica waits to be repaired: nothing is to be answered from its store then.
    pub fn quarantine(&self) -> Option<String> {
        self.shared.quarantine()
    }

    /// For a reader of the store: if what it met is damage, that is found, as the scrub finds it.
    pub fn note_fault(&self, error: &wal::Error) {
        if let wal::Error::Damaged { .. } = error {
            self.found(&what(error), repair::at_least(error));
        }
    }

    /// For a reader without whose answer this replica is of no use to its group: ends the process if what is stored is
    /// damaged, as it ends when the replica itself meets damage. What else cannot be read may be tried again.
    pub fn end_if_damaged(&self, error: &wal::Error) {
        if let wal::Error::Damaged { .. } = error {
            self.shared.end(error.clone());
        }
    }

    /// Repairs this replica if it is in quarantine; before it takes part. False: the daemon stops first, or an operator does
    /// not want it.
    pub(super) fn leave_quarantine(&self) -> bool {
        let Some(mut note) = lock(&self.shared.repairs.note).clone() else { return true };
        if !self.shared.identity.config.recovery.repair {
            log::error!("QUIRE_REPAIR is off: this replica stays out of its group as it is");
            self.set_waiting_for("an operator, because QUIRE_REPAIR is off".into());
            return false;
        }
        let cluster = self.cluster().expect("it has found its group");
        let damage = note.findings.join("; ");
        let stands = || self.shared.stopping.get() == 0;
        loop {
            let at_least = self.at_least_here(note.at_least);
            self.set_waiting_for(format!("a snapshot of {at_least} or later"));
            log::info!("damaged {damage}: fetching a snapshot of {at_least} or later to repair it");
            let order = Order { cluster, at_least, file: FILE, repairs: Some(&damage), stands: &stands };
            let Some(mut snapshot) = self.fetch(&order) else { return false };
            let repaired = self.at_desk_within(INSTALL_LIMIT, move |desk, shared| {
                let repaired = repair::repair(desk.store, shared.identity.tables, &mut snapshot)?;
                if let Some(members) = meta::membership(&*desk.store.read()?)? {
                    *lock(&shared.membership) = members;
                }
                Ok(repaired)
            });
            match repaired {
                Ok(Repair::Done(done)) => {
                    log::info!(
                        "repaired: the state is that of {}, the log goes on from there to {}",
                        done.state,
                        done.last
                    );
                    self.end_quarantine(&note);
                    return true;
                }
                Ok(Repair::NeedsMore { at_least, why }) => {
                    log::warn!("a snapshot of {at_least} or later is needed: {why}");
                    note.at_least = at_least;
                    self.forget_fetched(FILE);
                }
                Err(rejected) => {
                    log::error!("the snapshot could not be installed: {rejected:?}");
                    if !self.rest(RETRY_PAUSE) {
                        return false;
                    }
                }
            }
        }
    }

    /// What it takes here, where the entries beyond those that are committed may be nobody else's. A store that cannot tell
    /// is refused when it is to be repaired.
    fn at_least_here(&self, at_least: u64) -> u64 {
        repair::at_least_here(&*self.store, at_least).unwrap_or(at_least)
    }

    fn end_quarantine(&self, note: &Note) {
        let (directory, repairs) = (self.shared.directory(), &self.shared.repairs);
        let newest = Note { version: FORMAT, wall_ms: clock::wall_ms(), ..note.clone() };
        let ended = write_json(directory, REPAIRED, &newest)
            .and_then(|()| fs::remove_file(directory.join(NOTE)))
            .and_then(|()| File::open(directory)?.sync_all());
        if let Err(error) = ended {
            log::warn!(
                "the note of the damage stays, and it is repaired once more at the next start: {error}"
            );
        }
        self.forget_fetched(FILE);
        *lock(&repairs.newest) = newest;
        *lock(&repairs.note) = None;
        repairs.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs on a thread of its own until the daemon stops: sees to what is found while the replica runs.
    pub(super) fn repair_what_is_found(&self) {
        // A single member has nobody to be repaired from, and says what it found.
        if !self.shared.identity.config.recovery.repair || self.members().len() < 2 {
            return;
        }
        let mut seen = 0;
        while self.shared.stopping.get() == 0 {
            seen = self.shared.repairs.news.wait_beyond(seen, Duration::MAX);
            loop {
                let found = lock(&self.shared.repairs.found).clone();
                let Some((finding, at_least)) = found else { break };
                if self.shared.stopping.get() > 0 {
                    return;
                }
                match self.go_to_be_repaired(&finding, at_least) {
                    Ok(()) => return,
                    Err(why) => {
                        let pause = RETRY_PAUSE.as_secs();
                        log::error!("damaged {finding}: not repaired yet, because {why}; again in {pause} s");
                    }
                }
                if !self.rest(RETRY_PAUSE) {
                    return;
                }
            }
        }
    }

    /// Lets another lead and fetches a snapshot; then has the daemon start anew, in quarantine.
    fn go_to_be_repaired(&self, finding: &str, at_least: u64) -> Result<(), String> {
        self.shared.unrepairable()?;
        // Who takes no part has nothing to leave, and may have nobody to ask.
        if self.status().is_some() {
            self.prepare_to_leave(finding, at_least)?;
        }
        self.shared.write_note(finding, at_least)?;
        log::warn!("damaged {finding}: starting anew, to be repaired");
        self.shared.identity.config.stop.request_restart();
        Ok(())
    }

    fn prepare_to_leave(&self, finding: &str, at_least: u64) -> Result<(), String> {
        if self.is_primary() {
            self.hand_over(HAND_OVER_LIMIT);
            if self.is_primary() {
                return Err("no other member takes over".into());
            }
        }
        let until = Instant::now() + FETCH_LIMIT;
        let cluster = self.cluster().expect("it takes part in a group");
        let stands = || self.shared.stopping.get() == 0 && Instant::now() < until;
        let at_least = self.at_least_here(at_least);
        let order = Order { cluster, at_least, file: FILE, repairs: Some(finding), stands: &stands };
        match self.fetch(&order) {
            Some(_) => Ok(()), // it stays in its file
            None => Err("no other member gave a snapshot in time".into()),
        }
    }

    pub(super) fn describe_repairs(&self) -> RepairStatus {
        let repairs = &self.shared.repairs;
        let newest = lock(&repairs.newest).clone();
        RepairStatus {
            damage: lock(&repairs.note).clone().map(|note| note.findings).unwrap_or_default(),
            repairs: repairs.count(),
            repaired_ms: newest.wall_ms,
            repaired: newest.findings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_found_again_and_one_that_cannot_be_read_is_a_note_too() {
        let directory = tempfile::tempdir().unwrap();
        let note = Note { version: 1, findings: vec!["log entry 7".into()], at_least: 7, wall_ms: 5 };
        assert!(Repairs::open(directory.path()).note.lock().unwrap().is_none());
        write_json(directory.path(), NOTE, &note).unwrap();
        fs::write(directory.path().join(FILE), b"a part of a snapshot").unwrap();
        assert_eq!(Repairs::open(directory.path()).note.into_inner().unwrap(), Some(note));
        assert!(directory.path().join(FILE).exists(), "to go on with");
        fs::write(directory.path().join(NOTE), b"{").unwrap();
        let unread = Repairs::open(directory.path()).note.into_inner().unwrap().unwrap();
        assert!(unread.at_least == 0 && unread.findings[0].contains("cannot be read"), "{unread:?}");
        fs::remove_file(directory.path().join(NOTE)).unwrap();
        assert!(Repairs::open(directory.path()).note.into_inner().unwrap().is_none());
        assert!(!directory.path().join(FILE).exists());
    }

    #[test]
    fn all_who_find_damage_at_once_note_it() {
        let directory = tempfile::tempdir().unwrap();
        let repairs = Repairs::open(directory.path());
        std::thread::scope(|scope| {
            for index in 0..8 {
                let (repairs, path) = (&repairs, directory.path());
                let finding = format!("log entry {index}");
                scope.spawn(move || (0..20).for_each(|_| repairs.write(path, &finding, index).unwrap()));
            }
        });
        let note = read(&directory.path().join(NOTE)).unwrap();
        assert_eq!((note.findings.len(), note.at_least), (8, 7), "{note:?}");
    }

    #[test]
    fn damage_soon_after_a_repair_is_not_repaired_again() {
        let directory = tempfile::tempdir().unwrap();
        let limit_ms = u64::try_from(AGAIN_AFTER.as_millis()).unwrap();
        for (ago_ms, recent) in [(1_000, true), (limit_ms - 10_000, true), (limit_ms + 1_000, false)] {
            let note = Note { wall_ms: clock::wall_ms() - ago_ms, ..Note::default() };
            write_json(directory.path(), REPAIRED, &note).unwrap();
            assert_eq!(Repairs::open(directory.path()).is_recent(), recent, "{ago_ms} ms ago");
        }
        fs::remove_file(directory.path().join(REPAIRED)).unwrap();
        assert!(!Repairs::open(directory.path()).is_recent());
    }
}
