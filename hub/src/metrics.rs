//! The hub's metrics.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use telemetry::Registry;

/// Counters and gauges of one node; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    /// Connections that were refused: handshake failed, or too many.
    pub(crate) connections_refused: Counter,
    /// Commands that this node put into the log as leader.
    pub(crate) commands: Counter,
    /// Log entries that they went into.
    pub(crate) batches: Counter,
    /// Commands that were refused.
    pub(crate) refused: Counter,
    /// Times that the applied state was rebuilt on start.
    pub(crate) rebuilds: Counter,
    /// The revision that this node has applied.
    pub(crate) revision: Gauge,
    /// 1 on the leader.
    pub(crate) is_leader: Gauge,
    /// Open watches.
    pub(crate) watches: Gauge,
    /// Free bytes where the node's data lies.
    pub(crate) disk_free: Gauge,
    /// 1 while they are too few to write.
    pub(crate) disk_short: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        Self {
            connections_refused: registry.make("isthmus_hub_connections_refused", "Connections that were refused"),
            commands: registry.make("isthmus_hub_commands", "Commands proposed by this node as leader"),
            batches: registry.make("isthmus_hub_batches", "Log entries that commands went into"),
            refused: registry.make("isthmus_hub_commands_refused", "Commands that were refused"),
            rebuilds: registry.make("isthmus_hub_state_rebuilds", "Rebuilds of the applied state on start"),
            revision: registry.make("isthmus_hub_revision", "Revision that this node has applied"),
            is_leader: registry.make("isthmus_hub_is_leader", "1 on the leader"),
            watches: registry.make("isthmus_hub_watches", "Open watches"),
            disk_free: registry.make("isthmus_hub_disk_free_bytes", "Free bytes where the node's data lies"),
            disk_short: registry.make("isthmus_hub_disk_full", "1 while they are too few to write"),
        }
    }
}
