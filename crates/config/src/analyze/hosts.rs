//! Hosts of VirtualServices that the Gateway they are bound to does not serve.

use federation_crds::Manifest;
use federation_crds::istio::VirtualService;
use mesh::{HostPattern, MESH_GATEWAY};

use super::codes;
use super::found::{Found, Said};
use super::references::gateway_name;
use super::registry::{Registry, qualified};

pub(super) fn check(registry: &Registry<'_>, found: &mut Found) {
    for manifest in registry.input.manifests {
        if let Manifest::VirtualService(service) = manifest {
            bound(registry, manifest, service, found);
        }
    }
}

/// A VirtualService that is bound to a Gateway must have a host in common with one of its servers.
fn bound(registry: &Registry<'_>, manifest: &Manifest, service: &VirtualService, found: &mut Found) {
    let own = manifest.key().namespace;
    for gateway in service.spec.gateways.iter().filter(|gateway| *gateway != MESH_GATEWAY) {
        let full = gateway_name(gateway, &own);
        let Some(Manifest::Gateway(object)) = registry.gateways.get(&full).copied() else { continue };
        let served: Vec<&String> = object.spec.servers.iter().flat_map(|server| &server.hosts).collect();
        let unserved =
            service.spec.hosts.iter().filter(|host| !served.iter().any(|server| serves(server, host, &full, &own)));
        let unserved: Vec<&str> = unserved.map(String::as_str).collect();
        if unserved.is_empty() {
            continue;
        }
        let message = format!("Gateway {full} serves none of {}", unserved.join(", "));
        let hint = "add the host to spec.servers[].hosts of the Gateway, in the form that the VirtualService writes";
        found.about(manifest, codes::HOST_NOT_IN_GATEWAY, Said { path: "spec.hosts", message, hint });
    }
}

/// Whether a server's `[<namespace>/]<host>` and a VirtualService's host have a host in common.
fn serves(server: &str, host: &str, gateway: &str, own: &str) -> bool {
    let (namespace, server) = server.split_once('/').unwrap_or(("*", server));
    let of_gateway = gateway.split_once('/').is_some_and(|(namespace, _)| namespace == own);
    let allowed = namespace == "*" || namespace == own || (namespace == "." && of_gateway);
    let (Ok(a), Ok(b)) = (server.parse::<HostPattern>(), host.parse::<HostPattern>()) else { return true };
    // A short name is compared in full as well: both objects may mean the same service.
    let same = a == b || a.matches(b.as_str()) || b.matches(a.as_str());
    allowed && (same || a.matches(&qualified(host, own)))
}
