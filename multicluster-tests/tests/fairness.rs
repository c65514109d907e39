//! One flow must not cost the others: a client that reads slowly, one that moves bulk, and very many at once, through two
//! sidecars and two gateways.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::time::Duration;

use fleet::load::{Load, Summary, summarize};
use multicluster_tests::{Flows, NEAR, REVIEWS, Scenario, Undisturbed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// `web` calls `near` in its own cluster and `reviews` in the other one.
const FLEET: &str = "
name: fairness
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web, version: v1}}
      - {name: near, serviceAccount: near, labels: {app: near, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}
  - name: west
    gateways: 1
    workloads:
      - name: reviews
        serviceAccount: reviews
        labels: {app: reviews, version: v2}
        export: true
        ports: [{name: http, port: 9080, protocol: http}, {name: tcp, port: 9000, protocol: tcp}]
";
/// Small requests per second.
const RATE: u32 = 50;
/// The processes that a request passes.
const HOPS: [&str; 4] = ["east/web-1/sidecar", "east/gateway-1", "west/gateway-1", "west/reviews-1/sidecar"];
/// What each may grow by while it waits for slow readers: for each the window of 2 MiB between sidecars, in buffers of up to twice its size.
const GROWTH: u64 = (SLOW as u64) * (4 << 20);
/// What slow readers ask for, each.
const BODY: usize = 100 << 20;
/// How many they are: more than one shared connection holds of unread answers.
const SLOW: usize = 24;

/// Small requests for so long.
async fn small(scenario: &Scenario, host: &str, seconds: u64) -> Summary {
    let load = Load {
        proxy: scenario.proxy("east/web"),
        url: format!("http://{host}:9080/").parse().unwrap(),
        rate: RATE,
        duration: Some(Duration::from_secs(seconds)),
        timeout: Duration::from_secs(10),
    };
    let summary = summarize(&load.start().finish().await);
    assert_eq!(summary.failed, 0, "{summary:?}\n{}", scenario.logs());
    summary
}

/// Asks for many bytes on a connection of its own.
async fn ask(scenario: &Scenario, host: &str, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(scenario.proxy("east/web")).await.unwrap();
    let request = format!("GET http://{host}:9080/bytes/{bytes} HTTP/1.1\r\nhost: {host}:9080\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Small requests for so long, and what the machine alone makes requests wait meanwhile: by those to the other service, which share with
/// them the client and its sidecar.
async fn small_beside(scenario: &Scenario, host: &str, seconds: u64) -> (Summary, Duration) {
    let other = if host == NEAR { REVIEWS } else { NEAR };
    let undisturbed = Undisturbed::start(scenario.proxy("east/web"), other);
    let beside = small(scenario, host, seconds).await;
    (beside, undisturbed.stop().await)
}

/// Fails when the small requests suffer: `worse` is what fair shares may cost, beside what the machine makes all requests wait. Those that
/// waited for others would wait until they fail: a slow reader takes hours.
fn assert_served(what: &str, alone: &Summary, (beside, machine): &(Summary, Duration), worse: f64) {
    let bound = (alone.p99_ms * worse).max(1000.0) + machine.as_secs_f64() * 1e3;
    println!(
        "{what}: p50 {:.1} ms, p99 {:.1} ms of {bound:.0}; alone p50 {:.1} ms, p99 {:.1} ms",
        beside.p50_ms, beside.p99_ms, alone.p50_ms, alone.p99_ms
    );
    assert!(beside.p99_ms < bound, "{what}: {beside:?}, bound {bound}, alone {alone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flow_is_at_the_cost_of_the_others() {
    let scenario = Scenario::up(FLEET).await;
    scenario.get("9080/warm").await;
    let alone = small(&scenario, REVIEWS, 4).await;
    for host in [NEAR, REVIEWS] {
        slow_readers(&scenario, host, &alone).await;
    }

    // Bulk: as fast as it goes.
    let mut stream = ask(&scenario, REVIEWS, 8 << 30).await;
    let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
    let (ends, ended) = (stop.clone(), stopped.clone());
    let bulk = tokio::spawn(async move {
        let (mut moved, mut buffer) = (0_u64, vec![0; 256 * 1024]);
        let reading = async {
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                moved += read as u64;
            }
        };
        let _ = ends.run_until_cancelled(reading).await;
        ended.cancel();
        moved
    });
    let begun = tokio::time::Instant::now();
    let beside = small_beside(&scenario, REVIEWS, 6).await;
    assert!(!stopped.is_cancelled(), "the bulk flow ended early");
    stop.cancel();
    let moved = bulk.await.unwrap() as f64 / 1e6 / begun.elapsed().as_secs_f64();
    println!("the bulk flow moved {moved:.0} MB/s");
    assert!(moved > 1.0, "the bulk flow hardly moves");
    assert_served("beside a bulk flow", &alone, &beside, 20.0);

    very_many(&scenario).await;
}

/// All open at once, every one of them alive at the end: as many as `ISTHMUS_FLOWS` says, `ISTHMUS_FLOW_RATE` new ones a second.
async fn very_many(scenario: &Scenario) {
    telemetry::raise_descriptor_limit();
    let number = |name: &str, default: u32| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (count, rate) = (number("ISTHMUS_FLOWS", 600), number("ISTHMUS_FLOW_RATE", 300));
    let flows = Flows {
        proxy: scenario.proxy("east/web"),
        target: format!("{REVIEWS}:9000"),
        count: usize::try_from(count).unwrap(),
        rate,
    };
    let report = flows.run().await;
    println!("{count} flows, {rate} new ones a second: {report:?}");
    for process in HOPS {
        println!("{process}: {} MiB at most", scenario.memory(process).peak >> 20);
    }
    assert_eq!((report.failed, report.alive), (0, flows.count), "{report:?}\n{}", scenario.logs());
}

/// Some KB a second of 100 MB each, and small requests beside them.
async fn slow_readers(scenario: &Scenario, host: &str, alone: &Summary) {
    let before = HOPS.map(|process| scenario.memory(process).resident);
    let mut dripping = Vec::new();
    for _ in 0..SLOW {
        let mut stream = ask(scenario, host, BODY).await;
        dripping.push(AbortOnDropHandle::new(tokio::spawn(async move {
            let mut some = [0; 1024];
            while matches!(stream.read(&mut some).await, Ok(1..)) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })));
    }
    let beside = small_beside(scenario, host, 5).await;
    for (process, before) in HOPS.iter().zip(before) {
        let peak = scenario.memory(process).peak;
        println!("{process}: {} MiB before, {} MiB at most", before >> 20, peak >> 20);
        assert!(peak.saturating_sub(before) < GROWTH, "{process} grew from {before} to {peak} bytes");
    }
    assert_served(&format!("{host} beside {SLOW} slow readers"), alone, &beside, 10.0);
    assert!(dripping.iter().all(|reader| !reader.is_finished()), "a slow reader was cut off");
}
