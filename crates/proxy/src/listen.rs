//! Accepting connections within limits, and letting them finish.
//!
//! A [`Lifecycle`] is shared by everything that serves: `draining` means take nothing new and finish what runs, `ended`
//! means stop now. Both only ever go one way.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
            connections: 8192,
            per_source: 8192,
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
    pub permit: Permit,
}

/// The right to a connection.
#[derive(Debug)]
pub struct Permit {
    _connection: OwnedSemaphorePermit,
    _source: OfSource,
}

/// The connections of a listener by who opened them.
#[derive(Debug, Clone, Default)]
struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them; counts until it is dropped.
#[derive(Debug)]
struct OfSource {
    sources: Sources,
    address: IpAddr,
}

impl Sources {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: the address has as many as it may have.
    fn enter(&self, address: IpAddr, most: usize) -> Option<OfSource> {
        let address = network(address);
        let mut counts = self.lock();
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(OfSource { sources: self.clone(), address })
    }
}

impl Drop for OfSource {
    fn drop(&mut self) {
        let mut counts = self.sources.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Who has one IPv6 address has the rest of its /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
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
                return Ok(None);
            };
            stream.set_nodelay(true)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_so_many_connections_and_leaves_room_for_others() {
        let sources = Sources::default();
        let enter = |address: &str| sources.enter(address.parse().unwrap(), 2);
        let mut held = vec![enter("10.0.0.1").unwrap(), enter("::ffff:10.0.0.1").unwrap()];
        assert!(enter("10.0.0.1").is_none());
        assert!(enter("10.0.0.2").is_some());
        held.pop();
        assert!(enter("10.0.0.1").is_some());
        let _six = [enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap()];
        assert!(enter("2001:db8::3").is_none() && enter("2001:db8:0:1::3").is_some());
        drop(held);
        assert_eq!(sources.lock().len(), 1, "who has none is forgotten");
    }

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
