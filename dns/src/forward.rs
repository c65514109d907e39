//! Passes questions on, and keeps what comes back: cache, equal questions asked once, several servers, stale answers
//! when all of them fail.

mod cache;
mod exchange;
mod health;
mod lifetime;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::metrics::{Metrics, Seen};
use cache::{Cache, Key, Known};
use health::Health;

pub use lifetime::CacheLimits;

/// Questions that may wait for upstreams at the same time; more are answered SERVFAIL at once.
pub const MAX_FORWARDS: usize = 512;
/// The payload that is announced to upstreams and to clients: what passes every path unfragmented (DNS flag day 2020).
pub(crate) const UDP_PAYLOAD: u16 = 1232;
/// Each server is asked this often before the question fails: a lost datagram is not an answer.
const ROUNDS: usize = 2;
/// The time for all tries together; clients wait 5 s.
const DEADLINE: Duration = Duration::from_millis(4500);
/// A client with a stale answer to fall back on waits so long for a fresh one (RFC 8767, "client response timer").
const STALE_AFTER: Duration = Duration::from_millis(1800);

/// Why a question was not answered from upstream.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ForwardError {
    /// No server is configured.
    #[error("no name server to forward to")]
    NoUpstream,
    /// Too many questions wait already.
    #[error("{MAX_FORWARDS} questions wait for upstreams already")]
    Busy,
    /// No server answered.
    #[error("no name server answered")]
    Failed(#[source] Option<Arc<io::Error>>),
}

/// What of the client's header goes upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Flags {
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    pub(crate) dnssec_ok: bool,
}

type Outcome = Result<Arc<Message>, ForwardError>;

/// Asks the configured servers.
#[derive(Debug, Clone)]
pub struct Forwarder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    upstreams: Vec<SocketAddr>,
    health: Mutex<Vec<Health>>,
    cache: Cache,
    /// Questions on their way; whoever asks the same waits for the same answer.
    flights: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
    slots: Arc<Semaphore>,
    metrics: Metrics,
}

impl Forwarder {
    /// Servers are asked in this order, those that fail last.
    pub fn new(upstreams: Vec<SocketAddr>, limits: CacheLimits, metrics: Metrics) -> Self {
        let health = Mutex::new(vec![Health::default(); upstreams.len()]);
        let slots = Arc::new(Semaphore::new(MAX_FORWARDS));
        let (cache, flights) = (Cache::new(limits), Mutex::default());
        Self(Arc::new(Inner { upstreams, health, cache, flights, slots, metrics }))
    }

    /// Waits until no question is on its way.
    pub(crate) async fn idle(&self) {
        // An error means that the semaphore is closed, which never happens.
        let _all = self.0.slots.acquire_many(MAX_FORWARDS as u32).await;
    }

    /// What is kept: entries and bytes.
    pub(crate) fn kept(&self) -> (u64, u64) {
        self.0.cache.size()
    }

    /// The answer: a fresh one that is kept, else the first useful one of upstream (if every server fails or refuses,
    /// the last refusal), else one that is too old.
    pub(crate) async fn ask(&self, question: &Query, flags: Flags) -> Result<Message, ForwardError> {
        let inner = &self.0;
        if inner.upstreams.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        let key = Key::of(question, flags);
        let stale = match inner.cache.get(&key, Instant::now()) {
            Known::Fresh(message) => {
                inner.metrics.cache(Seen::Hit);
                return Ok(message);
            }
            Known::Stale { message, now: true } => {
                inner.metrics.cache(Seen::Stale);
                return Ok(message);
            }
            Known::Stale { message, .. } => Some(message),
            Known::Nothing => None,
        };
        let flight = self.join(key, question, flags);
        let Some(stale) = stale else {
            return landed(flight?).await.map(Arc::unwrap_or_clone);
        };
        let fresh = match flight {
            Ok(flight) => timeout(STALE_AFTER, landed(flight)).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        match fresh.filter(|answer| !speaks_of_server(answer.metadata.response_code)) {
            Some(answer) => Ok(Arc::unwrap_or_clone(answer)),
            None => {
                inner.metrics.cache(Seen::Stale);
                Ok(stale)
            }
        }
    }

    /// The flight of a question; a new one unless the same is under way. It goes on when its client is gone.
    fn join(&self, key: Key, question: &Query, flags: Flags) -> Result<watch::Receiver<Option<Outcome>>, ForwardError> {
        let inner = &self.0;
        let mut flights = inner.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            inner.metrics.cache(Seen::Joined);
            return Ok(flight.clone());
        }
        let slot = Arc::clone(&inner.slots).try_acquire_owned().map_err(|_| ForwardError::Busy)?;
        inner.metrics.cache(Seen::Miss);
        let (sender, receiver) = watch::channel(None);
        flights.insert(key.clone(), receiver.clone());
        drop(flights);
        let (this, question) = (Arc::clone(inner), question.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let ended = Ended { inner: Arc::clone(&this), key: key.clone() };
            let outcome = this.resolve(&question, flags).await.map(Arc::new);
            match &outcome {
                Ok(answer) if !speaks_of_server(answer.metadata.response_code) => {
                    this.cache.put(key, answer, Instant::now());
                }
                _ => this.cache.failed(&key, Instant::now()),
            }
            drop(ended);
            sender.send_replace(Some(outcome));
        });
        Ok(receiver)
    }
}

/// Takes a flight off the list, whatever ended it.
struct Ended {
    inner: Arc<Inner>,
    key: Key,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.inner.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

async fn landed(mut flight: watch::Receiver<Option<Outcome>>) -> Outcome {
    match flight.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().unwrap_or(Err(ForwardError::Failed(None))),
        Err(_) => Err(ForwardError::Failed(None)),
    }
}

impl Inner {
    async fn resolve(&self, question: &Query, flags: Flags) -> Result<Message, ForwardError> {
        let mut refusal = None;
        let asked = timeout(DEADLINE, self.ask_each(question, flags, &mut refusal)).await;
        match (asked, refusal) {
            (Ok(Ok(answer)), _) | (_, Some(answer)) => Ok(answer),
            (Ok(Err(error)), None) => Err(ForwardError::Failed(Some(Arc::new(error)))),
            (Err(_), None) => Err(ForwardError::Failed(None)),
        }
    }

    async fn ask_each(&self, question: &Query, flags: Flags, refusal: &mut Option<Message>) -> io::Result<Message> {
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for _ in 0..ROUNDS {
            for index in health::order(&self.health(|health| health.to_vec()), Instant::now()) {
                match self.ask_one(index, question, flags).await {
                    Ok(answer) if speaks_of_server(answer.metadata.response_code) => *refusal = Some(answer),
                    Ok(answer) => return Ok(answer),
                    Err(error) => last = error,
                }
            }
            if let Some(answer) = refusal.take() {
                return Ok(answer);
            }
        }
        Err(last)
    }

    async fn ask_one(&self, index: usize, question: &Query, flags: Flags) -> io::Result<Message> {
        let server = self.upstreams[index];
        let patience = self.health(|health| health[index].patience());
        let begun = Instant::now();
        let exchanged = exchange::exchange(server, question, flags, patience).await;
        let took = begun.elapsed();
        let result = match &exchanged {
            Ok(exchanged) if speaks_of_server(exchanged.answer.metadata.response_code) => "refused",
            Ok(exchanged) if exchanged.over_tcp => "tcp",
            Ok(_) => "udp",
            Err(error) if error.kind() == io::ErrorKind::TimedOut => "timeout",
            Err(_) => "error",
        };
        self.metrics.upstream(server, result, took);
        self.health(|health| match &exchanged {
            Ok(_) => health[index].handle_answer(took),
            Err(_) => health[index].handle_failure(Instant::now()),
        });
        if let Err(error) = &exchanged {
            tracing::debug!(%server, %error, "name server did not answer");
        }
        Ok(exchanged?.answer)
    }

    fn health<T>(&self, look: impl FnOnce(&mut Vec<Health>) -> T) -> T {
        look(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Codes that speak of the server and not of the name: another one may know better.
fn speaks_of_server(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp)
}
