//! `pick()`: which target of a decision gets the next request, as the destination's policy says: by least request among
//! two random choices (Istio's default), in turn, at random, or by a hash of the request; always by weight, and weighted
//! by group size between clusters.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::hash::{HashMember, HashRing};
use crate::policy::{Balancer, Warmup};
use crate::route::{RouteDecision, RouteOutcome, Target, Tier};

/// What the data plane knows of one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests or connections under way.
    pub active: u32,
    /// Set aside for a moment after failures: others are preferred, but it is better than nothing.
    pub ejected: bool,
    /// Ejected by the destination's outlier detection: gets nothing.
    pub out: bool,
    /// Already tried for this request.
    pub tried: bool,
    /// Behind a cap that is reached: gets nothing, whatever else is left.
    pub capped: bool,
    /// For how long it has been known; `None` = for long.
    pub age: Option<Duration>,
}

/// What decides between targets that are equal.
#[derive(Clone, Copy)]
pub struct Draw<'a> {
    /// The only randomness.
    pub entropy: u64,
    /// Grows by one with each pick of the destination, for round robin.
    pub turn: u64,
    /// Tables that are ready, by the number of the tier; without them they are built for each pick.
    pub tables: Option<&'a Tables<'a>>,
    /// So many tiers, from the first, are looked at after the others: the request spills over (see [`crate::spread`]).
    pub behind: usize,
}

/// Gives the table of a tier, see [`hash_ring`].
pub type Tables<'a> = dyn Fn(usize, &Tier) -> Option<Arc<HashRing>> + 'a;

impl From<u64> for Draw<'_> {
    fn from(entropy: u64) -> Self {
        Self { entropy, turn: entropy, tables: None, behind: 0 }
    }
}

/// A chosen target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pick {
    /// Index of the tier, 0 = preferred.
    pub tier: usize,
    /// The target.
    pub target: Target,
}

/// Picks a target: from the first tier that has one which is neither set aside nor tried; else, rather than fail, one
/// that is aside but untried; else a tried one (a single endpoint that restarts is worth a second attempt). One that
/// outlier detection has ejected is never picked, unless so many are that the policy no longer honours it.
pub fn pick<'a>(decision: &RouteDecision, load: &dyn Fn(&Target) -> Load, draw: impl Into<Draw<'a>>) -> Option<Pick> {
    let RouteOutcome::Forward { tiers } = &decision.outcome else { return None };
    let draw = draw.into();
    if let Some(pick) = quick(decision, tiers, load, &draw) {
        return Some(pick);
    }
    let loads: Vec<Vec<Load>> = tiers.iter().map(|tier| loads(decision, tier, load)).collect();
    let open = |load: &Load| !load.out && !load.capped;
    let classes: [&dyn Fn(&Load) -> bool; 3] =
        [&|load| open(load) && !load.ejected && !load.tried, &|load| open(load) && !load.tried, &open];
    let order: Vec<usize> = in_order(tiers, &draw).collect();
    classes.iter().find_map(|class| {
        order.iter().find_map(|&number| {
            let (tier, loads) = (tiers.get(number)?, loads.get(number)?);
            let index = choose(decision, (number, tier), loads, class, &draw)?;
            Some(Pick { tier: number, target: tier.targets.get(index)?.clone() })
        })
    })
}

/// The tiers in the order in which they are looked at.
fn in_order(tiers: &[Tier], draw: &Draw<'_>) -> impl Iterator<Item = usize> {
    let behind = draw.behind.min(tiers.len());
    (behind..tiers.len()).chain(0..behind)
}

/// The table of consistent hashing for a tier, when the policy wants one.
pub fn hash_ring(decision: &RouteDecision, tier: &Tier) -> Option<HashRing> {
    let Balancer::ConsistentHash { table, .. } = &decision.policy.balancer else { return None };
    let member = |target: &Target| HashMember { name: hash_name(target), weight: weight(target) };
    let members: Vec<HashMember> = tier.targets.iter().map(member).collect();
    Some(HashRing::build(*table, &members))
}

fn hash_name(target: &Target) -> String {
    match target {
        Target::Local { address, .. } => address.to_string(),
        Target::Named { host, port, .. } => format!("{host}:{port}"),
        Target::Remote { cluster, group, unmeshed: false, .. } => format!("{cluster}/{group:?}"),
        Target::Remote { cluster, group, .. } => format!("{cluster}/{group:?}/unmeshed"),
    }
}

/// Two draws of the first tier, looked at alone: nearly always both can be used, and a thousand others need not be asked.
fn quick(decision: &RouteDecision, tiers: &[Tier], load: &dyn Fn(&Target) -> Load, draw: &Draw<'_>) -> Option<Pick> {
    let plain = decision.policy.balancer == Balancer::LeastRequest && decision.policy.warmup.is_none();
    let tier = in_order(tiers, draw).next().filter(|_| plain)?;
    let targets = &tiers.get(tier)?.targets;
    let total: u64 = targets.iter().map(|target| u64::from(weight(target))).sum();
    let at = |point: u64| {
        let target = &targets[weighted(targets.iter().map(|target| u64::from(weight(target))), total, point)?];
        let load = load(target);
        (!load.out && !load.ejected && !load.tried && !load.capped).then_some((target, load))
    };
    let (first, second) = (at(draw.entropy >> 32)?, at(draw.entropy & 0xffff_ffff)?);
    let [one, two] = [&first, &second].map(|(target, load)| (load.active, u64::from(weight(target))));
    let chosen = if less_busy(one, two) { first.0 } else { second.0 };
    Some(Pick { tier, target: chosen.clone() })
}

/// The state of a tier's targets. When fewer than the policy's share are healthy, ejections are not honoured.
fn loads(decision: &RouteDecision, tier: &Tier, load: &dyn Fn(&Target) -> Load) -> Vec<Load> {
    let mut loads: Vec<Load> = tier.targets.iter().map(load).collect();
    let least = decision.policy.outlier.as_ref().map_or(0, |outlier| outlier.min_health_percent as usize);
    let healthy = loads.iter().filter(|load| !load.out).count();
    if healthy * 100 < least * loads.len() {
        loads.iter_mut().for_each(|load| load.out = false);
    }
    loads
}

/// The index of one of a tier's targets that belong to the class.
fn choose(
    decision: &RouteDecision,
    (number, tier): (usize, &Tier),
    loads: &[Load],
    class: &dyn Fn(&Load) -> bool,
    draw: &Draw<'_>,
) -> Option<usize> {
    let usable = |index: usize| loads.get(index).is_some_and(class);
    if let (Balancer::ConsistentHash { .. }, Some(affinity)) = (&decision.policy.balancer, &decision.affinity) {
        let ready = draw.tables.and_then(|tables| tables(number, tier));
        let ring = ready.or_else(|| hash_ring(decision, tier).map(Arc::new))?;
        return ring.lookup(affinity.hash, &usable);
    }
    let warmup = decision.policy.warmup.as_ref();
    let candidates: Vec<Candidate> = (0..tier.targets.len())
        .filter(|index| usable(*index))
        .map(|index| Candidate {
            index,
            weight: warmed(weight(&tier.targets[index]), loads[index].age, warmup),
            active: loads[index].active,
        })
        .collect();
    let total: u64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let at = |point: u64| Some(&candidates[weighted(candidates.iter().map(|c| c.weight), total, point)?]);
    let chosen = match decision.policy.balancer {
        Balancer::LeastRequest => {
            // The two halves of the entropy are independent draws.
            let (first, second) = (at(draw.entropy >> 32)?, at(draw.entropy & 0xffff_ffff)?);
            if less_busy((first.active, first.weight), (second.active, second.weight)) { first } else { second }
        }
        Balancer::RoundRobin => at(in_turn(&candidates, total, draw.turn))?,
        Balancer::Random | Balancer::Passthrough | Balancer::ConsistentHash { .. } => at(draw.entropy >> 16)?,
    };
    Some(chosen.index)
}

struct Candidate {
    index: usize,
    weight: u64,
    active: u32,
}

/// The point of a turn. With equal weights the targets follow each other; otherwise steps of the golden ratio mix them
/// while each gets its share of every round.
fn in_turn(candidates: &[Candidate], total: u64, turn: u64) -> u64 {
    let Some(first) = candidates.first() else { return 0 };
    if candidates.iter().all(|candidate| candidate.weight == first.weight) {
        return (turn % candidates.len() as u64) * first.weight;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of the total"
    )]
    let near = (total as f64 * 0.618_033_988_75) as u64;
    let coprime = (near.max(1)..).find(|step| gcd(*step, total) == 1).unwrap_or(1);
    u64::try_from(u128::from(turn) * u128::from(coprime) % u128::from(total.max(1))).unwrap_or(0)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Fewer requests per weight, compared without division.
fn less_busy(one: (u32, u64), two: (u32, u64)) -> bool {
    u64::from(one.0).saturating_mul(two.1) <= u64::from(two.0).saturating_mul(one.1)
}

/// The index at a point of the weights laid end to end.
fn weighted(weights: impl Iterator<Item = u64>, total: u64, point: u64) -> Option<usize> {
    let mut left = point.checked_rem(total)?;
    weights.enumerate().find_map(|(index, weight)| {
        let hit = left < weight;
        left = left.saturating_sub(weight);
        hit.then_some(index)
    })
}

/// The weight of a target in its slow start (Envoy: the greater of the least share and time ^ (1 / aggression)).
fn warmed(weight: u32, age: Option<Duration>, warmup: Option<&Warmup>) -> u64 {
    const FINE: f64 = 1000.0;
    let Some(warmup) = warmup else { return u64::from(weight) };
    let share = age.map_or(1.0, |age| {
        let time = (age.as_secs_f64() / warmup.duration.as_secs_f64().max(0.001)).min(1.0);
        time.powf(1.0 / warmup.aggression.max(0.01)).max(warmup.minimum_percent / 100.0).clamp(0.0, 1.0)
    });
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 1000 times a u32")]
    let warmed = (f64::from(weight) * FINE * share) as u64;
    warmed.max(u64::from(weight > 0))
}

fn weight(target: &Target) -> u32 {
    match target {
        Target::Local { weight, .. } | Target::Named { weight, .. } | Target::Remote { weight, .. } => *weight,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::fixture::Mesh;
    use crate::host::Host;
    use crate::names::Namespace;
    use crate::policy::{HashKey, HashTable, OutlierDetection, TrafficPolicy};
    use crate::route::{Affinity, RouteRequest, route};

    fn decision(local: u8, remote: u32) -> RouteDecision {
        let mut mesh = Mesh::east().local("reviews", local);
        if remote > 0 {
            mesh = mesh.import("reviews", "west", remote);
        }
        let host = Host::parse("reviews.default.svc.clusterset.local", &Namespace::new("default").unwrap());
        route(&mesh.view(), &RouteRequest::to(&host, 9080))
    }

    fn name(pick: &Pick) -> String {
        match &pick.target {
            Target::Local { endpoint, .. } => endpoint.clone(),
            Target::Named { host, .. } => host.clone(),
            Target::Remote { cluster, .. } => cluster.to_string(),
        }
    }

    /// Picks with the named targets in the given state.
    fn check(decision: &RouteDecision, states: &[(&str, Load)], expected: &[&str]) {
        let states: BTreeMap<&str, Load> = states.iter().copied().collect();
        for entropy in [0, 1, 7 << 32, (1 << 32) | 1, u64::MAX] {
            let load = |target: &Target| {
                let pick = Pick { tier: 0, target: target.clone() };
                states.get(name(&pick).as_str()).copied().unwrap_or_default()
            };
            let picked = name(&pick(decision, &load, entropy).unwrap());
            assert!(expected.contains(&picked.as_str()), "{picked} is not one of {expected:?}");
        }
    }

    #[test]
    fn another_cluster_is_used_only_when_no_local_target_is_left() {
        let ejected = Load { ejected: true, ..Load::default() };
        let tried = Load { tried: true, ..Load::default() };
        let both = decision(2, 3);
        check(&both, &[], &["reviews-1", "reviews-2"]);
        check(&both, &[("reviews-1", ejected)], &["reviews-2"]);
        check(&both, &[("reviews-1", ejected), ("reviews-2", tried)], &["west"]);
        check(&both, &[("reviews-1", ejected), ("reviews-2", ejected), ("west", ejected)], &["reviews-1", "reviews-2"]);
        check(&decision(1, 0), &[("reviews-1", tried)], &["reviews-1"]);
    }

    fn with(local: u8, change: impl FnOnce(&mut TrafficPolicy)) -> RouteDecision {
        let mut decision = decision(local, 0);
        let mut policy = (*decision.policy).clone();
        change(&mut policy);
        decision.policy = policy.into();
        decision
    }

    /// How often each of the named targets is picked in `turns` turns.
    fn counts(decision: &RouteDecision, load: &dyn Fn(&Target) -> Load, turns: u64) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for turn in 0..turns {
            // A cheap mix is random enough here.
            let entropy = (turn + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (turn << 7);
            let draw = Draw { entropy, turn, tables: None, behind: 0 };
            *counts.entry(name(&pick(decision, load, draw).unwrap())).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn an_endpoint_that_outlier_detection_ejected_gets_nothing() {
        let out = Load { out: true, ..Load::default() };
        check(&decision(2, 3), &[("reviews-1", out)], &["reviews-2"]);
        check(&decision(1, 3), &[("reviews-1", out)], &["west"]);
        assert_eq!(pick(&decision(1, 0), &|_| out, 7), None);
        let panics = with(2, |policy| {
            policy.outlier = Some(OutlierDetection { min_health_percent: 60, ..OutlierDetection::default() });
        });
        check(&panics, &[("reviews-1", out)], &["reviews-1", "reviews-2"]);
    }

    #[test]
    fn round_robin_takes_turns_by_weight() {
        let mut decision = with(3, |policy| policy.balancer = Balancer::RoundRobin);
        let load = |_: &Target| Load::default();
        let turn = |decision: &RouteDecision, turn| {
            name(&pick(decision, &load, Draw { entropy: 9, turn, tables: None, behind: 0 }).unwrap())
        };
        let names: Vec<String> = (0..4).map(|number| turn(&decision, number)).collect();
        assert_eq!(names, ["reviews-1", "reviews-2", "reviews-3", "reviews-1"]);
        let RouteOutcome::Forward { tiers } = &mut decision.outcome else { panic!("{decision:?}") };
        let tiers = Arc::make_mut(tiers);
        for (target, share) in tiers[0].targets.iter_mut().zip([5, 3, 2]) {
            let Target::Local { weight, .. } = target else { panic!("{target:?}") };
            *weight = share;
        }
        assert_eq!(counts(&decision, &load, 20).into_values().collect::<Vec<_>>(), [10, 6, 4]);
        assert_ne!(turn(&decision, 0), turn(&decision, 1), "the heaviest does not take all its turns at once");
    }

    #[test]
    fn equal_hashes_meet_the_same_endpoint_until_it_is_gone() {
        for table in [HashTable::Ring { minimum_size: 1024 }, HashTable::Maglev { size: 65537 }] {
            let mut decision = with(5, |policy| {
                policy.balancer = Balancer::ConsistentHash { key: HashKey::SourceIp, table };
            });
            decision.affinity = Some(Affinity { hash: 0x1234_5678_9abc_def0, set_cookie: None });
            let first = counts(&decision, &|_| Load::default(), 50);
            assert_eq!(first.len(), 1, "{first:?}");
            let gone = first.into_keys().next().unwrap();
            let load = |target: &Target| match target {
                Target::Local { endpoint, .. } if *endpoint == gone => Load { ejected: true, ..Load::default() },
                _ => Load::default(),
            };
            let second = counts(&decision, &load, 50);
            assert!(second.len() == 1 && !second.contains_key(&gone), "{second:?}");
            decision.affinity = None;
            assert!(counts(&decision, &|_| Load::default(), 50).len() > 1, "without a hash any endpoint does");
        }
    }

    #[test]
    fn a_new_endpoint_starts_slowly() {
        let decision = with(2, |policy| {
            policy.balancer = Balancer::Random;
            policy.warmup = Some(Warmup { duration: Duration::from_secs(100), minimum_percent: 10.0, aggression: 1.0 });
        });
        for (seconds, least, most) in [(0, 40, 150), (50, 270, 400), (100, 450, 550)] {
            let load = |target: &Target| match target {
                Target::Local { endpoint, .. } if endpoint == "reviews-1" => {
                    Load { age: Some(Duration::from_secs(seconds)), ..Load::default() }
                }
                _ => Load::default(),
            };
            let count = counts(&decision, &load, 1000).get("reviews-1").copied().unwrap_or(0);
            assert!((least..=most).contains(&count), "after {seconds} s: {count} of 1000");
        }
    }

    proptest! {
        #[test]
        fn the_busier_of_the_two_choices_is_never_picked(busy in 1..50_u32, entropy: u64) {
            let decision = decision(2, 0);
            let load = |target: &Target| match target {
                Target::Local { endpoint, .. } if endpoint == "reviews-1" => Load { active: busy, ..Load::default() },
                _ => Load::default(),
            };
            let both_first = (entropy >> 32) % 2 == 0 && (entropy & 0xffff_ffff) % 2 == 0;
            let picked = name(&pick(&decision, &load, entropy).unwrap());
            prop_assert_eq!(picked == "reviews-1", both_first);
        }
    }
}
