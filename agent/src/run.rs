//! The wiring: load what was known, listen, and start the tasks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::agent::certificate_authority_server::CertificateAuthorityServer;
use discovery::server::{Server, Snapshot, accept_mutual, accept_open};
use identity::{CaError, ClusterCa, Credentials, PeerPolicy, TrustBundles};
use mesh::{HTTP2_BOUNDS, MeshInfo, TrustDomain};
use telemetry::{Readiness, Registry, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::{Shown, admin};
use crate::ca::Authority;
use crate::config::Config;
use crate::exports::book::Book;
use crate::exports::reconcile::Exporter;
use crate::facts::{self, Importer};
use crate::hub::HubLink;
use crate::listeners::Ledger;
use crate::metrics::Metrics;
use crate::own;
use crate::publish::{Publisher, Revisions, read_registrations};
use crate::source::{self, Content, Files};
use crate::state::{self, StateError};
use config::{Finding, Local};

/// ALPN of gRPC.
const ALPN: &[&[u8]] = &[b"h2"];
/// How long streams may go on after the first signal.
const DRAIN: Duration = Duration::from_secs(2);
/// An idle client that vanished without a word is noticed after two of these.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A directory cannot be made.
    #[error("the data directory cannot be used")]
    Directory(#[source] identity::files::FileError),
    /// The CA cannot be loaded or made.
    #[error("the cluster's CA cannot be used")]
    Ca(#[source] CaError),
    /// The agent cannot issue its own SVID.
    #[error("the agent cannot issue its own certificate")]
    Own(#[source] identity::IssueError),
    /// The CA's root is no bundle.
    #[error("the CA's root cannot be used")]
    Bundle(#[source] identity::BundleError),
    /// The last-good state cannot be used.
    #[error("the last-good state cannot be used")]
    State(#[from] StateError),
    /// A listener cannot be opened.
    #[error("field `listen.{field}`: {address} cannot be listened on\nhint: is another agent running there?")]
    Listen {
        /// Which listener.
        field: &'static str,
        /// Its address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] identity::TlsConfigError),
    /// A listener failed.
    #[error("the listener `{0}` failed")]
    Serve(&'static str, #[source] tonic::transport::Error),
    /// The admin listener failed.
    #[error("the listener `admin` failed")]
    Admin(#[source] telemetry::AdminError),
}

/// The open listeners.
#[derive(Debug)]
pub struct Listeners {
    /// Delta discovery.
    pub discovery: TcpListener,
    /// The certificate authority.
    pub ca: TcpListener,
    /// Health, metrics and debug.
    pub admin: TcpListener,
}

/// Runs an agent on the addresses of its configuration until shutdown.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    let listeners = listen(&config).await?;
    Box::pin(serve(config, listeners, shutdown)).await
}

/// Runs an agent on listeners that are open already.
pub async fn serve(config: Config, listeners: Listeners, shutdown: Shutdown) -> Result<(), RunError> {
    let registry = Registry::new("agent");
    let metrics = Metrics::register(&registry);
    identity::files::create_private_dir(&config.state_dir()).map_err(RunError::Directory)?;
    let ca = Arc::new(load_ca(&config)?);
    let known = Known::load(&config, &ca)?;

    let (svid_tx, svid) = watch::channel(Some(Arc::new(own::issue(&ca, config.svid_ttl).map_err(RunError::Own)?)));
    // A bundle's serial only matters to importers, which learn it from the signed fact.
    let bundle = ca.bundle(hub_client::FIRST_BUNDLE_SERIAL).map_err(RunError::Bundle)?;
    let (_bundles_tx, bundles) = watch::channel(Arc::new(TrustBundles::from(bundle)));
    let credentials = Credentials::new(svid.clone(), bundles);
    tokio::spawn(own::rotate(Arc::clone(&ca), config.svid_ttl, svid_tx, shutdown.draining()));

    let (files_tx, files) = watch::channel(Arc::new(known.files));
    let (local_tx, local) = watch::channel(Arc::new(known.content.local.clone()));
    let (content_tx, content) = watch::channel(Arc::new(known.content));
    let (findings_tx, findings) = watch::channel(Arc::<Vec<Finding>>::default());
    let (in_force_tx, in_force) = watch::channel(Arc::default());
    let (facts_tx, facts) = watch::channel(Arc::new(known.facts));
    let (book_tx, book) = watch::channel(Arc::new(known.book));
    let (snapshots_tx, snapshots) = watch::channel(None::<Arc<Snapshot>>);
    let server = Server::new(snapshots.clone());
    let shown = Shown {
        files: files.clone(),
        local: local.clone(),
        findings,
        in_force,
        book,
        facts: facts.clone(),
        snapshots,
        clients: server.clients(),
    };

    let mut publisher = Publisher {
        mesh: mesh_info(&config, &ca),
        gateways: config.gateways.clone(),
        data_dir: config.data_dir.clone(),
        content,
        facts,
        snapshots: snapshots_tx,
        findings: findings_tx,
        in_force: in_force_tx,
        revisions: known.revisions,
        listeners: known.listeners,
        metrics: metrics.clone(),
        last: None,
    };
    // The first snapshot is complete before the first client can connect.
    publisher.publish(&read_registrations(&config.data_dir.join("bootstrap")));
    let stop = shutdown.draining();
    tokio::spawn(publisher.run(stop.clone()));
    tokio::spawn(source::follow(config.directory.clone(), manifests_path(&config), files_tx, stop.clone()));
    tokio::spawn(follow_files(files, content_tx, local_tx, ca.trust_domain().clone()));
    let named = local.clone();
    let outside = Outside { svid, local, facts: facts_tx, book: book_tx, metrics };
    outside.start(&config, &ca, &stop);

    let authority = Authority::new(ca, &config.data_dir, config.svid_ttl, named);
    let admin = admin(registry, Readiness::new(), shown);
    Box::pin(serve_all(listeners, credentials, authority, server, admin, shutdown)).await
}

/// The ends of the channels that the tasks towards the hub hold.
struct Outside {
    svid: watch::Receiver<Option<Arc<identity::Svid>>>,
    local: watch::Receiver<Arc<Local>>,
    facts: watch::Sender<Arc<facts::Facts>>,
    book: watch::Sender<Arc<Book>>,
    metrics: Metrics,
}

impl Outside {
    /// Starts what talks to the hub and what reads it.
    fn start(self, config: &Config, ca: &Arc<ClusterCa>, stop: &CancellationToken) {
        let (client_tx, client) = watch::channel(None);
        let (mirror_tx, mirror) = watch::channel(None);
        let importer = Importer {
            own: config.cluster.clone(),
            own_trust_domain: ca.trust_domain().clone(),
            hub_trust_domain: TrustDomain::of_hub(&config.mesh_id),
            acceptance: config.acceptance,
            data_dir: config.data_dir.clone(),
            mirror: mirror.clone(),
            facts: self.facts,
            metrics: self.metrics.clone(),
        };
        tokio::spawn(importer.run(stop.clone()));
        let exporter = Exporter {
            cluster: config.cluster.clone(),
            ca: Arc::clone(ca),
            gateways: config.gateways.clone(),
            group_labels: config.group_labels.clone(),
            local: self.local,
            mirror,
            client,
            book: self.book,
            metrics: self.metrics.clone(),
        };
        tokio::spawn(exporter.run(stop.clone()));
        let link = HubLink {
            data_dir: config.data_dir.clone(),
            svid: self.svid,
            client: client_tx,
            mirror: mirror_tx,
            metrics: self.metrics,
            shutdown: stop.clone(),
        };
        tokio::spawn(link.run());
    }
}

/// What was known when the agent last ran, and the directory as it is now.
struct Known {
    files: Files,
    content: Content,
    facts: facts::Facts,
    book: Book,
    revisions: Revisions,
    listeners: Ledger,
}

impl Known {
    fn load(config: &Config, ca: &ClusterCa) -> Result<Self, RunError> {
        let path = manifests_path(config);
        let restored = Files::restore(state::read(&path)?.unwrap_or_default());
        let files = source::poll(&config.directory, &path, &restored).unwrap_or(restored);
        Ok(Self {
            content: Content::of(&files, ca.trust_domain()),
            files,
            facts: facts::load(&config.data_dir)?,
            book: Book::load(&config.state_dir().join("exports.json"), config.cluster.clone())?,
            revisions: Revisions::load(&config.state_dir().join("revision.json"))?,
            listeners: Ledger::load(&config.state_dir().join("listeners.json"))?,
        })
    }
}

fn manifests_path(config: &Config) -> PathBuf {
    config.state_dir().join("manifests.json")
}

/// A CA that joining made, perhaps for another trust domain than the default one, or a new one.
fn load_ca(config: &Config) -> Result<ClusterCa, RunError> {
    let directory = config.data_dir.join("ca");
    if directory.join("ca.crt").exists() {
        return ClusterCa::load(&directory).map_err(RunError::Ca);
    }
    ClusterCa::load_or_create(&directory, &config.default_trust_domain()).map_err(RunError::Ca)
}

fn mesh_info(config: &Config, ca: &ClusterCa) -> MeshInfo {
    MeshInfo {
        mesh_id: config.mesh_id.clone(),
        cluster: config.cluster.clone(),
        trust_domain: ca.trust_domain().clone(),
        roots: vec![ca.root_der().as_ref().to_vec()],
        bundle_serial: hub_client::FIRST_BUNDLE_SERIAL,
    }
}

async fn listen(config: &Config) -> Result<Listeners, RunError> {
    let open = |field, address| async move {
        let bound = telemetry::when_free(address, || TcpListener::bind(address)).await;
        bound.map_err(|source| RunError::Listen { field, address, source })
    };
    Ok(Listeners {
        discovery: open("discovery", config.listen.discovery).await?,
        ca: open("ca", config.listen.ca).await?,
        admin: open("admin", config.listen.admin).await?,
    })
}

/// Compiles the manifests whenever they changed.
async fn follow_files(
    mut files: watch::Receiver<Arc<Files>>,
    content: watch::Sender<Arc<Content>>,
    local: watch::Sender<Arc<Local>>,
    trust_domain: TrustDomain,
) {
    while files.changed().await.is_ok() {
        let read = Content::of(&files.borrow_and_update(), &trust_domain);
        let next = read.local.clone();
        content.send_replace(Arc::new(read));
        for problem in next.problems.iter().filter(|problem| !local.borrow().problems.contains(problem)) {
            tracing::warn!(problem, "a manifest is left out");
        }
        local.send_if_modified(|current| {
            let changed = **current != next;
            *current = Arc::new(next);
            changed
        });
    }
}

async fn serve_all(
    listeners: Listeners,
    credentials: Credentials,
    authority: Authority,
    server: Server,
    admin: telemetry::Admin,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let Some(own) = credentials.svid() else { return Ok(()) };
    let peers = PeerPolicy::trust_domain(own.id().trust_domain().clone());
    let mutual = credentials.server_config(peers, ALPN).map_err(RunError::Tls)?;
    let open = credentials.server_config_open(ALPN).map_err(RunError::Tls)?;
    let draining = shutdown.draining();
    let discovery = grpc_server().add_service(server.into_service()).serve_with_incoming_shutdown(
        accept_mutual(listeners.discovery, mutual, credentials, draining.clone()),
        draining.clone().cancelled_owned(),
    );
    let ca = grpc_server()
        .timeout(Duration::from_secs(10))
        .add_service(CertificateAuthorityServer::new(authority).max_decoding_message_size(64 * 1024))
        .serve_with_incoming_shutdown(
            accept_open(listeners.ca, open, draining.clone()),
            draining.clone().cancelled_owned(),
        );
    tracing::info!("serving");
    let finish = async {
        shutdown.draining().cancelled().await;
        tokio::time::sleep(DRAIN).await;
        shutdown.end();
    };
    tokio::select! {
        served = async { tokio::join!(discovery, ca) } => {
            served.0.map_err(|error| RunError::Serve("discovery", error))?;
            served.1.map_err(|error| RunError::Serve("ca", error))?;
        }
        served = admin.serve(listeners.admin, shutdown.clone()) => served.map_err(RunError::Admin)?,
        () = finish => {}
    }
    shutdown.end();
    Ok(())
}

/// A listener for gRPC, within the bounds of all listeners.
fn grpc_server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(16)
        .http2_max_header_list_size(HTTP2_BOUNDS.header_list)
        .http2_max_pending_accept_reset_streams(Some(HTTP2_BOUNDS.pending_accept_resets))
        .http2_max_local_error_reset_streams(Some(HTTP2_BOUNDS.local_error_resets))
}
