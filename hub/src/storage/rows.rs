//! The applied state in sled: rows, and one mark that says up to where they were applied and what they add up to.

use std::collections::BTreeMap;

use hub_state::RowChange;
use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use super::store::{Durability, Pair, Store, StoreError, WriteBatch};
use crate::raft_types::{LogId, StoredMembership};

/// Stands in front of the key of every row.
const ROW: u8 = b's';
const MARK: &[u8] = b"mark";
/// Written in parts of this many rows when everything is replaced; the mark comes last.
const REPLACE_CHUNK: usize = 1024;

/// All rows by their keys.
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Up to where the rows were applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) fingerprint: Fingerprint,
}

/// What one log entry changes.
#[derive(Debug, Default)]
pub(super) struct EntryRows {
    pub(super) rows: Vec<RowChange>,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
}

/// The rows of a store, whose checksum is kept in step.
pub(super) struct RowStore {
    store: Box<dyn Store>,
    fingerprint: Fingerprint,
}

impl RowStore {
    pub(super) fn new(store: Box<dyn Store>) -> Self {
        Self { store, fingerprint: Fingerprint::default() }
    }

    /// Reads everything and checks it against the mark. `None`: the store is new.
    pub(super) fn load(&mut self) -> Result<Option<(Rows, Mark)>, StoreError> {
        let rows = self.rows()?;
        let Some(mark) = self.store.get(MARK)? else {
            return match rows.is_empty() {
                true => Ok(None),
                false => Err(StoreError::Damaged { what: "the applied state, which has no mark,".to_owned() }),
            };
        };
        let mark: Mark = postcard::from_bytes(&mark)
            .map_err(|_| StoreError::Damaged { what: "the mark of the applied state".to_owned() })?;
        let mut fingerprint = Fingerprint::default();
        rows.iter().for_each(|(key, value)| fingerprint.add(key, value));
        if fingerprint != mark.fingerprint {
            return Err(StoreError::Damaged { what: "the applied state, by its checksum,".to_owned() });
        }
        self.fingerprint = fingerprint;
        Ok(Some((rows, mark)))
    }

    /// Writes what one entry changed, as one batch.
    pub(super) fn commit(&mut self, entry: EntryRows) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let mut fingerprint = self.fingerprint;
        let mut latest: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        for row in entry.rows {
            latest.insert(row.key, row.value);
        }
        for (key, value) in latest {
            let stored = stored_key(&key);
            if let Some(old) = self.store.get(&stored)? {
                fingerprint.remove(&key, &old);
            }
            if let Some(new) = &value {
                fingerprint.add(&key, new);
            }
            batch.write.push((stored, value));
        }
        let mark = Mark { applied: entry.applied, membership: entry.membership, fingerprint };
        batch.put(MARK, encode_mark(&mark)?);
        self.store.commit(batch, Durability::Eventual)?;
        self.fingerprint = fingerprint;
        Ok(())
    }

    /// Replaces everything. A crash in between leaves no mark or a wrong checksum, and so a rebuild.
    pub(super) fn replace(
        &mut self,
        rows: BTreeMap<Vec<u8>, Vec<u8>>,
        applied: Option<LogId>,
        membership: StoredMembership,
    ) -> Result<(), StoreError> {
        let everything = vec![]..vec![u8::MAX];
        self.store.commit(WriteBatch { remove: vec![everything], write: vec![] }, Durability::Eventual)?;
        let mut fingerprint = Fingerprint::default();
        let mut batch = WriteBatch::default();
        for (key, value) in rows {
            fingerprint.add(&key, &value);
            batch.put(stored_key(&key), value);
            if batch.write.len() >= REPLACE_CHUNK {
                self.store.commit(std::mem::take(&mut batch), Durability::Eventual)?;
            }
        }
        batch.put(MARK, encode_mark(&Mark { applied, membership, fingerprint })?);
        self.store.commit(batch, Durability::Eventual)?;
        self.fingerprint = fingerprint;
        Ok(())
    }

    /// The rows as stored, without their prefix.
    pub(super) fn rows(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let pairs = self.store.scan(vec![ROW]..vec![ROW + 1], &mut |_: &Pair| true)?;
        Ok(pairs.into_iter().map(|(key, value)| (key[1..].to_vec(), value)).collect())
    }
}

fn stored_key(key: &[u8]) -> Vec<u8> {
    [&[ROW], key].concat()
}

fn encode_mark(mark: &Mark) -> Result<Vec<u8>, StoreError> {
    postcard::to_stdvec(mark).map_err(|_| StoreError::Damaged { what: "the mark in memory".to_owned() })
}
