//! A client for every protocol, through a workload's sidecar, as an application of that workload would use it.

mod grpc;
mod http1;
mod http2;
mod tunnel;

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::hint::Hint;

pub use tunnel::{ConnectError, Tunnel, connect};

/// What the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speak {
    /// HTTP/1.1, absolute form to the sidecar.
    Http1,
    /// HTTP/2 by prior knowledge inside a CONNECT tunnel.
    Http2,
    /// `isthmus.echo.v1.Echo` over HTTP/2 inside a CONNECT tunnel.
    Grpc,
    /// The body as bytes inside a CONNECT tunnel, half-closed, then everything that comes back.
    Tcp,
}

impl FromStr for Speak {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "http1" | "http" => Self::Http1,
            "h2" | "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "tcp" => Self::Tcp,
            _ => return Err(format!("unknown protocol {text:?}; use http1, h2, grpc or tcp")),
        })
    }
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The sidecar's explicit proxy.
    pub proxy: SocketAddr,
    /// What to call; for TCP only host and port count.
    pub url: Uri,
    /// HTTP method.
    pub method: Method,
    /// Request headers.
    pub headers: HeaderMap,
    /// Request body; the message of gRPC; the bytes of TCP.
    pub body: Bytes,
    /// What to speak.
    pub speak: Speak,
    /// How long the whole call may take.
    pub within: Duration,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status; `None` for TCP.
    pub status: Option<StatusCode>,
    /// gRPC status code and message.
    pub grpc_status: Option<(i32, String)>,
    /// Response headers.
    pub headers: HeaderMap,
    /// The body; one line of JSON per message for gRPC.
    pub body: Bytes,
    /// Response trailers.
    pub trailers: HeaderMap,
}

impl Call {
    /// A GET over HTTP/1.1.
    pub fn get(proxy: SocketAddr, url: &str) -> Result<Self> {
        Ok(Self {
            proxy,
            url: parse_url(url)?,
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            speak: Speak::Http1,
            within: Duration::from_secs(30),
        })
    }

    /// Adds a header given as `name: value`.
    pub fn header(&mut self, text: &str) -> Result<()> {
        let malformed = || Hint::error(format!("{text:?} is no header"), "write `name: value`");
        let (name, value) = text.split_once(':').ok_or_else(malformed)?;
        let name = HeaderName::from_str(name.trim()).map_err(|_| malformed())?;
        self.headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| malformed())?);
        Ok(())
    }

    /// Makes the call.
    pub async fn send(&self) -> Result<Reply> {
        let exchange = async {
            match self.speak {
                Speak::Http1 => http1::send(self).await,
                Speak::Http2 => http2::send(self).await,
                Speak::Grpc => grpc::send(self).await,
                Speak::Tcp => tcp(self).await,
            }
        };
        let answered = tokio::time::timeout(self.within, exchange).await;
        answered.with_context(|| format!("{} did not answer within {} s", self.url, self.within.as_secs()))?
    }

    /// Host and port, with the scheme's port as default.
    pub fn authority(&self) -> Result<(String, u16)> {
        let host = self.url.host().context("the URL has no host")?;
        let default = if self.url.scheme_str() == Some("https") { 443 } else { 80 };
        Ok((host.to_owned(), self.url.port_u16().unwrap_or(default)))
    }
}

/// Parses a URL; `host:port` alone is taken as `http://host:port/`.
pub fn parse_url(text: &str) -> Result<Uri> {
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let parsed = full.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
    parsed.ok_or_else(|| {
        let hint = "write for example http://reviews.default.svc.clusterset.local:9080/x";
        Hint::error(format!("{text:?} is no URL"), hint)
    })
}

async fn tcp(call: &Call) -> Result<Reply> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (host, port) = call.authority()?;
    let tunnel = connect(call.proxy, &host, port).await?;
    let (mut reading, mut writing) = tokio::io::split(tunnel);
    // Both ways at once: an echo of more than the buffers on the way hold would stand still otherwise.
    let send = async {
        writing.write_all(&call.body).await?;
        writing.shutdown().await
    };
    let receive = async {
        let mut received = Vec::new();
        reading.read_to_end(&mut received).await.map(|_| received)
    };
    let ((), received) = tokio::try_join!(send, receive).with_context(|| format!("{host}:{port} broke off"))?;
    Ok(Reply {
        status: None,
        grpc_status: None,
        headers: HeaderMap::new(),
        body: received.into(),
        trailers: HeaderMap::new(),
    })
}
