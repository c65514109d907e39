//! Processes that die, stand still, and are restarted in turn, under mixed load; a cluster that is drained.
//!
//! `cargo test -p isthmus-multicluster-tests --test netns_processes -- --nocapture --test-threads=1`, as root.
//! `ISTHMUS_KILL_ROUNDS=20` for the long loop, `ISTHMUS_SEED=…` to repeat an order.

#![expect(clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::time::Duration;

use multicluster_tests::{Mixed, REVIEWS, Scenario, Sent, eventually, on_netns, step};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

/// `east/web` calls, `west/reviews` serves; `north` serves too where it is said.
fn file(north: bool) -> String {
    let reviews = |replicas| {
        format!(
            "{{name: reviews, labels: {{app: reviews, version: v1}}, export: true, replicas: {replicas}, ports: [{{name: http, port: 9080, protocol: http}}, {{name: grpc, port: 9090, protocol: grpc}}, {{name: tcp, port: 9000, protocol: tcp}}]}}"
        )
    };
    let third = match north {
        true => format!("  - name: north\n    workloads:\n      - {}\n", reviews(1)),
        false => String::new(),
    };
    format!(
        "name: processes\nmesh: demo\nhub: {{nodes: 3}}\nclusters:\n  - name: east\n    gateways: 2\n    workloads:\n      - {{name: web, labels: {{app: web}}}}\n  - name: west\n    gateways: 2\n    workloads:\n      - {}\n{third}",
        reviews(2)
    )
}

const SECOND: Duration = Duration::from_secs(1);
/// After a fault, this long may requests fail and flows under way break.
const NOTICED: Duration = Duration::from_secs(2);
/// How long a stopped process stands still.
const STILL: Duration = Duration::from_secs(3);
/// A slow machine's share of every wait.
const MARGIN: Duration = Duration::from_secs(4);

/// What a fault may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Budget {
    /// Nothing: it is not on the data path.
    Nothing,
    /// What is under way through it; new requests may fail for two seconds, at most 1 % of them.
    UnderWay,
    /// Everything, until it is back: it is the client's own sidecar.
    Client,
}

async fn victims(scenario: &Scenario) -> Vec<(String, Budget)> {
    let leader = eventually("a leader", MARGIN * 4, async || scenario.hub_leader().await).await;
    let follower = if leader == "hub-1" { "hub-2" } else { "hub-1" };
    let named = [
        (leader.as_str(), Budget::Nothing),
        (follower, Budget::Nothing),
        ("east/agent", Budget::Nothing),
        ("west/agent", Budget::Nothing),
        ("east/dns", Budget::Nothing),
        ("east/gateway-1", Budget::UnderWay),
        ("west/gateway-2", Budget::UnderWay),
        ("west/reviews-1/sidecar", Budget::UnderWay),
        ("east/web-1/sidecar", Budget::Client),
    ];
    named.map(|(name, budget)| (name.to_owned(), budget)).into()
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// An order of victims, the same for the same seed.
fn seeded(what: &str) -> StdRng {
    let seed = variable("ISTHMUS_SEED").unwrap_or_else(|| rand::rng().random());
    println!(
        "REPRODUCE WITH: ISTHMUS_SEED={seed} cargo test -p isthmus-multicluster-tests --test netns_processes {what}"
    );
    StdRng::seed_from_u64(seed)
}

async fn fault(scenario: &Scenario, victim: &str, budget: Budget, signal: Signal) {
    let load = Mixed::start(scenario, "east/web", REVIEWS);
    load.run_for(SECOND).await;
    let from = load.elapsed();
    scenario.fleet.signal(victim, signal).await.unwrap();
    load.run_for(STILL).await;
    if signal == Signal::KILL {
        scenario.ok(&["fleet", "start", victim]).await;
    } else {
        scenario.fleet.signal(victim, Signal::CONT).await.unwrap();
    }
    let back = load.elapsed();
    load.run_for(2 * SECOND).await;
    let sent = load.stop().await;
    let what = format!("{} {victim}", if signal == Signal::KILL { "kill -9" } else { "SIGSTOP" });
    judge(&what, &sent, Fault { from, back, budget, still: signal == Signal::STOP });
}

struct Fault {
    from: Duration,
    back: Duration,
    budget: Budget,
    /// Whether it went on afterwards.
    still: bool,
}

fn judge(what: &str, sent: &Sent, fault: Fault) {
    let Fault { from, back, budget, still } = fault;
    let end = Duration::MAX;
    let until = match budget {
        Budget::Nothing => from,
        Budget::UnderWay => from + NOTICED,
        Budget::Client => back + SECOND,
    };
    let (soon, later) = (sent.failed_between(from, until), sent.failed_between(until, end));
    let due = sent.http.iter().filter(|record| record.due >= from && record.due < until).count();
    let slow = sent.http.iter().filter(|record| record.is_failed() || record.latency > SECOND / 2);
    let recovered =
        slow.map(|record| record.due + record.latency).max().map_or(Duration::ZERO, |end| end.saturating_sub(from));
    let longest = sent.longest(Duration::ZERO);
    let outside = sent.broken_outside(from, until);
    println!(
        "{what}: {} requests, {} failed ({later} later); {} flows, {} broke ({} not under way); longest {longest:.1?}, recovered after {recovered:.1?}",
        sent.http.len(),
        soon + later,
        sent.flows.len(),
        sent.broken(),
        outside.len()
    );
    for flow in sent.flows.iter().filter(|flow| flow.error.is_some()).take(5) {
        println!("    {flow:?}");
    }
    let errors = || fleet::load::summarize(&sent.http).errors;
    assert_eq!(later, 0, "{what}: {:?}", errors());
    assert!(outside.is_empty(), "{what}: flows broke that did not run through it: {outside:?}");
    match budget {
        Budget::Nothing => assert_eq!(sent.broken(), 0, "{what}: flows broke"),
        Budget::UnderWay => assert!(soon * 100 <= due, "{what}: {soon} of {due} failed: {:?}", errors()),
        Budget::Client => {}
    }
    let wait = if still && budget != Budget::Nothing { STILL + MARGIN } else { MARGIN };
    assert!(budget == Budget::Client || longest <= wait, "{what}: a request waited {longest:?}");
}

/// A short round: one of each budget, both signals.
#[test]
fn quick_faults_of_processes_cost_what_they_may() {
    let mut random = seeded("quick_faults");
    on_netns(&file(false), async |scenario| {
        let mut all = victims(scenario).await;
        all.shuffle(&mut random);
        for budget in [Budget::Nothing, Budget::UnderWay, Budget::Client] {
            let (victim, _) = all.iter().find(|(_, of)| *of == budget).unwrap();
            for signal in [Signal::KILL, Signal::STOP] {
                fault(scenario, victim, budget, signal).await;
            }
        }
    });
}

#[test]
fn every_kind_of_process_is_killed_and_stopped_in_rounds() {
    let mut random = seeded("every_kind");
    let rounds = variable("ISTHMUS_KILL_ROUNDS").unwrap_or(1);
    on_netns(&file(false), async |scenario| {
        for round in 1..=rounds {
            step(&format!("round {round} of {rounds}"));
            let mut all = victims(scenario).await;
            all.shuffle(&mut random);
            for (victim, budget) in all {
                for signal in [Signal::KILL, Signal::STOP] {
                    fault(scenario, &victim, budget, signal).await;
                }
            }
        }
    });
}

/// SIGTERM, the end, the successor; one after the other. Nothing fails but connections that outlive the drain time.
#[test]
fn quick_rolling_restarts_cost_no_request() {
    on_netns(&file(false), async |scenario| {
        let load = Mixed::start(scenario, "east/web", REVIEWS);
        load.run_for(SECOND).await;
        let names = [
            "east/gateway-1",
            "east/gateway-2",
            "west/gateway-1",
            "west/gateway-2",
            "west/reviews-1/sidecar",
            "west/reviews-2/sidecar",
        ];
        for name in names {
            let began = load.elapsed();
            let record = scenario.fleet.signal(name, Signal::TERM).await.unwrap();
            eventually(&format!("{name} ends"), 15 * SECOND, async || {
                if record.is_alive() { Err("it drains".to_owned()) } else { Ok(()) }
            })
            .await;
            let ended = load.elapsed();
            scenario.ok(&["fleet", "start", name]).await;
            println!("{name}: drained for {:.1?}, back after {:.1?}", ended - began, load.elapsed() - began);
            load.run_for(SECOND).await;
        }
        let sent = load.stop().await;
        let failed = sent.failed_between(Duration::ZERO, Duration::MAX);
        let broken: Vec<_> = sent.flows.iter().filter(|flow| flow.error.is_some()).collect();
        println!(
            "{} requests, {failed} failed, longest {:.1?}; {} flows, broken: {broken:?}",
            sent.http.len(),
            sent.longest(Duration::ZERO),
            sent.flows.len()
        );
        assert_eq!(failed, 0, "{:?}", fleet::load::summarize(&sent.http).errors);
        // A connection that never ends is cut when the drain time of 5 s is over; nothing else is.
        assert!(broken.iter().all(|flow| flow.kind.is_long()), "{broken:?}");
    });
}

#[test]
fn quick_a_drain_of_a_cluster_costs_no_request() {
    on_netns(&file(true), async |scenario| {
        let load = Mixed::start(scenario, "east/web", REVIEWS);
        load.run_for(2 * SECOND).await;
        let began = load.elapsed();
        scenario.ok(&["drain", "west", "--over", "5s"]).await;
        eventually("west is drained", 30 * SECOND, async || {
            let drain = scenario.cluster_row("west").await["drain"].as_str().unwrap_or_default().to_owned();
            if drain.starts_with("drained") { Ok(()) } else { Err(drain) }
        })
        .await;
        load.run_for(3 * SECOND).await;
        let drained = load.elapsed();
        load.run_for(2 * SECOND).await;
        let sent = load.stop().await;
        let served = |cluster: &str, from: Duration, until: Duration| {
            sent.http.iter().filter(|it| it.due >= from && it.due < until && it.cluster == cluster).count()
        };
        println!(
            "west served {} before, {} after the drain; {} requests, {} failed, {} of {} flows broke",
            served("west", Duration::ZERO, began),
            served("west", drained, Duration::MAX),
            sent.http.len(),
            sent.failed_between(Duration::ZERO, Duration::MAX),
            sent.broken(),
            sent.flows.len()
        );
        assert!(served("west", Duration::ZERO, began) > 0, "west served before");
        assert_eq!(served("west", drained, Duration::MAX), 0, "nothing is left for it");
        assert_eq!(
            sent.failed_between(Duration::ZERO, Duration::MAX),
            0,
            "{:?}",
            fleet::load::summarize(&sent.http).errors
        );
        assert_eq!(sent.broken(), 0, "live flows stay where they are");
    });
}
