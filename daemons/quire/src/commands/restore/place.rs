//! Making the data directories.

use std::fs;
use std::path::{Path, PathBuf};

use ::wal::StateMachine;
use ::wal::data_dir::DataDir;
use ::wal::inspect::Making;
use ::wal::meta::Formation;
use api::catalog::Position;
use catalog::machine::{Catalog, order_number};
use kit::exit::Exit;
use kit::group::directory_failure;
use order::machine::Orders;
use serde::Serialize;

use super::plan::{Plan, Step};
use crate::commands::backup::copy::sync;
use crate::commands::backup::make::{From, make};
use crate::commands::backup::manifest::{Manifest, Part};
use crate::commands::wal::group::Group;
use crate::commands::wal::out::Stop;

/// LMDB's file in a data directory.
const STORE: &str = "data.mdb";
/// Terms that are left out after the last one of the backup: the store that was backed up may have gone on, and front ends
/// listen to no primary of an earlier term than they have heard of.
const TERMS_SKIPPED: u64 = 1_000;

/// What was made, in the schema.
#[derive(Debug, Serialize)]
pub(super) struct Placed {
    pub(super) catalog: Made,
    pub(super) order: Made,
    /// The order book has all sales through here.
    pub(super) through: String,
    /// The catalog's incarnation from now on.
    pub(super) incarnation: u32,
    /// Number of its first order.
    pub(super) next_order: u64,
}

/// One group.
#[derive(Debug, Serialize)]
pub(super) struct Made {
    /// Its id.
    pub(super) cluster: String,
    /// The state's hash as it was.
    pub(super) restored_hash: String,
    /// Index of the last entry now.
    pub(super) index: u64,
    /// The state's hash now.
    pub(super) state_hash: String,
}

/// Makes the directories of both groups in `target`.
pub(super) fn both(backup: &Path, manifest: &Manifest, plan: &Plan, target: &Path) -> Result<Placed, Stop> {
    let order_group = Founding::new(target, Group::Order, &plan.order)?;
    let catalog_group = Founding::new(target, Group::Catalog, &plan.catalog)?;

    let from = From::part(backup, &manifest.order);
    let failed = |error| from.failed(error);
    let mut orders = order_group.make(&from, &manifest.order, Orders, plan.order.index)?;
    let as_it_was = orders.applied().hash;
    let through = orders.view(order::queries::through).map_err(failed)?;
    orders.belong(&order_group.formation).map_err(failed)?;
    let order = order_group.end(orders, as_it_was)?;

    let from = From::part(backup, &manifest.catalog);
    let failed = |error| from.failed(error);
    let mut catalog = catalog_group.make(&from, &manifest.catalog, Catalog, plan.catalog.index)?;
    let as_it_was = catalog.applied().hash;
    let figures = catalog.view(catalog::queries::figures).map_err(failed)?;
    let (newest, trimmed) =
        figures.map_or_else(Default::default, |figures| (figures.newest, figures.trimmed));
    if through < trimmed || through > newest {
        return Err(apart(through, trimmed, newest));
    }
    let follower = order_group.formation.cluster;
    let commands = catalog.view(|view| catalog::restored::first_commands(view, follower)).map_err(failed)?;
    let term = catalog.last().term + TERMS_SKIPPED;
    catalog.command(commands, term, kit::clock::wall_ms()).map_err(failed)?;
    let newest = catalog.view(catalog::queries::outbox_head).map_err(failed)?;
    catalog.belong(&catalog_group.formation).map_err(failed)?;
    let catalog = catalog_group.end(catalog, as_it_was)?;
    sync(target)?;
    Ok(Placed {
        catalog,
        order,
        through: kit::answers::position(through),
        incarnation: newest.incarnation,
        next_order: order_number(Position { sale: newest.sale + 1, ..newest }),
    })
}

fn apart(through: Position, trimmed: Position, newest: Position) -> Stop {
    let [through, trimmed, newest] = [through, trimmed, newest].map(kit::answers::position);
    let message = format!(
        "damaged: the order book has sales through {through}, the catalog has forgotten through {trimmed} and sold through \
         {newest}; use another backup"
    );
    Stop::new(Exit::Damaged, message)
}

/// A group whose directories are made: new ids for all of it.
struct Founding {
    formation: Formation,
    directories: Vec<DataDir>,
}

impl Founding {
    fn new(target: &Path, group: Group, step: &Step) -> Result<Founding, Stop> {
        let role = group.role();
        let open = |id: &u64| {
            let opened = DataDir::open(&target.join(format!("{role}-{id}")), role, *id);
            opened.map_err(|error| Stop::Failed(directory_failure(error)))
        };
        let directories = step.ids.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let voters = step.ids.iter().copied().zip(directories.iter().map(DataDir::node)).collect();
        // What the members are called is up to the settings that they are started with.
        let formation = Formation { cluster: *uuid::Uuid::new_v4().as_bytes(), members: [0; 16], voters };
        Ok(Founding { formation, directories })
    }

    /// Makes the first directory's store through `to`.
    fn make<M: StateMachine>(
        &self,
        from: &From<'_>,
        part: &Part,
        machine: M,
        to: u64,
    ) -> Result<Making<M>, Stop> {
        let made = make(from, machine, self.directories[0].path(), to, &mut |_, _, _| Ok(()))?;
        let (found, wanted) = (format!("{:032x}", made.applied().hash), &part.point.state_hash);
        if to == part.point.index && found != *wanted {
            let log = &part.log.file.name;
            let message = format!(
                "{log}: damaged: the state after {to} hashes to {found}, the backup was good with {wanted}"
            );
            return Err(Stop::new(Exit::Damaged, message));
        }
        Ok(made)
    }

    /// Checks the store once more, and gives the other directories the same.
    fn end<M: StateMachine>(&self, made: Making<M>, as_it_was: u128) -> Result<Made, Stop> {
        let applied = made.applied();
        let hash = made.hashed().map_err(|error| Stop::Failed(kit::group::storage_failure(error)))?;
        if hash != applied.hash {
            let message =
                format!("the restored state hashes to {hash:032x}, {:032x} is wanted", applied.hash);
            return Err(Stop::new(Exit::Damaged, message));
        }
        drop(made);
        let first = store(&self.directories[0]);
        for directory in &self.directories[1..] {
            let copy = store(directory);
            let copied = fs::copy(&first, &copy).map(drop);
            copied
                .map_err(|error| Stop::new(Exit::Io, format!("cannot write {}: {error}", copy.display())))?;
            sync(&copy)?;
        }
        self.directories.iter().try_for_each(|directory| sync(directory.path()))?;
        Ok(Made {
            cluster: hex::encode(self.formation.cluster),
            restored_hash: format!("{as_it_was:032x}"),
            index: applied.index,
            state_hash: format!("{hash:032x}"),
        })
    }
}

fn store(directory: &DataDir) -> PathBuf {
    directory.path().join(STORE)
}
