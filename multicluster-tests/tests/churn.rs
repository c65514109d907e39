//! Configuration changes under load: no request fails because of them, and memory returns to where it was.
//!
//! `ISTHMUS_CHANGES=10000 cargo test -p isthmus-multicluster-tests --test churn -- --nocapture` for the long run.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fleet::call::parse_url;
use fleet::load::{Load, Running, summarize};
use multicluster_tests::{Scenario, step};
use serde_json::{Value, json};

const FLEET: &str = "
name: churn
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web}}
      - {name: reviews-v1, service: reviews, serviceAccount: reviews, labels: {app: reviews, version: v1}, export: true, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: reviews-v2, service: reviews, serviceAccount: reviews, labels: {app: reviews, version: v2}, export: true, ports: [{name: http, port: 9080, protocol: http}]}
  - name: west
    gateways: 1
    workloads:
      - {name: far, serviceAccount: far, labels: {app: far, version: v1}, export: true, ports: [{name: http, port: 9080, protocol: http}]}
";

/// Objects that change with each write.
const EACH: usize = 50;
/// Requests a second, to each of the two services.
const RATE: u32 = 100;
/// Memory that a process may keep beyond what it had, MiB: caches and fragments, not one copy per change.
const SLACK: f64 = 8.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_because_of_a_change() {
    let changes = std::env::var("ISTHMUS_CHANGES").ok().and_then(|text| text.parse().ok()).unwrap_or(500_usize);
    let scenario = Scenario::up(FLEET).await;
    let loads = ["http://reviews:9080/", "http://far.default.svc.clusterset.local:9080/"];
    let running: Vec<Running> = loads.iter().map(|url| load(&scenario, url)).collect();

    step("warm");
    let rounds = changes.div_ceil(EACH);
    for round in 0..4 {
        change(&scenario, round).await;
    }
    clear(&scenario).await;
    let before = memory(&scenario);

    step(&format!("{rounds} writes of {EACH} changed objects"));
    let started = Instant::now();
    for round in 0..rounds {
        change(&scenario, round).await;
    }
    let took = started.elapsed();
    clear(&scenario).await;
    let after = memory(&scenario);
    for (url, running) in loads.iter().zip(running) {
        let summary = summarize(&running.stop().await);
        println!("{url}: {} requests, {} failed, p99 {} ms", summary.requests, summary.failed, summary.p99_ms);
        assert_eq!(summary.failed, 0, "{url}: {:?}", summary.errors);
    }
    println!("{} changes in {:.1} s", rounds * EACH, took.as_secs_f64());
    for (process, before) in &before {
        let after = after[process];
        println!("{process}: {before:.1} MiB before, {after:.1} MiB after");
        assert!(after <= before * 1.1 + SLACK, "{process} kept memory: {before:.1} MiB before, {after:.1} MiB after");
    }
}

fn load(scenario: &Scenario, url: &str) -> Running {
    let url = parse_url(url).expect("a URL");
    let timeout = Duration::from_secs(10);
    Load { proxy: scenario.proxy("east/web"), url, rate: RATE, duration: None, timeout }.start()
}

/// One write: every object of the set changes, and every proxy has it before the next one.
async fn change(scenario: &Scenario, round: usize) {
    let directory = scenario.fleet.layout.manifests("east");
    let applied = fleet::manifests::apply(&directory, &objects(round)).expect("the manifests are writable");
    let changed = applied.iter().filter(|applied| applied.action != "unchanged").count();
    assert_eq!(changed, EACH, "every object changes in round {round}");
    scenario.settle("east").await;
}

async fn clear(scenario: &Scenario) {
    let directory = scenario.fleet.layout.manifests("east");
    fleet::manifests::delete(&directory, &objects(0)).expect("the manifests are writable");
    scenario.settle("east").await;
}

/// Routes, destinations, entries and policies, with something of the round in each.
fn objects(round: usize) -> Vec<Value> {
    let mut objects = vec![
        istio(
            "VirtualService",
            "reviews",
            json!({
                "hosts": ["reviews"],
                "http": [
                    {"match": [{"headers": {"x-round": {"exact": round.to_string()}}}], "fault": {"abort": {"percentage": {"value": 100}, "httpStatus": 500}},
                     "route": [{"destination": {"host": "reviews"}}]},
                    {"timeout": format!("{}s", 20 + round % 7), "headers": {"request": {"set": {"x-round": round.to_string()}}}, "route": [
                        {"destination": {"host": "reviews", "subset": "v1"}, "weight": round % 100},
                        {"destination": {"host": "reviews", "subset": "v2"}, "weight": 100 - round % 100},
                    ]},
                ],
            }),
        ),
        istio(
            "DestinationRule",
            "reviews",
            json!({
                "host": "reviews",
                "trafficPolicy": {
                    "loadBalancer": {"simple": if round.is_multiple_of(2) { "ROUND_ROBIN" } else { "RANDOM" }},
                    "connectionPool": {"tcp": {"maxConnections": 1000 + round}},
                },
                "subsets": [{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}],
            }),
        ),
        istio(
            "VirtualService",
            "far",
            json!({
                "hosts": ["far.default.svc.clusterset.local"],
                "http": [{"headers": {"response": {"set": {"x-round": round.to_string()}}}, "route": [{"destination": {"host": "far.default.svc.clusterset.local"}}]}],
            }),
        ),
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "reviews", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "reviews"}}, "action": "DENY",
                     "rules": [{"to": [{"operation": {"paths": [format!("/denied/{round}")]}}]}]},
        }),
    ];
    for number in 0..(EACH - objects.len()) / 2 {
        let host = format!("host-{number}.example");
        let ip = format!("10.{}.{}.{number}", round / 250 % 250, round % 250);
        objects.push(istio(
            "ServiceEntry",
            &format!("host-{number}"),
            json!({
                "hosts": [host], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "resolution": "STATIC",
                "endpoints": [{"address": ip}],
            }),
        ));
        objects.push(istio("VirtualService", &format!("host-{number}"), json!({
            "hosts": [host],
            "http": [{"match": [{"uri": {"prefix": format!("/{round}")}}], "route": [{"destination": {"host": host}}]}],
        })));
    }
    objects
}

fn istio(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

/// Resident memory of Isthmus' own processes, MiB.
fn memory(scenario: &Scenario) -> BTreeMap<String, f64> {
    let ours = scenario.fleet.plan().processes().into_iter().filter(|process| !process.name.ends_with("/app"));
    let resident = |name: String| {
        let record = scenario.fleet.record(&name)?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", record.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse().ok()?;
        Some((name, kib / 1024.0))
    };
    ours.filter_map(|process| resident(process.name)).collect()
}
