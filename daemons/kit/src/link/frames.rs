//! Engine messages to one peer.

use std::sync::Arc;
use std::time::Duration;

use super::batch::ITEMS_BYTES_MAX;
use super::http::Caller;
use super::queue::{Load, Queue, Weight};
use super::{Address, census, start_thread};
use crate::credentials::Credentials;

/// What waits at most; further frames are dropped, and the engine sends again what matters.
const QUEUE_MAX: Load = Load { items: 8192, bytes: 8 * ITEMS_BYTES_MAX };
/// What rides in one call at most, but for a longer frame, which rides alone: the peer takes the first of many frames while
/// the next are on their way.
const CALL_MAX: Load = Load { items: 1024, bytes: 256 << 10 };
/// Longest frame; a longer one is dropped. Half of what a peer takes, since `encode` adds to it.
const FRAME_BYTES_MAX: usize = ITEMS_BYTES_MAX / 2;
/// Longest silence in one phase of a call. A peer that needs longer to take messages is as good as gone.
const CALL_LIMIT: Duration = Duration::from_secs(1);
/// First pause after a failed call; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// A link for engine messages to one peer: opaque frames, sent in order, many to a call, with no answer and no retry.
///
/// Frames may be lost at any time, as on a network: when the queue is full, when a call fails, and when others
/// waited behind a failed call, which would be stale by the time the peer is back.
#[derive(Debug)]
pub struct FrameLink {
    target: Address,
    queue: Arc<Queue<Vec<u8>>>,
    agent: ureq::Agent,
}

impl Weight for Vec<u8> {
    fn items(&self) -> usize {
        1
    }
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl FrameLink {
    /// Opens a link. `encode` makes one body of many frames, and may add a few bytes to each. `on_unreachable` runs
    /// on the link's thread after every failed call, and must be quick.
    ///
    /// # Panics
    /// If the system does not let us start a thread.
    pub fn open(
        target: Address,
        path: &'static str,
        credentials: &Credentials,
        encode: impl Fn(&[Vec<u8>]) -> Vec<u8> + Send + 'static,
        on_unreachable: impl Fn() + Send + 'static,
    ) -> FrameLink {
        let queue = Arc::new(Queue::new(QUEUE_MAX));
        census::enter("frames", &target, queue.gauge());
        let caller = Caller::new(path, CALL_LIMIT, credentials);
        let agent = caller.agent();
        let mut lane = Lane { caller, target: target.clone(), queue: queue.clone(), encode, on_unreachable };
        start_thread(&format!("to {target}"), move || lane.run());
        FrameLink { target, queue, agent }
    }

    /// Queues a frame; never waits. False if it was dropped: too many wait, or it is too long.
    pub fn send(&self, frame: Vec<u8>) -> bool {
        frame.len() <= FRAME_BYTES_MAX && self.queue.push(frame).is_ok()
    }

    /// The peer has given a sign of life: what is sent from now on need not wait until the pause after a failed call is
    /// over.
    pub fn hurry(&self) {
        self.queue.hurry();
    }

    /// Where it leads.
    pub fn target(&self) -> &Address {
        &self.target
    }

    /// Stops the link.
    pub fn close(&self) {
        self.queue.close();
        self.agent.clone().shutdown();
    }
}

impl Drop for FrameLink {
    fn drop(&mut self) {
        self.close();
    }
}

struct Lane<E, U> {
    caller: Caller,
    target: Address,
    queue: Arc<Queue<Vec<u8>>>,
    encode: E,
    on_unreachable: U,
}

impl<E: Fn(&[Vec<u8>]) -> Vec<u8>, U: Fn()> Lane<E, U> {
    fn run(&mut self) {
        let mut frames = Vec::new();
        let mut pause = PAUSE_MIN;
        while self.queue.fill(&mut frames, CALL_MAX) {
            let body = (self.encode)(&frames);
            frames.clear();
            let failure = match self.caller.post(&self.target, &body, CALL_LIMIT) {
                Ok(reply) if reply.status == 200 => {
                    pause = PAUSE_MIN;
                    continue;
                }
                Ok(reply) => format!("{} answered {}", self.target, reply.status),
                Err(failure) => format!("{failure:?}"),
            };
            log::debug!("frames lost: {failure}");
            self.queue.clear();
            (self.on_unreachable)();
            if !self.queue.pause(pause) {
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
