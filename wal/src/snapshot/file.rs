//! A snapshot that is arriving, in a file: it need not fit into memory, and a receiver that was restarted goes on where
//! it was.
//!
//! ```text
//! "QUIRESN1", then frames of: length u32, CRC-32 of the bytes u32, bytes   (little-endian)
//! ```
//!
//! The first frame is what the host wants to find again (the head, whom it was asked of), each other one a chunk. Nothing
//! is synced: what a crash tears off is asked for again, and what is installed was checked.
//!
//! Whoever has a snapshot has its open file, and reads that: another one that is begun under the same path meanwhile is
//! another file, and takes nothing from it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Chunk, Head, Incoming, Snapshot, Staging, unreadable};
use crate::error::Result;
use crate::store::Table;

const MAGIC: &[u8; 8] = b"QUIRESN1";
/// Longest frame: a chunk whose last record is as long as a value can be.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// First room for a frame, that of any but those with the longest records; more is taken as bytes arrive, so that a
/// claimed length costs nothing.
const FRAME_ROOM: usize = super::CHUNK_BYTES + super::CHUNK_BYTES / 8;

/// Bytes of a long file between two syncs: a sync of all at the end would fill the disk's queue, and whoever else needs a
/// sync, such as a daemon for its log, would wait behind it.
pub(crate) const SYNC_EVERY_BYTES: u64 = 2 << 20;

/// Keeps chunks in a file.
#[derive(Debug)]
pub struct InFile {
    path: PathBuf,
    file: File,
    unsynced_bytes: u64,
}

/// Why a file cannot be used; it may be removed and begun again.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct FileError {
    path: PathBuf,
    cause: io::Error,
}

impl InFile {
    /// Begins a file anew; one that is there is removed, not overwritten. `origin` comes back from `resume`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(
        path: &Path,
        head: Head,
        origin: &[u8],
        tables: &[Table],
    ) -> std::result::Result<Incoming, String> {
        let failed = |cause: io::Error| FileError { path: path.into(), cause }.to_string();
        match fs::remove_file(path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(failed(cause)),
            _ => {}
        }
        let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let mut file = options.map_err(failed)?;
        let first = postcard::to_stdvec(&(&head, origin)).expect("plain data types always encode");
        file.write_all(MAGIC).and_then(|()| write_frame(&mut file, &first)).map_err(failed)?;
        Incoming::new(head, tables, Box::new(InFile::on(path, file)))
    }

    /// Goes on with what a file has, as far as it is whole; `None` if there is none that could be gone on with. Gives
    /// back its `origin`, too.
    pub fn resume(path: &Path, tables: &[Table]) -> Option<(Incoming, Vec<u8>)> {
        let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
        let mut reader = BufReader::new(file.try_clone().ok()?);
        let ((head, origin), mut end) = read_first(&mut reader)?;
        let mut incoming = Incoming::new(head, tables, Box::new(Nowhere)).ok()?;
        while let Ok(Some(frame)) = read_frame(&mut reader) {
            let Ok(chunk) = postcard::from_bytes::<Chunk>(&frame) else { break };
            if incoming.take(&chunk).is_err() {
                break;
            }
            end += 8 + frame.len() as u64;
        }
        let mut file = file;
        file.set_len(end).and_then(|()| file.seek(SeekFrom::End(0))).ok()?;
        incoming.staging = Box::new(InFile::on(path, file));
        Some((incoming, origin))
    }

    /// What the host wanted to find again of a file, whether or not the rest of it is whole.
    pub fn origin(path: &Path) -> Option<Vec<u8>> {
        let ((_, origin), _) = read_first(&mut BufReader::new(File::open(path).ok()?))?;
        Some(origin)
    }

    /// A whole snapshot from a file that is only read.
    ///
    /// # Errors
    /// When it cannot be read, is not whole, or is not what was written.
    pub fn read(path: &Path, tables: &[Table]) -> std::result::Result<Snapshot, FileError> {
        let failed = |cause: io::Error| FileError { path: path.into(), cause };
        let wrong = |what: String| failed(io::Error::new(io::ErrorKind::InvalidData, what));
        let file = File::open(path).map_err(failed)?;
        let mut reader = BufReader::new(file.try_clone().map_err(failed)?);
        let ((head, _), _) =
            read_first(&mut reader).ok_or_else(|| wrong("it does not begin as a snapshot does".into()))?;
        let mut incoming = Incoming::new(head, tables, Box::new(Nowhere)).map_err(wrong)?;
        while let Some(frame) = read_frame(&mut reader).map_err(failed)? {
            let chunk: Chunk = postcard::from_bytes(&frame).map_err(|error| wrong(error.to_string()))?;
            incoming.take(&chunk).map_err(|flaw| wrong(flaw.to_string()))?;
        }
        if !incoming.is_whole() {
            return Err(wrong("it ends before its last chunk".into()));
        }
        incoming.staging = Box::new(InFile::on(path, file));
        Ok(incoming.finish())
    }

    fn on(path: &Path, file: File) -> InFile {
        InFile { path: path.into(), file, unsynced_bytes: 0 }
    }

    fn failed(&self, cause: io::Error) -> FileError {
        FileError { path: self.path.clone(), cause }
    }
}

impl Staging for InFile {
    fn keep(&mut self, chunk: &Chunk) -> std::result::Result<(), String> {
        let bytes = postcard::to_stdvec(chunk).expect("plain data types always encode");
        write_frame(&mut self.file, &bytes).map_err(|cause| self.failed(cause).to_string())?;
        self.unsynced_bytes += bytes.len() as u64;
        if self.unsynced_bytes >= SYNC_EVERY_BYTES {
            self.unsynced_bytes = 0;
            self.file.sync_data().map_err(|cause| self.failed(cause).to_string())?;
        }
        Ok(())
    }

    fn visit(&mut self, visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let unread = |cause: io::Error| unreadable(self.failed(cause).to_string());
        let mut reader = BufReader::new(&self.file);
        reader.seek(SeekFrom::Start(MAGIC.len() as u64)).map_err(unread)?;
        let mut first = true;
        let mut whole = false;
        while let Some(frame) = read_frame(&mut reader).map_err(unread)? {
            if !std::mem::take(&mut first) {
                let chunk: Chunk = postcard::from_bytes(&frame).map_err(|e| unreadable(e.to_string()))?;
                whole = chunk.last;
                visit(&chunk.records)?;
            }
        }
        match whole {
            true => Ok(()),
            false => Err(unread(io::Error::new(io::ErrorKind::InvalidData, "it ends before its last chunk"))),
        }
    }
}

/// Head and origin, and where the chunks begin.
fn read_first(reader: &mut impl Read) -> Option<((Head, Vec<u8>), u64)> {
    let mut magic = [0; 8];
    reader.read_exact(&mut magic).ok().filter(|()| magic == *MAGIC)?;
    let first = read_frame(reader).ok()??;
    Some((postcard::from_bytes(&first).ok()?, (MAGIC.len() + 8 + first.len()) as u64))
}

/// Where chunks go that are in the file already.
struct Nowhere;

impl Staging for Nowhere {
    fn keep(&mut self, _: &Chunk) -> std::result::Result<(), String> {
        Ok(())
    }
    fn visit(&mut self, _: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        Ok(())
    }
}

pub(crate) fn write_frame(file: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(8 + bytes.len());
    frame.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    frame.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    frame.extend_from_slice(bytes);
    file.write_all(&frame)
}

/// The next frame; `None` at the end of the file.
pub(crate) fn read_frame(reader: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 8];
    match reader.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let [a, b, c, d, checksum @ ..] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let torn = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if length > FRAME_BYTES_MAX {
        return torn("a frame that is too long");
    }
    let mut bytes = Vec::with_capacity(length.min(FRAME_ROOM));
    if reader.take(length as u64).read_to_end(&mut bytes)? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if crc32fast::hash(&bytes) != u32::from_le_bytes(checksum) {
        return torn("a frame whose checksum does not match");
    }
    Ok(Some(bytes))
}
