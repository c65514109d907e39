//! The client of discovery: one per proxy. It gets the proxy's SVID, keeps it fresh, follows the agent, and publishes
//! whole views.

mod bundles;
mod cache;
mod connect;
mod demand;
mod issue;
mod metrics;
pub(crate) mod session;
mod stand_ins;
mod stream;
pub(crate) mod wanted;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dial::Dialer;
use identity::Credentials;
use identity::bootstrap::Credential;
use mesh::{ServiceName, View};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::types::{NodeId, NodeIdError, Role};
pub use stand_ins::StandIns;

use demand::{Demands, Use};
use session::{Known, Session};
use wanted::Wanted;

/// What a client needs to know.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// What the proxy is.
    pub role: Role,
    /// Who it is, and where its agent is.
    pub credential: Credential,
    /// Directory of the last-good cache; created if it is missing.
    pub cache_dir: PathBuf,
    /// Who opens connections to the agent.
    pub dialer: Dialer,
}

/// Why a client cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The credential's workload is no `<namespace>/<name>`.
    #[error("the credential's workload is not valid")]
    Workload(#[source] NodeIdError),
    /// The credential's trust domain or roots cannot be used.
    #[error("the credential cannot be used")]
    Credential(#[source] identity::bootstrap::BootstrapError),
    /// The cache directory cannot be made.
    #[error("cache_dir {path} cannot be created; hint: it must be writable by the proxy", path = path.display())]
    CacheDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What is known of a service or an address that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// The view has it.
    Present,
    /// The agent says that it does not exist, for this client.
    Absent,
    /// Nobody answered in time.
    Unknown,
}

/// What the tasks tell the handles.
#[derive(Debug)]
struct Shared {
    demands: Mutex<Demands>,
    /// Since when the agent is out of reach; `None` while connected.
    lost_at: Mutex<Option<Instant>>,
    /// Age of the cache when the client started; added until the first contact.
    cache_age: Mutex<Duration>,
}

/// A handle to the client; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    role: Role,
    view: watch::Receiver<Arc<View>>,
    known: watch::Receiver<Known>,
    commands: mpsc::Sender<Command>,
    credentials: Credentials,
    stand_ins: StandIns,
    shared: Arc<Shared>,
}

/// A change of the subscriptions.
#[derive(Debug)]
enum Command {
    Subscribe(Wanted),
    Unsubscribe(Vec<Wanted>),
}

impl Client {
    /// Starts the client and returns at once, with the last-good view if there is a cache. Must be called inside a
    /// tokio runtime; the background tasks end with `shutdown`.
    pub fn start(
        config: ClientConfig,
        shutdown: CancellationToken,
        registry: &telemetry::Registry,
    ) -> Result<Self, StartError> {
        let node = node_id(&config)?;
        std::fs::create_dir_all(&config.cache_dir)
            .map_err(|source| StartError::CacheDirectory { path: config.cache_dir.clone(), source })?;
        let metrics = metrics::Metrics::register(registry);
        let mut session = Session::new(node.clone());
        let cache = cache::Cache::new(&config.cache_dir, &node);
        let cache_age = cache.restore(&mut session);
        let mut demands = Demands::default();
        session.wanted().iter().for_each(|name| drop(demands.handle_use(name, Instant::now())));

        let anchors = bundles::Anchors::new(&config.credential)?;
        let (bundles_tx, bundles_rx) = watch::channel(Arc::new(anchors.bundles(&session.known().view)));
        let (svid_tx, svid_rx) = watch::channel(None);
        let credentials = Credentials::new(svid_rx, bundles_rx.clone());
        let (view_tx, view) = watch::channel(Arc::clone(&session.known().view));
        let (known_tx, known) = watch::channel(session.known().clone());
        let (saved_tx, saved_rx) = watch::channel(Arc::new(Vec::new()));
        let (commands, commands_rx) = mpsc::channel(64);
        let shared = Arc::new(Shared {
            demands: Mutex::new(demands),
            lost_at: Mutex::new(Some(Instant::now())),
            cache_age: Mutex::new(cache_age),
        });

        let stand_ins = StandIns::new(
            config.credential.clone(),
            bundles_rx.clone(),
            metrics.clone(),
            config.dialer,
            shutdown.clone(),
        );
        let issuer = issue::Issuer::new(config.credential.clone(), bundles_rx, svid_tx, metrics.clone(), config.dialer);
        tokio::spawn(issuer.run(shutdown.clone()));
        tokio::spawn(cache.run(saved_rx, shutdown.clone()));
        tokio::spawn(sweep(Arc::clone(&shared), commands.clone(), shutdown.clone()));
        let follower = stream::Follower {
            session,
            addresses: config.credential.discovery_addresses.clone(),
            credentials: credentials.clone(),
            anchors,
            commands: commands_rx,
            publish: stream::Publish { view: view_tx, known: known_tx, bundles: bundles_tx, saved: saved_tx },
            shared: Arc::clone(&shared),
            dialer: config.dialer,
            metrics,
            shutdown,
        };
        tokio::spawn(follower.run());
        Ok(Self { role: config.role, view, known, commands, credentials, stand_ins, shared })
    }

    /// The last good view, and every later one.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// The proxy's identity and the trust bundles, both kept current.
    pub fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// SVIDs of identities under which the proxy speaks for others; only gateways get any.
    pub fn stand_ins(&self) -> StandIns {
        self.stand_ins.clone()
    }

    /// Waits until there is an SVID and a view, be it a cached one.
    pub async fn ready(&self) {
        self.credentials.ready().await;
        let mut known = self.known.clone();
        // An error means that the client was shut down: whoever waits is about to end as well.
        let _ended = known.wait_for(|known| known.view.mesh.is_some()).await;
    }

    /// Finds out whether a service exists; a sidecar subscribes to it. Waits for the agent's answer up to `timeout`;
    /// without an agent the last known answer counts.
    pub async fn service(&self, name: &ServiceName, timeout: Duration) -> Demand {
        self.demand(&Wanted::Service(name.clone()), timeout).await
    }

    /// Finds out who has an address, in the same way; only sidecars are told.
    pub async fn address(&self, address: IpAddr, timeout: Duration) -> Demand {
        self.demand(&Wanted::Address(address), timeout).await
    }

    async fn demand(&self, wanted: &Wanted, timeout: Duration) -> Demand {
        if self.role.is_workload() {
            self.note_use(wanted).await;
        }
        let mut known = self.known.clone();
        let role = self.role;
        let answered = known.wait_for(|known| answer(known, wanted, role).is_some());
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(known)) => answer(&known, wanted, role).unwrap_or(Demand::Unknown),
            _ => Demand::Unknown,
        }
    }

    /// How old the view is: the time since the last contact with the agent; `None` while connected. Before the first
    /// contact it counts from when the cache was written, or from the start.
    pub fn age(&self) -> Option<Duration> {
        let lost_at = *lock(&self.shared.lost_at);
        lost_at.map(|lost_at| lost_at.elapsed() + *lock(&self.shared.cache_age))
    }

    /// For how long this process has been without its agent; `None` while connected.
    pub fn lost_for(&self) -> Option<Duration> {
        lock(&self.shared.lost_at).map(|lost_at| lost_at.elapsed())
    }

    async fn note_use(&self, name: &Wanted) {
        let used = lock(&self.shared.demands).handle_use(name, Instant::now());
        let Use::New { evicted } = used else { return };
        // Sending fails only after shutdown, when nobody needs the answer.
        if let Some(evicted) = evicted {
            let _ended = self.commands.send(Command::Unsubscribe(vec![evicted])).await;
        }
        let _ended = self.commands.send(Command::Subscribe(name.clone())).await;
    }
}

fn answer(known: &Known, wanted: &Wanted, role: Role) -> Option<Demand> {
    let present = match wanted {
        Wanted::Service(name) => known.view.services.contains_key(name),
        Wanted::Address(address) => known.view.addresses.contains_key(address),
    };
    if present {
        return Some(Demand::Present);
    }
    let complete = !role.is_workload() && known.complete.contains(&wanted.kind());
    (complete || known.absent.contains(wanted)).then_some(Demand::Absent)
}

/// Ends subscriptions that were not used for long.
async fn sweep(shared: Arc<Shared>, commands: mpsc::Sender<Command>, shutdown: CancellationToken) {
    let mut timer = tokio::time::interval(Duration::from_secs(60));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = timer.tick() => {}
        }
        let idle = lock(&shared.demands).handle_idle(Instant::now());
        if !idle.is_empty() && commands.send(Command::Unsubscribe(idle)).await.is_err() {
            return;
        }
    }
}

fn node_id(config: &ClientConfig) -> Result<NodeId, StartError> {
    let text = format!("{}~{}", config.role.as_str(), config.credential.workload);
    text.parse().map_err(StartError::Workload)
}

/// Locks a value that no panic can leave half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
