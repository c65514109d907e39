//! A request body that can be sent more than once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Body, BodyError};

/// The most bytes of a request that are kept for another attempt (design: remote balancing).
pub const REPLAY_MAX: usize = 64 * 1024;

/// What keeping a part costs at least, in bytes.
const PART_COST: usize = 64;

#[derive(Clone)]
enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Part {
    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

struct Shared {
    source: Body,
    /// What was read and may be needed again.
    kept: VecDeque<Part>,
    kept_bytes: usize,
    /// How much of `kept` the current attempt has taken.
    cursor: usize,
    /// Whether what is read is still kept.
    keep: bool,
    /// Some of what was read is gone, so no further attempt is possible.
    lost: bool,
    ended: bool,
    /// Bytes taken from the source.
    bytes: u64,
    /// The attempt that may read; older ones are void.
    attempt: u64,
    /// Those who want a copy of the whole body.
    copies: Vec<oneshot::Sender<Option<Bytes>>>,
    /// Cancelled when the whole body was read, or can no longer be.
    over: CancellationToken,
}

/// The body of one request across its attempts. Bodies longer than [`REPLAY_MAX`] pass, but only once.
pub struct Replay(Arc<Mutex<Shared>>);

impl Replay {
    /// Takes over the body of a request.
    pub fn new(source: Body) -> Self {
        let ended = source.is_end_stream();
        let over = CancellationToken::new();
        let replay = Self(Arc::new(Mutex::new(Shared {
            source,
            kept: VecDeque::new(),
            kept_bytes: 0,
            cursor: 0,
            keep: true,
            lost: false,
            ended,
            bytes: 0,
            attempt: 0,
            copies: Vec::new(),
            over: over.clone(),
        })));
        if ended {
            over.cancel();
        }
        replay
    }

    /// A copy of the whole body once it was read; `None` when it is longer than [`REPLAY_MAX`] or broke off.
    pub fn copy(&self) -> oneshot::Receiver<Option<Bytes>> {
        let (sender, receiver) = oneshot::channel();
        let mut shared = lock(&self.0);
        shared.copies.push(sender);
        if shared.ended || shared.lost || !shared.keep {
            shared.hand_out();
        }
        receiver
    }

    /// Cancelled when the whole body was read: a timeout of the request counts from then on.
    pub fn over(&self) -> CancellationToken {
        lock(&self.0).over.clone()
    }

    /// The body from its first byte, for the next attempt; `None` when bytes were let go already. Bodies handed out
    /// before end with [`BodyError::Superseded`].
    pub fn attempt(&self) -> Option<Body> {
        let mut shared = lock(&self.0);
        if shared.lost {
            return None;
        }
        shared.attempt += 1;
        shared.cursor = 0;
        let attempt = shared.attempt;
        if shared.ended && shared.kept.is_empty() {
            return Some(super::empty());
        }
        drop(shared);
        Some(Attempt { shared: self.0.clone(), attempt }.boxed_unsync())
    }

    /// Whether [`Replay::attempt`] would yield a body.
    pub fn is_replayable(&self) -> bool {
        !lock(&self.0).lost
    }

    /// Whether a byte of the body was taken by any attempt.
    pub fn was_read(&self) -> bool {
        lock(&self.0).bytes > 0
    }

    /// Bytes read from the client so far.
    pub fn bytes(&self) -> u64 {
        lock(&self.0).bytes
    }

    /// The request is answered: nothing needs to be kept any longer.
    pub fn settle(&self) {
        let mut shared = lock(&self.0);
        // A copy wants the rest as well; it is bounded all the same.
        if shared.copies.is_empty() || shared.lost {
            shared.keep = false;
            shared.let_go();
        }
    }

    /// A handle that only counts, for the record of the request.
    pub fn counter(&self) -> impl Fn() -> u64 + Send + 'static {
        let shared = self.0.clone();
        move || lock(&shared).bytes
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Frees what the current attempt has taken, once nothing is kept any longer.
    fn let_go(&mut self) {
        if !self.keep && self.cursor > 0 {
            self.kept.drain(..self.cursor);
            self.cursor = 0;
            self.lost = true;
        }
    }

    /// The body was read, or no longer can be.
    fn finish(&mut self) {
        self.ended = true;
        self.over.cancel();
        self.hand_out();
    }

    fn hand_out(&mut self) {
        if self.copies.is_empty() {
            return;
        }
        let whole = self.ended && !self.lost && self.keep;
        let copy = whole.then(|| {
            let mut bytes = BytesMut::with_capacity(self.kept_bytes);
            for part in &self.kept {
                if let Part::Data(data) = part {
                    bytes.extend_from_slice(data);
                }
            }
            bytes.freeze()
        });
        for sender in self.copies.drain(..) {
            // Who no longer waits needs none.
            let _gone = sender.send(copy.clone());
        }
    }

    fn store(&mut self, frame: &Frame<Bytes>) {
        let part = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Part::Data(data.clone()),
            (None, Some(trailers)) => Part::Trailers(trailers.clone()),
            (None, None) => return,
        };
        let length = if let Part::Data(data) = &part { data.len() } else { 0 };
        self.bytes += length as u64;
        // Parts cost more than their bytes, and a client can make them as small and as many as it likes.
        let cost = if matches!(part, Part::Data(_)) { length.max(PART_COST) } else { 0 };
        if self.kept_bytes + cost > REPLAY_MAX {
            self.keep = false;
            self.hand_out();
        }
        if self.keep {
            self.kept_bytes += cost;
            self.kept.push_back(part);
            self.cursor += 1;
        } else {
            self.lost = true;
            self.let_go();
        }
    }
}

/// The body of one attempt.
struct Attempt {
    shared: Arc<Mutex<Shared>>,
    attempt: u64,
}

impl HttpBody for Attempt {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut shared = lock(&self.shared);
        if shared.attempt != self.attempt {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(part) = shared.kept.get(shared.cursor).cloned() {
            shared.cursor += 1;
            shared.let_go();
            return Poll::Ready(Some(Ok(part.into_frame())));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        let polled = std::task::ready!(Pin::new(&mut shared.source).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                shared.store(frame);
                // A body of known length is over with its last byte; nobody may ask for more.
                if shared.source.is_end_stream() {
                    shared.finish();
                }
            }
            Some(Err(_)) => {
                shared.lost = true;
                shared.over.cancel();
                shared.hand_out();
            }
            None => shared.finish(),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let shared = lock(&self.shared);
        shared.attempt == self.attempt
            && shared.cursor == shared.kept.len()
            && (shared.ended || shared.source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let shared = lock(&self.shared);
        if shared.bytes == 0 { shared.source.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::super::full;
    use super::*;

    #[tokio::test]
    async fn a_small_body_is_sent_again_and_the_first_copy_is_void() {
        let replay = Replay::new(full("hello"));
        let mut first = replay.attempt().unwrap();
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        let second = replay.attempt().unwrap();
        assert!(matches!(first.frame().await, Some(Err(BodyError::Superseded))));
        assert_eq!(second.collect().await.unwrap().to_bytes(), "hello");
        assert!(replay.is_replayable());
        replay.settle();
        assert!(replay.attempt().is_none());
    }

    #[tokio::test]
    async fn a_copy_is_the_whole_body_even_of_an_answered_request_or_nothing() {
        for (length, expected) in [(0, Some(0)), (5, Some(5)), (REPLAY_MAX + 1, None)] {
            let replay = Replay::new(full(vec![7; length]));
            let copy = replay.copy();
            let body = replay.attempt().unwrap();
            replay.settle();
            body.collect().await.unwrap();
            assert_eq!(copy.await.unwrap().map(|bytes| bytes.len()), expected, "{length} bytes");
            assert!(replay.over().is_cancelled());
        }
    }

    #[tokio::test]
    async fn a_large_body_passes_once_and_is_not_kept() {
        let replay = Replay::new(full(vec![7; REPLAY_MAX + 1]));
        let body = replay.attempt().unwrap();
        assert!(replay.is_replayable());
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), REPLAY_MAX + 1);
        assert!(!replay.is_replayable());
        assert!(lock(&replay.0).kept.is_empty());
    }

    #[tokio::test]
    async fn frames_without_bytes_are_not_kept_without_end() {
        let frames = vec![Bytes::new(); 2 * REPLAY_MAX / PART_COST];
        let frames = frames.into_iter().map(|data| Ok::<_, BodyError>(Frame::data(data)));
        let replay = Replay::new(http_body_util::StreamBody::new(tokio_stream::iter(frames)).boxed_unsync());
        let mut body = replay.attempt().unwrap();
        let mut most = 0;
        while body.frame().await.is_some() {
            most = most.max(lock(&replay.0).kept.len());
        }
        assert!(most <= REPLAY_MAX / PART_COST && !replay.is_replayable(), "{most}");
    }

    #[tokio::test]
    async fn what_was_kept_is_freed_as_it_passes_once_the_request_is_answered() {
        let replay = Replay::new(full("hello"));
        let mut first = replay.attempt().unwrap();
        first.frame().await;
        let mut second = replay.attempt().unwrap();
        replay.settle();
        assert_eq!(second.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        assert!(lock(&replay.0).kept.is_empty());
        assert!(second.frame().await.is_none());
    }
}
