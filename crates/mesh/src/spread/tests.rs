use super::*;
use crate::fixture::Random;

/// `second:healthy` steps of ten endpoints; expects `second:share in percent` where it is asked for.
fn check(rules: &ClusterTraffic, steps: &[(u64, usize)], expected: &[(u64, u32)]) {
    let start = Instant::now();
    let mut share = LocalShare::default();
    let mut healthy = 10;
    for second in 0..=steps.iter().chain(&[(0, 0)]).map(|step| step.0).max().unwrap_or(0) + 40 {
        healthy = steps.iter().find(|step| step.0 == second).map_or(healthy, |step| step.1);
        let seen = share.observe(rules, LocalHealth { healthy, known: 10 }, start + Duration::from_secs(second));
        if let Some((_, wanted)) = expected.iter().find(|step| step.0 == second) {
            let seen = seen * 100.0;
            assert!((seen - f64::from(*wanted)).abs() < 0.6, "at {second} s: {seen} % instead of {wanted} %");
        }
    }
}

fn rules(overflow: u32, back: u32, seconds: u64) -> ClusterTraffic {
    ClusterTraffic {
        overflow_percent: overflow,
        return_percent: back,
        return_after: Duration::from_secs(seconds),
        ..ClusterTraffic::default()
    }
}

#[test]
fn requests_spill_in_proportion_to_what_is_missing_below_the_threshold() {
    check(&rules(50, 50, 0), &[(1, 5), (2, 4), (3, 1), (4, 0)], &[(0, 100), (1, 100), (2, 80), (3, 20), (4, 0)]);
    check(&rules(0, 0, 0), &[(1, 1), (2, 0)], &[(1, 100), (2, 0)]);
}

#[test]
fn requests_return_only_after_the_local_endpoints_were_healthy_for_the_time() {
    check(&rules(50, 80, 10), &[(5, 0), (10, 10)], &[(5, 0), (10, 0), (19, 0), (20, 100), (30, 100)]);
}

#[test]
fn a_relapse_begins_the_time_anew() {
    check(&rules(50, 80, 10), &[(5, 0), (10, 10), (15, 0), (16, 10)], &[(24, 0), (25, 0), (26, 100)]);
}

#[test]
fn on_the_way_back_more_endpoints_are_wanted_than_it_took_to_fall() {
    // 6 of 10 are enough to stay, and three quarters of what is wanted to return.
    check(&rules(50, 80, 5), &[(1, 6)], &[(1, 100), (10, 100)]);
    check(&rules(50, 80, 5), &[(1, 0), (5, 6), (20, 8)], &[(9, 0), (10, 75), (15, 75), (25, 100)]);
}

#[test]
fn the_least_of_the_time_returns_not_the_last() {
    check(&rules(50, 80, 5), &[(1, 0), (5, 4), (9, 8)], &[(9, 0), (10, 50), (15, 50), (16, 100)]);
}

#[test]
fn what_nobody_looked_at_is_not_remembered() {
    let (rules, start) = (rules(50, 80, 10), Instant::now());
    let mut share = LocalShare::default();
    let health = |healthy| LocalHealth { healthy, known: 2 };
    assert_eq!(share.observe(&rules, health(0), start), 0.0);
    assert_eq!(share.observe(&rules, health(2), start + Duration::from_secs(9)), 0.0);
    assert_eq!(share.observe(&rules, health(2), start + Duration::from_secs(60)), 1.0);
}

#[test]
fn the_cap_holds_while_a_local_endpoint_is_left() {
    let mut random = Random::seeded();
    let capped = |percent| ClusterTraffic { max_share_percent: percent, ..ClusterTraffic::default() };
    for (local_share, healthy, cap, wanted) in [
        (1.0, 9, 100, 0.0),
        (0.6, 3, 100, 0.4),
        (0.2, 1, 30, 0.3),
        (0.0, 0, 30, 1.0),
        (0.0, 5, 0, 0.0),
        (0.0, 5, 100, 1.0),
    ] {
        let health = LocalHealth { healthy, known: 10 };
        let spilled =
            (0..20_000).filter(|_| spread(&capped(cap), local_share, health, random.next()) == Spread::Spill).count();
        // Five standard deviations of 20,000 draws are below 0.018.
        let share = f64::from(u32::try_from(spilled).unwrap()) / 20_000.0;
        assert!((share - wanted).abs() < 0.018, "{share} instead of {wanted} (share {local_share}, cap {cap} %)");
    }
}
