//! What a destination remembers of the division between clusters: the share of the own one, and what is under way to
//! others.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh::{Across, LocalHealth, LocalShare, RouteDecision, RouteOutcome, Spread, Target};
use serde::Serialize;
use tokio::time::Instant;

/// How long a look at all local endpoints is good for.
const FRESH: Duration = Duration::from_millis(50);
/// How often a request finds out whether a local endpoint works again that did not.
const TRIAL: Duration = Duration::from_secs(1);

/// The division of one destination.
#[derive(Debug, Default)]
pub(super) struct Abroad {
    local: Mutex<Local>,
    under_way: Arc<AtomicU32>,
}

/// What a proxy sees of targets.
pub(super) struct Eyes<'a> {
    /// It takes requests.
    pub(super) works: &'a dyn Fn(&Target) -> bool,
    /// It may work again; one request finds out.
    pub(super) deserves_a_trial: &'a dyn Fn(&Target) -> bool,
}

#[derive(Debug, Default)]
struct Local {
    share: LocalShare,
    /// When a request last found out whether a local endpoint works again.
    tried: Option<Instant>,
    /// When the endpoints were looked at, on which revision, and what came out.
    seen: Option<(Instant, u64, LocalHealth, f64)>,
}

/// How requests are divided between clusters right now, for the debug pages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Division {
    /// The share that the own cluster gets, 0 to 1; `None` where the order of clusters does not depend on its health.
    pub local_share: Option<f64>,
    /// Its endpoints, as this proxy sees them.
    pub local: Option<LocalHealth>,
    /// Requests and connections under way to other clusters.
    pub remote_under_way: u32,
}

/// One request or connection under way to another cluster, or the right to one.
#[derive(Debug)]
pub(super) struct Passport(Arc<AtomicU32>);

impl Drop for Passport {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Abroad {
    /// The right to send one more to another cluster; `None` when so many are under way.
    pub(super) fn depart(&self, limit: Option<u32>) -> Option<Passport> {
        let limit = limit.unwrap_or(u32::MAX);
        let below = |count: u32| (count < limit).then(|| count.saturating_add(1));
        self.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).ok()?;
        Some(Passport(self.under_way.clone()))
    }

    /// What is under way to other clusters.
    pub(super) fn under_way(&self) -> u32 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// The health of the own cluster's part of a decision, and the share of requests that it gets; `None` when nothing is
    /// divided by health. `works` tells whether an endpoint takes requests.
    pub(super) fn local(
        &self,
        decision: &RouteDecision,
        works: &dyn Fn(&Target) -> bool,
    ) -> Option<(LocalHealth, f64)> {
        let (Some(Across { rules, local: Some(part) }), RouteOutcome::Forward { tiers }) =
            (&decision.across, &decision.outcome)
        else {
            return None;
        };
        let now = Instant::now();
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, revision, health, share)) = local.seen
            && revision == decision.revision
            && now.duration_since(at) < FRESH
        {
            return Some((health, share));
        }
        let targets = tiers.iter().take(part.tiers).flat_map(|tier| &tier.targets);
        let health = LocalHealth { healthy: targets.filter(|target| works(target)).count(), known: part.endpoints };
        let share = local.share.observe(rules, health, now.into_std());
        local.seen = Some((now, decision.revision, health, share));
        Some((health, share))
    }

    /// How many tiers, from the first, a request puts behind the others.
    pub(super) fn behind(&self, decision: &RouteDecision, eyes: &Eyes<'_>) -> usize {
        let Some((health, share)) = self.local(decision, eyes.works) else { return 0 };
        let Some(Across { rules, local: Some(part) }) = &decision.across else { return 0 };
        // Requests that belong together stay together.
        let entropy = decision.affinity.as_ref().map_or_else(rand::random, |affinity| affinity.hash);
        match mesh::spread(rules, share, health, entropy) {
            Spread::Local => 0,
            // Where nobody goes nobody learns that it works again. Connecting in vain costs a retry elsewhere.
            Spread::Spill if self.tries_local(decision, part.tiers, eyes) => 0,
            Spread::Spill => part.tiers,
        }
    }

    /// Whether this request is the one that finds out about the local endpoints.
    fn tries_local(&self, decision: &RouteDecision, tiers: usize, eyes: &Eyes<'_>) -> bool {
        let RouteOutcome::Forward { tiers: all } = &decision.outcome else { return false };
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = local.tried.is_none_or(|tried| now.duration_since(tried) >= TRIAL);
        let mut targets = all.iter().take(tiers).flat_map(|tier| &tier.targets);
        if !is_due || !targets.any(|target| (eyes.deserves_a_trial)(target)) {
            return false;
        }
        local.tried = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_are_under_way() {
        let abroad = Abroad::default();
        let (one, two) = (abroad.depart(Some(2)), abroad.depart(Some(2)));
        assert!(one.is_some() && two.is_some() && abroad.depart(Some(2)).is_none());
        drop(one);
        assert!(abroad.depart(Some(2)).is_some());
        drop(two);
        assert_eq!(abroad.under_way(), 0);
        assert!(abroad.depart(None).is_some());
    }
}
