//! What a workload sends: decided per request (HTTP) or per connection (everything else), carried by mutual TLS to a
//! sidecar of the own cluster or, through an own gateway, of another cluster.
//!
//! [`Outbound::request`] carries one HTTP request, [`Outbound::stream`] one captured stream. Both build a
//! `mesh::RouteDecision`, then make attempts at the targets that `mesh::pick` chooses, as long as `mesh::retry` allows.

mod abroad;
mod arrival;
mod attempt;
mod connect;
mod datagrams;
mod decide;
mod destinations;
mod edits;
mod exchange;
mod forward;
mod http;
mod limits;
mod mirror;
mod names;
mod own;
mod paths;
mod remotes;
mod stream;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dial::Dialer;
use identity::{Credentials, Places};
use mesh::{RouteDecision, ServiceName, Target, View};
use serde::Serialize;
use tokio::sync::watch;

use crate::access::{Party, Recorder};
use crate::balance::{Aside, LoadTable};
use crate::hbone::Outer;
use crate::listen::{Lifecycle, Limits};
use crate::pool::dial::{LocalKey, RemoteKey};
use crate::pool::direct::DirectPool;
use crate::pool::gateways::Gateways;
use crate::pool::http::HttpConnection;
use crate::pool::origin::Opener;
use crate::pool::{Policy, Pool};
use crate::resolve::Resolve;

pub use abroad::Division;
pub use arrival::{Arrival, Dialled, EndpointRow, Judged, Question};
pub use stream::Captured;
pub(crate) use stream::{IDLE, note_copy};

use arrival::Way;
use destinations::Destinations;
use mirror::Mirrors;
use names::Names;
use paths::{Paths, on_path_event};
use remotes::Remotes;

/// Where views come from; the sidecar's discovery client, or a fixed view in tests.
pub trait Directory: Send + Sync + 'static {
    /// The newest view.
    fn view(&self) -> Arc<View>;
    /// Returns when the view holds the service, or when it is known or likely that there is none.
    fn demand<'a>(&'a self, service: &'a ServiceName) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
    /// Returns when the view says who has the address, or when it is known or likely that nobody of the mesh has. Where
    /// views are complete, or addresses are not dialled, there is nothing to ask.
    fn demand_address(&self, _address: std::net::IpAddr) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// A view that someone else publishes, complete from the start.
impl Directory for watch::Receiver<Arc<View>> {
    fn view(&self) -> Arc<View> {
        self.borrow().clone()
    }

    fn demand<'a>(&'a self, _service: &'a ServiceName) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }
}

/// What the outbound engine is given.
pub struct OutboundConfig {
    /// Where views come from.
    pub directory: Arc<dyn Directory>,
    /// Who the workload is, and whom it trusts.
    pub credentials: Credentials,
    /// Who knows the addresses of hosts outside the mesh.
    pub resolver: Arc<dyn Resolve>,
    /// Where records go.
    pub recorder: Recorder,
    /// When to stop.
    pub life: Lifecycle,
    /// The workload's namespace, for short names, until the view tells.
    pub namespace: mesh::Namespace,
    /// Who opens connections.
    pub dialer: Dialer,
}

/// The outbound engine; clones share it.
#[derive(Clone)]
pub struct Outbound(Arc<Engine>);

struct Engine {
    config: OutboundConfig,
    limits: Limits,
    load: LoadTable<TargetKey>,
    aside: Aside<TargetKey>,
    /// HTTP to sidecars of the own cluster.
    local: Pool<LocalKey, HttpConnection>,
    /// HTTP to sidecars of other clusters.
    remote: Pool<RemoteKey, HttpConnection>,
    remotes: Remotes,
    /// Opaque flows to sidecars of the own cluster.
    opaque: Pool<LocalKey, Outer>,
    /// Servers without a sidecar.
    direct: DirectPool,
    destinations: Destinations,
    names: Names,
    mirrors: Mirrors,
}

/// What load and failures are remembered under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum TargetKey {
    Local(SocketAddr),
    Named(String, u16),
    Remote(RemoteKey),
}

impl std::fmt::Display for TargetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local(address) => write!(f, "{address}"),
            Self::Named(host, port) => write!(f, "{host}:{port}"),
            Self::Remote(key) => {
                write!(f, "{}/{}", key.cluster, key.group.service_account)?;
                key.group.labels.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
            }
        }
    }
}

impl TargetKey {
    fn of(decision: &RouteDecision, target: &Target) -> Option<Self> {
        match target {
            Target::Local { address, .. } => Some(Self::Local(*address)),
            Target::Named { host, port, .. } => Some(Self::Named(host.clone(), *port)),
            Target::Remote { .. } => remote_key(decision, target).map(Self::Remote),
        }
    }
}

fn remote_key(decision: &RouteDecision, target: &Target) -> Option<RemoteKey> {
    let Target::Remote { cluster, group, pod, unmeshed, .. } = target else { return None };
    let (cluster, group, pod, unmeshed) = (cluster.clone(), group.clone(), pod.clone(), *unmeshed);
    let (service, udp) = (decision.service.clone()?, decision.protocol.is_udp());
    Some(RemoteKey { cluster, service, port: decision.port, udp, group, pod, unmeshed })
}

impl Outbound {
    /// Counts a datagram of the workload that no flow took.
    pub fn dropped_datagram(&self) {
        self.0.config.recorder.metrics.datagrams("source", "to_server", "dropped", 1);
    }
}

/// How often unused connections are looked for.
const SWEEP: Duration = Duration::from_secs(5);

impl Outbound {
    /// Starts the engine; no connection is made before one is needed.
    pub fn start(config: OutboundConfig) -> Self {
        let (paths, aside) = (Paths::default(), Aside::default());
        let on_path_event = on_path_event(paths.clone(), aside.clone());
        let remotes = Remotes {
            credentials: config.credentials.clone(),
            directory: config.directory.clone(),
            gateways: Arc::new(Gateways::new(config.credentials.clone(), config.dialer, on_path_event)),
            paths,
            turns: Places::new(remotes::OPENING),
        };
        let engine = Arc::new(Engine {
            limits: Limits::for_own_workload(),
            load: LoadTable::default(),
            aside,
            local: Pool::new(Policy::SHARED),
            remote: Pool::new(Policy::REMOTE),
            remotes,
            opaque: Pool::new(Policy::SHARED),
            direct: DirectPool::new(config.credentials.clone(), Opener::new(config.dialer)),
            destinations: Destinations::default(),
            names: Names::default(),
            mirrors: Mirrors::default(),
            config,
        });
        let (swept, ended) = (Arc::downgrade(&engine), engine.config.life.ended.clone());
        tokio::spawn(async move {
            while ended.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_some() {
                let Some(engine) = swept.upgrade() else { return };
                engine.sweep();
            }
        });
        Self(engine)
    }

    /// The endpoints that the proxy has to do with right now: those that are busy, ejected or set aside, and those with
    /// a past.
    pub fn endpoints(&self) -> Vec<EndpointRow> {
        let mut busy: BTreeMap<TargetKey, u32> = self.0.load.snapshot().into_iter().collect();
        let row = |service: String, key: &TargetKey, active, ejected, ejections| EndpointRow {
            service,
            endpoint: key.to_string(),
            active,
            ejected,
            ejections,
            aside: self.0.aside.is_aside(key),
        };
        let mut rows = Vec::new();
        for destination in self.0.destinations.all() {
            for (key, ejected, ejections) in destination.pasts() {
                let active = busy.remove(&key).unwrap_or(0);
                rows.push(row(destination.key.to_string(), &key, active, ejected, ejections));
            }
        }
        rows.extend(busy.iter().map(|(key, active)| row(String::new(), key, *active, false, 0)));
        rows.sort();
        rows
    }

    /// How the requests of a decision are divided between clusters right now; `None` if they all stay in this one.
    pub fn division(&self, decision: &RouteDecision) -> Option<Division> {
        decision.across.as_ref()?;
        let destination = self.0.destinations.of(decision);
        let local = destination.abroad.local(decision, &self.0.works(decision, &destination));
        let (local, local_share) = local.unzip();
        Some(Division { local_share, local, remote_under_way: destination.abroad.under_way() })
    }

    /// The connections that are open, for the debug pages.
    pub fn pools(&self) -> Vec<PoolEntry> {
        let mut entries = Vec::new();
        let mut add = |kind, to: String, path: String, active| entries.push(PoolEntry { kind, to, path, active });
        let path = |connection: &HttpConnection| {
            connection.via.as_ref().map(|via| format!("{}:{}", via.source_gateway, via.path)).unwrap_or_default()
        };
        self.0.local.for_each(|key, _, active| add("local", key.address.to_string(), String::new(), active));
        self.0.opaque.for_each(|key, _, active| add("opaque", key.address.to_string(), String::new(), active));
        self.0.remote.for_each(|key, connection, active| {
            add("remote", format!("{} in {}", key.service, key.cluster), path(connection), active);
        });
        self.0.remotes.gateways.for_each(|address, active| add("gateway", address.to_string(), String::new(), active));
        self.0.direct.for_each(|address, active| add("direct", address.to_string(), String::new(), active));
        entries
    }
}

/// One open connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolEntry {
    /// `local`, `opaque`, `remote`, `gateway` or `direct` (HTTP/2 to a server without a sidecar).
    pub kind: &'static str,
    /// Where it leads.
    pub to: String,
    /// The path between gateways.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What is in flight on it.
    pub active: usize,
}

impl Engine {
    /// Where a request or flow came from, as records name it: the workload, or the client of a gateway.
    fn source(&self, way: &Way) -> Party {
        match way {
            Way::Gateway(_) => way.peer().map(|peer| self.party_of(Some(&peer.id))).unwrap_or_default(),
            _ => self.own(),
        }
    }

    /// The workload, as records name it.
    fn own(&self) -> Party {
        let view = self.config.directory.view();
        let svid = self.config.credentials.svid();
        Party::own(view.workload.as_deref(), view.cluster(), svid.as_ref().map(|svid| svid.id()))
    }

    fn sweep(&self) {
        self.local.sweep();
        self.remote.sweep();
        self.opaque.sweep();
        self.remotes.gateways.sweep();
        self.direct.sweep();
        self.destinations.sweep();
        self.names.sweep();
        self.aside.sweep();
    }
}
