//! Services, annotations and subsets: what can be seen of one object and the registry.

use federation_crds::{Kind, Manifest, SERVICE_EXPORT_TO_ANNOTATION, Service, TRAFFIC_DISTRIBUTION_ANNOTATION};
use mesh::{ClusterName, Endpoint, Labels, Placed, Protocol};

use super::codes;
use super::found::{Found, Said};
use super::registry::Registry;
use crate::compile::ImportedGroup;
use crate::local::distribution::{self, Distribution};

/// Annotations of Istio's group that mean something here, and for which kind.
const KNOWN: &[(Kind, &str)] = &[
    (Kind::Service, SERVICE_EXPORT_TO_ANNOTATION),
    (Kind::Service, TRAFFIC_DISTRIBUTION_ANNOTATION),
    (Kind::AuthorizationPolicy, "istio.io/dry-run"),
];

pub(super) fn check(registry: &Registry<'_>, found: &mut Found) {
    for manifest in registry.input.manifests {
        annotations(manifest, found);
        match manifest {
            Manifest::Service(service) => {
                port_names(registry, manifest, found);
                nodes(manifest, service, found);
            }
            Manifest::DestinationRule(rule) => {
                for (index, subset) in rule.spec.subsets.iter().enumerate() {
                    let place = Place { host: &rule.spec.host, path: format!("spec.subsets[{index}].labels") };
                    subset_labels(registry, manifest, &place, &subset.labels, found);
                }
            }
            _ => {}
        }
    }
}

fn annotations(manifest: &Manifest, found: &mut Found) {
    let annotations = manifest.metadata().annotations.iter().flatten();
    for (name, _) in annotations {
        let group = name.split_once('/').map_or("", |(group, _)| group);
        let istio = group == "istio.io" || group.ends_with(".istio.io");
        if istio && !KNOWN.contains(&(manifest.kind(), name.as_str())) {
            let path = format!("metadata.annotations[{name:?}]");
            let message = "means nothing here".to_owned();
            let hint = "docs/config has a page per kind with the annotations that mean something";
            found.about(manifest, codes::UNKNOWN_ANNOTATION, Said { path: &path, message, hint });
        }
    }
}

/// Fields of a Service that ask for endpoints of the client's node: the mesh knows localities, not nodes.
fn nodes(manifest: &Manifest, service: &Service, found: &mut Found) {
    let Some(spec) = &service.spec else { return };
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        let message = "nodes are not known: clients use the endpoints of all nodes".to_owned();
        let hint = "set trafficDistribution: PreferClose for the nearest endpoints first, or leave the field out";
        found.about(manifest, codes::WITHOUT_EFFECT, Said { path: "spec.internalTrafficPolicy", message, hint });
    }
    let annotation = format!("metadata.annotations[{TRAFFIC_DISTRIBUTION_ANNOTATION:?}]");
    let path = if spec.traffic_distribution.is_some() { "spec.trafficDistribution" } else { annotation.as_str() };
    let message = match distribution::wanted(service) {
        Some(Distribution::Node) => "nodes are not known: it is taken for PreferSameZone",
        Some(Distribution::Unknown) => "is no distribution that has an effect",
        Some(Distribution::Zone) | None => return,
    };
    let hint = "write PreferSameZone";
    found.about(manifest, codes::WITHOUT_EFFECT, Said { path, message: message.to_owned(), hint });
}

fn port_names(registry: &Registry<'_>, manifest: &Manifest, found: &mut Found) {
    let key = manifest.key();
    let named = |name: &mesh::ServiceName| name.namespace().as_str() == key.namespace && name.name() == key.name;
    let service = registry.input.local.services.iter().find(|(name, _)| named(name));
    // Of another name only the number of a port is asked for.
    let service = service.filter(|(_, service)| service.names.external_name.is_none());
    let undeclared = service.into_iter().flat_map(|(_, service)| &service.ports);
    for port in undeclared.filter(|port| port.protocol == Protocol::Auto) {
        let message = format!("port {} ({:?}) does not say its protocol; it is detected", port.number, port.name);
        let hint = "set appProtocol, or begin the name with the protocol, such as http-web";
        found.about(manifest, codes::PORT_NAME, Said { path: "spec.ports", message, hint });
    }
}

/// A field of an object about a host.
struct Place<'a> {
    host: &'a str,
    path: String,
}

fn subset_labels(registry: &Registry<'_>, manifest: &Manifest, place: &Place<'_>, labels: &Labels, found: &mut Found) {
    let Ok(known) = registry.host(place.host, &manifest.key().namespace) else { return };
    let Some(name) = known.service else { return };
    let own = |endpoint| placed(endpoint, &registry.input.mesh.cluster);
    let local = registry.input.local.services.get(&name).into_iter().flat_map(|service| &service.endpoints).map(own);
    let imported = registry.input.imported.get(&name).into_iter().flat_map(|imported| &imported.groups);
    let mut places = local.chain(imported.map(ImportedGroup::placed)).peekable();
    // A service without any endpoint is not the subset's fault.
    if labels.is_empty() || places.peek().is_none() || places.any(|place| place.has(labels)) {
        return;
    }
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let message = format!("no endpoint of {name} has the labels {}", labels.join(","));
    let hint = "mend the labels; until then requests for the subset get 503";
    found.about(manifest, codes::SUBSET_NOT_EVERYWHERE, Said { path: &place.path, message, hint });
}

fn placed<'a>(endpoint: &'a Endpoint, own: &'a ClusterName) -> Placed<'a> {
    Placed { labels: &endpoint.labels, locality: &endpoint.locality, cluster: Some(own) }
}
