//! The tunnel over TCP: mutual TLS, and inside it HTTP/2 whose CONNECT streams carry what QUIC streams do.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use identity::{PeerIdentity, PeerPolicy, connect_tls};
use mesh::TrustDomain;
use proxy::hbone::{H2Io, Outer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::transport::http2_settings;

/// How long the TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// What CONNECT asks for: the far gateway itself, which looks at the stream's first frame only.
const AUTHORITY: &str = "gateway.isthmus.invalid:15443";

/// The client side of one connection.
#[derive(Debug)]
pub(super) struct TcpTunnel {
    pub(super) outer: Outer,
    pub(super) remote: SocketAddr,
    /// How often bytes were received.
    received: Arc<AtomicU64>,
}

impl TcpTunnel {
    /// Connects to the gateway of a trust domain at `address`.
    pub(super) async fn dial(
        address: SocketAddr,
        credentials: &identity::Credentials,
        trust_domain: &TrustDomain,
    ) -> Result<(Self, PeerIdentity), String> {
        let peers = PeerPolicy::System { account: "gateway", trust_domain: Some(trust_domain.clone()) };
        let config = credentials.client_config(peers, &[api::TUNNEL_TCP_ALPN]).map_err(|error| error.to_string())?;
        let stream = TcpStream::connect(address).await.map_err(|error| format!("TCP: {error}"))?;
        let _ = stream.set_nodelay(true);
        let received = Arc::new(AtomicU64::new(0));
        let counting = Counting { stream, received: Arc::clone(&received) };
        let (stream, peer) =
            connect_tls(config, counting, HANDSHAKE_TIMEOUT).await.map_err(|error| format!("TLS over TCP: {error}"))?;
        let outer = Outer::handshake(stream, &http2_settings()).await.map_err(|error| error.to_string())?;
        Ok((Self { outer, remote: address, received }, peer))
    }

    /// How often something has come in: growth is a sign of life.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) async fn open(&self) -> Result<H2Io, String> {
        // The far gateway answers every CONNECT with 200; the frames inside say whether the flow is accepted.
        let connecting = self.outer.connect(AUTHORITY, Vec::new()).await.map_err(|error| error.to_string())?;
        Ok(connecting.io)
    }
}

/// A TCP stream that counts its reads.
#[derive(Debug)]
struct Counting {
    stream: TcpStream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.received.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
