//! Limits of connections, requests and retries.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limit::{millis, optional_millis};
use crate::route::CONNECT_TIMEOUT;

/// `connectionPool`, every limit. `None` means no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionPool {
    /// Connections to all endpoints of the destination, from this proxy.
    #[serde(default)]
    pub max_connections: Option<u32>,
    /// How long connecting to one endpoint may take.
    #[serde(with = "millis")]
    pub connect_timeout: Duration,
    /// TCP keep-alive.
    #[serde(default)]
    pub keep_alive: Option<TcpKeepAlive>,
    /// A connection is closed after this time.
    #[serde(default, with = "optional_millis")]
    pub max_connection_duration: Option<Duration>,
    /// A TCP flow on which nothing moves for this long is closed (Istio's default: 1 h).
    #[serde(default, with = "optional_millis")]
    pub tcp_idle_timeout: Option<Duration>,
    /// Requests that may wait for a connection.
    #[serde(default)]
    pub max_pending_requests: Option<u32>,
    /// Requests under way at all endpoints.
    #[serde(default)]
    pub max_requests: Option<u32>,
    /// Requests on one connection before it is closed.
    #[serde(default)]
    pub max_requests_per_connection: Option<u32>,
    /// Retries under way.
    #[serde(default)]
    pub max_retries: Option<u32>,
    /// An HTTP connection without requests is closed after this time (Istio's default: 1 h).
    #[serde(default, with = "optional_millis")]
    pub http_idle_timeout: Option<Duration>,
    /// `h2UpgradePolicy`: speak HTTP/2 to a server whose port is declared HTTP/1.1.
    #[serde(default)]
    pub upgrade_to_http2: Option<bool>,
    /// Speak what the client speaks.
    #[serde(default)]
    pub use_client_protocol: bool,
    /// Streams on one HTTP/2 connection.
    #[serde(default)]
    pub max_concurrent_streams: Option<u32>,
    /// HTTP/2 pings: (interval, timeout).
    #[serde(default)]
    pub http2_keep_alive: Option<Http2KeepAlive>,
}

impl Default for ConnectionPool {
    fn default() -> Self {
        Self {
            max_connections: None,
            connect_timeout: CONNECT_TIMEOUT,
            keep_alive: None,
            max_connection_duration: None,
            tcp_idle_timeout: None,
            max_pending_requests: None,
            max_requests: None,
            max_requests_per_connection: None,
            max_retries: None,
            http_idle_timeout: None,
            upgrade_to_http2: None,
            use_client_protocol: false,
            max_concurrent_streams: None,
            http2_keep_alive: None,
        }
    }
}

/// `tcpKeepalive`; `None` = the system's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpKeepAlive {
    /// Probes before the connection counts as dead.
    #[serde(default)]
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    #[serde(default, with = "optional_millis")]
    pub time: Option<Duration>,
    /// Time between probes.
    #[serde(default, with = "optional_millis")]
    pub interval: Option<Duration>,
}

/// `http2KeepAlive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http2KeepAlive {
    /// Time between pings.
    #[serde(with = "millis")]
    pub interval: Duration,
    /// How long the answer may take.
    #[serde(with = "millis")]
    pub timeout: Duration,
}

/// `retryBudget`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryBudget {
    /// Retries under way may be this share of the requests under way (default 20).
    pub percent: f64,
    /// So many are always allowed (default 3).
    pub min_concurrency: u32,
    /// The window in which requests count; zero = only those under way.
    #[serde(with = "millis")]
    pub interval: Duration,
}
