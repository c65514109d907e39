//! Pods without a sidecar on the ground `netns`, by ordinary names: where they get, what follows policy and services after `up`,
//! and what is readable where.
//!
//! `cargo test -p isthmus-multicluster-tests --test netns_unmeshed`, as root; needs curl and tcpdump.

#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here is a failed test")]

#[path = "netns_privacy/capture.rs"]
#[expect(dead_code, reason = "frames are searched here, not parsed")]
mod capture;
#[path = "netns_privacy/search.rs"]
#[expect(dead_code, reason = "a word that is found is no failure here")]
mod search;

use std::time::Duration;

use capture::Capture;
use multicluster_tests::{Scenario, eventually, on_netns, step, tool};
use search::Search;
use serde_json::Value;

/// `east/plain` and `west/legacy` have no sidecar; `late` is exported later.
const FILE: &str = "
name: unmeshed
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 2
    workloads:
      - {name: web, labels: {app: web}}
      - {name: plain, mesh: false, command: [sleep, '100000']}
      - {name: ratings, ports: &ports [{name: http, port: 9080, protocol: http}]}
  - name: west
    workloads:
      - {name: reviews, labels: {app: reviews}, ports: *ports, export: true}
      - {name: legacy, serviceAccount: old, mesh: false, labels: {app: legacy}, ports: *ports, export: true}
      - {name: late, ports: *ports}
      - {name: vm, command: &serve [python3, -m, http.server, '8000', --bind, '::']}
      - {name: oldvm, mesh: false, command: *serve}
";

const ZONE: &str = "default.svc.clusterset.local";
const GATEWAY: &str = "spiffe://east.demo/ns/isthmus-system/sa/gateway";
const WEB: &str = "spiffe://east.demo/ns/default/sa/web";
const SOON: Duration = Duration::from_secs(30);
/// curl's exit code where nobody accepts the connection.
const REFUSED: i32 = 7;

/// Every service of the namespace.
const CLIENTS: &str = "
apiVersion: isthmus.dev/v1alpha1
kind: ClusterTrafficPolicy
metadata: {name: unmeshed}
spec: {unmeshedClients: allow}
";

/// `reviews` by its short name.
const GLOBAL: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, labels: {isthmus.dev/global: 'true'}}
spec: {ports: [{name: http, port: 9080, appProtocol: http}]}
";

const SERVERS: &str = "
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: legacy, annotations: {isthmus.dev/unmeshed: allow}}
";

const LATE: &str = "
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: late}
";

const ONLY_WEB: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web}
spec:
  selector: {matchLabels: {app: legacy}}
  rules: [{from: [{source: {principals: [east.demo/ns/default/sa/web]}}]}]
";

/// curl in a pod, with nothing that points to a proxy: the echo server's answer, or curl's exit code with what was said.
async fn curl(scenario: &Scenario, pod: &str, url: &str) -> Result<Value, (i32, String)> {
    let command = ["fleet", "exec", pod, "--", "curl", "-sS", "--max-time", "10", url];
    let output = scenario.hubctl(&command).await;
    let code = output.status.code().expect("curl ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_str(&said).map_err(|_| (code, format!("{said}{why}")))
}

/// Waits until a pod is answered by another.
async fn answered(scenario: &Scenario, pod: &str, url: &str, by: (&str, &str)) -> Value {
    eventually(&format!("{url} answered by {by:?}"), SOON, async || match curl(scenario, pod, url).await {
        Ok(answer) if (answer["pod"].as_str(), answer["client_identity"].as_str()) == (Some(by.0), Some(by.1)) => {
            Ok(answer)
        }
        other => Err(format!("{other:?}")),
    })
    .await
}

async fn refused(scenario: &Scenario, url: &str) {
    eventually(&format!("{url} refused"), SOON, async || match curl(scenario, "east/plain", url).await {
        Err((REFUSED, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

fn url(service: &str, path: &str) -> String {
    format!("http://{service}:9080/{path}")
}

#[test]
fn pods_without_a_sidecar_reach_what_policy_says_by_ordinary_names_and_the_rules_follow() {
    tool("curl", "curl");
    on_netns(FILE, async |scenario| {
        step("own cluster: as ever; other clusters: refused at once while policy says nothing");
        answered(scenario, "east/plain", &url("ratings", "own"), ("ratings-1", "")).await;
        let reviews = format!("reviews.{ZONE}");
        refused(scenario, &url(&reviews, "denied")).await;

        step("policy says so: by the name of the clusterset, and by the short one of a global Service");
        scenario.apply("east", CLIENTS).await;
        answered(scenario, "east/plain", &url(&reviews, "allowed"), ("reviews-1", GATEWAY)).await;
        scenario.apply("east", GLOBAL).await;
        answered(scenario, "east/plain", &url("reviews", "short"), ("reviews-1", GATEWAY)).await;

        step("neither end has a sidecar; policies of the server see the gateway");
        let legacy = format!("legacy.{ZONE}");
        // The listener is there; the export does not let anybody speak for the server.
        let unanswered = curl(scenario, "east/plain", &url(&legacy, "closed")).await;
        assert!(unanswered.is_err(), "{unanswered:?}");
        scenario.apply("west", SERVERS).await;
        answered(scenario, "east/plain", &url(&legacy, "open"), ("legacy-1", GATEWAY)).await;
        scenario.apply("west", ONLY_WEB).await;
        eventually("the policy", SOON, async || match curl(scenario, "east/plain", &url(&legacy, "gateway")).await {
            Err(_) => Ok(()),
            Ok(answer) => Err(answer.to_string()),
        })
        .await;
        answered(scenario, "east/web", &url(&legacy, "web"), ("legacy-1", WEB)).await;

        step("services and exports that come after `up`");
        let late = format!("late.{ZONE}");
        scenario.apply("west", LATE).await;
        answered(scenario, "east/plain", &url(&late, "late"), ("late-1", GATEWAY)).await;
        let ratings = scenario.fleet.pod("east/ratings").expect("a pod").1.ip;
        scenario.apply("east", &second_service(&ratings.to_string())).await;
        answered(scenario, "east/plain", &url("scores", "added"), ("ratings-1", "")).await;

        step("the policy goes: refused again, and nothing is left of the rules");
        scenario.delete("east", CLIENTS).await;
        refused(scenario, &url(&reviews, "denied")).await;
        refused(scenario, &url("reviews", "denied")).await;
        answered(scenario, "east/plain", &url("ratings", "own"), ("ratings-1", "")).await;
    });
}

/// Another Service in front of a pod.
fn second_service(pod: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: scores}}
spec: {{ports: [{{name: http, port: 9080, appProtocol: http}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: scores-1, labels: {{kubernetes.io/service-name: scores}}, annotations: {{isthmus.dev/service-account: ratings}}}}
addressType: IPv4
ports: [{{name: http, port: 9080}}]
endpoints: [{{addresses: [{pod}]}}]
"
    )
}

/// A machine outside of Kubernetes, behind a Service that is exported; gateways may speak for it.
fn machine(service: &str, name: &str, address: &str, more: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {service}}}
spec: {{selector: {{app: {service}}}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}}}
spec: {{address: {address}, labels: {{app: {service}}}, ports: {{http: 8000}}{more}}}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {{name: {service}, annotations: {{isthmus.dev/unmeshed: allow}}}}
"
    )
}

#[test]
fn machines_outside_of_kubernetes_are_exported_by_their_workload_entries() {
    tool("curl", "curl");
    on_netns(FILE, async |scenario| {
        let address = |pod: &str| scenario.fleet.pod(pod).expect("a pod").1.ip.to_string();
        let (vm, old) = (address("west/vm"), address("west/oldvm"));
        scenario.apply("west", &machine("billing", "vm-1", &vm, ", serviceAccount: vm")).await;
        scenario.apply("west", &machine("archive", "oldvm-1", &old, "")).await;
        for service in ["billing", "archive"] {
            let url = format!("http://{service}.{ZONE}/");
            eventually(service, SOON, async || {
                let command = ["fleet", "exec", "east/web", "--", "curl", "-sS", "--max-time", "10", &url];
                let output = scenario.hubctl(&command).await;
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                said.contains("Directory listing").then_some(()).ok_or_else(|| format!("{output:?}"))
            })
            .await;
        }
        let exports = scenario.ok(&["exports"]).await;
        let line = |service: &str| exports.lines().find(|line| line.contains(service)).unwrap_or_default().to_owned();
        assert!(line("default/billing").contains("none"), "{exports}");
        assert!(line("default/archive").contains("as default"), "{exports}");
    });
}

/// Paths that occur nowhere else, one for each flow.
const MESHED: &str = "sandpiper-between-sidecars";
const CLIENT: &str = "dunlin-without-client-sidecar";
const SERVER: &str = "whimbrel-without-server-sidecar";

#[test]
fn a_gateway_reads_only_flows_of_ends_that_it_speaks_for_and_nobody_reads_between_clusters() {
    tool("curl", "curl");
    tool("tcpdump", "tcpdump");
    on_netns(FILE, async |scenario| {
        scenario.apply("east", CLIENTS).await;
        scenario.apply("west", SERVERS).await;
        let (reviews, legacy) = (format!("reviews.{ZONE}"), format!("legacy.{ZONE}"));
        answered(scenario, "east/web", &url(&reviews, "ready"), ("reviews-1", WEB)).await;
        answered(scenario, "east/plain", &url(&reviews, "ready"), ("reviews-1", GATEWAY)).await;
        answered(scenario, "east/web", &url(&legacy, "ready"), ("legacy-1", WEB)).await;
        let places = [
            ("east/fabric", "wan2", &[][..]),
            ("west/fabric", "wan1", &[]),
            ("west/gateway-1", "eth0", &[SERVER]),
            ("west/reviews-1", "eth0", &[]),
            ("west/reviews-1", "lo", &[MESHED, CLIENT]),
            ("west/legacy-1", "eth0", &[SERVER]),
            ("east/plain-1", "eth0", &[CLIENT]),
            ("east/web-1", "eth0", &[]),
        ];
        let captures: Vec<_> =
            places.iter().map(|(place, device, _)| Capture::begin(scenario, place, device)).collect();
        let gateways = ["east/gateway-1", "east/gateway-2"].map(|place| Capture::begin(scenario, place, "eth0"));
        step("captures run");
        answered(scenario, "east/web", &url(&reviews, MESHED), ("reviews-1", WEB)).await;
        answered(scenario, "east/plain", &url(&reviews, CLIENT), ("reviews-1", GATEWAY)).await;
        answered(scenario, "east/web", &url(&legacy, SERVER), ("legacy-1", WEB)).await;
        let words = [MESHED, CLIENT, SERVER];
        let readable = |frames: &[Vec<u8>]| -> Vec<&str> {
            let missing = Search::new(&words).missing(frames.iter().map(Vec::as_slice));
            words.into_iter().filter(|word| !missing.contains(word)).collect()
        };
        for (capture, (place, device, expected)) in captures.into_iter().zip(places) {
            assert_eq!(readable(&capture.end().frames), *expected, "{place} {device}");
        }
        // One of the two took the connection of the client without a sidecar.
        let frames: Vec<_> = gateways.into_iter().flat_map(|capture| capture.end().frames).collect();
        assert_eq!(readable(&frames), [CLIENT], "the gateways of east");
    });
}
