//! What the client tells operators.

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// The client's metrics; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    connected: Gauge,
    revision: Gauge<u64, AtomicU64>,
    rejected: Counter,
    svid_not_after: Gauge<u64, AtomicU64>,
    svid_failures: Counter,
}

impl Metrics {
    pub(super) fn register(registry: &telemetry::Registry) -> Self {
        Self {
            connected: registry.make("isthmus_discovery_connected", "1 while the agent's discovery stream is open"),
            revision: registry.make("isthmus_discovery_revision", "Revision of the current view"),
            rejected: registry
                .make("isthmus_discovery_refused_resources", "Resources from the agent that were refused"),
            svid_not_after: registry
                .make("isthmus_svid_not_after_seconds", "Unix time at which the own certificate expires"),
            svid_failures: registry.make("isthmus_svid_failures", "Failed attempts to get a certificate"),
        }
    }

    pub(super) fn connected(&self, connected: bool) {
        self.connected.set(i64::from(connected));
    }

    pub(super) fn revision(&self, revision: u64) {
        self.revision.set(revision);
    }

    pub(super) fn rejected(&self) {
        self.rejected.inc();
    }

    pub(super) fn svid_issued(&self, not_after: SystemTime) {
        self.svid_not_after.set(not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    }

    pub(super) fn svid_failed(&self) {
        self.svid_failures.inc();
    }
}
