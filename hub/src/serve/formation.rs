//! The first start of a hub: exactly one node writes the first membership.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Member;
use crate::node::{Answer, Node, Request};
use crate::raft_types::HubNode;

const PAUSE: Duration = Duration::from_millis(100);
const ASK: Duration = Duration::from_secs(1);

/// On the node with the lowest id, and only if it has never taken part in anything: waits until a majority of the
/// members (itself included) says that there is no hub yet, then makes one.
pub(super) async fn initialise(node: Node, members: BTreeMap<u64, Member>, ended: CancellationToken) {
    if members.keys().next() != Some(&node.id()) {
        return;
    }
    loop {
        match survey(&node, &members).await {
            Survey::Exists => {
                tracing::warn!("this node is empty but its siblings are not; it waits to be fed as a new member");
                return;
            }
            Survey::New => {
                let nodes: BTreeMap<u64, HubNode> = members.iter().map(|(id, member)| (*id, member.into())).collect();
                match node.raft().initialize(nodes).await {
                    Ok(()) => tracing::info!(members = members.len(), "a new hub was initialised"),
                    Err(error) => tracing::warn!(%error, "a new hub was not initialised"),
                }
                return;
            }
            Survey::Unknown => {}
        }
        if ended.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

enum Survey {
    /// Somebody is a member of a hub already.
    Exists,
    /// A majority is as new as this node.
    New,
    /// Too few have answered.
    Unknown,
}

async fn survey(node: &Node, members: &BTreeMap<u64, Member>) -> Survey {
    let mut as_new = 1;
    for (id, member) in members.iter().filter(|(id, _)| **id != node.id()) {
        match node.inner.peers.forward(*id, &member.api, &Request::IsInitialised, ASK).await {
            Ok(Answer::Initialised(true)) => return Survey::Exists,
            Ok(Answer::Initialised(false)) => as_new += 1,
            Ok(_) | Err(_) => {}
        }
    }
    if as_new * 2 > members.len() { Survey::New } else { Survey::Unknown }
}
