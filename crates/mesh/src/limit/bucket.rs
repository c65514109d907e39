//! Token buckets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::policy::RateLimit;

/// Tokens that come back over time; one request takes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    tokens: f64,
    at: Instant,
}

/// What a bucket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Whether there is a token.
    pub allowed: bool,
    /// Whole tokens that are left.
    pub remaining: u32,
    /// Until the bucket is full again.
    pub reset: Duration,
    /// Until there is a token; zero if there is one.
    pub wait: Duration,
}

impl Bucket {
    /// A full one.
    pub fn full(limit: &RateLimit, now: Instant) -> Self {
        Self { tokens: size(limit), at: now }
    }

    /// Takes a token if there is one. The limit may be another than last time: it counts from now on.
    pub fn take(&mut self, limit: &RateLimit, now: Instant) -> Allowance {
        self.refill(limit, now);
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        Allowance { allowed, ..self.allowance(limit) }
    }

    /// What taking a token would find, without taking it.
    pub fn peek(&self, limit: &RateLimit, now: Instant) -> Allowance {
        let mut copy = self.clone();
        copy.refill(limit, now);
        copy.allowance(limit)
    }

    fn refill(&mut self, limit: &RateLimit, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * rate(limit)).min(size(limit));
    }

    fn allowance(&self, limit: &RateLimit) -> Allowance {
        let until = |tokens: f64| {
            let seconds = (tokens - self.tokens).max(0.0) / rate(limit);
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
        };
        Allowance {
            allowed: self.tokens >= 1.0,
            // A cast saturates, which is what is meant.
            remaining: self.tokens.floor() as u32,
            reset: until(size(limit)),
            wait: until(1.0),
        }
    }
}

/// A limit of no request at all has no token ever.
fn size(limit: &RateLimit) -> f64 {
    if limit.requests == 0 { 0.0 } else { f64::from(limit.burst.max(1)) }
}

/// Tokens a second. A window of no length would be no limit; it is taken as a millisecond.
fn rate(limit: &RateLimit) -> f64 {
    f64::from(limit.requests) / limit.per.max(Duration::from_millis(1)).as_secs_f64()
}

/// Buckets by key. Of too many the one that was used longest ago is forgotten, which is full again before the others.
#[derive(Debug, Clone)]
pub struct Buckets {
    max: usize,
    uses: u64,
    by_key: BTreeMap<String, (u64, Bucket)>,
    by_use: BTreeMap<u64, String>,
}

impl Buckets {
    /// At most `max` of them, at least one.
    pub fn new(max: usize) -> Self {
        Self { max: max.max(1), uses: 0, by_key: BTreeMap::new(), by_use: BTreeMap::new() }
    }

    /// The bucket of a key; full if it is new.
    pub fn bucket(&mut self, key: &str, limit: &RateLimit, now: Instant) -> &mut Bucket {
        self.uses += 1;
        match self.by_key.get_mut(key) {
            Some((used, _)) => {
                self.by_use.remove(used);
                *used = self.uses;
            }
            None => self.make_room(),
        }
        self.by_use.insert(self.uses, key.to_owned());
        let fresh = || (self.uses, Bucket::full(limit, now));
        &mut self.by_key.entry(key.to_owned()).or_insert_with(fresh).1
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    fn make_room(&mut self) {
        while self.by_key.len() >= self.max {
            let Some((_, key)) = self.by_use.pop_first() else { return };
            self.by_key.remove(&key);
        }
    }
}
