//! The shim's metrics.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabels {
    zone: &'static str,
    rcode: String,
    proto: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ZoneLabels {
    zone: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    server: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    server: String,
}

/// What the cache had to say to a forwarded question.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seen {
    /// A fresh answer.
    Hit,
    /// Nothing; upstreams are asked.
    Miss,
    /// An answer that is too old, because upstreams fail.
    Stale,
    /// The same question is under way already.
    Joined,
}

/// Queries counted by zone (`clusterset`, `cluster`, `forward`, or `invalid` for what is no question), rcode and
/// protocol, and how long their answers took; what the cache did, and how upstreams do. Labels never carry names: clients
/// choose those.
#[derive(Debug, Clone)]
pub struct Metrics {
    queries: Family<QueryLabels, Counter>,
    durations: Family<ZoneLabels, Histogram, fn() -> Histogram>,
    cache: Family<CacheLabels, Counter>,
    upstream: Family<UpstreamLabels, Counter>,
    upstream_durations: Family<ServerLabels, Histogram, fn() -> Histogram>,
    refused_connections: Counter,
}

fn histogram() -> Histogram {
    Histogram::new([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0])
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(registry: &telemetry::Registry) -> Self {
        let constructor: fn() -> Histogram = histogram;
        Self {
            queries: registry.make("isthmus_dns_queries", "Queries answered"),
            durations: registry.register(
                "isthmus_dns_query_duration_seconds",
                "Time from a query to its answer",
                Family::new_with_constructor(constructor),
            ),
            cache: registry
                .make("isthmus_dns_cache", "Forwarded queries by what the cache had: hit, miss, stale, joined"),
            upstream: registry
                .make("isthmus_dns_upstream", "Questions to name servers by result: udp, tcp, refused, timeout, error"),
            upstream_durations: registry.register(
                "isthmus_dns_upstream_duration_seconds",
                "Time from a question to a name server to its answer",
                Family::new_with_constructor(constructor),
            ),
            refused_connections: registry.make("isthmus_dns_refused_connections", "TCP connections beyond the limits"),
        }
    }

    pub(crate) fn record(&self, zone: &'static str, proto: &'static str, code: ResponseCode, took: Duration) {
        self.queries.get_or_create(&QueryLabels { zone, rcode: rcode(code), proto }).inc();
        self.durations.get_or_create(&ZoneLabels { zone }).observe(took.as_secs_f64());
    }

    pub(crate) fn cache(&self, seen: Seen) {
        let result = match seen {
            Seen::Hit => "hit",
            Seen::Miss => "miss",
            Seen::Stale => "stale",
            Seen::Joined => "joined",
        };
        self.cache.get_or_create(&CacheLabels { result }).inc();
    }

    pub(crate) fn upstream(&self, server: SocketAddr, result: &'static str, took: Duration) {
        let server = server.to_string();
        self.upstream.get_or_create(&UpstreamLabels { server: server.clone(), result }).inc();
        self.upstream_durations.get_or_create(&ServerLabels { server }).observe(took.as_secs_f64());
    }

    pub(crate) fn refused_connection(&self) {
        self.refused_connections.inc();
    }
}

/// The code as dig prints it.
fn rcode(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::BADVERS => "BADVERS".to_owned(),
        // Codes come from upstreams: few exist, so they make no more labels than that.
        other => format!("RCODE{}", u16::from(other)),
    }
}
