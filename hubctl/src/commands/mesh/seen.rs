//! What the gateways of a fleet see of the other clusters.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ::mesh::{ClusterState, cluster_state};
use fleet::http::get_json;
use fleet::plan::{Plan, at, port};
use serde_json::Value;

use crate::context::Context;

const WITHIN: Duration = Duration::from_secs(2);

/// By observing cluster: whether each other one can be reached from there.
pub(in crate::commands) type Observations = BTreeMap<String, BTreeMap<String, bool>>;

/// The state of a cluster, and who cannot reach it.
#[derive(Debug, PartialEq)]
pub(in crate::commands) struct Seen {
    pub(in crate::commands) state: ClusterState,
    pub(in crate::commands) unreachable_from: Vec<String>,
}

/// `live (unreachable from north)`.
impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state.is_used() && !self.unreachable_from.is_empty() {
            true => write!(f, "{} (unreachable from {})", self.state, self.unreachable_from.join(", ")),
            false => write!(f, "{}", self.state),
        }
    }
}

/// Asks every gateway; without a fleet nobody can be asked, and only leases tell.
pub(super) async fn observations(context: &Context) -> Observations {
    let Ok(fleet) = context.fleet() else { return Observations::new() };
    observe(fleet.plan()).await
}

/// The same for a plan that is known.
pub(in crate::commands) async fn observe(plan: &Plan) -> Observations {
    let mut observations = Observations::new();
    for cluster in &plan.clusters {
        for gateway in &cluster.gateways {
            let answer = get_json(at(gateway.ip, port::ADMIN), "/debug/clusters", WITHIN).await.unwrap_or_default();
            add(observations.entry(cluster.name.to_string()).or_default(), &answer);
        }
    }
    observations
}

/// One gateway that reaches a cluster is enough.
fn add(seen: &mut BTreeMap<String, bool>, answer: &Value) {
    for row in answer.as_array().into_iter().flatten() {
        if let (Some(cluster), Some(reachable)) = (row["cluster"].as_str(), row["reachable"].as_bool()) {
            *seen.entry(cluster.to_owned()).or_default() |= reachable;
        }
    }
}

/// Reachable from anywhere is reachable; who disagrees is named.
pub(in crate::commands) fn judge(cluster: &str, lease_live: bool, observations: &Observations) -> Seen {
    let seen = observations.iter().filter_map(|(from, seen)| Some((from, *seen.get(cluster)?)));
    let (reaching, not): (Vec<_>, Vec<_>) = seen.partition(|(_, reachable)| *reachable);
    let reachable = match (reaching.is_empty(), not.is_empty()) {
        (true, true) => None,
        (empty, _) => Some(!empty),
    };
    let unreachable_from = not.into_iter().map(|(from, _)| from.clone()).collect();
    Seen { state: cluster_state(lease_live, reachable), unreachable_from }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_disagrees_is_named() {
        let mut observations = Observations::new();
        for (from, reachable) in [("east", true), ("east", false), ("north", false)] {
            let answer = json!([{"cluster": "west", "reachable": reachable}, {"cluster": "south", "reachable": null}]);
            add(observations.entry(from.to_owned()).or_default(), &answer);
        }
        assert_eq!(judge("west", true, &observations).to_string(), "live (unreachable from north)");
        assert_eq!(judge("west", false, &observations).to_string(), "stale (unreachable from north)");
        observations.remove("east");
        assert_eq!(judge("west", true, &observations).to_string(), "unreachable");
        assert_eq!(judge("west", false, &observations).to_string(), "dead");
        assert_eq!(judge("south", false, &observations).to_string(), "stale");
    }
}
