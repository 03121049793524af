//! The life of a daemon that is a replica of a group: open both planes, take part, serve, stop in order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::replication::Member;
use wal::StateMachine;

use crate::api_plane;
use crate::exit::{Exit, Failure};
use crate::group::{GroupConfig, Recovery, Replica};
use crate::lifecycle::{self, Stop};
use crate::peer_plane::{self, PeerHandler, PeerReply, PeerRequest};
use crate::settings::{Access, Members};
use crate::supervision;
use crate::{logging, restart};

/// Longest time from the request to stop to the end of all that is under way: below the 10 s after which Docker kills.
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// Of it, for what is under way on the API plane. The rest is for the hand-over, which waits no longer than
/// `HAND_OVER_LIMIT` twice, and then for the peers.
const DRAIN_LIMIT: Duration = Duration::from_secs(4);
/// Longest time that a stopping primary waits for another to take over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(1);

/// How long a connection that this daemon ends is listened to, so that the last answer arrives: short enough for an
/// idle daemon with idle clients to stop within two seconds.
const LINGER: Duration = Duration::from_millis(500);

/// Where a replica's daemon lives and listens.
#[derive(Debug, Clone)]
pub struct Place {
    /// `catalog` or `order`.
    pub role: &'static str,
    /// The group by configuration.
    pub members: Members,
    /// Who may do what on the two planes.
    pub access: Access,
    /// Address of the API plane.
    pub api: SocketAddr,
    /// Address of the peer plane.
    pub peer: SocketAddr,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Upper bound of the store, in bytes of address space.
    pub map_bytes: usize,
    /// See `GroupConfig::agree_after`.
    pub agree_after: Duration,
    /// See `GroupConfig::recovery`.
    pub recovery: Recovery,
    /// Length of the engine's tick.
    pub tick: Duration,
    /// What the API plane takes. Its `linger` is the daemon's own.
    pub limits: api_plane::Limits,
}

/// Who answers on the two planes.
pub struct Planes {
    /// The API plane.
    pub api: Arc<dyn api_plane::Handler>,
    /// The peer plane, but for the group's own calls.
    pub peers: Box<dyn Fn(&PeerRequest<'_>) -> PeerReply + Send + Sync>,
    /// Called on the stop, after the API plane and before the replica hands over; may block for `HAND_OVER_LIMIT`.
    pub before_hand_over: Box<dyn FnOnce()>,
}

/// Runs a replica until `stop` is requested. `planes` makes what answers; `serving` is called once both planes are
/// open, and may take as long as it likes if it ends with `stop`. Blocks. Where the replica asked for the stop to start
/// anew, the process does, and this does not return.
pub fn run<M: StateMachine>(
    place: &Place,
    machine: M,
    stop: &Stop,
    planes: impl FnOnce(Replica<M::Reply>) -> Planes,
    serving: impl FnOnce(&Replica<M::Reply>),
) -> Result<(), Failure> {
    let own = place.members.own();
    place.limits.check_descriptors()?;
    lifecycle::start_coroutines(1);
    let api_listener = api_plane::listen(place.api).map_err(in_use)?;
    let peer_listener = peer_plane::listen(place.peer).map_err(in_use)?;
    let credentials = place.access.credentials.named(&format!("{} {}", place.role, own.id));
    let replica = Replica::open(
        GroupConfig {
            role: place.role,
            process: own.id,
            members: place.members.all().iter().map(member).collect(),
            credentials: credentials.clone(),
            data_dir: place.data_dir.clone(),
            map_bytes: place.map_bytes,
            agree_after: place.agree_after,
            recovery: place.recovery,
            stop: stop.clone(),
            tick: place.tick,
        },
        machine,
    )?;
    let Planes { api, peers, before_hand_over } = planes(replica.clone());
    let handler = Arc::new(Peers { replica: replica.clone(), rest: peers });
    let peers = peer_plane::serve(peer_listener, peer_plane::Limits::default(), credentials, handler)
        .map_err(in_use)?;
    let limits = api_plane::Limits { linger: LINGER, ..place.limits.clone() };
    let api = api_plane::serve_tls(api_listener, limits, place.access.tls.clone(), api);
    log::info!("{} {} serves {}, peers on {}", place.role, own.id, api.local_addr(), peers.local_addr());

    place.access.warnings().iter().for_each(|warning| log::warn!("{warning}"));

    let beating = replica.clone();
    supervision::feed_watchdog(move || beating.beats());
    supervision::ready(&format!("{} {} serves {}", place.role, own.id, api.local_addr()));

    serving(&replica);
    stop.wait();

    match stop.restarts() {
        true => log::info!("{} {} starts anew", place.role, own.id),
        false => {
            supervision::stopping();
            log::info!("{} {} stops", place.role, own.id);
        }
    }
    let end = Instant::now() + STOP_LIMIT;
    let api_drained = api.drain(DRAIN_LIMIT);
    before_hand_over();
    replica.hand_over(HAND_OVER_LIMIT);
    replica.stop_watches();
    let peers_drained = peers.drain(end.saturating_duration_since(Instant::now()));
    if !(api_drained && peers_drained) {
        log::warn!("some requests were still under way when the time to stop was over");
    }
    replica.stop();
    logging::flush(); // which may take a moment, and a signal in it makes this a stop
    if stop.restarts() { Err(restart::in_place()) } else { Ok(()) }
}

fn member(member: &crate::settings::Member) -> Member {
    Member {
        process: member.id,
        host: member.host.name.clone(),
        api_port: member.host.api_port,
        peer_port: member.host.peer_port,
    }
}

fn in_use(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Unavailable, error.to_string())
}

struct Peers<R> {
    replica: Replica<R>,
    rest: Box<dyn Fn(&PeerRequest<'_>) -> PeerReply + Send + Sync>,
}

impl<R: Send + 'static> PeerHandler for Peers<R> {
    fn handle(&self, request: &PeerRequest<'_>) -> PeerReply {
        let began = Instant::now();
        let mut reply = self.replica.serve(request).unwrap_or_else(|| (self.rest)(request));
        self.replica.calls().answered(request.path, request.body, reply.status, began.elapsed());
        if reply.status == 404 {
            // Whoever asks for what another role has was given the wrong address.
            let caller = request
                .caller
                .map_or_else(|| request.from.to_string(), |caller| format!("{caller} at {}", request.from));
            let own = self.replica.credentials().name();
            reply = PeerReply::text(
                404,
                format!("no such call at {own}: {} of {caller}; check the address", request.path),
            );
        }
        reply
    }
}
