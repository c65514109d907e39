//! Tells whether what one cluster exports is usable in the others, by asking those who must know it.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tokio::time::Instant;

use crate::handle::Fleet;
use crate::hint::Hint;
use crate::http::get_json;
use crate::plan::{ClusterPlan, Plan, ServicePlan, at};
use crate::wait::POLL;
use crate::{dns, plan};

/// One question to one process takes no longer.
const LOOK: Duration = Duration::from_secs(2);

/// Something that must be visible: `service`, exported by `from`, in `to`.
#[derive(Debug, Clone, Copy)]
pub struct Import<'a> {
    /// The service.
    pub service: &'a ServicePlan,
    /// Who exports it.
    pub from: &'a ClusterPlan,
    /// Where it must be visible.
    pub to: &'a ClusterPlan,
}

/// Every import that the plan's exports imply.
pub fn imports(plan: &Plan) -> Vec<Import<'_>> {
    let mut imports = Vec::new();
    for from in &plan.clusters {
        for to in plan.clusters.iter().filter(|to| to.name != from.name) {
            let reaching = from.services.iter().filter(|service| service.export.reaches(&to.name));
            imports.extend(reaching.map(|service| Import { service, from, to }));
        }
    }
    imports
}

/// Waits until every import resolves in the importing cluster and each of its gateways has a usable path.
pub async fn wait_converged(fleet: &Fleet, deadline: Instant) -> Result<()> {
    for import in imports(fleet.plan()) {
        loop {
            let Err(lacking) = is_visible(import).await else { break };
            if Instant::now() >= deadline {
                let message = format!(
                    "{}/{} of cluster {} is not usable in cluster {} in time: {lacking}",
                    import.service.namespace, import.service.name, import.from.name, import.to.name
                );
                let hint = format!("look at the agents' logs: {}", fleet.layout.root().join("logs").display());
                return Err(Hint::error(message, hint));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

/// Whether an import is usable now; `Err` says what is missing.
pub async fn is_visible(import: Import<'_>) -> Result<(), String> {
    let host = format!("{}.{}.svc.clusterset.local", import.service.name, import.service.namespace);
    let shim = import.to.resolver();
    let answer = dns::ask(shim, &host, LOOK).await.map_err(|error| error.to_string())?;
    if answer.addresses.is_empty() {
        return Err(format!("{host} has no address in {} (response code {})", import.to.name, answer.code));
    }
    for gateway in &import.to.gateways {
        let admin = at(gateway.ip, plan::port::ADMIN);
        let paths = get_json(admin, "/debug/paths", LOOK).await.map_err(|error| error.to_string())?;
        if !has_usable_path(&paths, import.from.name.as_str()) {
            return Err(format!("{}/{} has no usable path to {}", import.to.name, gateway.name, import.from.name));
        }
    }
    Ok(())
}

/// Whether a gateway's `/debug/paths` lists a usable path to a cluster.
pub fn has_usable_path(paths: &Value, cluster: &str) -> bool {
    let entries = paths.as_array().into_iter().flatten();
    entries.into_iter().any(|path| path["cluster"] == cluster && path["usable"] == true)
}
