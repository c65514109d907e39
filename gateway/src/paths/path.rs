//! One live connection to a gateway of another cluster.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh::{Observation, PathAction, PathHealth};
use quinn::Connection;
use tokio::sync::watch;

use crate::metrics::PathLabels;

/// Whether new streams may use a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usability {
    Usable,
    /// Silent for too long.
    Ejected,
    /// The far gateway is going away.
    Draining,
}

/// One live connection.
#[derive(Debug)]
pub(crate) struct Path {
    id: String,
    labels: PathLabels,
    connection: Connection,
    health: Mutex<PathHealth>,
    usability: watch::Sender<Usability>,
    streams: AtomicUsize,
}

impl Path {
    pub(crate) fn new(id: String, labels: PathLabels, connection: Connection) -> Self {
        Self {
            id,
            labels,
            connection,
            health: Mutex::new(PathHealth::new(Instant::now())),
            usability: watch::Sender::new(Usability::Usable),
            streams: AtomicUsize::new(0),
        }
    }

    /// `<own gateway>/<cluster>/<remote gateway>`, the same after a reconnect.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn labels(&self) -> &PathLabels {
        &self.labels
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn usability(&self) -> Usability {
        *self.usability.borrow()
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.usability() == Usability::Usable && self.connection.close_reason().is_none()
    }

    /// Streams under way.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Streams in relation to the share that the path should have; lower is better.
    pub(crate) fn load(&self, now: Instant) -> f64 {
        // Counts are far below 2^32, where f64 is exact.
        let streams = u32::try_from(self.streams() + 1).unwrap_or(u32::MAX);
        f64::from(streams) / self.health().share(now)
    }

    /// How long nothing has come back although something was sent.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        self.health().silence(now)
    }

    /// Counts one stream until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> InUse {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.health().opened_stream(Instant::now());
        InUse(Arc::clone(self))
    }

    /// The far gateway said that it is going away: no new streams until there is another connection.
    pub(crate) fn set_draining(&self) {
        self.set(Usability::Draining);
    }

    /// Shows the transport's counters to the health; ejects and returns the path. Says what else is to be done.
    pub(crate) fn observe(&self, now: Instant) -> Vec<PathAction> {
        let stats = self.connection.stats();
        let seen = Observation { received: stats.udp_rx.datagrams, rtt: stats.path.rtt, streams: self.streams() };
        let actions = self.health().observe(now, seen);
        for action in &actions {
            match action {
                PathAction::Eject => self.set(Usability::Ejected),
                PathAction::Return => self.set(Usability::Usable),
                PathAction::Probe => {}
            }
        }
        actions
    }

    /// Resolves with the reason when the path takes no more streams.
    pub(crate) async fn until_unusable(&self) -> String {
        let mut usability = self.usability.subscribe();
        tokio::select! {
            error = self.connection.closed() => error.to_string(),
            // The sender lives as long as `self`.
            _ = usability.wait_for(|usability| *usability == Usability::Ejected) => "it was ejected".to_owned(),
        }
    }

    fn set(&self, usability: Usability) {
        self.usability.send_if_modified(|current| {
            // A path that drains stays so: its gateway will not change its mind.
            let change = *current != usability && *current != Usability::Draining;
            if change {
                *current = usability;
            }
            change
        });
    }

    fn health(&self) -> MutexGuard<'_, PathHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream on a path.
#[derive(Debug)]
pub(crate) struct InUse(Arc<Path>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
