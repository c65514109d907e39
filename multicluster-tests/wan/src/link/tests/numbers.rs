//! What becomes of many packets: shares within chance, rates exact, sums right.

use super::*;

/// A link through which `count` packets were sent at once.
fn sent(words: &str, seed: u64, count: u32) -> Bench {
    let mut bench = Bench::new(words, seed);
    for number in 0..count {
        bench.link.handle_packet(bench.now, Side::Left, numbered(number, 100));
    }
    bench.pass(HOUR);
    bench
}

/// Whether `found` of `count` fits to `share`, within seven standard deviations: wrong less than once in a billion runs of all that
/// is tested here, also where the share is so small that its distribution leans.
fn within_chance(found: u64, count: u64, share: f64) -> bool {
    let (count, found) = (count as f64, found as f64);
    (found - count * share).abs() <= 7.0 * (count * share * (1.0 - share)).sqrt()
}

const COUNT: u32 = 20_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn shares_are_within_chance(seed: u64, percent in 1_u32..40) {
        let share = f64::from(percent) / 100.0;
        let count = u64::from(COUNT);
        let counters = sent(&format!("loss={percent}%"), seed, COUNT).counters(Side::Left);
        prop_assert!(within_chance(counters.dropped(Drop::Loss).packets, count, share), "{counters:?}");
        let counters = sent(&format!("duplicate={percent}%"), seed, COUNT).counters(Side::Left);
        prop_assert!(within_chance(counters.duplicated.packets, count, share), "{counters:?}");
        let counters = sent(&format!("delay=10ms reorder={percent}%"), seed, COUNT).counters(Side::Left);
        prop_assert!(within_chance(counters.reordered, count, share), "{counters:?}");
    }

    #[test]
    fn bursts_are_as_long_and_as_frequent_as_the_model_says(seed: u64, enter in 1_u32..5, leave in 20_u32..80) {
        let bench = sent(&format!("burst-loss={enter}%,{leave}%"), seed, COUNT);
        let (enter, leave) = (f64::from(enter) / 100.0, f64::from(leave) / 100.0);
        let mut bursts = Vec::new();
        let mut next = 0;
        for number in bench.numbers() {
            if number > next {
                bursts.push(f64::from(number - next));
            }
            next = number + 1;
        }
        // Between two bursts is one packet at least. Their lengths lean to the long side: eight deviations of hundreds of them are
        // exceeded once in forty billion times, five would be once in 200,000.
        let count = bursts.len() as f64;
        let mean = bursts.iter().sum::<f64>() / count;
        let deviation = (1.0 - leave).sqrt() / leave / count.sqrt();
        prop_assert!((mean - 1.0 / leave).abs() < 8.0 * deviation, "mean burst {mean}, expected {}", 1.0 / leave);
        // One burst per cycle of 1/p good and 1/r bad packets.
        let cycles = f64::from(COUNT) / (1.0 / enter + 1.0 / leave);
        prop_assert!((count - cycles).abs() < 8.0 * cycles.sqrt(), "{count} bursts, expected {cycles}");
    }

    #[test]
    fn jitter_spreads_evenly_around_the_delay(seed: u64) {
        let bench = sent("delay=20ms jitter=5ms", seed, COUNT);
        let times: Vec<f64> = bench.delivered.iter().map(|(time, _, _)| time.as_secs_f64() * 1e3).collect();
        prop_assert!(times.iter().all(|time| (15.0..=25.0).contains(time)));
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        prop_assert!((mean - 20.0).abs() < 0.15, "{mean}");
        prop_assert!(within_chance(times.iter().filter(|time| **time < 16.0).count() as u64, u64::from(COUNT), 0.1));
    }
}

const SETTINGS: [&str; 12] = [
    "delay=10ms jitter=10ms reorder=10%",
    "loss=30%",
    "burst-loss=20%,20%",
    "rate=1mbit queue=3kb",
    "duplicate=50%",
    "mtu=600",
    "nat=left:198.51.100.1",
    "nat=off rate=off queue=off",
    "block-udp=on",
    "block-udp=off blackhole=on",
    "blackhole=off mtu=off reorder=off",
    "left-to-right rate=9mbit",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn without_jitter_order_is_kept(seed: u64, gaps in proptest::collection::vec(0_u64..3_000, 1..80), rate: bool) {
        let words = if rate { "delay=3ms loss=5% rate=10mbit queue=20kb" } else { "delay=3ms duplicate=9%" };
        let mut bench = Bench::new(words, seed);
        for (number, gap) in gaps.iter().enumerate() {
            bench.pass(Duration::from_micros(*gap));
            bench.send(Side::Left, numbered(u32::try_from(number).unwrap(), 900));
        }
        bench.pass(HOUR);
        prop_assert!(bench.numbers().is_sorted());
    }

    #[test]
    fn the_rate_is_exact_and_the_queue_bounded(
        rate in 100_u64..1_000_000,
        lengths in proptest::collection::vec(32_usize..1_500, 1..120),
    ) {
        let queue = 20_000;
        let mut bench = Bench::new(&format!("rate={rate}kbit queue={queue}"), 7);
        let mut expected = Vec::new();
        let (mut waiting, mut at) = (0, Duration::ZERO);
        for (number, length) in lengths.iter().enumerate() {
            bench.send(Side::Left, numbered(u32::try_from(number).unwrap(), *length));
            prop_assert!(bench.counters(Side::Left).queued.bytes <= queue);
            if waiting + *length as u64 <= queue {
                waiting += *length as u64;
                at += crate::spec::Rate::bits(rate * 1_000).time_of(*length);
                expected.push(at);
            }
        }
        bench.pass(HOUR);
        let found: Vec<_> = bench.delivered.iter().map(|(time, _, _)| *time).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn the_same_seed_means_the_same_fate_and_knobs_do_not_disturb_each_other(seed: u64) {
        let lost = |words: &str| {
            let arrived = sent(words, seed, 300).numbers();
            (0..300).filter(|number| !arrived.contains(number)).collect::<Vec<u32>>()
        };
        let loss = lost("loss=20%");
        prop_assert_eq!(&loss, &lost("loss=20%"));
        prop_assert_eq!(&loss, &lost("loss=20% duplicate=20% delay=10ms jitter=5ms"));
        prop_assert_ne!(loss, lost("burst-loss=10%,50%"));
    }

    #[test]
    fn counters_add_up_whatever_is_set_and_sent(
        seed: u64,
        steps in proptest::collection::vec((0..SETTINGS.len(), 0_usize..2_000, any::<bool>(), 0_u64..30), 1..60),
    ) {
        let mut bench = Bench::new("", seed);
        for (setting, length, left, gap) in steps {
            // A queue without a rate is refused; that too must change nothing.
            let change = crate::spec::change_of_words(SETTINGS[setting].split(' ')).unwrap();
            if let Ok(spec) = bench.link.spec().changed(&change) {
                bench.link.set(bench.now, spec);
            }
            let mut packet = numbered(1, length);
            packet[6] = if gap % 2 == 0 { 0x40 } else { 0 };
            bench.send(if left { Side::Left } else { Side::Right }, packet);
            bench.pass(Duration::from_millis(gap));
        }
        bench.pass(HOUR);
        for side in Side::BOTH {
            prop_assert_eq!(bench.counters(side).queued, Default::default());
        }
    }
}
