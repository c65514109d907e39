//! What a WAN that loses packets costs UDP flows, as datagrams of QUIC and on streams.
//!
//! `cargo test -p isthmus-multicluster-tests --test netns_udp_loss -- --nocapture`, as root; not in CI, for it measures.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use multicluster_tests::{Scenario, on_netns, step, within};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

/// 80 ms there and back; 5 % are lost each way.
const FILE: &str = "
name: udp-loss
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    workloads:
      - {name: web, labels: {app: web, version: v1}}
  - name: west
    workloads:
      - {name: echo, ports: [{name: datagrams, port: 7, protocol: udp}], export: true}
wan: [{between: [east, west], delay: 40ms, loss: 5%}]
";
/// Echoes that are measured, 20 ms apart.
const MEASURED: u32 = 1000;

/// What fits waits for no datagram that was lost before it; on a stream it does. The rows are those of docs/benchmarks.md.
#[test]
fn lost_datagrams_delay_no_others() {
    on_netns(FILE, async |scenario| {
        let link = scenario.fleet.wan("east", "west").expect("there is a link");
        let status = scenario.fleet.ask_wan(link, &wan::Request::Show {}).expect("it answers");
        println!("seed of the emulator: {}", status.seed);
        let echo = scenario.resolve("east/web", "echo.default.svc.clusterset.local", 7).await;
        for congestion in ["wan", "cubic", "bbr"] {
            let mut measured = Vec::new();
            for (way, datagrams) in [("datagrams", true), ("streams", false)] {
                step(&format!("{congestion}, {way}"));
                scenario.set_tunnels(&format!("{{congestion: {congestion}, datagrams: {datagrams}}}")).await;
                measured.push(Measured::take(scenario, echo, &format!("{way}, {congestion}")));
            }
            let (datagrams, streams) = (&measured[0], &measured[1]);
            // Whether cubic has room for so much at this loss is a matter of luck.
            if congestion != "cubic" {
                assert!(datagrams.p99 < streams.p99, "{datagrams:?} {streams:?}");
                // Lost one way or the other: 9.75 %.
                assert!(datagrams.came >= MEASURED as usize * 80 / 100, "{datagrams:?}");
                assert!(streams.came >= MEASURED as usize * 95 / 100, "{streams:?}");
            }
        }
    });
}

#[derive(Debug)]
struct Measured {
    came: usize,
    p50: f64,
    p99: f64,
    longest: f64,
}

impl Measured {
    /// Sends echoes of 1,200 bytes from `east/web`, 50 a second.
    fn take(scenario: &Scenario, server: SocketAddr, way: &str) -> Self {
        let mut took = within(&scenario.fleet, "east/web-1", async || {
            // The flow is there, and the gateways know how long their packets may be.
            let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
            socket.connect(server).await.unwrap();
            let (started, mut took, mut answer) = (Instant::now(), vec![None; MEASURED as usize], vec![0; 2000]);
            let settled = Duration::from_secs(10);
            let due = |number: u32| started + Duration::from_millis(20) * number;
            let before = u32::try_from(settled.as_millis() / 20).unwrap();
            let mut next = 0;
            let last = due(before + MEASURED) + Duration::from_secs(5);
            while Instant::now() < last {
                tokio::select! {
                    () = sleep_until(due(next)), if next < before + MEASURED => {
                        let mut payload = vec![1; 1200];
                        payload[..4].copy_from_slice(&next.to_be_bytes());
                        let _ = socket.send(&payload).await;
                        next += 1;
                    }
                    Ok(_) = socket.recv(&mut answer) => {
                        let number = u32::from_be_bytes(answer[..4].try_into().unwrap());
                        if let Some(took) = number.checked_sub(before).and_then(|at| took.get_mut(at as usize)) {
                            *took = Some(due(number).elapsed().as_secs_f64() * 1000.0);
                        }
                    }
                    () = sleep_until(last) => {}
                }
            }
            took.into_iter().flatten().collect::<Vec<f64>>()
        });
        took.sort_by(f64::total_cmp);
        let at = |percent: usize| took.get((took.len() * percent / 100).min(took.len().saturating_sub(1))).copied();
        let value = |percent| at(percent).unwrap_or(f64::INFINITY);
        let measured = Self { came: took.len(), p50: value(50), p99: value(99), longest: value(100) };
        let Self { came, p50, p99, longest } = &measured;
        println!("| {way} | {came} of {MEASURED} | {p50:.1} ms | {p99:.1} ms | {longest:.1} ms |");
        measured
    }
}
