//! PeerAuthentication (`security.istio.io`): which transport workloads accept.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::IstioStatus;

/// The specification of a PeerAuthentication.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "PeerAuthentication",
    namespaced,
    status = "IstioStatus",
    shortname = "pa",
    derive = "PartialEq"
)]
pub struct PeerAuthenticationSpec {}
