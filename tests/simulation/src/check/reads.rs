//! Reads are linearizable, across the whole store: the log is the one order of everything.
//!
//! Whoever begins to read when a write at some index has been applied by its primary, or when anybody has been shown
//! something of that index, must be shown what there was at that index or later. So no read is stale, and no two
//! reads are in the wrong order. And what is shown must be what the log says there was, to the byte.
//!
//! Cheap while the run goes on: of all reads of one version of an answer only the one that began latest matters.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use frontend::shown::Shown;

use super::{Complaint, History};
use crate::books::Wanted;
use crate::network::Place;
use crate::outside::name;
use crate::reader::How;

/// Most complaints of one run.
const COMPLAINTS_MAX: usize = 20;

/// The beginning of a read.
#[derive(Debug, Clone, Copy)]
pub struct Began {
    /// It must be shown what there was at this index, or later.
    floor: u64,
    at: Duration,
}

impl Began {
    /// When.
    pub fn at(&self) -> Duration {
        self.at
    }
}

/// The reads that were shown one version of an answer.
struct Sight {
    version: u64,
    body: Bytes,
    /// The one that began latest.
    began: Began,
    ended: Duration,
    by: Place,
    how: How,
    /// Another body under the same version.
    differs: bool,
}

/// See the head of this module.
#[derive(Default)]
pub struct Reads {
    newest: u64,
    sights: Vec<Vec<Sight>>,
}

impl Reads {
    /// A write at `index` was applied by its primary, and its answer is about to leave.
    pub fn acknowledged(&mut self, index: u64) {
        self.newest = self.newest.max(index);
    }

    /// A read begins.
    pub fn begin(&self, now: Duration) -> Began {
        Began { floor: self.newest, at: now }
    }

    /// A reader is shown an answer.
    pub fn shown(
        &mut self,
        by: Place,
        wanted: Wanted,
        began: Began,
        how: How,
        shown: &Arc<Shown>,
        now: Duration,
    ) {
        self.newest = self.newest.max(shown.version());
        if self.sights.is_empty() {
            self.sights.resize_with(Wanted::COUNT, Vec::new);
        }
        let sights = &mut self.sights[wanted.number()];
        let (version, body) = (shown.version(), shown.body());
        match sights.iter_mut().rev().find(|sight| sight.version == version) {
            None => {
                let body = body.clone();
                sights.push(Sight { version, body, began, ended: now, by, how, differs: false });
            }
            Some(sight) => {
                let same = body.as_ptr() == sight.body.as_ptr() || *body == sight.body;
                sight.differs |= !same;
                if began.floor > sight.began.floor {
                    *sight = Sight { began, ended: now, by, how, ..std::mem::replace(sight, empty()) };
                }
            }
        }
    }

    /// Compares everything with what the log says.
    /// With each, whether it is of a read that a front end answered by itself.
    pub fn complaints(&self, history: &History) -> Vec<(Complaint, bool)> {
        let sights = Wanted::all().zip(&self.sights);
        let complaints = sights.flat_map(|(wanted, sights)| {
            sights.iter().filter_map(move |sight| {
                let words = sight.complaint(wanted, history)?;
                Some((Complaint { at: sight.ended, words }, sight.how == How::Hit))
            })
        });
        let mut complaints: Vec<(Complaint, bool)> = complaints.collect();
        complaints.sort_by_key(|(complaint, _)| complaint.at);
        complaints.truncate(COMPLAINTS_MAX);
        complaints
    }
}

impl Sight {
    fn complaint(&self, wanted: Wanted, history: &History) -> Option<String> {
        let Sight { version, began, ended, by, how, .. } = self;
        let who = || {
            let by = name(*by);
            format!(
                "{by} showed {wanted:?} of index {version} ({how:?}), begun {:?}, ended {ended:?}",
                began.at
            )
        };
        if *version > history.last {
            return Some(format!("{}, but the log ends at {}", who(), history.last));
        }
        let (from, body) = history.at(wanted, *version);
        if *body != self.body || self.differs {
            return Some(format!("{}, but there it was {body:?}, not {:?}", who(), self.body));
        }
        let (floor, _) = history.at(wanted, began.floor);
        (from < floor).then(|| {
            let since = began.floor;
            format!(
                "{}: stale, it changed at {floor}, and index {since} was known when the read began",
                who()
            )
        })
    }
}

fn empty() -> Sight {
    let began = Began { floor: 0, at: Duration::ZERO };
    let (by, how, ended) = (0, How::Hit, Duration::ZERO);
    Sight { version: 0, body: Bytes::new(), began, ended, by, how, differs: false }
}
