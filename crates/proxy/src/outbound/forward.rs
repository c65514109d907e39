//! A request on its way to the targets of its decision: attempts within limits and deadlines.

use std::any::Any;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use mesh::{Answer, Failure, Outcome, Protocol, RouteDecision, RouteOutcome};
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::attempt::{Attempts, Chosen, Late, Repeatable, refused};
use super::exchange::{Exchange, Origin, Outgoing, speaks};
use super::limits::Permit;
use crate::access::Party;
use crate::body::{self, BodyOutcome, Ending, Oversize};
use crate::fault::{Fault, flag};
use crate::metrics::Happening;
use crate::pool::plain::Speaks;
use crate::reply;

/// An answer and what is known of it.
pub(super) struct Answered {
    pub(super) exchange: Exchange,
    /// Keeps the target counted as busy.
    chosen: Option<Chosen>,
    permit: Option<Permit>,
    pub(super) flag: Option<&'static str>,
    pub(super) attempts: u32,
    /// Why a failure that is passed on was not repeated.
    pub(super) why: Option<&'static str>,
    /// Takes the gRPC status of the trailers.
    pub(super) late: Option<Late>,
}

impl From<Exchange> for Answered {
    fn from(exchange: Exchange) -> Self {
        Self { exchange, chosen: None, permit: None, flag: None, attempts: 1, why: None, late: None }
    }
}

impl Answered {
    /// The answer, and what must outlive its body.
    pub(super) fn into_parts(self) -> (Response<Incoming>, Box<dyn Any + Send>) {
        let Exchange { response, hold, .. } = self.exchange;
        (response, Box::new((hold, self.chosen.map(|chosen| chosen.load), self.permit)))
    }
}

/// Nothing that could be passed on.
pub(super) struct Failed {
    pub(super) fault: Fault,
    pub(super) attempts: u32,
    pub(super) why: Option<&'static str>,
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self { fault, attempts: 0, why: None }
    }
}

/// Resolves when a request has taken too long, counted from when all of it was read (Envoy's route timeout); never
/// without a timeout.
pub(super) async fn expiry(timeout: Option<Duration>, over: CancellationToken) {
    let Some(timeout) = timeout.filter(|timeout| !timeout.is_zero()) else { return std::future::pending().await };
    over.cancelled().await;
    tokio::time::sleep(timeout).await;
}

impl Engine {
    /// Sends a request where its decision says, as long as its body is not too large.
    pub(super) async fn dispatch(&self, decision: &RouteDecision, outgoing: &Outgoing<'_>) -> Result<Answered, Failed> {
        tokio::select! {
            biased;
            () = Oversize::of(&outgoing.head.extensions) => Err(Failed::from(Fault::too_large())),
            answered = self.dispatch_whole(decision, outgoing) => answered,
        }
    }

    async fn dispatch_whole(&self, decision: &RouteDecision, outgoing: &Outgoing<'_>) -> Result<Answered, Failed> {
        match &decision.outcome {
            RouteOutcome::Refuse | RouteOutcome::Redirect { .. } | RouteOutcome::Direct => {
                Err(Failed::from(refused(decision)))
            }
            RouteOutcome::Passthrough => {
                let expired = expiry(decision.timeout, outgoing.body.over());
                tokio::select! {
                    exchanged = self.pass_through(decision, outgoing) => Ok(Answered::from(exchanged?)),
                    () = expired => Err(Failed::from(Fault::timeout(decision.timeout.unwrap_or_default()))),
                }
            }
            RouteOutcome::Forward { .. } => self.forward(decision, outgoing).await,
        }
    }

    /// Attempts until one is answered or no other may be made.
    async fn forward(&self, decision: &RouteDecision, outgoing: &Outgoing<'_>) -> Result<Answered, Failed> {
        let mut attempts = Attempts::new(self, decision);
        attempts.destination.gate.begin(&decision.policy);
        let expired = expiry(decision.timeout, outgoing.body.over());
        tokio::pin!(expired);
        loop {
            let Some(chosen) = attempts.next() else {
                return Err(Failed { attempts: attempts.made, ..Failed::from(attempts.none_left()) });
            };
            outgoing.attempt.store(attempts.made, Ordering::Relaxed);
            let tried = tokio::select! {
                biased;
                tried = self.attempt(&attempts, &chosen, decision, outgoing) => tried,
                () = expired.as_mut() => Err(Fault::timeout(decision.timeout.unwrap_or_default())),
            };
            let (fault, answer) = match tried {
                Ok((exchange, permit)) => {
                    let late = attempts.late(&chosen, decision).filter(|_| is_open_grpc(&exchange.response));
                    match &late {
                        Some(_) => attempts.works(&chosen),
                        None => attempts.succeeded(&chosen, outcome_of(&exchange.response)),
                    }
                    match named(decision, &exchange.response) {
                        None => {
                            let (chosen, permit, attempts) = (Some(chosen), Some(permit), attempts.made);
                            return Ok(Answered { exchange, chosen, permit, flag: None, attempts, why: None, late });
                        }
                        Some(fault) => (fault, Some((exchange, permit))),
                    }
                }
                Err(fault) => {
                    note(&attempts, &chosen, &fault);
                    (fault, None)
                }
            };
            tracing::debug!(%fault, attempt = attempts.made, "an attempt failed");
            let repeatable = Repeatable { idempotent: outgoing.idempotent, replayable: outgoing.body.is_replayable() };
            let again = tokio::select! {
                biased;
                again = attempts.again(chosen, &fault, repeatable) => again,
                () = expired.as_mut() => {
                    attempts.count(Happening::Timeout);
                    return Err(Failed { fault: Fault::timeout(decision.timeout.unwrap_or_default()), attempts: attempts.made, why: None });
                }
            };
            let Err(given_up) = again else { continue };
            let (attempts, why) = (attempts.made, Some(given_up.why));
            let flag = given_up.flag.or((attempts > 1).then_some(flag::RETRIES));
            return match answer {
                Some((exchange, permit)) => {
                    Ok(Answered { exchange, chosen: None, permit: Some(permit), flag, attempts, why, late: None })
                }
                None => Err(Failed { fault, attempts, why }),
            };
        }
    }

    /// One attempt, once the destination's limits admit it.
    async fn attempt(
        &self,
        attempts: &Attempts<'_>,
        chosen: &Chosen,
        decision: &RouteDecision,
        outgoing: &Outgoing<'_>,
    ) -> Result<(Exchange, Permit), Fault> {
        let pool = &decision.policy.pool;
        let speaks = speaks(decision.protocol, &decision.policy, outgoing.head);
        let destination = &attempts.destination;
        let exclusive = || is_exclusive(decision, speaks, destination.shares());
        let mut permit = destination.gate.enter(pool, exclusive).await?;
        let exchange = Box::pin(self.exchange(attempts, &chosen.target, outgoing));
        let exchange = match decision.retry.per_try_timeout.filter(|timeout| !timeout.is_zero()) {
            None => exchange.await?,
            Some(timeout) => {
                // An attempt may take its time as long as the client is still sending.
                let late = expiry(Some(timeout), outgoing.body.over());
                tokio::select! {
                    biased;
                    exchange = exchange => exchange?,
                    () = late => return Err(Fault::tried_too_long(timeout)),
                }
            }
        };
        if speaks == Speaks::Negotiated {
            let http2 = exchange.response.version() == http::Version::HTTP_2;
            destination.negotiated(http2);
            if http2 {
                permit.share();
            }
        }
        Ok((exchange, permit))
    }

    /// A host outside the mesh: dialled as the client named it.
    async fn pass_through(&self, decision: &RouteDecision, outgoing: &Outgoing<'_>) -> Result<Exchange, Fault> {
        let host = outgoing.way.dialled().map_or(outgoing.authority.host(), |dialled| &dialled.host);
        let addresses = self.names.addresses(&*self.config.resolver, host, decision.port, false).await?;
        self.plainly(decision, Origin { host, addresses, party: Party::default() }, outgoing).await
    }
}

/// Counts a failure, for metrics and outlier detection. An overflow is not the endpoint's fault.
fn note(attempts: &Attempts<'_>, chosen: &Chosen, fault: &Fault) {
    match (fault.flag, fault.failure) {
        (flag::OVERFLOW, _) => return attempts.count(Happening::Overflow),
        (_, Failure::TriedTooLong) => attempts.count(Happening::TryTimeout),
        (flag::TIMEOUT, _) => attempts.count(Happening::Timeout),
        _ => {}
    }
    attempts.failed(chosen, fault);
}

/// Whether a request takes a connection for itself, as HTTP/1 does. Where the server chooses, it counts as HTTP/1 until it
/// has chosen otherwise (`shares`).
fn is_exclusive(decision: &RouteDecision, speaks: Speaks, shares: bool) -> bool {
    match speaks {
        Speaks::Http1 => !matches!(decision.protocol, Protocol::Http2 | Protocol::Grpc),
        Speaks::Http2 => false,
        Speaks::Negotiated => !shares,
    }
}

/// The fault of an answer that the retry policy names. Without a configured policy only 503, and gRPC `unavailable` and
/// `cancelled`, are looked at.
fn named(decision: &RouteDecision, response: &Response<Incoming>) -> Option<Fault> {
    let answer = Answer {
        status: response.status().as_u16(),
        grpc: body::grpc_status(response.headers()).and_then(|status| status.parse().ok()),
        rate_limited: response.headers().contains_key("x-envoy-ratelimited"),
    };
    let failure = Failure::Answer(answer);
    let message = format!("the server answered {}", answer.status);
    decision.retry.names(&failure).then_some(Fault { failure, flag: flag::RETRIES, message, denial: None })
}

/// Whether a gRPC answer goes well so far: its status follows in the trailers. (Envoy looks at the head only.)
fn is_open_grpc(response: &Response<Incoming>) -> bool {
    response.status() == http::StatusCode::OK
        && reply::is_grpc(response.headers())
        && body::grpc_status(response.headers()).is_none()
}

/// What outlier detection makes of an answer. gRPC errors count as the HTTP statuses that they are mapped to (Envoy,
/// `Grpc::Utility::grpcToHttpStatus`).
fn outcome_of(response: &Response<Incoming>) -> Outcome {
    let code: Option<u32> = body::grpc_status(response.headers()).and_then(|status| status.parse().ok());
    Outcome::Answered(code.map_or(response.status().as_u16(), http_of_grpc))
}

/// The same of an answer whose gRPC status is in its trailers; a client that went away says nothing of the server.
pub(super) fn outcome_at_end(ending: &Ending) -> Option<Outcome> {
    let status = ending.grpc_status.as_ref().and_then(|status| status.parse().ok());
    match (&ending.outcome, status) {
        (_, Some(code)) => Some(Outcome::Answered(http_of_grpc(code))),
        (BodyOutcome::Complete, None) => Some(Outcome::Answered(200)),
        (BodyOutcome::Broken(_), None) => Some(Outcome::Failed),
        (BodyOutcome::Abandoned, None) => None,
    }
}

/// The HTTP status of a gRPC status.
pub(super) fn http_of_grpc(code: u32) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
