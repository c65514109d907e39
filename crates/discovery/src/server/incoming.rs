//! Accepts TLS connections for tonic: with a client certificate (discovery) or without (the CA).

use std::future::Future;
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

/// What metrics call the listener that asks nobody who it is.
const CA: &str = "ca";
/// Bound on one handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at the same time: a stranger that stalls them leaves three quarters to the others.
const HANDSHAKES: HandshakeBounds = HandshakeBounds { turns: 128, pending: 2048, per_source: 512 };
/// Connections at one time per listener; more are closed at once.
const CONNECTIONS: usize = 4096;
/// How long a client without a certificate may stay: it asks once and is answered.
const OPEN_LIFETIME: Duration = Duration::from_secs(30);
/// Connections of one source, at a listener that asks nobody who it is.
const OPEN_PER_SOURCE: usize = 512;
/// Pause after `accept` failed, which out of file descriptors it does at once and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections of clients that proved an identity; such a connection breaks when the identity expires.
pub fn accept_mutual(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    credentials: Credentials,
    shutdown: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    accept("discovery", listener, shutdown, move |tcp| {
        let (config, credentials) = (Arc::clone(&config), credentials.clone());
        async move {
            let (stream, peer) = identity::accept_tls(config, tcp, HANDSHAKE).await.map_err(io::Error::other)?;
            let watched = peer.clone();
            let expired = Box::pin(async move { End::Peer(credentials.expiry(&watched).await) });
            Ok((stream, Some(peer), expired as Expired))
        }
    })
}

/// Accepts connections without client certificates; such a connection breaks after 30 s, or strangers could take all
/// there are.
pub fn accept_open(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    shutdown: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    accept(CA, listener, shutdown, move |tcp| {
        let config = Arc::clone(&config);
        async move {
            let stream = identity::accept_tls_open(config, tcp, HANDSHAKE).await.map_err(io::Error::other)?;
            let expired = Box::pin(async {
                tokio::time::sleep(OPEN_LIFETIME).await;
                End::TooLong
            });
            Ok((stream, None, expired as Expired))
        }
    })
}

/// `name` is what metrics call the listener.
fn accept<H, F>(
    name: &'static str,
    listener: TcpListener,
    shutdown: CancellationToken,
    handshake: H,
) -> ReceiverStream<io::Result<Connection>>
where
    H: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = io::Result<(TlsStream<TcpStream>, Option<PeerIdentity>, Expired)>> + Send + 'static,
{
    let (tx, rx) = mpsc::channel(16);
    tokio::spawn(async move {
        let handshakes = Handshakes::new(HANDSHAKES);
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let (sources, per_source) = (Sources::default(), if name == CA { OPEN_PER_SOURCE } else { CONNECTIONS });
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                () = tx.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let places = || -> Result<_, &'static str> {
                let of_source = sources.enter(address.ip(), per_source).ok_or("per-source")?;
                let slot = Arc::clone(&slots).try_acquire_owned().map_err(|_| "connections")?;
                Ok(((slot, of_source), handshakes.begin(address.ip())?))
            };
            let (slot, pending) = match places() {
                Ok(places) => places,
                Err(reason) => {
                    tracing::debug!(peer = %address, reason, "a connection beyond the limits is closed");
                    telemetry::shed(name, reason);
                    continue;
                }
            };
            // Small messages wait for nothing; a socket that refuses the option works all the same.
            let _slower = tcp.set_nodelay(true);
            let (tx, handshake) = (tx.clone(), handshake(tcp));
            tokio::spawn(async move {
                match pending.run(handshake).await {
                    Some(Ok((stream, peer, expired))) => {
                        drop(tx.send(Ok(Connection { stream, peer, expired, _slot: slot })).await);
                    }
                    Some(Err(error)) => {
                        telemetry::shed(name, "handshake");
                        tracing::info!(peer = %address, %error, "a TLS handshake failed");
                    }
                    None => {}
                }
            });
        }
    });
    ReceiverStream::new(rx)
}

/// A TLS connection for tonic; requests on it carry `Option<PeerIdentity>` as an extension.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Option<PeerIdentity>,
    expired: Expired,
    /// Counts the connection.
    _slot: (OwnedSemaphorePermit, OfSource),
}

/// Resolves when the connection must end, and never again after that.
type Expired = Pin<Box<dyn Future<Output = End> + Send>>;

/// Why a connection ends.
#[derive(Debug, Clone, thiserror::Error)]
enum End {
    /// The peer is no longer to be believed.
    #[error(transparent)]
    Peer(EndReason),
    /// A client without a certificate has stayed too long.
    #[error("the connection was open for longer than {OPEN_LIFETIME:?}")]
    TooLong,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer.as_ref().map(|peer| &peer.id)).finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = Option<PeerIdentity>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl Connection {
    /// Breaks the connection once it must end. Writes ask too: HTTP/2 reads nothing while its peer takes nothing, so a
    /// peer that stopped reading would never be looked at.
    fn check_expiry(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.expired.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(reason) => {
                let again = reason.clone();
                // Not `ready`, which panics when it is asked twice.
                self.expired = Box::pin(std::future::poll_fn(move |_| Poll::Ready(again.clone())));
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason))
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_expiry(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_expiry(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_expiry(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
