//! `Outliers`: which endpoints of a destination are kept out because they fail (`outlierDetection`).
//!
//! The rules are Envoy's: an endpoint that fails so many times in a row is ejected for the base time × the number of
//! ejections so far, unless too many are ejected already; one that has worked since loses an ejection per interval. The
//! clock is an argument. An ejection ends when its time is over, not only at the next interval.
//!
//! **Invariant:** no more endpoints are remembered than a bound.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::policy::OutlierDetection;

/// The longest ejection, unless the base time is longer (Envoy's default).
pub const EJECTION_MAX: Duration = Duration::from_secs(300);

/// Of so many endpoints failures are remembered; those that are in order take no memory for long.
const REMEMBERED_MAX: usize = 4096;

/// What became of one attempt at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A connection came about, and nothing else is known (a TCP flow).
    Connected,
    /// The endpoint answered with this status; gRPC statuses are mapped by the shell.
    Answered(u16),
    /// No connection, or it broke: a failure that the proxy saw itself.
    Failed,
    /// The endpoint took too long.
    TimedOut,
}

/// Which detector ejected an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Detector {
    /// Errors in a row.
    Consecutive5xx,
    /// 502, 503, 504 in a row.
    ConsecutiveGateway,
    /// Failures of the connection in a row.
    ConsecutiveLocalOrigin,
}

impl Detector {
    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGateway => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOrigin => "consecutive_local_origin_failure",
        }
    }
}

/// The endpoints of one destination.
#[derive(Debug, Clone)]
pub struct Outliers<K> {
    endpoints: BTreeMap<K, Endpoint>,
}

/// What is remembered of one endpoint.
#[derive(Debug, Clone, Default)]
struct Endpoint {
    errors: u32,
    gateway: u32,
    local: u32,
    /// Kept out until then.
    until: Option<Instant>,
    /// All ejections.
    ejections: u32,
    /// The multiple of the base time that the last ejection took.
    multiple: u32,
    /// When the last ejection ended, or the multiple was last lowered.
    relaxed: Option<Instant>,
}

impl<K> Default for Outliers<K> {
    fn default() -> Self {
        Self { endpoints: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Outliers<K> {
    /// Takes the outcome of an attempt. `total` is the number of endpoints that the destination has. Returns the
    /// detector when the endpoint is ejected by it.
    pub fn observe(
        &mut self,
        rules: &OutlierDetection,
        key: &K,
        outcome: Outcome,
        total: usize,
        now: Instant,
    ) -> Option<Detector> {
        self.advance(rules, now);
        if self.endpoints.len() >= REMEMBERED_MAX && !self.endpoints.contains_key(key) {
            return None;
        }
        let endpoint = self.endpoints.entry(key.clone()).or_default();
        endpoint.count(rules, outcome);
        let detector = endpoint.exceeded(rules).filter(|_| endpoint.until.is_none());
        if endpoint.is_clean() {
            self.endpoints.remove(key);
            return None;
        }
        let detector = detector?;
        if !self.may_eject(rules, total) {
            return None;
        }
        let endpoint = self.endpoints.get_mut(key)?;
        endpoint.eject(rules, now);
        Some(detector)
    }

    /// Whether an endpoint is kept out.
    pub fn is_ejected(&self, key: &K, now: Instant) -> bool {
        self.endpoints.get(key).is_some_and(|endpoint| endpoint.until.is_some_and(|until| now < until))
    }

    /// How often an endpoint was ejected, as far as it is remembered.
    pub fn ejections(&self, key: &K) -> u32 {
        self.endpoints.get(key).map_or(0, |endpoint| endpoint.ejections)
    }

    /// Ends ejections whose time is over, and forgets old ones; also called by [`Self::observe`].
    pub fn advance(&mut self, rules: &OutlierDetection, now: Instant) {
        self.endpoints.retain(|_, endpoint| {
            endpoint.advance(rules, now);
            !endpoint.is_clean()
        });
    }

    /// Every endpoint with a past, for the debug pages.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = (&K, bool, u32)> {
        let state = move |(key, endpoint): (_, &Endpoint)| {
            (key, endpoint.until.is_some_and(|until| now < until), endpoint.ejections)
        };
        self.endpoints.iter().map(state)
    }

    /// Nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// At least one endpoint may be ejected, whatever the share (Istio's `always_eject_one_host`).
    fn may_eject(&self, rules: &OutlierDetection, total: usize) -> bool {
        let ejected = self.endpoints.values().filter(|endpoint| endpoint.until.is_some()).count();
        ejected == 0 || (ejected + 1) * 100 <= rules.max_ejection_percent.min(100) as usize * total.max(1)
    }
}

impl Endpoint {
    fn count(&mut self, rules: &OutlierDetection, outcome: Outcome) {
        // Without a split, what the proxy saw counts as the answer that it made of it.
        let (status, local) = match outcome {
            Outcome::Connected => (None, Some(false)),
            Outcome::Answered(status) => (Some(status), Some(false)),
            Outcome::Failed => (Some(503), Some(true)),
            Outcome::TimedOut => (Some(504), Some(true)),
        };
        if rules.split_local_origin {
            match local {
                Some(true) => self.local = self.local.saturating_add(1),
                _ => self.local = 0,
            }
        }
        let of_server = matches!(outcome, Outcome::Answered(_));
        let Some(status) = status.filter(|_| of_server || !rules.split_local_origin) else {
            if !rules.split_local_origin {
                (self.errors, self.gateway) = (0, 0);
            }
            return;
        };
        let error = match rules.error_codes.as_slice() {
            [] => (500..600).contains(&status),
            codes => codes.contains(&status) || !of_server,
        };
        self.errors = if error { self.errors.saturating_add(1) } else { 0 };
        self.gateway = if matches!(status, 502..=504) { self.gateway.saturating_add(1) } else { 0 };
    }

    fn exceeded(&self, rules: &OutlierDetection) -> Option<Detector> {
        let over = |count: u32, limit: Option<u32>| limit.is_some_and(|limit| limit > 0 && count >= limit);
        if over(self.errors, rules.consecutive_5xx) {
            Some(Detector::Consecutive5xx)
        } else if over(self.gateway, rules.consecutive_gateway) {
            Some(Detector::ConsecutiveGateway)
        } else if rules.split_local_origin && over(self.local, rules.consecutive_local_origin) {
            Some(Detector::ConsecutiveLocalOrigin)
        } else {
            None
        }
    }

    fn eject(&mut self, rules: &OutlierDetection, now: Instant) {
        let longest = EJECTION_MAX.max(rules.base_ejection_time);
        if rules.base_ejection_time.saturating_mul(self.multiple) < longest {
            self.multiple += 1;
        }
        let time = rules.base_ejection_time.saturating_mul(self.multiple).min(longest);
        self.until = Some(now + time);
        self.ejections = self.ejections.saturating_add(1);
        (self.errors, self.gateway, self.local) = (0, 0, 0);
    }

    fn advance(&mut self, rules: &OutlierDetection, now: Instant) {
        if let Some(until) = self.until {
            if now < until {
                return;
            }
            self.until = None;
            self.relaxed = Some(until);
            // What came back from the endpoint while it was kept out does not count.
            (self.errors, self.gateway, self.local) = (0, 0, 0);
        }
        let interval = rules.interval.max(Duration::from_millis(1));
        while let Some(relaxed) = self.relaxed.filter(|_| self.multiple > 0) {
            if now.saturating_duration_since(relaxed) < interval {
                return;
            }
            self.multiple -= 1;
            self.relaxed = Some(relaxed + interval);
        }
        if self.multiple == 0 {
            self.relaxed = None;
        }
    }

    /// Nothing that would have to be remembered; the number of ejections goes with the rest.
    fn is_clean(&self) -> bool {
        self.errors == 0 && self.gateway == 0 && self.local == 0 && self.until.is_none() && self.multiple == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules() -> OutlierDetection {
        OutlierDetection { max_ejection_percent: 100, ..OutlierDetection::default() }
    }

    /// Feeds outcomes to endpoint 0 of `total` and tells after how many it was ejected.
    fn check(rules: &OutlierDetection, outcomes: &[Outcome]) -> Option<(usize, Detector)> {
        let (mut outliers, now) = (Outliers::default(), Instant::now());
        outcomes
            .iter()
            .enumerate()
            .find_map(|(number, outcome)| Some((number + 1, outliers.observe(rules, &0, *outcome, 1, now)?)))
    }

    #[test]
    fn detectors_count_what_they_are_for() {
        use Outcome::{Answered, Connected, Failed, TimedOut};
        let gateway = OutlierDetection { consecutive_5xx: None, consecutive_gateway: Some(2), ..rules() };
        let split = OutlierDetection { split_local_origin: true, consecutive_local_origin: Some(3), ..rules() };
        let codes = OutlierDetection { consecutive_5xx: Some(2), error_codes: vec![429], ..rules() };
        let five = Some((5, Detector::Consecutive5xx));
        type Case<'a> = (&'a str, &'a OutlierDetection, Vec<Outcome>, Option<(usize, Detector)>);
        let cases: [Case<'_>; 13] = [
            ("five errors in a row", &rules(), vec![Answered(500); 9], five),
            ("failures of the connection count as errors", &rules(), vec![Failed; 9], five),
            ("timeouts count as errors", &rules(), vec![TimedOut; 9], five),
            (
                "a good answer between",
                &rules(),
                [[Answered(500); 4].as_slice(), &[Answered(200)]].concat().repeat(3),
                None,
            ),
            (
                "a connection between failures",
                &rules(),
                [[Failed; 4].as_slice(), &[Connected]].concat().repeat(3),
                None,
            ),
            ("404 is no error", &rules(), vec![Answered(404); 9], None),
            ("500 is none of the gateway's", &gateway, vec![Answered(500); 9], None),
            ("503 is", &gateway, vec![Answered(503); 9], Some((2, Detector::ConsecutiveGateway))),
            (
                "split: failures count on their own",
                &split,
                vec![Failed; 9],
                Some((3, Detector::ConsecutiveLocalOrigin)),
            ),
            ("split: errors of the server still count", &split, vec![Answered(500); 9], five),
            ("split: an answer clears local failures", &split, [Failed, Failed, Answered(500)].repeat(2), None),
            ("codes: those count", &codes, vec![Answered(429); 9], Some((2, Detector::Consecutive5xx))),
            ("codes: others do not", &codes, vec![Answered(500); 9], None),
        ];
        for (name, rules, outcomes, expected) in cases {
            assert_eq!(check(rules, &outcomes), expected, "{name}");
        }
    }

    #[test]
    fn an_ejected_endpoint_returns_after_30_s_and_the_next_time_after_60() {
        let (mut outliers, start) = (Outliers::default(), Instant::now());
        let mut fail = |at: Instant| {
            for _ in 0..5 {
                outliers.observe(&rules(), &"a", Outcome::Answered(503), 1, at);
            }
            let out = |after: u64| outliers.is_ejected(&"a", at + SECOND * after as u32);
            (1..200).find(|after| !out(*after))
        };
        assert_eq!(fail(start), Some(30));
        assert_eq!(fail(start + 31 * SECOND), Some(60));
        // In order for two intervals: two ejections are forgiven, so the next is a first one.
        assert_eq!(fail(start + 131 * SECOND), Some(30));
    }

    #[test]
    fn no_more_than_the_share_is_ejected_but_always_one() {
        for (total, percent, expected) in [(10, 10, 1), (10, 50, 5), (10, 100, 10), (3, 10, 1), (1, 1, 1), (10, 0, 1)] {
            let rules = OutlierDetection { max_ejection_percent: percent, ..rules() };
            let (mut outliers, now) = (Outliers::default(), Instant::now());
            for endpoint in 0..total {
                for _ in 0..5 {
                    outliers.observe(&rules, &endpoint, Outcome::Failed, total, now);
                }
            }
            let ejected = (0..total).filter(|endpoint| outliers.is_ejected(endpoint, now)).count();
            assert_eq!(ejected, expected, "{percent} % of {total}");
        }
    }

    proptest! {
        #[test]
        fn what_works_is_never_ejected_and_forgotten_soon(steps in proptest::collection::vec((0_u8..4, any::<bool>(), 0_u64..20), 0..200)) {
            let (mut outliers, mut now) = (Outliers::default(), Instant::now());
            for (key, fails, seconds) in steps {
                now += SECOND * seconds as u32;
                let outcome = if fails { Outcome::Answered(500) } else { Outcome::Answered(200) };
                let ejected = outliers.observe(&rules(), &key, outcome, 4, now);
                prop_assert!(fails || ejected.is_none());
            }
            outliers.advance(&rules(), now + SECOND * 4000);
            for key in 0..4 {
                prop_assert!(!outliers.is_ejected(&key, now + SECOND * 4000));
            }
        }
    }
}
