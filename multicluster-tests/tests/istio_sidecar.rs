//! Sidecar: which hosts a workload reaches, what becomes of hosts that nobody knows, and how much its application takes; and
//! which rules a namespace sees.

use multicluster_tests::{Asked, Scenario, step, tally, volley};

const FLEET: &str = "
name: istio-sidecar
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {name: web, labels: {app: web}}
      - {name: frontend, labels: {app: frontend}}
      - {name: near, labels: {app: near, version: v1}, ports: [{name: http, port: 9080, protocol: http}, {name: http-two, port: 9081, protocol: http}]}
      - {name: far, namespace: other, labels: {app: far, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: fallback, labels: {app: fallback, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_object_limits_what_its_workloads_reach() {
    let scenario = Scenario::up(FLEET).await;
    hosts(&scenario).await;
    precedence(&scenario).await;
    egress_proxy(&scenario).await;
    inbound(&scenario).await;
    visibility(&scenario).await;
}

fn sidecar(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{spec}}}
"
    )
}

/// The status that a workload gets from `near`, from its second port, from `far` of another namespace, and from an address
/// that nobody knows; `hubctl explain` must agree.
async fn reached(scenario: &Scenario, workload: &str) -> [u16; 4] {
    let unknown = format!("http://{}/", scenario.application("east/fallback-1"));
    let mut statuses = [0; 4];
    let urls = ["http://near:9080/", "http://near:9081/", "http://far.other:9080/", &unknown];
    for (status, url) in statuses.iter_mut().zip(urls) {
        *status = scenario.agrees_on(Asked { from: workload, method: "GET", url, headers: &[] }).await.status;
    }
    statuses
}

const ONLY: &str = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}";

async fn hosts(scenario: &Scenario) {
    step("egress hosts, ALLOW_ANY and REGISTRY_ONLY");
    for (spec, expected) in [
        ("egress: [{hosts: ['*/*']}]".to_owned(), [200, 200, 200, 200]),
        (format!("{ONLY}, egress: [{{hosts: ['*/*']}}]"), [200, 200, 200, 502]),
        (format!("{ONLY}, egress: [{{hosts: ['./*']}}]"), [200, 200, 502, 502]),
        (format!("{ONLY}, egress: [{{hosts: ['other/*']}}]"), [502, 502, 200, 502]),
        (format!("{ONLY}, egress: [{{hosts: ['*/near.default.svc.cluster.local']}}]"), [200, 200, 502, 502]),
        (format!("{ONLY}, egress: [{{port: {{number: 9081, name: http}}, hosts: ['./*']}}]"), [502, 200, 502, 502]),
        (format!("{ONLY}, egress: [{{hosts: ['~/*']}}]"), [502, 502, 502, 502]),
    ] {
        scenario.apply("east", &sidecar("default", "default", &spec)).await;
        assert_eq!(reached(scenario, "east/web").await, expected, "{spec}");
    }
}

async fn precedence(scenario: &Scenario) {
    step("a selected workload, its namespace, the root namespace");
    let none = format!("{ONLY}, egress: [{{hosts: ['~/*']}}]");
    let all = format!("{ONLY}, egress: [{{hosts: ['*/*']}}]");
    scenario.apply("east", &sidecar("istio-system", "default", &all)).await;
    scenario.apply("east", &sidecar("default", "default", &none)).await;
    scenario
        .apply("east", &sidecar("default", "web", &format!("workloadSelector: {{labels: {{app: web}}}}, {all}")))
        .await;
    assert_eq!(reached(scenario, "east/web").await, [200, 200, 200, 502]);
    assert_eq!(reached(scenario, "east/frontend").await, [502, 502, 502, 502]);
    scenario.delete("east", &sidecar("default", "default", &none)).await;
    assert_eq!(reached(scenario, "east/frontend").await, [200, 200, 200, 502], "the root namespace's counts");
    scenario.delete("east", &sidecar("istio-system", "default", &all)).await;
    assert_eq!(reached(scenario, "east/frontend").await, [200, 200, 200, 200], "without one everything is reached");
    scenario.delete("east", &sidecar("default", "web", &none)).await;
}

async fn egress_proxy(scenario: &Scenario) {
    step("egressProxy: what nobody knows goes to a destination");
    let spec = "outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: fallback.default.svc.cluster.local, port: {number: 9080}}}";
    scenario.apply("east", &sidecar("default", "default", spec)).await;
    let shot = scenario.agrees("east/web", "http://who.knows.example/x", &[]).await;
    assert_eq!(
        (shot.status, shot.answer.whoami.pod.as_str(), shot.seen("host")),
        (200, "fallback-1", "who.knows.example")
    );
    assert_eq!(scenario.shot("east/web", "http://near:9080/", &[]).await.answer.whoami.pod, "near-1");
    scenario.delete("east", &sidecar("default", "default", spec)).await;
}

async fn inbound(scenario: &Scenario) {
    step("inboundConnectionPool: how much the application takes at once");
    let spec = "workloadSelector: {labels: {app: near}}, inboundConnectionPool: {http: {http2MaxRequests: 5}}";
    scenario.apply("east", &sidecar("default", "near", spec)).await;
    let shots = volley(&scenario.call_from("east/web", "http://near:9080/delay/2000"), 15, 15).await;
    assert_eq!(tally(&shots, |shot| shot.status), [(200, 5), (503, 10)].into());
    let shot = scenario.shot("east/web", "http://near:9080/", &[]).await;
    assert_eq!(shot.status, 200, "room is given back: {shot:?}");
}

async fn visibility(scenario: &Scenario) {
    step("exportTo and sourceNamespace: rules of one namespace, and for one");
    let rules = |export: &str| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: near}}
spec:
  hosts: [near.default.svc.cluster.local]
  exportTo: {export}
  http:
    - match: [{{sourceNamespace: other}}]
      directResponse: {{status: 202}}
    - match: [{{uri: {{prefix: /CASE}}, ignoreUriCase: true, authority: {{prefix: near}}, scheme: {{exact: http}}, port: 9081}}]
      directResponse: {{status: 203}}
    - match: [{{uri: {{prefix: /rules}}}}]
      directResponse: {{status: 201}}
    - route: [{{destination: {{host: near.default.svc.cluster.local}}}}]
"
        )
    };
    for (export, far) in [("['*']", 202), ("['.']", 200), ("[other]", 202)] {
        scenario.apply("east", &rules(export)).await;
        let status = async |from: &str, path: &str| {
            scenario.agrees(from, &format!("http://near.default:{path}"), &[]).await.status
        };
        let own = if export == "[other]" { [200, 200, 200] } else { [201, 203, 200] };
        let found = [
            status("east/web", "9080/rules").await,
            status("east/web", "9081/case").await,
            status("east/web", "9080/case").await,
        ];
        assert_eq!(found, own, "web of default, {export}");
        assert_eq!(status("east/far", "9080/rules").await, far, "far of other, {export}");
    }
    scenario.delete("east", &rules("['*']")).await;
}
