//! Istio's standard metrics: the same names, labels and meanings, so that existing dashboards and alerts work.
//!
//! The number of series is bounded: once [`SERIES_MAX`] label sets are in use, further ones lose what tells peers apart.

mod policy;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::access::{INBOUND_PASSTHROUGH, Party, Record, Reporter, host_of, workload_of};

pub use policy::{Happening, PolicyMetrics};

/// The most label sets of one process.
pub const SERIES_MAX: usize = 1000;
const UNKNOWN: &str = "unknown";

/// Envoy's default buckets, in milliseconds.
const DURATION_BUCKETS: [f64; 20] =
    [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6, 1e7];
/// Powers of four and eight from a small request to a large file, in bytes.
const SIZE_BUCKETS: [f64; 8] = [256.0, 1024.0, 4096.0, 16384.0, 131_072.0, 1_048_576.0, 16_777_216.0, 134_217_728.0];

/// The labels of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    reporter: &'static str,
    source_workload: String,
    source_workload_namespace: String,
    source_principal: String,
    source_app: String,
    source_version: String,
    source_cluster: String,
    source_canonical_service: String,
    source_canonical_revision: String,
    destination_workload: String,
    destination_workload_namespace: String,
    destination_principal: String,
    destination_app: String,
    destination_version: String,
    destination_cluster: String,
    destination_canonical_service: String,
    destination_canonical_revision: String,
    destination_service: String,
    destination_service_name: String,
    destination_service_namespace: String,
    request_protocol: &'static str,
    response_flags: &'static str,
    connection_security_policy: &'static str,
}

/// The labels of datagrams.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DatagramLabels {
    reporter: &'static str,
    direction: &'static str,
    result: &'static str,
}

/// The labels of a request: those of its connection and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    #[prometheus(flatten)]
    connection: ConnectionLabels,
    response_code: u16,
    grpc_response_status: String,
}

/// The standard metrics of one process; clones share them.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    duration: Family<RequestLabels, Histogram, fn() -> Histogram>,
    request_bytes: Family<RequestLabels, Histogram, fn() -> Histogram>,
    response_bytes: Family<RequestLabels, Histogram, fn() -> Histogram>,
    sent: Family<ConnectionLabels, Counter>,
    received: Family<ConnectionLabels, Counter>,
    opened: Family<ConnectionLabels, Counter>,
    closed: Family<ConnectionLabels, Counter>,
    datagrams: Family<DatagramLabels, Counter>,
    /// What traffic policies did.
    pub policy: PolicyMetrics,
    seen: Arc<Mutex<HashSet<u64>>>,
    hasher: RandomState,
}

impl Default for Metrics {
    fn default() -> Self {
        let size: fn() -> Histogram = || Histogram::new(SIZE_BUCKETS);
        Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
            request_bytes: Family::new_with_constructor(size),
            response_bytes: Family::new_with_constructor(size),
            sent: Family::default(),
            received: Family::default(),
            opened: Family::default(),
            closed: Family::default(),
            datagrams: Family::default(),
            policy: PolicyMetrics::default(),
            seen: Arc::default(),
            hasher: RandomState::new(),
        }
    }
}

impl Metrics {
    /// Adds the metrics to what the process exposes. Counters get their `_total` from the encoder.
    pub fn register(&self, registry: &telemetry::Registry) {
        registry.register("istio_requests", "Requests handled", self.requests.clone());
        registry.register("istio_request_duration_milliseconds", "Duration of requests", self.duration.clone());
        registry.register("istio_request_bytes", "Bytes of request bodies", self.request_bytes.clone());
        registry.register("istio_response_bytes", "Bytes of response bodies", self.response_bytes.clone());
        registry.register("istio_tcp_sent_bytes", "Bytes sent in responses of TCP connections", self.sent.clone());
        registry.register(
            "istio_tcp_received_bytes",
            "Bytes received in requests of TCP connections",
            self.received.clone(),
        );
        registry.register("istio_tcp_connections_opened", "TCP connections opened", self.opened.clone());
        registry.register("istio_tcp_connections_closed", "TCP connections closed", self.closed.clone());
        registry.register("isthmus_udp_datagrams", "UDP datagrams of flows", self.datagrams.clone());
        self.policy.register(registry);
    }

    /// Adds to the datagrams of flows: `to_server` or `to_client`, `carried` or `dropped`.
    pub(crate) fn datagrams(&self, reporter: &'static str, direction: &'static str, result: &'static str, count: u64) {
        self.datagrams.get_or_create(&DatagramLabels { reporter, direction, result }).inc_by(count);
    }

    /// Adds one to what traffic policies did.
    pub fn happened(&self, happening: Happening, service: &str) {
        self.policy.count(happening, service);
    }

    pub(crate) fn request(&self, record: &Record) {
        let labels = RequestLabels {
            connection: connection_labels(record),
            response_code: record.status,
            grpc_response_status: record.grpc_status.as_deref().map(grpc_status).unwrap_or_default(),
        };
        let labels = if self.admits(&labels) {
            labels
        } else {
            RequestLabels { connection: labels.connection.anonymous(), ..labels }
        };
        self.requests.get_or_create(&labels).inc();
        self.duration.get_or_create(&labels).observe(record.elapsed().as_secs_f64() * 1e3);
        self.request_bytes.get_or_create(&labels).observe(record.bytes_received as f64);
        self.response_bytes.get_or_create(&labels).observe(record.bytes_sent as f64);
    }

    pub(crate) fn tcp_opened(&self, record: &Record) {
        self.opened.get_or_create(&self.connection(record)).inc();
    }

    /// Counts what a connection has carried since the last time.
    pub(crate) fn tcp_moved(&self, record: &mut Record) {
        let [sent, received] = record.uncounted();
        let labels = self.connection(record);
        self.sent.get_or_create(&labels).inc_by(sent);
        self.received.get_or_create(&labels).inc_by(received);
    }

    pub(crate) fn tcp_closed(&self, record: &mut Record) {
        self.tcp_moved(record);
        self.closed.get_or_create(&self.connection(record)).inc();
    }

    fn connection(&self, record: &Record) -> ConnectionLabels {
        let labels = connection_labels(record);
        if self.admits(&labels) { labels } else { labels.anonymous() }
    }

    /// Whether a label set is in use or may still be added.
    fn admits<L: std::hash::Hash>(&self, labels: &L) -> bool {
        let hash = self.hasher.hash_one(labels);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.contains(&hash) || (seen.len() < SERIES_MAX && seen.insert(hash))
    }
}

impl ConnectionLabels {
    /// Keeps what has few values and forgets who it was.
    fn anonymous(self) -> Self {
        let party = Party::default();
        Self { reporter: self.reporter, ..labels_of(self.request_protocol, self.response_flags, [&party, &party]) }
    }
}

fn connection_labels(record: &Record) -> ConnectionLabels {
    let mut labels = labels_of(record.protocol, record.flags, [&record.source, &record.destination]);
    labels.reporter = record.reporter.as_str();
    // Only the server's end knows that nothing else secured the connection.
    labels.connection_security_policy = match (record.mutual_tls, record.reporter) {
        (true, _) => "mutual_tls",
        (false, Reporter::Destination) => "none",
        (false, Reporter::Source) => UNKNOWN,
    };
    if let Some(service) = &record.service {
        labels.destination_service = host_of(service);
        service.name().clone_into(&mut labels.destination_service_name);
        labels.destination_service_namespace = service.namespace().to_string();
    } else if matches!(
        record.upstream_cluster.as_str(),
        "PassthroughCluster" | "BlackHoleCluster" | INBOUND_PASSTHROUGH
    ) {
        labels.destination_service.clone_from(&record.upstream_cluster);
        labels.destination_service_name.clone_from(&record.upstream_cluster);
    }
    labels
}

/// The status comes from a server: what is no status of gRPC must not become a series of its own.
fn grpc_status(status: &str) -> String {
    match status.parse::<u8>() {
        Ok(code @ 0..=16) => code.to_string(),
        _ => UNKNOWN.to_owned(),
    }
}

fn labels_of(protocol: &'static str, flags: &'static str, [source, destination]: [&Party; 2]) -> ConnectionLabels {
    let known = |value: &str| if value.is_empty() { UNKNOWN.to_owned() } else { value.to_owned() };
    ConnectionLabels {
        reporter: UNKNOWN,
        source_workload: known(workload_of(&source.workload)),
        source_workload_namespace: known(&source.namespace),
        source_principal: known(&source.identity),
        source_app: known(&source.app),
        source_version: known(&source.version),
        source_cluster: known(&source.cluster),
        source_canonical_service: known(&source.canonical_service),
        source_canonical_revision: known(&source.canonical_revision),
        destination_workload: known(workload_of(&destination.workload)),
        destination_workload_namespace: known(&destination.namespace),
        destination_principal: known(&destination.identity),
        destination_app: known(&destination.app),
        destination_version: known(&destination.version),
        destination_cluster: known(&destination.cluster),
        destination_canonical_service: known(&destination.canonical_service),
        destination_canonical_revision: known(&destination.canonical_revision),
        destination_service: UNKNOWN.to_owned(),
        destination_service_name: UNKNOWN.to_owned(),
        destination_service_namespace: UNKNOWN.to_owned(),
        request_protocol: protocol,
        response_flags: flags,
        connection_security_policy: UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use mesh::Labels;

    use super::*;

    #[test]
    fn a_request_is_counted_under_istios_names_and_series_are_bounded() {
        let metrics = Metrics::default();
        let mut record = Record::begin(Reporter::Source, "http", "reviews:9080".into());
        record.status = 200;
        metrics.request(&record);
        for number in 0..2 * SERIES_MAX {
            record.destination.workload = format!("reviews-v{number}");
            record.grpc_status = Some(format!("{}", number + 17));
            metrics.request(&record);
        }
        let mut registry = Registry::default();
        registry.register("istio_requests", "Requests", metrics.requests.clone());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("istio_requests_total{reporter=\"source\",source_workload=\"unknown\""), "{text:.300}");
        assert!(text.lines().count() < SERIES_MAX + 10);
    }

    fn text(metric: &Family<ConnectionLabels, Counter>) -> String {
        let mut registry = Registry::default();
        registry.register("bytes", "Bytes", metric.clone());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text.lines().filter(|line| line.starts_with("bytes")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_connection_that_runs_is_counted_once_under_its_workload() {
        let metrics = Metrics::default();
        let mut record = Record::begin(Reporter::Destination, "tcp", "db:5432".into());
        record.destination = Party::of_pod("db-0", &Labels::from([("version".into(), "v2".into())]));
        for (sent, received) in [(10, 1), (10, 1), (30, 2)] {
            (record.bytes_sent, record.bytes_received) = (sent, received);
            metrics.tcp_moved(&mut record);
        }
        record.bytes_sent = 35;
        metrics.tcp_closed(&mut record);
        let (sent, received) = (text(&metrics.sent), text(&metrics.received));
        assert!(sent.ends_with(" 35") && received.ends_with(" 2"), "{sent} {received}");
        for label in [
            r#"destination_workload="db""#,
            r#"destination_canonical_service="db""#,
            r#"destination_canonical_revision="v2""#,
            r#"source_canonical_service="unknown""#,
            r#"source_canonical_revision="unknown""#,
            r#"connection_security_policy="none""#,
        ] {
            assert!(sent.contains(label), "{label}: {sent}");
        }
    }
}
