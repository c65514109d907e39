//! The shortest round trip of a gateway's connections, which congestion controllers hear of and sockets ask for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh::ShortestTrip;

/// Of one gateway; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trips(Arc<Mutex<ShortestTrip>>);

impl Trips {
    /// A connection has measured one.
    pub(super) fn measured(&self, now: Instant, trip: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).measured(now, trip);
    }

    /// The shortest of late; `None`: none was measured.
    pub(super) fn shortest(&self, now: Instant) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(now)
    }
}
