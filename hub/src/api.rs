//! The API for operators and agents. Every RPC begins with the role of its caller.

mod membership;
mod tokens;

use api::hub as pb;
use api::hub::hub_server::Hub;
use hub_state::{Action, Key, Role, Viewer, projection};
use mesh::ClusterName;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::facts;
use crate::node::{Caller, Node, Request as NodeRequest};
use crate::raft_types::HubNode;
use crate::watch::{self, WatchStream};
use crate::wire;

const AUDIT_DEFAULT: usize = 100;

/// `Hub` of one node.
pub(crate) struct HubService {
    pub(crate) node: Node,
    /// `sha256:<hex>` of the hub's root.
    pub(crate) ca_hash: String,
    pub(crate) draining: CancellationToken,
}

/// The version that both sides speak.
pub(crate) fn negotiate(min: u32, max: u32) -> Result<u32, Status> {
    let (lowest, highest) = (min.max(api::PROTOCOL_MIN), max.min(api::PROTOCOL_MAX));
    if lowest <= highest {
        return Ok(highest);
    }
    Err(Status::failed_precondition(format!(
        "the caller speaks protocol versions {min} to {max}, this hub {} to {}; hint: upgrade the older one",
        api::PROTOCOL_MIN,
        api::PROTOCOL_MAX
    )))
}

impl HubService {
    fn operator<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = self.node.caller(request)?;
        match caller.role {
            Role::Operator => Ok(caller),
            Role::Agent(_) | Role::Hub => Err(Status::permission_denied("only operators may do this")),
        }
    }

    fn agent<T>(&self, request: &Request<T>) -> Result<ClusterName, Status> {
        match self.node.caller(request)?.role {
            Role::Agent(cluster) => Ok(cluster),
            Role::Operator | Role::Hub => Err(Status::permission_denied("only agents of clusters may do this")),
        }
    }

    fn viewer<T>(&self, request: &Request<T>) -> Result<Viewer, Status> {
        match self.node.caller(request)?.role {
            Role::Operator => Ok(Viewer::Operator),
            Role::Agent(cluster) => Ok(Viewer::Cluster(cluster)),
            Role::Hub => Err(Status::permission_denied("nodes of the hub do not read through the API")),
        }
    }

    fn members(&self) -> Vec<pb::Member> {
        let metrics = self.node.raft().server_metrics();
        let known = metrics.borrow();
        let membership = known.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let member = |(id, node): (&u64, &HubNode)| pb::Member {
            id: *id,
            api_address: node.api.clone(),
            join_address: node.join.clone(),
            voter: voters.contains(id),
        };
        membership.nodes().map(member).collect()
    }

    async fn change_members(&self, caller: &Caller, request: NodeRequest) -> Result<Vec<pb::Member>, Status> {
        let action = format!("{request:?}");
        self.node.execute(request).await?;
        tracing::info!(target: "audit", actor = %caller.id, action, "members changed");
        self.node.barrier().await?;
        Ok(self.members())
    }
}

#[tonic::async_trait]
impl Hub for HubService {
    type WatchStream = WatchStream;

    async fn transact(&self, request: Request<pb::TransactRequest>) -> Result<Response<pb::TransactResponse>, Status> {
        let caller = self.node.caller(&request)?;
        if caller.role == Role::Hub {
            return Err(Status::permission_denied("nodes of the hub do not write through the API"));
        }
        let request = request.into_inner();
        let compares = request.compare.into_iter().map(wire::compare).collect::<Result<_, _>>()?;
        let bundle_of = |cluster: &ClusterName| {
            let key = Key::Bundle(cluster.clone());
            self.node.replica().read(|state| state.resources().get(&key)?.value.signed().cloned())
        };
        let operations = facts::operations(request.operations, &caller.role, bundle_of)?;
        let action = Action::Transact { request_id: request.request_id, role: caller.role, compares, operations };
        let outcome = self.node.propose(caller.id.to_string(), action).await?;
        Ok(Response::new(pb::TransactResponse { revision: outcome.revision }))
    }

    async fn read(&self, request: Request<pb::ReadRequest>) -> Result<Response<pb::ReadResponse>, Status> {
        let viewer = self.viewer(&request)?;
        let request = request.into_inner();
        let kind = wire::kind(request.kind)?;
        if !request.stale {
            self.node.barrier().await?;
        }
        let (revision, seen) =
            self.node.replica().read(|state| (state.revision(), projection(state.resources(), &viewer)));
        let wanted = seen.iter().filter(|(key, _)| {
            kind.is_none_or(|kind| key.kind() == kind)
                && (request.cluster.is_empty()
                    || key.cluster().is_some_and(|cluster| cluster.as_str() == request.cluster))
        });
        let resources = wanted.map(|(key, resource)| wire::to_resource(key, resource)).collect();
        Ok(Response::new(pb::ReadResponse { revision, resources }))
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<WatchStream>, Status> {
        let viewer = self.viewer(&request)?;
        let revision = request.into_inner().revision;
        watch::start(&self.node, viewer, revision, self.draining.clone()).await.map(Response::new)
    }

    async fn renew_lease(
        &self,
        request: Request<pb::RenewLeaseRequest>,
    ) -> Result<Response<pb::RenewLeaseResponse>, Status> {
        let cluster = self.agent(&request)?;
        let request = request.into_inner();
        let version = negotiate(request.min_version, request.max_version)?;
        self.node.execute(NodeRequest::RenewLease { cluster }).await?;
        Ok(Response::new(pb::RenewLeaseResponse {
            ttl_ms: u64::try_from(self.node.inner.lease_ttl.as_millis()).unwrap_or(u64::MAX),
            hub_addresses: self.node.api_addresses(),
            version,
        }))
    }

    async fn drain_cluster(
        &self,
        request: Request<pb::DrainClusterRequest>,
    ) -> Result<Response<pb::MembershipChange>, Status> {
        self.drain(request).await
    }

    async fn undrain_cluster(
        &self,
        request: Request<pb::UndrainClusterRequest>,
    ) -> Result<Response<pb::MembershipChange>, Status> {
        self.undrain(request).await
    }

    async fn leave_cluster(
        &self,
        request: Request<pb::LeaveClusterRequest>,
    ) -> Result<Response<pb::MembershipChange>, Status> {
        self.leave(request).await
    }

    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let caller = self.operator(&request)?;
        self.create(&caller, request.into_inner()).await.map(Response::new)
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        self.operator(&request)?;
        self.node.barrier().await?;
        Ok(Response::new(pb::ListTokensResponse { tokens: self.tokens() }))
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::RevokeTokenResponse>, Status> {
        let caller = self.operator(&request)?;
        let action = Action::RevokeToken { id: request.into_inner().id };
        self.node.propose(caller.id.to_string(), action).await?;
        Ok(Response::new(pb::RevokeTokenResponse {}))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        self.operator(&request)?;
        let metrics = self.node.raft().metrics().borrow().clone();
        let replica = self.node.replica().clone();
        let digest = tokio::task::spawn_blocking(move || replica.digest()).await;
        let (index, revision, state_digest) =
            digest.map_err(|_| Status::internal("the digest could not be computed"))?;
        Ok(Response::new(pb::StatusResponse {
            node_id: self.node.id(),
            leader_id: metrics.current_leader.unwrap_or_default(),
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or_default(),
            applied_index: index,
            revision,
            members: self.members(),
            state_digest: state_digest.to_vec(),
        }))
    }

    async fn list_audit(
        &self,
        request: Request<pb::ListAuditRequest>,
    ) -> Result<Response<pb::ListAuditResponse>, Status> {
        self.operator(&request)?;
        self.node.barrier().await?;
        let limit = match request.into_inner().limit {
            0 => AUDIT_DEFAULT,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let entry = |entry: &hub_state::AuditEntry| pb::AuditEntry {
            revision: entry.revision,
            at_ms: entry.at_ms,
            actor: entry.actor.clone(),
            action: entry.action.clone(),
        };
        let entries = self.node.replica().read(|state| state.audit().take(limit).map(entry).collect());
        Ok(Response::new(pb::ListAuditResponse { entries }))
    }

    async fn add_member(
        &self,
        request: Request<pb::AddMemberRequest>,
    ) -> Result<Response<pb::MembershipResponse>, Status> {
        let caller = self.operator(&request)?;
        let pb::AddMemberRequest { id, api_address, join_address } = request.into_inner();
        if id == 0 || !api_address.contains(':') || !join_address.contains(':') {
            return Err(Status::invalid_argument("a member has an id from 1 and two addresses host:port"));
        }
        let node = HubNode { api: api_address, join: join_address };
        let members = self.change_members(&caller, NodeRequest::AddMember { id, node }).await?;
        Ok(Response::new(pb::MembershipResponse { members }))
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Result<Response<pb::MembershipResponse>, Status> {
        let caller = self.operator(&request)?;
        let id = request.into_inner().id;
        let members = self.change_members(&caller, NodeRequest::RemoveMember { id }).await?;
        Ok(Response::new(pb::MembershipResponse { members }))
    }
}
