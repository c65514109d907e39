//! A stream whose client must begin in time: telling HTTP/1.1 from HTTP/2 waits for bytes, and has no patience of its own.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

use crate::delegate::writes_as_inner;
use crate::detect::HTTP2_PREFACE;

/// Fails reads of a client that has sent neither a request nor as much as tells the protocol.
pub(super) struct Opening<T> {
    inner: T,
    read: usize,
    /// `None` once the client has begun.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Set with the first request.
    begun: Arc<AtomicBool>,
}

impl<T> Opening<T> {
    pub(super) fn new(inner: T, patience: Duration, begun: Arc<AtomicBool>) -> Self {
        Self { inner, read: 0, deadline: Some(Box::pin(tokio::time::sleep(patience))), begun }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Opening<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.deadline.is_none() {
            return polled;
        }
        self.read += buf.filled().len() - before;
        if self.read >= HTTP2_PREFACE.len() || self.begun.load(Ordering::Relaxed) {
            self.deadline = None;
            return polled;
        }
        let late = polled.is_pending() && self.deadline.as_mut().is_some_and(|late| late.as_mut().poll(cx).is_ready());
        if late { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { polled }
    }
}

writes_as_inner!(Opening);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use crate::listen::{Lifecycle, Limits};
    use crate::reply;
    use crate::serve::serve;

    #[tokio::test(start_paused = true)]
    async fn clients_that_never_begin_are_not_kept() {
        let limits = Limits::default();
        for first in ["", "P", "PRI * HTTP/2.0"] {
            let (near, mut far) = tokio::io::duplex(1024);
            far.write_all(first.as_bytes()).await.unwrap();
            let life = Lifecycle::default();
            let served = serve(near, &limits, &life, |_| async { reply::text(http::StatusCode::OK, "never asked") });
            assert!(tokio::time::timeout(limits.header_timeout * 2, served).await.is_ok(), "{first:?}");
        }
    }
}
