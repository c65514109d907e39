//! Quotas: what one cluster may make every other member and the hub hold.

use mesh::ClusterName;

use crate::key::Key;
use crate::resource::Value;

/// Request ids that are remembered; an older retry is applied again.
pub const REQUESTS_KEPT: usize = 4096;
/// Audit entries that are kept.
pub const AUDIT_KEPT: usize = 1000;
/// Tokens that exist at one time, used, revoked and expired ones included; the oldest of those make room.
pub const TOKENS_KEPT: usize = 4096;

/// Bounds per cluster. Constants of the protocol, not configuration: replicas must agree on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Exports at one time.
    pub exports: usize,
    /// Bytes of one value.
    pub value_bytes: usize,
    /// Bytes of all values.
    pub total_bytes: usize,
    /// Service names that the cluster was the first to export, ever (each keeps its address).
    pub addresses: usize,
    /// Operations and compares in one transaction.
    pub operations: usize,
}

impl Limits {
    /// The limits in force.
    pub const CURRENT: Self = Self {
        exports: 2000,
        value_bytes: 64 * 1024,
        total_bytes: 16 * 1024 * 1024,
        addresses: 20_000,
        operations: 4096,
    };
}

/// What a cluster uses of its quota; derived from the resources, never stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Exports at this time.
    pub exports: usize,
    /// Bytes of all values.
    pub bytes: usize,
    /// Addresses that the cluster caused.
    pub addresses: usize,
}

impl Usage {
    /// What one resource takes, and from whose quota; `None` for what the hub keeps on its own account.
    pub(crate) fn caused_by(key: &Key, value: &Value) -> Option<(ClusterName, Self)> {
        match value {
            Value::Address(address) => Some((address.first_exporter.clone(), Self { addresses: 1, ..Self::default() })),
            Value::Signed(fact) => {
                let exports = usize::from(matches!(key, Key::Export(..)));
                Some((fact.facts.cluster.clone(), Self { exports, bytes: fact.bytes.len(), addresses: 0 }))
            }
            Value::Cluster(_) | Value::Lease(_) | Value::Drain(_) => None,
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            exports: self.exports + other.exports,
            bytes: self.bytes + other.bytes,
            addresses: self.addresses + other.addresses,
        }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            exports: self.exports - other.exports,
            bytes: self.bytes - other.bytes,
            addresses: self.addresses - other.addresses,
        }
    }
}
