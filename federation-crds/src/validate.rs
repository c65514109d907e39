//! What an apiserver would refuse at admission, beyond the schema: names, ports, addresses, enumerations and the rules
//! between fields.

mod authorization_policy;
mod cluster_traffic_policy;
mod destination_rule;
mod endpoint_slice;
mod gateway;
mod material;
mod mcs;
mod metadata;
mod peer_authentication;
mod rate_limit_policy;
mod request_authentication;
mod rules;
mod service;
mod service_entry;
mod sidecar;
mod target;
mod traffic;
mod virtual_service;
mod workload_entry;

use std::collections::BTreeMap;

use crate::error::{FieldErrors, ManifestError, ManifestErrors};
use crate::manifest::Manifest;

/// Checks an object that did not come out of [`parse_manifests`](crate::parse_manifests). `origin` goes into the errors.
pub fn validate(manifest: &Manifest, origin: &str) -> Result<(), ManifestErrors> {
    let mut errors = FieldErrors::default();
    check(manifest, &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    let object = manifest.key().to_string();
    let located = |error: crate::error::FieldError| ManifestError {
        origin: origin.to_owned(),
        document: 0,
        line: 0,
        object: object.clone(),
        path: error.path,
        message: error.message,
        hint: error.hint,
    };
    Err(ManifestErrors(errors.0.into_iter().map(located).collect()))
}

/// Checks that no object stands in two of several texts, each given as origin and manifests: a directory of manifests is
/// one set.
pub fn validate_manifest_set<'a>(
    texts: impl IntoIterator<Item = (&'a str, &'a [Manifest])>,
) -> Result<(), ManifestErrors> {
    let mut seen = BTreeMap::new();
    let mut errors = Vec::new();
    for (origin, manifests) in texts {
        for manifest in manifests {
            let key = manifest.key();
            let Some(first) = seen.insert(key.clone(), origin) else { continue };
            errors.push(ManifestError {
                origin: origin.to_owned(),
                document: 0,
                line: 0,
                object: key.to_string(),
                path: "metadata.name".to_owned(),
                message: format!("the same object stands in {first}"),
                hint: "remove one of the two".to_owned(),
            });
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ManifestErrors(errors)) }
}

pub(crate) fn check(manifest: &Manifest, errors: &mut FieldErrors) {
    metadata::check(manifest, errors);
    match manifest {
        Manifest::Service(service) => service::check(service, errors),
        Manifest::EndpointSlice(slice) => endpoint_slice::check(slice, errors),
        Manifest::ServiceExport(export) => mcs::check_export(export, errors),
        Manifest::ServiceImport(import) => mcs::check_import(import, errors),
        Manifest::Secret(secret) => material::check(secret, errors),
        // Users' own, all but one; what MeshConfig says is looked at when it is compiled.
        Manifest::ConfigMap(_) => {}
        Manifest::VirtualService(object) => virtual_service::check(object, errors),
        Manifest::DestinationRule(object) => destination_rule::check(object, errors),
        Manifest::Gateway(object) => gateway::check(object, errors),
        Manifest::ServiceEntry(object) => service_entry::check(object, errors),
        Manifest::WorkloadEntry(object) => workload_entry::check(object, errors),
        Manifest::Sidecar(object) => sidecar::check(object, errors),
        Manifest::PeerAuthentication(object) => peer_authentication::check(object, errors),
        Manifest::RequestAuthentication(object) => request_authentication::check(object, errors),
        Manifest::AuthorizationPolicy(object) => authorization_policy::check(object, errors),
        Manifest::RateLimitPolicy(object) => rate_limit_policy::check(object, errors),
        Manifest::ClusterTrafficPolicy(object) => cluster_traffic_policy::check(object, errors),
    }
}
