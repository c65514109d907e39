//! What flows of ours meet.

use std::time::{Duration, Instant};

use super::{Controller, PACKET};

/// As quinn-proto 0.11 has it (RFC 9438).
#[derive(Default)]
pub(in super::super) struct Cubic {
    window: f64,
    threshold: f64,
    recovery: Option<Instant>,
    w_max: f64,
    k: f64,
    grown: f64,
}

impl Cubic {
    pub(in super::super) fn new() -> Self {
        Self { window: 12_000.0, threshold: f64::INFINITY, ..Self::default() }
    }
}

impl Controller for Cubic {
    fn sent(&mut self, _now: Instant, _bytes: u64) {}

    fn ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, trip: Duration) {
        if app_limited || self.recovery.is_some_and(|recovery| sent <= recovery) {
            return;
        }
        if self.window < self.threshold {
            self.window += bytes as f64;
            return;
        }
        let since = *self.recovery.get_or_insert(now);
        let (t, packet) = (now - since, PACKET as f64);
        let w_max = self.w_max / packet;
        let cubic = (0.4 * ((t + trip).as_secs_f64() - self.k).powi(3) + w_max) * packet;
        let reno = (w_max * 0.7 + 3.0 * 0.3 / 1.7 * t.as_secs_f64() / trip.as_secs_f64()) * packet;
        let mut wanted = self.window;
        if cubic < reno {
            wanted = wanted.max(reno);
        } else if wanted < cubic {
            wanted += (cubic - wanted) / wanted * packet;
        }
        self.grown += wanted - self.window;
        if self.grown >= packet {
            self.window += packet;
            self.grown = 0.0;
        }
    }

    fn acks_end(&mut self, _now: Instant, _in_flight: u64, _app_limited: bool) {}

    fn loss(&mut self, now: Instant, sent: Instant, _bytes: u64, persistent: bool) {
        if self.recovery.is_some_and(|recovery| sent <= recovery) {
            return;
        }
        self.recovery = Some(now);
        self.w_max = if self.window < self.w_max { self.window * 0.85 } else { self.window };
        self.threshold = (self.window * 0.7).max(2.0 * PACKET as f64);
        self.window = self.threshold;
        self.k = (self.w_max / PACKET as f64 * 0.3 / 0.4).cbrt();
        self.grown *= 0.7;
        if persistent {
            self.recovery = None;
            self.window = 2.0 * PACKET as f64;
        }
    }

    fn window(&self) -> u64 {
        self.window as u64
    }

    fn say(&self) -> String {
        format!("threshold {:.0}", self.threshold)
    }
}
