//! Clusters drain and leave: asked for by operators, or by the cluster itself. The state decides who may.

use api::hub as pb;
use hub_state::{Action, Leave, LeaveStep};
use mesh::ClusterName;
use tonic::{Request, Response, Status};

use super::HubService;
use crate::node::Caller;
use crate::wire::invalid;

type Answer = Result<Response<pb::MembershipChange>, Status>;

impl HubService {
    pub(super) async fn drain(&self, request: Request<pb::DrainClusterRequest>) -> Answer {
        let caller = self.node.caller(&request)?;
        let pb::DrainClusterRequest { cluster, over_ms } = request.into_inner();
        let cluster = ClusterName::new(cluster).map_err(invalid)?;
        let action = Action::Drain { cluster, role: caller.role.clone(), over_ms };
        self.change(&caller, action).await
    }

    pub(super) async fn undrain(&self, request: Request<pb::UndrainClusterRequest>) -> Answer {
        let caller = self.node.caller(&request)?;
        let cluster = ClusterName::new(request.into_inner().cluster).map_err(invalid)?;
        let action = Action::Undrain { cluster, role: caller.role.clone() };
        self.change(&caller, action).await
    }

    pub(super) async fn leave(&self, request: Request<pb::LeaveClusterRequest>) -> Answer {
        let caller = self.node.caller(&request)?;
        let pb::LeaveClusterRequest { cluster, force, remove } = request.into_inner();
        let cluster = ClusterName::new(cluster).map_err(invalid)?;
        let step = if remove { LeaveStep::Remove } else { LeaveStep::Withdraw };
        let action = Action::Leave(Leave { cluster, role: caller.role.clone(), force, step });
        self.change(&caller, action).await
    }

    async fn change(&self, caller: &Caller, action: Action) -> Answer {
        let outcome = self.node.propose(caller.id.to_string(), action).await?;
        Ok(Response::new(pb::MembershipChange { revision: outcome.revision }))
    }
}
