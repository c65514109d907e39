//! Clients without a sidecar: a port for each imported service port that policy opens to them.
//!
//! A connection goes where the port says and nowhere else. The gateway sends it as any workload would, under its own
//! identity, through an HBONE connection to itself or another gateway of the cluster; the server sees the gateway.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh::{ServiceName, View};
use proxy::listen::{Accepted, Lifecycle, Limits, accept};
use proxy::outbound::{Dialled, Outbound};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Connections of one listener at once; more wait in the kernel's backlog.
const CONNECTIONS: usize = 1024;
/// Of these, connections of one address: one pod does not keep out all others.
const PER_SOURCE: usize = 512;
/// How long to wait before a port that could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the listeners need.
pub(crate) struct Ground {
    pub(crate) views: watch::Receiver<Arc<View>>,
    pub(crate) outbound: Outbound,
    pub(crate) life: Lifecycle,
    /// Where they are bound: beside HBONE.
    pub(crate) bind: IpAddr,
    /// The gateway's own name.
    pub(crate) name: String,
}

/// The listeners that are open, or should be.
pub(crate) struct Listeners {
    ground: Ground,
    /// Never held across an await.
    open: Mutex<BTreeMap<Key, State>>,
}

/// What a port stands for. Where it comes to stand for something else, it is another listener.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    port: u16,
    service: ServiceName,
    service_port: u16,
}

enum State {
    Open { address: SocketAddr, life: Lifecycle },
    Failed { error: String },
}

/// One row of `/debug/listeners`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    /// `<namespace>/<name>`.
    pub(crate) service: String,
    /// The port of the service.
    pub(crate) port: u16,
    /// Where unmeshed clients reach it.
    pub(crate) address: String,
    /// `open` or `failed`.
    pub(crate) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl Listeners {
    pub(crate) fn new(ground: Ground) -> Self {
        Self { ground, open: Mutex::default() }
    }

    /// Follows the views until draining.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut views = self.ground.views.clone();
        loop {
            let view = views.borrow_and_update().clone();
            let failed = self.adjust(&view).await;
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if failed => {}
                () = self.ground.life.draining.cancelled() => return,
            }
        }
    }

    /// Opens what is missing and closes what is no longer wanted; says whether something failed.
    async fn adjust(self: &Arc<Self>, view: &View) -> bool {
        let wanted = wanted(view);
        let missing: Vec<Key> = {
            let mut open = self.open();
            open.retain(|key, state| {
                let keep = wanted.contains(key);
                if let (State::Open { life, .. }, false) = (state, keep) {
                    tracing::info!(port = key.port, service = %key.service, "a port for unmeshed clients is closed");
                    life.draining.cancel();
                }
                keep
            });
            let is_open = |key: &&Key| matches!(open.get(key), Some(State::Open { .. }));
            wanted.iter().filter(|key| !is_open(key)).cloned().collect()
        };
        let mut failed = false;
        for key in missing {
            let address = SocketAddr::new(self.ground.bind, key.port);
            let state = match TcpListener::bind(address).await {
                Ok(listener) => self.serve(listener, address, &key),
                Err(error) => {
                    failed = true;
                    tracing::warn!(%address, service = %key.service, %error, "a port for unmeshed clients cannot be bound");
                    State::Failed { error: error.to_string() }
                }
            };
            self.open().insert(key, state);
        }
        failed
    }

    fn serve(self: &Arc<Self>, listener: TcpListener, address: SocketAddr, key: &Key) -> State {
        tracing::info!(%address, service = %key.service, port = key.service_port, "a port for unmeshed clients is open");
        let process = &self.ground.life;
        // Connections outlive their listener: who lost the permission opens no new ones.
        let life = Lifecycle::new(process.draining.child_token(), process.ended.clone());
        let (own, of, key) = (life.clone(), Arc::clone(self), key.clone());
        process.spawn(async move {
            let limits =
                Limits { listener: "unmeshed", connections: CONNECTIONS, per_source: PER_SOURCE, ..Limits::default() };
            let carry = |accepted| {
                let (of, key) = (Arc::clone(&of), key.clone());
                async move { of.carry(accepted, &key).await }
            };
            accept(listener, &limits, &own, carry).await;
            // The process waits for the connections, too.
            own.finished().await;
        });
        State::Open { address, life }
    }

    async fn carry(&self, accepted: Accepted, key: &Key) {
        let Accepted { stream, permit, peer } = accepted;
        let ground = &self.ground;
        let view = ground.views.borrow().clone();
        let gateway = view.cluster().map_or_else(|| ground.name.clone(), |own| format!("{own}/{}", ground.name));
        let dialled = Dialled {
            host: key.service.clusterset_host(),
            port: key.service_port,
            source: Some(SocketAddr::new(peer.ip().to_canonical(), peer.port())),
            transparent: false,
            udp: false,
        };
        Box::pin(ground.outbound.unmeshed_stream(stream, dialled, &gateway)).await;
        drop(permit);
    }

    /// Every listener with what it stands for.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let row = |(key, state): (&Key, &State)| {
            let (address, state, error) = match state {
                State::Open { address, .. } => (*address, "open", None),
                State::Failed { error } => (SocketAddr::new(self.ground.bind, key.port), "failed", Some(error.clone())),
            };
            let (service, port) = (key.service.to_string(), key.service_port);
            Row { service, port, address: address.to_string(), state, error }
        };
        self.open().iter().map(row).collect()
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<Key, State>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wanted(view: &View) -> Vec<Key> {
    let of = |service: &Arc<mesh::Service>| {
        let name = service.name.clone();
        let key = move |(service_port, port): (&u16, &u16)| Key {
            port: *port,
            service: name.clone(),
            service_port: *service_port,
        };
        service.listeners.iter().map(key).collect::<Vec<_>>()
    };
    view.services.values().flat_map(of).collect()
}
