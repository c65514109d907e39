//! One HTTP/2 stream as a byte stream.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::keep_alive::InUse;

/// A flow on an HTTP/2 connection, both directions.
///
/// Shutdown sends `END_STREAM`; dropping it before both directions ended sends `RST_STREAM(CANCEL)`.
#[derive(Debug)]
pub struct H2Io {
    reader: H2Reader,
    writer: H2Writer,
}

impl H2Io {
    /// Joins the two directions of one stream.
    pub fn join(reader: H2Reader, writer: H2Writer) -> Self {
        Self { reader, writer }
    }

    /// Takes the two directions apart.
    pub fn split(self) -> (H2Reader, H2Writer) {
        (self.reader, self.writer)
    }

    /// Ends the stream at once, both directions, with a reason that the peer sees.
    pub fn reset(mut self, reason: Reason) {
        self.writer.reset(reason);
    }
}

impl AsyncRead for H2Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for H2Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

/// Where the bytes of an [`H2Reader`] come from.
#[derive(Debug)]
enum Source {
    /// The response has not come yet.
    Awaiting(oneshot::Receiver<RecvStream>),
    Open(RecvStream),
    /// All bytes were received.
    Ended,
    /// The peer refused the stream, or it failed.
    Failed,
}

/// The receiving direction of a stream.
#[derive(Debug)]
pub struct H2Reader {
    source: Source,
    /// What was received but not read; its flow control is not released yet.
    chunk: Bytes,
    _in_use: Arc<InUse>,
}

impl H2Reader {
    /// Reads a body that is there already.
    pub(super) fn open(body: RecvStream, in_use: Arc<InUse>) -> Self {
        Self { source: Source::Open(body), chunk: Bytes::new(), _in_use: in_use }
    }

    /// Reads the body of a response that is yet to come.
    pub(super) fn awaiting(body: oneshot::Receiver<RecvStream>, in_use: Arc<InUse>) -> Self {
        Self { source: Source::Awaiting(body), chunk: Bytes::new(), _in_use: in_use }
    }

    /// The next bytes, whole as they were received; `None` at the end.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            match &mut self.source {
                Source::Awaiting(body) => match ready!(Pin::new(body).poll(cx)) {
                    Ok(body) => self.source = Source::Open(body),
                    Err(_) => self.source = Source::Failed,
                },
                Source::Open(body) => match ready!(body.poll_data(cx)) {
                    Some(Ok(bytes)) if bytes.is_empty() => {}
                    Some(Ok(bytes)) => return Poll::Ready(Ok(Some(bytes))),
                    Some(Err(error)) => {
                        self.source = Source::Failed;
                        return Poll::Ready(Err(stream_error(error)));
                    }
                    None => self.source = Source::Ended,
                },
                Source::Ended => return Poll::Ready(Ok(None)),
                Source::Failed => {
                    let message = "the peer refused the stream or the connection failed";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, message)));
                }
            }
        }
    }
}

impl AsyncRead for H2Reader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let this = &mut *self;
        // A caller may hand in a buffer that holds bytes of earlier reads.
        let before = buffer.filled().len();
        // As much as fits and is there: one read for many small frames.
        while buffer.remaining() > 0 {
            if this.chunk.is_empty() {
                match this.poll_chunk(cx) {
                    Poll::Ready(Ok(Some(chunk))) => this.chunk = chunk,
                    // Reported by the next read; the bytes so far are good.
                    Poll::Ready(Ok(None) | Err(_)) | Poll::Pending if buffer.filled().len() > before => break,
                    Poll::Ready(Ok(None)) => break,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let count = this.chunk.len().min(buffer.remaining());
            buffer.put_slice(&this.chunk[..count]);
            this.chunk.advance(count);
            if let Source::Open(body) = &mut this.source {
                // Only fails on a stream that is over.
                let _ = body.flow_control().release_capacity(count);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The sending direction of a stream.
#[derive(Debug)]
pub struct H2Writer {
    stream: SendStream<Bytes>,
    /// `END_STREAM` or `RST_STREAM` was sent.
    ended: bool,
}

impl H2Writer {
    pub(super) fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, ended: false }
    }

    /// Ends the stream at once, both directions.
    pub fn reset(&mut self, reason: Reason) {
        self.ended = true;
        self.stream.send_reset(reason);
    }

    /// Why the stream no longer takes bytes. Call it only when it does not.
    fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match ready!(self.stream.poll_reset(cx)) {
            Ok(Reason::NO_ERROR | Reason::STREAM_CLOSED) => Poll::Ready(io::ErrorKind::BrokenPipe.into()),
            Ok(reason) => Poll::Ready(stream_error(reason.into())),
            Err(error) => Poll::Ready(stream_error(error)),
        }
    }
}

impl AsyncWrite for H2Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        loop {
            let count = self.stream.capacity().min(bytes.len());
            if count > 0 {
                let sent = self.stream.send_data(Bytes::copy_from_slice(&bytes[..count]), false);
                return match sent {
                    Ok(()) => Poll::Ready(Ok(count)),
                    Err(_) => self.poll_failure(cx).map(Err),
                };
            }
            self.stream.reserve_capacity(bytes.len());
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return self.poll_failure(cx).map(Err),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes what it was given.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        match self.stream.send_data(Bytes::new(), true) {
            Ok(()) => {
                self.ended = true;
                Poll::Ready(Ok(()))
            }
            Err(_) => self.poll_failure(cx).map(Err),
        }
    }
}

impl Drop for H2Writer {
    fn drop(&mut self) {
        // An end that was not said is no end: the peer must not take a cut flow for a whole one. When the sending
        // direction did end, h2 itself cancels what is left of the receiving one.
        if !self.ended {
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

/// What a failed stream looks like to readers and writers.
fn stream_error(error: h2::Error) -> io::Error {
    let kind = if error.is_reset() || error.is_go_away() {
        io::ErrorKind::ConnectionReset
    } else if let Some(error) = error.get_io() {
        error.kind()
    } else {
        io::ErrorKind::BrokenPipe
    };
    io::Error::new(kind, error)
}
