//! One live connection to a gateway of another cluster.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use identity::PeerIdentity;
use mesh::{Observation, PathAction, PathHealth, Transport};
use quinn::VarInt;
use tokio::sync::watch;
use tokio::time::timeout;

use super::tcp::TcpTunnel;
use crate::metrics::PathLabels;
use crate::stream::{Flows, TunnelIo};

/// How long a connection may take to give a stream: longer means that it has as many as it may.
const OPEN_TIMEOUT: Duration = Duration::from_millis(500);
/// The shortest silence that makes a connection suspect, well before it is ejected.
const SUSPECT_MIN: Duration = Duration::from_millis(500);

/// Whether new streams may use a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usability {
    Usable,
    /// Silent for too long.
    Ejected,
    /// The far gateway is going away.
    Draining,
}

/// What carries a connection.
#[derive(Debug)]
pub(super) enum Wire {
    Quic(quinn::Connection),
    Tcp(TcpTunnel),
}

/// What was dialled: a wire and who is at its other end.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) wire: Wire,
    pub(super) peer: PeerIdentity,
}

/// One live connection.
#[derive(Debug)]
pub(crate) struct Connection {
    id: String,
    labels: PathLabels,
    wire: Wire,
    health: Mutex<PathHealth>,
    usability: watch::Sender<Usability>,
    streams: AtomicUsize,
    flows: Flows,
    /// Round trip of probes in microseconds, smoothed; for transports that do not say it themselves.
    probe_rtt: AtomicU64,
    /// When a younger one should take its place, before a certificate ends it.
    ages_at: Instant,
}

impl Connection {
    pub(super) fn new(id: String, labels: PathLabels, wire: Wire, ages_at: Instant) -> Self {
        let flows = match &wire {
            Wire::Quic(connection) => Flows::beside_datagrams(connection),
            Wire::Tcp(_) => Flows::new(),
        };
        Self {
            id,
            labels,
            wire,
            health: Mutex::new(PathHealth::new(Instant::now())),
            usability: watch::Sender::new(Usability::Usable),
            streams: AtomicUsize::new(0),
            flows,
            probe_rtt: AtomicU64::new(0),
            ages_at,
        }
    }

    /// `<own gateway>/<cluster>/<remote gateway>#<transport>-<number>`, the same after a reconnect.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn labels(&self) -> &PathLabels {
        &self.labels
    }

    pub(crate) fn transport(&self) -> Transport {
        match self.wire {
            Wire::Quic(_) => Transport::Quic,
            Wire::Tcp(_) => Transport::Tcp,
        }
    }

    pub(crate) fn flows(&self) -> &Flows {
        &self.flows
    }

    pub(crate) fn remote_address(&self) -> SocketAddr {
        match &self.wire {
            Wire::Quic(connection) => connection.remote_address(),
            Wire::Tcp(tunnel) => tunnel.remote,
        }
    }

    pub(super) fn is_aging(&self, now: Instant) -> bool {
        now >= self.ages_at
    }

    /// For how many milliseconds it takes new flows, 1 at least.
    pub(crate) fn usable_for_ms(&self, now: Instant) -> u64 {
        u64::try_from(self.ages_at.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX).max(1)
    }

    pub(crate) fn usability(&self) -> Usability {
        *self.usability.borrow()
    }

    pub(crate) fn is_usable(&self) -> bool {
        let takes = match &self.wire {
            Wire::Quic(connection) => connection.close_reason().is_none(),
            // False also once the far gateway has said GOAWAY.
            Wire::Tcp(tunnel) => tunnel.outer.is_usable(),
        };
        takes && self.usability() == Usability::Usable
    }

    pub(crate) fn is_closed(&self) -> bool {
        match &self.wire {
            Wire::Quic(connection) => connection.close_reason().is_some(),
            Wire::Tcp(tunnel) => tunnel.outer.is_closed(),
        }
    }

    /// Resolves with the reason when the connection has ended.
    pub(crate) async fn closed(&self) -> String {
        match &self.wire {
            Wire::Quic(connection) => connection.closed().await.to_string(),
            Wire::Tcp(tunnel) => {
                tunnel.outer.closed().await;
                "the TCP connection ended".to_owned()
            }
        }
    }

    /// Ends the connection, whatever rides on it.
    pub(crate) fn close(&self, code: u32, reason: &str) {
        match &self.wire {
            Wire::Quic(connection) => connection.close(VarInt::from_u32(code), reason.as_bytes()),
            Wire::Tcp(tunnel) => tunnel.outer.abort(),
        }
    }

    /// Streams under way.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// The share of new streams that it should have, 0.1 to 1.
    pub(crate) fn share(&self, now: Instant) -> f64 {
        self.health().share(now)
    }

    /// Smoothed round-trip time.
    pub(crate) fn rtt(&self) -> Duration {
        match &self.wire {
            Wire::Quic(connection) => connection.rtt(),
            Wire::Tcp(_) => Duration::from_micros(self.probe_rtt.load(Ordering::Relaxed)),
        }
    }

    /// Takes the round trip of one probe.
    pub(crate) fn probed(&self, took: Duration) {
        let (took, old) = (u64::try_from(took.as_micros()).unwrap_or(u64::MAX), self.probe_rtt.load(Ordering::Relaxed));
        let smoothed = if old == 0 { took } else { old / 8 * 7 + took / 8 };
        self.probe_rtt.store(smoothed, Ordering::Relaxed);
    }

    /// How long nothing has come back although something was sent.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        self.health().silence(now)
    }

    /// Silent for longer than usual, and not ejected yet.
    pub(crate) fn is_suspect(&self, now: Instant) -> bool {
        self.silence(now) >= SUSPECT_MIN.max(self.rtt() * 2)
    }

    /// Another connection to the same gateway is silent: this one is to be probed now.
    pub(crate) fn suspect(&self, now: Instant) {
        self.health().suspect(now);
    }

    /// What debug pages say about a QUIC connection.
    pub(super) fn quic_stats(&self) -> Option<quinn::ConnectionStats> {
        match &self.wire {
            Wire::Quic(connection) => Some(connection.stats()),
            Wire::Tcp(_) => None,
        }
    }

    /// Opens a stream; it is not counted as a flow.
    pub(crate) async fn open(&self) -> Result<TunnelIo, String> {
        let opening = async {
            match &self.wire {
                Wire::Quic(connection) => {
                    let (send, recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
                    Ok(TunnelIo::quic(send, recv, &self.flows))
                }
                Wire::Tcp(tunnel) => Ok(TunnelIo::tcp(tunnel.open().await?, &self.flows)),
            }
        };
        timeout(OPEN_TIMEOUT, opening).await.map_err(|_| "it gave no stream".to_owned())?
    }

    /// Counts one flow until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> InUse {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.health().opened_stream(Instant::now());
        InUse(Arc::clone(self))
    }

    /// The far gateway said that it is going away: no new streams until there is another connection.
    pub(crate) fn set_draining(&self) {
        self.set(Usability::Draining);
    }

    /// Shows the transport's counters to the health; ejects and returns the connection. Says what else is to be done.
    pub(crate) fn observe(&self, now: Instant) -> Vec<PathAction> {
        let received = match &self.wire {
            Wire::Quic(connection) => connection.stats().udp_rx.datagrams,
            Wire::Tcp(tunnel) => tunnel.received(),
        };
        let seen = Observation { received, rtt: self.rtt(), streams: self.streams() };
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

    /// Resolves with the reason when the connection takes no more streams.
    pub(crate) async fn until_unusable(&self) -> String {
        let mut usability = self.usability.subscribe();
        tokio::select! {
            error = self.closed() => error,
            // The sender lives as long as `self`.
            _ = usability.wait_for(|usability| *usability == Usability::Ejected) => "it was ejected".to_owned(),
        }
    }

    fn set(&self, usability: Usability) {
        self.usability.send_if_modified(|current| {
            // A connection that drains stays so: its gateway will not change its mind.
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

/// One flow on a connection.
#[derive(Debug)]
pub(crate) struct InUse(Arc<Connection>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
