//! What is set is what `ping` and `iperf3` see.

use wan::{Drop, Side};

use crate::ground::{Ground, RIGHT, eventually};

/// Round trips in milliseconds, sorted.
fn pings(ground: &Ground, count: u32, interval: &str) -> Vec<f64> {
    let output = ground.exec(Side::Left, &format!("ping -n -c {count} -i {interval} -W 5 {RIGHT}"));
    let times = output.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok());
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times
}

fn middle(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

#[test]
fn ping_sees_the_delay_of_both_directions() {
    let ground = Ground::new("delay=40ms");
    let times = pings(&ground, 25, "0.05");
    println!("round trips: {times:?}");
    assert_eq!(times.len(), 25);
    assert!(times[0] >= 80.0, "no packet is early: {times:?}");
    assert!(middle(&times) <= 81.0, "{times:?}");
    ground.set("left-to-right delay=10ms");
    let times = pings(&ground, 5, "0.05");
    assert!((50.0..=51.0).contains(&times[0]), "the change took effect: {times:?}");
}

#[test]
fn a_bare_link_adds_less_than_a_third_of_a_millisecond() {
    let ground = Ground::new("");
    let times = pings(&ground, 200, "0.005");
    println!("round trip over a bare link: median {} ms, worst {} ms", middle(&times), times[times.len() - 1]);
    assert!(middle(&times) / 2.0 < 0.3, "{times:?}");
}

#[test]
fn iperf_sees_the_loss() {
    let ground = Ground::new("");
    let (report, before) = std::thread::scope(|scope| {
        // 500 packets a second: the kernel's queues hold those of half a second, should the machine have no time for anybody.
        let running = scope.spawn(|| ground.iperf("-u -b 800K -l 200 -t 4"));
        // iperf3 waits in vain for an answer to its first datagram if that is lost.
        eventually("datagrams flow", || (ground.status().left_to_right.received.packets > 100).then_some(()));
        let before = ground.set("left-to-right loss=10%").left_to_right.received.packets;
        (running.join().unwrap(), before)
    });
    let sum = &report["end"]["sum"];
    let (lost, sent) = (sum["lost_packets"].as_f64().unwrap(), sum["packets"].as_f64().unwrap() - before as f64);
    println!("lost {lost} of {sent}");
    let bound = 7.0 * (sent * 0.1 * 0.9).sqrt();
    assert!(sent > 1_000.0 && (lost - sent * 0.1).abs() < bound, "lost {lost} of {sent}, expected a tenth ± {bound}");
}

#[test]
fn iperf_sees_the_rate() {
    let ground = Ground::new("left-to-right rate=20mbit");
    let goodput = |words: &str, end: &str| ground.iperf(words)["end"][end]["bits_per_second"].as_f64().unwrap() / 1e6;
    // Of 1,500 bytes that the rate counts, 28 are headers of IP and UDP. More is offered than fits.
    let (received, expected) = (goodput("-u -b 40M -l 1472 -O 1 -t 3", "sum_received"), 20.0 * 1472.0 / 1500.0);
    println!("UDP: {received} Mbit/s of payload, expected {expected}");
    assert!((received - expected).abs() < expected * 0.05, "{received} Mbit/s, expected {expected}");
    // TCP backs off when the queue overflows, so it stays below; 52 bytes are headers.
    let (received, expected) = (goodput("-O 1 -t 4", "sum_received"), 20.0 * 1448.0 / 1500.0);
    println!("TCP: {received} Mbit/s of payload, at most {expected}");
    assert!(received < expected * 1.05 && received > expected * 0.85, "{received} Mbit/s, expected {expected}");
    let counters = ground.status().left_to_right;
    assert!(counters.add_up(), "{counters:?}");
    assert_eq!(counters.dropped(Drop::Device), Default::default());
}

/// A low bar that any build on any machine passes; docs/benchmarks.md has the figures.
#[test]
fn bulk_flows_fast_when_nothing_is_set() {
    let ground = Ground::new("");
    let report = ground.iperf("-t 2");
    let received = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap() / 1e6;
    println!("{received} Mbit/s; {:?}", ground.status());
    assert!(received > 200.0, "{received} Mbit/s");
}
