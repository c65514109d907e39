//! HTTP to servers without a sidecar, in plain text or in TLS that the proxy originates.
//!
//! An HTTP/1.1 connection carries one request at a time and waits here in between; HTTP/2 connections are shared.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::uri::Authority;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use identity::Credentials;
use mesh::{ClientTls, View};

use super::http::{HttpConnection, Parts};
use super::origin::{self, OriginIo, To};
use super::plain::Speaks;
use super::{Lease, Policy, Pool};
use crate::body::{Body, chain};
use crate::fault::Fault;
use crate::headers;
use crate::tls::Originator;

/// Unused connections are closed sooner than common servers do (Node: 5 s), which avoids the race between a request and
/// the server's close; a policy may only shorten it.
const IDLE: Duration = Duration::from_secs(4);
/// Unused connections to one server.
const IDLE_MAX: usize = 128;
/// How long a connection may take to be ready for the next request after a body has ended.
const SETTLE: Duration = Duration::from_millis(5);

/// What tells connections apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct DirectKey {
    address: SocketAddr,
    /// TLS and PROXY protocol settings, and the host that certificates are checked against.
    how: String,
}

/// The connections.
pub struct DirectPool {
    idle: Arc<Mutex<HashMap<DirectKey, Vec<Unused>>>>,
    http2: Pool<DirectKey, HttpConnection>,
    originator: Originator,
    credentials: Credentials,
}

struct Unused {
    connection: Connection,
    since: Instant,
}

struct Connection {
    requests: SendRequest<Body>,
    born: Instant,
    carried: u32,
}

/// What keeps a connection until the answer's body has passed.
pub enum DirectLease {
    /// Goes back to the pool on drop.
    Http1(Returning),
    /// Shared.
    Http2(Lease<HttpConnection>),
}

/// An HTTP/1.1 connection that goes back to the pool on drop.
pub struct Returning {
    pool: Arc<Mutex<HashMap<DirectKey, Vec<Unused>>>>,
    key: DirectKey,
    connection: Option<Connection>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Returning {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take().filter(|connection| !connection.requests.is_closed()) else {
            return;
        };
        let mut pool = lock(&self.pool);
        let unused = pool.entry(self.key.clone()).or_default();
        if unused.len() < IDLE_MAX {
            unused.push(Unused { connection, since: Instant::now() });
        }
    }
}

impl DirectPool {
    /// An empty pool.
    pub fn new(credentials: Credentials, originator: Originator) -> Self {
        Self { idle: Arc::default(), http2: Pool::new(Policy::SHARED), originator, credentials }
    }

    /// Who opens TLS.
    pub fn originator(&self) -> &Originator {
        &self.originator
    }

    /// Sends a request; the server sees `authority` as the host.
    pub async fn send(
        &self,
        request: Request<Body>,
        authority: &Authority,
        speaks: Speaks,
        to: &To<'_>,
        view: &View,
    ) -> Result<(Response<Incoming>, DirectLease), Fault> {
        match speaks {
            Speaks::Http1 => self.send_http1(request, authority, to, view).await,
            Speaks::Http2 => self.send_http2(request, authority, to, view).await,
        }
    }

    async fn send_http2(
        &self,
        mut request: Request<Body>,
        authority: &Authority,
        to: &To<'_>,
        view: &View,
    ) -> Result<(Response<Incoming>, DirectLease), Fault> {
        let to = To { alpn: &[b"h2"], ..*to };
        headers::to_http2(&mut request, authority);
        let dial = || async {
            let io = origin::connect(&self.originator, view, &to).await?;
            let parts = Parts {
                io,
                peer: None,
                via: None,
                endpoint: String::new(),
                lost: Arc::default(),
                hold: None,
                pings: to.policy.pool.http2_keep_alive.is_some(),
            };
            HttpConnection::handshake(parts, &self.credentials).await
        };
        let lease = self.http2.get(&key_of(&to), dial).await?;
        let response = lease.send(request, &to.address.to_string()).await?;
        Ok((response, DirectLease::Http2(lease)))
    }

    async fn send_http1(
        &self,
        mut request: Request<Body>,
        authority: &Authority,
        to: &To<'_>,
        view: &View,
    ) -> Result<(Response<Incoming>, DirectLease), Fault> {
        let to = To { alpn: &[b"http/1.1"], ..*to };
        headers::to_http1(&mut request, authority);
        let (key, whom) = (key_of(&to), to.address.to_string());
        loop {
            let unused = self.take(&key, &to).await;
            let reused = unused.is_some();
            let mut connection = match unused {
                Some(connection) => connection,
                None => self.dial(&to, view).await?,
            };
            connection.carried += 1;
            match connection.requests.try_send_request(request).await {
                Ok(response) => {
                    let last =
                        to.policy.pool.max_requests_per_connection.is_some_and(|most| connection.carried >= most);
                    let connection = (!last).then_some(connection);
                    let returning = Returning { pool: self.idle.clone(), key, connection };
                    return Ok((response, DirectLease::Http1(returning)));
                }
                Err(mut error) => match error.take_message() {
                    // The server had closed the connection meanwhile; nothing of the request was sent.
                    Some(unsent) if reused => request = unsent,
                    unsent => return Err(Fault::from_hyper(error.error(), unsent.is_some(), &whom)),
                },
            }
        }
    }

    /// A connection that can carry a request, if there is one.
    async fn take(&self, key: &DirectKey, to: &To<'_>) -> Option<Connection> {
        loop {
            let mut unused = lock(&self.idle).get_mut(key)?.pop()?;
            let idle = to.policy.pool.http_idle_timeout.map_or(IDLE, |idle| idle.min(IDLE));
            let old =
                to.policy.pool.max_connection_duration.is_some_and(|most| unused.connection.born.elapsed() >= most);
            if unused.since.elapsed() >= idle || old {
                continue;
            }
            let ready = tokio::time::timeout(SETTLE, unused.connection.requests.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                return Some(unused.connection);
            }
        }
    }

    async fn dial(&self, to: &To<'_>, view: &View) -> Result<Connection, Fault> {
        let io: OriginIo = origin::connect(&self.originator, view, to).await?;
        let (requests, connection) = http1::handshake(TokioIo::new(io))
            .await
            .map_err(|error| Fault::connect(format!("{}: {}", to.address, chain(&error))))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = chain(&error), "a connection to a server failed");
            }
        });
        Ok(Connection { requests, born: Instant::now(), carried: 0 })
    }

    /// Closes what is no longer used.
    pub fn sweep(&self) {
        self.http2.sweep();
        lock(&self.idle).retain(|_, unused| {
            unused.retain(|one| one.since.elapsed() < IDLE && !one.connection.requests.is_closed());
            !unused.is_empty()
        });
    }
}

fn key_of(to: &To<'_>) -> DirectKey {
    let tls = match &to.policy.tls {
        ClientTls::Originate(tls) => format!("{} {tls:?}", to.host),
        _ => String::new(),
    };
    // Who came from elsewhere must not be taken for another.
    let proxy = to.policy.proxy_protocol.map(|version| format!("{version} {:?}", to.source)).unwrap_or_default();
    DirectKey { address: to.address, how: format!("{tls}{proxy}") }
}
