//! What must hold, each in a file of its own. Checkers collect complaints; the run goes on.
//!
//! `history` is what the final log says that there was to see; `reads` and `writes` compare with it what clients
//! were told. `replicas` compares the replicas with each other.

mod history;
mod reads;
mod replicas;
mod writes;

pub use history::History;
pub use reads::{Began, Reads};
pub use replicas::{agree, differences};
pub use writes::Writes;

use std::time::Duration;

/// Something that must not be, and when it showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// True time.
    pub at: Duration,
    /// In words.
    pub words: String,
}
