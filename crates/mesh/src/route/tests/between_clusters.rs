//! ClusterTrafficPolicy and drains: the order of clusters, and how often each comes first.

use std::collections::BTreeMap;

use crate::fixture::{Mesh, Random, cluster};
use crate::host::Host;
use crate::model::View;
use crate::names::Namespace;
use crate::policy::{ClusterMode, ClusterTier, ClusterTraffic, ClusterWeight};
use crate::reason::Reason;
use crate::route::{RouteDecision, RouteOutcome, RouteRequest, Target, route};

/// `west north=3 | south` are two tiers, the first with a weight.
fn rules(mode: ClusterMode, tiers: &str) -> ClusterTraffic {
    let weighted = |word: &str| {
        let (name, weight) = word.split_once('=').map_or((word, None), |(name, weight)| (name, weight.parse().ok()));
        ClusterWeight { cluster: cluster(name), weight }
    };
    let tier = |text: &str| ClusterTier { clusters: text.split_whitespace().map(weighted).collect() };
    let tiers = tiers.split('|').filter(|text| !text.trim().is_empty()).map(tier).collect();
    ClusterTraffic { mode, tiers, ..ClusterTraffic::default() }
}

fn mesh() -> Mesh {
    let mesh = Mesh::east().local("reviews", 2);
    mesh.import("reviews", "west", 3).import("reviews", "north", 1).import("reviews", "south", 2)
}

fn decide(view: &View, entropy: u64) -> RouteDecision {
    let host = Host::parse("reviews.default.svc.clusterset.local", &Namespace::new("default").unwrap());
    route(view, &RouteRequest { entropy, ..RouteRequest::to(&host, 9080) })
}

/// `east | north south west`.
fn told(decision: &RouteDecision) -> String {
    let RouteOutcome::Forward { tiers } = &decision.outcome else { return "refused".into() };
    let name = |target: &Target| target.cluster().map_or("east".to_owned(), ToString::to_string);
    let tiers = tiers.iter().map(|tier| {
        let mut names: Vec<String> = tier.targets.iter().map(name).collect();
        names.sort();
        names.dedup();
        names.join(" ")
    });
    tiers.collect::<Vec<_>>().join(" | ")
}

#[test]
fn clusters_come_in_the_order_of_the_policy() {
    use ClusterMode::{LocalFirst, LocalOnly, Weighted};
    let table = [
        ("nothing is said", LocalFirst, "", "east | north south west"),
        ("tiers", LocalFirst, "west | north", "east | west | north | south"),
        ("a tier of several", LocalFirst, "west south | north", "east | south west | north"),
        ("the own cluster stays first", LocalFirst, "west | east", "east | west | north south"),
        ("a cluster that is not there", LocalFirst, "moon | west", "east | west | north south"),
        ("the own cluster in its place", Weighted, "west | east", "west | east | north south"),
        ("one tier of all", Weighted, "", "east north south west"),
        ("the own cluster is not named", Weighted, "west", "west | east north south"),
        ("local only", LocalOnly, "west", "east"),
    ];
    for (what, mode, tiers, expected) in table {
        let view = mesh().clusters("reviews", rules(mode, tiers)).view();
        assert_eq!(told(&decide(&view, 7)), expected, "{what}");
    }
}

#[test]
fn exports_of_clusters_that_are_not_imported_from_are_not_used() {
    let import_from = Some([cluster("north")].into());
    let rules = ClusterTraffic { import_from, ..ClusterTraffic::default() };
    let decision = decide(&mesh().clusters("reviews", rules).view(), 7);
    assert_eq!(told(&decision), "east | north");
    let why = "the policy imports from other clusters only";
    assert!(decision.reasons.contains(&Reason::RemoteUnusable { cluster: cluster("west"), why }));
}

/// How often each cluster comes first, of `draws`.
fn firsts(view: &View, draws: u32) -> BTreeMap<String, f64> {
    let mut random = Random::seeded();
    let mut firsts: BTreeMap<String, f64> = BTreeMap::new();
    for _ in 0..draws {
        let told = told(&decide(view, random.next()));
        let first = told.split(" | ").next().unwrap_or_default().to_owned();
        *firsts.entry(first).or_default() += 1.0 / f64::from(draws);
    }
    firsts
}

fn check_shares(view: &View, expected: &[(&str, f64)]) {
    let seen = firsts(view, 20_000);
    for (name, share) in expected {
        // Five standard deviations of 20,000 draws are below 0.018.
        let got = seen.get(*name).copied().unwrap_or(0.0);
        assert!((got - share).abs() < 0.018, "{name}: {got} instead of {share}: {seen:?}");
    }
}

#[test]
fn weights_of_a_tier_hold() {
    let none_local = Mesh::east().import("reviews", "west", 3).import("reviews", "north", 1);
    let weighted = none_local.clusters("reviews", rules(ClusterMode::LocalFirst, "west=80 north=20"));
    check_shares(&weighted.view(), &[("west", 0.8), ("north", 0.2)]);
    let all = mesh().clusters("reviews", rules(ClusterMode::Weighted, "east=50 west=30 north=20 | south"));
    check_shares(&all.view(), &[("east", 0.5), ("west", 0.3), ("north", 0.2)]);
    // Who has nothing leaves its share to the others.
    let gone = Mesh::east().import("reviews", "west", 3).import("reviews", "north", 0);
    let gone = gone.clusters("reviews", rules(ClusterMode::Weighted, "east=50 west=30 north=20"));
    check_shares(&gone.view(), &[("west", 1.0)]);
}

#[test]
fn a_cluster_that_drains_gets_less_and_at_last_only_what_nobody_else_can_serve() {
    let none_local = Mesh::east().import("reviews", "west", 3).import("reviews", "north", 1);
    check_shares(&none_local.clone().draining("west", 40).view(), &[("north west", 0.4), ("north", 0.6)]);
    let drained = none_local.clone().draining("west", 0).view();
    assert_eq!(told(&decide(&drained, 1)), "north | west");
    let alone = Mesh::east().import("reviews", "west", 3).draining("west", 0).view();
    let decision = decide(&alone, 1);
    assert_eq!(told(&decision), "west");
    assert!(decision.reasons.contains(&Reason::Draining { cluster: cluster("west"), percent: 0 }));
}

#[test]
fn what_may_spill_over_is_told() {
    let across = |mesh: Mesh| decide(&mesh.view(), 1).across;
    let part = |mesh: Mesh| across(mesh).and_then(|across| across.local).map(|local| (local.tiers, local.endpoints));
    assert_eq!(part(mesh()), Some((1, 2)));
    assert_eq!(part(mesh().not_ready("reviews")), Some((0, 2)));
    assert_eq!(part(mesh().clusters("reviews", rules(ClusterMode::Weighted, "east west"))), None);
    assert_eq!(across(Mesh::east().local("reviews", 2)), None, "nowhere to go");
}
