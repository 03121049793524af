//! Which entries are wanted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::wal::inspect::Bounds;
use clap::Args;
use kit::exit::Exit;

use super::entries::Line;
use super::group::{Group, Meaning, Opened};
use super::out::Stop;

/// Flags that choose entries; all that are given must hold.
#[derive(Debug, Args)]
pub(in crate::commands) struct Filter {
    /// First index
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Last index
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// Of this kind, for example sell or record; may be given several times
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// About this book
    #[arg(long, value_name = "BOOK")]
    book: Option<u64>,
    /// About this order; in the catalog's log the order numbers are found by a replay
    #[arg(long, value_name = "ORDER")]
    order: Option<u64>,
    /// With this idempotency key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Of this trace: the 32 hexadecimal digits that a traceparent header has in the middle
    #[arg(long, value_name = "TRACE")]
    trace: Option<String>,
    /// Not before this time by the primary's wall clock: 2026-11-23T12:00:00Z, or how long ago: 10m
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<SystemTime>,
    /// Not after this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<SystemTime>,
}

/// A time in RFC 3339, or how long ago.
pub(in crate::commands) fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return SystemTime::now().checked_sub(ago).ok_or_else(|| "longer ago than time goes back".into());
    }
    humantime::parse_rfc3339_weak(text)
        .map_err(|_| "wanted a time such as 2026-11-23T12:00:00Z, or how long ago, such as 10m".into())
}

impl Filter {
    /// Checks what depends on the log.
    pub(in crate::commands) fn check(&self, group: Group) -> Result<(), Stop> {
        let known: Vec<&str> = ["open-term", "voters"]
            .into_iter()
            .chain(group.kinds().iter().chain(&::wal::agreement::KINDS).map(|(_, word)| *word))
            .collect();
        match self.kind.iter().find(|kind| !known.contains(&kind.as_str())) {
            None => Ok(()),
            Some(kind) => Err(Stop::new(
                Exit::Usage,
                format!("--kind {kind}: the {} log has {}", group.role(), known.join(", ")),
            )),
        }
    }

    /// First and last index, as far as they are wanted.
    pub(in crate::commands) fn range(&self, bounds: &Bounds) -> (u64, u64) {
        (self.from.unwrap_or(0).max(bounds.first()), self.to.unwrap_or(u64::MAX).min(bounds.last))
    }

    /// Whether only a replay can tell.
    pub(in crate::commands) fn needs_replay(&self, opened: &Opened) -> bool {
        self.order.is_some() && opened.group == Group::Catalog
    }

    /// Whether everything that is asked for holds.
    pub(in crate::commands) fn takes(&self, line: &Line) -> bool {
        let effect = line.effect.as_ref();
        let sales = match &line.meaning {
            Meaning::Order(described) => described.sales.as_slice(),
            _ => &[],
        };
        let (book, key, trace) = match &line.meaning {
            Meaning::Catalog(described) => (described.book(), described.key(), described.trace()),
            _ => (None, None, None),
        };
        let book = book.or_else(|| effect.and_then(|effect| effect.book()));
        let order = effect.and_then(|effect| effect.order());
        let wall_ms = line.entry.stamp.wall_ms;
        (self.kind.is_empty() || self.kind.contains(&line.kind()))
            && self.book.is_none_or(|wanted| book == Some(wanted) || sales.iter().any(|sale| sale.book == wanted))
            && self.order.is_none_or(|wanted| order == Some(wanted) || sales.iter().any(|sale| sale.order == wanted))
            && self.key.as_deref().is_none_or(|wanted| key == Some(wanted) || sales.iter().any(|sale| sale.key == wanted))
            && self.trace.as_deref().is_none_or(|wanted| trace == Some(wanted))
            // The entry that opens a term has no time.
            && self.since.is_none_or(|since| wall_ms > 0 && wall(wall_ms) >= since)
            && self.until.is_none_or(|until| wall_ms > 0 && wall(wall_ms) <= until)
    }
}

fn wall(wall_ms: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(wall_ms)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(UNIX_EPOCH + Duration::from_secs(1)));
        let then = moment("10m").unwrap();
        let ago = SystemTime::now().duration_since(then).unwrap();
        assert!((600..660).contains(&ago.as_secs()), "{ago:?}");
        assert!(moment("yesterday").is_err());
    }
}
