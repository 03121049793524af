//! The catalog: books, sales, and the outbox that order groups follow.
//!
//! `machine` is the replicated state machine, `queries` reads what it wrote. Both are pure: no clock, no socket.
//! `service` does both for callers; `routes` (API plane) and `peers` (peer plane) say who they are; `daemon` runs it.

pub mod daemon;
pub mod machine;
mod peers;
pub mod queries;
mod routes;
pub mod service;
