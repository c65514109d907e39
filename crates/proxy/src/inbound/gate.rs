//! How much of the application is used at once (`Sidecar.inboundConnectionPool`, or a DestinationRule's limits on this
//! side).
//!
//! An HTTP/1.1 request takes a connection while it runs; more wait in turn, as many as may. What is one too many gets 503.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh::ConnectionPool;
use tokio::sync::Notify;

/// Envoy's flag of what there was no room for.
pub(super) const OVERFLOW: &str = "UO";

/// The gates of a workload: one for all ports, and one for each port that has limits of its own.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<BTreeMap<Option<u16>, Arc<Gate>>>);

impl Gates {
    /// The gate of a port, or of all that have none of their own. There are no more than the workload has ports.
    pub(super) fn of(&self, port: Option<u16>) -> Arc<Gate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(port).or_default().clone()
    }
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overflow;

/// What is in use.
#[derive(Debug, Default)]
pub(super) struct Gate {
    used: Mutex<Used>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Used {
    connections: u32,
    requests: u32,
    waiting: u32,
}

/// Room that is given back on drop.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    connections: u32,
    requests: u32,
}

impl Gate {
    /// Room for a connection of its own.
    pub(super) fn connection(self: &Arc<Self>, pool: &ConnectionPool) -> Result<Pass, Overflow> {
        let mut used = self.used();
        if is_full(used.connections, pool.max_connections) {
            return Err(Overflow);
        }
        used.connections += 1;
        Ok(Pass { gate: self.clone(), connections: 1, requests: 0 })
    }

    /// Room for a request; `alone` on its connection if the application speaks HTTP/1.1.
    pub(super) async fn request(self: &Arc<Self>, pool: &ConnectionPool, alone: bool) -> Result<Pass, Overflow> {
        let waiting = match self.try_request(pool, alone) {
            Some(entered) => return entered,
            None => self.wait(pool)?,
        };
        loop {
            let freed = self.freed.notified();
            if let Some(entered) = self.try_request(pool, alone) {
                drop(waiting);
                return entered;
            }
            freed.await;
        }
    }

    /// `None`: it must wait for a connection.
    fn try_request(self: &Arc<Self>, pool: &ConnectionPool, alone: bool) -> Option<Result<Pass, Overflow>> {
        let mut used = self.used();
        if is_full(used.requests, pool.max_requests) {
            return Some(Err(Overflow));
        }
        if alone && is_full(used.connections, pool.max_connections) {
            return None;
        }
        let connections = u32::from(alone);
        used.requests += 1;
        used.connections += connections;
        Some(Ok(Pass { gate: self.clone(), connections, requests: 1 }))
    }

    fn wait(&self, pool: &ConnectionPool) -> Result<Waiting<'_>, Overflow> {
        let mut used = self.used();
        if is_full(used.waiting, pool.max_pending_requests) {
            return Err(Overflow);
        }
        used.waiting += 1;
        Ok(Waiting(self))
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_full(used: u32, max: Option<u32>) -> bool {
    max.is_some_and(|max| used >= max)
}

/// A place in the queue.
struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.used().waiting -= 1;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut used = self.gate.used();
        used.connections -= self.connections;
        used.requests -= self.requests;
        drop(used);
        self.gate.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pool(connections: Option<u32>, pending: Option<u32>, requests: Option<u32>) -> ConnectionPool {
        ConnectionPool {
            max_connections: connections,
            max_pending_requests: pending,
            max_requests: requests,
            ..ConnectionPool::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_connections_up_to_a_limit() {
        let (gate, pool) = (Arc::new(Gate::default()), pool(Some(1), Some(1), None));
        let first = gate.request(&pool, true).await.unwrap();
        let (waiter, limits) = (gate.clone(), pool.clone());
        let waiting = tokio::spawn(async move { waiter.request(&limits, true).await.is_ok() });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(gate.request(&pool, true).await.err(), Some(Overflow), "the queue is full");
        assert!(gate.request(&pool, false).await.is_ok(), "HTTP/2 shares a connection");
        drop(first);
        assert!(waiting.await.unwrap());
        assert_eq!(gate.used().connections, 0);
    }

    #[tokio::test]
    async fn connections_and_requests_have_limits() {
        let gate = Arc::new(Gate::default());
        let one = pool(Some(1), None, Some(2));
        let held = gate.connection(&one).unwrap();
        assert_eq!(gate.connection(&one).err(), Some(Overflow));
        drop(held);
        let held = [gate.request(&one, false).await, gate.request(&one, false).await];
        assert_eq!(gate.request(&one, false).await.err(), Some(Overflow));
        drop(held);
        assert!(gate.request(&one, false).await.is_ok());
    }
}
