//! The types that openraft is instantiated with. Nothing outside `storage`, `peer` and `node` names openraft.

use std::fmt;

use hub_state::{Command, Outcome, Refusal};
use serde::{Deserialize, Serialize};

/// Identifies a hub node for ever; a node that lost its disk comes back under a new one.
pub(crate) type NodeId = u64;

openraft::declare_raft_types!(
    /// The instantiation of openraft.
    pub(crate) TypeConfig:
        D = Batch,
        R = Answers,
        NodeId = NodeId,
        Node = HubNode,
        SnapshotData = SnapshotBytes,
);

/// Where a node is reached. Part of the membership, so that everybody knows everybody's addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HubNode {
    /// `host:port` of the API listener, which also carries the traffic between nodes.
    pub api: String,
    /// `host:port` of the join listener.
    pub join: String,
}

impl fmt::Display for HubNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.api)
    }
}

/// One log entry: commands that waited together share one write to disk (openraft 0.9 does not group commits).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// In the order in which they are applied.
    pub commands: Vec<Command>,
}

/// One answer per command of the batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answers {
    /// In the order of the commands.
    pub answers: Vec<Result<Outcome, Refusal>>,
}

/// The body of a snapshot: the rows of the state, postcard.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct SnapshotBytes(pub Vec<u8>);

/// Snapshots are long; only the length is of interest in a log.
impl fmt::Debug for SnapshotBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotBytes({} bytes)", self.0.len())
    }
}

pub(crate) type LogId = openraft::LogId<NodeId>;
pub(crate) type Vote = openraft::Vote<NodeId>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type StoredMembership = openraft::StoredMembership<NodeId, HubNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<NodeId, HubNode>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type StorageError = openraft::StorageError<NodeId>;
pub(crate) type StorageIOError = openraft::StorageIOError<NodeId>;
pub(crate) type Raft = openraft::Raft<TypeConfig>;
