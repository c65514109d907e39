//! Putting a gateway together, and taking it down.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use discovery::{Client, ClientConfig, Role};
use identity::Credentials;
use identity::bootstrap::Credential;
use mesh::{Namespace, SYSTEM_NAMESPACE, TrustDomain, View};
use proxy::access::Recorder;
use proxy::listen::Lifecycle;
use proxy::outbound::{Outbound, OutboundConfig};
use proxy::resolve::SystemResolver;
use quinn::{Endpoint, VarInt};
use serde_json::json;
use telemetry::{AccessLog, Admin, Readiness, Registry, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::{self, Config};
use crate::context::{Context, Dial, dial_tcp};
use crate::endpoints::Endpoints;
use crate::limits::{Bounds, Limit};
use crate::metrics::{Metrics, SocketLabels};
use crate::paths::{Ground, Paths};
use crate::stand_in::{Identities, StandIns};
use crate::transport::{TransportError, TransportOptions, Trips, TunnelSettings};
use crate::unmeshed::Listeners;
use crate::{clusters, destination, edge, source, stand_in, transport, unmeshed};

/// How long the last packets of a gateway that ends may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The credential file.
    #[error("the credential cannot be used")]
    Credential(#[from] identity::bootstrap::BootstrapError),
    /// The client of discovery.
    #[error("discovery cannot start")]
    Discovery(#[from] discovery::StartError),
    /// A TCP listener.
    #[error("cannot listen on {address}; hint: is another process listening there?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The QUIC endpoint.
    #[error("the tunnel's endpoint cannot be opened")]
    Transport(#[from] TransportError),
    /// The access log's thread.
    #[error("the access log cannot be started")]
    AccessLog(#[source] io::Error),
    /// The credential names no workload.
    #[error("the credential's workload is not <namespace>/<name>")]
    Workload(#[from] mesh::NameError),
    /// No questions can be put to the DNS shim.
    #[error("the resolver for `dns` cannot start")]
    Resolver(#[source] io::Error),
    /// The admin listener broke.
    #[error("the admin listener broke")]
    Admin(#[from] telemetry::AdminError),
}

/// What a gateway is made of, wherever its view and credentials come from.
pub struct Parts {
    /// The gateway's name.
    pub name: String,
    /// The own trust domain.
    pub trust_domain: TrustDomain,
    /// What the mesh looks like.
    pub view: watch::Receiver<Arc<View>>,
    /// Who we are and whom we believe.
    pub credentials: Credentials,
    /// HBONE from workloads of the own cluster.
    pub hbone: TcpListener,
    /// Where QUIC listens and dials from.
    pub quic: SocketAddr,
    /// Where the same tunnel over TCP listens; `None`: nowhere. Peers expect it on QUIC's port.
    pub tcp: Option<TcpListener>,
    /// How tunnels are run.
    pub tunnel: TunnelSettings,
    /// Where the key of stateless resets is kept; `None`: a new one each time.
    pub state_dir: Option<PathBuf>,
    /// Where metrics go.
    pub registry: Registry,
    /// Where the line per flow goes.
    pub access: AccessLog,
    /// How it stops.
    pub shutdown: Shutdown,
    /// Its namespace.
    pub namespace: Namespace,
    /// Who has certificates for pods without a sidecar.
    pub identities: Arc<dyn Identities>,
}

/// A gateway that runs. Dropping it stops nothing: its shutdown does.
pub struct Running {
    pub(crate) context: Arc<Context>,
    endpoint: Endpoint,
    hbone: SocketAddr,
    pub(crate) listeners: Arc<Listeners>,
}

/// Starts the listeners and the tunnels; must be called inside a runtime.
pub fn start(parts: Parts) -> Result<Running, RunError> {
    start_with(parts, Arc::new(dial_tcp), Bounds::default())
}

/// As [`start`], with another way to reach endpoints and other bounds.
pub(crate) fn start_with(parts: Parts, dial: Dial, bounds: Bounds) -> Result<Running, RunError> {
    let metrics = Metrics::register(&parts.registry);
    let trips = Trips::default();
    let options = TransportOptions {
        listen: parts.quic,
        tunnel: parts.tunnel,
        state_dir: parts.state_dir.clone(),
        trips: trips.clone(),
    };
    let (endpoint, buffers) = transport::endpoint(&options, &parts.credentials)?;
    let mut endpoints = vec![endpoint.clone()];
    for _ in 1..parts.tunnel.connections {
        endpoints.push(transport::dialler(parts.quic.ip(), &parts.tunnel, &trips)?);
    }
    metrics.socket_refused.set(i64::from(buffers.refused()));
    for (direction, bytes) in [("receive", buffers.receive), ("send", buffers.send)] {
        metrics.socket.get_or_create(&SocketLabels { direction }).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    let hbone = parts.hbone.local_addr().map_err(|source| RunError::Listen { address: parts.quic, source })?;
    let paths = Paths::new(Ground {
        name: parts.name.clone(),
        endpoints,
        credentials: parts.credentials.clone(),
        view: parts.view.clone(),
        metrics: metrics.clone(),
        tunnel: parts.tunnel,
        trips,
    });
    let ended = parts.shutdown.ended();
    let states = clusters::follow(parts.registry.clone(), parts.view.clone(), Arc::clone(&paths), ended.clone());
    tokio::spawn(states);
    let (stand_ins, listeners) = unmeshed_ends(&parts, hbone.ip());
    let context = Arc::new(Context {
        stand_ins: Arc::clone(&stand_ins),
        address: hbone,
        name: parts.name,
        trust_domain: parts.trust_domain,
        view: parts.view,
        credentials: parts.credentials,
        shutdown: parts.shutdown,
        metrics,
        access: parts.access,
        paths: Arc::clone(&paths),
        endpoints: Endpoints::default(),
        dial,
        peers: Limit::new(bounds.connections_per_gateway),
        streams: Limit::new(bounds.streams_per_cluster),
        hints: Mutex::default(),
    });
    tokio::spawn(paths.follow(ended.clone()));
    tokio::spawn(stand_ins.follow(ended));
    tokio::spawn(Arc::clone(&listeners).follow());
    tokio::spawn(source::listen(Arc::clone(&context), parts.hbone));
    tokio::spawn(destination::quic::listen(Arc::clone(&context), endpoint.clone()));
    if let Some(tcp) = parts.tcp {
        tokio::spawn(destination::tcp::listen(Arc::clone(&context), tcp));
    }
    Ok(Running { context, endpoint, hbone, listeners })
}

/// What serves ends without a sidecar, with the engines that sidecars have.
fn unmeshed_ends(parts: &Parts, bind: IpAddr) -> (Arc<StandIns>, Arc<Listeners>) {
    let metrics = proxy::metrics::Metrics::default();
    metrics.register(&parts.registry);
    let access = parts.access.clone();
    let recorder = Recorder::new(metrics, move |record| access.record(record));
    let life = Lifecycle::new(parts.shutdown.draining(), parts.shutdown.ended());
    let outbound = Outbound::start(OutboundConfig {
        directory: Arc::new(parts.view.clone()),
        credentials: parts.credentials.clone(),
        resolver: Arc::new(SystemResolver),
        recorder: recorder.clone(),
        life: life.clone(),
        namespace: parts.namespace.clone(),
        dialer: dial::Dialer::unmarked(),
    });
    let (views, name) = (parts.view.clone(), parts.name.clone());
    let (of, engine) = (life.clone(), outbound.clone());
    let identities = Arc::clone(&parts.identities);
    let ground = stand_in::Ground { identities, views, recorder, life: of, outbound: engine, name };
    let (views, name, drained) = (parts.view.clone(), parts.name.clone(), life.clone());
    // Connections of unmeshed clients are what the gateway carries, like flows.
    parts.shutdown.spawn(async move {
        drained.draining.cancelled().await;
        drained.finished().await;
    });
    let listeners = Listeners::new(unmeshed::Ground { views, outbound, life, bind, name });
    (Arc::new(StandIns::new(ground)), Arc::new(listeners))
}

impl Running {
    /// Where HBONE listens.
    pub fn hbone_address(&self) -> SocketAddr {
        self.hbone
    }

    /// Where QUIC listens.
    pub fn quic_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Waits for the drain to begin, lets flows go on for at most `drain`, then closes every connection. Says whether
    /// all flows were done.
    pub async fn finish(self, drain: Duration) -> bool {
        let idle = self.context.shutdown.finish(drain).await;
        let endpoints = &self.context.paths.ground().endpoints;
        endpoints.iter().for_each(|endpoint| endpoint.close(VarInt::from_u32(0), b"drained"));
        let closing = async {
            for endpoint in endpoints {
                endpoint.wait_idle().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
        self.context.access.flush(CLOSE_TIMEOUT).await;
        idle
    }

    /// Adds the gateway's debug pages.
    fn admin(&self, admin: Admin) -> Admin {
        let listeners = Arc::clone(&self.listeners);
        let (paths, view, seen) = (Arc::clone(&self.context), Arc::clone(&self.context), Arc::clone(&self.context));
        admin
            .route("/debug/paths", move |_| {
                let rows = paths.paths.rows();
                async move { serde_json::to_value(rows).unwrap_or_else(|error| json!({"error": error.to_string()})) }
            })
            .route("/debug/listeners", move |_| {
                let rows = listeners.rows();
                async move { serde_json::to_value(rows).unwrap_or_else(|error| json!({"error": error.to_string()})) }
            })
            .route("/debug/clusters", move |_| {
                let rows = clusters::rows(&seen.current_view(), &seen.paths.rows(), clusters::now_ms());
                async move { serde_json::to_value(rows).unwrap_or_else(|error| json!({"error": error.to_string()})) }
            })
            .route("/debug/view", move |_| {
                let view = view.current_view();
                async move { serde_json::to_value(&*view).unwrap_or_else(|error| json!({"error": error.to_string()})) }
            })
    }
}

/// Runs the gateway of a configuration until it is told to stop and has drained.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    match config.role.clone() {
        config::Role::EastWest { hbone, quic, tunnel } => {
            let ground = EastWest { hbone, quic, tunnel };
            Box::pin(run_east_west(config, ground, shutdown)).await
        }
        config::Role::Edge { mtls, bind, dns } => {
            Box::pin(edge::run(config, edge::Ground { mtls, bind, dns }, shutdown)).await
        }
    }
}

/// Where an east-west gateway listens.
struct EastWest {
    hbone: SocketAddr,
    quic: SocketAddr,
    tunnel: TunnelSettings,
}

async fn run_east_west(config: Config, ground: EastWest, shutdown: Shutdown) -> Result<(), RunError> {
    let registry = Registry::new("gateway");
    let readiness = Readiness::new();
    let waiting = readiness.block("no certificate or no view yet");
    let credential = Credential::load(&config.credential)?;
    let trust_domain = credential.trust_domain.clone();
    let client_config = ClientConfig {
        role: Role::Gateway,
        credential,
        cache_dir: config.cache_dir.clone(),
        dialer: dial::Dialer::unmarked(),
    };
    let client = Client::start(client_config, shutdown.ended(), &registry)?;
    let admin_listener = bind(config.admin).await?;
    let running = start(Parts {
        name: config.name,
        trust_domain,
        view: client.view(),
        credentials: client.credentials(),
        hbone: bind(ground.hbone).await?,
        quic: ground.quic,
        tcp: if ground.tunnel.fallback { Some(bind(ground.quic).await?) } else { None },
        tunnel: ground.tunnel,
        state_dir: Some(config.cache_dir),
        registry: registry.clone(),
        access: AccessLog::stdout(&registry).map_err(RunError::AccessLog)?,
        shutdown: shutdown.clone(),
        namespace: Namespace::new(SYSTEM_NAMESPACE)?,
        identities: Arc::new(client.stand_ins()),
    })?;
    let admin = running.admin(Admin::new(registry, readiness));
    let serving = tokio::spawn(admin.serve(admin_listener, shutdown.clone()));
    tokio::spawn(async move {
        client.ready().await;
        drop(waiting);
    });
    let drained = running.finish(config.drain).await;
    tracing::info!(drained, "gateway ended");
    match serving.await {
        Ok(served) => Ok(served?),
        Err(_) => Ok(()),
    }
}

pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, RunError> {
    let bound = telemetry::when_free(address, || TcpListener::bind(address)).await;
    bound.map_err(|source| RunError::Listen { address, source })
}
