//! Flows that share a bottleneck.

use super::*;

const END: u64 = 40_000;

/// Shares in percent over the last 20 s of flows that begin 1.5 s apart: ours first, then those of cubic.
fn shares(path: &Path, mbit: f64, ours_count: u64, cubics: u64, seed: u64) -> Vec<f64> {
    let mut simulation = Simulation::new(path.clone(), seed);
    for index in 0..ours_count {
        let controller = ours(&simulation, seed * 77 + index * 1_000_003);
        simulation = simulation.flow(controller, Application::Bulk, index * 1_500, END);
    }
    for index in ours_count..ours_count + cubics {
        simulation = simulation.flow(Box::new(Cubic::new()), Application::Bulk, index * 1_500, END);
    }
    simulation.run(END);
    let flows = usize::try_from(ours_count + cubics).unwrap();
    let tallies: Vec<Tally> = (0..flows).map(|flow| simulation.between(flow, END / 2, END)).collect();
    let shares: Vec<f64> = tallies.iter().map(|tally| tally.mbit(END / 2) / mbit * 100.0).collect();
    let drops: Vec<String> = tallies.iter().map(|tally| format!("{:.2}", tally.overflow_percent())).collect();
    println!("seed {seed}, {path:?}: {shares:.1?} %, dropped {drops:?} %, wait {:.1} ms", tallies[0].wait_ms());
    shares
}

fn sum(shares: &[f64]) -> f64 {
    shares.iter().sum()
}

/// Where a queue holds a quarter of a round trip, one to four.
#[test]
fn two_flows_share_one_to_three_at_worst() {
    for (mbit, trip, queue, loss) in
        [(20.0, 10, 1.0, 0.0), (20.0, 80, 1.0, 1.0), (20.0, 80, 0.25, 0.0), (50.0, 80, 4.0, 0.0), (50.0, 80, 0.25, 3.0)]
    {
        let path = Path::new(mbit, trip, queue, loss);
        for seed in [1, 2] {
            let shares = shares(&path, mbit, 2, 0, seed);
            assert!(sum(&shares) > 95.0, "{shares:?}");
            let (a, b) = (shares[0], shares[1]);
            let worst = if queue < 1.0 { 4.0 } else { 3.0 };
            assert!(a < worst * b && b < worst * a, "seed {seed}, {path:?}: {shares:?}");
        }
    }
}

#[test]
fn many_flows_use_the_link_and_none_starves() {
    for (count, queue) in [(4, 1.0), (8, 1.0), (8, 0.25)] {
        let shares = shares(&Path::new(50.0, 80, queue, 0.0), 50.0, count, 0, 1);
        assert!(sum(&shares) > 95.0, "{shares:?}");
        let fair = 100.0 / count as f64;
        assert!(shares.iter().all(|share| *share > fair / 8.0), "{shares:?}");
    }
}

/// In a queue that holds much it is cubic that fills it; in one that holds little, cubic halves for the losses of others.
#[test]
fn beside_cubic_neither_starves() {
    for (mbit, trip, queue) in [(20.0, 80, 1.0), (20.0, 80, 4.0), (20.0, 10, 0.5), (50.0, 80, 1.0), (50.0, 20, 0.5)] {
        let path = Path::new(mbit, trip, queue, 0.0);
        let shares = shares(&path, mbit, 1, 1, 1);
        assert!(sum(&shares) > 95.0, "{shares:?}");
        assert!(shares.iter().all(|share| *share > 10.0), "{path:?}: {shares:?}");
    }
    let shallow = shares(&Path::new(50.0, 80, 0.25, 0.0), 50.0, 1, 1, 1);
    assert!(shallow[1] > 3.0, "{shallow:?}");
}
