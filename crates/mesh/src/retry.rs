//! `retry()`: whether a failed attempt may be made again without doing harm.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::policy::limit::{millis, optional_millis};

/// Bodies up to this many bytes are kept for a retry (design: "Remote balancing", point 6).
pub const RETRY_BODY_MAX: usize = 64 * 1024;

/// Istio's default: 2 retries on `connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryPolicy {
    /// A rule says so; what it names is retried whatever the method, as Envoy does. Without one only what is idempotent is.
    pub configured: bool,
    /// Retries after the first attempt.
    pub attempts: u32,
    /// Of each attempt; `None` = only the request's.
    #[serde(default, with = "optional_millis")]
    pub per_try_timeout: Option<Duration>,
    /// What is retried.
    pub on: BTreeSet<RetryCondition>,
    /// Statuses that are retried besides.
    #[serde(default)]
    pub statuses: BTreeSet<u16>,
    /// Base of the jittered exponential back-off (Envoy's default).
    #[serde(with = "millis")]
    pub backoff: Duration,
    /// Prefer endpoints that were not tried (`retryIgnorePreviousHosts`).
    pub avoid_previous: bool,
    /// Go on to other localities when the nearest were tried (`retryRemoteLocalities`).
    pub remote_localities: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        use RetryCondition::{Cancelled, ConnectFailure, RefusedStream, Unavailable};
        Self {
            configured: false,
            attempts: 2,
            per_try_timeout: None,
            on: BTreeSet::from([ConnectFailure, RefusedStream, Unavailable, Cancelled]),
            statuses: BTreeSet::from([503]),
            backoff: Duration::from_millis(25),
            avoid_previous: true,
            remote_localities: true,
        }
    }
}

/// `retryOn`, Envoy's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryCondition {
    /// Any 5xx, or no answer at all (disconnect, reset, per-try timeout).
    #[serde(rename = "5xx")]
    FiveXx,
    /// 502, 503, 504.
    GatewayError,
    /// No answer: disconnect, reset or per-try timeout.
    Reset,
    /// As `reset`, before any byte of the request left.
    ResetBeforeRequest,
    /// No connection.
    ConnectFailure,
    /// REFUSED_STREAM.
    RefusedStream,
    /// 409.
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    /// The statuses in the list; in Istio the default of the list is 503.
    RetriableStatusCodes,
    /// gRPC `cancelled`.
    Cancelled,
    /// gRPC `deadline-exceeded`.
    DeadlineExceeded,
    /// gRPC `internal`.
    Internal,
    /// gRPC `resource-exhausted`.
    ResourceExhausted,
    /// gRPC `unavailable`.
    Unavailable,
    /// HTTP/3 handshake failures; there are none here.
    Http3PostConnectFailure,
    /// `x-envoy-ratelimited` in the answer.
    EnvoyRatelimited,
}

pub(crate) fn as_millis<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(value.as_millis())
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// No connection: nothing was sent.
    Connect,
    /// The peer said that it has not processed the request (HTTP/2 REFUSED_STREAM, GOAWAY, a retriable denial).
    Refused,
    /// The connection broke after request bytes had left.
    Broken,
    /// The path to the peer was declared dead while the answer was awaited.
    PathDown,
    /// The server answered 503, or gRPC `unavailable`/`cancelled` in a headers-only response.
    Unavailable,
    /// A timeout of the whole request: never retried.
    Timeout,
}

/// The facts of a failed attempt.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// How it failed.
    pub failure: Failure,
    /// Attempts made so far, this one included.
    pub made: u32,
    /// The method has no effect when repeated (RFC 9110 §9.2.2).
    pub idempotent: bool,
    /// The whole request body can be sent again.
    pub replayable: bool,
    /// A byte of the response has gone to the client.
    pub answered: bool,
}

/// Whether to try again, with the rule that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "retry")]
pub enum RetryDecision {
    /// Try another target after this pause.
    Again {
        /// Zero when the failure says that the target is gone, so that another is tried at once.
        #[serde(serialize_with = "as_millis")]
        pause: Duration,
    },
    /// Give up.
    No {
        /// Which rule forbids it.
        why: &'static str,
    },
}

/// Decides on a retry. After request bytes have left, only what is idempotent, replayable and unanswered is repeated.
pub fn retry(policy: &RetryPolicy, attempt: &Attempt) -> RetryDecision {
    let no = |why| RetryDecision::No { why };
    if attempt.answered {
        return no("the response has begun");
    }
    if attempt.failure == Failure::Timeout {
        return no("the request timed out");
    }
    if !attempt.replayable {
        return no("the request body cannot be sent again");
    }
    // What the server has certainly not processed may be repeated whatever the method. A 503 of the server itself is
    // repeated as Istio does by default (`retriable-status-codes`), for idempotent methods only.
    let unprocessed = matches!(attempt.failure, Failure::Connect | Failure::Refused);
    if !unprocessed && !attempt.idempotent {
        return no("the method is not idempotent");
    }
    if attempt.made > policy.attempts {
        return no("the attempts are used up");
    }
    let pause = match attempt.failure {
        Failure::Unavailable => policy.backoff * 2_u32.saturating_pow(attempt.made.saturating_sub(1)),
        _ => Duration::ZERO,
    };
    RetryDecision::Again { pause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_no_harm_is_repeated() {
        let base = Attempt { failure: Failure::Connect, made: 1, idempotent: false, replayable: true, answered: false };
        let cases = [
            ("a POST that never left", base, true),
            ("a POST whose connection broke", Attempt { failure: Failure::Broken, ..base }, false),
            ("a GET whose connection broke", Attempt { failure: Failure::Broken, idempotent: true, ..base }, true),
            ("a GET on a dead path", Attempt { failure: Failure::PathDown, idempotent: true, ..base }, true),
            ("a body that is gone", Attempt { replayable: false, ..base }, false),
            ("a response under way", Attempt { answered: true, idempotent: true, ..base }, false),
            ("the last attempt", Attempt { made: 3, ..base }, false),
            ("the second retry", Attempt { made: 2, ..base }, true),
            ("a timeout", Attempt { failure: Failure::Timeout, idempotent: true, ..base }, false),
            ("a POST answered 503", Attempt { failure: Failure::Unavailable, ..base }, false),
        ];
        for (name, attempt, again) in cases {
            let decision = retry(&RetryPolicy::default(), &attempt);
            assert_eq!(matches!(decision, RetryDecision::Again { .. }), again, "{name}: {decision:?}");
        }
    }

    #[test]
    fn another_target_is_tried_at_once_when_the_first_is_gone() {
        let attempt =
            Attempt { failure: Failure::Connect, made: 1, idempotent: true, replayable: true, answered: false };
        assert_eq!(retry(&RetryPolicy::default(), &attempt), RetryDecision::Again { pause: Duration::ZERO });
    }
}
