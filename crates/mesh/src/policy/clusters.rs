//! How requests for a service are divided between clusters: ClusterTrafficPolicy (ours: Istio has no such kind).

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ObjectRef;
use super::limit::millis;
use crate::names::ClusterName;

/// What holds for one service. The default is what holds without any policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterTraffic {
    /// The ClusterTrafficPolicy; `None` = the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ObjectRef>,
    /// Which place the own cluster has among the others.
    pub mode: ClusterMode,
    /// The order of clusters; those that no tier names come last, together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<ClusterTier>,
    /// Clusters whose exports are used; `None` = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_from: Option<BTreeSet<ClusterName>>,
    /// Below this share of healthy local endpoints, in percent, requests spill over in proportion; 0 = only when none is.
    pub overflow_percent: u32,
    /// From this share of healthy local endpoints on, in percent, all requests return; at least the overflow's.
    pub return_percent: u32,
    /// For how long the local endpoints must have been that healthy before requests return.
    #[serde(with = "millis")]
    pub return_after: Duration,
    /// At most this share of the requests spills over, in percent, as long as any local endpoint is healthy.
    pub max_share_percent: u32,
    /// At most so many requests and connections of one proxy are under way to other clusters; `None` = no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Whether the own cluster's gateways take connections of clients without a sidecar for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unmeshed_clients: bool,
}

impl Default for ClusterTraffic {
    fn default() -> Self {
        Self {
            origin: None,
            mode: ClusterMode::LocalFirst,
            tiers: Vec::new(),
            import_from: None,
            overflow_percent: 50,
            return_percent: 80,
            return_after: Duration::from_secs(5),
            max_share_percent: 100,
            max_requests: None,
            unmeshed_clients: false,
        }
    }
}

impl ClusterTraffic {
    /// Whether a cluster's exports are imported.
    pub fn imports_from(&self, cluster: &ClusterName) -> bool {
        self.import_from.as_ref().is_none_or(|from| from.contains(cluster))
    }
}

/// Which place the own cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterMode {
    /// Before all others, which get what it cannot serve.
    #[default]
    LocalFirst,
    /// It is one of the clusters of the tiers.
    Weighted,
    /// No other cluster is used.
    LocalOnly,
}

impl ClusterMode {
    /// As it is written in manifests and printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LocalFirst => "local-first",
            Self::Weighted => "weighted",
            Self::LocalOnly => "local-only",
        }
    }
}

/// Clusters of equal preference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterTier {
    /// At least one.
    pub clusters: Vec<ClusterWeight>,
}

/// A cluster of a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterWeight {
    /// Its name.
    pub cluster: ClusterName,
    /// Its share of the tier; `None` for all of a tier = in proportion to their healthy endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}
