//! Follows the agent: connect, open, merge, acknowledge, and again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use identity::{Credentials, PeerPolicy, TrustBundles};
use mesh::View;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::bundles::Anchors;
use super::cache::Saved;
use super::connect::{self, ALPN, ConnectError};
use super::metrics::Metrics;
use super::session::{Known, Session};
use super::{Command, Shared, lock};
use crate::backoff::Backoff;

/// The largest response accepted.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Bound on connecting and opening the stream.
const ATTEMPT: Duration = Duration::from_secs(15);

/// Where whole states go.
pub(super) struct Publish {
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) known: watch::Sender<Known>,
    pub(super) bundles: watch::Sender<Arc<TrustBundles>>,
    pub(super) saved: watch::Sender<Saved>,
}

/// The task that owns the session.
pub(super) struct Follower {
    pub(super) dialer: dial::Dialer,
    pub(super) session: Session,
    pub(super) addresses: Vec<String>,
    pub(super) credentials: Credentials,
    pub(super) anchors: Anchors,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) publish: Publish,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Metrics,
    pub(super) shutdown: CancellationToken,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("no discovery address is configured")]
    NoAddress,
    #[error("TLS cannot be set up")]
    Tls(#[source] identity::TlsConfigError),
    #[error("connecting took too long")]
    TimedOut,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the agent ended the stream")]
    Status(#[from] Box<tonic::Status>),
    #[error("the agent closed the stream")]
    Closed,
    #[error("the own certificate was replaced")]
    Rotated,
    #[error("the client is shut down")]
    Shutdown,
}

/// Both directions of an open stream.
struct Open {
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

/// Why the task wakes while a stream is open.
enum Event {
    Shutdown,
    Rotated,
    Command(Option<Command>),
    Response(Result<Option<DeltaDiscoveryResponse>, tonic::Status>),
}

impl Follower {
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new();
        for attempt in 0_usize.. {
            let end = self.attempt(attempt, &mut backoff).await;
            self.session.handle_disconnected();
            self.note_lost();
            let wait = match end {
                StreamEnd::Shutdown => return,
                StreamEnd::Rotated => Duration::ZERO,
                end => {
                    let wait = backoff.next_delay(&mut rand::rng());
                    tracing::warn!(error = &end as &dyn std::error::Error, "discovery is interrupted");
                    wait
                }
            };
            if self.while_waiting(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    async fn attempt(&mut self, attempt: usize, backoff: &mut Backoff) -> StreamEnd {
        let credentials = self.credentials.clone();
        if self.while_waiting(async move { credentials.ready().await }).await.is_none() {
            return StreamEnd::Shutdown;
        }
        let address = self.addresses.get(attempt % self.addresses.len().max(1)).cloned();
        let opening = open(self.dialer, address, self.credentials.clone(), self.anchors.trust_domain().clone());
        let open = match self.while_waiting(tokio::time::timeout(ATTEMPT, opening)).await {
            None => return StreamEnd::Shutdown,
            Some(Err(_elapsed)) => return StreamEnd::TimedOut,
            Some(Ok(Err(end))) => return end,
            Some(Ok(Ok(open))) => open,
        };
        self.follow(open, backoff).await
    }

    /// Waits for something while there is no stream; subscriptions are noted meanwhile. `None` on shutdown.
    async fn while_waiting<F: Future>(&mut self, future: F) -> Option<F::Output> {
        tokio::pin!(future);
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                output = &mut future => return Some(output),
                Some(command) = self.commands.recv() => drop(self.handle_command(command)),
            }
        }
    }

    async fn follow(&mut self, mut open: Open, backoff: &mut Backoff) -> StreamEnd {
        for request in self.session.handle_connected() {
            // A closed stream shows as an error of `responses`.
            let _closed = open.requests.send(request);
        }
        let credentials = self.credentials.clone();
        let used = credentials.svid().map(|svid| svid.not_after());
        let rotated = rotation(credentials, used);
        tokio::pin!(rotated);
        loop {
            let event = tokio::select! {
                () = self.shutdown.cancelled() => Event::Shutdown,
                () = &mut rotated => Event::Rotated,
                command = self.commands.recv() => Event::Command(command),
                response = open.responses.message() => Event::Response(response),
            };
            match event {
                Event::Shutdown => return StreamEnd::Shutdown,
                Event::Rotated => return StreamEnd::Rotated,
                Event::Command(None) => return StreamEnd::Shutdown,
                Event::Command(Some(command)) => {
                    for request in self.handle_command(command) {
                        let _closed = open.requests.send(request);
                    }
                }
                Event::Response(Err(status)) => return StreamEnd::Status(Box::new(status)),
                Event::Response(Ok(None)) => return StreamEnd::Closed,
                Event::Response(Ok(Some(response))) => {
                    backoff.reset();
                    if let Some(reply) = self.handle_response(&response) {
                        let _closed = open.requests.send(reply);
                    }
                }
            }
        }
    }

    fn handle_command(&mut self, command: Command) -> Vec<DeltaDiscoveryRequest> {
        let request = match command {
            Command::Subscribe(wanted) => return self.session.handle_subscribe(wanted).into_iter().collect(),
            Command::Unsubscribe(names) => self.session.handle_unsubscribe(names),
        };
        self.publish();
        request
    }

    fn handle_response(&mut self, response: &DeltaDiscoveryResponse) -> Option<DeltaDiscoveryRequest> {
        self.note_contact();
        let Some(handled) = self.session.handle_response(response) else {
            tracing::warn!(type_url = response.type_url, "a response of a type that was not asked for is ignored");
            return None;
        };
        for rejected in &handled.rejected {
            self.metrics.rejected();
            tracing::error!(%rejected, "a resource from the agent is refused; its previous version stays");
        }
        self.publish();
        Some(handled.reply)
    }

    /// Publishes the session's state: trust first, so that nothing in the view is dialled without its bundle.
    fn publish(&self) {
        let known = self.session.known();
        let bundles = self.anchors.bundles(&known.view);
        self.publish.bundles.send_if_modified(|current| {
            let changed = **current != bundles;
            if changed {
                *current = Arc::new(bundles);
            }
            changed
        });
        self.metrics.revision(known.view.revision);
        self.publish.view.send_if_modified(|current| {
            let changed = !Arc::ptr_eq(current, &known.view);
            *current = Arc::clone(&known.view);
            changed
        });
        self.publish.known.send_replace(known.clone());
        self.publish.saved.send_replace(Arc::new(self.session.export()));
    }

    fn note_contact(&self) {
        *lock(&self.shared.lost_at) = None;
        *lock(&self.shared.cache_age) = Duration::ZERO;
        self.metrics.connected(true);
    }

    fn note_lost(&self) {
        lock(&self.shared.lost_at).get_or_insert_with(Instant::now);
        self.metrics.connected(false);
    }
}

async fn open(
    dialer: dial::Dialer,
    address: Option<String>,
    credentials: Credentials,
    trust_domain: mesh::TrustDomain,
) -> Result<Open, StreamEnd> {
    let address = address.ok_or(StreamEnd::NoAddress)?;
    let policy = PeerPolicy::System { account: "agent", trust_domain: Some(trust_domain) };
    let config = credentials.client_config(policy, ALPN).map_err(StreamEnd::Tls)?;
    let channel = connect::connect(dialer, &address, config, &credentials).await?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let (requests, outgoing) = mpsc::unbounded_channel();
    let response = client.delta_aggregated_resources(UnboundedReceiverStream::new(outgoing)).await.map_err(Box::new)?;
    Ok(Open { requests, responses: response.into_inner() })
}

/// Resolves when the SVID is another one than the stream was opened with.
async fn rotation(credentials: Credentials, used: Option<std::time::SystemTime>) {
    let mut svids = credentials.watch_svid();
    let gone = svids.wait_for(|svid| svid.as_ref().map(|svid| svid.not_after()) != used).await.is_err();
    if gone {
        // The issuer ended, which only shutdown does.
        std::future::pending::<()>().await;
    }
}
