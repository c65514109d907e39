//! Pools over a long way: connections are dialled in the background, before they are needed ([`mesh::ride`]).

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::{Rider, RiderBounds, RiderStep, Rides};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Ahead, DialGuard, Lease, Member, Policy, Pool, Pooled, Slot, SlotState, lock};
use crate::fault::Fault;

/// The part of a connection's life after which it should have a successor.
pub(super) const YOUNG: f64 = 0.75;
/// How long nothing is dialled ahead after a dial that failed.
const REST: Duration = Duration::from_secs(1);

/// How long a request waits for the dials of others before it dials too: they may have gone into a hole.
const PATIENCE: Duration = Duration::from_millis(250);

/// What is asked of a pool.
pub struct Wanted<'a> {
    /// How the connections of this destination are used.
    pub policy: Policy,
    /// It is over soon: it may share a connection.
    pub brief: bool,
    /// Ends dials that nobody waits for.
    pub ended: &'a CancellationToken,
}

enum Step<C: Pooled> {
    Use(Lease<C>, Option<DialGuard<C>>),
    Dial(DialGuard<C>),
    Wait,
    Fail(Fault),
}

impl<K: Eq + Hash + Clone, C: Pooled> Pool<K, C> {
    /// As [`Pool::get_as`], with connections that are dialled ahead where the policy says so: a dial goes on without the
    /// caller for whom it began, and the caller takes whichever connection is ready first.
    pub async fn get_ahead<D, F>(&self, key: &K, wanted: &Wanted<'_>, dial: D) -> Result<Lease<C>, Fault>
    where
        D: Fn() -> F,
        F: Future<Output = Result<C, Fault>> + Send + 'static,
    {
        let policy = wanted.policy;
        let Some(ahead) = policy.ahead else { return self.get_as(key, policy, dial).await };
        let slot = lock(&self.slots).entry(key.clone()).or_insert_with(Slot::empty).clone();
        let (began, mut who) = (Instant::now(), Rides { brief: wanted.brief, dialled: false, impatient: false });
        // What comes of the dial for this caller.
        let mut own: Option<oneshot::Receiver<Result<Lease<C>, Fault>>> = None;
        let start = |guard: DialGuard<C>, told: Option<oneshot::Sender<Result<Lease<C>, Fault>>>| {
            let (dialling, ended) = (dial(), wanted.ended.clone());
            tokio::spawn(async move {
                let ends = || Err(Fault::connect("the process ends"));
                let dialled = match ended.run_until_cancelled(dialling).await.unwrap_or_else(ends) {
                    Ok(connection) => Ok(guard.slot.lease(&guard.slot.admit(&policy, connection))),
                    Err(fault) => {
                        tracing::debug!(%fault, "a connection was dialled in vain");
                        guard.slot.fail(&fault);
                        Err(fault)
                    }
                };
                drop(guard);
                // A caller that has found another one, or is gone, leaves it to the pool.
                told.map(|told| told.send(dialled));
            });
        };
        loop {
            let changed = slot.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match step(&policy, ahead, &slot, who, began) {
                Step::Use(lease, more) => {
                    more.into_iter().for_each(|guard| start(guard, None));
                    return Ok(lease);
                }
                Step::Dial(guard) => {
                    let (told, hears) = oneshot::channel();
                    (own, who.dialled) = (Some(hears), true);
                    start(guard, Some(told));
                }
                Step::Fail(fault) => return Err(fault),
                Step::Wait => {
                    let dialled = async {
                        match &mut own {
                            Some(own) => own.await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        biased;
                        dialled = dialled => {
                            let lease = dialled.unwrap_or_else(|_| Err(Fault::connect("the process ends")))?;
                            more(&policy, ahead, &slot).into_iter().for_each(|guard| start(guard, None));
                            return Ok(lease);
                        }
                        () = changed => {}
                        () = tokio::time::sleep(PATIENCE), if !who.impatient => who.impatient = true,
                    }
                }
            }
        }
    }
}

fn step<C: Pooled>(policy: &Policy, ahead: Ahead, slot: &Arc<Slot<C>>, who: Rides, began: Instant) -> Step<C> {
    let now = Instant::now();
    let mut state = lock(&slot.state);
    // Connections in use live on through their leases.
    state.connections.retain(|member| member.is_usable(now) && member.may_carry(policy));
    let seen = Seen::of(policy, ahead, &state, now);
    let chosen = mesh::ride(&seen.riders, state.dialling, seen.resting, who, &seen.bounds);
    // Whoever waits for the dials of others shares their failure, as long as there is nothing else.
    let failed = state.failed.as_ref().filter(|_| !who.dialled && state.connections.is_empty());
    if let Some((_, fault)) = failed.filter(|(at, _)| *at >= began)
        && !matches!(chosen, RiderStep::Use { .. })
    {
        return Step::Fail(fault.clone());
    }
    if matches!(chosen, RiderStep::Dial | RiderStep::Use { ahead: true, .. }) {
        state.dialling += 1;
    }
    let guard = || DialGuard { slot: slot.clone() };
    match chosen {
        RiderStep::Use { index, ahead } => Step::Use(slot.lease(&state.connections[index]), ahead.then(guard)),
        RiderStep::Dial => Step::Dial(guard()),
        RiderStep::Wait => Step::Wait,
    }
}

/// The right to dial ahead for those that follow, for whoever has just taken a connection.
fn more<C: Pooled>(policy: &Policy, ahead: Ahead, slot: &Arc<Slot<C>>) -> Option<DialGuard<C>> {
    let mut state = lock(&slot.state);
    let seen = Seen::of(policy, ahead, &state, Instant::now());
    if !mesh::dials_ahead(&seen.riders, state.dialling, seen.resting, &seen.bounds) {
        return None;
    }
    state.dialling += 1;
    Some(DialGuard { slot: slot.clone() })
}

/// What is decided on.
struct Seen {
    riders: Vec<Rider>,
    bounds: RiderBounds,
    resting: bool,
}

impl Seen {
    fn of<C: Pooled>(policy: &Policy, ahead: Ahead, state: &SlotState<C>, now: Instant) -> Self {
        let rider = |member: &Arc<Member<C>>| Rider {
            active: member.active(),
            light: member.connection.is_light(),
            young: member.is_young(now),
        };
        let bounds = RiderBounds {
            connections: policy.connections,
            dials: policy.dials,
            alone: policy.per_connection,
            brief: ahead.brief,
            first: ahead.first,
            at_once: policy.at_once,
        };
        let resting = state.failed.as_ref().is_some_and(|(at, _)| now.duration_since(*at) < REST);
        Self { riders: state.connections.iter().map(rider).collect(), bounds, resting }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Fake;

    impl Pooled for Fake {
        fn is_usable(&self) -> bool {
            true
        }
    }

    /// A way of 100 ms.
    #[derive(Clone, Default)]
    struct Way(Arc<AtomicUsize>);

    impl Way {
        async fn get(&self, pool: &Pool<u8, Fake>, brief: bool) -> Result<Lease<Fake>, Fault> {
            let ended = CancellationToken::new();
            let wanted = Wanted { policy: Policy::REMOTE, brief, ended: &ended };
            let dial = || {
                let way = self.clone();
                async move {
                    way.0.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok(Fake)
                }
            };
            pool.get_ahead(&1, &wanted, dial).await
        }

        fn dials(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn pool() -> Arc<Pool<u8, Fake>> {
        Arc::new(Pool::new(Policy::REMOTE))
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_first_burst_waits() {
        let (pool, way) = (pool(), Way::default());
        for expected in [100, 0, 0] {
            let begun = tokio::time::Instant::now();
            let ten = (0..10).map(|_| {
                let (pool, way) = (pool.clone(), way.clone());
                tokio::spawn(async move { way.get(&pool, true).await })
            });
            let mut leases = Vec::new();
            for one in ten.collect::<Vec<_>>() {
                leases.push(one.await.unwrap().unwrap());
            }
            assert_eq!(begun.elapsed().as_millis(), expected);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // One for each that was held at once, and one that is ready.
        assert!(way.dials() <= 11, "{}", way.dials());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_long_has_a_connection_of_its_own() {
        let (pool, way) = (pool(), Way::default());
        let mut held = Vec::new();
        for _ in 0..5 {
            held.push(way.get(&pool, false).await.unwrap());
        }
        pool.for_each(|_, _, active| assert!(active <= 1, "{active}"));
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_long_learns_that_its_own_dial_failed_although_others_are_connected() {
        let (pool, way) = (pool(), Way::default());
        let held = way.get(&pool, false).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let also_held = way.get(&pool, false).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let ended = CancellationToken::new();
        let wanted = Wanted { policy: Policy::REMOTE, brief: false, ended: &ended };
        let refused = || async { Err(Fault::connect("refused")) };
        let (third, fourth) = (pool.get_ahead(&1, &wanted, refused), pool.get_ahead(&1, &wanted, refused));
        // The third takes what was dialled ahead.
        let third = third.await.unwrap();
        assert_eq!(fourth.await.map(drop), Err(Fault::connect("refused")));
        drop((held, also_held, third));
    }

    #[tokio::test(start_paused = true)]
    async fn who_dialled_is_not_left_without_a_connection_by_those_who_are_quicker() {
        let (pool, way) = (pool(), Way::default());
        let mut held = Vec::new();
        let get = |brief| {
            let (pool, way) = (pool.clone(), way.clone());
            tokio::spawn(async move { way.get(&pool, brief).await })
        };
        let waiting: Vec<_> = [true, true, true, false, false, true].map(get).into();
        for one in waiting {
            held.push(tokio::time::timeout(Duration::from_secs(1), one).await.expect("it waits").unwrap().unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_goes_on_without_its_caller() {
        let (pool, way) = (pool(), Way::default());
        let impatient = tokio::time::timeout(Duration::from_millis(50), way.get(&pool, true)).await;
        assert!(impatient.is_err());
        let begun = tokio::time::Instant::now();
        way.get(&pool, true).await.unwrap();
        assert_eq!(begun.elapsed().as_millis(), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_to_all_who_wait_and_the_next_one_dials_again() {
        let (pool, dials) = (pool(), Arc::new(AtomicUsize::new(0)));
        let get = || {
            let (pool, dials) = (pool.clone(), dials.clone());
            tokio::spawn(async move {
                let ended = CancellationToken::new();
                let wanted = Wanted { policy: Policy::REMOTE, brief: true, ended: &ended };
                let dial = || {
                    dials.fetch_add(1, Ordering::Relaxed);
                    async {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        Err(Fault::connect("refused"))
                    }
                };
                pool.get_ahead(&1, &wanted, dial).await.map(drop)
            })
        };
        for dialled in [2, 4] {
            for one in [get(), get(), get()] {
                assert_eq!(one.await.unwrap(), Err(Fault::connect("refused")));
            }
            assert_eq!(dials.load(Ordering::Relaxed), dialled);
        }
    }
}
