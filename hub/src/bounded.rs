//! A connection that breaks when it must end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Resolves, with the reason, when the connection must end.
pub(crate) type End = Pin<Box<dyn Future<Output = String> + Send>>;

/// Passes everything on until the end, and nothing after it.
pub(crate) struct Bounded<IO> {
    stream: IO,
    end: End,
    ended: bool,
}

impl<IO> Bounded<IO> {
    pub(crate) fn new(stream: IO, end: End) -> Self {
        Self { stream, end, ended: false }
    }

    /// Reads and writes both ask: HTTP/2 reads nothing while its peer takes nothing, so a peer that stopped reading
    /// would never be looked at.
    fn check_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.ended
            && let Poll::Ready(reason) = self.end.as_mut().poll(cx)
        {
            self.ended = true;
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason));
        }
        match self.ended {
            true => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            false => Ok(()),
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Bounded<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_end(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Bounded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_end(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_end(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn after_the_end_nothing_is_read_nor_written_nor_flushed() {
        let (near, mut far) = tokio::io::duplex(64);
        let (over, end) = oneshot::channel::<()>();
        let end = Box::pin(async move {
            let _ = end.await;
            "over".to_owned()
        });
        let mut near = Bounded::new(near, end);
        near.write_all(b"before").await.unwrap();
        far.write_all(b"before").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'b');
        over.send(()).unwrap();
        assert_eq!(near.write_all(b"after").await.unwrap_err().to_string(), "over");
        for kind in [
            near.write_all(b"after").await.unwrap_err().kind(),
            near.flush().await.unwrap_err().kind(),
            near.read_u8().await.unwrap_err().kind(),
        ] {
            assert_eq!(kind, io::ErrorKind::ConnectionAborted);
        }
    }

    #[tokio::test]
    async fn a_write_that_waits_for_a_peer_that_reads_nothing_ends_too() {
        let (near, _far) = tokio::io::duplex(1);
        let end = Box::pin(async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            "over".to_owned()
        });
        let error = Bounded::new(near, end).write_all(b"more than fits").await.unwrap_err();
        assert_eq!(error.to_string(), "over");
    }
}
