//! The receiving side; every call checks that the caller is a node of this hub.

use std::time::Duration;

use api::hub::hub_peer_server::HubPeer;
use api::hub::{Blob, SnapshotChunk, snapshot_chunk::Part};
use hub_state::Role;
use openraft::raft::AppendEntriesRequest;
use openraft::{EntryPayload, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status, Streaming};

use super::{SNAPSHOT_MAX, SnapshotHeader, To, decode, encode};
use crate::node::{Node, Request as NodeRequest};
use crate::raft_types::{NodeId, SnapshotBytes, TypeConfig};

/// A chunk of a snapshot must come within this time of the one before.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// `HubPeer` of one node.
pub(crate) struct PeerService {
    pub(crate) node: Node,
}

impl PeerService {
    fn open<T: DeserializeOwned>(&self, request: Request<Blob>) -> Result<T, Status> {
        self.check(&request)?;
        self.addressed(&request.into_inner().data)
    }

    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        match self.node.caller(request)?.role {
            Role::Hub => Ok(()),
            Role::Operator | Role::Agent(_) => Err(Status::permission_denied("only nodes of the hub may do this")),
        }
    }

    /// The leader tries again; meanwhile this node lags behind.
    fn check_space(&self) -> Result<(), Status> {
        self.node.inner.disk.short().map_or(Ok(()), |reason| Err(Status::resource_exhausted(reason)))
    }

    fn addressed<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Status> {
        let to: To<T> = decode(bytes)?;
        let own: NodeId = self.node.id();
        if to.node != own {
            return Err(Status::failed_precondition(format!("this is node {own}, not {}", to.node)));
        }
        Ok(to.message)
    }
}

fn reply<T: Serialize>(message: &T) -> Result<Response<Blob>, Status> {
    Ok(Response::new(Blob { data: encode(message)? }))
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("raft has stopped on this node: {error}"))
}

#[tonic::async_trait]
impl HubPeer for PeerService {
    async fn append(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        let message: AppendEntriesRequest<TypeConfig> = self.open(request)?;
        // What Raft itself writes is little, and it goes on with it.
        if message.entries.iter().any(|entry| matches!(entry.payload, EntryPayload::Normal(_))) {
            self.check_space()?;
        }
        reply(&self.node.raft().append_entries(message).await.map_err(stopped)?)
    }

    async fn vote(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        let message = self.open(request)?;
        reply(&self.node.raft().vote(message).await.map_err(stopped)?)
    }

    async fn install_snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Result<Response<Blob>, Status> {
        self.check(&request)?;
        self.check_space()?;
        let mut chunks = request.into_inner();
        let Some(Part::Header(header)) = next(&mut chunks).await? else {
            return Err(Status::invalid_argument("a snapshot begins with a header"));
        };
        let header: SnapshotHeader = self.addressed(&header)?;
        let mut body = Vec::new();
        let checksum = loop {
            match next(&mut chunks).await? {
                Some(Part::Data(data)) if body.len() + data.len() <= SNAPSHOT_MAX => body.extend_from_slice(&data),
                Some(Part::Data(_)) => return Err(Status::resource_exhausted("the snapshot is too large")),
                Some(Part::Checksum(checksum)) => break checksum,
                Some(Part::Header(_)) | None => return Err(Status::invalid_argument("the snapshot is not complete")),
            }
        };
        if crc32fast::hash(&body) != checksum {
            return Err(Status::data_loss("the snapshot does not have its checksum"));
        }
        let snapshot = Snapshot { meta: header.meta, snapshot: Box::new(SnapshotBytes(body)) };
        tracing::info!(snapshot = %snapshot.meta.snapshot_id, "installing a snapshot from the leader");
        reply(&self.node.raft().install_full_snapshot(header.vote, snapshot).await.map_err(stopped)?)
    }

    async fn forward(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        let message: NodeRequest = self.open(request)?;
        reply(&self.node.answer(message).await)
    }
}

async fn next(chunks: &mut Streaming<SnapshotChunk>) -> Result<Option<Part>, Status> {
    let chunk = tokio::time::timeout(CHUNK_TIMEOUT, chunks.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the snapshot stalled"))??;
    Ok(chunk.and_then(|chunk| chunk.part))
}
