//! What a node does when it is asked as the leader.

use std::collections::BTreeSet;

use hub_state::Action;
use mesh::ClusterName;
use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, CheckIsLeaderError, ClientWriteError, RaftError};

use super::{Answer, Node, Request};
use crate::leases::{HUB_ACTOR, is_live};
use crate::proposer::NotProposed;
use crate::raft_types::{HubNode, NodeId};

type WriteError = RaftError<NodeId, ClientWriteError<NodeId, HubNode>>;

impl Node {
    /// Answers a request here and now; a node that does not lead says so.
    pub(crate) async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Propose { actor, action } => self.lead_proposal(actor, *action).await,
            Request::ReadIndex => self.lead_read_index().await,
            Request::RenewLease { cluster } => self.lead_renewal(cluster).await,
            Request::AddMember { id, node } => self.lead_add(id, node).await,
            Request::RemoveMember { id } => self.lead_remove(id).await,
            Request::IsInitialised => match self.raft().is_initialized().await {
                Ok(is) => Answer::Initialised(is),
                Err(error) => Answer::TryAgain(error.to_string()),
            },
        }
    }

    async fn lead_proposal(&self, actor: String, action: Action) -> Answer {
        match self.inner.proposer.propose(actor, action).await {
            Ok(outcome) => Answer::Proposed(outcome),
            Err(NotProposed::NotLeader(leader)) => not_leader(leader),
            // Somebody else may lead in a moment; when nobody can, the caller should know why.
            Err(NotProposed::DiskFull(reason)) if self.inner.disk.stands_aside() => Answer::TryAgain(reason),
            Err(NotProposed::DiskFull(reason)) => Answer::DiskFull(reason),
            Err(NotProposed::Stopped) => Answer::TryAgain("the node stops".to_owned()),
        }
    }

    async fn lead_read_index(&self) -> Answer {
        match self.raft().ensure_linearizable().await {
            Ok(read) => Answer::ReadIndex(read.map_or(0, |id| id.index)),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to))) => not_leader(to.leader_id),
            Err(error) => Answer::TryAgain(error.to_string()),
        }
    }

    async fn lead_renewal(&self, cluster: ClusterName) -> Answer {
        if !self.inner.leases.renew(&cluster) {
            return not_leader(None);
        }
        match is_live(self.replica(), &cluster) {
            Some(true) => Answer::Done,
            Some(false) => match self.lead_proposal(HUB_ACTOR.to_owned(), Action::ReviveLease { cluster }).await {
                Answer::Proposed(Ok(_)) => Answer::Done,
                Answer::Proposed(Err(refusal)) => Answer::Refused(refusal.to_string()),
                other => other,
            },
            None => Answer::Refused(format!("cluster {cluster} is not a member")),
        }
    }

    /// A learner first, so that the quorum never depends on a node that still has to be fed.
    async fn lead_add(&self, id: NodeId, node: HubNode) -> Answer {
        if let Some(known) = self.replica().nodes().get(&id)
            && *known != node
        {
            return Answer::Refused(format!(
                "node {id} is a member with other addresses; hint: remove it first, or use a new id"
            ));
        }
        if let Err(error) = self.raft().add_learner(id, node, true).await {
            return refused(error);
        }
        let voters = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        match self.raft().change_membership(voters, false).await {
            Ok(_) => Answer::Done,
            Err(error) => refused(error),
        }
    }

    async fn lead_remove(&self, id: NodeId) -> Answer {
        if !self.replica().nodes().contains_key(&id) {
            return Answer::Done;
        }
        let voters = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
        if let Err(error) = self.raft().change_membership(voters, false).await {
            return refused(error);
        }
        // A voter is gone with that; a node that was only a learner is still there.
        if !self.replica().nodes().contains_key(&id) {
            return Answer::Done;
        }
        match self.raft().change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([id])), false).await {
            Ok(_) => Answer::Done,
            Err(error) => refused(error),
        }
    }
}

fn not_leader(leader: Option<NodeId>) -> Answer {
    Answer::TryAgain(leader.map_or_else(|| "there is no leader".to_owned(), |id| format!("node {id} leads")))
}

fn refused(error: WriteError) -> Answer {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => not_leader(to.leader_id),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_))) => {
            Answer::TryAgain("another change of members is in progress".to_owned())
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => Answer::Refused(error.to_string()),
        RaftError::Fatal(error) => Answer::TryAgain(error.to_string()),
    }
}
