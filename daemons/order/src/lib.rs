//! The order book: a record for every sale, kept by a group that follows the catalog's outbox.
//!
//! `machine` is the replicated state machine, `queries` reads what it wrote. Both are pure: no clock, no socket.
//! `follower` decides what to feed it, purely; `following` does so on a thread. `service` answers callers and passes buys on
//! through `catalog`; `routes` (API plane) and `peers` (peer plane) say who they are; `daemon` runs it; `status` and
//! `metrics` show it to people and to programs that watch.

pub mod catalog;
pub mod daemon;
pub mod follower;
mod following;
pub mod machine;
mod metrics;
mod peers;
pub mod queries;
mod routes;
pub mod service;
mod status;
