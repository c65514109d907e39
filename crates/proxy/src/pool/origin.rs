//! Connections to servers that have no sidecar, as a destination's policy wants them: TCP options, the PROXY protocol, TLS
//! that the proxy originates, and tunnels through HTTP proxies.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use dial::Dialer;
use mesh::{ClientTls, TcpKeepAlive, TrafficPolicy, TunnelSettings, View};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::copy::abort_tcp;
use crate::fault::Fault;
use crate::tls::Originator;

/// The head of a proxy's answer to CONNECT may have this size.
const ANSWER_MAX: usize = 8 * 1024;

/// Where to and how.
#[derive(Clone, Copy)]
pub struct To<'a> {
    /// The server.
    pub address: SocketAddr,
    /// The host that certificates are checked against, unless the policy says otherwise.
    pub host: &'a str,
    /// How the destination is talked to.
    pub policy: &'a TrafficPolicy,
    /// For the PROXY protocol; `None`: the own address of the connection.
    pub source: Option<SocketAddr>,
    /// How long it may take.
    pub timeout: Duration,
    /// Protocols to offer when TLS is originated.
    pub alpn: &'a [&'a [u8]],
}

/// A connection to a server.
#[derive(Debug)]
pub enum OriginIo {
    /// As it is.
    Plain(TcpStream),
    /// In TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl OriginIo {
    /// The protocol that the server chose of those that were offered.
    pub fn negotiated(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// Dropping it from now on resets it.
    pub fn abort(&self) {
        match self {
            Self::Plain(stream) => abort_tcp(stream),
            Self::Tls(stream) => abort_tcp(stream.get_ref().0),
        }
    }
}

/// Who opens connections, and TLS on them.
pub struct Opener {
    dialer: Dialer,
    originator: Originator,
}

impl Opener {
    /// Nothing is opened before it is needed.
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, originator: Originator::new() }
    }
}

/// Connects; whatever fails, nothing of a request was sent.
pub async fn connect(opener: &Opener, view: &View, to: &To<'_>) -> Result<OriginIo, Fault> {
    let dial = async {
        let whom = to.address;
        let failed = |error: io::Error| Fault::connect(format!("{whom}: {error}"));
        let mut stream = opener.dialer.connect(to.address).await.map_err(failed)?;
        let _ = stream.set_nodelay(true);
        if let Some(keep_alive) = &to.policy.pool.keep_alive {
            keep(&stream, keep_alive).map_err(failed)?;
        }
        if let Some(version) = to.policy.proxy_protocol {
            let source = to.source.map_or_else(|| stream.local_addr(), Ok).map_err(failed)?;
            stream.write_all(&proxy_header(version, source, to.address)).await.map_err(failed)?;
        }
        match &to.policy.tls {
            ClientTls::Originate(tls) => {
                let stream = opener.originator.connect(stream, tls, to.host, view, to.alpn).await?;
                Ok(OriginIo::Tls(Box::new(stream)))
            }
            _ => Ok(OriginIo::Plain(stream)),
        }
    };
    tokio::time::timeout(to.timeout, dial).await.map_err(|_| Fault::connect_timeout(&to.address.to_string()))?
}

/// Asks an HTTP proxy for a tunnel on a connection to it.
pub async fn tunnel<T>(mut io: T, settings: &TunnelSettings, timeout: Duration) -> Result<T, Fault>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let TunnelSettings { post, host, port } = settings;
    let whom = format!("a tunnel to {host}:{port}");
    if *post {
        return Err(Fault::connect(format!("{whom}: only CONNECT is supported, not POST")));
    }
    let head = format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n");
    let ask = async {
        io.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the head belongs to the tunnel.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() > ANSWER_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the proxy's answer is too long"));
            }
            answer.push(io.read_u8().await?);
        }
        Ok(answer)
    };
    let answer = tokio::time::timeout(timeout, ask).await.map_err(|_| Fault::connect_timeout(&whom))?;
    let answer = answer.map_err(|error| Fault::connect(format!("{whom}: {error}")))?;
    if answer.starts_with(b"HTTP/1.1 2") || answer.starts_with(b"HTTP/1.0 2") {
        return Ok(io);
    }
    let line = answer.split(|byte| *byte == b'\r').next().map(String::from_utf8_lossy).unwrap_or_default();
    Err(Fault::connect(format!("{whom} was refused: {line}")))
}

/// Sets keep-alive probes as a policy says.
pub(super) fn keep(stream: &TcpStream, settings: &TcpKeepAlive) -> io::Result<()> {
    let mut options = socket2::TcpKeepalive::new();
    if let Some(time) = settings.time {
        options = options.with_time(time);
    }
    if let Some(interval) = settings.interval {
        options = options.with_interval(interval);
    }
    if let Some(probes) = settings.probes {
        options = options.with_retries(probes);
    }
    socket2::SockRef::from(stream).set_tcp_keepalive(&options)
}

/// HAProxy, "The PROXY protocol", §2.1 and §2.2.
fn proxy_header(version: u8, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    if version == 1 {
        let family = if source.is_ipv4() && destination.is_ipv4() { "TCP4" } else { "TCP6" };
        let (from, to) = (source.ip(), destination.ip());
        return format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes();
    }
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    let mut addresses = Vec::new();
    match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            header.push(0x11);
            addresses.extend_from_slice(&source.ip().octets());
            addresses.extend_from_slice(&destination.ip().octets());
        }
        _ => {
            let octets = |address: SocketAddr| match address {
                SocketAddr::V4(address) => address.ip().to_ipv6_mapped().octets(),
                SocketAddr::V6(address) => address.ip().octets(),
            };
            header.push(0x21);
            addresses.extend_from_slice(&octets(source));
            addresses.extend_from_slice(&octets(destination));
        }
    }
    addresses.extend_from_slice(&source.port().to_be_bytes());
    addresses.extend_from_slice(&destination.port().to_be_bytes());
    header.extend_from_slice(&u16::try_from(addresses.len()).unwrap_or(0).to_be_bytes());
    header.extend_from_slice(&addresses);
    header
}

impl AsyncRead for OriginIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for OriginIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_headers_are_haproxys() {
        let (source, destination) = ("192.0.2.1:56324".parse().unwrap(), "198.51.100.7:443".parse().unwrap());
        assert_eq!(proxy_header(1, source, destination), b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n");
        let two = proxy_header(2, source, destination);
        assert_eq!(&two[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        assert_eq!(&two[16..], [192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x01, 0xbb]);
        let six = proxy_header(2, "[::1]:1".parse().unwrap(), destination);
        assert_eq!((six[13], six.len()), (0x21, 52));
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_and_its_first_bytes_stay() {
        for (answer, expected) in [(&b"HTTP/1.1 200 OK\r\n\r\nhello"[..], true), (b"HTTP/1.1 403 No\r\n\r\n", false)] {
            let (near, mut far) = tokio::io::duplex(1024);
            far.write_all(answer).await.unwrap();
            let settings = TunnelSettings { post: false, host: "db.example".into(), port: 5432 };
            let tunnel = tunnel(near, &settings, Duration::from_secs(1)).await;
            assert_eq!(tunnel.is_ok(), expected);
            let mut asked = vec![0; 33];
            far.read_exact(&mut asked).await.unwrap();
            assert!(asked.starts_with(b"CONNECT db.example:5432 HTTP/1.1\r"), "{}", asked.escape_ascii());
            if let Ok(mut tunnel) = tunnel {
                let mut first = [0; 5];
                tunnel.read_exact(&mut first).await.unwrap();
                assert_eq!(&first, b"hello");
            }
        }
    }
}
