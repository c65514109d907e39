//! Plain-text HTTP to servers without a sidecar: the own application, unmeshed endpoints, hosts outside the mesh.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use dial::Dialer;
use http::Uri;
use http::uri::Authority;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::Credentials;
use mesh::Failure;
use tokio::net::TcpStream;

use super::http::{HttpConnection, Parts};
use super::{Lease, Policy, Pool};
use crate::body::{Body, chain};
use crate::fault::{Fault, flag};
use crate::headers;

/// Unused connections are closed sooner than common servers do (Node: 5 s), which avoids the race between a request and
/// the server's close.
const IDLE: Duration = Duration::from_secs(4);

/// Which HTTP a plain server gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// What the server chooses in a TLS handshake; without TLS HTTP/1.1.
    Negotiated,
}

/// Connections in plain text.
pub struct PlainPool {
    http1: Client<Connector, Body>,
    http2: Pool<SocketAddr, HttpConnection>,
    credentials: Credentials,
    connector: Connector,
}

/// The head of an answer, and what keeps its connection counted until the body has passed.
pub struct Answer {
    /// The answer.
    pub response: Response<Incoming>,
    /// Held until the body has passed; HTTP/1.1 counts by itself.
    pub lease: Option<Lease<HttpConnection>>,
}

impl PlainPool {
    /// An empty pool; `credentials` are only there because connections with a peer share the type.
    pub fn new(credentials: Credentials, connect_timeout: Duration, dialer: Dialer) -> Self {
        let connector = Connector { dialer, timeout: connect_timeout };
        let http1 = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(64)
            .build(connector);
        Self { http1, http2: Pool::new(Policy::SHARED), credentials, connector }
    }

    /// Sends a request to `address`; the server sees `authority` as the host.
    pub async fn send(
        &self,
        mut request: Request<Body>,
        address: SocketAddr,
        authority: &Authority,
        speaks: Speaks,
    ) -> Result<Answer, Fault> {
        let whom = address.to_string();
        match speaks {
            Speaks::Http1 | Speaks::Negotiated => {
                headers::to_http1(&mut request, authority);
                let dialled: Authority = whom.parse().map_err(|_| Fault::connect("no address"))?;
                *request.uri_mut() = headers::absolute(&dialled, request.uri());
                let response = self.http1.request(request).await.map_err(|error| explain(&error, &whom))?;
                Ok(Answer { response, lease: None })
            }
            Speaks::Http2 => {
                headers::to_http2(&mut request, authority);
                let lease = self.http2.get(&address, || self.dial(address)).await?;
                let response = lease.send(request, &whom).await?;
                Ok(Answer { response, lease: Some(lease) })
            }
        }
    }

    async fn dial(&self, address: SocketAddr) -> Result<HttpConnection, Fault> {
        let connect = tokio::time::timeout(mesh::CONNECT_TIMEOUT, self.connector.dialer.connect(address)).await;
        let io = connect
            .map_err(|_| Fault::connect_timeout(&address.to_string()))?
            .map_err(|error| Fault::connect(format!("{address}: {error}")))?;
        let _ = io.set_nodelay(true);
        HttpConnection::handshake(Parts::from(io), &self.credentials).await
    }

    /// Closes what is no longer used.
    pub fn sweep(&self) {
        self.http2.sweep();
    }
}

/// Opens connections for the HTTP client, whose URIs are addresses.
#[derive(Clone, Copy)]
struct Connector {
    dialer: Dialer,
    timeout: Duration,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { dialer, timeout } = *self;
        Box::pin(async move {
            let address = uri.authority().and_then(|authority| authority.as_str().parse().ok());
            let address = address.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no address"))?;
            let stream = tokio::time::timeout(timeout, dialer.connect(address)).await??;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

fn explain(error: &hyper_util::client::legacy::Error, whom: &str) -> Fault {
    let message = format!("{whom}: {}", chain(error));
    if error.is_connect() {
        return Fault::connect(message);
    }
    Fault { failure: Failure::Broken, flag: flag::BROKEN, message, denial: None }
}
