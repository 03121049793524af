//! A replica's log on its API plane, for tools elsewhere: `quire wal`, `explain` and `backup` on a URL.
//!
//! Read-only, and to be routed for administrators alone: the keys of buys are in it. Old entries may have to come from the disk, so they
//! are read on a thread of its own, at the lowest priority, while the coroutine that answers parks. Each answer is a
//! transaction of its own, copied and over before anything is sent; its size, the answers that wait and the time one
//! waits have bounds.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use api::wal::{ANSWER_BYTES_MAX, FORMAT, Head, Records, Row};
use serde::Serialize;
use wal::inspect;
use wal::store::{Read, Room, Source, Store};

use crate::background;
use crate::http::{Request, Response};
use crate::problem::Problem;
use crate::refusals;
use crate::wait::{Completer, promise};

/// Answers that wait for the thread. One more gets 503: a tool asks for one after the other.
const WAITING_MAX: usize = 8;
/// Longest wait for the thread; then 503.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Whose log it is.
#[derive(Debug, Clone)]
pub struct Owner {
    /// `catalog` or `order`.
    pub role: &'static str,
    /// Process id of the replica.
    pub process: u64,
    /// Id of its data directory.
    pub node: u64,
}

/// Answers the requests of `api::wal`.
pub struct LogReader {
    questions: SyncSender<(Question, Completer<wal::Result<Vec<u8>>>)>,
}

enum Question {
    Head,
    Records { from: u64, to: u64 },
}

impl LogReader {
    /// Starts the thread that reads `store`. It ends with the last handle.
    pub fn open(store: Arc<dyn Store>, owner: Owner) -> LogReader {
        let (questions, asked) = sync_channel::<(Question, Completer<_>)>(WAITING_MAX);
        let work = move || {
            background::at_low_priority();
            let store = Reading(store);
            for (question, completer) in asked {
                completer.complete(answer(&store, &owner, &question));
            }
        };
        let thread = std::thread::Builder::new().name("log-reader".into()).spawn(work);
        drop(thread.expect("the operating system gives a daemon its few threads"));
        LogReader { questions }
    }

    /// `GET` of `api::wal::HEAD`. Parks.
    ///
    /// # Errors
    /// 503 if the thread is busy, 500 if the store cannot be read.
    pub fn head(&self) -> Result<Response, Problem> {
        self.ask(Question::Head)
    }

    /// `GET` of `api::wal::RECORDS`. Parks.
    ///
    /// # Errors
    /// As `head`; 400 for a range that is none.
    pub fn records(&self, request: &Request) -> Result<Response, Problem> {
        let index = |name| {
            let text = request.query_param(name).unwrap_or_default();
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let index = if digits { text.parse().ok() } else { None };
            index.ok_or_else(|| refusals::bad_parameter(name, &text, "the index of a log entry"))
        };
        self.ask(Question::Records { from: index("from")?, to: index("to")? })
    }

    fn ask(&self, question: Question) -> Result<Response, Problem> {
        let (completer, waiter) = promise();
        match self.questions.try_send((question, completer)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(refusals::overloaded()),
            Err(TrySendError::Disconnected(_)) => return Err(refusals::store_fault()),
        }
        match waiter.wait(ANSWER_LIMIT) {
            Some(Ok(body)) => Ok(Response::bytes(body)),
            Some(Err(error)) => {
                log::error!("the log cannot be read for a tool: {error}");
                Err(refusals::store_fault())
            }
            None => Err(refusals::unavailable("the log was not read in time")),
        }
    }
}

/// The store as the tools of `wal::inspect` read it.
struct Reading(Arc<dyn Store>);

impl Source for Reading {
    fn begin(&self) -> wal::Result<Box<dyn Read + '_>> {
        self.0.read()
    }
}

fn answer(store: &Reading, owner: &Owner, question: &Question) -> wal::Result<Vec<u8>> {
    let row = |(key, value): inspect::Row| Row { key, value };
    match question {
        Question::Head => {
            let (notes, last) = inspect::head_rows(store)?;
            let Room { used, bound, .. } = store.0.room()?;
            Ok(encoded(&Head {
                format: FORMAT,
                role: owner.role.into(),
                process: owner.process,
                node: owner.node,
                used_bytes: used,
                bound_bytes: bound,
                meta: notes.into_iter().map(row).collect(),
                last: last.map(row),
            }))
        }
        Question::Records { from, to } => {
            let (rows, more) = inspect::record_rows(store, *from, *to, ANSWER_BYTES_MAX)?;
            Ok(encoded(&Records { format: FORMAT, rows: rows.into_iter().map(row).collect(), more }))
        }
    }
}

fn encoded<T: Serialize>(answer: &T) -> Vec<u8> {
    postcard::to_stdvec(answer).expect("plain data types always encode")
}
