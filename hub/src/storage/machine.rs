//! The state machine: the pure state in memory, its rows in sled, its snapshots in files.

use std::collections::BTreeMap;

use hub_state::State;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::replica::Replica;
use super::rows::{EntryRows, RowStore};
use super::snapshots::SnapshotFiles;
use super::store::StoreError;
use super::worker::Worker;
use crate::raft_types::{
    Answers, Entry, HubNode, LogId, NodeId, Snapshot, SnapshotBytes, SnapshotMeta, StorageError, StorageIOError,
    StoredMembership, TypeConfig,
};

/// The state machine of one node.
pub(crate) struct Machine {
    replica: Replica,
    rows: Worker<RowStore>,
    files: SnapshotFiles,
}

/// Builds one snapshot of the state as it was when the builder was made.
pub(crate) struct SnapshotBuilder {
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
    files: SnapshotFiles,
}

/// Releases the files of a state machine that openraft owns.
pub(crate) struct Closer {
    rows: Worker<RowStore>,
}

impl Closer {
    /// Returns when the files may be opened again.
    pub(crate) async fn close(self) {
        self.rows.close().await;
    }
}

impl Machine {
    pub(super) fn start(replica: Replica, rows: RowStore, files: SnapshotFiles) -> Result<Self, StoreError> {
        Ok(Self { replica, rows: Worker::start("hub-rows", rows)?, files })
    }

    /// What the rest of the node reads.
    pub(crate) fn replica(&self) -> Replica {
        self.replica.clone()
    }

    /// What releases the files when the node has stopped.
    pub(crate) fn closer(&self) -> Closer {
        Closer { rows: self.rows.clone() }
    }

    fn apply_entry(&self, entry: Entry) -> (Answers, EntryRows) {
        let (answers, rows) = match entry.payload {
            EntryPayload::Blank => {
                self.replica.set_applied(entry.log_id);
                Default::default()
            }
            EntryPayload::Normal(batch) => self.replica.apply(entry.log_id, &batch),
            EntryPayload::Membership(membership) => {
                let membership = StoredMembership::new(Some(entry.log_id), membership);
                self.replica.set_membership(entry.log_id, membership);
                Default::default()
            }
        };
        let (applied, membership) = self.replica.applied();
        (answers, EntryRows { rows, applied, membership })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok(self.replica.applied())
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answers>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (answers, rows): (Vec<_>, Vec<_>) = entries.into_iter().map(|entry| self.apply_entry(entry)).unzip();
        let write = move |store: &mut RowStore| rows.into_iter().try_for_each(|entry| store.commit(entry));
        self.rows.run(write).await.map_err(|error| StorageIOError::write_state_machine(&error))?;
        self.replica.publish();
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let (state, applied, membership) = self.replica.snapshot();
        SnapshotBuilder { state, applied, membership, files: self.files.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotBytes>, StorageError> {
        Ok(Box::default())
    }

    /// The file first: the log behind it is purged as soon as this returns, and sled may be lost at any time.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotBytes>,
    ) -> Result<(), StorageError> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            StorageIOError::write_snapshot(Some(meta.signature()), openraft::AnyError::error(error.to_string()))
        };
        let rows = decode_body(&snapshot).ok_or_else(|| failed(&StoreError::Damaged { what: "a snapshot".into() }))?;
        let state = State::from_rows(&rows).map_err(|error| failed(&error))?;
        write_file(&self.files, meta, *snapshot).await.map_err(|error| failed(&error))?;
        let (applied, membership) = (meta.last_log_id, meta.last_membership.clone());
        let stored = membership.clone();
        let replaced = self.rows.run(move |store| store.replace(rows, applied, stored)).await;
        replaced.map_err(|error| failed(&error))?;
        self.replica.install(state, applied, membership);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let files = self.files.clone();
        let newest = tokio::task::spawn_blocking(move || files.newest()).await.map_err(std::io::Error::other);
        let newest = newest.flatten().map_err(|error| StorageIOError::read_snapshot(None, &error))?;
        Ok(newest.map(|(meta, body)| Snapshot { meta, snapshot: Box::new(body) }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<openraft::Snapshot<TypeConfig>, StorageError> {
        let meta = meta_of(self.applied, self.membership.clone());
        let state = std::mem::take(&mut self.state);
        let body = tokio::task::spawn_blocking(move || encode_body(&state.rows())).await;
        let body = body.map_err(std::io::Error::other).flatten();
        let failed = |error: std::io::Error| StorageIOError::write_snapshot(Some(meta.signature()), &error);
        let body = body.map_err(failed)?;
        write_file(&self.files, &meta, body.clone()).await.map_err(failed)?;
        Ok(Snapshot { meta, snapshot: Box::new(body) })
    }
}

pub(crate) fn meta_of(applied: Option<LogId>, membership: openraft::StoredMembership<NodeId, HubNode>) -> SnapshotMeta {
    let snapshot_id = applied.map_or_else(|| "0".to_owned(), |id| format!("{}-{}", id.leader_id.term, id.index));
    SnapshotMeta { last_log_id: applied, last_membership: membership, snapshot_id }
}

async fn write_file(files: &SnapshotFiles, meta: &SnapshotMeta, body: SnapshotBytes) -> std::io::Result<()> {
    let (files, meta) = (files.clone(), meta.clone());
    tokio::task::spawn_blocking(move || files.write(&meta, &body)).await.map_err(std::io::Error::other)?
}

pub(super) fn encode_body(rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> std::io::Result<SnapshotBytes> {
    postcard::to_stdvec(rows).map(SnapshotBytes).map_err(std::io::Error::other)
}

/// A state machine without any row has an empty body as well as an empty map.
pub(super) fn decode_body(body: &SnapshotBytes) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    if body.0.is_empty() { Some(BTreeMap::new()) } else { postcard::from_bytes(&body.0).ok() }
}
