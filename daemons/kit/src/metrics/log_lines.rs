//! The daemon's own log, counted.

use std::fmt;

use super::{Page, Part};
use crate::logging;

/// The log of this process.
pub(crate) struct LogLines;

impl Part for LogLines {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let logged = logging::logged();
        page.counter("quire_log_lines", "Lines written to the log, or waiting to be", logged.lines)?;
        page.counter("quire_log_lines_dropped", "Lines dropped because nobody read the log", logged.dropped)
    }
}
