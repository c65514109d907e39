//! What traffic policies did, by service: retries, timeouts, overflows, ejections, faults, mirrors.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// More services than this are counted together.
const SERVICES_MAX: usize = 500;

/// One thing that a policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Happening {
    /// An attempt after the first.
    Retry,
    /// A retry that a limit of retries forbade.
    RetryOverflow,
    /// A request that took too long.
    Timeout,
    /// An attempt that took too long.
    TryTimeout,
    /// A request or connection that a limit turned away.
    Overflow,
    /// An endpoint was ejected by this detector.
    Ejected(&'static str),
    /// A delay that a rule put in.
    Delay,
    /// An answer that a rule put in.
    Abort,
    /// A copy was sent.
    Mirrored,
    /// A copy was not sent: its body is too large, or too many are under way.
    NotMirrored,
}

impl Happening {
    fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Retry => ("retry", ""),
            Self::RetryOverflow => ("retry_overflow", ""),
            Self::Timeout => ("timeout", ""),
            Self::TryTimeout => ("per_try_timeout", ""),
            Self::Overflow => ("overflow", ""),
            Self::Ejected(detector) => ("ejection", detector),
            Self::Delay => ("fault_delay", ""),
            Self::Abort => ("fault_abort", ""),
            Self::Mirrored => ("mirror", ""),
            Self::NotMirrored => ("mirror_skipped", ""),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    destination_service: String,
    event: &'static str,
    detector: &'static str,
}

/// Counters of what policies did; clones share them.
#[derive(Debug, Clone, Default)]
pub struct PolicyMetrics {
    events: Family<Labels, Counter>,
    services: Arc<Mutex<HashSet<String>>>,
}

impl PolicyMetrics {
    pub(super) fn register(&self, registry: &telemetry::Registry) {
        registry.register("isthmus_policy_events", "What traffic policies did", self.events.clone());
    }

    pub(super) fn count(&self, happening: Happening, service: &str) {
        let (event, detector) = happening.labels();
        let destination_service = if self.admits(service) { service } else { "other" }.to_owned();
        self.events.get_or_create(&Labels { destination_service, event, detector }).inc();
    }

    fn admits(&self, service: &str) -> bool {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.contains(service) || (services.len() < SERVICES_MAX && services.insert(service.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_bounded() {
        let metrics = PolicyMetrics::default();
        for number in 0..2 * SERVICES_MAX {
            metrics.count(Happening::Retry, &format!("service-{number}"));
        }
        let other = Labels { destination_service: "other".into(), event: "retry", detector: "" };
        assert_eq!(metrics.events.get_or_create(&other).get(), SERVICES_MAX as u64);
    }
}
