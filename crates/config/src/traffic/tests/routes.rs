//! VirtualServices.

use std::time::Duration;

use mesh::{Host, HttpAction, Namespace, RedirectPort, Resolution, RetryCondition, Share, StringMatch, Visibility};

use super::*;

/// A VirtualService of some name whose specification is given in flow style.
fn virtual_service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: networking.istio.io/v1beta1\nkind: VirtualService\nmetadata: {name}\nspec: {spec}\n")
}

const TO_REVIEWS: &str = "http: [{route: [{destination: {host: reviews}}]}]";

fn rule(http: &str) -> HttpRule {
    let text = virtual_service("{name: reviews}", &format!("{{hosts: [reviews], http: [{http}]}}"));
    HttpRule::clone(&routes(&compiled(&text), "default/reviews").http[0])
}

#[test]
fn hosts_mean_services_wherever_the_object_stands() {
    let cases = [
        ("{name: a}", "reviews", "default/reviews"),
        ("{name: a}", "reviews.default.svc.cluster.local", "default/reviews"),
        ("{name: a, namespace: other}", "reviews.default.svc.cluster.local", "default/reviews"),
        ("{name: a, namespace: other}", "reviews.default", "default/reviews"),
        ("{name: a}", "'*.default.svc.cluster.local'", "default/ratings"),
        ("{name: a, namespace: shop}", "cart", "shop/cart"),
    ];
    for (metadata, host, service) in cases {
        let compiled = compiled(&virtual_service(metadata, &format!("{{hosts: [{host}], {TO_REVIEWS}}}")));
        assert_eq!(compiled.services[&name(service)].routes.len(), 1, "{host}");
        assert_eq!(compiled.services[&name(service)].clusterset_routes, None, "{host}");
    }
}

#[test]
fn the_clusterset_name_has_routes_of_its_own() {
    let text = virtual_service("{name: a}", &format!("{{hosts: [cart.shop.svc.clusterset.local], {TO_REVIEWS}}}"));
    let compiled = compiled(&text);
    let config = &compiled.services[&name("shop/cart")];
    assert!(config.routes.is_empty());
    assert_eq!(config.clusterset_routes.as_ref().map(Vec::len), Some(1));
}

#[test]
fn exact_hosts_come_first_then_long_wildcards_then_old_objects() {
    let object = |name: &str, host: &str, created: &str| {
        let metadata = format!("{{name: {name}, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}");
        virtual_service(&metadata, &format!("{{hosts: ['{host}'], {TO_REVIEWS}}}"))
    };
    let compiled = compiled(
        &[
            object("wide", "*.cluster.local", "1"),
            object("narrow", "*.default.svc.cluster.local", "2"),
            object("young", "reviews", "4"),
            object("old", "reviews", "3"),
        ]
        .concat(),
    );
    let order: Vec<_> =
        compiled.services[&name("default/reviews")].routes.iter().map(|it| it.origin.name.clone()).collect();
    assert_eq!(order, ["old", "young", "narrow", "wide"]);
    let conflicts: Vec<_> = compiled.findings.iter().map(|it| (it.code.0, it.object.name.as_str())).collect();
    assert_eq!(conflicts, [("IST0109", "young")]);
}

#[test]
fn a_host_that_only_routes_know_becomes_an_entry() {
    let compiled = compiled(&virtual_service("{name: a}", &format!("{{hosts: [www.example.com], {TO_REVIEWS}}}")));
    let entry = &compiled.entries[&name("default/www.example.com")];
    assert_eq!(entry.config.entry.as_ref().unwrap().resolution, Resolution::None);
    assert_eq!(entry.config.routes.len(), 1);
    assert!(compiled.hosts.is_empty());
}

#[test]
fn objects_for_gateways_only_do_not_govern_sidecars() {
    let text = virtual_service("{name: a}", &format!("{{hosts: [reviews], gateways: [front], {TO_REVIEWS}}}"));
    let manifests = manifests(&text);
    assert!(compiled_from(&manifests).services.is_empty());
    let mesh = mesh_info();
    let local = local::build(&manifests, &mesh.trust_domain);
    let input = Input { manifests: &manifests, local: &local, mesh: &mesh, imported: &BTreeMap::new() };
    let bound = crate::traffic::virtual_services(&input, &Default::default(), &mut Vec::new());
    assert_eq!(bound[0].hosts[0].as_str(), "reviews.default.svc.cluster.local");
    assert_eq!(bound[0].routes.gateways, BTreeSet::from(["default/front".to_owned()]));
}

#[test]
fn export_to_decides_who_sees_routes() {
    let text = format!("{{hosts: [reviews], exportTo: [., shop], {TO_REVIEWS}}}");
    let routes = routes(&compiled(&virtual_service("{name: a}", &text)), "default/reviews");
    let both = ["default", "shop"].map(|name| Namespace::new(name).unwrap());
    assert_eq!(routes.visible_to, Visibility::Namespaces(both.into()));
}

#[test]
fn retries_say_what_and_how_often() {
    let retry = |retries: &str| {
        rule(&format!("{{retries: {retries}, route: [{{destination: {{host: reviews}}}}]}}")).retry.unwrap()
    };
    let given = retry("{attempts: 3, perTryTimeout: 2s, retryOn: 'gateway-error,503,reset', backoff: 10ms}");
    assert_eq!((given.attempts, given.per_try_timeout), (3, Some(Duration::from_secs(2))));
    let on = [RetryCondition::GatewayError, RetryCondition::Reset, RetryCondition::RetriableStatusCodes];
    assert_eq!((given.on, given.statuses), (on.into(), BTreeSet::from([503])));
    assert_eq!(given.backoff, Duration::from_millis(10));
    let few = retry("{attempts: 1}");
    assert!(few.configured && few.on.contains(&RetryCondition::ConnectFailure) && few.statuses.is_empty());
    assert_eq!(retry("{attempts: 0}").attempts, 0);
}

#[test]
fn timeouts_of_zero_are_none() {
    let timeout =
        |text: &str| rule(&format!("{{timeout: {text}, route: [{{destination: {{host: reviews}}}}]}}")).timeout;
    assert_eq!((timeout("0s"), timeout("1m30s")), (None, Some(Duration::from_secs(90))));
}

#[test]
fn conditions_keep_their_kind() {
    let rule = rule(
        "{match: [{uri: {prefix: /api}, ignoreUriCase: true, method: {exact: GET}, port: 9080, \
         headers: {X-User: {}, x-agent: {regex: 'a.*'}}, withoutHeaders: {X-Test: {}}, queryParams: {v: {exact: '1'}}, \
         sourceNamespace: shop, sourceLabels: {app: web}, gateways: [mesh, front]}], route: [{destination: {host: reviews}}]}",
    );
    let found = &rule.matches[0];
    assert_eq!(found.uri, Some(StringMatch::Prefix("/api".into())));
    assert_eq!(found.headers["x-user"], StringMatch::Present);
    assert!(matches!(&found.headers["x-agent"], StringMatch::Regex(pattern) if pattern.matches("abc")));
    assert_eq!(found.without_headers["x-test"], StringMatch::Present);
    assert_eq!((found.port, found.ignore_uri_case), (Some(9080), true));
    assert_eq!(found.gateways, ["mesh", "default/front"].map(str::to_owned).into());
}

#[test]
fn redirects_answer_301_unless_they_say_otherwise() {
    let redirect = |text: &str| match rule(&format!("{{redirect: {text}}}")).action {
        HttpAction::Redirect(redirect) => redirect,
        other => panic!("{other:?}"),
    };
    assert_eq!(redirect("{uri: /new}").status, 301);
    let full = redirect("{authority: b.example.com, scheme: https, port: 8443, redirectCode: 308}");
    assert_eq!((full.port, full.status, full.scheme.as_deref()), (RedirectPort::Number(8443), 308, Some("https")));
    assert_eq!(redirect("{uri: /, derivePort: FROM_REQUEST_PORT}").port, RedirectPort::FromRequest);
}

#[test]
fn direct_responses_have_bodies_of_text_or_bytes() {
    for (body, expected) in [("{string: gone}", "gone"), ("{bytes: Z29uZQ==}", "gone")] {
        let HttpAction::Direct(found) = rule(&format!("{{directResponse: {{status: 410, body: {body}}}}}")).action
        else {
            panic!()
        };
        assert_eq!((found.status, found.body.as_slice()), (410, expected.as_bytes()));
    }
}

#[test]
fn mirrors_take_their_share() {
    let mirrors = |text: &str| rule(&format!("{{route: [{{destination: {{host: reviews}}}}], {text}}}")).mirrors;
    let all = mirrors("mirror: {host: ratings}");
    assert_eq!((all[0].share, &all[0].destination.host), (Share::ALL, &Host::Cluster(name("default/ratings"))));
    let half = Share::of_percent(50.0).unwrap();
    assert_eq!(mirrors("mirror: {host: ratings}, mirrorPercentage: {value: 50}")[0].share, half);
    assert_eq!(mirrors("mirror: {host: ratings}, mirror_percent: 50")[0].share, half);
    assert!(mirrors("mirror: {host: ratings}, mirrorPercentage: {value: 0}").is_empty());
    assert_eq!(mirrors("mirrors: [{destination: {host: ratings}, percentage: {value: 50}}]")[0].share, half);
}

#[test]
fn delegates_narrow_the_conditions_of_the_root() {
    let root = virtual_service(
        "{name: root}",
        "{hosts: [reviews], http: [{name: r, match: [{uri: {prefix: /api}}], timeout: 5s, delegate: {name: team, namespace: shop}}]}",
    );
    let delegate = virtual_service(
        "{name: team, namespace: shop}",
        "{http: [{name: d, match: [{uri: {prefix: /api/v2}, headers: {a: {exact: b}}}], route: [{destination: {host: cart}}]}, \
          {match: [{uri: {prefix: /other}}], route: [{destination: {host: cart}}]}, {route: [{destination: {host: cart}}]}]}",
    );
    let compiled = compiled(&[root, delegate].concat());
    let routes = routes(&compiled, "default/reviews");
    let uris: Vec<_> = routes.http.iter().map(|rule| rule.matches[0].uri.clone().unwrap()).collect();
    assert_eq!(uris, [StringMatch::Prefix("/api/v2".into()), StringMatch::Prefix("/api".into())]);
    let HttpAction::Route(destinations) = &routes.http[0].action else { panic!() };
    assert_eq!(destinations[0].destination.host, Host::Cluster(name("shop/cart")), "short names are the delegate's");
    assert_eq!(routes.http[0].timeout, Some(Duration::from_secs(5)));
    assert_eq!(routes.http[0].origin.to_string(), "VirtualService shop/team spec.http[0] (r-d)");
    assert_eq!(found(&compiled), [("IST0130", "spec.http[0].delegate")]);
}

#[test]
fn deprecated_fields_work_and_are_named() {
    let text = "{hosts: [reviews], http: [{fault: {delay: {percent: 10, fixedDelay: 1s}}, \
                corsPolicy: {allowOrigin: ['*']}, route: [{destination: {host: reviews}}]}]}";
    let compiled = compiled(&virtual_service("{name: a}", text));
    let rule = &routes(&compiled, "default/reviews").http[0];
    assert_eq!(rule.fault.as_ref().unwrap().delay.unwrap().share, Share::of_percent(10.0).unwrap());
    assert!(rule.cors.as_ref().unwrap().allow_origins[0].matches("https://a.example.com"));
    let paths = [("IST0002", "spec.http[0].corsPolicy.allowOrigin"), ("IST0002", "spec.http[0].fault.delay.percent")];
    assert_eq!(found(&compiled), paths);
}

#[test]
fn tls_and_tcp_rules_have_their_conditions() {
    let text = "{hosts: [www.example.com], tls: [{match: [{sniHosts: [www.example.com], port: 443}], \
                route: [{destination: {host: www.example.com}}]}], tcp: [{match: [{destinationSubnets: [10.1.0.0/16, 10.2.0.1], \
                sourceSubnet: 10.0.0.0/8}], route: [{destination: {host: reviews}, weight: 1}, {destination: {host: ratings}, weight: 0}]}]}";
    let compiled = compiled(&virtual_service("{name: a}", text));
    let routes = &compiled.entries[&name("default/www.example.com")].config.routes[0];
    assert_eq!(routes.tls[0].matches[0].sni_hosts[0].as_str(), "www.example.com");
    assert_eq!(routes.tls[0].destinations[0].destination.host, Host::External("www.example.com".into()));
    let tcp = &routes.tcp[0];
    assert_eq!(tcp.matches[0].destination_subnets[1].to_string(), "10.2.0.1/32");
    assert_eq!(tcp.destinations.len(), 1, "a weight of zero takes nothing");
}

#[test]
fn a_delegate_with_claims_takes_nothing_at_sidecars() {
    let root = virtual_service("{name: root}", "{hosts: [reviews], http: [{delegate: {name: leaf}}]}");
    let leaf = "{http: [{match: [{headers: {'@request.auth.claims.sub': {exact: me}}}], \
                route: [{destination: {host: reviews}}]}]}";
    let compiled = compiled(&[root, virtual_service("{name: leaf}", leaf)].concat());
    let claims = &compiled.services[&name("default/reviews")].routes[0].http[0].matches[0].claims;
    assert_eq!(claims[0].path, ["sub"]);
    let found: Vec<_> =
        compiled.findings.iter().map(|it| (it.code.0, it.object.name.as_str(), it.path.as_str())).collect();
    assert_eq!(found, [("ISM0001", "leaf", "spec.http[0].match")]);
}
