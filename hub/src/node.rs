//! One node as the rest of the hub uses it: execute a request wherever the leader is, and know who is calling.

mod lead;

use std::sync::Arc;
use std::time::Duration;

use hub_state::{Action, Outcome, Refusal, Role};
use identity::Credentials;
use mesh::{ClusterName, MeshId, SpiffeId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tonic::Status;

use crate::disk::Disk;
use crate::incoming::Peer;
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::peer::Peers;
use crate::proposer::Proposer;
use crate::raft_types::{HubNode, NodeId, Raft};
use crate::storage::Replica;

/// How long a request waits for a leader and its answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long one attempt may take before the leader is looked up again.
const ATTEMPT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(30);

/// What only the leader can do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Put a command into the log.
    Propose {
        /// The authenticated caller.
        actor: String,
        /// What it asked for.
        action: Box<Action>,
    },
    /// The log index that a linearizable read must wait for.
    ReadIndex,
    /// Keep a cluster's lease.
    RenewLease {
        /// The cluster.
        cluster: ClusterName,
    },
    /// Add a voter.
    AddMember {
        /// Its id.
        id: NodeId,
        /// Where it is.
        node: HubNode,
    },
    /// Remove a member.
    RemoveMember {
        /// Its id.
        id: NodeId,
    },
    /// Answered by any node: whether it belongs to a hub that exists.
    IsInitialised,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// To `Propose`.
    Proposed(Result<Outcome, Refusal>),
    /// To `ReadIndex`.
    ReadIndex(u64),
    /// To the rest.
    Done,
    /// The request cannot be carried out whoever leads.
    Refused(String),
    /// To `IsInitialised`.
    Initialised(bool),
    /// Ask somebody else, or again.
    TryAgain(String),
    /// The leader has no space to write.
    DiskFull(String),
}

/// Who calls, as TLS and the state say.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) id: SpiffeId,
    pub(crate) role: Role,
}

/// A node; clones are the same node.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: NodeId,
    pub(crate) mesh: MeshId,
    pub(crate) raft: Raft,
    pub(crate) replica: Replica,
    pub(crate) peers: Peers,
    pub(crate) proposer: Proposer,
    pub(crate) leases: Leases,
    pub(crate) lease_ttl: Duration,
    pub(crate) credentials: Credentials,
    pub(crate) metrics: Metrics,
    pub(crate) disk: Disk,
}

impl Node {
    pub(crate) fn id(&self) -> NodeId {
        self.inner.id
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.inner.replica
    }

    /// The caller of a request, whose identity TLS has proved.
    pub(crate) fn caller<T>(&self, request: &tonic::Request<T>) -> Result<Caller, Status> {
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0.clone());
        let peer = peer.ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
        let cluster_of = |trust_domain: &_| self.replica().read(|state| state.cluster_of(trust_domain).cloned());
        let role = Role::of(&peer.id, &self.inner.mesh, cluster_of)
            .ok_or_else(|| Status::permission_denied(format!("{} has no role at the hub", peer.id)))?;
        Ok(Caller { id: peer.id.clone(), role })
    }

    /// Executes a command wherever the leader is. Safe to retry, because every command is.
    pub(crate) async fn propose(&self, actor: String, action: Action) -> Result<Outcome, Status> {
        match self.execute(Request::Propose { actor, action: Box::new(action) }).await? {
            Answer::Proposed(Ok(outcome)) => Ok(outcome),
            Answer::Proposed(Err(refusal)) => Err(crate::wire::refused(&refusal)),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns when this node has applied everything that was acknowledged before the call.
    pub(crate) async fn barrier(&self) -> Result<(), Status> {
        let Answer::ReadIndex(index) = self.execute(Request::ReadIndex).await? else {
            return Err(Status::internal("the leader gave no read index"));
        };
        let mut position = self.replica().position();
        let applied = position.wait_for(|position| position.index >= index);
        match tokio::time::timeout(DEADLINE, applied).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Status::unavailable("this node lags behind; hint: ask another")),
        }
    }

    /// Finds the leader and has it answer, again and again until the deadline.
    pub(crate) async fn execute(&self, request: Request) -> Result<Answer, Status> {
        let deadline = Instant::now() + DEADLINE;
        let mut why = "there is no leader".to_owned();
        let mut metrics = self.raft().server_metrics();
        while Instant::now() < deadline {
            let leader = metrics.borrow_and_update().current_leader;
            match self.attempt(leader, &request).await {
                Some(Answer::TryAgain(reason)) => why = reason,
                Some(Answer::DiskFull(reason)) => return Err(Status::resource_exhausted(reason)),
                Some(Answer::Refused(reason)) => return Err(Status::failed_precondition(reason)),
                Some(answer) => return Ok(answer),
                None => {}
            }
            // Either the leader changes, or it was busy and a moment helps.
            let _ = tokio::time::timeout(PAUSE, metrics.changed()).await;
        }
        Err(Status::unavailable(format!("the request could not be carried out in time: {why}")))
    }

    /// One attempt; `None` if no leader is known.
    async fn attempt(&self, leader: Option<NodeId>, request: &Request) -> Option<Answer> {
        let leader = leader?;
        if leader == self.id() {
            let answer = tokio::time::timeout(ATTEMPT, self.answer(request.clone())).await;
            return Some(answer.unwrap_or_else(|_| Answer::TryAgain("there is no quorum".to_owned())));
        }
        let address = self.address_of(leader)?;
        match self.inner.peers.forward(leader, &address, request, ATTEMPT).await {
            Ok(answer) => Some(answer),
            Err(status) => Some(Answer::TryAgain(format!("the leader cannot be reached: {}", status.message()))),
        }
    }

    fn address_of(&self, id: NodeId) -> Option<String> {
        let metrics = self.raft().server_metrics();
        let known = metrics.borrow();
        known.membership_config.membership().get_node(&id).map(|node| node.api.clone())
    }

    /// API addresses of all members, in the order of their ids.
    pub(crate) fn api_addresses(&self) -> Vec<String> {
        self.replica().nodes().into_values().map(|node| node.api).collect()
    }
}

fn unexpected(answer: &Answer) -> Status {
    Status::internal(format!("the leader gave another answer than expected: {answer:?}"))
}
