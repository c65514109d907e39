//! AuthorizationPolicy (`security.istio.io`): who may do what.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::IstioStatus;

/// The specification of a AuthorizationPolicy.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "AuthorizationPolicy",
    namespaced,
    status = "IstioStatus",
    shortname = "ap",
    derive = "PartialEq"
)]
pub struct AuthorizationPolicySpec {}
