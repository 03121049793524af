//! The order book: a record for every sale, kept by a group that follows the catalog's outbox.
//!
//! `machine` is the replicated state machine, `queries` reads what it wrote. Both are pure: no clock, no socket.

pub mod machine;
pub mod queries;
