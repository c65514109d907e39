//! Istio's kinds, as its public CRD schemas define them. All served versions of a kind have one schema and are read into
//! one type.

#![expect(unreachable_pub, reason = "the derive of KubeSchema copies every struct into the body of a function")]

pub mod authorization_policy;
pub mod destination_rule;
mod duration;
pub(crate) mod fields;
pub mod gateway;
pub mod peer_authentication;
pub mod request_authentication;
pub mod service_entry;
pub mod sidecar;
pub mod target;
pub mod virtual_service;
pub mod workload_entry;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

pub use authorization_policy::AuthorizationPolicy;
pub use destination_rule::DestinationRule;
pub use duration::parse_duration;
pub use gateway::Gateway;
pub use peer_authentication::PeerAuthentication;
pub use request_authentication::RequestAuthentication;
pub use service_entry::ServiceEntry;
pub use sidecar::Sidecar;
pub use target::{PolicyTargetReference, WorkloadSelector};
pub use virtual_service::VirtualService;
pub use workload_entry::WorkloadEntry;

/// The names of gRPC's status codes, by number (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
pub const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// `IstioStatus`, the status of all these kinds. It is the control plane's to write; in a manifest it is not looked at.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IstioStatus {
    /// `Programmed` and what else there is to say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The generation that this reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
