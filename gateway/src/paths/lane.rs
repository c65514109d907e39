//! One connection of a link, kept up: connect, watch, reconnect, until it is stopped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh::{PathAction, Transport};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::connection::{Dialled, Usability};
use super::dial::dial;
use super::finish::{PROBE_TIMEOUT, finish};
use super::link::Link;
use super::probe::probe;
use super::{Connection, PathState, Paths, TICK};
use crate::metrics::WireLabels;

/// How long connecting may take, its first probe included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The first and the longest pause between attempts to connect; each is drawn from the upper half of its step. An attempt says
/// something after 0, 1 and 3 s (RFC 9002 §6.2.2, RFC 6298 §5), so that a gateway that is back hears of it within 3 s.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long a connection may be ejected before a second one is tried: its gateway may have been replaced.
const REPLACE_AFTER: Duration = Duration::from_secs(2);
/// How long a connection lets the one before it try alone.
const TURN: Duration = Duration::from_secs(1);
/// How often slow readers are looked for.
const SLOW_READERS: Duration = Duration::from_secs(1);

/// One connection of a link, over time.
#[derive(Debug)]
pub(super) struct Lane {
    /// The id of its connections.
    pub(super) id: String,
    pub(super) transport: Transport,
    /// Its number among those of the same transport, from 0.
    pub(super) index: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The connection of now; it may be ejected.
    current: Option<Arc<Connection>>,
    /// The last attempt to connect failed.
    failed: bool,
    last_error: Option<String>,
}

/// One connection in a row of `/debug/paths`.
#[derive(Debug, Serialize)]
pub(crate) struct ConnectionRow {
    pub(crate) id: String,
    pub(crate) transport: Transport,
    pub(crate) usable: bool,
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) streams: usize,
    pub(crate) bulk: usize,
    pub(crate) silent_ms: u64,
    /// Bytes that may be under way; QUIC only.
    pub(crate) congestion_window: Option<u64>,
    pub(crate) lost_packets: Option<u64>,
    /// How often the peer's window for the whole connection was used up; QUIC only.
    pub(crate) blocked: Option<u64>,
    pub(crate) mtu: Option<u16>,
    pub(crate) last_error: Option<String>,
}

impl Lane {
    pub(super) fn new(path: &str, transport: Transport, index: usize) -> Arc<Self> {
        let id = format!("{path}#{}-{}", transport.as_str(), index + 1);
        Arc::new(Self { id, transport, index, state: Mutex::default() })
    }

    /// The connection of now.
    pub(super) fn current(&self) -> Option<Arc<Connection>> {
        self.state().current.clone()
    }

    pub(super) fn is_usable(&self) -> bool {
        self.current().is_some_and(|connection| connection.is_usable())
    }

    /// There is no connection, and the last attempt to make one failed.
    pub(super) fn has_failed(&self) -> bool {
        let state = self.state();
        state.current.is_none() && state.failed
    }

    /// Forgets what happened before.
    pub(super) fn forgive(&self) {
        self.state().failed = false;
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.state().last_error.clone()
    }

    pub(super) fn row(&self, now: Instant) -> ConnectionRow {
        let state = self.state();
        let current = state.current.as_ref();
        let stats = current.and_then(|it| it.quic_stats());
        ConnectionRow {
            id: self.id.clone(),
            transport: self.transport,
            usable: current.is_some_and(|it| it.is_usable()),
            rtt_ms: current.map(|it| it.rtt().as_secs_f64() * 1000.0),
            streams: current.map_or(0, |it| it.streams()),
            bulk: current.map_or(0, |it| it.flows().bulk()),
            silent_ms: current.map_or(0, |it| u64::try_from(it.silence(now).as_millis()).unwrap_or(u64::MAX)),
            congestion_window: stats.map(|stats| stats.path.cwnd),
            lost_packets: stats.map(|stats| stats.path.lost_packets),
            blocked: stats.map(|stats| stats.frame_tx.data_blocked),
            mtu: stats.map(|stats| stats.path.current_mtu),
            last_error: state.last_error.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: &str) {
        tracing::info!(connection = self.id, error, "connection failed");
        let mut state = self.state();
        state.failed = true;
        state.last_error = Some(error.to_owned());
    }

    /// Tells sidecars whether flows on the connection do well.
    fn announce(&self, paths: &Paths, link: &Link) {
        let state = PathState { cluster: link.target.cluster.clone(), path: link.id.clone(), usable: self.is_usable() };
        paths.publish(&self.id, Some(state));
    }
}

/// What a lane's task works with.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) paths: Arc<Paths>,
    pub(super) link: Arc<Link>,
    pub(super) lane: Arc<Lane>,
    /// Whether the connection is to be made and kept; one with flows is kept in any case.
    pub(super) wanted: watch::Receiver<bool>,
}

impl Keeper {
    /// Keeps the connection up while it is wanted. Never returns; dropping it leaves the connection to the caller.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            self.lane.announce(&self.paths, &self.link);
            if self.wanted.wait_for(|wanted| *wanted).await.is_err() {
                return std::future::pending().await;
            }
            self.take_turn().await;
            match self.connect().await {
                Ok(connection) => {
                    backoff = Backoff::default();
                    self.watch_over(connection).await;
                }
                Err(error) => {
                    self.lane.failed(&error);
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    /// The first connection of a transport goes ahead; the others follow as soon as one is there, so that a gateway
    /// that is gone is not dialled several times over, or one by one, should the first one's way be broken alone.
    async fn take_turn(&self) {
        let turn = TURN * u32::try_from(self.lane.index).unwrap_or(u32::MAX);
        let mut ticks = interval(TICK / 2);
        let followed = async {
            while !self.link.is_connected_over(self.lane.transport) {
                ticks.tick().await;
            }
        };
        let _ = timeout(turn, followed).await;
    }

    /// A connection that has answered a probe, with a task that ends it when its peer is no longer trusted.
    async fn connect(&self) -> Result<Arc<Connection>, String> {
        let connecting = async {
            let Dialled { wire, peer } = dial(self.paths.ground(), &self.link.target, &self.lane).await?;
            let ages_at = Instant::now() + self.paths.ground().credentials.ages_in(&peer);
            let connection = Arc::new(Connection::new(self.lane.id.clone(), self.link.labels.clone(), wire, ages_at));
            // With TLS 1.3 a client believes itself connected before the server has judged it: only an answer tells.
            probe(self.paths.ground(), &self.link.target, &connection).await?;
            self.guard(&connection, peer);
            Ok(connection)
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(result) => result,
            Err(_) => Err("connecting took too long".to_owned()),
        }
    }

    fn guard(&self, connection: &Arc<Connection>, peer: identity::PeerIdentity) {
        let ground = self.paths.ground();
        let (credentials, guarded, mut view) =
            (ground.credentials.clone(), Arc::clone(connection), ground.view.clone());
        tokio::spawn(async move {
            tokio::select! {
                reason = credentials.expiry(&peer) => {
                    tracing::info!(peer = %peer.id, %reason, "connection closed");
                    guarded.close(2, &reason.to_string());
                }
                // An error means that the view's publisher is gone, and the process with it.
                _ = view.wait_for(|view| view.cluster_of(peer.id.trust_domain()).is_none()) => {
                    guarded.close(2, "the cluster has left the mesh");
                }
                _ = guarded.closed() => {}
            }
        });
    }

    /// Follows one connection until it is lost, or neither wanted nor used.
    async fn watch_over(&self, connection: Arc<Connection>) {
        let mut current = self.install(connection);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unusable_since: Option<Instant> = None;
        let mut looked_at = Instant::now();
        let mut renew_at = looked_at;
        loop {
            tokio::select! {
                error = current.closed() => {
                    self.lane.failed(&error);
                    self.lane.state().current = None;
                    return;
                }
                _ = ticks.tick() => {}
            }
            let now = Instant::now();
            self.observe(&current, now);
            if now.duration_since(looked_at) >= SLOW_READERS {
                looked_at = now;
                self.cut_slow_readers(&current, now);
            }
            let wanted = *self.wanted.borrow();
            if !wanted && current.streams() == 0 {
                self.lane.state().current = None;
                return current.close(0, "no longer needed");
            }
            let unusable = current.usability() != Usability::Usable || !current.is_usable();
            unusable_since = unusable.then(|| unusable_since.unwrap_or(now));
            if wanted && unusable_since.is_some_and(|since| now.duration_since(since) >= REPLACE_AFTER) {
                if let Some(replacement) = self.replace(&current, Connection::is_usable).await {
                    // Its flows go on as soon as it answers again, and end with it if it never does.
                    self.finish(std::mem::replace(&mut current, self.install(replacement)));
                }
                unusable_since = None;
            } else if wanted && current.is_aging(now) && now >= renew_at {
                if let Some(younger) = self.replace(&current, |_| false).await {
                    self.finish(std::mem::replace(&mut current, self.install(younger)));
                }
                renew_at = Instant::now() + REPLACE_AFTER;
            }
        }
    }

    /// Another connection to the same gateway while the old one is silent, or about to end; `None` when the old one is
    /// good enough again, has ended, or there is none to be had.
    async fn replace(&self, connection: &Arc<Connection>, is_good: fn(&Connection) -> bool) -> Option<Arc<Connection>> {
        let recovered = async {
            let mut ticks = interval(TICK);
            loop {
                ticks.tick().await;
                self.observe(connection, Instant::now());
                if is_good(connection) || connection.is_closed() {
                    return;
                }
            }
        };
        tokio::select! {
            () = recovered => None,
            connected = self.connect() => match connected {
                Ok(connection) => Some(connection),
                Err(error) => {
                    self.lane.failed(&error);
                    None
                }
            },
        }
    }

    /// Lets the flows of a connection that another one has replaced end.
    fn finish(&self, old: Arc<Connection>) {
        let (paths, target) = (Arc::clone(&self.paths), self.link.target.clone());
        tokio::spawn(async move { finish(&paths, &target, &old).await });
    }

    fn install(&self, connection: Arc<Connection>) -> Arc<Connection> {
        tracing::info!(connection = self.lane.id, address = %connection.remote_address(), "connection is up");
        {
            let mut state = self.lane.state();
            state.current = Some(Arc::clone(&connection));
            state.failed = false;
            state.last_error = None;
        }
        self.lane.announce(&self.paths, &self.link);
        connection
    }

    fn observe(&self, connection: &Arc<Connection>, now: Instant) {
        for action in connection.observe(now) {
            self.act(connection, action);
        }
        self.lane.announce(&self.paths, &self.link);
    }

    fn act(&self, connection: &Arc<Connection>, action: PathAction) {
        match action {
            PathAction::Eject => {
                tracing::warn!(connection = self.lane.id, "connection ejected: nothing comes back");
                self.paths.ground().metrics.ejections.get_or_create(&self.link.labels).inc();
                self.lane.state().last_error = Some("nothing came back".to_owned());
            }
            PathAction::Return => tracing::info!(connection = self.lane.id, "connection returned"),
            PathAction::Probe => {
                let (keeper, connection) = (self.clone(), Arc::clone(connection));
                tokio::spawn(async move {
                    let probing = probe(keeper.paths.ground(), &keeper.link.target, &connection);
                    match timeout(PROBE_TIMEOUT, probing).await {
                        Ok(Err(error)) if error == mesh::Denial::Draining.as_str() => connection.set_draining(),
                        Ok(Err(error)) => tracing::debug!(connection = keeper.lane.id, error, "probe failed"),
                        Ok(Ok(())) | Err(_) => {}
                    }
                });
            }
        }
    }

    fn cut_slow_readers(&self, connection: &Connection, now: Instant) {
        let cut = connection.flows().cut_slow_readers(now);
        if cut > 0 {
            tracing::warn!(connection = self.lane.id, flows = cut, "flows reset: their readers are too slow");
            let labels = WireLabels { transport: self.lane.transport.as_str() };
            self.paths.ground().metrics.slow_readers.get_or_create(&labels).inc_by(cut as u64);
        }
    }
}

/// Growing pauses with jitter.
#[derive(Debug, Default)]
struct Backoff(u32);

impl Backoff {
    fn next(&mut self) -> Duration {
        let step = (BACKOFF.0 * 2u32.saturating_pow(self.0)).min(BACKOFF.1);
        self.0 = (self.0 + 1).min(10);
        step.mul_f64(rand::random_range(0.5..=1.0))
    }
}
