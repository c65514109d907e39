//! What a key leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh::{ClusterName, ServiceName, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::address::AddressRecord;
use crate::drain::DrainRecord;
use crate::key::{Key, Kind};
use crate::lease::LeaseRecord;

/// All resources, or those of one projection.
pub type Resources = BTreeMap<Key, Resource>;

/// A value and the revision that last changed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// The revision that last changed the resource.
    pub revision: u64,
    /// What it says.
    pub value: Value,
}

/// The value of a resource. Cheap to clone: the large variant is shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Signed by a cluster: a bundle, gateways or an export.
    Signed(Arc<SignedFact>),
    /// Written by a join.
    Cluster(ClusterRecord),
    /// Allocated by the hub.
    Address(AddressRecord),
    /// Kept by the hub.
    Lease(LeaseRecord),
    /// Asked for by an operator or by the cluster itself.
    Drain(DrainRecord),
}

impl Value {
    /// The signed fact, if the value is one.
    pub fn signed(&self) -> Option<&SignedFact> {
        match self {
            Self::Signed(fact) => Some(fact),
            _ => None,
        }
    }
}

/// A member cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The only trust domain that the cluster may speak for.
    pub trust_domain: TrustDomain,
    /// Unix milliseconds of the join.
    pub joined_at_ms: u64,
    /// SHA-256 of the root certificate that proved itself when joining; a second join must bring the same.
    pub key_fingerprint: [u8; 32],
}

/// A signed message as the cluster sent it, and what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedFact {
    /// The encoded `trust.v1.Signed`, stored and handed on unchanged.
    pub bytes: Vec<u8>,
    /// What the shell decoded from it.
    pub facts: Facts,
}

/// What the hub needs to know of a signed message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The cluster that the message is about.
    pub cluster: ClusterName,
    /// Grows with every version that the cluster signs.
    pub serial: u64,
    /// The part that differs by kind.
    pub statement: Statement,
}

/// What is stated, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Statement {
    /// The roots of a trust domain.
    Bundle {
        /// The trust domain that the roots are for.
        trust_domain: TrustDomain,
    },
    /// The gateways in front of the cluster.
    Gateways,
    /// A service that is offered to others.
    Export {
        /// The service.
        service: ServiceName,
        /// Who may see it; empty means every member.
        to_clusters: BTreeSet<ClusterName>,
    },
}

impl Facts {
    /// The one key under which this message may be stored.
    pub fn key(&self) -> Key {
        match &self.statement {
            Statement::Bundle { .. } => Key::Bundle(self.cluster.clone()),
            Statement::Gateways => Key::Gateways(self.cluster.clone()),
            Statement::Export { service, .. } => Key::Export(self.cluster.clone(), service.clone()),
        }
    }

    /// Whether this is an export that `cluster` may see, its own included.
    pub fn exported_to(&self, cluster: &ClusterName) -> bool {
        match &self.statement {
            Statement::Export { to_clusters, .. } => {
                self.cluster == *cluster || to_clusters.is_empty() || to_clusters.contains(cluster)
            }
            Statement::Bundle { .. } | Statement::Gateways => false,
        }
    }
}

/// Whether a value of this shape may stand under a key of this kind.
pub(crate) fn matches(key: &Key, value: &Value) -> bool {
    match value {
        Value::Signed(fact) => fact.facts.key() == *key,
        Value::Cluster(_) => key.kind() == Kind::Cluster,
        Value::Address(_) => key.kind() == Kind::Address,
        Value::Lease(_) => key.kind() == Kind::Lease,
        Value::Drain(_) => key.kind() == Kind::Drain,
    }
}
