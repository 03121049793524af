//! Joining: from an open directory to a replica that takes part. Runs once, on a thread of its own.

use std::time::{Duration, Instant};

use api::replication::{ADMIT, FORM, Form, Formed, HELLO, Hello, Member, Verdict, Welcome};
use wal::level::NEWEST;
use wal::meta::NodeId;
use wal::replica::Config;

use super::admission::ADMIT_LIMIT;
use super::calls::introduction;
use super::formation::{self, Blank};
use super::{Replica, lock};
use crate::credentials::Credentials;
use crate::link::{Address, DirectLink, Link, LinkOptions};
use crate::wait::Watch;

/// Longest wait for a peer's answer to an introduction.
const HELLO_LIMIT: Duration = Duration::from_millis(500);
/// Pause between two rounds of introductions: from this ...
const HELLO_PAUSE_MIN: Duration = Duration::from_millis(20);
/// ... doubling up to this.
const HELLO_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a starting replica waits for all its peers to know it before a majority is enough. A peer that is up
/// and remembers a newer directory has this long to say so.
const REGISTER_GRACE: Duration = Duration::from_secs(1);
/// How often a wait that goes on is mentioned in the log.
const MENTION_EVERY: Duration = Duration::from_secs(10);

impl<R: Send + 'static> Replica<R> {
    /// Introduces this replica until it may take part, then starts it. Runs on a thread of its own.
    pub(super) fn join(&self) {
        let links = self.peer_links();
        self.set_waiting_for("peers".into());
        // In quarantine, too: a directory that must not take part is none to repair.
        if !self.find_group(&links) || !self.register(&links) || !self.leave_quarantine() {
            return;
        }
        let identity = &self.shared.identity;
        let formation = self.shared.formation.get().expect("found just now").clone();
        self.peers.members_changed(&lock(&self.shared.membership).clone());
        log::info!(
            "{} {} (node {:016x}) takes part in cluster {}, start number {}",
            identity.config.role,
            identity.config.process,
            identity.node,
            hex::encode(formation.cluster),
            identity.boot
        );
        self.set_waiting_for(String::new());
        let voters = formation.voters.iter().map(|(_, node)| *node).collect();
        self.handle.start(Config {
            node: identity.node,
            voters,
            boot: identity.boot,
            election_ticks: None,
            level: NEWEST,
            keep: identity.config.recovery.keep,
        });
    }

    fn peer_links(&self) -> Vec<(u64, PeerLinks)> {
        let config = &self.shared.identity.config;
        let others = config.members.iter().filter(|member| member.process != config.process);
        others
            .map(|member| (member.process, PeerLinks::open(config.role, member, &config.credentials)))
            .collect()
    }

    pub(super) fn set_waiting_for(&self, what: String) {
        *lock(&self.shared.waiting_for) = match self.quarantine() {
            Some(damage) => format!("its repair (damaged {damage}), and for that for {what}"),
            None => what,
        };
    }

    fn introduce(&self, links: &[(u64, PeerLinks)]) -> Option<(Hello, Vec<formation::Answer>)> {
        let me = self.at_desk(introduction).ok()?;
        let asks = links.iter().map(|(process, links)| {
            let answer = links.hello.call(me.clone(), HELLO_LIMIT);
            if let Ok(welcome) = &answer
                && welcome.me.process == *process
            {
                self.shared.note_introduction(&welcome.me);
            }
            (*process, answer.map_err(|error| error.to_string()))
        });
        let answers = asks.collect();
        Some((me, answers))
    }

    /// Waits until this directory belongs to a group. False: the daemon stops first.
    fn find_group(&self, links: &[(u64, PeerLinks)]) -> bool {
        let mut pauses = Pauses::new();
        let mut admission = DirectLink::new(ADMIT, ADMIT_LIMIT, self.credentials());
        while self.shared.formation.get().is_none() {
            let Some((me, answers)) = self.introduce(links) else { return false };
            match formation::next_when_blank(&me, &answers) {
                Blank::Adopt(form) => drop(self.form(form)),
                Blank::Form(voters) => self.form_group(&me, voters, links),
                Blank::Seek => {
                    if let Err(reason) = self.seek_admission(&me, &mut admission) {
                        pauses.mention(|| log::info!("blank data directory; waiting for {reason}"));
                        self.set_waiting_for(reason);
                    }
                }
                Blank::Wait(reason) => {
                    pauses.mention(|| log::info!("blank data directory, no group yet; waiting for {reason}"));
                    self.set_waiting_for(reason);
                }
            }
            if self.shared.formation.get().is_none() && !pauses.pause(&self.shared.stopping) {
                return false;
            }
        }
        true
    }

    /// Draws a cluster id and tells the others. Those that miss it learn of it when they introduce themselves.
    fn form_group(&self, me: &Hello, voters: Vec<(u64, NodeId)>, links: &[(u64, PeerLinks)]) {
        let cluster = *uuid::Uuid::new_v4().as_bytes();
        log::info!("forming cluster {} of {} voters", hex::encode(cluster), voters.len());
        let form = Form { role: me.role.clone(), cluster, members: me.members, voters };
        if !matches!(self.form(form.clone()), Ok(Formed::Yes)) {
            return;
        }
        for (process, links) in links {
            match links.form.call(form.clone(), HELLO_LIMIT) {
                Ok(Formed::Yes) => {}
                Ok(Formed::No(reason)) => log::warn!("{process} takes no part in the new group: {reason}"),
                Err(error) => log::info!("{process} will learn of the new group when it asks: {error}"),
            }
        }
    }

    /// Waits until enough peers know this start. False: the daemon stops first, or a peer knows better.
    fn register(&self, links: &[(u64, PeerLinks)]) -> bool {
        let mut pauses = Pauses::new();
        let since = Instant::now();
        let voters = self.shared.other_voters();
        let votes = lock(&self.shared.membership).voters.contains(&self.shared.identity.node);
        loop {
            let Some((_, answers)) = self.introduce(links) else { return false };
            let mut known = 0;
            for (process, answer) in &answers {
                match answer.as_ref().map(|welcome| &welcome.verdict) {
                    Ok(Verdict::Known) => known += usize::from(voters.contains(process)),
                    Ok(Verdict::No(reason)) => {
                        log::error!("{process} says that this replica must not take part: {reason}");
                        self.set_waiting_for(format!(
                            "an operator: {process} refuses this replica, because {reason}"
                        ));
                        return false;
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            if formation::registered(voters.len(), known, votes, since.elapsed() >= REGISTER_GRACE) {
                return true;
            }
            let missing = format!("peers that know this start: {known} of {}", voters.len());
            self.set_waiting_for(missing);
            pauses.mention(|| log::info!("waiting for {}", self.waiting_for()));
            if !pauses.pause(&self.shared.stopping) {
                return false;
            }
        }
    }
}

/// Links for introductions, closed when the replica has joined.
struct PeerLinks {
    hello: Link<Hello, Welcome>,
    form: Link<Form, Formed>,
}

impl PeerLinks {
    fn open(role: &str, member: &Member, credentials: &Credentials) -> PeerLinks {
        let name = format!("{role}-{}", member.process);
        let address = Address::new(&member.host, member.peer_port);
        let options = || LinkOptions { call_limit: HELLO_LIMIT, ..LinkOptions::new(credentials) };
        PeerLinks {
            hello: Link::open(&format!("{name} hello"), address.clone(), HELLO, options()),
            form: Link::open(&format!("{name} form"), address, FORM, options()),
        }
    }
}

/// Waiting with a growing pause and the occasional word in the log.
struct Pauses {
    pause: Duration,
    mentioned: Option<Instant>,
}

impl Pauses {
    fn new() -> Pauses {
        Pauses { pause: HELLO_PAUSE_MIN, mentioned: None }
    }

    fn mention(&mut self, say: impl FnOnce()) {
        if self.mentioned.is_none_or(|at| at.elapsed() >= MENTION_EVERY) {
            self.mentioned = Some(Instant::now());
            say();
        }
    }

    /// Pauses; false when the daemon stops.
    fn pause(&mut self, stopping: &Watch) -> bool {
        let stop = stopping.wait_beyond(0, self.pause) > 0;
        self.pause = (self.pause * 2).min(HELLO_PAUSE_MAX);
        !stop
    }
}
