//! `retry()`: whether a failed attempt may be made again without doing harm.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::policy::Balancer;
use crate::policy::limit::{millis, optional_millis};

mod count;
pub use count::{FailedAttempt, counts_as_attempt, is_unreachable};

/// Bodies up to this many bytes are kept for a retry (design: "Remote balancing", point 6).
pub const RETRY_BODY_MAX: usize = 64 * 1024;

/// Istio's default since 1.24: 2 retries on `connect-failure,refused-stream,unavailable,cancelled`. A server's own 503 is not
/// among them: it may have done half of the work.
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
    /// Prefer endpoints that were not tried (`retryIgnorePreviousHosts`); what it is by default, see
    /// [`avoids_previous`](Self::avoids_previous).
    #[serde(default)]
    pub avoid_previous: Option<bool>,
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
            statuses: BTreeSet::new(),
            backoff: Duration::from_millis(25),
            avoid_previous: None,
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
    /// The statuses in the list.
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

impl RetryCondition {
    /// By Envoy's name, as `retryOn` has it.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "5xx" => Self::FiveXx,
            "gateway-error" => Self::GatewayError,
            "reset" => Self::Reset,
            "reset-before-request" => Self::ResetBeforeRequest,
            "connect-failure" => Self::ConnectFailure,
            "refused-stream" => Self::RefusedStream,
            "retriable-4xx" => Self::Retriable4xx,
            "retriable-status-codes" => Self::RetriableStatusCodes,
            "cancelled" => Self::Cancelled,
            "deadline-exceeded" => Self::DeadlineExceeded,
            "internal" => Self::Internal,
            "resource-exhausted" => Self::ResourceExhausted,
            "unavailable" => Self::Unavailable,
            "http3-post-connect-failure" => Self::Http3PostConnectFailure,
            "envoy-ratelimited" => Self::EnvoyRatelimited,
            _ => return None,
        })
    }
}

pub(crate) fn as_millis<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(value.as_millis())
}

impl RetryPolicy {
    /// Whether an endpoint that was tried is passed over. Where a hash decides, the next one would be the wrong one; so Istio
    /// leaves it there unless a rule says otherwise.
    pub fn avoids_previous(&self, balancer: &Balancer) -> bool {
        self.avoid_previous.unwrap_or(!matches!(balancer, Balancer::ConsistentHash { .. }))
    }

    /// Whether the policy names a failure, attempts and safety aside.
    pub fn names(&self, failure: &Failure) -> bool {
        use RetryCondition::{ConnectFailure, FiveXx, GatewayError, RefusedStream, Reset, ResetBeforeRequest};
        let any = |conditions: &[RetryCondition]| conditions.iter().any(|condition| self.on.contains(condition));
        match failure {
            Failure::Connect => any(&[ConnectFailure, FiveXx, GatewayError, Reset, ResetBeforeRequest]),
            // A proxy on the way that could not connect says so in the place of the connection.
            Failure::Refused => any(&[RefusedStream, ConnectFailure, FiveXx, GatewayError, Reset, ResetBeforeRequest]),
            Failure::Broken | Failure::PathDown | Failure::TriedTooLong => any(&[FiveXx, GatewayError, Reset]),
            Failure::Answer(answer) => self.names_answer(answer),
            Failure::Timeout => false,
        }
    }

    fn names_answer(&self, answer: &Answer) -> bool {
        use RetryCondition::{
            Cancelled, DeadlineExceeded, EnvoyRatelimited, FiveXx, GatewayError, Internal, ResourceExhausted,
            Retriable4xx, Unavailable,
        };
        // Who is told to slow down must not be asked again, unless a user says so.
        if answer.rate_limited {
            return self.on.contains(&EnvoyRatelimited);
        }
        self.statuses.contains(&answer.status)
            || self.on.iter().any(|condition| match condition {
                FiveXx => (500..600).contains(&answer.status),
                GatewayError => matches!(answer.status, 502..=504),
                Retriable4xx => answer.status == 409,
                Cancelled => answer.grpc == Some(1),
                DeadlineExceeded => answer.grpc == Some(4),
                ResourceExhausted => answer.grpc == Some(8),
                Internal => answer.grpc == Some(13),
                Unavailable => answer.grpc == Some(14),
                _ => false,
            })
    }

    /// The longest pause before a retry, the first being 1; the shell draws from zero to it (Envoy's jittered
    /// exponential back-off: doubled each time, at most ten times the base).
    pub fn pause(&self, retry: u32) -> Duration {
        self.backoff.saturating_mul(2_u32.saturating_pow(retry.saturating_sub(1)).min(10))
    }
}

/// The head of an answer, as far as it matters to a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `grpc-status` of an answer without a body.
    pub grpc: Option<u8>,
    /// It has `x-envoy-ratelimited`.
    pub rate_limited: bool,
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
    /// The attempt took longer than one may.
    TriedTooLong,
    /// The server answered, but with an error.
    Answer(Answer),
    /// A timeout of the whole request, or a refusal that nobody else would lift: never retried.
    Timeout,
}

/// The facts of a failed attempt.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// How it failed.
    pub failure: Failure,
    /// Attempts made so far that count ([`counts_as_attempt`]), this one included.
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
    /// Try another target after at most this pause.
    Again {
        /// Zero when the failure says that the target is gone, so that another is tried at once. The shell draws from
        /// zero to this, so that many clients do not come back at once.
        #[serde(serialize_with = "as_millis")]
        pause: Duration,
    },
    /// Give up.
    No {
        /// Which rule forbids it.
        why: &'static str,
    },
}

/// Decides on a retry. Without a configured policy only what is idempotent is repeated once request bytes have left; a
/// configured one is followed whatever the method, as Envoy does.
pub fn retry(policy: &RetryPolicy, attempt: &Attempt) -> RetryDecision {
    let no = |why| RetryDecision::No { why };
    if attempt.answered {
        return no("the response has begun");
    }
    if attempt.failure == Failure::Timeout {
        return no("the request timed out, or the refusal is final");
    }
    if !attempt.replayable {
        return no("the request body cannot be sent again");
    }
    let named = policy.names(&attempt.failure);
    if policy.configured && !named {
        return no("the policy does not name this failure");
    }
    let unprocessed = matches!(attempt.failure, Failure::Connect | Failure::Refused);
    if !policy.configured && !unprocessed && !attempt.idempotent {
        return no("the method is not idempotent");
    }
    if !policy.configured && !named && matches!(attempt.failure, Failure::Answer(_)) {
        return no("the answer is the server's");
    }
    if attempt.made > policy.attempts {
        return no("the attempts are used up");
    }
    // What says that the target is gone is tried elsewhere at once.
    let pause = match attempt.failure {
        Failure::Answer(_) | Failure::TriedTooLong => policy.pause(attempt.made),
        Failure::Broken if policy.configured => policy.pause(attempt.made),
        _ => Duration::ZERO,
    };
    RetryDecision::Again { pause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> Failure {
        Failure::Answer(Answer { status, grpc: None, rate_limited: false })
    }

    fn grpc(code: u8) -> Failure {
        Failure::Answer(Answer { status: 200, grpc: Some(code), rate_limited: false })
    }

    #[test]
    fn a_configured_policy_repeats_what_its_conditions_name_whatever_the_method() {
        use RetryCondition::*;
        let limited = Failure::Answer(Answer { status: 429, grpc: None, rate_limited: true });
        let broken = [Failure::Broken, Failure::PathDown, Failure::TriedTooLong];
        let gone = [Failure::Connect, Failure::Refused];
        type Case<'a> = (RetryCondition, Vec<Failure>, Vec<Failure>);
        let cases: Vec<Case<'_>> = vec![
            (FiveXx, [&broken[..], &gone, &[answered(500), answered(599)]].concat(), vec![answered(404), limited]),
            (GatewayError, [&broken[..], &gone, &[answered(502), answered(504)]].concat(), vec![answered(500)]),
            (Reset, [&broken[..], &gone].concat(), vec![answered(503)]),
            (ResetBeforeRequest, gone.to_vec(), broken.to_vec()),
            (ConnectFailure, gone.to_vec(), [&broken[..], &[answered(503)]].concat()),
            (RefusedStream, vec![Failure::Refused], vec![Failure::Connect, Failure::Broken]),
            (Retriable4xx, vec![answered(409)], vec![answered(404), answered(503)]),
            // Without a list.
            (RetriableStatusCodes, vec![], vec![answered(503)]),
            (Cancelled, vec![grpc(1)], vec![grpc(14), answered(503)]),
            (DeadlineExceeded, vec![grpc(4)], vec![grpc(1)]),
            (Internal, vec![grpc(13)], vec![grpc(2)]),
            (ResourceExhausted, vec![grpc(8)], vec![grpc(0)]),
            (Unavailable, vec![grpc(14)], vec![answered(503)]),
            (EnvoyRatelimited, vec![limited], vec![answered(429)]),
            (Http3PostConnectFailure, vec![], vec![answered(503), Failure::Broken]),
        ];
        for (condition, yes, no) in cases {
            let policy = RetryPolicy {
                configured: true,
                on: BTreeSet::from([condition]),
                statuses: BTreeSet::new(),
                ..RetryPolicy::default()
            };
            for (failure, expected) in yes.iter().map(|f| (f, true)).chain(no.iter().map(|f| (f, false))) {
                let attempt =
                    Attempt { failure: *failure, made: 1, idempotent: false, replayable: true, answered: false };
                let decision = retry(&policy, &attempt);
                assert_eq!(matches!(decision, RetryDecision::Again { .. }), expected, "{condition:?}: {failure:?}");
            }
        }
    }

    #[test]
    fn listed_statuses_are_repeated_and_zero_attempts_are_none() {
        let policy = RetryPolicy { configured: true, statuses: BTreeSet::from([418]), ..RetryPolicy::default() };
        let attempt = Attempt { failure: answered(418), made: 1, idempotent: false, replayable: true, answered: false };
        assert!(matches!(retry(&policy, &attempt), RetryDecision::Again { .. }));
        assert!(matches!(retry(&RetryPolicy { attempts: 0, ..policy }, &attempt), RetryDecision::No { .. }));
    }

    #[test]
    fn who_was_tried_is_passed_over_unless_a_hash_decides() {
        use crate::policy::{HashKey, HashTable};
        let hash = Balancer::ConsistentHash { key: HashKey::SourceIp, table: HashTable::Maglev { size: 65537 } };
        let cases = [
            (None, &Balancer::Random, true),
            (None, &hash, false),
            (Some(true), &hash, true),
            (Some(false), &Balancer::Random, false),
        ];
        for (avoid_previous, balancer, expected) in cases {
            let policy = RetryPolicy { avoid_previous, ..RetryPolicy::default() };
            assert_eq!(policy.avoids_previous(balancer), expected, "{avoid_previous:?} {balancer:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_ten_times_the_base() {
        let pauses: Vec<u128> = (1..7).map(|retry| RetryPolicy::default().pause(retry).as_millis()).collect();
        assert_eq!(pauses, [25, 50, 100, 200, 250, 250]);
    }

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
            ("a POST answered 503", Attempt { failure: answered(503), ..base }, false),
            ("a GET answered 503", Attempt { failure: answered(503), idempotent: true, ..base }, false),
            ("a GET answered 500", Attempt { failure: answered(500), idempotent: true, ..base }, false),
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
