//! A whole store: three catalog replicas, three order replicas and one or more front ends, on ports of their own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::daemon::{Daemon, Spec};
use crate::{ports, scratch, wait};

/// Longest time from the start of blank daemons to the first order, and from the restart of one to its first
/// answer. Far more than either takes; a machine may be busy.
pub const READY_LIMIT: Duration = Duration::from_secs(60);
/// From how long on a daemon of a test logs a request as slow.
pub const SLOW: Duration = Duration::from_millis(200);
/// The reference's process ids of the catalog replicas.
pub const CATALOG_IDS: [u64; 3] = [123, 111, 114];
/// The process ids of the order replicas.
pub const ORDER_IDS: [u64; 3] = [1, 2, 3];
/// Books that a new store has.
pub const BOOKS: std::ops::RangeInclusive<u64> = 1..=7;
/// A number that no book ever has here.
pub const NO_BOOK: u64 = 9_999_999_999;

/// How the daemons are told about each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As `quire up` does it: the order replicas are one group.
    Grouped,
    /// By the reference's env files in `docker/env`, but for addresses: each order replica is a group of its own.
    ReferenceFiles,
}

/// A running store. Everything is killed when it is dropped, and its data removed unless the test fails.
#[derive(Debug)]
pub struct Store {
    /// The catalog replicas, in the order of `CATALOG_IDS`.
    pub catalogs: Vec<Daemon>,
    /// The order replicas, in the order of `ORDER_IDS`.
    pub orders: Vec<Daemon>,
    /// The front end, or the first one.
    pub front: Daemon,
    /// The other front ends.
    pub more_fronts: Vec<Daemon>,
    // Dropped last, when nothing writes to it any more.
    directory: Option<TempDir>,
}

impl Store {
    /// Starts a new store with the reference's seven books and waits until it takes orders everywhere.
    ///
    /// # Panics
    /// If it does not within `READY_LIMIT`.
    pub fn start(name: &str) -> Store {
        Store::start_as(Shape::Grouped, 1, name)
    }

    /// As `start`, with that many front ends, 1 or more, beside each other.
    ///
    /// # Panics
    /// As `start`.
    pub fn with_fronts(fronts: usize, name: &str) -> Store {
        Store::start_as(Shape::Grouped, fronts, name)
    }

    /// As `start`, with daemons that run this binary.
    ///
    /// # Panics
    /// As `start`.
    pub fn start_from(binary: &Path, name: &str) -> Store {
        Store::start_by(Shape::Grouped, 1, name, |daemon| daemon.run(binary))
    }

    /// As `with_fronts`, with the daemons told about each other in the way of `shape`.
    ///
    /// # Panics
    /// As `start`.
    pub fn start_as(shape: Shape, fronts: usize, name: &str) -> Store {
        Store::start_by(shape, fronts, name, |_| {})
    }

    /// As `start`, with these variables for every daemon.
    ///
    /// # Panics
    /// As `start`.
    pub fn start_with(variables: &[(&str, &str)], name: &str) -> Store {
        Store::start_in(Shape::Grouped, 1, name, variables, |_, _| {})
    }

    /// As `start`, with something done before the start of each daemon, which will have its data in a directory of its name
    /// below the one given.
    ///
    /// # Panics
    /// As `start`.
    pub fn start_prepared(name: &str, mut prepare: impl FnMut(&Daemon, &Path)) -> Store {
        Store::start_in(Shape::Grouped, 1, name, &[], |daemon, directory| prepare(daemon, directory))
    }

    fn start_by(shape: Shape, fronts: usize, name: &str, prepare: impl Fn(&Daemon)) -> Store {
        Store::start_in(shape, fronts, name, &[], |daemon, _| prepare(daemon))
    }

    fn start_in(
        shape: Shape,
        fronts: usize,
        name: &str,
        variables: &[(&str, &str)],
        mut prepare: impl FnMut(&Daemon, &Path),
    ) -> Store {
        let directory = scratch::directory(name);
        let Specs { catalogs, orders, fronts } = Specs::new(shape, fronts, directory.path());
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let daemon = |spec: Spec| Daemon::new(spec.with(variables.clone()), directory.path());
        let mut fronts = fronts.into_iter().map(daemon);
        let store = Store {
            catalogs: catalogs.into_iter().map(daemon).collect(),
            orders: orders.into_iter().map(daemon).collect(),
            front: fronts.next().expect("a store has a front end"),
            more_fronts: fronts.collect(),
            directory: Some(directory),
        };
        store.daemons().for_each(|daemon| prepare(daemon, store.directory()));
        store.start_all();
        store.wait_ready();
        store
    }

    /// A store that several tests share, and that lives as long as the process. The tests' own discipline keeps them
    /// apart: see where it is declared.
    pub fn shared(store: &'static OnceLock<Store>, name: &str) -> Shared {
        Shared(store.get_or_init(|| Store::start(name)))
    }

    /// Starts every daemon; none may be running.
    pub fn start_all(&self) {
        self.daemons().for_each(Daemon::start);
    }

    /// All of them.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.replicas().chain(self.fronts())
    }

    /// The front ends.
    pub fn fronts(&self) -> impl Iterator<Item = &Daemon> {
        [&self.front].into_iter().chain(&self.more_fronts)
    }

    /// All but the front ends.
    pub fn replicas(&self) -> impl Iterator<Item = &Daemon> {
        self.catalogs.iter().chain(&self.orders)
    }

    /// Where data and logs are.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("there until dropped").path()
    }

    /// Waits until every replica answers for its group, and orders get through it.
    ///
    /// # Panics
    /// After `READY_LIMIT`.
    pub fn wait_ready(&self) {
        self.replicas().for_each(|daemon| self.wait_for(daemon));
        self.fronts().for_each(|daemon| self.wait_for(daemon));
    }

    /// Waits until this daemon does its part in the store.
    ///
    /// # Panics
    /// After `READY_LIMIT`.
    pub fn wait_for(&self, daemon: &Daemon) {
        let is_order = self.orders.iter().any(|order| std::ptr::eq(order, daemon));
        let is_front = self.fronts().any(|front| std::ptr::eq(front, daemon));
        wait::until(READY_LIMIT, &format!("{} is ready", daemon.name()), || {
            let probe = |method, path: &str, body: Option<&[u8]>, wanted| {
                let key = new_key("probe");
                let answer = daemon.api.send(method, path, &[("idempotency-key", &key)], body)?;
                if answer.status == wanted { Ok(()) } else { Err(answer.to_string()) }
            };
            probe("GET", "/readyz", None, 200)?;
            // Buying a book that does not exist goes all the way to the catalog's log and changes no book.
            if is_order {
                probe("PUT", "/order", Some(json!({ "book_id": NO_BOOK }).to_string().as_bytes()), 404)?;
            } else if is_front {
                probe("POST", &format!("/buy/{NO_BOOK}"), None, 404)?;
                probe("GET", "/lookup/1", None, 200)?;
            } else {
                probe("GET", "/catalog/query?id=1", None, 200)?;
            }
            Ok(())
        });
    }

    /// The catalog replica that is primary, as the replicas agree.
    ///
    /// # Panics
    /// If there is none for `READY_LIMIT`.
    pub fn catalog_primary(&self) -> &Daemon {
        primary(&self.catalogs)
    }

    /// A catalog replica that is backup.
    ///
    /// # Panics
    /// As `catalog_primary`.
    pub fn catalog_backup(&self) -> &Daemon {
        backup(&self.catalogs)
    }

    /// The order replica that is primary.
    ///
    /// # Panics
    /// If there is none for `READY_LIMIT`.
    pub fn order_primary(&self) -> &Daemon {
        primary(&self.orders)
    }

    /// An order replica that is backup.
    ///
    /// # Panics
    /// As `order_primary`.
    pub fn order_backup(&self) -> &Daemon {
        backup(&self.orders)
    }

    /// Sets a book's stock, and returns when that is done.
    ///
    /// # Panics
    /// If the store refuses.
    pub fn set_stock(&self, book: u64, stock: u64) {
        let body = json!({ "book_id": book, "request_id": new_key("stock"), "stock": stock });
        let answer = self.catalogs[0].api.put("/catalog/update", &body).expect(200);
        assert_eq!(answer.field("message"), "Done update", "{answer}");
    }

    /// The stock of each book as this catalog replica has it now.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn stocks_at(&self, catalog: &Daemon) -> BTreeMap<u64, u64> {
        let stock = |book| {
            let answer = catalog.api.get(&format!("/catalog/query?id={book}")).expect(200);
            (book, answer.number("stock"))
        };
        BOOKS.map(stock).collect()
    }

    /// The logs' last lines.
    fn log_tails(&self) -> String {
        self.daemons().map(Daemon::log_tail).collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tails());
            if let Some(directory) = self.directory.take() {
                eprintln!("data and logs stay in {} until the next run", directory.keep().display());
            }
        }
    }
}

/// One test's hold on a shared store. A test that fails shows the logs.
#[derive(Debug)]
pub struct Shared(&'static Store);

impl std::ops::Deref for Shared {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0.log_tails());
        }
    }
}

/// A key that no other request of this process has.
pub fn new_key(purpose: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{purpose}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn primary(group: &[Daemon]) -> &Daemon {
    wait::until(READY_LIMIT, "a primary that calls itself so", || {
        let mut whys = Vec::new();
        for daemon in group {
            match daemon.group().map(|group| group.primary) {
                Ok(Some(id)) if id == daemon.id() => return Ok(daemon),
                Ok(other) => whys.push(format!("{}: {other:?}", daemon.name())),
                Err(why) => whys.push(why),
            }
        }
        Err(whys.join("; "))
    })
}

fn backup(group: &[Daemon]) -> &Daemon {
    let primary = primary(group).id();
    group.iter().find(|daemon| daemon.id() != primary).expect("a group of three has a backup")
}

/// How the daemons are started.
struct Specs {
    catalogs: Vec<Spec>,
    orders: Vec<Spec>,
    fronts: Vec<Spec>,
}

impl Specs {
    fn new(shape: Shape, fronts: usize, directory: &Path) -> Specs {
        let places = |count: usize| (0..count).map(|_| (ports::free(), ports::free())).collect::<Vec<_>>();
        let (catalogs, orders) = (places(CATALOG_IDS.len()), places(ORDER_IDS.len()));
        let host = |(api, peer): &(u16, u16)| format!("127.0.0.1:{api}:{peer}");
        let hosts = |places: &[(u16, u16)]| places.iter().map(host).collect::<Vec<_>>().join(",");
        let numbered = |name: &str, places: &[(u16, u16)]| {
            places
                .iter()
                .enumerate()
                .map(|(at, place)| (format!("{name}_{}", at + 1), host(place)))
                .collect::<Vec<_>>()
        };
        let group = |id: u64, ids: [u64; 3], hosts: String| {
            vec![
                ("PROCESS_ID".to_owned(), id.to_string()),
                ("ALL_IDS".to_owned(), ids.map(|id| id.to_string()).join(",")),
                ("ALL_HOSTNAMES".to_owned(), hosts),
            ]
        };

        let catalog = |(at, (id, place)): (usize, (u64, &(u16, u16)))| match shape {
            Shape::Grouped => {
                spec("catalog", id, *place, directory).with(group(id, CATALOG_IDS, hosts(&catalogs)))
            }
            Shape::ReferenceFiles => spec("catalog", id, *place, directory)
                .with_file(&format!("catalog_service_{}", at + 1))
                .with(vec![("ALL_HOSTNAMES".to_owned(), hosts(&catalogs))]),
        };
        let order = |(at, (id, place)): (usize, (u64, &(u16, u16)))| match shape {
            Shape::Grouped => spec("order", id, *place, directory)
                .with(group(id, ORDER_IDS, hosts(&orders)))
                .with(numbered("CATALOG_HOST", &catalogs))
                .with(vec![("QUIRE_NAME".to_owned(), format!("order_service_{id}"))]),
            Shape::ReferenceFiles => {
                spec("order", id, *place, &directory.join(format!("order_service_{id}")))
                    .with_file(&format!("order_service_{}", at + 1))
                    .with(vec![
                        ("CATALOG_HOST".to_owned(), host(&catalogs[at])),
                        ("ORDER_PORT".to_owned(), place.0.to_string()),
                        ("QUIRE_PEER_PORT".to_owned(), place.1.to_string()),
                    ])
            }
        };
        let front = |number: usize| {
            let place = (ports::free(), ports::free());
            let front = spec("frontend", number as u64, place, directory)
                .with(numbered("CATALOG_HOST", &catalogs))
                .with(numbered("ORDER_HOST", &orders))
                .with(vec![
                    ("QUIRE_FRONT_END_ID".to_owned(), number.to_string()),
                    ("FRONTEND_PORT".to_owned(), place.0.to_string()),
                    ("QUIRE_PEER_PORT".to_owned(), place.1.to_string()),
                ]);
            match shape {
                Shape::Grouped => front,
                Shape::ReferenceFiles => front.with_file("front_end_service"),
            }
        };
        Specs {
            catalogs: CATALOG_IDS.into_iter().zip(&catalogs).enumerate().map(catalog).collect(),
            orders: ORDER_IDS.into_iter().zip(&orders).enumerate().map(order).collect(),
            fronts: (1..=fronts).map(front).collect(),
        }
    }
}

/// A daemon on 127.0.0.1 with its data below `directory`; the rest is for `with` to say.
pub fn spec(role: &str, id: u64, (api, peer): (u16, u16), directory: &Path) -> Spec {
    let name = if id == 0 { role.to_owned() } else { format!("{role}-{id}") };
    let variables = [
        ("QUIRE_LISTEN", "127.0.0.1".to_owned()),
        ("QUIRE_SLOW_MS", SLOW.as_millis().to_string()),
        ("QUIRE_DATA_DIR", directory.display().to_string()),
        ("QUIRE_AGREE_AFTER_S", "1".to_owned()),
    ]; // so that tests run on the newest level, but for their first seconds
    Spec {
        name,
        arguments: vec![role.to_owned()],
        variables: variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        id,
        api,
        peer,
    }
}

impl Spec {
    /// With more variables.
    #[must_use]
    pub fn with(mut self, variables: Vec<(String, String)>) -> Spec {
        self.variables.extend(variables);
        self
    }

    /// With one of the env files in `docker/env`.
    #[must_use]
    pub fn with_file(mut self, name: &str) -> Spec {
        let path = format!("{}/../docker/env/{name}", env!("CARGO_MANIFEST_DIR"));
        self.arguments.extend(["--env-file".to_owned(), path]);
        self
    }
}
