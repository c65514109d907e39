//! Turns commands that wait into log entries: whatever came while the last entry was written goes into the next one.

use std::time::{SystemTime, UNIX_EPOCH};

use hub_state::{Action, Command, Operation, Outcome, Refusal};
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};

use crate::disk::Disk;
use crate::metrics::Metrics;
use crate::raft_types::{Batch, NodeId, Raft};

/// Commands in one entry.
const COMMANDS_MAX: usize = 256;
/// Bytes in one entry, about; one command may exceed it.
const BYTES_MAX: usize = 1024 * 1024;
/// Commands that wait; more wait in their RPCs.
const QUEUE: usize = 1024;

/// Why a command was not put into the log here, or perhaps was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotProposed {
    /// Another node leads.
    NotLeader(Option<NodeId>),
    /// Raft has stopped.
    Stopped,
    /// There is no space for it; why.
    DiskFull(String),
}

pub(crate) type Answer = Result<Result<Outcome, Refusal>, NotProposed>;

struct Waiting {
    actor: String,
    action: Action,
    answer: oneshot::Sender<Answer>,
}

/// A handle to the proposing task; clones share it.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Waiting>,
}

impl Proposer {
    pub(crate) fn start(raft: Raft, disk: Disk, metrics: Metrics) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(raft, disk, waiting, metrics));
        Self { queue }
    }

    /// Waits until the command was applied by this node as leader.
    pub(crate) async fn propose(&self, actor: String, action: Action) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Waiting { actor, action, answer }).await.map_err(|_| NotProposed::Stopped)?;
        answered.await.map_err(|_| NotProposed::Stopped)?
    }
}

async fn run(raft: Raft, disk: Disk, mut queue: mpsc::Receiver<Waiting>, metrics: Metrics) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(waiting) => waiting,
            None => match queue.recv().await {
                Some(waiting) => waiting,
                None => return,
            },
        };
        let (waiting, left_over) = collect(first, &mut queue);
        next = left_over;
        // Whoever gave up meanwhile needs no entry.
        let waiting: Vec<Waiting> = waiting.into_iter().filter(|waiting| !waiting.answer.is_closed()).collect();
        if waiting.is_empty() {
            continue;
        }
        if let Some(reason) = disk.short() {
            for Waiting { answer, .. } in waiting {
                let _ = answer.send(Err(NotProposed::DiskFull(reason.clone())));
            }
        } else {
            write(&raft, waiting, &metrics).await;
        }
    }
}

fn collect(first: Waiting, queue: &mut mpsc::Receiver<Waiting>) -> (Vec<Waiting>, Option<Waiting>) {
    let mut bytes = size(&first.action);
    let mut batch = vec![first];
    while batch.len() < COMMANDS_MAX {
        let Ok(waiting) = queue.try_recv() else { break };
        bytes += size(&waiting.action);
        if bytes > BYTES_MAX {
            return (batch, Some(waiting));
        }
        batch.push(waiting);
    }
    (batch, None)
}

fn size(action: &Action) -> usize {
    const OVERHEAD: usize = 128;
    match action {
        Action::Transact { operations, .. } => operations.iter().fold(OVERHEAD, |sum, operation| {
            let value = match operation {
                Operation::Put { fact, .. } => fact.bytes.len(),
                Operation::Delete { .. } => 0,
            };
            sum + OVERHEAD + value
        }),
        Action::Join(join) => OVERHEAD + join.bundle.bytes.len(),
        _ => OVERHEAD,
    }
}

async fn write(raft: &Raft, waiting: Vec<Waiting>, metrics: &Metrics) {
    let now_ms = now_ms();
    let (commands, answers): (Vec<_>, Vec<_>) = waiting
        .into_iter()
        .map(|Waiting { actor, action, answer }| (Command { actor, now_ms, action }, answer))
        .unzip();
    metrics.batches.inc();
    metrics.commands.inc_by(commands.len() as u64);
    match raft.client_write(Batch { commands }).await {
        Ok(written) => {
            for (answer, outcome) in answers.into_iter().zip(written.data.answers) {
                metrics.refused.inc_by(u64::from(outcome.is_err()));
                let _ = answer.send(Ok(outcome));
            }
        }
        Err(error) => {
            let reason = match error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => NotProposed::NotLeader(to.leader_id),
                RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) | RaftError::Fatal(_) => {
                    NotProposed::Stopped
                }
            };
            for answer in answers {
                let _ = answer.send(Err(reason.clone()));
            }
        }
    }
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
