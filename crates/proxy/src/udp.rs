//! One flow of UDP datagrams: a local end on one side, capsules on a stream on the other.
//!
//! Between sidecars the stream is a CONNECT-UDP stream (RFC 9298) inside their mutual TLS. Datagrams that do not fit into
//! a bounded queue are dropped and counted, as a network would: nothing waits for a slow reader, and nothing grows.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::beside::Datagrams;
use crate::capsule::{Capsules, put_datagram};
use crate::mailbox::Mailbox;
use crate::sealed::{Opener, Sealer};

/// A flow on which no datagram moves for this long ends; what comes later begins another one. NATs forget UDP flows
/// after 30 s to 2 min.
pub const IDLE: Duration = Duration::from_secs(60);
/// Datagrams of a workload that wait for the stream; more are dropped.
pub const QUEUE: usize = 64;
/// Bytes of capsules that are written at once.
const BATCH: usize = 16 * 1024;
/// How often a flow says how much has moved.
const REPORT: Duration = Duration::from_secs(10);

/// Where datagrams for the workload go; `false` when one was dropped. Never waits.
pub type Deliver = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// The local end of a flow.
pub enum Local {
    /// A connected socket.
    Socket(UdpSocket),
    /// A queue of at most [`QUEUE`] datagrams, whose closing ends the flow, and where the other direction goes.
    Queue(mpsc::Receiver<Bytes>, Deliver),
}

/// What a flow has carried.
#[derive(Debug, Default)]
pub struct Counts {
    /// Datagrams and bytes from the local end.
    sent: [AtomicU64; 2],
    /// Datagrams and bytes to the local end.
    received: [AtomicU64; 2],
    dropped: AtomicU64,
}

impl Counts {
    /// Datagrams from the local end.
    pub fn sent(&self) -> u64 {
        self.sent[0].load(Ordering::Relaxed)
    }

    /// Their bytes.
    pub fn sent_bytes(&self) -> u64 {
        self.sent[1].load(Ordering::Relaxed)
    }

    /// Datagrams to the local end.
    pub fn received(&self) -> u64 {
        self.received[0].load(Ordering::Relaxed)
    }

    /// Their bytes.
    pub fn received_bytes(&self) -> u64 {
        self.received[1].load(Ordering::Relaxed)
    }

    /// Datagrams that came over the stream and that the local end did not take.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn add(counter: &[AtomicU64; 2], bytes: usize) {
        counter[0].fetch_add(1, Ordering::Relaxed);
        counter[1].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn moved(&self) -> u64 {
        self.sent() + self.received()
    }
}

/// Who ended a flow.
#[derive(Debug)]
pub enum End {
    /// The local end.
    Local(Option<io::Error>),
    /// The stream.
    Stream(Option<io::Error>),
    /// Nobody: no datagram moved for the idle time.
    Idle,
}

/// Carries datagrams both ways until one end ends or nothing moves for `idle`; says now and then how much has moved. The
/// end of the flow is the end of the stream.
pub async fn carry<S>(
    local: &mut Local,
    stream: S,
    idle: Duration,
    counts: &Counts,
    mut report: impl FnMut(&Counts),
) -> End
where
    S: AsyncRead + AsyncWrite,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let (source, sink) = local.split();
    let both = async {
        tokio::select! {
            end = outgoing(source, &mut writer, counts) => end,
            end = incoming(reader, sink, counts) => end,
        }
    };
    let end = until_idle(both, idle, counts, &mut report).await;
    let _ = writer.shutdown().await;
    end
}

/// The same where the datagrams are sealed and go beside the stream, which then carries nothing: its end is the flow's.
pub async fn carry_sealed<S>(
    local: &mut Local,
    (stream, datagrams): (S, &mut Datagrams),
    idle: Duration,
    counts: &Counts,
    mut report: impl FnMut(&Counts),
) -> End
where
    S: AsyncRead + AsyncWrite,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let (source, sink) = local.split();
    let Datagrams { sealer, opener, outgoing, incoming } = datagrams;
    let mut opened = Opened { opener, sink, counts };
    let all = async {
        tokio::select! {
            end = opened.all(incoming) => end,
            end = seal(source, sealer, outgoing, counts) => end,
            end = ended(reader) => end,
        }
    };
    let end = until_idle(all, idle, counts, &mut report).await;
    // What came before the end of the stream is delivered, whichever of the two was looked at first.
    if matches!(end, End::Stream(_)) {
        while let Some(sealed) = incoming.try_take() {
            opened.deliver(&sealed);
        }
    }
    let _ = writer.shutdown().await;
    end
}

async fn until_idle(
    carrying: impl Future<Output = End>,
    idle: Duration,
    counts: &Counts,
    report: &mut impl FnMut(&Counts),
) -> End {
    tokio::pin!(carrying);
    let (mut moved, mut quiet_since) = (counts.moved(), Instant::now());
    loop {
        let wake = (Instant::now() + REPORT).min(quiet_since + idle);
        tokio::select! {
            end = carrying.as_mut() => return end,
            () = sleep_until(wake) => {
                if counts.moved() != moved {
                    (moved, quiet_since) = (counts.moved(), Instant::now());
                    report(counts);
                } else if quiet_since + idle <= Instant::now() {
                    return End::Idle;
                }
            }
        }
    }
}

async fn seal(mut source: Source<'_>, sealer: &mut Sealer, outgoing: &Mailbox, counts: &Counts) -> End {
    loop {
        let payload = match source.next().await {
            Ok(Some(payload)) => payload,
            Ok(None) => return End::Local(None),
            Err(error) => return End::Local(Some(error)),
        };
        let Some(sealed) = sealer.seal(&payload) else {
            return End::Stream(Some(io::Error::other("the key has sealed as much as it may")));
        };
        outgoing.put(sealed);
        Counts::add(&counts.sent, payload.len());
    }
}

/// Opens datagrams and delivers them.
struct Opened<'a> {
    opener: &'a mut Opener,
    sink: Sink<'a>,
    counts: &'a Counts,
}

impl Opened<'_> {
    async fn all(&mut self, incoming: &Mailbox) -> End {
        while let Some(sealed) = incoming.take().await {
            self.deliver(&sealed);
        }
        End::Stream(None)
    }

    fn deliver(&mut self, sealed: &[u8]) {
        match self.opener.open(sealed) {
            Some(payload) if self.sink.take(&payload) => Counts::add(&self.counts.received, payload.len()),
            _ => _ = self.counts.dropped.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// Waits for the end of a stream that carries nothing.
async fn ended(mut reader: impl AsyncRead + Unpin) -> End {
    let mut ignored = [0; 64];
    loop {
        match reader.read(&mut ignored).await {
            Ok(0) => return End::Stream(None),
            Ok(_) => {}
            Err(error) => return End::Stream(Some(error)),
        }
    }
}

async fn outgoing(mut source: Source<'_>, writer: &mut (impl AsyncWrite + Unpin), counts: &Counts) -> End {
    let mut capsules = BytesMut::new();
    loop {
        match source.next().await {
            Ok(Some(payload)) => put(&payload, &mut capsules, counts),
            Ok(None) => return End::Local(None),
            Err(error) => return End::Local(Some(error)),
        }
        while capsules.len() < BATCH
            && let Some(payload) = source.ready()
        {
            put(&payload, &mut capsules, counts);
        }
        if let Err(error) = writer.write_all(&capsules).await {
            return End::Stream(Some(error));
        }
        capsules.clear();
    }
}

fn put(payload: &[u8], capsules: &mut BytesMut, counts: &Counts) {
    if put_datagram(payload, capsules) {
        Counts::add(&counts.sent, payload.len());
    }
}

async fn incoming(mut reader: impl AsyncRead + Unpin, sink: Sink<'_>, counts: &Counts) -> End {
    let (mut capsules, mut chunk) = (Capsules::default(), BytesMut::with_capacity(BATCH));
    loop {
        chunk.clear();
        match reader.read_buf(&mut chunk).await {
            Ok(0) => return End::Stream(None),
            Ok(_) => capsules.push(&chunk),
            Err(error) => return End::Stream(Some(error)),
        }
        loop {
            match capsules.next_datagram() {
                Ok(Some(payload)) if sink.take(&payload) => Counts::add(&counts.received, payload.len()),
                Ok(Some(_)) => _ = counts.dropped.fetch_add(1, Ordering::Relaxed),
                Ok(None) => break,
                Err(error) => return End::Stream(Some(io::Error::new(io::ErrorKind::InvalidData, error))),
            }
        }
    }
}

impl Local {
    fn split(&mut self) -> (Source<'_>, Sink<'_>) {
        match self {
            Self::Socket(socket) => (Source::Socket(socket), Sink::Socket(socket)),
            Self::Queue(from, to) => (Source::Queue(from), Sink::Queue(to)),
        }
    }
}

enum Source<'a> {
    Socket(&'a UdpSocket),
    Queue(&'a mut mpsc::Receiver<Bytes>),
}

impl Source<'_> {
    /// The next datagram; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Queue(queue) => Ok(queue.recv().await),
            Self::Socket(socket) => loop {
                socket.readable().await?;
                match receive(socket) {
                    // Nothing listens there, or not yet: datagrams that get lost are nothing special.
                    Err(error) if is_passing(&error) => {}
                    other => return other.map(Some),
                }
            },
        }
    }

    /// A datagram that is there already.
    fn ready(&mut self) -> Option<Bytes> {
        match self {
            Self::Queue(queue) => queue.try_recv().ok(),
            Self::Socket(socket) => receive(socket).ok(),
        }
    }
}

enum Sink<'a> {
    Socket(&'a UdpSocket),
    Queue(&'a Deliver),
}

impl Sink<'_> {
    /// Whether the datagram was taken.
    fn take(&self, payload: &[u8]) -> bool {
        match self {
            // An error may be news of an earlier datagram that found nobody; then this one has not been sent yet.
            Self::Socket(socket) => socket.try_send(payload).or_else(|_| socket.try_send(payload)).is_ok(),
            Self::Queue(deliver) => deliver(payload),
        }
    }
}

thread_local! {
    /// Where datagrams are received before their length is known.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 65_536]);
}

fn receive(socket: &UdpSocket) -> io::Result<Bytes> {
    SCRATCH.with_borrow_mut(|scratch| {
        let length = socket.try_recv(scratch)?;
        Ok(Bytes::copy_from_slice(&scratch[..length]))
    })
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

    /// A queue whose deliveries are kept, while there are fewer than `room`.
    fn queue(room: usize) -> (mpsc::Sender<Bytes>, Local, Seen) {
        let (to, from) = mpsc::channel(QUEUE);
        let seen = Seen::default();
        let kept = Arc::clone(&seen);
        let deliver = move |payload: &[u8]| {
            let mut kept = kept.lock().unwrap();
            let fits = kept.len() < room;
            if fits {
                kept.push(payload.to_vec());
            }
            fits
        };
        (to, Local::Queue(from, Box::new(deliver)), seen)
    }

    #[tokio::test]
    async fn datagrams_go_both_ways_and_the_end_is_the_end() {
        let (near, far) = tokio::io::duplex(4096);
        let ((a, mut left, _), (b, mut right, seen)) = (queue(9), queue(9));
        let (sent, counted) = (Counts::default(), Counts::default());
        for size in [0, 1, 1200, 9000] {
            a.send(Bytes::from(vec![7; size])).await.unwrap();
        }
        drop(a);
        let one = carry(&mut left, near, IDLE, &sent, |_| {});
        let two = carry(&mut right, far, IDLE, &counted, |_| {});
        let (one, two) = tokio::join!(one, two);
        assert!(matches!((&one, &two), (End::Local(None), End::Stream(None))), "{one:?} {two:?}");
        let sizes: Vec<usize> = seen.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(sizes, [0, 1, 1200, 9000]);
        assert_eq!((sent.sent(), sent.sent_bytes(), counted.received()), (4, 10_201, 4));
        assert!(!b.is_closed());
    }

    #[tokio::test]
    async fn sealed_datagrams_that_came_before_the_end_are_delivered() {
        use crate::sealed::{End as Side, MATERIAL, keys};
        let export = |mut material: [u8; MATERIAL], label: &[u8]| {
            material[..label.len().min(MATERIAL)].copy_from_slice(&label[..label.len().min(MATERIAL)]);
            Ok(material)
        };
        // The order in which two ends are looked at is chance.
        for _ in 0..64 {
            let (mut client, _) = keys(Side::Client, export).unwrap();
            let (sealer, opener) = keys(Side::Server, export).unwrap();
            let (outgoing, incoming) = (Arc::new(Mailbox::new(QUEUE)), Arc::new(Mailbox::new(QUEUE)));
            for number in 0..9 {
                incoming.put(client.seal(&[number]).unwrap());
            }
            let mut datagrams = Datagrams { sealer, opener, outgoing, incoming };
            let (_a, mut local, seen) = queue(9);
            let counts = Counts::default();
            let end = carry_sealed(&mut local, (tokio::io::empty(), &mut datagrams), IDLE, &counts, |_| {}).await;
            assert!(matches!(end, End::Stream(None)));
            assert_eq!(seen.lock().unwrap().len(), 9);
        }
    }

    #[tokio::test]
    async fn who_takes_nothing_loses_datagrams_and_stops_nobody() {
        let (near, far) = tokio::io::duplex(4096);
        let ((a, mut left, _), (_b, mut right, seen)) = (queue(9), queue(5));
        let counted = Counts::default();
        let flood = async {
            for _ in 0..10_000 {
                a.send(Bytes::from_static(&[7; 1200])).await.unwrap();
            }
            drop(a);
        };
        let sent = Counts::default();
        let one = carry(&mut left, near, IDLE, &sent, |_| {});
        let two = carry(&mut right, far, IDLE, &counted, |_| {});
        tokio::join!(flood, one, two);
        assert_eq!((seen.lock().unwrap().len(), counted.dropped()), (5, 9_995));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_that_is_silent_ends_and_one_that_is_not_lives() {
        let (near, far) = tokio::io::duplex(4096);
        let ((a, mut left, _), (_b, mut right, _)) = (queue(99), queue(99));
        let begun = Instant::now();
        let talk = async {
            for _ in 0..10 {
                tokio::time::sleep(IDLE / 2).await;
                a.send(Bytes::from_static(b"x")).await.unwrap();
            }
        };
        let (sent, counted) = (Counts::default(), Counts::default());
        let one = carry(&mut left, near, IDLE, &sent, |_| {});
        let two = carry(&mut right, far, IDLE, &counted, |_| {});
        let ((), one, _) = tokio::join!(talk, one, two);
        assert!(matches!(one, End::Idle | End::Stream(None)), "{one:?}");
        let took = begun.elapsed();
        assert!(took >= IDLE * 6 && took <= IDLE * 7, "{took:?}");
    }

    #[tokio::test]
    async fn garbage_ends_the_flow() {
        let (near, mut far) = tokio::io::duplex(64);
        let (_a, mut left, _) = queue(9);
        far.write_all(&[0, 0]).await.unwrap();
        let counts = Counts::default();
        let end = carry(&mut left, near, IDLE, &counts, |_| {}).await;
        assert!(matches!(&end, End::Stream(Some(error)) if error.kind() == io::ErrorKind::InvalidData), "{end:?}");
    }
}
