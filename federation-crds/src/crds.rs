//! The CRDs as they are installed into a cluster, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use kube::CustomResourceExt as _;

use crate::cluster_traffic_policy::ClusterTrafficPolicy;
use crate::mcs::{ServiceExport, ServiceImport};
use crate::rate_limit_policy::RateLimitPolicy;

/// The release of the standard that the schemas follow; implementations compare it before they replace a CRD.
const MCS_RELEASE: &str = "v0.5.0";

/// All CRDs with the names of their files under `crds/`.
pub fn crds() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        ("isthmus.dev_clustertrafficpolicies.yaml", ClusterTrafficPolicy::crd()),
        ("isthmus.dev_ratelimitpolicies.yaml", RateLimitPolicy::crd()),
        ("multicluster.x-k8s.io_serviceexports.yaml", mcs(ServiceExport::crd())),
        ("multicluster.x-k8s.io_serviceimports.yaml", mcs(ServiceImport::crd())),
    ]
}

/// The text of a CRD's file.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    let body = serde_saphyr::to_string(crd)?;
    Ok(format!(
        "# Generated from federation-crds/src; ISTHMUS_WRITE_CRDS=1 cargo test -p isthmus-federation-crds writes it anew.\n{body}"
    ))
}

/// Both served versions, v1beta1 stored, and the labels by which others recognise the release.
fn mcs(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    crd.metadata.labels = Some(
        [("multicluster.x-k8s.io/release-version", MCS_RELEASE), ("multicluster.x-k8s.io/crd-schema-revision", "0")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    );
    let older: Vec<_> = crd
        .spec
        .versions
        .iter()
        .map(|version| CustomResourceDefinitionVersion {
            name: "v1alpha1".to_owned(),
            served: true,
            storage: false,
            ..version.clone()
        })
        .collect();
    crd.spec.versions.splice(0..0, older);
    crd
}
