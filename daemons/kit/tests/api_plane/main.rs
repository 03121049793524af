//! The API plane over raw sockets: what a client may send, and what it gets.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions, not in their helpers

mod client;
mod connections;
mod deadlines;
mod drain;
mod refusals;
mod requests;
mod server;
