//! Handshakes under way at one listener: so many altogether and of one source, and in turns, so that whoever stalls keeps
//! nobody out.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh::source_network;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::places::Places;

/// A turn is over after this long: the work that turns are for is done by then, or the client has not sent enough for it.
const TURN: Duration = Duration::from_millis(100);

/// Does a handshake in its turn. A client that leaves us waiting loses its turn and goes on without one, so that slow
/// clients cannot keep all turns from the others. `None`: there are no turns any longer.
pub async fn in_turn<T>(turns: &Semaphore, handshake: impl Future<Output = T>) -> Option<T> {
    let turn = turns.acquire().await.ok()?;
    tokio::pin!(handshake);
    tokio::select! {
        done = handshake.as_mut() => return Some(done),
        () = tokio::time::sleep(TURN) => drop(turn),
    }
    Some(handshake.await)
}

/// Bounds on the handshakes of one listener.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeBounds {
    /// That cost CPU at one time; the others wait for their turn.
    pub turns: usize,
    /// Under way, those that wait for their client included.
    pub pending: usize,
    /// Of these, of one address.
    pub per_source: usize,
}

/// The handshakes of one listener; clones share the counts.
#[derive(Debug, Clone)]
pub struct Handshakes {
    turns: Arc<Semaphore>,
    pending: Arc<Semaphore>,
    sources: Places<IpAddr>,
}

/// A handshake that may be done; counts until it is.
#[derive(Debug)]
pub struct Pending {
    turns: Arc<Semaphore>,
    _pending: OwnedSemaphorePermit,
    _source: OwnedSemaphorePermit,
}

impl Handshakes {
    /// None is under way.
    pub fn new(bounds: HandshakeBounds) -> Self {
        let semaphore = |most| Arc::new(Semaphore::new(most));
        let (turns, pending) = (semaphore(bounds.turns), semaphore(bounds.pending));
        Self { turns, pending, sources: Places::new(bounds.per_source) }
    }

    /// One more; the error is why not, in the words of `telemetry::shed`.
    pub fn begin(&self, source: IpAddr) -> Result<Pending, &'static str> {
        let of_source = self.sources.of(source_network(source)).try_acquire_owned().map_err(|_| "per-source")?;
        self.enter(of_source)
    }

    /// The same for a source that dials on behalf of many: while it has as many as it may, one more waits for the others, in
    /// the order in which they came, so long at most. Meanwhile it is in nobody's way; what may wait is for the caller to bound.
    pub async fn begin_within(&self, source: IpAddr, patience: Duration) -> Result<Pending, &'static str> {
        let place = timeout(patience, self.sources.of(source_network(source)).acquire_owned()).await;
        self.enter(place.ok().and_then(Result::ok).ok_or("per-source")?)
    }

    fn enter(&self, of_source: OwnedSemaphorePermit) -> Result<Pending, &'static str> {
        let pending = Arc::clone(&self.pending).try_acquire_owned().map_err(|_| "connections")?;
        Ok(Pending { turns: Arc::clone(&self.turns), _pending: pending, _source: of_source })
    }
}

impl Pending {
    /// Does the handshake in its turn; its place is free when it is over.
    pub async fn run<T>(self, handshake: impl Future<Output = T>) -> Option<T> {
        in_turn(&self.turns, handshake).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clients_that_stall_keep_nobody_out() {
        let turns = Arc::new(Semaphore::new(1));
        let stalled = turns.clone();
        tokio::spawn(async move { in_turn(&stalled, std::future::pending::<()>()).await });
        tokio::task::yield_now().await;
        let next = tokio::time::timeout(Duration::from_secs(1), in_turn(&turns, async { 1 })).await;
        assert_eq!(next, Ok(Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_stalls_all_its_handshakes_is_refused_more_and_others_go_on() {
        let handshakes = Handshakes::new(HandshakeBounds { turns: 1, pending: 4, per_source: 2 });
        let [flood, other, third]: [IpAddr; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| ip.parse().unwrap());
        let mut stalled = Vec::new();
        for _ in 0..2 {
            let pending = handshakes.begin(flood).unwrap();
            stalled.push(tokio::spawn(pending.run(std::future::pending::<()>())));
        }
        assert_eq!(handshakes.begin(flood).unwrap_err(), "per-source");
        let normal = tokio::time::timeout(Duration::from_secs(1), handshakes.begin(other).unwrap().run(async { 1 }));
        assert_eq!(normal.await, Ok(Some(1)));
        let _held = [handshakes.begin(other).unwrap(), handshakes.begin(other).unwrap()];
        assert_eq!(handshakes.begin(third).unwrap_err(), "connections");
        stalled.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_dials_for_many_waits_for_its_own_handshakes_and_for_nobody_elses() {
        let handshakes = Handshakes::new(HandshakeBounds { turns: 1, pending: 8, per_source: 2 });
        let [gateway, other]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let patience = Duration::from_secs(5);
        let (done_tx, mut done) = tokio::sync::mpsc::unbounded_channel();
        for flow in 0..6 {
            let (handshakes, done) = (handshakes.clone(), done_tx.clone());
            tokio::spawn(async move {
                let pending = handshakes.begin_within(gateway, patience).await.unwrap();
                pending.run(tokio::time::sleep(Duration::from_millis(50))).await;
                done.send(flow).unwrap();
            });
        }
        tokio::task::yield_now().await;
        assert!(handshakes.begin(gateway).is_err() && handshakes.begin(other).is_ok());
        for flow in 0..6 {
            assert_eq!(done.recv().await, Some(flow));
        }
        let _stalled = [handshakes.begin(gateway).unwrap(), handshakes.begin(gateway).unwrap()];
        let begun = tokio::time::Instant::now();
        assert_eq!(handshakes.begin_within(gateway, patience).await.unwrap_err(), "per-source");
        assert_eq!(begun.elapsed(), patience);
        assert!(handshakes.begin(other).is_ok());
    }
}
