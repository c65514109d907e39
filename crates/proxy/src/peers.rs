//! Peers of the mesh on a port that serves all ports: one handshake, one proven identity, one HTTP/2 connection of requests
//! and flows.
//!
//! What a gateway of the edge does with them is said by its [`Peers`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Method, Request, Response};
use identity::{Credentials, PeerIdentity, PeerPolicy};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::body::{Body, chain};
use crate::h2body::{self, H2Body};
use crate::hbone::{self, Incoming, Settings};
use crate::listen::{Limits, in_turn};
use crate::pool::http::END_GRACE;
use crate::serve::{CONNECTION_WINDOW, STREAM_WINDOW};

/// Something that is done later.
pub type Doing<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What is done with what peers send.
pub trait Peers: Send + Sync + 'static {
    /// A request, still with the headers by which sidecars tell each other what they mean.
    fn request(self: Arc<Self>, request: Request<Body>, peer: Arc<PeerIdentity>) -> Doing<Response<Body>>;
    /// A flow, to be accepted or refused.
    fn flow(self: Arc<Self>, incoming: Incoming, peer: Arc<PeerIdentity>) -> Doing<()>;
}

/// Ends mTLS of the mesh and serves the peer until it goes, until its identity runs out, or, after `draining`, until what
/// is under way has ended.
pub async fn serve<P: Peers>(
    stream: TcpStream,
    credentials: &Credentials,
    (limits, handshakes): (&Limits, &Semaphore),
    draining: &CancellationToken,
    peers: Arc<P>,
) {
    let handshake = async {
        let config = credentials.server_config(PeerPolicy::AnyKnown, &[b"h2"]);
        let config = config.inspect_err(|error| tracing::error!(error = chain(error), "no TLS config")).ok()?;
        let accepted = identity::accept_tls(config, stream, limits.handshake_timeout).await;
        let refused = |error: &identity::TlsError| {
            tracing::info!(error = chain(error), "a peer was refused");
            telemetry::shed(limits.listener, "handshake");
        };
        accepted.inspect_err(refused).ok()
    };
    let Some(Some((stream, peer))) = in_turn(handshakes, handshake).await else { return };
    let peer = Arc::new(peer);
    let drain = draining.child_token();
    let serving = streams(stream, limits, drain.clone(), peer.clone(), peers);
    tokio::pin!(serving);
    tokio::select! {
        () = serving.as_mut() => {}
        reason = credentials.expiry(&peer) => {
            tracing::info!(peer = %peer.id, ?reason, "a connection must end");
            // GOAWAY, a moment for what is under way, then the end.
            drain.cancel();
            let _ = tokio::time::timeout(END_GRACE, serving).await;
        }
    }
}

async fn streams<T, P>(stream: T, limits: &Limits, drain: CancellationToken, peer: Arc<PeerIdentity>, peers: Arc<P>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Peers,
{
    let settings = Settings {
        max_concurrent_streams: limits.streams,
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        max_header_list: mesh::HTTP2_BOUNDS.header_list,
        listener: limits.listener,
        ..Settings::default()
    };
    let proven = peer.clone();
    let served =
        hbone::serve(stream, &settings, drain, move |incoming| handle(incoming, peers.clone(), proven.clone()));
    if let Err(error) = served.await {
        tracing::debug!(peer = %peer.id, error = chain(&error), "a peer does not speak HTTP/2");
    }
}

async fn handle<P: Peers>(incoming: Incoming, peers: Arc<P>, peer: Arc<PeerIdentity>) {
    if incoming.request.method() == Method::CONNECT {
        return peers.flow(incoming, peer).await;
    }
    let Incoming { request, body, mut respond, .. } = incoming;
    let body = H2Body::wrap(body, request.headers());
    let answer = peers.request(request.map(|()| body), peer);
    let response = tokio::select! {
        response = answer => response,
        // The peer gave up: so does the request, and its record says so.
        _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    h2body::respond(respond, response).await;
}
