//! The links to the peers: engine traffic, and a watch on each peer's life.
//!
//! A link is to a data directory, not to a process id: when a member is replaced by another of the same name, the links
//! to the old directory end, and what is on its way to it is refused by the new one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use api::replication::FRAMES;
use wal::driver::Handle;
use wal::frames::{self, Route};
use wal::meta::{Membership, NodeId};
use wal::replica::{Input, Transport};

use super::{Shared, lock};
use crate::link::{Address, FrameLink, WatchLink};

type Links = Arc<Mutex<HashMap<NodeId, (FrameLink, WatchLink)>>>;

/// The links to the peers, once the group is known.
pub(super) struct Peers<R> {
    shared: Arc<Shared>,
    links: Links,
    handle: Arc<OnceLock<Handle<R>>>,
}

impl<R> Clone for Peers<R> {
    fn clone(&self) -> Self {
        Peers { shared: self.shared.clone(), links: self.links.clone(), handle: self.handle.clone() }
    }
}

/// What the replica sends through.
pub(super) struct ToPeers(Links);

impl<R: Send + 'static> Peers<R> {
    pub(super) fn new(shared: &Arc<Shared>) -> Peers<R> {
        Peers { shared: shared.clone(), links: Links::default(), handle: Arc::default() }
    }

    pub(super) fn transport(&self) -> ToPeers {
        ToPeers(self.links.clone())
    }

    /// What is heard of the peers goes here. Called once, before anything else.
    pub(super) fn deliver_to(&self, handle: Handle<R>) {
        assert!(self.handle.set(handle).is_ok(), "a replica has one thread");
    }

    /// Opens the links to members that have none, and ends those to nodes that are members no more.
    pub(super) fn members_changed(&self, members: &Membership) {
        let gone = |node: &NodeId| !members.has(*node);
        let ended: Vec<_> = lock(&self.links).extract_if(|node, _| gone(node)).collect();
        drop(ended); // outside of the lock that the replica's thread sends under
        for (process, node) in &members.names {
            self.connect(*process, *node);
        }
    }

    /// A node has given a sign of life, maybe after its link had found it away.
    pub(super) fn heard_of(&self, node: NodeId) {
        if let Some((frames, _)) = lock(&self.links).get(&node) {
            frames.hurry();
        }
    }

    /// Opens the links to a node of the group, if there are none.
    pub(super) fn connect(&self, process: u64, node: NodeId) {
        let identity = &self.shared.identity;
        if node == identity.node || lock(&self.links).contains_key(&node) {
            return;
        }
        let Some(member) = identity.config.members.iter().find(|member| member.process == process) else {
            return log::warn!(
                "{} {process} (node {node:016x}) is in the group and not among the members by configuration; it gets no \
                 traffic",
                identity.config.role
            );
        };
        let (Some(formation), Some(handle)) = (self.shared.formation.get(), self.handle.get()) else {
            return;
        };
        let address = Address::new(&member.host, member.peer_port);
        let route = Route { cluster: formation.cluster, from: identity.node, to: node };
        let (unreachable, inbox) = (handle.clone(), handle.clone());
        let frames = FrameLink::open(
            address.clone(),
            FRAMES,
            &identity.config.credentials,
            move |frames| frames::pack(&route, frames),
            move || {
                unreachable.deliver(Input::Unreachable(node));
            },
        );
        let (gone, back) = (self.shared.clone(), self.shared.clone());
        let on_gone = move || {
            lock(&gone.gone).insert(process);
            inbox.deliver(Input::Gone(node));
        };
        let watch = WatchLink::open(address, &identity.config.credentials, on_gone, move || {
            lock(&back.gone).remove(&process);
        });
        // Who had the name before may have been gone; of this one nothing is known yet.
        lock(&self.shared.gone).remove(&process);
        lock(&self.links).entry(node).or_insert((frames, watch));
    }
}

impl Transport for ToPeers {
    fn send(&mut self, to: NodeId, frame: Vec<u8>) {
        if let Some((link, _)) = lock(&self.0).get(&to) {
            link.send(frame); // a full queue drops it, as a network would
        }
    }
}
