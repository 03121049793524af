//! Entries on their way to people: decoded, with what became of them, as a line or as JSON.

use ::wal::Entry;
use ::wal::entry::{Chain, Class, HEADER_BYTES};
use ::wal::inspect::{Bounds, Found, Walk};
use serde::Serialize;

use super::group::{Effect, Group, Meaning, Opened, Player};
use super::out::{Out, Stop, time};

/// A place of the log that can be shown.
pub(in crate::commands) enum Shown {
    /// An entry.
    Entry(Box<Line>),
    /// Damage.
    Damage {
        /// Its index; where entries are missing, that of the first one.
        index: u64,
        /// What was found.
        what: String,
    },
}

/// An entry with all that is known of it.
pub(in crate::commands) struct Line {
    pub(in crate::commands) entry: Entry,
    pub(in crate::commands) group: Group,
    pub(in crate::commands) meaning: Meaning,
    pub(in crate::commands) effect: Option<Effect>,
    pub(in crate::commands) committed: bool,
    pub(in crate::commands) checksum: u32,
    pub(in crate::commands) chain: Chain,
}

/// Walks through a log and decodes it.
pub(in crate::commands) struct Entries<'o> {
    opened: &'o Opened,
    walk: Walk<'o>,
    from: u64,
    commit: u64,
    player: Option<Player>,
}

impl<'o> Entries<'o> {
    /// The entries from `from` through `to`; with what became of them, if `effects`, for which the log is replayed.
    pub(in crate::commands) fn new(
        opened: &'o Opened,
        bounds: &Bounds,
        (from, to): (u64, u64),
        effects: bool,
    ) -> Result<Entries<'o>, Stop> {
        let player = if effects { Some(opened.player(bounds)?) } else { None };
        let begin = if effects { 1 } else { from.max(bounds.first()) };
        let walk = Walk::new(opened.source(), begin, to);
        Ok(Entries { opened, walk, from, commit: bounds.hard.commit, player })
    }

    /// The next one that is wanted.
    pub(in crate::commands) fn next(&mut self) -> Result<Option<Shown>, Stop> {
        loop {
            let Some(found) = self.walk.advance().map_err(|error| self.opened.failed(error))? else {
                return Ok(None);
            };
            let index = found.index;
            let shown = decode(self.opened.group, found, self.commit, self.player.as_mut());
            let shown = shown.map_err(|error| self.opened.failed(error))?;
            // What comes after damage cannot be replayed.
            if let Shown::Damage { index, .. } = &shown
                && *index <= self.commit
            {
                self.player = None;
            }
            if index >= self.from {
                return Ok(Some(shown));
            }
        }
    }
}

impl Entries<'_> {
    /// The replay, as far as it is; `None` if there is none, or after damage.
    pub(in crate::commands) fn player(&self) -> Option<&Player> {
        self.player.as_ref()
    }

    /// The same, for good.
    pub(in crate::commands) fn into_player(self) -> Option<Player> {
        self.player
    }
}

/// What was found, decoded, and applied if there is a player and it is committed.
///
/// # Errors
/// When the entry is unknown to this binary.
pub(in crate::commands) fn decode(
    group: Group,
    found: Found<'_>,
    commit: u64,
    player: Option<&mut Player>,
) -> ::wal::Result<Shown> {
    let index = found.index;
    let committed = index <= commit;
    let line = found.record.and_then(|record| {
        let entry = record.to_entry();
        let meaning = group.meaning(&entry)?;
        let effect = match player {
            Some(player) if committed => player.apply(&entry)?,
            _ => None,
        };
        let (checksum, chain) = (record.checksum, record.chain);
        Ok(Box::new(Line { entry, group, meaning, effect, committed, checksum, chain }))
    });
    match line {
        Ok(line) => Ok(Shown::Entry(line)),
        Err(::wal::Error::Damaged { place: ::wal::error::Place::Entry(index), found }) => {
            Ok(Shown::Damage { index, what: found })
        }
        Err(::wal::Error::Damaged { place, found }) => {
            Ok(Shown::Damage { index, what: format!("{place}: {found}") })
        }
        Err(other) => Err(other),
    }
}

/// An entry in the schema.
#[derive(Serialize)]
pub(in crate::commands) struct Fields<'l> {
    index: u64,
    term: u64,
    time: Option<String>,
    wall_ms: u64,
    log_ms: u64,
    class: &'static str,
    kind: String,
    kind_number: u8,
    version: u8,
    committed: bool,
    bytes: usize,
    command: &'l Meaning,
    #[serde(skip_serializing_if = "Option::is_none")]
    effect: Option<&'l Effect>,
    checksum: String,
    chain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

/// Damage in the schema.
#[derive(Serialize)]
pub(in crate::commands) struct Damage<'d> {
    index: u64,
    damage: &'d str,
}

/// Either of them in the schema.
#[derive(Serialize)]
#[serde(untagged)]
pub(in crate::commands) enum ShownFields<'l> {
    Entry(Box<Fields<'l>>),
    Damage(Damage<'l>),
}

/// A place in the schema, with the payload in hex.
pub(in crate::commands) fn shown_fields(shown: &Shown) -> ShownFields<'_> {
    match shown {
        Shown::Entry(line) => ShownFields::Entry(Box::new(line.fields(true))),
        Shown::Damage { index, what } => ShownFields::Damage(Damage { index: *index, damage: what }),
    }
}

impl Line {
    /// In the schema, with the payload in hex if it is asked for.
    pub(in crate::commands) fn fields(&self, payload: bool) -> Fields<'_> {
        let Entry { index, term, stamp, class, command } = &self.entry;
        Fields {
            index: *index,
            term: *term,
            time: time(stamp.wall_ms),
            wall_ms: stamp.wall_ms,
            log_ms: stamp.log_ms,
            class: class_word(*class),
            kind: self.kind(),
            kind_number: command.kind,
            version: command.version,
            committed: self.committed,
            bytes: HEADER_BYTES + command.payload.len(),
            command: &self.meaning,
            effect: self.effect.as_ref(),
            checksum: format!("{:08x}", self.checksum),
            chain: hex::encode(self.chain),
            payload: payload.then(|| hex::encode(&command.payload)),
        }
    }

    /// The word for its kind.
    pub(in crate::commands) fn kind(&self) -> String {
        self.group.kind(self.entry.class, self.entry.command.kind)
    }
}

/// The word for a class.
pub(in crate::commands) fn class_word(class: Class) -> &'static str {
    match class {
        Class::Normal => "normal",
        Class::Membership => "membership",
    }
}

/// The class that a word is for.
pub(in crate::commands) fn class_of(word: &str) -> Option<Class> {
    [Class::Normal, Class::Membership].into_iter().find(|class| class_word(*class) == word)
}

/// Prints the head of a list.
pub(in crate::commands) fn print_head(out: &mut Out) -> Result<(), Stop> {
    out.line(format_args!("{:>8}  {:>5}  {:<24}  {:<18}  COMMAND", "INDEX", "TERM", "TIME", "KIND"))
}

/// Prints one place as a line of a list, or in the schema.
pub(in crate::commands) fn print(out: &mut Out, shown: &Shown, json: bool) -> Result<(), Stop> {
    match shown {
        Shown::Entry(line) if json => out.json("entry", &line.fields(false)),
        Shown::Damage { index, what } if json => out.json("damage", &Damage { index: *index, damage: what }),
        Shown::Entry(line) => {
            let Entry { index, term, stamp, .. } = &line.entry;
            let time = time(stamp.wall_ms).unwrap_or_else(|| "-".into());
            let (kind, meaning) = (line.kind(), &line.meaning);
            let effect = line.effect.as_ref().map(|effect| format!(" -> {effect}")).unwrap_or_default();
            let open = if line.committed { "" } else { " (not committed)" };
            out.cut(format_args!("{index:>8}  {term:>5}  {time:<24}  {kind:<18}  {meaning}{effect}{open}"))
        }
        Shown::Damage { index, what } => {
            out.cut(format_args!("{index:>8}  {:>5}  {:<24}  {:<18}  {what}", "-", "-", "DAMAGED"))
        }
    }
}
