//! Message bodies: one boxed type for every hop, with the wrappers that the engine needs.
//!
//! [`Replay`] lets a request be sent again while it is small and unanswered; [`Tracked`] tells how a body ended, which
//! is when a request is over, recorded, and its connection given back. [`Limited`] holds it to a size.

mod coalesced;
mod limited;
mod replay;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;

use crate::headers;

pub(crate) use coalesced::Coalesced;
pub use limited::{Limited, Oversize};
pub use replay::{REPLAY_MAX, Replay};

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The peer of a hyper connection broke it off.
    #[error("the peer broke the body off")]
    Hyper(#[from] hyper::Error),
    /// The peer of an h2 stream broke it off.
    #[error("the peer reset the stream")]
    H2(#[from] h2::Error),
    /// The request took longer than it may.
    #[error("the request timed out")]
    Timeout,
    /// It has more bytes than a policy allows.
    #[error("the body is larger than it may be")]
    TooLarge,
    /// The request is being sent again, so this copy of its body is void.
    #[error("the attempt was superseded")]
    Superseded,
}

/// The body of every request and response that the engine passes on.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// What a hyper peer sends; of trailers what may be one ([`headers::clean_trailers`]).
pub fn incoming(body: Incoming) -> Body {
    if body.is_end_stream() {
        return empty();
    }
    Coalesced::wrap(body.map_err(BodyError::Hyper).map_frame(clean).boxed_unsync())
}

fn clean(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        headers::clean_trailers(trailers);
    }
    frame
}

/// Breaks a body off at a deadline.
pub struct Timed {
    inner: Body,
    deadline: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
}

impl Timed {
    /// Wraps `inner`, which ends with [`BodyError::Timeout`] when `deadline` comes before its end.
    pub fn wrap(inner: Body, deadline: impl Future<Output = ()> + Send + 'static) -> Body {
        Self { inner, deadline: Box::pin(deadline), over: false }.boxed_unsync()
    }
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(polled) = Pin::new(&mut self.inner).poll_frame(cx) {
            return Poll::Ready(polled);
        }
        if self.over || self.deadline.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.over = true;
        Poll::Ready(Some(Err(BodyError::Timeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How a body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Data bytes that passed.
    pub bytes: u64,
    /// How it ended.
    pub outcome: BodyOutcome,
    /// `grpc-status` of the trailers, if there were any.
    pub grpc_status: Option<String>,
}

/// The three ways in which a body ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyOutcome {
    /// Everything passed.
    Complete,
    /// The sender broke it off.
    Broken(String),
    /// The receiver went away.
    Abandoned,
}

type OnEnd = Box<dyn FnOnce(Ending) + Send>;

/// A body that reports its end exactly once, also when it is dropped. What only the mesh itself may say it takes out of
/// the trailers: some servers read them as headers.
pub struct Tracked {
    inner: Body,
    bytes: u64,
    declared: Option<u64>,
    grpc_status: Option<String>,
    on_end: Option<OnEnd>,
}

impl Tracked {
    /// Wraps `inner`; `on_end` runs when the last frame passed, on an error, or on drop.
    pub fn wrap(inner: Body, on_end: impl FnOnce(Ending) + Send + 'static) -> Body {
        let declared = inner.size_hint().exact();
        Self { inner, bytes: 0, declared, grpc_status: None, on_end: Some(Box::new(on_end)) }.boxed_unsync()
    }

    fn end(&mut self, outcome: BodyOutcome) {
        if let Some(on_end) = self.on_end.take() {
            on_end(Ending { bytes: self.bytes, outcome, grpc_status: self.grpc_status.take() });
        }
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut polled = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(trailers) = polled.as_mut().and_then(|frame| frame.as_mut().ok()).and_then(Frame::trailers_mut) {
            crate::headers::strip_claims(trailers);
        }
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.bytes += data.len() as u64;
                }
                if let Some(trailers) = frame.trailers_ref() {
                    self.grpc_status = grpc_status(trailers);
                }
            }
            Some(Err(error)) => self.end(BodyOutcome::Broken(chain(error))),
            None => self.end(BodyOutcome::Complete),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Tracked {
    /// A receiver need not ask again once it has the declared bytes, so that is no abandonment.
    fn drop(&mut self) {
        let complete = self.inner.is_end_stream() || self.declared == Some(self.bytes);
        self.end(if complete { BodyOutcome::Complete } else { BodyOutcome::Abandoned });
    }
}

/// The `grpc-status` among headers or trailers.
pub fn grpc_status(headers: &http::HeaderMap) -> Option<String> {
    let value = headers.get("grpc-status")?.to_str().ok()?;
    // Statuses are small numbers; anything else must not become a metric label.
    (value.len() <= 2 && value.bytes().all(|b| b.is_ascii_digit())).then(|| value.to_owned())
}

/// An error and its sources in one line, for logs.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_body_that_passed_whole_is_complete_and_a_dropped_one_abandoned() {
        let (tx, rx) = mpsc::channel();
        let sender = tx.clone();
        let body = Tracked::wrap(full("hello"), move |ending| sender.send(ending).unwrap());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
        assert_eq!(rx.recv().unwrap(), Ending { bytes: 5, outcome: BodyOutcome::Complete, grpc_status: None });

        drop(Tracked::wrap(full("hello"), move |ending| tx.send(ending).unwrap()));
        assert_eq!(rx.recv().unwrap().outcome, BodyOutcome::Abandoned);
    }

    #[tokio::test]
    async fn trailers_claim_nothing() {
        let mut trailers = http::HeaderMap::new();
        for name in ["x-forwarded-client-cert", "x-isthmus-denial", "grpc-status"] {
            trailers.insert(name, http::HeaderValue::from_static("0"));
        }
        let body = full("hello").with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync();
        let passed = Tracked::wrap(body, drop).collect().await.unwrap();
        let names: Vec<&str> = passed.trailers().unwrap().keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["grpc-status"]);
    }
}
