//! A limit of what a request's body may have.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Extensions;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;

use super::{Body, BodyError};

/// Travels with a request whose body is limited: told when the body is too large, so that whoever waits for the answer
/// need not wait any longer.
#[derive(Debug, Clone, Default)]
pub struct Oversize(CancellationToken);

impl Oversize {
    /// Resolves when the body of the request with these extensions turns out to be too large; never if it has no limit.
    pub async fn of(extensions: &Extensions) {
        match extensions.get::<Self>() {
            Some(Self(told)) => told.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

/// Breaks a body off that has more bytes than it may.
pub struct Limited {
    inner: Body,
    left: u64,
    told: Oversize,
}

impl Limited {
    /// Wraps `inner`, which ends with [`BodyError::TooLarge`] in the place of the byte after `most`.
    pub fn wrap(inner: Body, most: u64) -> (Body, Oversize) {
        let told = Oversize::default();
        (Self { inner, left: most, told: told.clone() }.boxed_unsync(), told)
    }
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let came = polled.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        match self.left.checked_sub(came as u64) {
            Some(left) => {
                self.left = left;
                Poll::Ready(polled)
            }
            None => {
                self.told.0.cancel();
                Poll::Ready(Some(Err(BodyError::TooLarge)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn body(chunks: &[&'static str]) -> Body {
        let frames = chunks.iter().map(|chunk| Ok::<_, BodyError>(Frame::data(Bytes::from_static(chunk.as_bytes()))));
        StreamBody::new(tokio_stream::iter(frames.collect::<Vec<_>>())).boxed_unsync()
    }

    async fn is_told(extensions: &Extensions) -> bool {
        tokio::select! {
            biased;
            () = Oversize::of(extensions) => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn what_is_within_the_limit_passes_and_the_byte_after_it_is_told() {
        let (whole, _told) = Limited::wrap(body(&["abc", "", "de"]), 5);
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "abcde");
        let (broken, told) = Limited::wrap(body(&["abc", "def"]), 5);
        let mut extensions = Extensions::new();
        extensions.insert(told);
        assert!(!is_told(&extensions).await);
        assert!(matches!(broken.collect().await, Err(BodyError::TooLarge)));
        assert!(is_told(&extensions).await);
        assert!(!is_told(&Extensions::new()).await);
    }

    #[tokio::test]
    async fn the_length_stays_known() {
        let (limited, _told) = Limited::wrap(Full::from("abc").map_err(|never| match never {}).boxed_unsync(), 5);
        assert_eq!(limited.size_hint().exact(), Some(3));
    }
}
