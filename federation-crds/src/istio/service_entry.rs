//! ServiceEntry (`networking.istio.io`): hosts that are added to the registry.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::IstioStatus;

/// The specification of a ServiceEntry.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "ServiceEntry",
    namespaced,
    status = "IstioStatus",
    shortname = "se",
    derive = "PartialEq"
)]
pub struct ServiceEntrySpec {}
