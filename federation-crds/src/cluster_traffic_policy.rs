//! ClusterTrafficPolicy (`isthmus.dev`): how requests for a service are divided between clusters. Istio has no such kind;
//! its `localityLbSetting` knows either shares or failover, and no way back.

#![expect(unreachable_pub, reason = "the derive of KubeSchema copies every struct into the body of a function")]

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::istio::IstioStatus;

/// The specification of a ClusterTrafficPolicy. It is for clients in the cluster where it stands.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "isthmus.dev",
    version = "v1alpha1",
    kind = "ClusterTrafficPolicy",
    namespaced,
    status = "IstioStatus",
    shortname = "ctp",
    derive = "PartialEq",
    doc = "ClusterTrafficPolicy divides the requests for services between clusters."
)]
pub struct ClusterTrafficPolicySpec {
    /// Services of the own namespace; absent = all of the namespace, or of the mesh in the root namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// `local-first` (the default), `weighted` or `local-only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Clusters whose exports are imported; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_from: Option<Vec<String>>,
    /// The order of clusters; those that no tier names come last, together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<Tier>,
    /// When requests spill over to other clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflow: Option<Overflow>,
    /// When they return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hysteresis: Option<Hysteresis>,
    /// How many may leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<Cap>,
    /// `allow`: gateways of this cluster take connections of clients without a sidecar for the services, and send them as
    /// their own. `deny` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmeshed_clients: Option<String>,
}

/// Clusters of equal preference.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tier {
    /// The clusters.
    pub clusters: Vec<TierCluster>,
}

/// A cluster of a tier.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TierCluster {
    /// Its name.
    pub name: String,
    /// Its share of the tier, for all clusters of a tier or for none; without weights their healthy endpoints decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
}

/// When requests spill over.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overflow {
    /// Below this share of healthy local endpoints requests spill over in proportion, 0 to 100; 50 if absent, 0 = only
    /// when no local endpoint is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_percent: Option<i64>,
}

/// When requests return.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hysteresis {
    /// For how long the local endpoints must have been healthy, `0s` to `1h`; `5s` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_after: Option<String>,
    /// From this share of healthy local endpoints on all requests return; 80 if absent, at least the overflow's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_percent: Option<i64>,
}

/// How many requests may leave.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cap {
    /// At most this share of the requests spills over while a local endpoint is healthy, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_share_percent: Option<i64>,
    /// At most so many requests and connections of one proxy are under way to other clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<i64>,
}
