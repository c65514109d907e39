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
        let mut first: VecDeque<Frame<Bytes>> = VecDeque::new();
        let mut bytes = BytesMut::new();
        // One byte too many tells a body that is too long from one that just fits.
        while bytes.len() <= max {
            let Some(frame) = from.frame().await else { break };
            let frame = frame.map_err(|error| PeekError::Broken(body::chain(&error)))?;
            if let Some(data) = frame.data_ref() {
                bytes.extend_from_slice(data);
            }
            first.push_back(frame);
        }
        let partial = bytes.len() > max;
        if partial && !wanted.allow_partial {
            return Err(PeekError::TooLarge);
        }
        bytes.truncate(max);
        let whole = Rejoined { first, rest: from }.boxed_unsync();
        Ok((Self { bytes: bytes.freeze(), partial, wanted: true }, whole))
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
