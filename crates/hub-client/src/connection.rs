//! One node's channel: lazy, kept alive, verified, and closed when the credentials at either end run out.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::{Credentials, PeerPolicy};
use mesh::TrustDomain;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::HUB_ACCOUNT;
use crate::error::HubError;

/// TCP may take this long: three of the longest round trips that a mesh is for.
const TCP_TIMEOUT: Duration = Duration::from_secs(6);
/// A further attempt joins one that is not answered for so long: the kernel asks again after 1, 2, 4 s, so that a node that
/// is back would be found after as long again as it was away.
const TCP_AGAIN: Duration = Duration::from_secs(2);
/// TLS may take this long: two of the longest round trips.
pub(crate) const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// h2 pings while idle: a node that vanished is noticed within twice this time even by a silent watch.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
pub(crate) const ALPN_H2: &[&[u8]] = &[b"h2"];

/// Since when a channel has the connection that it uses; nothing while it dials.
#[derive(Clone, Default)]
pub(crate) struct Since(Arc<Mutex<Option<Instant>>>);

impl Since {
    /// Whether it had a connection at that time, and has the same now.
    pub(crate) fn before(&self, time: Instant) -> bool {
        self.lock().is_some_and(|since| since <= time)
    }

    fn set(&self, since: Option<Instant>) {
        *self.lock() = since;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A channel to the API of one node. Nothing is dialled until the first call, and again after every loss. Dialling goes on
/// when the call that began it has given up: a far node takes more than one try.
pub(crate) fn channel(
    address: &str,
    credentials: &Credentials,
    hub_trust_domain: &TrustDomain,
) -> Result<(Channel, Since), HubError> {
    let peers = PeerPolicy::System { account: HUB_ACCOUNT, trust_domain: Some(hub_trust_domain.clone()) };
    let config = credentials.client_config(peers, ALPN_H2).map_err(HubError::Tls)?;
    let (target, credentials, since) = (address.to_owned(), credentials.clone(), Since::default());
    let connected = since.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (config, target, credentials) = (config.clone(), target.clone(), credentials.clone());
        let since = connected.clone();
        since.set(None);
        let dialling = tokio::spawn(async move {
            let tcp = dial(&target).await?;
            let (tls, peer) = identity::connect_tls(config, tcp, TLS_TIMEOUT).await.map_err(io::Error::other)?;
            let ended = Box::pin(async move { credentials.expiry(&peer).await.to_string() });
            since.set(Some(Instant::now()));
            Ok::<_, io::Error>(TokioIo::new(Bounded { inner: tls, ended }))
        });
        async move { dialling.await.map_err(io::Error::other)? }
    });
    Ok((endpoint(address)?.connect_with_connector_lazy(connector), since))
}

/// The h2 settings of every channel to the hub.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, HubError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| HubError::Address { address: address.to_owned() })?;
    Ok(endpoint
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

pub(crate) async fn dial(address: &str) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let first = async {
        loop {
            attempts.spawn(TcpStream::connect(address.to_owned()));
            if let Ok(Some(attempt)) = tokio::time::timeout(TCP_AGAIN, attempts.join_next()).await {
                return attempt.map_err(io::Error::other)?;
            }
        }
    };
    let tcp = tokio::time::timeout(TCP_TIMEOUT, first)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")))??;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

type Ended = Pin<Box<dyn Future<Output = String> + Send>>;

/// A connection that breaks when its peer's credentials do. Writes ask too: HTTP/2 reads nothing while its peer takes
/// nothing, so a peer that stopped reading would never be looked at.
struct Bounded<IO> {
    inner: IO,
    ended: Ended,
}

impl<IO> Bounded<IO> {
    fn check_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(reason) => {
                let again = reason.clone();
                // Not `ready`, which panics when it is asked twice.
                self.ended = Box::pin(std::future::poll_fn(move |_| Poll::Ready(again.clone())));
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason))
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Bounded<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_end(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Bounded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.check_end(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_end(cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
