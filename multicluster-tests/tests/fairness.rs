//! One flow must not cost the others: a client that reads slowly, one that moves bulk, and very many at once, through two
//! sidecars and two gateways.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::time::Duration;

use fleet::load::{Load, Summary, summarize};
use multicluster_tests::{Flows, REVIEWS, SMALL, Scenario};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Small requests per second.
const RATE: u32 = 50;
/// The processes that a request passes.
const HOPS: [&str; 4] = ["east/web-1/sidecar", "east/gateway-1", "west/gateway-1", "west/reviews-1/sidecar"];
/// What each may grow by while it waits for a slow reader: windows and buffers of each hop, and generous room.
const GROWTH: u64 = 64 << 20;
/// What slow readers ask for.
const BODY: usize = 100 << 20;

/// Small requests for so long.
async fn small(scenario: &Scenario, seconds: u64) -> Summary {
    let load = Load {
        proxy: scenario.proxy("east/web"),
        url: format!("http://{REVIEWS}:9080/").parse().unwrap(),
        rate: RATE,
        duration: Some(Duration::from_secs(seconds)),
        timeout: Duration::from_secs(10),
    };
    let summary = summarize(&load.start().finish().await);
    assert_eq!(summary.failed, 0, "{summary:?}\n{}", scenario.logs());
    summary
}

/// Asks for many bytes on a connection of its own.
async fn ask(scenario: &Scenario, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(scenario.proxy("east/web")).await.unwrap();
    let request = format!("GET http://{REVIEWS}:9080/bytes/{bytes} HTTP/1.1\r\nhost: {REVIEWS}:9080\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Fails when the small requests suffer: `worse` is what the machine's own noise and fair shares may cost.
fn assert_served(what: &str, alone: &Summary, beside: &Summary, worse: f64) {
    println!(
        "{what}: p50 {:.1} ms, p99 {:.1} ms; alone p50 {:.1} ms, p99 {:.1} ms",
        beside.p50_ms, beside.p99_ms, alone.p50_ms, alone.p99_ms
    );
    let bound = (alone.p99_ms * worse).max(1000.0);
    assert!(beside.p99_ms < bound, "{what}: {beside:?}, alone {alone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flow_is_at_the_cost_of_the_others() {
    let scenario = Scenario::up(SMALL).await;
    scenario.get("9080/warm").await;
    let alone = small(&scenario, 4).await;

    // Slow readers: some KB a second of 100 MB each.
    let before = HOPS.map(|process| scenario.memory(process).resident);
    let readers: Vec<_> = futures(4, || ask(&scenario, BODY)).await;
    let dripping: Vec<_> = readers
        .into_iter()
        .map(|mut stream| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                let mut some = [0; 1024];
                while matches!(stream.read(&mut some).await, Ok(1..)) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                panic!("a slow reader was cut off");
            }))
        })
        .collect();
    let beside = small(&scenario, 6).await;
    for (process, before) in HOPS.iter().zip(before) {
        let peak = scenario.memory(process).peak;
        println!("{process}: {} MiB before, {} MiB at most", before >> 20, peak >> 20);
        assert!(peak.saturating_sub(before) < GROWTH, "{process} grew from {before} to {peak} bytes");
    }
    assert_served("beside 4 slow readers", &alone, &beside, 10.0);
    assert!(dripping.iter().all(|reader| !reader.is_finished()), "a slow reader was cut off");
    drop(dripping);

    // Bulk: as fast as it goes.
    let mut stream = ask(&scenario, 8 << 30).await;
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
    let beside = small(&scenario, 6).await;
    assert!(!stopped.is_cancelled(), "the bulk flow ended early");
    stop.cancel();
    let moved = bulk.await.unwrap() as f64 / 1e6 / begun.elapsed().as_secs_f64();
    println!("the bulk flow moved {moved:.0} MB/s");
    assert!(moved > 1.0, "the bulk flow hardly moves");
    assert_served("beside a bulk flow", &alone, &beside, 20.0);

    // Very many: all open at once, every one of them alive at the end.
    let flows = Flows { proxy: scenario.proxy("east/web"), target: format!("{REVIEWS}:9000"), count: 600, rate: 300 };
    let report = flows.run().await;
    println!("{report:?}");
    assert_eq!((report.failed, report.alive), (0, 600), "{report:?}\n{}", scenario.logs());
}

async fn futures<T, F: Future<Output = T>>(count: usize, make: impl Fn() -> F) -> Vec<T> {
    let mut made = Vec::new();
    for _ in 0..count {
        made.push(make().await);
    }
    made
}
