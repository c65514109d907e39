//! How much happened lately.

use std::time::Duration;

use tokio::time::Instant;

/// Parts of an interval: what is older than the interval is forgotten part by part.
const PARTS: usize = 10;

/// Counts what happened within an interval, to a tenth of it.
#[derive(Debug, Default)]
pub(super) struct Window {
    counts: [u32; PARTS],
    /// The part that is counted in, and when it began.
    current: usize,
    since: Option<Instant>,
}

impl Window {
    pub(super) fn add(&mut self, interval: Duration, now: Instant) {
        self.advance(interval, now);
        let count = &mut self.counts[self.current % PARTS];
        *count = count.saturating_add(1);
    }

    pub(super) fn count(&mut self, interval: Duration, now: Instant) -> u32 {
        self.advance(interval, now);
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn advance(&mut self, interval: Duration, now: Instant) {
        let part = (interval / 10).max(Duration::from_millis(1));
        let mut since = *self.since.get_or_insert(now);
        if now.duration_since(since) >= interval {
            self.counts = [0; PARTS];
            since = now;
        }
        while now.duration_since(since) >= part {
            since += part;
            self.current = (self.current + 1) % PARTS;
            self.counts[self.current] = 0;
        }
        self.since = Some(since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_interval_is_forgotten() {
        let (second, start) = (Duration::from_secs(1), Instant::now());
        let mut window = Window::default();
        window.add(second, start);
        window.add(second, start + second / 2);
        assert_eq!(window.count(second, start + second / 2), 2);
        assert_eq!(window.count(second, start + second * 11 / 10), 1);
        assert_eq!(window.count(second, start + second * 2), 0);
        assert_eq!(window.count(second, start + second * 1000), 0);
    }
}
