//! What the agent tells operators.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::imports::Refusal;

/// The agent's metrics; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    refused: Family<Vec<(&'static str, String)>, Counter>,
    revision: Gauge<u64, AtomicU64>,
    hub_revision: Gauge<u64, AtomicU64>,
    hub_connected: Gauge,
    hub_failures: Counter,
    lease_renewals: Counter,
    published: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &telemetry::Registry) -> Self {
        Self {
            refused: registry.make("isthmus_agent_refused_facts", "Facts of other clusters that were not believed"),
            revision: registry.make("isthmus_agent_revision", "Revision of the snapshot served to proxies"),
            hub_revision: registry.make("isthmus_agent_hub_revision", "Revision of the hub last seen"),
            hub_connected: registry.make("isthmus_agent_hub_connected", "1 while the hub is watched"),
            hub_failures: registry.make("isthmus_agent_hub_failures", "Failed calls to the hub"),
            lease_renewals: registry.make("isthmus_agent_lease_renewals", "Renewed leases"),
            published: registry.make("isthmus_agent_published_facts", "Facts written to the hub"),
        }
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        let labels = vec![
            ("kind", refusal.kind.as_str().to_owned()),
            ("cluster", refusal.cluster.clone()),
            ("reason", refusal.reason.as_str().to_owned()),
        ];
        self.refused.get_or_create(&labels).inc();
    }

    pub(crate) fn revision(&self, revision: u64) {
        self.revision.set(revision);
    }

    pub(crate) fn watching(&self, revision: u64) {
        self.hub_connected.set(1);
        self.hub_revision.set(revision);
    }

    pub(crate) fn hub_lost(&self) {
        self.hub_connected.set(0);
        self.hub_failures.inc();
    }

    pub(crate) fn renewed(&self) {
        self.lease_renewals.inc();
    }

    pub(crate) fn published(&self, count: usize) {
        self.published.inc_by(count as u64);
    }
}
