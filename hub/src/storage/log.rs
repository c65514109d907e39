//! The Raft log, vote and committed index in redb.

use std::fmt::Debug;
use std::ops::{Bound, Range, RangeBounds};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::store::{Durability, Pair, Store, StoreError, WriteBatch};
use super::worker::Worker;
use crate::raft_types::{Entry, LogId, StorageError, StorageIOError, TypeConfig, Vote};

/// Stands in front of the index of every entry.
const ENTRY: u8 = b'l';
const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";
/// Replication reads at most about this much at once, so that one message stays far below the limit of gRPC.
const READ_BYTES: usize = 2 * 1024 * 1024;

/// The log; clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    worker: Worker<Box<dyn Store>>,
}

impl LogStore {
    /// Takes over an open store.
    pub(super) fn start(store: Box<dyn Store>) -> Result<Self, StoreError> {
        Ok(Self { worker: Worker::start("hub-log", store)? })
    }

    /// Releases the file.
    pub(crate) async fn close(&self) {
        self.worker.close().await;
    }

    async fn save<T: Serialize>(
        &self,
        key: &'static [u8],
        value: &T,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put(key, encode(value)?);
        self.worker.run(move |store| store.commit(batch, durability)).await
    }

    async fn load<T: DeserializeOwned>(&self, key: &'static [u8]) -> Result<Option<T>, StoreError> {
        let bytes = self.worker.run(move |store| store.get(key)).await?;
        bytes.map(|bytes| decode(&bytes, || String::from_utf8_lossy(key).into_owned())).transpose()
    }

    async fn entries(&self, range: Range<u64>, limit_bytes: usize) -> Result<Vec<Entry>, StoreError> {
        let keys = entry_key(range.start)..entry_key(range.end);
        let read = move |store: &mut Box<dyn Store>| {
            let mut bytes = 0;
            store.scan(keys, &mut |(_, value): &Pair| {
                let is_first = bytes == 0;
                bytes += value.len();
                is_first || bytes <= limit_bytes
            })
        };
        let pairs = self.worker.run(read).await?;
        pairs.iter().map(|(key, value)| decode(value, || format!("log entry {key:?}"))).collect()
    }
}

/// The positions that recovery needs, read from a store that no thread owns yet.
pub(super) struct LogEnds {
    pub(super) purged: Option<LogId>,
    pub(super) has_entries: bool,
    pub(super) has_vote: bool,
}

pub(super) fn ends(store: &dyn Store) -> Result<LogEnds, StoreError> {
    let purged = store.get(PURGED)?;
    Ok(LogEnds {
        purged: purged.map(|bytes| decode(&bytes, || "the purge point".to_owned())).transpose()?,
        has_entries: store.last(all_entries())?.is_some(),
        has_vote: store.get(VOTE)?.is_some(),
    })
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let range = half_open(&range);
        Ok(self.entries(range, usize::MAX).await.map_err(|error| StorageIOError::read_logs(&error))?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        Ok(self.entries(start..end, READ_BYTES).await.map_err(|error| StorageIOError::read_logs(&error))?)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let read = |store: &mut Box<dyn Store>| {
            let last = store.last(all_entries())?;
            let last = last.map(|(key, value)| decode::<Entry>(&value, || format!("log entry {key:?}"))).transpose()?;
            let purged = store.get(PURGED)?;
            let purged = purged.map(|bytes| decode::<LogId>(&bytes, || "the purge point".to_owned())).transpose()?;
            Ok((last.map(|entry| entry.log_id), purged))
        };
        let (last, purged) = self.worker.run(read).await.map_err(|error| StorageIOError::read_logs(&error))?;
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let saved = self.save(VOTE, vote, Durability::Immediate).await;
        Ok(saved.map_err(|error| StorageIOError::write_vote(&error))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.load(VOTE).await.map_err(|error| StorageIOError::read_vote(&error))?)
    }

    /// Needs no fsync of its own: it only says how much of the log may be applied again before Raft has a leader, and
    /// every later append, which is durable, takes it along.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let saved = self.save(COMMITTED, &committed, Durability::Eventual).await;
        Ok(saved.map_err(|error| StorageIOError::write_logs(&error))?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed: Option<Option<LogId>> =
            self.load(COMMITTED).await.map_err(|error| StorageIOError::read_logs(&error))?;
        Ok(committed.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = WriteBatch::default();
        for entry in entries {
            let bytes = encode(&entry).map_err(|error| StorageIOError::write_log_entry(entry.log_id, &error))?;
            batch.put(entry_key(entry.log_id.index), bytes);
        }
        let written = self.worker.run(|store| store.commit(batch, Durability::Immediate)).await;
        match written {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(std::io::Error::other(error.to_string())));
                Err(StorageIOError::write_logs(&error).into())
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let batch = WriteBatch { remove: vec![entry_key(log_id.index)..all_entries().end], write: vec![] };
        let removed = self.worker.run(|store| store.commit(batch, Durability::Immediate)).await;
        Ok(removed.map_err(|error| StorageIOError::write_logs(&error))?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let mut batch = WriteBatch { remove: vec![all_entries().start..entry_key(log_id.index + 1)], write: vec![] };
        batch.put(PURGED, encode(&log_id).map_err(|error| StorageIOError::write_logs(&error))?);
        let removed = self.worker.run(|store| store.commit(batch, Durability::Immediate)).await;
        Ok(removed.map_err(|error| StorageIOError::write_logs(&error))?)
    }
}

fn entry_key(index: u64) -> Vec<u8> {
    [&[ENTRY][..], &index.to_be_bytes()].concat()
}

fn all_entries() -> Range<Vec<u8>> {
    vec![ENTRY]..vec![ENTRY + 1]
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

/// Four bytes of CRC-32, then postcard.
fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let damaged = |_| StoreError::Damaged { what: "a value in memory".to_owned() };
    let body = postcard::to_stdvec(value).map_err(damaged)?;
    Ok([&crc32fast::hash(&body).to_be_bytes()[..], &body].concat())
}

fn decode<T: DeserializeOwned>(bytes: &[u8], what: impl Fn() -> String) -> Result<T, StoreError> {
    let damaged = || StoreError::Damaged { what: what() };
    let (crc, body) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
    if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
        return Err(damaged());
    }
    postcard::from_bytes(body).map_err(|_| damaged())
}
