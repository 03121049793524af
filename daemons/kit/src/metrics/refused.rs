//! What the API plane refuses before any route has it: counted by status, since there is nothing else to tell it by.
//!
//! For the whole process, which has one API plane. Counting costs a relaxed addition, and a refusal ends its connection.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Labels, Page, Part};

/// The statuses that such refusals have; any other is counted under `OTHER`.
const CODES: [u16; 8] = [400, 408, 413, 414, 417, 431, 501, 503];
const OTHER: &str = "other";

/// One more than `CODES`.
static REFUSED: [AtomicU64; CODES.len() + 1] = [const { AtomicU64::new(0) }; CODES.len() + 1];

/// Counts one.
pub(crate) fn count_refused(status: u16) {
    let at = CODES.iter().position(|code| *code == status).unwrap_or(CODES.len());
    REFUSED[at].fetch_add(1, Ordering::Relaxed);
}

/// All of them.
pub(crate) struct RefusedRequests;

impl Part for RefusedRequests {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let names = CODES.iter().map(u16::to_string).chain([OTHER.to_owned()]);
        let counts = names.zip(&REFUSED).map(|(name, count)| (name, count.load(Ordering::Relaxed)));
        let samples = counts.map(|(name, count)| (Labels::from([("code", name)]), count));
        let help = "Requests and connections that were refused before any route had them";
        page.counters("quire_http_refused", help, samples)
    }
}
