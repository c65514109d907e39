//! What every task of a gateway shares.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use identity::{Credentials, PeerIdentity};
use mesh::{ClassHints, FlowClass, ServiceName, SpiffeId, TrustDomain, View};
use telemetry::{AccessLog, Shutdown};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::endpoints::Endpoints;
use crate::limits::Limit;
use crate::metrics::Metrics;
use crate::paths::Paths;
use crate::stand_in::StandIns;

/// A connection attempt to an endpoint.
pub(crate) type Dialled = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;
/// How endpoints are reached.
pub(crate) type Dial = Arc<dyn Fn(SocketAddr) -> Dialled + Send + Sync>;

/// What every task of a gateway shares.
pub(crate) struct Context {
    /// The gateway's name.
    pub(crate) name: String,
    /// The own trust domain, from the credential.
    pub(crate) trust_domain: TrustDomain,
    /// What the mesh looks like.
    pub(crate) view: watch::Receiver<Arc<View>>,
    /// Who we are and whom we believe.
    pub(crate) credentials: Credentials,
    /// Drain and end; counts flows.
    pub(crate) shutdown: Shutdown,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// One line per flow.
    pub(crate) access: AccessLog,
    /// Tunnels to other clusters.
    pub(crate) paths: Arc<Paths>,
    /// What is known about endpoints from dialling them.
    pub(crate) endpoints: Endpoints,
    /// How endpoints are reached.
    pub(crate) dial: Dial,
    /// Who serves pods without a sidecar.
    pub(crate) stand_ins: Arc<StandIns>,
    /// Where HBONE listens: who dials pods in the place of workloads of other clusters.
    pub(crate) address: SocketAddr,
    /// Connections that the gateways of other clusters have, over either transport.
    pub(crate) peers: Limit<SpiffeId>,
    /// Streams that other clusters have open.
    pub(crate) streams: Limit<TrustDomain>,
    /// What flows to a service have carried. Never held across an await.
    pub(crate) hints: Mutex<ClassHints<FlowKey>>,
}

/// What flows are told apart by when their class is learnt.
pub(crate) type FlowKey = (ServiceName, u16);

impl Context {
    /// What the next flow to a service will likely be.
    pub(crate) fn expect(&self, key: &FlowKey) -> FlowClass {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner).expect(key)
    }

    /// Learns what a flow has carried.
    pub(crate) fn learn(&self, key: &FlowKey, bytes: u64) {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner).learn(key, bytes);
    }

    /// The view of now.
    pub(crate) fn current_view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Whether no new work may begin.
    pub(crate) fn is_draining(&self) -> bool {
        self.shutdown.draining().is_cancelled()
    }

    /// `<cluster>/<gateway>`, which signs denials.
    pub(crate) fn full_name(&self) -> String {
        let view = self.view.borrow();
        match view.cluster() {
            Some(cluster) => format!("{cluster}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// Resolves with the reason when a connection to a peer must end: it is no longer proven, or its cluster has left.
    pub(crate) async fn until_untrusted(&self, peer: &PeerIdentity) -> String {
        tokio::select! {
            reason = self.credentials.expiry(peer) => reason.to_string(),
            () = self.until_cluster_left(peer.id.trust_domain()) => "the peer's cluster has left the mesh".to_owned(),
        }
    }

    async fn until_cluster_left(&self, trust_domain: &TrustDomain) {
        if *trust_domain == self.trust_domain {
            return std::future::pending().await;
        }
        let mut view = self.view.clone();
        // The view's publisher only ends with the process.
        if view.wait_for(|view| view.cluster_of(trust_domain).is_none()).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Reaches an endpoint by TCP.
pub(crate) fn dial_tcp(address: SocketAddr) -> Dialled {
    Box::pin(async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    })
}
