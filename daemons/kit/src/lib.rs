//! What every daemon shares: the two HTTP planes, links to other daemons, settings and lifecycle.
//!
//! Only this crate opens sockets. Coroutines come from `may`: a handler is a plain function that may park, and
//! never blocks its thread; everything that blocks (links, signals, the replica) has an OS thread of its own.

pub mod admin;
pub mod answers;
pub mod api_plane;
pub mod background;
pub mod body;
pub mod clock;
pub mod credentials;
pub mod exit;
pub mod group;
pub mod health;
pub mod http;
pub mod lifecycle;
pub mod link;
pub mod log_reader;
pub mod logging;
pub mod metrics;
pub mod overview;
pub mod pace;
pub mod peer_plane;
mod peer_session;
pub mod problem;
pub mod refusals;
pub mod replica_daemon;
mod restart;
pub mod router;
pub mod settings;
pub mod slow;
pub mod supervision;
pub mod vitals;
pub mod wait;
