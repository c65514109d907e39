//! One node's channel: lazy, kept alive, verified, and closed when the credentials at either end run out.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::{Credentials, PeerPolicy};
use mesh::TrustDomain;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::HUB_ACCOUNT;
use crate::error::HubError;

/// TCP and TLS together may take this long, so that a node that swallows packets costs one try, not the call.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// h2 pings while idle: a node that vanished is noticed within twice this time even by a silent watch.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
pub(crate) const ALPN_H2: &[&[u8]] = &[b"h2"];

/// A channel to the API of one node. Nothing is dialled until the first call, and again after every loss.
pub(crate) fn channel(
    address: &str,
    credentials: &Credentials,
    hub_trust_domain: &TrustDomain,
) -> Result<Channel, HubError> {
    let peers = PeerPolicy::System { account: HUB_ACCOUNT, trust_domain: Some(hub_trust_domain.clone()) };
    let config = credentials.client_config(peers, ALPN_H2).map_err(HubError::Tls)?;
    let (target, credentials) = (address.to_owned(), credentials.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let (config, target, credentials) = (config.clone(), target.clone(), credentials.clone());
        async move {
            let tcp = dial(&target).await?;
            let (tls, peer) = identity::connect_tls(config, tcp, CONNECT_TIMEOUT).await.map_err(io::Error::other)?;
            let ended = Box::pin(async move { credentials.expiry(&peer).await.to_string() });
            Ok::<_, io::Error>(TokioIo::new(Bounded { inner: tls, ended }))
        }
    });
    Ok(endpoint(address)?.connect_with_connector_lazy(connector))
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
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
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
