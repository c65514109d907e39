//! HTTP to servers without a sidecar, in plain text or in TLS that the proxy originates.
//!
//! An HTTP/1.1 connection carries one request at a time and waits here in between; HTTP/2 connections are shared. Which of
//! them a server speaks behind TLS is found out by the first handshake, and remembered for a while.

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

use super::http::{HttpConnection, Parts, Pings};
use super::origin::{self, Opener, OriginIo, To};
use super::plain::Speaks;
use super::{Lease, Policy, Pool, idle_of};
use crate::body::{Body, chain};
use crate::fault::Fault;
use crate::headers;

/// Unused connections are closed sooner than common servers do (Node: 5 s), which avoids the race between a request and
/// the server's close. A policy that knows its server better may say otherwise.
const IDLE: Duration = Duration::from_secs(4);
/// What a server was found to speak is asked again after this time: it may have been replaced.
const NEGOTIATED_FRESH: Duration = Duration::from_secs(300);
/// Unused connections to one server.
const IDLE_MAX: usize = 128;
/// How long a connection may take to be ready for the next request after a body has ended.
const SETTLE: Duration = Duration::from_millis(5);

const HTTP1: &[&[u8]] = &[b"http/1.1"];
const HTTP2: &[&[u8]] = &[b"h2"];
const EITHER: &[&[u8]] = &[b"h2", b"http/1.1"];

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
    /// Servers that were found to speak HTTP/2 behind TLS (or not), and when.
    negotiated: Mutex<HashMap<DirectKey, (Speaks, Instant)>>,
    opener: Opener,
    credentials: Credentials,
}

struct Unused {
    connection: Connection,
    /// It is closed then.
    until: Instant,
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
    /// How long it may be unused.
    idle: Duration,
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
            unused.push(Unused { connection, until: Instant::now() + self.idle });
        }
    }
}

impl DirectPool {
    /// An empty pool.
    pub fn new(credentials: Credentials, opener: Opener) -> Self {
        let (http2, negotiated) = (Pool::new(Policy::SHARED), Mutex::default());
        Self { idle: Arc::default(), http2, negotiated, opener, credentials }
    }

    /// Who opens connections.
    pub fn opener(&self) -> &Opener {
        &self.opener
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
            Speaks::Http1 => self.send_http1(request, authority, &To { alpn: HTTP1, ..*to }, view, None).await,
            Speaks::Http2 => self.send_http2(request, authority, &To { alpn: HTTP2, ..*to }, view, None).await,
            Speaks::Negotiated => self.send_negotiated(request, authority, to, view).await,
        }
    }

    /// Speaks what the server chose in its last handshake, or lets it choose now.
    async fn send_negotiated(
        &self,
        request: Request<Body>,
        authority: &Authority,
        to: &To<'_>,
        view: &View,
    ) -> Result<(Response<Incoming>, DirectLease), Fault> {
        let key = key_of(to);
        let known = lock(&self.negotiated).get(&key).copied();
        let known = known.filter(|(_, since)| since.elapsed() < NEGOTIATED_FRESH);
        let (speaks, ready) = match known {
            Some((speaks, _)) => (speaks, None),
            None => {
                let io = origin::connect(&self.opener, view, &To { alpn: EITHER, ..*to }).await?;
                let speaks = if io.negotiated() == Some(b"h2") { Speaks::Http2 } else { Speaks::Http1 };
                lock(&self.negotiated).insert(key.clone(), (speaks, Instant::now()));
                (speaks, Some(io))
            }
        };
        let sent = match speaks {
            Speaks::Http2 => self.send_http2(request, authority, &To { alpn: HTTP2, ..*to }, view, ready).await,
            _ => self.send_http1(request, authority, &To { alpn: HTTP1, ..*to }, view, ready).await,
        };
        sent.inspect_err(|_| {
            lock(&self.negotiated).remove(&key);
        })
    }

    /// On a shared connection, or a new one over `ready` when it was opened already.
    async fn send_http2(
        &self,
        mut request: Request<Body>,
        authority: &Authority,
        to: &To<'_>,
        view: &View,
        ready: Option<OriginIo>,
    ) -> Result<(Response<Incoming>, DirectLease), Fault> {
        headers::to_http2(&mut request, authority);
        let dial = || async move {
            let io = match ready {
                Some(io) => io,
                None => origin::connect(&self.opener, view, to).await?,
            };
            let pings = to.policy.pool.http2_keep_alive.map(Pings::from);
            let parts = Parts { pings, ..Parts::from(io) };
            HttpConnection::handshake(parts, &self.credentials).await
        };
        let lease = self.http2.get_as(&key_of(to), Policy::SHARED.within(&to.policy.pool), dial).await?;
        let response = lease.send(request, &to.address.to_string()).await?;
        Ok((response, DirectLease::Http2(lease)))
    }

    /// On an unused connection or a new one, over `ready` when it was opened already.
    async fn send_http1(
        &self,
        mut request: Request<Body>,
        authority: &Authority,
        to: &To<'_>,
        view: &View,
        ready: Option<OriginIo>,
    ) -> Result<(Response<Incoming>, DirectLease), Fault> {
        headers::to_http1(&mut request, authority);
        let (key, whom) = (key_of(to), to.address.to_string());
        let mut ready = match ready {
            Some(io) => Some(handshake(io, to).await?),
            None => None,
        };
        loop {
            let (unused, new) = match ready.take() {
                Some(connection) => (None, Some(connection)),
                None => (self.take(&key, to).await, None),
            };
            let reused = unused.is_some();
            let mut connection = match unused.or(new) {
                Some(connection) => connection,
                None => handshake(origin::connect(&self.opener, view, to).await?, to).await?,
            };
            connection.carried += 1;
            match connection.requests.try_send_request(request).await {
                Ok(response) => {
                    let pool = &to.policy.pool;
                    let last = pool.max_requests_per_connection.is_some_and(|most| connection.carried >= most);
                    let connection = (!last).then_some(connection);
                    let idle = idle_of(pool, IDLE);
                    let returning = Returning { pool: self.idle.clone(), key, connection, idle };
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
            let old =
                to.policy.pool.max_connection_duration.is_some_and(|most| unused.connection.born.elapsed() >= most);
            if unused.until <= Instant::now() || old {
                continue;
            }
            let ready = tokio::time::timeout(SETTLE, unused.connection.requests.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                return Some(unused.connection);
            }
        }
    }

    /// Every HTTP/2 connection with its server and what is in flight on it.
    pub fn for_each(&self, mut visit: impl FnMut(SocketAddr, usize)) {
        self.http2.for_each(|key, _, active| visit(key.address, active));
    }

    /// Closes what is no longer used.
    pub fn sweep(&self) {
        self.http2.sweep();
        lock(&self.negotiated).retain(|_, (_, since)| since.elapsed() < NEGOTIATED_FRESH);
        let now = Instant::now();
        lock(&self.idle).retain(|_, unused| {
            unused.retain(|one| now < one.until && !one.connection.requests.is_closed());
            !unused.is_empty()
        });
    }
}

async fn handshake(io: OriginIo, to: &To<'_>) -> Result<Connection, Fault> {
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

fn key_of(to: &To<'_>) -> DirectKey {
    let tls = match &to.policy.tls {
        ClientTls::Originate(tls) => format!("{} {tls:?}", to.host),
        _ => String::new(),
    };
    // Who came from elsewhere must not be taken for another.
    let proxy = to.policy.proxy_protocol.map(|version| format!("{version} {:?}", to.source)).unwrap_or_default();
    DirectKey { address: to.address, how: format!("{tls}{proxy}") }
}
