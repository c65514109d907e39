//! How a client reaches its agent: gRPC over TLS that `identity` verifies.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use dial::Dialer;
use hyper_util::rt::TokioIo;
use identity::Credentials;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tonic::transport::{Channel, Endpoint, Uri};

/// Bound on TCP connect and, separately, on the TLS handshake.
const TIMEOUT: Duration = Duration::from_secs(5);
/// An agent that stays silent for one interval and one timeout is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// ALPN of gRPC.
pub(crate) const ALPN: &[&[u8]] = &[b"h2"];

/// Why the agent cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the agent's address {address:?} is not valid")]
    Address { address: String, source: tonic::transport::Error },
    #[error("the agent at {address} cannot be reached")]
    Transport { address: String, source: tonic::transport::Error },
}

/// Connects to `ip:port` and verifies the peer as `config`, which was made of `credentials`, says. The channel breaks when
/// the agent's certificate expires or is no longer vouched for.
pub(crate) async fn connect(
    dialer: Dialer,
    address: &str,
    config: Arc<ClientConfig>,
    credentials: &Credentials,
) -> Result<Channel, ConnectError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|source| ConnectError::Address { address: address.to_owned(), source })?
        .connect_timeout(2 * TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let (target, credentials) = (address.to_owned(), credentials.clone());
    let connector =
        tower::service_fn(move |_: Uri| dial(dialer, target.clone(), Arc::clone(&config), credentials.clone()));
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Transport { address: address.to_owned(), source })
}

async fn dial(
    dialer: Dialer,
    address: String,
    config: Arc<ClientConfig>,
    credentials: Credentials,
) -> io::Result<TokioIo<Bounded>> {
    let tcp = tokio::time::timeout(TIMEOUT, dialer.connect_to(&address)).await??;
    tcp.set_nodelay(true)?;
    let (tls, peer) = identity::connect_tls(config, tcp, TIMEOUT).await.map_err(io::Error::other)?;
    let expired =
        Box::pin(async move { io::Error::new(io::ErrorKind::ConnectionAborted, credentials.expiry(&peer).await) });
    Ok(TokioIo::new(Bounded { tls, expired: Some(expired) }))
}

/// A connection that breaks once its peer's identity no longer holds.
struct Bounded {
    tls: TlsStream<TcpStream>,
    /// `None` once it has resolved.
    expired: Option<Pin<Box<dyn Future<Output = io::Error> + Send>>>,
}

impl Bounded {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(expired) = &mut self.expired else { return Err(io::ErrorKind::ConnectionAborted.into()) };
        match expired.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(error) => {
                self.expired = None;
                Err(error)
            }
        }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use identity::{ClusterCa, PeerPolicy, TrustBundles};
    use mesh::{SpiffeId, TrustDomain};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_ends_with_the_certificate_of_the_agent() {
        let (directory, trust_domain) = (tempfile::tempdir().unwrap(), TrustDomain::new("east.demo").unwrap());
        let ca = ClusterCa::create(&directory.path().join("ca"), &trust_domain).unwrap();
        let id = |account: &str| SpiffeId::system(trust_domain.clone(), account).unwrap();
        let (now, bundles) = (SystemTime::now(), TrustBundles::from(ca.bundle(1).unwrap()));
        let agent = ca.issue_self(&id("agent"), Duration::from_secs(6), now).unwrap();
        let agent = Credentials::fixed(agent, bundles.clone());
        let proxy = ca.issue_self(&id("gateway"), Duration::from_secs(3600), now).unwrap();
        let proxy = Credentials::fixed(proxy, bundles);

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = agent.server_config(PeerPolicy::AnyKnown, ALPN).unwrap();
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let held = identity::accept_tls(serving, tcp, TIMEOUT).await.unwrap();
            std::future::pending::<()>().await;
            drop(held);
        });
        let config = proxy.client_config(PeerPolicy::AnyKnown, ALPN).unwrap();
        let mut connection = dial(Dialer::unmarked(), address, config, proxy).await.unwrap().into_inner();
        let read = tokio::time::timeout(Duration::from_secs(11), connection.read_u8()).await;
        assert_eq!(read.expect("it ends in time").unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
