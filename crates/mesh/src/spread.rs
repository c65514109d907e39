//! How much of a destination's traffic stays in the own cluster (ClusterTrafficPolicy): overflow in proportion to the
//! local endpoints that are gone, with a cap, and hysteresis on the way back. The clock and the draw are arguments.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::policy::ClusterTraffic;

/// Healthy endpoints, of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LocalHealth {
    /// Those that take requests.
    pub healthy: usize,
    /// Those that there are.
    pub known: usize,
}

impl LocalHealth {
    /// The share that the own cluster can serve when it is expected to serve all with `percent` of its endpoints.
    fn level(self, percent: u32) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of endpoints")]
        let share = self.healthy as f64 / self.known.max(1) as f64;
        match (self.healthy, percent) {
            (0, _) => 0.0,
            (_, 0) => 1.0,
            _ => (share * 100.0 / f64::from(percent)).min(1.0),
        }
    }
}

/// The share of requests that the own cluster gets, as time goes by. It falls at once with the healthy endpoints, and
/// rises only after they have been enough for some time; in between, more of them are wanted than it took to fall.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalShare {
    /// 0 to 1; `None` before anything was seen.
    share: Option<f64>,
    /// Since when more could return, and the least that could in that time.
    rising: Option<(Instant, f64)>,
    /// When health was last looked at.
    seen: Option<Instant>,
}

impl LocalShare {
    /// Takes what is known of the local endpoints; gives the share from now on.
    pub fn observe(&mut self, rules: &ClusterTraffic, health: LocalHealth, now: Instant) -> f64 {
        // What happened while nobody looked is not known; the shortest memory is a second.
        let memory = rules.return_after.max(Duration::from_secs(1));
        if self.seen.is_some_and(|seen| now.duration_since(seen) > memory) {
            *self = Self::default();
        }
        self.seen = Some(now);
        let (fall, rise) =
            (health.level(rules.overflow_percent), health.level(rules.return_percent.max(rules.overflow_percent)));
        let share = self.share.unwrap_or(fall);
        if fall < share {
            self.rising = None;
            return self.settle(fall);
        }
        if rise <= share {
            self.rising = None;
            return self.settle(share);
        }
        let (since, least) = self.rising.map_or((now, rise), |(since, least)| (since, least.min(rise)));
        if now.duration_since(since) < rules.return_after {
            self.rising = Some((since, least));
            return self.settle(share);
        }
        self.rising = None;
        self.settle(least)
    }

    fn settle(&mut self, share: f64) -> f64 {
        self.share = Some(share);
        share
    }
}

/// What a request does: in which order it looks at clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// The own cluster first.
    Local,
    /// The others first; the own cluster if they fail.
    Spill,
}

/// Decides for one request, by a draw from all numbers.
pub fn spread(rules: &ClusterTraffic, local_share: f64, health: LocalHealth, entropy: u64) -> Spread {
    let cap = if health.healthy == 0 { 1.0 } else { f64::from(rules.max_share_percent) / 100.0 };
    let spill = (1.0 - local_share).clamp(0.0, cap);
    #[expect(clippy::cast_precision_loss, reason = "a draw between 0 and 1")]
    let drawn = (entropy >> 11) as f64 / (1_u64 << 53) as f64;
    if drawn < spill { Spread::Spill } else { Spread::Local }
}

#[cfg(test)]
mod tests;
