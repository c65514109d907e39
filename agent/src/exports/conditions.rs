//! The status of a ServiceExport: what a cluster with a kube API would write, shown under `/debug/exports`.

use api::trust::Export;
use config::InvalidExport;
use mesh::{ClusterName, Constituent, ServiceName, merge_exports};
use serde_json::{Value, json};

use crate::imports::Accepted;

/// The conditions of one export of the own cluster. Conflicts are shown on all exports of a service (KEP-1645). Exports
/// that others do not offer to this cluster are not known here and do not count.
pub(crate) fn conditions(own: &ClusterName, name: &ServiceName, export: &Export, accepted: &Accepted) -> Vec<Value> {
    let others = accepted.members.values().flat_map(|member| member.offered_to(own));
    let exports = others.filter(|(other, _)| *other == name).map(|(_, export)| export).chain([export]);
    let exports: Vec<Constituent> = exports.filter_map(|export| Constituent::try_from(export).ok()).collect();
    let conflict = match merge_exports(&exports).filter(|merged| !merged.conflicts.is_empty()) {
        Some(merged) => condition("Conflict", true, &merged.reason(), &merged.message()),
        None => condition("Conflict", false, "NoConflicts", ""),
    };
    vec![condition("Valid", true, "Valid", ""), condition("Ready", true, "Exported", ""), conflict]
}

/// The conditions of a ServiceExport that exports nothing.
pub(crate) fn invalid(why: InvalidExport) -> Vec<Value> {
    let ready = condition("Ready", false, "Failed", "it is not valid");
    vec![condition("Valid", false, why.reason(), why.message()), ready]
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": if status { "True" } else { "False" }, "reason": reason, "message": message})
}
