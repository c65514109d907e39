//! Connections that may be served: handshakes bounded in number and time, the peer's identity attached, and an end when
//! that identity ends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use identity::{Credentials, EndReason, HandshakeBounds, Handshakes, PeerIdentity};
use mesh::{OfSource, Sources};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::bounded::{Bounded, End};
use crate::metrics::Metrics;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at one time: a stranger that stalls them leaves three quarters to the others.
const HANDSHAKES: HandshakeBounds = HandshakeBounds { turns: 64, pending: 1024, per_source: 256 };
/// Connections at one time; more are closed at once.
const CONNECTIONS: usize = 2048;
/// Connections of one source, at the listener that asks nobody who it is.
const OPEN_PER_SOURCE: usize = 256;
/// How long a client without a certificate may stay, or strangers could take all connections there are: it asks once
/// and is answered.
const OPEN_LIFETIME: Duration = Duration::from_secs(30);

/// How long the connection of a peer that is trusted no more is kept: the cluster that has asked to leave gets its answer
/// over it. Every request is judged by the state, so that nothing else is allowed meanwhile; 5 s are the bound.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// Who is at the other end; an extension of every request. Empty on the join listener.
#[derive(Debug, Clone)]
pub(crate) struct Peer(pub(crate) Option<Arc<PeerIdentity>>);

/// A place among all connections of a listener, and among those of its source.
type Slot = (OwnedSemaphorePermit, OfSource);

/// One accepted connection.
pub(crate) struct Connection {
    stream: Bounded<TlsStream<TcpStream>>,
    peer: Peer,
    /// Counts the connection.
    _slot: Slot,
}

/// What a listener demands.
pub(crate) struct Listening {
    pub(crate) config: Arc<ServerConfig>,
    /// Whose clients have certificates; `None` for the join listener.
    pub(crate) credentials: Option<Credentials>,
    pub(crate) metrics: Metrics,
    pub(crate) draining: CancellationToken,
}

impl Listening {
    /// What metrics call it.
    fn name(&self) -> &'static str {
        if self.credentials.is_some() { "api" } else { "join" }
    }
}

/// Accepts until the node drains.
pub(crate) fn accept(listener: TcpListener, listening: Listening) -> ReceiverStream<io::Result<Connection>> {
    let (accepted, connections) = mpsc::channel(16);
    tokio::spawn(async move {
        let listening = Arc::new(listening);
        let handshakes = Handshakes::new(HANDSHAKES);
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let sources = Sources::default();
        let per_source = if listening.credentials.is_some() { CONNECTIONS } else { OPEN_PER_SOURCE };
        let draining = listening.draining.clone();
        while let Some(tcp) = draining.run_until_cancelled(listener.accept()).await {
            let (tcp, source) = match tcp {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Out of file descriptors, most likely: leave time for some to come back.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let places = || -> Result<_, &'static str> {
                let of_source = sources.enter(source.ip(), per_source).ok_or("per-source")?;
                let slot = Arc::clone(&slots).try_acquire_owned().map_err(|_| "connections")?;
                Ok(((slot, of_source), handshakes.begin(source.ip())?))
            };
            let (slot, handshake) = match places() {
                Ok(places) => places,
                Err(reason) => {
                    listening.metrics.connections_refused.inc();
                    telemetry::shed(listening.name(), reason);
                    continue;
                }
            };
            let (listening, accepted) = (Arc::clone(&listening), accepted.clone());
            tokio::spawn(async move {
                if let Some(Some(connection)) = handshake.run(handshake_with(&listening, tcp, slot)).await {
                    let _ = accepted.send(Ok(connection)).await;
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

async fn handshake_with(listening: &Listening, tcp: TcpStream, slot: Slot) -> Option<Connection> {
    let address = tcp.peer_addr().ok();
    let _ = tcp.set_nodelay(true);
    let config = Arc::clone(&listening.config);
    let shaken = match &listening.credentials {
        Some(credentials) => identity::accept_tls(config, tcp, HANDSHAKE_TIMEOUT).await.map(|(stream, peer)| {
            let peer = Arc::new(peer);
            (stream, Peer(Some(Arc::clone(&peer))), expiry(credentials.clone(), peer))
        }),
        None => identity::accept_tls_open(config, tcp, HANDSHAKE_TIMEOUT)
            .await
            .map(|stream| (stream, Peer(None), lifetime(OPEN_LIFETIME))),
    };
    match shaken {
        Ok((stream, peer, end)) => Some(Connection { stream: Bounded::new(stream, end), peer, _slot: slot }),
        Err(error) => {
            listening.metrics.connections_refused.inc();
            telemetry::shed(listening.name(), "handshake");
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::info!(%error, cause, peer = ?address, "a connection was refused");
            None
        }
    }
}

/// Resolves when the peer is no longer to be believed.
fn expiry(credentials: Credentials, peer: Arc<PeerIdentity>) -> End {
    Box::pin(async move {
        let reason = credentials.expiry(&peer).await;
        if matches!(reason, EndReason::NotTrusted(_)) {
            tokio::time::sleep(LAST_ANSWER).await;
        }
        tracing::info!(%reason, peer = %peer.id, "a connection ends");
        reason.to_string()
    })
}

/// Resolves after a time.
fn lifetime(duration: Duration) -> End {
    Box::pin(async move {
        tokio::time::sleep(duration).await;
        format!("the connection was open for longer than {duration:?}")
    })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_certificate_has_a_lifetime() {
        let (near, _far) = tokio::io::duplex(64);
        let begin = tokio::time::Instant::now();
        let error = Bounded::new(near, lifetime(OPEN_LIFETIME)).read_u8().await.unwrap_err();
        assert_eq!(error.to_string(), "the connection was open for longer than 30s");
        assert_eq!(begin.elapsed().as_secs(), OPEN_LIFETIME.as_secs());
    }
}
