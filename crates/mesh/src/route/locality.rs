//! Which targets come first: the own cluster's before others', and inside as `localityLbSetting` says.

use std::collections::BTreeMap;

use super::context::Context;
use super::decision::{Target, Tier};
use crate::model::Labels;
use crate::names::ClusterName;
use crate::policy::{Distribution, LocalityPolicy};
use crate::topology::{Placed, locality_parts as parts};

/// A target, and where it is.
pub(super) struct Candidate<'a> {
    pub(super) target: Target,
    /// `region/zone/subzone`, or empty.
    pub(super) locality: &'a str,
    pub(super) labels: &'a Labels,
    /// `None` = the own.
    pub(super) cluster: Option<&'a ClusterName>,
}

impl<'a> Candidate<'a> {
    /// What labels it has for a client of the cluster `own`.
    fn placed(&self, own: Option<&'a ClusterName>) -> Placed<'a> {
        Placed { labels: self.labels, locality: self.locality, cluster: self.cluster.or(own) }
    }
}

/// Shares in percent become weights with this many parts each, so that single endpoints still differ.
const PARTS_PER_PERCENT: u64 = 10_000;

pub(super) fn tiers(
    context: &Context<'_>,
    policy: &LocalityPolicy,
    local: Vec<Candidate<'_>>,
    remote: Vec<Candidate<'_>>,
) -> Vec<Tier> {
    let own = context.locality();
    match policy {
        LocalityPolicy::Failover { regions } if !own.is_empty() => {
            ranked([local, remote], |candidate| distance(own, candidate.locality, regions))
        }
        LocalityPolicy::Priority { labels } => {
            ranked([local, remote], |candidate| mismatch(context, labels, candidate))
        }
        LocalityPolicy::Distribute { rules } => {
            match rules.iter().find(|rule| specificity(&rule.from, own).is_some()) {
                Some(rule) => distributed(rule, local, remote),
                None => ranked([local, remote], |_| 0),
            }
        }
        LocalityPolicy::Ignore | LocalityPolicy::Failover { .. } => ranked([local, remote], |_| 0),
    }
}

/// The parts in order, each by rank, without empty tiers.
fn ranked(parts: [Vec<Candidate<'_>>; 2], rank: impl Fn(&Candidate<'_>) -> usize) -> Vec<Tier> {
    let mut tiers = Vec::new();
    for part in parts {
        let mut by_rank: BTreeMap<usize, Vec<Target>> = BTreeMap::new();
        for candidate in part {
            by_rank.entry(rank(&candidate)).or_default().push(candidate.target);
        }
        tiers.extend(by_rank.into_values().map(|targets| Tier { targets }));
    }
    tiers
}

/// 0 in the same subzone, then zone, then region, then the region to fail over to, then the rest.
fn distance(own: &str, other: &str, regions: &[(String, String)]) -> usize {
    let (own, other) = (parts(own), parts(other));
    if let Some(differs) = (0..3).find(|&index| own[index] != other[index]) {
        let next = || regions.iter().any(|(from, to)| from == own[0] && to == other[0]);
        return match differs {
            2 => 1,
            1 => 2,
            _ if next() => 3,
            _ => 4,
        };
    }
    0
}

/// How many of the labels, from the end, do not count because one before them differs from the client's.
fn mismatch(context: &Context<'_>, labels: &[String], candidate: &Candidate<'_>) -> usize {
    let differs = |label: &String| {
        let (key, wanted) = match label.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (label.as_str(), context.label(label)),
        };
        let own = candidate.placed(context.view.cluster()).label(key);
        wanted.unwrap_or_default() != own.unwrap_or_default()
    };
    labels.iter().position(differs).map_or(0, |first| labels.len() - first)
}

/// One tier with the shares of the rule; localities that it does not name get nothing. Other clusters take part when
/// the rule names localities of theirs, else they stay what they are without a rule: the last resort.
fn distributed(rule: &Distribution, local: Vec<Candidate<'_>>, remote: Vec<Candidate<'_>>) -> Vec<Tier> {
    let names = |pattern: &String, candidate: &Candidate<'_>| {
        pattern != "*" && specificity(pattern, candidate.locality).is_some()
    };
    let named = remote.iter().any(|candidate| rule.to.keys().any(|pattern| names(pattern, candidate)));
    let (pool, last) = if named { (local.into_iter().chain(remote).collect(), Vec::new()) } else { (local, remote) };
    let mut shares: BTreeMap<&str, Vec<Target>> = BTreeMap::new();
    for candidate in pool {
        let fitting = rule.to.keys().filter_map(|pattern| Some((specificity(pattern, candidate.locality)?, pattern)));
        if let Some((_, pattern)) = fitting.max() {
            shares.entry(pattern).or_default().push(candidate.target);
        }
    }
    let weighted = shares.into_iter().flat_map(|(pattern, targets)| {
        let percent = rule.to.get(pattern).copied().unwrap_or_default();
        share_out(percent, targets)
    });
    let targets: Vec<Target> = weighted.collect();
    let first = (!targets.is_empty()).then_some(Tier { targets });
    first.into_iter().chain(ranked([last, Vec::new()], |_| 0)).collect()
}

/// Gives the targets of one locality its percentage, in proportion to their weights.
fn share_out(percent: u32, mut targets: Vec<Target>) -> Vec<Target> {
    if percent == 0 {
        return Vec::new();
    }
    let sum: u64 = targets.iter().map(|target| u64::from(target.weight())).sum();
    for target in &mut targets {
        let all = u64::from(percent) * PARTS_PER_PERCENT;
        let part = u128::from(all) * u128::from(target.weight()) / u128::from(sum.max(1));
        target.set_weight(u32::try_from(part.max(1)).unwrap_or(u32::MAX));
    }
    targets
}

/// Whether a locality is in a pattern such as `us-west/zone1/*`, and how many parts the pattern says.
fn specificity(pattern: &str, locality: &str) -> Option<usize> {
    let mut said = 0;
    for (wanted, part) in parts(pattern).into_iter().zip(parts(locality)) {
        if wanted.is_empty() || wanted == "*" {
            continue;
        }
        if wanted != part {
            return None;
        }
        said += 1;
    }
    Some(said)
}
