//! PeerAuthentication: which transport a workload takes, by mesh, namespace, workload and port.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use std::net::SocketAddr;

use fleet::call::Call;
use multicluster_tests::{Scenario, Shot, shoot, step};

/// `api` has two ports; `outside` has no sidecar; west calls what east exports.
const FLEET: &str = "
name: istio-peers
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web}}
      - name: api
        serviceAccount: api
        labels: {app: api, version: v1}
        export: true
        ports: [{name: http, port: 8080, protocol: http}, {name: http-admin, port: 8081, protocol: http}]
      - {name: other, serviceAccount: other, labels: {app: other, version: v1}, ports: [{name: http, port: 8080, protocol: http}]}
  - name: west
    gateways: 1
    workloads:
      - {name: far, serviceAccount: far, labels: {app: far}}
";

const WEB: &str = "spiffe://east.demo/ns/default/sa/web";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_takes_the_transport_that_its_nearest_policy_says() {
    let scenario = Scenario::up(FLEET).await;
    ports(&scenario).await;
    disabled(&scenario).await;
    inheritance(&scenario).await;
}

/// What answers plain text at a port of a workload: its status, 0 for nothing.
async fn plain(scenario: &Scenario, workload: &str, port: u16) -> u16 {
    let address = SocketAddr::from((scenario.fleet.pod(workload).expect("the pod exists").1.ip, port));
    shoot(&Call::get(address, &format!("http://{address}/")).expect("a URL")).await.status
}

/// What a workload of the mesh gets, and whom the server takes it for; `hubctl explain` must say the same.
async fn meshed(scenario: &Scenario, url: &str) -> (u16, String) {
    let shot: Shot = scenario.agrees("east/web", url, &[]).await;
    (shot.status, shot.answer.client_identity)
}

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{spec}}}
"
    )
}

async fn ports(scenario: &Scenario) {
    step("STRICT for a workload, PERMISSIVE for one of its ports");
    let strict =
        "selector: {matchLabels: {app: api}}, mtls: {mode: STRICT}, portLevelMtls: {'8081': {mode: PERMISSIVE}}";
    scenario.apply("east", &policy("default", "api", strict)).await;
    for (workload, port, expected) in [("east/api", 8080, 0), ("east/api", 8081, 200), ("east/other", 8080, 200)] {
        assert_eq!(plain(scenario, workload, port).await, expected, "{workload}:{port} in plain text");
    }
    for url in ["http://api:8080/", "http://api:8081/", "http://other:8080/"] {
        assert_eq!(meshed(scenario, url).await, (200, WEB.to_owned()), "{url}");
    }
    step("a client that is told to speak plain text is refused where STRICT holds");
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api}
spec: {host: api, trafficPolicy: {tls: {mode: DISABLE}}}
";
    scenario.apply("east", rule).await;
    assert_eq!(meshed(scenario, "http://api:8080/").await.0, 503);
    assert_eq!(meshed(scenario, "http://api:8081/").await, (200, String::new()));
    scenario.delete("east", rule).await;
}

async fn disabled(scenario: &Scenario) {
    step("DISABLE: clients of the mesh speak plain text, too; other clusters never do");
    let disable = "selector: {matchLabels: {app: api}}, mtls: {mode: STRICT}, portLevelMtls: {'8081': {mode: DISABLE}}";
    scenario.apply("east", &policy("default", "api", disable)).await;
    assert_eq!(plain(scenario, "east/api", 8081).await, 200);
    assert_eq!(meshed(scenario, "http://api:8081/").await, (200, String::new()));
    assert_eq!(meshed(scenario, "http://api:8080/").await, (200, WEB.to_owned()));
    let far = scenario.agrees("west/far", "http://api.default.svc.clusterset.local:8081/", &[]).await;
    assert_eq!((far.status, far.answer.client_identity.as_str()), (200, "spiffe://west.demo/ns/default/sa/far"));
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api}
spec: {host: api, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
";
    scenario.apply("east", rule).await;
    assert_eq!(meshed(scenario, "http://api:8081/").await.0, 403, "ISTIO_MUTUAL meets a port that takes none");
    scenario.delete("east", rule).await;
    scenario.delete("east", &policy("default", "api", disable)).await;
}

async fn inheritance(scenario: &Scenario) {
    step("UNSET asks the next level: port, workload, namespace, mesh");
    let root = policy("istio-system", "default", "mtls: {mode: STRICT}");
    let namespace = |mode: &str| policy("default", "default", &format!("mtls: {{mode: {mode}}}"));
    let workload = |mode: &str, port: &str| {
        let spec = "selector: {matchLabels: {app: api}}, mtls: {mode: MODE}, portLevelMtls: {'8081': {mode: PORT}}";
        policy("default", "api", &spec.replace("MODE", mode).replace("PORT", port))
    };
    for (objects, http, admin, other) in [
        (root.clone(), 0, 0, 0),
        (root.clone() + &namespace("UNSET") + &workload("UNSET", "UNSET"), 0, 0, 0),
        (root.clone() + &namespace("PERMISSIVE") + &workload("UNSET", "UNSET"), 200, 200, 200),
        (root.clone() + &namespace("PERMISSIVE") + &workload("STRICT", "UNSET"), 0, 0, 200),
        (root.clone() + &namespace("UNSET") + &workload("UNSET", "PERMISSIVE"), 0, 200, 0),
        (root.clone() + &namespace("DISABLE") + &workload("STRICT", "PERMISSIVE"), 0, 200, 200),
    ] {
        scenario.apply("east", &objects).await;
        let found = [("east/api", 8080), ("east/api", 8081), ("east/other", 8080)];
        for ((workload, port), expected) in found.into_iter().zip([http, admin, other]) {
            assert_eq!(plain(scenario, workload, port).await, expected, "{workload}:{port} with {objects}");
            assert_eq!(meshed(scenario, &format!("http://{}:{port}/", &workload[5..])).await.0, 200, "{objects}");
        }
    }
}
