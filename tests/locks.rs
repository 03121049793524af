//! Who may do what: every route with every credential from every kind of address, and the peer plane without a key.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use api::catalog::{Create, Follow, Sell, Update, Write as CatalogWrite};
use api::order::Buy;
use api::replication::{
    ADMIT, FORM, FRAMES, Fetch, Form, GROUP, HELLO, Hello, LEVEL, MEMBERS, REMOVE, Remove, SNAPSHOT, WATCH,
    Who,
};
use api::session::{Poll, SESSION};
use api::status::STATUS;
use api::{Batch, catalog, order};
use serde::Serialize;
use tests::client::{Answer, Client};
use tests::daemon::Daemon;
use tests::store::{Store, new_key};
use tests::wait;

use crate::untouched;

/// Longest wait for a group's members to agree.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest time that a daemon may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(15);
const KEY: &str = "a-cluster-key-that-only-tests-know";
const TOKEN: &str = "an-admin-token-of-tests";

/// What a request shows of who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    Token,
    AnotherToken,
    /// The token, and that a proxy passed it on.
    TokenPassedOn,
    PassedOn(&'static str),
    FromAPage,
    /// What a page sends whose own name was made to mean the daemon's address (DNS rebinding).
    ToAnotherHost,
    ToLocalhost,
}

const ALL: [Shown; 10] = [
    Shown::Nothing,
    Shown::Token,
    Shown::AnotherToken,
    Shown::TokenPassedOn,
    Shown::PassedOn("x-forwarded-for"),
    Shown::PassedOn("forwarded"),
    Shown::PassedOn("via"),
    Shown::FromAPage,
    Shown::ToAnotherHost,
    Shown::ToLocalhost,
];

impl Shown {
    fn headers(self) -> Vec<(&'static str, String)> {
        let token = || ("authorization", format!("Bearer {TOKEN}"));
        match self {
            Shown::Nothing => vec![],
            Shown::Token => vec![token()],
            Shown::AnotherToken => vec![("authorization", format!("Bearer {TOKEN}s"))],
            Shown::TokenPassedOn => vec![token(), ("x-forwarded-for", "203.0.113.9".into())],
            Shown::PassedOn(name) => vec![(name, "127.0.0.1".into())],
            Shown::FromAPage => vec![("origin", "http://evil.example".into())],
            Shown::ToAnotherHost => vec![("host", "evil.example:5002".into())],
            Shown::ToLocalhost => vec![("host", "localhost".into())],
        }
    }
}

/// Where the request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Loopback,
    /// An address of this machine on another network than loopback.
    Elsewhere,
}

/// Every route that is for administrators, and what it answers to one here. All others are open.
const ADMIN: [(Role, &str, &str, u16); 6] = [
    (Role::Catalog, "PUT", "/catalog/update", 400),
    (Role::Catalog, "POST", "/books", 400),
    (Role::Catalog, "GET", "/wal", 200),
    (Role::Catalog, "GET", "/wal/records?from=1&to=2", 200),
    (Role::Order, "GET", "/wal", 200),
    (Role::Order, "GET", "/wal/records?from=1&to=2", 200),
];
/// What stands for the answer to an administrator.
const LET_IN: u16 = 200;
/// The open ones, by daemon.
const OPEN: [(Role, &[(&str, &str)]); 3] = [
    (
        Role::Catalog,
        &[
            ("GET", "/catalog/query?id=1"),
            ("PUT", "/catalog/buy"),
            ("GET", "/info"),
            ("GET", "/healthcheck"),
            ("GET", "/livez"),
            ("GET", "/readyz"),
        ],
    ),
    (
        Role::Order,
        &[
            ("PUT", "/order"),
            ("GET", "/log"),
            ("GET", "/orders"),
            ("GET", "/orders/1"),
            ("GET", "/healthcheck"),
            ("GET", "/livez"),
            ("GET", "/readyz"),
        ],
    ),
    (
        Role::Front,
        &[
            ("GET", "/"),
            ("GET", "/search/distributed-systems"),
            ("GET", "/lookup/1"),
            ("POST", "/buy/9999999999"),
            ("GET", "/books"),
            ("GET", "/topics"),
            ("GET", "/orders"),
            ("GET", "/orders/1"),
            ("GET", "/healthcheck"),
            ("GET", "/livez"),
            ("GET", "/readyz"),
        ],
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Catalog,
    Order,
    Front,
}

fn of(store: &Store, role: Role) -> &Daemon {
    match role {
        Role::Catalog => &store.catalogs[1],
        Role::Order => &store.orders[1],
        Role::Front => &store.front,
    }
}

/// Sends a request whose body is no JSON: whoever is let in is told so, and nothing is changed.
fn ask(client: &Client, method: &str, path: &str, shown: Shown) -> Answer {
    let headers = shown.headers();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let body = (method != "GET").then_some(&b"{"[..]);
    client.send(method, path, &headers, body).unwrap_or_else(|error| panic!("{error}"))
}

/// An address of this machine that is not loopback, if it has one.
fn elsewhere() -> Option<Ipv4Addr> {
    // Nothing is sent: connecting a datagram socket only chooses an address.
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("203.0.113.1:9").ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) if !address.is_loopback() => Some(address),
        _ => None,
    }
}

/// The front end takes no writes from the pages of other sites, whoever else may write.
fn is_foreign_write(role: Role, method: &str, shown: Shown) -> bool {
    role == Role::Front && method != "GET" && shown == Shown::FromAPage
}

fn matrix(store: &Store, from: From, admin: impl Fn(Shown) -> u16) {
    let client = |role| {
        let port = of(store, role).api.port();
        match from {
            From::Loopback => Client::new(port),
            From::Elsewhere => Client::at(SocketAddr::new(elsewhere().expect("asked before").into(), port)),
        }
    };
    for shown in ALL {
        for (role, method, path, let_in) in ADMIN {
            let answer = ask(&client(role), method, path, shown);
            let wanted = if admin(shown) == LET_IN { let_in } else { admin(shown) };
            assert_eq!(answer.status, wanted, "{from:?} {shown:?}: {answer}");
            let challenge = answer.header("www-authenticate").map(str::to_owned);
            assert_eq!(challenge.is_some(), answer.status == 401, "{from:?} {shown:?}: {answer}");
            assert!(!answer.body.contains(TOKEN), "{answer}");
        }
        for (role, routes) in OPEN {
            for (method, path) in routes {
                let answer = ask(&client(role), method, path, shown);
                match is_foreign_write(role, method, shown) {
                    true => assert_eq!(answer.status, 403, "{from:?} {shown:?}: {answer}"),
                    false => assert!(!matches!(answer.status, 401 | 403), "{from:?} {shown:?}: {answer}"),
                }
                assert!(!answer.body.contains(TOKEN) && !answer.body.contains(KEY), "{answer}");
            }
        }
        for (role, method, path) in [
            (Role::Catalog, "POST", "/catalog/update"),
            (Role::Order, "PUT", "/catalog/update"),
            (Role::Front, "POST", "/books"),
        ] {
            let answer = ask(&client(role), method, path, shown);
            let refused = is_foreign_write(role, method, shown) && answer.status == 403;
            let unknown = matches!(answer.status, 404 | 405);
            assert!(refused || unknown, "nothing to guard: {from:?} {shown:?}: {answer}");
        }
    }
}

#[test]
fn without_a_token_only_who_is_local_may_change_the_catalog() {
    let local = |shown| match shown {
        Shown::Nothing | Shown::Token | Shown::AnotherToken | Shown::ToLocalhost => LET_IN,
        Shown::TokenPassedOn | Shown::PassedOn(_) | Shown::FromAPage | Shown::ToAnotherHost => 403,
    };
    matrix(&untouched(), From::Loopback, local);
    if elsewhere().is_none() {
        eprintln!("this machine has no address but loopback: the rest is left to kit's own tests");
        return;
    }
    let store = Store::start_with(&[("QUIRE_LISTEN", "0.0.0.0")], "elsewhere");
    matrix(&store, From::Loopback, local);
    matrix(&store, From::Elsewhere, |_| 403);
}

#[test]
fn with_a_token_and_a_key_nobody_else_may() {
    let secrets = [("QUIRE_CLUSTER_KEY", KEY), ("QUIRE_ADMIN_TOKEN", TOKEN), ("QUIRE_LISTEN", "0.0.0.0")];
    let store = Store::start_with(&secrets, "locked");
    let with_token = |shown| match shown {
        Shown::Token | Shown::TokenPassedOn => LET_IN,
        _ => 401,
    };
    matrix(&store, From::Loopback, with_token);
    if elsewhere().is_some() {
        matrix(&store, From::Elsewhere, with_token);
    }

    // The store works, for those who may.
    let book =
        serde_json::json!({ "title": "Locked", "topic": "tests", "stock": 3, "cost": 1.0 }).to_string();
    let bearer = format!("Bearer {TOKEN}");
    let new =
        store.catalogs[2].api.send("POST", "/books", &[("authorization", &bearer)], Some(book.as_bytes()));
    let book = new.expect("an answer").expect(201).number("id");
    let key = new_key("locked");
    let bought = store.front.api.buy(book, 1, &key).expect("an answer").expect(200);
    let order = bought.number("order");
    assert_eq!(store.front.api.get(&format!("/orders/{order}")).expect(200).number("book"), book);

    unauthenticated_peers_change_nothing(&store, book);

    // A death is noticed and survived with keys, too.
    store.catalogs[0].kill();
    store.wait_for(&store.catalogs[1]);
    store.wait_for(&store.front);
    store.catalogs[0].start();
    store.wait_ready();

    // Nothing that is secret is shown.
    for daemon in store.daemons() {
        let log = daemon.log();
        assert!(!log.contains(KEY) && !log.contains(TOKEN), "the log of {}", daemon.name());
        assert!(!log.contains("no cluster key") && !log.contains("no admin token"), "{log}");
        let arguments =
            std::fs::read(format!("/proc/{}/cmdline", daemon.pid().as_raw_nonzero())).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        assert!(!arguments.is_empty() && !arguments.contains(KEY) && !arguments.contains(TOKEN));
    }
}

/// Everything that daemons may ask of each other, well formed, from somebody who has not shown the key.
fn unauthenticated_peers_change_nothing(store: &Store, book: u64) {
    let state = || {
        let books = store.front.api.get("/books").expect(200).body;
        let orders = store.front.api.get("/orders").expect(200).body;
        let level = store.catalogs[0].api.get("/info").expect(200).number("level");
        (books, orders, level)
    };
    // The members raise it by themselves, some time after the start.
    wait::until(PATIENCE, "the group has agreed on the newest level", || match state().2 {
        level if level == u64::from(wal::level::NEWEST) => Ok(()),
        level => Err(format!("level {level}")),
    });
    let before = state();
    let forever = u64::MAX / 2;
    let writes = vec![
        CatalogWrite::Sell(Sell { key: new_key("stolen"), book, quantity: 1, not_after_ms: forever }),
        CatalogWrite::Update(Update {
            key: new_key("stolen"),
            book,
            stock: Some(99),
            cost_cents: Some(1),
            title: None,
            topic: None,
            not_after_ms: forever,
        }),
        CatalogWrite::Create(Create {
            key: new_key("stolen"),
            title: "Stolen".into(),
            topic: "tests".into(),
            stock: 1,
            cost_cents: 1,
            not_after_ms: forever,
        }),
    ];
    let hello = Hello {
        role: "catalog".into(),
        cluster: None,
        process: 123,
        node: 5,
        members: [0; 16],
        boot: 1,
        start: 1,
        last_index: 0,
    };
    let form = Form { role: "catalog".into(), cluster: [1; 16], members: [0; 16], voters: vec![(123, 5)] };
    let poll = Poll { front_end: [7; 16], number: 1, session: None, processed: 0, leaving: false };
    let buy = Buy { key: new_key("stolen"), book, quantity: 1, patience_ms: 100 };
    let fetch = Fetch { cluster: [1; 16], at_least: 0, view: 0, after: None };
    let order_read = order::Query {
        position: None,
        patience_ms: 100,
        question: order::Question::Orders { after: 0, limit: 10 },
    };
    let requests = [
        (Role::Catalog, catalog::WRITES, body(writes)),
        (Role::Catalog, catalog::READS, body(vec![catalog::Query::Book { id: book }])),
        (Role::Catalog, catalog::OUTBOX, body(Vec::<Follow>::new())),
        (Role::Catalog, SESSION, body(vec![poll])),
        (Role::Catalog, HELLO, body(vec![hello.clone()])),
        (Role::Catalog, FORM, body(vec![form.clone()])),
        (Role::Catalog, FRAMES, vec![0; 64]),
        (Role::Catalog, GROUP, body(vec![Who {}])),
        (Role::Catalog, LEVEL, body(vec![Who {}])),
        (Role::Catalog, WATCH, Vec::new()),
        (Role::Catalog, ADMIT, body(vec![hello.clone()])),
        (Role::Catalog, MEMBERS, body(vec![Who {}])),
        (Role::Catalog, REMOVE, body(vec![Remove { process: 123 }])),
        (Role::Catalog, SNAPSHOT, body(vec![fetch.clone()])),
        (Role::Catalog, STATUS, body(vec![Who {}])),
        (Role::Order, STATUS, body(vec![Who {}])),
        (Role::Order, order::BUYS, body(vec![buy])),
        (Role::Order, order::READS, body(vec![order_read])),
        (Role::Order, ADMIT, body(vec![Hello { role: "order".into(), ..hello.clone() }])),
        (Role::Order, REMOVE, body(vec![Remove { process: 1 }])),
        (Role::Order, SNAPSHOT, body(vec![fetch])),
        (Role::Order, HELLO, body(vec![Hello { role: "order".into(), ..hello }])),
        (Role::Order, FORM, body(vec![Form { role: "order".into(), ..form }])),
        (Role::Catalog, "/auth/open", vec![1, 2, 3]),
        (Role::Catalog, "/nowhere", Vec::new()),
    ];
    let asked: BTreeSet<String> = requests.iter().map(|(_, path, _)| (*path).to_owned()).collect();
    let forgotten: Vec<String> = calls().difference(&asked).cloned().collect();
    assert!(forgotten.is_empty(), "calls of the peer plane that this test does not make: {forgotten:?}");
    for (role, path, body) in requests {
        let daemons = if role == Role::Catalog { &store.catalogs } else { &store.orders };
        for daemon in daemons {
            let peer = Client::new(daemon.spec().peer);
            let answer = peer.send("POST", path, &[], Some(&body)).expect("an answer");
            let wanted = if path == "/auth/open" { 400 } else { 401 };
            assert_eq!(answer.status, wanted, "{} {path}: {answer}", daemon.name());
            assert!(!answer.body.contains(KEY), "{answer}");
        }
    }
    assert_eq!(state(), before);
}

fn body<Q: Serialize>(items: Vec<Q>) -> Vec<u8> {
    postcard::to_stdvec(&Batch { items }).expect("plain data")
}

/// All calls of the peer plane: the paths in `daemons/api/src`, but for those of the API plane.
fn calls() -> BTreeSet<String> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../daemons/api/src");
    let mut calls = BTreeSet::new();
    for file in std::fs::read_dir(directory).expect("the source is there") {
        let path = file.expect("a directory can be listed").path();
        let text = std::fs::read_to_string(&path).expect("source is text");
        let paths = text.lines().filter_map(|line| line.split_once(": &str = \"/")?.1.strip_suffix("\";"));
        calls.extend(paths.map(|path| format!("/{path}")));
    }
    calls.retain(|path| ![api::wal::HEAD, api::wal::RECORDS].contains(&path.as_str()));
    calls
}

#[test]
fn the_document_lists_every_call_of_the_peer_plane() {
    let security = include_str!("../docs/security.md");
    let calls = calls();
    assert!(calls.len() > 15, "{calls:?}");
    for call in calls.iter().filter(|call| *call != api::auth::OPEN) {
        assert!(security.contains(&format!("`{call}`")), "{call} is not in docs/security.md");
    }
}

/// A store without a key is given one, daemon by daemon, and sells all the time; then the key is changed.
#[test]
fn a_running_store_gets_its_first_key_and_then_another() {
    const NEXT: &str = "another-cluster-key-that-only-tests-know";
    let store = Store::start_with(&[], "first-key");
    let set = |daemon: &Daemon, variables: &[(&str, &str)]| {
        daemon.terminate(STOP_LIMIT);
        daemon.set(variables);
        daemon.start();
        store.wait_for(daemon);
        let key = new_key("rolling");
        store.front.api.buy(1, 1, &key).expect("an answer").expect(200);
    };
    let both = format!("{NEXT},{KEY}");
    let round = |variables: &[(&str, &str)]| store.daemons().for_each(|daemon| set(daemon, variables));
    round(&[("QUIRE_CLUSTER_KEY", KEY), ("QUIRE_ACCEPT_WITHOUT_KEY", "true")]);
    round(&[("QUIRE_CLUSTER_KEY", KEY), ("QUIRE_ACCEPT_WITHOUT_KEY", "")]);
    round(&[("QUIRE_CLUSTER_KEY", &both)]);
    round(&[("QUIRE_CLUSTER_KEY", NEXT)]);
    let refused =
        Client::new(store.catalogs[0].spec().peer).send("POST", GROUP, &[], Some(&body(vec![Who {}])));
    assert_eq!(refused.expect("an answer").status, 401);
}
