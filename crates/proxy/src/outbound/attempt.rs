//! Attempts: which target is next, and what its failure means for the following ones.

use std::sync::Arc;

use mesh::{
    Attempt, Denial, Draw, FailedAttempt, Failure, Load, Outcome, Patience, RetryDecision, RouteDecision, RouteOutcome,
    Target, Tier, Unreached,
};
use tokio::time::Instant;

use super::abroad::{Eyes, Passport};
use super::destinations::{Destination, Observed};
use super::limits::Permit;
use super::{Engine, TargetKey};
use crate::balance::LoadGuard;
use crate::fault::{Fault, flag};
use crate::metrics::{Happening, Metrics};

/// The attempts at one request or connection.
pub(super) struct Attempts<'a> {
    engine: &'a Engine,
    pub(super) decision: &'a RouteDecision,
    pub(super) destination: Arc<Destination>,
    tried: Vec<TargetKey>,
    /// So many tiers, from the first, come after the others.
    behind: usize,
    /// The cap of what goes to other clusters was in the way.
    capped: bool,
    /// The tier that retries stay in, when the policy does not let them go elsewhere.
    stay: Option<usize>,
    /// The right to the retry that is under way.
    permit: Option<Permit>,
    /// When the first one began.
    began: Instant,
    /// Until when the flow waits for a way, once it does.
    patience: Option<Instant>,
    /// All attempts.
    pub(super) made: u32,
    /// Those that count against the retry policy ([`mesh::counts_as_attempt`]).
    counted: u32,
}

/// A chosen target, which counts as busy until it is dropped.
pub(super) struct Chosen {
    pub(super) target: Target,
    tier: usize,
    key: TargetKey,
    pub(super) load: InFlight,
}

/// Counts as under way until it is dropped.
pub(super) struct InFlight {
    _target: LoadGuard<TargetKey>,
    _abroad: Option<Passport>,
}

/// The facts on which a retry is decided, apart from the failure itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repeatable {
    pub(super) idempotent: bool,
    pub(super) replayable: bool,
}

/// Why no further attempt is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct GiveUp {
    pub(super) why: &'static str,
    /// Set when a limit of retries is the reason.
    pub(super) flag: Option<&'static str>,
}

/// Takes the outcome of an answer at its end.
pub(super) struct Late {
    destination: Arc<Destination>,
    observed: Observed,
    key: TargetKey,
    metrics: Metrics,
}

impl Late {
    /// The answer ended with this.
    pub(super) fn observe(self, outcome: Outcome) {
        self.destination.observe(&self.observed, &self.key, outcome, &self.metrics);
    }
}

impl<'a> Attempts<'a> {
    pub(super) fn new(engine: &'a Engine, decision: &'a RouteDecision) -> Self {
        let destination = engine.destinations.of(decision);
        let keys = targets(decision).filter_map(|target| TargetKey::of(decision, target));
        destination.meet(decision, keys);
        let behind = {
            let works = engine.works(decision, &destination);
            let deserves_a_trial = engine.deserves_a_trial(decision, &destination);
            destination.abroad.behind(decision, &Eyes { works: &works, deserves_a_trial: &deserves_a_trial })
        };
        Self {
            engine,
            decision,
            destination,
            tried: Vec::new(),
            behind,
            capped: false,
            stay: None,
            permit: None,
            began: Instant::now(),
            patience: None,
            made: 0,
            counted: 0,
        }
    }

    /// The next target.
    pub(super) fn next(&mut self) -> Option<Chosen> {
        let limit = self.decision.across.as_ref().and_then(|across| across.rules.max_requests);
        let passport = self.destination.abroad.depart(limit);
        self.capped = passport.is_none();
        let load = |target: &Target| {
            let Some(key) = TargetKey::of(self.decision, target) else { return Load::default() };
            Load {
                active: self.engine.load.active(&key),
                ejected: self.engine.aside.is_aside(&key),
                out: self.destination.is_ejected(self.decision, &key),
                tried: self.tried.contains(&key) || self.is_elsewhere(target),
                capped: self.capped && target.cluster().is_some(),
                age: self.destination.age(self.decision, &key),
            }
        };
        let tables = |_: usize, tier: &Tier| self.destination.table(self.decision, tier);
        let behind = self.behind;
        let draw = Draw { entropy: rand::random(), turn: self.destination.turn(), tables: Some(&tables), behind };
        let pick = mesh::pick(self.decision, &load, draw)?;
        let key = TargetKey::of(self.decision, &pick.target)?;
        self.made += 1;
        if self.made > 1 {
            self.count(Happening::Retry);
        }
        let abroad = passport.filter(|_| pick.target.cluster().is_some());
        let load = InFlight { _target: self.engine.load.start(key.clone()), _abroad: abroad };
        Some(Chosen { target: pick.target, tier: pick.tier, key, load })
    }

    /// The fault of a request for which there is no target.
    pub(super) fn none_left(&self) -> Fault {
        if self.capped {
            return Fault::overflow(
                "no more requests may be under way to other clusters, and this one has no endpoint left",
            );
        }
        refused(self.decision)
    }

    /// In another tier than the one that retries stay in.
    fn is_elsewhere(&self, target: &Target) -> bool {
        let (Some(stay), RouteOutcome::Forward { tiers }) = (self.stay, &self.decision.outcome) else { return false };
        tiers.get(stay).is_some_and(|tier| !tier.targets.contains(target))
    }

    pub(super) fn count(&self, happening: Happening) {
        let service = self.decision.service.as_ref().map(crate::access::host_of).unwrap_or_default();
        self.engine.config.recorder.metrics.happened(happening, &service);
    }

    /// Waits for a connection, of a flow that waits for a way no longer than it may.
    pub(super) async fn patiently<T>(&self, connecting: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let Some(until) = self.patience else { return connecting.await };
        let over = || Fault::denied(Denial::ClusterUnreachable, "there was no way within connectTimeout");
        tokio::time::timeout_at(until, connecting).await.unwrap_or_else(|_| Err(over()))
    }

    /// The target works, and answered this.
    pub(super) fn succeeded(&self, chosen: &Chosen, outcome: Outcome) {
        self.works(chosen);
        self.observe(chosen, outcome);
    }

    /// The target works; what it answers is not known yet.
    pub(super) fn works(&self, chosen: &Chosen) {
        self.engine.aside.clear(&chosen.key);
    }

    /// For the outcome of an answer that is only known at its end; `None` if nobody wants to know.
    pub(super) fn late(&self, chosen: &Chosen, decision: &RouteDecision) -> Option<Late> {
        let observed = Some(Observed::of(decision)).filter(Observed::is_wanted)?;
        let metrics = self.engine.config.recorder.metrics.clone();
        Some(Late { destination: Arc::clone(&self.destination), observed, key: chosen.key.clone(), metrics })
    }

    /// The target failed: what outlier detection makes of it.
    pub(super) fn failed(&self, chosen: &Chosen, fault: &Fault) {
        let outcome = match fault.denial {
            Some(denial) if !denial.is_retriable() => Outcome::Answered(fault.status().as_u16()),
            _ if fault.flag == flag::TIMEOUT => Outcome::TimedOut,
            _ => Outcome::Failed,
        };
        self.observe(chosen, outcome);
    }

    fn observe(&self, chosen: &Chosen, outcome: Outcome) {
        let observed = Observed::of(self.decision);
        self.destination.observe(&observed, &chosen.key, outcome, &self.engine.config.recorder.metrics);
    }

    /// Whether to try again after a failure. A target that could not even be connected to is set aside.
    pub(super) async fn again(&mut self, chosen: Chosen, fault: &Fault, repeatable: Repeatable) -> Result<(), GiveUp> {
        let Chosen { key, load, tier, .. } = chosen;
        drop(load);
        let policy = &self.decision.retry;
        let unreachable = mesh::is_unreachable(fault.failure, fault.denial);
        if unreachable {
            self.engine.aside.set(key.clone());
        }
        if unreachable || policy.avoids_previous(&self.decision.policy.balancer) {
            self.tried.push(key);
        }
        self.stay = (!unreachable && !policy.remote_localities).then_some(tier);
        let untried = targets(self.decision)
            .any(|target| TargetKey::of(self.decision, target).is_some_and(|key| !self.tried.contains(&key)));
        let unreached = Unreached {
            denial: fault.denial,
            untried,
            since: self.began.elapsed(),
            connect_timeout: self.decision.connect_timeout,
        };
        match mesh::wait_for_a_way(&unreached) {
            Patience::Again { pause, left } if repeatable.replayable => {
                // To ask for a way again is no further attempt: nothing has been sent anywhere.
                self.made -= 1;
                self.tried.clear();
                self.patience = Some(Instant::now() + left);
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                return Ok(());
            }
            Patience::Over => return Err(GiveUp { why: "there was no way within connectTimeout", flag: None }),
            Patience::Again { .. } | Patience::None => {}
        }
        let failed = FailedAttempt { failure: fault.failure, denial: fault.denial, untried, made: self.made };
        if mesh::counts_as_attempt(&failed) {
            self.counted += 1;
        }
        let attempt = Attempt {
            failure: fault.failure,
            made: self.counted.max(1),
            idempotent: repeatable.idempotent,
            replayable: repeatable.replayable,
            answered: false,
        };
        let pause = match mesh::retry(policy, &attempt) {
            RetryDecision::No { why } => return Err(GiveUp { why, flag: None }),
            RetryDecision::Again { pause } => pause,
        };
        self.permit = None;
        self.permit = self.destination.gate.retry(&self.decision.policy);
        if self.permit.is_none() {
            self.count(Happening::RetryOverflow);
            return Err(GiveUp { why: "too many retries are under way", flag: Some(flag::OVERFLOW) });
        }
        if !untried || !pause.is_zero() {
            // The only target that there is gets a moment to come back.
            let least = if unreachable { policy.backoff / 2 } else { std::time::Duration::ZERO };
            tokio::time::sleep(least + pause.max(policy.backoff).mul_f64(rand::random::<f64>())).await;
        }
        Ok(())
    }
}

impl Engine {
    /// Tells whether a target takes requests.
    pub(super) fn works<'a>(
        &'a self,
        decision: &'a RouteDecision,
        destination: &'a Destination,
    ) -> impl Fn(&Target) -> bool + 'a {
        |target| {
            let key = TargetKey::of(decision, target);
            // One that was set aside has to work once before it counts again.
            key.is_some_and(|key| !self.aside.is_unproven(&key) && !destination.is_ejected(decision, &key))
        }
    }
}

impl Engine {
    /// Tells whether a target may work again, and nobody has tried since it did not.
    fn deserves_a_trial<'a>(
        &'a self,
        decision: &'a RouteDecision,
        destination: &'a Destination,
    ) -> impl Fn(&Target) -> bool + 'a {
        |target| {
            let key = TargetKey::of(decision, target);
            key.is_some_and(|key| {
                self.aside.is_unproven(&key) && !self.aside.is_aside(&key) && !destination.is_ejected(decision, &key)
            })
        }
    }
}

fn targets(decision: &RouteDecision) -> impl Iterator<Item = &Target> {
    let tiers = match &decision.outcome {
        RouteOutcome::Forward { tiers } => &tiers[..],
        _ => &[],
    };
    tiers.iter().flat_map(|tier| &tier.targets)
}

/// The fault of a decision that has no target, or none that is healthy.
pub(super) fn refused(decision: &RouteDecision) -> Fault {
    let why: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
    let message = format!("nothing can serve this: {}", why.join("; "));
    let refused = decision.outcome == RouteOutcome::Refuse;
    if refused && decision.reasons.contains(&mesh::Reason::NotInMesh) {
        return Fault::black_hole(message);
    }
    let fault = match decision.denial() {
        None if !refused => Fault::denied(Denial::NoEndpoint, "no healthy upstream: all endpoints are ejected"),
        denial => Fault::denied(denial.unwrap_or(Denial::NoEndpoint), message),
    };
    // Nothing was tried, so nothing can be tried again.
    Fault { failure: Failure::Timeout, ..fault }
}
