//! Limits of connections and requests.

use crate::error::FieldErrors;
use crate::istio::destination_rule::{ConnectionPool, HttpPool, TcpPool, UpgradePolicy};
use crate::validate::traffic;

pub(in crate::validate) fn check(path: &str, pool: &Option<ConnectionPool>, errors: &mut FieldErrors) {
    let Some(pool) = pool else { return };
    if pool.tcp.is_none() && pool.http.is_none() {
        errors.add(
            path,
            "tcp or http is required",
            "add one, such as tcp: {maxConnections: 100}, or remove connectionPool",
        );
    }
    if let Some(tcp) = &pool.tcp {
        check_tcp(&format!("{path}.tcp"), tcp, errors);
    }
    if let Some(http) = &pool.http {
        check_http(&format!("{path}.http"), http, errors);
    }
}

fn check_tcp(path: &str, tcp: &TcpPool, errors: &mut FieldErrors) {
    traffic::count(format!("{path}.maxConnections"), tcp.max_connections, errors);
    traffic::duration(format!("{path}.connectTimeout"), &tcp.connect_timeout, errors);
    traffic::duration(format!("{path}.maxConnectionDuration"), &tcp.max_connection_duration, errors);
    traffic::duration(format!("{path}.idleTimeout"), &tcp.idle_timeout, errors);
    let Some(keep_alive) = &tcp.tcp_keepalive else { return };
    traffic::count(format!("{path}.tcpKeepalive.probes"), keep_alive.probes, errors);
    traffic::duration(format!("{path}.tcpKeepalive.time"), &keep_alive.time, errors);
    traffic::duration(format!("{path}.tcpKeepalive.interval"), &keep_alive.interval, errors);
}

fn check_http(path: &str, http: &HttpPool, errors: &mut FieldErrors) {
    let counts = [
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ];
    for (field, count) in counts {
        traffic::count(format!("{path}.{field}"), count, errors);
    }
    traffic::duration(format!("{path}.idleTimeout"), &http.idle_timeout, errors);
    if http.h2_upgrade_policy == UpgradePolicy::Upgrade && http.use_client_protocol {
        errors.add(
            format!("{path}.useClientProtocol"),
            "must not be true when h2UpgradePolicy is UPGRADE",
            "remove one of the two: UPGRADE decides the protocol, whatever the client speaks",
        );
    }
    let Some(pings) = &http.http2_keep_alive else { return };
    traffic::duration(format!("{path}.http2KeepAlive.interval"), &pings.interval, errors);
    traffic::duration(format!("{path}.http2KeepAlive.timeout"), &pings.timeout, errors);
}
