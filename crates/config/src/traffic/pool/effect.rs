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

/// Fields about single connections; the rest are counts of what runs at once, which hold everywhere.
const OF_CONNECTIONS: &[(&str, Given)] = &[
    ("tcp.tcpKeepalive", |pool| tcp(pool).is_some_and(|tcp| tcp.tcp_keepalive.is_some())),
    ("http.idleTimeout", |pool| http(pool).is_some_and(|http| http.idle_timeout.is_some())),
    ("http.maxConcurrentStreams", |pool| http(pool).is_some_and(|http| http.max_concurrent_streams != 0)),
    ("http.http2KeepAlive", |pool| http(pool).is_some_and(|http| http.http2_keep_alive.is_some())),
];

/// What the side of the application does not look at, besides [`OF_CONNECTIONS`].
const OF_CLIENTS: &[(&str, Given)] = &[
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

/// Names the fields that have no effect there.
pub(super) fn note(pool: &crd::ConnectionPool, path: &str, towards: Towards, notes: &mut Notes<'_>) {
    let (fields, message, hint): (&[&[(&str, Given)]], _, _) = match towards {
        Towards::Servers => return,
        Towards::Sidecars => (
            &[OF_CONNECTIONS],
            "has no effect between sidecars, which share and watch their connections",
            "it counts for endpoints without a sidecar; limit what runs at once by maxConnections and http2MaxRequests",
        ),
        Towards::Application => (
            &[OF_CONNECTIONS, OF_CLIENTS],
            "has no effect on the side of the application",
            "here maxConnections, http1MaxPendingRequests and http2MaxRequests count; the rest belongs into a DestinationRule",
        ),
    };
    if towards == Towards::Sidecars && tcp(pool).is_some_and(|tcp| tcp.max_connection_duration.is_some()) {
        let message = "has no effect on HTTP between sidecars, which shares connections";
        let hint = "it counts for TCP, and for endpoints without a sidecar";
        notes.add(codes::WITHOUT_EFFECT, format!("{path}.tcp.maxConnectionDuration"), message, hint);
    }
    for (field, _) in fields.iter().copied().flatten().filter(|(_, given)| given(pool)) {
        notes.add(codes::WITHOUT_EFFECT, format!("{path}.{field}"), message, hint);
    }
}
