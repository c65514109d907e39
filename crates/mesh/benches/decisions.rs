//! How long decisions take: `cargo bench -p isthmus-mesh`.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot build its configuration is to stop")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use divan::{Bencher, black_box};
use http::HeaderMap;
use mesh::*;
use serde_json::json;

fn main() {
    divan::main();
}

fn service_name() -> ServiceName {
    ServiceName::new(Namespace::new("default").unwrap(), "reviews").unwrap()
}

/// A service with endpoints, and rules for its host of which the last matches `/last`.
fn view(endpoints: u16, rules: usize, condition: impl Fn(usize) -> serde_json::Value) -> View {
    let endpoint = |number: u16| Endpoint {
        name: format!("reviews-{number}"),
        address: [10, 1, (number >> 8) as u8, number as u8].into(),
        ports: BTreeMap::from([(80, 8080)]),
        identity: None,
        labels: Labels::from([("version".into(), "v1".into())]),
        locality: String::new(),
        ready: true,
        other_addresses: Vec::new(),
        plain_ports: BTreeSet::new(),
        stand_in: None,
        weight: 1,
    };
    let object = json!({ "kind": "VirtualService", "namespace": "default", "name": "reviews" });
    let to = json!([{ "destination": { "host": { "cluster": service_name() } }, "weight": 1 }]);
    let rule = |number: usize| {
        let mut matches = condition(number);
        if number + 1 == rules {
            matches = json!({ "uri": { "exact": "/last" } });
        }
        let origin = json!({ "object": object, "path": format!("spec.http[{number}]") });
        json!({ "origin": origin, "matches": [matches], "action": { "route": to } })
    };
    let routes = json!({ "origin": object, "gateways": ["mesh"], "http": (0..rules).map(rule).collect::<Vec<_>>() });
    let config = if rules == 0 { json!({}) } else { json!({ "routes": [routes] }) };
    let service = Service {
        name: service_name(),
        global: false,
        headless: false,
        clusterset_addresses: Vec::new(),
        listeners: Default::default(),
        cluster_addresses: Vec::new(),
        ports: vec![ServicePort { name: "http".into(), number: 80, protocol: Protocol::Http }],
        endpoints: (0..endpoints).map(endpoint).collect(),
        export: None,
        imports: BTreeMap::new(),
        config: Arc::new(serde_json::from_value(config).unwrap()),
    };
    View { services: BTreeMap::from([(service.name.clone(), Arc::new(service))]), ..View::default() }
}

fn decide(bencher: Bencher<'_, '_>, view: &View) {
    let mut headers = HeaderMap::new();
    headers.insert("end-user", http::HeaderValue::from_static("jason"));
    let http = HttpRequest {
        method: "GET",
        scheme: "http",
        authority: "reviews",
        path_and_query: "/last?x=1",
        headers: &headers,
    };
    let host = Host::Cluster(service_name());
    let request = RouteRequest { http: Some(&http), entropy: 7, ..RouteRequest::to(&host, 80) };
    assert!(matches!(route(view, &request).outcome, RouteOutcome::Forward { .. }));
    bencher.bench(|| route(black_box(view), black_box(&request)));
}

#[divan::bench]
fn route_without_rules(bencher: Bencher<'_, '_>) {
    decide(bencher, &view(10, 0, |_| json!({})));
}

#[divan::bench]
fn route_with_1000_path_rules(bencher: Bencher<'_, '_>) {
    decide(bencher, &view(10, 1000, |number| json!({ "uri": { "prefix": format!("/api/{number}/") } })));
}

#[divan::bench]
fn route_with_1000_header_rules(bencher: Bencher<'_, '_>) {
    decide(
        bencher,
        &view(10, 1000, |number| json!({ "headers": { "end-user": { "exact": format!("user-{number}") } } })),
    );
}

#[divan::bench]
fn route_with_1000_regex_rules(bencher: Bencher<'_, '_>) {
    decide(bencher, &view(10, 1000, |number| json!({ "uri": { "regex": format!("/api/{number}/.*") } })));
}

#[divan::bench]
fn route_to_1000_endpoints(bencher: Bencher<'_, '_>) {
    decide(bencher, &view(1000, 0, |_| json!({})));
}

#[divan::bench]
fn pick_of_1000_endpoints(bencher: Bencher<'_, '_>) {
    let host = Host::Cluster(service_name());
    let decision = route(&view(1000, 0, |_| json!({})), &RouteRequest::to(&host, 80));
    let mut entropy = 0_u64;
    bencher.bench_local(|| {
        entropy = entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        pick(black_box(&decision), &|_| Load::default(), entropy)
    });
}

#[divan::bench]
fn authorize_with_100_policies(bencher: Bencher<'_, '_>) {
    let policy = |number: usize| {
        let object =
            json!({ "kind": "AuthorizationPolicy", "namespace": "default", "name": format!("policy-{number}") });
        let allowed = |path: String| json!({ "any": [{ "text": { "prefix": path } }], "not": [] });
        let last = number == 99;
        let path = if last { "/last".to_owned() } else { format!("/api/{number}/") };
        let source = json!({ "principals": { "any": [{ "exact": format!("east.demo/ns/default/sa/web-{number}") }], "not": [] } });
        let rule = json!({
            "origin": { "object": object, "path": "spec.rules[0]" },
            "from": if last { json!([]) } else { json!([source]) },
            "to": [{ "paths": allowed(path), "methods": { "any": [{ "exact": "GET" }], "not": [] } }],
        });
        json!({ "origin": object, "action": "allow", "rules": [rule] })
    };
    let policies = (0..100).map(policy).collect::<Vec<_>>();
    let policy: InboundPolicy = serde_json::from_value(json!({ "authorization": policies })).unwrap();
    let peer: SpiffeId = "spiffe://east.demo/ns/default/sa/client".parse().unwrap();
    let headers = HeaderMap::new();
    let http =
        HttpRequest { method: "GET", scheme: "http", authority: "reviews", path_and_query: "/last", headers: &headers };
    let request = AccessRequest { peer: Some(&peer), port: 80, http: Some(&http), ..AccessRequest::default() };
    assert_eq!(authorize(&policy, &request).outcome, Ok(()));
    bencher.bench(|| authorize(black_box(&policy), black_box(&request)));
}
