//! `retry()`: whether a failed attempt may be made again without doing harm.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// Bodies up to this many bytes are kept for a retry (design: "Remote balancing", point 6).
pub const RETRY_BODY_MAX: usize = 64 * 1024;

/// Istio's default: 2 retries on `connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// Retries after the first attempt.
    pub attempts: u32,
    /// Base of the jittered exponential back-off (Envoy's default).
    #[serde(serialize_with = "as_millis")]
    pub backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 2, backoff: Duration::from_millis(25) }
    }
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
