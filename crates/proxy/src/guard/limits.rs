//! The buckets of rate limits, and what clients are told of them.
//!
//! Fields are those of draft-ietf-httpapi-ratelimit-headers (`RateLimit`, `RateLimit-Policy`) and the older
//! `x-ratelimit-*`, which Envoy writes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{HeaderName, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use mesh::{Allowance, Applied, Buckets, Origin, RateLimit};
use tokio::time::Instant;

use super::answer::{put, refusal};
use crate::body::Body;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Buckets of one limit.
const BUCKETS_MAX: usize = 10_000;
/// Limits whose buckets are kept; those of the one that was used longest ago go first.
const LIMITS_MAX: usize = 256;

/// All buckets of a process.
#[derive(Default)]
pub(super) struct Limiter(Mutex<BTreeMap<Origin, Entry>>);

struct Entry {
    buckets: Buckets,
    used: Instant,
}

/// What the limits say of one request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Limited {
    /// The one that it exceeds.
    pub(super) exceeded: Option<Origin>,
    /// What the client is told, whether it passes or not.
    pub(super) headers: HeaderMap,
}

impl Limiter {
    /// Takes a token of every limit, or none if one of them has none.
    pub(super) fn take(&self, applied: &[Applied<'_>]) -> Limited {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut take = |applied: &Applied<'_>, take: bool| {
            let entry = entry(&mut all, &applied.limit.origin, now);
            let bucket = entry.buckets.bucket(&applied.key, applied.limit, now.into_std());
            if take { bucket.take(applied.limit, now.into_std()) } else { bucket.peek(applied.limit, now.into_std()) }
        };
        let found: Vec<Allowance> = applied.iter().map(|applied| take(applied, false)).collect();
        let passes = found.iter().all(|allowance| allowance.allowed);
        let told: Vec<Allowance> =
            if passes { applied.iter().map(|applied| take(applied, true)).collect() } else { found };
        let told: Vec<Told<'_>> =
            applied.iter().zip(told).map(|(applied, allowance)| Told { limit: applied.limit, allowance }).collect();
        let exceeded = told.iter().find(|told| !told.allowance.allowed).map(|told| told.limit.origin.clone());
        Limited { exceeded: exceeded.filter(|_| !passes), headers: headers(&told, passes) }
    }
}

fn entry<'a>(all: &'a mut BTreeMap<Origin, Entry>, origin: &Origin, now: Instant) -> &'a mut Entry {
    if all.len() >= LIMITS_MAX && !all.contains_key(origin) {
        let oldest = all.iter().min_by_key(|(_, entry)| entry.used).map(|(origin, _)| origin.clone());
        oldest.map(|origin| all.remove(&origin));
    }
    let fresh = || Entry { buckets: Buckets::new(BUCKETS_MAX), used: now };
    let entry = all.entry(origin.clone()).or_insert_with(fresh);
    entry.used = now;
    entry
}

struct Told<'a> {
    limit: &'a RateLimit,
    allowance: Allowance,
}

fn headers(told: &[Told<'_>], passes: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // The older fields have room for one limit: the one that is closest.
    let Some(closest) = told.iter().min_by_key(|told| (told.allowance.allowed, told.allowance.remaining)) else {
        return headers;
    };
    let list = |item: &dyn Fn(&Told<'_>) -> String| told.iter().map(item).collect::<Vec<_>>().join(", ");
    let policies = list(&|told| {
        let window = seconds(told.limit.per).max(1);
        format!("{};q={};w={window}", name(&told.limit.origin), told.limit.requests)
    });
    let states = list(&|told| {
        let reset = seconds(told.allowance.reset);
        format!("{};r={};t={reset}", name(&told.limit.origin), told.allowance.remaining)
    });
    put(&mut headers, POLICY, &policies);
    put(&mut headers, RATELIMIT, &states);
    put(&mut headers, LIMIT, &closest.limit.requests.to_string());
    put(&mut headers, REMAINING, &closest.allowance.remaining.to_string());
    put(&mut headers, RESET, &seconds(closest.allowance.reset).to_string());
    if !passes {
        let wait = told.iter().map(|told| told.allowance.wait).max().unwrap_or_default();
        put(&mut headers, RETRY_AFTER, &seconds(wait).max(1).to_string());
    }
    headers
}

/// A structured-field string (RFC 9651 §3.3.3): the limit's own name, else its object's.
fn name(origin: &Origin) -> String {
    let name = origin.name.as_deref().unwrap_or(&origin.object.name);
    let plain = name.chars().filter(|c| (c.is_ascii_graphic() || *c == ' ') && !matches!(c, '"' | '\\'));
    format!("\"{}\"", plain.collect::<String>())
}

/// Whole seconds, rounded up; a limit that never comes back gives a day.
fn seconds(duration: Duration) -> u64 {
    const DAY: Duration = Duration::from_secs(86_400);
    let duration = duration.min(DAY);
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// The answer to a request that is too many, as Envoy words it.
pub(super) fn too_many(limited: &Limited, grpc: bool) -> Response<Body> {
    let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, "local_rate_limited", grpc);
    response.headers_mut().extend(limited.headers.clone());
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh::ObjectRef;

    use super::*;

    fn limit(name: &str, requests: u32, burst: u32) -> Arc<RateLimit> {
        let object = ObjectRef { kind: "RateLimitPolicy".into(), namespace: "default".into(), name: name.into() };
        let origin = Origin { object: Arc::new(object), path: "spec.limits[0]".into(), name: None };
        let per = Duration::from_secs(60);
        Arc::new(RateLimit { origin, matches: Vec::new(), by: Vec::new(), requests, per, burst })
    }

    fn applied<'a>(limits: &[&'a Arc<RateLimit>]) -> Vec<Applied<'a>> {
        limits.iter().map(|limit| Applied { limit, key: "k".into() }).collect()
    }

    fn told(limited: &Limited, name: &str) -> String {
        limited.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn clients_are_told_what_is_left_and_when_to_come_back() {
        let (limiter, one) = (Limiter::default(), limit("one", 2, 2));
        let first = limiter.take(&applied(&[&one]));
        assert_eq!(first.exceeded, None);
        assert_eq!(told(&first, "ratelimit"), "\"one\";r=1;t=30");
        assert_eq!(told(&first, "ratelimit-policy"), "\"one\";q=2;w=60");
        assert_eq!(told(&first, "x-ratelimit-remaining"), "1");
        assert_eq!(told(&first, "retry-after"), "");
        limiter.take(&applied(&[&one]));
        let third = limiter.take(&applied(&[&one]));
        assert_eq!(third.exceeded, Some(one.origin.clone()));
        assert_eq!((told(&third, "retry-after"), told(&third, "x-ratelimit-limit")), ("30".into(), "2".into()));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(limiter.take(&applied(&[&one])).exceeded, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_request_takes_nothing_of_the_other_limits() {
        let (limiter, wide, narrow) = (Limiter::default(), limit("wide", 10, 10), limit("narrow", 1, 1));
        assert_eq!(limiter.take(&applied(&[&wide, &narrow])).exceeded, None);
        for _ in 0..3 {
            let refused = limiter.take(&applied(&[&wide, &narrow]));
            assert_eq!(refused.exceeded, Some(narrow.origin.clone()));
            assert_eq!(told(&refused, "ratelimit"), "\"wide\";r=9;t=6, \"narrow\";r=0;t=60");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_limits_is_bounded() {
        let limiter = Limiter::default();
        for n in 0..2 * LIMITS_MAX {
            limiter.take(&applied(&[&limit(&n.to_string(), 1, 1)]));
        }
        assert_eq!(limiter.0.lock().unwrap().len(), LIMITS_MAX);
    }
}
