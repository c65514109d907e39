//! Pods without a sidecar for which gateways speak: those of exports that say so.

use std::collections::BTreeSet;

use mesh::{SpiffeId, TrustDomain};

use super::{Local, Unmeshed};

/// Slices name an identity for every pod and note all pods without a sidecar. Only exports that allow it let gateways use them.
pub(super) fn settle(local: &mut Local, trust_domain: &TrustDomain) {
    let mut spoken_for = BTreeSet::new();
    for (name, service) in &mut local.services {
        let unmeshed = service.export.as_ref().map(|export| &export.unmeshed);
        let Some(Unmeshed::Allow(account)) = unmeshed else {
            service.endpoints.iter_mut().for_each(|endpoint| endpoint.stand_in = None);
            continue;
        };
        let named = account.as_ref().map(|account| {
            SpiffeId::new(trust_domain.clone(), name.namespace().clone(), account.as_str())
                .map_err(|error| local.problems.push(format!("ServiceExport {name}: {account:?}: {error}")))
                .ok()
        });
        for endpoint in service.endpoints.iter_mut().filter(|endpoint| endpoint.identity.is_none()) {
            if let Some(named) = &named {
                endpoint.stand_in.clone_from(named);
            }
            if endpoint.stand_in.is_some() {
                let key = format!("{}/{}", name.namespace(), endpoint.name);
                // Of a pod of both IP families the address that others dial, too.
                if let Some(stand_in) = local.stand_ins.get_mut(&key) {
                    stand_in.address = endpoint.address;
                }
                spoken_for.insert(key);
            }
        }
    }
    local.stand_ins.retain(|key, _| spoken_for.contains(key));
}
