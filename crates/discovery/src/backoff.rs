//! Exponential backoff with jitter, so that the clients of a restarted agent do not come back all at once.

use std::time::Duration;

use rand::Rng;

const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);

/// Delays between attempts: each one is drawn from the upper half of an interval that doubles up to 5 s.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    /// The upper end of the next delay.
    limit: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { limit: FIRST }
    }

    /// The attempt succeeded: the next delay is a short one again.
    pub(crate) fn reset(&mut self) {
        self.limit = FIRST;
    }

    /// How long to wait before the next attempt.
    pub(crate) fn next_delay(&mut self, rng: &mut impl Rng) -> Duration {
        let delay = self.limit.mul_f64(rng.random_range(0.5..1.0));
        self.limit = (self.limit * 2).min(LAST);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_five_seconds_and_start_over_after_a_success() {
        let mut rng = rand::rng();
        let mut backoff = Backoff::new();
        let delays: Vec<Duration> = (0..10).map(|_| backoff.next_delay(&mut rng)).collect();
        assert!(delays[0] >= FIRST / 2 && delays[0] < FIRST);
        assert!(delays.iter().all(|delay| *delay < LAST));
        assert!(delays[9] >= LAST / 2);
        backoff.reset();
        assert!(backoff.next_delay(&mut rng) < FIRST);
    }
}
