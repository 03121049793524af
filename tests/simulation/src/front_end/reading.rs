//! Readers: each takes the steps of the real `frontend::cache` one by one - the copy, the lease, the clock, the judgement -
//! and may stand still between any two, also while the rest of its process goes on.

use std::sync::Arc;
use std::time::Duration;

use api::catalog::Query;
use api::session::Rule;
use frontend::cache::Asked;
use frontend::shown::Shown;

use super::{Call, FrontEnd};
use crate::books::Wanted;
use crate::check::Operation;
use crate::network::Place;
use crate::outside::{Answer, CATALOGS, Completion, FrontEndStep, Outside, Request};
use crate::reader::{How, Reader, Stage};
use crate::sabotage::Sabotage;

/// A parked reader waits for so long.
const PARK_LIMIT: Duration = Duration::from_millis(700);
/// A kept answer is overlooked so many times in 100 000, as if it had been evicted.
const EVICTED: u64 = 300;

impl FrontEnd {
    /// A client reads. True if it has its answer already.
    pub fn read(&mut self, client: usize, wanted: Wanted, out: &mut Outside) -> bool {
        let Some(process) = &mut self.process else { return false };
        let id = process.next_reader;
        process.next_reader += 1;
        let began = out.reads.begin(out.now);
        self.go_on(id, Reader { client, wanted, began, stage: Stage::Copy }, out)
    }

    /// Lets a reader take its steps until it has its answer (true), or waits or stands still (false).
    pub(super) fn go_on(&mut self, id: u64, mut reader: Reader, out: &mut Outside) -> bool {
        loop {
            let stalled = out.stall();
            if !stalled.is_zero() {
                if let Some(process) = &mut self.process {
                    process.readers.insert(id, reader);
                }
                self.schedule(stalled, FrontEndStep::Read(id), out);
                return false;
            }
            let Some(process) = &mut self.process else { return false };
            let now = self.clock.read(out.now);
            let target = reader.wanted.target();
            let stage = std::mem::replace(&mut reader.stage, Stage::Ask);
            reader.stage = match stage {
                Stage::Copy => match process.cache.copy(&target).filter(|_| !out.random.chance(EVICTED)) {
                    Some(copied) => Stage::Lease(copied),
                    None => Stage::Ask,
                },
                Stage::Lease(copied) => {
                    let lease = process.cache.lease();
                    match (self.sabotage, process.stale.replace((lease, now))) {
                        (Some(Sabotage::Rule(Rule::R10)), Some((lease, then))) => {
                            Stage::Judge(copied, lease, then)
                        }
                        _ => Stage::Clock(copied, lease),
                    }
                }
                Stage::Clock(copied, lease) => Stage::Judge(copied, lease, now),
                Stage::Judge(copied, lease, now) => match process.cache.is_served(&copied, lease, now) {
                    true => Stage::Answer(copied),
                    false => Stage::Ask,
                },
                Stage::Answer(copied) => {
                    self.answer(&reader, How::Hit, &copied.shown, out);
                    return true;
                }
                Stage::Ask => {
                    let asked = process.cache.ask(&target, id, || now);
                    self.follow(id, reader, asked, out);
                    return false;
                }
                Stage::Waits { .. } | Stage::Asks => {
                    unreachable!("readers that wait do not go on by themselves")
                }
            };
        }
    }

    /// Does what the cache told a reader without a kept answer to do.
    fn follow(&mut self, id: u64, mut reader: Reader, asked: Asked<u64>, out: &mut Outside) {
        let Some(process) = &mut self.process else { return };
        match asked {
            Asked::Wait { parked } => {
                reader.stage = Stage::Waits { parked };
                process.readers.insert(id, reader);
                self.schedule(PARK_LIMIT, FrontEndStep::GiveUp(id), out);
            }
            Asked::Fill(fill) => {
                let replica = self.next_replica();
                let query = reader.wanted.target().query();
                reader.stage = Stage::Asks;
                if let Some(process) = &mut self.process {
                    process.readers.insert(id, reader);
                }
                self.call(Call::Fill(fill, id), replica, Request::Read(query), out);
            }
            Asked::Pass(_) => {
                process.readers.insert(id, reader);
                self.ask_alone(id, out);
            }
        }
    }

    fn next_replica(&mut self) -> Place {
        let Some(process) = &mut self.process else { return 0 };
        process.next_replica = (process.next_replica + 1) % CATALOGS;
        process.next_replica
    }

    /// Lets a reader ask a replica by itself.
    pub(super) fn ask_alone(&mut self, id: u64, out: &mut Outside) {
        let replica = self.next_replica();
        let Some(reader) = self.process.as_mut().and_then(|process| process.readers.get_mut(&id)) else {
            return;
        };
        reader.stage = Stage::Asks;
        let query: Query = reader.wanted.target().query();
        self.call(Call::Own(id), replica, Request::Read(query), out);
    }

    pub(super) fn shown(&self, id: u64, answer: &Answer) -> Option<Arc<Shown>> {
        let reader = self.process.as_ref()?.readers.get(&id)?;
        let Answer::Read(read) = answer else { return None };
        Some(Arc::new(Shown::read(&reader.wanted.target(), read)))
    }

    /// A reader that waited gets its answer, or, without one, asks a replica. One that has given up waiting is gone.
    pub(super) fn wake(&mut self, id: u64, shown: Option<&Arc<Shown>>, out: &mut Outside) {
        let Some(reader) = self.process.as_ref().and_then(|process| process.readers.get(&id)) else { return };
        let Stage::Waits { parked } = reader.stage else { return };
        match shown {
            Some(shown) => self.end(id, if parked { How::Parked } else { How::Joined }, shown, out),
            None => self.ask_alone(id, out),
        }
    }

    /// A reader has its answer.
    pub(super) fn end(&mut self, id: u64, how: How, shown: &Arc<Shown>, out: &mut Outside) {
        let Some(reader) = self.process.as_mut().and_then(|process| process.readers.remove(&id)) else {
            return;
        };
        self.answer(&reader, how, shown, out);
        out.completions.push(Completion::Read { client: reader.client, answered: true });
    }

    fn answer(&mut self, reader: &Reader, how: How, shown: &Arc<Shown>, out: &mut Outside) {
        let count = match how {
            How::Hit => &mut self.figures.hits,
            How::Parked => &mut self.figures.parked,
            How::Joined => &mut self.figures.joined,
            How::Fill => &mut self.figures.fills,
            How::Bypass => &mut self.figures.bypass,
        };
        *count += 1;
        out.trace.mark(out.now, 3, (shown.version() << 8) | reader.wanted.number() as u64);
        if let Wanted::Book(id) = reader.wanted
            && out.samples.wants_read(id, how)
            && let Ok(book) = serde_json::from_slice::<Body>(shown.body())
        {
            let state = (book.stock, (book.cost * 100.0).round() as u64);
            out.samples.add(Operation::read(id, state, reader.began.at(), out.now));
        }
        out.reads.shown(self.at, reader.wanted, reader.began, how, shown, out.now);
    }
}

/// What is sampled of the answer about a book.
#[derive(serde::Deserialize)]
struct Body {
    stock: u64,
    cost: f64,
}
