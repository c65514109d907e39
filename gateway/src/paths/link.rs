//! One link: connect, watch, reconnect, until it is stopped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::tunnel::{Header, Reply, reply};
use identity::DUMMY_SERVER_NAME;
use mesh::{Namespace, PathAction, ServiceName, TunnelMode, TunnelRequest};
use proxy::tunnel;
use quinn::{Connection, VarInt};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::path::Usability;
use super::{Ground, Path, PathRow, PathState, Paths, Target};
use crate::metrics::PathLabels;
use crate::quic_io::QuicIo;
use crate::transport::client_config;

/// How often a path is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long connecting may take, its first probe included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a probe stream is kept; a later answer is as good as none.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The first and the longest pause between attempts to connect; each is drawn from the upper half of its step.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a path may be ejected before a second connection is tried: its gateway may have been replaced.
const REPLACE_AFTER: Duration = Duration::from_secs(2);
/// How long the flows of a link that is no longer wanted may go on.
const LINGER: Duration = Duration::from_secs(60);

/// The state of a link.
#[derive(Debug)]
pub(crate) struct Link {
    id: String,
    target: Target,
    labels: PathLabels,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The connection of now; it may be ejected.
    path: Option<Arc<Path>>,
    last_error: Option<String>,
}

impl Link {
    pub(crate) fn new(own: &str, target: Target) -> Self {
        let labels = PathLabels { cluster: target.cluster.to_string(), remote_gateway: target.gateway.name.clone() };
        let id = format!("{own}/{}/{}", target.cluster, target.gateway.name);
        Self { id, target, labels, state: Mutex::default() }
    }

    /// The connection of now.
    pub(crate) fn path(&self) -> Option<Arc<Path>> {
        self.state().path.clone()
    }

    pub(crate) fn row(&self, now: Instant) -> PathRow {
        let state = self.state();
        let path = state.path.as_ref();
        PathRow {
            path: self.id.clone(),
            cluster: self.target.cluster.to_string(),
            remote_gateway: self.target.gateway.name.clone(),
            address: self.target.gateway.quic_address.clone(),
            usable: path.is_some_and(|path| path.is_usable()),
            rtt_ms: path.map(|path| path.connection().rtt().as_secs_f64() * 1000.0),
            streams: path.map_or(0, |path| path.streams()),
            last_error: state.last_error.clone(),
            silent_ms: path.map_or(0, |path| u64::try_from(path.silence(now).as_millis()).unwrap_or(u64::MAX)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: &str) {
        tracing::info!(path = self.id, address = self.target.gateway.quic_address, error, "path failed");
        self.state().last_error = Some(error.to_owned());
    }

    /// Tells everyone whether the path is usable.
    fn announce(&self, paths: &Paths) {
        let path = self.path();
        let usable = path.as_ref().is_some_and(|path| path.is_usable());
        let state = match (&path, usable) {
            (Some(_), true) => "usable",
            (Some(_), false) => "ejected",
            (None, _) => "connecting",
        };
        paths.ground().metrics.path_state(&self.labels, Some(state));
        paths.publish(&self.id, Some(PathState { cluster: self.target.cluster.clone(), usable }));
    }
}

/// Keeps a link up until `stop`.
pub(crate) async fn run(paths: Arc<Paths>, link: Arc<Link>, stop: CancellationToken) {
    tokio::select! {
        () = keep(&paths, &link) => {}
        () = stop.cancelled() => {}
    }
    paths.publish(&link.id, None);
    paths.ground().metrics.path_state(&link.labels, None);
    let path = link.state().path.take();
    if let Some(path) = path {
        linger(&path).await;
    }
}

/// Lets the flows of a connection end, then closes it.
async fn linger(path: &Path) {
    let idle = async {
        while path.streams() > 0 {
            sleep(TICK).await;
        }
    };
    tokio::select! {
        _ = timeout(LINGER, idle) => {}
        _ = path.connection().closed() => {}
    }
    path.connection().close(VarInt::from_u32(0), b"no longer needed");
}

async fn keep(paths: &Arc<Paths>, link: &Arc<Link>) {
    let mut backoff = Backoff::default();
    loop {
        link.announce(paths);
        match connect(paths, link).await {
            Ok(connection) => {
                backoff = Backoff::default();
                watch_over(paths, link, connection).await;
            }
            Err(error) => {
                link.failed(&error);
                sleep(backoff.next()).await;
            }
        }
    }
}

/// A connection that has answered a probe, with a task that ends it when its peer is no longer trusted.
async fn connect(paths: &Arc<Paths>, link: &Link) -> Result<Connection, String> {
    let ground = paths.ground();
    let connecting = async {
        let connection = dial(ground, &link.target).await?;
        let peer = identity::quic_peer(&connection).map_err(|error| error.to_string())?;
        // With TLS 1.3 a client believes itself connected before the server has judged it: only an answer tells.
        probe(ground, link, &connection).await?;
        let (credentials, guarded, mut view) = (ground.credentials.clone(), connection.clone(), ground.view.clone());
        tokio::spawn(async move {
            tokio::select! {
                reason = credentials.expiry(&peer) => {
                    tracing::info!(peer = %peer.id, %reason, "path closed");
                    guarded.close(VarInt::from_u32(2), reason.to_string().as_bytes());
                }
                // An error means that the view's publisher is gone, and the process with it.
                _ = view.wait_for(|view| view.cluster_of(peer.id.trust_domain()).is_none()) => {
                    guarded.close(VarInt::from_u32(2), b"the cluster has left the mesh");
                }
                _ = guarded.closed() => {}
            }
        });
        Ok(connection)
    };
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(result) => result,
        Err(_) => Err("connecting took too long".to_owned()),
    }
}

async fn dial(ground: &Ground, target: &Target) -> Result<Connection, String> {
    ground.credentials.ready().await;
    let config = client_config(&ground.credentials, &target.trust_domain, ground.segmentation_offload)
        .map_err(|error| error.to_string())?;
    let mut addresses =
        tokio::net::lookup_host(&target.gateway.quic_address).await.map_err(|error| error.to_string())?;
    let address = addresses.next().ok_or("the name has no address")?;
    let connecting =
        ground.endpoint.connect_with(config, address, DUMMY_SERVER_NAME).map_err(|error| error.to_string())?;
    connecting.await.map_err(|error| error.to_string())
}

/// Follows one connection until it is lost.
async fn watch_over(paths: &Arc<Paths>, link: &Arc<Link>, connection: Connection) {
    let mut path = install(paths, link, connection);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unusable_since: Option<Instant> = None;
    loop {
        tokio::select! {
            error = closed(path.connection()) => {
                link.failed(&error);
                link.state().path = None;
                return;
            }
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        for action in path.observe(now) {
            act(paths, link, &path, action);
        }
        link.announce(paths);
        paths.ground().metrics.rtt.get_or_create(&link.labels).set(path.connection().rtt().as_secs_f64());
        let since = (path.usability() != Usability::Usable).then(|| unusable_since.unwrap_or(now));
        unusable_since = since;
        if since.is_some_and(|since| now.duration_since(since) >= REPLACE_AFTER) {
            if let Some(replacement) = replace(paths, link, &path).await {
                let old = std::mem::replace(&mut path, install(paths, link, replacement));
                tokio::spawn(async move { linger(&old).await });
            }
            unusable_since = None;
        }
    }
}

/// Another connection to the same gateway while the old one is silent; `None` when the old one came back or there is
/// none to be had.
async fn replace(paths: &Arc<Paths>, link: &Arc<Link>, path: &Arc<Path>) -> Option<Connection> {
    let recovered = async {
        let mut ticks = interval(TICK);
        loop {
            ticks.tick().await;
            for action in path.observe(Instant::now()) {
                act(paths, link, path, action);
            }
            if path.is_usable() || path.connection().close_reason().is_some() {
                return;
            }
        }
    };
    tokio::select! {
        () = recovered => None,
        connected = connect(paths, link) => match connected {
            Ok(connection) => Some(connection),
            Err(error) => {
                link.failed(&error);
                None
            }
        },
    }
}

fn install(paths: &Arc<Paths>, link: &Arc<Link>, connection: Connection) -> Arc<Path> {
    tracing::info!(path = link.id, address = %connection.remote_address(), "path is up");
    let path = Arc::new(Path::new(link.id.clone(), link.labels.clone(), connection));
    {
        let mut state = link.state();
        state.path = Some(Arc::clone(&path));
        state.last_error = None;
    }
    link.announce(paths);
    path
}

async fn closed(connection: &Connection) -> String {
    connection.closed().await.to_string()
}

fn act(paths: &Arc<Paths>, link: &Arc<Link>, path: &Arc<Path>, action: PathAction) {
    match action {
        PathAction::Eject => {
            tracing::warn!(path = link.id, "path ejected: nothing comes back");
            paths.ground().metrics.ejections.get_or_create(&link.labels).inc();
            link.state().last_error = Some("nothing came back".to_owned());
        }
        PathAction::Return => tracing::info!(path = link.id, "path returned"),
        PathAction::Probe => {
            let (paths, link, path) = (Arc::clone(paths), Arc::clone(link), Arc::clone(path));
            tokio::spawn(async move {
                let probed = timeout(PROBE_TIMEOUT, probe(paths.ground(), &link, path.connection())).await;
                match probed {
                    Ok(Err(error)) if error == mesh::Denial::Draining.as_str() => path.set_draining(),
                    Ok(Err(error)) => tracing::debug!(path = link.id, error, "probe failed"),
                    Ok(Ok(())) | Err(_) => {}
                }
            });
        }
    }
}

/// Asks the far gateway for an answer; an error is the denial's reason or what broke.
async fn probe(ground: &Ground, link: &Link, connection: &Connection) -> Result<(), String> {
    let header = probe_header(ground, &link.target)?;
    let frame = tunnel::to_frame(&header).map_err(|error| error.to_string())?;
    let (mut send, recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
    send.write_all(&frame).await.map_err(|error| error.to_string())?;
    let mut io = QuicIo::new(send, recv);
    io.finish();
    let reply: Reply = tunnel::read_frame(io.reader()).await.map_err(|error| match connection.close_reason() {
        Some(reason) => reason.to_string(),
        None => error.to_string(),
    })?;
    match reply.reply {
        Some(reply::Reply::Accepted(_)) => Ok(()),
        Some(reply::Reply::Denied(denied)) => Err(denied.reason),
        None => Err("the answer is empty".to_owned()),
    }
}

fn probe_header(ground: &Ground, target: &Target) -> Result<Header, String> {
    let own = ground.credentials.svid().ok_or("there is no certificate yet")?;
    let namespace = Namespace::new(mesh::SYSTEM_NAMESPACE).map_err(|error| error.to_string())?;
    let service = ServiceName::new(namespace, "probe").map_err(|error| error.to_string())?;
    Ok(Header::from(&TunnelRequest {
        service,
        port: 1,
        cluster: target.cluster.clone(),
        group: None,
        pod: None,
        mode: TunnelMode::Probe,
        source: own.id().clone(),
    }))
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
