//! Agreeing on a level: the primary asks every member what its release understands, and logs the highest level that all do.
//!
//! See `wal::level` for what a level is. Every member has to answer, not a majority: one that is down may come back with
//! an older release, which would have to stop at an entry that it does not know. And they have to answer so for a while
//! (`agree_after`), in which the operator can see how the new release does and take nodes back.

use std::time::{Duration, Instant};

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
        // What all have understood since when, as asked by this primary without a break.
        let mut understood: Option<(Level, Instant)> = None;
        while self.shared.stopping.wait_beyond(0, LOOK_EVERY) == 0 {
            let Some(status) = self.status() else { continue };
            if status.level >= level::NEWEST {
                return;
            }
            if !status.is_primary() || status.no_room.is_some() {
                understood = None;
                continue;
            }
            if members.is_empty() {
                members = self.links_to_members();
            }
            let answers: Vec<Option<Level>> =
                members.iter().map(|member| member.call(Who {}, ANSWER_LIMIT).ok()).collect();
            let Some(next) = level::next(status.level, level::NEWEST, &answers) else {
                understood = None;
                continue;
            };
            let since = match understood {
                Some((level, since)) if level == next => since,
                _ => Instant::now(),
            };
            understood = Some((next, since));
            if since.elapsed() >= self.shared.identity.config.agree_after {
                log::info!("all members understand level {next}, the group has agreed on {}", status.level);
                // In this term only: who answered did so to this primary, before now.
                let _ = self.propose_in(status.term, vec![level::raise(next)], Box::new(|_| {}));
            }
        }
    }

    fn links_to_members(&self) -> Vec<Link<Who, Level>> {
        let others = self.members().iter().filter(|member| member.process != self.process());
        let link = |member: &api::replication::Member| {
            let options = LinkOptions {
                call_limit: ANSWER_LIMIT,
                idempotent: true,
                ..LinkOptions::new(&self.shared.identity.config.credentials)
            };
            let address = Address::new(&member.host, member.peer_port);
            Link::open(&format!("level {}", member.process), address, LEVEL, options)
        };
        others.map(link).collect()
    }
}
