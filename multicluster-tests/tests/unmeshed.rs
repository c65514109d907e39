//! Clients and servers without a sidecar across clusters: refused until policy says so, then under the identities that it
//! names, and told as what they are.

#![expect(clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use fleet::call::Call;
use fleet::http::get_json;
use multicluster_tests::{Scenario, eventually, step};
use serde_json::Value;

/// `legacy` in west has no sidecar; `reviews` there has one.
const FILE: &str = "\
name: unmeshed
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    workloads:
      - {name: web, labels: {app: web}}
  - name: west
    workloads:
      - {name: reviews, labels: {app: reviews}, export: true, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: legacy, serviceAccount: old, mesh: false, labels: {app: legacy}, export: true, ports: [{name: http, port: 9080, protocol: http}]}
";

const LEGACY: &str = "http://legacy.default.svc.clusterset.local:9080/";
const SOON: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(10);

const EXPORT: &str = "\
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: legacy, annotations: {isthmus.dev/unmeshed: allow}}
";

const DENY_WEB: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-web}
spec:
  selector: {matchLabels: {app: legacy}}
  action: DENY
  rules: [{from: [{source: {principals: [east.demo/ns/default/sa/web]}}]}]
";

const ALLOW_CLIENTS: &str = "\
apiVersion: isthmus.dev/v1alpha1
kind: ClusterTrafficPolicy
metadata: {name: reviews}
spec: {services: [reviews], unmeshedClients: allow}
";

/// What `east/web` is answered by the service without sidecars: the status and the body.
async fn legacy(scenario: &Scenario) -> (u16, String) {
    let reply = Call::get(scenario.proxy("east/web"), LEGACY).unwrap().send().await.unwrap();
    (reply.status.map_or(0, |status| status.as_u16()), String::from_utf8_lossy(&reply.body).into_owned())
}

async fn until_status(scenario: &Scenario, status: u16) -> String {
    eventually("the status", SOON, async || match legacy(scenario).await {
        (found, body) if found == status => Ok(body),
        other => Err(format!("{other:?}")),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_without_a_sidecar_work_across_clusters_where_policy_says_so_and_nowhere_else() {
    let scenario = Scenario::up(FILE).await;
    a_server_without_a_sidecar_is_refused_with_the_reason(&scenario).await;
    gateways_speak_for_it_once_the_export_says_so(&scenario).await;
    a_client_without_a_sidecar_gets_a_port_once_the_policy_says_so(&scenario).await;
}

async fn a_server_without_a_sidecar_is_refused_with_the_reason(scenario: &Scenario) {
    step("policy off: refused");
    let (status, body) = legacy(scenario).await;
    assert_eq!(status, 503, "{body}");
    let told = scenario.ok(&["explain", "--from", "east/web", "--to", LEGACY]).await;
    assert!(told.contains("its export does not let gateways speak for them"), "{told}");
    let exports = scenario.ok(&["exports"]).await;
    let line = exports.lines().find(|line| line.contains("default/legacy")).unwrap_or_default();
    assert!(line.contains("denied"), "{exports}");
}

async fn gateways_speak_for_it_once_the_export_says_so(scenario: &Scenario) {
    step("policy on: the gateway speaks for the server");
    scenario.apply("west", EXPORT).await;
    let body = until_status(scenario, 200).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((answer["cluster"].as_str(), answer["pod"].as_str()), (Some("west"), Some("legacy-1")), "{answer}");
    assert_eq!(answer["client_identity"], "spiffe://east.demo/ns/default/sa/web", "{answer}");
    let told = scenario.ok(&["explain", "--from", "east/web", "--to", LEGACY]).await;
    assert!(told.contains("expecting spiffe://west.demo/ns/default/sa/old"), "{told}");
    assert!(told.contains("the last hop is plain"), "{told}");
    assert!(scenario.ok(&["exports"]).await.contains("as old"));
    for process in ["east/web-1/sidecar", "west/gateway-1"] {
        let log = || std::fs::read_to_string(scenario.fleet.layout.log(process)).unwrap_or_default();
        let said = "\"server\":\"unmeshed (gateway west/gateway-1)\"";
        eventually("the access log", SOON, async || log().contains(said).then_some(()).ok_or_else(log)).await;
    }
    step("the server's policies are about the workload");
    scenario.apply("west", DENY_WEB).await;
    until_status(scenario, 403).await;
    scenario.delete("west", DENY_WEB).await;
    until_status(scenario, 200).await;
}

async fn listeners(scenario: &Scenario) -> Vec<Value> {
    scenario.json(&["gateways", "--listeners", "-o", "json"]).await.as_array().cloned().unwrap_or_default()
}

async fn until_listener(scenario: &Scenario) -> SocketAddr {
    let row = eventually("the listener", SOON, async || {
        let rows = listeners(scenario).await;
        rows.iter().find(|row| row["state"] == "open").cloned().ok_or_else(|| format!("{rows:?}"))
    })
    .await;
    assert_eq!((row["service"].as_str(), row["port"].as_u64()), (Some("default/reviews"), Some(9080)), "{row}");
    row["listener"].as_str().unwrap().parse().unwrap()
}

async fn a_client_without_a_sidecar_gets_a_port_once_the_policy_says_so(scenario: &Scenario) {
    step("unmeshed clients: no port without policy");
    assert!(listeners(scenario).await.is_empty());
    scenario.apply("east", ALLOW_CLIENTS).await;
    let address = until_listener(scenario).await;
    assert!((20_000..=27_999).contains(&address.port()), "{address}");
    let answer =
        eventually("an answer", SOON, async || get_json(address, "/", LOOK).await.map_err(|error| error.to_string()))
            .await;
    assert_eq!((answer["cluster"].as_str(), answer["pod"].as_str()), (Some("west"), Some("reviews-1")), "{answer}");
    assert_eq!(answer["client_identity"], "spiffe://east.demo/ns/isthmus-system/sa/gateway", "{answer}");
    let log = || std::fs::read_to_string(scenario.fleet.layout.log("east/gateway-1")).unwrap_or_default();
    let said = "\"client\":\"unmeshed (gateway east/gateway-1)\"";
    eventually("the access log", SOON, async || log().contains(said).then_some(()).ok_or_else(log)).await;
    step("the port goes with the policy, and comes back the same");
    scenario.delete("east", ALLOW_CLIENTS).await;
    eventually("the port closes", SOON, async || match get_json(address, "/", LOOK).await {
        Ok(_) => Err("it answers".to_owned()),
        Err(_) => Ok(()),
    })
    .await;
    scenario.apply("east", ALLOW_CLIENTS).await;
    assert_eq!(until_listener(scenario).await, address);
}
