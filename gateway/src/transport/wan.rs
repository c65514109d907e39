//! [`mesh::WanCongestion`] as a congestion controller of quinn.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use mesh::{CongestionSeen, WanCongestion};
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

/// Makes them, each with a seed of its own.
pub(super) struct Wan;

impl ControllerFactory for Wan {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(WanController(WanCongestion::new(now, current_mtu, rand::random())))
    }
}

#[derive(Clone)]
struct WanController(WanCongestion);

impl WanController {
    /// What changes the phase is logged: on a path that does badly it is the first thing to know.
    fn watch(&mut self, change: impl FnOnce(&mut WanCongestion)) {
        let before = self.0.seen().phase;
        change(&mut self.0);
        let CongestionSeen { phase, rate, round_trip, chance } = self.0.seen();
        if phase != before {
            let window = self.0.window();
            tracing::trace!(phase, before, bytes_per_second = rate, ?round_trip, chance, window, "congestion control");
        }
    }
}

impl Controller for WanController {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.0.handle_sent(now, bytes);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.0.handle_ack(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        self.watch(|it| it.handle_acks_end(now, in_flight, app_limited));
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.watch(|it| it.handle_loss(now, sent, lost_bytes, is_persistent_congestion));
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.handle_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.0.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.0.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.0.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
