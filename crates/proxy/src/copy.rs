//! Copies bytes both ways between two streams until both directions have ended.
//!
//! The end of one direction is passed on (`FIN` ↔ `END_STREAM`) while the other flows on. A failure in either direction
//! ends both: the caller then resets the two streams ([`CopyOutcome::error`] is set), so that a reset is never turned
//! into a clean end. Dropping an [`crate::hbone::H2Io`] resets it; for TCP there is [`abort_tcp`].

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// A buffer's first size in bytes; most flows never need more.
const BUFFER_MIN: usize = 16 * 1024;
/// A buffer's last size in bytes; it doubles towards it while reads fill it.
const BUFFER_MAX: usize = 256 * 1024;
/// How often a copy says how much has moved; Istio's interval for TCP metrics is 5 to 15 s.
const REPORT: Duration = Duration::from_secs(10);

/// Who ended a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first stream ended or failed first.
    A,
    /// The second stream ended or failed first.
    B,
    /// We did, because no byte moved for the idle time.
    Us,
}

/// How much a copy has carried so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Bytes carried from the first to the second stream.
    pub a_to_b: u64,
    /// Bytes carried from the second to the first stream.
    pub b_to_a: u64,
}

/// What a copy did.
#[derive(Debug)]
pub struct CopyOutcome {
    /// Bytes carried from the first to the second stream.
    pub a_to_b: u64,
    /// Bytes carried from the second to the first stream.
    pub b_to_a: u64,
    /// Who ended it.
    pub closed_by: Side,
    /// Why it ended before both directions did; the streams must be reset.
    pub error: Option<io::Error>,
}

/// Copies until both directions ended, one failed, or no byte moved for `idle`.
///
/// Takes streams by value or by `&mut`. Cancelling it loses bytes that are in its buffers.
pub async fn copy_bidirectional<A, B>(mut a: A, mut b: B, idle: Option<Duration>) -> CopyOutcome
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut copy = Copy::default();
    loop {
        let moved = copy.moved();
        let error = match idle {
            None => copy.both(&mut a, &mut b).await,
            // The deadline restarts only when it fires and bytes have moved meanwhile: cheaper than on every byte.
            Some(idle) => tokio::select! {
                error = copy.both(&mut a, &mut b) => error,
                () = sleep_until(Instant::now() + idle) => {
                    if copy.moved() != moved {
                        continue;
                    }
                    copy.give_up()
                }
            },
        };
        return copy.outcome(error);
    }
}

/// Like [`copy_bidirectional`], and says every [`REPORT`] how much has moved, if anything has. The copy itself looks at no
/// clock: one timer serves the reports and the idle time.
pub(crate) async fn copy_reporting<A, B>(
    mut a: A,
    mut b: B,
    idle: Duration,
    mut report: impl FnMut(Moved),
) -> CopyOutcome
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut copy = Copy::default();
    let (mut moved, mut quiet_since) = (copy.moved(), Instant::now());
    loop {
        let wake = (Instant::now() + REPORT).min(quiet_since + idle);
        let error = tokio::select! {
            error = copy.both(&mut a, &mut b) => error,
            () = sleep_until(wake) => {
                if copy.moved() != moved {
                    (moved, quiet_since) = (copy.moved(), Instant::now());
                    report(moved);
                    continue;
                }
                if quiet_since + idle > Instant::now() {
                    continue;
                }
                copy.give_up()
            }
        };
        return copy.outcome(error);
    }
}

/// Makes the kernel send a reset instead of a clean end when the stream is dropped.
pub fn abort_tcp(stream: &TcpStream) {
    // Only fails on a socket that is gone already.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Both directions of one copy.
#[derive(Default)]
struct Copy {
    forward: Direction,
    backward: Direction,
    /// The side that ended or failed first.
    closed_by: Option<Side>,
}

impl Copy {
    fn moved(&self) -> Moved {
        Moved { a_to_b: self.forward.written, b_to_a: self.backward.written }
    }

    /// Goes on until both directions ended (`None`) or one failed. Cancelling it loses nothing.
    async fn both<A, B>(&mut self, a: &mut A, b: &mut B) -> Option<io::Error>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        poll_fn(|cx| self.poll(cx, a, b)).await
    }

    fn give_up(&mut self) -> Option<io::Error> {
        self.closed_by = Some(Side::Us);
        Some(io::Error::new(io::ErrorKind::TimedOut, "no byte moved for the idle time"))
    }

    fn outcome(self, error: Option<io::Error>) -> CopyOutcome {
        let Moved { a_to_b, b_to_a } = self.moved();
        CopyOutcome { a_to_b, b_to_a, closed_by: self.closed_by.unwrap_or(Side::Us), error }
    }

    /// Ready when both directions ended (`None`) or one failed.
    fn poll<A, B>(&mut self, cx: &mut Context<'_>, a: &mut A, b: &mut B) -> Poll<Option<io::Error>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let forward = self.forward.poll(cx, a, b);
        if self.forward.ended {
            self.closed_by.get_or_insert(Side::A);
        }
        let backward = self.backward.poll(cx, b, a);
        if self.backward.ended {
            self.closed_by.get_or_insert(Side::B);
        }
        let failure = match (forward, backward) {
            (Poll::Ready(Err(failure)), _) => (failure, Side::A, Side::B),
            (_, Poll::Ready(Err(failure))) => (failure, Side::B, Side::A),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(None),
            _ => return Poll::Pending,
        };
        let (failure, source, target) = failure;
        let (side, error) = match failure {
            Failure::Read(error) => (source, error),
            Failure::Write(error) => (target, error),
        };
        self.closed_by.get_or_insert(side);
        Poll::Ready(Some(error))
    }
}

/// Which half of a direction failed, and thereby whose fault it is.
enum Failure {
    Read(io::Error),
    Write(io::Error),
}

/// One direction: a buffer between a reader and a writer.
#[derive(Default)]
struct Direction {
    /// Empty until the first read.
    buffer: Box<[u8]>,
    /// The bytes of `buffer` that are read but not written: `start..end`.
    start: usize,
    end: usize,
    /// Bytes handed to the writer.
    written: u64,
    /// The reader ended.
    ended: bool,
    /// The writer has bytes that it may still hold back.
    unflushed: bool,
    /// The end was passed on.
    shut: bool,
}

impl Direction {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<Result<(), Failure>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.shut {
            if self.start < self.end {
                let bytes = &self.buffer[self.start..self.end];
                let count = ready!(Pin::new(&mut *writer).poll_write(cx, bytes)).map_err(Failure::Write)?;
                if count == 0 {
                    return Poll::Ready(Err(Failure::Write(io::ErrorKind::WriteZero.into())));
                }
                self.start += count;
                self.written += count as u64;
                self.unflushed = true;
            } else if self.ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failure::Write)?;
                self.shut = true;
            } else {
                match self.poll_fill(cx, reader) {
                    Poll::Ready(filled) => filled.map_err(Failure::Read)?,
                    Poll::Pending => {
                        if self.unflushed {
                            ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Failure::Write)?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, reader: &mut R) -> Poll<io::Result<()>> {
        // The last read filled the buffer: the flow is fast, so the next read may take more.
        if self.buffer.is_empty() || (self.end == self.buffer.len() && self.end < BUFFER_MAX) {
            self.buffer = vec![0; (self.buffer.len() * 2).clamp(BUFFER_MIN, BUFFER_MAX)].into_boxed_slice();
        }
        (self.start, self.end) = (0, 0);
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(reader).poll_read(cx, &mut buffer))?;
        self.end = buffer.filled().len();
        self.ended = self.end == 0;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let (mut client, a) = duplex(1024);
        let (b, mut server) = duplex(1024);
        let copy = tokio::spawn(copy_bidirectional(a, b, None));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        // The question's end did not end the answer.
        server.write_all(b"a longer answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "a longer answer");
        let outcome = copy.await.unwrap();
        assert_eq!((outcome.a_to_b, outcome.b_to_a, outcome.closed_by), (8, 15, Side::A));
        assert!(outcome.error.is_none());
    }

    #[tokio::test]
    async fn a_failing_writer_is_the_one_who_closed() {
        let (mut client, a) = duplex(1024);
        let (b, server) = duplex(1024);
        drop(server);
        client.write_all(b"lost").await.unwrap();
        let outcome = copy_bidirectional(a, tokio_test_reader(b), None).await;
        assert_eq!(outcome.closed_by, Side::B);
        assert!(outcome.error.is_some());
    }

    /// A stream whose reads never end, so that only its writes can fail.
    fn tokio_test_reader<W: AsyncWrite + Unpin>(writer: W) -> impl AsyncRead + AsyncWrite + Unpin {
        struct Endless<W>(W);
        impl<W: Unpin> AsyncRead for Endless<W> {
            fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                Poll::Pending
            }
        }
        impl<W: AsyncWrite + Unpin> AsyncWrite for Endless<W> {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.0).poll_write(cx, bytes)
            }
            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_flush(cx)
            }
            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_shutdown(cx)
            }
        }
        Endless(writer)
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_copy_ends_and_a_moving_one_does_not() {
        let (mut client, a) = duplex(1024);
        let (b, mut server) = duplex(1024);
        let copy = tokio::spawn(copy_bidirectional(a, b, Some(Duration::from_secs(10))));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(8)).await;
            client.write_all(b"x").await.unwrap();
            server.read_u8().await.unwrap();
        }
        assert!(!copy.is_finished());
        let outcome = copy.await.unwrap();
        assert_eq!(outcome.closed_by, Side::Us);
        assert_eq!(outcome.error.unwrap().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_copy_tells_how_much_has_moved_and_still_ends_when_idle() {
        let (mut client, a) = duplex(1024);
        let (b, mut server) = duplex(1024);
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
        let idle = Duration::from_secs(35);
        let started = Instant::now();
        let copy = tokio::spawn(copy_reporting(a, b, idle, move |moved| tx.send((Instant::now(), moved)).unwrap()));
        for _ in 0..2 {
            client.write_all(b"xyz").await.unwrap();
            server.read_exact(&mut [0; 3]).await.unwrap();
            server.write_all(b"y").await.unwrap();
            client.read_u8().await.unwrap();
            tokio::time::sleep(Duration::from_secs(12)).await;
        }
        let outcome = copy.await.unwrap();
        assert_eq!((outcome.a_to_b, outcome.b_to_a, outcome.closed_by), (6, 2, Side::Us));
        let reports: Vec<_> = std::iter::from_fn(|| rx.try_recv().ok()).collect();
        let expected = [Moved { a_to_b: 3, b_to_a: 1 }, Moved { a_to_b: 6, b_to_a: 2 }];
        assert_eq!(reports.iter().map(|(_, moved)| *moved).collect::<Vec<_>>(), expected);
        assert_eq!((reports[0].0 - started).as_secs(), 10);
        assert!(started.elapsed() >= idle + Duration::from_secs(12), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn bulk_arrives_whole_through_growing_buffers() {
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        let (mut client, a) = duplex(1 << 20);
        let (b, mut server) = duplex(1 << 20);
        tokio::spawn(copy_bidirectional(a, b, None));
        let expected = sent.clone();
        tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            // Kept open for the other direction.
            let _ = client.read_u8().await;
        });
        let mut seen = Vec::new();
        server.read_to_end(&mut seen).await.unwrap();
        assert!(seen == expected);
    }
}
