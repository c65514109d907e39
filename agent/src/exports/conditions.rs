//! The status of a ServiceExport: what a cluster with a kube API would write, shown under `/debug/exports`.

use api::trust::Export;
use mesh::{ClusterName, Constituent, ServiceName, ServicePort, merge_exports};
use serde_json::{Value, json};

use crate::imports::Accepted;

/// The conditions of one export of the own cluster. Conflicts are shown on all exports of a service (KEP-1645). Exports
/// that others do not offer to this cluster are not known here and do not count.
pub(crate) fn conditions(own: &ClusterName, name: &ServiceName, export: &Export, accepted: &Accepted) -> Vec<Value> {
    let mut exports = vec![constituent(own, export)];
    for (cluster, member) in &accepted.members {
        let offered = member.offered_to(own).filter(|(other, _)| *other == name);
        exports.extend(offered.map(|(_, export)| constituent(cluster, export)));
    }
    let condition = |kind: &str, status: bool, reason: &str, message: &str| json!({"type": kind, "status": if status { "True" } else { "False" }, "reason": reason, "message": message});
    let conflict = match merge_exports(&exports).filter(|merged| !merged.conflicts.is_empty()) {
        Some(merged) => {
            let reasons: Vec<&str> = merged.conflicts.keys().map(|conflict| conflict.reason()).collect();
            condition("Conflict", true, &reasons.join(","), &merged.message())
        }
        None => condition("Conflict", false, "NoConflicts", ""),
    };
    vec![condition("Valid", true, "Valid", ""), condition("Ready", true, "Exported", ""), conflict]
}

fn constituent(cluster: &ClusterName, export: &Export) -> Constituent {
    Constituent {
        cluster: cluster.clone(),
        created_at: export.created_at,
        headless: export.headless,
        ports: export.ports.iter().filter_map(|port| ServicePort::try_from(port).ok()).collect(),
    }
}
