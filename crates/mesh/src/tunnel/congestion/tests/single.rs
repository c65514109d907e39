//! One bulk flow on all kinds of path.

use super::*;

/// What a flow must do once it is past its start.
struct Bar {
    /// Share of the link, in percent.
    goodput: f64,
    /// Packets that the full queue may drop, in percent.
    drops: f64,
}

/// Runs all paths of a rate, and tells all that is missed.
fn check(mbit: f64, round_trips: &[u64], queues: &[f64], losses: &[f64], end: u64) {
    let mut missed = String::new();
    for &trip in round_trips {
        for &queue in queues {
            for &loss in losses {
                let mut simulation = alone(Path::new(mbit, trip, queue, loss), Application::Bulk, end);
                simulation.run(end);
                let from = end / 2;
                let tally = simulation.between(0, from, end);
                let (goodput, drops, wait) =
                    (tally.mbit(end - from) / mbit * 100.0, tally.overflow_percent(), tally.wait_ms());
                let bar = bar(mbit, trip, queue, loss);
                // What waits by itself: a burst of ten packets, what a cruise keeps, and part of an ascent.
                let wait_most = trip as f64 * 0.25 + 1.0 + 10.0 * PACKET as f64 * 8e-3 / mbit;
                let line = format!(
                    "{mbit} Mbit/s, {trip} ms, queue {queue}, loss {loss} %: {goodput:.1} %, dropped {drops:.2} %, wait {wait:.1} ms\n"
                );
                print!("{line}");
                if goodput < bar.goodput || drops > bar.drops || wait > wait_most {
                    missed += &line;
                }
            }
        }
    }
    assert!(missed.is_empty(), "seed {SEED}, missed:\n{missed}");
}

fn bar(mbit: f64, trip: u64, queue: f64, loss: f64) -> Bar {
    let packets = mbit * 1e6 / 8.0 * trip as f64 / 1e3 * queue / PACKET as f64;
    if packets < 10.0 {
        // Less than one burst of the pacer.
        return Bar { goodput: 75.0, drops: 8.0 };
    }
    // What is sent for what chance will lose overflows a short queue as well.
    let drops = if queue < 1.0 { 2.5 + loss / 10.0 } else { 0.5 };
    Bar { goodput: if loss < 5.0 { 94.0 } else { 90.0 }, drops }
}

const LOSSES: [f64; 5] = [0.0, 0.1, 1.0, 3.0, 10.0];

#[test]
fn of_20_mbit_nearly_all_is_used_and_queues_stay_short() {
    check(20.0, &[10, 80, 250], &[0.25, 1.0, 4.0], &LOSSES, 20_000);
}

#[test]
fn of_100_mbit_at_10_ms() {
    check(100.0, &[10], &[0.25, 1.0, 4.0], &LOSSES, 6_000);
}

#[test]
fn of_100_mbit_at_80_ms() {
    check(100.0, &[80], &[0.25, 1.0, 4.0], &LOSSES, 10_000);
}

#[test]
fn of_100_mbit_at_250_ms() {
    check(100.0, &[250], &[0.25, 1.0], &[0.0, 1.0, 10.0], 16_000);
}

#[test]
fn of_1000_mbit() {
    check(1_000.0, &[10], &[0.25], &[0.0, 3.0], 2_000);
    check(1_000.0, &[80], &[1.0], &[1.0], 6_000);
}

/// As fast as slow start is: 12 kB to 1 MB in seven round trips.
#[test]
fn it_starts_as_fast_as_cubic() {
    for queue in [0.25, 0.6, 1.0, 4.0] {
        let path = || Path::new(100.0, 80, queue, 0.0);
        let mut simulation = alone(path(), Application::Bulk, 2_000);
        simulation.run(2_000);
        let mut cubic = Simulation::new(path(), SEED).flow(Box::new(Cubic::new()), Application::Bulk, 0, 2_000);
        cubic.run(2_000);
        let (ours, theirs) = (simulation.between(0, 0, 2_000), cubic.between(0, 0, 2_000));
        println!(
            "queue {queue}: {:.1} Mbit/s, dropped {:.1} %; cubic {:.1} and {:.1} %",
            ours.mbit(2_000),
            ours.overflow_percent(),
            theirs.mbit(2_000),
            theirs.overflow_percent()
        );
        assert!(ours.mbit(2_000) > 0.9 * theirs.mbit(2_000));
    }
}

#[test]
fn acknowledgements_in_heaps_are_part_of_the_way() {
    for (heaps, trip) in [(10, 80), (20, 80), (10, 10)] {
        let path = Path { heaps: Duration::from_millis(heaps), ..Path::new(100.0, trip, 1.0, 1.0) };
        let mut simulation = alone(path, Application::Bulk, 10_000);
        simulation.run(10_000);
        let tally = simulation.between(0, 3_000, 10_000);
        println!("{heaps} ms at {trip} ms: {:.1} Mbit/s, {:.2} %", tally.mbit(7_000), tally.overflow_percent());
        assert!(tally.mbit(7_000) > 85.0 && tally.overflow_percent() < 2.0);
    }
}

#[test]
fn a_process_that_waits_for_a_cpu_is_no_queue() {
    for stall in [10, 20, 30] {
        let path = Path { stalls: Duration::from_millis(stall), ..Path::new(100.0, 80, 1.0, 0.0) };
        let mut simulation = alone(path, Application::Bulk, 10_000);
        simulation.run(10_000);
        let (first, then) = (simulation.between(0, 0, 3_000), simulation.between(0, 3_000, 10_000));
        println!("{stall} ms: {:.1} Mbit/s, then {:.1} Mbit/s", first.mbit(3_000), then.mbit(7_000));
        assert!(first.mbit(3_000) > 60.0 && then.mbit(7_000) > 90.0);
    }
}
