//! Bodies on raw h2 streams: the mTLS port is served by crate `h2` so that resets of opaque flows stay resets, and its
//! HTTP requests meet the rest of the engine here.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::body::{Body, BodyError, Coalesced, chain};

/// A request body as it comes from the peer; flow control is released as it is read.
pub(crate) struct H2Body {
    stream: RecvStream,
    data_ended: bool,
    declared: Option<u64>,
}

impl H2Body {
    /// Wraps what follows the head of a request.
    pub(crate) fn wrap(stream: RecvStream, headers: &HeaderMap) -> Body {
        if stream.is_end_stream() {
            return crate::body::empty();
        }
        let declared = headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Coalesced::wrap(Self { stream, data_ended: false, declared }.boxed_unsync())
    }
}

impl HttpBody for H2Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        while !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    if data.is_empty() && self.stream.is_end_stream() {
                        self.data_ended = true;
                        break;
                    }
                    // Fails only on a stream that is gone, which the next read says.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(match trailers {
            Ok(Some(mut trailers)) => {
                crate::headers::clean_trailers(&mut trailers);
                Some(Ok(Frame::trailers(trailers)))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.declared.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Sends a response with its body and trailers; when the body breaks off, the stream is reset.
pub(crate) async fn respond(mut respond: SendResponse<Bytes>, response: Response<Body>) {
    let (parts, body) = response.into_parts();
    let ended = body.is_end_stream();
    let stream = match respond.send_response(Response::from_parts(parts, ()), ended) {
        Ok(stream) if !ended => stream,
        // Either it is over, or the peer went away.
        _ => return,
    };
    send_body(stream, body).await;
}

async fn send_body(mut stream: SendStream<Bytes>, mut body: Body) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
        };
        match frame {
            None => {
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
            Some(Err(error)) => {
                tracing::debug!(error = chain(&error), "a response broke off");
                stream.send_reset(Reason::INTERNAL_ERROR);
                return;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    if !send_data(&mut stream, data, last).await || last {
                        return;
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let _ = stream.send_trailers(trailers);
                        return;
                    }
                }
            },
        }
    }
}

/// Sends as the peer's window allows; false when the peer went away.
async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> bool {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let granted = poll_fn(|cx| {
            if stream.capacity() > 0 {
                return Poll::Ready(Some(Ok(stream.capacity())));
            }
            stream.poll_capacity(cx)
        });
        match granted.await {
            Some(Ok(0)) => {}
            Some(Ok(granted)) => {
                let part = data.split_to(granted.min(data.len()));
                let end = last && data.is_empty();
                if stream.send_data(part, end).is_err() {
                    return false;
                }
                if end {
                    return true;
                }
            }
            Some(Err(_)) | None => return false,
        }
    }
    !last || stream.send_data(Bytes::new(), true).is_ok()
}
