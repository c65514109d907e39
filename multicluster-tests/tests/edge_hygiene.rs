//! What an ingress gateway makes of the requests of strangers: one form of their paths, none of their claims, and nothing of
//! the inside in its own answers.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use std::net::SocketAddr;

use fleet::call::Call;
use multicluster_tests::{Scenario, Shot, shoot, step};
use rustix::process::Signal;

const FLEET: &str = "
name: edge-hygiene
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    ingress: [{}]
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web}}
      - {name: near, serviceAccount: near, labels: {app: near, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}
";

/// Only `/public/` leads somewhere.
const INGRESS: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: ['*']
  gateways: [shop]
  http:
    - match: [{uri: {prefix: /public/}}]
      route: [{destination: {host: near, port: {number: 9080}}}]
    - match: [{uri: {prefix: /ghost/}}]
      route: [{destination: {host: ghost, port: {number: 9080}}}]
---
apiVersion: v1
kind: Service
metadata: {name: ghost}
spec: {selector: {app: ghost}, ports: [{name: http, port: 9080}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_neither_get_round_rules_nor_learn_of_the_inside() {
    let scenario = Scenario::up(FLEET).await;
    let ip = scenario.fleet.cluster("east").expect("east").edges[0].ip;
    scenario.apply("east", INGRESS).await;
    let edge = Edge(SocketAddr::from((ip, 8080)));
    paths(&scenario, &edge).await;
    claims(&edge).await;
    errors(&scenario, &edge).await;
}

/// The ingress, for clients that speak HTTP.
struct Edge(SocketAddr);

impl Edge {
    async fn get(&self, path: &str, headers: &[&str]) -> Shot {
        let mut call = Call::get(self.0, &format!("http://shop.example{path}")).expect("a URL");
        for header in headers {
            call.header(header).expect("a header");
        }
        shoot(&call).await
    }
}

/// The path that the application saw, else the status.
fn seen(shot: &Shot) -> String {
    if shot.status == 200 { shot.answer.path.clone() } else { shot.status.to_string() }
}

async fn paths(scenario: &Scenario, edge: &Edge) {
    step("a route sees the path that the application gets");
    for (path, expected) in [
        ("/public/a?x=/../y", "/public/a?x=/../y"),
        ("/x/../public/a", "/public/a"),
        ("/public/../admin", "404"),
        ("/public/%2e%2E/admin", "404"),
    ] {
        assert_eq!(seen(&edge.get(path, &[]).await), expected, "{path}");
    }

    step("a sidecar without a policy normalises, too");
    let web = async |path: &str| seen(&scenario.shot("east/web", &format!("http://near:9080{path}"), &[]).await);
    assert_eq!(web("/a/../b").await, "/b");

    step("MeshConfig says how");
    scenario.apply("east", DENY).await;
    assert_eq!([web("/admin").await, web("/a/../admin").await], ["403", "403"]);
    assert_eq!([web("//admin").await, web("/%2fadmin").await], ["//admin", "/%2fadmin"]);
    for (mode, expected) in [
        ("MERGE_SLASHES", ["403", "403", "/%2fadmin"]),
        ("DECODE_AND_MERGE_SLASHES", ["403", "403", "403"]),
        ("NONE", ["/a/../admin", "//admin", "/%2fadmin"]),
    ] {
        scenario.apply("east", &mesh_config(mode)).await;
        assert_eq!([web("/a/../admin").await, web("//admin").await, web("/%2fadmin").await], expected, "{mode}");
    }
    scenario.apply("east", &mesh_config("BASE")).await;
    assert_eq!(seen(&edge.get("/public/../admin", &[]).await), "404");
}

async fn claims(edge: &Edge) {
    step("strangers say nothing in the name of proxies");
    let names = [
        "original-path",
        "original-host",
        "decorator-operation",
        "expected-rq-timeout-ms",
        "upstream-rq-timeout-ms",
        "force-trace",
        "peer-metadata",
        "peer-metadata-id",
        "ip-tags",
        "retriable-header-names",
        "hedge-on-per-try-timeout",
        "max-retries",
        "internal",
    ];
    let headers: Vec<String> = names.iter().map(|name| format!("x-envoy-{name}: 1")).collect();
    let headers: Vec<&str> = headers.iter().map(String::as_str).chain(["x-own: 1"]).collect();
    let shot = edge.get("/public/a", &headers).await;
    assert_eq!((shot.status, shot.seen("x-own")), (200, "1"), "{shot:?}");
    let left: Vec<&str> = names.into_iter().filter(|name| !shot.seen(&format!("x-envoy-{name}")).is_empty()).collect();
    assert!(left.is_empty(), "{left:?}");
}

async fn errors(scenario: &Scenario, edge: &Edge) {
    step("errors tell nothing of the inside, but to the own workload");
    let told = |shot: &Shot| {
        let own = shot.headers.keys().find(|name| name.as_str().starts_with("x-isthmus-"));
        format!("{} {}{}", shot.status, shot.body.trim(), own.map_or("", |name| name.as_str()))
    };
    assert_eq!(told(&edge.get("/none", &[]).await), "404 ");
    assert_eq!(told(&edge.get("/ghost/a", &[]).await), "503 no healthy upstream");
    let own = scenario.shot("east/web", "http://ghost:9080/", &[]).await;
    assert_eq!((own.status, own.header("x-isthmus-denial")), (503, "no-endpoint"), "{own:?}");
    assert!(own.body.contains("nothing can serve this"), "{own:?}");
    scenario.fleet.signal("east/near-1/sidecar", Signal::KILL).await.expect("it ran");
    let gone = edge.get("/public/a", &[]).await;
    assert_eq!(told(&gone), "503 upstream connect error or disconnect/reset before headers");
}

const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin}
spec: {action: DENY, selector: {matchLabels: {app: near}}, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}
";

fn mesh_config(normalization: &str) -> String {
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: 'pathNormalization: {{normalization: {normalization}}}'
"
    )
}
