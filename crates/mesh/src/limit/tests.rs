use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::fixture::identity;
use crate::policy::{ObjectRef, Origin, Pattern};
use crate::request::{Claims, ConnectionFacts};

fn limit(requests: u32, per: Duration, burst: u32) -> RateLimit {
    let object = ObjectRef { kind: "RateLimitPolicy".into(), namespace: "default".into(), name: "x".into() };
    let origin = Origin { object: Arc::new(object), path: "spec.limits[0]".into(), name: None };
    RateLimit { origin, matches: Vec::new(), by: Vec::new(), requests, per, burst }
}

/// A request to `/api?user=ann` of web with a token, from 1.1.1.1 behind 2.2.2.2.
fn asked<T>(ask: impl FnOnce(&AccessRequest<'_>) -> T) -> T {
    let header = (HeaderName::from_static("x-plan"), HeaderValue::from_static("gold"));
    let headers: HeaderMap = [header].into_iter().collect();
    let http = HttpRequest {
        method: "GET",
        scheme: "http",
        authority: "Shop.example:80",
        path_and_query: "/api?user=ann",
        headers: &headers,
    };
    let claims: Claims = serde_json::from_str(r#"{"all":{"sub":"bob","org":{"roles":["a","b"]}}}"#).unwrap();
    let web = identity("east.demo", "web");
    let connection = ConnectionFacts {
        source_ip: "2.2.2.2".parse().ok(),
        remote_ip: "1.1.1.1".parse().ok(),
        ..ConnectionFacts::default()
    };
    ask(&AccessRequest { peer: Some(&web), port: 9080, http: Some(&http), claims: Some(&claims), connection })
}

#[test]
fn every_combination_of_values_has_a_key_of_its_own() {
    let cases = [
        (vec![], ""),
        (vec![Descriptor::Path], "4:/api"),
        (vec![Descriptor::Method, Descriptor::Host], "3:GET\u{1f}12:shop.example"),
        (vec![Descriptor::Header("x-plan".into())], "4:gold"),
        (vec![Descriptor::Header("x-none".into())], "0:"),
        (vec![Descriptor::QueryParameter("user".into())], "3:ann"),
        (vec![Descriptor::Identity], "36:spiffe://east.demo/ns/default/sa/web"),
        (vec![Descriptor::Claim("sub".into())], "3:bob"),
        (vec![Descriptor::Claim("org.roles".into())], "3:a,b"),
        (vec![Descriptor::RemoteIp], "7:1.1.1.1"),
    ];
    for (by, expected) in cases {
        let policy = InboundPolicy {
            limits: vec![Arc::new(RateLimit { by, ..limit(1, Duration::from_secs(1), 1) })],
            ..InboundPolicy::default()
        };
        let key = asked(|request| limits(&policy, request)[0].key.clone());
        assert_eq!(key, expected);
    }
}

#[test]
fn a_limit_is_about_the_requests_that_it_matches() {
    let condition = HttpMatch::default;
    let exact = |text: &str| Some(StringMatch::Exact(text.into()));
    let cases = [
        ("everything", vec![], true),
        ("the path", vec![HttpMatch { uri: exact("/api"), ..condition() }], true),
        ("another path", vec![HttpMatch { uri: exact("/"), ..condition() }], false),
        ("a pattern", vec![HttpMatch { uri: Pattern::new("/a.i").ok().map(StringMatch::Regex), ..condition() }], true),
        ("the method", vec![HttpMatch { method: exact("POST"), ..condition() }], false),
        ("one of several", vec![HttpMatch { method: exact("POST"), ..condition() }, condition()], true),
        ("the port", vec![HttpMatch { port: Some(1), ..condition() }], false),
        (
            "a header",
            vec![HttpMatch { headers: BTreeMap::from([("x-plan".into(), StringMatch::Present)]), ..condition() }],
            true,
        ),
        (
            "a header that must not be",
            vec![HttpMatch {
                without_headers: BTreeMap::from([("x-plan".into(), StringMatch::Present)]),
                ..condition()
            }],
            false,
        ),
        (
            "a parameter",
            vec![HttpMatch {
                query_params: BTreeMap::from([("user".into(), StringMatch::Exact("ann".into()))]),
                ..condition()
            }],
            true,
        ),
    ];
    for (name, matches, expected) in cases {
        let limits_of = vec![Arc::new(RateLimit { matches, ..limit(1, Duration::from_secs(1), 1) })];
        let policy = InboundPolicy { limits: limits_of, ..InboundPolicy::default() };
        assert_eq!(asked(|request| limits(&policy, request).len()), usize::from(expected), "{name}");
    }
}

#[test]
fn tokens_come_back_over_time() {
    let limit = limit(2, Duration::from_secs(1), 3);
    let start = Instant::now();
    let mut bucket = Bucket::full(&limit, start);
    let allowed: Vec<bool> = (0..4).map(|_| bucket.take(&limit, start).allowed).collect();
    assert_eq!(allowed, [true, true, true, false], "the burst");
    let empty = bucket.take(&limit, start);
    assert_eq!(
        (empty.remaining, empty.wait, empty.reset),
        (0, Duration::from_millis(500), Duration::from_millis(1500))
    );
    assert!(bucket.take(&limit, start + Duration::from_millis(500)).allowed, "one is back");
    assert!(!bucket.take(&limit, start + Duration::from_millis(600)).allowed);
    let later = bucket.take(&limit, start + Duration::from_secs(60));
    assert_eq!((later.allowed, later.remaining), (true, 2), "no more than the burst");
    assert!(bucket.take(&limit, start).allowed, "a clock that goes back takes nothing away");
}

#[test]
fn a_limit_of_nothing_allows_nothing() {
    let limit = limit(0, Duration::from_secs(1), 0);
    let now = Instant::now();
    let allowance = Bucket::full(&limit, now).take(&limit, now + Duration::from_secs(9));
    assert_eq!((allowance.allowed, allowance.wait), (false, Duration::MAX));
}

#[test]
fn the_number_of_buckets_is_bounded() {
    let limit = limit(1, Duration::from_secs(3600), 1);
    let now = Instant::now();
    let mut buckets = Buckets::new(2);
    for key in ["a", "b", "a", "c"] {
        buckets.bucket(key, &limit, now).take(&limit, now);
    }
    assert_eq!(buckets.len(), 2);
    assert!(!buckets.bucket("a", &limit, now).take(&limit, now).allowed, "it was used lately");
    assert!(buckets.bucket("b", &limit, now).take(&limit, now).allowed, "it was forgotten");
}

#[test]
fn long_keys_become_short() {
    let value = "x".repeat(10_000);
    assert!(digest(&value).len() < 64 && digest(&value) != digest(&"y".repeat(10_000)));
}

proptest! {
    #[test]
    fn never_more_than_the_burst_and_the_rate(requests in 1u32..50, per_ms in 1u64..5000, burst in 1u32..60, steps in prop::collection::vec(0u64..400, 1..200)) {
        let limit = limit(requests, Duration::from_millis(per_ms), burst);
        let start = Instant::now();
        let mut bucket = Bucket::full(&limit, start);
        let (mut passed, mut allowed) = (0u64, 0u32);
        for step in steps {
            passed += step;
            let taken = bucket.take(&limit, start + Duration::from_millis(passed));
            allowed += u32::from(taken.allowed);
            prop_assert!(taken.remaining <= burst);
        }
        let most = f64::from(burst) + f64::from(requests) * passed as f64 / per_ms as f64;
        prop_assert!(f64::from(allowed) <= most + 1e-6, "{} of {}", allowed, most);
    }
}
