//! What must hold, each in a file of its own. Checkers collect complaints; the run goes on.
//!
//! `history` is what the final log says that there was to see; `reads`, `writes`, `stock` and `orders` compare with it what
//! clients were told and what the order group has recorded. `primaries` looks at elections, `replicas` compares the replicas with each other, `disks` what
//! a process starts on with what it should be, `bounds` tables with their limits. `samples` searches without the log's
//! help, and `liveness` says how long things may take when nothing goes wrong any more.

mod bounds;
mod disks;
mod history;
mod liveness;
mod orders;
mod primaries;
mod reads;
mod replicas;
mod samples;
mod stock;
mod writes;

pub use bounds::{excesses, is_drained};
pub use disks::{Checked, disk_complaints};
pub use history::History;
pub use liveness::{LIMIT, SETTLE_LIMIT, waiting};
pub use orders::{Floor, OrderReads, order_count, order_differences, replayed_orders};
pub use primaries::Primaries;
pub use reads::{Began, Reads};
pub use replicas::{agree, differences};
pub use samples::{Operation, Samples};
pub use stock::oversold;
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
