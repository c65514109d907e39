//! The beginning of a request's body, read before the rest goes on.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use mesh::ExternalAuthorizerBody;

use crate::body::{self, Body, BodyError};

/// What an authorizer sees of a body.
#[derive(Debug, Clone, Default)]
pub(in crate::guard) struct Peeked {
    /// At most as much as was asked for.
    pub(super) bytes: Bytes,
    /// There is more.
    pub(super) partial: bool,
    /// Anything was asked for at all.
    pub(super) wanted: bool,
}

/// Why a body was not read.
#[derive(Debug)]
pub(in crate::guard) enum PeekError {
    /// It is longer than the authorizer wants, and no part would do.
    TooLarge,
    /// The client broke it off.
    Broken(String),
}

impl Peeked {
    /// Reads the beginning of a body; the body that is returned is whole again.
    pub(in crate::guard) async fn read(
        mut from: Body,
        wanted: Option<ExternalAuthorizerBody>,
    ) -> Result<(Self, Body), PeekError> {
        let Some(wanted) = wanted else { return Ok((Self::default(), from)) };
        let max = usize::try_from(wanted.max_bytes).unwrap_or(usize::MAX);
        let (mut read, mut trailers) = (BytesMut::new(), None);
        // One byte too many tells a body that is too long from one that just fits. Frames are not kept as they come: a
        // client can make them as small and as many as it likes.
        while read.len() <= max {
            let Some(frame) = from.frame().await else { break };
            match frame.map_err(|error| PeekError::Broken(body::chain(&error)))?.into_data() {
                Ok(data) => read.extend_from_slice(&data),
                Err(frame) => {
                    trailers = Some(frame);
                    break;
                }
            }
        }
        let partial = read.len() > max;
        if partial && !wanted.allow_partial {
            return Err(PeekError::TooLarge);
        }
        let read = read.freeze();
        let bytes = read.slice(..read.len().min(max));
        let data = (!read.is_empty()).then(|| Frame::data(read));
        let first: VecDeque<Frame<Bytes>> = data.into_iter().chain(trailers).collect();
        let whole = Rejoined { first, rest: from }.boxed_unsync();
        Ok((Self { bytes, partial, wanted: true }, whole))
    }
}

/// A body whose first frames were read already.
struct Rejoined {
    first: VecDeque<Frame<Bytes>>,
    rest: Body,
}

impl HttpBody for Rejoined {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.first.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self.first.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http_body_util::StreamBody;

    use super::*;

    /// What an authorizer sees of frames of these lengths, how many frames go on before the rest, and the whole length.
    async fn peek(lengths: &[usize], max_bytes: u32) -> Option<(usize, bool, usize, usize)> {
        let data = lengths.iter().map(|length| Ok::<_, BodyError>(Frame::data(Bytes::from(vec![b'x'; *length]))));
        let frames: Vec<_> = data.chain([Ok(Frame::trailers(HeaderMap::new()))]).collect();
        let body = StreamBody::new(tokio_stream::iter(frames)).boxed_unsync();
        let (peeked, mut whole) =
            Peeked::read(body, Some(ExternalAuthorizerBody { max_bytes, allow_partial: true })).await.ok()?;
        let (mut frames, mut length) = (0, 0);
        while let Some(frame) = whole.frame().await {
            frames += 1;
            length += frame.ok()?.data_ref().map_or(0, Bytes::len);
        }
        Some((peeked.bytes.len(), peeked.partial, frames, length))
    }

    #[tokio::test]
    async fn many_small_frames_cost_no_more_than_their_bytes() {
        assert_eq!(peek(&[1; 1000], 2000).await, Some((1000, false, 2, 1000)));
        assert_eq!(peek(&[0; 1000], 10).await, Some((0, false, 1, 0)));
        assert_eq!(peek(&[4, 4, 4], 6).await, Some((6, true, 3, 12)));
        assert_eq!(peek(&[4, 2], 6).await, Some((6, false, 2, 6)));
    }
}
