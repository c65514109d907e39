//! What is remembered of each destination (service, subset, port): what runs there, which endpoints are ejected, whose
//! turn it is, tables of consistent hashing, and since when endpoints are known.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh::{HashRing, Outcome, OutlierDetection, Outliers, RouteDecision, RouteOutcome, Tier, TrafficPolicy};
use tokio::time::Instant;

use super::TargetKey;
use super::abroad::Abroad;
use super::limits::Gate;
use crate::metrics::{Happening, Metrics};

/// No more destinations are remembered; beyond, those that nobody uses are forgotten first.
const DESTINATIONS_MAX: usize = 2048;
/// A destination that nobody used for so long, and that has nothing to remember, is forgotten.
const UNUSED: Duration = Duration::from_secs(600);
/// Tables of one destination: one for each tier that is in use.
const TABLES_MAX: usize = 4;
/// Endpoints of one destination whose age is known.
const BORN_MAX: usize = 4096;

/// A destination as policies mean it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct DestinationKey {
    host: String,
    subset: String,
    port: u16,
    /// A port of TCP with the same number is another one.
    udp: bool,
}

impl DestinationKey {
    fn of(decision: &RouteDecision) -> Self {
        let host = decision.service.as_ref().map(ToString::to_string).unwrap_or_default();
        let (subset, udp) = (decision.subset.clone().unwrap_or_default(), decision.protocol.is_udp());
        Self { host, subset, port: decision.port, udp }
    }
}

/// `default/reviews v1 9080`, or `default/names 53/udp`.
impl std::fmt::Display for DestinationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let subset = if self.subset.is_empty() { String::new() } else { format!(" {}", self.subset) };
        let udp = if self.udp { "/udp" } else { "" };
        write!(f, "{}{subset} {}{udp}", self.host, self.port)
    }
}

/// One destination.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) key: DestinationKey,
    pub(super) gate: Arc<Gate>,
    pub(super) abroad: Abroad,
    /// Its servers chose HTTP/2 behind TLS, so that requests share connections.
    shares: AtomicBool,
    health: Mutex<Health>,
    turn: AtomicU64,
    tables: Mutex<Vec<(u64, Arc<HashRing>)>>,
    born: Mutex<HashMap<TargetKey, Instant>>,
    used: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct Health {
    outliers: Outliers<TargetKey>,
    rules: Option<OutlierDetection>,
}

/// All destinations.
#[derive(Debug, Default)]
pub(super) struct Destinations(Mutex<HashMap<DestinationKey, Arc<Destination>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Destinations {
    /// The destination of a decision.
    pub(super) fn of(&self, decision: &RouteDecision) -> Arc<Destination> {
        let key = DestinationKey::of(decision);
        let mut all = lock(&self.0);
        if let Some(known) = all.get(&key) {
            *lock(&known.used) = Instant::now();
            return known.clone();
        }
        if all.len() >= DESTINATIONS_MAX {
            forget_oldest(&mut all);
        }
        let new = Arc::new(Destination::new(key.clone()));
        all.insert(key, new.clone());
        new
    }

    /// Every destination, for the debug pages.
    pub(super) fn all(&self) -> Vec<Arc<Destination>> {
        lock(&self.0).values().cloned().collect()
    }

    /// Forgets what nobody uses; called every few seconds.
    pub(super) fn sweep(&self) {
        lock(&self.0).retain(|_, known| {
            known.advance();
            Arc::strong_count(known) > 1 || !known.gate.is_idle() || known.has_past() || known.unused() < UNUSED
        });
    }
}

fn forget_oldest(all: &mut HashMap<DestinationKey, Arc<Destination>>) {
    let idle = all.iter().filter(|(_, known)| Arc::strong_count(known) == 1 && known.gate.is_idle());
    if let Some(oldest) = idle.max_by_key(|(_, known)| known.unused()).map(|(key, _)| key.clone()) {
        all.remove(&oldest);
    }
}

impl Destination {
    fn new(key: DestinationKey) -> Self {
        Self {
            key,
            gate: Arc::default(),
            abroad: Abroad::default(),
            shares: AtomicBool::new(false),
            health: Mutex::default(),
            turn: AtomicU64::new(rand::random::<u32>().into()),
            tables: Mutex::default(),
            born: Mutex::default(),
            used: Mutex::new(Instant::now()),
        }
    }

    fn unused(&self) -> Duration {
        lock(&self.used).elapsed()
    }

    fn has_past(&self) -> bool {
        !lock(&self.health).outliers.is_empty()
    }

    fn advance(&self) {
        let mut health = lock(&self.health);
        let Health { outliers, rules } = &mut *health;
        if let Some(rules) = rules {
            outliers.advance(rules, Instant::now().into_std());
        }
    }

    /// Whether its servers were last found to choose HTTP/2.
    pub(super) fn shares(&self) -> bool {
        self.shares.load(Ordering::Relaxed)
    }

    /// Remembers what a server chose.
    pub(super) fn negotiated(&self, http2: bool) {
        self.shares.store(http2, Ordering::Relaxed);
    }

    /// The next turn of round robin.
    pub(super) fn turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether outlier detection keeps an endpoint out: only while the policy still has it. Endpoints that get nothing have
    /// no outcomes by which [`Self::observe`] would learn that it has gone.
    pub(super) fn is_ejected(&self, decision: &RouteDecision, key: &TargetKey) -> bool {
        let health = lock(&self.health);
        decision.policy.outlier.is_some()
            && health.rules.is_some()
            && health.outliers.is_ejected(key, Instant::now().into_std())
    }

    /// Takes the outcome of an attempt at an endpoint.
    pub(super) fn observe(&self, policy: &Observed, key: &TargetKey, outcome: Outcome, metrics: &Metrics) {
        let mut health = lock(&self.health);
        let Health { outliers, rules } = &mut *health;
        if *rules != policy.rules.outlier {
            rules.clone_from(&policy.rules.outlier);
            if rules.is_none() {
                *outliers = Outliers::default();
            }
        }
        let Some(rules) = rules else { return };
        let now = Instant::now().into_std();
        if let Some(detector) = outliers.observe(rules, key, outcome, policy.targets, now) {
            drop(health);
            tracing::info!(destination = %self.key, endpoint = %key, detector = detector.as_str(), "an endpoint was ejected");
            metrics.happened(Happening::Ejected(detector.as_str()), &self.key.host);
        }
    }

    /// Every endpoint with a past, whether it is ejected, and how often it was.
    pub(super) fn pasts(&self) -> Vec<(TargetKey, bool, u32)> {
        let health = lock(&self.health);
        let now = Instant::now().into_std();
        health.outliers.iter(now).map(|(key, ejected, times)| (key.clone(), ejected, times)).collect()
    }

    /// For how long an endpoint is known. Those that were there when the destination was first used are not new.
    pub(super) fn age(&self, decision: &RouteDecision, key: &TargetKey) -> Option<Duration> {
        decision.policy.warmup.as_ref()?;
        lock(&self.born).get(key).map(Instant::elapsed)
    }

    /// Notes endpoints that are new, for slow start.
    pub(super) fn meet(&self, decision: &RouteDecision, keys: impl Iterator<Item = TargetKey>) {
        let Some(warmup) = &decision.policy.warmup else { return };
        let mut born = lock(&self.born);
        let now = Instant::now();
        let first = born.is_empty();
        let birth = if first { now.checked_sub(warmup.duration).unwrap_or(now) } else { now };
        let keys: Vec<TargetKey> = keys.take(BORN_MAX).collect();
        for key in &keys {
            born.entry(key.clone()).or_insert(birth);
        }
        if born.len() > keys.len() {
            born.retain(|key, _| keys.contains(key));
        }
    }

    /// The table of a tier; built when its targets changed.
    pub(super) fn table(&self, decision: &RouteDecision, tier: &Tier) -> Option<Arc<HashRing>> {
        let mut hasher = DefaultHasher::new();
        tier.targets.hash(&mut hasher);
        format!("{:?}", decision.policy.balancer).hash(&mut hasher);
        let print = hasher.finish();
        if let Some((_, table)) = lock(&self.tables).iter().find(|(known, _)| *known == print) {
            return Some(table.clone());
        }
        let table = Arc::new(mesh::hash_ring(decision, tier)?);
        let mut tables = lock(&self.tables);
        if tables.len() >= TABLES_MAX {
            tables.remove(0);
        }
        tables.push((print, table.clone()));
        Some(table)
    }
}

/// What outlier detection needs to know of a decision, also after it.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    rules: Arc<TrafficPolicy>,
    /// How many endpoints there are.
    targets: usize,
}

impl Observed {
    pub(super) fn of(decision: &RouteDecision) -> Self {
        Self { rules: Arc::clone(&decision.policy), targets: targets(decision) }
    }

    /// Whether there is outlier detection at all.
    pub(super) fn is_wanted(&self) -> bool {
        self.rules.outlier.is_some()
    }
}

/// How many endpoints a decision knows; a group of another cluster is ejected as one.
fn targets(decision: &RouteDecision) -> usize {
    match &decision.outcome {
        RouteOutcome::Forward { tiers } => tiers.iter().map(|tier| tier.targets.len()).sum(),
        _ => 1,
    }
}
