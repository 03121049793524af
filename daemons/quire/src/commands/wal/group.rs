//! The two groups whose logs there are, and what entries mean in each.

use std::path::{Path, PathBuf};

use ::wal::data_dir::Identity;
use ::wal::entry::Class;
use ::wal::inspect::{self, Bounds, Directory, OpenError, REPLAYED, Replay};
use ::wal::meta::Applied;
use ::wal::store::{Room, Source};
use ::wal::{Entry, StateMachine, Table, agreement, level};
use catalog::machine::{Catalog, describe as catalog_words};
use kit::exit::{Exit, Failure};
use kit::group::{directory_failure, storage_failure};
use order::machine::{Orders, describe as order_words};
use serde::Serialize;

use super::out::Stop;

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// The catalog's.
    Catalog,
    /// The order book's.
    Order,
}

/// The word for the entry that opens a term.
const OPENS_TERM: &str = "open-term";
/// The word for a change of the voter set.
const VOTERS: &str = "voters";

impl Group {
    /// By its role.
    pub(super) fn of(role: &str) -> Option<Group> {
        match role.strip_suffix(REPLAYED).unwrap_or(role) {
            "catalog" => Some(Group::Catalog),
            "order" => Some(Group::Order),
            _ => None,
        }
    }

    /// Its role.
    pub(super) fn role(self) -> &'static str {
        match self {
            Group::Catalog => "catalog",
            Group::Order => "order",
        }
    }

    /// The tables of its state.
    pub(super) fn tables(self) -> &'static [Table] {
        match self {
            Group::Catalog => Catalog.tables(),
            Group::Order => Orders.tables(),
        }
    }

    /// Numbers and words of its kinds of commands.
    pub(super) fn kinds(self) -> &'static [(u8, &'static str)] {
        match self {
            Group::Catalog => &catalog_words::KINDS,
            Group::Order => &order_words::KINDS,
        }
    }

    /// The word for a kind.
    pub(super) fn kind(self, class: Class, number: u8) -> String {
        match (class, number) {
            (Class::Membership, _) => VOTERS.into(),
            (Class::Normal, 0) => OPENS_TERM.into(),
            _ => {
                let known = self.kinds().iter().chain(&agreement::KINDS).find(|(kind, _)| *kind == number);
                known.map_or_else(|| format!("kind-{number}"), |(_, word)| (*word).into())
            }
        }
    }

    /// What an entry says.
    pub(super) fn meaning(self, entry: &Entry) -> ::wal::Result<Meaning> {
        let described = match (entry.class, entry.command.kind, self) {
            (Class::Membership, ..) | (Class::Normal, 0, _) => return Ok(Meaning::Engine),
            (_, level::OWN_KINDS.., _) => agreement::describe(entry).map(Meaning::Log),
            (_, _, Group::Catalog) => catalog_words::describe(entry).map(Meaning::Catalog),
            (_, _, Group::Order) => order_words::describe(entry).map(Meaning::Order),
        };
        match described {
            // A newer binary knows it; what every entry has can be shown all the same.
            Err(::wal::Error::UnknownEntry { .. }) => Ok(Meaning::Unknown),
            described => described,
        }
    }
}

/// What an entry says.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Meaning {
    /// Nothing to a state machine.
    Engine,
    /// Something that this binary does not know.
    Unknown,
    /// What the log's own entries say.
    Log(agreement::Described),
    /// A command to the catalog.
    Catalog(catalog_words::Described),
    /// A command to the order book.
    Order(order_words::Described),
}

impl std::fmt::Display for Meaning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Meaning::Engine => Ok(()),
            Meaning::Unknown => f.write_str("(this binary does not know it; run a newer one)"),
            Meaning::Log(described) => described.fmt(f),
            Meaning::Catalog(described) => described.fmt(f),
            Meaning::Order(described) => described.fmt(f),
        }
    }
}

/// What became of an entry when it was applied.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Effect {
    /// In the catalog.
    Catalog(catalog_words::Effect),
    /// In the order book.
    Order(order_words::Effect),
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Effect::Catalog(effect) => effect.fmt(f),
            Effect::Order(effect) => effect.fmt(f),
        }
    }
}

impl Effect {
    /// The order that it made, or told of again.
    pub(super) fn order(&self) -> Option<u64> {
        match self {
            Effect::Catalog(effect) => effect.order,
            Effect::Order(_) => None,
        }
    }

    /// The book that it was about.
    pub(super) fn book(&self) -> Option<u64> {
        match self {
            Effect::Catalog(effect) => effect.book,
            Effect::Order(_) => None,
        }
    }
}

/// A replay of either group.
pub(super) enum Player {
    /// Of the catalog.
    Catalog(Box<Replay<Catalog>>),
    /// Of the order book.
    Order(Box<Replay<Orders>>),
}

impl Player {
    /// The state before the first entry.
    pub(super) fn new(group: Group) -> Player {
        match group {
            Group::Catalog => Player::Catalog(Box::new(Replay::new(Catalog))),
            Group::Order => Player::Order(Box::new(Replay::new(Orders))),
        }
    }

    /// Applies the next entry.
    pub(super) fn apply(&mut self, entry: &Entry) -> ::wal::Result<Option<Effect>> {
        Ok(match self {
            Player::Catalog(replay) => {
                replay.apply(entry)?.map(|reply| Effect::Catalog(catalog_words::Effect::of(&reply)))
            }
            Player::Order(replay) => {
                replay.apply(entry)?.map(|reply| Effect::Order(order_words::Effect::of(&reply)))
            }
        })
    }

    /// How far it is.
    pub(super) fn applied(&self) -> Applied {
        match self {
            Player::Catalog(replay) => replay.applied(),
            Player::Order(replay) => replay.applied(),
        }
    }
}

/// A data directory that a command reads.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) group: Group,
    directory: Directory,
}

impl Opened {
    /// Opens the directory.
    pub(super) fn new(path: &Path) -> Result<Opened, Stop> {
        let tables = |identity: &Identity| Group::of(&identity.role).map_or(&[][..], Group::tables);
        let directory = Directory::open(path, tables).map_err(|error| match error {
            OpenError::Directory(error) => Stop::Failed(directory_failure(error)),
            OpenError::Store(error) => failed(path, error),
        })?;
        let role = &directory.identity.role;
        let Some(group) = Group::of(role) else {
            let path = path.display();
            return Err(Stop::new(
                Exit::Config,
                format!(
                    "{path} belongs to a replica of role {role:?}, this binary knows catalog and order; run a newer one"
                ),
            ));
        };
        Ok(Opened { path: path.into(), group, directory })
    }

    /// Whose it is.
    pub(super) fn identity(&self) -> &Identity {
        &self.directory.identity
    }

    /// For reading.
    pub(super) fn source(&self) -> &dyn Source {
        &self.directory
    }

    /// How full its store is.
    pub(super) fn room(&self) -> Room {
        self.directory.room()
    }

    /// Where its log begins and ends.
    pub(super) fn bounds(&self) -> Result<Bounds, Stop> {
        inspect::bounds(self.source()).map_err(|error| self.failed(error))
    }

    /// How a command ends that met this error here.
    pub(super) fn failed(&self, error: ::wal::Error) -> Stop {
        failed(&self.path, error)
    }

    /// A player at the beginning of this log, which must still have its first entry.
    pub(super) fn player(&self, bounds: &Bounds) -> Result<Player, Stop> {
        if bounds.start.index > 0 {
            let (path, first) = (self.path.display(), bounds.first());
            return Err(Stop::new(
                Exit::No,
                format!(
                    "{path}: a replay needs entry 1, the log begins at {first}: the entries before it are compacted away"
                ),
            ));
        }
        Ok(Player::new(self.group))
    }
}

fn failed(path: &Path, error: ::wal::Error) -> Stop {
    let failure = storage_failure(error);
    Stop::Failed(Failure { message: format!("{}: {}", path.display(), failure.message), ..failure })
}
