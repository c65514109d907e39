//! UDP blocked and back; addresses that change.

use fleet::load::summarize;
use multicluster_tests::{LongFlow, on_netns, step};
use tokio::time::{Instant, sleep};

use crate::gateways::until_transport;
use crate::story::{Budget, Phase, fault};
use crate::traffic::{Beside, Traffic, wan};
use crate::{FILE, alone, on_wan, secs};

/// New flows wait at most so long for a transport.
const LONGEST_MS: f64 = 3_000.0;

/// Flows that live when UDP is blocked wait for it; those that begin then go over TCP, to their end.
#[test]
fn udp_is_blocked_and_returns() {
    on_wan(async |scenario| {
        let mut traffic = Traffic::start(scenario, Beside::FlowsAndBulk).await;
        sleep(secs(2)).await;
        step("UDP blocked for 20 s: begins");
        let blocked = Instant::now();
        traffic.wan("block-udp=on");
        traffic.download();
        let begins = |flow: &LongFlow| flow.arrivals() >= 2;
        traffic.level("a download begun while UDP is blocked carries something", secs(20), begins).await;
        let begun_after = traffic.flows.last().and_then(|flow| flow.first_after(blocked)).unwrap_or_default();
        until_transport(scenario, "tcp", secs(20)).await;
        let fell_back = blocked.elapsed();
        sleep(secs(20).saturating_sub(blocked.elapsed())).await;
        traffic.wan("block-udp=off");
        let back = Instant::now();
        traffic.level("every flow goes on", secs(60), |flow| flow.first_after(back).is_some()).await;
        let went_on: Vec<_> =
            traffic.flows.iter().map(|flow| (flow.name, flow.first_after(back).unwrap_or_default())).collect();
        println!("UDP back: flows went on after {went_on:?}");
        let flows = went_on.iter().map(|(_, after)| *after).max().unwrap_or_default();
        until_transport(scenario, "quic", secs(30)).await;
        let returned = back.elapsed();
        sleep(secs(3)).await;
        traffic.assert_alive();
        let (begun, healed) = (traffic.due(blocked), traffic.due(back));
        let records = traffic.finish().await;
        let summary = summarize(records.iter().filter(|it| it.due >= begun));
        let settled = summarize(records.iter().filter(|it| it.due >= begun + secs(3) && it.due < healed));
        println!("UDP blocked: {summary:?}\nafter 3 s: {settled:?}");
        println!(
            "| UDP blocked for 20 s under way | 0 fail, none waits longer than 3 s, a download neither; back on QUIC within 30 s, no flow dropped, flows go on within 5 s | {} of {} fail, longest {:.0} ms, p99 on TCP {} ms, a download began after {:.1} s; on TCP after {:.1} s; back on QUIC after {:.1} s, flows {:.1} s |",
            summary.failed,
            summary.requests,
            summary.longest_ms,
            settled.p99_ms,
            begun_after.as_secs_f64(),
            fell_back.as_secs_f64(),
            returned.as_secs_f64(),
            flows.as_secs_f64(),
        );
        assert_eq!(summary.failed, 0, "{summary:?}\n{}", scenario.logs());
        assert!(begun_after <= secs(3), "a download waited {begun_after:?}");
        assert!(flows <= secs(5), "{went_on:?}");
        assert!(summary.longest_ms <= LONGEST_MS, "{summary:?}");
    });
}

#[test]
fn udp_is_blocked_from_the_start() {
    let file = FILE.replace("queue: 1mb}", "queue: 1mb, block-udp: true}");
    alone(|| {
        on_netns(&file, async |scenario| {
            let traffic = Traffic::start(scenario, Beside::FlowsAndBulk).await;
            let from = Instant::now();
            sleep(secs(5)).await;
            traffic.wan("block-udp=off");
            let back = Instant::now();
            until_transport(scenario, "quic", secs(30)).await;
            let returned = back.elapsed();
            sleep(secs(2)).await;
            traffic.assert_alive();
            let since = traffic.due(from);
            let summary = summarize(traffic.finish().await.iter().filter(|it| it.due >= since));
            println!(
                "| UDP blocked from the start, returns | 0 fail, p99 2,000 ms; on QUIC within 30 s, no flow dropped | {} of {} fail, p50 {} ms, p99 {} ms; on QUIC after {:.1} s |",
                summary.failed,
                summary.requests,
                summary.p50_ms,
                summary.p99_ms,
                returned.as_secs_f64()
            );
            assert_eq!(summary.failed, 0, "{summary:?}");
            assert!(summary.p99_ms <= 2_000.0, "{summary:?}");
        });
    });
}

#[test]
fn quick_a_nat_rebinds() {
    let file = FILE.replace("queue: 1mb}", "queue: 1mb, nat: {hides: east, addresses: [198.51.100.1, 198.51.100.2]}}");
    alone(|| {
        on_netns(&file, async |scenario| {
            for what in ["port", "address"] {
                let traffic = Traffic::start(scenario, Beside::FlowsAndBulk).await;
                let budget = Budget { failed_during: 0.0, avoided: None, requests: secs(5), flows: secs(5) };
                fault(&format!("NAT of east changes its {what}"), budget, traffic, secs(0), |traffic, phase| {
                    if phase == Phase::Fault {
                        rebind(traffic, what);
                    }
                })
                .await;
            }
            wan(scenario, "delay=40ms");
        });
    });
}

fn rebind(traffic: &Traffic<'_>, what: &str) {
    let link = traffic.scenario.fleet.wan("east", "west").expect("there is a link");
    let what = serde_json::from_value(serde_json::json!(what)).expect("port or address");
    traffic.scenario.fleet.ask_wan(link, &::wan::Request::Rebind { what }).expect("rebound");
}
