//! What holds for every configuration and every request.

use std::collections::BTreeMap;

use super::language::view;
use super::question::{Asked, check};

/// How often each answer is drawn in so many requests.
fn counts(config: &str, request: &str, requests: u64) -> BTreeMap<String, u64> {
    let view = view(config);
    let mut counts = BTreeMap::new();
    let mut asked = Asked::parse(request);
    for entropy in 0..requests {
        asked.entropy = entropy.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let (decision, _) = asked.decide(&view);
        let name = decision.subset.unwrap_or_default();
        let faults = (decision.fault.delay.is_some(), decision.fault.abort.is_some(), decision.mirrors.len());
        *counts.entry(format!("{name} {faults:?}")).or_default() += 1;
    }
    counts
}

/// Within five standard deviations of a binomial distribution.
#[track_caller]
fn assert_near(count: u64, of: u64, share: f64) {
    let (count, of) = (count as f64, of as f64);
    let deviation = (of * share * (1.0 - share)).sqrt();
    assert!((count - of * share).abs() < 5.0 * deviation + 1.0, "{count} of {of} is not {share}");
}

#[test]
fn weights_hold_within_chance() {
    const REQUESTS: u64 = 20_000;
    for (one, two) in [(90_u32, 10_u32), (50, 50), (1, 99), (1, 2), (3, 1), (99_999, 1)] {
        let config =
            format!("service reviews v1 v2\ndr reviews v1 v2\nvs reviews\n  -> reviews v1 {one}, reviews v2 {two}");
        let counts = counts(&config, "GET reviews/", REQUESTS);
        let first = counts.get("v1 (false, false, 0)").copied().unwrap_or_default();
        assert_near(first, REQUESTS, f64::from(one) / f64::from(one + two));
    }
}

#[test]
fn draws_are_independent_of_each_other() {
    const REQUESTS: u64 = 40_000;
    let config = "service reviews v1 v2\ndr reviews v1 v2\nvs reviews\n  -> reviews v1 50, reviews v2 50 ; delay=20% abort=25% mirror=reviews*40";
    let counts = counts(config, "GET reviews/", REQUESTS);
    for version in ["v1", "v2"] {
        for (delay, delayed) in [(true, 0.2), (false, 0.8)] {
            let of = |abort: bool, mirrors: usize| {
                counts.get(&format!("{version} {:?}", (delay, abort, mirrors))).copied().unwrap_or_default()
            };
            assert_near(of(true, 0), REQUESTS, 0.5 * delayed * 0.25);
            assert_near(of(false, 1), REQUESTS, 0.5 * delayed * 0.75 * 0.4);
            assert_near(of(false, 0), REQUESTS, 0.5 * delayed * 0.75 * 0.6);
        }
    }
}

#[test]
fn equal_arguments_give_equal_decisions_and_other_services_do_not_matter() {
    let config = "service reviews v1*2 v2 export\nimport west reviews v1*3\ndr reviews v1 v2 lb=cookie:u:60\nvs reviews\n  path=/x -> direct\n  -> reviews v1 50, reviews v2 50 ; delay=50% mirror=other*50\nentry a.example dns";
    let more = format!("service aaa v1\nentry *.zzz dns\n{config}\nservice zzz v3\ndr zzz v3\nvs zzz\n  -> direct");
    let (view, larger) = (view(config), super::language::view(&more));
    for entropy in 0..200 {
        for path in ["/", "/x"] {
            let request = format!("GET reviews.default.svc.clusterset.local{path} #{entropy}");
            let decide = |view| Asked::parse(&request).decide(view).0;
            assert_eq!(decide(&view), decide(&view));
            assert_eq!(decide(&view), decide(&larger), "{request}");
            assert_eq!(check(&view, &request), check(&larger, &request));
        }
    }
}

mod arbitrary {
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::super::language::view;
    use super::super::question::Asked;
    use crate::route::{RouteOutcome, route_to};

    const HOSTS: [&str; 8] = [
        "reviews",
        "ratings.shop",
        "a.example.org",
        "*.example.org",
        "httpbin.org",
        "gone",
        "10.0.0.1",
        "x.y.clusterset.local",
    ];
    const CONDITIONS: [&str; 14] = [
        "",
        "path^=/a",
        "PATH=/A/b",
        "path~=.*x?",
        "method=GET",
        "header:u=1",
        "without:u",
        "query:q~=[0-9]*",
        "port=80",
        "label:app=web",
        "ns=shop",
        "gateway=gw",
        "scheme=https | path=/",
        "authority^=a",
    ];
    const OPTIONS: [&str; 9] = [
        "",
        "delay=50%",
        "abort=50%",
        "mirror=reviews*50",
        "mirror=gone",
        "rewrite=/z",
        "regex=(a)=>\\1\\7\\",
        "authority=h",
        "timeout=0 retry=9",
    ];
    const POLICIES: [&str; 12] = [
        "",
        "tls=disable",
        "tls=mutual",
        "tls=simple",
        "lb=passthrough",
        "lb=header:u",
        "lb=cookie:c:1",
        "lb=ip",
        "locality=failover:us>eu",
        "locality=priority:a,b=c",
        "locality=distribute:*>us%1,*%0",
        "for=app:web private",
    ];

    /// A weight, of the kinds that overflow as well.
    fn weight() -> impl Strategy<Value = u32> {
        prop_oneof![Just(0), Just(u32::MAX), 1..100_u32]
    }

    fn action() -> impl Strategy<Value = String> {
        let place = (select(&HOSTS[..]), any::<Index>(), weight())
            .prop_map(|(host, subset, weight)| format!("{host} {} {weight}", ["v1", "v2", "v9"][subset.index(3)]));
        prop_oneof![
            4 => prop::collection::vec(place, 1..4).prop_map(|places| places.join(", ")),
            1 => Just("direct".to_owned()),
            1 => Just("redirect prefix=/p port=request scheme=https".to_owned()),
            1 => Just("redirect uri=?x authority=[::1]:80".to_owned()),
        ]
    }

    fn rule() -> impl Strategy<Value = String> {
        let http = (select(&CONDITIONS[..]), action(), select(&OPTIONS[..]))
            .prop_map(|(condition, action, options)| format!("  {condition} -> {action} ; {options}"));
        let opaque = (
            select(vec!["tls sni=*.example.org", "tls sni=a.example.org to=10.0.0.0/8", "tcp", "tcp port=80"]),
            select(&HOSTS[..]),
        )
            .prop_map(|(condition, host)| format!("  {condition} -> {host} 1"));
        prop_oneof![3 => http, 1 => opaque]
    }

    fn config() -> impl Strategy<Value = String> {
        let known = ["reviews", "ratings.shop", "a.example.org", "*.example.org", "httpbin.org"];
        let routes = (
            select(known.to_vec()),
            prop::collection::vec(rule(), 0..5),
            select(vec!["", "gateways=gw", "gateways=mesh,gw", "to=shop", "in=shop"]),
        )
            .prop_map(|(host, rules, extra)| format!("vs {host} {extra}\n{}\n", rules.join("\n")));
        let destinations = (select(known.to_vec()), select(&POLICIES[..]))
            .prop_map(|(host, policy)| format!("dr {host} v1 v2 {policy}\n"));
        let sidecar = select(vec![
            "",
            "sidecar unknown=refuse",
            "sidecar hosts=./* unknown=through:reviews",
            "sidecar hosts=shop/*:80",
        ]);
        let resolution = select(vec!["none", "static v1!", "dns", "rr hosts=b.example:1*0", "dns portless"]);
        let client = select(vec!["client default", "client shop app=web at=us/a", "client other at=eu"]);
        (client, sidecar, resolution, prop::collection::vec(routes, 0..4), prop::collection::vec(destinations, 0..3)).prop_map(
            |(client, sidecar, resolution, routes, destinations)| {
                let base = "server gw 80 http * redirect\nserver gw 443 http *.example.org tls=simple\nserver gw 443 tcp * tls=passthrough\n\
                            service reviews v1*2@us/a v2! v2? export ip=10.0.0.1 ports=80,443\nimport west reviews v1*3 v2*0\nservice ratings.shop v1~ global\n\
                            import west ratings.shop v1*4294967295 v1*9@eu/x/y/z";
                let entries = format!("entry a.example.org {resolution}\nentry *.example.org none\nentry httpbin.org {resolution}");
                format!("{client}\n{sidecar}\n{base}\n{entries}\n{}{}", destinations.concat(), routes.concat())
            },
        )
    }

    fn request() -> impl Strategy<Value = String> {
        let method = select(vec!["GET", "tcp", "OPTIONS"]);
        let scheme = select(vec!["http", "https"]);
        let path = select(vec!["", "/", "/a/b?q=1&q", "/A/b#f", "//?"]);
        let extra =
            select(vec!["", "u=1 cookie=c=\"", "sni=a.example.org", "sni=", "ip=::1 to=10.0.0.1", "to=10.1.0.1"]);
        let entry = select(vec!["", "@80", "@443", "@1"]);
        (method, scheme, select(&HOSTS[..]), path, extra, entry, any::<u64>()).prop_map(
            |(method, scheme, host, path, extra, entry, entropy)| {
                format!("{method} {scheme}://{host}{path} {extra} {entry} #{entropy}")
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn no_configuration_makes_a_decision_panic(config in config(), requests in prop::collection::vec(request(), 1..8)) {
            let view = view(&config);
            for request in &requests {
                let asked = Asked::parse(request);
                let (decision, _) = asked.decide(&view);
                prop_assert_eq!(&decision, &asked.decide(&view).0);
                match &decision.outcome {
                    RouteOutcome::Forward { tiers } => {
                        prop_assert!(!tiers.is_empty() && tiers.iter().all(|tier| !tier.targets.is_empty()), "{}", request);
                        prop_assert!(decision.service.is_some());
                        crate::pick(&decision, &|_| crate::Load::default(), asked.entropy);
                    }
                    RouteOutcome::Refuse => prop_assert!(decision.denial().is_some() && !decision.reasons.is_empty(), "{}", request),
                    RouteOutcome::Redirect { location, .. } => prop_assert!(location.contains("://")),
                    RouteOutcome::Passthrough | RouteOutcome::Direct => {}
                }
                // Decisions are documents of logs and of the command line.
                prop_assert!(serde_json::to_value(&decision).is_ok());
                for mirror in &decision.mirrors {
                    asked.with_request(&view, |request| drop(route_to(&view, mirror, request)));
                }
            }
        }
    }
}
