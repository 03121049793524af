//! The open port of all three daemons over raw sockets: what a client may send, what it gets, and what becomes of its
//! connection. The tables read as the specification; `docs/http-api.md` says the same in words.

mod connections;
mod deadlines;
mod descriptors;
mod framing;
mod messages;
mod row;
mod sizes;

use std::sync::OnceLock;

use tests::trio::Trio;

/// Daemons with the limits that they have unless told.
fn usual() -> &'static Trio {
    static TRIO: OnceLock<Trio> = OnceLock::new();
    TRIO.get_or_init(|| Trio::start("open-port", &[]))
}

/// Tries every row at every daemon, and says all that is wrong.
fn check(trio: &Trio, rows: &[row::Row]) {
    let mut wrong = Vec::new();
    for daemon in trio.daemons() {
        for row in rows {
            if let Err(why) = row.check(&daemon.spec().arguments[0], daemon.spec().api) {
                wrong.push(format!("{} at {}: {why}", row.name, daemon.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), 3 * rows.len(), wrong.join("\n"));
}
