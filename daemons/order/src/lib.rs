//! The order book: a record for every sale, kept by a group that follows the catalog's outbox.
//!
//! `machine` is the replicated state machine, `queries` reads what it wrote. Both are pure: no clock, no socket.
//! `follower` feeds it; `service` answers callers and passes buys on through `catalog`; `routes` (API plane) and
//! `peers` (peer plane) say who they are; `daemon` runs it.

pub mod catalog;
pub mod daemon;
mod follower;
pub mod machine;
mod peers;
pub mod queries;
mod routes;
pub mod service;
