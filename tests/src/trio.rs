//! The smallest store with a daemon of each kind: one catalog replica, one order replica, one front end, each a group of
//! its own. For what every daemon must do by itself.

use tempfile::TempDir;

use crate::client::Client;
use crate::daemon::{Daemon, Spec};
use crate::store::{READY_LIMIT, spec};
use crate::{ports, scratch, wait};

/// A running trio. Everything is killed when it is dropped.
#[derive(Debug)]
pub struct Trio {
    /// Catalog, order, front end.
    daemons: [Daemon; 3],
    // Dropped last, when nothing writes to it any more.
    _directory: TempDir,
}

impl Trio {
    /// Starts one whose daemons have these variables beside what they need, and waits until each is ready.
    ///
    /// # Panics
    /// If it is not within `READY_LIMIT`.
    pub fn start(name: &str, variables: &[(&str, &str)]) -> Trio {
        Trio::start_by(name, variables, |_| {})
    }

    /// As `start`, with something done to each daemon before its start.
    ///
    /// # Panics
    /// As `start`.
    pub fn start_by(name: &str, variables: &[(&str, &str)], prepare: impl Fn(&Daemon)) -> Trio {
        let directory = scratch::directory(name);
        let [catalog, order, front] = [(); 3].map(|()| (ports::free(), ports::free()));
        let host = |(api, peer): (u16, u16)| format!("127.0.0.1:{api}:{peer}");
        let own = |pairs: &[(&str, String)]| {
            let given = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).chain(given).collect()
        };
        let group = |place| {
            [("PROCESS_ID", "1".to_owned()), ("ALL_IDS", "1".to_owned()), ("ALL_HOSTNAMES", host(place))]
        };
        let to_catalog = [("CATALOG_HOST_1", host(catalog))];
        let to_order = [("ORDER_HOST_1", host(order))];
        let listening = [("FRONTEND_PORT", front.0.to_string()), ("QUIRE_PEER_PORT", front.1.to_string())];
        let at = |role, place, pairs: Vec<(String, String)>| -> Spec {
            spec(role, 1, place, directory.path()).with(pairs)
        };
        let specs = [
            at("catalog", catalog, own(&group(catalog))),
            at("order", order, own(&[&group(order)[..], &to_catalog].concat())),
            at("frontend", front, own(&[&to_catalog[..], &to_order, &listening].concat())),
        ];
        let trio =
            Trio { daemons: specs.map(|spec| Daemon::new(spec, directory.path())), _directory: directory };
        for daemon in &trio.daemons {
            prepare(daemon);
            daemon.start();
        }
        trio.wait_ready();
        trio
    }

    /// Catalog, order and front end.
    pub fn daemons(&self) -> &[Daemon; 3] {
        &self.daemons
    }

    /// The front end.
    pub fn front(&self) -> &Daemon {
        &self.daemons[2]
    }

    fn wait_ready(&self) {
        for daemon in &self.daemons {
            // A client of its own, whose connections end with it.
            let client = Client::new(daemon.spec().api);
            let path = if daemon.spec().name.starts_with("frontend") { "/lookup/1" } else { "/readyz" };
            wait::until(READY_LIMIT, &format!("{} is ready", daemon.name()), || {
                match client.send("GET", path, &[], None)? {
                    answer if answer.status == 200 => Ok(()),
                    answer => Err(answer.to_string()),
                }
            });
        }
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.daemons.iter().for_each(|daemon| eprintln!("{}", daemon.log_tail()));
        }
    }
}
