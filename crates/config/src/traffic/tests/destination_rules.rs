//! DestinationRules.

use std::sync::Arc;
use std::time::Duration;

use mesh::{
    Balancer, ClientTls, DestinationRules, HashKey, HashTable, LocalityPolicy, OutlierDetection, TlsMaterial,
    TrafficPolicy,
};

use super::*;

fn rule(metadata: &str, spec: &str) -> String {
    format!("---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {metadata}\nspec: {spec}\n")
}

fn bound(compiled: &Compiled) -> &[Arc<DestinationRules>] {
    &compiled.services[&name("default/reviews")].destinations
}

fn policy(text: &str) -> TrafficPolicy {
    let compiled = compiled(&rule("{name: a}", &format!("{{host: reviews, trafficPolicy: {text}}}")));
    TrafficPolicy::clone(&bound(&compiled)[0].policy.any)
}

#[test]
fn balancers_are_what_they_are_called() {
    let cases = [
        ("{simple: LEAST_CONN}", Balancer::LeastRequest),
        ("{simple: UNSPECIFIED}", Balancer::LeastRequest),
        ("{simple: ROUND_ROBIN}", Balancer::RoundRobin),
        ("{simple: RANDOM}", Balancer::Random),
        ("{simple: PASSTHROUGH}", Balancer::Passthrough),
    ];
    for (text, expected) in cases {
        assert_eq!(policy(&format!("{{loadBalancer: {text}}}")).balancer, expected, "{text}");
    }
    let ring = |minimum_size| HashTable::Ring { minimum_size };
    let hashes = [
        ("{httpHeaderName: X-User}", HashKey::Header("x-user".into()), ring(1024)),
        ("{useSourceIp: true, ringHash: {minimumRingSize: 8}}", HashKey::SourceIp, ring(8)),
        ("{httpQueryParameterName: q, minimumRingSize: 9}", HashKey::QueryParameter("q".into()), ring(9)),
        ("{useSourceIp: true, maglev: {tableSize: 65537}}", HashKey::SourceIp, HashTable::Maglev { size: 65537 }),
    ];
    for (text, key, table) in hashes {
        let found = policy(&format!("{{loadBalancer: {{consistentHash: {text}}}}}")).balancer;
        assert_eq!(found, Balancer::ConsistentHash { key, table }, "{text}");
    }
}

#[test]
fn the_nearest_come_first_where_a_service_says_so_and_no_rule_speaks_of_localities() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: near}\nspec: {trafficDistribution: PreferClose, ports: [{name: http, port: 80}]}\n";
    let localities = |spec: &str| {
        let rules = if spec.is_empty() { String::new() } else { rule("{name: a}", spec) };
        let compiled = compiled(&format!("{service}{rules}"));
        let all = &compiled.services[&name("default/near")].destinations;
        let subsets =
            all.iter().flat_map(|rules| rules.subsets.values()).map(|subset| subset.policy.any.locality.clone());
        let own = all.iter().map(|rules| rules.policy.any.locality.clone());
        own.chain(subsets).collect::<Vec<_>>()
    };
    let nearest = || LocalityPolicy::Failover { regions: Vec::new() };
    assert_eq!(localities(""), [nearest()]);
    assert_eq!(localities("{host: near, trafficPolicy: {tls: {mode: DISABLE}}}"), [nearest(), nearest()]);
    let off = "loadBalancer: {localityLbSetting: {enabled: false}}";
    let subset = format!("{{host: near, subsets: [{{name: a, labels: {{a: b}}, trafficPolicy: {{{off}}}}}]}}");
    assert_eq!(localities(&subset), [nearest(), nearest(), LocalityPolicy::Ignore]);
    assert_eq!(localities(&format!("{{host: near, trafficPolicy: {{{off}}}}}")), [LocalityPolicy::Ignore, nearest()]);
    // The Service speaks last, also to clients of its own namespace.
    let compiled = compiled(&format!("{service}{}", rule("{name: a}", "{host: near}")));
    let defaults: Vec<_> =
        compiled.services[&name("default/near")].destinations.iter().map(|it| it.is_default()).collect();
    assert_eq!(defaults, [false, true]);
}

#[test]
fn localities_count_where_endpoints_can_be_ejected() {
    let nearest = LocalityPolicy::Failover { regions: Vec::new() };
    assert_eq!(policy("{outlierDetection: {}}").locality, nearest);
    assert_eq!(policy("{loadBalancer: {simple: RANDOM}}").locality, LocalityPolicy::Ignore);
    let off = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}}";
    assert_eq!(policy(off).locality, LocalityPolicy::Ignore);
    let priority = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: [version]}}}";
    assert_eq!(policy(priority).locality, LocalityPolicy::Priority { labels: vec!["version".into()] });
    let distribute = "{loadBalancer: {localityLbSetting: {distribute: [{from: 'a/*', to: {'a/*': 80, 'b/*': 20}}]}}}";
    assert!(matches!(policy(distribute).locality, LocalityPolicy::Distribute { rules } if rules[0].to["b/*"] == 20));
    let without = "{host: reviews, trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}}";
    let paths = [("ISM0001", "spec.trafficPolicy.loadBalancer.localityLbSetting")];
    assert_eq!(found(&compiled(&rule("{name: a}", without))), paths);
}

#[test]
fn detectors_have_defaults_and_can_be_switched_off() {
    assert_eq!(policy("{outlierDetection: {}}").outlier, Some(OutlierDetection::default()));
    let text = "{consecutive5xxErrors: 0, consecutiveGatewayErrors: 3, maxEjectionPercent: 50, baseEjectionTime: 1m}";
    let outlier = policy(&format!("{{outlierDetection: {text}}}")).outlier.unwrap();
    assert_eq!((outlier.consecutive_5xx, outlier.consecutive_gateway), (None, Some(3)));
    assert_eq!((outlier.max_ejection_percent, outlier.base_ejection_time), (50, Duration::from_secs(60)));
}

#[test]
fn a_subset_inherits_and_a_port_does_not() {
    let compiled = compiled(&rule(
        "{name: a}",
        "{host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 7}}, \
         portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: ROUND_ROBIN}}]}, \
         subsets: [{name: v1, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}}, {name: v2}]}",
    ));
    let rules = &bound(&compiled)[0];
    let seen = |policy: &TrafficPolicy| (policy.balancer.clone(), policy.pool.max_connections);
    assert_eq!(seen(rules.policy.of_port(1)), (Balancer::Random, Some(7)));
    assert_eq!(seen(rules.policy.of_port(9080)), (Balancer::RoundRobin, None));
    let v1 = &rules.subsets["v1"].policy;
    assert_eq!(seen(v1.of_port(1)), (Balancer::Random, Some(1)));
    assert_eq!(seen(v1.of_port(9080)), (Balancer::RoundRobin, Some(1)), "the subset's own part counts at every port");
    assert_eq!(rules.subsets["v2"].policy, rules.policy);
}

#[test]
fn rules_of_one_namespace_and_host_are_one() {
    let old = rule(
        "{name: old, creationTimestamp: '2026-01-01T00:00:00Z'}",
        "{host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: v1}}]}",
    );
    let young = rule(
        "{name: young, creationTimestamp: '2026-01-02T00:00:00Z'}",
        "{host: reviews.default.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}, \
         subsets: [{name: v1, labels: {version: other}}, {name: v2}]}",
    );
    let compiled = compiled(&[young, old].concat());
    let [rules] = bound(&compiled) else { panic!() };
    assert_eq!((rules.origin.name.as_str(), &rules.policy.any.balancer), ("old", &Balancer::Random));
    assert_eq!(rules.subsets.keys().collect::<Vec<_>>(), ["v1", "v2"]);
    assert_eq!(rules.subsets["v1"].labels["version"], "v1");
    assert_eq!(rules.subsets["v2"].policy.any.balancer, Balancer::Random, "it inherits the policy that counts");
    assert_eq!(found(&compiled), [("ISM0002", "spec.subsets[0].name"), ("ISM0002", "spec.trafficPolicy")]);
}

#[test]
fn the_services_namespace_comes_before_the_root_and_exact_hosts_before_wildcards() {
    let one = |name: &str, namespace: &str, host: &str| {
        rule(&format!("{{name: {name}, namespace: {namespace}}}"), &format!("{{host: '{host}'}}"))
    };
    let full = "reviews.default.svc.cluster.local";
    let compiled = compiled(
        &[
            one("other", "shop", full),
            one("root", "istio-system", "*.local"),
            one("wild", "default", "*.default.svc.cluster.local"),
            one("exact", "default", "reviews"),
        ]
        .concat(),
    );
    let order: Vec<_> = bound(&compiled).iter().map(|rules| (rules.origin.name.as_str(), rules.of_service)).collect();
    assert_eq!(order, [("exact", true), ("wild", true), ("root", true), ("other", false)]);
}

#[test]
fn tls_is_originated_with_files_or_secrets() {
    assert_eq!(policy("{tls: {mode: DISABLE}}").tls, ClientTls::Disable);
    assert_eq!(policy("{tls: {mode: ISTIO_MUTUAL}}").tls, ClientTls::Mutual);
    assert_eq!(policy("{loadBalancer: {simple: RANDOM}}").tls, ClientTls::Auto);
    let ClientTls::Originate(simple) = policy("{tls: {mode: SIMPLE, sni: a.com}}").tls else { panic!() };
    assert_eq!((simple.mutual, simple.sni.as_deref(), &simple.material), (false, Some("a.com"), &TlsMaterial::System));
    let files = "{tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /ca}}";
    let ClientTls::Originate(files) = policy(files).tls else { panic!() };
    assert!(
        files.mutual && matches!(&files.material, TlsMaterial::Files { ca: Some(ca), crl: None, .. } if ca == "/ca")
    );
    let missing =
        compiled(&rule("{name: a}", "{host: reviews, trafficPolicy: {tls: {mode: SIMPLE, credentialName: c}}}"));
    assert_eq!(found(&missing), [("IST0101", "spec.trafficPolicy.tls.credentialName")]);
}

#[test]
fn workload_selectors_and_budgets_are_kept() {
    let compiled = compiled(&rule(
        "{name: a}",
        "{host: reviews, workloadSelector: {matchLabels: {app: web}}, trafficPolicy: {retryBudget: {}, \
         tunnel: {targetHost: b.com, targetPort: 443}, loadBalancer: {warmup: {duration: 10s}}}}",
    ));
    let rules = &bound(&compiled)[0];
    assert_eq!(rules.workload_selector["app"], "web");
    let policy = &rules.policy.any;
    let budget = policy.retry_budget.unwrap();
    assert_eq!((budget.percent, budget.min_concurrency), (20.0, 3));
    assert_eq!(policy.tunnel.as_ref().map(|tunnel| (tunnel.post, tunnel.port)), Some((false, 443)));
    assert_eq!(policy.warmup.map(|warmup| (warmup.minimum_percent, warmup.aggression)), Some((10.0, 1.0)));
}

#[test]
fn a_secret_of_clients_is_for_gateways_or_for_those_that_the_rule_selects() {
    let pod = |name: &str, labels: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  \
             labels: {{kubernetes.io/service-name: {name}}}\n  annotations: {{isthmus.dev/service-account: {name}, \
             isthmus.dev/meshed: \"true\", isthmus.dev/pod-labels: \"{labels}\"}}\naddressType: IPv4\n\
             endpoints: [{{addresses: [127.1.1.2], targetRef: {{kind: Pod, name: {name}-0}}}}]\n\
             ports: [{{name: http, port: 80}}]\n"
        )
    };
    let around = [
        pod("web", "app=web"),
        pod("egress", "istio=egressgateway"),
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: c, namespace: default}\nstringData: {tls.crt: one, tls.key: two}\n".to_owned(),
    ];
    let readers = |selector: &str| {
        let spec = format!("{{host: a.com, {selector}trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: c}}}}}}");
        let compiled = compiled(&[around.concat(), rule("{name: a}", &spec)].concat());
        let shared = compiled.secrets.get("default/c").map(|shared| shared.readers.clone()).unwrap_or_default();
        shared.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(readers(""), ["default/egress-0"]);
    assert_eq!(readers("workloadSelector: {matchLabels: {app: web}}, "), ["default/web-0"]);
}
