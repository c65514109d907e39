//! Istio's configuration across clusters: subsets of remote groups, canaries, and policies about callers elsewhere.

#![expect(clippy::panic, reason = "whatever fails here is a failed test")]

use std::time::Duration;

use multicluster_tests::{Scenario, assert_share, eventually, shoot, step, tally, volley};

/// `reviews` v1 runs in east and west, v2 in west only; `backend` in west only.
const FLEET: &str = "
name: istio-clusters
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web}}
      - {name: frontend, serviceAccount: frontend, labels: {app: frontend}}
      - {name: reviews-v1, service: reviews, serviceAccount: reviews, labels: {app: reviews, version: v1}, export: true, ports: [{name: http, port: 9080, protocol: http}]}
  - name: west
    gateways: 1
    workloads:
      - {name: reviews-v2, service: reviews, serviceAccount: reviews, labels: {app: reviews, version: v2}, export: true, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: backend, serviceAccount: backend, labels: {app: backend, version: v1}, export: true, ports: [{name: http, port: 8080, protocol: http}]}
";

const SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: everywhere}
spec:
  host: reviews.default.svc.clusterset.local
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
";

const CANARY: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: everywhere}
spec:
  hosts: [reviews.default.svc.clusterset.local]
  http:
    - match: [{headers: {end-user: {exact: jason}}}]
      route: [{destination: {host: reviews.default.svc.clusterset.local, subset: v2}}]
    - route:
        - {destination: {host: reviews.default.svc.clusterset.local, subset: v1}, weight: 90}
        - {destination: {host: reviews.default.svc.clusterset.local, subset: v2}, weight: 10}
";

const ONLY_FRONTEND: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: backend-policy}
spec:
  selector: {matchLabels: {app: backend}}
  action: ALLOW
  rules:
    - from: [{source: {principals: ["east.demo/ns/default/sa/frontend"]}}]
      to: [{operation: {methods: ["GET"], paths: ["/api/*"]}}]
"#;

const URL: &str = "http://reviews.default.svc.clusterset.local:9080/";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_reaches_across_clusters() {
    let scenario = Scenario::up(FLEET).await;
    partitions(&scenario).await;
    external_names(&scenario).await;
    canary(&scenario).await;
    fault(&scenario).await;
    authorization(&scenario).await;
}

/// istio.io, "Multi-cluster Traffic Management", "Partitioning services": nobody writes these labels.
const PARTITIONS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: per-cluster}
spec:
  host: reviews.default.svc.clusterset.local
  subsets:
    - {name: east, labels: {topology.istio.io/cluster: east}}
    - {name: west, labels: {topology.istio.io/cluster: west}}
    - {name: north, labels: {topology.istio.io/cluster: north}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: per-cluster}
spec:
  hosts: [reviews.default.svc.clusterset.local]
  http:
    - match: [{headers: {partition: {exact: north}}}]
      route: [{destination: {host: reviews.default.svc.clusterset.local, subset: north}}]
    - match: [{headers: {partition: {exact: west}}}]
      route: [{destination: {host: reviews.default.svc.clusterset.local, subset: west}}]
    - match: [{sourceLabels: {topology.istio.io/cluster: east}}]
      route: [{destination: {host: reviews.default.svc.clusterset.local, subset: east}}]
    - match: [{sourceLabels: {topology.istio.io/cluster: west}}]
      fault: {abort: {percentage: {value: 100}, httpStatus: 418}}
      route: [{destination: {host: reviews.default.svc.clusterset.local, subset: west}}]
";

async fn partitions(scenario: &Scenario) {
    step("subsets and sources by cluster");
    scenario.apply("east", PARTITIONS).await;
    for (header, expected) in
        [("x: y", (200, "east")), ("partition: west", (200, "west")), ("partition: north", (503, ""))]
    {
        let shots = volley(&scenario.with("east/web", URL, &[header]), 20, 5).await;
        let served = tally(&shots, |shot| (shot.status, shot.answer.whoami.cluster.clone()));
        assert_eq!(served, [((expected.0, expected.1.to_owned()), 20)].into(), "{header}");
    }
    scenario.delete("east", PARTITIONS).await;
}

async fn external_names(scenario: &Scenario) {
    step("Services of type ExternalName are other names of services, with ports and without");
    let alias = |name: &str, target: &str, ports: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: ExternalName, externalName: {target}{ports}}}\n"
        )
    };
    let ports = ", ports: [{name: http, port: 9080}]";
    let aliases = [
        alias("own", "reviews.default.svc.cluster.local", ports),
        alias("again", "own.default.svc.cluster.local", ""),
        alias("elsewhere", "backend.default.svc.clusterset.local", ", ports: [{name: http, port: 8080}]"),
        alias("nowhere", "nobody.default.svc.cluster.local", ports),
    ];
    let aliases = aliases.join("---\n");
    scenario.apply("east", &aliases).await;
    scenario.apply("east", SUBSETS).await;
    let rule = CANARY.replace("hosts: [reviews.default.svc.clusterset.local]", "hosts: [reviews]");
    scenario.apply("east", &rule).await;
    for (host, headers, expected) in [
        ("again:9080", &["end-user: jason"][..], (200, "west")),
        ("elsewhere:8080", &[], (200, "west")),
        ("nowhere:9080", &[], (503, "")),
    ] {
        let shot = scenario.agrees("east/web", &format!("http://{host}/"), headers).await;
        assert_eq!((shot.status, shot.answer.whoami.cluster.as_str()), expected, "{host}: {shot:?}");
    }
    scenario.delete("east", &rule).await;
    let shot = scenario.agrees("east/web", "http://own.default.svc.cluster.local:9080/", &[]).await;
    assert_eq!((shot.status, shot.version()), (200, "v1"), "{shot:?}");
    scenario.delete("east", SUBSETS).await;
    scenario.delete("east", &aliases).await;
}

async fn canary(scenario: &Scenario) {
    step("without configuration, local endpoints serve");
    let shots = volley(&scenario.call_from("east/web", URL), 50, 5).await;
    assert_eq!(tally(&shots, |shot| (shot.status, shot.version().to_owned())), [((200, "v1".into()), 50)].into());

    step("a canary whose subsets are in different clusters");
    scenario.apply("east", SUBSETS).await;
    scenario.apply("east", CANARY).await;
    let shots = volley(&scenario.call_from("east/web", URL), 1000, 20).await;
    let served = tally(&shots, |shot| (shot.status, shot.answer.whoami.cluster.clone(), shot.version().to_owned()));
    let [v1, v2] = [("east", "v1"), ("west", "v2")]
        .map(|(cluster, version)| served.get(&(200, cluster.to_owned(), version.to_owned())).copied().unwrap_or(0));
    assert_eq!(v1 + v2, 1000, "{served:?}");
    assert_share("v2, which only west has", v2, 1000, 0.1);

    step("end-user: jason to the other cluster");
    let shots = volley(&scenario.with("east/web", URL, &["end-user: jason"]), 50, 5).await;
    let served = tally(&shots, |shot| (shot.status, shot.answer.whoami.cluster.clone()));
    assert_eq!(served, [((200, "west".into()), 50)].into());
}

async fn fault(scenario: &Scenario) {
    step("faults of requests to a service that only the other cluster has");
    let rule = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: backend}
spec:
  hosts: [backend.default.svc.clusterset.local]
  http:
    - match: [{uri: {prefix: /broken}}]
      fault: {abort: {percentage: {value: 100}, httpStatus: 500}}
      route: [{destination: {host: backend.default.svc.clusterset.local}}]
    - match: [{uri: {prefix: /old}}]
      rewrite: {uri: /new}
      route: [{destination: {host: backend.default.svc.clusterset.local}}]
    - route: [{destination: {host: backend.default.svc.clusterset.local}}]
";
    scenario.apply("east", rule).await;
    let get = async |path: &str| {
        scenario.shot("east/web", &format!("http://backend.default.svc.clusterset.local:8080{path}"), &[]).await
    };
    assert_eq!(get("/broken").await.status, 500);
    let old = get("/old/x").await;
    assert_eq!((old.status, old.answer.path.as_str(), old.answer.whoami.cluster.as_str()), (200, "/new/x", "west"));
}

async fn authorization(scenario: &Scenario) {
    step("a policy in west about callers of east");
    scenario.apply("west", ONLY_FRONTEND).await;
    let status = async |workload: &str, method: &str, path: &str| {
        let url = format!("http://backend.default.svc.clusterset.local:8080{path}");
        let mut call = scenario.call_from(workload, &url);
        call.method = method.parse().unwrap_or_else(|_| panic!("{method}"));
        shoot(&call).await.status
    };
    for (workload, method, path, expected) in [
        ("east/frontend", "GET", "/api/x", 200),
        ("east/frontend", "POST", "/api/x", 403),
        ("east/frontend", "GET", "/x", 403),
        ("east/web", "GET", "/api/x", 403),
    ] {
        assert_eq!(status(workload, method, path).await, expected, "{workload} {method} {path}");
    }

    step("cluster.local in a principal is the own trust domain, not any other one");
    scenario.apply("west", &ONLY_FRONTEND.replace("east.demo", "cluster.local")).await;
    assert_eq!(status("east/frontend", "GET", "/api/x").await, 403);

    step("STRICT in west leaves callers of other clusters in, who have identities");
    scenario.delete("west", ONLY_FRONTEND).await;
    scenario.apply_example("west", "mtls-strict.yaml").await;
    assert_eq!(status("east/web", "GET", "/x").await, 200);

    step("an outlier in the other cluster");
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: everywhere}
spec:
  host: reviews.default.svc.clusterset.local
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 5s, maxEjectionPercent: 100}
";
    scenario.delete("east", CANARY).await;
    scenario.apply("east", rule).await;
    scenario.control("east/reviews-v1-1", "fail/1000000/500").await;
    let web = scenario.call_from("east/web", URL);
    // Ten in a row fit into an ejection; each is longer than the one before.
    eventually("requests go to the cluster that works", Duration::from_secs(40), async || {
        let shots = volley(&web, 10, 1).await;
        let served = tally(&shots, |shot| (shot.status, shot.answer.whoami.cluster.clone()));
        if served == [((200, "west".to_owned()), 10)].into() { Ok(()) } else { Err(format!("{served:?}")) }
    })
    .await;
    scenario.control("east/reviews-v1-1", "fail/0/0").await;
    eventually("requests come back to the own cluster", Duration::from_secs(60), async || {
        let cluster = shoot(&web).await.answer.whoami.cluster;
        if cluster == "east" { Ok(()) } else { Err(cluster) }
    })
    .await;
}
