//! The front end: the open door of the store.
//!
//! It takes people's requests (`routes`), asks catalog and order replicas in turn (`store`, `balancer`, `ring`),
//! and shows what they answer (`shown`). What it can vouch for it answers from memory (`cached`, `cache`), which it can
//! while it has a lease of the catalog's primary (`session`). It keeps no data: a front end that dies takes nothing
//! with it, and any number of them may run side by side. `status` and `metrics`
//! show it, and `cluster` all daemons, to people and to programs that watch.
//!
//! Guarantees: reads are linearizable; a buy is decided at most once per key, and nobody is told "no" while an
//! attempt may have been a "yes" (`buying`).

pub mod accept;
pub mod balancer;
pub mod buying;
pub mod cache;
pub mod cached;
pub mod cluster;
pub mod cross_origin;
pub mod daemon;
pub mod door;
pub mod metrics;
pub mod pages;
pub mod ring;
pub mod routes;
pub mod session;
pub mod shown;
pub mod status;
pub mod store;
pub mod usage;
