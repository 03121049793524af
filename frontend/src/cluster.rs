//! The whole store as this front end sees it: what every daemon says of itself, asked five times a second at most,
//! however many people look.
//!
//! For people and for the page that draws it. Nothing here is needed to serve the store: the links are opened when
//! somebody looks for the first time, and a daemon that does not answer costs `ASK_LIMIT` and is shown as such.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use api::replication::Who;
use api::status::{AskedStatus, ClusterStatus, DaemonStatus, STATUS};
use kit::credentials::Credentials;
use kit::link::{Address, Link, LinkOptions};
use kit::settings::Host;
use kit::wait::{Completer, complete_all, promise};
use kit::{answers, clock, overview};

/// How long an answer is given again before the daemons are asked anew.
const FRESH: Duration = Duration::from_millis(200);
/// Longest wait for one daemon: longer than its own wait for a majority (`answers::READY_LIMIT`).
const ASK_LIMIT: Duration = Duration::from_millis(900);
/// Longest wait for somebody else's round of questions; then what is known is shown, however old.
const JOIN_LIMIT: Duration = Duration::from_millis(1_500);
/// Those who wait for a round at most; a further one is shown what is known.
const WAITING_MAX: usize = 256;

/// A daemon to ask.
#[derive(Debug, Clone)]
struct Target {
    role: &'static str,
    host: Host,
}

impl Target {
    fn address(&self) -> String {
        Address::new(&self.host.name, self.host.api_port).to_string()
    }
}

/// Asks all daemons.
pub struct Cluster {
    targets: Vec<Target>,
    credentials: Credentials,
    links: OnceLock<Vec<Link<Who, String>>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<(Instant, Arc<ClusterStatus>)>,
    /// Somebody asks the daemons now.
    asking: bool,
    waiting: Vec<Completer<Arc<ClusterStatus>>>,
}

/// What somebody who wants to look does.
enum Turn {
    Shown(Arc<ClusterStatus>),
    Ask,
    Wait(kit::wait::Waiter<Arc<ClusterStatus>>),
}

impl Cluster {
    /// Of these replicas, asked with these credentials. Nothing is opened yet.
    pub fn new(catalog: &[Host], order: &[Host], credentials: &Credentials) -> Cluster {
        let target = |role| move |host: &Host| Target { role, host: host.clone() };
        let targets = catalog.iter().map(target("catalog")).chain(order.iter().map(target("order")));
        let (targets, credentials) = (targets.collect(), credentials.clone());
        Cluster { targets, credentials, links: OnceLock::new(), state: Mutex::default() }
    }

    /// The store `FRESH` ago at most, unless its daemons take longer to answer. `own` is this front end's part. Parks.
    pub fn look(&self, own: impl FnOnce() -> AskedStatus) -> Arc<ClusterStatus> {
        match self.turn() {
            Turn::Shown(status) => status,
            Turn::Ask => self.ask(own),
            Turn::Wait(waiter) => match waiter.wait(JOIN_LIMIT) {
                Some(status) => status,
                None => self.latest().unwrap_or_else(|| Arc::new(overview::assemble(vec![own()], now()))),
            },
        }
    }

    fn turn(&self) -> Turn {
        let mut state = self.state();
        match &state.known {
            Some((at, known)) if at.elapsed() < FRESH => return Turn::Shown(known.clone()),
            Some((_, known)) if state.asking && state.waiting.len() >= WAITING_MAX => {
                return Turn::Shown(known.clone());
            }
            _ => {}
        }
        if !state.asking {
            state.asking = true;
            return Turn::Ask;
        }
        let (completer, waiter) = promise();
        // Beyond the bound the completer is dropped, and whoever has its waiter goes on at once.
        if state.waiting.len() < WAITING_MAX {
            state.waiting.push(completer);
        }
        Turn::Wait(waiter)
    }

    /// One round of questions for everybody who waits.
    fn ask(&self, own: impl FnOnce() -> AskedStatus) -> Arc<ClusterStatus> {
        let mut round = Round { cluster: self, status: None };
        let links = self
            .links
            .get_or_init(|| self.targets.iter().map(|target| open(target, &self.credentials)).collect());
        let calls: Vec<_> = links
            .iter()
            .map(|link| {
                let link = link.clone();
                // SAFETY of `go!`: nothing thread-local is held while the call parks; its stack is sized in `lifecycle`.
                may::go!(move || link.call(Who {}, ASK_LIMIT).map_err(|error| error.to_string()))
            })
            .collect();
        let mut asked: Vec<AskedStatus> = self
            .targets
            .iter()
            .zip(calls)
            .map(|(target, call)| match call.join() {
                Ok(Ok(text)) => read(target, &text),
                Ok(Err(why)) => overview::unreachable(target.role, &target.address(), why),
                Err(_) => overview::unreachable(target.role, &target.address(), "asking it failed"),
            })
            .collect();
        asked.push(own());
        let status = Arc::new(overview::assemble(asked, now()));
        round.status = Some(status.clone());
        status
    }

    fn latest(&self) -> Option<Arc<ClusterStatus>> {
        self.state().known.as_ref().map(|(_, known)| known.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A round that ends in any case, also when its reader panics.
struct Round<'c> {
    cluster: &'c Cluster,
    status: Option<Arc<ClusterStatus>>,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.cluster.state();
            state.asking = false;
            if let Some(status) = &self.status {
                state.known = Some((Instant::now(), status.clone()));
            }
            std::mem::take(&mut state.waiting)
        };
        if let Some(status) = &self.status {
            complete_all(waiting.into_iter().map(|reader| (reader, status.clone())).collect());
        }
    }
}

fn open(target: &Target, credentials: &Credentials) -> Link<Who, String> {
    let options = LinkOptions { call_limit: ASK_LIMIT, idempotent: true, ..LinkOptions::new(credentials) };
    let address = Address::new(&target.host.name, target.host.peer_port);
    Link::open(&format!("status {}", target.host.name), address, STATUS, options)
}

fn read(target: &Target, text: &str) -> AskedStatus {
    match serde_json::from_str::<DaemonStatus>(text) {
        Ok(status) if status.role == target.role => overview::reached(target.role, &target.address(), status),
        Ok(status) => {
            let why = format!("a {} daemon answers there; fix the settings of this front end", status.role);
            overview::unreachable(target.role, &target.address(), why)
        }
        Err(error) => overview::unreachable(
            target.role,
            &target.address(),
            format!("its status cannot be read: {error}"),
        ),
    }
}

fn now() -> String {
    answers::time(clock::wall_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> AskedStatus {
        overview::unreachable("frontend", "here", "it is a test")
    }

    #[test]
    fn those_who_wait_for_a_round_are_bounded() {
        let cluster = Cluster::new(&[], &[], &Credentials::none());
        assert!(matches!(cluster.turn(), Turn::Ask), "who comes first asks");
        let waiting: Vec<_> = (0..WAITING_MAX).map(|_| cluster.turn()).collect();
        assert!(waiting.iter().all(|turn| matches!(turn, Turn::Wait(_))));
        assert_eq!(cluster.state().waiting.len(), WAITING_MAX);

        // Nothing is known yet: who is one too many does not wait, and is shown this front end alone.
        let began = Instant::now();
        assert_eq!(cluster.look(own).daemons.len(), 1);
        assert!(began.elapsed() < JOIN_LIMIT, "{:?}", began.elapsed());
        assert_eq!(cluster.state().waiting.len(), WAITING_MAX);

        // Something is known, however old.
        let known = Arc::new(overview::assemble(vec![own()], now()));
        let old = Instant::now().checked_sub(2 * FRESH).expect("the machine is up for longer");
        cluster.state().known = Some((old, known.clone()));
        assert!(matches!(cluster.turn(), Turn::Shown(shown) if Arc::ptr_eq(&shown, &known)));
    }
}
