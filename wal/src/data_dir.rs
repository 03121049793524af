//! The data directory: whose it is, and that only one process has it.
//!
//! Checked before anything else is opened. `identity.json` is written once, when the directory is first used, by
//! way of a temporary file, a sync and a rename. Its node id is random and is the replica's id to the engine: a
//! directory that was lost and made anew is another node, whatever its process id. The group that the directory
//! belongs to is in the store (`meta::formation`).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::meta::NodeId;

/// Version of everything below the directory that this binary reads and writes.
pub const FORMAT: u32 = 1;

const IDENTITY: &str = "identity.json";
const LOCK: &str = "lock";
/// LMDB's file; its presence without an identity means the directory is not ours, and an identity without it is that
/// of a node which is lost.
pub(crate) const STORE: &str = "data.mdb";

/// Whose directory it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format version of the directory.
    pub format: u32,
    /// `catalog` or `order`.
    pub role: String,
    /// The process id that the directory was made for: the replica's name to people.
    pub process: u64,
    /// The directory's own random id, in hexadecimal; the replica's id to the engine.
    pub node: String,
}

/// An open, locked data directory. The lock goes with it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    node: NodeId,
    _lock: File,
}

/// Why a data directory cannot be used, by what a person does about it.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// It could not be made.
    #[error("cannot create {path}: {cause}")]
    CannotCreate {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It could not be read or written.
    #[error("cannot use {path}: {cause}")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Another process has it.
    #[error(
        "data directory {path} is in use by process {holder}; stop that one or choose another --data-dir"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Its pid, if it could be read.
        holder: String,
    },
    /// It belongs to somebody else.
    #[error("data directory {path} belongs to {found}, this is {wanted}; {advice}")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asks.
        wanted: String,
        /// What to do.
        advice: &'static str,
    },
}

impl DataDir {
    /// Opens the directory for this role and process id, making it if it does not exist, and locks it.
    pub fn open(path: &Path, role: &str, process: u64) -> Result<DataDir, DirError> {
        create(path).map_err(|cause| DirError::CannotCreate { path: path.into(), cause })?;
        let lock = lock(path)?;
        let node = match read_identity(path)? {
            Some(identity) => {
                let node = check(path, &identity, role, process)?;
                if path.join(STORE).exists() { node } else { create_identity(path, role, process)? }
            }
            None => create_identity(path, role, process)?,
        };
        Ok(DataDir { path: path.into(), node, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id, which is the replica's id to the engine.
    pub fn node(&self) -> NodeId {
        self.node
    }
}

impl Identity {
    /// Reads whose directory it is, without the lock: for tools. The format must be this binary's.
    ///
    /// # Errors
    /// `Foreign` for what is no data directory; `Io` if it cannot be read.
    pub fn read(path: &Path) -> Result<Identity, DirError> {
        fs::metadata(path).map_err(|cause| DirError::Io { path: path.into(), cause })?;
        let foreign = |found: String, advice| DirError::Foreign {
            path: path.into(),
            found,
            wanted: "a tool for the data directory of a Quire replica".into(),
            advice,
        };
        let identity = read_identity(path)?.ok_or_else(|| {
            foreign(format!("nobody (it has no {IDENTITY})"), "give the one that ends in <role>-<process id>")
        })?;
        if identity.format != FORMAT {
            return Err(foreign(
                format!("format version {}", identity.format),
                "run the release that wrote it",
            ));
        }
        Ok(identity)
    }
}

/// Whether the process that locked the directory last is there still, as far as can be told without touching the lock, which
/// a daemon may want just then: its number may be another one's by now, or that of a container.
pub fn seems_in_use(path: &Path) -> bool {
    let holder = fs::read_to_string(path.join(LOCK)).unwrap_or_default();
    holder.trim().parse::<u32>().is_ok_and(|holder| Path::new("/proc").join(holder.to_string()).exists())
}

/// Makes the directory and what is missing above it, so that it is still there after a power failure.
fn create(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).count();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for made in path.ancestors().take(missing) {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, DirError> {
    let file_path = path.join(LOCK);
    let open =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&file_path);
    let mut file = open.map_err(|cause| DirError::CannotCreate { path: file_path.clone(), cause })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The number is only for the message; without it the message says so.
            let _ = file.read_to_string(&mut holder);
            let holder = if holder.trim().is_empty() { "(unknown)".into() } else { holder.trim().into() };
            return Err(DirError::Locked { path: path.into(), holder });
        }
        Err(TryLockError::Error(cause)) => return Err(DirError::Io { path: file_path, cause }),
    }
    let note = |file: &mut File| -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    note(&mut file).map_err(|cause| DirError::Io { path: file_path, cause })?;
    Ok(file)
}

fn read_identity(path: &Path) -> Result<Option<Identity>, DirError> {
    let file_path = path.join(IDENTITY);
    match fs::read(&file_path) {
        Ok(bytes) => {
            let identity = serde_json::from_slice(&bytes);
            identity.map(Some).map_err(|error| DirError::Foreign {
                path: path.into(),
                found: format!("nobody we know ({IDENTITY} is not readable: {error})"),
                wanted: "a Quire daemon".into(),
                advice: "restore the file from a backup or choose another --data-dir",
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.join(STORE).exists() => {
            Err(DirError::Foreign {
                path: path.into(),
                found: format!("nobody we know (it has a {STORE} and no {IDENTITY})"),
                wanted: "a Quire daemon".into(),
                advice: "choose another --data-dir",
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(DirError::Io { path: file_path, cause }),
    }
}

/// Gives the directory a new identity. What had the old one, if there was one, is gone: a store that was lost must
/// not come back under the id that has voted and acknowledged.
fn create_identity(path: &Path, role: &str, process: u64) -> Result<NodeId, DirError> {
    let mut node = [0; 8];
    getrandom::fill(&mut node).expect("the operating system has random bytes");
    let node = NodeId::from_le_bytes(node).max(1);
    let identity = Identity { format: FORMAT, role: role.into(), process, node: format!("{node:016x}") };
    write_json(path, IDENTITY, &identity)
        .map_err(|cause| DirError::CannotCreate { path: path.join(IDENTITY), cause })?;
    Ok(node)
}

/// Puts a file for people to read into a data directory, in the place of the one of that name: after a power failure it is
/// the one or the other, whole.
///
/// # Errors
/// When the operating system refuses; nothing has changed then, or all of it.
pub fn write_json(directory: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let (path, new) = (directory.join(name), directory.join(format!("{name}.new")));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    serde_json::to_writer_pretty(&mut file, value)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(directory)?.sync_all()
}

fn check(path: &Path, identity: &Identity, role: &str, process: u64) -> Result<NodeId, DirError> {
    let foreign = |found: String, wanted: String, advice| DirError::Foreign {
        path: path.into(),
        found,
        wanted,
        advice,
    };
    if identity.format != FORMAT {
        return Err(foreign(
            format!("format version {}", identity.format),
            format!("a binary that reads version {FORMAT}"),
            "run the release that wrote it",
        ));
    }
    if identity.role != role || identity.process != process {
        return Err(foreign(
            format!("{} node {}", identity.role, identity.process),
            format!("{role} node {process}"),
            "fix PROCESS_ID or choose another --data-dir",
        ));
    }
    match NodeId::from_str_radix(&identity.node, 16) {
        Ok(node) if node != 0 => Ok(node),
        _ => Err(foreign(
            format!("node id {:?}, which is none", identity.node),
            format!("{role} node {process}"),
            "restore identity.json from a backup or choose another --data-dir",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_identity_and_is_locked_while_open() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("catalog-123");
        let first = DataDir::open(&path, "catalog", 123).unwrap();
        let error = DataDir::open(&path, "catalog", 123).unwrap_err();
        assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
        let node = first.node();
        assert!(seems_in_use(&path));
        drop(first);
        fs::write(path.join(LOCK), format!("{}\n", u32::MAX)).unwrap(); // no process has that number
        assert!(!seems_in_use(&path));
        fs::write(path.join(STORE), b"x").unwrap();
        assert_eq!(DataDir::open(&path, "catalog", 123).unwrap().node(), node);
    }

    #[test]
    fn a_directory_whose_store_is_lost_is_another_node() {
        let root = tempfile::tempdir().unwrap();
        let open = || DataDir::open(root.path(), "catalog", 1).unwrap().node();
        let node = open();
        fs::write(root.path().join(STORE), b"x").unwrap();
        assert_eq!(open(), node);
        fs::remove_file(root.path().join(STORE)).unwrap();
        assert_ne!(open(), node);
    }

    #[test]
    fn a_start_that_was_interrupted_before_the_identity_was_whole_is_begun_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("some").join("where");
        drop(DataDir::open(&path, "catalog", 1).unwrap());
        fs::rename(path.join(IDENTITY), path.join("identity.json.new")).unwrap();
        fs::write(path.join("identity.json.new"), b"{ \"format\"").unwrap();
        drop(DataDir::open(&path, "catalog", 1).unwrap());
        assert!(path.join(IDENTITY).exists() && !path.join("identity.json.new").exists());
    }

    #[test]
    fn a_foreign_directory_is_named_with_both_owners() {
        let root = tempfile::tempdir().unwrap();
        drop(DataDir::open(root.path(), "catalog", 111).unwrap());
        let message = |role, process| DataDir::open(root.path(), role, process).unwrap_err().to_string();
        assert!(
            message("catalog", 123)
                .contains("belongs to catalog node 111, this is catalog node 123; fix PROCESS_ID")
        );
        assert!(message("order", 111).contains("belongs to catalog node 111, this is order node 111"));
    }

    #[test]
    fn another_format_or_a_stray_store_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(STORE), b"x").unwrap();
        assert!(
            DataDir::open(root.path(), "catalog", 1).unwrap_err().to_string().contains("no identity.json")
        );
        let newer = Identity { format: FORMAT + 1, role: "catalog".into(), process: 1, node: "1".into() };
        fs::write(root.path().join(IDENTITY), serde_json::to_vec(&newer).unwrap()).unwrap();
        assert!(
            DataDir::open(root.path(), "catalog", 1).unwrap_err().to_string().contains("format version 2")
        );
        fs::write(root.path().join(IDENTITY), b"{").unwrap();
        assert!(DataDir::open(root.path(), "catalog", 1).unwrap_err().to_string().contains("not readable"));
    }

    #[test]
    fn directories_are_different_nodes() {
        let root = tempfile::tempdir().unwrap();
        let open = |name| DataDir::open(&root.path().join(name), "order", 1).unwrap().node();
        assert_ne!(open("a"), open("b"));
    }
}
