//! Which parts of a `connectionPool` have an effect, by what is at the other end of the connections.

use federation_crds::istio::destination_rule as crd;

use crate::analyze::codes;
use crate::traffic::objects::Notes;

/// What is at the other end of the connections that a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::traffic) enum Towards {
    /// Servers that have no sidecar.
    Servers,
    /// Servers some of which have a sidecar: all flows to one share its connections.
    Sidecars,
    /// The application behind the own sidecar.
    Application,
}

/// What the side of the application does not look at.
const OF_CLIENTS: &[(&str, Given)] = &[
    ("tcp.tcpKeepalive", |pool| tcp(pool).is_some_and(|tcp| tcp.tcp_keepalive.is_some())),
    ("http.idleTimeout", |pool| http(pool).is_some_and(|http| http.idle_timeout.is_some())),
    ("http.maxConcurrentStreams", |pool| http(pool).is_some_and(|http| http.max_concurrent_streams != 0)),
    ("http.http2KeepAlive", |pool| http(pool).is_some_and(|http| http.http2_keep_alive.is_some())),
    ("http.maxRequestsPerConnection", |pool| http(pool).is_some_and(|http| http.max_requests_per_connection != 0)),
    ("tcp.connectTimeout", |pool| tcp(pool).is_some_and(|tcp| tcp.connect_timeout.is_some())),
    ("tcp.maxConnectionDuration", |pool| tcp(pool).is_some_and(|tcp| tcp.max_connection_duration.is_some())),
    ("tcp.idleTimeout", |pool| tcp(pool).is_some_and(|tcp| tcp.idle_timeout.is_some())),
    ("http.maxRetries", |pool| http(pool).is_some_and(|http| http.max_retries != 0)),
    ("http.h2UpgradePolicy", |pool| {
        http(pool).is_some_and(|http| http.h2_upgrade_policy != crd::UpgradePolicy::Default)
    }),
    ("http.useClientProtocol", |pool| http(pool).is_some_and(|http| http.use_client_protocol)),
];

type Given = fn(&crd::ConnectionPool) -> bool;

fn tcp(pool: &crd::ConnectionPool) -> Option<&crd::TcpPool> {
    pool.tcp.as_ref()
}

fn http(pool: &crd::ConnectionPool) -> Option<&crd::HttpPool> {
    pool.http.as_ref()
}

/// Names the fields that have no effect there. Sidecars among each other, and servers without one, look at all.
pub(super) fn note(pool: &crd::ConnectionPool, path: &str, towards: Towards, notes: &mut Notes<'_>) {
    if towards != Towards::Application {
        return;
    }
    let message = "has no effect on the side of the application";
    let hint = "here maxConnections, http1MaxPendingRequests and http2MaxRequests count; the rest belongs into a DestinationRule";
    for (field, _) in OF_CLIENTS.iter().filter(|(_, given)| given(pool)) {
        notes.add(codes::WITHOUT_EFFECT, format!("{path}.{field}"), message, hint);
    }
}
