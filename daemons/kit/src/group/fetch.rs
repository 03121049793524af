//! Fetching a snapshot from a peer: chunk by chunk, as fast as it may be, from where it broke off.
//!
//! What has arrived is kept in a file of the data directory. A peer that does not answer is asked again; a view that is
//! closed, a peer that has no such state, and a snapshot that turns out wrong mean another one, of the next peer. The
//! backups are asked before the primary, which has other work.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::replication::{Fetch, Fetched, SNAPSHOT};
use wal::meta::ClusterId;
use wal::replica::Input;
use wal::replica::room::DISK_BYTES_LAST;
use wal::snapshot::{Chunk, Flaw, Head, InFile, Incoming, Snapshot};
use wal::store::Room;

use super::{Replica, Shared, lock};
use crate::link::{Address, CallError, DirectLink};
use crate::pace::Pace;

/// The file that a snapshot arrives in which this replica wants to catch up, or to begin with.
pub(super) const FILE: &str = "snapshot.incoming";
/// Longest wait for a part of a snapshot.
const FETCH_LIMIT: Duration = Duration::from_secs(10);
/// Times that a part is asked for before another peer is.
const ATTEMPTS_MAX: u32 = 5;
/// Pause before a part is asked for again.
const AGAIN_PAUSE: Duration = Duration::from_millis(200);
/// Pause before the peers are asked once more when none of them could help.
const ROUND_PAUSE: Duration = Duration::from_millis(500);
/// How often a transfer that goes on is mentioned in the log.
const MENTION_EVERY: Duration = Duration::from_secs(10);
/// How long what an earlier start has fetched is kept for a replica that does not say that it wants it.
const FILE_KEPT_FOR: Duration = Duration::from_secs(60);
/// How long the replica's thread may take to install what was fetched before it is looked whether it is still wanted. It
/// says when it has taken it, so nobody waits for so long.
pub(super) const INSTALL_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The snapshot that is wanted.
pub(super) struct Order<'o> {
    /// The group.
    pub(super) cluster: ClusterId,
    /// Index that it must cover.
    pub(super) at_least: u64,
    /// The file that it arrives in.
    pub(super) file: &'static str,
    /// The damage that it is to repair, if it is for that.
    pub(super) repairs: Option<&'o str>,
    /// Whether it is wanted still.
    pub(super) stands: &'o dyn Fn() -> bool,
}

/// Why a peer's snapshot did not arrive.
enum Missed {
    /// Nobody wants it any more.
    NotWanted,
    /// The text says why; another may.
    Failed(String),
}

impl<R: Send + 'static> Replica<R> {
    /// Runs on a thread of its own: fetches what the replica wants, for as long as the daemon runs.
    pub(super) fn fetch_what_is_wanted(&self) {
        let mut seen = 0;
        // A file of an earlier start may be there, to go on with.
        let mut kept_for = FILE_KEPT_FOR;
        loop {
            let news = self.shared.wanted_news.wait_beyond(seen, kept_for);
            let mut fetched = news == seen;
            seen = news;
            loop {
                if self.shared.stopping.get() > 0 {
                    return;
                }
                let (wanted, cluster) = (*lock(&self.shared.wanted), self.cluster());
                let (Some(wanted), Some(cluster)) = (wanted, cluster) else { break };
                let stands = || lock(&self.shared.wanted).is_some() && self.shared.stopping.get() == 0;
                let at_least = wanted.at_least;
                let order = Order { cluster, at_least, file: FILE, repairs: None, stands: &stands };
                fetched = true;
                let Some(snapshot) = self.fetch(&order) else { continue };
                let news = self.shared.wanted_news.get();
                self.shared.installs.store(true, Ordering::SeqCst);
                match self.handle.deliver(Input::Install(Box::new(snapshot))) {
                    true => drop(self.shared.wanted_news.wait_beyond(news, INSTALL_LIMIT)),
                    // Without room in the inbox it is read from the file again.
                    false => crate::wait::pause(AGAIN_PAUSE),
                }
                self.shared.installs.store(false, Ordering::SeqCst);
            }
            // A blank replica fetches on another thread, and is of no group as long as it needs the file.
            if fetched && self.cluster().is_some() {
                self.forget_fetched(FILE);
                kept_for = Duration::MAX;
            }
        }
    }

    /// Fetches a snapshot from whichever peer has it, and waits until the store has room for it. `None`: it is not wanted any
    /// more.
    pub(super) fn fetch(&self, order: &Order<'_>) -> Option<Snapshot> {
        let snapshot = self.fetch_from_any(order)?;
        let mut mentioned: Option<Instant> = None;
        while !fits(&snapshot, self.store.room()) {
            if !(order.stands)() {
                return None;
            }
            if mentioned.is_none_or(|at| at.elapsed() >= MENTION_EVERY) {
                mentioned = Some(Instant::now());
                log::error!(
                    "the snapshot of {} needs {} bytes of the store beside what is there, which are not free: make \
                     room on its file system, or give it more with --map-size-gib; waiting",
                    snapshot.head().mark.index,
                    snapshot.room_needed()
                );
            }
            crate::wait::pause(ROUND_PAUSE);
        }
        Some(snapshot)
    }

    fn fetch_from_any(&self, order: &Order<'_>) -> Option<Snapshot> {
        let mut links = HashMap::new();
        let mut mentioned: Option<Instant> = None;
        while (order.stands)() {
            let mut whys = Vec::new();
            for (process, address) in self.sources(order.file) {
                let link = links
                    .entry(process)
                    .or_insert_with(|| DirectLink::new(SNAPSHOT, FETCH_LIMIT, self.credentials()));
                match self.fetch_from(order, process, &address, link) {
                    Ok(snapshot) => return Some(snapshot),
                    Err(Missed::NotWanted) => return None,
                    Err(Missed::Failed(why)) => whys.push(format!("{process}: {why}")),
                }
            }
            if mentioned.is_none_or(|at| at.elapsed() >= MENTION_EVERY) {
                mentioned = Some(Instant::now());
                let (at_least, whys) = (order.at_least, whys.join("; "));
                match order.repairs {
                    Some(damage) => log::error!(
                        "damaged {damage}: no peer has given a snapshot of {at_least} or later to repair it: {whys}"
                    ),
                    None => log::warn!("no peer has given a snapshot of {at_least} or later: {whys}"),
                }
            }
            crate::wait::pause(ROUND_PAUSE);
        }
        None
    }

    /// Removes what was fetched: it is installed, or not wanted.
    pub(super) fn forget_fetched(&self, file: &str) {
        // There may be none; what cannot be removed is overwritten by the next.
        let _ = std::fs::remove_file(self.incoming(file));
    }

    fn incoming(&self, file: &str) -> PathBuf {
        self.shared.identity.config.data_dir.join(file)
    }

    /// The other members, the primary last; before all, the one that the file is from.
    fn sources(&self, file: &str) -> Vec<(u64, Address)> {
        let primary = self.primary();
        let begun = self.begun(file);
        let others = self.members().iter().filter(|member| member.process != self.process());
        let mut others: Vec<_> =
            others.map(|member| (member.process, Address::new(&member.host, member.peer_port))).collect();
        others.sort_by_key(|(process, _)| {
            (begun.is_none_or(|(from, _)| from != *process), Some(*process) == primary)
        });
        others
    }

    /// Whom the file is from, and of which view.
    fn begun(&self, file: &str) -> Option<(u64, u64)> {
        postcard::from_bytes(&InFile::origin(&self.incoming(file))?).ok()
    }

    fn fetch_from(
        &self,
        order: &Order<'_>,
        process: u64,
        address: &Address,
        link: &mut DirectLink<Fetch, Fetched>,
    ) -> Result<Snapshot, Missed> {
        let ask = |view, after| Fetch { cluster: order.cluster, at_least: order.at_least, view, after };
        let (mut incoming, view) = match self.resumed(order, process) {
            Some(resumed) => resumed,
            None => {
                let opened = link.call(address, &ask(0, None)).map_err(|error| failed(&error))?;
                let head = self.checked(order, &opened.head)?;
                log::info!("fetching the snapshot of {} from {process}", head.mark.index);
                let origin = postcard::to_stdvec(&(process, opened.view)).expect("numbers always encode");
                let tables = self.shared.identity.tables;
                let path = self.incoming(order.file);
                let incoming = InFile::begin(&path, head, &origin, tables).map_err(Missed::Failed)?;
                (incoming, opened.view)
            }
        };
        let pace = Pace::new(self.shared.identity.config.recovery.snapshot_bytes_per_s);
        let mut attempts = 0;
        while !incoming.is_whole() {
            if !(order.stands)() {
                return Err(Missed::NotWanted);
            }
            let after = incoming.place().map(|place| (place.table, place.key.clone()));
            let why = match link.call(address, &ask(view, after)) {
                Ok(Fetched { checksum, last, records, .. }) => {
                    pace.done(records.len() as u64);
                    match incoming.take(&Chunk { checksum, last, records }) {
                        Ok(()) => {
                            attempts = 0;
                            continue;
                        }
                        Err(Flaw::Wrong(why)) => return Err(self.gone(order, why)),
                        Err(flaw @ Flaw::Damaged) => flaw.to_string(),
                    }
                }
                Err(error @ CallError::Rejected(api::Rejected::NotReady(_))) => {
                    return Err(self.gone(order, error.to_string()));
                }
                Err(error) => error.to_string(),
            };
            attempts += 1;
            if attempts >= ATTEMPTS_MAX {
                return Err(Missed::Failed(why));
            }
            log::debug!("asking {process} again: {why}");
            crate::wait::pause(AGAIN_PAUSE);
        }
        log::info!(
            "{} records of {} have arrived from {process}",
            incoming.records(),
            incoming.head().mark.index
        );
        Ok(incoming.finish())
    }

    /// What is in the file serves nobody any more.
    fn gone(&self, order: &Order<'_>, why: String) -> Missed {
        self.forget_fetched(order.file);
        Missed::Failed(why)
    }

    /// What has arrived from `process` before, if it is what is wanted, and the view that it is of.
    fn resumed(&self, order: &Order<'_>, process: u64) -> Option<(Incoming, u64)> {
        // All of the file is read to go on with it, so only if it is from there.
        let (_, view) = self.begun(order.file).filter(|(from, _)| *from == process)?;
        let (incoming, _) = InFile::resume(&self.incoming(order.file), self.shared.identity.tables)?;
        let fits = check(order, incoming.head(), &self.shared).is_ok();
        fits.then(|| {
            log::info!("going on with the snapshot of {} from {process}", incoming.head().mark.index);
            (incoming, view)
        })
    }

    fn checked(&self, order: &Order<'_>, head: &[u8]) -> Result<Head, Missed> {
        let head: Head = postcard::from_bytes(head)
            .map_err(|error| Missed::Failed(format!("a head that cannot be read: {error}")))?;
        check(order, &head, &self.shared).map_err(Missed::Failed)?;
        Ok(head)
    }
}

/// Whether a snapshot is of our group, new enough, and knows this node.
fn check(order: &Order<'_>, head: &Head, shared: &Shared) -> Result<(), String> {
    let node = shared.identity.node;
    let cluster = head.formation.as_ref().map(|formation| formation.cluster);
    if cluster != Some(order.cluster) {
        return Err("its snapshot is of another group".into());
    }
    if head.mark.index < order.at_least {
        return Err(format!("its snapshot is of {}, {} or later is wanted", head.mark.index, order.at_least));
    }
    if !head.membership.has(node) {
        return Err(format!("its snapshot does not know this node ({node:016x})"));
    }
    Ok(())
}

/// Whether a store with so much room can take the snapshot. One that cannot be measured says more when it is written.
fn fits(snapshot: &Snapshot, room: wal::Result<Room>) -> bool {
    let needed = snapshot.room_needed();
    room.map_or(true, |Room { used, bound, left }| {
        used + needed <= bound && needed.saturating_add(DISK_BYTES_LAST) <= left
    })
}

fn failed(error: &CallError) -> Missed {
    Missed::Failed(error.to_string())
}
