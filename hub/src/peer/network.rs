//! openraft's network: what the leader and candidates send.

use std::time::Duration;

use api::hub::{Blob, SnapshotChunk, snapshot_chunk::Part};
use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{OptionalSend, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Code, Request, Response, Status};

use super::channel::{Client, Peers};
use super::{SNAPSHOT_CHUNK, SnapshotHeader, To, decode, encode};
use crate::raft_types::{HubNode, NodeId, TypeConfig, Vote};

/// How long openraft leaves an unreachable node alone: short, so that a restarted one is found at once.
const BACKOFF: Duration = Duration::from_millis(150);

/// Makes clients for openraft.
pub(crate) struct Network {
    pub(crate) peers: Peers,
}

/// The way to one node.
pub(crate) struct Target {
    node: NodeId,
    address: String,
    peers: Peers,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Target;

    async fn new_client(&mut self, target: NodeId, node: &HubNode) -> Target {
        Target { node: target, address: node.api.clone(), peers: self.peers.clone() }
    }
}

enum Call {
    Append,
    Vote,
}

impl Target {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        call: Call,
        message: Q,
        limit: Duration,
    ) -> Result<A, Status> {
        let request = Request::new(Blob { data: encode(&To { node: self.node, message })? });
        let mut client = self.peers.client(&self.address)?;
        let work = async {
            match call {
                Call::Append => client.append(request).await,
                Call::Vote => client.vote(request).await,
            }
        };
        let reply = tokio::time::timeout(limit, work).await.map_err(|_| Status::deadline_exceeded("no answer"))?;
        decode(&reply.map(Response::into_inner)?.data)
    }

    async fn send_snapshot(
        &self,
        client: &mut Client,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
    ) -> Result<SnapshotResponse<NodeId>, Status> {
        let header = SnapshotHeader { vote, meta: snapshot.meta };
        let header = encode(&To { node: self.node, message: header })?;
        let body = snapshot.snapshot.0;
        let checksum = crc32fast::hash(&body);
        let chunks = body.chunks(SNAPSHOT_CHUNK).map(|chunk| Part::Data(chunk.to_vec())).collect::<Vec<_>>();
        let parts = std::iter::once(Part::Header(header)).chain(chunks).chain([Part::Checksum(checksum)]);
        let stream = tokio_stream::iter(parts.map(|part| SnapshotChunk { part: Some(part) }));
        let reply = client.install_snapshot(Request::new(stream)).await?;
        decode(&reply.into_inner().data)
    }
}

impl RaftNetwork<TypeConfig> for Target {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RPCError<NodeId, HubNode, RaftError<NodeId>>> {
        self.call(Call::Append, rpc, option.hard_ttl()).await.map_err(|status| to_rpc_error(&status))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RPCError<NodeId, HubNode, RaftError<NodeId>>> {
        self.call(Call::Vote, rpc, option.hard_ttl()).await.map_err(|status| to_rpc_error(&status))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<TypeConfig, Fatal<NodeId>>> {
        let mut client = self.peers.client(&self.address).map_err(|status| Unreachable::new(&status))?;
        let send = tokio::time::timeout(option.hard_ttl(), self.send_snapshot(&mut client, vote, snapshot));
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => match sent {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(status)) if is_unreachable(&status) => Err(Unreachable::new(&status).into()),
                Ok(Err(status)) => Err(NetworkError::new(&status).into()),
                Err(elapsed) => Err(Unreachable::new(&elapsed).into()),
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}

/// Nobody there, or somebody who will say the same again: leave it alone for a moment.
fn is_unreachable(status: &Status) -> bool {
    !matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
}

fn to_rpc_error(status: &Status) -> RPCError<NodeId, HubNode, RaftError<NodeId>> {
    if is_unreachable(status) { Unreachable::new(status).into() } else { NetworkError::new(status).into() }
}
