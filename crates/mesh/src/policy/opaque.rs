//! Routes of connections: VirtualService `tls` and `tcp`.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{HostPattern, Origin, WeightedDestination};
use crate::model::Labels;
use crate::names::Namespace;

/// One TLS rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsRule {
    /// Where it comes from.
    pub origin: Origin,
    /// Any of them; at least one.
    pub matches: Vec<TlsMatch>,
    /// To one of these, by weight.
    pub destinations: Vec<WeightedDestination>,
}

/// Conditions of which all must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsMatch {
    /// Any of them; at least one.
    pub sni_hosts: Vec<HostPattern>,
    /// Any of them; empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_subnets: Vec<IpNet>,
    /// The port that was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Labels of the client's workload.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub source_labels: Labels,
    /// Namespace of the client's workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_namespace: Option<Namespace>,
    /// Gateways that it is for; empty = those of the VirtualService.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub gateways: BTreeSet<String>,
}

/// One TCP rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpRule {
    /// Where it comes from.
    pub origin: Origin,
    /// Any of them; empty = everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<TcpMatch>,
    /// To one of these, by weight.
    pub destinations: Vec<WeightedDestination>,
}

/// Conditions of which all must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpMatch {
    /// Any of them; empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_subnets: Vec<IpNet>,
    /// The port that was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The client's address (`sourceSubnet`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_subnet: Option<IpNet>,
    /// Labels of the client's workload.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub source_labels: Labels,
    /// Namespace of the client's workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_namespace: Option<Namespace>,
    /// Gateways that it is for; empty = those of the VirtualService.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub gateways: BTreeSet<String>,
}
