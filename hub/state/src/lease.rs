//! Leases: they only date what a cluster announced, and nothing is erased when one runs out.
//!
//! Renewals stay in the leader's memory ([`LeaseClock`]); only the two transitions are commands. A new leader knows
//! nothing about renewals, so it grants everybody a full time-to-live from the moment it began to lead.

use std::collections::BTreeMap;

use mesh::ClusterName;
use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::resource::{Resources, Value};

/// Whether a cluster's announcements are fresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// False once the lease ran out, until the cluster returns.
    pub live: bool,
    /// Unix milliseconds of the last change of `live`.
    pub changed_at_ms: u64,
    /// Counts the changes of `live`, so that an expiry decided on an older state is refused.
    pub epoch: u64,
}

/// The leader's memory of renewals. Times are milliseconds of one monotonic clock of the caller's choice.
#[derive(Debug, Clone)]
pub struct LeaseClock {
    ttl_ms: u64,
    leading_since_ms: u64,
    renewed: BTreeMap<ClusterName, u64>,
}

impl LeaseClock {
    /// Starts with nobody's renewal known, at the moment when this node began to lead.
    pub fn new(ttl_ms: u64, now_ms: u64) -> Self {
        Self { ttl_ms, leading_since_ms: now_ms, renewed: BTreeMap::new() }
    }

    /// Notes that the cluster is there.
    pub fn handle_renewal(&mut self, cluster: &ClusterName, now_ms: u64) {
        self.renewed.insert(cluster.clone(), now_ms);
    }

    /// Clusters whose live lease ran out, with the epoch that was looked at.
    pub fn expired(&self, resources: &Resources, now_ms: u64) -> Vec<(ClusterName, u64)> {
        let is_over = |cluster: &ClusterName| {
            let renewed = self.renewed.get(cluster).copied().unwrap_or(0).max(self.leading_since_ms);
            now_ms.saturating_sub(renewed) > self.ttl_ms
        };
        resources
            .iter()
            .filter_map(|(key, resource)| match (key, &resource.value) {
                (Key::Lease(cluster), Value::Lease(lease)) if lease.live && is_over(cluster) => {
                    Some((cluster.clone(), lease.epoch))
                }
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Resource;

    fn resources(live: bool) -> Resources {
        let lease = LeaseRecord { live, changed_at_ms: 0, epoch: 3 };
        let east = ClusterName::new("east").unwrap();
        BTreeMap::from([(Key::Lease(east), Resource { revision: 1, value: Value::Lease(lease) })])
    }

    #[test]
    fn a_new_leader_waits_a_full_time_to_live() {
        let clock = LeaseClock::new(100, 1000);
        assert!(clock.expired(&resources(true), 1100).is_empty());
        assert_eq!(clock.expired(&resources(true), 1101).len(), 1);
    }

    #[test]
    fn a_renewal_prolongs_and_an_expired_lease_does_not_expire_again() {
        let mut clock = LeaseClock::new(100, 1000);
        clock.handle_renewal(&ClusterName::new("east").unwrap(), 1090);
        assert!(clock.expired(&resources(true), 1190).is_empty());
        assert_eq!(clock.expired(&resources(true), 1191), [(ClusterName::new("east").unwrap(), 3)]);
        assert!(clock.expired(&resources(false), 5000).is_empty());
    }
}
