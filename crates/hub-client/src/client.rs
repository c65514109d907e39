//! The client of the hub's API: any node will do, and it finds one.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::hub::hub_client::HubClient as Rpc;
use api::hub::{
    AddMemberRequest, CreateTokenRequest, CreateTokenResponse, DrainClusterRequest, LeaveClusterRequest,
    ListAuditRequest, ListAuditResponse, ListTokensRequest, ListTokensResponse, MembershipChange, MembershipResponse,
    ReadRequest, ReadResponse, RemoveMemberRequest, RenewLeaseRequest, RenewLeaseResponse, RevokeTokenRequest,
    StatusRequest, StatusResponse, TransactRequest, TransactResponse, UndrainClusterRequest, WatchRequest,
};
use identity::Credentials;
use mesh::TrustDomain;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::connection;
use crate::error::{HubError, is_worth_another_node};
use crate::nodes::{Node, Nodes};
use crate::watch::Watch;

/// A call keeps looking for a node that answers for this long: longer than an election takes.
const DEADLINE: Duration = Duration::from_secs(10);
/// One node gets this long for one try.
const TRY: Duration = Duration::from_secs(4);
/// Pause after every node was tried once; doubled per round up to [`PAUSE_MAX`], and jittered by half.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A first watch message or a read carries the whole state.
const MESSAGE_MAX: usize = 64 * 1024 * 1024;

/// A client of the hub. Clones share connections and what they learnt about the nodes.
#[derive(Clone)]
pub struct HubClient {
    inner: Arc<Inner>,
    /// How long one call keeps looking for a node that answers.
    deadline: Duration,
}

struct Inner {
    credentials: Credentials,
    hub_trust_domain: TrustDomain,
    /// Never held across an await.
    nodes: Mutex<Nodes>,
}

impl HubClient {
    /// A client that knows the API listeners at `addresses` (`host:port`), shows `credentials` and talks only to
    /// `hub` of `hub_trust_domain`. Nothing is dialled yet. Needs a tokio runtime around it.
    pub fn new(
        addresses: Vec<String>,
        credentials: Credentials,
        hub_trust_domain: TrustDomain,
    ) -> Result<Self, HubError> {
        let nodes = Nodes::new(Vec::new());
        let inner = Arc::new(Inner { credentials, hub_trust_domain, nodes: Mutex::new(nodes) });
        let client = Self { inner, deadline: DEADLINE };
        client.set_addresses(addresses)?;
        Ok(client)
    }

    /// The same client with another patience than 10 s: for callers that have something better to do than to wait for
    /// an election, such as `hubctl check`.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Replaces the known nodes. Channels to addresses that stay are kept.
    pub fn set_addresses(&self, addresses: Vec<String>) -> Result<(), HubError> {
        if addresses.is_empty() {
            return Err(HubError::NoAddress);
        }
        let mut all: Vec<Node> = Vec::with_capacity(addresses.len());
        for address in addresses {
            if all.iter().any(|node| node.address == address) {
                continue;
            }
            let known = self.with_nodes(|nodes| nodes.find(&address));
            all.push(match known {
                Some(node) => node,
                None => self.node(address)?,
            });
        }
        self.with_nodes(|nodes| nodes.replace(all));
        Ok(())
    }

    /// The addresses that are known now.
    pub fn addresses(&self) -> Vec<String> {
        self.with_nodes(|nodes| nodes.addresses())
    }

    /// Applies all operations or none; `request_id` makes the repetition at another node apply once.
    pub async fn transact(&self, request: TransactRequest) -> Result<TransactResponse, HubError> {
        self.call(request, |mut rpc, request| async move { rpc.transact(request).await }).await
    }

    /// Reads the resources that the caller may see.
    pub async fn read(&self, request: ReadRequest) -> Result<ReadResponse, HubError> {
        self.call(request, |mut rpc, request| async move { rpc.read(request).await }).await
    }

    /// Watches from a revision (0: from the beginning). The caller resumes when the watch ends.
    pub async fn watch(&self, revision: u64) -> Result<Watch, HubError> {
        let request = WatchRequest { revision };
        let watching = |mut rpc: Rpc<Channel>, request| async move { rpc.watch(request).await };
        let (node, stream) = self.call_some_node(request, watching).await?;
        Ok(Watch::new(self.clone(), node, stream))
    }

    /// Keeps the calling cluster's lease; agents only. Learns the addresses in the answer.
    pub async fn renew_lease(&self) -> Result<RenewLeaseResponse, HubError> {
        let request = RenewLeaseRequest { min_version: api::PROTOCOL_MIN, max_version: api::PROTOCOL_MAX };
        let response = self.call(request, |mut rpc, request| async move { rpc.renew_lease(request).await }).await?;
        self.learn(&response.hub_addresses);
        Ok(response)
    }

    /// Lets a cluster's share as a destination fall to zero; for operators, and for the cluster itself.
    pub async fn drain_cluster(&self, request: DrainClusterRequest) -> Result<MembershipChange, HubError> {
        self.call(request, |mut rpc, request| async move { rpc.drain_cluster(request).await }).await
    }

    /// Ends a drain.
    pub async fn undrain_cluster(&self, cluster: &str) -> Result<MembershipChange, HubError> {
        let request = UndrainClusterRequest { cluster: cluster.to_owned() };
        self.call(request, |mut rpc, request| async move { rpc.undrain_cluster(request).await }).await
    }

    /// One step of leaving; for operators, and for the cluster itself.
    pub async fn leave_cluster(&self, request: LeaveClusterRequest) -> Result<MembershipChange, HubError> {
        self.call(request, |mut rpc, request| async move { rpc.leave_cluster(request).await }).await
    }

    /// Makes a join token. A repetition may make a second one, which nobody knows and which expires.
    pub async fn create_token(&self, request: CreateTokenRequest) -> Result<CreateTokenResponse, HubError> {
        self.call(request, |mut rpc, request| async move { rpc.create_token(request).await }).await
    }

    /// All join tokens, without their secrets.
    pub async fn list_tokens(&self) -> Result<ListTokensResponse, HubError> {
        self.call(ListTokensRequest {}, |mut rpc, request| async move { rpc.list_tokens(request).await }).await
    }

    /// Makes a token unusable.
    pub async fn revoke_token(&self, id: &str) -> Result<(), HubError> {
        let request = RevokeTokenRequest { id: id.to_owned() };
        self.call(request, |mut rpc, request| async move { rpc.revoke_token(request).await }).await.map(|_| ())
    }

    /// The status of whichever node answers first.
    pub async fn status(&self) -> Result<StatusResponse, HubError> {
        self.call(StatusRequest {}, |mut rpc, request| async move { rpc.status(request).await }).await
    }

    /// The status of one node, asked once.
    pub async fn status_of(&self, address: &str) -> Result<StatusResponse, HubError> {
        let node = match self.with_nodes(|nodes| nodes.find(address)) {
            Some(node) => node,
            None => self.node(address.to_owned())?,
        };
        let mut rpc = rpc(node.channel);
        match bounded(TRY, rpc.status(StatusRequest {})).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) if is_worth_another_node(&status) => {
                Err(HubError::Unreachable { address: node.address, within: TRY, source: Box::new(status) })
            }
            Err(status) => Err(HubError::refused(&status)),
        }
    }

    /// The newest `limit` audited writes.
    pub async fn list_audit(&self, limit: u32) -> Result<ListAuditResponse, HubError> {
        self.call(ListAuditRequest { limit }, |mut rpc, request| async move { rpc.list_audit(request).await }).await
    }

    /// Adds a node to the hub.
    pub async fn add_member(&self, request: AddMemberRequest) -> Result<MembershipResponse, HubError> {
        self.call(request, |mut rpc, request| async move { rpc.add_member(request).await }).await
    }

    /// Removes a node from the hub.
    pub async fn remove_member(&self, id: u64) -> Result<MembershipResponse, HubError> {
        let request = RemoveMemberRequest { id };
        self.call(request, |mut rpc, request| async move { rpc.remove_member(request).await }).await
    }

    /// Takes over addresses that the hub announced. One that does not parse must not cut the client off.
    pub(crate) fn learn(&self, addresses: &[String]) {
        if addresses.is_empty() || self.addresses() == addresses {
            return;
        }
        match self.set_addresses(addresses.to_vec()) {
            Ok(()) => tracing::info!(?addresses, "learnt the addresses of the hub"),
            Err(error) => tracing::warn!(?addresses, %error, "kept the old addresses of the hub"),
        }
    }

    pub(crate) fn avoid(&self, address: &str) {
        self.with_nodes(|nodes| nodes.avoid(address));
    }

    fn node(&self, address: String) -> Result<Node, HubError> {
        let dialled = connection::channel(&address, &self.inner.credentials, &self.inner.hub_trust_domain)?;
        Ok(Node::new(address, dialled))
    }

    /// Leaves a connection on which nothing came for a whole [`TRY`]. After a partition its TCP would be heard again only when a
    /// retransmission comes round, which takes up to as long again as the partition lasted; a new one is dialled until
    /// it answers.
    fn renew(&self, silent: &Node) {
        match self.node(silent.address.clone()) {
            Ok(node) => self.with_nodes(|nodes| nodes.renew(silent, node)),
            Err(error) => tracing::warn!(address = silent.address, %error, "the silent channel is kept"),
        }
    }

    fn with_nodes<T>(&self, f: impl FnOnce(&mut Nodes) -> T) -> T {
        f(&mut self.inner.nodes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn call<Q, A, F>(&self, request: Q, send: impl Fn(Rpc<Channel>, Q) -> F) -> Result<A, HubError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_some_node(request, send).await.map(|(_, answer)| answer)
    }

    /// Tries node after node, beginning with the last good one, until one answers, one refuses or the time is up.
    async fn call_some_node<Q, A, F>(
        &self,
        request: Q,
        send: impl Fn(Rpc<Channel>, Q) -> F,
    ) -> Result<(Node, A), HubError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let end = Instant::now() + self.deadline;
        let mut pause = PAUSE;
        loop {
            let round = self.with_nodes(|nodes| (0..nodes.count()).filter_map(|i| nodes.at(i)).collect::<Vec<_>>());
            let mut last = None;
            for node in round {
                let left = end.saturating_duration_since(Instant::now()).min(TRY);
                let asked = Instant::now();
                match bounded(left, send(rpc(node.channel.clone()), request.clone())).await {
                    Ok(response) => {
                        self.with_nodes(|nodes| nodes.prefer(&node.address));
                        return Ok((node, response.into_inner()));
                    }
                    Err(status) if is_worth_another_node(&status) => {
                        tracing::debug!(address = node.address, %status, "hub node did not answer");
                        self.avoid(&node.address);
                        if asked.elapsed() >= TRY && node.since.before(asked) {
                            self.renew(&node);
                        }
                        last = Some((node.address, status));
                    }
                    Err(status) => return Err(HubError::refused(&status)),
                }
                if Instant::now() >= end {
                    break;
                }
            }
            let (address, status) = last.ok_or(HubError::NoAddress)?;
            let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
            if Instant::now() + jittered >= end {
                return Err(HubError::Unreachable { address, within: self.deadline, source: Box::new(status) });
            }
            tokio::time::sleep(jittered).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn rpc(channel: Channel) -> Rpc<Channel> {
    Rpc::new(channel).max_decoding_message_size(MESSAGE_MAX)
}

/// The answer within a time; the time covers the dialling too, which a gRPC deadline does not.
async fn bounded<A>(
    within: Duration,
    answer: impl Future<Output = Result<Response<A>, Status>>,
) -> Result<Response<A>, Status> {
    match tokio::time::timeout(within, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} ms", within.as_millis()))),
    }
}

#[cfg(test)]
mod tests;
