//! What a restore makes: found by reading the logs of the backup, without making anything.

use std::collections::BTreeMap;
use std::path::Path;

use api::catalog::Position;
use catalog::machine::command::kind as catalog_kind;
use kit::exit::Exit;
use order::machine::command::{Record, kind as order_kind};
use serde::Serialize;

use crate::commands::backup::make::From;
use crate::commands::backup::manifest::{Manifest, Part};
use crate::commands::wal::out::{Stop, time};

/// What is made, in the schema.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    pub(super) catalog: Step,
    pub(super) order: Step,
}

/// Of one group.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    /// As it was after this entry.
    pub(super) index: u64,
    /// That entry's time, if it has one.
    pub(super) time: Option<String>,
    /// Index of the state that is begun with; 0 for none.
    pub(super) base: u64,
    /// Process ids of the replicas.
    pub(super) ids: Vec<u64>,
}

impl Plan {
    /// The plan for an index or a time, or the newest that there is.
    pub(super) fn new(
        backup: &Path,
        manifest: &Manifest,
        to_index: Option<u64>,
        to_ms: Option<u64>,
        catalogs: &[u64],
        orders: &[u64],
    ) -> Result<Plan, Stop> {
        let (first, last) = (manifest.first, manifest.catalog.point.index);
        let seen =
            Seen::of(&From::part(backup, &manifest.catalog), to_index.unwrap_or(last).min(last), to_ms)?;
        let wanted = match (to_index, to_ms) {
            (Some(index), _) => index,
            (None, Some(_)) => seen.at_time.unwrap_or(0),
            (None, None) => last,
        };
        if !(first..=last).contains(&wanted) {
            let found = match (to_index, to_ms) {
                (Some(index), _) => format!("index {index}"),
                (None, Some(ms)) => format!("{}, which is index {wanted},", kit::answers::time(ms)),
                (None, None) => "the newest state".into(),
            };
            let shown = backup.display();
            return Err(Stop::new(
                Exit::No,
                format!(
                    "{shown}: {found} cannot be reached: catalog index {first} to {last} can; take another backup"
                ),
            ));
        }
        let catalog = Step {
            index: wanted,
            time: if to_ms.is_some() { seen.time_at } else { seen.time },
            base: base(&manifest.catalog, wanted),
            ids: catalogs.to_vec(),
        };
        let order =
            order_step(&From::part(backup, &manifest.order), manifest, wanted, &seen.incarnations, orders)?;
        Ok(Plan { catalog, order })
    }
}

/// Index of the state that is begun with, if it is not later than what is wanted.
fn base(part: &Part, wanted: u64) -> u64 {
    part.state.as_ref().map(|state| state.point.index).filter(|index| *index <= wanted).unwrap_or(0)
}

/// What the catalog's log says.
struct Seen {
    /// Time of the entry that is wanted.
    time: Option<String>,
    /// The last entry that was proposed by the time that is wanted.
    at_time: Option<u64>,
    /// Its time.
    time_at: Option<String>,
    /// Where incarnations began, as far as the log has it.
    incarnations: BTreeMap<u32, u64>,
}

impl Seen {
    fn of(from: &From<'_>, index: u64, to_ms: Option<u64>) -> Result<Seen, Stop> {
        let mut seen = Seen { time: None, at_time: None, time_at: None, incarnations: BTreeMap::new() };
        let mut reader = from.log()?;
        while let Some((entry, _)) = reader.entry().map_err(|error| from.failed(error))? {
            if entry.index > index {
                break;
            }
            let wall_ms = entry.stamp.wall_ms;
            if entry.index == index {
                seen.time = time(wall_ms);
            }
            if to_ms.is_some_and(|to_ms| wall_ms > 0 && wall_ms <= to_ms) {
                (seen.at_time, seen.time_at) = (Some(entry.index), time(wall_ms));
            }
            if entry.command.kind == catalog_kind::INCARNATE
                && let Ok(incarnation) = postcard::from_bytes::<u32>(&entry.command.payload)
            {
                seen.incarnations.entry(incarnation).or_insert(entry.index);
            }
        }
        Ok(seen)
    }
}

/// The order book as it was when the catalog was at `catalog_index`: every sale names the entry that made it.
fn order_step(
    from: &From<'_>,
    manifest: &Manifest,
    catalog_index: u64,
    incarnations: &BTreeMap<u32, u64>,
    ids: &[u64],
) -> Result<Step, Stop> {
    let mut reader = from.log()?;
    let (mut index, mut at) = (reader.start().index, None);
    while let Some((entry, _)) = reader.entry().map_err(|error| from.failed(error))? {
        if entry.index > manifest.order.point.index {
            break;
        }
        if entry.command.kind == order_kind::RECORD
            && let Ok(record) = postcard::from_bytes::<Record>(&entry.command.payload)
            && is_later(&record, catalog_index, incarnations)
        {
            break;
        }
        index = entry.index;
        at = time(entry.stamp.wall_ms).or(at);
    }
    Ok(Step { index, time: at, base: base(&manifest.order, index), ids: ids.to_vec() })
}

/// Whether the catalog had not come so far yet.
fn is_later(record: &Record, catalog_index: u64, incarnations: &BTreeMap<u32, u64>) -> bool {
    if let Some(last) = record.sales.last() {
        return last.index > catalog_index;
    }
    let Position { incarnation, .. } = record.through;
    incarnations.get(&incarnation).is_some_and(|began| *began > catalog_index)
}
