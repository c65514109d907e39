//! Which of several places a request goes to: by share, by distance, by label, slowly to new endpoints; and how often it
//! is tried again.

use std::time::Duration;

use multicluster_tests::{Scenario, Shot, assert_at_most, assert_share, shoot, step, tally, volley};
use tokio::time::Instant;

/// `web` is in eu/eu-1/a; `shop` is there and at four other places; `flaky` fails when it is asked to.
const FLEET: &str = "
name: istio-localities
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web, version: v1}, locality: eu/eu-1/a}
      - {name: here, service: shop, serviceAccount: shop, labels: {app: shop, version: v2}, locality: eu/eu-1/a, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: zone, service: shop, serviceAccount: shop, labels: {app: shop, version: v2}, locality: eu/eu-1/b, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: region, service: shop, serviceAccount: shop, labels: {app: shop, version: v1}, locality: eu/eu-2/a, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: abroad, service: shop, serviceAccount: shop, labels: {app: shop, version: v1}, locality: us/us-1/a, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: far, service: shop, serviceAccount: shop, labels: {app: shop, version: v2}, locality: ap/ap-1/a, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: flaky, serviceAccount: flaky, labels: {app: flaky, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}
";

const SHOP: &str = "http://shop:9080/";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn localities_slow_starts_and_retry_budgets_have_their_effect() {
    let scenario = Scenario::up(FLEET).await;
    distribute(&scenario).await;
    priority(&scenario).await;
    failover(&scenario).await;
    warmup(&scenario).await;
    retry_budget(&scenario).await;
    what_the_service_says(&scenario).await;
}

/// A DestinationRule of `shop` with this `trafficPolicy`.
fn rule(policy: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: shop}}
spec: {{host: shop, trafficPolicy: {{{policy}}}}}
"
    )
}

/// Ejects at the first error and does not forgive while the test runs.
const EJECTS: &str =
    "outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 600s, maxEjectionPercent: 100}";

fn pod(shot: &Shot) -> (u16, String) {
    (shot.status, shot.answer.whoami.pod.trim_end_matches("-1").to_owned())
}

async fn distribute(scenario: &Scenario) {
    step("distribute: shares of localities; those without a share get nothing");
    let policy = "loadBalancer: {simple: RANDOM, localityLbSetting: {distribute: [
        {from: us/*, to: {ap/*: 100}},
        {from: eu/eu-1/*, to: {eu/eu-1/*: 70, eu/eu-2/*: 20, us/us-1/a: 10}}]}}";
    scenario.apply("east", &rule(policy)).await;
    let shots = volley(&scenario.call_from("east/web", SHOP), 1000, 20).await;
    let served = tally(&shots, pod);
    let count = |name: &str| served.get(&(200, name.to_owned())).copied().unwrap_or(0);
    assert_share("the own zone", count("here") + count("zone"), 1000, 0.7);
    assert_share("half of it the own subzone", count("here"), 1000, 0.35);
    assert_share("the own region", count("region"), 1000, 0.2);
    assert_share("the other region", count("abroad"), 1000, 0.1);
    assert_eq!(count("here") + count("zone") + count("region") + count("abroad"), 1000, "{served:?}");
    scenario.agrees("east/web", SHOP, &[]).await;
}

async fn priority(scenario: &Scenario) {
    step("failoverPriority: first those with the client's own labels");
    let policy = format!(
        "loadBalancer: {{localityLbSetting: {{failoverPriority: [version, topology.kubernetes.io/region]}}}}, {EJECTS}"
    );
    scenario.apply("east", &rule(&policy)).await;
    let shots = volley(&scenario.call_from("east/web", SHOP), 50, 5).await;
    assert_eq!(tally(&shots, pod), [((200, "region".to_owned()), 50)].into(), "v1 of the own region");
    scenario.agrees("east/web", SHOP, &[]).await;
}

async fn failover(scenario: &Scenario) {
    step("failover: subzone, zone, region, the region that is named, the others");
    let policy = format!("loadBalancer: {{localityLbSetting: {{failover: [{{from: eu, to: us}}]}}}}, {EJECTS}");
    scenario.apply("east", &rule(&policy)).await;
    let web = scenario.call_from("east/web", SHOP);
    for place in ["here", "zone", "region", "abroad", "far"] {
        let shots = volley(&web, 30, 3).await;
        assert_eq!(tally(&shots, pod), [((200, place.to_owned()), 30)].into());
        scenario.agrees("east/web", SHOP, &[]).await;
        scenario.control(&format!("east/{place}-1"), "fail/1000000/500").await;
        let failed = shoot(&web).await;
        assert_eq!(pod(&failed), (500, place.to_owned()), "one error ejects it");
    }
    for place in ["here", "zone", "region", "abroad", "far"] {
        scenario.control(&format!("east/{place}-1"), "fail/0/0").await;
    }
    step("without the rule nothing is ejected any more");
    assert_eq!(shoot(&web).await.status, 503, "every endpoint is ejected for ten minutes");
    scenario.delete("east", &rule(&policy)).await;
    assert_eq!(tally(&volley(&web, 20, 5).await, |shot| shot.status), [(200, 20)].into());
}

async fn what_the_service_says(scenario: &Scenario) {
    step("trafficDistribution of the Service: the nearest first, without any rule");
    let service = |annotations: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: shop, annotations: {{{annotations}}}}}\nspec: {{ports: [{{name: http, port: 9080}}]{spec}}}\n"
        )
    };
    let web = scenario.call_from("east/web", SHOP);
    assert!(tally(&volley(&web, 50, 5).await, pod).len() > 1, "without it everywhere");
    scenario.apply("east", &service("", ", trafficDistribution: PreferClose")).await;
    assert_eq!(tally(&volley(&web, 50, 5).await, pod), [((200, "here".to_owned()), 50)].into());
    scenario.agrees("east/web", SHOP, &[]).await;

    step("exportTo of the Service: other namespaces do not know it");
    scenario.apply("east", &service("networking.istio.io/exportTo: other", "")).await;
    let shot = scenario.agrees("east/web", SHOP, &[]).await;
    assert!(shot.status >= 500, "{shot:?}");
    scenario.apply("east", &service("networking.istio.io/exportTo: .", "")).await;
    assert_eq!(scenario.agrees("east/web", SHOP, &[]).await.status, 200);
}

/// How long a new endpoint takes to its full share.
const WARMUP: Duration = Duration::from_secs(5);

async fn warmup(scenario: &Scenario) {
    step("warmup: the share of a new endpoint grows");
    let endpoint = |pod: &str| {
        let at = scenario.application(pod);
        format!("{{address: {}, ports: {{http: {}}}}}", at.ip(), at.port())
    };
    let configuration = |endpoints: &str| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: warm}}
spec:
  hosts: [warm.example]
  location: MESH_EXTERNAL
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{endpoints}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: warm}}
spec:
  host: warm.example
  trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN, warmup: {{duration: {}s, minimumPercent: 10, aggression: 1}}}}}}
",
            WARMUP.as_secs()
        )
    };
    let (old, new) = (endpoint("east/here-1"), endpoint("east/zone-1"));
    scenario.apply("east", &configuration(&old)).await;
    let call = scenario.call_from("east/web", "http://warm.example/");
    assert_eq!(pod(&shoot(&call).await), (200, "here".to_owned()));
    scenario.apply("east", &configuration(&format!("{old}, {new}"))).await;
    // The sidecar meets the endpoint with the first request after the change, and its time begins.
    let met = Instant::now();
    let mut early = volley(&call, 1, 1).await;
    let surely_met = Instant::now();
    while met.elapsed() < WARMUP * 3 / 20 {
        early.extend(volley(&call, 10, 5).await);
    }
    let to_new = |shots: &[Shot]| shots.iter().filter(|shot| pod(shot) == (200, "zone".to_owned())).count();
    // Of the shots that ended in time none was decided later: a weight of at most 15 % beside one of 100 %.
    let most = (met.elapsed().as_secs_f64() / WARMUP.as_secs_f64()).max(0.1);
    assert_at_most("a new endpoint's first requests", to_new(&early), early.len(), most / (1.0 + most));
    tokio::time::sleep_until(surely_met + WARMUP).await;
    let late = volley(&call, 400, 5).await;
    assert_eq!(tally(&late, pod), [((200, "here".to_owned()), 200), ((200, "zone".to_owned()), 200)].into());
}

async fn retry_budget(scenario: &Scenario) {
    step("retryBudget: how many retries may run at a time");
    let routes = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: flaky}
spec:
  hosts: [flaky]
  http: [{retries: {attempts: 1, retryOn: 5xx}, route: [{destination: {host: flaky}}]}]
";
    let budget = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: flaky}
spec: {host: flaky, trafficPolicy: {retryBudget: {percent: 10, minRetryConcurrency: 2}}}
";
    let slow = Duration::from_millis(800);
    let headers = [format!("x-echo-delay: {}", slow.as_millis()), "x-echo-status: 500".to_owned()];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let call = scenario.with("east/web", "http://flaky:9080/", &headers);
    let tries = async || {
        let before = scenario.saw("east/flaky-1").await.requests;
        let started = Instant::now();
        let shots = volley(&call, 40, 40).await;
        assert_eq!(tally(&shots, |shot| shot.status), [(500, 40)].into());
        (scenario.saw("east/flaky-1").await.requests - before, started.elapsed())
    };
    scenario.apply("east", routes).await;
    assert_eq!(tries().await.0, 80, "without a budget each is repeated once");
    scenario.apply("east", budget).await;
    let (tried, took) = tries().await;
    // 10 % of 40 at a time, each for as long as the server is slow.
    let rounds = took.as_millis() / slow.as_millis() + 1;
    println!("{} retries in {took:?}", tried - 40);
    assert!(tried > 40 && u128::from(tried - 40) <= 4 * rounds, "{tried} tries in {took:?}");
}
