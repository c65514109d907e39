//! Envoys: the sidecars of a client and of servers, and a gateway that passes TLS through by its server name, as Istio lays them out.

use std::net::{Ipv4Addr, SocketAddr};

use multicluster_tests::Certificates;
use serde_json::{Value, json};

/// Where a server's Envoy ends mTLS: HTTP, and TCP.
pub(crate) const SERVER: [u16; 2] = [15101, 15102];
/// The gateway.
pub(crate) const GATEWAY: u16 = 15443;
/// The server name of the far server, as Istio words it.
const SNI: &str = "outbound_.9080_._.far.default.svc.cluster.local";

fn typed(name: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.{name}").into();
    config
}

fn address(of: SocketAddr) -> Value {
    json!({"socket_address": {"address": of.ip().to_string(), "port_value": of.port()}})
}

fn tls(certificates: &Certificates) -> Value {
    let file = |name: &str| json!({"filename": certificates.file(name)});
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": file("envoy.crt"), "private_key": file("envoy.key")}],
        "validation_context": {"trusted_ca": file("ca.crt")},
    })
}

fn cluster(name: &str, at: SocketAddr, transport: Option<Value>) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(at)}}]}]},
    });
    if let Some(context) = transport {
        cluster["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": context});
    }
    cluster
}

fn upstream(certificates: &Certificates) -> Option<Value> {
    Some(typed(
        "transport_sockets.tls.v3.UpstreamTlsContext",
        json!({"common_tls_context": tls(certificates), "sni": SNI}),
    ))
}

fn http(cluster: &str) -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}});
    let manager = json!({
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": typed("filters.http.router.v3.Router", json!({}))}],
    });
    let config = typed("filters.network.http_connection_manager.v3.HttpConnectionManager", manager);
    json!({"name": "http", "typed_config": config})
}

fn tcp(cluster: &str) -> Value {
    let config = typed("filters.network.tcp_proxy.v3.TcpProxy", json!({"stat_prefix": "tcp", "cluster": cluster}));
    json!({"name": "tcp", "typed_config": config})
}

fn listener(name: &str, at: SocketAddr, filter: Value, downstream: Option<Value>) -> Value {
    let mut chain = json!({"filters": [filter]});
    if let Some(context) = downstream {
        chain["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": context});
    }
    json!({"name": name, "address": address(at), "filter_chains": [chain]})
}

fn everywhere(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The client's: 8001 is HTTP to the near server, 8002 TCP to it; 8003 and 8004 are HTTP to the far one through the gateway, one for
/// each congestion control, so that no connection of the one is used for the other.
pub(crate) fn client(certificates: &Certificates, near: Ipv4Addr, gateway: Ipv4Addr) -> Value {
    let [to_http, to_tcp] = SERVER;
    json!({
        "listeners": [
            listener("near-http", local(8001), http("near-http"), None),
            listener("near-tcp", local(8002), tcp("near-tcp"), None),
            listener("far-bbr", local(8003), http("far-bbr"), None),
            listener("far-cubic", local(8004), http("far-cubic"), None),
        ],
        "clusters": [
            cluster("near-http", (near, to_http).into(), upstream(certificates)),
            cluster("near-tcp", (near, to_tcp).into(), upstream(certificates)),
            cluster("far-bbr", (gateway, GATEWAY).into(), upstream(certificates)),
            cluster("far-cubic", (gateway, GATEWAY).into(), upstream(certificates)),
        ],
    })
}

/// A server's.
pub(crate) fn server(certificates: &Certificates) -> Value {
    let downstream = || {
        let context = json!({"common_tls_context": tls(certificates), "require_client_certificate": true});
        Some(typed("transport_sockets.tls.v3.DownstreamTlsContext", context))
    };
    let [from_http, from_tcp] = SERVER;
    json!({
        "listeners": [
            listener("http", everywhere(from_http), http("app-http"), downstream()),
            listener("tcp", everywhere(from_tcp), tcp("app-tcp"), downstream()),
        ],
        "clusters": [cluster("app-http", local(9080), None), cluster("app-tcp", local(9000), None)],
    })
}

/// The gateway's: it reads the server name and nothing else.
pub(crate) fn gateway(far: Ipv4Addr) -> Value {
    let inspector = typed("filters.listener.tls_inspector.v3.TlsInspector", json!({}));
    let mut passing = listener("sni", everywhere(GATEWAY), tcp("far"), None);
    passing["filter_chains"][0]["filter_chain_match"] = json!({"server_names": [SNI]});
    passing["listener_filters"] = json!([{"name": "envoy.filters.listener.tls_inspector", "typed_config": inspector}]);
    json!({"listeners": [passing], "clusters": [cluster("far", (far, SERVER[0]).into(), None)]})
}
