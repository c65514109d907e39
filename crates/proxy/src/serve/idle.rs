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
use tokio_util::sync::CancellationToken;

use crate::body::{Body, BodyError};

/// The requests of one connection.
#[derive(Debug, Clone)]
pub(super) struct Activity {
    state: Arc<Mutex<State>>,
    /// Cancelled when the client gives up too many of its requests.
    abused: CancellationToken,
}

#[derive(Debug)]
struct State {
    active: u32,
    /// When the last request ended, or the connection began.
    since: Instant,
    begun: u64,
    /// Of these, given up by the client soon, and before the answer began.
    given_up: u64,
}

/// A request that is under way.
pub(super) struct Active {
    activity: Activity,
    begun: Instant,
    answered: bool,
}

impl Activity {
    pub(super) fn new() -> Self {
        let state = State { active: 0, since: Instant::now(), begun: 0, given_up: 0 };
        Self { state: Arc::new(Mutex::new(state)), abused: CancellationToken::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Active {
        let mut state = self.lock();
        state.active += 1;
        state.begun += 1;
        drop(state);
        Active { activity: self.clone(), begun: Instant::now(), answered: false }
    }

    /// Resolves when the client gives up too many of its requests.
    pub(super) async fn abused(&self) {
        self.abused.cancelled().await;
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
        let mut state = self.activity.lock();
        state.active -= 1;
        state.since = Instant::now();
        if !self.answered && self.begun.elapsed() < mesh::GIVEN_UP_WITHIN {
            state.given_up += 1;
            if mesh::gives_up_too_often(state.begun, state.given_up) {
                self.activity.abused.cancel();
            }
        }
    }
}

impl Active {
    /// The request is under way until the answer has passed.
    pub(super) fn until_answered(mut self, response: Response<Body>) -> Response<Body> {
        self.answered = true;
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
