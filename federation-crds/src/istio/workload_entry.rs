//! WorkloadEntry (`networking.istio.io`): one workload outside of Kubernetes.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::IstioStatus;

/// The specification of a WorkloadEntry.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "WorkloadEntry",
    namespaced,
    status = "IstioStatus",
    shortname = "we",
    derive = "PartialEq"
)]
pub struct WorkloadEntrySpec {}
