//! The catalog: books, sales, and the outbox that order groups follow.
//!
//! `machine` is the replicated state machine, `queries` reads what it wrote. Both are pure: no clock, no socket.
//! `sessions` keeps front ends' caches honest: who holds a lease, and which writes must wait for whom; pure as well.
//! `gate` is where writes pass by it on their way into the log.
//! `service` does all of it for callers; `routes` (API plane) and `peers` (peer plane) say who they are; `daemon` runs it.

pub mod daemon;
pub mod gate;
pub mod machine;
mod peers;
pub mod queries;
mod routes;
pub mod service;
pub mod sessions;
