//! A sender: window, pacer, timers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Controller, MAX_ACK_DELAY, PACKET, Tally};
use crate::Knocks;

/// What a flow has to send.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Application {
    /// All it can.
    Bulk,
    /// Bytes per second, in packets.
    Steady(f64),
    /// All it can, but for some time: from and until when, in milliseconds, and bytes per second.
    Pausing(u64, u64, f64),
}

pub(super) struct Outstanding {
    pub(super) number: u64,
    pub(super) at: Instant,
    pub(super) done: bool,
}

pub(super) struct Flow {
    pub(super) controller: Box<dyn Controller>,
    pub(super) knocks: Knocks,
    pub(super) application: Application,
    pub(super) ends: Duration,
    pub(super) outstanding: VecDeque<Outstanding>,
    pub(super) in_flight: u64,
    pub(super) next: u64,
    pub(super) largest_acked: Option<u64>,
    pub(super) smoothed: Option<Duration>,
    pub(super) variance: Duration,
    pub(super) latest: Duration,
    pub(super) tokens: f64,
    pub(super) paced_at: Option<Instant>,
    pub(super) app_limited: bool,
    pub(super) credit: f64,
    pub(super) credited_at: Option<Instant>,
    pub(super) probes: u32,
    pub(super) probe_count: u32,
    pub(super) last_sent: Option<Instant>,
    /// The next packet to arrive, in order.
    pub(super) expected: u64,
    /// Packets that have arrived and were not acknowledged yet.
    pub(super) unacknowledged: Vec<u64>,
    pub(super) wake: Option<Instant>,
    pub(super) tallies: Vec<Tally>,
}

impl Flow {
    /// A flow that sends until so many milliseconds after the start.
    pub(super) fn new(controller: Box<dyn Controller>, application: Application, start: Instant, until: u64) -> Self {
        Self {
            controller,
            knocks: Knocks::new(start, PACKET as u16),
            application,
            ends: Duration::from_millis(until),
            outstanding: VecDeque::new(),
            in_flight: 0,
            next: 0,
            largest_acked: None,
            smoothed: None,
            variance: Duration::ZERO,
            latest: Duration::from_millis(333),
            tokens: 10.0 * PACKET as f64,
            paced_at: None,
            app_limited: false,
            credit: 0.0,
            credited_at: None,
            probes: 0,
            probe_count: 0,
            last_sent: None,
            expected: 0,
            unacknowledged: Vec::new(),
            wake: None,
            tallies: Vec::new(),
        }
    }

    /// Bytes per second that the application has to send now; none: all it can.
    pub(super) fn steady(&self, elapsed: Duration) -> Option<f64> {
        match self.application {
            Application::Bulk => None,
            Application::Steady(rate) => Some(rate),
            Application::Pausing(from, until, rate) => {
                (u128::from(from)..u128::from(until)).contains(&elapsed.as_millis()).then_some(rate)
            }
        }
    }

    pub(super) fn has_something(&mut self, now: Instant, elapsed: Duration) -> bool {
        let Some(rate) = self.steady(elapsed) else { return true };
        let since = self.credited_at.replace(now).map_or(Duration::ZERO, |at| now - at);
        self.credit = (self.credit + since.as_secs_f64() * rate).min(1e6);
        self.credit >= PACKET as f64
    }

    /// quinn's pacer: when the next packet may leave, if not now.
    pub(super) fn pace(&mut self, now: Instant) -> Option<Instant> {
        let trip = self.smoothed.unwrap_or(self.latest).as_secs_f64();
        let window = self.controller.window() as f64;
        let capacity = (window * 0.002 / trip).clamp(10.0 * PACKET as f64, 256.0 * PACKET as f64);
        self.tokens = self.tokens.min(capacity);
        if self.tokens >= PACKET as f64 {
            return None;
        }
        let since = now - self.paced_at.replace(now).unwrap_or(now);
        self.tokens = (self.tokens + window * 1.25 * since.as_secs_f64() / trip).min(capacity);
        if self.tokens >= PACKET as f64 {
            return None;
        }
        Some(now + Duration::from_secs_f64(trip * (capacity - self.tokens) / window * 0.8))
    }

    pub(super) fn trip(&mut self, trip: Duration) {
        self.latest = trip;
        match self.smoothed {
            Some(smoothed) => {
                self.variance = (self.variance * 3 + smoothed.abs_diff(trip)) / 4;
                self.smoothed = Some((smoothed * 7 + trip) / 8);
            }
            None => (self.smoothed, self.variance) = (Some(trip), trip / 2),
        }
    }

    pub(super) fn loss_delay(&self) -> Duration {
        self.smoothed.unwrap_or(self.latest).max(self.latest).mul_f64(9.0 / 8.0)
    }

    pub(super) fn probe_timeout(&self) -> Duration {
        self.smoothed.unwrap_or(self.latest) + (self.variance * 4).max(Duration::from_millis(1)) + MAX_ACK_DELAY
    }

    pub(super) fn probe_after(&self) -> Duration {
        self.probe_timeout() * 2_u32.pow(self.probe_count.min(16))
    }
}
