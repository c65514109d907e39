//! DestinationRule (`networking.istio.io`): how clients talk to a host.

#![expect(
    missing_docs,
    reason = "the fields are those of https://istio.io/latest/docs/reference/config/networking/destination-rule/"
)]

use std::collections::BTreeMap;

use super::IstioStatus;
use super::fields::{message, words};
use super::virtual_service::PortSelector;

message! {
    /// The specification of a DestinationRule.
    kube(kind = "DestinationRule", shortname = "dr")
    struct DestinationRuleSpec {
        host: String,
        traffic_policy: Option<TrafficPolicy>,
        subsets: Vec<Subset>,
        export_to: Vec<String>,
        workload_selector: Option<WorkloadSelector>,
    }

    /// The workloads that an object is for.
    struct WorkloadSelector {
        match_labels: BTreeMap<String, String>,
    }

    /// A named part of a host's endpoints.
    struct Subset {
        name: String,
        labels: BTreeMap<String, String>,
        traffic_policy: Option<TrafficPolicy>,
    }

    /// How clients talk to endpoints.
    struct TrafficPolicy {
        load_balancer: Option<LoadBalancer>,
        connection_pool: Option<ConnectionPool>,
        outlier_detection: Option<OutlierDetection>,
        tls: Option<ClientTls>,
        port_level_settings: Vec<PortTrafficPolicy>,
        tunnel: Option<Tunnel>,
        proxy_protocol: Option<ProxyProtocol>,
        retry_budget: Option<RetryBudget>,
    }

    /// The same for one port.
    struct PortTrafficPolicy {
        port: Option<PortSelector>,
        load_balancer: Option<LoadBalancer>,
        connection_pool: Option<ConnectionPool>,
        outlier_detection: Option<OutlierDetection>,
        tls: Option<ClientTls>,
    }

    /// Which endpoint gets a request.
    struct LoadBalancer {
        simple: Option<SimpleBalancer>,
        consistent_hash: Option<ConsistentHash>,
        locality_lb_setting: Option<LocalitySetting>,
        zone_aware_lb_setting: Option<ZoneAwareSetting>,
        warmup: Option<Warmup>,
        /// Deprecated: `warmup.duration`.
        warmup_duration_secs: Option<String>,
    }

    /// By a hash of the request.
    struct ConsistentHash {
        http_header_name: Option<String>,
        http_cookie: Option<HttpCookie>,
        use_source_ip: Option<bool>,
        http_query_parameter_name: Option<String>,
        ring_hash: Option<RingHash>,
        maglev: Option<Maglev>,
        /// Deprecated: `ringHash.minimumRingSize`.
        minimum_ring_size: i64,
    }

    /// A cookie that is hashed.
    struct HttpCookie {
        name: String,
        path: String,
        ttl: Option<String>,
        attributes: Vec<CookieAttribute>,
    }

    /// A further attribute of a cookie.
    struct CookieAttribute {
        name: String,
        value: String,
    }

    /// Ketama.
    struct RingHash {
        minimum_ring_size: i64,
    }

    /// Maglev.
    struct Maglev {
        table_size: i64,
    }

    /// Which localities come first.
    struct LocalitySetting {
        distribute: Vec<Distribute>,
        failover: Vec<Failover>,
        failover_priority: Vec<String>,
        enabled: Option<bool>,
    }

    /// Zone-aware balancing.
    struct ZoneAwareSetting {
        enabled: Option<bool>,
        failover: Vec<Failover>,
        failover_priority: Vec<String>,
        min_cluster_size: Option<i64>,
    }

    /// Fixed shares.
    struct Distribute {
        from: String,
        to: BTreeMap<String, i64>,
    }

    /// From region to region.
    struct Failover {
        from: String,
        to: String,
    }

    /// Slow start.
    struct Warmup {
        duration: Option<String>,
        minimum_percent: Option<f64>,
        aggression: Option<f64>,
    }

    /// Limits of connections and requests.
    struct ConnectionPool {
        tcp: Option<TcpPool>,
        http: Option<HttpPool>,
    }

    /// Limits of connections.
    struct TcpPool {
        max_connections: i64,
        connect_timeout: Option<String>,
        tcp_keepalive: Option<TcpKeepalive>,
        max_connection_duration: Option<String>,
        idle_timeout: Option<String>,
    }

    /// TCP keep-alive.
    struct TcpKeepalive {
        probes: i64,
        time: Option<String>,
        interval: Option<String>,
    }

    /// Limits of requests.
    struct HttpPool {
        http1_max_pending_requests: i64,
        http2_max_requests: i64,
        max_requests_per_connection: i64,
        max_retries: i64,
        idle_timeout: Option<String>,
        h2_upgrade_policy: UpgradePolicy,
        use_client_protocol: bool,
        max_concurrent_streams: i64,
        http2_keep_alive: Option<Http2KeepAlive>,
    }

    /// HTTP/2 pings.
    struct Http2KeepAlive {
        interval: Option<String>,
        timeout: Option<String>,
    }

    /// Ejection of endpoints that fail.
    struct OutlierDetection {
        split_external_local_origin_errors: bool,
        consecutive_local_origin_failures: Option<i64>,
        consecutive_gateway_errors: Option<i64>,
        #[serde(rename = "consecutive5xxErrors")]
        consecutive_5xx_errors: Option<i64>,
        /// Deprecated: `consecutive5xxErrors` or `consecutiveGatewayErrors`.
        consecutive_errors: i64,
        interval: Option<String>,
        base_ejection_time: Option<String>,
        max_ejection_percent: Option<i64>,
        min_health_percent: i64,
        outlier_detection_http_error_codes: Vec<i64>,
    }

    /// TLS towards the endpoints.
    struct ClientTls {
        mode: ClientTlsMode,
        client_certificate: String,
        private_key: String,
        ca_certificates: String,
        ca_crl: String,
        credential_name: String,
        subject_alt_names: Vec<String>,
        sni: String,
        insecure_skip_verify: Option<bool>,
    }

    /// Connections through an HTTP proxy.
    struct Tunnel {
        protocol: String,
        target_host: String,
        target_port: i64,
    }

    /// HAProxy's PROXY protocol.
    struct ProxyProtocol {
        version: ProxyProtocolVersion,
    }

    /// Limit of concurrent retries.
    struct RetryBudget {
        percent: Option<f64>,
        min_retry_concurrency: i64,
        budget_interval: Option<String>,
    }
}

words! {
    /// How to choose, without a hash.
    enum SimpleBalancer {
        Unspecified = "UNSPECIFIED", LeastConn = "LEAST_CONN", Random = "RANDOM", Passthrough = "PASSTHROUGH",
        RoundRobin = "ROUND_ROBIN", LeastRequest = "LEAST_REQUEST",
    }

    /// Whether HTTP/1.1 becomes HTTP/2 on the way.
    enum UpgradePolicy { Default = "DEFAULT", DoNotUpgrade = "DO_NOT_UPGRADE", Upgrade = "UPGRADE" }

    /// Which TLS.
    enum ClientTlsMode { Disable = "DISABLE", Simple = "SIMPLE", Mutual = "MUTUAL", IstioMutual = "ISTIO_MUTUAL" }

    /// Which PROXY protocol.
    enum ProxyProtocolVersion { V1 = "V1", V2 = "V2" }
}
