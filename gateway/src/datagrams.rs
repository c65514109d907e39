//! Datagrams of UDP flows, beside the streams that they belong to (RFC 9221).
//!
//! A UDP flow is a stream of capsules (RFC 9297) that gateways cannot read: TLS of the two sidecars, and datagrams that they
//! have sealed. A gateway sends each datagram that fits as a datagram of QUIC, which waits for no lost packet before it, and
//! the others on the stream. Over TCP all go on the stream. On the wire a datagram begins with the index of its stream (the
//! quarter stream id of RFC 9297, section 2.1).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use proxy::capsule::{Capsule, Capsules, DATAGRAM, put_capsule, put_varint, take_varint};
use proxy::copy::{CopyOutcome, Side};
use proxy::mailbox::Mailbox;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::{DatagramLabels, Metrics};
use crate::stream::TunnelIo;
use crate::transport::DATAGRAMS_UNSENT;

/// Datagrams of one flow that wait for its near side; the oldest gives way.
const QUEUE: usize = 64;
/// How long a datagram may wait for its connection to send it; a packet of speech is of no use later.
const PATIENCE: Duration = Duration::from_millis(200);
/// Bytes that may wait however slow the connection is.
const LEAST: u64 = 4096;
/// Bytes that are read at once.
const CHUNK: usize = 16 * 1024;

/// The datagrams of one QUIC connection, by the stream that they belong to.
#[derive(Debug)]
pub(crate) struct Datagrams {
    connection: quinn::Connection,
    /// Never held across an await.
    flows: Mutex<BTreeMap<u64, Arc<Mailbox>>>,
    /// It holds the connection, which nobody else may any more.
    _receiving: AbortOnDropHandle<()>,
}

impl Datagrams {
    /// Hands out what comes over a connection, until it ends or all that knows of it is gone.
    pub(crate) fn of(connection: quinn::Connection) -> Arc<Self> {
        Arc::new_cyclic(|own: &Weak<Self>| {
            let (own, from) = (own.clone(), connection.clone());
            let receiving = tokio::spawn(async move {
                while let Ok(datagram) = from.read_datagram().await {
                    let Some(own) = own.upgrade() else { return };
                    own.receive(datagram);
                }
            });
            Self { connection, flows: Mutex::default(), _receiving: AbortOnDropHandle::new(receiving) }
        })
    }

    /// Those of one flow, until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, stream: u64) -> FlowDatagrams {
        let mailbox = Arc::new(Mailbox::new(QUEUE));
        self.flows().insert(stream, Arc::clone(&mailbox));
        FlowDatagrams { all: Arc::clone(self), stream, mailbox }
    }

    /// A datagram of a stream that is not there, or not any more, is nobody's.
    fn receive(&self, mut datagram: Bytes) {
        let mailbox = take_varint(&mut datagram).and_then(|stream| self.flows().get(&stream).cloned());
        if let Some(mailbox) = mailbox {
            mailbox.put(datagram);
        }
    }

    fn flows(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Mailbox>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The datagrams of one flow.
#[derive(Debug)]
pub(crate) struct FlowDatagrams {
    all: Arc<Datagrams>,
    stream: u64,
    mailbox: Arc<Mailbox>,
}

impl FlowDatagrams {
    /// Sends a datagram beside the stream, if it fits.
    fn send(&self, payload: &[u8]) -> Sent {
        let connection = &self.all.connection;
        let Some(most) = connection.max_datagram_size() else { return Sent::Unfit };
        let mut datagram = BytesMut::with_capacity(payload.len() + 8);
        put_varint(self.stream, &mut datagram);
        datagram.extend_from_slice(payload);
        if datagram.len() > most {
            return Sent::Unfit;
        }
        let path = connection.stats().path;
        let waiting = DATAGRAMS_UNSENT.saturating_sub(connection.datagram_send_buffer_space()) as u64;
        if waiting > mesh::datagrams_may_wait(path.cwnd, path.rtt, PATIENCE, LEAST) {
            return Sent::TooMany;
        }
        match connection.send_datagram(datagram.freeze()) {
            Ok(()) => Sent::Datagram,
            Err(_) => Sent::Unfit,
        }
    }
}

impl Drop for FlowDatagrams {
    fn drop(&mut self) {
        self.all.flows().remove(&self.stream);
    }
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It went.
    Datagram,
    /// So many wait that it would come too late.
    TooMany,
    /// It is too long for the way, or the peer takes none.
    Unfit,
}

/// What a UDP flow is carried with.
pub(crate) struct Relay<'a> {
    /// Of a stream over QUIC.
    pub(crate) datagrams: Option<FlowDatagrams>,
    /// The first bytes of the near side, which went to the stream already.
    pub(crate) sent: &'a [u8],
    pub(crate) metrics: &'a Metrics,
}

impl Relay<'_> {
    /// Carries one flow between the near side, a sidecar, and the stream to the other gateway, until both have ended.
    pub(crate) async fn run<N>(&self, near: &mut N, tunnel: &mut TunnelIo) -> CopyOutcome
    where
        N: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut away, mut back) = (0, 0);
        let (near_reader, near_writer) = tokio::io::split(near);
        let (tunnel_reader, tunnel_writer) = tokio::io::split(tunnel);
        let (closed_by, error) = {
            let going = self.away(near_reader, tunnel_writer, &mut away);
            let beside = self.datagrams.as_ref().map(|datagrams| &*datagrams.mailbox);
            let coming = come_back(tunnel_reader, beside, near_writer, self.metrics, &mut back);
            tokio::pin!(going, coming);
            tokio::select! {
                ended = going.as_mut() => (Side::A, match ended {
                    Ok(()) => coming.await.err(),
                    Err(error) => Some(error),
                }),
                ended = coming.as_mut() => (Side::B, match ended {
                    Ok(()) => going.await.err(),
                    Err(error) => Some(error),
                }),
            }
        };
        CopyOutcome { a_to_b: away, b_to_a: back, closed_by, error }
    }

    async fn away(
        &self,
        mut near: impl AsyncRead + Unpin,
        mut tunnel: impl AsyncWrite + Unpin,
        moved: &mut u64,
    ) -> io::Result<()> {
        let (mut capsules, mut chunk, mut whole) = (Capsules::default(), BytesMut::new(), BytesMut::new());
        capsules.push(self.sent);
        while next(&mut capsules)?.is_some() {}
        // The beginning of a capsule that has gone: the rest goes the same way.
        let mut gone = capsules.incomplete();
        loop {
            chunk.clear();
            chunk.reserve(CHUNK);
            let count = near.read_buf(&mut chunk).await?;
            if count == 0 {
                return tunnel.shutdown().await;
            }
            *moved += count as u64;
            capsules.push(&chunk);
            whole.clear();
            while let Some(Capsule { kind, value }) = next(&mut capsules)? {
                let beside = self.datagrams.as_ref().filter(|_| kind == DATAGRAM && gone == 0);
                match beside.map(|datagrams| datagrams.send(&value)) {
                    Some(Sent::Datagram) => {
                        note(self.metrics, "sent", "datagram");
                        continue;
                    }
                    Some(Sent::TooMany) => {
                        note(self.metrics, "sent", "dropped");
                        continue;
                    }
                    Some(Sent::Unfit) | None if kind == DATAGRAM => note(self.metrics, "sent", "stream"),
                    Some(Sent::Unfit) | None => {}
                }
                put_capsule(kind, &value, &mut whole);
                whole.advance(std::mem::take(&mut gone).min(whole.len()));
            }
            tunnel.write_all(&whole).await?;
            tunnel.flush().await?;
        }
    }
}

/// Carries what comes of the stream, and of the datagrams beside it, to the near side. Datagrams that were there before the end of the
/// stream go before it.
async fn come_back(
    mut tunnel: impl AsyncRead + Unpin,
    beside: Option<&Mailbox>,
    mut near: impl AsyncWrite + Unpin,
    metrics: &Metrics,
    moved: &mut u64,
) -> io::Result<()> {
    let (mut capsules, mut chunk, mut whole) = (Capsules::default(), BytesMut::new(), BytesMut::new());
    let mut ended = false;
    while !ended {
        chunk.clear();
        chunk.reserve(CHUNK);
        whole.clear();
        tokio::select! {
            read = tunnel.read_buf(&mut chunk) => {
                ended = read? == 0;
                capsules.push(&chunk);
                while let Some(Capsule { kind, value }) = next(&mut capsules)? {
                    if kind == DATAGRAM {
                        note(metrics, "received", "stream");
                    }
                    put_capsule(kind, &value, &mut whole);
                }
            }
            Some(value) = arrived(beside) => {
                note(metrics, "received", "datagram");
                put_capsule(DATAGRAM, &value, &mut whole);
            }
        }
        while ended && let Some(value) = beside.and_then(Mailbox::try_take) {
            note(metrics, "received", "datagram");
            put_capsule(DATAGRAM, &value, &mut whole);
        }
        *moved += whole.len() as u64;
        near.write_all(&whole).await?;
        near.flush().await?;
    }
    near.shutdown().await
}

fn note(metrics: &Metrics, direction: &'static str, carried: &'static str) {
    metrics.datagrams.get_or_create(&DatagramLabels { direction, carried }).inc();
}

/// The next datagram beside the stream; never, where there are none.
async fn arrived(beside: Option<&Mailbox>) -> Option<Bytes> {
    match beside {
        Some(mailbox) => mailbox.take().await,
        None => std::future::pending().await,
    }
}

fn next(capsules: &mut Capsules) -> io::Result<Option<Capsule>> {
    capsules.next_capsule().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn datagrams_that_came_before_the_end_go_before_it() {
        let metrics = Metrics::register(&telemetry::Registry::new("gateway"));
        // The end and the datagrams are there at once, and which of them is met first is left to chance.
        for _ in 0..20 {
            let (mailbox, mut near, mut expected) = (Mailbox::new(QUEUE), Vec::new(), BytesMut::new());
            for number in 0..5 {
                mailbox.put(vec![number; 900].into());
                put_capsule(DATAGRAM, &[number; 900], &mut expected);
            }
            let mut moved = 0;
            come_back(tokio::io::empty(), Some(&mailbox), &mut near, &metrics, &mut moved).await.unwrap();
            assert_eq!(near, expected);
            assert_eq!(moved, expected.len() as u64);
        }
    }
}
