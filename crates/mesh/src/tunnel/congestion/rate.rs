//! How fast the path delivers: one sample for each round, the largest of two cycles.

use std::time::{Duration, Instant};

/// Bytes per second that were delivered at most, in this cycle of probing or the one before.
#[derive(Debug, Clone, Default)]
pub(super) struct RateFilter {
    now: f64,
    before: f64,
}

impl RateFilter {
    /// A sample counts.
    pub(super) fn take(&mut self, rate: f64) {
        self.now = self.now.max(rate);
    }

    /// What was seen before the last cycle is forgotten, unless nothing was seen since.
    pub(super) fn next_cycle(&mut self) {
        if self.now > 0.0 {
            self.before = std::mem::take(&mut self.now);
        }
    }

    /// All that was seen is wrong; this is right.
    pub(super) fn reset(&mut self, rate: f64) {
        *self = Self { now: rate, before: 0.0 };
    }

    /// Bytes per second; 0 while nothing is known.
    pub(super) fn get(&self) -> f64 {
        self.now.max(self.before)
    }
}

/// A mean of round trips.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mean {
    sum: Duration,
    pub(super) count: u32,
}

impl Mean {
    pub(super) fn take(&mut self, sample: Duration) {
        self.sum += sample;
        self.count += 1;
    }

    /// None without at least so many samples.
    pub(super) fn of(&self, least: u32) -> Option<Duration> {
        (self.count >= least.max(1)).then(|| self.sum / self.count)
    }
}

/// What was acknowledged on this connection so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivered {
    /// Bytes.
    pub(super) bytes: u64,
    /// When the last of them were acknowledged.
    pub(super) at: Instant,
    /// When the newest acknowledged packet was sent.
    pub(super) newest_sent: Instant,
}

/// From a moment until a packet that was sent after it is acknowledged: about one round trip.
#[derive(Debug, Clone)]
pub(super) struct Round {
    /// Packets that are sent from now on end it.
    pub(super) started: Instant,
    /// As it began.
    before: Delivered,
    /// Bytes acknowledged in it.
    pub(super) acked: u64,
    /// Bytes given up in it, most of them sent in the round before.
    pub(super) lost: u64,
    /// A router marked packets instead of dropping them (ECN).
    pub(super) marked: bool,
    /// There was a moment with nothing to send.
    pub(super) app_limited: bool,
    /// Round trips seen.
    pub(super) trips: Mean,
    /// The most that was under way, in bytes.
    pub(super) in_flight_max: u64,
}

impl Round {
    pub(super) fn begin(now: Instant, before: Delivered, in_flight: u64) -> Self {
        Self {
            started: now,
            before,
            acked: 0,
            lost: 0,
            marked: false,
            app_limited: false,
            trips: Mean::default(),
            in_flight_max: in_flight,
        }
    }

    /// Bytes per second in it so far. The longer of the time in which they were sent and the time in which they were
    /// acknowledged counts, so that acknowledgements that come in one heap prove nothing
    /// (draft-ietf-ccwg-bbr, "Delivery Rate Samples").
    pub(super) fn rate(&self, now: Delivered, least: Duration) -> f64 {
        let acked_in = now.at.saturating_duration_since(self.before.at);
        let sent_in = now.newest_sent.saturating_duration_since(self.before.newest_sent);
        let interval = acked_in.max(sent_in).max(least).max(Duration::from_micros(1));
        (now.bytes - self.before.bytes) as f64 / interval.as_secs_f64()
    }

    /// How long it has lasted.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.before.at)
    }
}

/// Acknowledgements that come in heaps: how many bytes more than the rate accounts for came at once, at most, of late. A
/// window must have room for them, or the path runs empty before each heap (draft-ietf-ccwg-bbr, "extra_acked").
#[derive(Debug, Clone)]
pub(super) struct Heaps {
    since: Instant,
    acked: f64,
    most: RateFilter,
}

impl Heaps {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, acked: 0.0, most: RateFilter::default() }
    }

    /// So many bytes were acknowledged together, of a path with this rate.
    pub(super) fn take(&mut self, now: Instant, bytes: u64, rate: f64) {
        let expected = rate * now.saturating_duration_since(self.since).as_secs_f64();
        if self.acked <= expected || rate <= 0.0 {
            (self.since, self.acked) = (now, bytes as f64);
            self.most.take(bytes as f64);
        } else {
            self.acked += bytes as f64;
            self.most.take(self.acked - expected);
        }
    }

    /// What came before the last cycle is forgotten.
    pub(super) fn next_cycle(&mut self) {
        self.most.next_cycle();
    }

    /// Bytes.
    pub(super) fn most(&self) -> f64 {
        self.most.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_in_one_heap_prove_no_rate() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let before = Delivered { bytes: 0, at: at(80), newest_sent: at(0) };
        let round = Round::begin(at(80), before, 0);
        // Sent over 80 ms, acknowledged within 10 ms.
        let rate = round.rate(Delivered { bytes: 80_000, at: at(90), newest_sent: at(80) }, Duration::ZERO);
        assert!((rate - 1e6).abs() < 1.0, "{rate}");
    }

    #[test]
    fn the_rate_of_two_cycles_counts() {
        let mut filter = RateFilter::default();
        for (rate, expected) in [(5.0, 5.0), (3.0, 5.0), (2.0, 3.0)] {
            filter.next_cycle();
            filter.take(rate);
            assert!((filter.get() - expected).abs() < f64::EPSILON, "{filter:?}");
        }
    }

    #[test]
    fn a_heap_is_what_the_rate_does_not_account_for() {
        let start = Instant::now();
        let mut heaps = Heaps::new(start);
        for ms in (0..100).step_by(20) {
            heaps.take(start + Duration::from_millis(ms), 20_000, 1e6);
        }
        assert!((20_000.0..20_001.0).contains(&heaps.most()), "{heaps:?}");
    }
}
