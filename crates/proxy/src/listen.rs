//! Accepting connections within limits, and letting them finish.
//!
//! A [`Lifecycle`] is shared by everything that serves: `draining` means take nothing new and finish what runs, `ended`
//! means stop now. Both only ever go one way.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a listener allows its peers.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections open at once; more wait in the kernel's backlog.
    pub connections: usize,
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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            handshakes: 64,
            handshake_timeout: Duration::from_secs(5),
            header_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(10),
            streams: 1024,
        }
    }
}

impl Limits {
    /// For the workload's own connections: it is trusted to send a head in its own time, and its connection pools
    /// expect idle connections to live for about a minute.
    pub fn for_own_workload() -> Self {
        Self { header_timeout: Duration::from_secs(75), ..Self::default() }
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

    /// Drains: waits until nothing runs any longer, at most `grace`, then ends everything.
    pub async fn drain(&self, grace: Duration) {
        self.draining.cancel();
        self.tasks.close();
        // Whoever is not done by then is cut off, which is what the grace period means.
        let _ = tokio::time::timeout(grace, self.tasks.wait()).await;
        self.ended.cancel();
    }
}

/// A turn is over after this long: the work that turns are for is done by then, or the client has not sent enough for it.
const TURN: Duration = Duration::from_millis(100);

/// Does a handshake in its turn. A client that leaves us waiting loses its turn and goes on without one, so that slow
/// clients cannot keep all turns from the others. `None`: there are no turns any longer.
pub async fn in_turn<T>(turns: &Semaphore, handshake: impl Future<Output = T>) -> Option<T> {
    let turn = turns.acquire().await.ok()?;
    tokio::pin!(handshake);
    tokio::select! {
        done = handshake.as_mut() => return Some(done),
        () = tokio::time::sleep(TURN) => drop(turn),
    }
    Some(handshake.await)
}

/// One accepted connection; counts against the listener's limit until it is dropped.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// Who connected.
    pub peer: SocketAddr,
    /// Give it back by dropping it when the connection ends.
    pub permit: OwnedSemaphorePermit,
}

/// Accepts until draining; every connection runs `handle` in a task of its own.
pub async fn accept<H, F>(listener: TcpListener, limits: &Limits, life: &Lifecycle, handle: H)
where
    H: Fn(Accepted) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let connections = Arc::new(Semaphore::new(limits.connections));
    loop {
        let next = async {
            let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(Accepted { stream, peer, permit })
        };
        tokio::select! {
            () = life.draining.cancelled() => return,
            () = life.ended.cancelled() => return,
            accepted = next => match accepted {
                Ok(accepted) => life.spawn(handle(accepted)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Out of file descriptors: give connections time to end instead of spinning.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clients_that_stall_keep_nobody_out() {
        let turns = Arc::new(Semaphore::new(1));
        let stalled = turns.clone();
        tokio::spawn(async move { in_turn(&stalled, std::future::pending::<()>()).await });
        tokio::task::yield_now().await;
        let next = tokio::time::timeout(Duration::from_secs(1), in_turn(&turns, async { 1 })).await;
        assert_eq!(next, Ok(Some(1)));
    }
}
