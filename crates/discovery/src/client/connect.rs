//! How a client reaches its agent: gRPC over TLS that `identity` verifies.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
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

/// Connects to `ip:port` and verifies the peer as `config` says.
pub(crate) async fn connect(address: &str, config: Arc<ClientConfig>) -> Result<Channel, ConnectError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|source| ConnectError::Address { address: address.to_owned(), source })?
        .connect_timeout(2 * TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let target = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| dial(target.clone(), Arc::clone(&config)));
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Transport { address: address.to_owned(), source })
}

type Stream = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>;

async fn dial(address: String, config: Arc<ClientConfig>) -> Result<Stream, std::io::Error> {
    let tcp = tokio::time::timeout(TIMEOUT, TcpStream::connect(&address)).await??;
    tcp.set_nodelay(true)?;
    let (tls, _peer) = identity::connect_tls(config, tcp, TIMEOUT).await.map_err(std::io::Error::other)?;
    Ok(TokioIo::new(tls))
}
