//! Accepting connections within limits, and letting them finish.
//!
//! A [`Lifecycle`] is shared by everything that serves: `draining` means take nothing new and finish what runs, `ended`
//! means stop now. Both only ever go one way.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::{HandshakeBounds, Handshakes};
use mesh::{OfSource, Sources};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use identity::in_turn;

/// What a listener allows its peers.
#[derive(Debug, Clone)]
pub struct Limits {
    /// What metrics call the listener.
    pub listener: &'static str,
    /// Connections open at once; more wait in the kernel's backlog.
    pub connections: usize,
    /// Of these, connections of one address (of IPv6: of one /64); more are closed at once.
    pub per_source: usize,
    /// TLS handshakes running at once; they are what costs CPU.
    pub handshakes: usize,
    /// How long one TLS handshake may take.
    pub handshake_timeout: Duration,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// How long a peer may take to send a request's head; also how long a kept-alive connection may idle.
    pub header_timeout: Duration,
    /// Requests open at once on one HTTP/2 connection.
    pub streams: u32,
    /// How long an HTTP/2 connection may go without a request (Envoy's and Istio's default: one hour).
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            listener: "inbound",
            connections: 8192,
            // No source has all of them, though a gateway dials for whole clusters.
            per_source: 6144,
            handshakes: 64,
            handshake_timeout: Duration::from_secs(5),
            header_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(10),
            streams: 1024,
            idle: Duration::from_secs(3600),
        }
    }
}

impl Limits {
    /// The handshakes of a listener that all kinds of peers dial. A gateway dials once for every flow that it carries, so one
    /// source may have a good part of them.
    pub fn handshakes(&self) -> Handshakes {
        let (pending, per_source) = (self.connections / 2, self.connections / 4);
        Handshakes::new(HandshakeBounds { turns: self.handshakes, pending, per_source })
    }

    /// For the workload's own connections: it is trusted to send a head in its own time, and its connection pools
    /// expect idle connections to live for about a minute.
    pub fn for_own_workload() -> Self {
        let limits = Self::default();
        Self { listener: "outbound", per_source: limits.connections, header_timeout: Duration::from_secs(75), ..limits }
    }
}

/// The one-way life of a process: serving, draining, ended.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    /// Take nothing new; finish what runs.
    pub draining: CancellationToken,
    /// Stop now.
    pub ended: CancellationToken,
    tasks: TaskTracker,
}

impl Lifecycle {
    /// Follows tokens that someone else cancels.
    pub fn new(draining: CancellationToken, ended: CancellationToken) -> Self {
        Self { draining, ended, tasks: TaskTracker::new() }
    }

    /// Runs a task that draining waits for; it is dropped when the life ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = ended.cancelled() => {}
            }
        });
    }

    /// Waits until nothing runs any longer; ends nothing.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Drains: waits until nothing runs any longer, at most `grace`, then ends everything.
    pub async fn drain(&self, grace: Duration) {
        self.draining.cancel();
        self.tasks.close();
        // Whoever is not done by then is cut off, which is what the grace period means.
        let _ = tokio::time::timeout(grace, self.tasks.wait()).await;
        self.ended.cancel();
    }
}

/// One accepted connection; counts against the listener's limit until it is dropped.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// Who connected.
    pub peer: SocketAddr,
    /// Give it back by dropping it when the connection ends.
    pub permit: Permit,
}

/// The right to a connection.
#[derive(Debug)]
pub struct Permit {
    _connection: OwnedSemaphorePermit,
    _source: OfSource,
}

/// Accepts until draining; every connection runs `handle` in a task of its own.
pub async fn accept<H, F>(listener: TcpListener, limits: &Limits, life: &Lifecycle, handle: H)
where
    H: Fn(Accepted) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let connections = Arc::new(Semaphore::new(limits.connections));
    let sources = Sources::default();
    loop {
        let next = async {
            let connection = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, peer) = listener.accept().await?;
            let Some(source) = sources.enter(peer.ip(), limits.per_source) else {
                tracing::debug!(%peer, "too many connections of one address");
                telemetry::shed(limits.listener, "per-source");
                return Ok(None);
            };
            // Fails on a client that went away already, which is no reason to pause.
            let _ = stream.set_nodelay(true);
            let permit = Permit { _connection: connection, _source: source };
            Ok::<_, io::Error>(Some(Accepted { stream, peer, permit }))
        };
        tokio::select! {
            () = life.draining.cancelled() => return,
            () = life.ended.cancelled() => return,
            accepted = next => match accepted {
                Ok(Some(accepted)) => life.spawn(handle(accepted)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Out of file descriptors: give connections time to end instead of spinning.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            },
        }
    }
}
