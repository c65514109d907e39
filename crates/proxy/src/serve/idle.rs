//! When a connection was last used.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::body::{Body, BodyError};

/// The requests of one connection.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    active: u32,
    /// When the last request ended, or the connection began.
    since: Instant,
}

/// A request that is under way.
pub(super) struct Active(Activity);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { active: 0, since: Instant::now() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Active {
        self.lock().active += 1;
        Active(self.clone())
    }

    /// Resolves when nothing was under way for so long.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let left = {
                let state = self.lock();
                if state.active > 0 { limit } else { limit.saturating_sub(state.since.elapsed()) }
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.active -= 1;
        state.since = Instant::now();
    }
}

impl Active {
    /// The request is under way until the answer has passed.
    pub(super) fn until_answered(self, response: Response<Body>) -> Response<Body> {
        response.map(|inner| Answer { inner, _active: self }.boxed_unsync())
    }
}

struct Answer {
    inner: Body,
    _active: Active,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
