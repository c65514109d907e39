//! Ingress and egress gateways: what Gateways of the configuration say, at the edge of the mesh.
//!
//! A gateway of the edge is a workload with an identity of its own and no application. [`listeners`] opens and closes
//! ports as the workload's configuration says; [`connection`] ends TLS, or passes it on by the name in the ClientHello;
//! [`requests`] asks the guard (tokens, policies, limits) and hands every request to the outbound engine, which decides
//! where it goes. Peers of the mesh come in by mTLS on one port for all and meet the same servers.

mod connection;
mod debug;
mod directory;
mod forwarded;
mod listeners;
mod proof;
mod requests;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use discovery::{Client, ClientConfig, Role};
use identity::Credentials;
use identity::bootstrap::Credential;
use mesh::{Namespace, ServiceName, View};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use proxy::access::Recorder;
use proxy::guard::Guard;
use proxy::listen::{Lifecycle, Limits};
use proxy::metrics::Metrics;
use proxy::outbound::{Directory, Outbound, OutboundConfig};
use proxy::resolve::{Resolve, ShimResolver, SystemResolver};
use proxy::tls::ServerConfigs;
use telemetry::{AccessLog, Admin, Readiness, Registry, Shutdown};
use tokio::sync::{Semaphore, watch};

use crate::config::Config;
use crate::run::{RunError, bind};

/// How long the last lines of the access log may take.
const FLUSH: Duration = Duration::from_secs(1);
/// How long a client's connection may idle between requests, and how long it may take to send a request's head.
const IDLE: Duration = Duration::from_secs(60);

/// Connections of one address at one listener: whoever opens more leaves room for others.
const PER_SOURCE: usize = 4096;

/// Where a gateway of the edge listens.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) mtls: SocketAddr,
    pub(crate) bind: IpAddr,
    pub(crate) dns: Option<SocketAddr>,
}

/// What a gateway of the edge is made of, wherever its view and credentials come from.
pub(crate) struct Parts {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) views: watch::Receiver<Arc<View>>,
    pub(crate) credentials: Credentials,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) recorder: Recorder,
    pub(crate) life: Lifecycle,
    pub(crate) namespace: Namespace,
    pub(crate) bind: IpAddr,
    /// How long connections of a listener that is taken away may go on.
    pub(crate) drain: Duration,
    pub(crate) readiness: Readiness,
    pub(crate) registry: Registry,
}

/// A gateway of the edge that runs; clones share it.
pub(crate) struct Edge {
    directory: Arc<dyn Directory>,
    credentials: Credentials,
    outbound: Outbound,
    guard: Guard,
    tls: ServerConfigs,
    recorder: Recorder,
    life: Lifecycle,
    limits: Limits,
    handshakes: Semaphore,
    bind: IpAddr,
    drain: Duration,
    readiness: Readiness,
    refused: Family<RefusedLabels, Counter>,
    listeners: Mutex<listeners::Listeners>,
}

/// Labels of refused handshakes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    /// The port, as Gateways name it.
    port: u16,
    /// `no_server`, `no_certificate`, `handshake` or `not_tls`.
    reason: &'static str,
}

impl Edge {
    /// Starts the engine and follows the configuration; ports are opened as soon as a view names them.
    pub(crate) fn start(parts: Parts) -> Arc<Self> {
        let outbound = Outbound::start(OutboundConfig {
            dialer: dial::Dialer::unmarked(),
            directory: parts.directory.clone(),
            credentials: parts.credentials.clone(),
            resolver: parts.resolver,
            recorder: parts.recorder.clone(),
            life: parts.life.clone(),
            namespace: parts.namespace,
        });
        let help = "TLS connections that were refused at a port of a Gateway";
        let refused = parts.registry.make("isthmus_gateway_tls_refused", help);
        let limits = Limits { listener: "edge", header_timeout: IDLE, per_source: PER_SOURCE, ..Limits::default() };
        let edge = Arc::new(Self {
            guard: Guard::new(outbound.clone()),
            tls: ServerConfigs::new(parts.credentials.clone()),
            handshakes: Semaphore::new(limits.handshakes),
            directory: parts.directory,
            credentials: parts.credentials,
            outbound,
            recorder: parts.recorder,
            life: parts.life,
            limits,
            bind: parts.bind,
            drain: parts.drain,
            readiness: parts.readiness,
            refused,
            listeners: Mutex::default(),
        });
        tokio::spawn(edge.clone().follow(parts.views));
        edge
    }

    fn view(&self) -> Arc<View> {
        self.directory.view()
    }

    fn refuse_tls(&self, port: u16, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabels { port, reason }).inc();
        telemetry::shed("edge", reason);
    }
}

/// Runs a gateway of the edge until it is told to stop and has drained.
pub(crate) async fn run(config: Config, ground: Ground, shutdown: Shutdown) -> Result<(), RunError> {
    let registry = Registry::new("gateway");
    let readiness = Readiness::new();
    let waiting = readiness.block("no certificate or no view yet");
    let (mtls, admin_listener) = (bind(ground.mtls).await?, bind(config.admin).await?);
    let credential = Credential::load(&config.credential)?;
    let workload: ServiceName = credential.workload.parse()?;
    let client_config =
        ClientConfig { role: Role::Edge, credential, cache_dir: config.cache_dir, dialer: dial::Dialer::unmarked() };
    let client = Client::start(client_config, shutdown.ended(), &registry)?;
    let access = AccessLog::stdout(&registry).map_err(RunError::AccessLog)?;
    let metrics = Metrics::default();
    metrics.register(&registry);
    let log = access.clone();
    let life = Lifecycle::new(shutdown.draining(), shutdown.ended());
    let edge = Edge::start(Parts {
        directory: Arc::new(directory::Discovered(client.clone())),
        views: client.view(),
        credentials: client.credentials(),
        resolver: resolver(ground.dns)?,
        recorder: Recorder::new(metrics, move |record| log.record(record)),
        life: life.clone(),
        namespace: workload.namespace().clone(),
        bind: ground.bind,
        drain: config.drain,
        readiness: readiness.clone(),
        registry: registry.clone(),
    });
    let admin = edge.admin(Admin::new(registry, readiness));
    let serving = tokio::spawn(admin.serve(admin_listener, shutdown.clone()));
    tokio::spawn(edge.serve_mesh(mtls));
    tracing::info!(%workload, mtls = %ground.mtls, bind = %ground.bind, "serving");
    tokio::spawn(async move {
        client.ready().await;
        drop(waiting);
    });
    let drain = config.drain;
    shutdown.spawn(async move {
        life.draining.cancelled().await;
        life.drain(drain).await;
    });
    shutdown.finish(drain + FLUSH).await;
    access.flush(FLUSH).await;
    match serving.await {
        Ok(served) => Ok(served?),
        Err(_) => Ok(()),
    }
}

/// Who knows the addresses of hosts outside the mesh.
fn resolver(dns: Option<SocketAddr>) -> Result<Arc<dyn Resolve>, RunError> {
    Ok(match dns {
        Some(shim) => Arc::new(ShimResolver::new(shim, dial::Dialer::unmarked()).map_err(RunError::Resolver)?),
        None => Arc::new(SystemResolver),
    })
}

#[cfg(test)]
mod tests;
