//! The UDP socket of tunnels: bulk that arrives on it is taken in batches ([`mesh::Batching`]).
//!
//! While it rests nobody watches it: packets that come meanwhile wake no one, and are taken together when the rest is over. As long as
//! bulk goes on it rests again and again, and is not watched at all.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use mesh::Batching;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::io::Interest;
use tokio::time::{Sleep, sleep};

use super::trips::Trips;

/// Tokio, with such sockets, which ask how far the peers are.
#[derive(Debug)]
pub(super) struct InBatches(pub(super) Trips);

impl Runtime for InBatches {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        // Makes it non-blocking, too.
        let state = UdpSocketState::new((&socket).into())?;
        let incoming = Incoming::new(socket.try_clone()?, self.0.clone());
        Ok(Arc::new(Socket {
            socket,
            state,
            incoming: Mutex::new(incoming),
            full: AtomicBool::new(false),
            writable: Mutex::default(),
        }))
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// When the kernel is asked again after it has refused a packet, if it cannot be watched.
const REFUSED: Duration = Duration::from_millis(1);

/// The socket once more, as tokio watches it: what happens to it wakes the process for as long as this is there.
type Watch = tokio::net::UdpSocket;

#[derive(Debug)]
struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
    /// Of the one task that receives; never waited for.
    incoming: Mutex<Incoming>,
    /// The kernel has refused a packet, and nobody has seen since that it takes more.
    full: AtomicBool,
    /// Where it is waited for until the kernel takes more, while somebody waits.
    writable: Mutex<Weak<Watch>>,
}

/// The receiving half.
#[derive(Debug)]
struct Incoming {
    batching: Batching,
    trips: Trips,
    /// For packets; none while it rests.
    watch: Option<Watch>,
    /// What the next watch is made of, kept so that none is ever refused for want of file descriptors.
    unwatched: Option<UdpSocket>,
    resting: bool,
    /// The end of the rest.
    rest: Pin<Box<Sleep>>,
}

impl Incoming {
    fn new(again: UdpSocket, trips: Trips) -> Self {
        let (batching, rest) = (Batching::new(TokioRuntime.now()), Box::pin(sleep(Duration::ZERO)));
        Self { batching, trips, watch: None, unwatched: Some(again), resting: false, rest }
    }

    /// Receives what is there with `receive`, or is woken when there may be something.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        socket: &UdpSocket,
        mut receive: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.resting {
            ready!(Future::poll(self.rest.as_mut(), cx));
            self.resting = false;
        }
        loop {
            let received = match &self.watch {
                Some(watch) => {
                    ready!(watch.poll_recv_ready(cx))?;
                    watch.try_io(Interest::READABLE, &mut receive)
                }
                // After a rest there likely is something, so it is looked before it is watched.
                None => receive(),
            };
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.watch.is_none() {
                        let again = self.unwatched.take().map_or_else(|| socket.try_clone(), Ok)?;
                        self.watch = Some(Watch::from_std(again)?);
                    }
                }
                received => return Poll::Ready(received),
            }
        }
    }

    /// All that was there was received.
    fn received(&mut self, meta: &[RecvMeta]) {
        let packets = meta.iter().map(|it| it.len.div_ceil(it.stride.max(1))).sum();
        let bytes = meta.iter().map(|it| it.len).sum();
        let now = TokioRuntime.now();
        if let Some(rest) = self.batching.received(now, packets, bytes, self.trips.shortest(now)) {
            if let Some(watch) = self.watch.take() {
                self.unwatched = watch.into_std().ok();
            }
            self.resting = true;
            self.rest.as_mut().reset((now + rest).into());
        }
    }
}

impl Socket {
    /// Waits until the kernel takes packets again.
    async fn until_writable(&self) -> io::Result<()> {
        match self.watch_for_room() {
            Ok(watch) => watch.writable().await?,
            // Such as too many open files. An error would end the connection.
            Err(_) => sleep(REFUSED).await,
        }
        self.full.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Shared by all who wait, and gone with the last of them.
    fn watch_for_room(&self) -> io::Result<Arc<Watch>> {
        let mut shared = self.writable();
        if let Some(watch) = shared.upgrade() {
            return Ok(watch);
        }
        let watch = Arc::new(Watch::from_std(self.socket.try_clone()?)?);
        *shared = Arc::downgrade(&watch);
        Ok(watch)
    }

    fn writable(&self) -> MutexGuard<'_, Weak<Watch>> {
        self.writable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let send = || self.state.send((&self.socket).into(), transmit);
        let watch = self.writable().upgrade();
        let sent = match watch {
            // So that a refusal is known to those who wait.
            Some(watch) => watch.try_io(Interest::WRITABLE, send),
            None => send(),
        };
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.full.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let receive = || self.state.recv((&self.socket).into(), buffers, meta);
        let count = ready!(incoming.poll(cx, &self.socket, receive))?;
        // As many as were asked for: there may be more.
        if count < buffers.len() {
            incoming.received(&meta[..count]);
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// One connection that waits, now and then, until the kernel takes its packets.
struct Room {
    socket: Arc<Socket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.waiting.is_none() && !this.socket.full.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = Arc::clone(&this.socket);
            Box::pin(async move { socket.until_writable().await })
        });
        let writable = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(writable)
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Bytes of what is there, or of what comes next.
    async fn receive(socket: &dyn AsyncUdpSocket) -> usize {
        let mut space = vec![0; 32 * 1500];
        let mut meta = [RecvMeta::default(); 32];
        let mut buffers: Vec<_> = space.chunks_mut(1500).map(IoSliceMut::new).collect();
        let count = poll_fn(|cx| socket.poll_recv(cx, &mut buffers, &mut meta)).await.unwrap();
        meta[..count].iter().map(|it| it.len).sum()
    }

    /// Five packets a millisecond (56 Mbit/s) for a tenth of a second, from peers at such a distance: in how many of these milliseconds
    /// the packets waited. All arrive.
    async fn waits(round_trip: Option<Duration>) -> usize {
        let trips = Trips::default();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let socket = InBatches(trips.clone()).wrap_udp_socket(socket).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (mut sent, mut received, mut waits) = (0, 0, 0);
        for _ in 0..100 {
            if let Some(trip) = round_trip {
                trips.measured(TokioRuntime.now(), trip);
            }
            for _ in 0..5 {
                sent += peer.send_to(&[1; 1400], address).unwrap();
            }
            let begun = TokioRuntime.now();
            while received < sent {
                received += receive(&*socket).await;
            }
            waits += usize::from(TokioRuntime.now() > begun);
            tokio::time::advance(MS).await;
        }
        assert_eq!(received, sent);
        waits
    }

    #[tokio::test(start_paused = true)]
    async fn bulk_from_afar_waits_for_its_batch_and_all_of_it_arrives() {
        let waits = waits(Some(80 * MS)).await;
        assert!(waits > 30, "{waits} of 100");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_from_nearby_waits() {
        assert_eq!(waits(Some(2 * MS)).await, 0);
        assert_eq!(waits(None).await, 0);
    }

    #[tokio::test]
    async fn after_a_refusal_it_is_watched_for_room_as_long_as_somebody_waits() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let state = UdpSocketState::new((&socket).into()).unwrap();
        let incoming = Mutex::new(Incoming::new(socket.try_clone().unwrap(), Trips::default()));
        let full = AtomicBool::new(true);
        let socket = Arc::new(Socket { socket, state, incoming, full, writable: Mutex::default() });
        let mut pollers = [Arc::clone(&socket).create_io_poller(), Arc::clone(&socket).create_io_poller()];
        for poller in &mut pollers {
            poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
        }
        assert!(!socket.full.load(Ordering::Relaxed));
        assert!(socket.writable().upgrade().is_none());
    }
}
