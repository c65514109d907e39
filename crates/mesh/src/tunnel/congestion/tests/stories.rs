//! Paths that become others, and flows that pause.

use super::*;

const END: u64 = 30_000;

/// What arrived in each second, in Mbit/s, of a flow whose path becomes another for some time.
fn story(name: &str, first: &Path, second: Path, from: u64, until: u64) -> (Simulation, Vec<f64>) {
    let simulation = Simulation::new(first.clone(), SEED).changes(vec![(from, second), (until, first.clone())]);
    let controller = ours(&simulation, SEED);
    let mut simulation = simulation.flow(controller, Application::Bulk, 0, END);
    simulation.run(END);
    let seconds = (0..END / 1_000).map(|second| simulation.between(0, second * 1_000, second * 1_000 + 1_000));
    let rates: Vec<f64> = seconds.clone().map(|tally| tally.mbit(1_000)).collect();
    println!("{name}: {rates:.0?}");
    (simulation, rates)
}

#[test]
fn a_rate_that_falls_to_a_fifth_is_followed_and_comes_back() {
    for queue in [1.0, 0.25] {
        let first = Path::new(100.0, 80, queue, 0.0);
        let (simulation, rates) = story("100, 20, 100", &first, Path { rate: 20e6, ..first.clone() }, 10_000, 20_000);
        assert!(rates[9] > 95.0);
        assert!(rates[11..20].iter().all(|rate| *rate > 17.0), "{rates:?}");
        let settled = simulation.between(0, 12_000, 20_000);
        assert!(settled.overflow_percent() < 1.0 && settled.wait_ms() < 30.0);
        assert!(rates[25..].iter().all(|rate| *rate > 95.0), "{rates:?}");
    }
}

#[test]
fn a_way_that_becomes_longer_or_shorter_is_learnt() {
    let first = Path::new(100.0, 80, 1.0, 0.0);
    for (trip, settled, least) in [(20, 1, 90.0), (200, 2, 50.0), (300, 6, 75.0)] {
        let second = Path { round_trip: Duration::from_millis(trip), ..first.clone() };
        let (_, rates) = story(&format!("80 ms, {trip} ms, 80 ms"), &first, second, 10_000, 20_000);
        let during = &rates[10 + settled..20];
        assert!(during.iter().sum::<f64>() / during.len() as f64 > least, "{rates:?}");
        assert!(rates[24..].iter().all(|rate| *rate > 90.0), "{rates:?}");
    }
}

#[test]
fn after_a_black_hole_of_five_seconds_it_is_soon_back() {
    let first = Path::new(100.0, 80, 1.0, 0.0);
    let (_, rates) = story("hole", &first, Path { loss: 1.0, ..first.clone() }, 10_000, 15_000);
    assert!(rates[11..15].iter().all(|rate| *rate < 1.0));
    // A probe is answered within half a second; then it starts anew.
    assert!(rates[17..].iter().all(|rate| *rate > 90.0), "{rates:?}");
}

#[test]
fn little_to_send_does_not_lower_what_is_known() {
    let application = Application::Pausing(5_000, 15_000, 250_000.0);
    let mut simulation = alone(Path::new(100.0, 80, 1.0, 1.0), application, 20_000);
    simulation.run(20_000);
    let (during, after) = (simulation.between(0, 6_000, 15_000), simulation.between(0, 15_200, 16_000));
    println!("{:.2} Mbit/s, then {:.1} Mbit/s", during.mbit(9_000), after.mbit(800));
    assert!((1.9..2.1).contains(&during.mbit(9_000)));
    assert!(after.mbit(800) > 80.0);
}

/// Datagrams of UDP: nothing waits for the window however much is lost.
#[test]
fn a_steady_flow_is_never_held_back() {
    for loss in [1.0, 5.0, 10.0] {
        let mut simulation = alone(Path::new(100.0, 80, 1.0, loss), Application::Steady(72_600.0), 20_000);
        simulation.run(20_000);
        let tally = simulation.between(0, 2_000, 20_000);
        let sent = tally.sent_mbit(18_000);
        println!("loss {loss} %: {sent:.3} of 0.581 Mbit/s sent");
        assert!(sent > 0.57);
    }
}

#[test]
fn nothing_waits_for_ever_at_the_smallest_window() {
    let mut simulation = alone(Path::new(0.2, 500, 1.0, 10.0), Application::Bulk, 60_000);
    simulation.run(60_000);
    let tally = simulation.between(0, 10_000, 60_000);
    println!("{:.3} of 0.2 Mbit/s", tally.mbit(50_000));
    assert!(tally.mbit(50_000) > 0.1);
}

/// Cubic needs many seconds for that: what it believes of the link is what a lossy time has left.
#[test]
fn a_lossy_time_leaves_nothing_behind() {
    let clean = Path::new(100.0, 80, 0.6, 0.0);
    let lossy = Path { loss: 0.01, ..clean.clone() };
    let run = |controller: fn(&Simulation) -> Box<dyn Controller>| {
        let simulation = Simulation::new(lossy.clone(), SEED).changes(vec![(10_000, clean.clone())]);
        let controller = controller(&simulation);
        let mut simulation = simulation.flow(controller, Application::Bulk, 0, 20_000);
        simulation.run(20_000);
        simulation.between(0, 10_000, 16_000).mbit(6_000)
    };
    let (ours, cubic) = (run(|simulation| ours(simulation, SEED)), run(|_| Box::new(Cubic::new())));
    println!("the first 6 s after 10 s of 1 % loss: {ours:.1} Mbit/s, cubic {cubic:.1}");
    assert!(ours > 95.0 && cubic < 50.0);
}

/// Small requests beside the bulk of another connection: its queue is not theirs, and says nothing of what they may send later.
#[test]
fn a_small_flow_beside_bulk_starts_afresh_when_it_becomes_bulk() {
    let path = Path { stalls: Duration::from_millis(15), ..Path::new(100.0, 80, 1.0, 0.0) };
    for other in [false, true] {
        let simulation = Simulation::new(path.clone(), SEED);
        let bulk: Box<dyn Controller> = if other { Box::new(Cubic::new()) } else { ours(&simulation, 1) };
        let small = ours(&simulation, 2);
        let simulation = simulation.flow(bulk, Application::Bulk, 0, 15_000);
        let mut simulation = simulation.flow(small, Application::Pausing(0, 15_000, 20_000.0), 0, 20_000);
        simulation.run(20_000);
        let tally = simulation.between(1, 15_000, 17_000);
        println!("beside cubic: {other}: {:.1} Mbit/s in the first two seconds", tally.mbit(2_000));
        assert!(tally.mbit(2_000) > 60.0);
    }
}
