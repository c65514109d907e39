//! Nodes among themselves: openraft's messages and forwarded requests, postcard in gRPC, over mutual TLS that only
//! hub nodes get through.

mod channel;
mod network;
mod service;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tonic::Status;

pub(crate) use channel::Peers;
pub(crate) use network::Network;
pub(crate) use service::PeerService;

use crate::raft_types::{NodeId, SnapshotMeta, Vote};

/// The largest message between nodes: one entry may carry one transaction of the largest allowed size.
pub(crate) const MESSAGE_MAX: usize = 64 * 1024 * 1024;
/// The largest snapshot that is accepted.
const SNAPSHOT_MAX: usize = 1024 * 1024 * 1024;
const SNAPSHOT_CHUNK: usize = 256 * 1024;

/// A message with its addressee: addresses are reassigned, ids never are.
#[derive(Debug, Serialize, Deserialize)]
struct To<T> {
    node: NodeId,
    message: T,
}

/// What goes before the data of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct SnapshotHeader {
    vote: Vote,
    meta: SnapshotMeta,
}

fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, Status> {
    postcard::to_stdvec(message).map_err(|error| Status::internal(format!("a message cannot be encoded: {error}")))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    postcard::from_bytes(bytes).map_err(|_| Status::invalid_argument("the message is not one of this version"))
}
