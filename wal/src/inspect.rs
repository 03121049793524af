//! Looking into a replica's log from outside: what the `quire wal` tools are made of.
//!
//! `Directory` opens a data directory for reading, beside a running daemon. `walk` reads entries in batches, each in
//! a transaction that is over before anybody looks at the batch. `verify` finds the first entry that is not what was
//! written, `diff` the first one that two logs do not share, `Replay` makes the state of any index again with the
//! state machine that the daemon runs, `Rebuild` makes a directory from entries, and `Making` a store from a backup.
//!
//! Everything here takes damaged bytes for granted: it names the entry and the reason, and does not panic.

mod diff;
mod directory;
mod making;
mod rebuild;
mod replay;
mod rows;
mod verify;
mod walk;

pub use diff::{Difference, SideError, diff};
pub use directory::{Directory, OpenError};
pub use making::Making;
pub use rebuild::{REPLAYED, Rebuild};
pub use replay::Replay;
pub use rows::{Row, head_rows, record_rows};
pub use verify::{Finding, LogReport, Step, verify_log, verify_replay, verify_state};
pub use walk::{Bounds, Found, Walk, bounds, entry_at};
