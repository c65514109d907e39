//! Small pieces of a body that wait already are passed on as one.
//!
//! After a pause on the way the messages of a stream arrive all at once. Passed on one by one, each in a DATA frame of its own,
//! they are more than common HTTP/2 libraries take without ending the connection (`h2`: "too_many_data_frames"; the same guard
//! against floods of tiny frames is in others).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use super::{Body, BodyError};

/// Pieces of this size are passed on as they are.
const LARGE: usize = 4 * 1024;
/// What is put together is at least this long when there is more.
const ENOUGH: usize = 16 * 1024;

type Piece = Option<Result<Frame<Bytes>, BodyError>>;

pub(crate) struct Coalesced {
    inner: Body,
    /// What came after the pieces that were passed on last, the end too.
    held: Option<Piece>,
}

impl Coalesced {
    pub(crate) fn wrap(inner: Body) -> Body {
        Self { inner, held: None }.boxed_unsync()
    }

    /// Adds to the first piece what else is there.
    fn gather(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut gathered = BytesMut::new();
        while gathered.len() < ENOUGH && self.held.is_none() {
            let Poll::Ready(piece) = Pin::new(&mut self.inner).poll_frame(cx) else { break };
            match piece.map(|piece| piece.map(Frame::into_data)) {
                Some(Ok(Ok(data))) if data.len() < LARGE => {
                    if gathered.is_empty() {
                        gathered.extend_from_slice(&first);
                    }
                    gathered.extend_from_slice(&data);
                }
                Some(Ok(Ok(data))) => self.held = Some(Some(Ok(Frame::data(data)))),
                Some(Ok(Err(trailers))) => self.held = Some(Some(Ok(trailers))),
                Some(Err(error)) => self.held = Some(Some(Err(error))),
                None => self.held = Some(None),
            }
        }
        if gathered.is_empty() { first } else { gathered.freeze() }
    }
}

impl HttpBody for Coalesced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Piece> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(held);
        }
        let piece = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        Poll::Ready(match piece.map(|piece| piece.map(Frame::into_data)) {
            Some(Ok(Ok(data))) if data.len() < LARGE => Some(Ok(Frame::data(self.gather(data, cx)))),
            Some(Ok(Ok(data))) => Some(Ok(Frame::data(data))),
            Some(Ok(Err(trailers))) => Some(Ok(trailers)),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.held {
            Some(held) => held.is_none(),
            None => self.inner.is_end_stream(),
        }
    }

    /// As it is asked for before the first piece.
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http::HeaderMap;

    use super::*;

    /// Gives its pieces one by one; `None` is a pause.
    struct Pieces(VecDeque<Option<Frame<Bytes>>>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Piece> {
            match self.0.pop_front() {
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(None) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                None => Poll::Ready(None),
            }
        }
    }

    /// The lengths of what passes; 0 for trailers.
    async fn check(given: &[&[usize]], trailers: bool, expect: &[usize]) {
        let runs = given.iter().map(|run| run.iter().map(|length| Some(Frame::data(vec![b'x'; *length].into()))));
        let mut pieces: VecDeque<_> = runs.flat_map(|run| run.chain([None])).collect();
        if trailers {
            pieces.push_back(Some(Frame::trailers(HeaderMap::new())));
        }
        let mut body = Coalesced::wrap(Pieces(pieces).boxed_unsync());
        let mut passed = Vec::new();
        while let Some(frame) = body.frame().await {
            passed.push(frame.unwrap().data_ref().map_or(0, Bytes::len));
        }
        assert_eq!(passed, expect, "{given:?}");
        assert!(body.frame().await.is_none(), "the end stays the end");
    }

    #[tokio::test]
    async fn what_waits_is_passed_on_as_one() {
        check(&[], true, &[0]).await;
        check(&[&[11]], false, &[11]).await;
        check(&[&[11, 11, 11], &[11, 11]], true, &[33, 22, 0]).await;
        check(&[&[11; 2_000]], false, &[16_390, 5_610]).await;
        check(&[&[11, 5_000, 11, 11]], true, &[11, 5_000, 22, 0]).await;
        check(&[&[0, 5, 0]], false, &[5]).await;
    }

    #[tokio::test]
    async fn an_error_comes_after_what_came_before_it() {
        let pieces = VecDeque::from([Some(Frame::data(Bytes::from_static(b"one"))), Some(Frame::data("two".into()))]);
        let broken = crate::body::Timed::wrap(
            Pieces([pieces, VecDeque::from([None])].into_iter().flatten().collect()).boxed_unsync(),
            std::future::ready(()),
        );
        let mut body = Coalesced::wrap(broken);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "onetwo");
        assert!(matches!(body.frame().await, Some(Err(BodyError::Timeout))));
    }
}
