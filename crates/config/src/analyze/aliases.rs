//! Services of type ExternalName: names that lead nowhere, and rules for a name where those of another count.

use federation_crds::{Manifest, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::codes;
use super::found::{Found, Said};
use super::registry::Registry;

pub(super) fn check(registry: &Registry<'_>, found: &mut Found) {
    for manifest in registry.input.manifests {
        match manifest {
            Manifest::Service(service) => external_name(registry, manifest, service, found),
            Manifest::DestinationRule(rule) => rule_of(registry, manifest, &rule.spec.host, "spec.host", found),
            Manifest::VirtualService(object) => {
                for (index, host) in object.spec.hosts.iter().enumerate() {
                    rule_of(registry, manifest, host, &format!("spec.hosts[{index}]"), found);
                }
            }
            _ => {}
        }
    }
}

fn external_name(registry: &Registry<'_>, manifest: &Manifest, service: &Service, found: &mut Found) {
    let key = manifest.key();
    let Some(behind) = registry.behind(&format!("{}.{}.svc.cluster.local", key.name, key.namespace), &key.namespace)
    else {
        return;
    };
    if behind.in_mesh
        && let Err(missing) = registry.host(&behind.host, &key.namespace)
    {
        let said = Said {
            path: "spec.externalName",
            message: format!("there is no host {:?}", behind.host),
            hint: missing.hint(),
        };
        found.about(manifest, codes::REFERENCED_RESOURCE_NOT_FOUND, said);
    }
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).enumerate();
    for (index, port) in ports {
        let leads_elsewhere = match &port.target_port {
            None => false,
            Some(IntOrString::Int(number)) => *number != port.port,
            Some(IntOrString::String(_)) => true,
        };
        if leads_elsewhere {
            let path = format!("spec.ports[{index}].targetPort");
            let message = "an ExternalName is a name in DNS: no port is translated".to_owned();
            let hint = "dial the port of what it names; a ServiceEntry can lead a port to another one";
            found.about(manifest, codes::WITHOUT_EFFECT, Said { path: &path, message, hint });
        }
    }
}

/// Proxies take the routes and policies of what a name stands for.
fn rule_of(registry: &Registry<'_>, manifest: &Manifest, host: &str, path: &str, found: &mut Found) {
    let Some(behind) = registry.behind(host, &manifest.key().namespace).filter(|behind| behind.in_mesh) else {
        return;
    };
    let message = format!("{host} is another name of {}, whose routes and policies count", behind.host);
    let hint = format!("write {}", behind.host);
    found.about(manifest, codes::OBJECT_WITHOUT_EFFECT, Said { path, message, hint: &hint });
}
