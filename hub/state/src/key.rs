//! Names of resources, typed so that a key cannot be malformed.

use std::fmt;

use mesh::{ClusterName, ServiceName};
use serde::{Deserialize, Serialize};

/// What a resource is; mirrors `hub.v1.Kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A member cluster.
    Cluster,
    /// A cluster's signed trust bundle.
    Bundle,
    /// A cluster's signed set of gateways.
    Gateways,
    /// A signed export of one service by one cluster.
    Export,
    /// The stable address of a service, allocated here.
    Address,
    /// Whether a cluster's announcements are fresh, decided here.
    Lease,
    /// That a cluster drains or leaves.
    Drain,
}

/// The name of one resource. The order groups resources by kind, then by cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// The record of a member.
    Cluster(ClusterName),
    /// The bundle of a member.
    Bundle(ClusterName),
    /// The gateways of a member.
    Gateways(ClusterName),
    /// What a member exports under a name.
    Export(ClusterName, ServiceName),
    /// The address of a service, mesh-wide.
    Address(ServiceName),
    /// The lease of a member.
    Lease(ClusterName),
    /// The drain of a member.
    Drain(ClusterName),
}

impl Key {
    /// What the resource is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Cluster(_) => Kind::Cluster,
            Self::Bundle(_) => Kind::Bundle,
            Self::Gateways(_) => Kind::Gateways,
            Self::Export(..) => Kind::Export,
            Self::Address(_) => Kind::Address,
            Self::Lease(_) => Kind::Lease,
            Self::Drain(_) => Kind::Drain,
        }
    }

    /// The owning cluster; `None` for mesh-wide resources.
    pub fn cluster(&self) -> Option<&ClusterName> {
        match self {
            Self::Cluster(cluster)
            | Self::Bundle(cluster)
            | Self::Gateways(cluster)
            | Self::Export(cluster, _)
            | Self::Lease(cluster)
            | Self::Drain(cluster) => Some(cluster),
            Self::Address(_) => None,
        }
    }

    /// The service that the resource is about, if it is about one.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Export(_, service) | Self::Address(service) => Some(service),
            _ => None,
        }
    }
}

/// Displayed as `kind/cluster/namespace/name`, with the parts that the kind has.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(cluster) => write!(f, "cluster/{cluster}"),
            Self::Bundle(cluster) => write!(f, "bundle/{cluster}"),
            Self::Gateways(cluster) => write!(f, "gateways/{cluster}"),
            Self::Export(cluster, service) => write!(f, "export/{cluster}/{service}"),
            Self::Address(service) => write!(f, "address/{service}"),
            Self::Lease(cluster) => write!(f, "lease/{cluster}"),
            Self::Drain(cluster) => write!(f, "drain/{cluster}"),
        }
    }
}
