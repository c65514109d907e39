//! Puts a node together, runs it, and takes it down again.

mod admin;
mod formation;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use api::hub::hub_peer_server::HubPeerServer;
use api::hub::hub_server::HubServer;
use api::hub::join_server::JoinServer;
use hub_state::Role;
use identity::{Credentials, PeerPolicy, TrustBundle};
use mesh::{HTTP2_BOUNDS, TrustDomain};
use openraft::SnapshotPolicy;
use telemetry::{Readiness, Registry, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};

use crate::api::HubService;
use crate::config::Config;
use crate::disk::Disk;
use crate::incoming::{self, Listening};
use crate::join::JoinService;
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::node::{Inner, Node};
use crate::peer::{self, Network, PeerService, Peers};
use crate::proposer::Proposer;
use crate::raft_types::Raft;
use crate::storage::{self, Opened};
use crate::trust::{self, NodeFiles};

/// How long open calls may take after the drain began.
const DRAIN: Duration = Duration::from_secs(3);
/// The largest message from a client: a transaction.
const CLIENT_MESSAGE_MAX: usize = 8 * 1024 * 1024;
/// The largest message to a client: a snapshot of what it sees.
const CLIENT_ANSWER_MAX: usize = 64 * 1024 * 1024;
const STREAMS_PER_CONNECTION: u32 = 256;
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Bound listeners; tests bind them to ports of the system's choice before the members' addresses are written down.
#[derive(Debug)]
pub struct Listeners {
    /// Mutual TLS: `Hub` and `HubPeer`.
    pub api: TcpListener,
    /// TLS: `Join` only.
    pub join: TcpListener,
    /// Plain HTTP.
    pub admin: TcpListener,
}

/// Binds the configured listeners and serves until the shutdown.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let bind = async |name: &str, address| {
        let bound = telemetry::when_free(address, || TcpListener::bind(address)).await;
        bound.with_context(|| format!("listen.{name}: cannot listen on {address}"))
    };
    let listeners = Listeners {
        api: bind("api", config.listen_api).await?,
        join: bind("join", config.listen_join).await?,
        admin: bind("admin", config.listen_admin).await?,
    };
    serve(config, listeners, shutdown).await
}

/// Serves on bound listeners until the shutdown; when this returns, all files are released.
pub async fn serve(config: Config, listeners: Listeners, shutdown: Shutdown) -> anyhow::Result<()> {
    identity::install_crypto();
    let registry = Registry::new("hub");
    let readiness = Readiness::new();
    let no_leader = readiness.block("no leader is known");
    let metrics = Metrics::register(&registry);

    let files = NodeFiles::new(&config.data_dir, &config.mesh_id);
    let own = files.bundle()?;
    let svid = watch::Sender::new(Some(Arc::new(files.svid()?)));
    let disk = Disk::new(config.node_id, &config.data_dir, metrics.clone());
    let data_dir = config.data_dir.clone();
    let opened = tokio::task::spawn_blocking(move || storage::open(&data_dir)).await??;
    metrics.rebuilds.inc_by(u64::from(opened.rebuilt.is_some()));

    let bundles = watch::Sender::new(Arc::new(trust::bundles(&own, &opened.machine.replica())));
    let credentials = Credentials::new(svid.subscribe(), bundles.subscribe());
    let pristine = opened.pristine;
    let log = opened.log.clone();
    let close_rows = opened.machine.closer();
    let node = start_raft(&config, opened, credentials, disk.clone(), metrics).await?;

    let background = CancellationToken::new();
    tokio::spawn(trust::follow(own.clone(), node.replica().clone(), bundles, background.clone()));
    tokio::spawn(disk.watch(node.raft().clone(), background.clone()));
    tokio::spawn(files.keep_fresh(svid, background.clone()));
    tokio::spawn(admin::follow_metrics(node.clone(), background.clone()));
    tokio::spawn(node.inner.leases.clone().watch(
        node.id(),
        node.raft().clone(),
        node.replica().clone(),
        node.inner.proposer.clone(),
        background.clone(),
    ));
    if pristine {
        tokio::spawn(formation::initialise(node.clone(), config.members.clone(), background.clone()));
    }
    let ready = tokio::spawn({
        let node = node.clone();
        async move {
            let mut metrics = node.raft().server_metrics();
            let _ = metrics.wait_for(|metrics| metrics.current_leader.is_some()).await;
            drop(no_leader);
        }
    });

    // On the heap: the servers' futures are large, and this one is awaited by whoever runs a node.
    let served = Box::pin(serve_listeners(&config, listeners, &node, &own, (registry, readiness), &shutdown)).await;
    ready.abort();
    background.cancel();
    if let Err(error) = node.raft().shutdown().await {
        tracing::warn!(%error, "raft did not stop cleanly");
    }
    log.close().await;
    close_rows.close().await;
    shutdown.end();
    served
}

async fn start_raft(
    config: &Config,
    opened: Opened,
    credentials: Credentials,
    disk: Disk,
    metrics: Metrics,
) -> anyhow::Result<Node> {
    let raft_config = openraft::Config {
        cluster_name: config.mesh_id.to_string(),
        heartbeat_interval: 150,
        election_timeout_min: 600,
        election_timeout_max: 1200,
        install_snapshot_timeout: 30_000,
        max_payload_entries: 64,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every),
        max_in_snapshot_log_to_keep: (config.snapshot_every / 5).max(1),
        replication_lag_threshold: config.snapshot_every,
        ..openraft::Config::default()
    };
    let peers = Peers::new(credentials.clone(), TrustDomain::of_hub(&config.mesh_id))?;
    let network = Network { peers: peers.clone() };
    let replica = opened.machine.replica();
    let raft_config = Arc::new(raft_config.validate()?);
    let raft = Raft::new(config.node_id, raft_config, network, opened.log, opened.machine)
        .await
        .context("raft cannot start from what is stored")?;
    let proposer = Proposer::start(raft.clone(), disk.clone(), metrics.clone());
    let inner = Inner {
        id: config.node_id,
        mesh: config.mesh_id.clone(),
        raft,
        replica,
        peers,
        proposer,
        leases: Leases::new(config.lease_ttl),
        lease_ttl: config.lease_ttl,
        credentials,
        metrics,
        disk,
    };
    Ok(Node { inner: Arc::new(inner) })
}

async fn serve_listeners(
    config: &Config,
    listeners: Listeners,
    node: &Node,
    own: &TrustBundle,
    (registry, readiness): (Registry, Readiness),
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let draining = shutdown.draining();
    let (api, join) = accept(node, listeners.api, listeners.join, &draining)?;
    let root = own.roots().first().context("hub-ca.crt has no certificate")?;
    let hub = HubService { node: node.clone(), ca_hash: identity::root_hash(root), draining: draining.clone() };
    let roots = own.roots().iter().map(|root| root.to_vec()).collect();
    let join_service = JoinService { node: node.clone(), roots };
    let admin = admin::admin(node, registry, readiness);
    tracing::info!(node = config.node_id, mesh = %config.mesh_id, "the hub node serves");

    let api = server()
        .add_service(InterceptedService::new(
            HubServer::new(hub)
                .max_decoding_message_size(CLIENT_MESSAGE_MAX)
                .max_encoding_message_size(CLIENT_ANSWER_MAX),
            only(node, |role| matches!(role, Role::Operator | Role::Agent(_))),
        ))
        .add_service(InterceptedService::new(
            HubPeerServer::new(PeerService { node: node.clone() })
                .max_decoding_message_size(peer::MESSAGE_MAX)
                .max_encoding_message_size(peer::MESSAGE_MAX),
            only(node, |role| *role == Role::Hub),
        ))
        .serve_with_incoming_shutdown(api, draining.clone().cancelled_owned());
    let join = server()
        .add_service(JoinServer::new(join_service).max_decoding_message_size(256 * 1024))
        .serve_with_incoming_shutdown(join, draining.clone().cancelled_owned());
    let admin = tokio::spawn(admin.serve(listeners.admin, shutdown.clone()));
    let overdue = async {
        draining.cancelled().await;
        tokio::select! {
            () = tokio::time::sleep(DRAIN) => {}
            () = async { shutdown.ended().cancelled().await } => {}
        }
    };
    let result = tokio::select! {
        served = async { tokio::try_join!(api, join) } => served.map(|_| ()).context("a listener broke"),
        () = overdue => Ok(()),
        stopped = raft_stopped(node) => Err(anyhow::anyhow!("raft stopped: {stopped}")),
    };
    admin.abort();
    result
}

/// Turns away whoever can have no business with a service, before a message of theirs is read. What a role may do within
/// a service, each RPC says itself.
fn only(node: &Node, admits: fn(&Role) -> bool) -> impl Interceptor + Clone + Send + Sync + 'static {
    let node = node.clone();
    move |request: Request<()>| match admits(&node.caller(&request)?.role) {
        true => Ok(request),
        false => Err(Status::permission_denied("this service is not for callers of this role")),
    }
}

type Incoming = ReceiverStream<std::io::Result<incoming::Connection>>;

/// Connections of the API listener, whose clients have certificates, and of the join listener, whose have not.
fn accept(
    node: &Node,
    api: TcpListener,
    join: TcpListener,
    draining: &CancellationToken,
) -> anyhow::Result<(Incoming, Incoming)> {
    let credentials = &node.inner.credentials;
    let metrics = &node.inner.metrics;
    let api = incoming::accept(
        api,
        Listening {
            config: credentials.server_config(PeerPolicy::AnyKnown, &[b"h2"])?,
            credentials: Some(credentials.clone()),
            metrics: metrics.clone(),
            draining: draining.clone(),
        },
    );
    let join = incoming::accept(
        join,
        Listening {
            config: credentials.server_config_open(&[b"h2"])?,
            credentials: None,
            metrics: metrics.clone(),
            draining: draining.clone(),
        },
    );
    Ok((api, join))
}

fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .http2_max_header_list_size(HTTP2_BOUNDS.header_list)
        .http2_max_pending_accept_reset_streams(Some(HTTP2_BOUNDS.pending_accept_resets))
        .http2_max_local_error_reset_streams(Some(HTTP2_BOUNDS.local_error_resets))
}

/// Resolves when Raft cannot go on, for example because a disk failed: the process must end then.
async fn raft_stopped(node: &Node) -> String {
    let mut metrics = node.raft().metrics();
    match metrics.wait_for(|metrics| metrics.running_state.is_err()).await {
        Ok(metrics) => format!("{:?}", metrics.running_state),
        Err(_) => "its task ended".to_owned(),
    }
}
