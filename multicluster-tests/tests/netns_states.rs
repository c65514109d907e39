//! Clusters that are dead, stale, back, or gone, and what clients notice; failover, its tiers and its cap.
//!
//! `cargo test -p isthmus-multicluster-tests --test netns_states -- --nocapture --test-threads=1`, as root.

#![expect(clippy::unwrap_used, clippy::panic, reason = "whatever fails here is a failed test")]

use std::time::Duration;

use fleet::call::parse_url;
use fleet::load::{Load, Record, Running, summarize};
use multicluster_tests::{Mixed, REVIEWS, Scenario, assert_share, eventually, on_netns, step};
use rustix::process::Signal;

const FILE: &str = "
name: states
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    workloads:
      - {name: web, labels: {app: web}}
  - name: west
    workloads:
      - name: reviews
        labels: {app: reviews, version: v1}
        export: true
        ports: &ports [{name: http, port: 9080, protocol: http}, {name: grpc, port: 9090, protocol: grpc}, {name: tcp, port: 9000, protocol: tcp}]
      - {name: ledger, labels: {app: ledger, version: v1}, export: true, ports: *ports}
  - name: north
    workloads:
      - {name: reviews, labels: {app: reviews, version: v1}, export: true, ports: *ports}
";

const SECOND: Duration = Duration::from_secs(1);
const BETWEEN_CLUSTERS: [&str; 2] = ["iifname \"wan*\"", "oifname \"wan*\""];

fn load(scenario: &Scenario) -> Running {
    let url = parse_url(&format!("http://{REVIEWS}:9080/")).unwrap();
    Load { proxy: scenario.proxy("east/web"), url, rate: 100, duration: None, timeout: 10 * SECOND }.start()
}

async fn state(scenario: &Scenario, cluster: &str, wanted: &str, within: Duration) {
    eventually(&format!("{cluster} is {wanted}"), within, async || {
        let row = scenario.cluster_row(cluster).await;
        if row["state"] == wanted { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
}

/// The value of a series of `east/gateway-1`, which must be there.
async fn metric(scenario: &Scenario, series: &str) -> f64 {
    let gateway = scenario.fleet.cluster("east").unwrap().gateways[0].ip;
    let (_, text) = fleet::http::get((gateway, 15020).into(), "/metrics", 5 * SECOND).await.unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.unwrap_or_else(|| panic!("{series} is not among\n{text}")).trim().parse().unwrap()
}

/// The address of every service.
async fn addresses(scenario: &Scenario) -> Vec<(String, String)> {
    let rows = scenario.json(&["services", "-o", "json"]).await;
    let row = |row: &serde_json::Value| (row["service"].to_string(), row["address"].to_string());
    rows.as_array().unwrap().iter().map(row).collect()
}

async fn warned(scenario: &Scenario, state: &str) {
    let output = scenario.hubctl(&["check"]).await;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let warning = said.lines().find(|line| line.contains("west") && line.contains(state));
    println!("hubctl check: {}", warning.unwrap_or_else(|| panic!("no warning that west is {state}:\n{said}")).trim());
}

fn by(cluster: &str, records: &[Record], from: Duration, until: Duration) -> usize {
    records.iter().filter(|it| it.due >= from && it.due < until && it.cluster == cluster).count()
}

/// Requests that were due and answered within a span: what was due just before its end may have been sent on after it.
fn answered_by(cluster: &str, records: &[Record], from: Duration, until: Duration) -> usize {
    records.iter().filter(|it| it.due >= from && it.due + it.latency < until && it.cluster == cluster).count()
}

fn failed(records: &[Record], from: Duration, until: Duration) -> usize {
    records.iter().filter(|it| it.due >= from && it.due < until && it.is_failed()).count()
}

#[test]
fn quick_a_dead_cluster_is_used_by_nobody_and_returns_as_it_was() {
    on_netns(FILE, async |scenario| {
        let before = addresses(scenario).await;
        let running = load(scenario);
        tokio::time::sleep(2 * SECOND).await;
        let cut = running.elapsed();
        scenario.cut("west/fabric", &BETWEEN_CLUSTERS).await;
        state(scenario, "west", "dead", 40 * SECOND).await;
        let dead = running.elapsed();
        println!("shown as dead {:.1?} after it was cut off", dead - cut);
        warned(scenario, "dead").await;
        assert_eq!(metric(scenario, "isthmus_cluster_state{cluster=\"west\",state=\"dead\"}").await, 1.0);
        let row = scenario.cluster_row("west").await;
        assert_eq!((row["exports"].as_u64(), row["gateways"].as_u64()), (Some(2), Some(1)), "nothing is erased: {row}");
        assert_eq!(addresses(scenario).await, before);
        let healed = running.elapsed();
        scenario.heal("west/fabric").await;
        tokio::time::sleep(8 * SECOND).await;
        state(scenario, "west", "live", 10 * SECOND).await;
        assert_eq!(addresses(scenario).await, before, "addresses never change");
        let records = running.stop().await;
        let used_again = records.iter().find(|it| it.due >= healed && it.cluster == "west").map(|it| it.due - healed);
        let (noticed, later) =
            (failed(&records, Duration::ZERO, cut + 2 * SECOND), failed(&records, cut + 2 * SECOND, Duration::MAX));
        println!(
            "{} requests, {noticed} failed within 2 s of the cut, {later} later; west served {} before, {} while cut off; used again after {used_again:.1?}",
            records.len(),
            by("west", &records, Duration::ZERO, cut),
            answered_by("west", &records, cut + 2 * SECOND, healed)
        );
        assert!(by("west", &records, Duration::ZERO, cut) > 0);
        assert_eq!(answered_by("west", &records, cut + 2 * SECOND, healed), 0, "nobody uses it");
        assert_eq!(later, 0, "{:?}", summarize(&records).errors);
        assert!(used_again.is_some_and(|time| time < 5 * SECOND), "used again after {used_again:?}");
    });
}

#[test]
fn a_stale_cluster_is_used_and_its_age_shown() {
    on_netns(FILE, async |scenario| {
        let hub = scenario.fleet.plan().hub[0].ip;
        let running = load(scenario);
        tokio::time::sleep(SECOND).await;
        scenario.cut("west/fabric", &[&format!("ip daddr {hub}")]).await;
        state(scenario, "west", "stale", 40 * SECOND).await;
        let stale = running.elapsed();
        warned(scenario, "stale").await;
        let row = scenario.cluster_row("west").await;
        assert!(row["lease"].as_str().unwrap().starts_with("stale since"), "{row}");
        tokio::time::sleep(3 * SECOND).await;
        let age = metric(scenario, "isthmus_cluster_stale_seconds{cluster=\"west\"}").await;
        println!("announcements are {age} s old; hubctl clusters: {}", row["lease"]);
        assert!(age >= 1.0, "{age}");
        let healed = running.elapsed();
        scenario.heal("west/fabric").await;
        state(scenario, "west", "live", 20 * SECOND).await;
        println!("live {:.1?} after healing", running.elapsed() - healed);
        let records = running.stop().await;
        assert_eq!(failed(&records, Duration::ZERO, Duration::MAX), 0, "{:?}", summarize(&records).errors);
        assert!(by("west", &records, stale, healed) > 0, "a stale cluster is used");
    });
}

#[test]
fn quick_connections_end_within_5_s_of_a_leave() {
    on_netns(FILE, async |scenario| {
        let load = Mixed::start(scenario, "east/web", "ledger.default.svc.clusterset.local");
        load.run_for(2 * SECOND).await;
        let refused = scenario.fails(&["cluster", "leave", "west"]).await;
        assert!(refused.contains("hint: "), "{refused}");
        let asked = load.elapsed();
        scenario.ok(&["cluster", "leave", "west", "--force"]).await;
        let left = load.elapsed();
        load.run_for(6 * SECOND).await;
        let end = load.elapsed();
        let sent = load.stop().await;
        let long = sent.flows.iter().filter(|flow| flow.kind.is_long() && flow.began < asked);
        let ended: Vec<_> = long.map(|flow| flow.ended).collect();
        let after: Vec<_> = ended.iter().map(|ended| ended.saturating_sub(left)).collect();
        println!("leave took {:.1?}; connections that were open ended {after:.1?} after it", left - asked);
        assert!(!ended.is_empty() && after.iter().all(|after| *after < 5 * SECOND), "{after:?}");
        let answered =
            sent.http.iter().filter(|it| it.due >= left + 5 * SECOND && it.due < end && !it.is_failed()).count();
        assert_eq!(answered, 0, "who has left answers nobody");
    });
}

/// Two local endpoints, west before north.
const FAILOVER: &str = "
name: failover
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    workloads:
      - {name: web, labels: {app: web}}
      - {name: reviews, replicas: 2, labels: {app: reviews, version: v1}, export: true, ports: &ports [{name: http, port: 9080, protocol: http}]}
  - name: west
    workloads:
      - {name: reviews, labels: {app: reviews, version: v1}, export: true, ports: *ports}
  - name: north
    workloads:
      - {name: reviews, labels: {app: reviews, version: v1}, export: true, ports: *ports}
";

const POLICY: &str = "apiVersion: isthmus.dev/v1alpha1\nkind: ClusterTrafficPolicy\nmetadata: {name: reviews}\nspec: {services: [reviews], \
    tiers: [{clusters: [{name: west}]}, {clusters: [{name: north}]}], overflow: {healthyPercent: 100}, \
    hysteresis: {returnAfter: 6s, healthyPercent: 100}, cap: {maxSharePercent: 30}}\n";

#[test]
fn failover_keeps_its_cap_its_tiers_and_its_way_back() {
    on_netns(FAILOVER, async |scenario| {
        let path = scenario.path().join("policy.yaml");
        std::fs::write(&path, POLICY).unwrap();
        scenario.ok(&["fleet", "apply", "east", "-f", path.to_str().unwrap()]).await;
        let running = load(scenario);
        tokio::time::sleep(2 * SECOND).await;
        step("one of two local endpoints: half would leave, the cap lets 30 % go");
        let half = running.elapsed();
        scenario.fleet.signal("east/reviews-1/sidecar", Signal::KILL).await.unwrap();
        tokio::time::sleep(22 * SECOND).await;
        step("no local endpoint: all of it leaves, to the first tier");
        let none = running.elapsed();
        scenario.fleet.signal("east/reviews-2/sidecar", Signal::KILL).await.unwrap();
        tokio::time::sleep(4 * SECOND).await;
        step("the first tier has none either: the second serves");
        let second = running.elapsed();
        scenario.fleet.signal("west/reviews-1/sidecar", Signal::KILL).await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
        step("back");
        scenario.ok(&["fleet", "start", "east/reviews-1/sidecar"]).await;
        scenario.ok(&["fleet", "start", "east/reviews-2/sidecar"]).await;
        let back = running.elapsed();
        tokio::time::sleep(30 * SECOND).await;
        let end = running.elapsed();
        let records = running.stop().await;
        let first = |cluster: &str, from: Duration| {
            records.iter().find(|it| it.due >= from && it.cluster == cluster).map(|it| it.due - from).unwrap()
        };
        let window = |from, until| {
            let of = |cluster| by(cluster, &records, from, until);
            (of("east"), of("west"), of("north"))
        };
        let capped = window(half + 2 * SECOND, none);
        println!(
            "capped at 30 %: {capped:?} (east, west, north); all gone: {:?}; second tier: {:?}; at the end: {:?}",
            window(none + SECOND, second),
            window(second + 2 * SECOND, back),
            window(end - 3 * SECOND, end)
        );
        println!(
            "west served all after {:.2?}, north after {:.2?}, half of the requests are home {:?} after the sidecars",
            last("east", &records, none, second),
            first("north", second),
            home(&records, back)
        );
        assert_eq!(failed(&records, Duration::ZERO, Duration::MAX), 0, "{:?}", summarize(&records).errors);
        assert_share("west, capped", capped.1, capped.0 + capped.1 + capped.2, 0.30);
        assert_eq!(capped.2, 0, "the second tier is not used while the first can serve");
        assert!(last("east", &records, none, second) < SECOND, "remote serves in less than a second");
        assert!(first("north", second) < SECOND);
        let (_, west, north) = window(end - 3 * SECOND, end);
        assert_eq!((west, north), (0, 0), "everything is home");
        let home = home(&records, back).unwrap();
        assert!(home >= 5 * SECOND, "home after {home:?}, before the 6 s were over");
    });
}

/// How long after `from` a cluster still served.
fn last(cluster: &str, records: &[Record], from: Duration, until: Duration) -> Duration {
    let served = records.iter().filter(|it| it.due >= from && it.due < until && it.cluster == cluster);
    served.map(|it| it.due - from).max().unwrap_or_default()
}

/// When most requests of half a second were local again.
fn home(records: &[Record], back: Duration) -> Option<Duration> {
    let half = SECOND / 2;
    (0..60).map(|n| half * n).find(|at| {
        let (from, until) = (back + *at, back + *at + half);
        by("east", records, from, until) > 45
    })
}
