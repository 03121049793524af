//! The two groups whose logs there are, and what entries mean in each.

use std::path::{Path, PathBuf};

use ::wal::data_dir::Identity;
use ::wal::entry::Class;
use ::wal::inspect::{self, Bounds, Directory, OpenError, REPLAYED, Replay};
use ::wal::meta::Applied;
use ::wal::store::{Room, Source};
use ::wal::{Entry, StateMachine, Table, agreement, level};
use catalog::machine::{Catalog, describe as catalog_words};
use clap::Args;
use kit::exit::{Exit, Failure};
use kit::group::{directory_failure, storage_failure};
use kit::settings::ApiClientSettings;
use order::machine::{Orders, describe as order_words};
use serde::Serialize;

use super::out::Stop;
use super::remote::{self, Remote};

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) enum Group {
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
    pub(in crate::commands) fn of(role: &str) -> Option<Group> {
        match role.strip_suffix(REPLAYED).unwrap_or(role) {
            "catalog" => Some(Group::Catalog),
            "order" => Some(Group::Order),
            _ => None,
        }
    }

    /// Its role.
    pub(in crate::commands) fn role(self) -> &'static str {
        match self {
            Group::Catalog => "catalog",
            Group::Order => "order",
        }
    }

    /// The tables of its state.
    pub(in crate::commands) fn tables(self) -> &'static [Table] {
        match self {
            Group::Catalog => Catalog.tables(),
            Group::Order => Orders.tables(),
        }
    }

    /// Numbers and words of its kinds of commands.
    pub(in crate::commands) fn kinds(self) -> &'static [(u8, &'static str)] {
        match self {
            Group::Catalog => &catalog_words::KINDS,
            Group::Order => &order_words::KINDS,
        }
    }

    /// The word for a kind.
    pub(in crate::commands) fn kind(self, class: Class, number: u8) -> String {
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
    pub(in crate::commands) fn meaning(self, entry: &Entry) -> ::wal::Result<Meaning> {
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
pub(in crate::commands) enum Meaning {
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
pub(in crate::commands) enum Effect {
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
    pub(in crate::commands) fn order(&self) -> Option<u64> {
        match self {
            Effect::Catalog(effect) => effect.order,
            Effect::Order(_) => None,
        }
    }

    /// The book that it was about.
    pub(in crate::commands) fn book(&self) -> Option<u64> {
        match self {
            Effect::Catalog(effect) => effect.book,
            Effect::Order(_) => None,
        }
    }
}

/// A replay of either group.
pub(in crate::commands) enum Player {
    /// Of the catalog.
    Catalog(Box<Replay<Catalog>>),
    /// Of the order book.
    Order(Box<Replay<Orders>>),
}

impl Player {
    /// The state before the first entry.
    pub(in crate::commands) fn new(group: Group) -> Player {
        match group {
            Group::Catalog => Player::Catalog(Box::new(Replay::new(Catalog))),
            Group::Order => Player::Order(Box::new(Replay::new(Orders))),
        }
    }

    /// Applies the next entry.
    pub(in crate::commands) fn apply(&mut self, entry: &Entry) -> ::wal::Result<Option<Effect>> {
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
    pub(in crate::commands) fn applied(&self) -> Applied {
        match self {
            Player::Catalog(replay) => replay.applied(),
            Player::Order(replay) => replay.applied(),
        }
    }
}

/// Which replica a command reads.
#[derive(Debug, Args)]
pub(in crate::commands) struct ReplicaSettings {
    /// Data directory of a replica, or URL of its daemon
    #[arg(value_name = "REPLICA")]
    dir: PathBuf,
    /// For a daemon that is named by URL.
    #[command(flatten)]
    client: ApiClientSettings,
}

impl ReplicaSettings {
    /// Opens it.
    pub(in crate::commands) fn open(&self) -> Result<Opened, Stop> {
        Opened::new(&self.dir, &self.client)
    }
}

/// A replica's log that a command reads.
pub(in crate::commands) struct Opened {
    /// The directory or URL, as it was given.
    pub(in crate::commands) path: PathBuf,
    pub(in crate::commands) group: Group,
    origin: Origin,
}

/// Where it is read from.
enum Origin {
    Directory(Box<Directory>),
    Daemon(Box<Remote>),
}

impl Opened {
    /// Opens the directory, or asks the daemon at this URL.
    pub(in crate::commands) fn new(path: &Path, client: &ApiClientSettings) -> Result<Opened, Stop> {
        let origin = match path.to_str().filter(|text| remote::is_url(text)) {
            Some(url) => Origin::Daemon(Box::new(Remote::open(url, client)?)),
            None => Origin::Directory(Box::new(directory(path)?)),
        };
        let mut opened = Opened { path: path.into(), group: Group::Catalog, origin };
        let role = &opened.identity().role;
        let Some(group) = Group::of(role) else {
            let path = path.display();
            return Err(Stop::new(
                Exit::Config,
                format!(
                    "{path} belongs to a replica of role {role:?}, this binary knows catalog and order; run a newer one"
                ),
            ));
        };
        opened.group = group;
        Ok(opened)
    }

    /// Whether it is read from a daemon: then there are no tables but the log.
    pub(in crate::commands) fn is_remote(&self) -> bool {
        matches!(self.origin, Origin::Daemon(_))
    }

    /// Whether a daemon seems to run on it, whose customers may notice.
    pub(in crate::commands) fn seems_in_use(&self) -> bool {
        self.is_remote() || ::wal::data_dir::seems_in_use(&self.path)
    }

    /// Whose it is.
    pub(in crate::commands) fn identity(&self) -> &Identity {
        match &self.origin {
            Origin::Directory(directory) => &directory.identity,
            Origin::Daemon(daemon) => &daemon.identity,
        }
    }

    /// For reading.
    pub(in crate::commands) fn source(&self) -> &dyn Source {
        match &self.origin {
            Origin::Directory(directory) => &**directory,
            Origin::Daemon(daemon) => &**daemon,
        }
    }

    /// How full its store is.
    pub(in crate::commands) fn room(&self) -> Room {
        match &self.origin {
            Origin::Directory(directory) => directory.room(),
            Origin::Daemon(daemon) => daemon.room,
        }
    }

    /// Where its log begins and ends.
    pub(in crate::commands) fn bounds(&self) -> Result<Bounds, Stop> {
        inspect::bounds(self.source()).map_err(|error| self.failed(error))
    }

    /// How a command ends that met this error here.
    pub(in crate::commands) fn failed(&self, error: ::wal::Error) -> Stop {
        match &self.origin {
            Origin::Daemon(daemon) => {
                daemon.take_failure().map_or_else(|| failed(&self.path, error), Stop::Failed)
            }
            Origin::Directory(_) => failed(&self.path, error),
        }
    }

    /// A player at the beginning of this log, which must still have its first entry.
    pub(in crate::commands) fn player(&self, bounds: &Bounds) -> Result<Player, Stop> {
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

fn directory(path: &Path) -> Result<Directory, Stop> {
    let tables = |identity: &Identity| Group::of(&identity.role).map_or(&[][..], Group::tables);
    Directory::open(path, tables).map_err(|error| match error {
        OpenError::Directory(error) => Stop::Failed(directory_failure(error)),
        OpenError::Store(error) => failed(path, error),
    })
}

fn failed(path: &Path, error: ::wal::Error) -> Stop {
    let failure = storage_failure(error);
    Stop::Failed(Failure { message: format!("{}: {}", path.display(), failure.message), ..failure })
}
