//! One stream of a tunnel as a byte stream, whichever transport carries it, and what is measured on it.
//!
//! [`Flows`] knows the streams of one connection: how many carry bulk, and whose readers are slow.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use mesh::{Carried, FlowClass, StalledFlow, Transport, stalled_to_reset};
use proxy::hbone::H2Io;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::datagrams::{Datagrams, FlowDatagrams};
use crate::transport::{CONNECTION_WINDOW_MAX, STREAM_WINDOW};

/// The application error code of a stream that was cut off.
const RESET: VarInt = VarInt::from_u32(1);
/// The application error code of a stream whose reader was too slow.
const SLOW_READER: VarInt = VarInt::from_u32(4);
/// How long the last bytes of a stream may take to be acknowledged before the flow counts as done.
const SETTLE: Duration = Duration::from_secs(5);

/// Both directions of a stream. Shutdown is the end of a direction; dropping it before is a reset of both.
#[derive(Debug)]
pub(crate) struct TunnelIo {
    wire: Wire,
    meter: Meter,
}

#[derive(Debug)]
enum Wire {
    Quic {
        send: SendStream,
        recv: RecvStream,
        finished: bool,
    },
    /// Boxed: it is much larger, and rare.
    Tcp(Box<H2Io>),
}

impl TunnelIo {
    pub(crate) fn quic(send: SendStream, recv: RecvStream, flows: &Flows) -> Self {
        let meter = flows.enter();
        // Fails only on a stream that has ended.
        let _ = send.set_priority(meter.priority);
        Self { wire: Wire::Quic { send, recv, finished: false }, meter }
    }

    pub(crate) fn tcp(io: H2Io, flows: &Flows) -> Self {
        Self { wire: Wire::Tcp(Box::new(io)), meter: flows.enter() }
    }

    /// What carries it.
    pub(crate) fn transport(&self) -> Transport {
        match self.wire {
            Wire::Quic { .. } => Transport::Quic,
            Wire::Tcp(_) => Transport::Tcp,
        }
    }

    /// What goes beside the stream; none over TCP.
    pub(crate) fn datagrams(&self) -> Option<FlowDatagrams> {
        let Wire::Quic { send, .. } = &self.wire else { return None };
        self.meter.flows.0.datagrams.as_ref().map(|datagrams| datagrams.enter(send.id().index()))
    }

    /// Cancelled when the flow is to be cut because its reader is too slow.
    pub(crate) fn too_slow(&self) -> CancellationToken {
        self.meter.state.cut.clone()
    }

    /// Waits until the peer has acknowledged everything, so that closing the connection loses nothing. Over TCP the
    /// connection itself ends only after its streams.
    pub(crate) async fn settled(&mut self) {
        if let Wire::Quic { send, .. } = &mut self.wire {
            let _ = tokio::time::timeout(SETTLE, send.stopped()).await;
        }
    }
}

/// Whether an error of a stream says that the peer reset it, and not that the connection failed.
pub(crate) fn is_reset(error: &io::Error) -> bool {
    let Some(source) = error.get_ref() else { return false };
    let read =
        source.downcast_ref::<quinn::ReadError>().is_some_and(|error| matches!(error, quinn::ReadError::Reset(_)));
    let write = || {
        source.downcast_ref::<quinn::WriteError>().is_some_and(|error| matches!(error, quinn::WriteError::Stopped(_)))
    };
    let http2 = || source.downcast_ref::<h2::Error>().is_some_and(|error| error.is_reset() && error.is_remote());
    read || write() || http2()
}

impl AsyncRead for TunnelIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.meter.reading();
        let before = buffer.filled().len();
        ready!(match &mut this.wire {
            Wire::Quic { recv, .. } => AsyncRead::poll_read(Pin::new(recv), cx, buffer),
            Wire::Tcp(io) => Pin::new(io).poll_read(cx, buffer),
        })?;
        let count = buffer.filled().len() - before;
        if count > 0 {
            this.meter.handed_out();
            this.moved(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let count = ready!(match &mut this.wire {
            Wire::Quic { send, .. } => AsyncWrite::poll_write(Pin::new(send), cx, bytes),
            Wire::Tcp(io) => Pin::new(io).poll_write(cx, bytes),
        })?;
        this.moved(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Quic { .. } => Poll::Ready(Ok(())),
            Wire::Tcp(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Quic { send, finished, .. } => {
                *finished = true;
                // Fails only when it was ended before.
                let _ = send.finish();
                Poll::Ready(Ok(()))
            }
            Wire::Tcp(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

impl TunnelIo {
    fn moved(&mut self, bytes: usize) {
        let Some(priority) = self.meter.moved(bytes) else { return };
        if let Wire::Quic { send, .. } = &self.wire {
            // Fails only on a stream that has ended.
            let _ = send.set_priority(priority);
        }
    }
}

impl Drop for TunnelIo {
    fn drop(&mut self) {
        let slow = self.meter.state.cut.is_cancelled();
        match &mut self.wire {
            Wire::Quic { send, recv, finished } => {
                let code = if slow { SLOW_READER } else { RESET };
                if !*finished || slow {
                    // quinn would send FIN, which would make a cut flow look whole.
                    let _ = send.reset(code);
                }
                if slow {
                    let _ = recv.stop(code);
                }
            }
            Wire::Tcp(_) => {}
        }
    }
}

/// What is measured on one stream.
#[derive(Debug)]
struct Meter {
    flows: Flows,
    id: u64,
    state: Arc<FlowState>,
    carried: Carried,
    class: FlowClass,
    priority: i32,
}

/// What others see of one stream.
#[derive(Debug, Default)]
struct FlowState {
    /// Milliseconds since the connection's begin, plus one, at which bytes were handed out that nobody has come back
    /// from; 0: somebody reads.
    stalled: AtomicU64,
    cut: CancellationToken,
}

impl Meter {
    fn reading(&self) {
        self.state.stalled.store(0, Ordering::Relaxed);
    }

    fn handed_out(&self) {
        let ms = u64::try_from(self.flows.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.state.stalled.store(ms + 1, Ordering::Relaxed);
    }

    /// Counts bytes; the new priority, if it has changed.
    fn moved(&mut self, bytes: usize) -> Option<i32> {
        let now = Instant::now();
        self.carried.add(now, bytes);
        let (class, priority) = (self.carried.class(now), self.carried.priority(now));
        if class != self.class {
            self.class = class;
            self.flows.count(class);
        }
        (std::mem::replace(&mut self.priority, priority) != priority).then_some(priority)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.class == FlowClass::Bulk {
            self.flows.count(FlowClass::Small);
        }
        self.flows.open().remove(&self.id);
    }
}

/// The streams of one connection; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Flows(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    begun: Instant,
    bulk: AtomicUsize,
    next: AtomicU64,
    /// Never held across an await.
    open: Mutex<BTreeMap<u64, Arc<FlowState>>>,
    /// Of a connection over QUIC.
    datagrams: Option<Arc<Datagrams>>,
}

impl Flows {
    /// Of a connection over TCP.
    pub(crate) fn new() -> Self {
        Self::with(None)
    }

    /// Of a connection over QUIC, which carries datagrams beside them.
    pub(crate) fn beside_datagrams(connection: &quinn::Connection) -> Self {
        Self::with(Some(Datagrams::of(connection.clone())))
    }

    fn with(datagrams: Option<Arc<Datagrams>>) -> Self {
        let (bulk, next) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self(Arc::new(Shared { begun: Instant::now(), bulk, next, open: Mutex::default(), datagrams }))
    }

    /// Streams that carry bulk.
    pub(crate) fn bulk(&self) -> usize {
        self.0.bulk.load(Ordering::Relaxed)
    }

    /// Cuts the flows of slow readers that hold more of the connection's window than they may; says how many.
    pub(crate) fn cut_slow_readers(&self, now: Instant) -> usize {
        let open = self.open();
        let stalled = open.iter().filter_map(|(id, state)| match state.stalled.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(StalledFlow { id: *id, since: self.0.begun + Duration::from_millis(ms - 1) }),
        });
        let cut = stalled_to_reset(stalled.collect(), now, STREAM_WINDOW, CONNECTION_WINDOW_MAX);
        cut.iter().filter_map(|id| open.get(id)).for_each(|state| state.cut.cancel());
        cut.len()
    }

    fn enter(&self) -> Meter {
        let (id, state) = (self.0.next.fetch_add(1, Ordering::Relaxed), Arc::new(FlowState::default()));
        self.open().insert(id, Arc::clone(&state));
        let now = Instant::now();
        let carried = Carried::new(now);
        let priority = carried.priority(now);
        Meter { flows: self.clone(), id, state, carried, class: FlowClass::Small, priority }
    }

    fn count(&self, class: FlowClass) {
        match class {
            FlowClass::Bulk => self.0.bulk.fetch_add(1, Ordering::Relaxed),
            FlowClass::Small => self.0.bulk.fetch_sub(1, Ordering::Relaxed),
        };
    }

    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<FlowState>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
