//! The tunnels to other clusters: a path, which is a few connections, to every gateway of every cluster that something
//! is imported from, kept, probed, ejected, brought back; over TCP while UDP does not get through.
//!
//! [`Paths::follow`] reconciles the set of links with the view; each link keeps its lanes (`lane::Keeper`), one per
//! connection, and judges which transport new flows take. [`Paths::choose`] picks the connection for one flow.

mod connection;
mod dial;
mod finish;
mod lane;
mod link;
mod probe;
mod tcp;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use identity::Credentials;
use mesh::{ClusterName, FlowClass, RemoteCluster, RemoteGateway, Transport, TrustDomain, View, pick_connection};
use quinn::Endpoint;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::metrics::Metrics;
use crate::transport::{Trips, TunnelSettings};
pub(crate) use connection::{Connection, InUse};
pub(crate) use lane::ConnectionRow;
use link::Link;

/// How often connections are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long a flow waits for a first connection to a cluster that has none.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How long a flow waits altogether: for silence to be judged, and for TCP to take over from UDP.
const FLOW_WAIT: Duration = Duration::from_millis(2_900);

/// The health of one connection as it is told to sidecars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathState {
    pub(crate) cluster: ClusterName,
    /// The path that the connection belongs to.
    pub(crate) path: String,
    pub(crate) usable: bool,
}

/// The health of all connections, by id.
pub(crate) type PathStates = BTreeMap<String, PathState>;

/// Which gateway a link leads to; a change of any part makes another link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) cluster: ClusterName,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) gateway: RemoteGateway,
}

/// What links need.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The gateway's name.
    pub(crate) name: String,
    /// The endpoints that dial, each with a UDP port of its own.
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) credentials: Credentials,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) metrics: Metrics,
    pub(crate) tunnel: TunnelSettings,
    /// The round trips of all connections.
    pub(crate) trips: Trips,
}

impl Ground {
    /// QUIC connections, in either direction.
    pub(crate) fn open_connections(&self) -> usize {
        self.endpoints.iter().map(Endpoint::open_connections).sum()
    }
}

/// What a flow asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) cluster: &'a ClusterName,
    pub(crate) class: FlowClass,
    /// When the flow began.
    pub(crate) since: Instant,
}

/// All tunnels.
#[derive(Debug)]
pub(crate) struct Paths {
    ground: Ground,
    /// By target; dropping an entry's guard ends its link. Never held across an await.
    links: Mutex<BTreeMap<Target, (Arc<Link>, DropGuard)>>,
    states: watch::Sender<Arc<PathStates>>,
}

/// One row of `/debug/paths`.
#[derive(Debug, Serialize)]
pub(crate) struct PathRow {
    pub(crate) path: String,
    pub(crate) cluster: String,
    pub(crate) remote_gateway: String,
    pub(crate) address: String,
    pub(crate) usable: bool,
    /// What new flows take.
    pub(crate) transport: Transport,
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) streams: usize,
    pub(crate) last_error: Option<String>,
    pub(crate) silent_ms: u64,
    pub(crate) connections: Vec<ConnectionRow>,
}

impl Paths {
    pub(crate) fn new(ground: Ground) -> Arc<Self> {
        let (states, _) = watch::channel(Arc::new(PathStates::new()));
        Arc::new(Self { ground, links: Mutex::default(), states })
    }

    /// What links need.
    pub(crate) fn ground(&self) -> &Ground {
        &self.ground
    }

    /// The health of all connections, live.
    pub(crate) fn states(&self) -> watch::Receiver<Arc<PathStates>> {
        self.states.subscribe()
    }

    /// Keeps the links as the view wants them until `ended`.
    pub(crate) async fn follow(self: Arc<Self>, ended: CancellationToken) {
        let mut view = self.ground.view.clone();
        loop {
            let wanted = targets(&view.borrow_and_update());
            self.reconcile(wanted);
            tokio::select! {
                () = ended.cancelled() => break,
                changed = view.changed() => if changed.is_err() { break },
            }
        }
        self.links().clear();
    }

    fn reconcile(self: &Arc<Self>, wanted: Vec<Target>) {
        let mut links = self.links();
        links.retain(|target, _| wanted.contains(target));
        for target in wanted {
            links.entry(target).or_insert_with_key(|target| {
                let stop = CancellationToken::new();
                let link = Arc::new(Link::new(self, target.clone()));
                tokio::spawn(link::run(Arc::clone(self), Arc::clone(&link), stop.clone()));
                (link, stop.drop_guard())
            });
        }
    }

    /// The connection for one flow that was not accepted on any of `tried`.
    ///
    /// The first time it waits up to [`FIRST_WAIT`] for one to become usable. While a gateway may still come back over
    /// either transport, or a flow has failed once and all that is left is suspect, it waits until the flow is
    /// [`FLOW_WAIT`] old.
    pub(crate) async fn choose(&self, wanted: Wanted<'_>, tried: &[Arc<Connection>]) -> Option<Arc<Connection>> {
        let mut states = self.states.subscribe();
        loop {
            states.borrow_and_update();
            let now = Instant::now();
            let age = now.saturating_duration_since(wanted.since);
            let found = self.best(wanted, tried, now);
            if let Some((connection, suspect)) = found
                && (!suspect || tried.is_empty())
            {
                return Some(connection);
            }
            let hope = self.links().iter().any(|(target, (link, _))| {
                target.cluster == *wanted.cluster && (link.is_settling(now) || link.is_suspect(now))
            });
            let limit = match (hope, tried.is_empty()) {
                (true, _) => FLOW_WAIT,
                (false, true) => FIRST_WAIT,
                (false, false) => Duration::ZERO,
            };
            if age >= limit {
                return None;
            }
            // Hope may end without a change of states.
            let _ = tokio::time::timeout(TICK.min(limit - age), states.changed()).await;
        }
    }

    /// The best connection, and whether it is suspect.
    fn best(&self, wanted: Wanted<'_>, tried: &[Arc<Connection>], now: Instant) -> Option<(Arc<Connection>, bool)> {
        let (mut loads, mut connections) = (Vec::new(), Vec::new());
        let links = self.links();
        let to_cluster = links.iter().filter(|(target, _)| target.cluster == *wanted.cluster);
        for (gateway, (_, (link, _))) in to_cluster.enumerate() {
            for (mut load, connection) in link.loads(gateway, now) {
                if tried.iter().any(|it| Arc::ptr_eq(it, &connection)) {
                    continue;
                }
                // What failed over one connection rather tries another gateway.
                let sibling = tried.iter().any(|it| it.labels() == connection.labels());
                load.share /= if sibling { 1e6 } else { 1.0 };
                loads.push(load);
                connections.push(connection);
            }
        }
        let index = pick_connection(&loads, wanted.class, rand::random_range(0.0..1.0))?;
        Some((Arc::clone(connections.get(index)?), loads.get(index)?.suspect))
    }

    /// Whether something is imported from the cluster of a target.
    fn imports_from(&self, target: &Target) -> bool {
        let view = self.ground.view.borrow();
        view.clusters.get(&target.cluster).is_some_and(|cluster| cluster.imported)
    }

    /// Ends the metrics of a link, unless another one to the same gateway has taken its place.
    fn forget_metrics(&self, link: &Link) {
        if !self.links().values().any(|(other, _)| other.labels == link.labels) {
            self.ground.metrics.path_state(&link.labels, None);
        }
    }

    /// What `/debug/paths` shows.
    pub(crate) fn rows(&self) -> Vec<PathRow> {
        let now = Instant::now();
        self.links().values().map(|(link, _)| link.row(now)).collect()
    }

    /// Publishes the health of one connection.
    pub(crate) fn publish(&self, id: &str, state: Option<PathState>) {
        self.states.send_if_modified(|states| {
            if states.get(id) == state.as_ref() {
                return false;
            }
            let states = Arc::make_mut(states);
            match state {
                Some(state) => drop(states.insert(id.to_owned(), state)),
                None => drop(states.remove(id)),
            }
            true
        });
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<Target, (Arc<Link>, DropGuard)>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gateways of clusters that something is imported from.
fn targets(view: &View) -> Vec<Target> {
    let imported = view.clusters.values().filter(|cluster| cluster.imported);
    let of = |cluster: &Arc<RemoteCluster>| {
        let target = |gateway: &RemoteGateway| Target {
            cluster: cluster.name.clone(),
            trust_domain: cluster.trust_domain.clone(),
            gateway: gateway.clone(),
        };
        cluster.gateways.iter().map(target).collect::<Vec<_>>()
    };
    imported.flat_map(of).collect()
}
