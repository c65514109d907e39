//! Limits of connections and requests, and durations.

mod effect;

use std::time::Duration;

use federation_crds::istio::destination_rule as crd;
use federation_crds::istio::parse_duration;
use mesh::{ConnectionPool, Http2KeepAlive, TcpKeepAlive};

use super::objects::Notes;

pub(super) use effect::Towards;

/// Envoy's timeout of HTTP/2 pings where only their interval is given.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// A duration that validation has seen.
pub(super) fn duration(text: &Option<String>, path: &str, notes: &mut Notes<'_>) -> Option<Duration> {
    let text = text.as_ref().filter(|text| !text.is_empty())?;
    parse_duration(text).map_err(|why| notes.not_compiled(path, why)).ok()
}

/// A count; zero is the same as absent.
pub(super) fn count(value: i64) -> Option<u32> {
    u32::try_from(value).ok().filter(|value| *value > 0)
}

/// `connectionPool`; what it leaves out has no limit.
pub(super) fn pool(found: &crd::ConnectionPool, path: &str, towards: Towards, notes: &mut Notes<'_>) -> ConnectionPool {
    effect::note(found, path, towards, notes);
    let mut pool = ConnectionPool::default();
    if let Some(tcp) = &found.tcp {
        let path = format!("{path}.tcp");
        pool.max_connections = count(tcp.max_connections);
        pool.connect_timeout =
            duration(&tcp.connect_timeout, &format!("{path}.connectTimeout"), notes).unwrap_or(pool.connect_timeout);
        pool.max_connection_duration =
            duration(&tcp.max_connection_duration, &format!("{path}.maxConnectionDuration"), notes);
        pool.tcp_idle_timeout = duration(&tcp.idle_timeout, &format!("{path}.idleTimeout"), notes);
        pool.keep_alive = tcp.tcp_keepalive.as_ref().map(|found| keep_alive(found, &path, notes));
    }
    if let Some(http) = &found.http {
        let path = format!("{path}.http");
        pool.max_pending_requests = count(http.http1_max_pending_requests);
        pool.max_requests = count(http.http2_max_requests);
        pool.max_requests_per_connection = count(http.max_requests_per_connection);
        pool.max_retries = count(http.max_retries);
        pool.http_idle_timeout = duration(&http.idle_timeout, &format!("{path}.idleTimeout"), notes);
        pool.upgrade_to_http2 = match http.h2_upgrade_policy {
            crd::UpgradePolicy::Default => None,
            crd::UpgradePolicy::DoNotUpgrade => Some(false),
            crd::UpgradePolicy::Upgrade => Some(true),
        };
        pool.use_client_protocol = http.use_client_protocol;
        pool.max_concurrent_streams = count(http.max_concurrent_streams);
        pool.http2_keep_alive = http.http2_keep_alive.as_ref().and_then(|found| pings(found, &path, notes));
    }
    pool
}

fn keep_alive(found: &crd::TcpKeepalive, path: &str, notes: &mut Notes<'_>) -> TcpKeepAlive {
    TcpKeepAlive {
        probes: count(found.probes),
        time: duration(&found.time, &format!("{path}.tcpKeepalive.time"), notes),
        interval: duration(&found.interval, &format!("{path}.tcpKeepalive.interval"), notes),
    }
}

/// Without an interval there are no pings.
fn pings(found: &crd::Http2KeepAlive, path: &str, notes: &mut Notes<'_>) -> Option<Http2KeepAlive> {
    let interval = duration(&found.interval, &format!("{path}.http2KeepAlive.interval"), notes)?;
    let timeout = duration(&found.timeout, &format!("{path}.http2KeepAlive.timeout"), notes);
    Some(Http2KeepAlive { interval, timeout: timeout.unwrap_or(PING_TIMEOUT) })
}
