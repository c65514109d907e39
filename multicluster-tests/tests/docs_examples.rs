//! The examples of docs/config, as they are printed: a cluster takes each of them, and what the page says happens.

#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here is a failed test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleet::call::Call;
use http::Method;
use multicluster_tests::{Certificates, Scenario, Shot, answer, assert_share, curl, shoot, step, tally, tool, volley};

/// The names that the pages use.
const FLEET: &str = "
name: docs-examples
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    ingress: [{}]
    workloads:
      - {name: web, labels: {app: web, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: tool, namespace: tools, labels: {app: tool}}
      - {name: reviews-v1, service: reviews, serviceAccount: reviews, labels: {app: reviews, version: v1}, ports: [{name: http, port: 9080, protocol: http}], export: true}
      - {name: reviews-v2, service: reviews, serviceAccount: reviews, labels: {app: reviews, version: v2}, ports: [{name: http, port: 9080, protocol: http}], export: true}
      - {name: ratings, labels: {app: ratings, version: v1}, ports: [{name: http, port: 9080, protocol: http}], export: true}
      - {name: shop, labels: {app: shop, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: shop-next, labels: {app: shop-next, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: cart, replicas: 2, labels: {app: cart, version: v1}, ports: [{name: http, port: 8080, protocol: http}]}
";

const REVIEWS: &str = "http://reviews:9080/";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config")
}

/// `<page> <number>` of each example with objects, and its text.
fn examples() -> BTreeMap<String, String> {
    let mut examples = BTreeMap::new();
    for entry in std::fs::read_dir(docs()).expect("the documentation").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a page");
        let page = entry.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let blocks = text.split("\n```yaml\n").skip(1).filter_map(|block| block.split("\n```").next());
        for (number, block) in blocks.filter(|block| block.contains("apiVersion:")).enumerate() {
            examples.insert(format!("{page} {}", number + 1), format!("{block}\n"));
        }
    }
    examples
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_of_the_documentation_do_what_their_pages_say() {
    tool("curl", "curl");
    let certificates = Certificates::new(&["bookinfo=bookinfo.example.com"]);
    let scenario = Scenario::up(FLEET).await;
    scenario.apply("east", &certificates.secret("bookinfo-tls", "bookinfo", false)).await;
    let mut unmeasured = Vec::new();
    for (name, text) in examples() {
        step(&name);
        scenario.apply("east", &text).await;
        if !has_effect(&scenario, &certificates, &name).await {
            unmeasured.push(name);
        }
        scenario.delete("east", &text).await;
    }
    // What stands behind these is outside the machine, is TLS that nothing here ends, or takes several clusters, zones or
    // namespaces; other tests have their like.
    let expected =
        ["cluster-traffic-policy 1", "destination-rule 3", "gateway 2", "service 1", "service 2", "service-entry 1"];
    assert_eq!(unmeasured, expected);
}

async fn has_effect(scenario: &Scenario, certificates: &Certificates, name: &str) -> bool {
    match name {
        "virtual-service 1" => canary(scenario).await,
        "virtual-service 2" => time_limits(scenario).await,
        "virtual-service 3" => paths(scenario).await,
        "destination-rule 1" => breaker(scenario).await,
        "destination-rule 2" => cookie(scenario).await,
        "gateway 1" => ingress(scenario, certificates).await,
        "service-entry 2" => leads_to(scenario, "db.internal.example:5432", &["10.20.0.11", "10.20.0.12"]).await,
        "workload-entry 1" => leads_to(scenario, "legacy.internal.example:8080", &["10.30.0.7", "sa/legacy"]).await,
        "sidecar 1" => registry(scenario).await,
        "peer-authentication 1" => strict(scenario).await,
        "request-authentication 1" => tokens(scenario).await,
        "authorization-policy 1" => allowed(scenario).await,
        "authorization-policy 2" => denied(scenario).await,
        "rate-limit-policy 1" => limited(scenario).await,
        _ => return false,
    }
    true
}

async fn get(scenario: &Scenario, workload: &str, url: &str, headers: &[&str]) -> Shot {
    scenario.agrees(workload, url, headers).await
}

async fn method(scenario: &Scenario, method: Method, url: &str) -> u16 {
    let mut call = scenario.call_from("east/web", url);
    call.method = method;
    shoot(&call).await.status
}

async fn canary(scenario: &Scenario) {
    assert_eq!(get(scenario, "east/web", REVIEWS, &["end-user: jason"]).await.version(), "v2");
    let shots = volley(&scenario.call_from("east/web", REVIEWS), 300, 10).await;
    assert_share("v2", tally(&shots, |shot| shot.version().to_owned())["v2"], 300, 0.1);
}

async fn time_limits(scenario: &Scenario) {
    let url = "http://ratings.default.svc.clusterset.local:9080";
    let before = scenario.saw("east/ratings-1").await.requests;
    let late = scenario.shot("east/web", &format!("{url}/delay/9000"), &[]).await;
    assert!(late.status == 504 && late.took < Duration::from_secs(7), "{late:?}");
    let tries = scenario.saw("east/ratings-1").await.requests - before;
    assert!((2..=4).contains(&tries), "each try has 500 ms of the 2 s: {tries}");
}

async fn paths(scenario: &Scenario) {
    let moved = get(scenario, "east/web", "http://shop:9080/old/x", &[]).await;
    assert_eq!((moved.status, moved.header("location")), (308, "http://shop:9080/new/"));
    let api = get(scenario, "east/web", "http://shop:9080/api/x", &["x-debug: 1"]).await;
    assert_eq!((api.answer.path.as_str(), api.seen("x-from"), api.seen("x-debug")), ("/x", "mesh", ""), "{api:?}");
}

async fn breaker(scenario: &Scenario) {
    let call = scenario.call_from("east/web", "http://ratings:9080/");
    scenario.control("east/ratings-1", "fail/1000000/500").await;
    let statuses: Vec<u16> = volley(&call, 7, 1).await.iter().map(|shot| shot.status).collect();
    assert_eq!(statuses, [500, 500, 500, 500, 500, 503, 503], "five errors open the circuit");
    scenario.control("east/ratings-1", "fail/0/0").await;
}

async fn cookie(scenario: &Scenario) {
    let first = get(scenario, "east/web", "http://cart:8080/", &[]).await;
    let cookie = first.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    assert!(cookie.starts_with("session="), "{first:?}");
    let call = scenario.with("east/web", "http://cart:8080/", &[&format!("cookie: {cookie}")]);
    let pods = tally(&volley(&call, 20, 5).await, |shot| shot.answer.whoami.pod.clone());
    assert_eq!(pods, [(first.answer.whoami.pod, 20)].into());
}

async fn ingress(scenario: &Scenario, certificates: &Certificates) {
    let ip = scenario.fleet.cluster("east").expect("east").edges[0].ip;
    let at = SocketAddr::from((ip, 8080));
    let moved = shoot(&Call::get(at, "http://bookinfo.example.com/x").expect("a URL")).await;
    assert_eq!((moved.status, moved.header("location")), (301, "https://bookinfo.example.com/x"));
    let at = SocketAddr::from((ip, 8443));
    for (path, pod) in [("/reviews/1", "reviews-v"), ("/", "web-1")] {
        let answered = answer(curl("bookinfo.example.com", at, path, certificates, &[]).await);
        assert!(answered.whoami.pod.starts_with(pod), "{path}: {answered:?}");
    }
}

async fn leads_to(scenario: &Scenario, to: &str, expected: &[&str]) {
    let explained = scenario.ok(&["explain", "--from", "east/web", "--to", to]).await;
    assert!(expected.iter().all(|text| explained.contains(text)), "{explained}");
}

async fn registry(scenario: &Scenario) {
    assert_eq!(get(scenario, "east/web", "http://unknown.example/", &[]).await.status, 502);
    assert_eq!(get(scenario, "east/web", REVIEWS, &[]).await.status, 200);
}

async fn strict(scenario: &Scenario) {
    let pod = scenario.fleet.pod("east/reviews-v1").unwrap_or_else(|error| panic!("{error}")).1;
    let address = SocketAddr::from((pod.ip, 9080));
    let plain = shoot(&Call::get(address, &format!("http://{address}/")).expect("a URL")).await;
    assert_eq!(plain.status, 0, "{plain:?}");
    assert_eq!(get(scenario, "east/web", REVIEWS, &[]).await.status, 200);
}

async fn tokens(scenario: &Scenario) {
    assert_eq!(get(scenario, "east/web", REVIEWS, &[]).await.status, 403, "no token");
    assert_eq!(scenario.shot("east/web", REVIEWS, &["authorization: Bearer nonsense"]).await.status, 401);
}

async fn allowed(scenario: &Scenario) {
    for (path, expected) in [("api/x", 200), ("users/1/reviews", 200), ("users/1/2/reviews", 403), ("", 403)] {
        assert_eq!(get(scenario, "east/web", &format!("{REVIEWS}{path}"), &[]).await.status, expected, "{path}");
    }
    assert_eq!(method(scenario, Method::POST, &format!("{REVIEWS}api/x")).await, 403);
    let tool = get(scenario, "east/tool", "http://reviews.default:9080/api/x", &[]).await;
    assert_eq!(tool.status, 403);
}

async fn denied(scenario: &Scenario) {
    assert_eq!(get(scenario, "east/web", REVIEWS, &[]).await.status, 200);
    assert_eq!(get(scenario, "east/web", REVIEWS, &["x-debug: 1"]).await.status, 403);
    assert_eq!(get(scenario, "east/tool", "http://reviews.default:9080/", &[]).await.status, 403);
}

async fn limited(scenario: &Scenario) {
    let mut call = scenario.call_from("east/web", "http://reviews:9080/reviews/1");
    call.method = Method::POST;
    let started = tokio::time::Instant::now();
    let statuses = tally(&volley(&call, 100, 10).await, |shot| shot.status);
    let served = statuses.get(&200).copied().unwrap_or(0);
    // A bucket at each of two endpoints: 20 at once, then 10 a second.
    let seconds = usize::try_from(started.elapsed().as_secs()).expect("a short test");
    let most = 2 * (20 + 10 * (seconds + 1));
    assert!(served >= 40.min(most) && served <= most && served + statuses[&429] == 100, "{statuses:?}");
    assert_eq!(shoot(&scenario.call_from("east/web", REVIEWS)).await.status, 200, "reading is not limited");
}
