//! VirtualService (`networking.istio.io`): the routes of hosts.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::IstioStatus;

/// The specification of a VirtualService.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "VirtualService",
    namespaced,
    status = "IstioStatus",
    shortname = "vs",
    derive = "PartialEq"
)]
pub struct VirtualServiceSpec {}
