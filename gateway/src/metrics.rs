//! The gateway's metrics.

use std::sync::atomic::AtomicU64;

use mesh::Transport;
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
    /// `quic` or `tcp` between the gateways; `none` if the flow did not come that far.
    pub(crate) transport: &'static str,
    /// `mesh`, or `plain` where a gateway speaks for a server without a sidecar.
    pub(crate) mode: &'static str,
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

/// Labels of what a path runs over.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TransportLabels {
    /// The remote cluster.
    pub(crate) cluster: String,
    /// The remote gateway.
    pub(crate) remote_gateway: String,
    /// `quic` or `tcp`.
    pub(crate) transport: &'static str,
}

/// Labels of one transport.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WireLabels {
    /// `quic` or `tcp`.
    pub(crate) transport: &'static str,
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

/// Labels of datagrams of UDP flows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DatagramLabels {
    /// `sent` to a gateway of another cluster, or `received` from one.
    pub(crate) direction: &'static str,
    /// `datagram` of QUIC, or on the flow's `stream`; `dropped` if too many waited.
    pub(crate) carried: &'static str,
}

/// Labels of refused connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefusedLabels {
    /// `hbone`, `quic` or `tcp`.
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
    pub(crate) socket_refused: Gauge,
    pub(crate) connections: Family<TransportLabels, Gauge>,
    pub(crate) path_transport: Family<TransportLabels, Gauge>,
    pub(crate) transport_changes: Family<TransportLabels, Counter>,
    pub(crate) slow_readers: Family<WireLabels, Counter>,
    pub(crate) refused_streams: Family<WireLabels, Counter>,
    pub(crate) datagrams: Family<DatagramLabels, Counter>,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub(crate) fn register(registry: &Registry) -> Self {
        let name = |name: &str| format!("isthmus_gateway_{name}");
        let buffers = "1 if the kernel granted smaller UDP socket buffers than wanted: raise net.core.{r,w}mem_max";
        Self {
            streams: registry.make(&name("streams"), "Flows, by how they were answered"),
            bytes: registry.make(&name("bytes"), "Bytes carried by flows that have ended"),
            paths: registry.make(&name("paths"), "1 for the state that a path is in"),
            rtt: registry.make(&name("path_rtt_seconds"), "Smoothed round-trip time of a path"),
            ejections: registry.make(&name("ejections"), "Paths taken out because they went silent"),
            replays: registry.make(&name("replays"), "Flows sent again, by the path that failed"),
            refused: registry.make(&name("refused_connections"), "Connections refused"),
            socket: registry.make(&name("udp_socket_buffer_bytes"), "What the kernel granted"),
            socket_refused: registry.make(&name("udp_socket_buffer_refused"), buffers),
            connections: registry.make(&name("path_connections"), "Connections of a path that take new flows"),
            path_transport: registry.make(&name("path_transport"), "1 for the transport that new flows of a path take"),
            transport_changes: registry
                .make(&name("path_transport_changes"), "How often new flows of a path went over to a transport"),
            slow_readers: registry.make(&name("slow_readers"), "Flows reset because their reader was too slow"),
            refused_streams: registry.make(&name("refused_streams"), "Streams refused because their peer had too many"),
            datagrams: registry
                .make(&name("datagrams"), "Datagrams of UDP flows between clusters, by what carried them"),
        }
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
            for transport in [Transport::Quic, Transport::Tcp] {
                let labels = transport_labels(labels, transport);
                self.connections.remove(&labels);
                self.path_transport.remove(&labels);
            }
        }
    }

    /// Publishes how many connections of a path take new flows over a transport, and whether new flows prefer it.
    pub(crate) fn path_over(&self, labels: &PathLabels, transport: Transport, usable: usize, preferred: bool) {
        let labels = transport_labels(labels, transport);
        self.connections.get_or_create(&labels).set(i64::try_from(usable).unwrap_or(i64::MAX));
        self.path_transport.get_or_create(&labels).set(i64::from(preferred));
    }

    /// Counts that new flows of a path went over to a transport.
    pub(crate) fn transport_changed(&self, labels: &PathLabels, transport: Transport) {
        self.transport_changes.get_or_create(&transport_labels(labels, transport)).inc();
    }
}

fn transport_labels(labels: &PathLabels, transport: Transport) -> TransportLabels {
    TransportLabels {
        cluster: labels.cluster.clone(),
        remote_gateway: labels.remote_gateway.clone(),
        transport: transport.as_str(),
    }
}
