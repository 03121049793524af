//! The catalog: books, sales, and the outbox that order groups follow.
//!
//! `machine` is the replicated state machine, `queries` reads what it wrote. Both are pure: no clock, no socket.
//! `sessions` keeps front ends' caches honest: who holds a lease, and which writes must wait for whom; pure as well.
//! `keeper` decides what passes by it on its way into the log, purely; `gate` is the keeper with a lock, a thread and a clock.
//! `consumer` says what an order group that follows the outbox is told; pure, too.
//! `restored` says what a catalog from a backup begins with.
//! `service` does all of it for callers; `routes` (API plane) and `peers` (peer plane) say who they are; `daemon` runs it;
//! `status` and `metrics` show it to people and to programs that watch.

pub mod consumer;
pub mod daemon;
pub mod gate;
pub mod keeper;
pub mod machine;
mod metrics;
mod peers;
pub mod queries;
pub mod restored;
mod routes;
pub mod service;
pub mod sessions;
mod status;
