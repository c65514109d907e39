//! One QUIC stream as a byte stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::{RecvStream, SendStream, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The application error code of a stream that was cut off.
const RESET: VarInt = VarInt::from_u32(1);
/// How long the last bytes of a stream may take to be acknowledged before the flow counts as done.
const SETTLE: Duration = Duration::from_secs(5);

/// Both directions of a stream. Shutdown is `FIN`; dropping it before is `RESET_STREAM` and `STOP_SENDING`.
pub(crate) struct QuicIo {
    send: SendStream,
    recv: RecvStream,
    finished: bool,
}

impl QuicIo {
    pub(crate) fn new(send: SendStream, recv: RecvStream) -> Self {
        Self { send, recv, finished: false }
    }

    /// The receiving direction alone, for frames.
    pub(crate) fn reader(&mut self) -> &mut RecvStream {
        &mut self.recv
    }

    /// Both directions, for concurrent use.
    pub(crate) fn halves(&mut self) -> (&mut SendStream, &mut RecvStream) {
        (&mut self.send, &mut self.recv)
    }

    /// Ends the sending direction.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
        // Fails only when it was ended before.
        let _ = self.send.finish();
    }

    /// Waits until the peer has acknowledged everything, so that closing the connection loses nothing.
    pub(crate) async fn settled(&mut self) {
        let _ = tokio::time::timeout(SETTLE, self.send.stopped()).await;
    }
}

impl AsyncRead for QuicIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.recv), cx, buffer)
    }
}

impl AsyncWrite for QuicIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for QuicIo {
    fn drop(&mut self) {
        if !self.finished {
            // quinn would send FIN, which would make a cut flow look whole.
            let _ = self.send.reset(RESET);
        }
    }
}
