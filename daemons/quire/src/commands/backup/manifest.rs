//! What is in a backup: `manifest.json`, written last and read first.
//!
//! ```json
//! {"checksum":"<BLAKE3 of the text of backup>","backup":{...}}
//! ```

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use kit::exit::Exit;
use kit::pace::Pace;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::commands::wal::group::Group;
use crate::commands::wal::out::Stop;

/// The format of a backup that this binary writes and reads.
pub(in crate::commands) const FORMAT: u32 = 1;
/// Its name in the backup.
const FILE: &str = "manifest.json";
/// Bytes of a file that are read at once.
const READ_BYTES: u64 = 1 << 20;
/// Longest one that is read, in bytes.
const BYTES_MAX: u64 = 1 << 20;

/// What is in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::commands) struct Manifest {
    /// `FORMAT`.
    pub(in crate::commands) format: u32,
    /// Release of the binary that wrote it.
    pub(in crate::commands) quire: String,
    /// When it was begun, RFC 3339.
    pub(in crate::commands) created: String,
    /// The catalog's first index that can be restored; the last one is that of the catalog's `point`.
    pub(in crate::commands) first: u64,
    /// The position through which the order book has all sales.
    pub(in crate::commands) through: String,
    /// The catalog.
    pub(in crate::commands) catalog: Part,
    /// The order book.
    pub(in crate::commands) order: Part,
}

/// One group's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::commands) struct Part {
    /// Where it was taken from: a directory or a URL.
    pub(in crate::commands) source: String,
    /// Process id of that replica.
    pub(in crate::commands) process: u64,
    /// Id of its directory.
    pub(in crate::commands) node: String,
    /// Id of its group.
    pub(in crate::commands) cluster: Option<String>,
    /// Process ids of the group.
    pub(in crate::commands) members: Vec<u64>,
    /// Where the two groups go together: what is restored unless another index is asked for.
    pub(in crate::commands) point: Point,
    /// The state at an index before that, or at it; none if the log begins at 1 and nothing else could be had.
    pub(in crate::commands) state: Option<StateFile>,
    /// The log.
    pub(in crate::commands) log: LogFile,
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::commands) struct Point {
    /// Index of the last entry that it has.
    pub(in crate::commands) index: u64,
    /// That entry's time by the primary's wall clock, if it has one.
    pub(in crate::commands) time: Option<String>,
    /// Its hash.
    pub(in crate::commands) state_hash: String,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::commands) struct StateFile {
    /// Its file.
    pub(in crate::commands) file: FileIn,
    /// The state that it is.
    #[serde(flatten)]
    pub(in crate::commands) point: Point,
}

/// A log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::commands) struct LogFile {
    /// Its file.
    pub(in crate::commands) file: FileIn,
    /// Index of the first entry.
    pub(in crate::commands) first: u64,
    /// Index of the last one.
    pub(in crate::commands) last: u64,
    /// Chain at it.
    pub(in crate::commands) chain: String,
}

/// A file of the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::commands) struct FileIn {
    /// Its name.
    pub(in crate::commands) name: String,
    /// Its length in bytes.
    pub(in crate::commands) bytes: u64,
    /// BLAKE3 of it.
    pub(in crate::commands) blake3: String,
}

#[derive(Serialize, Deserialize)]
struct Sealed<'m> {
    checksum: String,
    #[serde(borrow)]
    backup: &'m RawValue,
}

impl FileIn {
    /// What lies there under this name.
    pub(in crate::commands) fn of(directory: &Path, name: &str, pace: Option<&Pace>) -> Result<FileIn, Stop> {
        let path = directory.join(name);
        let read = || -> std::io::Result<FileIn> {
            let (mut hasher, mut file) = (blake3::Hasher::new(), File::open(&path)?);
            let mut bytes = 0;
            loop {
                match std::io::copy(&mut (&mut file).take(READ_BYTES), &mut hasher)? {
                    0 => break,
                    read => {
                        bytes += read;
                        pace.inspect(|pace| pace.done(read));
                    }
                }
            }
            Ok(FileIn { name: name.into(), bytes, blake3: hasher.finalize().to_hex().to_string() })
        };
        read().map_err(|error| Stop::new(Exit::Io, format!("cannot read {}: {error}", path.display())))
    }

    /// Checks that it is still what was written.
    fn check(&self, directory: &Path) -> Result<(), Stop> {
        let path = directory.join(&self.name);
        let found = FileIn::of(directory, &self.name, None)?;
        if found == *self {
            return Ok(());
        }
        let message = format!(
            "{}: damaged: {} bytes with hash {}, written were {} with {}; use another backup",
            path.display(),
            found.bytes,
            found.blake3,
            self.bytes,
            self.blake3
        );
        Err(Stop::new(Exit::Damaged, message))
    }
}

impl Manifest {
    /// One group's part.
    pub(in crate::commands) fn part(&self, group: Group) -> &Part {
        match group {
            Group::Catalog => &self.catalog,
            Group::Order => &self.order,
        }
    }

    /// Writes it into the directory, and syncs it.
    pub(in crate::commands) fn write(&self, directory: &Path) -> Result<(), Stop> {
        let path = directory.join(FILE);
        let text = serde_json::to_string_pretty(self).expect("plain data types always encode");
        let backup = RawValue::from_string(text).expect("just made");
        let checksum = blake3::hash(backup.get().as_bytes()).to_hex().to_string();
        let sealed = Sealed { checksum, backup: &backup };
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            serde_json::to_writer(&mut file, &sealed)?;
            file.write_all(b"\n")?;
            file.sync_all()
        };
        write().map_err(|error| Stop::new(Exit::Io, format!("cannot write {}: {error}", path.display())))
    }

    /// Reads that of a backup.
    pub(in crate::commands) fn read(backup: &Path) -> Result<Manifest, Stop> {
        let path = backup.join(FILE);
        let shown = path.display();
        let unreadable = |error: std::io::Error| {
            let hint = if error.kind() == std::io::ErrorKind::NotFound {
                "; give what quire backup made"
            } else {
                ""
            };
            Stop::new(Exit::Io, format!("cannot read {shown}: {error}{hint}"))
        };
        if fs::metadata(&path).map_err(unreadable)?.len() > BYTES_MAX {
            return Err(Stop::new(
                Exit::Damaged,
                format!("{shown}: longer than {BYTES_MAX} bytes: no manifest"),
            ));
        }
        let text = fs::read_to_string(&path).map_err(unreadable)?;
        let damaged =
            |what: String| Stop::new(Exit::Damaged, format!("{shown}: damaged: {what}; use another backup"));
        let sealed: Sealed<'_> = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let checksum = blake3::hash(sealed.backup.get().as_bytes()).to_hex();
        if sealed.checksum != checksum.as_str() {
            return Err(damaged(format!("its text hashes to {checksum}, it says {}", sealed.checksum)));
        }
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let inner = sealed.backup.get();
        let Format { format } = serde_json::from_str(inner).map_err(|error| damaged(error.to_string()))?;
        if format != FORMAT {
            let message = format!(
                "{shown}: a backup of format {format}, this binary reads {FORMAT}; use the release that wrote it"
            );
            return Err(Stop::new(Exit::Config, message));
        }
        serde_json::from_str(inner).map_err(|error| damaged(error.to_string()))
    }

    /// Checks that every file is what was written.
    pub(in crate::commands) fn check_files(&self, backup: &Path) -> Result<(), Stop> {
        for part in [&self.catalog, &self.order] {
            if let Some(state) = &part.state {
                state.file.check(backup)?;
            }
            part.log.file.check(backup)?;
        }
        Ok(())
    }
}
