//! The catalog: books, sales, and the outbox that order groups follow.
//!
//! `machine` is the replicated state machine, `queries` reads what it wrote. Both are pure: no clock, no socket.

pub mod machine;
pub mod queries;
