//! The applied state as the rest of the node reads it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use hub_state::{Change, History, Refusal, Resources, State};
use tokio::sync::watch;

use super::fingerprint::digest_of;
use crate::raft_types::{Answers, Batch, HubNode, LogId, NodeId, StoredMembership};

/// Changes that are kept for watches that resume.
const HISTORY_CHANGES: usize = 16_384;

/// How far the state is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The revision of the state.
    pub revision: u64,
    /// The index of the last applied log entry.
    pub index: u64,
    /// Counts replacements of the whole state by a snapshot.
    pub installs: u64,
}

/// The replicated state in memory; clones share it. Locks are held for computation only, never across a wait.
#[derive(Clone)]
pub(crate) struct Replica {
    inner: Arc<RwLock<Inner>>,
    position: watch::Sender<Position>,
}

struct Inner {
    state: State,
    history: History,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl Replica {
    pub(super) fn new(state: State, applied: Option<LogId>, membership: StoredMembership) -> Self {
        let history = History::new(HISTORY_CHANGES, state.revision());
        let position = Position { revision: state.revision(), index: applied.map_or(0, |id| id.index), installs: 0 };
        let inner = Inner { state, history, applied, membership };
        Self { inner: Arc::new(RwLock::new(inner)), position: watch::Sender::new(position) }
    }

    /// Reads the state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock().state)
    }

    /// Signals every step of the state; a level to wait on.
    pub(crate) fn position(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// All resources as they were at a revision, with the present revision and resources; `None` = too long ago.
    pub(crate) fn since(&self, revision: u64) -> Option<Resources> {
        let inner = self.lock();
        inner.history.resources_at(inner.state.resources(), revision)
    }

    /// The applied index, the revision, and SHA-256 over all rows, all of one moment.
    pub(crate) fn digest(&self) -> (u64, u64, [u8; 32]) {
        let inner = self.lock();
        let (state, index) = (inner.state.clone(), inner.applied.map_or(0, |id| id.index));
        drop(inner);
        (index, state.revision(), digest_of(state.rows().iter()))
    }

    /// The members as of the last applied entry.
    pub(crate) fn nodes(&self) -> BTreeMap<NodeId, HubNode> {
        self.lock().membership.nodes().map(|(id, node)| (*id, node.clone())).collect()
    }

    pub(super) fn applied(&self) -> (Option<LogId>, StoredMembership) {
        let inner = self.lock();
        (inner.applied, inner.membership.clone())
    }

    pub(super) fn snapshot(&self) -> (State, Option<LogId>, StoredMembership) {
        let inner = self.lock();
        (inner.state.clone(), inner.applied, inner.membership.clone())
    }

    /// Applies one entry. `publish` comes when the rows are written.
    pub(super) fn apply(&self, log_id: LogId, batch: &Batch) -> (Answers, Vec<hub_state::RowChange>) {
        let mut guard = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *guard;
        let mut answers = Vec::with_capacity(batch.commands.len());
        let mut rows = Vec::new();
        for command in &batch.commands {
            let applied = inner.state.apply(command);
            audit(command, &applied.outcome, &applied.changes);
            inner.history.push(applied.changes);
            rows.extend(applied.rows);
            answers.push(applied.outcome);
        }
        inner.applied = Some(log_id);
        (Answers { answers }, rows)
    }

    pub(super) fn set_membership(&self, log_id: LogId, membership: StoredMembership) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.applied = Some(log_id);
        inner.membership = membership;
    }

    pub(super) fn set_applied(&self, log_id: LogId) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).applied = Some(log_id);
    }

    pub(super) fn install(&self, state: State, applied: Option<LogId>, membership: StoredMembership) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.history = History::new(HISTORY_CHANGES, state.revision());
        *inner = Inner { state, applied, membership, history: inner.history.clone() };
        drop(inner);
        self.position.send_modify(|position| position.installs += 1);
        self.publish();
    }

    pub(super) fn publish(&self) {
        let inner = self.lock();
        let (revision, index) = (inner.state.revision(), inner.applied.map_or(0, |id| id.index));
        drop(inner);
        self.position.send_if_modified(|position| {
            let next = Position { revision, index, installs: position.installs };
            std::mem::replace(position, next) != next
        });
    }

    fn lock(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        // A panic while applying would have ended the node; what is in memory is whole.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line for every write, on every node.
fn audit(command: &hub_state::Command, outcome: &Result<hub_state::Outcome, Refusal>, changes: &[Change]) {
    let action = match &command.action {
        hub_state::Action::Transact { .. } => "transact",
        hub_state::Action::CreateToken(_) => "create-token",
        hub_state::Action::RevokeToken { .. } => "revoke-token",
        hub_state::Action::Join(_) => "join",
        hub_state::Action::ExpireLease { .. } => "expire-lease",
        hub_state::Action::ReviveLease { .. } => "revive-lease",
        hub_state::Action::Drain { .. } => "drain",
        hub_state::Action::Undrain { .. } => "undrain",
        hub_state::Action::Leave(_) => "leave",
    };
    match outcome {
        Ok(outcome) => tracing::info!(
            target: "audit",
            actor = command.actor,
            action,
            revision = outcome.revision,
            replayed = outcome.replayed,
            changes = changes.len(),
            first = changes.first().map(|change| change.key.to_string()),
            "write"
        ),
        Err(refusal) => tracing::warn!(
            target: "audit",
            actor = command.actor,
            action,
            reason = refusal.code(),
            "refused"
        ),
    }
}
