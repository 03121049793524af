//! The log of a replica, read from its daemon.
//!
//! What the daemon sends is what lies in its store, and is checked here as a data directory is. A transaction here is
//! not one there: what the replica notes of itself and where its log ends are of one moment, records of the moments in
//! which they are asked for. Up to the commit index they never change. Other tables cannot be read.

use std::cell::OnceCell;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::Duration;

use ::wal::data_dir::{self, Identity};
use ::wal::error::Error;
use ::wal::store::{LOG, META, Read, Room, Source, Table, Visit};
use api::wal::{FORMAT, HEAD, Head, RECORDS, Records, Row};
use kit::exit::{Exit, Failure};
use kit::settings::ApiClientSettings;
use serde::de::DeserializeOwned;

use crate::commands::client::Client;

/// Longest wait for an answer. The daemon gives up sooner.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Times that a daemon is asked again that has no time.
const TRIES: u32 = 10;
/// Pause before that.
const PAUSE: Duration = Duration::from_millis(200);

/// Whether this names a daemon, not a directory.
pub(in crate::commands) fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// A daemon's log.
pub(in crate::commands) struct Remote {
    base: String,
    client: Client,
    /// Whose it is.
    pub(in crate::commands) identity: Identity,
    /// How full its store is, when it was opened.
    pub(in crate::commands) room: Room,
    /// Why the last reading failed, for the error that a person gets.
    failure: Mutex<Option<Failure>>,
}

impl Remote {
    /// Asks the daemon at `url` whose log it has.
    pub(in crate::commands) fn open(url: &str, settings: &ApiClientSettings) -> Result<Remote, Failure> {
        let base = url.trim_end_matches('/').to_owned();
        let client = match base.starts_with("https://") {
            true => Client::trusting(ANSWER_LIMIT, &settings.trusted()?)?,
            false => Client::new(ANSWER_LIMIT),
        };
        let client = client.with_token(settings.admin.token()?);
        let head: Head = ask(&client, &format!("{base}{HEAD}"))?;
        check(&base, head.format)?;
        let Head { role, process, node, used_bytes, bound_bytes, .. } = head;
        let identity = Identity { format: data_dir::FORMAT, role, process, node: format!("{node:016x}") };
        let room = Room { used: used_bytes, bound: bound_bytes, left: u64::MAX };
        Ok(Remote { base, client, identity, room, failure: Mutex::default() })
    }

    /// Why the last reading failed, if it was for the daemon's sake.
    pub(in crate::commands) fn take_failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    fn head(&self) -> ::wal::Result<Head> {
        let head: Head = self.read(HEAD)?;
        match check(&self.base, head.format) {
            Ok(()) => Ok(head),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    fn records(&self, from: u64, to: u64) -> ::wal::Result<Records> {
        let records: Records = self.read(&format!("{RECORDS}?from={from}&to={to}"))?;
        match check(&self.base, records.format) {
            Ok(()) => Ok(records),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    fn read<T: DeserializeOwned>(&self, path: &str) -> ::wal::Result<T> {
        ask(&self.client, &format!("{}{path}", self.base)).map_err(|failure| self.failed(failure))
    }

    fn failed(&self, failure: Failure) -> Error {
        let cause = failure.message.clone();
        *self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(failure);
        Error::Storage { doing: "asking the daemon", cause }
    }
}

/// One answer, whole and decoded.
fn ask<T: DeserializeOwned>(client: &Client, url: &str) -> Result<T, Failure> {
    let mut tries = TRIES;
    let (status, body) = loop {
        let (status, body) = client.get_bytes(url).map_err(|error| Failure::new(Exit::Unavailable, error))?;
        tries -= 1;
        if status != 503 || tries == 0 {
            break (status, body);
        }
        std::thread::sleep(PAUSE);
    };
    if status == 200 {
        return postcard::from_bytes(&body).map_err(|error| {
            Failure::new(Exit::Config, format!("{url} answers with something else than a log: {error}"))
        });
    }
    let problem: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let said = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    let said = said.map_or_else(|| String::from_utf8_lossy(&body).trim().to_owned(), str::to_owned);
    let exit = match status {
        401 | 403 => Exit::Permission,
        404 | 405 => Exit::Config,
        500 => Exit::Io,
        _ => Exit::Unavailable,
    };
    let hint = match status {
        404 => "; give the URL of a catalog or order replica of this release",
        _ => "",
    };
    Err(Failure::new(exit, format!("{url} answers {status}: {said}{hint}")))
}

fn check(base: &str, format: u32) -> Result<(), Failure> {
    if format == FORMAT {
        return Ok(());
    }
    let message = format!(
        "{base} shows its log in format {format}, this binary reads {FORMAT}; use that of the daemon"
    );
    Err(Failure::new(Exit::Config, message))
}

impl Source for Remote {
    fn begin(&self) -> ::wal::Result<Box<dyn Read + '_>> {
        Ok(Box::new(Txn { remote: self, head: OnceCell::new(), kept: OnceCell::new() }))
    }
}

/// See the head of this module.
struct Txn<'r> {
    remote: &'r Remote,
    /// Asked for when it is wanted.
    head: OnceCell<Head>,
    /// What was lent out.
    kept: OnceCell<Box<Kept>>,
}

/// A value that lives as long as the transaction, and the next one: few of them are ever read by key.
struct Kept {
    value: Vec<u8>,
    next: OnceCell<Box<Kept>>,
}

impl Txn<'_> {
    fn head(&self) -> ::wal::Result<&Head> {
        if let Some(head) = self.head.get() {
            return Ok(head);
        }
        let head = self.remote.head()?;
        Ok(self.head.get_or_init(|| head))
    }

    fn keep(&self, value: Vec<u8>) -> &[u8] {
        let mut place = &self.kept;
        while let Some(kept) = place.get() {
            place = &kept.next;
        }
        &place.get_or_init(|| Box::new(Kept { value, next: OnceCell::new() })).value
    }

    fn not_shown(&self, table: Table) -> Error {
        let message = format!(
            "{} shows its log, not its table {}; use the data directory",
            self.remote.base, table.name
        );
        self.remote.failed(Failure::new(Exit::Usage, message))
    }
}

/// The index that a key of the log starts from; a longer or shorter key lies between two.
fn index_of(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = key.len().min(8);
    bytes[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(bytes)
}

impl Read for Txn<'_> {
    fn get(&self, table: Table, key: &[u8]) -> ::wal::Result<Option<&[u8]>> {
        if table == META {
            let row = self.head()?.meta.iter().find(|row| row.key == key);
            return Ok(row.map(|row| row.value.as_slice()));
        }
        if table != LOG {
            return Err(self.not_shown(table));
        }
        let index = index_of(key);
        let records = self.remote.records(index, index)?;
        let row = records.rows.into_iter().find(|row| row.key == key);
        Ok(row.map(|row| self.keep(row.value)))
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> ::wal::Result<()> {
        if table == META {
            for Row { key, value } in self.head()?.meta.iter().filter(|row| row.key.as_slice() >= from) {
                if visit(key, value).is_break() {
                    break;
                }
            }
            return Ok(());
        }
        if table != LOG {
            return Err(self.not_shown(table));
        }
        let mut next = index_of(from);
        loop {
            let Records { rows, more, .. } = self.remote.records(next, u64::MAX)?;
            for Row { key, value } in &rows {
                if visit(key, value) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
            match rows.last() {
                Some(last) if more => next = index_of(&last.key).saturating_add(1),
                _ => return Ok(()),
            }
        }
    }

    fn last(&self, table: Table) -> ::wal::Result<Option<(&[u8], &[u8])>> {
        if table != LOG {
            return Err(self.not_shown(table));
        }
        Ok(self.head()?.last.as_ref().map(|row| (row.key.as_slice(), row.value.as_slice())))
    }

    fn below(&self, table: Table, _: &[u8]) -> ::wal::Result<Option<(&[u8], &[u8])>> {
        Err(self.not_shown(table))
    }

    fn count(&self, table: Table) -> ::wal::Result<u64> {
        Err(self.not_shown(table))
    }
}
