//! The tunnels to other clusters: one QUIC connection to every gateway of every cluster that something is imported
//! from, kept, probed, ejected, brought back.
//!
//! [`Paths::follow`] reconciles the set of links with the view; each link runs `link::run`. [`Paths::choose`] picks
//! the path for one flow.

mod link;
mod path;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use identity::Credentials;
use mesh::{ClusterName, RemoteCluster, RemoteGateway, TrustDomain, View};
use quinn::Endpoint;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::metrics::Metrics;
use link::Link;
pub(crate) use path::{InUse, Path};

/// The health of one path as it is told to sidecars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathState {
    pub(crate) cluster: ClusterName,
    pub(crate) usable: bool,
}

/// The health of all paths, by id.
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
    /// The endpoint that dials.
    pub(crate) endpoint: Endpoint,
    pub(crate) credentials: Credentials,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) metrics: Metrics,
    pub(crate) segmentation_offload: bool,
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
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) streams: usize,
    pub(crate) last_error: Option<String>,
    pub(crate) silent_ms: u64,
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

    /// The health of all paths, live.
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
                let link = Arc::new(Link::new(&self.ground.name, target.clone()));
                tokio::spawn(link::run(Arc::clone(self), Arc::clone(&link), stop.clone()));
                (link, stop.drop_guard())
            });
        }
    }

    /// The best usable path to a cluster that is not among `tried`: the one with the fewest streams for its share.
    /// Waits up to `wait` for one to become usable.
    pub(crate) async fn choose(&self, cluster: &ClusterName, tried: &[String], wait: Duration) -> Option<Arc<Path>> {
        let mut states = self.states.subscribe();
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            states.borrow_and_update();
            if let Some(path) = self.best(cluster, tried) {
                return Some(path);
            }
            match tokio::time::timeout_at(deadline, states.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }

    fn best(&self, cluster: &ClusterName, tried: &[String]) -> Option<Arc<Path>> {
        let now = std::time::Instant::now();
        let links = self.links();
        let candidates = links.iter().filter(|(target, _)| target.cluster == *cluster);
        let usable = candidates.filter_map(|(_, (link, _))| link.path()).filter(|path| path.is_usable());
        usable
            .filter(|path| !tried.iter().any(|id| id == path.id()))
            .map(|path| (path.load(now), rand::random::<u32>(), path))
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            .map(|(_, _, path)| path)
    }

    /// What `/debug/paths` shows.
    pub(crate) fn rows(&self) -> Vec<PathRow> {
        let now = std::time::Instant::now();
        self.links().values().map(|(link, _)| link.row(now)).collect()
    }

    /// Publishes the health of one path.
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
