//! The Kubernetes kinds that Isthmus reads, and the one door through which manifests come in.
//!
//! What it is not: a client of Kubernetes and no compiler of configuration. It turns text into typed objects that an
//! apiserver with our CRDs would have admitted, or into errors that name file, document, object and field.
//!
//! Invariants:
//! * Nothing is ignored in silence: an unknown kind, an unknown field and a value of the wrong type are errors.
//! * All errors of a text are reported at once, and with any error there is no manifest: nothing is half applied.
//! * `crds/*.yaml` is generated from the types here; a test fails when it drifts.
//!
//! Start reading at [`parse_manifests`], then [`Manifest`]; the kinds of the Multi-Cluster Services API are in [`mcs`].

pub mod cluster_traffic_policy;
pub mod crds;
mod error;
mod fields;
pub mod istio;
mod manifest;
pub mod mcs;
mod parse;
pub mod pem;
pub mod rate_limit_policy;
mod refused;
mod schema;
mod suggest;
mod validate;

pub use error::{ManifestError, ManifestErrors};
pub use fields::fields;
pub use manifest::{Kind, Manifest, ManifestKey};
pub use mcs::{
    EXPORT_TO_ANNOTATION, ServiceExport, ServiceImport, UNMESHED_ACCOUNT_ANNOTATION, UNMESHED_ANNOTATION, Unmeshed,
    export_to, unmeshed,
};
pub use parse::parse_manifests;
pub use validate::{validate, validate_manifest_set};

/// `core/v1` kinds.
pub use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
/// `discovery.k8s.io/v1 EndpointSlice`.
pub use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The label of a Service whose short and `cluster.local` names reach other clusters too: `"true"` or `"false"`.
pub const GLOBAL_LABEL: &str = "isthmus.dev/global";
/// Istio's annotation of a Service: the namespaces that see it, joined by commas; `.` is its own, `*` all, `~` none.
pub const SERVICE_EXPORT_TO_ANNOTATION: &str = "networking.istio.io/exportTo";
/// Istio's annotation of a Service for `spec.trafficDistribution`, from before Kubernetes had that field.
pub const TRAFFIC_DISTRIBUTION_ANNOTATION: &str = "networking.istio.io/traffic-distribution";
/// The annotation of an EndpointSlice: `"true"` when a sidecar stands beside its endpoints.
pub const MESHED_ANNOTATION: &str = "isthmus.dev/meshed";
/// The annotation of an EndpointSlice that names the service account of its endpoints.
pub const SERVICE_ACCOUNT_ANNOTATION: &str = "isthmus.dev/service-account";
/// The annotation of an EndpointSlice with its pods' labels, `key=value` joined by commas.
pub const POD_LABELS_ANNOTATION: &str = "isthmus.dev/pod-labels";
/// The annotation of an EndpointSlice: `permissive` or `strict`.
pub const MTLS_ANNOTATION: &str = "isthmus.dev/mtls";
/// The annotation of an EndpointSlice: the locality of its endpoints, `region/zone/subzone`; without it `endpoints[].zone`.
pub const LOCALITY_ANNOTATION: &str = "isthmus.dev/locality";
/// The label of an EndpointSlice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
