//! What is said of a run when it is over.

use wal::StateHash;
use wal::store::Store;

use super::*;
use crate::check::{
    History, agree, differences, disk_complaints, excesses, is_drained, order_count, order_differences,
    oversold, replayed_orders,
};
use crate::recovery::tables_of;
use crate::schedule::group_of;

impl World<'_> {
    /// Whether a replica's disk is what it should be: not lost, and not damaged.
    fn is_whole(&self, at: Place) -> bool {
        !self.is_missed(at) && self.disks[at].damage().is_none()
    }

    /// The whole replica of a group that knows most to be committed.
    fn best(&self, group: Place) -> Place {
        let committed = |at: &Place| self.status(*at).map_or(0, |status| status.committed);
        let whole = (group..group + REPLICAS).filter(|at| self.is_whole(*at));
        whole.max_by_key(committed).unwrap_or(group)
    }

    /// Whether both groups have come to rest, and all that was sold is recorded.
    pub(super) fn has_settled(&self) -> bool {
        let at_rest = |group: Place| {
            let all = (group..group + REPLICAS).map(|at| (self.status(at), self.is_whole(at)));
            agree(&all.collect::<Vec<_>>())
        };
        let profile = self.plan.profile;
        let is_repaired = !profile.repairs_disks() || self.disks.iter().all(|disk| disk.damage().is_none());
        // Until then nobody counts whose disk was ever replaced.
        let all_vote =
            !profile.replaces_disks() || [0, CATALOGS].into_iter().all(|group| self.all_vote(group));
        is_repaired && all_vote && at_rest(0) && at_rest(CATALOGS) && {
            let (catalog, orders) = (self.best(0), self.best(CATALOGS));
            is_drained(&self.disks[catalog], &self.disks[orders])
        }
    }

    pub(super) fn report(mut self, finished: bool, settled: bool) -> Report {
        let now = self.out.now;
        let mut complaints = std::mem::take(&mut self.out.complaints);
        let mut complain = |words: String| complaints.push(Complaint { at: now, words });
        if !finished {
            check::waiting(&self.clients).into_iter().for_each(&mut complain);
        }
        if finished && !settled {
            let statuses: Vec<_> = (0..FRONTS).map(|at| (name(at), self.status(at))).collect();
            let drained = is_drained(&self.disks[self.best(0)], &self.disks[self.best(CATALOGS)]);
            complain(format!(
                "the groups have not come to rest; all sales recorded: {drained}; {statuses:?}"
            ));
        }
        let (catalog, orders) = (self.best(0), self.best(CATALOGS));
        let committed = self.status(catalog).map_or(0, |status| status.committed);
        let (log, wrong) = self.whole_log(catalog);
        let (order_log, wrong_orders) = self.whole_log(orders);
        wrong.into_iter().chain(wrong_orders).for_each(&mut complain);
        let history = History::replay(&log, committed);
        let mut book_orders = 0;
        if settled {
            let of_orders = self.disks[orders].read().and_then(|txn| wal::meta::applied(&*txn));
            let last = of_orders.expect("undamaged").index;
            let replayed = (last, replayed_orders(&order_log, last));
            self.at_rest(&history, replayed).into_iter().for_each(&mut complain);
            order_differences(&self.disks[orders], &history).into_iter().for_each(&mut complain);
            excesses(&self.disks[catalog]).into_iter().for_each(&mut complain);
            book_orders = order_count(&self.disks[orders]);
        }
        if finished {
            self.out.samples.complaint().into_iter().for_each(&mut complain);
        }
        complaints.extend(self.out.writes.complaints(&history));
        complaints.extend(oversold(&history));
        let mut reads = self.out.reads.complaints(&history);
        let mut stale = 0;
        if self.plan.profile.clocks() == Clocks::Beyond {
            // The protocol promises nothing of what is kept in memory now, and all of everything else.
            let all = reads.len();
            reads.retain(|(_, from_memory)| !from_memory);
            stale = (all - reads.len()) as u64;
        }
        complaints.extend(reads.into_iter().map(|(complaint, _)| complaint));
        complaints.sort_by_key(|complaint| complaint.at);
        let figures = self.fronts.iter().map(|front| front.figures).fold(Figures::default(), Figures::plus);
        self.out.trace.mark(now, 4, history.hash as u64);
        Report {
            complaints,
            figures,
            recovered: self.out.recovered,
            writes: self.out.writes.count(),
            sales: history.sales.len() as u64,
            orders: book_orders,
            stale,
            terms: self.status(catalog).map_or(0, |status| status.term),
            events: self.events,
            simulated: now,
            hash: self.out.trace.hash(),
            lines: self.out.trace.lines(),
        }
    }

    /// The whole log of the group of a replica that knows most of it, with what the others have forgotten; and what is wrong
    /// with it.
    fn whole_log(&self, best: Place) -> (Memory, Vec<String>) {
        if !self.plan.profile.replaces_disks() {
            return (self.disks[best].image(), Vec::new());
        }
        let group = group_of(best);
        let known = self.disks[group..group + REPLICAS].iter().try_for_each(|disk| disk.remember(u64::MAX));
        known.and_then(|()| self.disks[best].whole_log()).expect("a disk in memory can be read")
    }

    /// In what replicas at rest differ from their logs, applied once more, and their disks from what they should be.
    /// `of_orders` is the last entry of the order group, and the hash of the state that its log leads to.
    fn at_rest(&self, history: &History, of_orders: (u64, StateHash)) -> Vec<String> {
        let mut found = Vec::new();
        for at in (0..FRONTS).filter(|at| self.is_whole(*at)) {
            let disk = &self.disks[at];
            let tables = tables_of(at);
            let (last, hash) = match at {
                ..CATALOGS => (history.last, history.hash),
                _ => of_orders,
            };
            let (of_disk, _) = disk_complaints(disk, tables, None);
            let all = differences(disk, tables, last, hash).into_iter().chain(of_disk);
            found.extend(all.map(|words| format!("{}: {words}", name(at))));
        }
        found
    }
}
