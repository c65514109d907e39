//! Lossy links, long links, links with small packets.

use std::time::Duration;

use fleet::load::summarize;
use multicluster_tests::{Scenario, step};
use tokio::time::{Instant, sleep};

use crate::gateways::ejections;
use crate::on_wan;
use crate::traffic::{Beside, Traffic, wan};

/// How long each condition is measured.
const WINDOW: Duration = Duration::from_secs(10);

/// What small requests and a download must achieve under a condition that lasts.
struct Bar<'a> {
    name: &'a str,
    words: &'a str,
    /// Requests that may fail, in percent.
    failed: f64,
    /// 99th percentile of the latency.
    p99: Duration,
    /// Megabits per second of the download.
    goodput: f64,
    /// Connections that may be ejected while the condition lasts.
    ejections: u64,
}

/// Sets a condition, lets connections get used to it, and measures.
async fn lasting(scenario: &Scenario, bar: Bar<'_>) {
    step(bar.name);
    wan(scenario, bar.words);
    let traffic = Traffic::start(scenario, Beside::FlowsAndBulk).await;
    // What was measured before the change fades with a few round trips.
    sleep(WINDOW).await;
    let before = ejections(scenario).await;
    let from = Instant::now();
    sleep(WINDOW).await;
    let to = Instant::now();
    traffic.assert_alive();
    let goodput =
        traffic.flows.iter().filter(|flow| flow.name == "bulk").map(|flow| flow.goodput(from, to)).sum::<f64>();
    let gap = traffic.flows.iter().map(|flow| flow.longest_gap(from)).max().unwrap_or_default();
    let since = traffic.due(from);
    let records = traffic.finish().await;
    let summary = summarize(records.iter().filter(|record| record.due >= since));
    let ejected = ejections(scenario).await - before;
    println!(
        "| {} | {} % fail, p99 {} ms, bulk {} Mbit/s, {} ejections | {} of {} fail, p50 {} ms, p99 {} ms, bulk {goodput:.1} Mbit/s, longest pause of a flow {:.1} s, {ejected} ejections |",
        bar.name,
        bar.failed,
        bar.p99.as_millis(),
        bar.goodput,
        bar.ejections,
        summary.failed,
        summary.requests,
        summary.p50_ms,
        summary.p99_ms,
        gap.as_secs_f64(),
    );
    assert!(
        summary.failed as f64 <= summary.requests as f64 * bar.failed / 100.0,
        "{}: {:?}\n{}",
        bar.name,
        summary,
        scenario.logs()
    );
    assert!(summary.p99_ms <= bar.p99.as_secs_f64() * 1e3, "{}: {summary:?}", bar.name);
    assert!(goodput >= bar.goodput, "{}: {goodput} Mbit/s", bar.name);
    assert!(ejected <= bar.ejections, "{}: {ejected} ejections\n{}", bar.name, scenario.logs());
}

fn bar<'a>(name: &'a str, words: &'a str, p99_ms: u64) -> Bar<'a> {
    Bar { name, words, failed: 0.0, p99: Duration::from_millis(p99_ms), goodput: 0.1, ejections: 0 }
}

#[test]
fn packets_are_lost() {
    on_wan(async |scenario| {
        lasting(scenario, Bar { goodput: 10.0, ..bar("no loss", "loss=off", 1_000) }).await;
        lasting(scenario, Bar { goodput: 20.0, ..bar("loss 1 %", "loss=1%", 1_500) }).await;
        lasting(scenario, Bar { goodput: 10.0, ..bar("loss 3 %", "loss=3%", 2_000) }).await;
        lasting(scenario, Bar { goodput: 5.0, ..bar("loss 10 %", "loss=10%", 3_000) }).await;
        let worst = bar("loss 30 %", "loss=30%", 8_000);
        lasting(scenario, Bar { failed: 2.0, goodput: 0.0, ejections: 20, ..worst }).await;
    });
}

#[test]
fn round_trips_are_long() {
    on_wan(async |scenario| {
        for (name, words, p99) in [
            ("RTT 250 ms", "delay=125ms", 1_000),
            ("RTT 500 ms", "delay=250ms", 2_000),
            ("RTT 1,000 ms", "delay=500ms", 4_000),
            ("RTT 2,000 ms", "delay=1s", 8_000),
        ] {
            lasting(scenario, bar(name, words, p99)).await;
        }
    });
}

#[test]
fn large_packets_are_lost_in_silence() {
    on_wan(async |scenario| {
        for (name, words) in
            [("MTU 1,380, ICMP dropped", "mtu=1380 icmp=off"), ("MTU 1,280, ICMP dropped", "mtu=1280 icmp=off")]
        {
            lasting(scenario, Bar { goodput: 5.0, ..bar(name, words, 2_000) }).await;
        }
    });
}
