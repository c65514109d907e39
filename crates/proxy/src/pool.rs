//! Connections that are shared: how many there are per destination, and which of them carries the next request.
//!
//! A [`Pool`] knows no protocol. It counts what is in flight on each connection ([`Lease`]), prefers one that has room,
//! dials when none has, and shares the least busy one when no more may be dialled. Where dialling takes a long way
//! ([`Policy::ahead`]) it dials before a connection is needed, and lets what is brief share one meanwhile: see [`grow`].

pub mod dial;
pub mod direct;
pub mod gateways;
pub(crate) mod grow;
pub mod http;
pub(crate) mod meter;
pub mod origin;
pub mod plain;
mod policy;

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::fault::Fault;

use policy::idle_of;
pub use policy::{Ahead, Policy};

/// A connection that can carry several things at once.
pub trait Pooled: Send + Sync + 'static {
    /// Whether something new may be put on it.
    fn is_usable(&self) -> bool;

    /// Whether it has carried little of late, so that something brief does not wait behind something long.
    fn is_light(&self) -> bool {
        true
    }
}

/// Shared connections by destination.
pub struct Pool<K, C> {
    slots: Mutex<HashMap<K, Arc<Slot<C>>>>,
    policy: Policy,
}

struct Slot<C> {
    state: Mutex<SlotState<C>>,
    /// Something changed: a connection came, went, or has room.
    changed: Notify,
}

struct SlotState<C> {
    connections: Vec<Arc<Member<C>>>,
    dialling: usize,
    /// The last dial that failed, for those who waited for it.
    failed: Option<(Instant, Fault)>,
}

struct Member<C> {
    connection: C,
    active: AtomicUsize,
    /// What it carried so far, what is in flight included.
    carried: AtomicUsize,
    /// Takes nothing new from then on.
    until: Option<Instant>,
    /// Should have a successor from then on.
    ages: Option<Instant>,
    last_used: Mutex<Instant>,
    /// Closed when it is unused for this long.
    idle: Duration,
}

impl<C: Pooled> Member<C> {
    fn is_usable(&self, now: Instant) -> bool {
        self.connection.is_usable() && self.until.is_none_or(|until| now < until)
    }

    fn may_carry(&self, policy: &Policy) -> bool {
        policy.carries.is_none_or(|most| self.carried.load(Ordering::Relaxed) < most as usize)
    }

    fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    fn is_young(&self, now: Instant) -> bool {
        self.ages.is_none_or(|ages| now < ages)
    }
}

/// The right to put one thing on a connection; given back on drop.
pub struct Lease<C: Pooled> {
    member: Arc<Member<C>>,
    slot: Arc<Slot<C>>,
}

impl<C: Pooled> Deref for Lease<C> {
    type Target = C;
    fn deref(&self) -> &C {
        &self.member.connection
    }
}

impl<C: Pooled> Drop for Lease<C> {
    fn drop(&mut self) {
        *lock(&self.member.last_used) = Instant::now();
        self.member.active.fetch_sub(1, Ordering::Relaxed);
        self.slot.changed.notify_waiters();
    }
}

/// What to do for a caller.
enum Step<C: Pooled> {
    Use(Lease<C>),
    Dial(DialGuard<C>),
    Wait,
    Fail(Fault),
}

/// Counts a dial until it is over, also when its caller went away.
struct DialGuard<C> {
    slot: Arc<Slot<C>>,
}

impl<C> Drop for DialGuard<C> {
    fn drop(&mut self) {
        lock(&self.slot.state).dialling -= 1;
        self.slot.changed.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Eq + Hash + Clone, C: Pooled> Pool<K, C> {
    /// An empty pool.
    pub fn new(policy: Policy) -> Self {
        Self { slots: Mutex::default(), policy }
    }

    /// A connection to `key`, dialled by `dial` if need be. Whoever waits for another's dial shares its failure.
    pub async fn get<D, F>(&self, key: &K, dial: D) -> Result<Lease<C>, Fault>
    where
        D: FnOnce() -> F,
        F: Future<Output = Result<C, Fault>>,
    {
        self.get_as(key, self.policy, dial).await
    }

    /// The same under the policy of this destination.
    pub async fn get_as<D, F>(&self, key: &K, policy: Policy, dial: D) -> Result<Lease<C>, Fault>
    where
        D: FnOnce() -> F,
        F: Future<Output = Result<C, Fault>>,
    {
        let slot = lock(&self.slots).entry(key.clone()).or_insert_with(Slot::empty).clone();
        let began = Instant::now();
        let guard = loop {
            let changed = slot.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match step(&policy, &slot, began) {
                Step::Use(lease) => return Ok(lease),
                Step::Dial(guard) => break guard,
                Step::Fail(fault) => return Err(fault),
                Step::Wait => changed.await,
            }
        };
        match dial().await {
            Ok(connection) => {
                let member = slot.admit(&policy, connection);
                let lease = slot.lease(&member);
                drop(guard);
                Ok(lease)
            }
            Err(fault) => {
                slot.fail(&fault);
                Err(fault)
            }
        }
    }

    /// Closes what is no longer used; called every few seconds.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut slots = lock(&self.slots);
        slots.retain(|_, slot| {
            let mut state = lock(&slot.state);
            state.connections.retain(|member| {
                let idle = member.active() == 0 && now.duration_since(*lock(&member.last_used)) >= member.idle;
                member.is_usable(now) && !idle
            });
            // A caller that waits or dials holds the slot.
            !state.connections.is_empty() || state.dialling > 0 || Arc::strong_count(slot) > 1
        });
    }

    /// Every connection with its destination and what is in flight on it.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &C, usize)) {
        for (key, slot) in &*lock(&self.slots) {
            for member in &lock(&slot.state).connections {
                visit(key, &member.connection, member.active());
            }
        }
    }
}

fn step<C: Pooled>(policy: &Policy, slot: &Arc<Slot<C>>, began: Instant) -> Step<C> {
    let now = Instant::now();
    let mut state = lock(&slot.state);
    // Connections in use live on through their leases.
    state.connections.retain(|member| member.is_usable(now) && member.may_carry(policy));
    let best = state.connections.iter().min_by_key(|member| member.active());
    if let Some(best) = best.filter(|best| best.active() < policy.per_connection) {
        return Step::Use(slot.lease(best));
    }
    if let Some((at, fault)) = &state.failed
        && *at >= began
        && state.connections.is_empty()
    {
        return Step::Fail(fault.clone());
    }
    let best = state.connections.iter().min_by_key(|member| member.active());
    let shared = best.filter(|best| policy.at_once.is_none_or(|most| best.active() < most));
    // When all are full by the destination's own limit, the number of connections is none.
    let room = state.connections.len() + state.dialling < policy.connections || shared.is_none();
    if room && state.dialling < policy.dials {
        state.dialling += 1;
        return Step::Dial(DialGuard { slot: slot.clone() });
    }
    match shared {
        Some(best) => Step::Use(slot.lease(best)),
        None => Step::Wait,
    }
}

impl<C: Pooled> Slot<C> {
    fn empty() -> Arc<Self> {
        let state = SlotState { connections: Vec::new(), dialling: 0, failed: None };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    fn lease(self: &Arc<Self>, member: &Arc<Member<C>>) -> Lease<C> {
        member.active.fetch_add(1, Ordering::Relaxed);
        member.carried.fetch_add(1, Ordering::Relaxed);
        Lease { member: member.clone(), slot: self.clone() }
    }

    /// Takes in a connection that was dialled.
    fn admit(&self, policy: &Policy, connection: C) -> Arc<Member<C>> {
        let now = Instant::now();
        let lifetime = policy.lifetime.map(|lifetime| lifetime.mul_f64(1.0 - rand::random::<f64>() / 3.0));
        let member = Arc::new(Member {
            connection,
            active: AtomicUsize::new(0),
            carried: AtomicUsize::new(0),
            until: lifetime.map(|lifetime| now + lifetime),
            ages: lifetime.map(|lifetime| now + lifetime.mul_f64(grow::YOUNG)),
            last_used: Mutex::new(now),
            idle: policy.idle,
        });
        let mut state = lock(&self.state);
        state.failed = None;
        state.connections.push(member.clone());
        member
    }

    /// Tells those who wait that a dial failed.
    fn fail(&self, fault: &Fault) {
        lock(&self.state).failed = Some((Instant::now(), fault.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use mesh::ConnectionPool;

    use super::*;

    struct Fake(AtomicBool);

    impl Pooled for Fake {
        fn is_usable(&self) -> bool {
            !self.0.load(Ordering::Relaxed)
        }
    }

    async fn get(pool: &Pool<u8, Fake>) -> Lease<Fake> {
        pool.get(&1, || async { Ok(Fake(AtomicBool::new(false))) }).await.unwrap()
    }

    fn count(pool: &Pool<u8, Fake>) -> usize {
        let mut count = 0;
        pool.for_each(|_, _, _| count += 1);
        count
    }

    #[tokio::test]
    async fn a_connection_with_room_is_used_before_another_is_dialled() {
        let pool = Pool::new(Policy { connections: 2, ..Policy::REMOTE });
        let one = get(&pool).await;
        let two = get(&pool).await;
        assert_eq!(count(&pool), 2);
        let shared = get(&pool).await;
        assert_eq!(count(&pool), 2, "the third shares");
        drop((one, two, shared));
        drop(get(&pool).await);
        assert_eq!(count(&pool), 2);
    }

    #[tokio::test]
    async fn a_connection_ends_when_it_carried_what_it_may() {
        let limits = ConnectionPool { max_requests_per_connection: Some(2), ..ConnectionPool::default() };
        let pool = Pool::new(Policy::SHARED.within(&limits));
        let first = get(&pool).await;
        drop(get(&pool).await);
        assert_eq!(count(&pool), 1, "two on one connection");
        drop(get(&pool).await);
        assert_eq!(count(&pool), 1, "the third has another, and the first is on its way out");
        assert!(first.is_usable(), "what it carries goes on");
    }

    #[tokio::test]
    async fn no_connection_carries_more_than_the_destination_says_however_many_there_are() {
        for policy in [Policy { connections: 2, ..Policy::SHARED }, Policy { connections: 2, ..Policy::REMOTE }] {
            let limits = ConnectionPool { max_concurrent_streams: Some(3), ..ConnectionPool::default() };
            let pool = Pool::new(policy.within(&limits));
            let mut leases = Vec::new();
            for _ in 0..10 {
                leases.push(get(&pool).await);
            }
            pool.for_each(|_, _, active| assert!(active <= 3, "{active}"));
            assert_eq!(count(&pool), 4);
        }
    }

    #[tokio::test]
    async fn an_unused_connection_ends_after_the_destinations_idle_time() {
        let limits = ConnectionPool { http_idle_timeout: Some(Duration::from_nanos(1)), ..ConnectionPool::default() };
        for (limits, left) in [(limits, 0), (ConnectionPool::default(), 1)] {
            let pool = Pool::new(Policy::SHARED.within(&limits));
            drop(get(&pool).await);
            pool.sweep();
            assert_eq!(count(&pool), left);
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_not_usable_is_replaced_and_its_lease_lives_on() {
        let pool = Pool::new(Policy::SHARED);
        let old = get(&pool).await;
        old.0.store(true, Ordering::Relaxed);
        let new = get(&pool).await;
        assert!(new.is_usable() && !old.is_usable());
        assert_eq!(count(&pool), 1);
    }

    #[tokio::test]
    async fn those_who_wait_for_a_dial_share_its_failure() {
        let pool: Arc<Pool<u8, Fake>> = Arc::new(Pool::new(Policy::SHARED));
        let (tx, rx) = tokio::sync::oneshot::channel::<()>();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move {
                let dial = || async {
                    let _ = rx.await;
                    Err(Fault::connect("refused"))
                };
                pool.get(&1, dial).await.map(drop)
            }
        });
        tokio::task::yield_now().await;
        let dialled = Arc::new(AtomicBool::new(false));
        let second = tokio::spawn({
            let (pool, dialled) = (pool.clone(), dialled.clone());
            async move {
                let dial = || async {
                    dialled.store(true, Ordering::Relaxed);
                    Err(Fault::connect("again"))
                };
                pool.get(&1, dial).await.map(drop)
            }
        });
        tokio::task::yield_now().await;
        tx.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Err(Fault::connect("refused")));
        assert_eq!(second.await.unwrap(), Err(Fault::connect("refused")));
        assert!(!dialled.load(Ordering::Relaxed));
    }
}
