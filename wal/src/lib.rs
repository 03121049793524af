//! The replicated log as a library.
//!
//! A replica keeps a log of commands, agrees with its peers on their order, and applies what is committed to a
//! state machine, all in one transactional store. Read in this order: `entry` (what is in the log), `store` (what
//! it lies in), `state_machine` (what it drives).
//!
//! Knows nothing of books or HTTP, opens no socket and reads no clock: peers are reached through `Transport`,
//! time arrives as an argument.

pub mod agreement;
pub mod archive;
pub mod data_dir;
pub mod driver;
pub mod entry;
pub mod error;
pub mod frames;
pub mod inspect;
pub mod level;
pub mod log;
pub mod meta;
pub mod repair;
pub mod replica;
pub mod rescue;
pub mod scrub;
pub mod snapshot;
pub mod state_machine;
pub mod store;

pub use entry::{Command, Entry, Stamp};
pub use error::{Error, Result};
pub use state_machine::{Lookup, State, StateHash, StateMachine, View};
pub use store::Table;
