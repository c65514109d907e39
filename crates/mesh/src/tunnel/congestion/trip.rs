//! How long the way is without a queue of our own.

use std::time::{Duration, Instant};

/// A floor that was not seen for so long is looked for on purpose.
const STALE: Duration = Duration::from_secs(5);
/// And so long by a flow that has too little to send to look for it.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// What others keep in the queue is taken for part of the way up to so many times the floor.
const BASE_MAX: u32 = 2;
/// A round trip of so many times the floor while nothing of ours waits: the floor is not there any more.
const ELSEWHERE: u32 = 3;
/// Round trips of a round below which it may lower the base.
const ENOUGH: u32 = 8;
/// A queue of so little is none: what timers and processes that wait for a CPU make of a short way.
const GRAIN: Duration = Duration::from_millis(2);

/// Round trips as means of rounds, since a pipe holds its rate times the mean: jitter and acknowledgements that come in
/// heaps are part of the way.
#[derive(Debug, Clone)]
pub(super) struct Trips {
    /// The shortest mean, and when it was last seen.
    floor: Option<(Duration, Instant)>,
    /// The mean while this connection had no queue.
    base: Duration,
    looked_at: Instant,
}

impl Trips {
    pub(super) fn new(now: Instant) -> Self {
        Self { floor: None, base: Duration::ZERO, looked_at: now }
    }

    /// The shortest; zero before the first.
    pub(super) fn floor(&self) -> Duration {
        self.floor.map_or(Duration::ZERO, |(floor, _)| floor)
    }

    /// With what others keep in the queue.
    pub(super) fn base(&self) -> Duration {
        self.base
    }

    /// Whether a round trip of this mean says that packets wait; `eager` is half as patient.
    pub(super) fn is_queue(&self, mean: Duration, eager: bool) -> bool {
        let share = if eager { 8 } else { 4 };
        self.floor.is_some() && mean > self.base + self.base / share + GRAIN
    }

    /// A round is over.
    pub(super) fn round(&mut self, now: Instant, mean: Duration, count: u32, app_limited: bool) {
        self.see(now, mean);
        let seen_at = self.floor.map_or(now, |(_, at)| at);
        if app_limited && now.saturating_duration_since(seen_at) >= FORGOTTEN {
            self.floor = Some((mean, now));
        }
        if count >= ENOUGH || self.base.is_zero() {
            self.base = if self.base.is_zero() { mean } else { self.base.min(mean) };
        }
        self.clamp();
    }

    /// The mean while this connection kept its part of the queue empty, perhaps in search of the floor.
    pub(super) fn low(&mut self, now: Instant, mean: Duration, searched: bool) {
        self.see(now, mean);
        // Connections like this one fill a queue to less than that, so this is another way, or a queue of others.
        let elsewhere = mean > self.floor() * ELSEWHERE + GRAIN;
        if searched || elsewhere {
            self.floor = Some((mean, now));
        }
        self.base = mean;
        self.clamp();
    }

    /// Whether the floor is to be looked for; true once in a while.
    pub(super) fn is_stale(&mut self, now: Instant) -> bool {
        let seen_at = self.floor.map_or(now, |(_, at)| at);
        let stale = now.saturating_duration_since(seen_at.max(self.looked_at)) >= STALE;
        if stale {
            self.looked_at = now;
        }
        stale
    }

    fn see(&mut self, now: Instant, mean: Duration) {
        self.floor = match self.floor {
            Some((floor, _)) if mean > floor && mean <= floor + floor / 20 => Some((floor, now)),
            Some((floor, at)) if mean > floor => Some((floor, at)),
            _ => Some((mean, now)),
        };
    }

    fn clamp(&mut self) {
        let floor = self.floor();
        self.base = self.base.clamp(floor, (floor * BASE_MAX).max(floor + GRAIN));
    }
}

/// The shortest round trip of late: of the current interval and the one before it, so that a process that was not given a CPU
/// for a moment is not taken for a queue.
#[derive(Debug, Clone)]
pub(super) struct Shortest {
    since: Instant,
    now: Option<Duration>,
    before: Option<Duration>,
    samples: u32,
}

impl Shortest {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, now: None, before: None, samples: 0 }
    }

    pub(super) fn take(&mut self, now: Instant, trip: Duration, interval: Duration) {
        if now.saturating_duration_since(self.since) >= interval && self.samples >= ENOUGH {
            (self.before, self.now) = (self.now.take(), None);
            (self.since, self.samples) = (now, 0);
        }
        self.now = Some(self.now.map_or(trip, |least| least.min(trip)));
        self.samples += 1;
    }

    /// None before the first interval is over.
    pub(super) fn shortest(&self) -> Option<Duration> {
        let (now, before) = (self.now?, self.before?);
        Some(now.min(before))
    }
}
