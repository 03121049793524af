//! Snapshots for other replicas: views of one state, as `kit::group::views` has them.

use std::time::Duration;

use wal::StateMachine;
use wal::snapshot::{self, Head};
use wal::store::{Memory, Store};

use super::{Word, tables_of};
use crate::host::Host;
use crate::network::Place;
use crate::outside::{Message, Outside, name};
use crate::sabotage::states;

/// Most views at once.
const VIEWS_MAX: usize = 2;
/// A view that nobody asks of for so long ends.
const IDLE_MAX: Duration = Duration::from_millis(700);
/// Most parts that a state is sent in, or somewhat more.
const PARTS_MAX: u64 = 12;
/// Longest time that it takes to read a part.
const READ_MAX: Duration = Duration::from_millis(4);
/// How often a part is damaged on its way, in 100 000.
const DAMAGED: u64 = 1_000;

/// A state as it was when somebody began to take it.
pub(super) struct View {
    id: u64,
    state: Memory,
    /// Bytes of records in a part.
    part: usize,
    asked: Duration,
}

impl<M: StateMachine, O: Send + 'static> Host<'_, M, O> {
    pub(super) fn open_view(&mut self, from: Place, call: u64, at_least: u64, out: &mut Outside) {
        let now = out.now;
        self.recovery.views.retain(|view| now < view.asked + IDLE_MAX);
        let opened = match self.is_up() && self.recovery.views.len() < VIEWS_MAX {
            true => self.view(at_least, out),
            false => None,
        };
        let word = match opened {
            Some((view, head)) => Word::Opened { call, view, head: Box::new(head) },
            None => Word::Closed { call },
        };
        self.tell(from, word, out);
    }

    /// Opens a view of the state, if it is new enough; says what it is of.
    fn view(&mut self, at_least: u64, out: &mut Outside) -> Option<(u64, Head)> {
        let tables = tables_of(self.at);
        let asked_before = self.recovery.asked_before.replace(self.disk.image());
        let state = states::shown(self.sabotage, self.disk.image(), asked_before, tables)?;
        let (head, bytes) = {
            let txn = state.read().expect("a disk in memory can be read");
            let head = Head::of(&*txn).ok().flatten().filter(|head| head.mark.index >= at_least)?;
            let bytes: u64 = tables.iter().map(|table| txn.bytes(*table).expect("it can be read")).sum();
            (head, bytes)
        };
        let part = (bytes / (1 + out.random.below(PARTS_MAX))).max(1) as usize;
        let id = self.recovery.next();
        self.recovery.views.push(View { id, state, part, asked: out.now });
        out.say(|| format!("{} opens a view of {}, {bytes} bytes", name(self.at), head.mark.index));
        Some((id, head))
    }

    pub(super) fn show_part(
        &mut self,
        from: Place,
        call: u64,
        id: u64,
        after: Option<&snapshot::Place>,
        out: &mut Outside,
    ) {
        let now = out.now;
        let view = self.recovery.views.iter_mut().find(|view| view.id == id && now < view.asked + IDLE_MAX);
        let part = view.and_then(|view| {
            view.asked = now;
            let txn = view.state.read().expect("a disk in memory can be read");
            snapshot::chunk_of(&*txn, tables_of(self.at), after, view.part).ok()
        });
        let Some(mut chunk) = part else { return self.tell(from, Word::Closed { call }, out) };
        if out.random.chance(DAMAGED)
            && let Some(byte) = chunk.records.first_mut()
        {
            *byte ^= 1;
        }
        let takes = out.random.between(Duration::ZERO, READ_MAX);
        out.send_late(takes, self.at, from, Message::Word(Word::Part { call, chunk }));
    }
}
