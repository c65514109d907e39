//! RateLimitPolicy (`isthmus.dev`): rate limits of workloads and gateways. Istio has no such kind.

#![expect(unreachable_pub, reason = "the derive of KubeSchema copies every struct into the body of a function")]

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::istio::IstioStatus;

/// The specification of a RateLimitPolicy.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "isthmus.dev",
    version = "v1alpha1",
    kind = "RateLimitPolicy",
    namespaced,
    status = "IstioStatus",
    shortname = "rlp",
    derive = "PartialEq"
)]
pub struct RateLimitPolicySpec {}
