//! What becomes of single packets.

use super::*;

/// What happens to `packet` from the left, in words.
fn check(words: &str, packet: Vec<u8>, expect: &str) {
    let mut bench = Bench::new(words, 7);
    let length = packet.len();
    bench.send(Side::Left, packet);
    bench.pass(HOUR);
    let counters = bench.counters(Side::Left);
    let mut found: Vec<String> = counters.dropped.keys().map(|cause| format!("{cause:?}")).collect();
    found.extend(bench.delivered.iter().map(|(time, side, packet)| {
        let what = if packet.len() == length { "whole".to_owned() } else { format!("{} bytes", packet.len()) };
        format!("{} {what} after {}ms", side.as_str(), time.as_millis())
    }));
    assert_eq!(found.join(", "), expect, "{words}");
}

fn small() -> Vec<u8> {
    udp("10.0.0.1:5", "10.0.0.2:6", b"x")
}

fn large() -> Vec<u8> {
    udp("10.0.0.1:5", "10.0.0.2:6", &[1; 1_400])
}

#[test]
fn each_condition_has_its_effect_and_its_cause() {
    check("", small(), "right whole after 0ms");
    check("delay=40ms", small(), "right whole after 40ms");
    check("right-to-left delay=40ms", small(), "right whole after 0ms");
    check("delay=40ms reorder=100%", small(), "right whole after 0ms");
    check("duplicate=100%", small(), "right whole after 0ms, right whole after 0ms");
    check("loss=100%", small(), "Loss");
    check("burst-loss=100%,1%,100%,100%", small(), "BurstLoss");
    check("blackhole=on", small(), "Blackhole");
    check("right-to-left blackhole=on", small(), "right whole after 0ms");
    check("block-udp=on", small(), "BlockedUdp");
    check("block-udp=on", tcp("10.0.0.1:5", "10.0.0.2:6", b"x"), "right whole after 0ms");
    check("block-tcp=on", tcp("[fd00::1]:5", "[fd00::2]:6", b"x"), "BlockedTcp");
    check("block-tcp=on", small(), "right whole after 0ms");
    check("rate=8kbit", small(), "right whole after 29ms");
    check("rate=8kbit queue=1b", small(), "right whole after 29ms");
    check("", vec![0; 20], "Malformed");
    check("", Vec::new(), "Malformed");
    check("nat=right:198.51.100.1", small(), "right whole after 0ms");
    check("nat=right:10.0.0.2", small(), "Nat");
    check("nat=left:10.0.0.2", small(), "right whole after 0ms");
}

#[test]
fn what_is_too_large_is_refused_cut_or_swallowed() {
    check("mtu=1428", large(), "right whole after 0ms");
    check("mtu=1380", large(), "Mtu, left 576 bytes after 0ms");
    check("mtu=1380 icmp=off", large(), "Mtu");
    check("mtu=1380", tcp("[fd00::1]:5", "[fd00::2]:6", &[1; 1_400]), "Mtu, left 1280 bytes after 0ms");
    let mut may_be_cut = large();
    may_be_cut[6] = 0;
    check("mtu=1380", may_be_cut, "right 1380 bytes after 0ms, right 68 bytes after 0ms");
}

#[test]
fn a_slower_rate_holds_for_what_already_waits_and_none_lets_it_go() {
    let mut bench = Bench::new("rate=80kbit queue=1mb", 7);
    for number in 0..4 {
        bench.send(Side::Left, numbered(number, 1_000));
    }
    bench.pass(Duration::from_millis(100));
    bench.set("rate=40kbit");
    bench.pass(Duration::from_millis(200));
    bench.set("rate=off queue=off");
    bench.take();
    let times: Vec<_> = bench.delivered.iter().map(|(time, _, _)| time.as_millis()).collect();
    assert_eq!(times, [100, 300, 300, 300]);
}

#[test]
fn what_the_device_refuses_is_counted_as_its_fault() {
    let mut bench = Bench::new("", 7);
    bench.send(Side::Left, small());
    bench.link.handle_refused(Side::Right, small().len());
    bench.check_counters();
    assert_eq!(bench.counters(Side::Left).dropped(Drop::Device).packets, 1);
}

#[test]
fn late_polls_are_seen_as_lateness() {
    let mut bench = Bench::new("delay=40ms", 7);
    bench.send(Side::Left, small());
    bench.now += Duration::from_millis(47);
    bench.take();
    assert_eq!(bench.link.status().lateness(Side::Left).max_us, 7_000);
}

#[test]
fn a_nat_keeps_its_mappings_while_other_things_change() {
    let mut bench = Bench::new("nat=left:198.51.100.1", 7);
    bench.send(Side::Left, small());
    bench.set("delay=1ms");
    assert_eq!(bench.link.status().nat_mappings, 1);
    bench.set("nat=left:198.51.100.2");
    assert_eq!(bench.link.status().nat_mappings, 0);
    bench.set("nat=off");
    assert_eq!(bench.link.rebind(Rebind::Port), Err(RebindError::NoNat));
}

#[test]
fn a_packet_for_the_translation_that_nobody_asked_for_is_its_drop() {
    let mut bench = Bench::new("nat=left:198.51.100.1", 7);
    bench.send(Side::Right, udp("10.0.0.2:6", "198.51.100.1:5", b"x"));
    assert_eq!(bench.counters(Side::Right).dropped(Drop::Nat).packets, 1);
}

#[test]
fn what_is_on_the_way_is_bounded() {
    let mut bench = Bench::new("delay=1s", 7);
    let packet = udp("10.0.0.1:5", "10.0.0.2:6", &vec![0; 60_000]);
    for _ in 0..crate::direction::BACKLOG_MAX / packet.len() + 10 {
        bench.link.handle_packet(bench.now, Side::Left, packet.clone());
    }
    bench.check_counters();
    let counters = bench.counters(Side::Left);
    assert!(counters.dropped(Drop::Backlog).packets >= 10, "{counters:?}");
    assert!(counters.queued.bytes <= crate::direction::BACKLOG_MAX as u64);
}
