//! Small requests beside bulk.

use std::time::Duration;

use fleet::load::summarize;
use multicluster_tests::step;
use tokio::time::{Instant, sleep};

use crate::on_wan;
use crate::traffic::{Beside, Traffic, wan};

const WINDOW: Duration = Duration::from_secs(10);

#[test]
fn bulk_does_not_starve_small_requests() {
    on_wan(async |scenario| {
        for (name, words, least) in [
            ("bulk beside requests, 20 Mbit/s, 80 ms", "rate=20mbit queue=256kb", 4.0),
            ("bulk beside requests, 100 Mbit/s, 80 ms", "rate=100mbit queue=1mb", 10.0),
        ] {
            step(name);
            wan(scenario, words);
            let alone = Traffic::start(scenario, Beside::Nothing).await;
            sleep(WINDOW).await;
            let alone = summarize(&alone.finish().await);
            let traffic = Traffic::start(scenario, Beside::Bulk).await;
            // Slow start of the download is not what is measured.
            sleep(Duration::from_secs(3)).await;
            let from = Instant::now();
            sleep(WINDOW).await;
            traffic.assert_alive();
            let goodput = traffic.flows[0].goodput(from, Instant::now());
            let since = traffic.due(from);
            let records = traffic.finish().await;
            let beside = summarize(records.iter().filter(|record| record.due >= since));
            println!(
                "| {name} | 0 fail, p99 1,000 ms, bulk {least} Mbit/s | {} of {} fail, p50 {} ms, p99 {} ms (alone {} and {}), bulk {goodput:.1} Mbit/s |",
                beside.failed, beside.requests, beside.p50_ms, beside.p99_ms, alone.p50_ms, alone.p99_ms
            );
            assert_eq!(beside.failed, 0, "{name}: {beside:?}");
            // A machine that is busy otherwise makes both slow.
            assert!(beside.p99_ms <= f64::max(1_000.0, 2.0 * alone.p99_ms), "{name}: {beside:?}, alone {alone:?}");
            assert!(goodput >= least, "{name}: {goodput} Mbit/s");
        }
    });
}
