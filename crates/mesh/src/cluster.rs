//! The state of another cluster: from its lease (the hub's word) and the paths to it (one's own eyes). And how a drain
//! proceeds.

use std::fmt;

use serde::Serialize;

/// What one cluster thinks of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterState {
    /// Its announcements are fresh, and it can be reached.
    Live,
    /// Its lease ran out, but it can be reached: used, with the age of what it announced.
    Stale,
    /// It announces, but cannot be reached from here: not used from here.
    Unreachable,
    /// Its lease ran out and it cannot be reached: used by nobody. Nothing is erased, so that it returns as it was.
    Dead,
}

impl ClusterState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Live, Self::Stale, Self::Unreachable, Self::Dead];

    /// Whether requests go there.
    pub fn is_used(self) -> bool {
        matches!(self, Self::Live | Self::Stale)
    }

    /// The name in metrics and in what `hubctl` prints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stale => "stale",
            Self::Unreachable => "unreachable",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Judges a cluster. `reachable` is whether any path to it takes streams; `None` where nobody looked, because nothing is
/// imported from it.
pub fn cluster_state(lease_live: bool, reachable: Option<bool>) -> ClusterState {
    match (lease_live, reachable) {
        (true, Some(false)) => ClusterState::Unreachable,
        (false, Some(false)) => ClusterState::Dead,
        (true, _) => ClusterState::Live,
        (false, _) => ClusterState::Stale,
    }
}

/// The part of its usual share, in percent, that a cluster still gets: it falls in a straight line from when the wish
/// was heard, and is zero when its time is over. Times in milliseconds of one clock.
pub fn drain_share(since_ms: u64, over_ms: u64, now_ms: u64) -> u32 {
    let passed = now_ms.saturating_sub(since_ms);
    let left = over_ms.saturating_sub(passed);
    if left == 0 {
        return 0;
    }
    // At least one in a hundred until the time is over.
    let percent = (u128::from(left) * 100).div_ceil(u128::from(over_ms));
    u32::try_from(percent.clamp(1, 100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_and_paths_make_a_state() {
        let table = [
            (true, Some(true), "live", true),
            (true, None, "live", true),
            (false, Some(true), "stale", true),
            (false, None, "stale", true),
            (true, Some(false), "unreachable", false),
            (false, Some(false), "dead", false),
        ];
        for (lease, reachable, expected, used) in table {
            let state = cluster_state(lease, reachable);
            assert_eq!((state.as_str(), state.is_used()), (expected, used), "{lease} {reachable:?}");
        }
    }

    #[test]
    fn a_drain_falls_in_a_straight_line() {
        let at = |now| drain_share(1_000, 60_000, now);
        assert_eq!([at(0), at(1_000), at(16_000), at(31_000), at(46_000)], [100, 100, 75, 50, 25]);
        assert_eq!([at(60_999), at(61_000), at(1 << 60)], [1, 0, 0]);
        assert_eq!(drain_share(1_000, 0, 1_000), 0, "at once");
    }
}
