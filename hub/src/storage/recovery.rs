//! Coming back: which of the three stores to believe.
//!
//! The log is always believed. sled is believed if it opens, its checksum holds, and it is not older than the point up
//! to which the log was purged; otherwise it is set aside and the newest snapshot takes its place. What the log holds
//! beyond that is applied by openraft itself, up to the committed index, before the node takes part in anything.

use std::io;
use std::path::{Path, PathBuf};

use hub_state::State;

use super::held::until_released;
use super::log::{LogEnds, LogStore, ends};
use super::machine::{Machine, decode_body, encode_body, meta_of};
use super::redb_store::RedbStore;
use super::replica::Replica;
use super::rows::{Mark, RowStore};
use super::sled_store::SledStore;
use super::snapshots::{SnapshotFiles, set_aside};
use super::store::StoreError;
use crate::raft_types::{LogId, SnapshotBytes, SnapshotMeta};

/// Why a node cannot start from its data directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// A file cannot be read or written.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// What was attempted.
        act: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The log cannot be opened.
    #[error("cannot open the log {}; hint: a node without its log must be removed and added again under a new id", path.display())]
    Log {
        /// Where.
        path: PathBuf,
        /// What redb said.
        #[source]
        source: StoreError,
    },
    /// Another process lives from the same directory.
    #[error("another process holds {}; hint: a data directory belongs to one node; end the other process", path.display())]
    Held {
        /// Its log.
        path: PathBuf,
    },
    /// The log is gone although the node was a member.
    #[error("{} is missing but other data is there; hint: a node that lost its vote must be removed and added again under a new id, with an empty directory", path.display())]
    LogMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The applied state is damaged and no snapshot covers what the log no longer has.
    #[error(
        "the applied state cannot be rebuilt: the log begins after entry {purged} and no valid snapshot reaches that far; hint: remove the node and add it again under a new id, with an empty directory"
    )]
    NotRebuildable {
        /// The purge point of the log.
        purged: u64,
    },
    /// The new sled directory cannot be used either.
    #[error("cannot write the applied state")]
    Rows(#[source] StoreError),
}

/// Stores that are ready for Raft.
pub(crate) struct Opened {
    /// Log, vote and committed index.
    pub log: LogStore,
    /// The state machine.
    pub machine: Machine,
    /// Why the applied state had to be rebuilt, if it had.
    pub rebuilt: Option<String>,
    /// Whether the node has never taken part in anything.
    pub pristine: bool,
}

/// Opens the stores of a data directory and repairs what can be repaired. Blocks.
pub(crate) fn open(data_dir: &Path) -> Result<Opened, OpenError> {
    std::fs::create_dir_all(data_dir).map_err(io_error("create", data_dir))?;
    let log_path = data_dir.join("raft.redb");
    let sled_path = data_dir.join("sled");
    let snapshot_path = data_dir.join("snapshots");
    let files = SnapshotFiles::open(snapshot_path.clone()).map_err(io_error("open", &snapshot_path))?;
    let snapshot = files.newest().map_err(io_error("read", &snapshot_path))?;
    if !log_path.exists() && (sled_path.exists() || snapshot.is_some()) {
        return Err(OpenError::LogMissing { path: log_path });
    }
    // Only then does redb's own refusal mean that somebody else came first.
    if !until_released(&log_path, telemetry::PREDECESSOR_PATIENCE).map_err(io_error("lock", &log_path))? {
        return Err(OpenError::Held { path: log_path });
    }
    let log_error = |source| OpenError::Log { path: log_path.clone(), source };
    let log = RedbStore::open(&log_path).map_err(log_error)?;
    let ends = ends(&log).map_err(log_error)?;
    let pristine = !ends.has_entries && !ends.has_vote && ends.purged.is_none() && snapshot.is_none();

    let covered = snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id);
    let (rows, state, mark, rebuilt) = match load(&sled_path, &ends, pristine) {
        Ok((rows, state, mark)) => (rows, state, mark, None),
        Err(reason) => {
            let (rows, state, mark) = rebuild(&sled_path, &ends, snapshot)?;
            tracing::warn!(
                reason,
                path = %sled_path.display(),
                from_index = mark.applied.map_or(0, |id| id.index),
                "the applied state was set aside and rebuilt"
            );
            (rows, state, mark, Some(reason))
        }
    };
    cover_purged_log(&files, &ends, covered, &state, &mark).map_err(io_error("write a snapshot to", &snapshot_path))?;
    let replica = Replica::new(state, mark.applied, mark.membership);
    let log = LogStore::start(Box::new(log)).map_err(OpenError::Rows)?;
    let machine = Machine::start(replica, rows, files).map_err(OpenError::Rows)?;
    Ok(Opened { log, machine, rebuilt, pristine })
}

/// The applied state as it is, or why it cannot be used.
fn load(path: &Path, ends: &LogEnds, pristine: bool) -> Result<(RowStore, State, Mark), String> {
    if !path.exists() && !pristine {
        return Err("it is missing".to_owned());
    }
    let store = SledStore::open(path).map_err(|error| describe(&error))?;
    let mut rows = RowStore::new(Box::new(store));
    let (stored, mark) = rows.load().map_err(|error| describe(&error))?.unwrap_or_default();
    if mark.applied < ends.purged {
        return Err("it is older than the point up to which the log was purged".to_owned());
    }
    let state = State::from_rows(&stored).map_err(|error| error.to_string())?;
    Ok((rows, state, mark))
}

fn rebuild(
    path: &Path,
    ends: &LogEnds,
    snapshot: Option<(SnapshotMeta, SnapshotBytes)>,
) -> Result<(RowStore, State, Mark), OpenError> {
    if path.exists() {
        set_aside(path).map_err(io_error("set aside", path))?;
    }
    let not_rebuildable = || OpenError::NotRebuildable { purged: ends.purged.map_or(0, |id| id.index) };
    let (stored, applied, membership) = match snapshot {
        Some((meta, body)) => {
            let stored = decode_body(&body).ok_or_else(not_rebuildable)?;
            (stored, meta.last_log_id, meta.last_membership)
        }
        None => Default::default(),
    };
    if applied < ends.purged {
        return Err(not_rebuildable());
    }
    let state = State::from_rows(&stored).map_err(|_| not_rebuildable())?;
    let store = SledStore::open(path).map_err(OpenError::Rows)?;
    let mut rows = RowStore::new(Box::new(store));
    rows.replace(stored, applied, membership.clone()).map_err(OpenError::Rows)?;
    let mark = Mark { applied, membership, ..Mark::default() };
    Ok((rows, state, mark))
}

/// The log behind the purge point must be in some snapshot; if the disk ate that file, the applied state, which was
/// found to be sound, makes a new one.
fn cover_purged_log(
    files: &SnapshotFiles,
    ends: &LogEnds,
    covered: Option<LogId>,
    state: &State,
    mark: &Mark,
) -> io::Result<()> {
    if covered >= ends.purged {
        return Ok(());
    }
    tracing::warn!("no valid snapshot covers the purged log; writing one from the applied state");
    let meta = meta_of(mark.applied, mark.membership.clone());
    files.write(&meta, &encode_body(&state.rows())?)
}

/// An error with its causes on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn io_error<'a>(act: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |source| OpenError::Io { act, path: path.to_owned(), source }
}
