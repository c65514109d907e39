//! A congestion controller that lets something out now and then while nothing is acknowledged; see [`mesh::Knocks`].

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use mesh::Knocks;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use super::trips::Trips;

/// Makes controllers of another kind knock, and tell of round trips if anybody asks for them.
pub(super) struct Knocking {
    pub(super) inner: Arc<dyn ControllerFactory + Send + Sync>,
    pub(super) trips: Option<Trips>,
}

impl ControllerFactory for Knocking {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::clone(&self.inner).build(now, current_mtu);
        let (knocks, trips) = (Knocks::new(now, current_mtu), self.trips.clone());
        Box::new(KnockingController { inner, knocks, trips })
    }
}

struct KnockingController {
    inner: Box<dyn Controller>,
    knocks: Knocks,
    trips: Option<Trips>,
}

impl Controller for KnockingController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.knocks.sent(now, bytes);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.knocks.heard(now, rtt.get());
        if let Some(trips) = &self.trips {
            trips.measured(now, rtt.min());
        }
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.knocks.under_way(in_flight);
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.knocks.lost(lost_bytes);
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.knocks.resize(new_mtu);
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.knocks.window(Instant::now(), self.inner.window())
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), knocks: self.knocks.clone(), trips: self.trips.clone() })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
