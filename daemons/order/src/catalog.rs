//! The catalog group as an order replica reaches it: who is in it, who is primary, and how late it is in log time.
//!
//! With the reference's settings an order replica knows one catalog host. It asks that one for the others and
//! keeps asking, so that it finds the primary when the one it knew is gone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::catalog::{
    Follow, Followed, OUTBOX, Query, READS, REQUEST_LIFE_MS, Read, WRITES, Write, WriteResult,
};
use api::replication::{GROUP, Group, Member, Who};
use api::status::{CatalogStatus, DaemonStatus, STATUS};
use api::trace::Trace;
use kit::credentials::Credentials;
use kit::link::{Address, CallError, DirectLink, Link, LinkOptions, PrimaryLink};
use kit::settings::Host;

/// Longest wait for a catalog replica's answer about its group.
const ASK_LIMIT: Duration = Duration::from_millis(500);
/// How often the group is asked for until it is known ...
const ASK_PAUSE: Duration = Duration::from_millis(50);
/// ... and after that.
const REFRESH_PAUSE: Duration = Duration::from_secs(10);
/// Longest wait for a read point from one catalog replica before another is asked.
const READ_ATTEMPT: Duration = Duration::from_millis(300);

/// The links to the catalog group.
#[derive(Clone)]
pub struct Catalog {
    writes: PrimaryLink<Write, WriteResult>,
    outbox: PrimaryLink<Follow, Followed>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Newest log time heard of, in ms.
    log_ms: AtomicU64,
    /// Reads, one link per catalog replica, and whose turn it is.
    readers: std::sync::RwLock<Vec<Link<Query, Read>>>,
    turn: AtomicU64,
    /// What every link shows.
    credentials: Credentials,
    /// What a catalog replica last said that its state counts.
    figures: Mutex<Option<CatalogStatus>>,
}

impl Catalog {
    /// Opens links to the hosts that the settings name, and starts the thread that finds the others.
    pub fn open(hosts: &[Host], credentials: &Credentials) -> Catalog {
        let seeds: Vec<Address> = hosts.iter().map(|host| Address::new(&host.name, host.peer_port)).collect();
        // Process ids are not known yet; these stand in until the group has answered.
        let stand_ins: Vec<(u64, Address)> =
            (u64::MAX - seeds.len() as u64..).zip(seeds.iter().cloned()).collect();
        let catalog = Catalog {
            writes: PrimaryLink::open(
                "catalog writes",
                stand_ins.clone(),
                WRITES,
                LinkOptions::new(credentials),
                WriteResult::is_final,
            ),
            outbox: PrimaryLink::open(
                "catalog outbox",
                stand_ins,
                OUTBOX,
                LinkOptions::new(credentials),
                |_| true,
            ),
            shared: Arc::new(Shared {
                log_ms: AtomicU64::new(0),
                readers: std::sync::RwLock::new(seeds.iter().map(|seed| reader(seed, credentials)).collect()),
                turn: AtomicU64::new(0),
                credentials: credentials.clone(),
                figures: Mutex::default(),
            }),
        };
        let finder = catalog.clone();
        let thread =
            std::thread::Builder::new().name("catalog-finder".into()).spawn(move || finder.find(&seeds));
        drop(thread.expect("the operating system gives a daemon its few threads"));
        catalog
    }

    /// Until when, in log time, a request that enters the store now may be applied; `None` while the catalog's log
    /// time is not known.
    pub fn not_after_ms(&self) -> Option<u64> {
        match self.shared.log_ms.load(Ordering::Relaxed) {
            0 => None,
            log_ms => Some(log_ms + REQUEST_LIFE_MS),
        }
    }

    /// Has the primary decide writes, which belong to these traces. Parks for `limit` at most.
    pub fn write(
        &self,
        writes: Vec<Write>,
        traces: &[Option<Trace>],
        limit: Duration,
    ) -> Vec<Result<WriteResult, CallError>> {
        let results = self.writes.call_many_in(traces, writes, limit);
        if let Some(newest) = results.iter().flatten().map(|result| result.log_ms).max() {
            self.learn(newest);
        }
        results
    }

    /// Asks the primary for sales. Blocks or parks.
    pub fn follow(&self, follow: Follow, limit: Duration) -> Result<Followed, CallError> {
        self.outbox.call(follow, limit)
    }

    /// Asks any replica, in turn, until one answers or `limit` has passed. Parks.
    pub fn read(&self, query: &Query, limit: Duration) -> Result<Read, CallError> {
        let end = std::time::Instant::now() + limit;
        loop {
            let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed) as usize;
            let link = {
                let readers = self.shared.readers.read().unwrap_or_else(PoisonError::into_inner);
                readers[turn % readers.len()].clone()
            };
            let left = end.saturating_duration_since(std::time::Instant::now());
            match link.call(query.clone(), left.min(READ_ATTEMPT)) {
                Ok(read) => {
                    self.learn(read.log_ms);
                    return Ok(read);
                }
                Err(error) if std::time::Instant::now() + ASK_PAUSE >= end => return Err(error),
                Err(_) => kit::wait::pause(ASK_PAUSE),
            }
        }
    }

    /// What a catalog replica last said that its state counts, `REFRESH_PAUSE` ago at most while the catalog answers.
    pub fn figures(&self) -> Option<CatalogStatus> {
        self.shared.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn(&self, log_ms: u64) {
        // Log time 0 stands for "not known"; a group that answers at all is past it for our purposes.
        self.shared.log_ms.fetch_max(log_ms.max(1), Ordering::Relaxed);
    }

    /// Keeps the member list and log time fresh. Runs on a thread of its own, for as long as the process.
    fn find(&self, seeds: &[Address]) {
        let ask = |address: &Address| ask(address, &self.shared.credentials);
        let mut links: Vec<Link<Who, Group>> = seeds.iter().map(ask).collect();
        let mut known: Vec<Member> = Vec::new();
        let mut status = DirectLink::new(STATUS, ASK_LIMIT, &self.shared.credentials);
        loop {
            let mut found = None;
            for link in &links {
                if let Ok(group) = link.call(Who {}, ASK_LIMIT) {
                    self.learn(group.log_ms);
                    if !group.members.is_empty() {
                        found = Some(group.members);
                        break;
                    }
                }
            }
            if let Some(members) = found.as_ref().filter(|members| **members != known) {
                log::info!("the catalog group has {} members", members.len());
                let targets: Vec<(u64, Address)> = members.iter().map(target).collect();
                links =
                    targets.iter().map(|(_, address)| ask(address)).chain(seeds.iter().map(ask)).collect();
                *self.shared.readers.write().unwrap_or_else(PoisonError::into_inner) =
                    targets.iter().map(|(_, address)| reader(address, &self.shared.credentials)).collect();
                self.outbox.set_targets(targets.clone());
                self.writes.set_targets(targets);
                known.clone_from(members);
            }
            if let Some(figures) = known.iter().find_map(|member| figures_of(&mut status, &target(member).1))
            {
                *self.shared.figures.lock().unwrap_or_else(PoisonError::into_inner) = Some(figures);
            }
            std::thread::sleep(if found.is_some() { REFRESH_PAUSE } else { ASK_PAUSE });
        }
    }
}

fn target(member: &Member) -> (u64, Address) {
    (member.process, Address::new(&member.host, member.peer_port))
}

/// What this catalog replica says that its state counts. Releases before 0.3 do not say.
fn figures_of(status: &mut DirectLink<Who, String>, address: &Address) -> Option<CatalogStatus> {
    let said = status.call(address, &Who {}).ok()?;
    serde_json::from_str::<DaemonStatus>(&said).ok()?.catalog
}

fn ask(address: &Address, credentials: &Credentials) -> Link<Who, Group> {
    let options = LinkOptions { call_limit: ASK_LIMIT, idempotent: true, ..LinkOptions::new(credentials) };
    Link::open("catalog group", address.clone(), GROUP, options)
}

fn reader(address: &Address, credentials: &Credentials) -> Link<Query, Read> {
    Link::open(
        "catalog reads",
        address.clone(),
        READS,
        LinkOptions { idempotent: true, ..LinkOptions::new(credentials) },
    )
}
