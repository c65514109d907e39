//! The process: credentials, discovery, listeners, admin.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dial::Dialer;
use discovery::{Client, ClientConfig, Role};
use identity::bootstrap::Credential;
use mesh::{NameError, PortScope, ServiceName};
use proxy::access::Recorder;
use proxy::guard::Guard;
use proxy::inbound::{Application, Inbound, InboundConfig};
use proxy::listen::{Lifecycle, Limits};
use proxy::metrics::Metrics;
use proxy::outbound::{Directory, Outbound, OutboundConfig};
use proxy::resolve::{Resolve, SystemResolver};
use telemetry::{AccessLog, Admin, Readiness, Registry, Shutdown};
use tokio::net::{TcpListener, UdpSocket};

use crate::config::Config;
use crate::datagrams::{CapturedDatagrams, listen_for_datagrams};
use crate::debug::admin_api;
use crate::directory::Discovered;
use crate::explicit::Explicit;
use crate::resolver::ShimResolver;
use crate::transparent::{Transparent, listen_everywhere};

/// Why the sidecar does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The credential cannot be used.
    #[error("the credential cannot be used")]
    Credential(#[source] identity::bootstrap::BootstrapError),
    /// The credential names no workload.
    #[error("the credential's workload is not <namespace>/<name>")]
    Workload(#[source] NameError),
    /// Discovery cannot start.
    #[error("discovery cannot start")]
    Discovery(#[source] discovery::StartError),
    /// No questions can be put to the DNS shim.
    #[error("the resolver for `dns` cannot start")]
    Resolver(#[source] io::Error),
    /// The access log has no thread.
    #[error("the access log cannot start")]
    AccessLog(#[source] io::Error),
    /// Sockets cannot be marked.
    #[error(
        "capture.mark: sockets cannot be marked with {mark}\nhint: CAP_NET_ADMIN or CAP_NET_RAW is needed; or write `mark: 0`, run the sidecar as a user of its own and apply the capture with --proxy-uid"
    )]
    Mark {
        /// The mark.
        mark: u32,
        /// What the system said.
        source: io::Error,
    },
    /// A listener cannot be bound.
    #[error("{what} cannot listen on {address}\nhint: is another process there, and is the address local?")]
    Bind {
        /// Which listener.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// All listeners, bound before anything is promised.
struct Listeners {
    outbound: Option<TcpListener>,
    captured_outbound: Vec<TcpListener>,
    captured_inbound: Vec<TcpListener>,
    captured_datagrams: Vec<UdpSocket>,
    mtls: TcpListener,
    admin: TcpListener,
    plain: Vec<(u16, TcpListener)>,
}

/// Runs the sidecar until it is shut down. It starts without its agent and without its application.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    let registry = Registry::new("sidecar");
    let readiness = Readiness::new();
    let waiting = readiness.block("no certificate or no view of the mesh yet");
    let listeners = bind(&config).await?;
    let dialer = dialer(&config)?;
    let credential = Credential::load(&config.credential).map_err(RunError::Credential)?;
    let workload: ServiceName = credential.workload.parse().map_err(RunError::Workload)?;
    let client_config = ClientConfig { role: Role::Sidecar, credential, cache_dir: config.cache_dir.clone(), dialer };
    let client = Client::start(client_config, shutdown.ended(), &registry).map_err(RunError::Discovery)?;
    let access_log = AccessLog::stdout(&registry).map_err(RunError::AccessLog)?;
    let metrics = Metrics::default();
    metrics.register(&registry);
    let log = access_log.clone();
    let recorder = Recorder::new(metrics, move |record| log.record(record));
    let life = Lifecycle::new(shutdown.draining(), shutdown.ended());
    let directory: Arc<dyn Directory> =
        Arc::new(Discovered { client: client.clone(), by_address: config.capture.is_some() });
    let outbound = Outbound::start(OutboundConfig {
        directory: directory.clone(),
        credentials: client.credentials(),
        resolver: resolver(config.dns, dialer)?,
        recorder: recorder.clone(),
        life: life.clone(),
        namespace: workload.namespace().clone(),
        dialer,
    });
    let inbound = Inbound::start(InboundConfig {
        server: None,
        directory,
        credentials: client.credentials(),
        recorder,
        life: life.clone(),
        limits: Limits::default(),
        ports: config.ports.clone(),
        application: config.capture.map(|_| application(&config)),
        guard: Guard::new(outbound.clone()),
        dialer,
    });
    let scope = config.capture.map_or(PortScope::Declared, |_| PortScope::All);
    let admin = admin_api(&client, &outbound, scope, registry, readiness);
    let transparent = Transparent::new(outbound.clone(), inbound.clone(), life.clone());
    let datagrams = CapturedDatagrams::new(outbound.clone(), life.clone(), dialer);
    let explicit = Explicit::new(outbound, life.clone(), config.bind);
    serve(listeners, Handlers { inbound, explicit, transparent, datagrams }, admin, &shutdown);
    tracing::info!(workload = %workload, mtls = %config.listen_mtls, "serving");
    tokio::spawn(async move {
        client.ready().await;
        drop(waiting);
    });
    let drain = config.drain;
    shutdown.spawn(async move {
        life.draining.cancelled().await;
        life.drain(drain).await;
    });
    shutdown.finish(drain + Duration::from_secs(1)).await;
    access_log.flush(Duration::from_secs(1)).await;
    Ok(())
}

/// Marks the sidecar's own sockets where the kernel tells them by it.
fn dialer(config: &Config) -> Result<Dialer, RunError> {
    let Some(mark) = config.capture.and_then(|capture| capture.mark) else { return Ok(Dialer::unmarked()) };
    let dialer = Dialer::marked(mark);
    dialer.check().map_err(|source| RunError::Mark { mark, source })?;
    Ok(dialer)
}

fn application(config: &Config) -> Application {
    let explicit = config.listen_outbound.map(|address| address.port());
    Application { address: config.bind, reserved: config.own_ports().into_iter().chain(explicit).collect() }
}

/// Who knows the addresses of hosts outside the mesh.
fn resolver(dns: Option<SocketAddr>, dialer: Dialer) -> Result<Arc<dyn Resolve>, RunError> {
    Ok(match dns {
        Some(shim) => Arc::new(ShimResolver::new(shim, dialer).map_err(RunError::Resolver)?),
        None => Arc::new(SystemResolver),
    })
}

async fn bind(config: &Config) -> Result<Listeners, RunError> {
    let listen = async |what, address: SocketAddr| {
        let bound = telemetry::when_free(address, || TcpListener::bind(address)).await;
        bound.map_err(|source| RunError::Bind { what, address, source })
    };
    let outbound = match config.listen_outbound {
        Some(address) => Some(listen("the explicit proxy", address).await?),
        None => None,
    };
    let mut plain = Vec::new();
    // With capture the application has its ports itself.
    for port in config.ports.iter().filter(|port| config.capture.is_none() && !port.protocol.is_udp()) {
        let address = SocketAddr::new(config.bind, port.number);
        plain.push((port.number, listen("a port of the workload", address).await?));
    }
    let on_all = |what, port: u16| {
        let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        move |source| RunError::Bind { what, address, source }
    };
    let everywhere = |what, port: Option<u16>| match port {
        Some(port) => listen_everywhere(port).map_err(on_all(what, port)),
        None => Ok(Vec::new()),
    };
    let captured_datagrams = match config.capture.filter(|capture| capture.udp) {
        Some(capture) => listen_for_datagrams(capture.outbound_port)
            .map_err(on_all("the capture of datagrams (CAP_NET_ADMIN or CAP_NET_RAW)", capture.outbound_port))?,
        None => Vec::new(),
    };
    let (outbound_port, inbound_port) =
        config.capture.map(|capture| (capture.outbound_port, capture.inbound_port)).unzip();
    Ok(Listeners {
        captured_outbound: everywhere("the capture of outbound connections", outbound_port)?,
        captured_inbound: everywhere("the capture of inbound connections", inbound_port)?,
        captured_datagrams,
        outbound,
        mtls: listen("mTLS", config.listen_mtls).await?,
        admin: listen("admin", config.listen_admin).await?,
        plain,
    })
}

/// Who serves which listeners.
struct Handlers {
    inbound: Inbound,
    explicit: Explicit,
    transparent: Transparent,
    datagrams: CapturedDatagrams,
}

fn serve(listeners: Listeners, handlers: Handlers, admin: Admin, shutdown: &Shutdown) {
    let Handlers { inbound, explicit, transparent, datagrams } = handlers;
    let ended = shutdown.clone();
    tokio::spawn(async move {
        if let Err(error) = admin.serve(listeners.admin, ended).await {
            tracing::error!(%error, "the admin listener broke");
        }
    });
    if let Some(listener) = listeners.outbound {
        tokio::spawn(async move { explicit.serve(listener).await });
    }
    for listener in listeners.captured_outbound {
        let transparent = transparent.clone();
        tokio::spawn(async move { transparent.serve_outbound(listener).await });
    }
    for listener in listeners.captured_inbound {
        let transparent = transparent.clone();
        tokio::spawn(async move { transparent.serve_inbound(listener).await });
    }
    for listener in listeners.captured_datagrams {
        let datagrams = datagrams.clone();
        tokio::spawn(async move { datagrams.serve(listener).await });
    }
    let mtls = inbound.clone();
    tokio::spawn(async move { mtls.serve_mtls(listeners.mtls).await });
    for (number, listener) in listeners.plain {
        let inbound = inbound.clone();
        tokio::spawn(async move { inbound.serve_plain(listener, number).await });
    }
}
