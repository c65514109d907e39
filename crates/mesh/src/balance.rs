//! `pick()`: which target of a decision gets the next request, by least request among two random choices
//! (Istio's default LEAST_REQUEST), weighted by group size between clusters.

use serde::Serialize;

use crate::route::{RouteDecision, RouteOutcome, Target};

/// What the data plane knows of one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests or connections under way.
    pub active: u32,
    /// Set aside after failures.
    pub ejected: bool,
    /// Already tried for this request.
    pub tried: bool,
}

/// A chosen target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pick {
    /// Index of the tier, 0 = preferred.
    pub tier: usize,
    /// The target.
    pub target: Target,
}

/// Picks a target: from the first tier that has one which is neither ejected nor tried; else, rather than fail, an
/// ejected but untried one; else a tried one (a single endpoint that restarts is worth a second attempt).
/// `entropy` decides between equals and is the only randomness.
pub fn pick(decision: &RouteDecision, load: &dyn Fn(&Target) -> Load, entropy: u64) -> Option<Pick> {
    let RouteOutcome::Forward { tiers } = &decision.outcome else { return None };
    let classes: [fn(&Load) -> bool; 3] = [|load| !load.ejected && !load.tried, |load| !load.tried, |_| true];
    classes.iter().find_map(|class| {
        tiers.iter().enumerate().find_map(|(tier, candidates)| {
            let usable: Vec<(&Target, Load)> = candidates
                .targets
                .iter()
                .map(|target| (target, load(target)))
                .filter(|(_, load)| class(load))
                .collect();
            let target = least_request(&usable, entropy)?.clone();
            Some(Pick { tier, target })
        })
    })
}

/// Of two weighted random choices, the one with fewer requests per weight.
fn least_request<'a>(candidates: &[(&'a Target, Load)], entropy: u64) -> Option<&'a Target> {
    let total: u64 = candidates.iter().map(|(target, _)| weight(target)).sum();
    if total == 0 {
        return None;
    }
    let at = |point: u64| {
        let mut left = point % total;
        candidates.iter().find(|(target, _)| {
            let weight = weight(target);
            let hit = left < weight;
            left = left.saturating_sub(weight);
            hit
        })
    };
    // The two halves of the entropy are independent draws.
    let (first, second) = (at(entropy >> 32)?, at(entropy & 0xffff_ffff)?);
    // Compares active/weight without division.
    let score = |load: &Load, other: &Target| u64::from(load.active) * weight(other);
    let chosen = if score(&first.1, second.0) <= score(&second.1, first.0) { first } else { second };
    Some(chosen.0)
}

fn weight(target: &Target) -> u64 {
    match target {
        Target::Local { weight, .. } | Target::Named { weight, .. } | Target::Remote { weight, .. } => {
            u64::from(*weight)
        }
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
    use crate::route::{RouteRequest, route};

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
