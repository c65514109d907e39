//! One HTTP/2 connection that carries requests to a peer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::{Credentials, PeerIdentity};
use mesh::Http2KeepAlive;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::gateways::Hold;
use super::meter::Meter;
use super::{Policy, Pooled};
use crate::access::Via;
use crate::body::{Body, chain};
use crate::fault::Fault;
use crate::hbone::{ACROSS_ANSWERS_WINDOW, ACROSS_STREAM_WINDOW};
use crate::serve::STREAM_WINDOW;

/// How long a connection may go on after its peer's identity ran out: design says 5 s, the rest is for closing.
pub const END_GRACE: Duration = Duration::from_secs(3);

/// An HTTP/2 client connection.
pub struct HttpConnection {
    requests: http2::SendRequest<Body>,
    /// Who the peer proved to be; `None` in plain text.
    pub peer: Option<PeerIdentity>,
    /// The way to another cluster.
    pub via: Option<Via>,
    /// The pod at the other end, when it is known.
    pub endpoint: String,
    /// The flow below, through an own gateway.
    hold: Option<Arc<Hold>>,
    /// What it carries; counted where ways are long.
    meter: Option<Meter>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Takes nothing new.
    retired: AtomicBool,
    lost: Arc<CancellationToken>,
}

impl Pooled for HttpConnection {
    fn is_usable(&self) -> bool {
        // A gateway that drains finishes its flows, but they have to end soon.
        self.hold.as_ref().is_none_or(|hold| hold.is_usable())
            && !self.shared.retired.load(Ordering::Acquire)
            && !self.shared.lost.is_cancelled()
            && !self.requests.is_closed()
    }

    fn is_light(&self) -> bool {
        self.meter.as_ref().is_none_or(Meter::is_light)
    }
}

/// What a new connection is made of.
pub struct Parts<T> {
    /// The stream, secured if it is to be.
    pub io: T,
    /// Who is at the other end.
    pub peer: Option<PeerIdentity>,
    /// How far away.
    pub via: Option<Via>,
    /// The pod, when it is known.
    pub endpoint: String,
    /// Cancelled when the path below is dead: the connection then takes nothing new, and requests without an answer are
    /// better sent elsewhere.
    pub lost: Arc<CancellationToken>,
    /// Kept as long as the connection.
    pub hold: Option<Hold>,
    /// Ping the peer; not across clusters unless a policy says so: flows outlive short holes there, and the gateways watch
    /// the path.
    pub pings: Option<Pings>,
    /// What counts the bytes of `io`, if anything does.
    pub(crate) meter: Option<Meter>,
}

impl<T> From<T> for Parts<T> {
    /// A stream of which nothing is known, and which is not pinged.
    fn from(io: T) -> Self {
        Self {
            io,
            peer: None,
            via: None,
            endpoint: String::new(),
            lost: Arc::default(),
            hold: None,
            pings: None,
            meter: None,
        }
    }
}

/// How a peer is pinged.
#[derive(Debug, Clone, Copy)]
pub struct Pings {
    /// Time between pings.
    pub interval: Duration,
    /// The connection is dead when an answer takes longer.
    pub timeout: Duration,
}

impl Pings {
    /// To sidecars of the own cluster.
    pub const SIDECAR: Self = Self { interval: Duration::from_secs(15), timeout: Duration::from_secs(10) };
}

impl From<Http2KeepAlive> for Pings {
    fn from(policy: Http2KeepAlive) -> Self {
        Self { interval: policy.interval, timeout: policy.timeout }
    }
}

/// What may wait on one connection for clients that read slowly: as much as all streams that share it may hold, or a few
/// slow readers would stop the answers of all the others.
const WINDOW: u32 = STREAM_WINDOW * Policy::SHARED.per_connection as u32;

impl HttpConnection {
    /// Starts HTTP/2 and a task that drives it; the task ends the connection when the peer's identity runs out.
    pub async fn handshake<T>(parts: Parts<T>, credentials: &Credentials) -> Result<Self, Fault>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stream_window, connection_window) = match parts.via {
            Some(_) => (ACROSS_STREAM_WINDOW, ACROSS_ANSWERS_WINDOW),
            None => (STREAM_WINDOW, WINDOW),
        };
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .max_header_list_size(64 * 1024);
        if let Some(Pings { interval, timeout }) = parts.pings {
            // An idle connection is watched too: whoever finds it dead should not be the next request.
            builder.keep_alive_interval(interval).keep_alive_timeout(timeout);
        }
        let handshake = builder.handshake(TokioIo::new(parts.io)).await;
        let (requests, connection) =
            handshake.map_err(|error| Fault::connect(format!("the HTTP/2 handshake failed: {}", chain(&error))))?;
        let shared = Arc::new(Shared { retired: AtomicBool::new(false), lost: parts.lost });
        let (state, peer, credentials) = (shared.clone(), parts.peer.clone(), credentials.clone());
        let hold = parts.hold.map(Arc::new);
        let held = hold.clone();
        tokio::spawn(async move {
            drive(connection, peer, credentials, &state).await;
            drop(held);
            state.retired.store(true, Ordering::Release);
        });
        let Parts { peer, via, endpoint, meter, .. } = parts;
        Ok(Self { requests, peer, via, endpoint, hold, meter, shared })
    }

    /// Sends one request and waits for the head of its answer.
    pub async fn send(&self, request: Request<Body>, whom: &str) -> Result<Response<Incoming>, Fault> {
        let mut requests = self.requests.clone();
        requests.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message().is_some();
            Fault::from_hyper(error.error(), unsent, whom)
        })
    }

    /// Resolves when the path below is dead.
    pub async fn lost(&self) {
        self.shared.lost.cancelled().await;
    }
}

async fn drive<F>(connection: F, peer: Option<PeerIdentity>, credentials: Credentials, shared: &Shared)
where
    F: Future<Output = hyper::Result<()>>,
{
    tokio::pin!(connection);
    let expiry = async {
        match &peer {
            Some(peer) => credentials.expiry(peer).await,
            None => std::future::pending().await,
        }
    };
    let retire = async {
        match &peer {
            Some(peer) => credentials.aging(peer).await,
            None => std::future::pending().await,
        }
        shared.retired.store(true, Ordering::Release);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = retire => {}
        result = connection.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(error = chain(&error), "connection to a peer failed");
            }
        }
        reason = expiry => {
            shared.retired.store(true, Ordering::Release);
            tracing::info!(?reason, peer = peer.map(|peer| peer.id.to_string()), "connection to a peer must end");
            // What is under way gets a moment; then the connection is dropped.
            let _ = tokio::time::timeout(END_GRACE, connection).await;
        }
    }
}
