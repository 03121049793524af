//! How a daemon ends that cannot run: one line that says why, and an exit code of its kind.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tests::daemon::{Daemon, Spec, command, ended, log_file, spawn};
use tests::store::{READY_LIMIT, spec};
use tests::{ports, scratch, wait};

/// Longest time that a daemon takes to find out that it cannot run.
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);
/// Longest time that a daemon may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A catalog replica that is a group of one.
fn alone(id: u64, directory: &Path) -> Spec {
    let place = (ports::free(), ports::free());
    let host = format!("127.0.0.1:{}:{}", place.0, place.1);
    spec("catalog", id, place, directory).with(vec![
        ("PROCESS_ID".into(), id.to_string()),
        ("ALL_IDS".into(), id.to_string()),
        ("ALL_HOSTNAMES".into(), host),
    ])
}

fn running(spec: Spec, directory: &Path) -> Daemon {
    let daemon = Daemon::new(spec, directory);
    daemon.start();
    wait::until(READY_LIMIT, &format!("{} is ready", daemon.name()), || {
        let answer = daemon.api.send("GET", "/readyz", &[], None)?;
        if answer.status == 200 { Ok(()) } else { Err(answer.to_string()) }
    });
    daemon
}

/// Runs what must not run; returns its exit code, and the line it left.
fn refused(spec: &Spec, directory: &Path) -> (Option<i32>, String) {
    let path = directory.join(format!("{}-{}.stderr", spec.name, ports::free()));
    let mut command = command(spec);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file(&path));
    let mut child = spawn(command).unwrap_or_else(|error| panic!("cannot start {}: {error}", spec.name));
    let status = ended(&mut child, REFUSAL_LIMIT, &spec.name);
    let said = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let last = said.lines().last().unwrap_or_default().to_owned();
    let role = &spec.arguments[0];
    assert!(last.starts_with(&format!("quire {role}: ")), "{status} with {said}");
    (status.code(), last)
}

#[test]
fn a_second_daemon_on_the_same_directory() {
    let directory = scratch::directory("locked");
    let first = running(alone(5, directory.path()), directory.path());
    let (code, said) = refused(&alone(5, directory.path()), directory.path());
    assert_eq!(code, Some(75), "{said}");
    assert!(said.contains("catalog-5") && said.contains(&first.pid().to_string()), "{said}");
    first.api.get("/healthcheck").expect(200);
}

#[test]
fn a_directory_of_another_node() {
    let directory = scratch::directory("foreign");
    let daemon = running(alone(5, directory.path()), directory.path());
    assert_eq!(daemon.terminate(STOP_LIMIT).code(), Some(0), "{}", daemon.log_tail());
    let (own, foreign) = (directory.path().join("catalog-5"), directory.path().join("catalog-6"));
    std::fs::rename(own, foreign).expect("the directory is not in use");
    let (code, said) = refused(&alone(6, directory.path()), directory.path());
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("catalog-6") && said.contains('5'), "{said}");

    // As little can an order replica use what a catalog replica wrote.
    let from = directory.path().join("catalog-6");
    std::fs::rename(from, directory.path().join("order-5")).expect("the directory is not in use");
    let order = order(5, directory.path());
    let (code, said) = refused(&order, directory.path());
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("order-5") && said.contains("catalog"), "{said}");
}

/// An order replica that is a group of one and knows a catalog that is not there.
fn order(id: u64, directory: &Path) -> Spec {
    let place = (ports::free(), ports::free());
    spec("order", id, place, directory).with(vec![
        ("PROCESS_ID".into(), id.to_string()),
        ("ORDER_PORT".into(), place.0.to_string()),
        ("QUIRE_PEER_PORT".into(), place.1.to_string()),
        ("CATALOG_HOST".into(), format!("127.0.0.1:{}:{}", ports::free(), ports::free())),
    ])
}

#[test]
fn a_port_that_is_in_use() {
    let directory = scratch::directory("port");
    let daemon = running(alone(5, directory.path()), directory.path());
    let taken = daemon.spec().api;
    let other = directory.path().join("other");

    let mut catalog = alone(6, &other);
    let host = format!("127.0.0.1:{taken}:{}", ports::free());
    catalog.variables.insert("ALL_HOSTNAMES".into(), host);
    let mut order = order(7, &other);
    order.variables.insert("ORDER_PORT".into(), taken.to_string());
    let frontend = spec("frontend", 0, (taken, ports::free()), &other).with(vec![
        ("FRONTEND_PORT".into(), taken.to_string()),
        ("CATALOG_HOST_1".into(), "127.0.0.1".into()),
        ("ORDER_HOST_1".into(), "127.0.0.1".into()),
    ]);
    // A peer port that somebody has is no better.
    let mut peer = alone(8, &other);
    let host = format!("127.0.0.1:{}:{}", ports::free(), daemon.spec().peer);
    peer.variables.insert("ALL_HOSTNAMES".into(), host);

    for (spec, port) in [(catalog, taken), (order, taken), (frontend, taken), (peer, daemon.spec().peer)] {
        let (code, said) = refused(&spec, directory.path());
        assert_eq!(code, Some(69), "{said}");
        assert!(said.contains(&port.to_string()), "{said}");
    }
    daemon.api.get("/healthcheck").expect(200);
}

#[test]
fn a_directory_that_cannot_be_made() {
    let directory = scratch::directory("file");
    let file = directory.path().join("file");
    std::fs::write(&file, "no directory").expect("a file can be written");
    let (code, said) = refused(&alone(5, &file), directory.path());
    assert_eq!(code, Some(73), "{said}");
    assert!(said.contains(file.to_str().expect("a plain path")), "{said}");
}

#[test]
fn settings_that_make_no_sense() {
    let directory = scratch::directory("settings");
    let mut spec = alone(5, directory.path());
    spec.variables.insert("ALL_IDS".into(), "5,6".into());
    let (code, said) = refused(&spec, directory.path());
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("ALL_IDS"), "{said}");
}

/// One of three that never met the others: it lives, says so, and knows no primary.
#[test]
fn a_replica_that_waits_for_its_peers() {
    let directory = scratch::directory("lonely");
    let place = (ports::free(), ports::free());
    let own = format!("127.0.0.1:{}:{}", place.0, place.1);
    let absent = || format!("127.0.0.1:{}:{}", ports::free(), ports::free());
    let hosts = format!("{own},{},{}", absent(), absent());
    let spec = spec("catalog", 123, place, directory.path()).with_file("catalog_service_1");
    let daemon = Daemon::new(spec.with(vec![("ALL_HOSTNAMES".into(), hosts)]), directory.path());
    daemon.start();
    wait::until(READY_LIMIT, "it answers", || daemon.api.send("GET", "/healthcheck", &[], None).map(drop));
    daemon.api.get("/livez").expect(200);
    let info = daemon.api.get("/info").expect(200);
    for (name, wanted) in [("node_id", json!(123)), ("coordinator", json!(-1)), ("neighbors", json!({}))] {
        assert_eq!(info.field(name), wanted, "{info}");
    }
    daemon.api.get("/readyz").problem(503);
    for answer in [
        daemon.api.get("/catalog/query?id=1"),
        daemon.api.put("/catalog/update", &json!({ "book_id": 1, "stock": 5 })),
    ] {
        answer.problem(503);
        assert_eq!(answer.field("retryable"), true, "{answer}");
        assert!(answer.header("retry-after").is_some(), "{answer}");
    }
    assert_eq!(daemon.terminate(STOP_LIMIT).code(), Some(0), "{}", daemon.log_tail());
}
