//! How many connections there may be: eight in all and four from one address.

use std::net::Ipv4Addr;
use std::time::Duration;

use tests::trio::Trio;
use tests::wait;
use tests::wire::{Received, Wire};

use super::row::{OK, head};

/// Longest wait for a connection that was closed to be noticed.
const PATIENCE: Duration = Duration::from_secs(30);
const REQUEST: &str = head!("GET /healthcheck HTTP/1.1", "Host: a");

#[test]
fn connections_are_counted_in_total_and_by_address() {
    let limits = [("QUIRE_CONNECTIONS_MAX", "8"), ("QUIRE_CONNECTIONS_PER_ADDRESS_MAX", "4")];
    let small = Trio::start("connections", &limits);
    for daemon in small.daemons() {
        let port = daemon.spec().api;
        let address = |last| Ipv4Addr::new(127, 0, 0, last);
        let mut held: Vec<Wire> = Vec::new();
        for at in 0..8 {
            held.push(admitted(address(2 + at / 4), port));
            if at == 3 {
                refused(address(2), port, "from your address");
            }
        }
        refused(address(2), port, "too many connections are open;");
        refused(address(4), port, "too many connections are open;");
        for wire in &mut held {
            wire.send(REQUEST.as_bytes()).unwrap();
            assert_eq!(wire.answer(false).unwrap().line, OK, "those that are open are served");
        }
        held.truncate(7);
        held.push(admitted(address(4), port));
    }
}

/// A connection that is served, as soon as earlier ones have been seen to end.
fn admitted(source: Ipv4Addr, port: u16) -> Wire {
    wait::until(PATIENCE, "room for a connection", || {
        let mut wire = Wire::open_from(source, port)?;
        match asked(&mut wire)? {
            answer if answer.line == OK => Ok(wire),
            answer => Err(format!("{answer:?}")),
        }
    })
}

/// Even if its request is there already, a client reads why it is not served.
fn refused(source: Ipv4Addr, port: u16, says: &str) {
    let mut wire = Wire::open_from(source, port).expect("the kernel takes it");
    let answer = asked(&mut wire).expect("an answer");
    assert_eq!(answer.line, "HTTP/1.1 503 Service Unavailable");
    assert_eq!((answer.header("retry-after"), answer.header("connection")), ("1", "close"));
    assert!(
        answer.body.contains("/problems/too-many-connections") && answer.body.contains(says),
        "{answer:?}"
    );
    assert_eq!(wire.rest().expect("an end"), "");
}

fn asked(wire: &mut Wire) -> Result<Received, String> {
    wire.send(REQUEST.as_bytes())?;
    wire.answer(false)
}
