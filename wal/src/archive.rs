//! Entries of a log in a file: the part of a backup that says what happened, beside the snapshot that says how it is.
//!
//! ```text
//! "QUIRELG1", then frames of: length u32, CRC-32 of the bytes u32, bytes   (little-endian)
//! ```
//!
//! The first frame is the place before the first entry (`Mark`), each other one some records as they lie in the log. They
//! follow each other without a gap, terms never go back, and the chain runs through all of them: both the writer and the
//! reader check that, so what is in the file is what was written into the log, up to where it ends.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_bytes::ByteBuf;

use crate::entry::{Chain, Entry, Record};
use crate::error::{Error, Result};
use crate::meta::Mark;
use crate::snapshot::{SYNC_EVERY_BYTES, read_frame, write_frame};

const MAGIC: &[u8; 8] = b"QUIRELG1";
/// Bytes of records in a frame, but for the last one.
const FRAME_BYTES: usize = 256 << 10;

/// Writes a file.
pub struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    last: Mark,
    written: Written,
    frame: Vec<ByteBuf>,
    frame_bytes: usize,
    unsynced_bytes: u64,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Entries.
    pub entries: u64,
    /// Bytes of their records.
    pub bytes: u64,
}

impl Writer {
    /// Begins the file at `path` anew, for the entries after `start`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(path: &Path, start: Mark) -> Result<Writer> {
        let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = BufWriter::with_capacity(1 << 16, options.map_err(|cause| failed(path, &cause))?);
        let mut writer = Writer {
            path: path.into(),
            file,
            last: start,
            written: Written::default(),
            frame: Vec::new(),
            frame_bytes: 0,
            unsynced_bytes: 0,
        };
        let first = postcard::to_stdvec(&start).expect("plain data types always encode");
        let begun = writer.file.write_all(MAGIC).and_then(|()| write_frame(&mut writer.file, &first));
        begun.map_err(|cause| failed(path, &cause))?;
        Ok(writer)
    }

    /// The place of the last entry.
    pub fn last(&self) -> Mark {
        self.last
    }

    /// Writes the next entry.
    ///
    /// # Errors
    /// `Damaged` when it is not what follows, `Storage` when the file cannot be written. Then the file is not to be used.
    pub fn add(&mut self, record: &Record<'_>) -> Result<()> {
        self.last = next(&self.last, record)?;
        self.written.entries += 1;
        self.written.bytes += record.size() as u64;
        self.frame_bytes += record.size();
        self.frame.push(ByteBuf::from(record.bytes()));
        if self.frame_bytes >= FRAME_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let bytes = postcard::to_stdvec(&self.frame).expect("plain data types always encode");
        self.frame.clear();
        self.frame_bytes = 0;
        write_frame(&mut self.file, &bytes).map_err(|cause| failed(&self.path, &cause))?;
        self.unsynced_bytes += bytes.len() as u64;
        if self.unsynced_bytes >= SYNC_EVERY_BYTES {
            self.unsynced_bytes = 0;
            let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
            synced.map_err(|cause| failed(&self.path, &cause))?;
        }
        Ok(())
    }

    /// Ends the file: what was written is on disk.
    ///
    /// # Errors
    /// When it cannot be written or synced.
    pub fn end(mut self) -> Result<Written> {
        if !self.frame.is_empty() {
            self.flush()?;
        }
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|cause| failed(&self.path, &cause))?;
        Ok(self.written)
    }
}

/// Reads a file.
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    start: Mark,
    last: Mark,
    frame: std::vec::IntoIter<ByteBuf>,
}

impl Reader {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// `Storage` when it cannot be read, or is no such file.
    pub fn open(path: &Path) -> Result<Reader> {
        let file = File::open(path).map_err(|cause| failed(path, &cause))?;
        let mut file = BufReader::with_capacity(1 << 16, file);
        let mut magic = [0; 8];
        let begun = file.read_exact(&mut magic);
        let first = match begun.and_then(|()| read_frame(&mut file)) {
            Ok(Some(first)) if magic == *MAGIC => first,
            Ok(_) => return Err(damaged(path, "it does not begin as a file of log entries does")),
            Err(cause) => return Err(failed(path, &cause)),
        };
        let start: Mark = postcard::from_bytes(&first).map_err(|error| damaged(path, &error.to_string()))?;
        Ok(Reader { path: path.into(), file, start, last: start, frame: Vec::new().into_iter() })
    }

    /// The place before the first entry.
    pub fn start(&self) -> Mark {
        self.start
    }

    /// The place of the entry that was read last.
    pub fn last(&self) -> Mark {
        self.last
    }

    /// The next entry, with its chain; `None` after the last one.
    ///
    /// # Errors
    /// `Damaged` when it is not what was written, `Storage` when the file cannot be read.
    pub fn entry(&mut self) -> Result<Option<(Entry, Chain)>> {
        let bytes = loop {
            if let Some(bytes) = self.frame.next() {
                break bytes;
            }
            let frame = read_frame(&mut self.file).map_err(|cause| failed(&self.path, &cause))?;
            let Some(frame) = frame else { return Ok(None) };
            let records: Vec<ByteBuf> =
                postcard::from_bytes(&frame).map_err(|error| damaged(&self.path, &error.to_string()))?;
            self.frame = records.into_iter();
        };
        let record = Record::read(self.last.index + 1, &bytes)?;
        self.last = next(&self.last, &record)?;
        Ok(Some((record.to_entry(), record.chain)))
    }
}

/// The place of the entry that follows `last`, if it does.
fn next(last: &Mark, record: &Record<'_>) -> Result<Mark> {
    let wanted = last.index + 1;
    if record.index != wanted {
        return Err(Error::damaged_entry(wanted, format!("the entry of index {}", record.index)));
    }
    if record.term < last.term {
        let found = format!("term {} after term {}: terms never go back", record.term, last.term);
        return Err(Error::damaged_entry(wanted, found));
    }
    let chain = record.chain_after(&last.chain);
    if record.chain != chain {
        let (found, chain) = (hex::encode(record.chain), hex::encode(chain));
        return Err(Error::damaged_entry(
            wanted,
            format!("chain {found} where the entries up to here give {chain}"),
        ));
    }
    Ok(Mark { index: wanted, term: record.term, log_ms: record.stamp.log_ms, chain })
}

fn failed(path: &Path, cause: &std::io::Error) -> Error {
    if cause.kind() == std::io::ErrorKind::InvalidData {
        return damaged(path, &cause.to_string());
    }
    Error::Storage { doing: "using a file of log entries", cause: format!("{}: {cause}", path.display()) }
}

fn damaged(path: &Path, what: &str) -> Error {
    let found = format!("{what} in {}", path.display());
    Error::Damaged { place: crate::error::Place::Store, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{self, CHAIN_START, Class, Command, Stamp};

    fn records(count: u64) -> Vec<Vec<u8>> {
        let mut chain = CHAIN_START;
        let record = |index| {
            let command = Command { kind: 1, version: 1, payload: vec![index as u8; 1000] };
            let entry = Entry { index, term: 1, stamp: Stamp::default(), class: Class::Normal, command };
            chain = entry::chain(&chain, &entry);
            let mut bytes = Vec::new();
            entry::encode(&entry, &chain, &mut bytes);
            bytes
        };
        (1..=count).map(record).collect()
    }

    fn write(path: &Path, records: &[Vec<u8>]) -> Result<Written> {
        let mut writer = Writer::begin(path, Mark::default())?;
        for (record, index) in records.iter().zip(1..) {
            writer.add(&Record::read(index, record)?)?;
        }
        writer.end()
    }

    fn read(path: &Path) -> Result<u64> {
        let mut reader = Reader::open(path)?;
        while reader.entry()?.is_some() {}
        Ok(reader.last().index)
    }

    #[test]
    fn entries_read_back_and_damage_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let written = write(&path, &records(700)).unwrap();
        assert_eq!((written.entries, written.bytes), (700, 700 * 1056));
        assert_eq!(read(&path), Ok(700));
        let whole = std::fs::read(&path).unwrap();
        for at in [0, 9, 40, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(read(&path).is_err(), "byte {at}");
        }
    }

    #[test]
    fn only_what_follows_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut records = records(3);
        records.remove(1);
        let mut writer = Writer::begin(&path, Mark::default()).unwrap();
        writer.add(&Record::read(1, &records[0]).unwrap()).unwrap();
        let error = writer.add(&Record::read(3, &records[1]).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "damaged log entry 2: the entry of index 3");
    }
}
