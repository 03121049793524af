//! What a replica counts: indexes, term, role, lag of the others, queues, disk.

use std::fmt;

use wal::driver::{CLIENTS_MAX, INBOX_MAX};
use wal::replica::Role;

use super::Replica;
use crate::metrics::{Page, Part};

impl<R: Send + 'static> Part for Replica<R> {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let running = self.status();
        let status = running.unwrap_or_default();
        page.gauge("quire_replica_taking_part", "Whether it takes part in its group", running.is_some())?;
        page.gauge("quire_replica_is_primary", "Whether it is primary", status.role == Role::Primary)?;
        page.gauge("quire_replica_has_primary", "Whether it knows a primary", status.primary.is_some())?;
        page.gauge("quire_replica_term", "Its term", status.term)?;
        page.gauge("quire_replica_level", "The level that the group has agreed on", u64::from(status.level))?;
        let indexes = [
            ("last", status.last),
            ("committed", status.committed),
            ("applied", status.applied.index),
            ("visible", status.visible),
        ];
        let indexes = indexes.map(|(kind, index)| (vec![("kind", kind.to_owned())], index));
        page.gauges(
            "quire_replica_index",
            "Log indexes: last entry, committed, applied, visible to readers",
            indexes,
        )?;
        let lag = self
            .acknowledged()
            .into_iter()
            .map(|(process, index)| (vec![("peer", process.to_string())], status.last.saturating_sub(index)));
        page.gauges(
            "quire_replica_lag_entries",
            "On a primary: entries that a backup has not acknowledged",
            lag,
        )?;
        let alive = self.alive();
        let others = self.members().iter().filter(|member| member.process != self.process());
        let others = others
            .map(|member| (vec![("peer", member.process.to_string())], alive.contains(&member.process)));
        page.gauges(
            "quire_replica_peer_alive",
            "Whether a peer was heard of and is not seen to be gone",
            others,
        )?;
        page.gauge(
            "quire_replica_inbox",
            "Inputs that wait for the replica's thread",
            self.handle.waiting(),
        )?;
        let bounds = [("clients", CLIENTS_MAX), ("peers", INBOX_MAX)];
        let bounds = bounds.map(|(who, bound)| (vec![("for", who.to_owned())], bound));
        page.gauges("quire_replica_inbox_limit", "Inputs from which on others are turned away", bounds)?;
        let full = self.handle.published().inbox_full();
        page.counter("quire_replica_inbox_full", "Inputs turned away because too many waited", full)?;
        page.counter("quire_replica_turns", "Turns of the replica's loop", self.handle.published().beats())?;
        page.gauge(
            "quire_replica_no_room",
            "Whether new commands are refused for want of room",
            status.no_room.is_some(),
        )?;
        let scrub = &self.shared.scrub;
        page.counter("quire_scrub_bytes", "Bytes that the scrub has read", scrub.bytes())?;
        page.counter(
            "quire_scrub_passes",
            "Passes of the scrub over all that the replica keeps",
            scrub.passes(),
        )?;
        page.gauge(
            "quire_scrub_finished_timestamp_seconds",
            "When its newest pass ended; 0 before the first has",
            scrub.finished_ms() as f64 / 1000.0,
        )?;
        page.gauge(
            "quire_scrub_findings",
            "Damage that the newest pass of the scrub found",
            scrub.found().len(),
        )?;
        let repairs = self.shared.repairs.count();
        page.counter("quire_repairs", "Times that damage was repaired from the peers", repairs)?;
        page.gauge(
            "quire_replica_being_repaired",
            "Whether it takes no part because it waits to be repaired",
            self.quarantine().is_some(),
        )?;
        let room = self.room();
        page.gauge("quire_store_used_bytes", "Bytes of the store in use", room.used)?;
        page.gauge("quire_store_limit_bytes", "Bytes that the store may grow to", room.bound)?;
        page.gauge("quire_store_left_bytes", "Bytes that the store can still take on its disk", room.left)?;
        page.gauge(
            "quire_disk_free_bytes",
            "Bytes free on the file system of the data directory",
            self.free_bytes(),
        )
    }
}
