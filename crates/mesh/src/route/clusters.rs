//! Which cluster comes first: the own one and the others, as ClusterTrafficPolicy, weights and drains say.

use std::sync::{Arc, LazyLock};

use super::context::Context;
use super::decision::{Across, LocalPart, RouteDecision, Target, Tier};
use super::draw::{Lot, draw};
use super::locality::{self, Candidate};
use crate::model::Service;
use crate::names::ClusterName;
use crate::policy::{ClusterMode, ClusterTier, ClusterTraffic};
use crate::reason::Reason;

/// Without a policy of the service.
static DEFAULT: LazyLock<Arc<ClusterTraffic>> = LazyLock::new(Arc::default);

/// What governs the clients of a service.
pub(super) fn rules(service: &Service) -> &Arc<ClusterTraffic> {
    service.config.clusters.as_ref().unwrap_or(&DEFAULT)
}

/// Where a service is.
pub(super) struct Places<'a> {
    pub(super) local: Vec<Candidate<'a>>,
    pub(super) remote: Vec<Candidate<'a>>,
    /// Endpoints of the own cluster that would do, ready or not.
    pub(super) known: usize,
}

/// Orders the places, and says in the decision what divides requests between clusters.
pub(super) fn tiers(
    context: &Context<'_>,
    service: &Service,
    places: Places<'_>,
    decision: &mut RouteDecision,
) -> Vec<Tier> {
    let rules = rules(service);
    let Places { local, remote, known } = places;
    if let Some(origin) = &rules.origin {
        decision.reasons.push(Reason::ClusterPolicy { object: origin.clone(), mode: rules.mode.as_str() });
    }
    let (remote, draining) = without_draining(context, remote, decision);
    let policy = Arc::clone(&decision.policy);
    let by_locality = |local, remote| locality::tiers(context, &policy.locality, local, remote);
    let mut tiers = match rules.mode {
        ClusterMode::Weighted => {
            let own = context.view.cluster();
            let all = local.into_iter().chain(remote).collect();
            ordered(context, rules, all, own, decision)
                .into_iter()
                .flat_map(|part| by_locality(Vec::new(), part))
                .collect()
        }
        _ if rules.tiers.is_empty() => by_locality(local, remote),
        _ => {
            let mut tiers = by_locality(local, Vec::new());
            let parts = ordered(context, rules, remote, None, decision);
            tiers.extend(parts.into_iter().flat_map(|part| by_locality(Vec::new(), part)));
            tiers
        }
    };
    tiers.extend(by_locality(Vec::new(), draining));
    decision.across = across(rules, &tiers, known);
    tiers
}

/// Parts the clusters that drain and that this request spares: they are the last resort.
fn without_draining<'a>(
    context: &Context<'_>,
    remote: Vec<Candidate<'a>>,
    decision: &mut RouteDecision,
) -> (Vec<Candidate<'a>>, Vec<Candidate<'a>>) {
    let spared = |cluster: &ClusterName| {
        let index = context.view.clusters.keys().position(|name| name == cluster)?;
        let share = context.view.clusters.get(cluster)?.share_percent;
        let drawn = draw(context.request.entropy, Lot::Draining(index)) % 100;
        (drawn >= u64::from(share)).then_some(share)
    };
    let mut noted: Vec<&ClusterName> = Vec::new();
    remote.into_iter().partition(|candidate| {
        let Some(cluster) = candidate.cluster else { return true };
        let Some(percent) = spared(cluster) else { return true };
        if !noted.contains(&cluster) {
            noted.push(cluster);
            decision.reasons.push(Reason::Draining { cluster: cluster.clone(), percent });
        }
        false
    })
}

/// Candidates in the order of the tiers, one part after the other; clusters that no tier names come last.
fn ordered<'a>(
    context: &Context<'_>,
    rules: &ClusterTraffic,
    mut candidates: Vec<Candidate<'a>>,
    own: Option<&ClusterName>,
    decision: &mut RouteDecision,
) -> Vec<Vec<Candidate<'a>>> {
    let mut take = |clusters: &[&ClusterName]| {
        let (taken, left) = std::mem::take(&mut candidates)
            .into_iter()
            .partition(|candidate| candidate.cluster.or(own).is_some_and(|cluster| clusters.contains(&cluster)));
        candidates = left;
        taken
    };
    let mut parts: Vec<Vec<Candidate<'a>>> = Vec::new();
    for (number, tier) in rules.tiers.iter().enumerate() {
        let names: Vec<&ClusterName> = tier.clusters.iter().map(|weighted| &weighted.cluster).collect();
        let part: Vec<Candidate<'a>> = take(&names);
        parts.extend(by_weight(context, (number, tier), part, own, decision));
    }
    parts.push(candidates);
    parts
}

/// The clusters of a weighted tier one after the other, drawn by weight; one that has none at all is never drawn, and
/// comes last. Without weights they are one part.
fn by_weight<'a>(
    context: &Context<'_>,
    (number, tier): (usize, &ClusterTier),
    mut part: Vec<Candidate<'a>>,
    own: Option<&ClusterName>,
    decision: &mut RouteDecision,
) -> Vec<Vec<Candidate<'a>>> {
    let is_of = |candidate: &Candidate<'_>, name: &ClusterName| candidate.cluster.or(own) == Some(name);
    let there =
        tier.clusters.iter().filter(|weighted| part.iter().any(|candidate| is_of(candidate, &weighted.cluster)));
    let mut left: Vec<(&ClusterName, u32)> =
        there.filter_map(|weighted| Some((&weighted.cluster, weighted.weight?))).collect();
    if left.is_empty() {
        return vec![part];
    }
    let mut entropy = draw(context.request.entropy, Lot::Cluster(number));
    let mut parts = Vec::new();
    let of: u32 = left.iter().map(|(_, weight)| *weight).sum();
    while !left.is_empty() {
        let (name, weight) = left.remove(drawn(&left, entropy));
        if parts.is_empty() && !left.is_empty() {
            decision.reasons.push(Reason::Weighted { destination: format!("cluster {name}"), weight, of });
        }
        let (chosen, others) = part.into_iter().partition(|candidate| is_of(candidate, name));
        part = others;
        parts.push(chosen);
        entropy = draw(entropy, Lot::Cluster(number));
    }
    parts
}

/// The index of one of them, by weight.
fn drawn(clusters: &[(&ClusterName, u32)], entropy: u64) -> usize {
    let total: u64 = clusters.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let point = (u128::from(entropy) * u128::from(total)) >> 64;
    let mut left = u64::try_from(point).unwrap_or_default();
    let hit = clusters.iter().position(|(_, weight)| {
        let hit = left < u64::from(*weight);
        left = left.saturating_sub(u64::from(*weight));
        hit
    });
    hit.unwrap_or(0)
}

/// What is divided: nothing, unless there is another cluster to go to.
fn across(rules: &Arc<ClusterTraffic>, tiers: &[Tier], known: usize) -> Option<Across> {
    let is_remote = |target: &Target| target.cluster().is_some();
    let any = |tier: &Tier| tier.targets.iter().any(is_remote);
    let local_tiers = tiers.iter().position(any)?;
    let apart = tiers[local_tiers..].iter().all(|tier| tier.targets.iter().all(is_remote));
    let is_first = rules.mode == ClusterMode::LocalFirst && apart && known > 0;
    let local = is_first.then_some(LocalPart { tiers: local_tiers, endpoints: known });
    Some(Across { rules: Arc::clone(rules), local })
}
