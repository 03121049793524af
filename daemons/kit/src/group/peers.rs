//! The links to the peers: engine traffic, and a watch on each peer's life.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use api::replication::FRAMES;
use wal::driver::Handle;
use wal::frames::{self, Route};
use wal::meta::{Formation, NodeId};
use wal::replica::{Input, Transport};

use super::{Shared, lock};
use crate::link::{Address, FrameLink, WatchLink};

/// The links to the peers, once the group is known: engine traffic, and a watch on each peer's life.
#[derive(Clone, Default)]
pub(super) struct Peers(Arc<OnceLock<HashMap<NodeId, (FrameLink, WatchLink)>>>);

impl Peers {
    pub(super) fn connect<R: Send + 'static>(
        &self,
        shared: &Arc<Shared>,
        formation: &Formation,
        handle: &Handle<R>,
    ) {
        let identity = &shared.identity;
        let mut links = HashMap::new();
        for member in
            identity.config.members.iter().filter(|member| member.process != identity.config.process)
        {
            let Some(node) = formation.node_of(member.process) else {
                log::warn!(
                    "{} {} is not a founder of this group; it gets no traffic",
                    identity.config.role,
                    member.process
                );
                continue;
            };
            let address = Address::new(&member.host, member.peer_port);
            let route = Route { cluster: formation.cluster, from: identity.node, to: node };
            let unreachable = handle.clone();
            let frames = FrameLink::open(
                address.clone(),
                FRAMES,
                move |frames| frames::pack(&route, frames),
                move || {
                    unreachable.deliver(Input::Unreachable(node));
                },
            );
            let (inbox, process) = (handle.clone(), member.process);
            let (gone, back) = (shared.clone(), shared.clone());
            let on_gone = move || {
                lock(&gone.gone).insert(process);
                inbox.deliver(Input::Gone(node));
            };
            let watch = WatchLink::open(address, on_gone, move || {
                lock(&back.gone).remove(&process);
            });
            links.insert(node, (frames, watch));
        }
        assert!(self.0.set(links).is_ok(), "a replica joins once");
    }
}

impl Transport for Peers {
    fn send(&mut self, to: NodeId, frame: Vec<u8>) {
        if let Some((link, _)) = self.0.get().and_then(|links| links.get(&to)) {
            link.send(frame); // a full queue drops it, as a network would
        }
    }
}
