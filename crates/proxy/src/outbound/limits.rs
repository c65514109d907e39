//! The limits of a destination (`connectionPool`, `retryBudget`), counted over all its endpoints.
//!
//! Between sidecars many requests share a connection, so limits of connections are not limits of sockets. What a user
//! sees is Envoy's all the same: a request of an HTTP/1 port counts as one connection as long as it runs; when
//! `maxConnections` run, up to `http1MaxPendingRequests` more wait, and the next one overflows. Requests of an HTTP/2 port
//! count against `http2MaxRequests` only, which limits those of HTTP/1 as well.

mod window;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh::{ConnectionPool, TrafficPolicy};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::fault::Fault;
use window::Window;

/// What runs at a destination.
#[derive(Debug, Default)]
pub(super) struct Gate {
    running: Mutex<Running>,
    /// The requests that began lately, where a budget of retries looks back.
    began: Mutex<Window>,
    /// A connection was given back.
    freed: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Running {
    connections: u32,
    waiting: u32,
    requests: u32,
    retries: u32,
}

/// The right to run; given back on drop.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<Gate>,
    connection: bool,
    request: bool,
    retry: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut running = self.gate.lock();
        running.connections -= u32::from(self.connection);
        running.requests -= u32::from(self.request);
        running.retries -= u32::from(self.retry);
        drop(running);
        if self.connection {
            self.gate.freed.notify_one();
        }
    }
}

impl Permit {
    /// The request turned out to share its connection with others.
    pub(super) fn share(&mut self) {
        if std::mem::take(&mut self.connection) {
            self.gate.lock().connections -= 1;
            self.gate.freed.notify_waiters();
        }
    }
}

/// One that waits for a connection.
struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

fn below(count: u32, limit: Option<u32>) -> bool {
    limit.is_none_or(|limit| count < limit)
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a request. `exclusive`: it takes a connection for itself; asked again after each wait, for what a server
    /// speaks may be found out meanwhile.
    pub(super) async fn enter(
        self: &Arc<Self>,
        pool: &ConnectionPool,
        exclusive: impl Fn() -> bool,
    ) -> Result<Permit, Fault> {
        if let Some(permit) = self.try_enter(pool, exclusive())? {
            return Ok(permit);
        }
        let waiting = {
            let mut running = self.lock();
            if !below(running.waiting, pool.max_pending_requests) {
                return Err(Fault::overflow("too many requests wait for a connection"));
            }
            running.waiting += 1;
            Waiting(self)
        };
        loop {
            let freed = self.freed.notified();
            if let Some(permit) = self.try_enter(pool, exclusive())? {
                drop(waiting);
                return Ok(permit);
            }
            freed.await;
        }
    }

    fn try_enter(self: &Arc<Self>, pool: &ConnectionPool, exclusive: bool) -> Result<Option<Permit>, Fault> {
        let mut running = self.lock();
        if exclusive && !below(running.connections, pool.max_connections) {
            return Ok(None);
        }
        if !below(running.requests, pool.max_requests) {
            return Err(Fault::overflow("too many requests are under way"));
        }
        running.requests += 1;
        running.connections += u32::from(exclusive);
        Ok(Some(Permit { gate: self.clone(), connection: exclusive, request: true, retry: false }))
    }

    /// Admits a connection of opaque bytes, or turns it away at once.
    pub(super) fn connect(self: &Arc<Self>, pool: &ConnectionPool) -> Result<Permit, Fault> {
        let mut running = self.lock();
        if !below(running.connections, pool.max_connections) {
            return Err(Fault::overflow("too many connections are open"));
        }
        running.connections += 1;
        Ok(Permit { gate: self.clone(), connection: true, request: false, retry: false })
    }

    /// A request begins, whatever becomes of it.
    pub(super) fn begin(&self, policy: &TrafficPolicy) {
        if let Some(budget) = policy.retry_budget.filter(|budget| !budget.interval.is_zero()) {
            self.window().add(budget.interval, Instant::now());
        }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.began.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a retry: within the budget if there is one, else within the limit of retries.
    pub(super) fn retry(self: &Arc<Self>, policy: &TrafficPolicy) -> Option<Permit> {
        let lately = match policy.retry_budget.filter(|budget| !budget.interval.is_zero()) {
            Some(budget) => self.window().count(budget.interval, Instant::now()),
            None => 0,
        };
        let mut running = self.lock();
        let limit = match &policy.retry_budget {
            Some(budget) => {
                let busy = f64::from(running.requests.saturating_add(running.waiting).max(lately));
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a u32")]
                let share = (busy * (budget.percent / 100.0).clamp(0.0, 1.0)) as u32;
                Some(share.max(budget.min_concurrency))
            }
            None => policy.pool.max_retries,
        };
        if !below(running.retries, limit) {
            return None;
        }
        running.retries += 1;
        Some(Permit { gate: self.clone(), connection: false, request: false, retry: true })
    }

    /// Nothing runs and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        let running = self.lock();
        running.connections == 0 && running.waiting == 0 && running.requests == 0 && running.retries == 0
    }
}

#[cfg(test)]
mod tests {
    use mesh::RetryBudget;

    use super::*;

    #[tokio::test]
    async fn of_a_hundred_connections_and_ten_that_wait_the_111th_overflows() {
        let gate = Arc::new(Gate::default());
        let pool =
            ConnectionPool { max_connections: Some(100), max_pending_requests: Some(10), ..ConnectionPool::default() };
        let mut permits = Vec::new();
        for _ in 0..100 {
            permits.push(gate.enter(&pool, || true).await.unwrap());
        }
        let (sender, mut admitted) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..10 {
            let (gate, pool, sender) = (gate.clone(), pool.clone(), sender.clone());
            tokio::spawn(async move { sender.send(gate.enter(&pool, || true).await) });
        }
        while gate.lock().waiting < 10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.enter(&pool, || true).await.unwrap_err().flag, crate::fault::flag::OVERFLOW);
        permits.pop();
        let next = admitted.recv().await.unwrap().unwrap();
        assert!(admitted.try_recv().is_err(), "one that was freed admits one");
        drop((next, permits));
        for _ in 0..9 {
            admitted.recv().await.unwrap().unwrap();
        }
        assert!(gate.is_idle());
    }

    #[tokio::test]
    async fn those_who_wait_go_on_when_the_server_is_found_to_share_connections() {
        let gate = Arc::new(Gate::default());
        let pool = ConnectionPool { max_connections: Some(1), ..ConnectionPool::default() };
        let shares = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let exclusive = {
            let shares = shares.clone();
            move || !shares.load(std::sync::atomic::Ordering::Relaxed)
        };
        let mut first = gate.enter(&pool, &exclusive).await.unwrap();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let (gate, pool, exclusive) = (gate.clone(), pool.clone(), exclusive.clone());
                tokio::spawn(async move { gate.enter(&pool, exclusive).await })
            })
            .collect();
        while gate.lock().waiting < 3 {
            tokio::task::yield_now().await;
        }
        shares.store(true, std::sync::atomic::Ordering::Relaxed);
        first.share();
        for waiting in waiting {
            let permit = waiting.await.unwrap().unwrap();
            assert!(!permit.connection);
        }
        drop(first);
        assert!(gate.is_idle());
    }

    #[tokio::test]
    async fn requests_and_retries_have_limits_of_their_own() {
        let gate = Arc::new(Gate::default());
        let pool = ConnectionPool {
            max_requests: Some(2),
            max_connections: Some(1),
            max_retries: Some(1),
            ..ConnectionPool::default()
        };
        let _permits = [gate.enter(&pool, || false).await.unwrap(), gate.enter(&pool, || false).await.unwrap()];
        assert!(gate.enter(&pool, || false).await.is_err(), "the third request");
        let mut policy = TrafficPolicy { pool, ..TrafficPolicy::default() };
        let one = gate.retry(&policy).unwrap();
        assert!(gate.retry(&policy).is_none(), "the second retry");
        policy.retry_budget =
            Some(RetryBudget { percent: 100.0, min_concurrency: 1, interval: std::time::Duration::ZERO });
        let two = gate.retry(&policy).expect("as many as there are requests");
        assert!(gate.retry(&policy).is_none());
        drop((one, two));
        assert!(gate.retry(&policy).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_looks_back_as_far_as_its_interval() {
        let gate = Arc::new(Gate::default());
        let interval = std::time::Duration::from_secs(10);
        let budget = RetryBudget { percent: 50.0, min_concurrency: 1, interval };
        let policy = TrafficPolicy { retry_budget: Some(budget), ..TrafficPolicy::default() };
        (0..4).for_each(|_| gate.begin(&policy));
        let retries = [gate.retry(&policy).unwrap(), gate.retry(&policy).unwrap()];
        assert!(gate.retry(&policy).is_none(), "half of the four");
        drop(retries);
        tokio::time::advance(2 * interval).await;
        let _one = gate.retry(&policy).unwrap();
        assert!(gate.retry(&policy).is_none(), "they are long ago");
    }
}
