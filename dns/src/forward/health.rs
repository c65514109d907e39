//! Which name server is asked next. Pure: what happened and when is told.

use std::time::{Duration, Instant};

/// A server is waited for no longer than this.
pub(super) const PATIENCE_MAX: Duration = Duration::from_millis(1500);
/// … and at least this long, however fast it usually is.
const PATIENCE_MIN: Duration = Duration::from_millis(400);
/// After so many failures in a row a server comes last for a while.
const FAILURES: u32 = 3;
/// The first while; it doubles with every further failure.
const ASIDE: Duration = Duration::from_secs(2);
/// The longest.
const ASIDE_MAX: Duration = Duration::from_secs(30);

/// What is remembered of one server.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Health {
    failures: u32,
    aside_until: Option<Instant>,
    /// Smoothed time from question to answer.
    usual: Option<Duration>,
}

impl Health {
    pub(super) fn handle_answer(&mut self, took: Duration) {
        let usual = self.usual.map_or(took, |usual| (usual * 7 + took) / 8);
        *self = Self { usual: Some(usual), ..Self::default() };
    }

    pub(super) fn handle_failure(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if let Some(beyond) = self.failures.checked_sub(FAILURES) {
            let aside = ASIDE.saturating_mul(1 << beyond.min(8)).min(ASIDE_MAX);
            self.aside_until = Some(now + aside);
        }
    }

    /// Whether it is asked before those that fail.
    pub(super) fn is_trusted(&self, now: Instant) -> bool {
        self.aside_until.is_none_or(|until| now >= until)
    }

    /// How long it is waited for: much longer than it usually takes.
    pub(super) fn patience(&self) -> Duration {
        self.usual.map_or(PATIENCE_MAX, |usual| (usual * 4).clamp(PATIENCE_MIN, PATIENCE_MAX))
    }
}

/// Positions in the order in which to ask: as configured, those that fail last.
pub(super) fn order(servers: &[Health], now: Instant) -> Vec<usize> {
    let mut order: Vec<usize> = (0..servers.len()).collect();
    order.sort_by_key(|index| !servers[*index].is_trusted(now));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_comes_last_until_it_answers_or_time_has_passed() {
        let start = Instant::now();
        let mut servers = [Health::default(), Health::default()];
        assert_eq!(order(&servers, start), [0, 1]);
        servers[0].handle_failure(start);
        servers[0].handle_failure(start);
        assert_eq!(order(&servers, start), [0, 1], "twice may be chance");
        servers[0].handle_failure(start);
        assert_eq!(order(&servers, start), [1, 0]);
        assert_eq!(order(&servers, start + ASIDE), [0, 1], "it is tried again");
        servers[0].handle_failure(start + ASIDE);
        assert_eq!(order(&servers, start + ASIDE * 2), [1, 0], "longer this time");
        for _ in 0..50 {
            servers[0].handle_failure(start);
        }
        assert_eq!(order(&servers, start + ASIDE_MAX), [0, 1], "but not for ever");
        servers[0].handle_answer(Duration::from_millis(10));
        servers[0].handle_failure(start);
        assert_eq!(order(&servers, start), [0, 1]);
    }

    #[test]
    fn patience_follows_what_is_usual() {
        let mut health = Health::default();
        assert_eq!(health.patience(), PATIENCE_MAX);
        health.handle_answer(Duration::from_millis(1));
        assert_eq!(health.patience(), PATIENCE_MIN);
        for _ in 0..50 {
            health.handle_answer(Duration::from_millis(200));
        }
        assert!((790..=800).contains(&health.patience().as_millis()), "{:?}", health.patience());
        health.handle_answer(Duration::from_secs(60));
        assert_eq!(health.patience(), PATIENCE_MAX);
    }
}
