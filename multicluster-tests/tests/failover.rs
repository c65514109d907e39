//! What a client notices when parts of the mesh die under load: nothing that could be avoided.

#![expect(clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::time::Duration;

use fleet::call::parse_url;
use fleet::load::{Load, Record, Running, recovery, summarize};
use multicluster_tests::{NEAR, NEAR_WORKLOAD, REVIEWS, Scenario, Undisturbed, assert_only_in_flight_failed};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

/// Two gateways a side, three voters, and the service in both clusters where `reviews_in_east` is set.
fn file(reviews_in_east: bool) -> String {
    let reviews = |replicas| {
        format!(
            "{{name: reviews, serviceAccount: reviews, labels: {{app: reviews, version: v1}}, export: true, replicas: {replicas}, ports: [{{name: http, port: 9080, protocol: http}}]}}"
        )
    };
    let east = if reviews_in_east { format!("      - {}\n", reviews(1)) } else { String::new() };
    format!(
        "name: failover\nmesh: demo\nhub: {{nodes: 3}}\nclusters:\n  - name: east\n    gateways: 2\n    workloads:\n      - {{name: web, serviceAccount: web, labels: {{app: web, version: v1}}}}\n      - {NEAR_WORKLOAD}\n{east}  - name: west\n    gateways: 2\n    workloads:\n      - {}\n",
        reviews(2)
    )
}

const RATE: u32 = 200;
/// Slower than this is a request that noticed something.
const SLOW: Duration = Duration::from_millis(500);
const UP: Duration = Duration::from_secs(30);

fn load(scenario: &Scenario) -> Running {
    let url = parse_url(&format!("http://{REVIEWS}:9080/")).unwrap();
    Load { proxy: scenario.proxy("east/web"), url, rate: RATE, duration: None, timeout: Duration::from_secs(10) }
        .start()
}

/// Requests that no fault touches.
fn undisturbed(scenario: &Scenario) -> Undisturbed {
    Undisturbed::start(scenario.proxy("east/web"), NEAR)
}

/// Lets the load run until so many seconds of it are over.
async fn run_for(running: &Running, seconds: u64) {
    let until = running.elapsed() + Duration::from_secs(seconds);
    while running.elapsed() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `machine` is how long requests wait that no fault touches.
#[track_caller]
fn assert_bars(what: &str, records: &[Record], killed: Duration, machine: Duration) {
    let judged = recovery(records, killed, SLOW);
    let summary = summarize(records);
    // An answer that had begun breaks off when its way is known to be dead for good: that may be when the gateway is back.
    let broken = |record: &&Record| record.is_failed() && record.due < killed;
    let before: Vec<_> = records.iter().filter(|record| record.due < killed).cloned().collect();
    assert_only_in_flight_failed(&before, &(killed..killed), what);
    let longest =
        records.iter().filter(|record| !broken(record)).map(|record| record.latency).max().unwrap_or_default();
    println!("{what}: {} requests, {} failed, longest {longest:?}, {judged:?}", summary.requests, summary.failed);
    let allowed = judged.requests_in_2s / 100;
    assert!(
        judged.failed_in_2s <= allowed,
        "{what}: {} of {} failed: {:?}",
        judged.failed_in_2s,
        judged.requests_in_2s,
        summary.errors
    );
    assert_eq!(judged.failed_later, 0, "{what}: {:?}", summary.errors);
    let limit = Duration::from_millis(2500) + machine;
    assert!(longest <= limit, "{what}: a request waited {longest:?}, not {limit:?} at most");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_or_hub_costs_next_to_nothing() {
    let scenario = Scenario::up(&file(false)).await;
    let running = load(&scenario);
    run_for(&running, 2).await;
    let hub_killed = running.elapsed();
    for node in 1..=3 {
        scenario.fleet.signal(&format!("hub-{node}"), Signal::KILL).await.unwrap();
    }
    run_for(&running, 4).await;
    let records = running.stop().await;
    let summary = summarize(records.iter().filter(|record| record.due >= hub_killed));
    assert_eq!(summary.failed, 0, "the hub is not on the data path: {:?}", summary.errors);

    for gateway in ["east/gateway-1", "west/gateway-2"] {
        let (running, near) = (load(&scenario), undisturbed(&scenario));
        run_for(&running, 2).await;
        let killed = running.elapsed();
        scenario.fleet.signal(gateway, Signal::KILL).await.unwrap();
        run_for(&running, 5).await;
        assert_bars(gateway, &running.stop().await, killed, near.stop().await);
        scenario.fleet.start(gateway, UP).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_endpoints_come_first_and_requests_go_away_and_back_without_loss() {
    let scenario = Scenario::up(&file(true)).await;
    let answer = scenario.get("9080/").await;
    assert_eq!(answer["cluster"], "east", "local first");
    let running = load(&scenario);
    run_for(&running, 1).await;
    let killed = running.elapsed();
    scenario.fleet.signal("east/reviews-1/sidecar", Signal::KILL).await.unwrap();
    let kill = killed..running.elapsed();
    run_for(&running, 3).await;
    let away = running.elapsed();
    run_for(&running, 1).await;
    scenario.fleet.start("east/reviews-1/sidecar", UP).await.unwrap();
    // The endpoint is tried again within seconds, up to 12 s, and must then be healthy for 5 s.
    run_for(&running, 20).await;
    let back = running.elapsed();
    run_for(&running, 2).await;
    let records = running.stop().await;
    assert_only_in_flight_failed(&records, &kill, &scenario.logs());
    let clusters = |from: Duration, to: Duration| -> Vec<String> {
        let during = records.iter().filter(|record| record.due >= from && record.due < to);
        let mut clusters: Vec<_> = during.map(|record| record.cluster.clone()).collect();
        clusters.sort();
        clusters.dedup();
        clusters
    };
    assert_eq!(clusters(away, away + Duration::from_secs(1)), ["west"], "everything went to the other cluster");
    assert_eq!(clusters(back, back + Duration::from_secs(2)), ["east"], "and came back");
}

/// Kills one process after the other under load, chosen by a seed. `ISTHMUS_KILL_ROUNDS=20` for the long loop,
/// `ISTHMUS_SEED=…` to repeat one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_traffic_goes_on() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = number("ISTHMUS_SEED").unwrap_or_else(|| rand::rng().random());
    let rounds = number("ISTHMUS_KILL_ROUNDS").unwrap_or(3);
    println!("REPRODUCE WITH: ISTHMUS_SEED={seed} ISTHMUS_KILL_ROUNDS={rounds} cargo test --test failover whatever");
    let mut random = StdRng::seed_from_u64(seed);
    let scenario = Scenario::up(&file(false)).await;
    let kinds: [&[&str]; 5] = [
        &["east/gateway-1", "east/gateway-2", "west/gateway-1", "west/gateway-2"],
        &["hub-1", "hub-2", "hub-3"],
        &["east/agent", "west/agent"],
        &["west/reviews-1/sidecar", "west/reviews-2/sidecar"],
        &["east/dns", "west/dns"],
    ];
    for round in 1..=rounds {
        for kind in kinds {
            let victim = kind.choose(&mut random).expect("a victim");
            let (running, near) = (load(&scenario), undisturbed(&scenario));
            run_for(&running, 1).await;
            let killed = running.elapsed();
            scenario.fleet.signal(victim, Signal::KILL).await.unwrap();
            run_for(&running, 3).await;
            scenario.fleet.start(victim, UP).await.unwrap();
            run_for(&running, 1).await;
            assert_bars(&format!("round {round}, {victim}"), &running.stop().await, killed, near.stop().await);
        }
    }
}
