//! What a node shows of itself.

use std::collections::BTreeMap;

use serde_json::json;
use telemetry::{Admin, Readiness, Registry};
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Keeps the gauges in step with the state and Raft.
pub(super) async fn follow_metrics(node: Node, ended: CancellationToken) {
    let mut position = node.replica().position();
    let mut raft = node.raft().server_metrics();
    loop {
        let revision = position.borrow_and_update().revision;
        node.inner.metrics.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        let leads = raft.borrow_and_update().current_leader == Some(node.id());
        node.inner.metrics.is_leader.set(i64::from(leads));
        tokio::select! {
            () = ended.cancelled() => return,
            changed = position.changed() => if changed.is_err() { return },
            changed = raft.changed() => if changed.is_err() { return },
        }
    }
}

/// The admin interface of a node.
pub(super) fn admin(node: &Node, registry: Registry, readiness: Readiness) -> Admin {
    let raft = node.clone();
    let state = node.clone();
    Admin::new(registry, readiness)
        .route("/debug/raft", move |_| {
            let node = raft.clone();
            async move {
                let metrics = node.raft().metrics().borrow().clone();
                let members: BTreeMap<String, String> =
                    node.replica().nodes().into_iter().map(|(id, node)| (id.to_string(), node.api)).collect();
                json!({
                    "node": node.id(),
                    "leader": metrics.current_leader,
                    "term": metrics.current_term,
                    "state": format!("{:?}", metrics.state),
                    "last_log_index": metrics.last_log_index,
                    "applied_index": metrics.last_applied.map(|id| id.index),
                    "snapshot_index": metrics.snapshot.map(|id| id.index),
                    "purged_index": metrics.purged.map(|id| id.index),
                    "members": members,
                })
            }
        })
        .route("/debug/state", move |_| {
            let node = state.clone();
            async move {
                node.replica().read(|state| {
                    let resources: BTreeMap<String, u64> =
                        state.resources().iter().map(|(key, resource)| (key.to_string(), resource.revision)).collect();
                    json!({"revision": state.revision(), "resources": resources})
                })
            }
        })
}
