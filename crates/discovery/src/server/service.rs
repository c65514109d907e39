//! The gRPC service around [`Session`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use identity::PeerIdentity;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::session::{Progress, Session};
use super::snapshot::{Peer, Snapshot};
use crate::types::Kind;

/// The largest request accepted: 20,000 names with their versions fit.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Responses on their way to one client; more than the kinds, of which each has at most one unacknowledged.
const IN_FLIGHT: usize = 8;

/// A connected client, for `/debug/clients`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientState {
    /// `<role>~<namespace>/<workload>`.
    pub node: String,
    /// Proven by TLS.
    pub identity: String,
    /// How far it has come with each kind.
    pub progress: BTreeMap<Kind, Progress>,
}

/// The connected clients.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    clients: Arc<Mutex<BTreeMap<u64, ClientState>>>,
    next: Arc<std::sync::atomic::AtomicU64>,
}

impl Clients {
    /// All clients that have a stream now.
    pub fn list(&self) -> Vec<ClientState> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn register(&self) -> Registration {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Registration { clients: self.clone(), id }
    }
}

/// A place in the list of clients; left on drop.
struct Registration {
    clients: Clients,
    id: u64,
}

impl Registration {
    fn update(&self, session: &Session) {
        let state = ClientState {
            node: session.peer().node.to_string(),
            identity: session.peer().identity.to_string(),
            progress: session.progress().clone(),
        };
        self.clients.clients.lock().unwrap_or_else(PoisonError::into_inner).insert(self.id, state);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.clients.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// Serves snapshots; `None` means that nothing is known yet and clients wait.
#[derive(Debug, Clone)]
pub struct Server {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    clients: Clients,
}

impl Server {
    /// A server of these snapshots.
    pub fn new(snapshots: watch::Receiver<Option<Arc<Snapshot>>>) -> Self {
        Self { snapshots, clients: Clients::default() }
    }

    /// The connected clients.
    pub fn clients(&self) -> Clients {
        self.clients.clone()
    }

    /// The tonic service. It needs connections from [`super::accept_mutual`]: without a TLS identity every stream is
    /// refused.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only DeltaAggregatedResources is served"))
    }

    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let peer = request.extensions().get::<Option<PeerIdentity>>().cloned().flatten();
        let peer = peer.ok_or_else(|| Status::unauthenticated("a client certificate is required"))?;
        let (tx, rx) = mpsc::channel(IN_FLIGHT);
        let stream = Stream {
            requests: request.into_inner(),
            responses: tx,
            snapshots: self.snapshots.clone(),
            registration: self.clients.register(),
        };
        tokio::spawn(stream.run(peer));
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

/// One client's stream.
struct Stream {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    registration: Registration,
}

impl Stream {
    async fn run(mut self, peer: PeerIdentity) {
        if let Err(status) = self.serve(peer).await {
            tracing::warn!(%status, "a discovery stream is refused");
            // Whoever is gone needs no reason.
            let _gone = self.responses.send(Err(status)).await;
        }
    }

    async fn serve(&mut self, peer: PeerIdentity) -> Result<(), Status> {
        let Some(first) = self.requests.message().await? else { return Ok(()) };
        let node = first.node.as_ref().map(|node| node.id.as_str()).unwrap_or_default();
        let node = node.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let peer = Peer::admit(peer.id, node).map_err(|error| Status::permission_denied(error.to_string()))?;
        let mut session = Session::new(peer);
        handle(&mut session, &first)?;
        if let Some(snapshot) = self.snapshots.borrow_and_update().clone() {
            session.handle_snapshot(snapshot);
        }
        loop {
            while let Some(response) = session.poll_response() {
                // Full cannot be: there are more places than kinds. Closed means that the client is gone.
                if self.responses.try_send(Ok(response)).is_err() {
                    return Ok(());
                }
            }
            self.registration.update(&session);
            tokio::select! {
                request = self.requests.message() => match request {
                    Ok(Some(request)) => handle(&mut session, &request)?,
                    Ok(None) | Err(_) => return Ok(()),
                },
                changed = self.snapshots.changed() => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the agent is shutting down"));
                    }
                    if let Some(snapshot) = self.snapshots.borrow_and_update().clone() {
                        session.handle_snapshot(snapshot);
                    }
                }
                () = self.responses.closed() => return Ok(()),
            }
        }
    }
}

fn handle(session: &mut Session, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
    if let Some(error) = &request.error_detail {
        tracing::error!(node = %session.peer().node, refused = error.message, "a client refuses a resource");
    }
    session.handle_request(request).map_err(|error| Status::invalid_argument(error.to_string()))
}
