//! RateLimitPolicy (`isthmus.dev`): rate limits of workloads and gateways. Istio has no such kind.
//!
//! Every proxy counts for itself: a limit of 100 requests per second in front of three pods lets up to 300 through. A
//! request that exceeds a limit is answered with 429 and says in the header fields `RateLimit` and `RateLimit-Policy`
//! when it may come again.

#![expect(unreachable_pub, reason = "the derive of KubeSchema copies every struct into the body of a function")]

mod descriptor;

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::istio::virtual_service::StringMatch;
use crate::istio::{IstioStatus, PolicyTargetReference, WorkloadSelector};

pub use descriptor::{By, Descriptor};

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
    derive = "PartialEq",
    doc = "RateLimitPolicy limits how many requests workloads and gateways take."
)]
pub struct RateLimitPolicySpec {
    /// The workloads; absent = all of the namespace, or of the mesh in the root namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// Services and Gateways of the own namespace instead of workloads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<PolicyTargetReference>,
    /// The limits. Every one that a request matches counts it; one that is exceeded refuses it. They may be absent where
    /// `maxBodyBytes` is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// The most bytes that the body of a request may have, 1 to 2^53. A larger one is answered with 413, at once if its
    /// length is declared. Absent = bodies have no limit: they are passed on as they come, in bounded memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<i64>,
}

/// One limit: a bucket of tokens that fills at a steady rate, for each combination of `by`.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// Its name in the header fields of answers and in logs; the policy's name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The requests that it is about, any of these; absent = all.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<LimitMatch>,
    /// What has a bucket of its own: `path`, `method`, `host`, `identity`, `remoteIp`, `{header: name}`,
    /// `{queryParameter: name}` or `{claim: name}`; absent = one bucket for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<Descriptor>,
    /// Requests in `per`.
    pub requests: i64,
    /// The time in which so many requests may come, `1s` to `24h`.
    pub per: String,
    /// The requests that may come at once; `requests` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<i64>,
}

/// Conditions of which all must hold, as in a VirtualService.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitMatch {
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<StringMatch>,
    /// `exact` and `prefix` of `uri` ignore case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_uri_case: Option<bool>,
    /// The method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<StringMatch>,
    /// The host that the client named, with its port if it wrote one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<StringMatch>,
    /// Headers by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, StringMatch>,
    /// Headers that must not match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Query parameters by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query_params: BTreeMap<String, StringMatch>,
}
