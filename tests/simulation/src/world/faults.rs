//! What befalls the machines of a run, and what deliberate bugs do to their disks.

use std::time::Duration;

use wal::meta;
use wal::replica::{Input, Role};
use wal::store::{LOG, Table, Transaction};

use super::*;
use crate::host::Host;
use crate::recovery::tables_of;
use crate::schedule::{self, Fault, group_of};
use crate::weather::Weather;

/// Longest pause until the peers of a dead process are refused.
const REFUSED_AFTER: Duration = Duration::from_millis(5);
/// Pause until a planned stop that takes longer is looked at again.
const STOP_LOOK: Duration = Duration::from_millis(100);

impl World<'_> {
    pub(super) fn schedule_fault(&mut self) {
        let mean = self.out.weather.faults.mean;
        if !mean.is_zero() {
            let pause = self.out.random.around(mean);
            self.out.after(pause, Event::Strikes);
        }
    }

    /// The replica of a group that seems to lead; its first if none does.
    fn primary(&self, group: Place) -> Place {
        let term = |at: &Place| {
            self.status(*at).filter(|status| status.role == Role::Primary).map(|status| status.term)
        };
        (group..group + REPLICAS).filter(|at| term(at).is_some()).max_by_key(term).unwrap_or(group)
    }

    pub(super) fn strike(&mut self) {
        let mix = self.out.weather.faults.mix;
        if self.out.weather.faults.mean.is_zero() {
            return;
        }
        self.schedule_fault();
        self.take_image();
        let primaries = [self.primary(0), self.primary(CATALOGS)];
        let places = FRONTS + self.fronts.len();
        let (fault, lasts) = schedule::draw(&mut self.out.random, mix, primaries, places);
        self.out.say(|| format!("-- {fault:?} for {lasts:?}"));
        self.out.trace.mark(self.out.now, 8, lasts.as_nanos() as u64);
        match &fault {
            Fault::Cut(pairs) => pairs.iter().for_each(|(from, to)| self.out.network.cut(*from, *to)),
            Fault::Pause(at, threads) => {
                threads.iter().for_each(|thread| self.out.pause(*at, *thread, lasts));
            }
            Fault::Death(at, known) => self.kill(*at, *known),
            Fault::Flicker(at, more) => {
                self.kill(*at, false);
                return self.flicker(*at, *more);
            }
            Fault::Power(at, steps) if self.is_up(*at) => self.disks[*at].power().fail_after(*steps),
            Fault::Power(..) => {}
            Fault::Deaths(all) => all.iter().for_each(|at| self.kill(*at, false)),
            Fault::Stop(at) => match at.checked_sub(FRONTS) {
                Some(front) => self.fronts[front].leave(&mut self.out),
                None if self.is_up(*at) && !self.catalogs[*at].is_stopping() => {
                    self.catalogs[*at].stop(&mut self.out);
                }
                None => {}
            },
            Fault::Rumour(at, about) => self.spread(*at, *about),
            Fault::SlowDisk(at, sync) => self.out.slow_disk(*at, *sync),
            Fault::FullDisk(at) => self.disks[*at].set_full(true),
            Fault::Wipe(at) | Fault::RollBack(at) | Fault::Flip(at, _) => self.lose(*at, &fault),
        }
        self.out.after(lasts, Event::Ends(fault));
    }

    /// The next death or start of a process that flickers.
    fn flicker(&mut self, at: Place, more: u64) {
        let soon = self.out.random.between(Duration::ZERO, schedule::FLICKER_MAX);
        self.out.after(soon, Event::Ends(Fault::Flicker(at, more)));
    }

    pub(super) fn kill(&mut self, at: Place, known: bool) {
        match at {
            _ if !self.is_up(at) => return self.abandon(at),
            ..CATALOGS => self.catalogs[at].host_mut().die(&mut self.out),
            CATALOGS..FRONTS => self.orders[at - CATALOGS].host_mut().die(&mut self.out),
            _ => return self.fronts[at - FRONTS].die(&mut self.out),
        }
        if known {
            let soon = self.out.random.between(Duration::ZERO, REFUSED_AFTER);
            let group = group_of(at);
            let peers = (group..group + REPLICAS).filter(|peer| *peer != at);
            peers.for_each(|peer| self.out.after(soon, Event::Ends(Fault::Rumour(peer, at))));
        }
    }

    /// Somebody hears that a peer's process is gone.
    fn spread(&mut self, at: Place, about: Place) {
        if at == about {
            return;
        }
        match at {
            ..CATALOGS => tell_gone(self.catalogs[at].host_mut(), about, &mut self.out),
            _ => tell_gone(self.orders[at - CATALOGS].host_mut(), about, &mut self.out),
        }
    }

    pub(super) fn end(&mut self, fault: &Fault) {
        let out = &mut self.out;
        match fault {
            Fault::Cut(pairs) => pairs.iter().for_each(|(from, to)| out.network.mend(*from, *to)),
            Fault::Pause(..) => {}
            Fault::SlowDisk(at, _) => out.slow_disk(*at, Duration::ZERO),
            Fault::FullDisk(at) => self.disks[*at].set_full(false),
            Fault::Power(at, _) => {
                if self.is_up(*at) {
                    self.disks[*at].power().disarm();
                }
                self.start_again(*at);
            }
            Fault::Deaths(all) => all.iter().for_each(|at| self.start_again(*at)),
            Fault::Flicker(at, more) => {
                let (at, goes_on) = (*at, *more > 0 && !out.weather.faults.mean.is_zero());
                if goes_on {
                    self.flicker(at, more - 1);
                }
                match self.is_up(at) {
                    true if goes_on => self.kill(at, false),
                    _ => self.start_again(at),
                }
            }
            Fault::Death(at, _) | Fault::Wipe(at) | Fault::RollBack(at) => self.start_again(*at),
            Fault::Flip(at, _) if self.plan.profile.repairs_disks() => self.scrub(*at, fault),
            Fault::Flip(at, _) => {
                self.replace_damaged(*at);
                self.start_again(*at);
            }
            Fault::Stop(at) if *at < CATALOGS && self.catalogs[*at].is_stopping() => {
                out.after(STOP_LOOK, Event::Ends(fault.clone()));
            }
            Fault::Stop(at) => self.start_again(*at),
            Fault::Rumour(at, about) => {
                // Nobody is refused over a link that is cut, or by a process that runs again.
                let refused = !out.network.is_cut(*at, *about) && !out.network.is_cut(*about, *at);
                if refused && !self.is_up(*about) {
                    self.spread(*at, *about);
                }
            }
        }
    }

    pub(super) fn start_again(&mut self, at: Place) {
        match at.checked_sub(FRONTS) {
            Some(front) if !self.fronts[front].is_up() => self.fronts[front].start(&mut self.out),
            Some(_) => {}
            None => self.start_replica(at),
        }
    }

    /// All faults end. Processes that stop as planned are started again when they have stopped.
    pub(super) fn clear_up(&mut self) {
        self.out.say(|| "-- faults end".into());
        self.out.weather = Weather::CALM;
        self.out.network.mend_all();
        self.out.wake_all();
        for at in 0..FRONTS {
            self.out.slow_disk(at, Duration::ZERO);
            self.disks[at].set_full(false);
            self.disks[at].power().disarm();
            self.replace_damaged(at);
        }
        (0..FRONTS + self.fronts.len()).for_each(|at| self.start_again(at));
    }

    /// Keeps an image of some disk, for a disk that will be rolled back.
    fn take_image(&mut self) {
        if self.plan.profile.loses_disks() {
            let at = self.out.random.index(FRONTS);
            self.images[at] = Some(self.disks[at].image());
        }
    }

    /// A disk is lost or damaged, if all of its group are whole: what is promised holds while a majority keeps its disks.
    fn lose(&mut self, at: Place, fault: &Fault) {
        if !self.may_lose(group_of(at)) {
            return;
        }
        self.disks[at].remember(u64::MAX).expect("a disk in memory can be read");
        let sabotage = self.plan.sabotage;
        match fault {
            Fault::Flip(_, in_log) => {
                self.flip(at, *in_log);
                if self.plan.profile.repairs_disks() && self.out.random.below(2) == 0 {
                    self.damage_another(at, fault);
                }
            }
            Fault::Wipe(_) => {
                self.kill(at, false);
                self.disks[at].wipe();
                if sabotage != Some(Sabotage::WipedNodeVotes) {
                    self.is_lost(at);
                }
            }
            _ => {
                let Some(image) = self.images[at].take() else { return };
                self.kill(at, false);
                self.disks[at].reset_to(&image);
                if sabotage != Some(Sabotage::RolledBackNodeVotes) {
                    self.is_lost(at);
                }
            }
        }
    }

    pub(super) fn flip(&mut self, at: Place, in_log: bool) {
        let disk = &self.disks[at];
        if self.plan.sabotage == Some(Sabotage::AcceptsDamage) {
            return forge_entry(disk, &mut self.out.random);
        }
        let tables: &[Table] = if in_log { &[LOG] } else { tables_of(at) };
        if let Some(place) = disk.flip_bit(tables, &mut self.out.random) {
            self.out.say(|| format!("-- {} has another {place}", name(at)));
        }
    }

    /// What a deliberate bug does to a disk before a process starts on it again.
    pub(super) fn spoil(&mut self, at: Place) {
        let spoils: fn(&mut dyn Transaction) -> wal::Result<()> = match self.plan.sabotage {
            Some(Sabotage::ForgetsItsVote) => |txn| {
                let hard = meta::hard_state(&*txn)?;
                meta::set_hard_state(&mut *txn, &meta::HardState { vote: 0, ..hard })
            },
            Some(Sabotage::TruncatesTheLog) => |txn| {
                let (applied, hard) = (meta::applied(&*txn)?, meta::hard_state(&*txn)?);
                let from = applied.index + 1;
                txn.delete_range(LOG, &from.to_be_bytes(), &u64::MAX.to_be_bytes())?;
                meta::set_hard_state(
                    &mut *txn,
                    &meta::HardState { commit: hard.commit.min(applied.index), ..hard },
                )
            },
            Some(Sabotage::ForgetsWhatIsNotApplied) => |txn| {
                let hard = meta::hard_state(&*txn)?;
                let start = wal::log::place(&*txn, hard.commit)?;
                txn.delete_range(LOG, &[], &(start.index + 1).to_be_bytes())?;
                meta::set_log_start(&mut *txn, &start)
            },
            Some(Sabotage::RecordsAppliedFirst) => |txn| {
                let (applied, hard) = (meta::applied(&*txn)?, meta::hard_state(&*txn)?);
                meta::set_applied(&mut *txn, &meta::Applied { index: hard.commit, ..applied })
            },
            _ => return,
        };
        self.disks[at].tamper(spoils).expect("a disk in memory can be written to");
    }
}

/// A replica hears that the process of the peer at `about` is gone: the node that it knows there.
fn tell_gone<M: wal::StateMachine, O: Send + 'static>(
    host: &mut Host<'_, M, O>,
    about: Place,
    out: &mut Outside,
) {
    if let Some(node) = host.node_at(about) {
        host.give(Input::Gone(node), out);
    }
}

/// Changes an entry of the log so that its checksum is right: as good as a replica that does not look at checksums.
fn forge_entry(disk: &Disk, random: &mut Random) {
    let tampered = disk.tamper(|txn| {
        let Some((key, _)) = txn.last(LOG)? else { return Ok(()) };
        let last = u64::from_be_bytes(key.try_into().expect("the key of an entry is its index"));
        let index = 1 + random.below(last);
        let (mut entry, chain) = wal::log::read(&*txn, index)?;
        if let Some(byte) = entry.command.payload.last_mut() {
            *byte ^= 1;
            let mut record = Vec::new();
            wal::entry::encode(&entry, &chain, &mut record);
            txn.put(LOG, &index.to_be_bytes(), &record)?;
        }
        Ok(())
    });
    tampered.expect("a disk in memory can be written to");
}
