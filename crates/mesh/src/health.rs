//! `PathHealth`: whether the path between two gateways can take new streams (design: "Health is data-plane truth").
//!
//! A path is probed (every 5 s idle, every 500 ms in use, every 2 s when it is busy) and ejected after max(1 s, 4 × smoothed RTT) in which
//! something was sent and nothing came back. It returns when packets come back, with a slow start. The clock is an
//! argument. Time in which the process itself did not run is no silence of the path: what came in meanwhile waits to be read.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Pause between probes of a path that carries no stream.
pub const PROBE_IDLE: Duration = Duration::from_secs(5);
/// Pause between probes of a path that carries streams, or that is ejected.
pub const PROBE_IN_USE: Duration = Duration::from_millis(500);
/// The longest pause between probes of a path that carries streams and is alive: the far gateway says in its answer that it drains,
/// which is to be known well before it ends.
pub const PROBE_BUSY: Duration = Duration::from_secs(2);
/// The shortest silence that ejects.
pub const EJECT_MIN: Duration = Duration::from_secs(1);
/// The longest time between two observations that counts as silence. More of it the process was stopped, or had no CPU.
const LOOK_MAX: Duration = Duration::from_millis(300);
/// How long a returned path takes to its full share.
pub const SLOW_START: Duration = Duration::from_secs(5);

/// What the transport says about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Packets received since the connection began; any growth is a sign of life.
    pub received: u64,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Streams under way.
    pub streams: usize,
}

/// What the shell is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathAction {
    /// Send something that must be acknowledged.
    Probe,
    /// Take no new streams; move what was not accepted yet.
    Eject,
    /// Take streams again.
    Return,
}

/// The health of one path.
#[derive(Debug, Clone)]
pub struct PathHealth {
    /// Packets received when the path last showed life.
    received: u64,
    /// When the path last showed life.
    alive_at: Instant,
    /// When the oldest thing that awaits an answer was sent; `None` when all is answered.
    waiting_since: Option<Instant>,
    /// When a probe was last asked for.
    probed_at: Instant,
    /// Whether new streams are kept away.
    ejected: bool,
    /// When it last returned.
    returned_at: Option<Instant>,
    /// When the transport was last looked at.
    observed_at: Instant,
}

impl PathHealth {
    /// A path whose handshake has just ended.
    pub fn new(now: Instant) -> Self {
        Self {
            received: 0,
            alive_at: now,
            waiting_since: None,
            probed_at: now,
            ejected: false,
            returned_at: None,
            observed_at: now,
        }
    }

    /// Takes what the transport says; called every 100 ms or so. Returns what to do, in order.
    pub fn observe(&mut self, now: Instant, seen: Observation) -> Vec<PathAction> {
        let mut actions = Vec::new();
        let stopped = now.duration_since(self.observed_at).saturating_sub(LOOK_MAX);
        self.observed_at = now;
        self.waiting_since = self.waiting_since.map(|since| (since + stopped).min(now));
        if seen.received != self.received {
            self.received = seen.received;
            self.alive_at = now;
            self.waiting_since = None;
            if self.ejected {
                self.ejected = false;
                self.returned_at = Some(now);
                actions.push(PathAction::Return);
            }
        }
        let limit = EJECT_MIN.max(seen.rtt * 4);
        let silent = self.waiting_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        if !self.ejected && silent >= limit {
            self.ejected = true;
            actions.push(PathAction::Eject);
        }
        let pause = if seen.streams > 0 || self.ejected { PROBE_IN_USE } else { PROBE_IDLE };
        // A probe still unanswered is as good as a new one until the usual pause is over.
        let unasked = now.duration_since(self.probed_at);
        let quiet = now.duration_since(self.alive_at) >= pause.min(PROBE_IN_USE / 2);
        if unasked >= pause && (quiet || unasked >= PROBE_BUSY) {
            self.probed_at = now;
            self.waiting_since.get_or_insert(now);
            actions.push(PathAction::Probe);
        }
        actions
    }

    /// A stream was opened: its header must be acknowledged, so silence counts from now.
    pub fn opened_stream(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// Another connection to the same gateway has gone silent: finds out now whether this one is too.
    pub fn suspect(&mut self, now: Instant) {
        let recent =
            now.duration_since(self.probed_at) < PROBE_IN_USE || now.duration_since(self.alive_at) < PROBE_IN_USE / 2;
        if self.waiting_since.is_none() && !recent {
            // The next observation finds the probe overdue.
            self.probed_at = now.checked_sub(PROBE_IDLE).unwrap_or(self.probed_at);
        }
    }

    /// Whether new streams may use the path.
    pub fn is_usable(&self) -> bool {
        !self.ejected
    }

    /// How long nothing has come back although something was sent.
    pub fn silence(&self, now: Instant) -> Duration {
        self.waiting_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// The share of streams, 0.1 to 1: a returned path starts slowly.
    pub fn share(&self, now: Instant) -> f64 {
        let Some(returned) = self.returned_at else { return 1.0 };
        (now.duration_since(returned).as_secs_f64() / SLOW_START.as_secs_f64()).clamp(0.1, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// Runs ticks until `end` with packets arriving while `alive(ms)`, and tells the actions with their milliseconds.
    fn run(streams: usize, rtt_ms: u64, end_ms: u64, alive: impl Fn(u64) -> bool) -> Vec<(u64, PathAction)> {
        let start = Instant::now();
        let mut health = PathHealth::new(start);
        let (mut received, mut answered, mut log) = (0, false, Vec::new());
        for ms in (0..=end_ms).step_by(TICK.as_millis() as usize) {
            // A live path answers what was sent in the tick before.
            if alive(ms) && (streams > 0 || answered) {
                received += 1;
            }
            let seen = Observation { received, rtt: Duration::from_millis(rtt_ms), streams };
            let actions = health.observe(start + Duration::from_millis(ms), seen);
            answered = actions.contains(&PathAction::Probe);
            log.extend(actions.into_iter().map(|action| (ms, action)));
        }
        log
    }

    fn first(log: &[(u64, PathAction)], wanted: PathAction) -> Option<u64> {
        log.iter().find(|(_, action)| *action == wanted).map(|(ms, _)| *ms)
    }

    #[test]
    fn a_busy_path_is_asked_now_and_then_whether_its_gateway_drains() {
        let log = run(3, 1, 10_000, |_| true);
        let probes: Vec<u64> = log.iter().map(|(ms, _)| *ms).collect();
        assert_eq!(probes, [2_000, 4_000, 6_000, 8_000, 10_000], "{log:?}");
    }

    #[test]
    fn a_path_in_use_that_dies_is_ejected_within_two_seconds_and_returns() {
        let log = run(3, 1, 10_000, |ms| !(2_000..6_000).contains(&ms));
        let ejected = first(&log, PathAction::Eject).expect("ejected");
        assert!((3_000..=4_000).contains(&ejected), "ejected at {ejected} ms");
        assert_eq!(first(&log, PathAction::Return), Some(6_000));
    }

    #[test]
    fn a_long_round_trip_is_no_silence() {
        let log = run(3, 400, 10_000, |ms| !(2_000..3_400).contains(&ms));
        assert_eq!(first(&log, PathAction::Eject), None);
    }

    #[test]
    fn an_idle_path_is_probed_every_five_seconds_and_never_ejected_while_it_answers() {
        let log = run(0, 1, 30_000, |_| true);
        assert_eq!(first(&log, PathAction::Eject), None);
        assert!((5..=6).contains(&log.len()), "{log:?}");
    }

    #[test]
    fn an_idle_path_that_died_is_found_out_by_its_next_probe() {
        let log = run(0, 1, 12_000, |ms| ms < 1_000);
        let ejected = first(&log, PathAction::Eject).expect("ejected");
        assert!(ejected <= 7_000, "ejected at {ejected} ms");
    }

    #[test]
    fn a_suspected_path_is_probed_at_once_and_not_again_and_again() {
        let start = Instant::now();
        let mut health = PathHealth::new(start);
        let seen = Observation { received: 0, rtt: TICK, streams: 0 };
        let mut probes = Vec::new();
        for ms in (0..2_000).step_by(100) {
            let now = start + Duration::from_millis(ms);
            if ms >= 1_000 {
                health.suspect(now);
            }
            if health.observe(now, seen).contains(&PathAction::Probe) {
                probes.push(ms);
            }
        }
        assert_eq!(probes, [1_000]);
        assert!(health.observe(start + EJECT_MIN * 2, seen).contains(&PathAction::Eject));
    }

    #[test]
    fn a_process_that_was_stopped_itself_ejects_no_path_that_answers_as_soon_as_it_runs_again() {
        // Stopped once, and with so little CPU that it looks only now and then.
        for gaps in [&[5_000, 100, 100, 100][..], &[900, 900, 900, 900, 900]] {
            let start = Instant::now();
            let (mut health, mut now) = (PathHealth::new(start), start);
            for (turn, gap) in gaps.iter().enumerate() {
                health.opened_stream(now);
                now += Duration::from_millis(*gap);
                // What came in meanwhile is read only after the first look.
                let seen = Observation { received: u64::try_from(turn).unwrap(), rtt: TICK, streams: 1 };
                let actions = health.observe(now, seen);
                assert!(!actions.contains(&PathAction::Eject), "{gaps:?}, turn {turn}");
            }
        }
    }

    #[test]
    fn a_path_that_is_dead_is_ejected_however_seldom_the_process_runs() {
        let start = Instant::now();
        let (mut health, seen) = (PathHealth::new(start), Observation { received: 0, rtt: TICK, streams: 1 });
        health.opened_stream(start);
        let looks = (1..).find(|look| health.observe(start + EJECT_MIN * 2 * *look, seen).contains(&PathAction::Eject));
        assert_eq!(looks, Some(4), "300 ms of silence each");
    }

    #[test]
    fn a_returned_path_starts_slowly() {
        let start = Instant::now();
        let mut health = PathHealth::new(start);
        health.opened_stream(start);
        let seen = |received| Observation { received, rtt: TICK, streams: 1 };
        let look = |n: u32| health.observe(start + TICK * n, seen(0));
        assert!((1..=10).flat_map(look).any(|action| action == PathAction::Eject));
        assert!(!health.is_usable());
        assert!(health.observe(start + EJECT_MIN * 2, seen(1)).contains(&PathAction::Return));
        assert!(health.share(start + EJECT_MIN * 2) < 0.2);
        assert!((health.share(start + EJECT_MIN * 2 + SLOW_START) - 1.0).abs() < f64::EPSILON);
    }
}
