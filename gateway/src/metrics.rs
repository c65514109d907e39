//! The gateway's metrics.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use telemetry::Registry;

/// Labels of flows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StreamLabels {
    /// `outbound` at the source gateway, `inbound` at the destination gateway.
    pub(crate) direction: &'static str,
    /// The cluster at the other end; `unknown` before it is proven or if it is none.
    pub(crate) peer_cluster: String,
    /// The service; `unknown` if the view has no such service, so that peers cannot make up labels.
    pub(crate) service: String,
    /// `accepted`, or the denial.
    pub(crate) result: &'static str,
}

/// Labels of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByteLabels {
    /// As in [`StreamLabels`].
    pub(crate) direction: &'static str,
    /// As in [`StreamLabels`].
    pub(crate) peer_cluster: String,
    /// As in [`StreamLabels`].
    pub(crate) service: String,
    /// `request` from the client to the server, `response` back.
    pub(crate) kind: &'static str,
}

/// Labels of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PathLabels {
    /// The remote cluster.
    pub(crate) cluster: String,
    /// The remote gateway.
    pub(crate) remote_gateway: String,
}

/// Labels of a path's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StateLabels {
    /// The remote cluster.
    pub(crate) cluster: String,
    /// The remote gateway.
    pub(crate) remote_gateway: String,
    /// `connecting`, `usable` or `ejected`.
    pub(crate) state: &'static str,
}

/// Labels of refused connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefusedLabels {
    /// `hbone` or `quic`.
    pub(crate) listener: &'static str,
    /// `handshake`, `limit`, `own-cluster` or `unknown-cluster`.
    pub(crate) reason: &'static str,
}

/// Labels of the UDP socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SocketLabels {
    /// `receive` or `send`.
    pub(crate) direction: &'static str,
}

/// All metrics; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) streams: Family<StreamLabels, Counter>,
    pub(crate) bytes: Family<ByteLabels, Counter>,
    pub(crate) paths: Family<StateLabels, Gauge>,
    pub(crate) rtt: Family<PathLabels, Gauge<f64, AtomicU64>>,
    pub(crate) ejections: Family<PathLabels, Counter>,
    pub(crate) replays: Family<PathLabels, Counter>,
    pub(crate) refused: Family<RefusedLabels, Counter>,
    pub(crate) socket: Family<SocketLabels, Gauge>,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub(crate) fn register(registry: &Registry) -> Self {
        let metrics = Self::default();
        let name = |name: &str| format!("isthmus_gateway_{name}");
        registry.register(&name("streams"), "Flows, by how they were answered", metrics.streams.clone());
        registry.register(&name("bytes"), "Bytes carried by flows that have ended", metrics.bytes.clone());
        registry.register(&name("paths"), "1 for the state that a path is in", metrics.paths.clone());
        registry.register(&name("path_rtt_seconds"), "Smoothed round-trip time of a path", metrics.rtt.clone());
        registry.register(&name("ejections"), "Paths taken out because they went silent", metrics.ejections.clone());
        registry.register(&name("replays"), "Flows sent again, by the path that failed", metrics.replays.clone());
        registry.register(&name("refused_connections"), "Connections refused", metrics.refused.clone());
        registry.register(&name("udp_socket_buffer_bytes"), "What the kernel granted", metrics.socket.clone());
        metrics
    }

    /// Counts one refused connection.
    pub(crate) fn refuse(&self, listener: &'static str, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabels { listener, reason }).inc();
    }

    /// Publishes the state of a path; `None` removes it.
    pub(crate) fn path_state(&self, labels: &PathLabels, state: Option<&'static str>) {
        for candidate in ["connecting", "usable", "ejected"] {
            let labels = StateLabels {
                cluster: labels.cluster.clone(),
                remote_gateway: labels.remote_gateway.clone(),
                state: candidate,
            };
            match state {
                Some(state) => drop(self.paths.get_or_create(&labels).set(i64::from(state == candidate))),
                None => drop(self.paths.remove(&labels)),
            }
        }
        if state.is_none() {
            self.rtt.remove(labels);
        }
    }
}
