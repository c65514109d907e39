//! Istio's everyday examples, applied as they are, and their effect on real requests.

#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here is a failed test")]

use std::time::Duration;

use multicluster_tests::{Scenario, assert_share, eventually, step, tally, volley};

/// `web` calls; `reviews` exists in two versions, `ratings` in one; `outside` has no sidecar.
const FLEET: &str = "
name: istio-examples
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web}}
      - {name: frontend, serviceAccount: frontend, labels: {app: frontend}}
      - {name: reviews-v1, service: reviews, serviceAccount: reviews, labels: {app: reviews, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: reviews-v2, service: reviews, serviceAccount: reviews, labels: {app: reviews, version: v2}, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: ratings, serviceAccount: ratings, labels: {app: ratings, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: backend, serviceAccount: backend, labels: {app: backend, version: v1}, ports: [{name: http, port: 8080, protocol: http}]}
";

const RATINGS_SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings}
spec: {host: ratings, subsets: [{name: v1, labels: {version: v1}}]}
";

const REVIEWS: &str = "http://reviews:9080/";
const RATINGS: &str = "http://ratings:9080/";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_and_faults_have_the_effect_that_the_examples_promise() {
    let scenario = Scenario::up(FLEET).await;
    canary(&scenario).await;
    by_header(&scenario).await;
    scenario.apply("east", RATINGS_SUBSETS).await;
    abort(&scenario).await;
    delay(&scenario).await;
}

async fn canary(scenario: &Scenario) {
    step("canary-90-10.yaml with subsets.yaml");
    scenario.apply_example("east", "subsets.yaml").await;
    scenario.apply_example("east", "canary-90-10.yaml").await;
    for url in [REVIEWS, "http://reviews.default:9080/", "http://reviews.default.svc.cluster.local:9080/x"] {
        let shots = volley(&scenario.call_from("east/web", url), 1000, 20).await;
        let versions = tally(&shots, |shot| (shot.status, shot.version().to_owned()));
        let [v1, v2] = ["v1", "v2"].map(|version| versions.get(&(200, version.to_owned())).copied().unwrap_or(0));
        assert_eq!(v1 + v2, 1000, "{url}: {versions:?}");
        assert_share(&format!("{url}: v2"), v2, 1000, 0.1);
    }
}

async fn by_header(scenario: &Scenario) {
    step("route-by-header.yaml");
    scenario.apply_example("east", "route-by-header.yaml").await;
    for (headers, version) in [(&["end-user: jason"][..], "v2"), (&["end-user: jasons"], "v1"), (&[], "v1")] {
        let shots = volley(&scenario.with("east/web", REVIEWS, headers), 50, 10).await;
        let versions = tally(&shots, |shot| (shot.status, shot.version().to_owned()));
        assert_eq!(versions, [((200, version.to_owned()), 50)].into(), "{headers:?}");
    }
    step("without the route, all versions serve again");
    scenario.delete_example("east", "route-by-header.yaml").await;
    let shots = volley(&scenario.call_from("east/web", REVIEWS), 100, 10).await;
    let versions = tally(&shots, |shot| shot.version().to_owned());
    assert!(versions["v1"] > 20 && versions["v2"] > 20, "{versions:?}");
}

async fn abort(scenario: &Scenario) {
    step("fault-abort.yaml");
    let before = scenario.saw("east/ratings-1").await.requests;
    scenario.apply_example("east", "fault-abort.yaml").await;
    let shots = volley(&scenario.call_from("east/web", RATINGS), 1000, 20).await;
    let statuses = tally(&shots, |shot| shot.status);
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200, 500], "{statuses:?}");
    assert_share("aborted with 500", statuses[&500], 1000, 0.5);
    let reached = scenario.saw("east/ratings-1").await.requests - before;
    assert_eq!(reached, statuses[&200] as u64, "an aborted request must not reach the server");
}

async fn delay(scenario: &Scenario) {
    step("fault-delay.yaml");
    scenario.apply_example("east", "fault-delay.yaml").await;
    let shots = volley(&scenario.call_from("east/web", RATINGS), 600, 40).await;
    assert_eq!(tally(&shots, |shot| shot.status), [(200, 600)].into());
    let slow = shots.iter().filter(|shot| shot.took >= Duration::from_secs(5)).count();
    assert_share("delayed by 5 s", slow, 600, 0.1);
    let longest = shots.iter().map(|shot| shot.took).max().expect("shots");
    assert!(longest < Duration::from_secs(10), "delayed twice: {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_circuit_opens_and_closes_and_limits_hold() {
    let scenario = Scenario::up(FLEET).await;
    scenario.apply_example("east", "circuit-breaker.yaml").await;
    circuit(&scenario).await;
    limits(&scenario).await;
}

/// Five errors eject the endpoint that made them; thirty seconds later it serves again.
async fn circuit(scenario: &Scenario) {
    step("circuit-breaker.yaml: five 5xx in a row open the circuit");
    let web = scenario.call_from("east/web", REVIEWS);
    scenario.control("east/reviews-v1-1", "fail/1000000/500").await;
    let shots = volley(&web, 40, 1).await;
    let errors = shots.iter().filter(|shot| shot.status == 500).count();
    assert_eq!(errors, 5, "{:?}", tally(&shots, |shot| (shot.status, shot.version().to_owned())));
    let opened = tokio::time::Instant::now();
    scenario.control("east/reviews-v1-1", "fail/0/0").await;
    let after = volley(&web, 100, 4).await;
    assert_eq!(tally(&after, |shot| (shot.status, shot.version().to_owned())), [((200, "v2".to_owned()), 100)].into());

    step("and 30 s later it closes");
    eventually("the ejected endpoint serves again", Duration::from_secs(75), async || {
        let shots = volley(&web, 10, 2).await;
        let back = shots.iter().any(|shot| shot.version() == "v1");
        if back { Ok(()) } else { Err(format!("{:?}", tally(&shots, |shot| shot.version().to_owned()))) }
    })
    .await;
    let closed = opened.elapsed();
    println!("closed after {closed:?}");
    // Ejections end at a sweep, every 30 s, once 30 s are over.
    assert!(closed > Duration::from_secs(25), "{closed:?}");
}

/// 100 connections carry requests, 10 requests wait, all others overflow.
async fn limits(scenario: &Scenario) {
    step("circuit-breaker.yaml: 100 connections, 10 pending requests");
    // Long enough for all of them to come before the first is answered.
    let slow = scenario.call_from("east/web", "http://reviews:9080/delay/8000");
    let shots = volley(&slow, 160, 160).await;
    let statuses = tally(&shots, |shot| shot.status);
    assert_eq!(statuses, [(200, 110), (503, 50)].into(), "100 connections and 10 pending requests");
    let refused = shots.iter().find(|shot| shot.status == 503).expect("a refused request");
    assert!(refused.body.contains("overflow"), "{refused:?}");
    let log = scenario.fleet.layout.log("east/web-1/sidecar");
    eventually("the access log names the overflow", Duration::from_secs(20), async || {
        let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
        let flagged = text.lines().filter(|line| line.contains("\"UO\"")).count();
        if flagged == 50 { Ok(()) } else { Err(format!("{flagged} lines with the flag UO")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_mtls_and_authorization_refuse_who_may_not() {
    let scenario = Scenario::up(FLEET).await;
    authorization(&scenario).await;
    strict(&scenario).await;
}

async fn authorization(scenario: &Scenario) {
    step("authorization-policy.yaml");
    let status = async |workload: &str, method: &str, path: &str| {
        let mut call = scenario.call_from(workload, &format!("http://backend:8080{path}"));
        call.method = method.parse().expect("a method");
        multicluster_tests::shoot(&call).await.status
    };
    assert_eq!(status("east/web", "DELETE", "/x").await, 200, "without a policy everything is allowed");
    scenario.apply_example("east", "authorization-policy.yaml").await;
    for (workload, method, path, expected) in [
        ("east/frontend", "GET", "/api/orders", 200),
        ("east/frontend", "POST", "/api/orders?x=1", 200),
        ("east/frontend", "GET", "/api/", 200),
        ("east/frontend", "GET", "/", 403),
        ("east/frontend", "GET", "/apis", 403),
        ("east/frontend", "GET", "/x/api/", 403),
        ("east/frontend", "DELETE", "/api/orders", 403),
        ("east/frontend", "PUT", "/api/orders", 403),
        ("east/web", "GET", "/api/orders", 403),
        ("east/web", "POST", "/api/orders", 403),
        // Paths are normalised before they are compared.
        ("east/frontend", "GET", "/admin/../api/orders", 200),
        ("east/frontend", "GET", "/api/../admin", 403),
    ] {
        assert_eq!(status(workload, method, path).await, expected, "{workload} {method} {path}");
    }
    let refused = scenario.shot("east/web", "http://backend:8080/api/x", &[]).await;
    assert_eq!(refused.body.trim(), "RBAC: access denied");
    let plain = plain(scenario, "east/backend", "/api/orders").await;
    assert_eq!(plain.status, 403, "who has no identity is nobody's frontend");
}

async fn strict(scenario: &Scenario) {
    step("mtls-strict.yaml");
    assert_eq!(plain(scenario, "east/reviews-v1", "/").await.status, 200, "PERMISSIVE is the default");
    scenario.apply_example("east", "mtls-strict.yaml").await;
    let refused = plain(scenario, "east/reviews-v1", "/").await;
    assert_eq!(refused.status, 0, "plain text must not be answered: {refused:?}");
    let meshed = scenario.shot("east/web", REVIEWS, &[]).await;
    assert_eq!(meshed.status, 200, "{meshed:?}");
    assert_eq!(meshed.answer.client_identity, "spiffe://east.demo/ns/default/sa/web");
}

/// Asks a port of a pod in plain text, past the client's sidecar, as whoever has no mesh would.
async fn plain(scenario: &Scenario, pod: &str, path: &str) -> multicluster_tests::Shot {
    let pod = scenario.fleet.pod(pod).expect("the pod exists").1;
    let port = pod.ports.first().unwrap_or_else(|| panic!("{} has no port", pod.name)).number;
    let address = std::net::SocketAddr::from((pod.ip, port));
    let call = fleet::call::Call::get(address, &format!("http://{address}{path}")).expect("a URL");
    multicluster_tests::shoot(&call).await
}
