//! The log and the replica's notes as rows, for a daemon that shows them to a tool elsewhere.
//!
//! Nothing is decoded: who reads the rows finds what is damaged, as if it had the directory itself.

use std::ops::ControlFlow;

use crate::error::Result;
use crate::log;
use crate::store::{LOG, META, Source};

/// A key and what lies under it.
pub type Row = (Vec<u8>, Vec<u8>);

/// What a replica notes of itself, and the last record of its log: of one moment.
///
/// # Errors
/// When the store cannot be read.
pub fn head_rows(source: &dyn Source) -> Result<(Vec<Row>, Option<Row>)> {
    let txn = source.begin()?;
    let mut notes = Vec::new();
    txn.scan(META, &[], &mut |key, value| {
        notes.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    let last = txn.last(LOG)?.map(|(key, record)| (key.to_vec(), record.to_vec()));
    Ok((notes, last))
}

/// The records from index `from` through `to`, as many as have `bytes_max` bytes or the first one; and whether there
/// are more.
///
/// # Errors
/// When the store cannot be read.
pub fn record_rows(source: &dyn Source, from: u64, to: u64, bytes_max: usize) -> Result<(Vec<Row>, bool)> {
    let (mut rows, mut bytes, mut more) = (Vec::new(), 0, false);
    let last = log::key(to);
    source.begin()?.scan(LOG, &log::key(from), &mut |key, record| {
        if key > last.as_slice() {
            return ControlFlow::Break(());
        }
        bytes += record.len();
        if !rows.is_empty() && bytes > bytes_max {
            more = true;
            return ControlFlow::Break(());
        }
        rows.push((key.to_vec(), record.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok((rows, more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Memory, Store};

    #[test]
    fn an_answer_is_bounded_and_says_whether_there_is_more() {
        let store = Memory::new();
        let mut txn = store.write().unwrap();
        for index in 1..=5_u64 {
            txn.append(LOG, &log::key(index), &[index as u8; 10]).unwrap();
        }
        txn.commit().unwrap();
        let read = |from, to, bytes_max| {
            let (rows, more) = record_rows(&store, from, to, bytes_max).unwrap();
            (rows.iter().map(|(key, _)| key[7]).collect::<Vec<u8>>(), more)
        };
        assert_eq!(read(1, 5, 100), (vec![1, 2, 3, 4, 5], false));
        assert_eq!(read(2, 4, 100), (vec![2, 3, 4], false));
        assert_eq!(read(1, 5, 25), (vec![1, 2], true));
        assert_eq!(read(4, 9, 5), (vec![4], true), "the first one always");
        assert_eq!(read(6, 9, 100), (vec![], false));
        let (notes, last) = head_rows(&store).unwrap();
        assert_eq!((notes.len(), last.unwrap().0[7]), (0, 5));
    }
}
