//! What a controller is about.

use std::time::Instant;

use super::rate::Mean;

#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// The window doubles.
    Startup {
        /// The largest rate that was a quarter more than the one before.
        best: f64,
        /// Rounds since.
        flat: u32,
    },
    /// The queue runs empty.
    Low(Low),
    Cruise {
        /// Rounds until the next ascent.
        left: u32,
        /// The rate as it began.
        from: f64,
    },
    Up {
        rounds: u32,
        /// The rate as it began.
        from: f64,
        /// How many times that shows that there is more.
        enough: f64,
        /// It is the next one of several that found more.
        again: bool,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Low {
    pub(super) window: u64,
    /// In search of the shortest round trip.
    pub(super) searches: bool,
    /// After the start.
    pub(super) first: bool,
    /// When no more was under way than the window.
    pub(super) settled: Option<Instant>,
    /// Round trips of packets that were sent since.
    pub(super) trips: Mean,
}

impl Phase {
    /// As in [`super::CongestionSeen`].
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Startup { .. } => "startup",
            Self::Low(_) => "low",
            Self::Cruise { .. } => "cruise",
            Self::Up { .. } => "up",
        }
    }
}
