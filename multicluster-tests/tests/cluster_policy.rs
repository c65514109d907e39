//! What a client notices of the division between clusters: overflow and the way back, weights, drains, leaving.

#![expect(clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::time::Duration;

use fleet::call::parse_url;
use fleet::load::{Load, Record, Running, summarize};
use multicluster_tests::{REVIEWS, Scenario, assert_only_in_flight_failed, assert_share, eventually, step};
use rustix::process::Signal;

/// The service in east and in west; north only calls it.
const FILE: &str = "\
name: policy
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    workloads:
      - {name: web, labels: {app: web}}
      - {name: reviews, labels: {app: reviews, version: v1}, export: true, ports: [{name: http, port: 9080, protocol: http}]}
  - name: west
    workloads:
      - {name: reviews, labels: {app: reviews, version: v1}, export: true, ports: [{name: http, port: 9080, protocol: http}]}
  - name: north
    workloads:
      - {name: web, labels: {app: web}}
";

const UP: Duration = Duration::from_secs(30);

fn load(scenario: &Scenario, workload: &str) -> Running {
    let url = parse_url(&format!("http://{REVIEWS}:9080/")).unwrap();
    Load { proxy: scenario.proxy(workload), url, rate: 100, duration: None, timeout: Duration::from_secs(10) }.start()
}

async fn run_for(running: &Running, seconds: u64) {
    let until = running.elapsed() + Duration::from_secs(seconds);
    while running.elapsed() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The share of a cluster among the requests that were due in a span, in percent.
fn share(records: &[Record], cluster: &str, from: Duration, to: Duration) -> f64 {
    let during: Vec<_> = records.iter().filter(|record| record.due >= from && record.due < to).collect();
    let of = during.iter().filter(|record| record.cluster == cluster).count();
    #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
    let share = of as f64 * 100.0 / during.len().max(1) as f64;
    share
}

fn policy(spec: &str) -> String {
    format!("apiVersion: isthmus.dev/v1alpha1\nkind: ClusterTrafficPolicy\nmetadata: {{name: reviews}}\nspec: {spec}\n")
}

async fn apply(scenario: &Scenario, cluster: &str, spec: &str) {
    let file = scenario.path().join("policy.yaml");
    std::fs::write(&file, policy(spec)).unwrap();
    scenario.ok(&["fleet", "apply", cluster, "-f", file.to_str().unwrap()]).await;
}

/// No request fails, whatever happens.
async fn without_a_failure(scenario: &Scenario, running: Running) -> Vec<Record> {
    let records = running.stop().await;
    let summary = summarize(&records);
    assert_eq!(summary.failed, 0, "{:?}\n{}", summary.errors, scenario.logs());
    println!("{} requests, none failed, longest {} ms", summary.requests, summary.longest_ms);
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_share_overflow_drain_and_leave_without_a_failed_request() {
    let scenario = Scenario::up(FILE).await;
    requests_leave_at_once_and_return_after_the_time(&scenario).await;
    weights_and_imports_are_as_the_policy_says(&scenario).await;
    a_drain_takes_its_share_away_and_undrain_gives_it_back(&scenario).await;
    a_cluster_leaves_while_it_is_called(&scenario).await;
}

async fn requests_leave_at_once_and_return_after_the_time(scenario: &Scenario) {
    step("overflow and hysteresis");
    apply(scenario, "east", "{services: [reviews], hysteresis: {returnAfter: 8s}}").await;
    let running = load(scenario, "east/web");
    run_for(&running, 2).await;
    let killed = running.elapsed();
    scenario.fleet.signal("east/reviews-1/sidecar", Signal::KILL).await.unwrap();
    let kill = killed..running.elapsed();
    run_for(&running, 3).await;
    let told = scenario.ok(&["explain", "--from", "east/web", "--to", "reviews.default:9080"]).await;
    assert!(told.contains("clusters  ClusterTrafficPolicy default/reviews: local-first"), "{told}");
    assert!(told.contains("now 0 % stay here"), "{told}");
    scenario.fleet.start("east/reviews-1/sidecar", UP).await.unwrap();
    let back = running.elapsed();
    // At most 12 s aside, then 8 s of health, and a margin for a slow machine.
    run_for(&running, 30).await;
    let end = running.elapsed();
    let records = running.stop().await;
    assert_only_in_flight_failed(&records, &kill, &scenario.logs());
    let first = |cluster: &str, from: Duration| {
        records.iter().filter(|it| it.due >= from && it.cluster == cluster).map(|it| it.due - from).min()
    };
    let away = first("west", killed).unwrap();
    // Single requests find out whether the endpoint works again; the others follow when it did for 8 s.
    let half_home = |second: &u64| {
        let from = back + Duration::from_millis(second * 500);
        share(&records, "east", from, from + Duration::from_millis(500)) > 90.0
    };
    let home = (0..60).find(half_home).map(|half| Duration::from_millis(half * 500)).unwrap();
    println!("the other cluster served after {away:?}; requests returned {home:?} after the sidecar was back");
    assert!(away < Duration::from_secs(1), "the other cluster served only after {away:?}");
    assert!(home >= Duration::from_secs(7), "requests returned after {home:?}, before the 8 s were over");
    assert!(share(&records, "east", end - Duration::from_secs(3), end) > 99.0, "all of them are back at the end");
}

async fn weights_and_imports_are_as_the_policy_says(scenario: &Scenario) {
    step("weights");
    apply(
        scenario,
        "north",
        "{mode: weighted, tiers: [{clusters: [{name: east, weight: 75}, {name: west, weight: 25}]}]}",
    )
    .await;
    let running = load(scenario, "north/web");
    run_for(&running, 20).await;
    let records = without_a_failure(scenario, running).await;
    let east = records.iter().filter(|record| record.cluster == "east").count();
    assert_share("to east", east, records.len(), 0.75);
    step("importFrom");
    apply(scenario, "north", "{importFrom: [west]}").await;
    let running = load(scenario, "north/web");
    run_for(&running, 2).await;
    let records = without_a_failure(scenario, running).await;
    assert!(records.iter().all(|record| record.cluster == "west"), "only what is imported is used");
    apply(scenario, "north", "{mode: weighted}").await;
}

async fn a_drain_takes_its_share_away_and_undrain_gives_it_back(scenario: &Scenario) {
    step("drain");
    let running = load(scenario, "north/web");
    let own = load(scenario, "east/web");
    run_for(&running, 2).await;
    scenario.ok(&["drain", "east", "--over", "10s"]).await;
    let begun = running.elapsed();
    run_for(&running, 5).await;
    // Nothing of it is forgotten by restarts.
    for process in ["hub-1", "north/agent"] {
        scenario.fleet.signal(process, Signal::KILL).await.unwrap();
        // Its files and ports are free only when the kernel has ended it.
        run_for(&running, 1).await;
        scenario.fleet.start(process, UP).await.unwrap();
    }
    eventually("east is drained", UP, async || {
        let told = scenario.json(&["clusters", "-o", "json"]).await;
        let east = told.as_array().and_then(|rows| rows.iter().find(|row| row["cluster"] == "east"));
        let drain = east.and_then(|row| row["drain"].as_str()).unwrap_or_default().to_owned();
        if drain.starts_with("drained") { Ok(()) } else { Err(drain) }
    })
    .await;
    run_for(&running, 4).await;
    let drained = running.elapsed();
    run_for(&running, 3).await;
    let undrained = running.elapsed();
    scenario.ok(&["undrain", "east"]).await;
    run_for(&running, 8).await;
    let end = running.elapsed();
    let records = without_a_failure(scenario, running).await;
    without_a_failure(scenario, own).await;
    let seconds = |from: Duration, seconds: u64| share(&records, "east", from, from + Duration::from_secs(seconds));
    let (before, falling) = (seconds(Duration::ZERO, 2), seconds(begun + Duration::from_secs(3), 4));
    let (after, again) = (seconds(drained, 3), share(&records, "east", end - Duration::from_secs(3), end));
    println!("east had {before:.0} %, {falling:.0} % in the middle, {after:.0} % drained, {again:.0} % undrained");
    println!("undrain was asked for at {undrained:?}");
    assert!(before > 30.0 && falling > 3.0 && falling < before, "the share falls slowly");
    assert!(after == 0.0, "a drained cluster gets nothing that another one can serve");
    assert!(again > 30.0, "and has its share again");
}

async fn a_cluster_leaves_while_it_is_called(scenario: &Scenario) {
    step("leave");
    let refused = scenario.fails(&["cluster", "leave", "south"]).await;
    assert!(refused.contains("cluster south is not a member"), "{refused}");
    let running = load(scenario, "north/web");
    run_for(&running, 2).await;
    let data = scenario.fleet.layout.agent("east");
    scenario.ok(&["cluster", "leave", "east", "--data", data.to_str().unwrap()]).await;
    run_for(&running, 6).await;
    let end = running.elapsed();
    let records = without_a_failure(scenario, running).await;
    assert!(share(&records, "west", end - Duration::from_secs(2), end) > 99.9, "nobody calls who has left");
    let clusters = scenario.ok(&["clusters"]).await;
    assert!(!clusters.contains("east"), "{clusters}");
    let gateway = scenario.json(&["gateways", "-o", "json"]).await.to_string();
    assert!(!gateway.contains("\"east\""), "{gateway}");
    step("who is the last to export a service leaves only by force");
    let refused = scenario.fails(&["cluster", "leave", "west"]).await;
    assert!(refused.contains("nobody but west exports default/reviews") && refused.contains("hint: "), "{refused}");
    scenario.ok(&["cluster", "leave", "west", "--force"]).await;
}
