//! Selectors that select nothing.

use federation_crds::Manifest;
use mesh::{Labels, Workload};

use super::codes;
use super::found::{Found, Said};
use super::registry::Registry;
use crate::mesh_config::ROOT_NAMESPACE;

pub(super) fn check(registry: &Registry<'_>, found: &mut Found) {
    for manifest in registry.input.manifests {
        let Some(selector) = selector(manifest) else { continue };
        if selector.labels.is_empty() || workloads(registry, manifest, &selector).next().is_some() {
            continue;
        }
        let labels: Vec<String> = selector.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let labels = labels.join(",");
        if matches!(manifest, Manifest::Gateway(_)) {
            let message = format!("no gateway has the labels {labels}");
            let hint = "start an ingress or egress gateway with these labels, or mend the selector";
            let said = Said { path: selector.path, message, hint };
            found.about(manifest, codes::REFERENCED_RESOURCE_NOT_FOUND, said);
        } else {
            let message = format!("no workload with a sidecar has the labels {labels}{}", selector.place(manifest));
            let hint = "mend the selector, or the labels of the pods";
            found.about(manifest, codes::NO_MATCHING_WORKLOADS, Said { path: selector.path, message, hint });
        }
    }
}

/// Which workloads an object is for.
struct Selector<'a> {
    path: &'static str,
    labels: &'a Labels,
    /// In the root namespace it is for every namespace.
    root_is_everywhere: bool,
}

impl Selector<'_> {
    fn place(&self, manifest: &Manifest) -> String {
        let namespace = manifest.key().namespace;
        match self.root_is_everywhere && namespace == ROOT_NAMESPACE {
            true => String::new(),
            false => format!(" in namespace {namespace}"),
        }
    }
}

fn selector(manifest: &Manifest) -> Option<Selector<'_>> {
    let policy = |labels| Selector { path: "spec.selector.matchLabels", labels, root_is_everywhere: true };
    Some(match manifest {
        Manifest::PeerAuthentication(object) => policy(&object.spec.selector.as_ref()?.match_labels),
        Manifest::RequestAuthentication(object) => policy(&object.spec.selector.as_ref()?.match_labels),
        Manifest::AuthorizationPolicy(object) => policy(&object.spec.selector.as_ref()?.match_labels),
        Manifest::RateLimitPolicy(object) => policy(&object.spec.selector.as_ref()?.match_labels),
        Manifest::Gateway(object) => {
            Selector { path: "spec.selector", labels: &object.spec.selector, root_is_everywhere: true }
        }
        Manifest::Sidecar(object) => Selector {
            path: "spec.workloadSelector.labels",
            labels: &object.spec.workload_selector.as_ref()?.labels,
            root_is_everywhere: false,
        },
        _ => return None,
    })
}

fn workloads<'a>(
    registry: &'a Registry<'_>,
    manifest: &Manifest,
    selector: &'a Selector<'_>,
) -> impl Iterator<Item = (&'a String, &'a Workload)> {
    let namespace = manifest.key().namespace;
    let everywhere =
        matches!(manifest, Manifest::Gateway(_)) || (selector.root_is_everywhere && namespace == ROOT_NAMESPACE);
    registry.input.local.workloads.iter().filter(move |(_, workload)| {
        let place = everywhere || workload.namespace.as_str() == namespace;
        place && selector.labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
    })
}
