//! `counts_as_attempt()`: which failed attempts use up the retry policy's attempts.

use super::Failure;
use crate::Denial;

/// More attempts than this are never made for one request without counting, however many targets refuse connections.
const ATTEMPTS_MAX: u32 = 12;

/// A failed attempt, and what is left to try.
#[derive(Debug, Clone, Copy)]
pub struct FailedAttempt {
    /// How it failed.
    pub failure: Failure,
    /// Why a proxy on the way did not take it.
    pub denial: Option<Denial>,
    /// Another target has not been tried yet.
    pub untried: bool,
    /// All attempts made so far, this one included, whether they count or not.
    pub made: u32,
}

/// Whether an attempt could not even connect to its target, or a proxy on the way could not: nothing reached an
/// application, and another target may do better.
pub fn is_unreachable(failure: Failure, denial: Option<Denial>) -> bool {
    failure == Failure::Connect || denial.is_some_and(Denial::is_retriable)
}

/// Whether a failed attempt counts against [`RetryPolicy::attempts`](super::RetryPolicy::attempts).
///
/// A target out of reach does not as long as another one is left: nothing was sent, so nothing was tried. Nor does a path
/// between gateways that went down: that says nothing of the target, and the next path may be dead already without being known
/// to be, for a hole kills all of them within moments. Both only up to a number of attempts that no sane fleet needs.
pub fn counts_as_attempt(attempt: &FailedAttempt) -> bool {
    let moves_on = is_unreachable(attempt.failure, attempt.denial) && attempt.untried;
    !(moves_on || attempt.failure == Failure::PathDown) || attempt.made >= ATTEMPTS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Answer;

    const REFUSED: FailedAttempt = FailedAttempt { failure: Failure::Connect, denial: None, untried: true, made: 1 };
    /// Refused by a gateway on the way.
    const DENIED: FailedAttempt =
        FailedAttempt { failure: Failure::Refused, denial: Some(Denial::ClusterUnreachable), ..REFUSED };
    const PATH_DOWN: FailedAttempt = FailedAttempt { failure: Failure::PathDown, ..REFUSED };

    #[test]
    fn only_attempts_that_say_something_of_the_last_target_count() {
        let answered = Failure::Answer(Answer { status: 503, grpc: None, rate_limited: false });
        let cases = [
            ("no connection, and another target is left", REFUSED, false),
            ("no connection to the last target", FailedAttempt { untried: false, ..REFUSED }, true),
            ("no way there, and another target is left", DENIED, false),
            ("no way to the last target", FailedAttempt { untried: false, ..DENIED }, true),
            ("no endpoint", FailedAttempt { denial: Some(Denial::NoEndpoint), ..DENIED }, false),
            ("refused by a policy", FailedAttempt { denial: Some(Denial::Policy), ..DENIED }, true),
            ("refused by the server itself", FailedAttempt { denial: None, ..DENIED }, true),
            ("the path went down", PATH_DOWN, false),
            ("the only path went down", FailedAttempt { untried: false, ..PATH_DOWN }, false),
            ("the connection broke", FailedAttempt { failure: Failure::Broken, ..REFUSED }, true),
            ("it took too long", FailedAttempt { failure: Failure::TriedTooLong, ..REFUSED }, true),
            ("an answer", FailedAttempt { failure: answered, ..REFUSED }, true),
            ("a timeout", FailedAttempt { failure: Failure::Timeout, ..REFUSED }, true),
        ];
        for (name, attempt, expected) in cases {
            assert_eq!(counts_as_attempt(&attempt), expected, "{name}");
        }
    }

    #[test]
    fn nothing_goes_on_for_ever_without_counting() {
        for attempt in [REFUSED, DENIED, PATH_DOWN] {
            let counting = |made: &u32| counts_as_attempt(&FailedAttempt { made: *made, ..attempt });
            assert_eq!((1..).find(counting), Some(ATTEMPTS_MAX), "{attempt:?}");
        }
    }
}
