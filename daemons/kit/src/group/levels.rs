//! Agreeing on a level: the primary asks every member what its release understands, and logs the highest level that all do.
//!
//! See `wal::level` for what a level is. Every member has to answer, not a majority: one that is down may come back with
//! an older release, which would have to stop at an entry that it does not know.

use std::time::Duration;

use api::replication::{LEVEL, Who};
use wal::level::{self, Level};

use super::Replica;
use crate::link::{Address, Link, LinkOptions};

/// Pause between two looks at whether there is something to agree on.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for a member's answer.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

impl<R: Send + 'static> Replica<R> {
    /// Runs on a thread of its own, until the group has agreed on all that this release knows, or the daemon stops.
    pub(super) fn agree_on_levels(&self) {
        let mut members: Vec<Link<Who, Level>> = Vec::new();
        while self.shared.stopping.wait_beyond(0, LOOK_EVERY) == 0 {
            let Some(status) = self.status() else { continue };
            if status.level >= level::NEWEST {
                return;
            }
            if !status.is_primary() {
                continue;
            }
            if members.is_empty() {
                members = self.links_to_members();
            }
            let answers: Vec<Option<Level>> =
                members.iter().map(|member| member.call(Who {}, ANSWER_LIMIT).ok()).collect();
            if let Some(next) = level::next(status.level, level::NEWEST, &answers) {
                log::info!("all members understand level {next}, the group has agreed on {}", status.level);
                // In this term only: who answered did so to this primary, before now.
                let _ = self.propose_in(status.term, vec![level::raise(next)], Box::new(|_| {}));
            }
        }
    }

    fn links_to_members(&self) -> Vec<Link<Who, Level>> {
        let others = self.members().iter().filter(|member| member.process != self.process());
        let link = |member: &api::replication::Member| {
            let options =
                LinkOptions { call_limit: ANSWER_LIMIT, idempotent: true, ..LinkOptions::default() };
            let address = Address::new(&member.host, member.peer_port);
            Link::open(&format!("level {}", member.process), address, LEVEL, options)
        };
        others.map(link).collect()
    }
}
